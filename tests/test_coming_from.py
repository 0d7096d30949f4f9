"""The pages for those who come from other libraries: what their tables call ours, exists."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import lucid_maskrcnn
from lucid_maskrcnn import HeadConfig, ImageConfig, MaskRCNN, RPNConfig, data, mask_rcnn_resnet_50_fpn, training

PAGES = Path(__file__).parents[1] / "docs" / "coming_from"
PARTS = {"image": ImageConfig, "rpn": RPNConfig, "heads": HeadConfig}
OWNERS = {
    name: place
    for place in (lucid_maskrcnn, data, training, MaskRCNN)
    for name in (
        "predict",
        "get_loss",
        "MaskRCNN",
        "Loader",
        "CocoInstances",
        "Augmentation",
        "Trainer",
        "TrainerSettings",
    )
    if hasattr(place, name)
}
FACTORY = inspect.signature(mask_rcnn_resnet_50_fpn).parameters

# The keywords of maskrcnn_resnet50_fpn and MaskRCNN in torchvision 0.28.
TORCHVISION = """
weights progress num_classes weights_backbone trainable_backbone_layers backbone min_size max_size image_mean
image_std rpn_anchor_generator rpn_head rpn_pre_nms_top_n_train rpn_pre_nms_top_n_test
rpn_post_nms_top_n_train rpn_post_nms_top_n_test rpn_nms_thresh rpn_fg_iou_thresh rpn_bg_iou_thresh
rpn_batch_size_per_image rpn_positive_fraction rpn_score_thresh box_roi_pool box_head box_predictor
box_score_thresh box_nms_thresh box_detections_per_img box_fg_iou_thresh box_bg_iou_thresh
box_batch_size_per_image box_positive_fraction bbox_reg_weights mask_roi_pool mask_head mask_predictor
"""


def rows_of(page: str) -> list[tuple[str, str]]:
    """Return (theirs, ours) of the tables of keywords: those with a column of notes."""
    text = (PAGES / page).read_text(encoding="utf-8")
    tables = re.findall(
        r"^\| [^|\n]+ \| lucid_maskrcnn \| note \|\n\| --- [^\n]+\n((?:\|[^\n]+\n)+)", text, re.MULTILINE
    )
    return [tuple(cell.strip() for cell in row.split("|")[1:3]) for table in tables for row in table.splitlines()]


def check(span: str) -> None:
    """Fail if a piece of code of the column of ours names a keyword that does not exist."""
    if part := re.fullmatch(r"(image|rpn|heads)=\{(.*)\}", span):
        names = re.findall(r'"(\w+)":', part[2])
        assert names, span
        assert set(names) <= {f.name for f in fields(PARTS[part[1]])}, span
    elif call := re.fullmatch(r"(\w+)\((.*)\)", span):
        if call[1] in OWNERS:
            taken: Any = inspect.signature(getattr(OWNERS[call[1]], call[1])).parameters
            assert set(re.findall(r"(\w+)=", call[2])) <= set(taken), span
    elif re.fullmatch(r"[a-z_0-9]+", span):
        assert span in FACTORY or hasattr(lucid_maskrcnn, span), span


@pytest.mark.parametrize(
    ("page", "at_least"), [("torchvision.md", 30), ("detectron2.md", 60), ("ultralytics.md", 25), ("lucid.md", 12)]
)
def test_keywords_of_the_tables_exist(page: str, at_least: int) -> None:
    rows = rows_of(page)
    assert len(rows) >= at_least
    for _, ours in rows:
        for span in re.findall(r"`([^`]+)`", ours):
            check(span)


def test_every_keyword_of_torchvision_has_a_row() -> None:
    theirs = {span for cell, _ in rows_of("torchvision.md") for span in re.findall(r"`(\w+)`", cell)}
    assert theirs >= set(TORCHVISION.split())
