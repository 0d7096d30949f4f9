"""The whole model against torchvision's recorded outputs, stage by stage.

Weights come from ``data/torchvision/recipe.py``, tolerances from the note that came with the recordings:
three to five times the difference between torchvision's own float32 and float64 runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lucid
import numpy as np
import pytest
from data.torchvision import recipe

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_50_fpn, transforms
from lucid_maskrcnn.models import FeatureMaps
from lucid_maskrcnn.models.heads import RoISampler
from lucid_maskrcnn.models.matcher import BalancedSampler
from lucid_maskrcnn.ops import repair_engine
from lucid_maskrcnn.weights import load_weights
from lucid_maskrcnn.weights.naming import TORCHVISION

pytestmark = pytest.mark.parity

DATA = Path(__file__).parents[1] / "data" / "torchvision"
LOSSES = (
    "roi_cls_loss",
    "roi_reg_loss",
    "mask_loss",
    "rpn_cls_loss",
    "rpn_reg_loss",
)  # in the recording's order


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(DATA / "model_r50.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def weights(recorded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    meta = json.loads(str(recorded["meta"]))
    arrays = recipe.state_dict(meta["arch"], meta["num_classes"], meta["seed"])
    assert recipe.digest(arrays) == meta["weights_sha256"]
    return arrays


def build(weights: dict[str, np.ndarray], **settings: object) -> MaskRCNN:
    model = mask_rcnn_resnet_50_fpn(min_size=256, max_size=400, **settings)
    load_weights(model, weights)
    return model


@pytest.fixture(scope="module")
def model(weights: dict[str, np.ndarray]) -> MaskRCNN:
    return build(weights)


@pytest.fixture(scope="module")
def images(recorded: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [recorded["image0"], recorded["image1"]]


@pytest.fixture(scope="module")
def stages(model: MaskRCNN, images: list[np.ndarray]) -> dict[str, object]:
    with lucid.no_grad():
        batch = transforms.prepare(images, model.config.image)
        body = model.backbone.body(batch.tensor)
        features = FeatureMaps(model.backbone(batch.tensor), batch.tensor.shape[2:])
        rpn = model.rpn(features)
        proposals = model.rpn.filter_proposals(rpn, batch.sizes, training=False)
    return {
        "batch": batch,
        "body": body,
        "maps": features.maps,
        "features": features,
        "rpn": rpn,
        "proposals": proposals,
    }


def close(value: object, wanted: np.ndarray, tolerance: float) -> None:
    value = np.asarray(value.data if isinstance(value, lucid.Tensor) else value)
    assert value.shape == wanted.shape
    assert np.abs(value - wanted).max(initial=0) <= tolerance


# ------------------------------------------------------------------ prediction


def test_batch(stages: dict, recorded: dict) -> None:
    assert stages["batch"].sizes == [tuple(s) for s in recorded["image_sizes"].tolist()]
    close(stages["batch"].tensor, recorded["batch"], 5e-6) if "batch" in recorded else None
    assert tuple(stages["batch"].tensor.shape) == tuple(recorded["batch_shape"])


@pytest.mark.parametrize("stage", [2, 3, 4, 5])
def test_body(stages: dict, recorded: dict, stage: int) -> None:
    features = stages["body"][stage - 2].data.astype(np.float64)
    close(features.mean((2, 3)), recorded[f"c{stage}_mean"], 3e-5)
    close(features.std((2, 3), ddof=1), recorded[f"c{stage}_std"], 3e-5)


@pytest.mark.parametrize("level", [2, 3, 4, 5, 6])
def test_pyramid(stages: dict, recorded: dict, level: int) -> None:
    features = stages["maps"][level - 2].data.astype(np.float64)
    step = {2: 4, 3: 2}.get(level, 1)
    assert features.shape == tuple(recorded[f"p{level}_shape"])
    close(features.mean((2, 3)), recorded[f"p{level}_mean"], 3e-5)
    close(features.std((2, 3), ddof=1), recorded[f"p{level}_std"], 3e-5)
    close(features[:, ::32, ::step, ::step], recorded[f"p{level}_sub"], 4e-4)


def test_proposal_network(stages: dict, recorded: dict) -> None:
    assert stages["rpn"].level_sizes == recorded["anchors_per_level"].tolist()
    close(stages["rpn"].objectness.data[..., 0], recorded["rpn_objectness"], 6e-4)
    close(stages["rpn"].deltas.data[:, ::11], recorded["rpn_deltas_sub"], 2e-4)


@pytest.mark.parametrize("image", [0, 1])
def test_proposals(stages: dict, recorded: dict, image: int) -> None:
    found, wanted = stages["proposals"][image].data, recorded[f"proposals{image}"]
    assert found.shape == wanted.shape
    first = min(50, int(recorded[f"proposals_stable{image}"]))
    close(found[:first], wanted[:first], 0.03)
    distance = np.abs(wanted[:, None] - found[None]).max(axis=2).min(axis=1)
    assert (distance > 0.03).sum() <= 10  # far down, near ties may fall the other way


@pytest.mark.parametrize("image", [0, 1])
def test_box_head(model: MaskRCNN, stages: dict, recorded: dict, image: int) -> None:
    rois = lucid.Tensor(recorded[f"proposals{image}"][:50])
    roi_idx = lucid.Tensor(np.full(50, image, np.int32))
    with lucid.no_grad():
        pooled = model.roipool(stages["features"], rois, roi_idx)
        logits, deltas, _ = model(stages["batch"].tensor, rois, roi_idx)
    close(pooled.data.mean((2, 3)), recorded[f"box_pool_mean{image}"], 1e-3)
    close(logits, recorded[f"class_logits{image}"], 5e-3)
    close(deltas.data[:, :36], recorded[f"box_deltas{image}"][:, 4:], 2e-3)  # no columns for background


def test_detections_of_a_batch(model: MaskRCNN, images: list, recorded: dict) -> None:
    for image, found in enumerate(model.predict(images, batch_size=len(images))):
        assert len(found) == len(recorded[f"boxes{image}"])
        close(found["boxes"], recorded[f"boxes{image}"], 0.02)
        close(found["scores"], recorded[f"scores{image}"], 3e-4)
        assert (found["labels"].data == recorded[f"labels{image}"]).all()
        close(found.mask_probs, recorded[f"mask_probs{image}"], 5e-3)
        height, width = found.image_size
        bits = np.unpackbits(recorded[f"masks_packed{image}"])[: len(found) * height * width]
        wrong = (found["masks"].data != bits.reshape(-1, height, width)).sum((1, 2))
        clear = recorded[f"mask_margin{image}"] >= 0.01  # the others' boxes may round to another pixel
        assert (wrong <= recorded[f"mask_close{image}"] + 2)[clear].all()


# ------------------------------------------------------------------ training


def in_order(count: int) -> np.ndarray:
    return np.arange(count)


def targets(recorded: dict, run: str) -> list[dict[str, np.ndarray]]:
    made = []
    for image in (0, 1):
        boxes = recorded[f"target_boxes{image}"]
        height, width = recorded[f"image{image}"].shape[:2]
        bits = np.unpackbits(recorded[f"target_masks_packed{image}"])[: len(boxes) * height * width]
        count = 0 if run == "empty" and image == 1 else len(boxes)
        made.append(
            {
                "boxes": boxes[:count],
                "labels": recorded[f"target_labels{image}"][:count],
                "masks": bits.reshape(-1, height, width)[:count],
            }
        )
    return made


def configure(model: MaskRCNN, run: str) -> None:
    """Make sampling deterministic, as the recorded runs did."""
    if run == "first":
        model.rpn.sampler = BalancedSampler(256, 0.5, order=in_order)
        model.roi_sampler.sampler = BalancedSampler(512, 0.25, order=in_order)
        return
    proposals = {"all": 300, "empty": 100}[run]
    model.rpn.config = replace(model.rpn.config, post_nms_top_n_train=proposals)
    model.rpn.sampler = BalancedSampler(10**6, 0.5, order=in_order)
    model.roi_sampler = RoISampler(replace(model.config.heads, batch_size=10**6), 28)


def losses_of(model: MaskRCNN, images: list, recorded: dict, run: str) -> dict[str, lucid.Tensor]:
    return model.get_loss(images, targets(recorded, run))


@pytest.fixture
def repaired(request: pytest.FixtureRequest) -> Iterator[None]:
    """Lucid's autograd engine as this package repairs it, or as it comes."""
    assert repair_engine(request.param) is request.param
    yield
    repair_engine()


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize(
    ("repaired", "run"),
    [
        *((True, run) for run in ("first", "all", "empty")),
        (False, "first"),
        *(pytest.param(False, run, marks=pytest.mark.slow) for run in ("all", "empty")),
    ],
    indirect=["repaired"],
)
def test_losses_and_gradients(weights: dict, images: list, recorded: dict, run: str) -> None:
    model = build(weights, trainable_layers=5)
    configure(model, run)
    losses = losses_of(model, images, recorded, run)
    close([float(losses[name].item()) for name in LOSSES], recorded[f"{run}_losses"], 5e-5)
    assert float(losses["total_loss"].item()) == pytest.approx(recorded[f"{run}_losses"].sum(), abs=2e-4)
    losses["total_loss"].backward()
    rows = {name: i for i, name in enumerate(recorded["grad_names"].tolist())}
    seen = set()
    for name, parameter in model.state_dict(keep_vars=True).items():
        if not parameter.requires_grad:
            continue
        theirs = TORCHVISION.theirs(name)
        seen.add(theirs)
        norm, probed = recorded[f"{run}_grad_norm"][rows[theirs]], recorded[f"{run}_grad_probe"][rows[theirs]]
        gradient = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.astype(np.float64)
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=0.01, abs=0), name
        direction = recipe.probe(theirs, weights[theirs].shape)[len(weights[theirs]) - len(gradient) :]
        assert abs((gradient * direction).sum() - probed) <= 0.08 * norm, name
    assert seen == set(rows)


@pytest.mark.slow
def test_three_steps_of_sgd(weights: dict, images: list, recorded: dict) -> None:
    from lucid_maskrcnn.training import SGD

    model = build(weights, trainable_layers=5)
    configure(model, "all")
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=5e-4, momentum=0.9, weight_decay=1e-4)
    for step in range(3):
        losses = losses_of(model, images, recorded, "all")
        close(
            [float(losses[name].item()) for name in LOSSES],
            recorded["sgd_losses"][step],
            5e-5 if step == 0 else 2e-3,
        )
        optimizer.zero_grad()
        losses["total_loss"].backward()
        optimizer.step()
