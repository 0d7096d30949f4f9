"""Weights are found in what training programs save: in dicts of any name, behind prefixes, beside any objects."""

from __future__ import annotations

import collections
import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from any_objects import Config, everything
from checkpoint_files import SIX, Built, Call, Name, Raw, code, pickled, read, refused, torch_save, write_legacy
from safetensors.numpy import save_file

from lucid_maskrcnn.weights.formats import open_checkpoint

NAMES = ("backbone.body.conv1.weight", "rpn.head.conv.0.0.weight", "roi_heads.box_predictor.cls_score.weight")
WEIGHTS = {name: SIX + i for i, name in enumerate(NAMES)}
RESNET = {"conv1.weight": SIX, "bn1.num_batches_tracked": np.array(3), "layer1.0.conv1.weight": SIX + 1}


def same(path: Path, wanted: dict[str, np.ndarray]) -> None:
    found = read(path)
    assert list(found) == list(wanted)
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name])


# ------------------------------------------------------------------ what stands beside the weights


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_training_checkpoint_with_objects_of_any_class(tmp_path: Path, protocol: int) -> None:
    rest = {name: value for name, value in everything().items() if protocol > 1 or name != "objects"}
    rest["arrays"] = [np.array(["a"]), np.array([None, {}]), np.zeros(2, "f4,i4"), np.array("2020", "M8[D]")]
    path = tmp_path / "x.pkl"
    for content in ({"model": WEIGHTS} | rest, rest | {"model": WEIGHTS}):
        path.write_bytes(pickle.dumps(content, protocol))
        same(path, WEIGHTS)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_torch_training_checkpoint_with_objects_of_any_class(tmp_path: Path, protocol: int) -> None:
    content = {"model": collections.OrderedDict(WEIGHTS), **everything(), "scaler": {"scale": 65536.0}}
    path = torch_save(tmp_path / "model_25.pth", content, protocol)
    same(path, WEIGHTS)
    assert (open_checkpoint(path).place, open_checkpoint(path).others) == ("model", ())


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in everything().items() if n not in ("epoch", "long")])
def test_what_is_no_array_among_the_weights_is_named(tmp_path: Path, name: str, value: Any) -> None:
    path = torch_save(tmp_path / "x.pth", {"model": {**WEIGHTS, f"roi_heads.{name}": value}})
    refused(path, f"has roi_heads.{name} among its weights, which is not an array but ")


def test_parameters_of_a_class_of_its_own_are_named(tmp_path: Path) -> None:
    sharded = Call(Name("torch.distributed.tensor", "DTensor"), ())
    entries = pickled({NAMES[2]: sharded, NAMES[0]: Raw(code(Name("a", "B")))})
    (tmp_path / "x.pkl").write_bytes(entries)
    refused(tmp_path / "x.pkl", f"holds no arrays: {NAMES[0]} is a.B")
    write_legacy(tmp_path / "x.pth", {NAMES[2]: sharded}, {})
    refused(tmp_path / "x.pth", f"holds no arrays: {NAMES[2]} is torch.distributed.tensor.DTensor")


# ------------------------------------------------------------------ where the weights stand

NESTED: dict[str, tuple[Any, str]] = {
    **{
        name: ({"epoch": 3, name: WEIGHTS, "optimizer": {"state": {0: {"exp_avg": SIX}}}}, name)
        for name in (  # noqa: SIM905
            "model state_dict model_state_dict model_state net network weights params module ema model_ema ema_model "
            "state_dict_ema best_model detector student whatever"
        ).split()
    },
    "flat": (WEIGHTS, ""),
    "flat with counters": ({**WEIGHTS, "epoch": 3}, ""),
    "ordered": (collections.OrderedDict(WEIGHTS), ""),
    "a dict with attributes": (Config(**WEIGHTS), ""),
    "a dict of defaults": (collections.defaultdict(list, WEIGHTS), ""),
    "two deep": ({"state": {"model": WEIGHTS}}, "state.model"),
    "in a class": ({"checkpoint": types.SimpleNamespace(model=WEIGHTS, epoch=1)}, "checkpoint.model"),
    "list": ([WEIGHTS, 3, {"state": {}}], "0"),
    "pair": ((3, WEIGHTS), "1"),
    "list in a dict": ({"models": [WEIGHTS]}, "models.0"),
}


@pytest.mark.parametrize(("content", "place"), NESTED.values(), ids=NESTED)
def test_nested_weights_are_found(tmp_path: Path, content: Any, place: str) -> None:
    path = torch_save(tmp_path / "x.pth", content)
    same(path, WEIGHTS)
    assert (open_checkpoint(path).place, open_checkpoint(path).others) == (place, ())
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    same(tmp_path / "x.pkl", WEIGHTS)


@pytest.mark.parametrize("weights", [WEIGHTS, RESNET], ids=["detector", "ResNet"])
@pytest.mark.parametrize(
    "prefix", ["model.", "module.", "detector.", "net.", "ema_model.", "student.", "model.detector.", "a.b.c.", "_x."]
)
def test_prefixes_are_removed(tmp_path: Path, prefix: str, weights: dict[str, Any]) -> None:
    others = {"criterion.weight": SIX, "steps": np.array(3), "ema.decay": np.array(0.5, np.float32)}
    prefixed = {prefix + name: array for name, array in weights.items()}
    for path in (
        torch_save(tmp_path / "x.ckpt", {"state_dict": others | prefixed}),
        torch_save(tmp_path / "x.pth", prefixed | others),
    ):
        same(path, weights)
        assert f"(prefix {prefix})" in open_checkpoint(path).place
    save_file(prefixed, tmp_path / "x.safetensors")
    assert read(tmp_path / "x.safetensors").keys() == weights.keys()


@pytest.mark.parametrize(
    "wrap",
    [
        "module.{}",
        "_orig_mod.{}",
        "_orig_mod.module.{}",
        "module._orig_mod.{}",
        "_forward_module.model.{}",
        "model._orig_mod.{}",
        "backbone._fsdp_wrapped_module.{0}",
    ],
)
def test_wrapping_modules_are_removed_wherever_they_stand(tmp_path: Path, wrap: str) -> None:
    inner = wrap.removeprefix("backbone.")
    prefix = "backbone." if inner != wrap else ""
    wrapped = {
        prefix + inner.format(n.removeprefix(prefix)) if n.startswith(prefix) else n: a for n, a in WEIGHTS.items()
    }
    same(torch_save(tmp_path / "x.pth", {"model": wrapped}), WEIGHTS)


def test_counter_of_averaged_weights(tmp_path: Path) -> None:
    averaged = {"n_averaged": np.array(3)} | {f"module.{name}": array for name, array in WEIGHTS.items()}
    same(torch_save(tmp_path / "x.pth", {"model_ema": averaged}), WEIGHTS)


OTHER = {name: array + 10 for name, array in WEIGHTS.items()}
SEVERAL: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "averaged": ({"model": OTHER, "model_ema": WEIGHTS}, "model_ema", ("model",)),
    "averaged first": ({"ema": WEIGHTS, "state_dict": OTHER}, "ema", ("state_dict",)),
    "averaged deep": ({"model": OTHER, "ema": {"module": WEIGHTS}}, "ema.module", ("model",)),
    "teacher": ({"student": OTHER, "teacher": WEIGHTS}, "teacher", ("student",)),
    "capitals": ({"modelStudent": OTHER, "modelTeacher": WEIGHTS}, "modelTeacher", ("modelStudent",)),
    "usual": ({"first": OTHER, "model": WEIGHTS}, "model", ("first",)),
    "first": ({"first": WEIGHTS, "second": OTHER}, "first", ("second",)),
    "prefixes": (
        {f"student.{n}": a for n, a in OTHER.items()} | {f"teacher.{n}": a for n, a in WEIGHTS.items()},
        "(prefix teacher.)",
        ("(prefix student.)",),
    ),
    "no ema": ({"schema": OTHER, "model": WEIGHTS}, "model", ("schema",)),
    "optimizer": ({"optimizer": {"momentum": OTHER}, "weights": WEIGHTS}, "weights", ()),
    "optimizer's prefix": (
        {f"momentum.{n}": a for n, a in OTHER.items()} | {f"x.{n}": a for n, a in WEIGHTS.items()},
        "(prefix x.)",
        (),
    ),
    "a body beside it": ({"backbone": RESNET, "detector": WEIGHTS}, "detector", ()),
}


@pytest.mark.parametrize(("content", "place", "others"), SEVERAL.values(), ids=SEVERAL)
def test_of_several_weights_one_is_chosen_by_the_rule(
    tmp_path: Path, content: Any, place: str, others: tuple[str, ...]
) -> None:
    path = torch_save(tmp_path / "x.pth", content)
    same(path, WEIGHTS)
    assert (open_checkpoint(path).place, open_checkpoint(path).others) == (place, others)


# ------------------------------------------------------------------ whole modules


def module(**parts: Any) -> Built:
    made = Call(Name("a", "Module"), ())
    state = {"training": True, "_parameters": {}, "_buffers": {}, "_modules": {}, "_backward_hooks": {}} | parts
    return Built(made, state)


def test_whole_module(tmp_path: Path) -> None:
    def layer(**arrays: np.ndarray) -> Built:
        return module(_parameters={n: Raw(pickle.dumps(a, 2)[2:-1]) for n, a in arrays.items()} | {"bias": None})

    body = module(_modules={"conv1": layer(weight=SIX)})
    predictor = module(_modules={"cls_score": layer(weight=SIX + 1), "none": None})
    heads = module(_modules={"box_predictor": predictor})
    model = module(
        _modules={"backbone": module(_modules={"body": body}), "roi_heads": heads}, name="x", cfg=Name("a", "b")
    )
    wanted = {"backbone.body.conv1.weight": SIX, "roi_heads.box_predictor.cls_score.weight": SIX + 1}
    for content in (model, {"epoch": 1, "model": model}):
        (tmp_path / "x.pkl").write_bytes(pickled(content))
        same(tmp_path / "x.pkl", wanted)


def test_module_inside_itself(tmp_path: Path) -> None:
    inner = Raw(code(Name("a", "B")) + b")\x81q\0" + code({"_modules": {"c": Raw(b"h\0"), "d": Raw(b"h\0")}}) + b"b")
    (tmp_path / "x.pkl").write_bytes(pickled({"model": inner}))
    refused(tmp_path / "x.pkl", "has a module of more than 20000 modules, more than any model needs")
