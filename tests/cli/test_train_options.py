"""Options of ``train`` for the optimizer, the losses, trackers and an early stop."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import Squares, slim

from lucid_maskrcnn.cli import main
from lucid_maskrcnn.training import read_log
from lucid_maskrcnn.training.checkpoints import find_checkpoints, read_header
from lucid_maskrcnn.weights import save_weights

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucid_maskrcnn.training.trainer.draw_curves", lambda *_: None)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of squares of two classes, and weights of a slim model."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    batch, images, annotations = Squares(2).batch(0), [], []
    for i, (image, target) in enumerate(zip(batch.images, batch.targets, strict=True), 1):
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            entry: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            entry |= {"segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]], "iscrowd": 0}
            annotations.append({**entry, "id": len(annotations) + 1, "image_id": i, "category_id": label})
    categories = [{"id": 1, "name": "dim"}, {"id": 2, "name": "bright"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(coco))
    save_weights(slim(categories={1: "dim", 2: "bright"}), folder / "slim.safetensors")
    return folder


def train(data: Path, out: Path, *options: object) -> list[str]:
    usual = [data / "images", data / "instances.json", "--weights", data / "slim.safetensors", "--out", out]
    return ["train", *map(str, [*usual, "--quiet", "--no-tensorboard", *options])]


def test_optimizer_and_weights_reach_the_run(data: Path, tmp_path: Path) -> None:
    adamw = ("--optimizer", "adamw", "--betas", "0.8,0.99")
    weights = ("--class-weights", "bright=3,1=2", "--loss-weights", "mask_loss=2,rpn_cls_loss=.5")
    main(train(data, tmp_path, "--steps", 2, *adamw, *weights))
    settings = read_header(find_checkpoints(tmp_path)[0])[0]["settings"]
    assert (settings["optimizer"], settings["betas"], settings["weight_decay"]) == ("adamw", [0.8, 0.99], 0.05)
    assert settings["decay_norms"] is False
    assert settings["loss_weights"] == {"mask_loss": 2.0, "rpn_cls_loss": 0.5}
    assert settings["class_weights"] == {"bright": 3.0, "1": 2.0}
    with np.errstate(all="ignore"):
        assert np.asarray(Image.open(tmp_path / "batches.png")).ndim == 3


def test_trackers_categories_and_an_early_stop(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    options = ("--steps", 9, "--eval-every", 1, "--patience", 1, "--val-annotations", data / "instances.json")
    main(train(data, tmp_path / "run", *options, "--wandb", "p", "--mlflow", "e", "--lr", "1e-9"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("stopped early: --patience 1 evaluations without a better")
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert "stopped_early" in log[-1]
    assert {"segm/AP-dim", "segm/AP-bright"} <= set(log[0]["evaluation"])
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert "segm/AP-dim" in run.data.metrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--betas", "0.9"), "must be two numbers of at least 0 and below 1"),
        (("--loss-weights", "mask_loss"), "must be names and numbers"),
        (("--loss-weights", "=2"), "must have a name before each ="),
        (("--loss-weights", "mask=2"), "loss_weights has an unknown loss 'mask'"),
        (("--class-weights", "brigth=2"), "there is no class 'brigth'; did you mean 'bright'"),
        (("--betas", "0.8,0.9"), "betas is of optimizer='adamw'"),
    ],
)
def test_wrong_options_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Any, message: str
) -> None:
    with contextlib.suppress(SystemExit):  # of argparse
        assert main(train(data, tmp_path, "--steps", 1, *options)) == 2
    assert message in capsys.readouterr().err
