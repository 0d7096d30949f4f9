"""The checks of arguments: plain Python out, or one sentence that names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lucid import Tensor

from lucid_maskrcnn import validators as v


@pytest.mark.parametrize(
    ("check", "given", "plain"),
    [
        (v.integer, np.int64(-3), -3),
        (v.integer, np.array(-3, np.int16), -3),
        (v.positive_int, Tensor(np.array(7, np.int32)), 7),
        (v.positive_int, Tensor(np.array(7, np.int32), device="gpu"), 7),
        (v.number, np.array(0.5), 0.5),
        (v.fraction, Tensor(np.array(0.25, np.float32)), 0.25),
        (v.positive_int, np.uint8(7), 7),
        (v.non_negative_int, 0, 0),
        (v.number, np.float32(0.5), 0.5),
        (v.number, 3, 3),
        (v.positive_number, 1e-300, 1e-300),
        (v.fraction, 1, 1),
        (v.fraction_below_one, np.float64(0.0), 0.0),
        (v.flag, np.True_, True),
        (v.text, "a", "a"),
        (v.optional(v.positive_int), None, None),
        (v.optional(v.positive_int), 2, 2),
    ],
)
def test_right_value_comes_out_as_plain_python(check: Any, given: Any, plain: Any) -> None:
    found = check("x", given)
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize(
    ("check", "given", "error", "sentence"),
    [
        (v.integer, 1.0, TypeError, "x must be an integer, got 1.0."),
        (v.positive_int, True, TypeError, "x must be a positive integer, got True."),
        (v.positive_int, np.True_, TypeError, "x must be a positive integer, got np.True_."),
        (v.positive_int, "3", TypeError, "x must be a positive integer, got '3'."),
        (v.positive_int, None, TypeError, "x must be a positive integer, got None."),
        (v.positive_int, np.array([3]), TypeError, "x must be a positive integer, got array([3])."),
        (v.positive_int, np.array(True), TypeError, "x must be a positive integer, got True."),
        (v.positive_int, Tensor(np.array(True)), TypeError, "x must be a positive integer, got True."),
        (v.positive_int, Tensor(np.array(2.0)), TypeError, "x must be a positive integer, got 2.0."),
        (v.positive_int, Tensor(np.array([3], np.int32)), TypeError, "x must be a positive integer, got Tensor([3]"),
        (v.positive_int, 0, ValueError, "x must be a positive integer, got 0."),
        (v.non_negative_int, -1, ValueError, "x must be a non-negative integer, got -1."),
        (v.number, float("nan"), ValueError, "x must be a finite number, got nan."),
        (v.number, 10**400, ValueError, "x must be a finite number, got 1000"),
        (v.number, 1j, TypeError, "x must be a finite number, got 1j."),
        (v.positive_number, 0, ValueError, "x must be a number above 0, got 0."),
        (v.fraction, 1.5, ValueError, "x must be a number between 0 and 1, got 1.5."),
        (v.fraction, True, TypeError, "x must be a number between 0 and 1, got True."),
        (v.fraction_below_one, 1, ValueError, "x must be a number of at least 0 and below 1, got 1."),
        (v.flag, 1, TypeError, "x must be True or False, got 1."),
        (v.flag, "no", TypeError, "x must be True or False, got 'no'."),
        (v.text, b"a", TypeError, "x must be a string, got b'a'."),
        (v.text, "", ValueError, "x must not be an empty string."),
        (v.path, "a\0b", ValueError, "x must be a path, got 'a\\x00b' with a null character"),
    ],
)
def test_wrong_value_is_refused_in_a_sentence(check: Any, given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        check("x", given)
    assert str(caught.value).startswith(sentence)


def test_limits_are_in_the_sentence() -> None:
    assert v.positive_int("x", 9, maximum=9) == 9
    with pytest.raises(ValueError, match="x must be an integer from 1 to 9, got 10"):
        v.positive_int("x", 10, maximum=9)


@pytest.mark.parametrize("given", [[1, 2], (1, 2), range(1, 3), np.array([1, 2])])
def test_sequences_become_tuples(given: Any) -> None:
    assert v.sequence("x", given, v.positive_int) == (1, 2)


@pytest.mark.parametrize(
    ("given", "options", "error", "sentence"),
    [
        ("12", {}, TypeError, "x must be a sequence, got '12'"),
        (3, {}, TypeError, "x must be a sequence, got 3"),
        ({1: 2}, {}, TypeError, "x must be a sequence, got {1: 2}"),
        (np.ones((2, 2), int), {}, TypeError, "x must be a sequence, got array"),
        ([1, 0], {}, ValueError, r"x\[1\] must be a positive integer, got 0"),
        ([1], {"length": 2}, ValueError, r"x must be a sequence of 2 values, got 1: \[1\]"),
        ([], {"minimum": 1}, ValueError, r"x must have at least one value, got \[\]"),
    ],
)
def test_sequence_that_is_wrong_says_where(
    given: Any, options: dict[str, int], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        v.sequence("x", given, v.positive_int, **options)


def test_pair_takes_one_number_for_both() -> None:
    assert v.pair("x", np.int64(7), v.positive_int) == (7, 7)
    assert v.pair("x", [7, 9], v.positive_int) == (7, 9)
    with pytest.raises(ValueError, match="x must be a sequence of 2 values, got 3"):
        v.pair("x", (1, 2, 3), v.positive_int)


def test_choice_suggests_the_nearest() -> None:
    assert v.choice("x", "batch", ("frozen", "batch")) == "batch"
    with pytest.raises(ValueError, match=r"x must be one of 'frozen', 'batch', got 'frozn'\. Did you mean 'frozen'\?"):
        v.choice("x", "frozn", ("frozen", "batch"))
    with pytest.raises(TypeError, match="x must be one of 1, 2, got '1'"):
        v.choice("x", "1", (1, 2))
    with pytest.raises(TypeError, match="x must be one of 1, 2, got True"):
        v.choice("x", True, (1, 2))


def test_unknown_keyword_names_the_nearest_or_what_it_is_called_here() -> None:
    known = ("num_classes", "weights", "top_k")
    v.check_keywords("f()", ["top_k"], known)
    with pytest.raises(TypeError, match=r"f\(\) has no argument 'num_class'; did you mean 'num_classes'\?"):
        v.check_keywords("f()", ["num_class"], known)
    with pytest.raises(TypeError, match=r"f\(\) has no argument 'pretrained'; did you mean 'weights'\?"):
        v.check_keywords("f()", ["pretrained"], known, {"pretrained": "weights"})
    with pytest.raises(TypeError, match=r"f\(\) has no argument 'zzz'\.$"):
        v.check_keywords("f()", ["zzz"], known)


def test_long_values_are_shortened() -> None:
    assert len(v.shown(list(range(10_000)))) < 100
    assert len(v.shown("a" * 10_000)) < 100
