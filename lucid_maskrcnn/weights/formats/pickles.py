"""Pickles read as data: nothing that a file names is looked up, imported or called.

A pickle is a program for a small stack machine. The interpreter here knows the opcodes that arrays need, builds dicts,
lists, tuples, strings and numbers, and calls only the functions of a list of safe globals. The standard library's
unpickler can be told which globals to allow, but not how much to allocate: a file of a few bytes makes it allocate
gigabytes, or compare keys for hours. This one checks every length against the file, leaves the bytes of arrays in the
file, and runs a bounded number of opcodes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .bounded_reader import BoundedReader
from .stored_arrays import CheckpointError, Span, decodable, printable

__all__ = [
    "PickledObject",
    "PickledStr",
    "SafeGlobal",
    "are_non_negative_ints",
    "check_key",
    "globals_by_name",
    "read_pickle",
]

_MAX_OPCODES = 2**19  # an array takes about forty; each opcode allocates a few hundred bytes at most
_MAX_MARKS = 1000
_MAX_STRING = 256  # longer strings are the bytes of arrays, or not needed, and stay in the file
_MAX_NUMBER = 80  # bytes or digits
_MAX_NAME = 256
_MAX_KEY = 2**63  # any number of larger ints can be made to collide in a dict


# ------------------------------------------------------------------ values on the interpreter's stack


class PickledStr(str):
    """A short string with its position in the file: it may turn out to be the bytes of an array, written as text."""

    __slots__ = ("span",)
    span: Span


class PickledObject:
    """What a safe global's function returns in place of the object that the file asks for."""

    def set_state(self, state: object) -> None:
        """Take the state of a pickle's BUILD opcode."""
        raise CheckpointError("sets attributes of something that has none")


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
        Made of dict, list, tuple, str, int, float, bool, None, :class:`Span` for bytes and long strings, and what
        the safe globals return.

    Raises
    ------
    CheckpointError
        If the pickle names anything else, is damaged or ends too early.
    """
    return _Unpickler(reader, safe_globals, persistent_load).run()


class _Unpickler:
    """The stack machine: a method for every opcode that arrays need, and the table ``_OPCODES`` below."""

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
                raise CheckpointError(_refusal(opcode))
            execute(self)
        raise CheckpointError(f"has a pickle of more than {_MAX_OPCODES} opcodes, more than any model needs")

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

    def decimal(self) -> int:
        return _parse_int(self.reader.read_line(_MAX_NUMBER, "number"))

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
        if type(target) is not list:
            raise CheckpointError("appends to something that is not a list")
        target.extend(items)

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
        if type(target) is not dict or len(items) % 2:
            raise CheckpointError("sets entries of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value

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
        if known is None:
            raise CheckpointError(f"asks for {printable(f'{module}.{name}')}, which is not an array: it is refused")
        self.push(known)

    def instance(self) -> None:
        self.global_line()  # refuses unknown names
        raise CheckpointError(_refusal(b"i"))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not SafeGlobal or type(arguments) is not tuple:
            raise CheckpointError("calls something that is not a function")
        if function.call is None:
            raise CheckpointError(f"calls {function.name}, which may be named but not called: it is refused")
        self.push(function.call(arguments))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, PickledObject):
            target.set_state(state)
        # The only attribute that a dict may get: a state dict's _metadata, its modules' version numbers.
        elif type(target) is not dict or type(state) is not dict or len(state) != 1 or "_metadata" not in state:
            raise CheckpointError("sets attributes of something that has none")

    def persistent_id(self) -> None:
        if self.persistent_load is None:
            raise CheckpointError("refers to an object outside of its pickle: it is refused")
        self.push(self.persistent_load(self.pop()))

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


def check_key(key: object) -> object:
    """Return what may be a dict's key: nothing whose hashes or comparisons could be made slow."""
    if key is None or type(key) in (PickledStr, bool, float) or (type(key) is int and -_MAX_KEY <= key < _MAX_KEY):
        return key
    raise CheckpointError("has a dict whose key is neither a short string nor a number")


def _damaged() -> CheckpointError:
    return CheckpointError("has a damaged pickle")


def _refusal(opcode: bytes) -> str:
    if opcode in _REFUSED_OPCODES:
        return f"uses the pickle opcode {_REFUSED_OPCODES[opcode]}, which no array needs: it is refused"
    return f"has {opcode!r} where its pickle should have an opcode"


_REFUSED_OPCODES = {
    b"2": "DUP",
    b"i": "INST",
    b"o": "OBJ",
    b"P": "PERSID",
    b"\x81": "NEWOBJ",
    b"\x82": "EXT1",
    b"\x83": "EXT2",
    b"\x84": "EXT4",
    b"\x8f": "EMPTY_SET",
    b"\x90": "ADDITEMS",
    b"\x91": "FROZENSET",
    b"\x92": "NEWOBJ_EX",
    b"\x97": "NEXT_BUFFER",
    b"\x98": "READONLY_BUFFER",
}

_OPCODES: dict[bytes, Callable[[_Unpickler], None]] = {
    b"\x80": _Unpickler.protocol,
    b"\x95": _Unpickler.frame,
    b"(": _Unpickler.mark,
    b"0": _Unpickler.pop_or_mark,
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
    # memo
    b"p": lambda m: m.put(m.decimal()),
    b"q": lambda m: m.put(m.reader.read_uint(1)),
    b"r": lambda m: m.put(m.reader.read_uint(4)),
    b"\x94": _Unpickler.memoize,
    b"g": lambda m: m.get(m.decimal()),
    b"h": lambda m: m.get(m.reader.read_uint(1)),
    b"j": lambda m: m.get(m.reader.read_uint(4)),
    # globals and calls
    b"c": _Unpickler.global_line,
    b"\x93": _Unpickler.stack_global,
    b"i": _Unpickler.instance,
    b"R": _Unpickler.reduce,
    b"b": _Unpickler.build,
    b"Q": _Unpickler.persistent_id,
}
