"""Run-length encoding: by hand, against pycocotools, there and back, and what is refused."""

import contextlib

import lucid
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lucid_maskrcnn.masks.rle import decode_rle, encode_rle, rle_area

masks = hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def _blob(height, width, seed, share=0.5):
    """A mask with long runs, as objects have."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 8 + 1, width // 8 + 1)) < share
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def test_lengths_run_down_the_columns_and_start_with_zeros():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)  # columns: 00 11 10
    assert decode_rle({"size": [2, 3], "counts": [2, 3, 1]}).tolist() == mask.tolist()
    assert encode_rle(mask) == {"size": [2, 3], "counts": "231"}


@pytest.mark.parametrize(("value", "counts"), [(0, "6"), (1, "06")])
def test_a_mask_of_one_value(value, counts):
    mask = np.full((2, 3), value, bool)
    assert encode_rle(mask) == {"size": [2, 3], "counts": counts}
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_image_without_pixels(shape):
    rle = encode_rle(np.zeros(shape, bool))
    assert rle == {"size": list(shape), "counts": "0"}
    assert decode_rle(rle).shape == shape
    assert rle_area(rle) == 0


@settings(max_examples=100, deadline=None)
@given(masks)
def test_bytes_equal_pycocotools(mask):
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode_rle(mask)
    assert ours["counts"] == theirs["counts"].decode()
    assert ours["size"] == list(theirs["size"])
    np.testing.assert_array_equal(decode_rle(theirs), mask)
    assert rle_area(ours) == coco.area(theirs) == mask.sum()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (480, 640), (1300, 1), (1, 1300), (2000, 1500)])
def test_long_runs_equal_pycocotools(height, width):
    coco = pytest.importorskip("pycocotools.mask")
    for seed, share in enumerate((0.02, 0.5, 0.999)):
        mask = _blob(height, width, seed, share)
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode_rle(mask)["counts"].encode() == theirs["counts"]
        np.testing.assert_array_equal(decode_rle(theirs), mask)


@settings(max_examples=100, deadline=None)
@given(masks)
def test_str_bytes_and_lists_decode_alike(mask):
    rle = encode_rle(mask)
    changes = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0))
    lengths = np.diff(changes, prepend=0, append=mask.size).tolist()
    for counts in (rle["counts"], rle["counts"].encode(), lengths, np.array(lengths), tuple(lengths)):
        np.testing.assert_array_equal(decode_rle({"size": rle["size"], "counts": counts}), mask)


def test_empty_runs_in_the_middle_are_allowed():
    assert decode_rle({"size": [2, 2], "counts": [1, 0, 1, 2]}).T.ravel().tolist() == [0, 0, 1, 1]


def test_decoded_masks_are_contiguous():
    assert decode_rle(encode_rle(_blob(30, 50, 0))).flags.c_contiguous


def test_integers_and_tensors_encode_like_bools(device):
    mask = _blob(20, 30, 1)
    expected = encode_rle(mask)
    assert encode_rle(mask.astype(np.uint8)) == expected
    assert encode_rle(lucid.Tensor(mask).to(device)) == expected


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.zeros((1, 4, 4), bool), ValueError, r"one mask of shape \(H, W\), got bool of shape \(1, 4, 4\)"),
        (np.full((4, 4), 0.3), ValueError, "zeros and ones, got 0.3: pass mask > 0"),
        (np.full((4, 4), np.nan), ValueError, "zeros and ones, got nan"),
        (np.full((4, 4), 255, np.uint8), ValueError, "zeros and ones, got 255"),
        ([[0, 1], [1]], ValueError, "got rows of different lengths"),
        (None, TypeError, "got None"),
        ("mask.png", TypeError, "got 'mask.png'"),
        (7, TypeError, "got 7"),
        ([["0", "1"]], TypeError, r"got \[\['0', '1'\]\]"),
        (np.zeros((2, 2), complex), TypeError, "got complex128 of shape"),
    ],
)
def test_encode_rle_refuses(mask, error, message):
    with pytest.raises(error, match=message) as caught:
        encode_rle(mask)
    assert str(caught.value).startswith("mask must be")


@pytest.mark.parametrize(
    ("rle", "error", "message"),
    [
        ([1, 2], TypeError, r"mapping with keys 'size' and 'counts', got \[1, 2\]"),
        (None, TypeError, "got None"),
        ("231", TypeError, "got '231'"),
        ({"counts": "6"}, ValueError, "mapping"),
        ({"size": [2], "counts": "6"}, ValueError, "sequence of 2 values, got 1"),
        ({"size": 6, "counts": "6"}, TypeError, "sequence of 2 values, got 6"),
        ({"size": [2.5, 3], "counts": "6"}, TypeError, r"rle\['size'\]\[0\] must be a non-negative integer, got 2.5"),
        ({"size": ["2", 3], "counts": "6"}, TypeError, "non-negative integer, got '2'"),
        ({"size": [True, 3], "counts": "6"}, TypeError, "non-negative integer, got True"),
        ({"size": [-2, -3], "counts": "6"}, ValueError, "non-negative integer, got -2"),
        ({"size": [2, 3], "counts": "5"}, ValueError, "cover"),
        ({"size": [2, 3], "counts": ""}, ValueError, "cover"),
        ({"size": [2, 3], "counts": []}, ValueError, "cover"),
        ({"size": [2, 3], "counts": [3, 4]}, ValueError, "cover"),
        ({"size": [2, 3], "counts": [2**62, 2**62, 2**62, 2**62, 6]}, ValueError, "cover"),
        ({"size": [2, 3], "counts": [7, -1]}, ValueError, "negative length"),
        ({"size": [2, 3], "counts": "7O"}, ValueError, "negative length"),
        ({"size": [2, 3], "counts": [2.0, 4.0]}, TypeError, "list of integers"),
        ({"size": [2, 3], "counts": [[2, 4]]}, ValueError, "list of integers"),
        ({"size": [2, 3], "counts": [[2], [4, 1]]}, ValueError, "list of integers"),
        ({"size": [2, 3], "counts": [2**70, 6]}, TypeError, "list of integers"),
        ({"size": [2, 3], "counts": [True, False]}, TypeError, "list of integers"),
        ({"size": [2, 3], "counts": None}, TypeError, "list of integers"),
        ({"size": [2, 3], "counts": 6}, TypeError, "list of integers"),
        ({"size": [2, 3], "counts": "6 "}, ValueError, "characters"),
        ({"size": [2, 3], "counts": "6é"}, ValueError, "characters"),
        ({"size": [2, 3], "counts": "6\ud800"}, ValueError, "characters"),
        ({"size": [2, 3], "counts": b"6\xff"}, ValueError, "characters"),
        ({"size": [2, 3], "counts": "6P"}, ValueError, "unfinished number"),
        ({"size": [2, 3], "counts": "P" * 30 + "0"}, ValueError, "too large"),
    ],
)
def test_malformed_encodings_are_refused_in_one_sentence(rle, error, message):
    with pytest.raises(error, match=message) as caught:
        decode_rle(rle)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=message):
        rle_area(rle)


def test_size_may_be_of_numpy_integers():
    assert decode_rle({"size": np.array([2, 3]), "counts": "6"}).shape == (2, 3)
    assert decode_rle({"size": (np.int64(2), 3), "counts": "6"}).shape == (2, 3)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=12) | st.text(max_size=12))
def test_any_string_decodes_or_raises_value_error(counts):
    with contextlib.suppress(ValueError):
        assert decode_rle({"size": [7, 9], "counts": counts}).shape == (7, 9)
