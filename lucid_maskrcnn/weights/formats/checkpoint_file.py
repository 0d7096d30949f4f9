"""The one entry point to checkpoint files of any format: the content decides which, and the weights in it are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO

from ... import validators
from .numpy_pickles import NumpyArray, read_numpy_pickle
from .pickles import PickledStr
from .safetensors_files import read_safetensors
from .stored_arrays import CheckpointError, DiskFile, StoredArray, file_errors, open_disk_file, printable
from .torch_files import LEGACY_MAGIC, Tensor, read_legacy, read_zip

__all__ = ["Checkpoint", "open_checkpoint"]

_WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "blobs")
_METADATA = ("__author__", "matching_heuristics")
_MAX_GROWTH = 16  # size of all arrays together over that of the file: tensors may share storages, float16 doubles


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file, its arrays not yet read.

    Attributes
    ----------
    path : Path
        As it was given.
    kind : {"safetensors", "torch", "torch legacy", "pickle"}
        Found from the content, not from the name. Pickles are those of detectron2 and Caffe2.
    arrays : dict of str to StoredArray
        The model's weights. ``np.asarray`` reads one, and the checkpoint does not keep it. States of optimizers,
        counters and the like are left out; a ``module.`` in front of all names is removed.
    metadata : dict of str to str
        Of a safetensors header; of other files ``__author__`` and ``matching_heuristics`` ("True", "False"), if
        they have them.
    """

    path: Path
    kind: str
    arrays: dict[str, StoredArray]
    metadata: dict[str, str] = field(default_factory=dict)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Find the weights in a safetensors file, a PyTorch file, or a pickle of NumPy arrays.

    The file is read as data: nothing that it names is imported or run, and every size that it states is checked
    against the file before memory is allocated.

    Parameters
    ----------
    path : str or Path
        May be a link.

    Returns
    -------
    Checkpoint
        ``np.asarray`` reads its arrays one by one, from the file, which must not change meanwhile.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has another format, is damaged, or asks for anything but arrays. Reading one of the arrays later
        can raise it too.
    """
    path = validators.path("path", path)
    _check_regular_file(path)
    with file_errors(path), open_disk_file(path) as (file, disk):
        kind = _detect_kind(file.read(512), disk.size)
        if kind == "safetensors":
            arrays, metadata = read_safetensors(file, disk)
        else:
            arrays, metadata = _find_weights(_READERS[kind](file, disk), disk, kind)
        arrays = _without_module_prefix(arrays)
        if not arrays:
            raise CheckpointError("holds no arrays")
        if sum(array.nbytes for array in arrays.values()) > _MAX_GROWTH * disk.size:
            raise CheckpointError(f"has arrays that share bytes and together are over {_MAX_GROWTH} times its size")
    return Checkpoint(path, kind, arrays, metadata)


def _check_regular_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise
    except (OSError, ValueError):  # ValueError: a name with a NUL
        raise FileNotFoundError(f"There is no file {str(path)!r}.") from None
    if not S_ISREG(mode):  # opening a pipe would wait for its writer
        raise ValueError(f"{str(path)!r} is {'a directory' if S_ISDIR(mode) else 'not a regular file'}.")


def _detect_kind(head: bytes, size: int) -> str:
    """Return the format of a file from its first 512 bytes."""
    if head[:4] == b"PK\3\4":
        return "torch"
    if LEGACY_MAGIC in head[:24]:
        return "torch legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head[257:262] == b"ustar":
        raise CheckpointError("is a tar archive, the oldest format of PyTorch: load it with PyTorch and save it again")
    # Pickles of protocols 2 to 5 begin with their number, earlier ones with a dict or the call that makes one.
    if (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")) or head[:1] in (b"(", b"}", b"c"):
        return "pickle"
    if not head:
        raise CheckpointError("is empty")
    raise CheckpointError(f"is not a checkpoint: it begins with {head[:16]!r}")


_READERS: dict[str, Callable[[BinaryIO, DiskFile], Any]] = {
    "torch": read_zip,
    "torch legacy": read_legacy,
    "pickle": read_numpy_pickle,
}


def _find_weights(content: object, disk: DiskFile, kind: str) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Return the arrays and the metadata in the object that a pickle holds."""
    if type(content) is not dict:
        raise CheckpointError("does not hold a dict of arrays")
    metadata = {name: str(content[name]) for name in _METADATA if type(content.get(name)) in (PickledStr, bool)}
    wrapper = next((name for name in _WRAPPERS if type(content.get(name)) is dict), None)
    if wrapper is not None:
        entries = content[wrapper]
    else:
        entries = {name: value for name, value in content.items() if name not in _METADATA}
    arrays = {}
    for name, value in entries.items():
        if type(name) is not PickledStr:
            raise CheckpointError("has arrays whose names are not strings")
        if type(value) is int:  # a counter, such as num_batches_tracked
            continue
        if not isinstance(value, NumpyArray | Tensor):
            raise CheckpointError(f"has {printable(name)} among its weights, which is not an array")
        arrays[str(name)] = value.stored(disk)
    if kind == "pickle" and wrapper in (None, "blobs"):  # Caffe2 keeps the optimizer's state beside the weights
        arrays = {name: array for name, array in arrays.items() if not name.endswith("_momentum")}
    return arrays, metadata


def _without_module_prefix(arrays: dict[str, StoredArray]) -> dict[str, StoredArray]:
    """Remove the prefix that PyTorch's DataParallel puts in front of every name."""
    if all(name.startswith("module.") for name in arrays):
        return {name.removeprefix("module."): array for name, array in arrays.items()}
    return arrays
