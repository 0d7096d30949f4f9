"""Box arithmetic against torchvision, by hand, by finite differences and between devices."""

import math

import numpy as np
import pytest
from gradients import check_gradients, cpu_gpu_agree, gradients, tensor, values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lucid_maskrcnn.ops import box_area, box_iou, clip_boxes, decode_boxes, encode_boxes

TEN_FIVE = (10.0, 10.0, 5.0, 5.0)
UNIT = (1.0, 1.0, 1.0, 1.0)


def random_boxes(num, seed=0, extent=100, dtype=np.float32):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, extent, (num, 2))
    return np.concatenate([low, low + rng.uniform(5, 40, (num, 2))], axis=1).astype(dtype)


# ------------------------------------------------------------------ torchvision's numbers


@pytest.mark.parity
def test_box_iou_equals_torchvision(torchvision_ops, device):
    got = values(box_iou(tensor(torchvision_ops["iou_a"], device), tensor(torchvision_ops["iou_b"], device)))
    np.testing.assert_allclose(got, torchvision_ops["iou"], rtol=0, atol=1e-6)


@pytest.mark.parity
def test_clip_boxes_equals_torchvision(torchvision_ops, device):
    got = clip_boxes(tensor(torchvision_ops["clip_in"], device), (256, 320))
    np.testing.assert_array_equal(values(got), torchvision_ops["clip_out"])


@pytest.mark.parity
@pytest.mark.parametrize(("tag", "weights"), [("1", UNIT), ("10", TEN_FIVE)])
def test_encode_and_decode_boxes_equal_torchvision(torchvision_ops, device, tag, weights):
    reference, boxes, deltas, many = (
        tensor(torchvision_ops[f"coder_{name}"], device)
        for name in ("reference", "proposals", "deltas", "multi_deltas")
    )
    encoded = values(encode_boxes(reference, boxes, weights))
    error = np.abs(encoded - torchvision_ops[f"coder_encode_{tag}"]) / np.array(weights)
    assert error.max() < 1e-4
    expected = torchvision_ops[f"coder_decode_{tag}"][:, 0]
    np.testing.assert_allclose(values(decode_boxes(deltas, boxes, weights)), expected, rtol=2e-6, atol=1e-4)
    expected = torchvision_ops[f"coder_decode_multi_{tag}"]
    many = tensor(values(many).reshape(24, 5, 4), device)
    np.testing.assert_allclose(values(decode_boxes(many, boxes, weights)), expected, rtol=2e-6, atol=1e-4)


# ------------------------------------------------------------------ by hand


def test_area_iou_clipping_and_coding_by_hand(device):
    boxes = tensor(np.float32([[1, 2, 4, 8]]), device)
    assert values(box_area(boxes)).tolist() == [18]
    assert values(clip_boxes(boxes, (5, 3))).tolist() == [[1, 2, 3, 5]]
    others = tensor(np.float32([[1, 2, 4, 5], [4, 2, 9, 8], [2.5, 2, 5.5, 8], [1, 2, 4, 8]]), device)
    np.testing.assert_allclose(values(box_iou(boxes, others)), [[0.5, 0, 1 / 3, 1]], rtol=1e-6)
    # From a 2 × 4 box at (2, 4) to one twice as wide with its center 1 to the right.
    start, goal = tensor(np.float32([[1, 2, 3, 6]]), device), tensor(np.float32([[1, 2, 5, 6]]), device)
    np.testing.assert_allclose(values(encode_boxes(goal, start)), [[0.5, 0, math.log(2), 0]], rtol=1e-6)
    np.testing.assert_allclose(values(encode_boxes(goal, start, TEN_FIVE)), [[5, 0, 5 * math.log(2), 0]], rtol=1e-6)
    deltas = tensor(np.float32([[0.5, 0, math.log(2), 0]]), device)
    np.testing.assert_allclose(values(decode_boxes(deltas, start)), [[1, 2, 5, 6]], rtol=1e-6)


def test_decode_boxes_caps_growth_above_only(device):
    box = tensor(np.float32([[0, 0, 16, 16]]), device)
    wide = values(decode_boxes(tensor(np.float32([[0, 0, 100, -20]]), device), box))
    np.testing.assert_allclose(wide, [[8 - 500, 8, 8 + 500, 8]], atol=1e-3)


def test_iou_of_boxes_without_area_is_nan(device):
    point = tensor(np.float32([[3, 3, 3, 3]]), device)
    assert np.isnan(values(box_iou(point, point))).all()


# ------------------------------------------------------------------ a slow loop


def slow_iou(a, b):
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def test_box_iou_equals_a_loop():
    a, b = random_boxes(9, 1), random_boxes(7, 2)
    expected = [[slow_iou(p, q) for q in b.tolist()] for p in a.tolist()]
    np.testing.assert_allclose(values(box_iou(tensor(a), tensor(b))), expected, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, (6, 4), elements=st.integers(-8, 24).map(float)))
def test_box_iou_is_symmetric_and_between_0_and_1(corners):
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    iou = values(box_iou(tensor(boxes), tensor(boxes)))
    np.testing.assert_array_equal(iou, iou.T)
    has_area = values(box_area(tensor(boxes))) > 0
    assert (np.diag(iou)[has_area] == 1).all()
    assert np.isnan(iou[~has_area][:, ~has_area]).all()
    known = iou[~np.isnan(iou)]
    assert ((known >= 0) & (known <= 1)).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([UNIT, TEN_FIVE]))
def test_decoding_undoes_encoding(seed, weights):
    goal, start = random_boxes(5, seed, dtype=np.float64), random_boxes(5, seed + 1, dtype=np.float64)
    deltas = encode_boxes(tensor(goal), tensor(start), weights)
    np.testing.assert_allclose(values(decode_boxes(deltas, tensor(start), weights)), goal, atol=1e-9)


# ------------------------------------------------------------------ gradients


DELTAS = np.random.default_rng(3).normal(0, 0.5, (5, 3, 4))
OPERATORS = [
    pytest.param(box_area, [random_boxes(5)], id="area"),
    pytest.param(box_area, [random_boxes(6).reshape(2, 3, 4)], id="area of many axes"),
    pytest.param(box_iou, [random_boxes(4, 1, 30), random_boxes(5, 2, 30)], id="iou"),
    pytest.param(lambda b: clip_boxes(b, (60, 50)), [random_boxes(8) - 20], id="clip"),
    pytest.param(encode_boxes, [random_boxes(5, 1), random_boxes(5, 2)], id="encode"),
    pytest.param(lambda r, b: encode_boxes(r, b, TEN_FIVE), [random_boxes(5, 1), random_boxes(5, 2)], id="encode 10"),
    pytest.param(decode_boxes, [DELTAS[:, 0], random_boxes(5)], id="decode"),
    pytest.param(lambda d, b: decode_boxes(d, b, TEN_FIVE), [DELTAS, random_boxes(5)], id="decode many"),
    pytest.param(decode_boxes, [DELTAS[:, 0] + [0, 0, 5, 0], random_boxes(5)], id="decode capped"),
]
EMPTY = np.zeros((0, 4))
NOTHING = [
    pytest.param(box_area, [EMPTY], (0,), id="area"),
    pytest.param(box_iou, [EMPTY, random_boxes(3)], (0, 3), id="iou of none with some"),
    pytest.param(box_iou, [random_boxes(3), EMPTY], (3, 0), id="iou of some with none"),
    pytest.param(lambda b: clip_boxes(b, (60, 50)), [EMPTY], (0, 4), id="clip"),
    pytest.param(encode_boxes, [EMPTY, EMPTY], (0, 4), id="encode"),
    pytest.param(decode_boxes, [EMPTY, EMPTY], (0, 4), id="decode"),
    pytest.param(decode_boxes, [np.zeros((0, 5, 4)), EMPTY], (0, 5, 4), id="decode many"),
    pytest.param(decode_boxes, [np.zeros((3, 0, 4)), random_boxes(3)], (3, 0, 4), id="decode no classes"),
]


@pytest.mark.parametrize(("fn", "inputs"), OPERATORS)
def test_gradients_are_finite_differences(fn, inputs):
    check_gradients(fn, *inputs, eps=1e-5, tol=1e-7)


@pytest.mark.parametrize(("fn", "inputs"), OPERATORS)
def test_devices_agree(fn, inputs):
    cpu_gpu_agree(fn, *inputs)


@pytest.mark.parametrize(("fn", "inputs", "shape"), NOTHING)
def test_empty_boxes(fn, inputs, shape, device):
    inputs = [a.astype(np.float32) for a in inputs]
    output, grads = gradients(fn, *inputs, wrt=range(len(inputs)), device=device)
    assert output.shape == shape
    assert output.dtype == np.float32
    assert [g.shape for g in grads] == [a.shape for a in inputs]
    assert not any(g.any() for g in grads)


def test_box_iou_gradient_of_equal_corners(device):
    # The overlap of two equal 2 × 2 boxes grows half as fast as either of them: d IoU = (4 + 4) · 1 / 16 - 4 · 2 / 16.
    box = np.float32([[0, 0, 2, 2]])
    _, (a, b) = gradients(box_iou, box, box, wrt=(0, 1), cotangent=np.float32([[1]]), device=device)
    np.testing.assert_allclose(a, np.zeros((1, 4)), atol=1e-7)
    np.testing.assert_allclose(b, np.zeros((1, 4)), atol=1e-7)


# ------------------------------------------------------------------ wrong arguments


BOXES = random_boxes(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: box_area(tensor(BOXES[:, :3])), ValueError, r"boxes must have shape \(\.\.\., 4\), got \(3, 3\)"),
        (
            lambda: box_area(BOXES),
            TypeError,
            r"boxes must be a Lucid tensor .* NumPy array of shape \(3, 4\): convert it",
        ),
        (lambda: box_iou(tensor(BOXES), tensor(BOXES[0])), ValueError, r"b must have shape \(B, 4\), got \(4,\)"),
        (lambda: box_area(tensor(BOXES.astype(np.int32))), TypeError, "boxes must be a tensor of float .* got int32"),
        (lambda: clip_boxes(tensor(BOXES), (3, 4, 5)), ValueError, "size must be a sequence of 2 values, got 3"),
        (lambda: encode_boxes(tensor(BOXES), tensor(BOXES[:2])), ValueError, r"boxes must have shape \(3, 4\)"),
        (lambda: decode_boxes(tensor(BOXES), tensor(BOXES[:2])), ValueError, r"with R = 2 boxes, got \(3, 4\)"),
        (
            lambda: decode_boxes(tensor(BOXES), tensor(BOXES), (1, 1, 0, 1)),
            ValueError,
            r"weights\[2\] must be a number above 0, got 0",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
