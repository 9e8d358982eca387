"""What is swept: ready-made sweeps, and fields of the config by dotted path with their values.

Everything is refused here, before anything starts: a mistyped path, a value of another type or
out of its range.
"""

import math
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from c2am_dist.config import HeadInit, TrainConfig, override
from c2am_dist.config.values import convert, kinds, nearest

Values = dict[str, tuple[Any, ...]]
"""Dotted path -> the values it takes."""

_ALPHA: Values = {"loss.alpha": tuple(i / 10 for i in range(10))}
_HEAD_INIT: Values = {"model.head_init": typing.get_args(HeadInit)}
READY: dict[str, Values] = {
    "alpha": _ALPHA,  # the paper's figure 8
    "head_init": _HEAD_INIT,  # its Table 6
    "alpha-x-init": _ALPHA | _HEAD_INIT,
    "lr": {"optim.lr": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)},
}
"""Sweeps that have a name."""

MAX_VALUES = 1000
"""Values of one field: more are a slip in a range's step."""
_OURS = {
    "run.name": "the sweep names its runs itself",
    "run.storage": "the sweep's runs lie in its own folder",
    "run.seed": "--seeds says how many there are",
    "preset": "a preset is where the sweep starts from",
    "method": "trials are compared by their maps, and only c2am has any",
}


def parse(expressions: Sequence[str], base: TrainConfig) -> Values:
    """The values that each swept field takes.

    Args:
        expressions: each the name of a ready-made sweep, ``path=a,b,c``, ``path=first:last:step``
            or ``path=first:last:*factor``; ranges hold both ends.
        base: the config that the values go into.

    Raises:
        ValueError: there is none, a path names no field, comes twice or cannot be swept, or a
            value is not of the field's type or out of its range.
    """
    if not expressions:
        raise ValueError(f"sweep must be given: one of {', '.join(READY)}, or PATH=VALUES")
    found: Values = {}
    for expression in expressions:
        values = _parse_one(expression, base)
        twice = found.keys() & values.keys()
        if twice:
            raise ValueError(f"sweep: {twice.pop()} comes twice")
        found |= values
    for path, values in found.items():
        for value in values:
            _check(base, path, value)
    return found


def _check(base: TrainConfig, path: str, value: Any) -> None:
    try:
        override(base, {path: value})
    except ValueError as error:
        raise ValueError(f"sweep: {path}={value}: {error}") from error


def _parse_one(expression: str, base: TrainConfig) -> Values:
    path, equals, text = expression.partition("=")
    known = dict(kinds(base))
    if not equals:
        if path in READY:
            return READY[path]
        if path in known:
            raise ValueError(f"sweep: {path} needs values: {path}=a,b or {path}=first:last:step")
        raise ValueError(f"sweep: {path!r} is no ready-made sweep{nearest(path, READY)}")
    if path not in known:
        raise ValueError(f"sweep: {path!r} is no field of the config{nearest(path, known)}")
    if path in _OURS:
        raise ValueError(f"sweep: {path} cannot be swept: {_OURS[path]}")
    values = tuple(_values(path, text, known[path]))
    if len(set(values)) < len(values):
        raise ValueError(f"sweep: {expression}: a value comes twice")
    return {path: values}


def _values(path: str, text: str, kind: Any) -> Iterator[Any]:
    is_number = {int, float} & {kind, *typing.get_args(kind)}
    if is_number and text.count(":") == 2:
        numbers = _range(path, text)
        yield from (_convert(path, f"{number:.12g}", kind) for number in numbers)
        return
    yield from (_convert(path, part.strip(), kind) for part in text.split(","))


def _range(path: str, text: str) -> list[float]:
    """The numbers of ``first:last:step`` or ``first:last:*factor``, both ends among them."""
    first_text, last_text, by = text.split(":")
    is_geometric = by.startswith("*")
    try:
        first, last, step = float(first_text), float(last_text), float(by.removeprefix("*"))
        if is_geometric:
            count = math.log(last / first) / math.log(step)
        else:
            count = (last - first) / step
        if not math.isfinite(step):
            raise ValueError(by)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"sweep: {path}={text}: a range is first:last:step or first:last:*factor"
        ) from error
    if not 0 <= count < MAX_VALUES:
        raise ValueError(f"sweep: {path}={text}: the range holds no value, or over {MAX_VALUES}")
    numbers = range(math.floor(count + 1e-9) + 1)
    return [first * step**i if is_geometric else first + step * i for i in numbers]


def _convert(path: str, text: str, kind: Any) -> Any:
    try:
        return convert(text, kind)
    except ValueError as error:
        raise ValueError(f"sweep: {path}: {error}") from error
