"""Changes to presets, ``METHOD:PATH=VALUE`` each, on top of what a table's row gives."""

from collections.abc import Mapping, Sequence

from c2am_dist.config import Method, TrainConfig, override
from c2am_dist.config.values import convert, kinds, nearest


def changed(
    base: TrainConfig,
    values: Mapping[str, object],
    settings: Sequence[str],
    *,
    of: Sequence[Method],
    where: str,
) -> TrainConfig:
    """A preset with a row's values, by dotted path, and the settings for its method.

    Args:
        base: the preset.
        values: of the row; ``method`` among them.
        settings: for one of the table's methods each, or for ``all``.
        of: the table's methods.
        where: the row, for errors.

    Raises:
        ValueError: a setting names no method or field, or a value out of its range.
    """
    known, found = dict(kinds(base)), dict(values)
    for setting in settings:
        who, colon, assignment = setting.partition(":")
        path, equals, text = assignment.partition("=")
        if not (colon and equals) or who not in (*of, "all"):
            raise ValueError(
                f"settings: {setting!r} is not METHOD:PATH=VALUE with METHOD one of "
                f"{', '.join(of)}, all"
            )
        if path not in known:
            raise ValueError(f"settings: {path!r} is no field of training{nearest(path, known)}")
        if who not in (values["method"], "all"):
            continue
        try:
            found[path] = convert(text, known[path])
        except ValueError as error:
            raise ValueError(f"settings: {path}: {error}") from error
    try:
        return override(base, found)
    except ValueError as error:
        raise ValueError(f"settings: {where}: {error}") from error
