"""Headers of safetensors: read as the library does, and checked before anything is allocated."""

from __future__ import annotations

import io
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import SIX, assert_same, complaint, read, refused, traced
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from lucid_maskrcnn.weights.formats import open_checkpoint, write_safetensors


def test_same_arrays_as_the_safetensors_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = ["f4", "f2", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]
    arrays = {f"module.{c}": (rng.standard_normal((3, 4)) * 9).astype(c) for c in codes}
    arrays |= {"zero": np.array(1.5, np.float32), "empty": np.zeros((0, 4), np.float32)}
    path = tmp_path / "model.safetensors"
    save_file(arrays, path, metadata={"licence": "CC0-1.0"})
    checkpoint = open_checkpoint(path)
    assert (checkpoint.kind, checkpoint.metadata) == ("safetensors", {"licence": "CC0-1.0"})
    assert_same(read(path), load_file(path))


def write(path: Path, header: bytes | str, data: bytes = SIX.tobytes()) -> Path:
    encoded = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2, 3), data_offsets: Any = (0, 24), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


def test_bfloat16(tmp_path: Path) -> None:
    upper_halves = (SIX.view("<u4") >> 16).astype("<u2").tobytes()
    header = json.dumps({"a": entry("BF16", data_offsets=[0, 12])})
    assert_same(read(write(tmp_path / "x.safetensors", header, upper_halves)), {"a": SIX.reshape(2, 3)})


def test_arrays_may_stand_in_any_order_behind_a_padded_header(tmp_path: Path) -> None:
    header = {"b": entry(shape=[2], data_offsets=[16, 24]), "none": entry(shape=[0], data_offsets=[16, 16])}
    header |= {"a": entry(shape=[4], data_offsets=[0, 16]), "": entry(shape=[3, 0, 2], data_offsets=[24, 24])}
    found = read(write(tmp_path / "x.safetensors", json.dumps(header) + "   "))
    empty = np.zeros((3, 0, 2), np.float32)
    assert_same(found, {"b": SIX[4:], "none": SIX[:0], "a": SIX[:4], "": empty})


WHAT = "the array a"
SHAPE = f"has {WHAT} whose shape is not a sequence of integers"
OFFSETS = f"has {WHAT} whose data_offsets are not two integers"
KEYS = f"has {WHAT} described by something other than dtype, shape and data_offsets"
MALFORMED_ENTRIES: list[tuple[Any, str]] = [
    (None, KEYS),
    ([], KEYS),
    ({}, KEYS),
    ({"dtype": "F32", "shape": [2, 3]}, KEYS),
    (entry(scale=2), KEYS),
    (entry(dtype=None), f"has {WHAT} with a dtype that is not a string"),
    (entry(dtype=["F32"]), f"has {WHAT} with a dtype that is not a string"),
    (entry(dtype="f32"), f"has {WHAT} of dtype f32, which is not supported"),
    (entry(dtype="F8_E4M3"), f"has {WHAT} of dtype F8_E4M3, which is not supported"),
    (entry(shape=None), SHAPE),
    (entry(shape=6), SHAPE),
    (entry(shape="23"), SHAPE),
    (entry(shape={"2": 3}), SHAPE),
    (entry(shape=[2.0, 3]), SHAPE),
    (entry(shape=[True, 6]), SHAPE),
    (entry(shape=["2", 3]), SHAPE),
    (entry(shape=[[2, 3]]), SHAPE),
    (entry(shape=[-2, -3]), f"has {WHAT} with a negative or too large size"),
    (entry(shape=[2**62, 0]), f"has {WHAT} with a negative or too large size"),
    (entry(shape=[2**40, 2**40, 0]), f"has {WHAT} of the shape (1099511627776, 1099511627776, 0), which is too large"),
    (entry(shape=[1] * 40), f"has {WHAT} of 40 dimensions; at most 32 are allowed"),
    (
        entry(shape=[10**9, 1000]),
        f"has {WHAT} at the bytes 0 to 24, but the shape (1000000000, 1000) of F32 needs",
    ),
    (entry(shape=[2, 2]), f"has {WHAT} at the bytes 0 to 24, but the shape (2, 2) of F32 needs 16"),
    (entry(dtype="F64"), f"has {WHAT} at the bytes 0 to 24, but the shape (2, 3) of F64 needs 48"),
    (entry(data_offsets=None), OFFSETS),
    (entry(data_offsets=[0]), OFFSETS),
    (entry(data_offsets=[0, 24, 24]), OFFSETS),
    (entry(data_offsets=[0.0, 24.0]), OFFSETS),
    (entry(data_offsets=[False, 24]), OFFSETS),
    (entry(data_offsets=["0", "24"]), OFFSETS),
    (entry(data_offsets=[24, 0]), f"has {WHAT} at the bytes 24 to 0"),
    (entry(data_offsets=[-8, 16]), f"has {WHAT} at the bytes -8 to 16"),
    (entry(data_offsets=[8, 32]), f"has {WHAT} at byte 8, which does not follow the one before it"),
    (entry(shape=[2**40], data_offsets=[0, 2**42]), "has 24 bytes of data, but its header describes 4398046511104"),
    (entry(shape=[5], data_offsets=[0, 20]), "has 24 bytes of data, but its header describes 20"),
]


@pytest.mark.parametrize(("described", "message"), MALFORMED_ENTRIES)
def test_malformed_entries_are_refused(tmp_path: Path, described: Any, message: str) -> None:
    refused(write(tmp_path / "x.safetensors", json.dumps({"a": described})), message)


GOOD = json.dumps(entry())


def entry_with(size: str) -> str:
    """Return an array's description with one size as it is written."""
    return f'{{"dtype":"F32","shape":[{size}],"data_offsets":[0,24]}}'


MALFORMED_HEADERS: list[tuple[bytes | str, str]] = [
    ("{[[[", "has a header that is not JSON: "),
    ("{" + " " * 2**20, "has a header that is not JSON: "),
    ('{"a":' + GOOD + "} x", "has a header that is not JSON: "),
    (b'{"\xff":1}', "has a header that is not UTF-8"),
    ('{"a":' * 2**19, "has a header that is nested too deeply"),
    ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "has a header that is nested too deeply"),
    ('{"a":' + entry_with("9" * 400) + "}", "has a number of 400 digits in its header"),
    ('{"a":' + entry_with("-" + "9" * 400) + "}", "has a number of 401 digits in its header"),
    ('{"a":' + entry_with("9" * 400 + ".5") + "}", "has the array a whose shape is not a sequence of integers"),
    ('{"a":' + entry_with("1e400") + "}", "has the array a whose shape is not a sequence of integers"),
    ("{" + " " * 2**25, "has a header of 33554433 bytes, more than any model needs"),
    ("{}", "has 24 bytes of data, but its header describes 0"),
    ('{"a":' + GOOD + ',"a":' + GOOD + "}", "has a twice in its header"),
    ('{"a":{"dtype":"F32","dtype":"F32"}}', "has dtype twice in its header"),
    ('{"a":NaN}', "has NaN in its header, which is not JSON"),
    ('{"a":-Infinity}', "has -Infinity in its header, which is not JSON"),
    ('{"a":' + "9" * 5000 + "}", "has a number of 5000 digits in its header"),
    ('{"\\ud800":1}', r"has \ud800 in its header, which is not Unicode text"),
    ('{"__metadata__":{"x":"\\udfff"}}', r"has \udfff in its header, which is not Unicode text"),
    ('{"__metadata__":null,"a":' + GOOD + "}", "has metadata that is not a JSON object"),
    ('{"__metadata__":[],"a":' + GOOD + "}", "has metadata that is not a JSON object"),
    ('{"__metadata__":{"x":1},"a":' + GOOD + "}", "has metadata whose x is not a string"),
    ('{"__metadata__":{"x":{"y":"z"}},"a":' + GOOD + "}", "has metadata whose x is not a string"),
    ('{"__metadata__":{"x":null},"a":' + GOOD + "}", "has metadata whose x is not a string"),
    ('{"a":' + GOOD + ',"b":' + GOOD + "}", "has the array b at byte 0, which overlaps with the one before it"),
]


@pytest.mark.parametrize(("header", "message"), MALFORMED_HEADERS, ids=range(len(MALFORMED_HEADERS)))
def test_malformed_headers_are_refused(tmp_path: Path, header: bytes | str, message: str) -> None:
    refused(write(tmp_path / "x.safetensors", header), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (save({}), "holds no arrays"),
        (save({"a": SIX})[:-1], "has 23 bytes of data, but its header describes 24"),
        (save({"a": SIX}) + b"\0", "has 25 bytes of data, but its header describes 24"),
        (struct.pack("<Q", 100) + b"{}", "is not a checkpoint"),
    ],
)
def test_truncated_and_extended_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(tmp_path / "x.safetensors", message)


# ------------------------------------------------------------------ fuzzing

VALUES: list[Any] = [None, True, False, 0, 1, -1, 2, 3, 6, 23, 24, 25, 2**31, 2**48, 2**64, 1.0, 1e300, "", "F32"]
VALUES += ["x" * 1000, "\0", [], [0], [2, 3], [0, 24], [-1, -6], [2**40] * 3, {}, {"a": []}, entry()]


def mutated(value: Any, draw: random.Random) -> Any:
    """Replace, remove, repeat or rename something in a header."""
    if draw.random() < 0.3 or not isinstance(value, (dict, list)) or not value:
        return draw.choice(VALUES)
    if isinstance(value, list):
        i = draw.randrange(len(value))
        changed = draw.choice([[mutated(value[i], draw)], [], [value[i]] * draw.choice([2, 50])])
        return value[:i] + changed + value[i + 1 :]
    name = draw.choice(list(value))
    rest = {k: v for k, v in value.items() if k != name}
    match draw.randrange(4):
        case 0:
            return rest
        case 1:
            return {draw.choice(["", "a", "dtype", "__metadata__", "x" * 300]): value[name], **rest}
        case _:
            return {**value, name: mutated(value[name], draw)}


def test_fuzz_headers(tmp_path: Path) -> None:
    original = {
        "__metadata__": {"format": "pt", "arguments": "{}"},
        "a": entry(shape=[2], data_offsets=[0, 8]),
        "b": entry("F16", [2, 1, 2], [8, 16]),
        "c": entry("I64", [], [16, 24]),
    }
    path = write(tmp_path / "x.safetensors", json.dumps(original))
    assert not complaint(path)
    complaints = []
    with traced() as peak:
        for seed in range(600):
            draw = random.Random(seed)
            header = json.dumps(mutated(original, draw))
            if draw.random() < 0.2:  # damage the JSON too
                place = draw.randrange(len(header))
                header = header[:place] + draw.choice('{}[]",:0-.\\ ') + header[place + draw.randrange(3) :]
            complaints.append(complaint(write(path, header)))  # asserts that it is one sentence that names the file
    assert peak() < 2**21
    parts = ("is not JSON", "metadata that is", "metadata whose", "a sequence of integers", "are not two", "overlaps")
    assert all(any(part in text for text in complaints) for part in parts)
    assert sum(map(bool, complaints)) > 400


def test_written_file_is_the_librarys_but_for_the_order_of_the_metadata(tmp_path: Path) -> None:
    arrays = {
        "b": SIX.reshape(2, 3).T,
        "a": SIX.astype(np.float16),
        "é": np.array(3),
        "d": np.zeros((0, 2), np.float32),
        "e": np.array([True]),
        "f": SIX.astype(">f4"),
    }
    metadata = {"format": "pt", "a": 'é"\n'}
    with (tmp_path / "x.safetensors").open("wb") as file:
        write_safetensors(file, dict(reversed(arrays.items())), metadata)
    native = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("=")).reshape(a.shape) for name, a in arrays.items()}
    loaded = load_file(tmp_path / "x.safetensors")
    for name, array in native.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    with safe_open(tmp_path / "x.safetensors", "numpy") as opened:
        assert opened.metadata() == metadata
    assert len((tmp_path / "x.safetensors").read_bytes()) == len(save(native, metadata))
    with pytest.raises(ValueError, match=r"x has the dtype complex128, which .safetensors files cannot hold."):
        write_safetensors(io.BytesIO(), {"x": np.zeros(1, complex)}, {})
