"""Arguments that are arrays or indices."""

import lucid
import numpy as np
import pytest

from lucid_maskrcnn.array_arguments import numeric_array, row_numbers, zeros_and_ones
from lucid_maskrcnn.ops import as_tensor


@pytest.mark.parametrize("values", [[[1, 2]], ((1, 2),), np.array([[1, 2]]), np.array([[1.0, 2.0]], np.float16)])
def test_arrays_and_lists_of_numbers_are_taken(values):
    found = numeric_array("x", values, "numbers", shape=(None, 2))
    np.testing.assert_array_equal(found, [[1, 2]])


def test_tensors_are_read_from_their_device(device):
    np.testing.assert_array_equal(numeric_array("x", as_tensor([1, 2], device), "numbers"), [1, 2])


def test_no_numbers_have_any_type_and_the_shape_wanted():
    assert numeric_array("x", [], "integers", kinds="iu", shape=(None, 4)).shape == (0, 4)
    assert numeric_array("x", [], "integers", kinds="iu", shape=(None, 4, None)).shape == (0, 4, 0)
    assert numeric_array("x", [], "integers", kinds="iu").shape == (0,)
    with pytest.raises(ValueError, match=r"x must be two integers, got float64 of shape \(0,\)"):
        numeric_array("x", [], "two integers", shape=(2,))


@pytest.mark.parametrize(
    ("values", "error", "given"),
    [
        (None, TypeError, "None"),
        ("12", TypeError, "'12'"),
        (["1"], TypeError, r"\['1'\]"),
        ([True, False], TypeError, r"bool of shape \(2,\)"),
        ({"a": 1}, TypeError, r"\{'a': 1\}"),
        ([1.5, 2], TypeError, r"float64 of shape \(2,\)"),
        ([[1], [2, 3]], ValueError, "rows of different lengths"),
        ([[1, 2]], ValueError, r"int64 of shape \(1, 2\)"),
        (3, TypeError, "3"),
        (np.array(3), ValueError, r"int64 of shape \(\)"),
        (lucid.ones((2, 2)), TypeError, r"float\d+ of shape \(2, 2\)"),
        (object(), TypeError, "<object"),
    ],
)
def test_anything_else_is_named(values, error, given):
    with pytest.raises(error, match=rf"^x must be integers, got {given}.*\.$"):
        numeric_array("x", values, "integers", kinds="iu", shape=(None,))


def test_other_values_than_zero_and_one_are_found():
    masks = np.array([[[0, 1]], [[0, 7]]])
    np.testing.assert_array_equal(zeros_and_ones("m", masks[:1]), [[[False, True]]])
    with pytest.raises(ValueError, match=r"^m\[1\] must be of zeros and ones, got 7: pass masks > 0, say.$"):
        zeros_and_ones("m", masks)
    with pytest.raises(ValueError, match=r"^m must be of zeros and ones, got nan"):
        zeros_and_ones("m", np.array([[0, np.nan]]))


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(5, 9), []),
        ([], []),
        ((2, 0, 0), [2, 0, 0]),
        (np.uint8([1]), [1]),
        ([True, False, True], [0, 2]),
        (lucid.Tensor(np.int32([2])), [2]),
    ],
)
def test_every_index_becomes_row_numbers(index, rows):
    assert row_numbers(index, 3, "things").tolist() == rows


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (3, IndexError, "Index 3 is out of range: there are 3 things"),
        ([-4], IndexError, r"Index \[-4\] is out of range"),
        ([True], ValueError, r"A bool index of things .* shape \(3,\), got \(1,\)"),
        (True, ValueError, r"got \(\)"),
        (0.5, TypeError, "things are selected by .*, got 0.5"),
        ("a", TypeError, "got 'a'"),
        (None, TypeError, "got None"),
        ([[0, 1], [2]], TypeError, r"got \[\[0, 1\], \[2\]\]"),
        (np.zeros((2, 2), int), TypeError, r"got int64 of shape \(2, 2\)"),
        (slice("a", None), TypeError, "slice of things must have integers"),
    ],
)
def test_wrong_indices_are_named(index, error, message):
    with pytest.raises(error, match=message):
        row_numbers(index, 3, "things")
