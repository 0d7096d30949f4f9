"""Anchors on one feature map and on a pyramid."""

import math

import numpy as np
import pytest
from gradients import tensor, values
from lucid import Tensor

from lucid_maskrcnn.models import (
    FeatureMaps,
    _AnchorGenerator,
)


def empty_map(*size: int) -> Tensor:
    return tensor(np.zeros((1, 1, *size), np.float32))


def test_anchors_of_a_single_map() -> None:
    generator = _AnchorGenerator((8, 16), (1.0, 4.0), per_level=False, stride=16)
    (anchors,) = generator(FeatureMaps([empty_map(2, 3)], (32, 48)))
    assert generator.num_anchors == 4
    assert anchors.shape == (2 * 3 * 4, 4)
    assert values(anchors)[:4].tolist() == [[-4, -4, 4, 4], [-8, -8, 8, 8], [-2, -8, 2, 8], [-4, -16, 4, 16]]
    centers = (values(anchors)[::4, :2] + values(anchors)[::4, 2:]) / 2
    assert centers.tolist() == [[0, 0], [16, 0], [32, 0], [0, 16], [16, 16], [32, 16]]


def test_anchors_of_several_sizes_per_level() -> None:
    generator = _AnchorGenerator(((8, 12), (16, 24)), (1.0,), per_level=True, stride=16)
    fine, coarse = generator(FeatureMaps([empty_map(4, 4), empty_map(2, 1)], (32, 32)))
    assert generator.num_anchors == 2
    assert values(fine)[2:4].tolist() == [[4, -4, 12, 4], [2, -6, 14, 6]]  # a step of 8, whatever the stride given
    assert values(coarse)[2:4].tolist() == [[-8, 8, 8, 24], [-12, 4, 12, 28]]


def test_anchor_stride_that_contradicts_the_map_warns_once() -> None:
    generator = _AnchorGenerator((8,), (1.0,), per_level=False, stride=16)
    with pytest.warns(UserWarning, match=r"anchor_stride=16 is used as given, .* a stride of 8 pixels"):
        (anchors,) = generator(FeatureMaps([empty_map(4, 4)], (32, 32)))
    generator(FeatureMaps([empty_map(4, 4)], (32, 32)))  # a second warning would be an error
    assert values(anchors)[1].tolist() == [12, -4, 20, 4]


@pytest.mark.parametrize(("stride", "image"), [(16, 32), (3, 64), (3, 32), (5, 32), (8, 36), (16, 40), (2, 31)])
def test_anchor_stride_of_a_rounded_map_does_not_warn(stride: int, image: int) -> None:
    for cells in {math.ceil(image / stride), image // stride}:
        generator = _AnchorGenerator((8,), (1.0,), per_level=False, stride=stride)
        generator(FeatureMaps([empty_map(cells, cells)], (image, image)))
