"""Reading and writing ``.safetensors`` files: a JSON header, then the arrays' bytes one after the other.

The header is checked here and not by the ``safetensors`` library, which maps the file into memory: that would end the
process if another one truncates the file. It is written here since the library puts the metadata in another order each
time: the same weights should give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from ...validators import shown
from .stored_arrays import CheckpointError, DiskFile, ElementType, Span, StoredArray, num_elements, printable

__all__ = ["SAFETENSORS_DTYPES", "parse_json", "parse_metadata", "read_safetensors", "write_safetensors"]

SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
"""NumPy's name (and ``"bfloat16"``) of each element type that the format names in a header."""

_DTYPE_NAMES = {name: code for code, name in SAFETENSORS_DTYPES.items()}
_ALIGNMENT = 8  # bytes
_MAX_HEADER = 4 * 2**20  # about a hundred bytes an array
_MAX_DIGITS = 20
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


def read_safetensors(file: BinaryIO, disk: DiskFile) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Read the header of a ``.safetensors`` file.

    Parameters
    ----------
    file : BinaryIO
        Opened, unbuffered.
    disk : DiskFile
        The same file's path and size.

    Returns
    -------
    arrays : dict of str to StoredArray
        In the order of the header.
    metadata : dict of str to str
        Empty if there is none.

    Raises
    ------
    CheckpointError
        If the header is not JSON of the format's structure, or its arrays do not fill the rest of the file exactly.
    """
    header, data_start = _read_header(file, disk)
    metadata = _checked_metadata(header.pop("__metadata__", {}))
    entries = {name: _checked_entry(name, entry) for name, entry in header.items()}
    _check_layout({name: offsets for name, (_, _, offsets) in entries.items()}, disk.size - data_start)
    arrays = {
        name: StoredArray(disk, Span(data_start + begin, end - begin), element, shape)
        for name, (element, shape, (begin, end)) in entries.items()
    }
    return arrays, metadata


def _read_header(file: BinaryIO, disk: DiskFile) -> tuple[dict[str, Any], int]:
    """Return the header and the offset of the data behind it."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER:
        raise CheckpointError(f"has a header of {length} bytes, more than any model needs")
    if 8 + length > disk.size:
        raise CheckpointError("ends in the middle of its header")
    return parse_json(file.read(length), "header"), 8 + length


def parse_json(content: bytes, what: str, article: str = "a") -> dict[str, Any]:
    """Return a JSON object of which nothing is ambiguous or too large; messages call it ``article`` ``what``.

    Raises
    ------
    CheckpointError
        If it is none, has a key twice, a number of many digits or too many brackets in brackets.
    """

    def parse_int(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise CheckpointError(f"has a number of {len(digits)} digits in its {what}")
        return int(digits)

    def refuse_constant(name: str) -> Any:
        raise CheckpointError(f"has {name} in its {what}, which is not JSON")

    try:
        found = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=lambda pairs: _unique_keys(pairs, what),
            parse_int=parse_int,
            parse_constant=refuse_constant,
        )
    except UnicodeDecodeError:
        raise CheckpointError(f"has {article} {what} that is not UTF-8") from None
    except RecursionError:
        raise CheckpointError(f"has {article} {what} that is nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"has {article} {what} that is not JSON: {printable(str(error))}") from None
    if type(found) is not dict:
        raise CheckpointError(f"has {article} {what} that is not a JSON object")
    return found


def parse_metadata(file: BinaryIO, span: Span) -> dict[str, str]:
    """Return the metadata that this package writes into files of other formats, as JSON at ``span``."""
    if span.length > _MAX_HEADER:
        raise CheckpointError(f"has a header of {span.length} bytes, more than any model needs")
    file.seek(span.offset)
    return _checked_metadata(parse_json(file.read(span.length), "header"))


def _unique_keys(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        _check_text(name)
        if name in result:
            raise CheckpointError(f"has {printable(name)} twice in its {what}")
        result[name] = value
    return result


def _check_text(text: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write but no text may contain."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CheckpointError(f"has {printable(text)} in its header, which is not Unicode text") from None


def _checked_metadata(metadata: object) -> dict[str, str]:
    if type(metadata) is not dict:
        raise CheckpointError("has metadata that is not a JSON object")
    for name, value in metadata.items():
        if type(value) is not str:
            raise CheckpointError(f"has metadata whose {printable(name)} is not a string")
        _check_text(value)
    return metadata


def _checked_entry(name: str, entry: object) -> tuple[ElementType, tuple[int, ...], tuple[int, int]]:
    """Return an array's type, shape, and begin and end in the data."""
    array = f"the array {printable(name)}"
    if type(entry) is not dict or entry.keys() != _ENTRY_KEYS:
        raise CheckpointError(f"has {array} described by something other than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str:
        raise CheckpointError(f"has {array} with a dtype that is not a string")
    if dtype not in SAFETENSORS_DTYPES:
        raise CheckpointError(
            f"has {array} of dtype {printable(dtype)}, which is not supported: convert it to float32 with PyTorch"
        )
    element = ElementType.of(SAFETENSORS_DTYPES[dtype])
    sizes = tuple(shape) if type(shape) is list else shape
    num_bytes = num_elements(sizes, array) * element.size
    if type(offsets) is not list or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise CheckpointError(f"has {array} whose data_offsets are not two integers")
    begin, end = offsets
    if begin < 0 or end - begin != num_bytes:
        wanted = f"the shape {shown(sizes)} of {dtype} needs {num_bytes} bytes"
        raise CheckpointError(f"has {array} at the bytes {begin} to {end}, but {wanted}")
    return element, sizes, (begin, end)


def _check_layout(offsets: dict[str, tuple[int, int]], data_size: int) -> None:
    """Check that the arrays follow each other without gaps or overlaps and end where the file does."""
    previous_end = 0
    for name, (begin, end) in sorted(offsets.items(), key=lambda item: item[1]):
        if begin != previous_end:
            problem = "overlaps with" if begin < previous_end else "does not follow"
            raise CheckpointError(f"has the array {printable(name)} at byte {begin}, which {problem} the one before it")
        previous_end = end
    if previous_end != data_size:
        raise CheckpointError(f"has {data_size} bytes of data, but its header describes {previous_end}")


# ------------------------------------------------------------------ writing


def write_safetensors(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata; the same ones give the same bytes, in whatever order they are passed.

    Parameters
    ----------
    file : BinaryIO
        Opened for writing.
    arrays : mapping of str to np.ndarray
        Of the format's element types.
    metadata : mapping of str to str
        Further entries of the header.

    Raises
    ------
    ValueError
        If an array has a dtype that the format does not have, before anything is written.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    # The widest elements first, so that all are aligned.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    for name, array in ordered:
        code = _DTYPE_NAMES.get(array.dtype.name)
        if code is None:
            raise ValueError(f"{name} has the dtype {array.dtype}, which .safetensors files cannot hold.")
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        file.write(array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).reshape(-1).view(np.uint8).data)
