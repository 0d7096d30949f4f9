"""detectron2's conventions against its recorded outputs: operators, stages, and whole predictions.

Weights come from ``data/detectron2/recipe.py``, tolerances from the note that came with the recordings. Rows are
matched, not compared in order: nearly equal scores may change places.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lucid
import numpy as np
import pytest
from data.detectron2 import recipe

from lucid_maskrcnn import Detections, MaskRCNN, mask_rcnn_resnet_50_fpn, ops, transforms
from lucid_maskrcnn.config import DETECTRON2, ImageConfig
from lucid_maskrcnn.models import FeatureMaps, _AnchorGenerator
from lucid_maskrcnn.models.backbone import Bottleneck
from lucid_maskrcnn.models.heads import postprocess_detections
from lucid_maskrcnn.models.rpn import RPNOutput, _RegionProposalNetwork
from lucid_maskrcnn.weights import load_weights
from lucid_maskrcnn.weights.categories import COCO, COCO_CONTIGUOUS

pytestmark = pytest.mark.parity

DATA = Path(__file__).parents[1] / "data" / "detectron2"


def read(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / name) as file:
        return dict(file)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return read("ops.npz")


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    return read("model_r50.npz")


@pytest.fixture(scope="module")
def model(whole: dict[str, np.ndarray]) -> MaskRCNN:
    meta = json.loads(str(whole["meta_json"]))
    arrays = recipe.state_dict("R50", **{k: meta[k] for k in ("seed", "background_bias") if k in meta})
    built = mask_rcnn_resnet_50_fpn(80, conventions="detectron2", min_size=256, max_size=427)
    load_weights(built, arrays)
    return built


def tensor(array: np.ndarray, device: str = "cpu") -> lucid.Tensor:
    return ops.as_tensor(array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int32), device)


def as_set(boxes: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Sort rows by box, so that two sets can be compared."""
    order = np.lexsort(boxes.round(1).T)
    return [boxes[order], *(o[order] for o in others)]


# ------------------------------------------------------------------ operators


def test_sizes_after_resizing(recorded: dict) -> None:
    for height, width, short, longest, *wanted in recorded["resize_table"].tolist():
        settings = replace(DETECTRON2.image, min_size=short, max_size=longest)
        if short:
            assert list(transforms.resized_size((height, width), settings)) == wanted


def test_resized_pixels(recorded: dict) -> None:
    plain = ImageConfig(pixel_mean=(0, 0, 0), pixel_std=(1 / 255,) * 3, antialias=True, size_divisor=1)
    names = [n for n in recorded if n.startswith("resize_") and n not in ("resize_table", "resize_src")]
    assert names
    for name in names:
        height, width = map(int, name.removeprefix("resize_").split("x"))
        source = recorded["resize_src"]
        if transforms.resized_size(source.shape[:2], replace(plain, min_size=min(height, width))) != (height, width):
            continue  # another aspect ratio: no rule of one scale gives it
        batch = transforms.prepare([source], replace(plain, min_size=min(height, width), max_size=10**6))
        np.testing.assert_array_equal(batch.tensor.data[0].transpose(1, 2, 0), recorded[name])


def test_levels_of_boxes(recorded: dict) -> None:
    levels = ops.roi_levels(tensor(recorded["lvl_boxes"]), 4, margin=DETECTRON2.heads.level_margin)
    np.testing.assert_array_equal(levels.data, recorded["lvl_ids"])
    edges = ops.roi_levels(tensor(recorded["lvl_edge_boxes"]), 4, margin=DETECTRON2.heads.level_margin)
    assert (edges.data == recorded["lvl_edge_ids"]).mean() > 0.9
    assert (recorded["lvl_edge_ids_torchvision"] != recorded["lvl_edge_ids"]).any()
    theirs = ops.roi_levels(tensor(recorded["lvl_edge_boxes"]), 4)
    assert (theirs.data == recorded["lvl_edge_ids_torchvision"]).mean() > 0.9


@pytest.mark.parametrize(("size", "aligned", "ratio"), [(7, 0, 0), (7, 0, 2), (7, 1, 0), (7, 1, 2), (14, 1, 0)])
def test_roi_align(recorded: dict, device: str, size: int, aligned: int, ratio: int) -> None:
    rois = recorded["ra_rois"]
    out = ops.roi_align(
        tensor(recorded["ra_features"], device),
        tensor(rois[:, 1:], device),
        tensor(rois[:, 0].astype(np.int64), device),
        size,
        0.25,
        ratio,
        bool(aligned),
    )
    wanted = recorded[f"ra_out{size}_aligned{aligned}_sr{ratio}"]
    np.testing.assert_allclose(np.asarray(out.data), wanted, atol=1e-4)


@pytest.mark.parametrize("first", [False, True])
def test_stride_in_1x1_or_3x3_of_a_bottleneck(recorded: dict, first: bool) -> None:
    names = {n.removeprefix("bk_"): a for n, a in recorded.items() if n.startswith("bk_") and "_y_" not in n}
    x = names.pop("x")
    width = names["conv1.weight"].shape[0] if "conv1.weight" in names else names["conv1_weight"].shape[0]
    block = Bottleneck(x.shape[1], width, stride=2, norm="frozen", stride_in_1x1=first)
    for name, variable in block.state_dict(keep_vars=True).items():
        theirs = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        theirs = theirs.replace("bn1", "conv1.norm").replace("bn2", "conv2.norm").replace("bn3", "conv3.norm")
        variable.data = names[theirs if theirs in names else theirs.replace(".", "_")].astype(np.float32)
    out = block(tensor(x))
    np.testing.assert_allclose(out.data, recorded[f"bk_y_stride1x1_{int(first)}"], atol=1e-4)


def test_proposals_of_recorded_predictions(recorded: dict) -> None:
    height, width, nms, before, after, _ = recorded["rpnsel_params"].tolist()
    settings = replace(DETECTRON2.rpn, nms_thresh=nms, pre_nms_top_n=int(before), post_nms_top_n=int(after))
    parts = [(recorded[f"rpnsel_boxes_{i}"], recorded[f"rpnsel_logits_{i}"]) for i in range(3)]
    boxes, logits = (np.concatenate([p[k].reshape(-1, *((4,) if k == 0 else ())) for p in parts]) for k in (0, 1))
    anchors, deltas = np.tile(np.float32([-50, -50, 50, 50]), (len(boxes), 1)), encode(boxes, 100)
    network = _RegionProposalNetwork(1, _AnchorGenerator((8,), (1.0,), per_level=True), settings)
    output = RPNOutput(tensor(logits[None, :, None]), tensor(deltas[None]), tensor(anchors), [p[1].size for p in parts])
    (found,) = network.filter_proposals(output, [(int(height), int(width))], training=False)
    wanted = recorded["rpnsel_out_boxes"]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.data, wanted, atol=1e-4)


def encode(boxes: np.ndarray, side: float) -> np.ndarray:
    """Return the deltas from a square of ``side`` around the origin to boxes that may be empty or not finite.

    No deltas lead to a box whose corners are swapped: such a one becomes empty.
    """
    boxes = boxes.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        center, sides = (boxes[..., 2:] + boxes[..., :2]) / 2, boxes[..., 2:] - boxes[..., :2]
        sides = np.where(sides < 0, 0, sides)
        return np.concatenate([center / side, np.log(sides / side)], axis=-1).astype(np.float32)


@pytest.mark.parametrize("case", ["a", "b", "agn"])
def test_detections_of_recorded_predictions(recorded: dict, case: str) -> None:
    scores, boxes = recorded["frcnn_scores"].astype(np.float64), recorded["frcnn_boxes"]
    score, nms, top = recorded[f"frcnn_{case}_params"].tolist()
    num_classes = scores.shape[1] - 1
    boxes = boxes.reshape(len(scores), -1, 4)
    if case == "agn":
        boxes = np.repeat(boxes[:, :1], num_classes, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = np.log(np.roll(scores, 1, axis=1))
    proposals = np.tile(np.float32([-50, -50, 50, 50]), (len(scores), 1))
    (found,) = postprocess_detections(
        tensor(logits),
        tensor((encode(boxes, 100) * np.float32([10, 10, 5, 5])).reshape(len(scores), -1)),
        ops.Proposals.of([tensor(proposals)]),
        [(160, 200)],
        DETECTRON2.heads,
        score_thresh=score,
        nms_thresh=nms,
        top_k=int(top),
    )
    assert found.boxes.shape[0] == len(recorded[f"frcnn_{case}_boxes"])
    np.testing.assert_allclose(found.boxes.data, recorded[f"frcnn_{case}_boxes"], atol=1e-3)
    np.testing.assert_allclose(found.scores.data, recorded[f"frcnn_{case}_scores"], atol=1e-5)
    np.testing.assert_array_equal(found.labels.data - 1, recorded[f"frcnn_{case}_classes"])


def test_pasted_masks(recorded: dict, device: str) -> None:
    probs, boxes = tensor(recorded["paste_prob"], device), tensor(recorded["paste_boxes"], device)
    height, width = recorded["paste_hw"].tolist()
    soft = ops.paste_masks(probs, boxes, (height, width), None, snap=False)
    np.testing.assert_allclose(np.asarray(soft.data), recorded["paste_soft"], atol=1e-4)
    hard = np.asarray(ops.paste_masks(probs, boxes, (height, width), 0.5, snap=False).data)
    wanted = np.unpackbits(recorded["paste_bits"].ravel())[: hard.size].reshape(hard.shape).astype(bool)
    assert (hard != wanted).sum(axis=(1, 2)).max() <= 2
    snapped = np.asarray(ops.paste_masks(probs, boxes, (height, width), 0.5).data)
    assert (snapped != wanted).sum() > 3  # torchvision's are others


def test_boxes_are_clipped_and_empty_ones_dropped_in_the_image(recorded: dict) -> None:
    boxes, probs = recorded["post_boxes_in"], recorded["post_prob_in"]
    size, original = tuple(recorded["post_in_hw"].tolist()), tuple(recorded["post_out_hw"].tolist())
    restored = transforms.resize_boxes(boxes, size, original)
    found = Detections(
        restored, np.ones(len(boxes)), np.ones(len(boxes), int), probs, original, snap_masks=False
    ).clipped()
    np.testing.assert_allclose(found.boxes.data, recorded["post_boxes"], atol=1e-4)
    wanted = np.unpackbits(recorded["post_mask_bits"], axis=1)[:, : original[0] * original[1]]
    assert (found.masks.data.reshape(len(found), -1) != wanted).sum(axis=1).max() <= 2


def test_categories_are_cocos(recorded: dict) -> None:
    ids = recorded["coco_category_ids"].tolist()
    assert list(COCO) == ids
    assert {i + 1: COCO[c] for i, c in enumerate(ids)} == COCO_CONTIGUOUS


# ------------------------------------------------------------------ the whole model


@pytest.mark.parametrize("i", [0, 1])
def test_input_features_and_proposals(model: MaskRCNN, whole: dict, i: int) -> None:
    image = whole[f"img{i}_image"][:, :, ::-1]
    with lucid.no_grad():
        batch = transforms.prepare([image], model.config.image)
        features = FeatureMaps(model.backbone(batch.tensor), batch.tensor.shape[2:])
        rpn = model.rpn(features)
        (proposals,) = model.rpn.filter_proposals(rpn, batch.sizes, training=False)
    assert batch.tensor.shape[2:] == tuple(whole[f"img{i}_padded_hw"])
    height, width = whole[f"img{i}_resized"].shape[:2]
    pixels = batch.tensor.data[0, :, :height, :width].transpose(1, 2, 0) + np.float32([103.53, 116.28, 123.675])
    np.testing.assert_allclose(pixels, whole[f"img{i}_resized"], atol=2e-5)
    for level, feature_map in enumerate(features.maps, 2):
        first = whole[f"img{i}_p{level}_first4"]
        assert np.abs(feature_map.data[0, :4] - first).max() <= 4e-5 * np.abs(first).max()
        rows, columns = whole[f"img{i}_p{level}_grid_y"], whole[f"img{i}_p{level}_grid_x"]
        grid = whole[f"img{i}_p{level}_grid"]
        assert np.abs(feature_map.data[0][:, rows][:, :, columns] - grid).max() <= 4e-5 * np.abs(grid).max()
    wanted = whole[f"img{i}_prop_boxes"]
    nearest = np.abs(wanted[:, None] - proposals.data[None]).max(axis=2).min(axis=1)
    assert nearest[:50].max() <= 1e-2
    assert (nearest <= 1e-2).sum() >= 995


def check(found: Detections, whole: dict, prefix: str) -> np.ndarray:
    """Match detections by class and nearest box; return the rows found for the recorded ones."""
    wanted = {name: whole[f"{prefix}_det_{name}"] for name in ("boxes", "scores", "classes")}
    assert len(found) == len(wanted["scores"])
    distance = np.abs(wanted["boxes"][:, None] - found.boxes.data[None]).max(axis=2)
    distance[wanted["classes"][:, None] != found.labels.data[None] - 1] = np.inf
    rows = distance.argmin(axis=1)
    assert len(set(rows.tolist())) == len(rows)
    assert distance.min(axis=1).max() <= 1e-2
    np.testing.assert_allclose(found.scores.data[rows], wanted["scores"], atol=3e-4)
    areas = found.masks.data.sum(axis=(1, 2))[rows]
    assert np.abs(areas - whole[f"{prefix}_det_mask_area"]).max() <= 8
    return rows


@pytest.mark.parametrize("i", [0, 1])
def test_prediction(model: MaskRCNN, whole: dict, i: int) -> None:
    (found,) = model.predict(whole[f"img{i}_image"][:, :, ::-1])
    rows = check(found, whole, f"img{i}")
    np.testing.assert_allclose(found.mask_probs.data[rows], whole[f"img{i}_det_mask_prob"], atol=1e-3)
    height, width = found.image_size
    bits = np.unpackbits(whole[f"img{i}_det_mask_bits"], axis=1)[:, : height * width]
    assert (found.masks.data[rows].reshape(len(rows), -1) != bits).sum(axis=1).max() <= 8


def test_prediction_of_a_batch(model: MaskRCNN, whole: dict) -> None:
    found = model.predict([whole[f"img{i}_image"][:, :, ::-1] for i in (0, 1)], batch_size=2)
    for i in (0, 1):
        check(found[i], whole, f"batch_img{i}")
