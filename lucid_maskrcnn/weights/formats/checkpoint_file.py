"""Checkpoint files of any kind: which kind is told from the content, and the weights in it are found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO

from .pickles import NUMPY_GLOBALS, NumpyArray, Text, Window, printable, read_pickle
from .stored_arrays import BadFile, DiskFile, Element, Span, StoredArray, named, num_elements, opened
from .torch_files import LEGACY_MAGIC, Tensor, read_legacy, read_zip

__all__ = ["Checkpoint", "open_checkpoint"]

_WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "blobs")
_NOTES = ("__author__", "matching_heuristics")
_MAX_HEADER = 4 * 2**20  # about a hundred bytes for each array
_MAX_GROWTH = 16  # how much larger than the file all arrays together may be: some share their bytes, float16 doubles

_SAFETENSORS = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "bf16",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
    "BOOL": "b1",
    "C64": "c8",
}


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, its arrays still being there.

    Attributes
    ----------
    path : Path
        As it was given.
    kind : {"safetensors", "torch", "torch legacy", "pickle"}
        Told from the content, not from the name. Pickles are those of detectron2 and Caffe2.
    arrays : dict of str to StoredArray
        The model's weights. ``np.asarray`` reads one; none is kept. What the file says of optimisers,
        counts and the like is left out, and so is a ``module.`` before all names.
    metadata : dict of str to str
        A safetensors header's; else ``__author__`` and ``matching_heuristics`` ("True", "False") if the
        file has them.
    """

    path: Path
    kind: str
    arrays: dict[str, StoredArray]
    metadata: dict[str, str] = field(default_factory=dict)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Find the weights in a file of safetensors, of PyTorch, or of NumPy arrays in a pickle.

    The file is read as data. Nothing that it names is imported or run, and neither memory nor time is
    spent on what it merely claims.

    Parameters
    ----------
    path : str or Path
        May be a link.

    Returns
    -------
    Checkpoint
        Its arrays are read one by one, by ``np.asarray``, from a file that must stay as it is.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none of these, is damaged, or asks for anything but arrays. The same goes for reading one
        of the arrays later.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise
    except (OSError, ValueError):  # there is no file of a name that no file can have
        raise FileNotFoundError(f"There is no file {str(path)!r}.") from None
    if not S_ISREG(mode):  # opening a pipe would wait for its writer
        raise ValueError(f"{str(path)!r} is {'a directory' if S_ISDIR(mode) else 'not a regular file'}.")
    with named(path), opened(path) as (file, disk):
        kind = _kind(file.read(512), disk.size)
        if kind == "safetensors":
            arrays, metadata = _read_safetensors(file, disk)
        else:
            content = _CONTENT[kind](file, disk)
            arrays, metadata = _weights(content, disk, kind)
        arrays = _without_prefix(arrays)
        if not arrays:
            raise BadFile("holds no arrays")
        if sum(array.nbytes for array in arrays.values()) > _MAX_GROWTH * disk.size:
            raise BadFile(f"has arrays that share so many of its bytes that they are {_MAX_GROWTH} times as large")
    return Checkpoint(path, kind, arrays, metadata)


def _kind(head: bytes, size: int) -> str:
    """Tell the kind from the first bytes, 512 of them if there are."""
    if head[:4] == b"PK\3\4":
        return "torch"
    if LEGACY_MAGIC in head[:24]:
        return "torch legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head[257:262] == b"ustar":
        raise BadFile("is a tar archive, the oldest form of PyTorch files: load it with PyTorch and save it again")
    # Protocols 2 to 5 begin with their number, those before with a dict or the call that makes one.
    if (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")) or head[:1] in (b"(", b"}", b"c"):
        return "pickle"
    if not head:
        raise BadFile("is empty")
    raise BadFile(f"is no checkpoint: it begins with {head[:16]!r}")


# ------------------------------------------------------------------ pickles, and finding the weights in them


def _read_pickle(file: BinaryIO, disk: DiskFile) -> Any:
    window = Window(file, 0, disk.size)
    content = read_pickle(window, NUMPY_GLOBALS)
    if window.position != window.end:
        raise BadFile("goes on behind the end of its pickle")
    return content


_CONTENT = {"torch": read_zip, "torch legacy": read_legacy, "pickle": _read_pickle}


def _weights(content: object, disk: DiskFile, kind: str) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Return the arrays and the notes in what a pickle has made."""
    if type(content) is not dict:
        raise BadFile("does not hold a dict of arrays")
    notes = {name: content[name] for name in _NOTES if type(content.get(name)) in (Text, bool)}
    wrapper = next((name for name in _WRAPPERS if type(content.get(name)) is dict), None)
    entries = {name: value for name, value in content.items() if name not in _NOTES}
    if wrapper is not None:
        entries = content[wrapper]
    arrays = {}
    for name, value in entries.items():
        if type(name) is not Text:
            raise BadFile("has arrays under names that are not text")
        if type(value) is int:  # a counter, such as num_batches_tracked
            continue
        if not isinstance(value, NumpyArray | Tensor):
            raise BadFile(f"has {printable(name)} among its weights, which is not an array")
        arrays[str(name)] = value.stored(disk)
    if kind == "pickle" and wrapper in (None, "blobs"):  # Caffe2 keeps the optimiser's state beside the weights
        arrays = {name: array for name, array in arrays.items() if not name.endswith("_momentum")}
    return arrays, {name: str(value) for name, value in notes.items()}


def _without_prefix(arrays: dict[str, StoredArray]) -> dict[str, StoredArray]:
    """Drop what training on several devices puts before every name."""
    if all(name.startswith("module.") for name in arrays):
        return {name.removeprefix("module."): array for name, array in arrays.items()}
    return arrays


# ------------------------------------------------------------------ safetensors


def _read_safetensors(file: BinaryIO, disk: DiskFile) -> tuple[dict[str, StoredArray], dict[str, str]]:
    import safetensors  # here, as most models are built without a file

    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER:
        raise BadFile(f"has a header of {length} bytes, more than any model needs")
    try:
        with safetensors.safe_open(disk.absolute, framework="numpy"):  # which checks all that it knows of
            pass
        header = json.loads(file.read(length))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise BadFile(f"is not a readable .safetensors file: {printable(str(error)).rstrip('.')}") from error
    metadata = header.pop("__metadata__", None) or {}
    arrays = {name: _safetensor(name, info, 8 + length, disk) for name, info in header.items()}
    return arrays, metadata


def _safetensor(name: str, info: Mapping[str, Any], begin: int, disk: DiskFile) -> StoredArray:
    code = _SAFETENSORS.get(info["dtype"])
    if code is None:
        raise BadFile(f"has {printable(name)} as {printable(info['dtype'])}, which is not supported")
    element = Element.of(code)
    shape, (start, end) = tuple(info["shape"]), info["data_offsets"]
    if end - start != num_elements(shape) * element.size or begin + end > disk.size:
        raise BadFile(f"has {printable(name)} at a place that does not fit its shape")
    return StoredArray(disk, Span(begin + start, end - start), element, shape)
