"""Checkpoint files: every form is read exactly, nothing that they name runs, and no bad file does more than raise."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import random
import struct
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

from lucid_maskrcnn.weights.formats import pickles, torch_files
from lucid_maskrcnn.weights.formats.bounded_reader import BoundedReader
from lucid_maskrcnn.weights.formats.checkpoint_file import open_checkpoint
from lucid_maskrcnn.weights.formats.pickles import read_pickle
from lucid_maskrcnn.weights.formats.stored_arrays import CheckpointError

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
SAMPLES = sorted(path for path in DATA.iterdir() if path.suffix in (".pth", ".pkl"))
CONTENTS = [path.read_bytes() for path in SAMPLES]


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


# ------------------------------------------------------------------ the recorded files


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(DATA / "expected.npz") as file:
        return {name: file[name] for name in file.files}


def kind_of(name: str) -> str:
    return "pickle" if name.endswith("pkl") else "torch legacy" if "legacy" in name else "torch"


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.name)
def test_every_recorded_file_is_read_exactly(path: Path, recorded: dict[str, np.ndarray]) -> None:
    wanted = {name.partition("::")[2]: a for name, a in recorded.items() if name.startswith(f"{path.name}::")}
    wanted = {n.removeprefix("module."): a for n, a in wanted.items() if not n.endswith("_momentum")}
    checkpoint = open_checkpoint(str(path))
    assert (checkpoint.path, checkpoint.kind) == (path, kind_of(path.name))
    assert checkpoint.metadata == ({"__author__": "fixture"} if "zoo" in path.name else {})
    for name, array in checkpoint.arrays.items():
        assert type(name) is str
        assert (array.shape, array.ndim, array.size) == (wanted[name].shape, wanted[name].ndim, wanted[name].size)
        assert np.asarray(array).dtype == array.dtype
        assert np.asarray(array).nbytes == array.nbytes
    assert_same({name: np.asarray(a) for name, a in checkpoint.arrays.items()}, wanted)


def test_a_link_and_any_name_will_do(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes((DATA / "params_zip.pth").read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / "weights.bin")
    assert open_checkpoint(tmp_path / "link").kind == "torch"


def test_a_stored_array_says_what_it_is() -> None:
    array = open_checkpoint(DATA / "views_zip.pth").arrays["c"]
    assert repr(array) == f"StoredArray((6, 4), float32, in {str(DATA / 'views_zip.pth')!r})"
    assert np.asarray(array, np.float16).dtype == np.float16
    assert np.array(array).flags.writeable
    with pytest.raises(ValueError, match="copy=False is not possible for an array in a file"):
        np.asarray(array, copy=False)


# ------------------------------------------------------------------ pickles of NumPy arrays


def numpy_arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    codes = [
        order + code for code in ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8", "c8", "c16") for order in "<>"
    ]
    arrays = {code: (rng.standard_normal((3, 4, 5)) * 50).astype(code) for code in (*codes, "i1", "u1", "b1")}
    arrays |= {f"{code} sliced": array[::2, :, 1::3] for code, array in arrays.items()}
    return arrays | {
        "columns first": np.asfortranarray(rng.standard_normal((4, 5, 6)).astype("f4")),
        "empty": np.zeros((0, 3), np.float32),
        "nothing but a shape": np.array(2.5, np.float32),
        "every byte": np.arange(256, dtype=np.uint8),
        "scalar": np.float64(0.1),
        "integer scalar": np.int64(-3),
        "beyond float32": np.array([1e300, -1e300, np.nan]),
        "long": rng.standard_normal(300_000).astype("f4"),  # longer than the blocks that text is decoded in
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("outer", [dict, OrderedDict])
def test_numpy_arrays_of_every_protocol(tmp_path: Path, protocol: int, outer: type) -> None:
    arrays = numpy_arrays()
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(outer(model=outer(arrays), __author__="me"), protocol))
    with np.errstate(over="ignore"):
        assert_same(read(path), arrays)
    assert open_checkpoint(path).metadata == {"__author__": "me"}


def test_what_python_2_wrote_as_text(tmp_path: Path) -> None:
    """Protocol 0 wrote bytes as they are typed in, and OrderedDict as a call with pairs."""
    content = np.arange(256, dtype=np.uint8).view("<f4")
    typed = repr(content.tobytes())[1:].replace("\\x07", "\\x07").encode()
    dtype = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(L64L\ntp7\n" + dtype + b"I00\nS" + typed + b"\ntb"
    )
    flat = b"(dp0\nS'a'\np1\n" + array + b"sS'a_momentum'\n" + array + b"s."
    pairs = b"ccollections\nOrderedDict\n((l(lS'a'\na" + array + b"aatR."
    for number, text in enumerate((flat, pairs)):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(text)
        assert_same(read(path), {"a": content})


# ------------------------------------------------------------------ writing files that no library would


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


def storage(
    key: str = "0", count: Any = 6, *, kind: Any = None, parts: tuple[Any, ...] = (), tag: str = "storage"
) -> Reference:
    return Reference((tag, kind or Name("torch", "FloatStorage"), key, "cpu", count, *parts))


def tensor(
    of: Any, shape: Any = (2, 3), strides: Any = (3, 1), start: Any = 0, more: tuple[Any, ...] = (), rebuild: str = "v2"
) -> Call:
    hooks = Call(Name("collections", "OrderedDict"), ())
    return Call(Name("torch._utils", f"_rebuild_tensor_{rebuild}"), (of, start, shape, strides, False, hooks, *more))


SIX = np.arange(6, dtype="<f4")


def write_zip(path: Path, content: Any, storages: dict[str, bytes], *, folder: str = "archive", **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", content.code if isinstance(content, Raw) else pickled(content))
        for name, text in members.items():
            archive.writestr(f"{folder}/{name}", text)
        for key, data in storages.items():
            archive.writestr(f"{folder}/data/{key}", data)
    return path


def write_legacy(path: Path, content: Any, storages: dict[str, bytes], **changes: Any) -> Path:
    told = {
        "magic": 0x1950A86A20F9469CFC6C,
        "version": 1001,
        "system": {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
        "content": content,
        "keys": sorted(storages),
        "sizes": {key: len(data) // 4 for key, data in storages.items()},
    } | changes
    parts = [pickled(told[name]) for name in ("magic", "version", "system", "content", "keys")]
    parts += [struct.pack("<Q", told["sizes"][key]) + storages[key] for key in sorted(storages)]
    path.write_bytes(b"".join(parts))
    return path


# ------------------------------------------------------------------ PyTorch's files


def test_tensors_of_either_form(tmp_path: Path) -> None:
    plain = SIX.reshape(2, 3)
    state = {"_metadata": Call(Name("collections", "OrderedDict"), ())}
    for write, parts in ((write_zip, ()), (write_legacy, (None,))):
        kept = storage(parts=parts)
        entries = {
            "whole": tensor(kept),
            "turned": tensor(kept, (3, 2), (1, 3)),
            "row": tensor(kept, (3,), (1,), 3),
            "column": tensor(kept, (2,), (3,), 2),
            "one": tensor(kept, (), (), 5),
            "none": tensor(kept, (0, 7), (9, 9), 2),
            "with metadata": tensor(kept, more=({},)),
            "old": Call(Name("torch._utils", "_rebuild_tensor"), (kept, 0, (6,), (1,))),
            "parameter": Call(Name("torch._utils", "_rebuild_parameter"), (tensor(kept), True, None)),
            "attributes": Call(Name("torch._utils", "_rebuild_parameter_with_state"), (tensor(kept), True, None, {})),
            "number": Call(
                Name("numpy.core.multiarray", "scalar"),
                (Call(Name("numpy", "dtype"), ("f4", False, True)), b"\0\0\x20\x40"),
            ),
        }
        content = Built(Call(Name("collections", "OrderedDict"), ()), state)
        filled = Raw(code(content) + b"(" + b"".join(code(p) for item in entries.items() for p in item) + b"u")
        path = write(
            tmp_path / "model.pth",
            filled if write is write_legacy else Raw(b"\x80\2" + filled.code + b"."),
            {"0": SIX.tobytes()},
        )
        wanted = dict.fromkeys(("whole", "with metadata", "parameter", "attributes"), plain) | {
            "turned": plain.T,
            "row": plain[1],
            "column": plain[:, 2],
            "one": plain[1, 2],
            "none": np.zeros((0, 7), np.float32),
            "old": SIX,
            "number": np.float32(2.5),
        }
        assert_same(read(path), wanted)


def test_only_the_bytes_of_a_slice_are_read(tmp_path: Path) -> None:
    many = np.arange(100_000, dtype="<f4")
    kept = storage(count=many.size)
    entries = {"rows": tensor(kept, (2, 5), (10, 1), 50_000), "all": tensor(kept, (100_000,), (1,))}
    arrays = open_checkpoint(write_zip(tmp_path / "model.pth", entries, {"0": many.tobytes()})).arrays
    np.asarray(arrays["rows"])
    with traced() as peak:
        rows = np.asarray(arrays["rows"])
    np.testing.assert_array_equal(rows, many[50_000:50_020].reshape(2, 10)[:, :5])
    assert peak() < 50_000  # of 400,000


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order(tmp_path: Path, order: str) -> None:
    sign = "<>"[order == "big"]
    kinds = {"Float": f"{sign}f4", "Half": f"{sign}f2", "Long": f"{sign}i8", "Short": f"{sign}i2", "Byte": "u1"}
    entries = {name: tensor(storage(name, kind=Name("torch", f"{name}Storage"))) for name in (*kinds, "BFloat16")} | {
        "v3": tensor(
            storage("v3", 12, kind=Name("torch.storage", "UntypedStorage")),
            more=(Name("torch", "uint16"),),
            rebuild="v3",
        )
    }
    data = {name: np.arange(6).astype(kind).tobytes() for name, kind in (kinds | {"v3": f"{sign}u2"}).items()}
    data["BFloat16"] = (SIX.view("<u4") >> 16).astype(f"{sign}u2").tobytes()
    wanted: dict[str, Any] = {name: np.arange(6).astype(kind).reshape(2, 3) for name, kind in kinds.items()}
    wanted |= {"v3": np.arange(6, dtype=np.uint16).reshape(2, 3), "BFloat16": SIX.reshape(2, 3)}
    assert_same(read(write_zip(tmp_path / "model.pth", entries, data, byteorder=order)), wanted)
    del entries["v3"], data["v3"], wanted["v3"]
    legacy = {name: tensor(storage(name, kind=Name("torch", f"{name}Storage"), parts=(None,))) for name in entries}
    system = {"protocol_version": 1001, "little_endian": order == "little"}
    path = write_legacy(tmp_path / "legacy.pth", legacy, data, system=system, sizes=dict.fromkeys(data, 6))
    assert_same(read(path), wanted)


def test_a_storage_that_is_part_of_another(tmp_path: Path) -> None:
    entries = {"part": tensor(storage(parts=(("view", 2, 4),)), (2, 2), (2, 1))}
    path = write_legacy(tmp_path / "old.pth", entries, {"0": SIX.tobytes()})
    assert_same(read(path), {"part": SIX[2:].reshape(2, 2)})
    entries = {"part": tensor(storage(parts=(("view", 2, 4),)), (5,), (1,))}
    refused(
        write_legacy(path, entries, {"0": SIX.tobytes()}),
        "has a tensor that is not inside its storage 0 of 4 elements",
    )
    entries = {"part": tensor(storage(parts=(("view", 3, 4),)), (2,), (1,))}
    refused(write_legacy(path, entries, {"0": SIX.tobytes()}), "has a part of the storage 0 that is not inside it")


def test_bools_are_true_or_false(tmp_path: Path) -> None:
    entries = {"mask": tensor(storage(kind=Name("torch", "BoolStorage")))}
    (mask,) = read(write_zip(tmp_path / "model.pth", entries, {"0": bytes([0, 1, 2, 255, 0, 1])})).values()
    assert mask.view(np.uint8).tolist() == [[0, 1, 1], [1, 0, 1]]


# ------------------------------------------------------------------ safetensors


def test_safetensors_are_what_their_library_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = ["f4", "f2", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]
    arrays = {f"module.{c}": (rng.standard_normal((3, 4)) * 9).astype(c) for c in codes}
    arrays |= {"zero": np.array(1.5, np.float32), "empty": np.zeros((0, 4), np.float32)}
    path = tmp_path / "model.safetensors"
    save_file(arrays, path, metadata={"licence": "CC0-1.0"})
    checkpoint = open_checkpoint(path)
    assert (checkpoint.kind, checkpoint.metadata) == ("safetensors", {"licence": "CC0-1.0"})
    assert_same(read(path), load_file(path))


def test_a_prefix_of_all_names_is_dropped_from_safetensors_too(tmp_path: Path) -> None:
    save_file({"module.a": SIX, "module.b": SIX}, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path / "model.safetensors").arrays) == ["a", "b"]


def safetensors_of(*entries: str, data: bytes = b"") -> bytes:
    header = ("{" + ",".join(entries) + "}").encode()
    return struct.pack("<Q", len(header)) + header + data


def test_bfloat16_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    half = (SIX.view("<u4") >> 16).astype("<u2").tobytes()
    path.write_bytes(safetensors_of('"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}', data=half))
    assert_same(read(path), {"a": SIX.reshape(2, 3)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (save({}), "holds no arrays"),
        (save({"a": SIX})[:-1], "has 23 bytes of data, but its header describes 24"),
        (struct.pack("<Q", 4) + b"{[[[", "has a header that is not JSON: "),
        (struct.pack("<Q", 2**20) + b"{" * 2**20, "has a header that is not JSON: "),
        (struct.pack("<Q", 2**25) + b"{" + b" " * 2**25, "has a header of 33554432 bytes, more than any model needs"),
        (
            safetensors_of('"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}', data=b"12"),
            "has the array a of dtype F8_E4M3, which is not supported",
        ),
        (safetensors_of('"a":{"dtype":"F32","shape":[1099511627776,1099511627776,0],"data_offsets":[0,0]}'), ""),
    ],
)
def test_safetensors_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, message)


# ------------------------------------------------------------------ finding the weights


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state", "model_state_dict", "blobs"])
def test_weights_are_unwrapped(tmp_path: Path, wrapper: str) -> None:
    content = {wrapper: {"module.a": SIX, "module.b": SIX, "module.b_momentum": SIX, "module.steps": 3}, "epoch": 1}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content | {"lr": [0.1, {"x": None}], "cfg": "x" * 5000, "best": SIX}))
    names = ["a", "b"] if wrapper == "blobs" else ["a", "b", "b_momentum"]  # Caffe2's way to keep an optimiser
    assert list(open_checkpoint(path).arrays) == names


def test_a_prefix_that_not_all_have_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"module.a": SIX, "b": SIX, "model": SIX}))
    assert list(open_checkpoint(path).arrays) == ["module.a", "b", "model"]


def test_notes_of_a_model_zoo(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": SIX}, "__author__": "torchvision", "matching_heuristics": True}))
    assert open_checkpoint(path).metadata == {"__author__": "torchvision", "matching_heuristics": "True"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([SIX], "does not hold a dict of arrays"),
        (SIX, "does not hold a dict of arrays"),
        ({}, "holds no arrays"),
        ({"model": {}, "a": SIX}, "holds no arrays"),
        ({"a": SIX, "names": ["cat"]}, "has names among its weights, which is not an array"),
        ({"model": {"a": SIX, "lr": 0.5}}, "has lr among its weights, which is not an array"),
        ({"model": {"state_dict": {"a": SIX}}}, "has state_dict among its weights, which is not an array"),
        ({"a\nb": "text"}, r"has a\nb among its weights, which is not an array"),
        ({1: SIX}, "has arrays whose names are not strings"),
        ({"x" * 300: SIX}, "has a dict whose key is neither a short string nor a number"),
        ({("a", "b"): SIX}, "has a dict whose key is neither a short string nor a number"),
        ({"a": np.array(["x"])}, "has an array of the dtype U1, which is not numeric: it is refused"),
        ({"a": np.array([object])}, "has an array of the dtype O8, which is not numeric: it is refused"),
        ({"a": np.array([None])}, "has an array of the dtype O8, which is not numeric: it is refused"),
        ({"a": np.zeros(2, "f4,i4")}, "has an array of the dtype V8, which is not numeric: it is refused"),
        ({"a": np.zeros(2, "M8[s]")}, "has an array of the dtype M8, which is not numeric: it is refused"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_content_that_is_no_weights(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "model.pkl"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps(content, protocol))
        if isinstance(content, dict) and "a" in content and protocol == 2 and content["a"].dtype == object:
            continue  # builtins.object comes first
        refused(path, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello there", "is not a checkpoint: it begins with b'hello there'"),
        (b"<!DOCTYPE html><html>", "is not a checkpoint: it begins with b'<!DOCTYPE html><'"),
        (b"\x80\x06.", "is not a checkpoint: it begins with"),
        (b"a" * 257 + b"ustar" + b"\0" * 300, "is a tar archive, the oldest format of PyTorch"),
        (b"PK\3\4" + b"\0" * 60, "has a damaged zip directory: File is not a zip file"),
        (b"\x80\2}.\0", "has data behind the end of its pickle"),
        (b"\x80\2}}.", "has a damaged pickle"),
        (b"\x80\2}", "ends in the middle of its pickle, or is damaged"),
        (b"}\x80\6.", "has a pickle of protocol 6; the newest known one is 5"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    refused(tmp_path / "file", message)


@pytest.mark.parametrize("name", ["none.pth", "a\0b", "x" * 1000, "file/x"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        open_checkpoint(tmp_path / name)


def test_what_is_no_file(tmp_path: Path) -> None:
    refused(tmp_path, "is a directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a regular file")


# ------------------------------------------------------------------ files that would do something


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


class Evil:
    """Pickled, it is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


ASKED = [
    ("os", "system", ("touch MARKER",)),
    ("posix", "system", ("touch MARKER",)),
    ("nt", "system", ("touch MARKER",)),
    ("subprocess", "Popen", (["touch", "MARKER"],)),
    ("subprocess", "check_output", (["touch", "MARKER"],)),
    ("builtins", "eval", ("open('MARKER', 'w')",)),
    ("__builtin__", "eval", ("open('MARKER', 'w')",)),
    ("builtins", "exec", ("open('MARKER', 'w')",)),
    ("builtins", "open", ("MARKER", "w")),
    ("io", "open", ("MARKER", "w")),
    ("builtins", "__import__", ("this",)),
    ("builtins", "getattr", (Name("os", "path"), "system")),
    ("builtins", "bytearray", (2**40,)),
    ("builtins", "object", ()),
    ("importlib", "import_module", ("this",)),
    ("runpy", "_run_code", ("open('MARKER', 'w')", {})),
    ("operator", "attrgetter", ("system",)),
    ("functools", "partial", (Name("os", "system"), "touch MARKER")),
    ("copyreg", "_reconstructor", (Name("builtins", "object"), Name("builtins", "object"), None)),
    ("copy_reg", "_reconstructor", ()),
    ("copyreg", "__newobj__", ()),
    ("types", "FunctionType", ()),
    ("pickle", "loads", (b"cos\nsystem\n(S'touch MARKER'\ntR.",)),
    ("_pickle", "loads", ()),
    ("numpy", "load", ("MARKER",)),
    ("numpy", "memmap", ("MARKER", "f4", "w+", 0, (9,))),
    ("numpy", "core.multiarray.scalar", ()),  # a path of attributes, not the name that it spells
    ("numpy.core.multiarray", "fromfile", ()),
    ("numpy.testing._private.utils", "runstring", ("open('MARKER', 'w')", {})),
    ("torch", "load", ("MARKER",)),
    ("torch.storage", "_load_from_bytes", (b"",)),
    ("torch._utils", "_rebuild_tensor_v2.__globals__", ()),
    ("torch._utils", "_rebuild_sparse_tensor", ()),
    ("torch._tensor", "_rebuild_from_type_v2", (Name("os", "system"), Name("builtins", "object"), (), {})),
    ("torch.jit", "load", ("MARKER",)),
    ("torch.hub", "load", ("MARKER", "x")),
    ("_codecs", "decode", (b"", "zip")),
    ("codecs", "encode", ("", "latin1")),
    ("collections", "Counter", ()),
    ("collections", "defaultdict", (Name("builtins", "eval"),)),
    ("this", "s", ()),
    ("lucid_maskrcnn.weights.formats.pickles", "_encode", ()),
    ("__main__", "Model", ()),
    ("torchvision.models.detection.mask_rcnn", "MaskRCNN", ()),
    ("", "", ()),
]


@pytest.mark.parametrize(("module", "name", "arguments"), ASKED, ids=[f"{m}.{n}" for m, n, _ in ASKED])
def test_names_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, arguments: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    imported = set(sys.modules)
    monkeypatch.setattr(builtins, "eval", None)
    message = f"asks for {module}.{name}, which is not an array: it is refused"
    call = Call(Name(module, name), Raw(code(arguments)))
    from_stack = Call(Raw(code(module) + code(name) + b"\x93"), arguments)
    for evil in (call, from_stack):
        (tmp_path / "x.pkl").write_bytes(pickled({"model": {"a": evil}}, 4))
        refused(tmp_path / "x.pkl", message)
        refused(write_zip(tmp_path / "x.pth", {"a": evil, "b": tensor(storage())}, {"0": SIX.tobytes()}), message)
        refused(write_legacy(tmp_path / "y.pth", {"a": evil}, {}), message)
    (tmp_path / "x.pkl").write_bytes(b"(i" + code(Name(module, name))[1:] + b".")  # INST, which looks up and calls
    refused(tmp_path / "x.pkl", message)
    assert sorted(os.listdir(tmp_path)) == ["x.pkl", "x.pth", "y.pth"]
    assert set(sys.modules) - imported <= {"zipfile", "zipfile._path", "zipfile._path.glob"}


def test_a_pickle_that_the_standard_library_runs(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = pickle.dumps({"a": Evil(os.system, f"touch {marker}")})
    (tmp_path / "x.pkl").write_bytes(content)
    refused(tmp_path / "x.pkl", f"asks for {os.name}.system, which is not an array: it is refused")
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists()  # the file was no toy


NDARRAY = Name("numpy", "ndarray")
SHELL = Call(Name("numpy.core.multiarray", "_reconstruct"), (NDARRAY, (0,), b"b"))
F4 = Built(Call(Name("numpy", "dtype"), ("f4", 0, 1)), (3, "<", None, None, None, -1, -1, 0))
LATIN = Name("_codecs", "encode")
ORDERED = Name("collections", "OrderedDict")


def shell(*state: Any) -> Built:
    return Built(SHELL, state)


TRICKS: dict[str, tuple[Any, str]] = {
    "calls the class of arrays": (Call(NDARRAY, ((2,), F4)), "calls numpy.ndarray, which may be named but not called"),
    "array of another class": (Call(SHELL.function, (Name("numpy", "dtype"), (0,), b"b")), "has an array of a class"),
    "array of no class": (Call(SHELL.function, ()), "has an array of a class that is not numpy.ndarray"),
    "object array": (Call(Name("numpy", "dtype"), ("O8", 0, 1)), "has an array of the dtype O8"),
    "objects in a list": (shell(1, (2,), F4, False, [1, 2]), "has an array whose content is not bytes"),
    "type that is a structure": (Built(F4, (3, "<", None, ("a",), {}, 8, 1, 0)), "has an array of a structured dtype"),
    "type of no name": (Call(Name("numpy", "dtype"), (7,)), "has an array of a dtype without a name"),
    "unknown byte order": (Built(F4, (3, "?", None, None, None, -1, -1, 0)), "has an array of an unknown byte order"),
    "no type": (shell(1, (2,), "f4", False, b"12345678"), "has an array whose dtype is not a numpy.dtype"),
    "state too short": (shell(1, (2,)), "has an array whose state is not (version, shape, dtype, order, bytes)"),
    "odd order": (shell(1, (2,), F4, None, b"12345678"), "has an array whose memory order is neither row-major nor"),
    "too few bytes": (
        shell(1, (3,), F4, False, b"12345678"),
        "has an array of 8 bytes, but the shape (3,) of float32 needs 12",
    ),
    "too many bytes": (
        shell(1, (1,), F4, False, b"12345678"),
        "has an array of 8 bytes, but the shape (1,) of float32 needs 4",
    ),
    "text too short": (shell(1, (9,), F4, False, "é" * 17), "has an array of 34 bytes, but the shape (9,)"),
    "text of other length": (shell(1, (2,), F4, False, "ééaaaa"), "has an array with fewer bytes than its shape needs"),
    "text of more": (shell(1, (1,), F4, False, "ééaaa"), "has an array with more bytes than its shape needs"),
    "text beyond bytes": (
        shell(1, (1,), F4, False, "a€b"),
        "has an array that is written as text and cannot be decoded",
    ),
    "shape of floats": (
        shell(1, (2.0,), F4, False, b"12345678"),
        "has an array whose shape is not a sequence of integers",
    ),
    "shape of bools": (
        shell(1, (True, 2), F4, False, b"12345678"),
        "has an array whose shape is not a sequence of integers",
    ),
    "shape a list": (shell(1, [2], F4, False, b"12345678"), "has an array whose shape is not a sequence of integers"),
    "negative size": (shell(1, (-2, -1), F4, False, b"12345678"), "has an array with a negative or too large size"),
    "sizes that overflow": (shell(1, (2**40, 2**40, 0), F4, False, b""), "has an array of the shape (1099511627776,"),
    "a size that overflows": (shell(1, (2**70, 0), F4, False, b""), "has an array with a negative or too large size"),
    "many dimensions": (
        shell(1, (1,) * 65, F4, False, b"1234"),
        "has an array of 65 dimensions; at most 32 are allowed",
    ),
    "array without content": (SHELL, "has an array without content"),
    "attributes of a name": (Built(NDARRAY, {"x": 1}), "sets attributes of something that has none"),
    "attributes of a list": (Built([], {"x": 1}), "sets attributes of something that has none"),
    "attributes of a dict": (Built({}, {"__class__": 1}), "sets attributes of something that has none"),
    "two attributes": (Built({}, {"_metadata": 1, "y": 2}), "sets attributes of something that has none"),
    "__setstate__": (Built({}, {"__setstate__": LATIN}), "sets attributes of something that has none"),
    "slots": (Built({}, (None, {"_metadata": 1})), "sets attributes of something that has none"),
    "attributes of a type": (Built(F4, {"x": 1}), "has an array of a structured dtype"),
    "other codec": (Call(LATIN, ("x", "zlib")), "calls _codecs.encode with a codec other than latin1: it is refused"),
    "codec of utf-8": (Call(LATIN, ("x", "utf-8")), "calls _codecs.encode with a codec other than latin1"),
    "codec of no text": (Call(LATIN, (1, "latin1")), "calls _codecs.encode with something that is not a string"),
    "codec and errors": (Call(LATIN, ("x", "latin1", "evil")), "calls _codecs.encode with a codec other than latin1"),
    "bytes of a size": (Call(Name("builtins", "bytes"), (2**40,)), "calls bytes with arguments: it is refused"),
    "pairs that are none": (Call(ORDERED, ([(1, 2, 3)],)), "calls collections.OrderedDict with something"),
    "pairs in a dict": (Call(ORDERED, ({},)), "calls collections.OrderedDict with something"),
    "calls text": (Call("os.system", ("true",)), "calls something that is not a function"),
    "calls with a list": (Call(ORDERED, []), "calls something that is not a function"),
    "calls an array": (Call(shell(1, (2,), F4, False, b"12345678"), ()), "calls something that is not a function"),
    "scalar of nothing": (
        Call(Name("numpy.core.multiarray", "scalar"), (F4,)),
        "has a NumPy scalar that is not a dtype and",
    ),
    "order K": (
        Call(Name("numpy.core.numeric", "_frombuffer"), (b"1234", F4, (1,), "K")),
        "has an array that is not bytes, dtype, shape and an order of C or F",
    ),
    "name of no text": (Raw(b"K\1K\2\x93"), "asks for a global whose name is not a string"),
    "long name": (Raw(b"c" + b"x" * 300 + b"\ny\n"), "has a name of 300 characters in its pickle"),
    "name not printable": (Name("a\x07", "b" * 150), r"asks for a\x07.bbbbb"),
    "persistent id": (Reference("x"), "refers to an object outside of its pickle: it is refused"),
    "PERSID": (Raw(b"Pos.system\n"), "uses the pickle opcode PERSID, which no array needs: it is refused"),
    "INST of what is known": (Raw(b"(icollections\nOrderedDict\n"), "uses the pickle opcode INST"),
    "OBJ": (Raw(b"(" + code(ORDERED) + b"o"), "uses the pickle opcode OBJ"),
    "NEWOBJ": (Raw(code(ORDERED) + b")\x81"), "uses the pickle opcode NEWOBJ"),
    "NEWOBJ_EX": (Raw(code(ORDERED) + b")}\x92"), "uses the pickle opcode NEWOBJ_EX"),
    "EXT1": (Raw(b"\x82\1"), "uses the pickle opcode EXT1"),
    "EXT2": (Raw(b"\x83\1\0"), "uses the pickle opcode EXT2"),
    "EXT4": (Raw(b"\x84\1\0\0\0"), "uses the pickle opcode EXT4"),
    "DUP": (Raw(b"2"), "uses the pickle opcode DUP"),
    "EMPTY_SET": (Raw(b"\x8f"), "uses the pickle opcode EMPTY_SET"),
    "FROZENSET": (Raw(b"(\x91"), "uses the pickle opcode FROZENSET"),
    "NEXT_BUFFER": (Raw(b"\x97"), "uses the pickle opcode NEXT_BUFFER"),
    "READONLY_BUFFER": (Raw(b"\x98"), "uses the pickle opcode READONLY_BUFFER"),
    "no instruction": (Raw(b"\xff"), r"has b'\xff' where its pickle should have an opcode"),
    "memo that is not there": (Raw(b"h\7"), "has a damaged pickle"),
    "negative memo": (Raw(b"g-1\n"), "has a damaged pickle"),
    "number of letters": (Raw(b"Iabc\n"), "has a damaged pickle"),
    "number with underscores": (Raw(b"L1_0L\n"), "has a damaged pickle"),
    "float of letters": (Raw(b"Fabc\n"), "has a damaged pickle"),
    "unquoted text": (Raw(b"Sabc\n"), "has a damaged pickle"),
    "one quote": (Raw(b"S'\n"), "has a damaged pickle"),
    "unknown escape": (Raw(b"S'\\N{BULLET}'\n"), "has a string with an unknown escape in its pickle"),
    "unfinished escape": (Raw(b"V\\u12\n"), "has a string that is not raw-unicode-escape in its pickle"),
    "text that is none": (Raw(b"X\1\0\0\0\xff"), "has a string that is not utf-8 in its pickle"),
    "escape beyond bytes": (
        shell(1, (300,), F4, False, Raw(b"V" + b"\\u0041" * 800 + b"\\u20ac" + b"A" * 399 + b"\n")),
        "has an array that is written as text and cannot be decoded",
    ),
    "escape cut off": (
        shell(1, (300,), F4, False, Raw(b"S'" + b"\\x41" * 1199 + b"\\x4'\n")),
        "has an array that is written as text and cannot be decoded",
    ),
    "character cut off": (
        shell(1, (300,), F4, False, Raw(b"X\xb1\4\0\0" + b"A" * 1200 + b"\xc2")),
        "has an array that is written as text and cannot be decoded",
    ),
    "huge number": (Raw(b"\x8b\xff\xff\xff\x7f"), "has a number of 2147483647 bytes in its pickle"),
    "huge decimal": (Raw(b"I" + b"9" * 5000 + b"\n"), "has a number of 5000 characters in its pickle"),
    "mark that is not there": (Raw(b"t"), "sets entries of something that is not a dict"),
    "pops too much": (Raw(b"00000"), "has a damaged pickle"),
    "appends to a number": (Raw(b"K\1Na"), "appends to something that is not a list"),
    "sets items of a list": (Raw(b"]NNs"), "sets entries of something that is not a dict"),
    "half an item": (Raw(b"}(Nu"), "sets entries of something that is not a dict"),
}


@pytest.mark.parametrize(("value", "message"), TRICKS.values(), ids=TRICKS)
def test_tricks_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickled({"model": {"a": value}}))
    refused(path, message)


TENSORS: dict[str, tuple[Any, str]] = {
    "reaches too far": (tensor(storage(), (2, 4), (3, 1)), "has a tensor that is not inside its storage 0 of 6"),
    "starts too late": (tensor(storage(), start=1), "has a tensor that is not inside its storage 0 of 6"),
    "grows from nothing": (tensor(storage(), (2**40,), (0,)), "has a tensor that is not inside its storage 0 of 6"),
    "sizes that overflow": (
        tensor(storage(), (2**40, 2**40, 0), (0, 0, 0)),
        "has an array of the shape (1099511627776",
    ),
    "strides that overflow": (
        tensor(storage(), (2, 3), (2**70, 1)),
        "has a tensor that is not inside its storage 0 of 6",
    ),
    "negative size": (tensor(storage(), (-2, -3)), "has an array with a negative or too large size"),
    "negative stride": (
        tensor(storage(), (2, 3), (-3, 1), 3),
        "has a tensor whose offset or strides are not non-negative",
    ),
    "negative start": (tensor(storage(), start=-1), "has a tensor whose offset or strides are not non-negative"),
    "stride of floats": (
        tensor(storage(), (2, 3), (3.0, 1)),
        "has a tensor whose offset or strides are not non-negative",
    ),
    "strides missing": (tensor(storage(), (2, 3), (1,)), "has a tensor whose offset or strides are not non-negative"),
    "no storage": (tensor("x"), "has a tensor without a storage"),
    "conjugated": (tensor(storage(), more=({"conj": True},)), "has a tensor with a conjugate or negative bit"),
    "too many arguments": (tensor(storage(), more=(None, None)), "calls torch._utils._rebuild_tensor_v2 with 8 arg"),
    "other type": (
        tensor(storage(), more=(Name("torch", "float64"),), rebuild="v3"),
        "has a tensor of float64 in a storage of float32",
    ),
    "type that is a storage": (
        tensor(storage(), more=(Name("torch", "FloatStorage"),), rebuild="v3"),
        "has a tensor without a dtype",
    ),
    "no type": (tensor(storage(kind=Name("torch.storage", "UntypedStorage"))), "has a tensor without a dtype"),
    "storage of a type": (tensor(storage(kind=Name("torch", "float32"))), "has a storage without a class or a key"),
    "storage of no type": (tensor(storage(kind="torch.FloatStorage")), "has a storage without a class or a key"),
    "storage of another type": (
        [storage(), storage(kind=Name("torch", "IntStorage"))],
        "describes the storage 0 in two ways",
    ),
    "storage of another size": ([storage(), storage(count=5)], "describes the storage 0 in two ways"),
    "storage of negative size": (storage(count=-1), "says that the storage 0 is larger than the file"),
    "storage of any size": (storage(count=2**60), "says that the storage 0 is larger than the file"),
    "storage of no size": (storage(count=True), "says that the storage 0 is larger than the file"),
    "storage that is not there": (storage("../0"), "lacks the storage ../0"),
    "storage of wrong size": ([tensor(storage(count=5), (5,), (1,))], "has 24 bytes in the storage 0, which should"),
    "module": (storage(tag="module"), "refers to a module, which is not an array: it is refused"),
    "short reference": (Reference(("storage",)), "refers to something that is not a storage: it is refused"),
    "reference to a number": (Reference(1), "refers to something that is not a storage: it is refused"),
    "quantised": (storage(kind=Name("torch", "QInt8Storage")), "asks for torch.QInt8Storage, which is not an array"),
    "float8": (
        tensor(storage(), more=(Name("torch", "float8_e4m3fn"),), rebuild="v3"),
        "asks for torch.float8_e4m3fn, which is not an array",
    ),
    "parameter of nothing": (
        Call(Name("torch._utils", "_rebuild_parameter"), (1, True, None)),
        "has a parameter that is not a tensor",
    ),
    "attributes of a tensor": (Built(tensor(storage()), {}), "sets attributes of something that has none"),
}


@pytest.mark.parametrize(("value", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    refused(write_zip(tmp_path / "x.pth", {"model": {"a": value}}, {"0": SIX.tobytes()}), message)


# ------------------------------------------------------------------ archives and old files that lie


def good_zip(path: Path, **members: str) -> Path:
    return write_zip(path, {"a": tensor(storage())}, {"0": SIX.tobytes()}, **members)


def test_archives_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    np.savez(tmp_path / "x.npz", a=SIX)
    refused(tmp_path / "x.npz", "is a zip archive without the data.pkl of a PyTorch checkpoint")
    refused(good_zip(path, **{"constants.pkl": ""}), "is a TorchScript program")
    refused(good_zip(path, **{"code/__torch__.py": ""}), "is a TorchScript program")
    refused(good_zip(path, byteorder="middle"), "has the byte order b'middle', which is neither little nor big")
    refused(good_zip(path, **{"more/data.pkl": ""}), "is a zip archive without the data.pkl of a PyTorch checkpoint")


def test_archives_that_are_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = good_zip(tmp_path / "x.pth")
    with monkeypatch.context() as patch:
        patch.setattr(torch_files, "_MAX_PICKLE", 100)
        refused(path, "has a data.pkl of more than 100 bytes")
        patch.setattr(torch_files, "_MAX_DIRECTORY", 100)
        refused(path, "has a zip directory of more than 100 bytes")
    content = Raw(pickled({"a": tensor(storage())}) + b"N.")
    refused(write_zip(path, content, {"0": SIX.tobytes()}), "has data behind the end of its data.pkl")


def test_a_damaged_pickle_is_noticed_by_its_sum(tmp_path: Path) -> None:
    path = good_zip(tmp_path / "x.pth")
    path.write_bytes(path.read_bytes().replace(b"FloatStorage", b"LongyStorage"))
    refused(path, "has a damaged data.pkl: its CRC-32 differs")
    content = bytearray(good_zip(path).read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 16 : entry + 20] = bytes(4)
    path.write_bytes(content)  # PyTorch can be told to leave the sums out
    assert_same(read(path), {"a": SIX.reshape(2, 3)})


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_members_that_share_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(good_zip(path), "a") as archive:
        archive.writestr("archive/data/0", SIX.tobytes())
    refused(path, "has two members of the same name in its zip directory")
    entries = {"a": tensor(storage()), "b": tensor(storage("1"))}
    content = bytearray(write_zip(path, entries, {"0": SIX.tobytes(), "1": SIX.tobytes()}).read_bytes())
    first, second = (content.index(b"archive/data/" + key, content.index(b"PK\1\2")) - 46 for key in (b"0", b"1"))
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    path.write_bytes(content)
    refused(path, "has another member where its zip directory says that archive/data/1 is")
    # One inside of the other: its header stands in the other's numbers.
    inner = b"PK\3\4" + bytes(22) + struct.pack("<HH", 14, 0) + b"archive/data/1" + SIX.tobytes()
    entries = {"a": tensor(storage(count=len(inner) // 4), (len(inner) // 4,), (1,)), "b": tensor(storage("1"))}
    content = bytearray(write_zip(path, entries, {"0": inner, "1": SIX.tobytes()}).read_bytes())
    second = content.index(b"archive/data/1", content.index(b"PK\1\2")) - 46
    content[second + 42 : second + 46] = struct.pack("<I", content.index(inner))
    path.write_bytes(content)
    refused(path, "has overlapping storages: archive/data/1 begins inside another member")


@pytest.mark.parametrize("field", [10, 20, 24, 42])
@pytest.mark.parametrize("value", [0, 1, 23, 25, 2**31, 2**32 - 2, 2**32 - 1])
def test_a_directory_that_lies(tmp_path: Path, field: int, value: int) -> None:
    """Method, compressed size, size and place of a storage."""
    content = bytearray(good_zip(tmp_path / "x.pth").read_bytes())
    entry = content.index(b"archive/data/0", content.index(b"PK\1\2")) - 46
    width = 2 if field == 10 else 4
    value %= 2 ** (8 * width)
    if content[entry + field : entry + field + width] == value.to_bytes(width, "little"):
        return
    content[entry + field : entry + field + width] = value.to_bytes(width, "little")
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", "has ")


def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    count = 2**28
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickled({"a": tensor(storage(count=count), (count,), (1,))}))
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(2**10):
                member.write(bytes(2**20))
    with traced() as peak:
        refused(path, "has compressed or encrypted archive/data")
    assert peak() < 2**20


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "magic": ({"magic": Raw(code(0x1950A86A20F9469CFC6C) + b"0N")}, "is a PyTorch checkpoint of an unknown version"),
    "version": ({"version": 1002}, "is a PyTorch checkpoint of an unknown version"),
    "version of letters": ({"version": "1001"}, "is a PyTorch checkpoint of an unknown version"),
    "no system": ({"system": 3}, "is a PyTorch checkpoint that does not state its byte order"),
    "no byte order": ({"system": {}}, "is a PyTorch checkpoint that does not state its byte order"),
    "more keys": ({"keys": ["0", "1"]}, "lists other storages than its tensors need"),
    "fewer keys": ({"keys": []}, "lists other storages than its tensors need"),
    "keys twice": ({"keys": ["0", "0"]}, "lists other storages than its tensors need"),
    "many keys": ({"keys": ["0"] * 100_000}, "lists other storages than its tensors need"),
    "too many keys": ({"keys": Raw(b"](" + b"N" * 600_000)}, "has a pickle of more than 524288 opcodes"),
    "keys of numbers": ({"keys": [0]}, "has no list of its storages"),
    "no list": ({"keys": "0"}, "has no list of its storages"),
    "fewer numbers": ({"sizes": {"0": 5}}, "has 5 elements in the storage 0, which should have 6"),
    "more numbers": ({"sizes": {"0": 2**60}}, "has 1152921504606846976 elements in the storage 0"),
    "asks early": ({"system": Name("os", "system")}, "asks for os.system, which is not an array"),
    "asks late": ({"keys": [Name("os", "system")]}, "asks for os.system, which is not an array"),
    "whole module": (
        {"content": {"a": Reference(("module", Name("torch", "FloatStorage"), "a.py", "import os", 0, 0))}},
        "refers to a module, which is not an array: it is refused",
    ),
}


@pytest.mark.parametrize(("changes", "message"), LIES.values(), ids=LIES)
def test_old_files_that_lie(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    content = {"a": tensor(storage(parts=(None,)))}
    path = write_legacy(tmp_path / "x.pth", content, {"0": SIX.tobytes()})
    assert_same(read(path), {"a": SIX.reshape(2, 3)})
    refused(write_legacy(path, **{"content": content, "storages": {"0": SIX.tobytes()}} | changes), message)


def test_old_files_end_where_their_storages_do(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "x.pth", {"a": tensor(storage(parts=(None,)))}, {"0": SIX.tobytes()})
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    refused(path, "has data behind the end of its last storage")
    path.write_bytes(whole[:-1])
    refused(path, "ends before its storage 0 does")


# ------------------------------------------------------------------ memory and time


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Give a function that tells how many bytes more than at the start were in use at most."""
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()


HEAD = b"\x80\x04"
LAUGHS = b"]q\0" + b"".join(b"0](" + bytes([ord("h"), i]) * 10 + b"eq" + bytes([i + 1]) for i in range(60))
PAIRS = b")q\0" + b"".join(b"0" + bytes([ord("h"), i]) * 2 + b"\x86q" + bytes([i + 1]) for i in range(60))
SIZED = {  # instructions that say how much they want; it is not there
    "LONG_BINPUT": (HEAD + b"}r\xff\xff\xff\xff.", "holds no arrays"),
    "PUT": (HEAD + b"}p" + b"9" * 50 + b"\n.", "holds no arrays"),
    "BINBYTES8": (HEAD + b"\x8e" + struct.pack("<Q", 2**60), "ends in the middle"),
    "BYTEARRAY8": (HEAD + b"\x96" + struct.pack("<Q", 2**63 + 5), "ends in the middle"),
    "BINUNICODE8": (HEAD + b"\x8d" + struct.pack("<Q", 2**40), "ends in the middle"),
    "BINUNICODE": (HEAD + b"X\xff\xff\xff\xff", "ends in the middle"),
    "BINSTRING": (HEAD + b"T\xff\xff\xff\xff", "ends in the middle"),
    "LONG4": (HEAD + b"\x8b\xff\xff\xff\xff", "has a number of 4294967295 bytes"),
    "FRAME": (HEAD + b"\x95" + struct.pack("<Q", 2**62) + b"}.", "ends in the middle"),
    "key of lists": (HEAD + b"}" + LAUGHS + b"Ns.", "has a dict whose key is neither"),
    "key of tuples": (HEAD + b"}" + PAIRS + b"Ns.", "has a dict whose key is neither"),
    "list of itself": (HEAD + b"}\x8c\1a]q\0h\0as.", "has a among its weights, which is not an array"),
    "dict of itself": (HEAD + b"}q\0\x8c\5modelh\0s.", "has model among its weights, which is not an array"),
    "laughs": (HEAD + b"}\x8c\1a" + LAUGHS + b"s.", "has a among its weights, which is not an array"),
    "laughs as a shape": (
        HEAD + code(SHELL) + b"(K\1" + LAUGHS + code(F4) + b"\x89" + code(b"1234") + b"tb.",
        "has an array whose shape is",
    ),
}


@pytest.mark.parametrize(("content", "message"), SIZED.values(), ids=SIZED)
def test_claims_cost_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    refused(tmp_path / "x.pkl", message)
    start = time.perf_counter()
    with traced() as peak:
        refused(tmp_path / "x.pkl", message)
    assert peak() < 2**20
    assert time.perf_counter() - start < 1


MANY = {  # instructions of a byte or a few that keep something; a few hundred bytes each at the most
    "lists": b"]" * 2**19,
    "memo": b"}" + b"\x94" * 2**19,
    "texts": b"\x8c\1a" * 2**19,
    "tuples in tuples": b")" + b"\x85" * (2**19 - 2) + b".",
    "numbers that collide": b"}("
    + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(10_000))
    + b"u.",
    "pairs over and over": code(ORDERED)
    + b"q\0]("
    + b"K\1K\2\x86" * 30_000
    + b"eq\1"
    + b"0h\0h\1\x85R" * 30_000
    + b".",
    "marks": b"(" * 2**19,
}


@pytest.mark.parametrize("content", MANY.values(), ids=MANY)
def test_many_instructions_take_seconds(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(HEAD + content)
    start = time.process_time()
    refused(tmp_path / "x.pkl", "")
    assert time.process_time() - start < 10


@pytest.mark.parametrize("kind", ["lists", "memo", "texts"])
def test_an_instruction_keeps_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(pickles, "_MAX_OPCODES", 2**14)
    (tmp_path / "x.pkl").write_bytes(HEAD + MANY[kind])
    with traced() as peak:
        refused(tmp_path / "x.pkl", "has a pickle of more than 16384 opcodes")
    assert peak() < 256 * 2**14


def test_bytes_that_many_arrays_share(tmp_path: Path) -> None:
    kept = Raw(code(storage(count=1000)) + b"q\1")
    entries = {"first": tensor(kept, (1000,), (1,))}
    entries |= {f"{i}": tensor(Raw(b"h\1"), (1000,), (1,)) for i in range(2000)}
    path = write_zip(tmp_path / "x.pth", entries, {"0": bytes(4000)})
    refused(path, "has arrays that share bytes and together are over 16 times its size")


@pytest.mark.parametrize("form", ["zip", "legacy", "2", "4", "5", "safetensors"])
def test_reading_keeps_one_array_at_a_time(tmp_path: Path, form: str) -> None:
    arrays = {f"a{i}": np.full((256, 1024), i, np.float32) for i in range(12)}  # a MiB each
    path = tmp_path / "model"
    if form in ("zip", "legacy"):
        parts = (None,) if form == "legacy" else ()
        entries = {n: tensor(storage(n, 2**18, parts=parts), (256, 1024), (1024, 1)) for n in arrays}
        write = write_legacy if form == "legacy" else write_zip
        write(path, entries, {n: a.tobytes() for n, a in arrays.items()})
    elif form == "safetensors":
        save_file(arrays, path)
    else:
        path.write_bytes(pickle.dumps(arrays, int(form)))
    open_checkpoint(path)
    with traced() as peak:
        checkpoint = open_checkpoint(path)
        assert peak() < 2**18
        for name, array in checkpoint.arrays.items():
            np.testing.assert_array_equal(np.asarray(array), arrays[name])
        assert peak() < 6 * 2**20  # array, comparison, and for text a block in three forms


# ------------------------------------------------------------------ files that change meanwhile


def test_a_file_that_changes_after_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x.pth")
    array = open_checkpoint(good_zip(path)).arrays["a"]
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(array, SIX.reshape(2, 3))  # from another directory too
    monkeypatch.chdir(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"^'x.pth' has changed since it was opened\.$"):
        np.asarray(array)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"^'x.pth' has changed since it was opened\.$"):
        np.asarray(array)
    path.unlink()
    with pytest.raises(ValueError, match=r"^'x.pth' can no longer be read: No such file or directory\.$"):
        np.asarray(array)


def test_a_file_that_is_cut_while_it_is_opened() -> None:
    reader = BoundedReader(io.BytesIO(b"\x80\2}"), 0, 100)
    with pytest.raises(CheckpointError, match="ends in the middle of its pickle"):
        read_pickle(reader, {})


def test_a_file_that_ends_too_early_unnoticed(tmp_path: Path) -> None:
    path = good_zip(tmp_path / "x.pth")
    array = open_checkpoint(path).arrays["a"]
    status = path.stat()
    array._disk.__dict__["size"] = 60  # as if it had always been so short
    path.write_bytes(path.read_bytes()[:60])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ValueError, match=r"x.pth' ends before its arrays do\.$"):
        np.asarray(array)


# ------------------------------------------------------------------ damage of any kind


def attempt(path: Path, content: bytes) -> bool:
    """Read ``content`` as a file; tell whether there was no complaint."""
    path.write_bytes(content)
    return not complaint(path)


def without_sum(content: bytes) -> bytes:
    """Take the pickle's check sum out of an archive, as it would notice most damage before the rest could."""
    data = bytearray(content)
    entry = data.find(b"PK\1\2")
    if entry >= 0:
        assert content.index(b"data.pkl", entry) < entry + 80
        data[entry + 16 : entry + 20] = bytes(4)
    return bytes(data)


UNSUMMED = [without_sum(content) for content in CONTENTS]
SMALL = ["scalars_legacy.pth", "rebuild_v3_zip.pth", "zoo_np1_proto2.pkl", "zoo_np2_proto5.pkl", "zoo_np1_proto4.pkl"]


@pytest.mark.parametrize("name", SMALL)
def test_a_file_cut_anywhere(tmp_path: Path, name: str) -> None:
    content = (DATA / name).read_bytes()
    assert attempt(tmp_path / "x", content)
    assert not any(attempt(tmp_path / "x", content[:length]) for length in range(len(content)))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from([*CONTENTS, *UNSUMMED]),
    st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_bytes_that_flip(scratch: Path, content: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(content)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    attempt(scratch, bytes(damaged))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from([b"\x80\2}(", b"(dp0\n", b"ccollections\nOrderedDict\n"]), st.binary(max_size=60))
def test_bytes_that_are_instructions_by_chance(scratch: Path, head: bytes, content: bytes) -> None:
    attempt(scratch, head + content + b".")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "x"


INTERESTING = [
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**60,
    2**63,
    2**64 - 1,
]
OPCODES = b"\x80\x95(01N\x88\x89IJKMLG\x8a\x8bFSUTVX\x8c\x8dCB\x8e\x96]lae)t\x85\x86\x87}dsupqrghj\x94c\x93RbQi.o\x81P2"


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data) + 1)
        match draw.randrange(8):
            case 0:  # a bit
                if place < len(data):
                    data[place] ^= 1 << draw.randrange(8)
            case 1:  # a byte
                data[place : place + 1] = bytes([draw.randrange(256)])
            case 2:  # an instruction
                data[place : place + 1] = bytes([draw.choice(OPCODES)])
            case 3:  # the end
                del data[place:]
            case 4:  # more
                data[place:place] = draw.randbytes(draw.randint(1, 12))
            case 5:  # a number
                width = draw.choice([2, 4, 8])
                value = draw.choice(INTERESTING) % 2 ** (8 * width)
                data[place : place + width] = value.to_bytes(width, draw.choice(["little", "little", "big"]))
            case 6:  # another file's rest
                other = draw.choice(UNSUMMED)
                data[place:] = other[draw.randrange(len(other)) :]
            case 7:  # a stretch of itself elsewhere
                start = draw.randrange(len(data) + 1)
                data[place:place] = data[start : start + draw.randint(1, 40)]
        if not data:
            break
    return bytes(data)


def test_damage_of_every_kind(scratch: Path) -> None:
    for seed in range(1500):
        fuzz(scratch, seed)


@pytest.mark.slow
def test_a_great_deal_of_damage(scratch: Path) -> None:
    whole = sum(fuzz(scratch, seed) for seed in range(10**6, 10**6 + 250_000))
    assert 10_000 < whole < 200_000  # some damage is in the numbers alone, or in what is not read


@pytest.mark.slow
@pytest.mark.parametrize("content", UNSUMMED, ids=[path.name for path in SAMPLES])
def test_every_file_cut_anywhere_and_every_byte_flipped(scratch: Path, content: bytes) -> None:
    assert not any(attempt(scratch, content[:length]) for length in range(len(content)))
    for place in range(len(content)):
        for value in (content[place] ^ 1, 255):
            attempt(scratch, content[:place] + bytes([value]) + content[place + 1 :])


def fuzz(path: Path, seed: int) -> bool:
    """Damage a file as ``seed`` says; a failure names it."""
    draw = random.Random(seed)
    content = mutated(draw.choice(UNSUMMED), draw)
    try:
        return attempt(path, content)
    except BaseException as error:
        error.add_note(f"seed {seed}: {content!r}")
        raise
