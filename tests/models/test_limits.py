"""What is cut off by a limit is said, once a call, with the numbers and what to set."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import lucid
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, ops
from lucid_maskrcnn.config import ImageConfig, RPNConfig
from lucid_maskrcnn.models.limits import Limits

ASSETS = Path(str(resources.files("lucid_maskrcnn") / "assets"))
FLUORESCENCE = ASSETS / "nuclei_fluorescence_small.png"


@pytest.fixture(scope="module")
def nuclei() -> MaskRCNN:
    return MaskRCNN.from_file("NUCLEI")


def rebuilt(**settings: Any) -> MaskRCNN:
    return mask_rcnn_resnet_18_fpn(weights="NUCLEI", **settings)


def corner() -> np.ndarray:
    """Return the least of an image that has a few nuclei."""
    return np.asarray(Image.open(FLUORESCENCE))[80:176, 80:176]


def warned(model: MaskRCNN, images: Any, **options: Any) -> tuple[list[Any], list[warnings.WarningMessage]]:
    """Return what is found, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = model.predict(images, **options)
    return found, caught


def test_usual_images_give_no_warning(nuclei: MaskRCNN) -> None:
    for name in ("nuclei_fluorescence_small.png", "nuclei_histology_lilac.png"):
        assert warned(nuclei, ASSETS / name)[1] == []


def test_result_full_to_top_k_says_how_many_there_are(nuclei: MaskRCNN) -> None:
    (whole,), _ = warned(nuclei, FLUORESCENCE)
    (found,), (warning,) = warned(nuclei, FLUORESCENCE, top_k=7)
    assert len(found) == 7
    assert str(warning.message) == (
        f"Objects may be missing: top_k=7 cuts off detections, of which there are {len(whole)} in images[0]: pass "
        f"top_k={len(whole)}."
    )
    assert (warning.category, warning.filename) == (UserWarning, __file__)
    # A result that is full, but not cut off, is no reason to warn.
    assert warned(nuclei, FLUORESCENCE, top_k=len(whole))[1] == []
    assert "top_k=0 cuts off" in str(warned(nuclei, FLUORESCENCE, top_k=0)[1][0].message)


def test_a_list_gives_one_warning_that_names_the_first_images(nuclei: MaskRCNN) -> None:
    _, (warning,) = warned(nuclei, [corner()] * 5, top_k=1)
    assert "in images[0], " in str(warning.message)
    assert "in images[2] and 2 more images: pass top_k=" in str(warning.message)


def test_image_beyond_max_size_is_said_to_be_shrunk() -> None:
    model = rebuilt(max_size=320)
    pixels = np.zeros((100, 200, 3), np.uint8)
    _, (warning,) = warned(model, [pixels[:80, :128], pixels])
    assert str(warning.message) == (
        "Objects may be missing: max_size=320 shrinks images[1] (100 × 200 to 160 × 320, a scale of 1.6 instead of "
        "2.5): build the model with max_size=500, or use predict_tiled (--tiles)."
    )
    assert warned(rebuilt(max_size=500), pixels)[1] == []


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [
        ((480, 640), None),  # photographs, as torchvision resizes them
        ((600, 1800), None),  # 444 × 1333
        ((300, 2000), "images[0] (300 × 2000 to 199 × 1333, a short side of 199 pixels instead of 800): build the mo"),
        (
            (4000, 400),
            "(4000 × 400 to 1333 × 133, a short side of 133 pixels instead of 800): build the model with max",
        ),
        ((10, 10), None),  # enlarged
    ],
)
def test_panorama_is_said_to_be_shrunk(size: tuple[int, int], shrunk: str | None) -> None:
    from lucid_maskrcnn.transforms import resized_size

    config = ImageConfig()
    limits = Limits()
    limits.add_sizes([size], [resized_size(size, config)], config)
    sentence = limits.sentence()
    assert (sentence == "") == (shrunk is None)
    assert (shrunk or "") in sentence
    if shrunk:  # what it says to set is enough
        needed = int(sentence.partition("with max_size=")[2].partition(",")[0])
        enough, after = replace(config, max_size=needed), Limits()
        after.add_sizes([size], [resized_size(size, enough)], enough)
        assert after.sentence() == ""
        assert min(resized_size(size, enough)) == 800


@pytest.mark.parametrize("few", ["pre_nms_top_n", "post_nms_top_n"])
def test_proposals_that_run_out_are_said(few: str, device: str) -> None:
    model = rebuilt(rpn={few: 5}).to(device)
    _, (warning,) = warned(model, corner())
    sentence = str(warning.message)
    assert sentence.startswith("Objects may be missing: the proposals ran out in images[0] (the last one still has an")
    assert f"build the model with rpn={{'pre_nms_top_n': {20 if few == 'pre_nms_top_n' else 8000}," in sentence


def test_proposals_full_of_background_give_no_warning(nuclei: MaskRCNN) -> None:
    """As torchvision's, which are always full."""
    pixels = np.asarray(Image.open(FLUORESCENCE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch, _ = nuclei._prepare([pixels], nuclei.config.image)
        rpn = nuclei.rpn(nuclei._features(batch.tensor))
        (proposals,) = nuclei.rpn.filter_proposals(rpn, batch.sizes, training=False)
        assert proposals.shape[0] == nuclei.config.rpn.post_nms_top_n
        nuclei.predict(pixels)


@pytest.mark.parametrize("by_logits", [False, True])
@pytest.mark.parametrize(("objectness", "said"), [(0.95, True), (0.89, False)])
def test_objectness_is_compared_whether_ranked_by_logits_or_probabilities(
    device: str, by_logits: bool, objectness: float, said: bool
) -> None:
    logits = np.float32(np.log(objectness / (1 - objectness))) + np.float32([0.5, 0, -1])
    boxes = np.float32([[0, 0, 8, 8], [20, 0, 28, 8], [40, 0, 48, 8]])
    config = RPNConfig(by_logits=by_logits, post_nms_top_n=2)
    rules = ops.ProposalRules(100, 2, 0.7, 0.0, by_logits)
    proposals = ops.filter_proposals(
        ops.as_tensor(logits.reshape(1, 3, 1), device),
        ops.as_tensor(np.zeros((1, 3, 4), np.float32), device),
        ops.as_tensor(boxes, device),
        [3],
        [(64, 64)],
        rules,
    )
    limits = Limits()
    limits.add_proposals(proposals, config)
    limits._read()
    assert ("ran out" in limits.sentence()) == said


def test_all_limits_are_in_one_warning() -> None:
    model = rebuilt(max_size=300, rpn={"post_nms_top_n": 20})
    _, (warning,) = warned(model, FLUORESCENCE, top_k=3)
    for words in ("max_size=300 shrinks", "the proposals ran out", "top_k=3 cuts off"):
        assert words in str(warning.message)


def test_several_calls_can_share_one_warning(nuclei: MaskRCNN) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Limits() as limits:
            for name in ("a.png", "b.png"):
                limits.name = name
                nuclei.predict(corner(), top_k=1)
    (warning,) = caught
    assert "in a.png and 10 in b.png: pass top_k=10" in str(warning.message)
    assert warning.filename == __file__


def test_tensors_are_not_resized_and_give_no_warning_of_it(nuclei: MaskRCNN) -> None:
    tall = lucid.Tensor(np.zeros((3, 32, 2592), np.float32))
    assert not any("max_size" in str(w.message) for w in warned(nuclei, tall)[1])
