"""What ``torch.save`` writes, in the zip form of today and in the form before it, without PyTorch."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from .pickles import NUMPY_GLOBALS, Global, StandIn, Text, Window, is_whole, printable, read_pickle, table
from .stored_arrays import BadFile, DiskFile, Element, Span, StoredArray, num_elements

__all__ = ["LEGACY_MAGIC", "Tensor", "read_legacy", "read_zip"]

_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_MAGIC = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")
"""The number that the old form begins with, as it stands in a pickle behind the protocol."""

_MAX_DIRECTORY = 8 * 2**20  # a hundred bytes for each storage, and a few hundred in memory
_MAX_PICKLE = 64 * 2**20

_STORAGES = {
    "Float": "f4",
    "Double": "f8",
    "Half": "f2",
    "BFloat16": "bf16",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "b1",
    "ComplexFloat": "c8",
    "ComplexDouble": "c16",
}
_DTYPES = {
    "float32": "f4",
    "float64": "f8",
    "float16": "f2",
    "bfloat16": "bf16",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "b1",
    "complex64": "c8",
    "complex128": "c16",
}


@dataclass(frozen=True, eq=False)
class _Typed(Global):
    """A storage's class or a tensor's dtype: a name that means an element type."""

    code: str = ""


_UNTYPED = Global("torch.storage.UntypedStorage")


@dataclass(eq=False)
class _Storage:
    """The numbers that tensors are views of; ``offset`` is where they are in the file, once that is known."""

    key: str
    kind: Global
    element: Element  # of one byte if it is untyped
    order: str
    count: int
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        return self.count * self.element.size


@dataclass(frozen=True, eq=False)
class _Part:
    """A storage, or in the old form a part of one, in numbers."""

    storage: _Storage
    start: int
    count: int


@dataclass(frozen=True, eq=False)
class Tensor(StandIn):
    """A view of a storage: it can be read once it is known where the storage is."""

    storage: _Storage
    element: Element
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int  # in bytes of the storage
    length: int

    def stored(self, disk: DiskFile) -> StoredArray:
        """Return it as an array that can be read."""
        assert self.storage.offset is not None  # or the file was refused
        span = Span(self.storage.offset + self.start, self.length)
        return StoredArray(disk, span, self.element, self.shape, self.strides)


# ------------------------------------------------------------------ tensors


def _view(part: object, start: object, shape: Any, strides: Any, *, element: Element | None = None) -> Tensor:
    """Return a view of a storage, having checked that it stays inside."""
    if type(part) is not _Part:
        raise BadFile("has a tensor without a storage")
    storage = part.storage
    count = part.count
    if element is None:
        if storage.kind is _UNTYPED:
            raise BadFile("has a tensor without a type")
        element = storage.element
    elif storage.kind is _UNTYPED:
        count //= element.size
    elif element != storage.element:
        raise BadFile(f"has a tensor of {element.stored} in a storage of {storage.element.stored}")
    size = num_elements(shape)
    if type(strides) is not tuple or len(strides) != len(shape) or not is_whole(start, *strides):
        raise BadFile("has a tensor whose offset or strides are not whole numbers from 0 on, one stride a dimension")
    assert isinstance(start, int)
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if size == 0:
        start = last = 0
    # More numbers than there are (a step of 0) would let a small file ask for any amount of memory.
    elif start + last >= count or size > count:
        raise BadFile(f"has a tensor that is not inside of the storage {printable(storage.key)}, of {count} numbers")
    begin = part.start * storage.element.size + start * element.size
    return Tensor(storage, element, shape, strides, begin, (last + 1) * element.size if size else 0)


def _count(arguments: tuple[Any, ...], name: str, *counts: int) -> None:
    if len(arguments) not in counts:
        raise BadFile(f"calls torch._utils.{name} with {len(arguments)} arguments: it is refused")


def _no_metadata(metadata: object) -> None:
    if metadata is not None and metadata != {}:
        raise BadFile("has a tensor that is to be conjugated or negated, which is not supported")


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Tensor:
    _count(arguments, "_rebuild_tensor", 4)
    return _view(*arguments)


def _rebuild_tensor_v2(arguments: tuple[Any, ...]) -> Tensor:
    _count(arguments, "_rebuild_tensor_v2", 6, 7)
    _no_metadata(arguments[6] if len(arguments) > 6 else None)
    return _view(*arguments[:4])


def _rebuild_tensor_v3(arguments: tuple[Any, ...]) -> Tensor:
    _count(arguments, "_rebuild_tensor_v3", 7, 8)
    _no_metadata(arguments[7] if len(arguments) > 7 else None)
    dtype = arguments[6]
    if type(dtype) is not _Typed or dtype.name.endswith("Storage"):
        raise BadFile("has a tensor without a type")
    part = arguments[0]
    order = part.storage.order if type(part) is _Part else "<"
    return _view(*arguments[:4], element=Element.of(dtype.code, order))


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Tensor:
    _count(arguments, "_rebuild_parameter", 3, 4)
    if type(arguments[0]) is not Tensor:
        raise BadFile("has a parameter that is no tensor")
    return arguments[0]


_GLOBALS = NUMPY_GLOBALS | table(
    _UNTYPED,
    *(_Typed(f"torch.{name}Storage", None, code) for name, code in _STORAGES.items()),
    *(_Typed(f"torch.{name}", None, code) for name, code in _DTYPES.items()),
    Global("torch._utils._rebuild_tensor", _rebuild_tensor),
    Global("torch._utils._rebuild_tensor_v2", _rebuild_tensor_v2),
    Global("torch._utils._rebuild_tensor_v3", _rebuild_tensor_v3),
    Global("torch._utils._rebuild_parameter", _rebuild_parameter),
    Global("torch._utils._rebuild_parameter_with_state", _rebuild_parameter),
)


# ------------------------------------------------------------------ storages


class _Storages:
    """The storages that a pickle has named so far.

    Parameters
    ----------
    disk : DiskFile
        None of them can have more bytes than it.
    big_endian : bool
        Byte order of all of them.
    num_parts : {5, 6}
        Of a persistent id; the sixth makes a storage a part of another.
    """

    def __init__(self, disk: DiskFile, *, big_endian: bool, num_parts: int) -> None:
        self.by_key: dict[str, _Storage] = {}
        self._disk, self._order, self._num_parts = disk, ">" if big_endian else "<", num_parts

    def resolve(self, reference: object) -> _Part:
        """Return what ``("storage", class, key, location, count[, part])`` refers to."""
        if type(reference) is not tuple or len(reference) != self._num_parts or type(reference[0]) is not Text:
            raise BadFile("refers to something that is no storage: it is refused")
        if reference[0] != "storage":
            raise BadFile(f"refers to a {printable(reference[0])}, which is not an array: it is refused")
        storage = self._storage(reference[1], reference[2], reference[4])
        part = reference[5] if self._num_parts == 6 else None
        if part is None:
            return _Part(storage, 0, storage.count)
        if type(part) is not tuple or len(part) != 3 or not is_whole(*part[1:]) or part[1] + part[2] > storage.count:
            raise BadFile(f"has a part of the storage {printable(storage.key)} that is not inside of it")
        return _Part(storage, part[1], part[2])

    def _storage(self, kind: object, key: object, count: object) -> _Storage:
        if not (kind is _UNTYPED or (type(kind) is _Typed and kind.name.endswith("Storage"))) or type(key) is not Text:
            raise BadFile("has a storage without a type or a name")
        assert isinstance(kind, Global)
        element = Element.of(kind.code, self._order) if type(kind) is _Typed else Element.of("u1")
        if not is_whole(count) or count * element.size > self._disk.size:  # type: ignore[operator]
            raise BadFile(f"says that the storage {printable(key)} is larger than the file")
        made = _Storage(str(key), kind, element, self._order, count)  # type: ignore[arg-type]
        known = self.by_key.setdefault(made.key, made)
        if known.kind is not kind or known.count != count:
            raise BadFile(f"describes the storage {printable(key)} in two ways")
        return known


# ------------------------------------------------------------------ the zip form


class _Bounded:
    """A file as :mod:`zipfile` may read it: its directory, but not at any length."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.seek, self.tell, self._file, self._size = file.seek, file.tell, file, size

    def read(self, count: int = -1) -> bytes:
        """Read at most so much that a directory is bounded."""
        left = max(0, self._size - self._file.tell())
        count = left if count < 0 else min(count, left)  # before memory is set aside for it
        if count > _MAX_DIRECTORY:
            raise BadFile(f"has a zip directory of more than {_MAX_DIRECTORY} bytes")
        return self._file.read(count)


def read_zip(file: BinaryIO, disk: DiskFile) -> Any:
    """Read the object that a zip file of ``torch.save`` holds.

    Parameters
    ----------
    file : BinaryIO
        Opened, unbuffered.
    disk : DiskFile
        What is known of it.

    Returns
    -------
    object
        As from ``read_pickle``, with a :class:`Tensor` for each tensor.

    Raises
    ------
    BadFile
        If it is no such file, or damaged, or asks for anything but arrays.
    """
    members, start = _members(file, disk)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BadFile("is a zip archive without the data.pkl of a PyTorch checkpoint")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members or any(name.startswith(f"{folder}code/") for name in members):
        raise BadFile("is a TorchScript program, of which only the state_dict could be read: save that instead")
    places = {name: _place(file, info, start) for name, info in members.items()}
    _check_overlaps(places, members)
    storages = _Storages(disk, big_endian=_is_big_endian(file, places, folder), num_parts=5)
    span = places[pickles[0]]
    if span.length > _MAX_PICKLE:
        raise BadFile(f"has a data.pkl of more than {_MAX_PICKLE} bytes")
    _check_sum(file, span, members[pickles[0]].CRC)
    window = Window(file, span.offset, span.offset + span.length)
    content = read_pickle(window, _GLOBALS, storages.resolve)
    if window.position != window.end:
        raise BadFile("has a data.pkl that goes on behind its end")
    for storage in storages.by_key.values():
        _locate(storage, places.get(f"{folder}data/{storage.key}"))
    return content


def _members(file: BinaryIO, disk: DiskFile) -> tuple[dict[str, Any], int]:
    """Return the directory, and where it starts."""
    import zipfile  # here, as most models are built without a file

    try:
        with zipfile.ZipFile(_Bounded(file, disk.size)) as archive:
            infos, start = archive.infolist(), archive.start_dir
    except BadFile:
        raise
    except Exception as error:  # zipfile lets struct.error, OverflowError, UnicodeDecodeError and others through
        raise BadFile(f"has a damaged zip directory: {printable(str(error)).rstrip('.')}") from error
    members = {info.orig_filename: info for info in infos}
    if len(members) != len(infos):
        raise BadFile("has two members of the same name in its zip directory")
    if not 0 <= start <= disk.size:
        raise BadFile("has a damaged zip directory")
    return members, start


def _place(file: BinaryIO, info: Any, end: int) -> Span:
    """Return where a member's bytes are: its own header, not the directory, tells how long that is."""
    name = printable(info.orig_filename)
    if info.compress_type != 0 or info.compress_size != info.file_size or info.flag_bits & 1:
        raise BadFile(f"has compressed or encrypted {name}: PyTorch writes neither")
    if not 0 <= info.header_offset < end:
        raise BadFile(f"has no {name} where its zip directory says")
    file.seek(info.header_offset)
    header = file.read(30)
    sizes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    offset = info.header_offset + 30 + sum(sizes)
    if header[:4] != b"PK\3\4" or header[8:10] != b"\0\0" or offset + info.file_size > end:
        raise BadFile(f"has no {name} where its zip directory says")
    if file.read(sizes[0]) != info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437"):
        raise BadFile(f"has another member where its zip directory says that {name} is")
    return Span(offset, info.file_size)


def _check_overlaps(places: Mapping[str, Span], members: Mapping[str, Any]) -> None:
    """Refuse members that share bytes, as each would be read on its own."""
    end = 0
    for name, span in sorted(places.items(), key=lambda item: members[item[0]].header_offset):
        if members[name].header_offset < end:
            raise BadFile(f"has overlapping storages: {printable(name)} begins inside of another member")
        end = span.offset + span.length


def _check_sum(file: BinaryIO, span: Span, expected: int) -> None:
    """Compare the sum of the pickle, for damage that would go unnoticed.

    Not that of the storages: of these only what is asked for is read, and a wrong number in them is no danger.
    Nor if it is 0: PyTorch can be told to leave the sums out.
    """
    file.seek(span.offset)
    if expected and zlib.crc32(file.read(span.length)) != expected:
        raise BadFile("has a data.pkl that is damaged: its check sum is another")


def _is_big_endian(file: BinaryIO, places: Mapping[str, Span], folder: str) -> bool:
    span = places.get(f"{folder}byteorder")
    if span is None:  # older than the member
        return False
    file.seek(span.offset)
    order = file.read(min(span.length, 16))
    if order not in (b"little", b"big"):
        raise BadFile(f"has the byte order {order!r}, which is neither little nor big")
    return order == b"big"


def _locate(storage: _Storage, span: Span | None) -> None:
    if span is None:
        raise BadFile(f"lacks the storage {printable(storage.key)}")
    if span.length != storage.nbytes:
        raise BadFile(
            f"has {span.length} bytes in the storage {printable(storage.key)}, which should have {storage.nbytes}"
        )
    storage.offset = span.offset


# ------------------------------------------------------------------ the form before


def read_legacy(file: BinaryIO, disk: DiskFile) -> Any:
    """Read the object that ``torch.save`` wrote before version 1.6: five pickles and the storages.

    Parameters, result and exceptions are those of :func:`read_zip`.
    """
    window = Window(file, 0, disk.size)
    magic, version, system = (read_pickle(window, {}) for _ in range(3))
    if not is_whole(magic, version) or (magic, version) != (_MAGIC, 1001):
        raise BadFile("is a PyTorch checkpoint of an unknown version")
    little = system.get("little_endian") if type(system) is dict else None
    if type(little) is not bool:
        raise BadFile("is a PyTorch checkpoint that does not tell its byte order")
    storages = _Storages(disk, big_endian=not little, num_parts=6)
    content = read_pickle(window, _GLOBALS, storages.resolve)
    keys = read_pickle(window, {})
    if type(keys) is not list or not all(type(key) is Text for key in keys):
        raise BadFile("has no list of its storages")
    if len(keys) != len(storages.by_key) or set(keys) != storages.by_key.keys():
        raise BadFile("has another list of storages than its tensors need")
    for key in keys:
        _pass(window, storages.by_key[key])
    if window.position != window.end:
        raise BadFile("goes on behind the end of its last storage")
    return content


def _pass(window: Window, storage: _Storage) -> None:
    """Note where a storage is and go on behind it."""
    if window.end - window.position < 8 + storage.nbytes:
        raise BadFile(f"ends before its storage {printable(storage.key)} does")
    count = window.number(8)
    if count != storage.count:
        raise BadFile(f"has {count} numbers in the storage {printable(storage.key)}, which should have {storage.count}")
    storage.offset = window.skip(storage.nbytes).offset
