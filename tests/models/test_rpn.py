"""The region proposal network: filtering of proposals, sampling of anchors."""

import numpy as np
import pytest
from gradients import tensor, values
from small_targets import ANCHORS, rectangles

from lucid_maskrcnn.config import RPNConfig
from lucid_maskrcnn.models import (
    _AnchorGenerator,
    _RegionProposalNetwork,
)
from lucid_maskrcnn.models.rpn import RPNOutput


@pytest.mark.parity
@pytest.mark.parametrize("training", [False, True])
def test_filtered_proposals_are_torchvisions(torchvision_ops, device: str, training: bool) -> None:
    meta = torchvision_ops.meta["rpn_filter"]
    numbers, others = (meta["pre_nms_top_n"], meta["post_nms_top_n"]), (1, 1)
    in_training, at_test = (numbers, others) if training else (others, numbers)
    settings = RPNConfig(
        pre_nms_top_n=at_test[0],
        post_nms_top_n=at_test[1],
        pre_nms_top_n_train=in_training[0],
        post_nms_top_n_train=in_training[1],
        nms_thresh=meta["nms_thresh"],
        min_size=meta["min_size"],
    )
    generator = _AnchorGenerator((8, 16, 32), (1.0,), per_level=True)
    network = _RegionProposalNetwork(1, generator, settings)
    for image, size in enumerate(meta["image_shapes"]):
        boxes = torchvision_ops["rpn_filter_proposals"][image]
        output = RPNOutput(
            objectness=tensor(torchvision_ops["rpn_filter_objectness"][image].reshape(1, -1, 1), device),
            deltas=tensor(np.zeros((1, *boxes.shape), np.float32), device),
            anchors=tensor(boxes, device),
            level_sizes=meta["anchors_per_level"],
        )
        (found,) = network.filter_proposals(output, [tuple(size)], training=training)
        assert found.device == device
        np.testing.assert_allclose(
            values(found), torchvision_ops[f"rpn_filter_boxes{image}"], rtol=0, atol=1e-4, strict=True
        )


def test_sampled_anchors_have_the_targets_of_their_image(device: str) -> None:
    network = _RegionProposalNetwork(1, _AnchorGenerator((8,), (1.0,), per_level=True), RPNConfig())
    objects = [ANCHORS[:0], ANCHORS[[1, 3]] + np.float32(0.5), ANCHORS[[0]]]
    on_cpu = network.label_and_sample_anchors(
        tensor(ANCHORS, "cpu"), [rectangles(boxes, [1] * len(boxes), "cpu") for boxes in objects]
    )
    samples = on_cpu.on_device_of(tensor(ANCHORS, device))
    assert {t.device for t in samples} == {device}
    pairs = list(zip(values(samples.image).tolist(), values(samples.anchor).tolist(), strict=True))
    assert pairs == [
        *((0, a) for a in range(6)),
        *((1, a) for a in (1, 3, 0, 2, 4, 5)),
        *((2, a) for a in (0, 1, 2, 3, 5)),  # anchor 4 overlaps the object by a third: neither
    ]
    is_object = values(samples.is_object)
    assert is_object.dtype == np.float32
    assert is_object.ravel().tolist() == [0] * 6 + [1, 1, 0, 0, 0, 0] + [1, 0, 0, 0, 0]
    assert values(samples.positive_image).tolist() == [1, 1, 2]
    assert values(samples.positive_anchor).tolist() == [1, 3, 0]
    np.testing.assert_allclose(values(samples.gt_deltas), [[1 / 16, 1 / 16, 0, 0]] * 2 + [[0, 0, 0, 0]], atol=1e-6)
