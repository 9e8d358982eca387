"""Which rows a segmentation table has, and the training behind them: nothing runs here."""

import dataclasses
from typing import Literal, get_args

from c2am_dist.config import PRESETS, Method, TrainConfig
from c2am_dist.config.reproduce_masks import WsssConfig
from c2am_dist.reproduce.settings import changed

Refinement = Literal["none", "crf", "guided"]
TRAINED: tuple[Method, ...] = ("cam", "c2am", "sipe", "saliency")
_OWN_MAPS = ("cam", "sipe", "sipe-cam")
_PRESETS: dict[Method, str] = {
    "cam": "cam-voc",
    "c2am": "voc",
    "sipe": "sipe-voc",
    "saliency": "saliency-voc",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """Class maps and what competes with them."""

    maps: str
    """``cam``, ``sipe-cam`` (SIPE's class activation maps), ``sipe`` (its image-specific ones), or
    the name of a folder of other maps."""
    cues: str = ""
    """``c2am`` or ``saliency``; empty: the best constant threshold."""
    refinement: Refinement = "none"

    @property
    def name(self) -> str:
        """What its folders are called, as in the table."""
        refinement = "" if self.refinement == "none" else self.refinement
        return "+".join(filter(None, [self.maps, self.cues, refinement]))

    @property
    def baseline(self) -> "Row":
        """The same maps against a threshold."""
        return Row(self.maps)


def plan(config: WsssConfig) -> list[Row]:
    """The rows of a table, in its order; refuses what means nothing.

    Raises:
        ValueError: a field is not given, maps have a name that is taken, or a setting names no
            method or field, or a value out of its range; the message names it.
    """
    config.check_complete()
    rows = [_parse(name) for name in config.rows]
    if len(folders(config)) < len(config.cams):
        raise ValueError(f"cams: a name comes twice: {' '.join(config.cams)}")
    for name in folders(config):
        if name in _OWN_MAPS or "+" in name or "/" in name:
            raise ValueError(f"cams: {name!r} is taken, or holds '+' or '/': choose another name")
        rows += [Row(name), Row(name, refinement="crf"), Row(name, "c2am")]
    for method in trained(rows):
        training(config, method)
    return rows


def _parse(name: str) -> Row:
    maps, *others = name.split("+")
    kinds: tuple[Refinement, ...] = get_args(Refinement)
    cues = next((other for other in others if other not in kinds), "")
    own: list[Refinement] = [kind for kind in kinds if kind in others]
    return Row(maps, cues, own[0] if own else "none")


def folders(config: WsssConfig) -> dict[str, str]:
    """The folders of other projects' maps, by name."""
    return {name: uri for name, _, uri in (pair.partition("=") for pair in config.cams)}


def trained(rows: list[Row]) -> list[Method]:
    """What the rows train, in order."""
    maps, cues = {row.maps for row in rows}, {row.cues for row in rows}
    found: list[tuple[Method, bool]] = [
        ("cam", "cam" in maps),
        ("c2am", bool(cues - {""})),
        ("saliency", "saliency" in cues),
        ("sipe", bool(maps & {"sipe", "sipe-cam"})),
    ]
    return [method for method, is_needed in found if is_needed]


def training(config: WsssConfig, method: Method, cues: str = "") -> TrainConfig:
    """The run of a method: its preset, and what the settings change.

    Args:
        config: of the table.
        method: of `TRAINED`.
        cues: the label set that ``saliency`` learns from.
    """
    encoder, name, weights = config.start_of(method)
    values: dict[str, object] = {
        "method": method,
        "data.train": config.train,
        "model.encoder": encoder,
        "model.weights": weights,
        "run.storage": f"{config.output.rstrip('/')}/runs",
        "run.name": f"{method}-{encoder}-{name}",
    }
    if cues:
        values["data.cues"] = (cues,)
    base = PRESETS[_PRESETS[method]]
    return changed(base, values, config.settings, of=TRAINED, where=method)
