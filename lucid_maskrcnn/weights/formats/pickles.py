"""Pickles read as data: nothing that a file names is looked up, imported or called.

A pickle is a program for a small stack machine. The interpreter here builds dicts, lists, tuples, strings and numbers,
and calls only the functions of a list of safe globals. Whatever else a file names, calls or sets becomes a
:class:`StandIn`: training checkpoints are full of settings, schedules and counters of any class, which do not matter
as long as they do not stand among the weights.

The standard library's unpickler can be told which globals to allow, but not how much to allocate: a file of a few
bytes makes it allocate gigabytes, or compare keys for hours. This one checks every length against the file, leaves the
bytes of arrays in the file, and runs a bounded number of opcodes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .bounded_reader import BoundedReader
from .stored_arrays import CheckpointError, Span, decodable

__all__ = [
    "PickledObject",
    "PickledStr",
    "SafeGlobal",
    "StandIn",
    "are_non_negative_ints",
    "as_key",
    "globals_by_name",
    "read_pickle",
]

_MAX_OPCODES = 2**19  # an array takes about forty; each opcode allocates a few hundred bytes at most
_MAX_MARKS = 1000
_MAX_STRING = 256  # longer strings are the bytes of arrays, or not needed, and stay in the file
_MAX_NUMBER = 80  # bytes or digits
_MAX_NAME = 256
_MAX_MEMO_DIGITS = 10  # of an index; the hashes of larger numbers can be made to collide


# ------------------------------------------------------------------ values on the interpreter's stack


class PickledStr(str):
    """A short string with its position in the file: it may turn out to be the bytes of an array, written as text."""

    __slots__ = ("span",)
    span: Span


class OtherKey:
    """A dict's key that is not a short string.

    Compared by identity: numbers, and tuples of them, can be chosen such that all their hashes are equal, and a dict of
    a million such keys takes hours.
    """

    __slots__ = ()


class PickledObject:
    """What the file asks for is represented by an object of a subclass.

    Attributes
    ----------
    problem : str or None
        Why it cannot be used as an array, which matters only if it stands among the weights.
    """

    problem: str | None = None

    def set_state(self, state: object) -> None:
        """Take the state of a pickle's BUILD opcode; attributes of arrays are not needed."""


class StandIn(PickledObject):
    """Represents an object, a class or a function that is not known here, or that cannot be made.

    Attributes
    ----------
    name : str
        Of the class or function, as the file has it.
    arguments : tuple
        Of the call that would have made the object.
    state : object
        What the file sets as its attributes, usually a dict.
    entries : dict
        What the file sets as its items, if it is a mapping.
    """

    __slots__ = ("arguments", "entries", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = (), problem: str | None = None) -> None:
        self.name, self.arguments = name, arguments
        if problem is not None:
            self.problem = problem
        self.state: object = None
        self.entries: dict[Any, Any] = {}

    def set_state(self, state: object) -> None:
        """Keep the attributes."""
        self.state = state


@dataclass(frozen=True, eq=False)
class SafeGlobal:
    """What a pickle may name, and what is called in its place.

    Attributes
    ----------
    name : str
        Module and attribute, such as ``"numpy.dtype"``.
    call : callable, optional
        Takes the tuple of arguments; None for a name that may only be passed as an argument.
    """

    name: str
    call: Callable[[tuple[Any, ...]], object] | None = None


def are_non_negative_ints(*values: object) -> bool:
    """Return whether all values are ints from 0 on; bools are not."""
    return all(type(value) is int and value >= 0 for value in values)


def globals_by_name(*entries: SafeGlobal) -> dict[tuple[str, str], SafeGlobal]:
    """Return safe globals by module and attribute, as :func:`read_pickle` takes them."""
    pairs = ((entry.name.rpartition("."), entry) for entry in entries)
    return {(module, name): entry for (module, _, name), entry in pairs}


# ------------------------------------------------------------------ the interpreter


def read_pickle(
    reader: BoundedReader,
    safe_globals: Mapping[tuple[str, str], SafeGlobal],
    persistent_load: Callable[[object], object] | None = None,
) -> Any:
    """Read the pickle that begins at the reader's position, and leave the position behind it.

    Parameters
    ----------
    reader : BoundedReader
        Of the file.
    safe_globals : mapping of (str, str) to SafeGlobal
        What the pickle may name, by module and attribute.
    persistent_load : callable, optional
        Returns the object of a persistent id; without it the pickle may have none.

    Returns
    -------
    object
        Made of dict, list, tuple, str, int, float, bool, None, :class:`Span` for bytes and long strings, what the safe
        globals return, and a :class:`StandIn` for everything else. Keys of dicts are short strings or
        :class:`OtherKey`.

    Raises
    ------
    CheckpointError
        If the pickle is damaged, ends too early or has more opcodes than any model needs.
    """
    return _Unpickler(reader, safe_globals, persistent_load).run()


class _Unpickler:
    """The stack machine: a method for every opcode, and the table ``_OPCODES`` below."""

    def __init__(
        self,
        reader: BoundedReader,
        safe_globals: Mapping[tuple[str, str], SafeGlobal],
        persistent_load: Callable[[object], object] | None,
    ) -> None:
        self.reader, self.safe_globals, self.persistent_load = reader, safe_globals, persistent_load
        self.stack: list[Any] = []
        self.marks: list[int] = []  # length of the stack at each open mark
        self.memo: dict[int, Any] = {}  # not a list: a file may begin with the entry 2**32 - 1

    def run(self) -> Any:
        read = self.reader.read
        for _ in range(_MAX_OPCODES):
            opcode = read(1)
            if opcode == b".":
                return self.result()
            execute = _OPCODES.get(opcode)
            if execute is None:
                raise CheckpointError(f"has {opcode!r} where its pickle should have an opcode")
            execute(self)
        raise CheckpointError(
            f"has a pickle of more than {_MAX_OPCODES} opcodes, more than any model needs: save the weights alone"
        )

    def result(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            raise _damaged()
        return self.stack[0]

    # -------------------------------------------------------------- the stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _damaged()
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _damaged()
        return self.stack[-1]

    def mark(self) -> None:
        if len(self.marks) == _MAX_MARKS:
            raise CheckpointError(f"has a pickle with more than {_MAX_MARKS} nested tuples, lists or dicts")
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise _damaged()
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_mark(self) -> None:
        self.since_mark()

    def pop_or_mark(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    # -------------------------------------------------------------- the memo

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def memoize(self) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        try:
            self.push(self.memo[index])
        except KeyError:
            raise _damaged() from None

    # -------------------------------------------------------------- numbers and strings

    def decimal(self, max_length: int = _MAX_NUMBER) -> int:
        return _parse_int(self.reader.read_line(max_length, "number"))

    def int_line(self) -> None:
        """Push an int, or a bool: before they had opcodes of their own, bools were written 00 and 01."""
        line = self.reader.read_line(_MAX_NUMBER, "number")
        self.push(line == b"01" if line in (b"00", b"01") else _parse_int(line))

    def push_long(self, length_bytes: int) -> None:
        """Push a signed integer that follows its length, which takes ``length_bytes``."""
        length = self.reader.read_uint(length_bytes)
        if length > _MAX_NUMBER:
            raise CheckpointError(f"has a number of {length} bytes in its pickle")
        self.push(int.from_bytes(self.reader.read(length), "little", signed=True))

    def float_line(self) -> None:
        try:
            self.push(float(self.reader.read_line(_MAX_NUMBER, "number")))
        except ValueError:
            raise _damaged() from None

    def push_bytes(self, length_bytes: int) -> None:
        self.push(self.reader.skip(self.reader.read_uint(length_bytes)))

    def push_counted_string(self, length_bytes: int, encoding: str) -> None:
        length = self.reader.read_uint(length_bytes)
        if length > _MAX_STRING:
            self.push(self.reader.skip(length)._replace(encoding=encoding))
        else:
            offset = self.reader.position
            self.push_short_string(self.reader.read(length), offset, encoding)

    def unicode_line(self) -> None:
        self.push_line(self.reader.skip_line(), "raw-unicode-escape")

    def string_line(self) -> None:
        span = self.reader.skip_line()
        if span.length < 2:
            raise _damaged()
        first, last = (self.reader.read_span(Span(span.offset + i, 1)) for i in (0, span.length - 1))
        if first != last or first not in (b"'", b'"'):
            raise _damaged()
        self.push_line(Span(span.offset + 1, span.length - 2), "unicode-escape")

    def push_line(self, span: Span, encoding: str) -> None:
        if span.length > _MAX_STRING:
            self.push(span._replace(encoding=encoding))
        else:
            self.push_short_string(self.reader.read_span(span), span.offset, encoding)

    def push_short_string(self, content: bytes, offset: int, encoding: str) -> None:
        if encoding == "unicode-escape" and decodable(content, encoding) < len(content):
            raise CheckpointError("has a string with an unknown escape in its pickle")
        try:
            string = PickledStr(content.decode(encoding))
        except UnicodeDecodeError:
            raise CheckpointError(f"has a string that is not {encoding} in its pickle") from None
        string.span = Span(offset, len(content), encoding)
        self.push(string)

    # -------------------------------------------------------------- containers

    def push_tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, StandIn):  # such as a deque or a set, whose items are not needed
            raise CheckpointError("appends to something that is not a list")

    def append(self) -> None:
        item = self.pop()
        self.extend([item])

    def make_dict(self) -> None:
        items = self.since_mark()
        self.push({})
        self.set_items(items)

    def set_item(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        entries = target.entries if isinstance(target, StandIn) else target
        if type(entries) is not dict or len(items) % 2:
            raise CheckpointError("sets entries of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[as_key(key)] = value

    def add_items(self) -> None:
        self.extend(self.since_mark())

    def frozen_set(self) -> None:
        self.since_mark()
        self.push(StandIn("builtins.frozenset"))

    # -------------------------------------------------------------- globals and calls

    def global_line(self) -> None:
        module = self.reader.read_line(_MAX_NAME, "name")
        name = self.reader.read_line(_MAX_NAME, "name")
        self.push_global(module.decode("utf-8", "backslashreplace"), name.decode("utf-8", "backslashreplace"))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not PickledStr or type(module) is not PickledStr:
            raise CheckpointError("asks for a global whose name is not a string")
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        known = self.safe_globals.get((module, name))
        self.push(StandIn(f"{module}.{name}") if known is None else known)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.push(_called(function, arguments))

    def new_object_with_keywords(self) -> None:
        self.pop()
        self.reduce()

    def instance(self) -> None:
        arguments = tuple(self.since_mark())
        self.global_line()
        self.push(_called(self.pop(), arguments))

    def object_of_class(self) -> None:
        function, *arguments = self.since_mark() or [None]
        self.push(_called(function, tuple(arguments)))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, PickledObject):
            try:
                target.set_state(state)
            except CheckpointError as error:
                target.problem = target.problem or str(error)
        elif type(target) not in (dict, list) and not isinstance(target, SafeGlobal):  # attributes are not needed
            raise CheckpointError("sets attributes of something that has none")

    def persistent_id(self) -> None:
        self.push_reference(self.pop())

    def persistent_id_line(self) -> None:
        self.push_reference(self.reader.skip_line())

    def push_reference(self, reference: object) -> None:
        if self.persistent_load is None:
            problem = "refers to an object outside of its pickle: it is refused"
            self.push(StandIn("an object outside of the pickle", problem=problem))
        else:
            self.push(self.persistent_load(reference))

    def protocol(self) -> None:
        version = self.reader.read_uint(1)
        if version > 5:
            raise CheckpointError(f"has a pickle of protocol {version}; the newest known one is 5")

    def frame(self) -> None:
        length = self.reader.read_uint(8)
        self.reader.skip(length)  # raises if the file is shorter
        self.reader.position -= length


def _parse_int(line: bytes) -> int:
    if not re.fullmatch(rb"-?[0-9]+L?", line):  # int() takes more: spaces, underscores
        raise _damaged()
    return int(line.rstrip(b"L"))


def as_key(key: object) -> object:
    """Return what stands for a dict's key."""
    return key if type(key) is PickledStr else OtherKey()


def _called(function: object, arguments: object) -> object:
    """Return what a call of a safe global gives, or a stand-in for it."""
    if type(arguments) is not tuple or not isinstance(function, SafeGlobal | StandIn):
        raise CheckpointError("calls something that is not a function")
    if isinstance(function, StandIn):
        made = arguments[0] if arguments and function.name in _MAKERS else function
        return StandIn(made.name if isinstance(made, StandIn | SafeGlobal) else function.name, arguments)
    if function.call is None:
        problem = f"calls {function.name}, which may be named but not called: it is refused"
        return StandIn(function.name, arguments, problem)
    try:
        return function.call(arguments)
    except CheckpointError as error:
        earlier = (a.problem for a in arguments if isinstance(a, PickledObject) and a.problem)
        return StandIn(function.name, arguments, next(earlier, str(error)))


# Functions that make an object of the class which is their first argument.
_MAKERS = {f"{module}.{name}" for module in ("copyreg", "copy_reg") for name in ("_reconstructor", "__newobj__")}


def _damaged() -> CheckpointError:
    return CheckpointError("has a damaged pickle")


_OPCODES: dict[bytes, Callable[[_Unpickler], None]] = {
    b"\x80": _Unpickler.protocol,
    b"\x95": _Unpickler.frame,
    b"(": _Unpickler.mark,
    b"0": _Unpickler.pop_or_mark,
    b"2": lambda m: m.push(m.top()),
    b"1": _Unpickler.pop_mark,
    # numbers
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _Unpickler.int_line,
    b"L": lambda m: m.push(m.decimal()),
    b"J": lambda m: m.push(struct.unpack("<i", m.reader.read(4))[0]),
    b"K": lambda m: m.push(m.reader.read_uint(1)),
    b"M": lambda m: m.push(m.reader.read_uint(2)),
    b"\x8a": lambda m: m.push_long(1),
    b"\x8b": lambda m: m.push_long(4),
    b"F": _Unpickler.float_line,
    b"G": lambda m: m.push(struct.unpack(">d", m.reader.read(8))[0]),
    # strings and bytes; in Python 2 they were the same
    b"S": _Unpickler.string_line,
    b"U": lambda m: m.push_counted_string(1, "latin-1"),
    b"T": lambda m: m.push_counted_string(4, "latin-1"),
    b"V": _Unpickler.unicode_line,
    b"\x8c": lambda m: m.push_counted_string(1, "utf-8"),
    b"X": lambda m: m.push_counted_string(4, "utf-8"),
    b"\x8d": lambda m: m.push_counted_string(8, "utf-8"),
    b"C": lambda m: m.push_bytes(1),
    b"B": lambda m: m.push_bytes(4),
    b"\x8e": lambda m: m.push_bytes(8),
    b"\x96": lambda m: m.push_bytes(8),
    # containers
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.since_mark()),
    b"a": _Unpickler.append,
    b"e": lambda m: m.extend(m.since_mark()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"}": lambda m: m.push({}),
    b"d": _Unpickler.make_dict,
    b"s": _Unpickler.set_item,
    b"u": lambda m: m.set_items(m.since_mark()),
    b"\x8f": lambda m: m.push(StandIn("builtins.set")),
    b"\x90": _Unpickler.add_items,
    b"\x91": _Unpickler.frozen_set,
    b"\x97": lambda m: m.push(StandIn("a buffer outside of the pickle")),
    b"\x98": lambda m: m.push(m.pop()),
    # memo
    b"p": lambda m: m.put(m.decimal(_MAX_MEMO_DIGITS)),
    b"q": lambda m: m.put(m.reader.read_uint(1)),
    b"r": lambda m: m.put(m.reader.read_uint(4)),
    b"\x94": _Unpickler.memoize,
    b"g": lambda m: m.get(m.decimal(_MAX_MEMO_DIGITS)),
    b"h": lambda m: m.get(m.reader.read_uint(1)),
    b"j": lambda m: m.get(m.reader.read_uint(4)),
    # globals and calls
    b"c": _Unpickler.global_line,
    b"\x93": _Unpickler.stack_global,
    b"\x82": lambda m: m.push(StandIn(f"copyreg extension {m.reader.read_uint(1)}")),
    b"\x83": lambda m: m.push(StandIn(f"copyreg extension {m.reader.read_uint(2)}")),
    b"\x84": lambda m: m.push(StandIn(f"copyreg extension {m.reader.read_uint(4)}")),
    b"i": _Unpickler.instance,
    b"o": _Unpickler.object_of_class,
    b"R": _Unpickler.reduce,
    b"\x81": _Unpickler.reduce,
    b"\x92": _Unpickler.new_object_with_keywords,
    b"b": _Unpickler.build,
    b"Q": _Unpickler.persistent_id,
    b"P": _Unpickler.persistent_id_line,
}
