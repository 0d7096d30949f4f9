"""The pages for those who come from other libraries: what their tables call ours exists, and their examples run."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import lucid
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


def example_with(word: str) -> str:
    """Return the block of the page on Lucid's detectors that has a word."""
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / "lucid.md").read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if word in block)


def run(source: str) -> tuple[dict[str, Any], Any]:
    """Execute as a notebook cell: return the names, and the value of the last line if it has one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    names: dict[str, Any] = {}
    exec(compile(tree, "lucid.md", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "lucid.md", "eval"), names) if last else None
    return names, value


def test_backbone_example() -> None:
    lucid.random.seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Lucid 2.9's layers cast the uninitialized memory of a bias before they fill it.
        warnings.filterwarnings("ignore", ".* encountered in cast", RuntimeWarning)
        # Random weights find as much as they are let to.
        warnings.filterwarnings("ignore", "Objects may be missing", UserWarning)
        names, (boxes, scores, labels, masks) = run(example_with("class SimpleBackbone"))
    assert [w.category for w in caught] == [UserWarning]
    assert "anchor_stride" in str(caught[0].message)
    r = names["cls_logits"].shape[0]
    assert r > 0
    assert names["cls_logits"].shape == (r, 6)
    assert names["bbox_deltas"].shape == (r, 20)
    assert names["mask_logits"].shape == (r, 5, 28, 28)
    n = len(names["detections"][0])
    assert (boxes, scores, labels, masks) == ((n, 4), (n,), (n,), (n, 512, 512))


def test_training_example(capsys: pytest.CaptureFixture[str]) -> None:
    lucid.random.seed(0)
    names, _ = run(example_with("clip_gradients("))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert "total_loss" in printed[0]
    assert all(p.grad is not None for p in names["optimizer"].params)
