"""The trainer: what a step computes, what a run leaves in its folder, evaluation, arguments."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import lucid
import lucid.nn as nn
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from tiny_runs import (
    Interrupting,
    Squares,
    Toy,
    same_arrays,
    slim,
    steps_of,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.evaluation import Evaluation
from lucid_maskrcnn.training import (
    Interrupted,
    Trainer,
    TrainerSettings,
    TrainResult,
    read_log,
)
from lucid_maskrcnn.training.checkpoints import find_checkpoints, read_header

LOSSES = ["rpn_cls_loss", "rpn_reg_loss", "roi_cls_loss", "roi_reg_loss", "mask_loss", "total_loss"]


class Watched(Squares):
    """Notes the memory in use at each batch."""

    def iterate(self, start: int, stop: int) -> Any:
        self.resident: list[int] = []
        for batch in super().iterate(start, stop):
            statm = Path("/proc/self/statm")
            self.resident.append(int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0)
            yield batch


@dataclasses.dataclass
class Run:
    out: Path
    result: TrainResult
    loader: Watched
    model: Any


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out, loader, model = (
        tmp_path_factory.mktemp("learned") / "run",
        Watched(1),
        slim(categories={1: "dim", 2: "bright"}),
    )
    settings = TrainerSettings(steps=30, lr=0.02, warmup=4, schedule="cosine", ema=0.8, save_every=15)
    trainer = Trainer(
        model,
        loader,
        out=out,
        settings=settings,
        evaluate=lambda model: {"segm/AP": 0.5},
        progress=False,
        tensorboard=False,
    )
    return Run(out, trainer.run(), loader, model)


def test_losses_go_down(learned: Run) -> None:
    losses = [record["total_loss"] for record in read_log(learned.out / "log.jsonl") if "total_loss" in record]
    assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:8])


def test_a_line_of_the_log_has_everything(learned: Run) -> None:
    *steps, last = read_log(learned.out / "log.jsonl")
    assert [r["step"] for r in steps] == list(range(1, 31))
    assert list(steps[0]) == ["step", "seconds", "lr", *LOSSES, "norm", "images_per_s"]
    assert steps[-1]["seconds"] > steps[0]["seconds"] > 0
    assert last == {"step": 30, "seconds": last["seconds"], "evaluation": {"segm/AP": 0.5}}


def test_the_file_of_weights_builds_its_model(learned: Run) -> None:
    assert learned.result.weights == learned.out / "weights.safetensors"
    model = MaskRCNN.from_file(learned.result.weights)
    assert model.categories == {1: "dim", 2: "bright"}
    image = Squares(1).batch(0).images[0]
    (found,), (own,) = (m.predict(image, score_thresh=0.0) for m in (model, learned.model))
    np.testing.assert_array_equal(found.scores.numpy(), own.scores.numpy())
    assert learned.result.metrics == {"segm/AP": 0.5}


def test_only_the_last_checkpoint_is_kept(learned: Run) -> None:
    left = {p.name for p in learned.out.iterdir()} - {"curves.png", "batches.png"}
    assert left == {"log.jsonl", "checkpoint-00000030.safetensors", "weights.safetensors"}
    numbers, shapes = read_header(learned.out / "checkpoint-00000030.safetensors")
    assert {name.partition(".")[0] for name in shapes} == {"model", "momentum", "ema"}
    assert numbers["state"]["metrics"] == {"segm/AP": 0.5}
    assert numbers["settings"]["lr"] == 0.02


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of memory")
def test_memory_stays_level(learned: Run) -> None:
    resident = learned.loader.resident
    assert max(resident[-5:]) - max(resident[8:13]) < 48e6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be a module with get_loss, such as a MaskRCNN, got None"),
        ({"model": nn.Identity()}, TypeError, r"model must have get_loss\(images, targets\), as MaskRCNN has"),
        ({"loader": [1, 2]}, TypeError, "got list: wrap the data set in lucid_maskrcnn.data.Loader"),
        ({"loader": None}, TypeError, r"loader must have batch_size and iterate\(start, stop\)"),
        ({"settings": {"steps": 1}}, TypeError, "settings must be TrainerSettings"),
        ({"out": None}, TypeError, "out must be a path as str or Path, got None"),
        ({"out": ""}, ValueError, "out must not be an empty string"),
        (
            {"evaluate": "ap"},
            TypeError,
            "evaluate must be a function of the model that returns metrics by name, got 'ap'",
        ),
        ({"resume": "yes"}, ValueError, "resume must be True, False or 'auto', got 'yes'"),
        ({"resume": None}, TypeError, "resume must be True, False or 'auto', got None"),
        ({"resume": np.ones(2)}, TypeError, "resume must be True, False or 'auto', got array"),
        ({"resume": 1}, TypeError, "resume must be True, False or 'auto', got 1"),
        ({"allow_changes": "no"}, TypeError, "allow_changes must be True or False, got 'no'"),
        ({"progress": None}, TypeError, "progress must be True or False, got None"),
        ({"tensorboard": "auto"}, TypeError, "tensorboard must be True or False, got 'auto'"),
    ],
)
def test_bad_arguments_of_the_trainer(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    out = tmp_path / "run"
    usual = {"model": Toy(), "loader": Squares(2, side=8), "out": out, "settings": toy_settings(2)}
    with pytest.raises(error, match=message):
        Trainer(**{**usual, **arguments})
    assert not out.exists()


def test_model_without_trained_parameters_is_refused(tmp_path: Path) -> None:
    model = Toy()
    for p in model.parameters():
        p.requires_grad = False
    with pytest.raises(ValueError, match="at least one parameter with requires_grad=True, got none: nothing to train"):
        toy_trainer(tmp_path, model=model)


def test_same_seed_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        toy_trainer(tmp_path / name, toy_settings(10, seed=seed)).run()
    a, b, c = (tmp_path / name / "weights.safetensors" for name in "abc")
    assert same_arrays(a, b)
    assert not same_arrays(a, c)


def test_bad_target_is_named_with_its_image(tmp_path: Path) -> None:
    class Negative(Squares):
        def batch(self, step: int) -> Any:
            batch = super().batch(step)
            batch.targets[1]["boxes"][0] = [9, 9, 3, 3]
            return batch

    settings = TrainerSettings(steps=1)
    trainer = Trainer(slim(), Negative(2), out=tmp_path, settings=settings, progress=False, tensorboard=False)
    with pytest.raises(ValueError, match=r"Step 1, images \[100, 101\]: targets\[1\].*boxes"):
        trainer.run()


def test_loader_that_ends_too_early(tmp_path: Path) -> None:
    class Short(Squares):
        def iterate(self, start: int, stop: int) -> Any:
            return itertools.islice(super().iterate(start, stop), 5)

    with pytest.raises(ValueError, match=r"no batches for step 3: iterate\(start, stop\) must yield stop - start"):
        toy_trainer(tmp_path, loader=Short(2, side=8)).run()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, r"The loader's iterate\(start, stop\) must return an iterator of batches, got None"),
        ([None] * 80, "Step 1: a batch of the loader must have images, targets and image_ids, got None without images"),
    ],
)
def test_loader_that_yields_no_batches_is_refused(tmp_path: Path, batches: Any, message: str) -> None:
    class Wrong(Squares):
        def iterate(self, start: int, stop: int) -> Any:
            return batches

    with pytest.raises(TypeError, match=message):
        toy_trainer(tmp_path, loader=Wrong(2, side=8)).run()


def test_loader_may_return_a_list(tmp_path: Path) -> None:
    class Listing(Squares):
        def iterate(self, start: int, stop: int) -> Any:
            return list(super().iterate(start, stop))

    for name, loader in (("list", Listing(2, side=8)), ("iterator", Squares(2, side=8))):
        toy_trainer(tmp_path / name, toy_settings(3), loader=loader).run()
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in ("list", "iterator")))


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (None, TypeError, "Step 1: get_loss must return a mapping of names to losses, got None"),
        ({}, ValueError, "must return a mapping of names to losses with 'total_loss', got none"),
        ({"loss": 1.0}, ValueError, "must return a mapping of names to losses with 'total_loss', got loss"),
        ({"total_loss": 1.0}, TypeError, "tensors of one value, got 1.0 for 'total_loss'"),
        ({"total_loss": lucid.ones(2)}, TypeError, r"tensors of one value, got shape \(2,\) for 'total_loss'"),
    ],
)
def test_model_whose_get_loss_returns_no_losses(
    tmp_path: Path, losses: Any, error: type[Exception], message: str
) -> None:
    class Wrong(Toy):
        def get_loss(self, images: Any, targets: Any, image_config: Any = None) -> Any:
            return losses

    with pytest.raises(error, match=message):
        toy_trainer(tmp_path, model=Wrong()).run()


def test_module_that_is_used_twice_is_trained(tmp_path: Path) -> None:
    model = Toy()
    model.again = model.first
    trainer = toy_trainer(tmp_path, toy_settings(2), model=model)
    assert len(trainer.optimizer.params) == 6
    assert trainer.run().step == 2
    assert toy_trainer(tmp_path, toy_settings(2), model=model, resume=True).run().step == 2


def test_frozen_parameters_do_not_move(tmp_path: Path) -> None:
    model = Toy()
    model.hidden.weight.requires_grad = False
    before = {name: array.copy() for name, array in model.state_dict().items()}
    toy_trainer(tmp_path / "run", toy_settings(5, ema=None), model=model).run()
    moved = {name for name, array in model.state_dict().items() if not np.array_equal(array, before[name])}
    assert moved == set(before) - {"hidden.weight"}
    assert "momentum.hidden.weight" not in load_file(find_checkpoints(tmp_path / "run")[0])


def test_frozen_stages_of_a_mask_rcnn_do_not_move(tmp_path: Path) -> None:
    model = slim(norm="frozen", trainable_layers=1)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    settings = TrainerSettings(steps=1, lr=0.01, schedule="constant")
    Trainer(model, Squares(1), out=tmp_path, settings=settings, progress=False, tensorboard=False).run()
    still = {name for name, array in model.state_dict().items() if np.array_equal(array, before[name])}
    for name in before:
        frozen = name.startswith("backbone.body") and ".layer4." not in name
        frozen |= name.startswith("backbone.body") and (".bn" in name or ".downsample.1." in name)
        assert (name in still) or not frozen, name
    assert "backbone.body.layer4.0.conv1.weight" not in still


def test_norms_and_biases_need_not_decay(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "a", toy_settings(1, warmup=0, decay_norms=False, weight_decay=0.5))
    assert [g["weight_decay"] for g in trainer.optimizer.groups] == [0.5, 0.0]
    assert all(p.ndim == 1 for p in trainer.optimizer.groups[1]["params"])
    assert [g["weight_decay"] for g in toy_trainer(tmp_path / "b").optimizer.groups] == [1e-4]


def test_batch_norm_is_frozen_after_its_fraction_of_the_run(tmp_path: Path) -> None:
    modes = []

    class Moded(Toy):
        def get_loss(self, images: Any, targets: Any) -> Any:
            modes.append((self.training, self.norm.training))
            return super().get_loss(images, targets)

    model = Moded()
    trainer = toy_trainer(tmp_path / "run", toy_settings(5, warmup=0, freeze_bn_after=0.6, accumulate=1), model=model)
    trainer.run()
    assert modes == [(True, True)] * 3 + [(True, False)] * 2
    assert trainer.ema is not None
    assert trainer.ema.updates == 2
    assert not model.training


def test_averages_are_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    seen = []

    def evaluate(model: Any) -> dict[str, float]:
        seen.append(model.first.weight.data.copy())
        return {"score": 0.0}

    settings = toy_settings(4, ema=0.9, freeze_bn_after=None, eval_every=4)
    trainer = toy_trainer(tmp_path / "run", settings, evaluate=evaluate)
    trainer.run()
    checkpoint = load_file(find_checkpoints(tmp_path / "run")[0])
    np.testing.assert_array_equal(seen[0], checkpoint["ema.first.weight"])
    assert not np.array_equal(seen[0], checkpoint["model.first.weight"])
    kept = load_file(tmp_path / "run" / "weights.safetensors")
    np.testing.assert_array_equal(seen[0], kept["first.weight"])
    np.testing.assert_array_equal(seen[0], trainer.model.first.weight.data)


def test_run_limited_by_time_ends(tmp_path: Path) -> None:
    settings = TrainerSettings(minutes=0.005, lr=0.01, schedule="cosine", warmup=2, save_every=1000)
    result = toy_trainer(tmp_path / "run", settings).run()
    assert result.step > 3
    assert result.seconds >= 0.3
    rates = [r["lr"] for r in read_log(tmp_path / "run" / "log.jsonl")]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.005
    assert toy_trainer(tmp_path / "run", settings, resume=True).run().step == result.step


def test_run_on_gpu_is_resumed(tmp_path: Path) -> None:
    settings = TrainerSettings(steps=2, lr=0.01, warmup=0, ema=0.5, accumulate=1, max_grad_norm=0.1, save_every=1)
    tiny = {"anchor_sizes": [8, 12, 16, 16, 16], "min_size": 32, "max_size": 32}
    options: dict[str, Any] = {"out": tmp_path, "settings": settings, "progress": False, "tensorboard": False}
    with pytest.raises(Interrupted):
        Trainer(slim(**tiny).to("gpu"), Interrupting(2, side=32, at=0), **options).run()
    model = slim(1, **tiny).to("gpu")
    Trainer(model, Squares(2, side=32), **options, resume=True).run()
    assert model.fc1.weight.is_gpu()
    assert steps_of(tmp_path) == [1, 2]
    assert all(a.dtype == np.float32 for a in load_file(tmp_path / "checkpoint-00000002.safetensors").values())


def test_best_weights_are_kept_and_patience_ends(tmp_path: Path) -> None:
    metrics = itertools.chain([0.1, 0.4, 0.3, 0.4, 0.9], itertools.repeat(0.0))
    weights = []

    def evaluate(model: Any) -> dict[str, float]:
        weights.append(model.first.weight.data.copy())
        return {"segm/AP": next(metrics), "bbox/AP": 0.0}

    settings = toy_settings(40, eval_every=3, keep_best="segm/AP", patience=2)
    result = toy_trainer(tmp_path / "run", settings, evaluate=evaluate).run()
    assert (result.step, result.best, result.best_weights) == (12, 0.4, tmp_path / "run" / "best.safetensors")
    np.testing.assert_array_equal(load_file(result.best_weights)["first.weight"], weights[1])
    assert [r["evaluation"]["segm/AP"] for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in r] == [
        0.1,
        0.4,
        0.3,
        0.4,
    ]
    more = dataclasses.replace(settings, patience=3)
    assert toy_trainer(tmp_path / "run", more, evaluate=evaluate, resume=True).run().best == 0.9


def test_evaluation_that_fails_loses_nothing(tmp_path: Path) -> None:
    def evaluate(model: Any) -> dict[str, float]:
        raise RuntimeError("no pycocotools")

    settings = toy_settings(9, eval_every=4, save_every=1000)
    with pytest.raises(RuntimeError):
        toy_trainer(tmp_path / "run", settings, evaluate=evaluate).run()
    toy_trainer(tmp_path / "run", settings, evaluate=lambda model: {"score": math.nan}, resume=True).run()
    assert [r["step"] for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in r] == [4, 8, 9]
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["evaluation"] == {"score": None}


def test_nan_is_never_the_best_metric(tmp_path: Path) -> None:
    metrics = iter([math.nan, 0.1, math.nan])
    settings = toy_settings(6, eval_every=2, keep_best="AP")
    result = toy_trainer(tmp_path / "run", settings, evaluate=lambda model: {"AP": next(metrics), "AR": 1.0}).run()
    assert (result.best, result.step) == (0.1, 6)
    assert math.isnan(result.metrics["AP"])
    with safe_open(tmp_path / "run" / "weights.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["metrics"]) == {"AR": 1.0}


def test_unknown_metric_to_keep_is_refused_with_the_nearest(tmp_path: Path) -> None:
    settings = toy_settings(4, keep_best="segm/mAP")
    metrics = {"segm/AP": 1.0, "bbox/AP": 1.0}
    message = "keep_best must be a metric of the evaluation, got 'segm/mAP'; did you mean 'segm/AP'"
    with pytest.raises(ValueError, match=message):
        toy_trainer(tmp_path / "run", settings, evaluate=lambda model: metrics).run()

    class Evaluate:
        metric_names = tuple(metrics)

        def __call__(self, model: Any) -> dict[str, float]:
            return metrics

    with pytest.raises(ValueError, match=message):  # before the run, where the names are known
        toy_trainer(tmp_path / "other", settings, evaluate=Evaluate())
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="keep_best and eval_every need evaluate"):
        toy_trainer(tmp_path / "other", settings)


@pytest.mark.parametrize("metrics", [0.5, None, {"AP": "0.5 %"}, {"AP": None}, [("AP", 0.5)]])
def test_evaluation_must_return_numbers_by_name(tmp_path: Path, metrics: Any) -> None:
    with pytest.raises(TypeError, match="evaluate must return a mapping of names to numbers, got"):
        toy_trainer(tmp_path, toy_settings(2), evaluate=lambda model: metrics).run()


def test_whole_evaluation_in_place_of_its_metrics_is_refused(tmp_path: Path) -> None:
    evaluation = Evaluation({}, None, {}, (), (), {}, (), {}, ())
    with pytest.raises(TypeError, match="names to numbers, got Evaluation: return its metrics"):
        toy_trainer(tmp_path, toy_settings(2), evaluate=lambda model: evaluation).run()


# ------------------------------------------------------------------ fine-tuning


def fine_tuned(out: Path, ap: list[float], **more: Any) -> tuple[TrainResult, Trainer]:
    """Run six steps from weights of a detector whose evaluations give these, in order."""
    model, values = Toy(), iter(ap)
    model.pretrained = True
    settings = toy_settings(6, eval_every=2, keep_best="AP", ema=None, **more)
    trainer = toy_trainer(out, settings, model=model, evaluate=lambda _: {"AP": next(values), "AR": 1.0})
    return trainer.run(), trainer


def test_weights_that_a_run_starts_from_are_evaluated_first(tmp_path: Path) -> None:
    result, _ = fine_tuned(tmp_path / "run", [0.5, 0.4, 0.6, 0.55])
    evaluations = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in r]
    assert [(r["step"], r["evaluation"]["AP"]) for r in evaluations] == [(0, 0.5), (2, 0.4), (4, 0.6), (6, 0.55)]
    assert (result.metrics_before, result.metrics) == ({"AP": 0.5, "AR": 1.0}, {"AP": 0.55, "AR": 1.0})
    assert result.best == 0.6
    assert result.best_weights == tmp_path / "run" / "best.safetensors"


def test_run_that_makes_weights_worse_says_so_and_keeps_those_before(tmp_path: Path) -> None:
    before = {name: array.copy() for name, array in Toy().state_dict().items()}
    with pytest.warns(
        UserWarning, match=r"^AP is 0\.300 at the end and was 0\.500 before the run.* is of step 0\.$"
    ) as w:
        result, trainer = fine_tuned(tmp_path / "run", [0.5, 0.4, 0.45, 0.3])
    assert w[0].filename == __file__
    assert (result.best, trainer.state.best_step) == (0.5, 0)
    assert result.best_weights is not None
    best = load_file(result.best_weights)
    assert best.keys() == before.keys()
    assert all(np.array_equal(best[name], array) for name, array in before.items())


def test_weights_before_a_run_count_for_patience(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="before the run"):
        result, _ = fine_tuned(tmp_path / "run", [0.5, 0.4, 0.45], patience=2)
    assert result.step == 4


def test_resumed_run_remembers_what_was_before(tmp_path: Path) -> None:
    fine_tuned(tmp_path / "run", [0.5, 0.6, 0.7, 0.8])
    model = Toy()
    model.pretrained = True
    longer = toy_settings(8, eval_every=2, keep_best="AP", ema=None)
    trainer = toy_trainer(tmp_path / "run", longer, model=model, evaluate=lambda _: {"AP": 0.4}, resume=True)
    with pytest.warns(UserWarning, match=r"^AP is 0\.400 at the end and was 0\.500 before.* 0\.800 is of step 6\.$"):
        result = trainer.run()
    assert result.metrics_before["AP"] == 0.5


def test_runs_from_nothing_are_not_evaluated_before_the_first_step(tmp_path: Path) -> None:
    settings = toy_settings(2, keep_best="AP")
    result = toy_trainer(tmp_path / "run", settings, evaluate=lambda _: {"AP": 0.1}).run()
    assert result.metrics_before == {}
    assert [r["step"] for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in r] == [2]


def test_run_with_gradients_off_says_that_nothing_is_learned(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "run")
    with lucid.no_grad(), pytest.raises(ValueError, match="Step 1: no parameter has a gradient, so that nothing would"):
        trainer.run()
    assert toy_trainer(tmp_path / "other", toy_settings(2)).run().step == 2


# ------------------------------------------------------------------ errors of the data


class Vanishing(Squares):
    """Its images cannot be read from a step on, as if their files were gone."""

    def __init__(self, length: int, step: int) -> None:
        super().__init__(length)
        self.step = step

    def iterate(self, start: int, stop: int) -> Any:
        for step, batch in enumerate(super().iterate(start, stop), start):
            if step >= self.step:
                raise ValueError("Cannot read 'a.png': it is gone.")
            yield batch


def test_run_whose_images_vanish_leaves_a_checkpoint_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TrainerSettings(steps=4, lr=0.001, save_every=100)

    def trainer(name: str, loader: Squares, **options: Any) -> Trainer:
        lucid.random.seed(0)
        return Trainer(slim(), loader, out=tmp_path / name, settings=settings, progress=False, **options)

    trainer("whole", Squares(4)).run()
    with pytest.raises(ValueError, match=r"Cannot read 'a.png'"):
        trainer("broken", Vanishing(4, 2)).run()
    assert [path.name for path in find_checkpoints(tmp_path / "broken")] == ["checkpoint-00000002.safetensors"]
    trainer("broken", Squares(4), resume=True).run()
    whole, broken = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "broken"))
    assert all(np.array_equal(whole[name], broken[name]) for name in whole)
