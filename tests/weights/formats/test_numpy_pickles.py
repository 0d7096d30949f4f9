"""Pickles of NumPy arrays, of every protocol."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import assert_same, read

from lucid_maskrcnn.weights.formats import open_checkpoint


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


def test_protocol_0_of_python_2(tmp_path: Path) -> None:
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
