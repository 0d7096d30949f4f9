"""One door for all formats: which one is found from the content, weights are found in it, and damage only raises."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import pickle
import random
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from any_objects import everything
from checkpoint_files import (
    RECORDED,
    SAMPLES,
    SIX,
    Raw,
    assert_same,
    code,
    complaint,
    read,
    refused,
    storage,
    tensor,
    torch_save,
    traced,
    write_legacy,
    write_zip,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from lucid_maskrcnn.weights.formats import open_checkpoint

SAFETENSORS = save({"a": SIX, "b": SIX.astype(np.float16), "c": np.array(3)}, {"format": "pt"})
TRAINING = {"model": {"a": SIX}, "ema": {"module.a": SIX}, **everything()}
CONTENTS = {path.name: path.read_bytes() for path in SAMPLES} | {"x.safetensors": SAFETENSORS}
CONTENTS |= {f"training{protocol}.pkl": pickle.dumps(TRAINING, protocol) for protocol in (2, 5)}
with tempfile.TemporaryDirectory() as folder:
    CONTENTS["training.pth"] = torch_save(Path(folder) / "x", TRAINING).read_bytes()


# ------------------------------------------------------------------ the recorded files


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORDED / "expected.npz") as file:
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


def test_format_does_not_depend_on_the_file_name(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes((RECORDED / "params_zip.pth").read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / "weights.bin")
    assert open_checkpoint(tmp_path / "link").kind == "torch"


# ------------------------------------------------------------------ finding the weights


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state", "model_state_dict", "blobs"])
def test_weights_inside_a_training_checkpoint(tmp_path: Path, wrapper: str) -> None:
    content = {wrapper: {"module.a": SIX, "module.b": SIX, "module.b_momentum": SIX, "module.steps": 3}, "epoch": 1}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content | {"lr": [0.1, {"x": None}], "cfg": "x" * 5000, "best": SIX}))
    names = ["a", "b"] if wrapper == "blobs" else ["a", "b", "b_momentum"]  # Caffe2's way to keep an optimizer
    assert list(open_checkpoint(path).arrays) == names


def test_module_prefix_of_some_names_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"module.a": SIX, "b": SIX, "model": SIX}))
    assert list(open_checkpoint(path).arrays) == ["module.a", "b", "model"]


def test_module_prefix_is_removed_from_safetensors(tmp_path: Path) -> None:
    save_file({"module.a": SIX, "module.b": SIX}, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path / "model.safetensors").arrays) == ["a", "b"]


def test_metadata_of_a_model_zoo_pickle(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": SIX}, "__author__": "torchvision", "matching_heuristics": True}))
    assert open_checkpoint(path).metadata == {"__author__": "torchvision", "matching_heuristics": "True"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([SIX], "does not hold a dict of arrays"),
        (SIX, "does not hold a dict of arrays"),
        ({}, "holds no arrays"),
        ({"model": {}, "a": SIX}, "has model among its weights, which is not an array but a dict"),
        ({"a": SIX, "names": ["cat"]}, "has names among its weights, which is not an array"),
        ({"model": {"a": SIX, "lr": 0.5}}, "has lr among its weights, which is not an array"),
        ({"a\nb": "text"}, r"holds no arrays: a\nb is a string"),
        ({"a": SIX, "a\nb": "text"}, r"has a\nb among its weights, which is not an array but a string"),
        ({1: SIX}, "has arrays whose names are not short strings"),
        ({"x" * 300: SIX}, "has arrays whose names are not short strings"),
        ({("a", "b"): SIX}, "has arrays whose names are not short strings"),
        ({"a": np.array(["x"])}, "has an array of the dtype U1, which is not numeric: it is refused"),
        ({"a": np.array([object])}, "has an array of the dtype O8, which is not numeric: it is refused"),
        ({"a": np.array([None])}, "has an array of the dtype O8, which is not numeric: it is refused"),
        ({"a": np.zeros(2, "f4,i4")}, "has an array of the dtype V8, which is not numeric: it is refused"),
        ({"a": np.zeros(2, "M8[s]")}, "has an array of the dtype M8, which is not numeric: it is refused"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_pickle_without_weights(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "model.pkl"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps(content, protocol))
        if isinstance(content, dict) and "a" in content and protocol == 2 and content["a"].dtype == object:
            continue  # builtins.object comes first
        refused(path, message)


# ------------------------------------------------------------------ what is not a checkpoint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello there", "is not a checkpoint: it begins with b'hello there'"),
        (b"<!DOCTYPE html><html>", "is a web page: the server sent it in place of the file"),
        (b"\n <html>", "is a web page: the server sent it in place of the file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, as Keras and Matterport's Mask R-CNN write it"),
        (gzip.compress(b"x" * 99, mtime=0), "is a gzip archive or compressed file: unpack it"),
        (bz2.compress(b"x" * 99), "is a bzip2 archive or compressed file: unpack it"),
        (lzma.compress(b"x" * 99), "is an xz archive or compressed file: unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "is a pointer of Git LFS, not the file"),
        (b"\x93NUMPY\1\0", "is a single NumPy array"),
        (b"GGUF\3", "is a GGUF file"),
        (b"\x1c\0\0\0TFL3", "is a model for TensorFlow Lite"),
        (b"\x08\x08\x12\7pytorch\x1a\0052.1.0:", "is a model for ONNX Runtime, which has no weights by name"),
        (b"\x08\1\x12\xf6\1", "is a model for TensorFlow"),
        (b"\x80\x06.", "is not a checkpoint: it begins with"),
        (b"a" * 257 + b"ustar" + b"\0" * 300, "is a tar archive, the oldest format of PyTorch"),
        (b"PK\3\4" + b"\0" * 60, "has a damaged zip directory: File is not a zip file"),
        (b"\x80\2}.\0", "has data behind the end of its pickle"),
        (b"\x80\2}}.", "has a damaged pickle"),
        (b"\x80\2}", "ends in the middle of its pickle, or is damaged"),
        (b"}\x80\6.", "has a pickle of protocol 6; the newest known one is 5"),
    ],
)
def test_other_file_formats(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    refused(tmp_path / "file", message)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["a.npy", "b.npy"], "is a NumPy archive (.npz): pass load_weights(model, dict(numpy.load(file)))"),
        (["config.json", "metadata.json", "model.weights.h5"], "is a Keras file, as Keras and Matterport's"),
        (["readme.txt", "models/best.pth"], "is a zip archive with models/best.pth in it: unpack it, and pass that"),
        (["a.txt"], "is a zip archive without the data.pkl of a PyTorch checkpoint"),
    ],
)
def test_other_archives(tmp_path: Path, members: list[str], message: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name in members:
            archive.writestr(name, b"x")
    refused(tmp_path / "x.pth", message)


@pytest.mark.parametrize("name", ["none.pth", "x" * 1000, "file/x"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        open_checkpoint(tmp_path / name)


def test_folders_and_pipes(tmp_path: Path) -> None:
    refused(tmp_path, "is a directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a regular file")


# ------------------------------------------------------------------ memory


def test_arrays_sharing_bytes_are_limited(tmp_path: Path) -> None:
    kept = Raw(code(storage(count=1000)) + b"q\1")
    entries = {"first": tensor(kept, (1000,), (1,))}
    entries |= {f"{i}": tensor(Raw(b"h\1"), (1000,), (1,)) for i in range(2000)}
    path = write_zip(tmp_path / "x.pth", entries, {"0": bytes(4000)})
    refused(path, "has arrays that share bytes and together are over 16 times its size")


def test_ten_thousand_strided_views_of_one_storage(tmp_path: Path) -> None:
    ends = tensor(Raw(code(storage(count=250_000)) + b"q\1"), (2,), (249_999,))  # reads a MB for two numbers
    entries = {"first": ends} | {f"{i}": tensor(Raw(b"h\1"), (2,), (249_999,)) for i in range(10_000)}
    path = write_zip(tmp_path / "x.pth", entries, {"0": bytes(10**6)})
    refused(path, "has arrays that share bytes and together are over 16 times its size")
    columns = {f"{i}": tensor(Raw(b"h\1"), (2,), (3,), i) for i in range(1, 3)}  # a few are what people save
    columns = {"0": tensor(Raw(code(storage()) + b"q\1"), (2,), (3,)), **columns}
    path = write_zip(path, columns, {"0": SIX.tobytes()})
    assert_same(read(path), {str(i): SIX.reshape(2, 3)[:, i] for i in range(3)})


@pytest.mark.parametrize("form", ["zip", "legacy", "2", "4", "5", "safetensors"])
def test_memory_of_reading_is_one_array(tmp_path: Path, form: str) -> None:
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


# ------------------------------------------------------------------ damage of any kind


def attempt(path: Path, content: bytes) -> bool:
    """Read ``content`` as a file; tell whether there was no complaint."""
    path.write_bytes(content)
    return not complaint(path)


def without_crc(content: bytes) -> bytes:
    """Remove the pickle's CRC from a zip file, as it would reveal most damage before other checks could."""
    data = bytearray(content)
    entry = data.find(b"PK\1\2")
    if entry >= 0:
        assert content.index(b"data.pkl", entry) < entry + 80
        data[entry + 16 : entry + 20] = bytes(4)
    return bytes(data)


WITHOUT_CRC = {name: without_crc(content) for name, content in CONTENTS.items()}
SMALL = (
    "scalars_legacy.pth",
    "rebuild_v3_zip.pth",
    "zoo_np1_proto2.pkl",
    "zoo_np2_proto5.pkl",
    "zoo_np1_proto4.pkl",
    "x.safetensors",
)


@pytest.mark.parametrize("name", SMALL)
def test_truncated_file(tmp_path: Path, name: str) -> None:
    content = CONTENTS[name]
    assert attempt(tmp_path / "x", content)
    assert not any(attempt(tmp_path / "x", content[:length]) for length in range(len(content)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from([*CONTENTS.values(), *WITHOUT_CRC.values()]),
    st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_flipped_bytes(scratch: Path, content: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(content)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    attempt(scratch, bytes(damaged))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from([b"\x80\2}(", b"(dp0\n", b"ccollections\nOrderedDict\n"]), st.binary(max_size=60))
def test_random_opcodes(scratch: Path, head: bytes, content: bytes) -> None:
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
                other = draw.choice(list(WITHOUT_CRC.values()))
                data[place:] = other[draw.randrange(len(other)) :]
            case 7:  # a stretch of itself elsewhere
                start = draw.randrange(len(data) + 1)
                data[place:place] = data[start : start + draw.randint(1, 40)]
        if not data:
            break
    return bytes(data)


def test_fuzz_files(scratch: Path) -> None:
    for seed in range(1500):
        fuzz(scratch, seed)


@pytest.mark.slow
def test_fuzz_many_files(scratch: Path) -> None:
    whole = sum(fuzz(scratch, seed) for seed in range(10**6, 10**6 + 250_000))
    assert 10_000 < whole < 200_000  # some damage is in the numbers alone, or in what is not read


@pytest.mark.slow
@pytest.mark.parametrize("content", WITHOUT_CRC.values(), ids=WITHOUT_CRC)
def test_every_truncation_and_flipped_byte(scratch: Path, content: bytes) -> None:
    assert not any(attempt(scratch, content[:length]) for length in range(len(content)))
    for place in range(len(content)):
        for value in (content[place] ^ 1, 255):
            attempt(scratch, content[:place] + bytes([value]) + content[place + 1 :])


def fuzz(path: Path, seed: int) -> bool:
    """Damage a file as ``seed`` says; a failure names it."""
    draw = random.Random(seed)
    content = mutated(draw.choice(list(WITHOUT_CRC.values())), draw)
    try:
        return attempt(path, content)
    except BaseException as error:
        error.add_note(f"seed {seed}: {content!r}")
        raise
