"""Which rows a table has, and the training that each takes: values alone, nothing runs here."""

import dataclasses

from c2am_dist.config import PRESETS, Method, TrainConfig
from c2am_dist.config.reproduce import WsolConfig
from c2am_dist.reproduce.settings import changed

TRAINED: tuple[Method, ...] = ("classifier", "bridging", "c2am", "psol")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A method from one start."""

    method: str
    encoder: str
    initialization: str
    weights: str

    @property
    def name(self) -> str:
        """What its folders are called."""
        return f"{self.method}-{self.encoder}-{self.initialization}"


def plan(config: WsolConfig) -> list[Row]:
    """The rows of a table, in its order; refuses settings that mean nothing.

    Raises:
        ValueError: a field is not given, two starts have one name, or a setting names no method
            or field, or a value out of its range; the message names it.
    """
    config.check_complete()
    starts = config.split_starts()
    names = [start[:2] for start in starts]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"starts: {':'.join(name)} comes twice")
    rows = [Row(method, *start) for start in starts for method in config.methods if method != "cam"]
    if "cam" in config.methods:
        encoder, _, weights = config.classifier.partition("=")
        own = (encoder, "supervised", weights) if encoder else starts[0]
        rows.insert(0, Row("cam", *own))
    for row in rows:
        for method in trained(row.method, with_classifier=not config.classifier):
            training(config, method, row)
    return rows


def trained(method: str, *, with_classifier: bool) -> list[Method]:
    """What a row trains, in order."""
    own: dict[str, list[Method]] = {
        "cam": ["classifier"] if with_classifier else [],
        "bridging": ["bridging"],
        "c2am": ["c2am"],
        "ddt+psol": ["psol"],
        "c2am+psol": ["c2am", "psol"],
    }
    return own.get(method, [])


def training(config: WsolConfig, method: Method, row: Row) -> TrainConfig:
    """The run of a method from a row's start: a preset, and what the settings change."""
    values = {
        "method": method,
        "data.train": config.train,
        "model.encoder": row.encoder,
        "model.weights": row.weights,
        "run.storage": f"{config.output.rstrip('/')}/runs",
        "run.name": f"{method}-{row.encoder}-{row.initialization}",
    }
    if method == "psol":  # one regressor for each way to get boxes
        values["run.name"] = row.name
    base = PRESETS[_preset(config, method, row.encoder)]
    return changed(base, values, config.settings, of=TRAINED, where=row.name)


def _preset(config: WsolConfig, method: Method, encoder: str) -> str:
    if method == "psol":
        return "psol"
    if method == "c2am":
        return config.dataset
    is_vgg = method == "bridging" and encoder == "vgg16"
    return f"{method}-{config.dataset}{'-vgg16' if is_vgg else ''}"
