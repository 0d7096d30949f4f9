"""Weights in several files: an index names the file of each array, as Hugging Face's libraries write it."""

from __future__ import annotations

import re
from pathlib import Path

from .safetensors_files import parse_json
from .stored_arrays import CheckpointError, file_errors, printable

__all__ = ["file_in_folder", "index_beside", "read_index"]

_MAX_INDEX = 16 * 2**20  # bytes; about a hundred an array
_MAX_SHARDS = 1000
_IN_FOLDER = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w+)")


def file_in_folder(folder: Path) -> Path | None:
    """Return the index, or the only file, of a model in a folder; None if there is neither."""
    found = (folder / name for name in _IN_FOLDER)
    other = sorted(folder.glob("*.index.json"))
    return next((path for path in found if path.is_file()), other[0] if len(other) == 1 else None)


def index_beside(shard: Path) -> Path | None:
    """Return the index that a file belongs to, if it has the name of one shard of several."""
    match = _SHARD.fullmatch(shard.name)
    index = shard.with_name(f"{match[1]}{match[2]}.index.json") if match else None
    return index if index is not None and index.is_file() else None


def read_index(path: Path) -> dict[str, list[str]]:
    """Read which arrays are in which file.

    Parameters
    ----------
    path : Path
        A ``.index.json`` file.

    Returns
    -------
    dict of str to list of str
        Names of arrays by the name of their file, which is in the same folder.

    Raises
    ------
    ValueError
        If it is not such an index, or names a file elsewhere.
    """
    with file_errors(path):
        if path.stat().st_size > _MAX_INDEX:
            raise CheckpointError(f"is an index of more than {_MAX_INDEX} bytes, more than any model needs")
        content = parse_json(path.read_bytes(), "index", "an")
        names = content.get("weight_map")
        if type(names) is not dict or not names:
            raise CheckpointError("is not an index of weights: it has no weight_map")
        result: dict[str, list[str]] = {}
        for name, file in names.items():
            # A path could name any file of this machine.
            if type(file) is not str or file in ("", ".", "..") or re.search(r"[/\\\0]", file) or len(file) > 255:
                shown = printable(file) if type(file) is str else "something else"
                raise CheckpointError(f"names {shown} as the file of {printable(name)}, which must be in its folder")
            result.setdefault(file, []).append(name)
        if len(result) > _MAX_SHARDS:
            raise CheckpointError(f"names {len(result)} files, more than any model needs")
        return result
