"""RoIAlign modules: scales of feature maps, levels of a pyramid."""

import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits
from gradients import backward, tensor, values

from lucid_maskrcnn.models import (
    FeatureMaps,
    MultiScaleROIAlign,
)
from lucid_maskrcnn.models.pooling import map_scale


@pytest.mark.parity
@pytest.mark.parametrize("side", [7, 14])
def test_multi_scale_roi_align_is_torchvisions(torchvision_ops, device: str, side: int) -> None:
    maps = [tensor(torchvision_ops[f"ms_feat_{i}"], device, requires_grad=True) for i in range(4)]
    unused = tensor(torchvision_ops["ms_feat_pool"], device, requires_grad=True)
    boxes = [torchvision_ops[f"ms_boxes{i}"] for i in range(2)]
    roi_idx = np.repeat(np.arange(2, dtype=np.int32), [len(b) for b in boxes])
    image_size = (160, 192)
    scales = [map_scale(image_size[0], m.shape[2]) for m in maps]
    assert scales == torchvision_ops.meta["ms_scales"]
    pool = MultiScaleROIAlign((side, side))
    features = FeatureMaps([*maps, unused], image_size)
    assert [y for y, _ in features.scales[:4]] == scales
    out = pool(features, tensor(np.concatenate(boxes), device), tensor(roi_idx, device))
    np.testing.assert_allclose(values(out), torchvision_ops[f"ms{side}_out"], rtol=0, atol=5e-5)
    backward(out, torchvision_ops[f"ms{side}_cot"])
    for i, features in enumerate(maps):
        np.testing.assert_allclose(np.asarray(features.grad), torchvision_ops[f"ms{side}_grad_{i}"], rtol=0, atol=1e-4)
    assert unused.grad is None


@pytest.mark.parametrize(("size", "aligned"), [(7, False), (14, True)])
def test_a_pyramid_is_pooled_on_gpu_without_waiting_as_on_cpu(size: int, aligned: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 3, 32 >> i, 40 >> i)).astype(np.float32) for i in range(4)]
    corner = rng.uniform(0, 100, (20, 2))
    rois = np.concatenate([corner, corner + rng.uniform(1, 500, (20, 2))], axis=1).astype(np.float32)
    image = np.arange(20, dtype=np.int32) % 2
    pool = MultiScaleROIAlign(size, aligned=aligned)
    expected = pool(FeatureMaps([tensor(a) for a in arrays], (128, 160)), tensor(rois), tensor(image))
    *maps, boxes, of_image = (tensor(a, "gpu") for a in (*arrays, rois, image))
    for one in (*maps, boxes, of_image):
        one.data = one.data + mx.zeros((), one.data.dtype)  # still to be computed
    with device_waits() as waits:
        pooled = pool(FeatureMaps(maps, (128, 160)), boxes, of_image)
    assert len(waits) == 0, waits
    np.testing.assert_allclose(values(pooled), values(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "cells", "scale"),
    [
        (224, 56, 1 / 4),
        (225, 57, 1 / 4),  # rounded up
        (227, 57, 1 / 4),
        (101, 26, 1 / 4),
        (799, 25, 1 / 32),
        (7, 1, 1 / 8),
        (1, 1, 1),
        (96, 32, 1 / 3),
        (100, 34, 1 / 3),
        (97, 20, 1 / 5),
        (10, 10, 1),
        (10, 20, 2),
        (10, 7, 0.7),  # no whole stride
    ],
)
def test_map_scale(image: int, cells: int, scale: float) -> None:
    assert map_scale(image, cells) == scale
