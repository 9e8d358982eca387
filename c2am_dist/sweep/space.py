"""What is swept: ready-made sweeps, and fields of the config by dotted path with their values.

Everything is refused here, before anything starts: a mistyped path, a value of another type or
out of its range.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from c2am_dist.config import HeadInit, TrainConfig, override

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
    kinds = dict(_kinds(base))
    if not equals:
        if path in READY:
            return READY[path]
        if path in kinds:
            raise ValueError(f"sweep: {path} needs values: {path}=a,b or {path}=first:last:step")
        raise ValueError(f"sweep: {path!r} is no ready-made sweep{_nearest(path, READY)}")
    if path not in kinds:
        raise ValueError(f"sweep: {path!r} is no field of the config{_nearest(path, kinds)}")
    if path in _OURS:
        raise ValueError(f"sweep: {path} cannot be swept: {_OURS[path]}")
    values = tuple(_values(path, text, kinds[path]))
    if len(set(values)) < len(values):
        raise ValueError(f"sweep: {expression}: a value comes twice")
    return {path: values}


def _kinds(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted path and type of every field."""
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _kinds(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    last = {path.rpartition(".")[2]: path for path in known}
    near = difflib.get_close_matches(name, known, n=1) or [
        last[each] for each in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)
    ]
    return f"; did you mean {near[0]}?" if near else ""


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
    for one in _alternatives(kind):
        try:
            return _as(one, text)
        except ValueError:
            continue
    raise ValueError(f"sweep: {path}: {text!r} is not {_words(kind)}")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return typing.get_args(kind)
    return (kind,)


def _as(kind: Any, text: str) -> Any:
    """The value that a text means; raises ValueError where it is none of that kind."""
    if kind is type(None):
        if text == "None":
            return None
    elif kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif kind in (int, float, str):
        return kind(text)
    elif typing.get_origin(kind) is typing.Literal:
        if text in typing.get_args(kind):
            return text
    elif typing.get_args(kind)[1:] == (Ellipsis,):  # one of many: a list would not fit between ","
        return (_as(typing.get_args(kind)[0], text),)
    raise ValueError(text)


def _words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "True or False", type(None): "None"}
    names = [
        " or ".join(typing.get_args(one)) if typing.get_origin(one) is typing.Literal
        else words.get(one, "what can be swept")
        for one in _alternatives(kind)
    ]  # fmt: skip
    return " or ".join(dict.fromkeys(names))
