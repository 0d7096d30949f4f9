"""Models that are pickled, copied and sent to other processes: the same detections, and frozen what was frozen."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lucid
import lucid.nn as nn
import numpy as np
import pytest
from tiny_runs import Squares, slim

from lucid_maskrcnn import Detections, MaskRCNN, ops
from lucid_maskrcnn.models.layers import Linear
from lucid_maskrcnn.training.ema import EMA

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
KEYS = ("boxes", "scores", "labels", "mask_probs")
WAYS = {"pickle": lambda m: pickle.loads(pickle.dumps(m)), "deepcopy": copy.deepcopy, "copy": copy.copy}
ways = pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)


def predict(model: MaskRCNN) -> Detections:
    return model.predict(IMAGE, score_thresh=0)[0]


def assert_same(found: Detections, wanted: Detections) -> None:
    assert len(found) == len(wanted) > 0
    for key in KEYS:
        np.testing.assert_array_equal(np.asarray(getattr(found, key)), np.asarray(getattr(wanted, key)), strict=True)


@ways
def test_a_copied_model_predicts_the_same(again: Any) -> None:
    model = MaskRCNN.from_file("NUCLEI")
    wanted = model.predict(IMAGE)[0]
    made = again(model)
    assert type(made) is MaskRCNN
    assert_same(made.predict(IMAGE)[0], wanted)
    assert made.config == model.config
    assert made.predict(IMAGE)[0].category_ids.tolist() == wanted.category_ids.tolist()
    assert [p.data.strides for p in made.parameters()] == [p.data.strides for p in model.parameters()]


@ways
@pytest.mark.parametrize("options", [{"trainable_layers": 0}, {"trainable_layers": 3}, {"norm": "frozen"}], ids=str)
def test_a_copied_model_keeps_what_is_frozen_frozen(again: Any, options: dict[str, Any]) -> None:
    """Lucid's own deepcopy unfroze all of it."""
    model = slim(**options)
    model.cls_score.weight.requires_grad = False
    flags = {name: v.requires_grad for name, v in model.state_dict(keep_vars=True).items()}
    assert {True, False} == set(flags.values())
    assert not flags["cls_score.weight"]
    made = again(model)
    assert {name: v.requires_grad for name, v in made.state_dict(keep_vars=True).items()} == flags
    batch = Squares().batch(0)
    before = {name: values.copy() for name, values in made.state_dict().items()}
    for one in (model, made):
        lucid.random.seed(0)
        one.eval().get_loss(batch.images, batch.targets)["total_loss"].backward()
    gradients = [
        {name: v.grad for name, v in one.state_dict(keep_vars=True).items() if v.grad is not None}
        for one in (model, made)
    ]
    assert gradients[0].keys() == gradients[1].keys()
    assert not any(not flags[name] for name in gradients[1])
    for name, values in gradients[0].items():
        np.testing.assert_array_equal(values, gradients[1][name])
        np.testing.assert_array_equal(before[name], made.state_dict()[name])


def test_a_deep_copy_is_independent() -> None:
    model = slim().eval()
    wanted = predict(model)
    made = copy.deepcopy(model)
    for p in made.parameters():
        p.data[...] = 0
    assert_same(predict(model), wanted)


def test_a_submodule_set_on_a_shallow_copy_is_not_set_on_both() -> None:
    model = slim()
    made = copy.copy(model)
    made.cls_score = Linear(16, 3)
    assert made.state_dict(keep_vars=True)["cls_score.weight"] is not model.cls_score.weight
    assert model.state_dict(keep_vars=True)["cls_score.weight"] is model.cls_score.weight


def test_a_model_is_pickled_without_caches() -> None:
    model = slim()
    size = len(pickle.dumps(model))
    batch = Squares().batch(0)
    model.get_loss(batch.images, batch.targets)["total_loss"].backward()
    predict(model)
    assert len(pickle.dumps(model)) == pytest.approx(size, abs=1000)
    assert size < 4 * model.parameter_size + 400_000


def test_a_model_on_gpu_pickles() -> None:
    model = slim().eval().to("gpu")
    made = pickle.loads(pickle.dumps(model))
    assert made.device == "gpu"
    assert {p.device for p in made.parameters()} == {"gpu"}
    small = np.zeros((16, 16, 3), np.uint8)
    assert len(made.predict(small, score_thresh=0, top_k=3)[0]) == len(model.predict(small, score_thresh=0, top_k=3)[0])


class Backbone(nn.Module):
    """A user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, kernel_size=3, stride=8, padding=1), nn.ReLU())

    def forward(self, x: Any) -> Any:
        return self.net(x)


@ways
def test_a_model_on_a_backbone_of_ones_own_pickles(again: Any) -> None:
    lucid.random.seed(0)
    model = MaskRCNN(
        Backbone(), 8, 2, anchor_sizes=(16,), anchor_stride=8, hidden_dim=16, mask_hidden_channels=8
    ).eval()
    assert_same(predict(again(model)), predict(model))


def boxes_of(model: MaskRCNN, image: np.ndarray) -> list[list[float]]:
    return predict(model).boxes.tolist()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_models_cross_a_process_pool(method: str) -> None:
    model = slim().eval()
    wanted = boxes_of(model, IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            assert list(pool.map(boxes_of, [model] * 2, [IMAGE] * 2)) == [wanted] * 2


def test_models_cross_joblib_and_cloudpickle() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    model = slim().eval()
    call = cloudpickle.loads(cloudpickle.dumps(lambda image: boxes_of(model, image)))
    assert call(IMAGE) == boxes_of(model, IMAGE)


@pytest.mark.parametrize("again", [WAYS["pickle"], WAYS["deepcopy"]], ids=["pickle", "deepcopy"])
def test_averages_pickle(again: Any) -> None:
    model = slim()
    average = EMA(model)
    average.update(model)
    made = again(average)
    assert made.updates == 1
    for name, values in average.averages.items():
        np.testing.assert_array_equal(made.averages[name], values)


@pytest.mark.parametrize("release", ["2.9", "2.16"])
def test_a_pickle_of_another_release_of_lucid_opens(release: str) -> None:
    """Written by: uv run python tests/models/test_pickling.py FILE, under each release."""
    layer, parameter, found = pickle.loads((Path(__file__).parents[1] / "data" / f"lucid-{release}.pkl").read_bytes())
    x = ops.as_tensor(np.ones((1, 2), np.float32))
    assert layer(x).tolist() == [[1 + 2, 3 + 4]]
    assert (parameter.requires_grad, parameter.tolist()) == (False, [1, 2])
    assert found.to_coco(1)[0]["category_id"] == 0
    assert found.masks.tolist() == [[[True, True], [True, True]]]


def main(path: str) -> None:
    layer, parameter = Linear(2, 2), nn.Parameter(lucid.Tensor(np.array([1, 2], np.float32)))
    layer.weight.data, layer.bias.data = np.array([[1, 2], [3, 4]], np.float32), np.zeros(2, np.float32)
    parameter.requires_grad = False
    ones = np.ones((1, 2, 2), np.float32)
    found = Detections([[0, 0, 2, 2]], [0.5], [1], ones, (2, 2), categories=[(1, "cat", 0)], snap_masks=False)
    Path(path).write_bytes(pickle.dumps((nn.Sequential(layer), parameter, found)))


if __name__ == "__main__":
    main(sys.argv[1])
