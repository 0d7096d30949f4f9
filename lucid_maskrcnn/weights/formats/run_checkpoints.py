"""Checkpoints of this package's training runs: what marks them, and their checksum.

They are safetensors files with more than weights: momenta, averages, the state of the run. A run writes them and
resumes from them; here is what whoever wants only the weights must know.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

__all__ = [
    "CHECKSUM",
    "RUN_CHECKPOINT",
    "RUN_RESULTS",
    "UNSET_CHECKSUM",
    "checksum_problem",
]

RUN_CHECKPOINT = "lucid_maskrcnn checkpoint"
"""The ``"format"`` in the header of a run's checkpoint."""

RUN_RESULTS = ("best.safetensors", "weights.safetensors")
"""The weights in the folder of a run, the better ones first."""

CHECKSUM = "sha256"
"""The entry of the header with the checksum: of the whole file, with zeros where the checksum stands."""

UNSET_CHECKSUM = "0" * 64

_HASHED = re.compile(r"[0-9a-f]{64}")
_BLOCK = 2**20  # bytes
# What the headers of earlier versions have, which had no checksum.
_WITHOUT_CHECKSUM = frozenset(
    {"format", "settings", "data", "machine", "state", "ema_updates", "config", "image_config", "arguments"}
)


def checksum_problem(path: Path, metadata: Mapping[str, str]) -> str | None:
    """Return what is wrong with a checkpoint by its checksum, in words; None if nothing is.

    Parameters
    ----------
    path : Path
        Of a safetensors file.
    metadata : mapping of str to str
        Of its header. One without a checksum is of an earlier version, whose arrays nothing can check.
    """
    checksum = metadata.get(CHECKSUM)
    if checksum is None:
        unknown = metadata.keys() - _WITHOUT_CHECKSUM
        return f"its header has {min(unknown)!r} and no checksum" if unknown else None
    if not _HASHED.fullmatch(checksum):
        return "its checksum is malformed"
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        start = file.read(8)
        header = file.read(int.from_bytes(start, "little"))
        digest.update(start + header.replace(checksum.encode(), UNSET_CHECKSUM.encode(), 1))
        _add_rest(digest, file)
    return None if digest.hexdigest() == checksum else "its content is not what was written, by its checksum"


def _add_rest(digest: Any, file: BinaryIO) -> None:
    while block := file.read(_BLOCK):
        digest.update(block)
