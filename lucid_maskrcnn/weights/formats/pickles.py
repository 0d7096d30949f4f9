"""Pickles read as data: nothing that a file names is looked up, imported or called.

A pickle is a program for a small machine with a stack. The one here knows the instructions that arrays need, builds
dicts, lists, tuples, text and numbers, and calls only stand-ins out of a list that it is given. The standard library's
machine could be told what to find, but not how much: a file of a few bytes makes it allocate gigabytes, or compare
keys for hours. This one checks every length against the file before it believes it, leaves the bytes of arrays where
they are, and takes a bounded number of steps.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from .stored_arrays import BadFile, DiskFile, Element, Span, StoredArray, column_major, decodable, num_elements

__all__ = [
    "NUMPY_GLOBALS",
    "Global",
    "NumpyArray",
    "StandIn",
    "Text",
    "Window",
    "is_whole",
    "printable",
    "read_pickle",
    "table",
]

_MAX_STEPS = 2**19  # an array takes about forty, and each step keeps a few hundred bytes at the most
_MAX_MARKS = 1000
_MAX_TEXT = 256  # longer ones are the bytes of arrays, or of no interest, and stay in the file
_MAX_NUMBER = 80  # bytes or digits
_MAX_NAME = 256
_MAX_KEY = 2**63  # larger ints can be made to collide in a dict, all of them
_BLOCK = 2**14


class Window:
    """A stretch of a file, read block by block; what is skipped is not read.

    Not a memory map, as that ends the process if another one shortens the file.

    Parameters
    ----------
    file : BinaryIO
        Unbuffered.
    start, end : int
        Where the stretch begins and ends.
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.position, self.end = start, end
        self._file = file
        self._block, self._start = b"", start

    def take(self, count: int) -> bytes:
        """Return the next bytes; ``count`` may be what a file says, as nothing is kept beyond the stretch."""
        begin = self.position - self._start
        if begin + count > len(self._block):
            self._require(count)
            self._load(count)
            begin = 0
        self.position += count
        return self._block[begin : begin + count]

    def skip(self, count: int) -> Span:
        """Pass over the next bytes and return where they are."""
        self._require(count)
        self.position += count
        return Span(self.position - count, count)

    def number(self, count: int) -> int:
        """Return the next ``count`` bytes as an unsigned number, the lowest first."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> Span:
        """Pass over what is left of the line and its end, and return where it is, without its end."""
        start = self.position
        while True:
            begin = self.position - self._start
            found = self._block.find(b"\n", begin)
            if found >= 0:
                self.position += found + 1 - begin
                return Span(start, self.position - 1 - start)
            self.position = max(self.position, self._start + len(self._block))
            self._require(1)
            self._load(1)

    def short_line(self, most: int, what: str) -> bytes:
        """Return what is left of the line; longer than ``most`` it is not a ``what``."""
        span = self.line()
        if span.length > most:
            raise BadFile(f"has a {what} of {span.length} characters in its pickle")
        return self.again(span)

    def again(self, span: Span) -> bytes:
        """Return bytes that were passed over; the position stays."""
        position, self.position = self.position, span.offset
        if self.position < self._start:
            self._block, self._start = b"", self.position
        content = self.take(span.length)
        self.position = position
        return content

    def _require(self, count: int) -> None:
        if count > self.end - self.position:
            raise BadFile("ends in the middle of its pickle, or is damaged")

    def _load(self, count: int) -> None:
        """Make the block begin at the position and hold ``count`` bytes, and more if there are."""
        self._file.seek(self.position)
        want = min(max(count, _BLOCK), self.end - self.position)
        self._block, self._start = self._file.read(want), self.position
        if len(self._block) < count:
            raise BadFile("ends in the middle of its pickle")


# ------------------------------------------------------------------ what the machine's stack holds


class Text(str):
    """A short text of the file, with the place where it is, as arrays' bytes may be written as text."""

    __slots__ = ("span",)
    span: Span


class StandIn:
    """Something that a stand-in has made."""

    def build(self, state: object) -> None:
        """Take the state that a pickle's BUILD hands over."""
        raise BadFile("sets attributes of something that has none")


@dataclass(frozen=True, eq=False)
class Global:
    """What stands for a module's attribute.

    Attributes
    ----------
    name : str
        With the module's.
    call : callable, optional
        Takes the tuple of arguments. Without it the name only stands for itself.
    """

    name: str
    call: Callable[[tuple[Any, ...]], object] | None = None


def printable(name: str) -> str:
    """Return text from a file as it can stand in a message."""
    escaped = name.encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= 100 else escaped[:97] + "..."


def is_whole(*values: object) -> bool:
    """Tell whether all are whole numbers, none below zero and none a bool."""
    return all(type(value) is int and value >= 0 for value in values)


# ------------------------------------------------------------------ the machine


def read_pickle(
    window: Window,
    allowed: Mapping[tuple[str, str], Global],
    persistent: Callable[[object], object] | None = None,
) -> Any:
    """Read the pickle at the window's position, which is behind it afterwards.

    Parameters
    ----------
    window : Window
        Of the file.
    allowed : mapping of (str, str) to Global
        What may be named, by module and attribute.
    persistent : callable, optional
        Turns a persistent id into what it stands for; without it the file may have none.

    Returns
    -------
    object
        Made of dict, list, tuple, str, int, float, bool, None, :class:`Span` for bytes and long texts, and
        what the stand-ins have made.

    Raises
    ------
    BadFile
        If it asks for anything else, or ends too early.
    """
    return _Machine(window, allowed, persistent).run()


class _Machine:
    def __init__(
        self,
        window: Window,
        allowed: Mapping[tuple[str, str], Global],
        persistent: Callable[[object], object] | None,
    ) -> None:
        self.window, self.allowed, self.persistent = window, allowed, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []  # lengths of the stack
        self.memo: dict[int, Any] = {}  # not a list: a file may begin with the entry 2**32 - 1

    def run(self) -> Any:
        take = self.window.take
        for _ in range(_MAX_STEPS):
            code = take(1)
            if code == b".":
                return self.result()
            step = _STEPS.get(code)
            if step is None:
                raise BadFile(_refused(code))
            step(self)
        raise BadFile(f"has a pickle of more than {_MAX_STEPS} instructions, more than any model needs")

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
            raise BadFile(f"has a pickle that opens more than {_MAX_MARKS} tuples, lists or dicts in each other")
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

    # -------------------------------------------------------------- numbers and text

    def decimal(self) -> int:
        return _whole_number(self.window.short_line(_MAX_NUMBER, "number"))

    def int_line(self) -> None:
        """Push a number, or a bool: before they had instructions of their own, they were written 00 and 01."""
        line = self.window.short_line(_MAX_NUMBER, "number")
        self.push(line == b"01" if line in (b"00", b"01") else _whole_number(line))

    def signed(self, width: int) -> None:
        """Push a number whose length in bytes stands before it."""
        length = self.window.number(width)
        if length > _MAX_NUMBER:
            raise BadFile(f"has a number of {length} bytes in its pickle")
        self.push(int.from_bytes(self.window.take(length), "little", signed=True))

    def float_line(self) -> None:
        try:
            self.push(float(self.window.short_line(_MAX_NUMBER, "number")))
        except ValueError:
            raise _damaged() from None

    def push_bytes(self, width: int) -> None:
        self.push(self.window.skip(self.window.number(width)))

    def counted_text(self, width: int, encoding: str) -> None:
        length = self.window.number(width)
        if length > _MAX_TEXT:
            self.push(self.window.skip(length)._replace(encoding=encoding))
        else:
            place = self.window.position
            self.push_text(self.window.take(length), place, encoding)

    def unicode_line(self) -> None:
        self.push_line(self.window.line(), "raw-unicode-escape")

    def string_line(self) -> None:
        span = self.window.line()
        quotes = self.window.again(Span(span.offset, 1)) + self.window.again(Span(span.offset + span.length - 1, 1))
        if span.length < 2 or quotes not in (b"''", b'""'):
            raise _damaged()
        self.push_line(Span(span.offset + 1, span.length - 2), "unicode-escape")

    def push_line(self, span: Span, encoding: str) -> None:
        if span.length > _MAX_TEXT:
            self.push(span._replace(encoding=encoding))
        else:
            self.push_text(self.window.again(span), span.offset, encoding)

    def push_text(self, content: bytes, place: int, encoding: str) -> None:
        if encoding == "unicode-escape" and decodable(content, encoding) < len(content):
            raise BadFile("has a text with an unknown escape in its pickle")
        try:
            text = Text(content.decode(encoding))
        except UnicodeDecodeError:
            raise BadFile(f"has a text that is not {encoding} in its pickle") from None
        text.span = Span(place, len(content), encoding)
        self.push(text)

    # -------------------------------------------------------------- containers

    def push_tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise BadFile("appends to something that is no list")
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
            raise BadFile("sets entries of something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    # -------------------------------------------------------------- names and calls

    def global_line(self) -> None:
        module = self.window.short_line(_MAX_NAME, "name")
        name = self.window.short_line(_MAX_NAME, "name")
        self.push_global(module.decode("utf-8", "backslashreplace"), name.decode("utf-8", "backslashreplace"))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not Text or type(module) is not Text:
            raise BadFile("asks for something that has no name")
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        known = self.allowed.get((module, name))
        if known is None:
            raise BadFile(f"asks for {printable(f'{module}.{name}')}, which is not an array: it is refused")
        self.push(known)

    def instance(self) -> None:
        self.global_line()  # which refuses by name what is not known
        raise BadFile(_refused(b"i"))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Global or type(arguments) is not tuple:
            raise BadFile("calls something that is no function")
        if function.call is None:
            raise BadFile(f"calls {function.name}, which is only a name here: it is refused")
        self.push(function.call(arguments))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, StandIn):
            target.build(state)
        # A state dict has its modules' version numbers as an attribute.
        elif type(target) is not dict or type(state) is not dict or len(state) != 1 or "_metadata" not in state:
            raise BadFile("sets attributes of something that has none")

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise BadFile("refers to something outside of its pickle: it is refused")
        self.push(self.persistent(self.pop()))

    def protocol(self) -> None:
        version = self.window.number(1)
        if version > 5:
            raise BadFile(f"has a pickle of protocol {version}, and 5 is the last one known")

    def frame(self) -> None:
        length = self.window.number(8)
        self.window.skip(length)  # which complains if there is less
        self.window.position -= length


def _whole_number(line: bytes) -> int:
    if not re.fullmatch(rb"-?[0-9]+L?", line):  # int() takes more: spaces, underscores
        raise _damaged()
    return int(line.rstrip(b"L"))


def _key(key: object) -> object:
    """Return what may be a dict's key, and not cost more than a comparison or two."""
    if key is None or type(key) in (Text, bool, float) or (type(key) is int and -_MAX_KEY <= key < _MAX_KEY):
        return key
    raise BadFile("has an entry whose name is neither a short text nor a number")


def _damaged() -> BadFile:
    return BadFile("has a damaged pickle")


def _refused(code: bytes) -> str:
    if code in _REFUSED:
        return f"uses the pickle instruction {_REFUSED[code]}, which no array needs: it is refused"
    return f"has {code!r} where its pickle should have an instruction"


_REFUSED = {
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

_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": _Machine.mark,
    b"0": _Machine.pop_or_mark,
    b"1": _Machine.pop_mark,
    # numbers
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _Machine.int_line,
    b"L": lambda m: m.push(m.decimal()),
    b"J": lambda m: m.push(struct.unpack("<i", m.window.take(4))[0]),
    b"K": lambda m: m.push(m.window.number(1)),
    b"M": lambda m: m.push(m.window.number(2)),
    b"\x8a": lambda m: m.signed(1),
    b"\x8b": lambda m: m.signed(4),
    b"F": _Machine.float_line,
    b"G": lambda m: m.push(struct.unpack(">d", m.window.take(8))[0]),
    # text and bytes; in Python 2 they were the same
    b"S": _Machine.string_line,
    b"U": lambda m: m.counted_text(1, "latin-1"),
    b"T": lambda m: m.counted_text(4, "latin-1"),
    b"V": _Machine.unicode_line,
    b"\x8c": lambda m: m.counted_text(1, "utf-8"),
    b"X": lambda m: m.counted_text(4, "utf-8"),
    b"\x8d": lambda m: m.counted_text(8, "utf-8"),
    b"C": lambda m: m.push_bytes(1),
    b"B": lambda m: m.push_bytes(4),
    b"\x8e": lambda m: m.push_bytes(8),
    b"\x96": lambda m: m.push_bytes(8),
    # containers
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.since_mark()),
    b"a": _Machine.append,
    b"e": lambda m: m.extend(m.since_mark()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"}": lambda m: m.push({}),
    b"d": _Machine.make_dict,
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.since_mark()),
    # memo
    b"p": lambda m: m.put(m.decimal()),
    b"q": lambda m: m.put(m.window.number(1)),
    b"r": lambda m: m.put(m.window.number(4)),
    b"\x94": _Machine.memoize,
    b"g": lambda m: m.get(m.decimal()),
    b"h": lambda m: m.get(m.window.number(1)),
    b"j": lambda m: m.get(m.window.number(4)),
    # names and calls
    b"c": _Machine.global_line,
    b"\x93": _Machine.stack_global,
    b"i": _Machine.instance,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": _Machine.persistent_id,
}


# ------------------------------------------------------------------ NumPy's names


class NumpyDtype(StandIn):
    """What ``numpy.dtype`` stands for: its byte order comes after the call."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def build(self, state: object) -> None:
        """Take ``(3, byte order, None, None, None, -1, -1, 0)``; the parts of structured types are not None."""
        if type(state) is not tuple or len(state) != 8 or any(part is not None for part in state[2:5]):
            raise BadFile("has an array of a structured type")
        if type(state[1]) is not Text or state[1] not in ("<", ">", "=", "|"):
            raise BadFile("has an array of an unknown byte order")
        self.order = "=" if state[1] == "|" else str(state[1])

    @property
    def element(self) -> Element:
        """The type that arrays have from now on."""
        return Element.of(self.code, self.order)


class NumpyArray(StandIn):
    """An array, empty until its state or its bytes are known."""

    def __init__(self) -> None:
        self._content: tuple[Span, Element, tuple[int, ...], tuple[int, ...] | None] | None = None

    def build(self, state: object) -> None:
        """Take ``(1, shape, dtype, columns first, bytes)``."""
        if type(state) is not tuple or len(state) != 5:
            raise BadFile("has an array whose state is not (version, shape, dtype, order, bytes)")
        self.set(state[4], state[2], state[1], columns_first=state[3])

    def set(self, content: object, dtype: object, shape: Any, *, columns_first: object) -> NumpyArray:
        """Check that bytes, type and shape fit, and keep them."""
        if type(dtype) is not NumpyDtype:
            raise BadFile("has an array of a type that is no dtype")
        span = content.span if type(content) is Text else content
        if type(span) is not Span:
            raise BadFile("has an array whose content is not bytes")
        if type(columns_first) not in (bool, int):
            raise BadFile("has an array that says neither rows first nor columns first")
        element = dtype.element
        num_bytes = num_elements(shape) * element.size
        if not span.may_hold(num_bytes):
            raise BadFile(
                f"has an array of {span.length} bytes, and its shape {shape} and type {element.stored} make {num_bytes}"
            )
        self._content = span, element, shape, column_major(shape) if columns_first else None
        return self

    def stored(self, disk: DiskFile) -> StoredArray:
        """Return it as an array that can be read."""
        if self._content is None:
            raise BadFile("has an array without content")
        return StoredArray(disk, *self._content)


# Objects, text, dates and structures are no weights; longdouble has another size on every machine.
_NUMPY_CODES = re.compile(r"[fc]8|[fiu][24]|[iu][18]|b1|c16")


def _dtype(arguments: tuple[Any, ...]) -> NumpyDtype:
    code = arguments[0] if arguments else None
    if type(code) is not Text or not _NUMPY_CODES.fullmatch(code):
        kind = f"the type {printable(code)}" if type(code) is Text else "a type without a name"
        raise BadFile(f"has an array of {kind}, which is not one of numbers: it is refused")
    return NumpyDtype(str(code))


def _reconstruct(arguments: tuple[Any, ...]) -> NumpyArray:
    if not arguments or arguments[0] is not _NDARRAY:
        raise BadFile("has an array of a class that is not numpy.ndarray")
    return NumpyArray()


def _scalar(arguments: tuple[Any, ...]) -> NumpyArray:
    if len(arguments) != 2:
        raise BadFile("has a number that is not a type and its bytes")
    return NumpyArray().set(arguments[1], arguments[0], (), columns_first=False)


def _frombuffer(arguments: tuple[Any, ...]) -> NumpyArray:
    if len(arguments) != 4 or type(arguments[3]) is not Text or arguments[3] not in ("C", "F"):
        raise BadFile("has an array that is not bytes, type, shape and an order of C or F")
    content, dtype, shape, order = arguments
    return NumpyArray().set(content, dtype, shape, columns_first=order == "F")


def _encode(arguments: tuple[Any, ...]) -> Span:
    """Return bytes that were written as text, a character each, for want of an instruction in protocols 0 to 2."""
    if len(arguments) != 2 or type(arguments[1]) is not Text or arguments[1] != "latin1":
        raise BadFile("calls _codecs.encode with another codec than latin1: it is refused")
    text = arguments[0]
    if type(text) is Text:
        return text.span
    if type(text) is not Span:
        raise BadFile("calls _codecs.encode with something that is no text: it is refused")
    return text


def _no_bytes(arguments: tuple[Any, ...]) -> Span:
    """Return the empty bytes, which protocols 0 to 2 write as a call."""
    if arguments:
        raise BadFile("calls bytes with arguments: it is refused")
    return Span(0, 0)


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Return a dict, empty, or of the pairs that Python 2 hands over."""
    result: dict[Any, Any] = {}
    pairs = arguments[0] if len(arguments) == 1 else []
    if len(arguments) > 1 or type(pairs) is not list:
        raise BadFile("calls collections.OrderedDict with something that is no list of pairs: it is refused")
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise BadFile("calls collections.OrderedDict with something that is no list of pairs: it is refused")
        result[_key(pair[0])] = pair[1]
    pairs.clear()  # or one list could be handed over again and again, at no cost but time
    return result


def table(*entries: Global) -> dict[tuple[str, str], Global]:
    """Return stand-ins by module and attribute, as :func:`read_pickle` takes them."""
    pairs = ((entry.name.rpartition("."), entry) for entry in entries)
    return {(module, name): entry for (module, _, name), entry in pairs}


_NDARRAY = Global("numpy.ndarray")

NUMPY_GLOBALS = table(
    _NDARRAY,
    Global("numpy.dtype", _dtype),
    *(Global(f"numpy.{core}.multiarray._reconstruct", _reconstruct) for core in ("core", "_core")),
    *(Global(f"numpy.{core}.multiarray.scalar", _scalar) for core in ("core", "_core")),
    *(Global(f"numpy.{core}.numeric._frombuffer", _frombuffer) for core in ("core", "_core")),
    Global("_codecs.encode", _encode),
    Global("builtins.bytes", _no_bytes),
    Global("__builtin__.bytes", _no_bytes),
    Global("collections.OrderedDict", _ordered_dict),
)
"""What arrays in plain pickles need."""
