"""3×3 convolutions in the transform domain: against a loop's arithmetic, their adjoints, and their kept transforms."""

import gc
import weakref

import numpy as np
import pytest
from gradients import check_gradients, gradients, tensor, values
from hypothesis import given, settings
from hypothesis import strategies as st

from lucid_maskrcnn.ops import _parallel, conv, conv2d, no_grad, winograd


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def direct(x: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """(N, H, W, C), (O, C, 3, 3) -> (N, P, Q, O), nine products of shifted images."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = x.shape[1] - 2, x.shape[2] - 2
    return sum(x[:, i : i + height, j : j + width] @ weight[:, :, i, j].T for i in range(3) for j in range(3))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even small images into several chunks and blocks."""
    monkeypatch.setattr(winograd, "_CHUNK_VALUES", 36 * 8 * 7)
    monkeypatch.setattr(winograd, "_PIECE_VALUES", 36 * 5 * 3)


@pytest.mark.parametrize("cut", ["whole", "small blocks"])
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 3),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    channels=st.integers(1, 6),
    filters=st.integers(1, 6),
    padding=st.integers(0, 7),
    relu=st.booleans(),
    extras=st.booleans(),
    seed=st.integers(0, 99),
)
def test_winograd_equals_a_direct_convolution(
    cut: str, n: int, height: int, width: int, channels: int, filters: int, padding: int, relu: bool, extras: bool, seed
) -> None:
    height, width = max(height, 3 - 2 * padding), max(width, 3 - 2 * padding)
    x, weight = normal(n, height, width, channels, seed=seed), normal(filters, channels, 3, 3, seed=seed)
    expected = direct(x, weight, padding)
    bias = normal(filters, seed=seed) if extras else None
    residual = normal(*expected.shape, seed=seed) if extras else None
    with pytest.MonkeyPatch.context() as patch:
        if cut == "small blocks":
            patch.setattr(winograd, "_CHUNK_VALUES", 36 * (channels + filters) * 7)
            patch.setattr(winograd, "_PIECE_VALUES", 36 * max(channels, filters) * 3)
            patch.setattr(winograd, "_TAPS", 5)
        points = winograd.weight_points(weight, None, keep=False)
        found = winograd.correlate(x, points, padding, bias=bias, residual=residual, relu=relu)
        cotangent = normal(*expected.shape, seed=seed + 1)
        back = winograd.correlate(cotangent, points, 2 - padding, turned=True)
        of_weight = winograd.grad_weight(x, cotangent, weight.shape, 1, padding)
    # The adjoints: <y', A x> = <Aᵀ y', x>, for the input and for the weight.
    inner = float((cotangent * expected).sum())
    assert back.shape == x.shape
    assert float((back * x).sum()) == pytest.approx(inner, abs=1e-9)
    assert float((of_weight * weight).sum()) == pytest.approx(inner, abs=1e-9)
    expected = expected + (bias + residual if extras else 0)
    np.testing.assert_allclose(found, np.maximum(expected, 0) if relu else expected, atol=1e-10)


def test_gradients_equal_those_of_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = normal(2, 33, 9, 14), normal(34, 33, 3, 3)
    bias, scale, residual = normal(34), normal(34) + 2, normal(2, 34, 9, 14)

    def fn(x, weight, bias, scale, residual):
        return conv2d(x, weight, bias, padding=1, scale=scale, residual=residual, relu=True)

    monkeypatch.setattr(winograd, "_FEWEST_CHANNELS", 33)
    fast, fast_grads = gradients(fn, x, weight, bias, scale, residual, wrt=(0, 1, 2, 4))
    monkeypatch.setattr(winograd, "suits", lambda *_: False)
    plain, plain_grads = gradients(fn, x, weight, bias, scale, residual, wrt=(0, 1, 2, 4))
    np.testing.assert_allclose(fast, plain, atol=1e-10)
    for one, other in zip(fast_grads, plain_grads, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_gradients_are_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_FEWEST_CHANNELS", 1)
    check_gradients(lambda x, w, b: conv2d(x, w, b, padding=1), normal(1, 2, 6, 5), normal(3, 2, 3, 3), normal(3))


@pytest.mark.parametrize("channels", [64, 256, 512])
def test_rounding_is_small(channels: int) -> None:
    """The values of a network: positive inputs, weights that keep the variance. Ten times a plain product's error."""
    x = np.maximum(normal(1, 24, 24, channels), 0)
    weight = normal(64, channels, 3, 3) * np.sqrt(2 / (9 * channels))
    expected = direct(x, weight, 1)
    points = winograd.weight_points(weight.astype(np.float32), None, keep=False)
    found = winograd.correlate(x.astype(np.float32), points, 1)
    assert np.abs(found - expected).max() < 2e-5 * expected.std()
    assert np.square(found - expected).mean() ** 0.5 < 2e-6 * expected.std()


@pytest.mark.usefixtures("small_blocks")
def test_winograd_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = (a.astype(np.float32) for a in (normal(2, 21, 30, 8), normal(8, 8, 3, 3)))
    cotangent = normal(2, 21, 30, 8, seed=1).astype(np.float32)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(_parallel, "num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(_parallel, "_pool", None)
        points = winograd.weight_points(weight, None, keep=False)
        found.append((winograd.correlate(x, points, 1), winograd.grad_weight(x, cotangent, weight.shape, 1, 1)))
    for out, grad in found[1:]:
        np.testing.assert_allclose(out, found[0][0], atol=2e-6 * np.abs(out).max())
        np.testing.assert_array_equal(grad, found[0][1])


def test_winograd_is_chosen_for_wide_3x3_convolutions_of_stride_1() -> None:
    assert winograd.suits((3, 3), 1, 64, 64)
    assert not any(
        winograd.suits(*case)
        for case in [((3, 3), 2, 64, 64), ((1, 1), 1, 64, 64), ((3, 3), 1, 3, 64), ((3, 1), 1, 64, 64)]
    )


# ------------------------------------------------------------------ what is kept


def test_a_transform_is_kept_while_its_weight_is_unchanged() -> None:
    weight = normal(64, 64, 3, 3).astype(np.float32)
    first = winograd.weight_points(weight, None, keep=True)
    assert winograd.weight_points(weight, None, keep=True) is first
    assert winograd.weight_points(weight, np.ones(64, np.float32), keep=True) is not first
    assert winograd.weight_points(weight.copy(), None, keep=True) is not first


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.__imul__(np.float32(0.5)),
        lambda w: w.__setitem__((3, 2, 1, 0), 7),
        lambda w: w.__setitem__(..., w[::-1].copy()),
        lambda w: w.__setitem__(..., w[:, :, ::-1].copy()),
    ],
    ids=["scaled", "one number", "filters swapped", "turned over"],
)
def test_writing_into_a_weight_is_noticed(change) -> None:
    weight = tensor(normal(64, 64, 3, 3).astype(np.float32))
    x = tensor(normal(1, 64, 8, 8).astype(np.float32))
    with no_grad():
        conv2d(x, weight, padding=1)
        change(weight.data)
        found = values(conv2d(x, weight, padding=1))
    expected = direct(x.data.transpose(0, 2, 3, 1), weight.data, 1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_kept_transform_is_freed_with_its_weight() -> None:
    weight = normal(64, 64, 3, 3).astype(np.float32)
    kept = weakref.ref(winograd.weight_points(weight, None, keep=True))
    gc.collect()
    assert kept() is not None
    del weight
    gc.collect()
    assert kept() is None


def test_the_transform_of_a_weight_in_training_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    weight_points = winograd.weight_points

    def watched(*args: object, **options: bool) -> np.ndarray:
        points = weight_points(*args, **options)
        made.append(weakref.ref(points))
        return points

    monkeypatch.setattr(winograd, "weight_points", watched)
    weight = tensor(normal(64, 64, 3, 3).astype(np.float32), requires_grad=True)
    out = conv2d(tensor(normal(1, 64, 8, 8).astype(np.float32), requires_grad=True), weight, padding=1)
    out.sum().backward()
    assert weight.grad is not None
    gc.collect()
    assert [points() for points in made] == [None, None]  # one forward, one for the gradient of the input


def test_plain_products_take_over_where_it_does_not_suit() -> None:
    x, weight = normal(1, 3, 8, 8), normal(40, 3, 3, 3)
    found = values(conv2d(tensor(x), tensor(weight), padding=1))
    expected = conv.correlate(x.transpose(0, 2, 3, 1).copy(), conv.as_matrix(weight), (3, 3), 1, 1)
    np.testing.assert_array_equal(found.transpose(0, 2, 3, 1), expected)
