"""The one entry point to checkpoint files of any format: the content decides which, and the weights in it are found."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO

from ... import validators
from ...reprs import fields_repr
from .numpy_pickles import NumpyArray, read_numpy_pickle
from .other_formats import other_format
from .pickle_writing import PICKLED_HEADER
from .pickles import PickledObject, PickledStr
from .run_checkpoints import RUN_CHECKPOINT, checksum_problem
from .safetensors_files import parse_metadata, read_safetensors
from .shards import file_in_folder, index_beside, read_index
from .state_dicts import StateDict, described, find_state_dict
from .stored_arrays import CheckpointError, DiskFile, Span, StoredArray, file_errors, open_disk_file, printable
from .torch_files import LEGACY_MAGIC, Tensor, read_legacy, read_zip, read_zip_header

__all__ = ["Checkpoint", "open_checkpoint"]

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
        counters and the like are left out, and prefixes of all names are removed.
    metadata : dict of str to str
        The header of a file that this package wrote, in any format, or of another safetensors file; of other files
        ``__author__`` and ``matching_heuristics`` ("True", "False"), if they have them.
    place : str
        Where the weights stand in the file, and their prefix; empty if they are all that it holds.
    others : tuple of str
        The places of other weights in the file, from which these were chosen.
    left_out : tuple of str
        Names of entries that stand beside the weights and do not have their prefix.
    size : int
        In bytes: of the file, or of all files of a model.
    """

    __repr__ = fields_repr

    path: Path
    kind: str
    arrays: dict[str, StoredArray]
    metadata: dict[str, str] = field(default_factory=dict)
    place: str = ""
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    size: int = 0


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Find the weights in a safetensors file, a PyTorch file, or a pickle of NumPy arrays.

    The file is read as data: nothing that it names is imported or run, and every size that it states is checked
    against the file before memory is allocated.

    Parameters
    ----------
    path : str or Path
        May be a link, the index of a model in several files, or the folder of one: it is looked for under the names
        of Hugging Face's libraries.

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
    file = (file_in_folder(path) if os.path.isdir(path) else None) or path  # Path.is_dir raises for a long name
    if file.name.endswith(".json") and os.path.isfile(file):
        content: dict[str, Any] = {}
        parts = _read_shards(file, content)
    else:
        parts = [_read_file(file)]
        content = parts[0].content
    size = sum(part.disk.size for part in parts)
    with file_errors(path):
        found = find_state_dict(content)
        arrays = _stored_arrays(found, parts[0].disk, parts[0].kind)
        _check_growth(arrays, size)
    return Checkpoint(path, parts[0].kind, arrays, parts[0].metadata, found.place, found.others, found.left_out, size)


@dataclass(frozen=True)
class _File:
    """What one file holds."""

    kind: str
    content: Any
    metadata: dict[str, str]
    disk: DiskFile


def _read_file(path: Path) -> _File:
    _check_regular_file(path)
    with file_errors(path), open_disk_file(path) as (file, disk):
        index = index_beside(path)
        if index is not None:
            raise CheckpointError(f"is one of several files of a model: pass {index.name}, which lists them")
        return _read_content(file, disk)


def _read_content(file: BinaryIO, disk: DiskFile) -> _File:
    kind = _detect_kind(file.read(512), disk.size)
    if kind == "safetensors":
        arrays, metadata = read_safetensors(file, disk)
        if metadata.get("format") == RUN_CHECKPOINT:
            problem = checksum_problem(disk.absolute, metadata)
            if problem is not None:
                raise CheckpointError(f"is a damaged checkpoint of a training run: {problem}")
        return _File(kind, arrays, metadata, disk)
    content = _READERS[kind](file, disk)
    header = read_zip_header(file, disk) if kind == "torch" else _pickled_header(file, content)
    return _File(kind, content, header or _metadata(content), disk)


def _read_shards(index: Path, arrays: dict[str, StoredArray]) -> list[_File]:
    """Read the files that an index names, and put their arrays into ``arrays``."""
    files = []
    for name, own in read_index(index).items():
        path = index.with_name(name)
        if not path.exists():
            raise FileNotFoundError(f"{str(index)!r} names {name!r}, which is not in its folder: download it too.")
        _check_regular_file(path)
        with file_errors(path), open_disk_file(path) as (file, disk):
            files.append(_read_content(file, disk))
            content = files[-1].content if type(files[-1].content) is dict else {}
            missing = next((entry for entry in own if entry not in content), None)
            if missing is not None:
                raise CheckpointError(f"lacks {printable(missing)}, which should be in it by {index.name}")
            arrays |= _stored_arrays(StateDict({entry: content[entry] for entry in own}, ""), disk, files[-1].kind)
    return files


def _check_growth(arrays: dict[str, StoredArray], size: int) -> None:
    """Refuse arrays that share bytes such that a small file would take much memory, or much time to read."""
    if not arrays:
        raise CheckpointError("holds no arrays")
    if max(sum(a.nbytes for a in arrays.values()), sum(a.num_stored_bytes for a in arrays.values())) > (
        _MAX_GROWTH * size
    ):
        raise CheckpointError(f"has arrays that share bytes and together are over {_MAX_GROWTH} times its size")


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
    if (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")) or head[:1] in (b"(", b"}", b"c", b"]"):
        return "pickle"
    if not head:
        raise CheckpointError("is empty")
    known = other_format(head)
    if known is not None:
        raise CheckpointError(known)
    raise CheckpointError(f"is not a checkpoint: it begins with {head[:16]!r}")


_READERS: dict[str, Callable[[BinaryIO, DiskFile], Any]] = {
    "torch": read_zip,
    "torch legacy": read_legacy,
    "pickle": read_numpy_pickle,
}


def _metadata(content: object) -> dict[str, str]:
    if type(content) is not dict:
        return {}
    return {name: str(content[name]) for name in _METADATA if type(content.get(name)) in (PickledStr, bool)}


def _pickled_header(file: BinaryIO, content: object) -> dict[str, str]:
    """Return the header that this package writes beside the weights in a pickle."""
    text = content.get(PICKLED_HEADER) if type(content) is dict else None
    span = text.span if isinstance(text, PickledStr) else text
    return parse_metadata(file, span) if isinstance(span, Span) and span.encoding == "utf-8" else {}


def _stored_arrays(found: StateDict, disk: DiskFile, kind: str) -> dict[str, StoredArray]:
    """Return the weights in the form in which they can be read."""
    arrays = {}
    # Caffe2 keeps the optimizer's state beside the weights.
    momentum = kind == "pickle" and found.place in ("", "blobs")
    for name, value in found.entries.items():
        if (
            type(value) is int  # a counter, such as num_batches_tracked
            or name.endswith("_extra_state")  # of a module of PyTorch, of any type
            or (momentum and name.endswith("_momentum"))
            or (not found.place and name in _METADATA)
        ):
            continue
        if isinstance(value, StoredArray):
            arrays[name] = value
        elif isinstance(value, NumpyArray | Tensor) and value.problem is None:
            arrays[str(name)] = value.stored(disk)
        else:
            raise CheckpointError(_not_an_array(name, value))
    return arrays


def _not_an_array(name: str, value: object) -> str:
    if isinstance(value, PickledObject) and value.problem:
        return f"{value.problem} ({printable(name)})"
    return (
        f"has {printable(name)} among its weights, which is not an array but {described(value)}: save the model's "
        "state_dict alone"
    )
