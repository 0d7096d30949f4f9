"""Which batch norm a model has: constant where weights are given, live where none are, and what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lucid
import numpy as np
import pytest

from lucid_maskrcnn import MaskRCNN, load_weights, mask_rcnn_resnet_18_fpn, mask_rcnn_resnet_50_fpn_v2, save_weights
from lucid_maskrcnn.models.layers import BatchNorm2d
from lucid_maskrcnn.weights import load_backbone

SLIM: dict[str, Any] = {
    "width": 8,
    "fpn_channels": 8,
    "hidden_dim": 16,
    "mask_hidden_channels": 8,
    "min_size": 64,
    "max_size": 96,
}
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
MASK = np.zeros((1, 64, 80), bool)
MASK[0, 10:40, 20:60] = True
TARGET = {"boxes": [[20.0, 10.0, 60.0, 40.0]], "labels": [1], "masks": MASK}


def norms(model: MaskRCNN) -> list[BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, BatchNorm2d)]


def randomize(model: MaskRCNN) -> MaskRCNN:
    rng = np.random.default_rng(1)
    for norm in norms(model):
        norm.running_mean.data[...] = rng.normal(0, 0.1, norm.running_mean.shape)
        norm.running_var.data[...] = rng.uniform(0.5, 2, norm.running_var.shape)
    return model


def losses_and_gradients(model: MaskRCNN) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    lucid.random.seed(0)
    losses = model.train().get_loss([IMAGE], [TARGET])
    losses["total_loss"].backward()
    gradients = {n: v.grad for n, v in model.state_dict(keep_vars=True).items() if v.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, gradients


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights trained with live norm, in the pyramid too."""
    path = tmp_path_factory.mktemp("weights") / "live.safetensors"
    save_weights(randomize(mask_rcnn_resnet_18_fpn(1, norm="batch", **SLIM)), path)
    return path


def test_network_without_weights_is_normalized() -> None:
    model = mask_rcnn_resnet_18_fpn(2, **SLIM)
    assert norms(model)
    assert not any(norm.frozen for norm in norms(model))
    assert all(norm.weight.requires_grad for norm in norms(model))
    assert (model.config.backbone.norm, model.config.backbone.fpn_norm) == ("batch", None)
    before = norms(model)[0].running_mean.data.copy()
    losses_and_gradients(model)
    assert not np.array_equal(norms(model)[0].running_mean.data, before)


def test_norms_of_the_second_version_are_all_live_without_weights() -> None:
    config = mask_rcnn_resnet_50_fpn_v2(1, **SLIM).config
    assert (config.backbone.norm, config.backbone.fpn_norm, config.head_norm) == ("batch", "batch", "batch")


@pytest.mark.parametrize("build", [lambda w: mask_rcnn_resnet_18_fpn(weights=w), MaskRCNN.from_file])
def test_weights_trained_with_live_norm_start_with_constant_norm(build: Any, trained: Path) -> None:
    model = build(trained)
    assert all(norm.frozen for norm in norms(model))
    assert (model.config.backbone.norm, model.config.backbone.fpn_norm) == ("frozen", "frozen")
    before = {name: array.copy() for name, array in model.state_dict().items() if "bn" in name or "norms" in name}
    losses_and_gradients(model)
    assert all(np.array_equal(model.state_dict()[name], array) for name, array in before.items())


def test_live_norm_is_there_for_the_asking(trained: Path) -> None:
    model = mask_rcnn_resnet_18_fpn(weights=trained, norm="batch")
    assert not any(norm.frozen for norm in norms(model))
    assert (model.config.backbone.norm, model.config.backbone.fpn_norm) == ("batch", "batch")


def test_both_kinds_of_norm_load_into_the_other_and_predict_the_same(trained: Path) -> None:
    frozen, live = (mask_rcnn_resnet_18_fpn(weights=trained, norm=norm) for norm in ("frozen", "batch"))
    wanted = frozen.predict(IMAGE, score_thresh=0)[0]
    for model in (live, mask_rcnn_resnet_18_fpn(1, norm="frozen", fpn_norm="frozen", **SLIM)):
        load_weights(model, frozen.state_dict())
        np.testing.assert_array_equal(model.predict(IMAGE, score_thresh=0)[0].boxes.data, wanted.boxes.data)
    load_weights(frozen, live.state_dict())
    np.testing.assert_array_equal(frozen.predict(IMAGE, score_thresh=0)[0].boxes.data, wanted.boxes.data)


def test_weights_loaded_later_give_the_same_losses_and_gradients_as_weights_given(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(randomize(mask_rcnn_resnet_18_fpn(1, **SLIM)), path)
    given = mask_rcnn_resnet_18_fpn(weights=path, trainable_layers=5)
    later = mask_rcnn_resnet_18_fpn(1, **SLIM)
    load_weights(later, path)
    assert later.config == given.config
    (losses, gradients), (wanted_losses, wanted) = losses_and_gradients(later), losses_and_gradients(given)
    assert losses == wanted_losses
    assert gradients.keys() == wanted.keys()
    assert all(np.array_equal(gradients[name], wanted[name]) for name in wanted)


def test_live_norm_that_was_asked_for_stays_when_weights_are_loaded(trained: Path) -> None:
    model = mask_rcnn_resnet_18_fpn(1, norm="batch", **SLIM)
    load_weights(model, trained)
    assert not any(norm.frozen for norm in norms(model))


def test_weights_of_the_body_make_the_norms_of_the_body_constant() -> None:
    body = mask_rcnn_resnet_18_fpn(1, **SLIM).backbone.body.state_dict()
    later = mask_rcnn_resnet_18_fpn(1, **SLIM)
    load_backbone(later, {f"backbone.body.{name}": array for name, array in body.items()})
    assert all(norm.frozen for norm in norms(later))
    second = mask_rcnn_resnet_50_fpn_v2(1, **SLIM)
    second.freeze_norms(body_only=True)
    assert second.config.backbone.norm == "frozen"
    assert (second.config.backbone.fpn_norm, second.config.head_norm) == ("batch", "batch")
    assert not second.mask_head.bn1.frozen


def test_weights_loaded_later_bring_the_epsilon_that_they_were_trained_with(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(randomize(mask_rcnn_resnet_18_fpn(1, norm_eps=0.01, **SLIM)), path)
    later, asked = mask_rcnn_resnet_18_fpn(1, **SLIM), mask_rcnn_resnet_18_fpn(1, norm_eps=0.02, **SLIM)
    for model, eps in ((later, 0.01), (asked, 0.02)):
        load_weights(model, path)
        assert {norm.eps for norm in norms(model)} == {model.config.backbone.norm_eps} == {eps}
    wanted = mask_rcnn_resnet_18_fpn(weights=path).predict(IMAGE, score_thresh=0)[0]
    np.testing.assert_array_equal(later.predict(IMAGE, score_thresh=0)[0].boxes.data, wanted.boxes.data)


def test_a_model_knows_whether_all_of_its_layers_are_trained(trained: Path) -> None:
    later = mask_rcnn_resnet_18_fpn(1, norm="batch", **SLIM)
    assert not later.pretrained
    load_weights(later, trained)
    assert later.pretrained
    assert mask_rcnn_resnet_18_fpn(weights=trained).pretrained
    assert MaskRCNN.from_file(trained).pretrained
    with pytest.warns(UserWarning, match="initialized anew"):
        assert not mask_rcnn_resnet_18_fpn(3, weights=trained).pretrained
    assert not mask_rcnn_resnet_18_fpn(1, weights_backbone=trained, **SLIM).pretrained
