"""RoIAlign against torchvision, by hand, against a slow loop, by finite differences and between devices."""

import math
import sys

import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits, pending
from gradients import check_gradients, cpu_gpu_agree, gradients, normal, tensor, values
from hypothesis import given, settings
from hypothesis import strategies as st
from roi_scenes import pool_pyramid, pyramid, scene

from lucid_maskrcnn.ops import (
    _parallel,
    multiscale_roi_align,
    roi_align,
    roi_align_gradient,
    roi_align_plan,
    roi_levels,
)

MODULE = sys.modules["lucid_maskrcnn.ops.roi_align"]  # the package has a function of that name
GPU = sys.modules["lucid_maskrcnn.ops.roi_align_gpu"]
CASES = [f"ra{i:02d}" for i in range(12)]


def slow_roi_align(features, rois, roi_idx, output_size, scale, ratio=2, aligned=False):
    """Return torchvision's RoIAlign, one sample at a time."""
    _, channels, height, width = features.shape
    out = np.zeros((len(rois), channels, *output_size), features.dtype)
    for r, roi in enumerate(rois):
        starts, steps, counts = [], [], []
        for low, high, bins, s in (
            (roi[1], roi[3], output_size[0], scale[0]),
            (roi[0], roi[2], output_size[1], scale[1]),
        ):
            start = low * s - (0.5 if aligned else 0)
            length = high * s - (0.5 if aligned else 0) - start
            length = length if aligned else max(length, 1)
            starts.append(start)
            steps.append(length / bins)
            counts.append(ratio if ratio > 0 else max(0, math.ceil(length / bins)))
        for place in np.ndindex(*output_size):
            for sample in np.ndindex(*counts):
                y, x = (starts[a] + place[a] * steps[a] + (sample[a] + 0.5) * steps[a] / counts[a] for a in (0, 1))
                if -1 <= y <= height and -1 <= x <= width:
                    value = slow_bilinear(features[roi_idx[r]], max(y, 0), max(x, 0))
                    out[(r, slice(None), *place)] += value / max(1, counts[0] * counts[1])
    return out


def slow_bilinear(image, y, x):
    y0, x0 = min(int(y), image.shape[1] - 1), min(int(x), image.shape[2] - 1)
    y1, x1 = min(y0 + 1, image.shape[1] - 1), min(x0 + 1, image.shape[2] - 1)
    v, u = (y - y0 if y1 > y0 else 0), (x - x0 if x1 > x0 else 0)
    top, bottom = image[:, y0, x0] * (1 - u) + image[:, y0, x1] * u, image[:, y1, x0] * (1 - u) + image[:, y1, x1] * u
    return top * (1 - v) + bottom * v


# ------------------------------------------------------------------ torchvision's numbers


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_roi_align_equals_torchvision(torchvision_ops, device, case):
    how = next(h for h in torchvision_ops.meta["roi_align"] if h["id"] == case)
    rows = torchvision_ops[f"{case}_rois"]

    def pool(features, rois, roi_idx):
        size = tuple(how["output_size"])
        return roi_align(features, rois, roi_idx, size, how["spatial_scale"], how["sampling_ratio"], how["aligned"])

    inputs = torchvision_ops["ra_input"], rows[:, 1:], rows[:, 0].astype(np.int32)
    out, (grad,) = gradients(pool, *inputs, wrt=(0,), cotangent=torchvision_ops[f"{case}_cot"], device=device)
    np.testing.assert_allclose(out, torchvision_ops[f"{case}_out"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(grad, torchvision_ops[f"{case}_grad"], rtol=0, atol=1e-4)


@pytest.mark.parity
def test_roi_levels_equal_torchvision(torchvision_ops, device):
    levels = roi_levels(tensor(torchvision_ops["lvl_boxes"], device), 4)
    assert values(levels).dtype == np.int32
    np.testing.assert_array_equal(values(levels), torchvision_ops["lvl_level"])


@pytest.mark.parity
@pytest.mark.parametrize("side", [7, 14])
def test_multiscale_roi_align_equals_torchvision(torchvision_ops, device, side):
    boxes = [torchvision_ops[f"ms_boxes{i}"] for i in range(2)]
    rois, image = np.concatenate(boxes), np.repeat([0, 1], [len(b) for b in boxes]).astype(np.int32)
    levels = values(roi_levels(tensor(rois, device), 4))
    np.testing.assert_array_equal(levels, torchvision_ops["ms_level"])

    def pool(rois, image, levels, *features):
        return multiscale_roi_align(features, rois, image, levels, side, torchvision_ops.meta["ms_scales"])

    features = [torchvision_ops[f"ms_feat_{i}"] for i in range(4)]
    cotangent = torchvision_ops[f"ms{side}_cot"]
    out, grads = gradients(pool, rois, image, levels, *features, wrt=range(3, 7), cotangent=cotangent, device=device)
    np.testing.assert_allclose(out, torchvision_ops[f"ms{side}_out"], rtol=0, atol=5e-5)
    for i, grad in enumerate(grads):
        np.testing.assert_allclose(grad, torchvision_ops[f"ms{side}_grad_{i}"], rtol=0, atol=1e-4)


# ------------------------------------------------------------------ by hand


def test_roi_align_by_hand(device):
    # On a ramp, a sample is its own x, and a bin the mean of its samples: the middle of the bin.
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 1, 8, 8)).copy()
    rois, image = tensor(np.float32([[4, 4, 12, 12]]), device), tensor(np.int32([0]), device)
    pooled = values(roi_align(tensor(ramp, device), rois, image, (1, 2), 0.5))
    np.testing.assert_allclose(pooled, [[[[3, 5]]]])
    pooled = values(roi_align(tensor(ramp, device), rois, image, (1, 2), 0.5, aligned=True))
    np.testing.assert_allclose(pooled, [[[[2.5, 4.5]]]])
    pooled = values(roi_align(tensor(ramp, device), rois, image, (2, 1), (0.5, 0.25)))
    np.testing.assert_allclose(pooled, [[[[2], [2]]]])


def test_roi_align_at_the_border_by_hand(device):
    ones = tensor(np.ones((1, 1, 4, 4), np.float32), device)
    image = tensor(np.int32([0]), device)

    def pooled(*roi, bins=(1, 4)):
        return values(roi_align(ones, tensor(np.float32([roi]), device), image, bins, 1, 1))[0, 0, 0].tolist()

    assert pooled(-4, 1, 4, 2) == [0, 1, 1, 1]  # at -3, at exactly -1, 1 and 3
    assert pooled(0, 1, 8, 2) == [1, 1, 0, 0]  # at 1, 3, 5, 7
    assert pooled(1, 1, 7, 2, bins=(1, 1)) == [1]  # at exactly 4, the map's width
    assert pooled(2, 2, 2, 2) == [1, 1, 1, 1]  # no area counts as one cell


def test_roi_levels_by_hand(device):
    sides = np.float32([1, 0, 111.9, 112, 223.9, 224, 447.9, 448, 5000])
    boxes = np.stack([np.zeros_like(sides), np.zeros_like(sides), sides, sides], axis=1)
    assert values(roi_levels(tensor(boxes, device), 4)).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert values(roi_levels(tensor(boxes, device), 2)).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    swapped = tensor(np.float32([[5, 0, 0, 9]]), device)  # the root of a negative area
    assert values(roi_levels(swapped, 4)).tolist() == [0]


MARGINS = [(0.0, 1e-6), (1e-8, 0.0)]  # torchvision's and detectron2's


def levels_on_both(boxes, *args, **options):
    boxes = np.asarray(boxes, np.float32)
    cpu, gpu = (values(roi_levels(tensor(boxes, device), *args, **options)) for device in ("cpu", "gpu"))
    np.testing.assert_array_equal(gpu, cpu)
    assert gpu.dtype == cpu.dtype == np.int32
    return cpu


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("canonical_size", [224, 56, 100.3])
def test_levels_on_gpu_are_those_of_the_host_around_every_boundary(margin, canonical_size):
    # Boxes of height 1, whose area is their width: every float32 number within 3000 steps of a boundary.
    bits = [np.float32((canonical_size * 2.0**k) ** 2).view(np.int32) + np.arange(-3000, 3001) for k in range(-3, 4)]
    areas = np.concatenate(bits).astype(np.int32).view(np.float32)
    zero = np.zeros_like(areas)
    found = levels_on_both(np.stack([zero, zero, areas, zero + 1], 1), 5, canonical_size, margin=margin)
    assert set(found) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("margin", MARGINS)
@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.floats(width=32)] * 4), max_size=20), st.integers(1, 64), st.integers(-3, 6))
def test_levels_of_any_box_are_the_same_on_both_devices(margin, boxes, num_levels, finest):
    levels_on_both(np.reshape(boxes, (-1, 4)), num_levels, finest_level=finest, margin=margin)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_levels_that_no_area_or_every_area_reaches(size):
    boxes = [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1e19, 1e19], [0, 0, np.inf, 1], [0, 0, np.nan, 1], [0, 0, -1, 1]]
    levels_on_both(boxes, 5, size)
    levels_on_both(boxes, 64, size, margin=(1.0, 1.0))


# ------------------------------------------------------------------ a slow loop


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("output_size", [(3, 2), (1, 5)])
def test_roi_align_equals_a_loop(device, ratio, aligned, output_size):
    features, rois, image = scene(ratio)
    expected = slow_roi_align(features, rois, image, output_size, (0.25, 0.3), ratio, aligned)
    inputs = (tensor(a, device) for a in (features, rois, image))
    pooled = roi_align(*inputs, output_size, (0.25, 0.3), ratio, aligned)
    np.testing.assert_allclose(values(pooled), expected, atol=2e-5)


@pytest.mark.parametrize("roi", [(0, 0, 156, 116), (3, 50, 150, 58), (60, -30, 66, 150), (10, 10, 30, 20)])
def test_roi_align_of_large_thin_and_small_rois(device, roi):
    # Where a window has gaps or many cells, other code runs than where it is small.
    features, _, _ = scene(1, size=(29, 39))
    rois, image = np.float32([roi]), np.int32([1])
    expected = slow_roi_align(features, rois, image, (3, 4), (0.25, 0.25))
    pooled = roi_align(tensor(features, device), tensor(rois, device), tensor(image, device), (3, 4), 0.25)
    np.testing.assert_allclose(values(pooled), expected, atol=2e-5)
    cotangent = np.ones((1, 3, 3, 4), np.float32)
    _, (grad,) = gradients(
        lambda f, r, i: roi_align(f, r, i, (3, 4), 0.25), features, rois, image, wrt=(0,), cotangent=cotangent,
        device=device,
    )  # fmt: skip
    np.testing.assert_allclose((grad * features).sum(), expected.sum(), rtol=1e-3)  # it is linear
    assert not grad[0].any()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(*[st.integers(-12, 40).map(lambda n: n / 2)] * 4), min_size=1, max_size=4),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.sampled_from([(1, 1), (5, 1), (6, 7)]),
)
def test_roi_align_of_any_roi(corners, ratio, aligned, size):
    # In float64, as the loop computes: a sample that rounds across the border is no longer a matter of 1e-5.
    features = np.random.default_rng(0).standard_normal((1, 2, *size))
    rois, image = np.float64(corners), np.zeros(len(corners), np.int32)
    expected = slow_roi_align(features, rois, image, (2, 3), (0.5, 0.5), ratio, aligned)
    pooled = roi_align(tensor(features), tensor(rois), tensor(image), (2, 3), 0.5, ratio, aligned)
    np.testing.assert_allclose(values(pooled), expected, atol=2e-5)


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize(("ratio", "aligned", "size"), [(2, False, (6, 7)), (0, True, (6, 7)), (1, False, (1, 24))])
def test_roi_align_gradients(ratio, aligned, size):
    features, rois, image = scene(3, num=5, channels=2, size=size, dtype=np.float64)
    check_gradients(
        lambda f, r, i: roi_align(f, r, i, (3, 2), 0.25, ratio, aligned), features, rois, image, wrt=(0,), tol=1e-8
    )


WAYS = {  # of summing the gradient: all RoIs by themselves, all tile by tile, and some this way, some that way
    "regions": {"_FEW_VISITS": np.inf},
    "tiles": {"_FEW_VISITS": 0, "_FEW_CELLS": 0, "_MOST_PIECES": 7},
    "both": {"_FEW_VISITS": 0, "_FEW_CELLS": 4},
}


def take_way(monkeypatch, way):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(roi_align_gradient, name, value)


def rois_of_all_sizes(dtype):
    """Return the maps of two images, larger than a few tiles, and RoIs of 1 to 60 cells; the scale is 1/4."""
    features, rois, image = scene(11, num=40, size=(21, 30), dtype=dtype)
    _, large, _ = scene(12, num=3, size=(60, 60), dtype=dtype)
    return features, np.concatenate([rois, large]), np.concatenate([image, np.int32([0, 1, 1])])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("ratio", "aligned"), [(2, False), (0, True), (3, True)])
def test_each_way_of_summing_the_gradient_is_the_transpose_of_pooling(monkeypatch, way, ratio, aligned):
    features, rois, image = rois_of_all_sizes(np.float64)
    take_way(monkeypatch, way)
    cotangent = np.random.default_rng(1).standard_normal((len(rois), 3, 5, 4))

    def pool(f, r, i):
        return roi_align(f, r, i, (5, 4), 0.25, ratio, aligned)

    _, (grad,) = gradients(pool, features, rois, image, wrt=(0,), cotangent=cotangent)
    # Pooling is linear, and the same for each channel: the gradient of a cell is what a one there adds to the sum.
    expected = np.zeros_like(features)
    for y, x in np.ndindex(*features.shape[2:]):
        one = np.zeros((2, 1, *features.shape[2:]))
        one[:, :, y, x] = 1
        pooled = values(pool(tensor(one), tensor(rois), tensor(image)))
        for n in range(2):
            expected[n, :, y, x] = (pooled * cotangent)[image == n].sum(axis=(0, 2, 3))
    np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_summing_the_gradient_equals_finite_differences(monkeypatch, way):
    take_way(monkeypatch, way)
    features, rois, image = scene(3, num=5, channels=2, size=(9, 13), dtype=np.float64)
    check_gradients(lambda f, r, i: roi_align(f, r, i, (3, 2), 0.25), features, rois, image, wrt=(0,), tol=1e-8)
    check_gradients(pool_pyramid, *pyramid(np.float64), wrt=(3, 5), tol=1e-8)  # of some of the maps only


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_the_same_for_any_number_of_threads(monkeypatch, way):
    take_way(monkeypatch, way)
    found = []
    for num in (1, 2, 5):
        monkeypatch.setattr(_parallel, "num_threads", lambda num=num: num)
        _, (grad,) = gradients(lambda f, r, i: roi_align(f, r, i, 7, 0.25), *rois_of_all_sizes(np.float32), wrt=(0,))
        found.append(grad)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_a_nan_roi_is_not_lost(monkeypatch, way):
    take_way(monkeypatch, way)
    features, rois, image = rois_of_all_sizes(np.float32)
    rois[3, 2] = np.nan
    _, (grad,) = gradients(lambda f, r, i: roi_align(f, r, i, 7, 0.25), features, rois, image, wrt=(0,))
    assert np.isnan(grad[image[3]]).any()
    assert np.isfinite(grad[1 - image[3]]).all()


def test_multiscale_roi_align_gradients():
    check_gradients(pool_pyramid, *pyramid(np.float64), wrt=(3, 4, 5), tol=1e-8)


def test_multiscale_roi_align_equals_roi_align_of_each_map(device):
    rois, image, levels, *features = pyramid()
    output, grads = gradients(pool_pyramid, rois, image, levels, *features, wrt=(3, 4, 5), device=device)
    for level, scale in enumerate([1 / 4, 1 / 8, 1 / 16]):
        own = levels == level
        alone = roi_align(*(tensor(a, device) for a in (features[level], rois[own], image[own])), (2, 3), scale)
        np.testing.assert_allclose(output[own], values(alone), atol=1e-6)
    assert grads[0].any()
    assert grads[1].any()
    assert grads[2].shape == features[2].shape
    assert not grads[2].any()


def test_devices_agree():
    features, rois, image = scene(5)
    for ratio in (0, 2):
        cpu_gpu_agree(lambda f, r, i, n=ratio: roi_align(f, r, i, 4, 0.25, n), features, rois, image, wrt=(0,))
    cpu_gpu_agree(pool_pyramid, *pyramid(), wrt=(3, 4, 5))
    cpu_gpu_agree(lambda r: roi_levels(r, 3, canonical_size=20), rois, wrt=())


@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_on_gpu_in_pieces(monkeypatch, ratio):
    features, rois, image = scene(6, num=12)
    monkeypatch.setattr(GPU if ratio else MODULE, "_GATHERED", 2000)
    cpu_gpu_agree(lambda f, r, i: roi_align(f, r, i, 4, 0.25, ratio), features, rois, image, wrt=(0,))


def test_roi_align_on_gpu_of_too_many_samples_to_gather_at_once(monkeypatch):
    features, rois, image = scene(6, num=12)
    expected = values(roi_align(*(tensor(a) for a in (features, rois, image)), 4, 0.25, 20))
    monkeypatch.setattr(GPU, "_GATHERED", 2000)
    pooled = values(roi_align(*(tensor(a, "gpu") for a in (features, rois, image)), 4, 0.25, 20))
    np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_roi_align_of_samples_prepared_in_pieces(monkeypatch):
    features, rois, image = (tensor(a) for a in scene(7, num=20))
    whole = values(roi_align(features, rois, image, 4, 0.25, 0))
    monkeypatch.setattr(roi_align_plan, "_SAMPLES", 30)
    np.testing.assert_allclose(values(roi_align(features, rois, image, 4, 0.25, 0)), whole, atol=1e-6)


def test_roi_align_of_no_rois(device):
    features, rois, image = scene(8, num=0)
    output, (grad,) = gradients(
        lambda f, r, i: roi_align(f, r, i, 7, 0.25), features, rois, image, wrt=(0,), device=device
    )
    assert output.shape == (0, 3, 7, 7)
    assert output.dtype == np.float32
    assert grad.shape == features.shape
    assert not grad.any()
    levels = np.zeros(0, np.int32)
    output, grads = gradients(pool_pyramid, rois, image, levels, *pyramid()[3:], wrt=(3, 4, 5), device=device)
    assert output.shape == (0, 2, 2, 3)
    assert not any(g.any() for g in grads)
    assert values(roi_levels(tensor(rois, device), 4)).shape == (0,)


def test_roi_align_of_no_images(device):
    features = tensor(np.zeros((0, 3, 5, 6), np.float32), device)
    rois, image = tensor(np.zeros((0, 4), np.float32), device), tensor(np.zeros(0, np.int32), device)
    assert values(roi_align(features, rois, image, 7, 0.25)).shape == (0, 3, 7, 7)


def test_roi_align_of_nan(device):
    features, rois, image = scene(9, num=3)
    rois[1, 2] = np.nan
    pooled = values(roi_align(tensor(features, device), tensor(rois, device), tensor(image, device), 2, 0.25))
    assert np.isnan(pooled[1]).all()
    assert np.isfinite(pooled[[0, 2]]).all()


# ------------------------------------------------------------------ on gpu: no waits, bounded memory


def pending_on_gpu(*arrays):
    """Tensors whose values are still to be computed."""
    made = [tensor(a, "gpu") for a in arrays]
    for one in made:
        one.data = one.data + mx.zeros((), one.data.dtype)
    return made


def test_regions_are_pooled_without_waiting(monkeypatch):
    monkeypatch.setattr(GPU, "_GATHERED", 6000)  # in several pieces
    rois, image, _, *features = pending_on_gpu(*pyramid())
    for one in features:
        one.requires_grad = True
    with device_waits() as waits:
        levels = roi_levels(rois, 3, canonical_size=20)
        pooled = pool_pyramid(rois, image, levels, *features)
        single = roi_align(features[0], rois, image, 3, 0.25, aligned=True)
    assert len(waits) == 0, waits
    assert not np.isnan(values(pooled)).any()
    mx.eval(single.data)
    rois, image, _, *features = pending_on_gpu(*pyramid())
    with device_waits() as waits:
        roi_align(features[0], rois, image, 3, 0.25, 0)
    assert len(waits) == 1, waits  # how many samples there are depends on the RoIs


def test_pooling_is_few_operations():
    features = pending_on_gpu(*[normal(1, 8, 64 >> i, 64 >> i).astype(np.float32) for i in range(4)])
    rois, image = pending_on_gpu(np.float32([[0, 0, 20, 20]] * 50), np.zeros(50, np.int32))
    pooled = multiscale_roi_align(features, rois, image, roi_levels(rois, 4), 7, [1 / 4, 1 / 8, 1 / 16, 1 / 32])
    assert pending(pooled.data) <= 205


@pytest.mark.parametrize("ratio", [0, 2])
def test_memory_on_gpu_is_bounded(monkeypatch, ratio):
    # 200 RoIs gather 7 · 7 · 16 cells of 32 channels each: 20 MB with two samples.
    features, rois, image = scene(13, num=200, channels=32, size=(30, 30))
    pieces = 1 << 16  # 0.25 MB
    monkeypatch.setattr(GPU if ratio else MODULE, "_GATHERED", pieces)
    leaf, *others = (tensor(a, "gpu") for a in (features, rois, image))
    leaf.requires_grad = True
    mx.eval(leaf.data)
    cotangent = mx.ones((200, 32, 7, 7))
    mx.eval(cotangent)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    pooled = roi_align(leaf, *others, 7, 0.25, ratio)
    mx.eval(pooled.data)
    assert mx.get_peak_memory() - before < 3.5 * pooled.data.nbytes + 12 * 4 * pieces
    pooled.grad = cotangent
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    pooled.backward()
    assert mx.get_peak_memory() - before < 12 * 4 * pieces + 8 * leaf.data.nbytes


def test_memory_of_the_maps_is_not_kept_for_the_gradient():
    leaf, rois, image = (tensor(a, "gpu") for a in scene(14, channels=64, size=(60, 60)))
    other = tensor(np.ones((2, 64, 60, 60), np.float32), "gpu")
    leaf.requires_grad = True
    levels = tensor(np.zeros(len(rois.data), np.int32), "gpu")
    mx.eval(leaf.data, other.data)
    before = mx.get_active_memory()
    pooled = multiscale_roi_align([leaf, other], rois, image, levels, 3, [1, 1])
    mx.eval(pooled.data)
    assert mx.get_active_memory() - before < leaf.data.nbytes


@pytest.mark.parametrize("bad", [2, -1, 2**31 - 1, -(2**31)])
def test_index_out_of_range_gives_nan_on_gpu(bad):
    # MLX does not check indices, and to look at them is to wait for them.
    features, rois, image = scene(15, num=4)
    image[1] = bad
    pooled = values(roi_align(*(tensor(a, "gpu") for a in (features, rois, image)), 2, 0.25))
    assert np.isnan(pooled).all(axis=(1, 2, 3)).tolist() == [False, True, False, False]
    levels = np.int32([0, 0, 0, bad])
    maps = [tensor(features, "gpu"), tensor(features, "gpu")]
    image[1] = 0
    inputs = (tensor(a, "gpu") for a in (rois, image, levels))
    pooled = values(multiscale_roi_align(maps, *inputs, 2, [0.25, 0.25]))
    assert np.isnan(pooled).all(axis=(1, 2, 3)).tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match=rf"roi_idx\[1\] must be an index of one of 2 images, got {bad}"):
        roi_align(*(tensor(a, "gpu") for a in (features, rois, np.int32([0, bad, 0, 0]))), 2, 0.25, 0)


@pytest.mark.parametrize("aligned", [False, True])
def test_rows_of_zeros_are_harmless(device, aligned):
    # Proposals of a fixed number are padded with them.
    features, rois, image = scene(16)
    padded = np.concatenate([rois, np.zeros((3, 4), np.float32)]), np.concatenate([image, np.zeros(3, np.int32)])

    def align(f, r, i):
        return roi_align(f, r, i, 2, 0.25, 2, aligned)

    expected, (grad,) = gradients(align, features, rois, image, wrt=(0,), device=device)
    cotangent = np.concatenate([np.ones_like(expected), np.zeros((3, *expected.shape[1:]), np.float32)])
    found, (of_padded,) = gradients(align, features, *padded, wrt=(0,), cotangent=cotangent, device=device)
    _, (grad,) = gradients(align, features, rois, image, wrt=(0,), cotangent=np.ones_like(expected), device=device)
    np.testing.assert_allclose(found[: len(rois)], expected, atol=1e-6)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(of_padded, grad, atol=1e-5)


@pytest.mark.parametrize("ratio", [0, 2])
def test_half_precision_maps_are_weighed_in_float32(ratio):
    features, rois, image = scene(17, dtype=np.float32)
    halves = features.astype(np.float16)
    expected = values(roi_align(*(tensor(a) for a in (halves.astype(np.float32), rois, image)), 3, 0.25, ratio))
    leaf, *others = (tensor(a, "gpu") for a in (halves, rois, image))
    leaf.requires_grad = True
    pooled = roi_align(leaf, *others, 3, 0.25, ratio)
    assert pooled.data.dtype == mx.float16
    np.testing.assert_allclose(np.asarray(pooled.data), expected.astype(np.float16), rtol=1e-3, atol=1e-6)  # an ulp
    pooled.grad = mx.ones(pooled.shape, mx.float16)
    pooled.backward()
    assert leaf.grad.dtype == mx.float16
    _, (grad,) = gradients(
        lambda f, r, i: roi_align(f, r, i, 3, 0.25, ratio), features, rois, image, wrt=(0,),
        cotangent=np.ones_like(expected),
    )  # fmt: skip
    np.testing.assert_allclose(np.asarray(leaf.grad), grad, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_indices_of_any_integer_type(device, dtype):
    features, rois, image = scene(18, images=130)  # more than int8 counts
    image %= 100
    expected = values(roi_align(*(tensor(a) for a in (features, rois, image)), 2, 0.25))
    found = values(roi_align(*(tensor(a, device) for a in (features, rois, image.astype(dtype))), 2, 0.25))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_index_beyond_int32_gives_nan_on_gpu():
    features, rois, _ = scene(18)
    far = tensor(np.arange(9, dtype=np.int64) << 32, "gpu")
    pooled = values(roi_align(tensor(features, "gpu"), tensor(rois, "gpu"), far, 2, 0.25))
    assert np.isnan(pooled).all(axis=(1, 2, 3)).tolist() == [False] + [True] * 8


def test_regions_of_no_image_are_refused():
    features, rois, image = scene(18)
    with pytest.raises(ValueError, match="roi_idx must be empty for features of no images, got 9 RoIs"):
        roi_align(*(tensor(a, "gpu") for a in (features[:0], rois, image)), 2, 0.25)


# ------------------------------------------------------------------ memory


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def test_roi_align_returns_channels_last_memory():
    features, rois, image = scene(10)
    results = []
    for layout in (features, channels_last(features), np.asfortranarray(features), features[:, :, ::-1][:, :, ::-1]):
        leaf = tensor(features)
        leaf.data, leaf.requires_grad = layout, True
        pooled = roi_align(leaf, tensor(rois), tensor(image), (3, 2), 0.25)
        pooled.grad = np.ones(pooled.shape, np.float32)
        results.append(values(pooled))
        assert pooled.data.transpose(0, 2, 3, 1).flags.c_contiguous
        pooled.backward()
        assert leaf.grad.transpose(0, 2, 3, 1).flags.c_contiguous
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_roi_align_gradients_are_deterministic():
    features, rois, image = scene(11, num=200, size=(150, 20))
    first, second = (
        gradients(lambda f, r, i: roi_align(f, r, i, 7, 0.25), features, rois, image, wrt=(0,))[1][0] for _ in "ab"
    )
    np.testing.assert_array_equal(first, second)


# ------------------------------------------------------------------ wrong arguments


F, R, I = (tensor(a) for a in scene(12))  # noqa: E741
FAR = tensor(np.full((9, 4), [0, 0, 1e9, 1e9], np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: roi_align(tensor(np.zeros((2, 3, 4))), R, I, 7, 1),
            ValueError,
            r"features must have shape \(N, C, H, W\), got \(2, 3, 4\)",
        ),
        (lambda: roi_align(tensor(np.zeros((2, 3, 0, 4))), R, I, 7, 1), ValueError, "C, H and W of at least 1"),
        (lambda: roi_align(np.zeros((2, 3, 4, 4)), R, I, 7, 1), TypeError, "features must be a Lucid tensor"),
        (lambda: roi_align(F, tensor(np.zeros((9, 5))), I, 7, 1), ValueError, r"rois must have shape \(R, 4\)"),
        (
            lambda: roi_align(F, R, tensor(np.int32([0])), 7, 1),
            ValueError,
            r"roi_idx must have shape \(9,\), got \(1,\)",
        ),
        (lambda: roi_align(F, R, tensor(np.zeros(9)), 7, 1), TypeError, "roi_idx .* got float64"),
        (lambda: roi_align(F, R, tensor(np.full(9, 2)), 7, 1), ValueError, r"roi_idx\[0\] .* 2 images, got 2"),
        (lambda: roi_align(F, R, tensor(np.full(9, -1)), 7, 1), ValueError, r"roi_idx\[0\] .* got -1"),
        (
            lambda: roi_align(F, R, I, (7, 0), 1),
            ValueError,
            r"output_size\[1\] must be an integer from 1 to 1048576, got 0",
        ),
        (lambda: roi_align(F, R, I, 7, 0), ValueError, "spatial_scale must be a number above 0"),
        (lambda: roi_align(F, R, I, 7, 1, 1.5), TypeError, "sampling_ratio must be an integer .* got 1.5"),
        (lambda: roi_align(F, R, I, 7, 1, -3), ValueError, "sampling_ratio must be an integer .* got -3"),
        (lambda: roi_align(F, FAR, I, 7, 1, 0), ValueError, "clip the boxes to the image first"),
        (lambda: multiscale_roi_align([], R, I, I, 7, []), ValueError, "features must have at least one tensor"),
        (lambda: multiscale_roi_align([F], R, I, I, 7, [1, 2]), ValueError, "spatial_scales .* 1 values, got 2"),
        (
            lambda: multiscale_roi_align([F, F[:, :2]], R, I, I, 7, [1, 2]),
            ValueError,
            r"features\[1\] must have shape \(2, 3, H, W\)",
        ),
        (
            lambda: multiscale_roi_align([F], R, I, tensor(np.ones(9, int)), 7, [1]),
            ValueError,
            r"levels\[0\] .* 1 levels, got 1",
        ),
        (lambda: roi_levels(R, 0), ValueError, "num_levels must be an integer from 1 to 64, got 0"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
