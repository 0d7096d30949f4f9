"""Half precision on gpu: what has it and what has not, detections beside those of float32, and files and copies."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lucid
import numpy as np
import pytest
from tiny_runs import Squares, slim

from lucid_maskrcnn import Detections, MaskRCNN, ops
from lucid_maskrcnn.inference import predict_files
from lucid_maskrcnn.models.layers import BatchNorm2d, Conv2d, ConvTranspose2d, Linear
from lucid_maskrcnn.training import Trainer, TrainerSettings
from lucid_maskrcnn.weights import load_weights, save_weights

HALVES = ("float16", "bfloat16")
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
EPSILON = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
halves = pytest.mark.parametrize("dtype", HALVES)


def model_of(dtype: str, **more: Any) -> MaskRCNN:
    model = slim(**{"norm": "frozen", **more}).eval()
    return model.to("gpu", dtype)


def predict(model: MaskRCNN) -> Detections:
    return model.predict(IMAGE, score_thresh=0, keep_image=False)[0]


def types(model: MaskRCNN) -> dict[str, str]:
    return {name: ops.dtype_name(v) for name, v in model.state_dict(keep_vars=True).items()}


def num_bytes(model: MaskRCNN) -> int:
    layers = (part for part in model.modules() if isinstance(part, (Conv2d, ConvTranspose2d, Linear)))
    return sum(p.data.nbytes for part in layers for p in part.parameters(recurse=False) if p is not None)


@halves
def test_parameters_but_those_of_norms_have_half_the_memory(dtype: str) -> None:
    model = model_of("float32")
    before, values = num_bytes(model), {n: np.array(ops.host(v)) for n, v in model.state_dict(keep_vars=True).items()}
    assert model.to("gpu", dtype) is model
    assert model.dtype == dtype
    assert num_bytes(model) * 2 == before
    norms = {id(v) for m in model.modules() if isinstance(m, BatchNorm2d) for v in (*m.parameters(), *m.buffers())}
    for name, variable in model.state_dict(keep_vars=True).items():
        assert ops.dtype_name(variable) == ("float32" if id(variable) in norms else dtype)
        np.testing.assert_allclose(ops.host(variable), values[name], rtol=EPSILON[dtype], atol=1e-7)
    assert f"dtype={dtype}" in repr(model)


@halves
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_each_stage_has_its_type(dtype: str, norm: str) -> None:
    model = model_of(dtype, norm=norm)
    images = lucid.Tensor(np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)).to("gpu")
    with ops.no_grad():
        stages = model.backbone.body(images)
        features = model._features(images)
        logits, deltas = model.rpn.head(features.maps)
        assert {ops.dtype_name(t) for t in (*stages, *features.maps, *logits, *deltas)} == {dtype}
        rpn = model.rpn(features)
        assert {ops.dtype_name(t) for t in rpn[:3]} == {"float32"}
        rois = lucid.Tensor(np.array([[0, 0, 40, 40], [5, 5, 9, 9]], np.float32)).to("gpu")
        idx = lucid.Tensor(np.zeros(2, np.int32)).to("gpu")
        pooled = model.roipool(features, rois, idx)
        assert ops.dtype_name(pooled) == dtype
        hidden = model.fc1(ops.flatten(pooled), relu=True)
        assert ops.dtype_name(hidden) == ops.dtype_name(model.cls_score(hidden)) == dtype
        outputs = model(images, rois, idx)
        assert {ops.dtype_name(t) for t in outputs} == {"float32"}
    found = predict(model)
    assert {np.asarray(a).dtype for a in (found.boxes, found.scores, found.mask_probs)} == {np.dtype(np.float32)}


@halves
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_predictions_are_those_of_float32_but_for_rounding(dtype: str, norm: str) -> None:
    images = lucid.Tensor(np.random.default_rng(1).normal(size=(1, 3, 64, 64)).astype(np.float32)).to("gpu")
    rois = np.array([[0, 0, 40, 40], [5, 5, 20, 30], [10, 2, 60, 63]], np.float32)
    idx = np.zeros(3, np.int32)
    with ops.no_grad():
        wanted = [np.array(ops.host(t)) for t in model_of("float32", norm=norm)(images, rois, idx)]
        found = [ops.host(t) for t in model_of(dtype, norm=norm)(images, rois, idx)]
    for f, w in zip(found, wanted, strict=True):
        assert np.isfinite(f).all()
        assert 0 < np.abs(f - w).max() <= 30 * EPSILON[dtype] * np.abs(w).max()


@pytest.mark.slow
def test_the_nuclei_are_found_in_half_precision() -> None:
    image = np.asarray(_nuclei())[:128, :128]
    model = MaskRCNN.from_file("NUCLEI").to("gpu")
    wanted = model.predict(image, score_thresh=0.5)[0]
    found = model.half().predict(image, score_thresh=0.5)[0]
    assert len(found) == len(wanted) > 3
    np.testing.assert_allclose(np.asarray(found.scores), np.asarray(wanted.scores), atol=0.01)


def _nuclei() -> Any:
    from PIL import Image

    return Image.open(Path(ops.__file__).parents[1] / "assets" / "nuclei_fluorescence_small.png").convert("RGB")


def test_half_and_float() -> None:
    model = model_of("float32")
    model.half()
    assert model.dtype == "float16"
    rounded = predict(model)
    assert model.float() is model
    assert set(types(model).values()) == {"float32"}
    np.testing.assert_allclose(np.asarray(predict(model).scores)[:5], np.asarray(rounded.scores)[:5], atol=1e-2)
    model.get_loss(Squares(1).batch(0).images, Squares(1).batch(0).targets)


@halves
def test_on_cpu_there_is_none(dtype: str) -> None:
    model = slim()
    with pytest.raises(ValueError, match=f'{dtype} needs a gpu.*to\\("gpu", dtype="{dtype}"\\)'):
        model.to("cpu", dtype)
    with pytest.raises(ValueError, match=r"float16 needs a gpu"):
        model.half()
    with pytest.raises(ValueError, match="dtype must be"):
        model.to("gpu", "float64")
    assert model.device == "cpu"
    assert model.to("cpu", "float32").dtype == model.float().dtype == "float32"
    model.to("gpu", dtype)
    wanted = {n: np.array(ops.host(v)) for n, v in model.state_dict(keep_vars=True).items()}
    model.to("cpu")
    assert model.dtype == "float32"
    assert set(types(model).values()) == {"float32"}
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, wanted[name])


def test_a_weight_beyond_float16_is_named() -> None:
    model = slim().to("gpu")
    weight = np.array(ops.host(model.fc1.weight))
    weight[0, 0] = 1e5
    ops.set_values(model.fc1.weight, weight)
    with pytest.raises(ValueError, match=r"float16 cannot hold fc1\.weight.*bfloat16"):
        model.half()
    assert set(types(model).values()) == {"float32"}
    assert model.to("gpu", "bfloat16").dtype == "bfloat16"


@halves
def test_losses_are_refused(dtype: str, tmp_path: Path) -> None:
    model, batch = model_of(dtype), Squares(1).batch(0)
    with pytest.raises(ValueError, match=f"get_loss needs a model in float32, got one in {dtype}"):
        model.get_loss(batch.images, batch.targets)
    with pytest.raises(ValueError, match=f"model must be in float32 to be trained, got one in {dtype}"):
        Trainer(model, Squares(1), out=tmp_path / "run", settings=TrainerSettings(steps=1))
    assert not (tmp_path / "run").exists()


@halves
@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_in_half_precision_too(dtype: str, again: Any) -> None:
    model = model_of(dtype)
    made = again(model)
    assert types(made) == types(model)
    np.testing.assert_array_equal(np.asarray(predict(made).boxes), np.asarray(predict(model).boxes))


@halves
@pytest.mark.parametrize("file_dtype", ["float32", "float16"])
def test_files_of_weights(dtype: str, file_dtype: str, tmp_path: Path) -> None:
    model = model_of(dtype)
    save_weights(model, tmp_path / "a.safetensors", dtype=file_dtype)
    assert set(types(MaskRCNN.from_file(tmp_path / "a.safetensors")).values()) == {"float32"}
    other = slim(seed=1, norm="frozen").to("gpu", dtype)
    load_weights(other, tmp_path / "a.safetensors")
    assert types(other) == types(model)
    for name, array in other.state_dict().items():
        tolerance = 1e-7 if dtype == "bfloat16" and file_dtype == "float16" else 0
        np.testing.assert_allclose(array, model.state_dict()[name], rtol=0, atol=tolerance)


def test_loading_what_float16_cannot_hold_changes_nothing() -> None:
    model = model_of("float16")
    before = model.state_dict()
    arrays = {name: np.array(a, np.float32) for name, a in before.items()}
    arrays["fc1.weight"][0, 0] = 7e4
    with pytest.raises(ValueError, match=r"float16, whose largest number is 65504: fc1\.weight; call model\.float"):
        load_weights(model, arrays)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_replaced_head_in_float32_meets_half_precision() -> None:
    model = model_of("float16")
    model.cls_score = Linear(16, 3, std=0.01).to("gpu")
    assert np.isfinite(np.asarray(predict(model).scores)).all()
    model.half()
    assert ops.dtype_name(model.cls_score.weight) == "float16"


def test_a_job_keeps_its_precision(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    save_weights(slim(), tmp_path / "w.safetensors")
    given = ([tmp_path / "a.png"], tmp_path / "w.safetensors", tmp_path / "job")
    with pytest.raises(ValueError, match="float16 needs a gpu"):
        predict_files(*given, dtype="float16")
    assert not (tmp_path / "job").exists()
    predict_files(*given, device="gpu", dtype="float16", draw=False, progress=False)
    assert '"dtype": "float16"' in (tmp_path / "job" / "job.json").read_text()
    with pytest.raises(ValueError, match="dtype was"):
        predict_files(*given, device="gpu", draw=False, resume=True, progress=False)
    with pytest.raises(ValueError, match="dtype is of a model that is loaded here"):
        predict_files(given[0], slim(), given[2], dtype="float16")


def test_load_state_dict_leaves_each_model_its_own_precision() -> None:
    single, half = slim(), slim(seed=1).to("gpu", "float16")
    single.load_state_dict(half.state_dict())
    assert (single.device, single.dtype) == ("cpu", "float32")
    half.load_state_dict(slim(seed=2).state_dict())
    assert (half.device, half.dtype) == ("gpu", "float16")
    np.testing.assert_allclose(half.state_dict()["fc1.weight"], slim(seed=2).state_dict()["fc1.weight"], atol=1e-3)


def test_load_state_dict_refuses_what_float16_cannot_hold_and_changes_nothing() -> None:
    half, state = slim().to("gpu", "float16"), slim(seed=1).state_dict()
    before = half.state_dict()["fc1.weight"]
    state["fc2.weight"] = state["fc2.weight"] + np.float32(1e6)
    with pytest.raises(ValueError, match=r"float16 cannot hold fc2.weight"):
        half.load_state_dict(state)
    np.testing.assert_array_equal(half.state_dict()["fc1.weight"], before)
    assert half.dtype == "float16"


def test_to_takes_a_dtype_alone_and_tells_a_dtype_from_a_device() -> None:
    model = slim().to("gpu")
    assert model.to(dtype="bfloat16").dtype == "bfloat16"
    assert (model.to(dtype="float32").dtype, model.device) == ("float32", "gpu")
    with pytest.raises(ValueError, match=r"device must be the name of a device, got 'float16': pass dtype='float16'"):
        model.to("float16")
