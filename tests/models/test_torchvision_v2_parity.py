"""torchvision's ``maskrcnn_resnet50_fpn_v2`` against its recorded outputs: batch norm and convolutions in the heads."""

from __future__ import annotations

import ast
from pathlib import Path

import lucid
import numpy as np
import pytest
from data.torchvision import recipe_v2

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_50_fpn_v2, transforms
from lucid_maskrcnn.models.matcher import BalancedSampler
from lucid_maskrcnn.weights import load_weights
from lucid_maskrcnn.weights.naming import TORCHVISION_V2

pytestmark = pytest.mark.parity

DATA = Path(__file__).parents[1] / "data" / "torchvision" / "model_v2.npz"
LOSSES = ("roi_cls_loss", "roi_reg_loss", "mask_loss", "rpn_cls_loss", "rpn_reg_loss")  # in the recording's order


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(DATA) as file:
        return dict(file)


@pytest.fixture(scope="module")
def weights(recorded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shapes = zip(recorded["names"].tolist(), recorded["shapes"].tolist(), strict=True)
    return recipe_v2.state_dict({name: ast.literal_eval(shape) for name, shape in shapes})


@pytest.fixture
def model(weights: dict[str, np.ndarray]) -> MaskRCNN:
    built = mask_rcnn_resnet_50_fpn_v2(norm="batch", **recipe_v2.SIZES)  # live in training, as theirs
    load_weights(built, weights)
    return built


def test_prediction(model: MaskRCNN, recorded: dict) -> None:
    with lucid.no_grad():
        batch = transforms.prepare([recorded["image"]], model.config.image)
        maps = model.backbone(batch.tensor)
    for level, features in enumerate(maps, 2):
        np.testing.assert_allclose(features.data.mean((0, 2, 3)), recorded[f"p{level}_mean"], atol=5e-5)
        np.testing.assert_allclose(features.data.std((0, 2, 3)), recorded[f"p{level}_std"], atol=2e-2, rtol=2e-2)
    (found,) = model.predict(recorded["image"])
    assert 10 <= len(found) == len(recorded["scores"])
    distance = np.abs(recorded["boxes"][:, None] - found.boxes.data[None]).max(axis=2)
    distance[recorded["labels"][:, None] != found.labels.data[None]] = np.inf
    rows = distance.argmin(axis=1)
    assert len(set(rows.tolist())) == len(rows)
    assert distance.min(axis=1).max() <= 0.02
    np.testing.assert_allclose(found.scores.data[rows], recorded["scores"], atol=5e-4)
    np.testing.assert_allclose(found.mask_probs.data[rows], recorded["mask_probs"], atol=5e-3)


def test_losses_and_gradients_with_live_statistics(model: MaskRCNN, recorded: dict) -> None:
    model.train()
    model.rpn.sampler = BalancedSampler(256, 0.5, order=np.arange)
    model.roi_sampler.sampler = BalancedSampler(512, 0.25, order=np.arange)
    height, width = recorded["image"].shape[:2]
    count = len(recorded["target_boxes"])
    masks = np.unpackbits(recorded["target_masks"])[: count * height * width].reshape(count, height, width)
    target = {"boxes": recorded["target_boxes"], "labels": recorded["target_labels"], "masks": masks}
    losses = model.get_loss([recorded["image"]], [target])
    np.testing.assert_allclose([losses[n].item() for n in LOSSES], recorded["losses"], atol=1e-3)
    losses["total_loss"].backward()
    norms = dict(zip(recorded["grad_names"].tolist(), recorded["grad_norms"].tolist(), strict=True))
    seen = set()
    for name, parameter in model.state_dict(keep_vars=True).items():
        if not parameter.requires_grad:
            continue
        theirs = TORCHVISION_V2.theirs(name)
        seen.add(theirs)
        gradient = np.zeros(1) if parameter.grad is None else parameter.grad.astype(np.float64)
        assert np.linalg.norm(gradient) == pytest.approx(norms[theirs], rel=0.02, abs=1e-5), name
    assert seen == set(norms)
