"""Post-processing of detections, sampling of RoIs."""

import numpy as np
import pytest
from gradients import tensor, values
from small_targets import ANCHORS, rectangles

from lucid_maskrcnn import ops
from lucid_maskrcnn.config import HeadConfig
from lucid_maskrcnn.models.heads import RoISampler, postprocess_detections


@pytest.mark.parity
def test_detections_are_torchvisions(torchvision_ops, device: str) -> None:
    meta = torchvision_ops.meta["detections"]
    settings = HeadConfig(box_weights=tuple(meta["weights"]), min_size=meta["min_size"])
    for image, size in enumerate(meta["image_shapes"]):
        rows = slice(30 * image, 30 * image + 30)
        (found,) = postprocess_detections(
            tensor(torchvision_ops["det_logits"][rows], device),
            tensor(torchvision_ops["det_deltas"][rows, 4:], device),  # no columns for background
            ops.Proposals.of([tensor(torchvision_ops[f"det_proposals{image}"], device)]),
            [tuple(size)],
            settings,
            score_thresh=meta["score_thresh"],
            nms_thresh=meta["nms_thresh"],
            top_k=meta["detections_per_img"],
        )
        assert {t.device for t in (found.boxes, found.scores, found.labels)} == {device}
        assert found.num_before_top_k >= len(torchvision_ops[f"det_labels{image}"])
        np.testing.assert_array_equal(values(found.labels), torchvision_ops[f"det_labels{image}"])
        np.testing.assert_allclose(values(found.scores), torchvision_ops[f"det_scores{image}"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(values(found.boxes), torchvision_ops[f"det_boxes{image}"], rtol=0, atol=2e-4)


def test_sampled_rois_have_the_targets_of_their_image(device: str) -> None:
    objects = [rectangles(ANCHORS[[0]], [2], "cpu"), rectangles(ANCHORS[:0], [], "cpu")]
    objects.append(rectangles(ANCHORS[[3, 1]], [3, 1], "cpu"))
    moved = ANCHORS[[1, 5]] + np.float32([2, 0, 2, 0])
    proposals = [tensor(a, "cpu") for a in (ANCHORS[[5]], ANCHORS[[2, 5]], moved)]
    sampler = RoISampler(HeadConfig(batch_size=4, positive_fraction=1.0), 4)
    samples = sampler.select_training_samples(proposals, objects).on_device_of(tensor(ANCHORS, device))
    assert {t.device for t in samples} == {device}
    expected = np.concatenate([ANCHORS[[0, 5]], ANCHORS[[2, 5]], moved[[0]], ANCHORS[[3, 1]], moved[[1]]])
    np.testing.assert_array_equal(values(samples.rois), expected)
    assert values(samples.roi_idx).tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert values(samples.labels).tolist() == [2, 0, 0, 0, 1, 3, 1, 0]
    assert values(samples.positive).tolist() == [0, 4, 5, 6]
    np.testing.assert_array_equal(values(samples.positive_rois), expected[[0, 4, 5, 6]])
    assert values(samples.positive_roi_idx).tolist() == [0, 2, 2, 2]
    assert values(samples.positive_class).tolist() == [1, 0, 2, 0]
    deltas = np.zeros((4, 4))
    deltas[1, 0] = -2 / 8 * 10  # the object is 2 pixels to the left; the weight is 10
    np.testing.assert_allclose(values(samples.gt_deltas), deltas, atol=1e-6)
    masks = np.ones((4, 4, 4), bool)
    masks[1, :, 3] = False  # the last quarter of the region is beyond the object
    np.testing.assert_array_equal(values(samples.gt_masks) > 0.5, masks)
