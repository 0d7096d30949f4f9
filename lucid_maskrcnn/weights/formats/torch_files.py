"""Reading what ``torch.save`` writes, in today's zip format and in the legacy format before it, without PyTorch."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from .bounded_reader import BoundedReader
from .numpy_pickles import NUMPY_SAFE_GLOBALS
from .other_formats import other_archive
from .pickle_writing import ZIP_HEADER
from .pickles import (
    PickledObject,
    PickledStr,
    SafeGlobal,
    StandIn,
    are_non_negative_ints,
    globals_by_name,
    read_pickle,
)
from .safetensors_files import parse_metadata
from .stored_arrays import ByteOrder, CheckpointError, DiskFile, ElementType, Span, StoredArray, num_elements, printable

__all__ = ["LEGACY_MAGIC", "Tensor", "read_legacy", "read_zip", "read_zip_header"]

_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_MAGIC = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")
"""The number that legacy files begin with, as a pickle writes it behind its protocol."""

_MAX_DIRECTORY = 8 * 2**20  # about a hundred bytes a storage, and a few hundred in memory
_MAX_PICKLE = 64 * 2**20

_STORAGE_DTYPES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
_DTYPES = (*_STORAGE_DTYPES.values(), "uint16", "uint32", "uint64")
# Of tensors that are not read; the size is needed to find the storages behind theirs.
_QUANTIZED_DTYPES = {"QInt8": "int8", "QUInt8": "uint8", "QInt32": "int32", "QUInt4x2": "uint8", "QUInt2x4": "uint8"}


@dataclass(frozen=True, eq=False)
class _TorchType(SafeGlobal):
    """A storage's class or a tensor's dtype: a name that stands for an element type."""

    dtype: str = ""


_UNTYPED = SafeGlobal("torch.storage.UntypedStorage")


@dataclass(eq=False)
class _Storage:
    """The elements that tensors are views of; ``offset`` is their place in the file, once that is known."""

    key: str
    storage_class: SafeGlobal
    element: ElementType  # uint8 if it is untyped
    order: ByteOrder
    count: int
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        return self.count * self.element.size


@dataclass(frozen=True, eq=False)
class _StorageSlice:
    """A storage, or in legacy files possibly a part of one; ``start`` and ``count`` in elements."""

    storage: _Storage
    start: int
    count: int


@dataclass(frozen=True, eq=False)
class Tensor(PickledObject):
    """A view of a storage, which can be read once the storage's place in the file is known."""

    storage: _Storage
    element: ElementType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int  # in bytes of the storage
    length: int

    def stored(self, disk: DiskFile) -> StoredArray:
        """Return the tensor in the form in which it can be read."""
        assert self.storage.offset is not None  # else the file was refused
        span = Span(self.storage.offset + self.start, self.length)
        return StoredArray(disk, span, self.element, self.shape, self.strides)


# ------------------------------------------------------------------ tensors


def _make_tensor(
    source: object, start: object, shape: Any, strides: Any, *, element: ElementType | None = None
) -> Tensor:
    """Return a view of a storage after checking that it stays inside."""
    if type(source) is not _StorageSlice:
        raise CheckpointError("has a tensor without a storage")
    storage = source.storage
    count = source.count
    if element is None:
        if storage.storage_class is _UNTYPED:
            raise CheckpointError("has a tensor without a dtype")
        element = storage.element
    elif storage.storage_class is _UNTYPED:
        count //= element.size
    elif element != storage.element:
        raise CheckpointError(f"has a tensor of {element.stored} in a storage of {storage.element.stored}")
    size = num_elements(shape)
    if type(strides) is not tuple or len(strides) != len(shape) or not are_non_negative_ints(start, *strides):
        raise CheckpointError(
            "has a tensor whose offset or strides are not non-negative integers, or not one stride a dimension"
        )
    assert isinstance(start, int)
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size == 0:
        start = last = 0
    # More elements than the storage has (a stride of 0) would let a small file ask for any amount of memory.
    elif start + last >= count or size > count:
        raise CheckpointError(
            f"has a tensor that is not inside its storage {printable(storage.key)} of {count} elements"
        )
    begin = source.start * storage.element.size + start * element.size
    return Tensor(storage, element, shape, strides, begin, (last + 1) * element.size if size else 0)


def _check_num_arguments(arguments: tuple[Any, ...], name: str, *allowed: int) -> None:
    if len(arguments) not in allowed:
        raise CheckpointError(f"calls torch._utils.{name} with {len(arguments)} arguments: it is refused")


def _check_no_metadata(metadata: object) -> None:
    if metadata is not None and metadata != {}:
        raise CheckpointError("has a tensor with a conjugate or negative bit, which is not supported")


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Tensor:
    _check_num_arguments(arguments, "_rebuild_tensor", 4)
    return _make_tensor(*arguments)


def _rebuild_tensor_v2(arguments: tuple[Any, ...]) -> Tensor:
    _check_num_arguments(arguments, "_rebuild_tensor_v2", 6, 7)
    _check_no_metadata(arguments[6] if len(arguments) > 6 else None)
    return _make_tensor(*arguments[:4])


def _rebuild_tensor_v3(arguments: tuple[Any, ...]) -> Tensor:
    _check_num_arguments(arguments, "_rebuild_tensor_v3", 7, 8)
    _check_no_metadata(arguments[7] if len(arguments) > 7 else None)
    dtype = arguments[6]
    if isinstance(dtype, StandIn):
        raise CheckpointError(
            f"has a tensor of {printable(dtype.name)}, which is not supported: convert it to float32 with PyTorch"
        )
    if type(dtype) is not _TorchType or dtype.name.endswith("Storage"):
        raise CheckpointError("has a tensor without a dtype")
    source = arguments[0]
    order: ByteOrder = source.storage.order if type(source) is _StorageSlice else "<"
    return _make_tensor(*arguments[:4], element=ElementType.of(dtype.dtype, order))


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Tensor:
    """Return the tensor of a parameter, or of a tensor that was on a device which not every machine has."""
    _check_num_arguments(arguments, "_rebuild_parameter", 3, 4)
    if type(arguments[0]) is not Tensor:
        raise CheckpointError("has a parameter that is not a tensor")
    return arguments[0]


def _rebuild_subclass(arguments: tuple[Any, ...]) -> object:
    """Return the tensor of a subclass: ``(function, class, its arguments, attributes)``."""
    function, made_of = arguments[::2] if len(arguments) == 4 else (None, None)
    if function not in _TENSOR_FUNCTIONS or type(made_of) is not tuple:
        raise CheckpointError("has a tensor of a class that is not known")
    assert isinstance(function, SafeGlobal)
    assert function.call is not None
    return function.call(made_of)


def _refuse_quantized(arguments: tuple[Any, ...]) -> object:
    raise CheckpointError(
        "has a quantized tensor, which cannot be read: dequantize the model with PyTorch, or take the weights that it "
        "was made of"
    )


_TENSOR_FUNCTIONS = (
    SafeGlobal("torch._utils._rebuild_tensor", _rebuild_tensor),
    SafeGlobal("torch._utils._rebuild_tensor_v2", _rebuild_tensor_v2),
    SafeGlobal("torch._utils._rebuild_tensor_v3", _rebuild_tensor_v3),
    SafeGlobal("torch._utils._rebuild_parameter", _rebuild_parameter),
    SafeGlobal("torch._utils._rebuild_parameter_with_state", _rebuild_parameter),
    SafeGlobal("torch._utils._rebuild_device_tensor_from_cpu_tensor", _rebuild_parameter),
)
_SAFE_GLOBALS = NUMPY_SAFE_GLOBALS | globals_by_name(
    _UNTYPED,
    *(_TorchType(f"torch.{name}Storage", None, dtype) for name, dtype in (_STORAGE_DTYPES | _QUANTIZED_DTYPES).items()),
    *(_TorchType(f"torch.{dtype}", None, dtype) for dtype in _DTYPES),
    *_TENSOR_FUNCTIONS,
    SafeGlobal("torch._tensor._rebuild_from_type_v2", _rebuild_subclass),
    SafeGlobal("torch._utils._rebuild_qtensor", _refuse_quantized),
)


# ------------------------------------------------------------------ storages


class _Storages:
    """The storages that a pickle has named so far.

    Parameters
    ----------
    disk : DiskFile
        The file; no storage can have more bytes than it.
    big_endian : bool
        Byte order of all of them.
    id_length : {5, 6}
        Of a persistent id; in legacy files a sixth entry may make a storage a part of another.
    """

    def __init__(self, disk: DiskFile, *, big_endian: bool, id_length: int) -> None:
        self.by_key: dict[str, _Storage] = {}
        self._disk, self._id_length = disk, id_length
        self._order: ByteOrder = ">" if big_endian else "<"

    def load(self, persistent_id: object) -> _StorageSlice | StandIn:
        """Return what ``("storage", class, key, location, count[, part])`` refers to; modules have other tags."""
        if type(persistent_id) is not tuple or len(persistent_id) < 2 or type(persistent_id[0]) is not PickledStr:
            raise CheckpointError("refers to something that is not a storage: it is refused")
        if persistent_id[0] != "storage":
            problem = f"refers to a {printable(persistent_id[0])}, which is not an array: it is refused"
            made = persistent_id[1]
            return made if isinstance(made, StandIn) else StandIn(persistent_id[0], problem=problem)
        if len(persistent_id) != self._id_length:
            raise CheckpointError("refers to something that is not a storage: it is refused")
        if isinstance(persistent_id[1], StandIn):
            problem = f"has a tensor in a {printable(persistent_id[1].name)}, which is not supported"
            return StandIn(persistent_id[1].name, problem=problem)
        storage = self._storage(persistent_id[1], persistent_id[2], persistent_id[4])
        part = persistent_id[5] if self._id_length == 6 else None
        if part is None:
            return _StorageSlice(storage, 0, storage.count)
        if type(part) is not tuple or len(part) != 3 or not are_non_negative_ints(*part[1:]):
            raise CheckpointError(f"has a malformed part of the storage {printable(storage.key)}")
        if part[1] + part[2] > storage.count:
            raise CheckpointError(f"has a part of the storage {printable(storage.key)} that is not inside it")
        return _StorageSlice(storage, part[1], part[2])

    def _storage(self, storage_class: object, key: object, count: object) -> _Storage:
        typed = type(storage_class) is _TorchType and storage_class.name.endswith("Storage")
        if not (typed or storage_class is _UNTYPED) or type(key) is not PickledStr:
            raise CheckpointError("has a storage without a class or a key")
        assert isinstance(storage_class, SafeGlobal)
        dtype = storage_class.dtype if isinstance(storage_class, _TorchType) else "uint8"
        element = ElementType.of(dtype, self._order)
        if not are_non_negative_ints(count) or count * element.size > self._disk.size:  # type: ignore[operator]
            raise CheckpointError(f"says that the storage {printable(key)} is larger than the file")
        made = _Storage(str(key), storage_class, element, self._order, count)  # type: ignore[arg-type]
        known = self.by_key.setdefault(made.key, made)
        if known.storage_class is not storage_class or known.count != count:
            raise CheckpointError(f"describes the storage {printable(key)} in two ways")
        return known


# ------------------------------------------------------------------ the zip format


class _BoundedZipFile:
    """A file from which :mod:`zipfile` can read a directory, but not one of any length."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.seek, self.tell, self._file, self._size = file.seek, file.tell, file, size

    def read(self, count: int = -1) -> bytes:
        """Read as a file does, but refuse to read more than a directory may have."""
        left = max(0, self._size - self._file.tell())
        count = left if count < 0 else min(count, left)  # so that no more than the file is allocated
        if count > _MAX_DIRECTORY:
            raise CheckpointError(f"has a zip directory of more than {_MAX_DIRECTORY} bytes")
        return self._file.read(count)


def read_zip(file: BinaryIO, disk: DiskFile) -> Any:
    """Read the object that a zip file of ``torch.save`` holds.

    Parameters
    ----------
    file : BinaryIO
        Opened, unbuffered.
    disk : DiskFile
        The same file's path and size.

    Returns
    -------
    object
        As from ``read_pickle``, with a :class:`Tensor` for each tensor.

    Raises
    ------
    CheckpointError
        If it is not such a file, is damaged, or asks for anything but arrays.
    """
    members, start = _read_directory(file, disk)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(other_archive(members) or "is a zip archive without the data.pkl of a PyTorch checkpoint")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members or any(name.startswith(f"{folder}code/") for name in members):
        raise CheckpointError("is a TorchScript program: load it with PyTorch and save its state_dict instead")
    spans = {name: _member_span(file, info, start) for name, info in members.items()}
    _check_overlaps(spans, members)
    storages = _Storages(disk, big_endian=_is_big_endian(file, spans, folder), id_length=5)
    span = spans[pickles[0]]
    if span.length > _MAX_PICKLE:
        raise CheckpointError(f"has a data.pkl of more than {_MAX_PICKLE} bytes")
    _check_crc(file, span, members[pickles[0]].CRC)
    reader = BoundedReader(file, span.offset, span.offset + span.length)
    content = read_pickle(reader, _SAFE_GLOBALS, storages.load)
    if reader.position != reader.end:
        raise CheckpointError("has data behind the end of its data.pkl")
    for storage in storages.by_key.values():
        _set_storage_offset(storage, spans.get(f"{folder}data/{storage.key}"))
    return content


def read_zip_header(file: BinaryIO, disk: DiskFile) -> dict[str, str]:
    """Return the header that this package writes into such a file, which :func:`read_zip` has read; else nothing."""
    members, start = _read_directory(file, disk)
    info = next((info for name, info in members.items() if name.endswith(f"/{ZIP_HEADER}")), None)
    return {} if info is None else parse_metadata(file, _member_span(file, info, start))


def _read_directory(file: BinaryIO, disk: DiskFile) -> tuple[dict[str, Any], int]:
    """Return the zip directory's entries by name, and its offset."""
    import zipfile  # here, as most models are built without a file

    try:
        with zipfile.ZipFile(_BoundedZipFile(file, disk.size)) as archive:
            infos, start = archive.infolist(), archive.start_dir
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises struct.error, OverflowError, UnicodeDecodeError and others
        raise CheckpointError(f"has a damaged zip directory: {printable(str(error)).rstrip('.')}") from error
    members = {info.orig_filename: info for info in infos}
    if len(members) != len(infos):
        raise CheckpointError("has two members of the same name in its zip directory")
    if not 0 <= start <= disk.size:
        raise CheckpointError("has a damaged zip directory")
    return members, start


def _member_span(file: BinaryIO, info: Any, end: int) -> Span:
    """Return where a member's bytes are: behind its own header, whose length the directory does not tell."""
    name = printable(info.orig_filename)
    if info.compress_type != 0 or info.compress_size != info.file_size or info.flag_bits & 1:
        raise CheckpointError(f"has compressed or encrypted {name}: PyTorch writes neither")
    if not 0 <= info.header_offset < end:
        raise CheckpointError(f"has no {name} where its zip directory says")
    file.seek(info.header_offset)
    header = file.read(30)
    sizes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    offset = info.header_offset + 30 + sum(sizes)
    if header[:4] != b"PK\3\4" or header[8:10] != b"\0\0" or offset + info.file_size > end:
        raise CheckpointError(f"has no {name} where its zip directory says")
    if file.read(sizes[0]) != info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437"):
        raise CheckpointError(f"has another member where its zip directory says that {name} is")
    return Span(offset, info.file_size)


def _check_overlaps(spans: Mapping[str, Span], members: Mapping[str, Any]) -> None:
    """Refuse members that share bytes."""
    end = 0
    for name, span in sorted(spans.items(), key=lambda item: members[item[0]].header_offset):
        if members[name].header_offset < end:
            raise CheckpointError(f"has overlapping storages: {printable(name)} begins inside another member")
        end = span.offset + span.length


def _check_crc(file: BinaryIO, span: Span, expected: int) -> None:
    """Compare the CRC-32 of the pickle, to find damage that would go unnoticed.

    Not of the storages: only those that are asked for are read, and a wrong value in them does no harm. A sum of 0 is
    not compared, as PyTorch can be told not to write the sums.
    """
    file.seek(span.offset)
    if expected and zlib.crc32(file.read(span.length)) != expected:
        raise CheckpointError("has a damaged data.pkl: its CRC-32 differs")


def _is_big_endian(file: BinaryIO, spans: Mapping[str, Span], folder: str) -> bool:
    span = spans.get(f"{folder}byteorder")
    if span is None:  # files older than this member are little-endian
        return False
    file.seek(span.offset)
    order = file.read(min(span.length, 16))
    if order not in (b"little", b"big"):
        raise CheckpointError(f"has the byte order {order!r}, which is neither little nor big")
    return order == b"big"


def _set_storage_offset(storage: _Storage, span: Span | None) -> None:
    if span is None:
        raise CheckpointError(f"lacks the storage {printable(storage.key)}")
    if span.length != storage.nbytes:
        raise CheckpointError(
            f"has {span.length} bytes in the storage {printable(storage.key)}, which should have {storage.nbytes}"
        )
    storage.offset = span.offset


# ------------------------------------------------------------------ the legacy format


def read_legacy(file: BinaryIO, disk: DiskFile) -> Any:
    """Read the object that ``torch.save`` wrote before version 1.6: five pickles, then the storages.

    Parameters, result and exceptions are those of :func:`read_zip`.
    """
    reader = BoundedReader(file, 0, disk.size)
    magic, version, system = (read_pickle(reader, {}) for _ in range(3))
    if not are_non_negative_ints(magic, version) or (magic, version) != (_MAGIC, 1001):
        raise CheckpointError("is a PyTorch checkpoint of an unknown version")
    little_endian = system.get("little_endian") if type(system) is dict else None
    if type(little_endian) is not bool:
        raise CheckpointError("is a PyTorch checkpoint that does not state its byte order")
    storages = _Storages(disk, big_endian=not little_endian, id_length=6)
    content = read_pickle(reader, _SAFE_GLOBALS, storages.load)
    keys = read_pickle(reader, {})
    if type(keys) is not list or not all(type(key) is PickledStr for key in keys):
        raise CheckpointError("has no list of its storages")
    if len(keys) != len(storages.by_key) or set(keys) != storages.by_key.keys():
        raise CheckpointError("lists other storages than its tensors need")
    for key in keys:
        _read_legacy_storage(reader, storages.by_key[key])
    if reader.position != reader.end:
        raise CheckpointError("has data behind the end of its last storage")
    return content


def _read_legacy_storage(reader: BoundedReader, storage: _Storage) -> None:
    """Set a storage's offset and skip it."""
    if reader.end - reader.position < 8 + storage.nbytes:
        raise CheckpointError(f"ends before its storage {printable(storage.key)} does")
    count = reader.read_uint(8)
    if count != storage.count:
        raise CheckpointError(
            f"has {count} elements in the storage {printable(storage.key)}, which should have {storage.count}"
        )
    storage.offset = reader.skip(storage.nbytes).offset
