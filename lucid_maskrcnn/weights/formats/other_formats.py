"""Files that people take for weights: what they are, and what to do, by their first bytes or their members' names."""

from __future__ import annotations

import re
from collections.abc import Collection

from .stored_arrays import printable

__all__ = ["other_archive", "other_format"]

_PACKED = "is {} archive or compressed file: unpack it, and pass what is in it"
_KERAS = (
    "is an HDF5 file, as Keras and Matterport's Mask R-CNN write it, whose weights cannot be used here: take those of "
    "torchvision or detectron2"
)
_OTHER_ENGINE = "is a model for {}, which has no weights by name: take the weights that it was exported from"
_FORMATS: list[tuple[re.Pattern[bytes], str]] = [
    (re.compile(rb"\x89HDF\r\n\x1a\n"), _KERAS),
    (re.compile(rb"\x1f\x8b"), _PACKED.format("a gzip")),
    (re.compile(rb"BZh[1-9]"), _PACKED.format("a bzip2")),
    (re.compile(rb"\xfd7zXZ\0"), _PACKED.format("an xz")),
    (re.compile(rb"\x28\xb5\x2f\xfd"), _PACKED.format("a Zstandard")),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), _PACKED.format("a 7-Zip")),
    (re.compile(rb"Rar!\x1a\x07"), _PACKED.format("a RAR")),
    (
        re.compile(rb"version https://git-lfs\.github\.com/"),
        "is a pointer of Git LFS, not the file that it stands for: run 'git lfs pull'",
    ),
    (
        re.compile(rb"\s*<(?:!doctype html|html|\?xml|head|body)", re.IGNORECASE),
        "is a web page: the server sent it in place of the file; open the address in a browser, and save the file",
    ),
    (re.compile(rb"\x93NUMPY"), "is a single NumPy array: a model has many; pass them by name to load_weights"),
    (re.compile(rb"GGUF"), "is a GGUF file, of a language model"),
    (re.compile(rb"....TFL3", re.DOTALL), _OTHER_ENGINE.format("TensorFlow Lite")),
    (re.compile(rb"\x08[\x03-\x14][\x12\x1a\x22\x3a]"), _OTHER_ENGINE.format("ONNX Runtime")),
    (re.compile(rb"\x08\x01\x12"), _OTHER_ENGINE.format("TensorFlow")),
]
_ARCHIVED = (".pth", ".pt", ".pkl", ".ckpt", ".safetensors", ".bin")


def other_format(head: bytes) -> str | None:
    """Return what a file that begins with these bytes is, None if it is not known."""
    return next((what for pattern, what in _FORMATS if pattern.match(head)), None)


def other_archive(names: Collection[str]) -> str | None:
    """Return what a zip archive without a ``data.pkl`` is, by its members' names; None if it is not known."""
    if any(name.endswith(".weights.h5") for name in names):
        return _KERAS.replace("an HDF5", "a Keras")
    if names and all(name.endswith(".npy") for name in names):
        return (
            "is a NumPy archive (.npz): pass load_weights(model, dict(numpy.load(file))), if its names are known here"
        )
    inside = [name for name in names if name.endswith(_ARCHIVED) and not name.endswith("data.pkl")]
    return f"is a zip archive with {printable(inside[0])} in it: unpack it, and pass that" if inside else None
