"""Pickles read as plain data: nothing is imported, nothing is called.

A pickle is a program. The few that weft must read (the list of tensors of a distributed
checkpoint, the head of a tensor that torch saved) need some thirty of its instructions;
these are carried out here, and every other one is refused. Where the program names a
class or a function, and it is one of those that the caller expects, a `Record` takes down
its name, its arguments and its state, and that is all that happens.
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from weft.checkpoints.errors import MalformedFile, UnsupportedFile


@dataclass(slots=True, eq=False)
class Record:
    """What a pickle would have made of a class or a function; equal to itself only.

    Attributes:
        kind: module and name, with a dot; `PERSISTENT` for a reference to something
            outside the pickle.
        args: what it would have been called with.
        state: what its object would have been given afterwards, or None.
    """

    kind: str
    args: tuple[object, ...] = ()
    state: object = None


PERSISTENT: Final = "persistent id"
ORDERED_DICT: Final = "collections.OrderedDict"


@dataclass(frozen=True, slots=True)
class _Name:
    """A class or a function, named and not yet used."""

    kind: str


_MARK: Final = _Name("mark")


def load_inert(data: bytes, allowed: frozenset[str], where: str) -> object:
    """What a pickle holds: dictionaries, lists, tuples, texts, numbers, and records.

    Keys of dictionaries are texts, whole numbers or records: hashing anything deeper
    could take for ever. A class that was named and not called is a record without
    arguments.

    Args:
        data: the pickle; the caller has bounded its size.
        allowed: the classes and functions that may be named, as "module.name".
        where: what is read, for messages.

    Raises:
        UnsupportedFile: it names another class or function, or needs an instruction
            that is not carried out here.
        MalformedFile: it is no pickle.
    """
    return _Machine(allowed, where).run(data)


class _Machine:
    """The stack, the memo, and one method an instruction."""

    def __init__(self, allowed: frozenset[str], where: str) -> None:
        self._allowed = allowed
        self._where = where
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        try:
            for name, argument in _instructions(data):
                if name == "STOP":
                    break
                self._carry_out(name, argument)
            return self._pop()
        except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise MalformedFile(
                f"{self._where}: not a pickle that can be read ({_short(error)})"
            ) from error

    def _carry_out(self, name: str, argument: object) -> None:
        if name in CONSTANTS:
            self._stack.append(CONSTANTS[name]())
        elif name in LITERALS:
            self._stack.append(argument)
        elif name in INSTRUCTIONS:
            INSTRUCTIONS[name](self, argument)
        elif name not in PASSED_OVER:
            raise UnsupportedFile(
                f"{self._where}: a pickle with the instruction {name}, which no checkpoint "
                "needs; weft never runs pickles: save the model with safetensors"
            )

    def _pop(self) -> object:
        found = self._stack.pop()
        if found is _MARK:
            raise ValueError("a mark where a value belongs")
        return _settled(found)

    def _pop_to_mark(self) -> list[object]:
        found: list[object] = []
        while (item := self._stack.pop()) is not _MARK:
            found.append(_settled(item))
        return found[::-1]

    def _name(self, module: str, name: str) -> None:
        kind = f"{module}.{name}"
        if kind not in self._allowed:
            raise UnsupportedFile(
                f"{self._where}: a pickle that names {kind[:120]!r}, which no checkpoint needs; "
                "weft never runs pickles: save the model with safetensors"
            )
        self._stack.append(_Name(kind))

    def global_(self, argument: object) -> None:
        self._name(*str(argument).split(" ", 1))

    def stack_global(self, _: object) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self._name(module, name)

    def call(self, _: object) -> None:
        arguments, called = self._pop(), self._stack.pop()
        if not isinstance(called, _Name) or called is _MARK or not isinstance(arguments, tuple):
            raise ValueError("something is called that is no class or function")
        empty = called.kind == ORDERED_DICT and not arguments
        self._stack.append({} if empty else Record(called.kind, arguments))

    def build(self, _: object) -> None:
        state, built = self._pop(), self._stack[-1]
        if not isinstance(built, Record):
            raise ValueError("a state for something that has none")
        built.state = state

    def persistent(self, _: object) -> None:
        self._stack.append(Record(PERSISTENT, (self._pop(),)))

    def mark(self, _: object) -> None:
        self._stack.append(_MARK)

    def tuple_to_mark(self, _: object) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def tuple_1(self, _: object) -> None:
        self._stack.append((self._pop(),))

    def tuple_2(self, _: object) -> None:
        second, first = self._pop(), self._pop()
        self._stack.append((first, second))

    def tuple_3(self, _: object) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self._stack.append((first, second, third))

    def append(self, _: object) -> None:
        self._extend([self._pop()])

    def appends(self, _: object) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError("items for something that is no list")
        target.extend(items)

    def set_item(self, _: object) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def set_items(self, _: object) -> None:
        self._set(self._pop_to_mark())

    def _set(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | Record):
                raise ValueError("a key that is no text, number or record")
            target[key] = value

    def put(self, argument: object) -> None:
        place = len(self._memo) if argument is None else argument
        if not isinstance(place, int) or self._stack[-1] is _MARK:
            raise ValueError("nothing that can be remembered")
        self._memo[place] = self._stack[-1]

    def get(self, argument: object) -> None:
        if not isinstance(argument, int):
            raise ValueError("no place in the memo")
        self._stack.append(self._memo[argument])


CONSTANTS: Final[Mapping[str, Callable[[], object]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
LITERALS: Final = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
    | {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)
PASSED_OVER: Final = frozenset({"PROTO", "FRAME"})
INSTRUCTIONS: Final[Mapping[str, Callable[[_Machine, object], None]]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": _Machine.tuple_1,
    "TUPLE2": _Machine.tuple_2,
    "TUPLE3": _Machine.tuple_3,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "MEMOIZE": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "NEWOBJ": _Machine.call,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


def _instructions(data: bytes) -> Iterator[tuple[str, object]]:
    for opcode, argument, _ in pickletools.genops(data):
        yield opcode.name, argument


def _settled(value: object) -> object:
    """A name that was not called becomes a record without arguments."""
    return Record(value.kind) if isinstance(value, _Name) and value is not _MARK else value


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
