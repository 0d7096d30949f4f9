"""RoIAlign modules: scales of feature maps, levels of a pyramid."""

import numpy as np
import pytest
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
