"""Pasting masks and cutting targets against torchvision, by hand, a slow loop, and between devices."""

import tracemalloc

import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits, pending
from gradients import cpu_gpu_agree, tensor, values
from hypothesis import given, settings
from hypothesis import strategies as st

from lucid_maskrcnn.ops import mask_patches, mask_targets, paste_masks, roi_align


def slow_paste(mask, box, size):
    """Return torchvision's pasted mask, one pixel at a time."""
    side = len(mask)
    padded = np.pad(mask.astype(np.float64), 1)
    half = [np.float32((box[2 + a] - box[a]) / 2) * np.float32((side + 2) / side) for a in (0, 1)]
    center = [np.float32((box[2 + a] + box[a]) / 2) for a in (0, 1)]
    x1, y1 = (int(center[a] - half[a]) for a in (0, 1))  # int() truncates toward zero
    x2, y2 = (int(center[a] + half[a]) for a in (0, 1))
    image = np.zeros(size)
    for y in range(max(y1, 0), min(y2 + 1, size[0])):
        for x in range(max(x1, 0), min(x2 + 1, size[1])):
            v, u = (
                max((p - low + 0.5) * (side + 2) / max(high - low + 1, 1) - 0.5, 0)
                for p, low, high in ((y, y1, y2), (x, x1, x2))
            )
            y0, x0 = int(v), int(u)
            ys, xs = (y0, min(y0 + 1, side + 1)), (x0, min(x0 + 1, side + 1))
            (a, b), (c, d) = padded[np.ix_(ys, xs)]
            top, bottom = a + (b - a) * (u - x0), c + (d - c) * (u - x0)
            image[y, x] = top + (bottom - top) * (v - y0)
    return image


def predictions(num=6, side=7, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-15, 40, (num, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 40, (num, 2))], axis=1).astype(np.float32)
    return rng.random((num, side, side), np.float32), boxes


def ground_truth(num=7, seed=1):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-8, 35, (num, 2))
    rois = np.concatenate([low, low + rng.uniform(0, 30, (num, 2))], axis=1).astype(np.float32)
    return rng.random((3, 30, 40)) > 0.5, rois, rng.integers(0, 3, num, np.int32)


# ------------------------------------------------------------------ torchvision's numbers


@pytest.mark.parity
def test_paste_masks_equals_torchvision(torchvision_ops, device):
    probs, boxes = tensor(torchvision_ops["paste_probs"][:, 0], device), tensor(torchvision_ops["paste_boxes"], device)
    expected = torchvision_ops["paste_out"][:, 0]
    soft = values(paste_masks(probs, boxes, (60, 80), threshold=None))
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft, expected, rtol=0, atol=2e-5)
    hard = values(paste_masks(probs, boxes, (60, 80)))
    assert hard.dtype == bool
    clear = np.abs(expected - 0.5) > 2e-5
    np.testing.assert_array_equal(hard[clear], expected[clear] > 0.5)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_mask_targets_equal_torchvision(torchvision_ops, device, dtype):
    masks, rois, index = (torchvision_ops[f"target_{name}"] for name in ("gt_masks", "boxes", "index"))
    targets = mask_targets(
        tensor(masks.astype(dtype), device), tensor(rois, device), tensor(index.astype(np.int32), device), 28
    )
    assert targets.device == device
    assert values(targets).dtype == np.float32
    np.testing.assert_allclose(values(targets), torchvision_ops["target_out"], rtol=0, atol=2e-5)


# ------------------------------------------------------------------ by hand


def test_paste_masks_by_hand(device):
    # A 2 × 2 mask in a 4 × 4 box at (2, 2): grown by 4/2 it covers pixels 0 … 8 of both axes.
    ones, box = tensor(np.ones((1, 2, 2), np.float32), device), tensor(np.float32([[2, 2, 6, 6]]), device)
    row = [max(0, min(1, (i + 0.5) * 4 / 9 - 0.5, 3.5 - (i + 0.5) * 4 / 9)) for i in range(9)] + [0]
    soft = values(paste_masks(ones, box, (10, 10), threshold=None))
    np.testing.assert_allclose(soft[0], np.outer(row, row), atol=1e-6)
    hard = values(paste_masks(ones, box, (10, 10)))
    np.testing.assert_array_equal(hard[0], np.outer(row, row) > 0.5)
    assert values(paste_masks(ones, box, (10, 10), threshold=1)).sum() == 0


def test_aligned_targets_lie_where_their_object_is(device):
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:6, 2:4] = True
    given = (
        tensor(mask, device),
        tensor(np.float32([[2, 2, 6, 6], [3, 3, 3, 5]]), device),
        tensor(np.int32([0, 0]), device),
    )
    aligned, shifted = values(mask_targets(*given, 2, aligned=True)), values(mask_targets(*given, 2))
    np.testing.assert_allclose(aligned[0], [[1, 0], [1, 0]])
    assert shifted[0, 1, 0] < shifted[0, 0, 0] < 1
    assert not aligned[1].any()  # no width: nothing to read


def test_mask_targets_by_hand(device):
    # The left half of a 4 × 4 mask, in 2 × 2 cells whose samples lie in the middle of four pixels each.
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:6, 2:4] = True
    target = mask_targets(
        tensor(mask, device), tensor(np.float32([[2, 2, 6, 6]]), device), tensor(np.int32([0]), device), 2
    )
    # Samples at 2.5, 3.5, 4.5, 5.5 read pairs of pixels: (1, 1/2), (0, 0) along x, and (1, 1), (1, 1/2) along y.
    np.testing.assert_allclose(values(target)[0], [[0.75, 0], [0.5625, 0]])


# ------------------------------------------------------------------ slow loops


@pytest.mark.parametrize("side", [1, 7])
def test_paste_masks_equals_a_loop(side):
    probs, boxes = predictions(side=side)
    pasted = values(paste_masks(tensor(probs), tensor(boxes), (30, 45), None))
    expected = [slow_paste(p, b, (30, 45)) for p, b in zip(probs, boxes, strict=True)]
    np.testing.assert_allclose(pasted, expected, atol=2e-6)


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.integers(-60, 100).map(lambda n: n / 4)] * 4), st.tuples(st.integers(0, 12), st.integers(0, 12)))
def test_paste_masks_of_any_box(box, size):
    probs = predictions(1, 3)[0]
    pasted = values(paste_masks(tensor(probs), tensor(np.float32([box])), size, None))
    np.testing.assert_allclose(pasted[0], slow_paste(probs[0], box, size), atol=2e-6)


def test_mask_targets_are_roi_aligned_masks(device):
    masks, rois, index = ground_truth()
    targets = mask_targets(*(tensor(a, device) for a in (masks, rois, index)), 5)
    expected = roi_align(
        tensor(masks[:, None].astype(np.float32)), tensor(rois), tensor(index), 5, 1.0, sampling_ratio=0
    )
    np.testing.assert_allclose(values(targets), values(expected)[:, 0], atol=2e-6)


# ------------------------------------------------------------------ devices, emptiness, size


def test_devices_agree(monkeypatch):
    probs, boxes = predictions()
    cpu_gpu_agree(lambda p, b: paste_masks(p, b, (30, 45), None), probs, boxes, wrt=())
    cpu_gpu_agree(lambda m, r, i: mask_targets(m, r, i, 6), *ground_truth(), wrt=())
    monkeypatch.setattr("lucid_maskrcnn.ops.mask_resampling._GPU_PIXELS", 2 * 30 * 45)
    cpu_gpu_agree(lambda p, b: paste_masks(p, b, (30, 45)), probs, boxes, wrt=())


def pending_on_gpu(*arrays):
    """Tensors whose values are still to be computed."""
    made = [tensor(a, "gpu") for a in arrays]
    for one in made:
        one.data = one.data + mx.zeros((), one.data.dtype) if one.data.dtype != mx.bool_ else one.data & True
    return made


@pytest.mark.parametrize("snap", [True, False])
@pytest.mark.parametrize("threshold", [0.5, None])
def test_masks_are_pasted_on_gpu_without_waiting(monkeypatch, threshold, snap):
    monkeypatch.setattr("lucid_maskrcnn.ops.mask_resampling._GPU_PIXELS", 2 * 30 * 45)
    given = pending_on_gpu(*predictions())
    with device_waits() as waits:
        pasted = paste_masks(*given, (30, 45), threshold, snap=snap)
    assert len(waits) == 0, waits
    assert pending(pasted.data)
    expected = values(paste_masks(*(tensor(a) for a in predictions()), (30, 45), threshold, snap=snap))
    np.testing.assert_allclose(values(pasted), expected, atol=1e-6)


def test_targets_wait_for_the_device_once():
    given = pending_on_gpu(*ground_truth())
    with device_waits() as waits:
        mask_targets(*given, 5)
    assert len(waits) == 1, waits


@pytest.mark.parametrize("snap", [True, False])
def test_pixels_of_both_devices_are_equal(snap):
    rng = np.random.default_rng(3)
    num, size = 40, (160, 200)
    probs = rng.uniform(0, 1, (num, 28, 28)).astype(np.float32)
    corner, sides = rng.uniform(-30, 190, (num, 2)), rng.uniform(0, 150, (num, 2))
    boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
    boxes[:10] = np.round(boxes[:10])
    cpu, gpu = (
        values(paste_masks(tensor(probs, device), tensor(boxes, device), size, snap=snap)) for device in ("cpu", "gpu")
    )
    assert (cpu != gpu).mean() <= 1e-6
    assert 0.02 < cpu.mean() < 0.5


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(*[st.one_of(st.floats(width=32), st.integers(-60, 100).map(lambda n: n / 4))] * 4),
    st.tuples(st.integers(0, 12), st.integers(0, 12)),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.5]),
    st.sampled_from([1, 3, 28]),
)
def test_both_devices_paste_any_box_alike(box, size, snap, threshold, side):
    probs = predictions(1, side)[0]
    cpu, gpu = (
        values(paste_masks(tensor(probs, device), tensor(np.float32([box]), device), size, threshold, snap=snap))
        for device in ("cpu", "gpu")
    )
    if threshold is None:
        np.testing.assert_allclose(gpu, cpu, atol=1e-5)
    else:
        soft = values(paste_masks(tensor(probs), tensor(np.float32([box])), size, None, snap=snap))
        np.testing.assert_array_equal(gpu[abs(soft - threshold) > 1e-5], cpu[abs(soft - threshold) > 1e-5])


def test_what_is_not_a_number_stays_in_its_patch(device):
    probs = np.full((1, 3, 3), np.nan, np.float32)
    pasted = values(paste_masks(tensor(probs, device), tensor(np.float32([[3, 3, 6, 6]]), device), (12, 12), None))
    assert np.isnan(pasted[0, 4:6, 4:6]).all()
    assert not pasted[0, :, 8:].any()
    low = tensor(np.zeros((1, 3, 3), np.float32), device), tensor(np.float32([[3, 3, 6, 6]]), device)
    reached = values(paste_masks(*low, (12, 12), 0.0, snap=False))[0]  # at least 0, but nothing was predicted outside
    assert reached[4, 4]
    assert not reached[:, 9:].any()


def test_memory_of_pasting_on_gpu_is_bounded(monkeypatch):
    pixels = 4 * 100 * 120  # of 60 masks: 2.9 MB of floats
    monkeypatch.setattr("lucid_maskrcnn.ops.mask_resampling._GPU_PIXELS", pixels)
    probs, boxes = (tensor(a, "gpu") for a in predictions(60, 7))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    pasted = paste_masks(probs, boxes, (100, 120))
    mx.eval(pasted.data)
    assert mx.get_peak_memory() - before < 2.2 * pasted.data.nbytes + 6 * 4 * pixels


@pytest.mark.parametrize("threshold", [0.5, None])
def test_paste_masks_of_no_masks(device, threshold):
    nothing = tensor(np.zeros((0, 28, 28), np.float32), device), tensor(np.zeros((0, 4), np.float32), device)
    pasted = values(paste_masks(*nothing, (20, 30), threshold))
    assert pasted.shape == (0, 20, 30)
    assert pasted.dtype == (np.float32 if threshold is None else bool)
    probs, boxes = predictions(2)
    assert values(paste_masks(tensor(probs, device), tensor(boxes, device), (0, 30), threshold)).shape == (2, 0, 30)


@pytest.mark.parametrize("num_masks", [0, 3])
def test_mask_targets_of_no_rois(device, num_masks):
    masks, rois, index = np.zeros((num_masks, 5, 6), bool), np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    targets = values(mask_targets(*(tensor(a, device) for a in (masks, rois, index)), 28))
    assert targets.shape == (0, 28, 28)
    assert targets.dtype == np.float32


def test_paste_masks_of_huge_boxes(device):
    probs = tensor(np.ones((4, 28, 28), np.float32), device)
    boxes = np.float32([[-1e9, -1e9, 1e9, 1e9], [0, 0, 1e30, 1e30], [0, 0, np.inf, np.inf], [0, 0, np.nan, np.nan]])
    pasted = values(paste_masks(probs, tensor(boxes, device), (20, 30)))
    assert pasted[0].all()
    assert not pasted[3].any()


def test_paste_masks_takes_no_memory_but_its_result():
    probs, boxes = predictions(60, 28)
    tracemalloc.start()
    paste_masks(tensor(probs), tensor(boxes), (400, 500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * 60 * 400 * 500


# ------------------------------------------------------------------ wrong arguments


P, B = (tensor(a) for a in predictions(3))
M, R, I = (tensor(a) for a in ground_truth(3))  # noqa: E741


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: paste_masks(P[:2], B, (9, 9)), ValueError, r"mask_probs must have shape \(3, M, M\), got \(2, 7, 7\)"),
        (lambda: paste_masks(P[:, :5], B, (9, 9)), ValueError, r"mask_probs .* got \(3, 5, 7\)"),
        (lambda: paste_masks(values(P), B, (9, 9)), TypeError, "mask_probs must be a Lucid tensor"),
        (lambda: paste_masks(P, B, (9, 9, 3)), ValueError, "image_size must be a sequence of 2 values"),
        (lambda: paste_masks(P, B, (9, 9), 128), ValueError, "threshold must be a number between 0 and 1, got 128"),
        (lambda: mask_targets(M[0], R, I, 28), ValueError, r"gt_masks must have shape \(G, H, W\), got \(30, 40\)"),
        (lambda: mask_targets(M, R, tensor(np.int32([0, 3, 0])), 28), ValueError, r"gt_idx\[1\] .* 3 masks, got 3"),
        (lambda: mask_targets(M, R, I, 0), ValueError, "size must be an integer from 1 to 1048576, got 0"),
        (lambda: mask_targets(values(M), R, I, 28), TypeError, "gt_masks must be a Lucid tensor .* or CompressedMasks"),
        (lambda: mask_targets(M[:, :0], R, I, 28), ValueError, "gt_masks must have H and W of at least 1"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("snap", [True, False])
def test_patches_are_the_pixels_of_pasted_masks(snap: bool) -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-5, 30, (12, 4)).astype(np.float32)
    boxes[:, 2:] += np.abs(boxes[:, :2])
    probs = rng.random((12, 7, 7)).astype(np.float32)
    pasted = values(paste_masks(tensor(probs), tensor(boxes), (25, 33), 0.4, snap=snap))
    found = np.zeros_like(pasted)
    for i, (rows, columns, mask) in enumerate(mask_patches(tensor(probs), tensor(boxes), (25, 33), 0.4, snap=snap)):
        found[i, rows, columns] = mask
    np.testing.assert_array_equal(found, pasted)
    assert pasted.any()
