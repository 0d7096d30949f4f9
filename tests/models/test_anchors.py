"""Anchors on one feature map and on a pyramid."""

import math

import numpy as np
import pytest
from gradients import tensor, values
from lucid import Tensor

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn
from lucid_maskrcnn.config import DETECTRON2, ModelConfig, conventions_of
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


def test_anchors_of_several_sizes_are_in_detectron2s_order() -> None:
    """The table of detectron2's own test of its anchor generator: by size, and then by ratio."""
    rpn = DETECTRON2.rpn
    generator = _AnchorGenerator(
        ((32, 64),),
        (0.25, 1, 4),
        per_level=True,
        whole_pixels=rpn.whole_pixels,
        nominal_strides=rpn.nominal_strides,
        sizes_first=rpn.sizes_first,
    )
    (anchors,) = generator(FeatureMaps([empty_map(1, 2)], (4, 8)))
    cell = np.array(
        [
            (-32, -8, 32, 8),
            (-16, -16, 16, 16),
            (-8, -32, 8, 32),
            (-64, -16, 64, 16),
            (-32, -32, 32, 32),
            (-16, -64, 16, 64),
        ],
        np.float32,
    )
    np.testing.assert_allclose(
        values(anchors), np.concatenate([cell, cell + np.float32([4, 0, 4, 0])]), rtol=0, atol=1e-5
    )


def test_a_model_with_detectron2s_conventions_has_its_anchors_in_that_order() -> None:
    sizes = ((8, 12), (16, 24), (32, 48), (64, 96), (128, 192))
    first = {}
    for name in ("torchvision", "detectron2"):
        model = mask_rcnn_resnet_18_fpn(1, conventions=name, anchor_sizes=sizes, width=4, fpn_channels=4)
        again = MaskRCNN.from_config(ModelConfig.from_dict(model.config.to_dict()))
        assert again.rpn.anchor_generator.cells == model.rpn.anchor_generator.cells
        first[name] = [round((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in model.rpn.anchor_generator.cells[0]]
    assert first["detectron2"] == [64, 64, 64, 144, 144, 144]
    assert [first["torchvision"][i] > 100 for i in range(6)] == [False, True] * 3


def test_files_from_before_the_order_was_a_setting_keep_theirs() -> None:
    """They have no such key, and their heads were trained with the order by ratio."""
    content = mask_rcnn_resnet_18_fpn(1, conventions="detectron2", width=4, fpn_channels=4).config.to_dict()
    del content["rpn"]["sizes_first"]
    config = ModelConfig.from_dict(content)
    assert config.rpn.sizes_first is False
    conventions, differences = conventions_of(config)
    assert (conventions.name, "rpn" in differences) == (
        "detectron2",
        False,
    )  # with one size for each map it is the same
    content["anchor_sizes"] = [[8, 12]] * 5
    assert conventions_of(ModelConfig.from_dict(content))[1]["rpn"] == {"sizes_first": False}


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
