"""Linear layers, reshapings, dropout and sums."""

import lucid
import numpy as np
import pytest
from gradients import backward, check_empty, check_gradients, cpu_gpu_agree, float32, gradients, normal, tensor, values

from lucid_maskrcnn.ops import _parallel, add_scalars, concat_anchors, dropout, flatten, linear

# ------------------------------------------------------------------ linear


def test_linear_by_hand(device: str) -> None:
    x = tensor(np.float32([[1, 2, 3], [0, -1, 0]]), device)
    weight, bias = tensor(np.float32([[1, 0, 1], [0, 2, -1]]), device), tensor(np.float32([0.5, -4]), device)
    assert values(linear(x, weight, bias)).tolist() == [[4.5, -3], [0.5, -6]]
    assert values(linear(x, weight, bias, relu=True)).tolist() == [[4.5, 0], [0.5, 0]]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("rows", [None, 2])
def test_linear_gradients(monkeypatch: pytest.MonkeyPatch, relu: bool, rows: int | None) -> None:
    if rows:  # blocks so small that there are several
        monkeypatch.setattr(_parallel, "_FEW_ROWS", rows)
        monkeypatch.setattr(_parallel, "_SUMMED_ROWS", rows)
    arrays = [normal(7, 4), normal(5, 4), normal(5)]
    check_gradients(lambda *a: linear(*a, relu=relu), *arrays, tol=1e-8)
    cpu_gpu_agree(lambda *a: linear(*a, relu=relu), *arrays)


def test_linear_of_no_rows(device: str) -> None:
    check_empty(linear, [normal(0, 4), normal(5, 4), normal(5)], (0, 5), device)


def test_linear_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [normal(300, 33).astype(np.float32), normal(70, 33).astype(np.float32), normal(70).astype(np.float32)]
    found = []
    for num in (1, 2, 3):
        monkeypatch.setattr(_parallel, "num_threads", lambda num=num: num)
        value, grads = gradients(linear, *arrays, wrt=range(3))
        found.append([value, *grads])
    for one, two, three in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-4)
        np.testing.assert_allclose(three, one, atol=1e-4)


# ------------------------------------------------------------------ reshapings


def test_flatten_has_channels_slowest(device: str) -> None:
    x = float32(3, 2, 4, 5, device=device)
    np.testing.assert_array_equal(values(flatten(x)), values(x).reshape(3, 40))
    check_gradients(flatten, normal(2, 2, 3, 2), tol=1e-8)
    cpu_gpu_agree(flatten, normal(2, 2, 3, 2))


def test_flatten_of_nothing(device: str) -> None:
    check_empty(flatten, [normal(0, 2, 4, 5)], (0, 40), device)


def test_concat_anchors_orders_by_level_row_column_and_anchor(device: str) -> None:
    shapes, num = [(2, 3), (1, 2)], 2  # of each anchor 4 values
    maps, expected = [], []
    for level, (rows, cols) in enumerate(shapes):
        features = np.zeros((1, num * 4, rows, cols), np.float32)
        for row, col, anchor, value in np.ndindex(rows, cols, num, 4):
            features[0, anchor * 4 + value, row, col] = code = 1000 * level + 100 * row + 10 * col + anchor + value / 10
            expected.append(code)
        maps.append(tensor(features, device))
    found = values(concat_anchors(maps, 4))
    assert found.shape == (1, (6 + 2) * num, 4)
    np.testing.assert_array_equal(found.ravel(), np.float32(expected))


@pytest.mark.parametrize("num_values", [1, 4])
def test_concat_anchors_gradients(num_values: int) -> None:
    arrays = [normal(2, 3 * num_values, *size) for size in [(3, 2), (2, 1), (1, 1)]]
    check_gradients(lambda *maps: concat_anchors(maps, num_values), *arrays, tol=1e-8)
    cpu_gpu_agree(lambda *maps: concat_anchors(maps, num_values), *arrays)
    check_gradients(lambda m: concat_anchors([m], num_values), arrays[0], tol=1e-8)


# ------------------------------------------------------------------ dropout, sums


@pytest.mark.parametrize("p", [0.0, 0.25, 0.9])
def test_dropout_keeps_the_expectation(device: str, p: float) -> None:
    lucid.random.seed(0)
    x = np.ones((200, 200), np.float32)
    value, (grad,) = gradients(lambda x: dropout(x, p), x, wrt=(0,), cotangent=3 * x, device=device)
    np.testing.assert_allclose(np.unique(value), [0, 1 / (1 - p)] if p else [1], rtol=1e-6)
    assert (value == 0).mean() == pytest.approx(p, abs=0.01)
    assert value.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(grad, 3 * value)  # what was dropped gets none
    assert value.dtype == grad.dtype == np.float32


def test_dropout_repeats_with_the_seed(device: str) -> None:
    x, drawn = float32(50, 20, device=device), []
    for seed in (1, 1, 2):
        lucid.random.seed(seed)
        drawn.append(values(dropout(x, 0.5)))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert (values(dropout(x, 0.5)) != drawn[2]).any(), "the second draw is the first again"


def test_dropout_of_nothing(device: str) -> None:
    check_empty(lambda x: dropout(x, 0.5), [normal(0, 4)], (0, 4), device)


def test_add_scalars(device: str) -> None:
    terms = [tensor(np.array(v, np.float32), device, requires_grad=True) for v in (1.5, -2, 4)]
    total = add_scalars(*terms)
    assert total.shape == ()
    assert float(values(total)) == 3.5
    backward(total, np.float32(2))
    assert [float(np.asarray(t.grad)) for t in terms] == [2, 2, 2]
    assert len({id(t.grad) for t in terms}) == 3, "the terms share one gradient array"


def test_add_scalars_of_one(device: str) -> None:
    assert float(values(add_scalars(tensor(np.array(7, np.float32), device)))) == 7


# ------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear(float32(2, 3), float32(4, 2), float32(4)), r"weight must have shape \(O, 3\), got \(4, 2\)"),
        (lambda: linear(float32(2, 3), float32(4, 3), float32(3)), r"bias must have shape \(4,\), got \(3,\)"),
        (lambda: linear(float32(2, 3, 1, 1), float32(4, 3)), r"x must have shape \(R, D\), got \(2, 3, 1, 1\)"),
        (lambda: dropout(float32(2), 1), "p must be a number of at least 0 and below 1, got 1"),
        (lambda: concat_anchors([float32(1, 6, 2, 2)], 4), "a multiple of 4 channels, got 6"),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
