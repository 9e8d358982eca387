"""What a pickle says, without doing it.

A pickle is a program: loading one calls whatever functions it names. Here its instructions are
read (``pickletools``) and only data comes of them. Calls are written down instead of made, and
those of functions that the reader does not expect are refused by name.
"""

import dataclasses
import pickletools
from collections.abc import Collection
from typing import Any, NamedTuple

# Files of class activation maps have some 40 instructions an array. A bound, since each may make
# an object of a hundred bytes out of one.
_MAX_INSTRUCTIONS = 20_000


class PickleError(ValueError):
    """A pickle that is broken or holds what is not admitted; the message says what."""


class Name(NamedTuple):
    """A function or class that a pickle refers to."""

    text: str
    """Its module and name, with a dot between them."""


@dataclasses.dataclass(eq=False, slots=True)
class Call:
    """A call that loading the pickle would have made."""

    function: str
    """As in :class:`Name`."""
    arguments: tuple[Any, ...]
    state: Any = None
    """What the result would then have been given as its content."""


def read_pickle(data: bytes, admitted: Collection[str]) -> Any:
    """The object that a pickle describes: plain values, tuples, lists, dicts, and calls of names.

    Bytes after its end are ignored, as pickle does.

    Args:
        data: the pickle, of any protocol, as far as its objects are of these kinds.
        admitted: the functions and classes that it may name, as ``module.name``.

    Raises:
        PickleError: the data is cut off or no pickle, uses an instruction that such objects do
            not need, or names something else; the message names it.
    """
    reader = _Reader(admitted)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number >= _MAX_INSTRUCTIONS:
                raise PickleError(f"pickle of more than {_MAX_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                return reader.stack.pop()
            reader.step(opcode.name, argument)
    except PickleError:
        raise
    # What pickletools raises for broken bytes, and what a wrong order of instructions leads to.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise PickleError(f"broken pickle ({error})") from error
    raise PickleError("broken pickle (it has no end)")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    }
)


class _Reader:
    """The stack machine that pickles are written for, less whatever acts."""

    def __init__(self, admitted: Collection[str]) -> None:
        self.stack: list[Any] = []
        self._admitted = admitted
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, instruction: str, argument: Any) -> None:
        stack = self.stack
        match instruction:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(instruction[-1]))))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if instruction == "APPEND" else self._pop_to_mark()
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if instruction == "SETITEM" else self._pop_to_mark()
                self._set_items(items)
            case "GLOBAL":
                self._push_name(*argument.split(" "))
            case "STACK_GLOBAL":
                self._push_name(*self._pop(2))
            case "REDUCE":
                name, arguments = self._pop(2)
                if not isinstance(name, Name) or not isinstance(arguments, tuple):
                    raise PickleError(f"pickle that calls a {type(name).__name__}")
                stack.append(Call(name.text, arguments))
            case "BUILD":
                (state,) = self._pop(1)
                self._top(Call).state = state
            case _ if instruction in _CONSTANTS:
                stack.append(_CONSTANTS[instruction])
            case _ if instruction in _LITERALS:
                stack.append(argument)
            case _:
                raise PickleError(f"pickle with the instruction {instruction}, which is refused")

    def _pop(self, number: int) -> list[Any]:
        if number > len(self.stack):
            raise PickleError("broken pickle (it takes more than it gave)")
        items = self.stack[-number:]
        del self.stack[-number:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise PickleError(f"broken pickle (fills a {type(self.stack[-1]).__name__})")
        return self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        content = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Never a tuple: nested ones can be written so that hashing them takes forever.
            if not isinstance(key, str | int | Call):
                raise PickleError(f"pickle of a dict with a {type(key).__name__} as key")
            content[key] = value

    def _push_name(self, module: object, name: object) -> None:
        text = f"{module}.{name}"
        if text not in self._admitted:
            raise PickleError(f"pickle that names {text}, which is refused")
        self.stack.append(Name(text))
