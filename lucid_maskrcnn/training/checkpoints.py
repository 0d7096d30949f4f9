"""Checkpoints: one safetensors file each, in full precision, there whole or not at all.

The files are written tensor by tensor, so that saving takes no second copy of the model, and read
the same way. A folder holds ``checkpoint-00000200.safetensors`` and so on, by step.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import replacing

__all__ = [
    "check_folder",
    "checkpoint_path",
    "find_checkpoints",
    "prune",
    "read_arrays",
    "read_header",
    "remove_leftovers",
    "write_checkpoint",
]

_FORMAT = "lucid_maskrcnn checkpoint"
_NAME = re.compile(r"checkpoint-(\d{8,})\.safetensors")
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.tmp")  # of files.replacing, when the process was killed
_RESULTS = ("weights.safetensors", "best.safetensors")
_DTYPES = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}


# ------------------------------------------------------------------ the folder


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file for the checkpoint of ``step``."""
    return folder / f"checkpoint-{step:08}.safetensors"


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first; none if there is no such folder."""
    found = [(int(match[1]), path) for path in folder.glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def check_folder(folder: Path, resume: bool | str) -> Path | None:
    """Return the checkpoint to go on from, None to start, or refuse.

    Parameters
    ----------
    folder : Path
        Of the run; need not exist yet.
    resume : bool or "auto"
        Whether there must be a checkpoint (True) or must be no earlier run (False), or either may be.

    Raises
    ------
    ValueError
        If the folder is not as it must be.
    """
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume must be True, False or 'auto', got {resume!r}.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file: a run needs a folder.")
    found = find_checkpoints(folder)
    if found and not resume:
        raise ValueError(f"{str(folder)!r} holds a run already, {found[0].name}: resume it, or choose another folder.")
    if not found and resume is True:
        raise ValueError(f"There is no checkpoint in {str(folder)!r} to resume from.")
    results = [name for name in _RESULTS if (folder / name).exists()]
    if results and not found:
        raise ValueError(f"{str(folder)!r} holds {results[0]} of another run: choose another folder, or move it away.")
    return found[0] if found else None


def prune(folder: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``, which are on the disk by now."""
    with suppress(OSError, AttributeError):  # not every system can be asked to put a folder on the disk
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for path in find_checkpoints(folder)[keep:]:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the halves of files that a killed run left behind."""
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------ the file


def write_checkpoint(
    path: Path, arrays: Mapping[str, Any], numbers: Mapping[str, Any], inspect: Callable[[str, np.ndarray], None]
) -> None:
    """Write arrays and what belongs to them.

    Parameters
    ----------
    path : Path
        Replaced once the new file is complete and on the disk.
    arrays : mapping of str to NumPy or MLX array
        Copied to the host one at a time.
    numbers : mapping
        JSON values.
    inspect : callable
        Sees each name and array before it is written; what it raises ends the writing, without a file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    header: dict[str, Any] = {
        "__metadata__": {"format": _FORMAT, **{name: json.dumps(value) for name, value in numbers.items()}}
    }
    end = 0
    for name, array in arrays.items():
        dtype = str(array.dtype).rpartition(".")[2]  # of MLX: "mlx.core.float32"
        begin, end = end, end + array.size * np.dtype(dtype).itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, array in arrays.items():
            on_host = np.ascontiguousarray(array)
            inspect(name, on_host)
            file.write(on_host.reshape(-1).view(np.uint8).data)


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Read a checkpoint's numbers, and the names and shapes of its arrays.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or not a whole one.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is damaged ({error}): delete it to go on from the one before, if there is one."
        ) from error
    if metadata.pop("format", None) != _FORMAT:
        raise ValueError(f"{str(path)!r} is no checkpoint of a training run.")
    return {name: json.loads(value) for name, value in metadata.items()}, shapes


def read_arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a checkpoint's names and arrays, one after the other; the arrays are the caller's own."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            yield name, np.array(file.get_tensor(name))
