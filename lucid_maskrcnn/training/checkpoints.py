"""Checkpoints: one safetensors file each, in full precision, written whole or not at all.

The files are written tensor by tensor, so that saving needs no second copy of the model, and read
the same way. A folder holds ``checkpoint-00000200.safetensors`` and so on, by step.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..atomic import replacing
from ..validators import shown
from ..weights.formats import (
    CHECKSUM,
    RUN_CHECKPOINT,
    RUN_RESULTS,
    SAFETENSORS_DTYPES,
    UNSET_CHECKSUM,
    checksum_problem,
)

__all__ = [
    "StoredArray",
    "check_folder",
    "check_resume",
    "checkpoint_path",
    "damaged",
    "find_checkpoints",
    "has_checksum",
    "prune",
    "read_arrays",
    "read_header",
    "step_of",
    "write_checkpoint",
]

_NAME = re.compile(r"checkpoint-(\d{8,})\.safetensors")
_DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


# ------------------------------------------------------------------ the folder


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of ``step``."""
    return folder / f"checkpoint-{step:08}.safetensors"


def step_of(path: Path) -> int | None:
    """Return the step in the name of a checkpoint, None if it has another name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first; none if there is no such folder."""
    found = [(step, path) for path in folder.glob("*") if (step := step_of(path)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def check_resume(resume: Any) -> bool | str:
    """Return ``resume`` if it is True, False or "auto"."""
    if isinstance(resume, (bool, np.bool_)):
        return bool(resume)
    if not isinstance(resume, str) or resume != "auto":  # an array compares element by element
        kind = ValueError if isinstance(resume, str) else TypeError
        raise kind(f"resume must be True, False or 'auto', got {shown(resume)}.")
    return "auto"


def check_folder(folder: Path, resume: bool | str) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run.

    Parameters
    ----------
    folder : Path
        Of the run; need not exist yet.
    resume : bool or "auto"
        True requires a checkpoint, False requires that there is no earlier run, "auto" takes either.

    Raises
    ------
    ValueError
        If the folder is not as ``resume`` requires, or is a file.
    """
    check_resume(resume)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file: a run needs a folder.")
    found = find_checkpoints(folder)
    if found and not resume:
        raise ValueError(
            f"{str(folder)!r} holds a run already, {found[0].name}: resume it (resume=True, --resume), or choose "
            "another folder."
        )
    if not found and resume is True:
        raise ValueError(f"There is no checkpoint in {str(folder)!r} to resume from.")
    results = [name for name in RUN_RESULTS if (folder / name).exists()]
    if results and not found:
        raise ValueError(f"{str(folder)!r} holds {results[0]} of another run: choose another folder, or move it away.")
    return found[0] if found else None


def prune(folder: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``, once these are on the disk."""
    with suppress(OSError, AttributeError):  # not every system can synchronize a folder
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for path in find_checkpoints(folder)[keep:]:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------ the file


class StoredArray(NamedTuple):
    """What the header says of an array.

    Attributes
    ----------
    dtype : str
        NumPy's name.
    shape : tuple of int
    """

    dtype: str
    shape: tuple[int, ...]


def damaged(path: Path, problem: object) -> ValueError:
    """Return the error for a damaged checkpoint, with what is wrong with it and what to do."""
    older = [other.name for other in find_checkpoints(path.parent) if other.name < path.name]
    remedy = f"delete it to continue from {older[0]}" if older else "it is the only one, so begin in another folder"
    return ValueError(f"{str(path)!r} is damaged ({problem}): {remedy}.")


def write_checkpoint(
    path: Path, arrays: Mapping[str, Any], header: Mapping[str, Any], inspect: Callable[[str, np.ndarray], None]
) -> None:
    """Write a checkpoint.

    Parameters
    ----------
    path : Path
        Replaced once the new file is complete and on the disk.
    arrays : mapping of str to NumPy or MLX array
        Copied to the host one at a time.
    header : mapping
        JSON values.
    inspect : callable
        Called with each name and array before it is written; if it raises, no file is written.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    entries: dict[str, Any] = {
        "__metadata__": {
            "format": RUN_CHECKPOINT,
            CHECKSUM: UNSET_CHECKSUM,
            **{name: json.dumps(value) for name, value in header.items()},
        }
    }
    end = 0
    for name, array in arrays.items():
        dtype = str(array.dtype).rpartition(".")[2]  # of MLX: "mlx.core.float32"
        begin, end = end, end + array.size * np.dtype(dtype).itemsize
        entries[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    start, digest = struct.pack("<Q", len(text)), hashlib.sha256()
    with replacing(path) as file:
        for part in _parts(start + text, arrays, inspect):
            digest.update(part)
            file.write(part)
        file.seek(len(start) + text.index(UNSET_CHECKSUM.encode()))
        file.write(digest.hexdigest().encode())


def _parts(
    header: bytes, arrays: Mapping[str, Any], inspect: Callable[[str, np.ndarray], None]
) -> Iterator[bytes | memoryview]:
    """Yield the content of a checkpoint, array by array."""
    yield header
    for name, array in arrays.items():
        on_host = np.ascontiguousarray(array)
        inspect(name, on_host)
        yield on_host.reshape(-1).view(np.uint8).data


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, StoredArray]]:
    """Read a checkpoint's header, and the names, dtypes and shapes of its arrays; the checksum is that of all of it.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or is damaged.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
            arrays = {
                name: StoredArray(SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except safetensors.SafetensorError as error:
        raise damaged(path, error) from error
    if metadata.get("format") != RUN_CHECKPOINT:
        raise ValueError(f"{str(path)!r} is no checkpoint of a training run.")
    problem = checksum_problem(path, metadata)
    if problem is not None:
        raise damaged(path, problem)
    for name in ("format", CHECKSUM):
        metadata.pop(name, None)
    try:
        return {name: json.loads(value) for name, value in metadata.items()}, arrays
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def has_checksum(path: Path) -> bool:
    """Return whether a sound checkpoint has a checksum; those of earlier versions have none."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        return CHECKSUM in (file.metadata() or {})


def read_arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and arrays of a checkpoint one by one; the arrays are new."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            yield name, np.array(file.get_tensor(name))
