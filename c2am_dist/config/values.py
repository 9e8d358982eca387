"""Values of a config's fields from text, by the fields' types."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Iterator
from typing import Any


def kinds(node: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted path and type of every field."""
    hints = typing.get_type_hints(type(node))
    for field in dataclasses.fields(typing.cast(Any, node)):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from kinds(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


def nearest(name: str, known: Collection[str]) -> str:
    """A question after the known name that is most like another one; empty if none is."""
    last = {path.rpartition(".")[2]: path for path in known}
    near = difflib.get_close_matches(name, known, n=1) or [
        last[each] for each in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)
    ]
    return f"; did you mean {near[0]}?" if near else ""


def convert(text: str, kind: Any) -> Any:
    """The value of a field's type that a text means.

    Raises:
        ValueError: it means none; says what the type is.
    """
    for one in _alternatives(kind):
        try:
            return _as(one, text)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is not {_words(kind)}")


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
