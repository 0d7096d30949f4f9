"""Checkpoint files for tests: recorded ones, and writers of files that no library would write."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from lucid_maskrcnn.weights.formats import open_checkpoint

RECORDED = Path(__file__).parent / "data" / "checkpoints"
SAMPLES = sorted(path for path in RECORDED.iterdir() if path.suffix in (".pth", ".pkl"))
SIX = np.arange(6, dtype="<f4")


# ------------------------------------------------------------------ reading


def read(path: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in open_checkpoint(path).arrays.items()}


def as_read(array: Any) -> np.ndarray:
    """Return an array as it should come out of a file."""
    array = np.asarray(array)
    return array.astype(np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("="), order="C")


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        expected = as_read(wanted[name])
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape), name
        assert array.flags.c_contiguous, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


def complaint(path: Path) -> str:
    """Read a file whole and return what is said of it, nothing or one sentence that names it."""
    try:
        for array in open_checkpoint(path).arrays.values():
            assert np.asarray(array).shape == array.shape
    except ValueError as error:
        text, kind = str(error), type(error)
    else:
        return ""
    assert kind is ValueError
    assert text.startswith(f"{str(path)!r} "), text
    assert text.endswith("."), text
    assert "\n" not in text, text
    assert len(text) < len(str(path)) + 400, text
    return text


def refused(path: Path, message: str) -> None:
    """Assert that reading ends in a sentence that says ``message``."""
    text = complaint(path)
    assert text.startswith(f"{str(path)!r} {message}"), text


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Give a function that tells how many bytes more than at the start were in use at most."""
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------ pickles, opcode by opcode


@dataclass
class Name:
    """A global."""

    module: str
    attribute: str


@dataclass
class Call:
    function: Any
    arguments: Any


@dataclass
class Built:
    target: Any
    state: Any


@dataclass
class Reference:
    """A persistent id."""

    content: Any


@dataclass
class Raw:
    """Instructions as they are."""

    code: bytes


def code(value: Any) -> bytes:
    """Return the instructions that make ``value``."""
    match value:
        case Raw():
            return value.code
        case Name():
            return f"c{value.module}\n{value.attribute}\n".encode()
        case Call():
            return code(value.function) + code(value.arguments) + b"R"
        case Built():
            return code(value.target) + code(value.state) + b"b"
        case Reference():
            return code(value.content) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            size = value.bit_length() // 8 + 1
            return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(code(part) for item in value.items() for part in item) + b"u"
    raise AssertionError(value)


def pickled(value: Any, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + code(value) + b"."


NDARRAY = Name("numpy", "ndarray")
SHELL = Call(Name("numpy.core.multiarray", "_reconstruct"), (NDARRAY, (0,), b"b"))
F4 = Built(Call(Name("numpy", "dtype"), ("f4", 0, 1)), (3, "<", None, None, None, -1, -1, 0))
ORDERED = Name("collections", "OrderedDict")


# ------------------------------------------------------------------ PyTorch's files


def storage(
    key: str = "0", count: Any = 6, *, kind: Any = None, parts: tuple[Any, ...] = (), tag: str = "storage"
) -> Reference:
    return Reference((tag, kind or Name("torch", "FloatStorage"), key, "cpu", count, *parts))


def tensor(
    of: Any, shape: Any = (2, 3), strides: Any = (3, 1), start: Any = 0, more: tuple[Any, ...] = (), rebuild: str = "v2"
) -> Call:
    hooks = Call(Name("collections", "OrderedDict"), ())
    return Call(Name("torch._utils", f"_rebuild_tensor_{rebuild}"), (of, start, shape, strides, False, hooks, *more))


def write_zip(path: Path, content: Any, storages: dict[str, bytes], *, folder: str = "archive", **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", content.code if isinstance(content, Raw) else pickled(content))
        for name, text in members.items():
            archive.writestr(f"{folder}/{name}", text)
        for key, data in storages.items():
            archive.writestr(f"{folder}/data/{key}", data)
    return path


def torch_save(path: Path, content: Any, protocol: int = 2) -> Path:
    """Write what ``torch.save`` would: any objects, with arrays of float32 and int64 as tensors."""
    storages: dict[str, bytes] = {}
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    kinds = {"f": type("FloatStorage", (), {"__module__": "torch"}), "i": type("LongStorage", (), {})}
    kinds["i"].__module__ = "torch"

    def rebuild() -> None: ...

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "torch._utils", *["_rebuild_tensor_v2"] * 2
    modules["torch._utils"]._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    for kind in kinds.values():
        setattr(modules["torch"], kind.__name__, kind)

    class Storage:
        def __init__(self, array: np.ndarray) -> None:
            self.id = ("storage", kinds[array.dtype.kind], str(len(storages)), "cpu", array.size)
            storages[self.id[2]] = array.tobytes()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj.id if isinstance(obj, Storage) else None

        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is not np.ndarray or obj.dtype not in (np.float32, np.int64):
                return NotImplemented
            strides = tuple(int(np.prod(obj.shape[axis + 1 :])) for axis in range(obj.ndim))
            return rebuild, (Storage(obj), 0, obj.shape, strides, False, OrderedDict())

    file = io.BytesIO()
    with patch.dict(sys.modules, modules):
        Pickler(file, protocol).dump(content)
    return write_zip(path, Raw(file.getvalue()), storages, byteorder="little")


def write_legacy(path: Path, content: Any, storages: dict[str, bytes], **changes: Any) -> Path:
    parts_of_file = {
        "magic": 0x1950A86A20F9469CFC6C,
        "version": 1001,
        "system": {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
        "content": content,
        "keys": sorted(storages),
        "sizes": {key: len(data) // 4 for key, data in storages.items()},
    } | changes
    parts = [pickled(parts_of_file[name]) for name in ("magic", "version", "system", "content", "keys")]
    parts += [struct.pack("<Q", parts_of_file["sizes"][key]) + storages[key] for key in sorted(storages)]
    path.write_bytes(b"".join(parts))
    return path


def good_zip(path: Path, **members: str) -> Path:
    return write_zip(path, {"a": tensor(storage())}, {"0": SIX.tobytes()}, **members)
