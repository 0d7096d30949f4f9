"""Whole models, as small as possible: arguments, predictions, losses and gradients."""

import functools
import inspect
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lucid
import lucid.nn as nn
import numpy as np
import pytest
from gradients import tensor, values
from lucid import Tensor
from PIL import Image

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, mask_rcnn_resnet_50_fpn_v2
from lucid_maskrcnn.config import HeadConfig, ImageConfig, RPNConfig
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.models.layers import Conv2d
from lucid_maskrcnn.training import SGD
from lucid_maskrcnn.transforms import prepare

LOSSES = ["rpn_cls_loss", "rpn_reg_loss", "roi_cls_loss", "roi_reg_loss", "mask_loss", "total_loss"]

# ------------------------------------------------------------------ small models


class Tiny(nn.Module):
    """One 3×3 convolution for each stride, each on what the last one gave."""

    def __init__(self, *strides: int, channels: int = 6, maps: int | None = None) -> None:
        super().__init__()
        self.maps = maps
        inputs = [3, *[channels] * (len(strides) - 1)]
        self.convs = nn.ModuleList(
            [Conv2d(c, channels, 3, stride=s, padding=1) for c, s in zip(inputs, strides, strict=True)]
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        out = []
        for conv in self.convs:
            x = conv(x, relu=True)
            out.append(x)
        return x if self.maps is None else out[-self.maps :]


SMALL: dict[str, Any] = {
    "anchor_sizes": (8, 16, 32),
    "hidden_dim": 12,
    "pool_size": (3, 3),
    "mask_pool_size": (4, 4),
    "mask_out_size": 8,
    "mask_hidden_channels": 5,
    "dropout": 0.0,
    "image": ImageConfig(min_size=64, max_size=96),
    "rpn": RPNConfig(
        pre_nms_top_n=60, post_nms_top_n=12, pre_nms_top_n_train=60, post_nms_top_n_train=20, batch_size=32
    ),
    "heads": HeadConfig(batch_size=16, top_k=10),
}


def build(seed: int = 0, **settings: Any) -> MaskRCNN:
    """Return a model on one map of stride 8 with three classes; the same weights for the same seed."""
    lucid.random.seed(seed)
    return MaskRCNN(
        **{"backbone": Tiny(2, 2, 2), "feat_channels": 6, "num_classes": 3, "anchor_stride": 8, **SMALL} | settings
    )


def build_pyramid(seed: int = 0, **settings: Any) -> MaskRCNN:
    """Return a model on three maps of strides 4, 8 and 16."""
    lucid.random.seed(seed)
    return build(seed, **{"backbone": Tiny(2, 2, 2, 2, maps=3), "use_fpn": True} | settings)


def build_resnet(seed: int = 0, **settings: Any) -> MaskRCNN:
    lucid.random.seed(seed)
    given = {"norm": "batch", "width": 4, "fpn_channels": 6, "anchor_sizes": (8, 12, 16, 24, 32)}
    return mask_rcnn_resnet_18_fpn(3, **{k: v for k, v in SMALL.items() if k != "image"} | given | settings)


def images(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), device)


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def target(count: int, height: int = 64, width: int = 64, seed: int = 0) -> dict[str, np.ndarray]:
    """Return so many rectangles as objects."""
    rng = np.random.default_rng([seed, count])
    low = rng.integers(0, (width - 12, height - 12), (count, 2))
    high = low + rng.integers(6, 12, (count, 2))
    masks = np.zeros((count, height, width), bool)
    for mask, (x1, y1), (x2, y2) in zip(masks, low, high, strict=True):
        mask[y1:y2, x1:x2] = True
    boxes = np.concatenate([low, high], axis=1).astype(np.float32).reshape(count, 4)
    return {"boxes": boxes, "labels": rng.integers(1, 4, count), "masks": masks}


def numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(values(loss)) for name, loss in losses.items()}


def seeded_losses(model: MaskRCNN, *data: Any, seed: int = 7) -> Mapping[str, Tensor]:
    lucid.random.seed(seed)
    return model.get_loss(*data)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.state_dict(keep_vars=True).items() if p.requires_grad}


def assert_same(one: Any, other: Any, tolerance: float = 0) -> None:
    """Compare two ``Detections``."""
    assert len(one) == len(other) > 0
    assert one.image_size == other.image_size
    np.testing.assert_array_equal(values(one["labels"]), values(other["labels"]))
    for name in ("boxes", "scores"):
        np.testing.assert_allclose(values(one[name]), values(other[name]), rtol=0, atol=tolerance)
    np.testing.assert_allclose(values(one.mask_probs), values(other.mask_probs), rtol=0, atol=tolerance)


# ------------------------------------------------------------------ what is promised


def test_arguments_and_defaults() -> None:
    def arguments(function: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
        parameters = inspect.signature(function).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
        assert not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        return positional, {p.name: p.default for p in parameters if p.default is not p.empty}

    positional, defaults = arguments(MaskRCNN)
    assert positional == ["backbone", "feat_channels", "num_classes"]
    assert list(defaults.items())[:11] == [
        ("use_fpn", False),
        ("anchor_sizes", (128, 256, 512)),
        ("aspect_ratios", (0.5, 1.0, 2.0)),
        ("anchor_stride", 16),
        ("pool_size", (7, 7)),
        ("hidden_dim", 4096),
        ("dropout", 0.5),
        ("mask_pool_size", (14, 14)),
        ("mask_hidden_channels", 256),
        ("mask_out_size", 28),
        ("pooled_levels", None),
    ]
    kinds = {p.name: p.kind for p in inspect.signature(MaskRCNN).parameters.values()}
    assert all(kinds[name] is inspect.Parameter.KEYWORD_ONLY for name in defaults)
    assert arguments(MaskRCNN.forward) == (["self", "images"], {"rois": None, "roi_idx": None})
    assert arguments(MaskRCNN.predict) == (
        ["self", "images"],
        {"score_thresh": 0.05, "nms_thresh": None, "top_k": None, "mask_thresh": 0.5}
        | {"classes": None, "class_agnostic_nms": False, "mask_nms": False, "keep_image": True}
        | {"batch_size": 1, "page": None, "channels": None, "intensity": None},
    )
    assert arguments(MaskRCNN.get_loss) == (
        ["self", "images", "targets"],
        {"image_config": None, "loss_weights": None, "class_weights": None},
    )


def test_names_of_submodules() -> None:
    model = build()
    parts = "backbone rpn rpn.head rpn.anchor_generator roipool mask_roipool fc1 fc2 drop1 drop2 cls_score bbox_pred"
    in_mask_head = "conv1 conv2 conv3 conv4 deconv mask_predictor"
    for name in [*parts.split(), "mask_head", *(f"mask_head.{n}" for n in in_mask_head.split())]:
        assert isinstance(functools.reduce(getattr, name.split("."), model), nn.Module), name
    held = {name.rsplit(".", 1)[0] for name in model.state_dict()}
    assert held == {
        *(f"backbone.convs.{i}" for i in range(3)),
        *("rpn.head.conv", "rpn.head.cls_logits", "rpn.head.bbox_pred"),
        *("fc1", "fc2", "cls_score", "bbox_pred"),
        *(f"mask_head.{name}" for name in in_mask_head.split()),
    }


# ------------------------------------------------------------------ forward


@pytest.mark.parametrize("strides", [(2,), (2, 2), (2, 2, 2), (3,), (1,)])
def test_forward_at_any_stride(strides: tuple[int, ...]) -> None:
    model = build(backbone=Tiny(*strides), anchor_stride=math.prod(strides))
    rois = tensor(np.float32([[0, 0, 30, 20], [5, 5, 90, 95], [40, 10, 41, 11]]))
    roi_idx = tensor(np.array([0, 1, 1], np.int32))
    cls_logits, bbox_deltas, mask_logits = model(images(2, 3, 96, 96), rois, roi_idx)
    assert cls_logits.shape == (3, 4)
    assert bbox_deltas.shape == (3, 12)
    assert mask_logits.shape == (3, 3, 8, 8)


@pytest.mark.parametrize("make", [build, build_pyramid])
def test_forward_on_its_own_proposals(make: Callable[..., MaskRCNN], device: str) -> None:
    model = make().to(device)
    cls_logits, bbox_deltas, mask_logits = model(images(2, 3, 64, 96, device=device))
    count = cls_logits.shape[0]
    assert 2 < count <= 24
    assert cls_logits.shape == (count, 4)
    assert bbox_deltas.shape == (count, 12)
    assert mask_logits.shape == (count, 3, 8, 8)
    assert all(np.isfinite(values(t)).all() for t in (cls_logits, bbox_deltas, mask_logits))


@pytest.mark.parametrize("make", [build, build_pyramid])
def test_forward_without_regions(make: Callable[..., MaskRCNN], device: str) -> None:
    model = make().to(device)
    none = tensor(np.zeros((0, 4), np.float32), device), tensor(np.zeros(0, np.int32), device)
    outputs = model(images(2, 3, 64, 64, device=device), *none)
    assert [tuple(t.shape) for t in outputs] == [(0, 4), (0, 12), (0, 3, 8, 8)]
    for output in outputs:
        output.backward()
    for name, p in trainable(model).items():
        assert p.grad is None or not np.asarray(p.grad).any(), name


def test_roi_idx_may_be_left_out_for_one_image() -> None:
    model, x = build(), images(1, 3, 64, 64)
    rois = tensor(np.float32([[0, 0, 30, 20], [5, 5, 60, 50]]))
    for one, other in zip(model(x, rois), model(x, rois, tensor(np.zeros(2, np.int32))), strict=True):
        np.testing.assert_array_equal(values(one), values(other))


def test_rois_are_pooled_from_their_own_image() -> None:
    model, x = build_pyramid(), images(2, 3, 64, 64)
    rois = tensor(np.float32([[0, 0, 30, 20], [5, 5, 60, 50]]))
    both = model(x, rois, tensor(np.array([1, 0], np.int32)))
    first, second = model(x[1:2], rois[0:1]), model(x[0:1], rois[1:2])
    for together, one, other in zip(both, first, second, strict=True):
        np.testing.assert_allclose(values(together), np.concatenate([values(one), values(other)]), atol=1e-5)


# ------------------------------------------------------------------ predict


@pytest.mark.parametrize("make", [build, build_pyramid])
def test_predictions_are_well_formed(make: Callable[..., MaskRCNN], device: str) -> None:
    found = make().to(device).predict(images(2, 3, 50, 75, device=device))
    assert len(found) == 2
    for one in found:
        count = len(one)
        assert 0 < count <= 10  # the settings' top_k
        assert one.image_size == (50, 75)
        assert {one[name].device for name in one} == {device}
        boxes, scores, labels, masks = (values(one[name]) for name in ("boxes", "scores", "labels", "masks"))
        assert (boxes.shape, scores.shape, labels.shape) == ((count, 4), (count,), (count,))
        assert masks.shape == (count, 50, 75)
        assert masks.dtype == bool
        assert (boxes >= 0).all()
        assert (boxes <= [75, 50, 75, 50]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (np.diff(scores) <= 0).all()
        assert ((scores > 0.05) & (scores <= 1)).all()
        assert set(labels.tolist()) <= {1, 2, 3}


def test_predict_takes_tensors_of_three_and_four_dimensions() -> None:
    model, x = build(), images(2, 3, 64, 64)
    both = model.predict(x)
    for i in range(2):
        for alone in (model.predict(x[i]), model.predict(x[i : i + 1]), model.predict([x[i]])):
            assert len(alone) == 1
            assert_same(alone[0], both[i], 1e-4)
    for one, other in zip(model.predict([x[0], x[1]]), both, strict=True):
        assert_same(one, other, 1e-4)
    sizes = [one.image_size for one in model.predict([x[0], images(3, 40, 90)])]
    assert sizes == [(64, 64), (40, 90)]


def test_predict_takes_paths_pil_images_and_arrays(tmp_path: Path) -> None:
    model, pixels = build_pyramid(), noise_image(48, 60)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (expected,) = model.predict(pixels)
    assert expected.image_size == (48, 60)
    np.testing.assert_array_equal(expected.image, pixels)
    forms = [[pixels], Image.fromarray(pixels), [Image.fromarray(pixels)], tmp_path / "image.png"]
    for form in [*forms, str(tmp_path / "image.png")]:
        (found,) = model.predict(form)
        assert_same(found, expected)
    mixed = model.predict([tmp_path / "image.png", Image.fromarray(pixels), pixels])
    assert [one.image_size for one in mixed] == [(48, 60)] * 3
    for found in mixed:
        assert_same(found, expected, 1e-4)


def test_detections_are_in_pixels_of_each_original_image() -> None:
    shapes = [(30, 40), (64, 64), (120, 50)]
    found = build().predict([noise_image(*shape, seed=i) for i, shape in enumerate(shapes)])
    assert [one.image_size for one in found] == shapes
    for one, (height, width) in zip(found, shapes, strict=True):
        assert len(one)
        assert (values(one["boxes"]) <= [width, height, width, height]).all()
        assert values(one["boxes"]).max() > min(height, width) / 2
        assert one["masks"].shape == (len(one), height, width)


@pytest.mark.parametrize("make", [build, build_pyramid])
def test_the_answer_for_an_image_does_not_depend_on_the_others_of_its_list(make: Callable[..., MaskRCNN]) -> None:
    model = make()
    pixels = [noise_image(*shape, seed=i) for i, shape in enumerate([(30, 40), (64, 64), (50, 120)])]
    for found, one in zip(model.predict(pixels), pixels, strict=True):
        assert_same(found, model.predict(one)[0])
    tensors = [images(3, 40, 70), images(3, 64, 64, seed=1)]
    for found, one in zip(model.predict(tensors), tensors, strict=True):
        assert_same(found, model.predict(one)[0])


def test_a_list_goes_through_the_network_in_batches_of_the_size_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels, seen = build(), [noise_image(64, 64, seed) for seed in range(3)], []
    features = model._features
    monkeypatch.setattr(model, "_features", lambda x: seen.append(x.shape[0]) or features(x))
    for given, batch_size, sizes in ((pixels, 1, [1, 1, 1]), (pixels, 2, [2, 1]), (images(2, 3, 64, 64), 1, [2])):
        seen.clear()
        assert len(model.predict(given, batch_size=batch_size)) == len(given)
        assert seen == sizes


def test_warnings_and_errors_name_the_image_of_a_list_whatever_the_batch() -> None:
    model, pixels = build(heads={"top_k": 1}), [noise_image(64, 64, seed) for seed in range(3)]
    with pytest.warns(UserWarning, match=r"in images\[0\], \d+ in images\[1\] and \d+ in images\[2\]: pass"):
        model.predict(pixels, score_thresh=0, batch_size=2)
    good, bad = images(3, 64, 64), images(3, 64, 64, seed=1) * float("nan")
    with pytest.raises(ValueError, match=r"images\[2\] must be finite"):
        model.predict([good, good, bad])
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="batch_size must be a positive integer"):
            model.predict(pixels, batch_size=wrong)
    with pytest.raises(TypeError, match="batch_size must be a positive integer"):
        model.predict(pixels, batch_size=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [build, build_pyramid])
def test_batch_gives_the_detections_of_its_images_alone(make: Callable[..., MaskRCNN]) -> None:
    model, pixels = make(), [noise_image(64, 64, seed) for seed in range(3)]
    for found, one in zip(model.predict(pixels, batch_size=3), pixels, strict=True):
        assert_same(found, model.predict(one)[0], 1e-4)


def test_score_nms_and_mask_thresholds_and_top_k(device: str) -> None:
    model, x = build().to(device), images(1, 3, 64, 64, device=device)
    (everything,) = model.predict(x, score_thresh=0, nms_thresh=1, top_k=1000)
    assert 10 < len(everything) <= 3 * 12  # each proposal once for each class
    assert len(model.predict(x)[0]) <= 10
    assert len(model.predict(x, score_thresh=0, nms_thresh=1)[0]) == 10
    assert len(model.predict(x, score_thresh=0, nms_thresh=1, top_k=11)[0]) == 11
    assert_same(model.predict(x, score_thresh=0, nms_thresh=1, top_k=4)[0], everything[:4])
    strict = model.predict(x, score_thresh=0, nms_thresh=0, top_k=1000)[0]
    assert len(strict) < len(everything)
    own = build(heads=replace(model.config.heads, nms_thresh=0.0, top_k=1000)).to(device)
    assert_same(own.predict(x, score_thresh=0)[0], strict)
    assert_same(own.predict(x, score_thresh=0, nms_thresh=None, top_k=None)[0], strict)
    scores = values(everything["scores"])
    (some,) = model.predict(x, score_thresh=float(scores[5]), nms_thresh=1, top_k=1000)
    assert len(some) == (scores > scores[5]).sum()
    wide, narrow = (model.predict(x, top_k=3, mask_thresh=t)[0]["masks"] for t in (0.0, 1.0))
    assert values(wide).any()
    assert not values(narrow).any()


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"score_thresh": 1.0}])
def test_no_detections(device: str, settings: dict[str, float]) -> None:
    found = build_pyramid().to(device).predict(images(2, 3, 64, 40, device=device), **settings)
    assert [len(one) for one in found] == [0, 0]
    for one in found:
        shapes = [tuple(one[name].shape) for name in ("boxes", "scores", "labels", "masks")]
        assert shapes == [(0, 4), (0,), (0,), (0, 64, 40)]
        assert {one[name].device for name in one} == {device}


def test_categories_go_with_the_detections() -> None:
    model = build(categories={1: "cat", 2: "dog", 3: "cow"})
    (found,) = model.predict(images(1, 3, 64, 64))
    assert set(found.names) <= {"cat", "dog", "cow"}


# ------------------------------------------------------------------ losses


COUNTS = {"no objects": [0, 3], "one object": [1, 1], "hundreds": [250, 2], "none at all": [0, 0]}


@pytest.mark.parametrize("make", [build, build_pyramid])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_losses_and_gradients_are_finite(make: Callable[..., MaskRCNN], counts: list[int], device: str) -> None:
    model = make().to(device)
    losses = model.get_loss(images(2, 3, 64, 64, device=device), [target(n) for n in counts])
    assert list(losses) == LOSSES
    assert all(loss.shape == () and loss.device == device for loss in losses.values())
    found = numbers(losses)
    assert all(math.isfinite(v) and v >= 0 for v in found.values())
    assert found["total_loss"] == pytest.approx(sum(found[name] for name in LOSSES[:-1]), rel=1e-6)
    assert found["rpn_cls_loss"] > 0
    assert found["roi_cls_loss"] > 0
    for name in ("rpn_reg_loss", "roi_reg_loss", "mask_loss"):
        assert (found[name] > 0) == any(counts), name
    losses["total_loss"].backward()
    for name, p in trainable(model).items():
        assert p.grad is not None, name
        assert p.grad.shape == p.data.shape, name
        assert np.isfinite(np.asarray(p.grad)).all(), name
        learns = any(counts) or not name.startswith(("mask_head", "bbox_pred", "rpn.head.bbox_pred"))
        assert np.asarray(p.grad).any() == learns, name


def test_losses_of_images_are_those_of_their_tensors() -> None:
    model, pixels = build(), noise_image(64, 64)
    settings = model.config.image
    ready = (pixels / 255 - settings.pixel_mean) / settings.pixel_std
    x = tensor(ready.transpose(2, 0, 1)[None].astype(np.float32))
    assert numbers(seeded_losses(model, pixels, [target(3)])) == pytest.approx(
        numbers(seeded_losses(model, x, [target(3)])), rel=1e-4
    )


def test_targets_are_resized_with_their_image() -> None:
    model, small, objects = build(), noise_image(32, 32), target(4, 32, 32)
    resized = {
        "boxes": 2 * objects["boxes"],
        "labels": objects["labels"],
        "masks": objects["masks"].repeat(2, axis=1).repeat(2, axis=2),
    }
    batch = prepare([small], model.config.image)
    assert batch.sizes == [(64, 64)]
    assert numbers(seeded_losses(model, small, [objects])) == pytest.approx(
        numbers(seeded_losses(model, batch.tensor, [resized])), rel=1e-6
    )


@pytest.mark.parametrize("make", [build, build_pyramid])
def test_training_lowers_the_loss(make: Callable[..., MaskRCNN]) -> None:
    model, x, objects = make(), images(1, 3, 64, 64), [target(2)]
    optimizer = SGD(trainable(model).values(), lr=0.1, momentum=0.9)
    history = []
    for _ in range(12):
        losses = model.get_loss(x, objects)
        history.append(numbers(losses)["total_loss"])
        optimizer.zero_grad()
        losses["total_loss"].backward()
        optimizer.step()
    assert np.mean(history[-3:]) < 0.8 * history[0]


def test_the_same_seed_gives_the_same_losses_bit_for_bit(device: str) -> None:
    data = images(2, 3, 64, 64, device=device), [target(20), target(5)]
    runs = []
    for _ in range(2):
        model = build_pyramid(3, dropout=0.5).to(device)
        lucid.random.seed(11)
        losses = model.get_loss(*data)
        losses["total_loss"].backward()
        runs.append((numbers(losses), {name: np.asarray(p.grad) for name, p in trainable(model).items()}))
    assert runs[0][0] == runs[1][0]
    for name, grad in runs[0][1].items():
        np.testing.assert_array_equal(runs[1][1][name], grad, err_msg=name)
    assert numbers(seeded_losses(model, *data, seed=12)) != runs[0][0]


# ------------------------------------------------------------------ modes


def test_predict_is_the_same_in_training_mode() -> None:
    model, pixels = build_resnet(dropout=0.5, min_size=64, max_size=64), noise_image(64, 64)
    model.train()
    before = {name: values(v).copy() for name, v in model.state_dict(keep_vars=True).items()}
    (training,) = model.predict(pixels)
    for name, v in model.state_dict(keep_vars=True).items():
        np.testing.assert_array_equal(values(v), before[name], err_msg=name)
    model.eval()
    assert_same(training, model.predict(pixels)[0])
    assert not model.fc1.training


def test_dropout_acts_on_the_losses_of_training_only() -> None:
    data = images(1, 3, 64, 64), [target(3)]
    model, without = build(dropout=0.5), build()
    plain = numbers(seeded_losses(without, *data))
    model.eval()
    assert numbers(seeded_losses(model, *data)) == plain
    model.train()
    for probabilities in [(0.5, 0.5), (0.5, 0), (0, 0.5)]:  # both layers drop
        model.drop1.p, model.drop2.p = probabilities
        dropped = numbers(seeded_losses(model, *data))
        assert dropped["roi_cls_loss"] != plain["roi_cls_loss"]
        for name in ("rpn_cls_loss", "rpn_reg_loss", "mask_loss"):
            assert dropped[name] == plain[name]


def test_live_batch_norm_follows_the_batch_in_training_only() -> None:
    model, data = build_resnet(), (images(2, 3, 64, 64), [target(3), target(1)])

    def statistics() -> np.ndarray:
        return np.concatenate([values(v) for name, v in model.state_dict(keep_vars=True).items() if "running" in name])

    before = statistics()
    model.eval()
    fixed = numbers(model.get_loss(*data))
    np.testing.assert_array_equal(statistics(), before)
    model.train()
    live = model.get_loss(*data)
    assert (statistics() != before).mean() > 0.9
    assert numbers(live)["total_loss"] != fixed["total_loss"]
    live["total_loss"].backward()
    norms = [p for name, p in trainable(model).items() if ".bn1." in name]
    assert norms
    assert all(np.asarray(p.grad).any() for p in norms)


def test_frozen_batch_norm_never_changes() -> None:
    model = build_resnet(norm="frozen")
    before = {name: values(v).copy() for name, v in model.state_dict(keep_vars=True).items() if ".bn" in name}
    assert before
    assert not any(".bn" in name for name in trainable(model))
    model.train()
    model.get_loss(images(1, 3, 64, 64), [target(2)])["total_loss"].backward()
    after = model.state_dict(keep_vars=True)
    for name, value in before.items():
        np.testing.assert_array_equal(values(after[name]), value)


def test_frozen_layers_get_no_gradient() -> None:
    model = build_resnet(norm="frozen", trainable_layers=2)
    model.get_loss(images(1, 3, 64, 64), [target(2)])["total_loss"].backward()
    for name, p in model.backbone.body.state_dict(keep_vars=True).items():
        learns = name.startswith(("layer3", "layer4")) and p.ndim == 4  # the norms are frozen too
        assert (p.grad is not None) == learns, name
        assert not learns or np.asarray(p.grad).any(), name


# ------------------------------------------------------------------ devices


@pytest.mark.parametrize("make", [build, build_pyramid, build_resnet])
def test_devices_agree(make: Callable[..., MaskRCNN]) -> None:
    pixels, objects = [noise_image(64, 64), noise_image(64, 64, 1)], [target(4), target(0)]
    settings = {} if make is not build_resnet else {"min_size": 64, "max_size": 64}
    models = {device: make(1, **settings).to(device) for device in ("cpu", "gpu")}
    for model in models.values():
        model.eval()
    for on_cpu, on_gpu in zip(*(m.predict(pixels, score_thresh=0.1) for m in models.values()), strict=True):
        assert_same(on_cpu, on_gpu, 1e-3)
    losses, grads = {}, {}
    for device, model in models.items():
        found = seeded_losses(model, pixels, objects)
        assert {loss.device for loss in found.values()} == {device}
        found["total_loss"].backward()
        losses[device] = numbers(found)
        grads[device] = {name: np.asarray(p.grad) for name, p in trainable(model).items()}
    assert losses["gpu"] == pytest.approx(losses["cpu"], abs=1e-4)
    for name, grad in grads["cpu"].items():
        error = np.abs(grads["gpu"][name] - grad).max()
        assert error <= 1e-3 * np.abs(grad).max() + 1e-7, name


def test_model_moves_to_gpu_and_back() -> None:
    model, pixels = build(), noise_image(64, 64)
    (before,) = model.predict(pixels)
    model.to("gpu")
    assert model.predict(pixels)[0]["boxes"].device == "gpu"
    model.to("cpu")
    assert_same(model.predict(pixels)[0], before, 1e-5)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be an integer from 1 to 1000000, got 0"),
        ({"feat_channels": 0}, ValueError, "feat_channels must be an integer from 1 to 65536, got 0"),
        ({"anchor_stride": -8}, ValueError, "anchor_stride must be an integer from 1 to 100000, got -8"),
        ({"hidden_dim": 0}, ValueError, "hidden_dim must be an integer from 1 to"),
        ({"mask_hidden_channels": 0}, ValueError, "mask_hidden_channels must be an integer from 1 to"),
        ({"mask_out_size": 9}, ValueError, r"mask_out_size must be twice mask_pool_size \(4, 4\), got 9"),
        ({"mask_pool_size": (4, 5)}, ValueError, r"mask_out_size must be twice mask_pool_size \(4, 5\), got 8"),
        ({"dropout": 1.0}, ValueError, r"dropout must be a number of at least 0 and below 1, got 1\.0"),
        ({"anchor_sizes": ()}, ValueError, "anchor_sizes must have at least one value"),
        (
            {"use_fpn": True, "anchor_sizes": (8, (16, 32))},
            ValueError,
            r"equally many sizes for every level, got \(8, \(16, 32\)\)",
        ),
    ],
)
def test_constructor_refuses_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"feat_channels": 7}, ValueError, r"feat_channels is 7, but the backbone .* shape \(1, 6, 8, 8\)"),
        ({"use_fpn": True}, TypeError, "a list of feature maps with use_fpn=True, got Tensor"),
        ({"backbone": Tiny(2, 2, maps=2)}, TypeError, "one feature map with use_fpn=False, got list"),
        (
            {"backbone": Tiny(2, 2, maps=2), "use_fpn": True},
            ValueError,
            "anchor_sizes has 3 entries but the backbone gives 2 feature maps",
        ),
    ],
)
def test_backbone_that_does_not_fit_is_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    model = build(**settings)
    for call in (model.predict, model, lambda x: model.get_loss(x, [target(1)])):
        with pytest.raises(error, match=message):
            call(images(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_thresh": 2}, "score_thresh must be a number between 0 and 1, got 2"),
        ({"nms_thresh": -0.1}, r"nms_thresh must be a number between 0 and 1, got -0\.1"),
        ({"mask_thresh": math.nan}, "mask_thresh must be a number between 0 and 1, got nan"),
        ({"top_k": -1}, "top_k must be a non-negative integer, got -1"),
        ({"top_k": "5"}, "top_k must be a non-negative integer, got '5'"),
        ({"score_thresh": "0.5"}, "score_thresh must be a number between 0 and 1, got '0.5'"),
    ],
)
def test_predict_refuses_thresholds_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build().predict(images(1, 3, 64, 64), **settings)


def test_no_image_at_all_is_refused() -> None:
    for none in ([], tensor(np.zeros((0, 3, 64, 64), np.float32))):
        with pytest.raises(ValueError, match="images must be at least one, got"):
            build().predict(none)


def test_rois_that_do_not_fit_are_refused() -> None:
    model, x = build(), images(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"rois must have shape \(R, 4\), got \(1, 5\)"):
        model(x, tensor(np.ones((1, 5), np.float32)))
    with pytest.raises(ValueError, match="roi_idx must say which of the 2 images each RoI is in"):
        model(x, tensor(np.ones((1, 4), np.float32)))
    with pytest.raises(ValueError, match=r"roi_idx\[0\] must be an index of one of 2 images, got 2"):
        model(x, tensor(np.ones((1, 4), np.float32)), tensor(np.array([2], np.int32)))


def test_wrong_images_are_refused() -> None:
    model = build()
    with pytest.raises(TypeError, match="all tensors or all paths, PIL images and arrays"):
        model.predict([images(3, 64, 64), noise_image(64, 64)])
    with pytest.raises(ValueError, match=r"got shape \(3, 4, 64, 64, 1\)"):
        model.predict(images(3, 4, 64, 64, 1))
    with pytest.raises(TypeError, match="normalized floats"):
        model.predict(tensor(np.zeros((1, 3, 64, 64), np.int32)))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        model.predict("nowhere.png")


GOOD = target(2)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([], ValueError, "targets must have one entry per image, got 0 for 1"),
        (GOOD, TypeError, "targets must be a list of mappings"),
        ([GOOD, GOOD], ValueError, "one entry per image, got 2 for 1"),
        ([GOOD | {"labels": [1, 0]}], ValueError, r"targets\[0\]\['labels'\]\[1\] = 0 must be 1 to 3"),
        ([GOOD | {"labels": [4, 1]}], ValueError, r"targets\[0\]\['labels'\]\[0\] = 4 must be 1 to 3"),
        ([GOOD | {"labels": [1]}], ValueError, "2 boxes, 1 labels and 2 masks"),
        ([GOOD | {"masks": GOOD["masks"][:, :32]}], ValueError, r"targets\[0\]\['masks'\] .* \(2, 32, 64\)"),
        (
            [GOOD | {"boxes": [[1, 1, 9, 9], [9, 3, 5, 8]]}],
            ValueError,
            r"targets\[0\]\['boxes'\]\[1\] = \(9, 3, 5, 8\) has no area",
        ),
        ([GOOD | {"boxes": [[1, 1, 9, 9], [3, 3, math.nan, 8]]}], ValueError, r"\[1\] = .* is not finite"),
        ([{"boxes": GOOD["boxes"], "labels": GOOD["labels"]}], ValueError, "has no 'masks'"),
        ([GOOD["boxes"]], TypeError, r"targets\[0\] must be a mapping"),
    ],
)
def test_wrong_targets_are_refused(targets: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build().get_loss(images(1, 3, 64, 64), targets)


def test_contradicting_anchor_stride_warns_once_per_model() -> None:
    model = build(anchor_stride=16)
    with pytest.warns(UserWarning, match="anchor_stride=16"):
        model.predict(images(1, 3, 64, 64))
    model.predict(images(1, 3, 64, 64))  # a second warning would be an error


def ways_to_call(model: MaskRCNN) -> list[Callable[[Any], Any]]:
    targets = [target(1, seed=i) for i in range(2)]
    return [
        model.predict,
        lambda x: model.get_loss(x, targets),
        lambda x: model(x, tensor(np.float32([[0, 0, 9, 9]])), [0]),
    ]


@pytest.mark.parametrize("way", range(3), ids=["predict", "get_loss", "forward"])
def test_images_that_are_not_finite_or_not_normalized_are_found_by_every_way_to_call(way: int) -> None:
    call = ways_to_call(build())[way]
    x = values(images(2, 3, 64, 64)).copy()
    with pytest.warns(UserWarning, match=r"images\[0\] has values from .* does not look normalized"):
        call(tensor(np.abs(x) * np.float32(50)))
    x[1, 0, 5, 5] = np.nan
    with pytest.raises(ValueError, match=r"images\[1\] must be finite, got a tensor with NaN or infinity"):
        call(tensor(x))


def test_fewer_pooled_levels() -> None:
    model, x = build_pyramid(pooled_levels=1), images(1, 3, 64, 64)
    assert model.roipool.num_levels == model.mask_roipool.num_levels == 1
    assert build_pyramid().roipool.num_levels == 2  # by default all but the last

    assert len(model.predict(x)[0])


def test_two_threads_predict_at_once() -> None:
    """Even a model in training mode, whose batch norm must not see the other thread's switch of gradients."""
    model = build_resnet(min_size=64, max_size=96).train()
    arrays = [noise_image(64, 96, seed=i) for i in range(6)]
    expected = [model.predict(p, score_thresh=0.0)[0] for p in arrays]
    state = {name: np.array(v) for name, v in model.state_dict().items()}
    found: dict[int, Any] = {}

    def work(own: range) -> None:
        for _ in range(5):
            for i in own:
                found[i] = model.predict(arrays[i], score_thresh=0.0)[0]

    threads = [threading.Thread(target=work, args=(range(start, 6, 2),)) for start in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lucid.grad_enabled()
    for i, alone in enumerate(expected):
        np.testing.assert_allclose(values(found[i]["boxes"]), values(alone["boxes"]), atol=1e-3)
        np.testing.assert_allclose(values(found[i]["scores"]), values(alone["scores"]), atol=1e-5)
    for name, before in state.items():
        np.testing.assert_array_equal(np.array(model.state_dict()[name]), before)


def test_image_with_no_objects_trains_with_live_norms_in_the_heads(device: str) -> None:
    slim = {"width": 8, "fpn_channels": 8, "hidden_dim": 16, "mask_hidden_channels": 8}
    model = mask_rcnn_resnet_50_fpn_v2(3, min_size=64, max_size=96, **slim).to(device).train()
    before = np.array(model.mask_head.bn1.running_var.data)
    losses = model.get_loss([np.full((60, 80, 3), 7, np.uint8)], [{"boxes": [], "labels": [], "masks": []}])
    losses["total_loss"].backward()
    assert all(np.isfinite(float(loss.item())) for loss in losses.values())
    assert np.array_equal(np.array(model.mask_head.bn1.running_var.data), before)
    assert len(model.predict(np.zeros((60, 80, 3), np.uint8), score_thresh=1.0)[0]) == 0


# ------------------------------------------------------------------ arguments of the wrong kind


@pytest.mark.parametrize("backbone", [None, "resnet", Tiny, lambda x: x])
def test_backbone_that_is_no_module_is_refused(backbone: Any) -> None:
    with pytest.raises(TypeError, match=r"backbone must be an nn\.Module from images to feature maps, got "):
        MaskRCNN(backbone, 8, 2)


def test_constructor_takes_int_for_pair_mapping_for_config_and_numpy_numbers() -> None:
    settings = {"pool_size": 3, "mask_pool_size": np.int64(4), "image": {"min_size": 64, "max_size": 96}}
    model = build(**settings, heads={"top_k": np.int32(10)})
    assert (model.config.pool_size, model.config.mask_pool_size) == ((3, 3), (4, 4))
    assert model.config.image == ImageConfig(min_size=64, max_size=96)
    assert model.predict(noise_image(48, 60))[0].image_size == (48, 60)


@pytest.mark.parametrize("call", ["forward", "predict", "get_loss"])
def test_tensor_on_the_other_device_is_refused(call: str) -> None:
    x = images(1, 3, 64, 64, device="gpu")
    arguments = (x, [target(1)]) if call == "get_loss" else (x,)
    with pytest.raises(ValueError, match="images must be on the model's device, cpu, got a tensor on gpu"):
        getattr(build(), call)(*arguments)


@pytest.mark.parametrize("given", ["image.png", Path("image.png"), np.zeros((8, 8, 3), np.uint8), [1], None])
def test_forward_takes_tensors_alone(given: Any) -> None:
    with pytest.raises(TypeError, match=r"images must be a Lucid tensor of shape \(N, 3, H, W\): predict takes paths"):
        build()(given)


@pytest.mark.parametrize("targets", [None, "masks", 3, iter([GOOD]), (t for t in [GOOD])])
def test_targets_that_are_no_list_are_refused(targets: Any) -> None:
    with pytest.raises(TypeError, match="targets must be a list of mappings, one per image, got "):
        build().get_loss(images(1, 3, 64, 64), targets)


def test_get_loss_with_another_image_config() -> None:
    model, pixels = build(), noise_image(64, 64)
    smaller = replace(model.config.image, min_size=32, max_size=48)
    there = numbers(seeded_losses(model, pixels, [target(3)]))
    lucid.random.seed(0)
    here = numbers(model.get_loss(pixels, [target(3)], image_config=smaller))
    assert here != there
    own = build(image=smaller)
    assert here == numbers(seeded_losses(own, pixels, [target(3)], seed=0))
    with pytest.raises(TypeError, match="image_config must be an ImageConfig, got 32"):
        model.get_loss(pixels, [target(3)], image_config=32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_thresh": None}, "score_thresh must be a number between 0 and 1, got None"),
        ({"score_thresh": True}, "score_thresh must be a number between 0 and 1, got True"),
        ({"nms_thresh": 7}, "nms_thresh must be a number between 0 and 1, got 7"),
        ({"nms_thresh": "0.5"}, "nms_thresh must be a number between 0 and 1, got '0.5'"),
        ({"top_k": -5}, "top_k must be a non-negative integer, got -5"),
        ({"top_k": 2.5}, "top_k must be a non-negative integer, got 2.5"),
        ({"top_k": True}, "top_k must be a non-negative integer, got True"),
        ({"mask_thresh": [0.5]}, r"mask_thresh must be a number between 0 and 1, got \[0.5\]"),
    ],
)
def test_predict_refuses_settings_of_the_wrong_kind(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build().predict(images(1, 3, 64, 64), **settings)


def test_predict_takes_numpy_numbers() -> None:
    model, x = build(), images(1, 3, 64, 64)
    (expected,) = model.predict(x, score_thresh=0.25, nms_thresh=0.5, top_k=3)
    (found,) = model.predict(x, score_thresh=np.float64(0.25), nms_thresh=np.float32(0.5), top_k=np.int64(3))
    assert_same(found, expected)


@pytest.mark.parametrize("result", [None, "features", {"0": images(1, 6, 8, 8)}, [images(1, 6, 8, 8)]])
def test_backbone_that_returns_something_else_is_refused(result: Any) -> None:
    class Backbone(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return result

    with pytest.raises(TypeError, match=r"backbone must return one feature map with use_fpn=False, got "):
        build(backbone=Backbone()).predict(images(1, 3, 64, 64))


def test_targets_in_place_of_rois_name_get_loss() -> None:
    with pytest.raises(TypeError, match=r"got mappings: for losses call get_loss\(images, targets\)"):
        build()(images(1, 3, 64, 64), [target(1)])


def test_from_config_builds_the_backbone_or_takes_one() -> None:
    model = build_resnet(min_size=64, max_size=64)
    again = MaskRCNN.from_config(model.config)
    assert again.config == model.config
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="backbone must be given: the configuration is of a backbone that is no"):
        MaskRCNN.from_config(build().config)


def test_number_of_classes_follows_the_categories() -> None:
    slim = {"width": 4, "fpn_channels": 6, "hidden_dim": 12, "mask_hidden_channels": 5}
    assert mask_rcnn_resnet_18_fpn(categories={1: "a", 2: "b"}, **slim).num_classes == 2
    with pytest.raises(TypeError, match=r"mask_rcnn_resnet_18_fpn\(\) got num_classes twice: 3 and 2"):
        mask_rcnn_resnet_18_fpn(3, num_classes=2)


def test_size_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min_size is given twice, as min_size=64 and in image=\{'min_size': 32\}"):
        build_resnet(min_size=64, image={"min_size": 32})


def test_every_page_of_a_file_becomes_an_image(tmp_path):
    import tifffile

    model = mask_rcnn_resnet_18_fpn(num_classes=1, width=8, fpn_channels=8, hidden_dim=8, min_size=32, max_size=64)
    pages = np.random.default_rng(0).integers(0, 4096, (3, 32, 40)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    with pytest.raises(ValueError, match="it has 3 pages"):
        model.predict(tmp_path / "a.tif")
    found = model.predict(tmp_path / "a.tif", page="all", intensity="max")
    assert [d.image_size for d in found] == [(32, 40)] * 3
    for page, one in zip(pages, found, strict=True):
        np.testing.assert_array_equal(one.image, load_image(page, intensity="max"))
    (last,) = model.predict(tmp_path / "a.tif", page=2, intensity=(0, 100))
    np.testing.assert_array_equal(last.image, load_image(pages[2], intensity=(0, 100)))
    with pytest.raises(ValueError, match="intensity must be 'full', 'max' or two percentiles"):
        model.predict(pages[0], intensity="auto")
