"""Callbacks: when they are called, what an error of theirs does, and those for Weights & Biases and MLflow."""

from __future__ import annotations

import builtins
import json
import math
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Interrupting, Squares, same_arrays, steps_of, toy_settings, toy_trainer

from lucid_maskrcnn.training import Callback, Interrupted, MLflowCallback, TrainResult, WandbCallback, read_log
from lucid_maskrcnn.training.checkpoints import find_checkpoints


class Noting(Callback):
    """Notes its calls; raises in one of them."""

    def __init__(self, raising: tuple[str, int] | None = None) -> None:
        self.calls: list[tuple[str, int]] = []
        self.metrics: list[Mapping[str, float]] = []
        self.results: list[TrainResult | None] = []
        self.raising, self.pids = raising, set[int]()

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._note("step", step, metrics)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._note("evaluation", step, metrics)

    def on_end(self, result: TrainResult | None) -> None:
        self.results.append(result)
        if self.raising == ("end", 0):
            raise RuntimeError("no end")

    def _note(self, kind: str, step: int, metrics: Any) -> None:
        self.calls.append((kind, step))
        self.metrics.append(dict(metrics))
        self.pids.add(os.getpid())
        metrics.clear()  # a copy: the run is not disturbed
        if self.raising == (kind, step):
            raise RuntimeError(f"no {kind} {step}")


def evaluated(**more: Any) -> dict[str, Any]:
    return {"settings": toy_settings(4, eval_every=2, **more), "evaluate": lambda model: {"score": 0.5}}


@pytest.mark.parametrize(
    "processes", [1, pytest.param(2, marks=pytest.mark.skipif(sys.platform != "linux", reason=""))]
)
def test_callbacks_are_called_in_the_process_that_trains(tmp_path: Path, processes: int) -> None:
    noting = Noting()
    result = toy_trainer(tmp_path, **evaluated(processes=processes), callbacks=[noting]).run()
    order = [("step", 1), ("step", 2), ("evaluation", 2), ("step", 3), ("step", 4), ("evaluation", 4)]
    assert noting.calls == order
    assert noting.pids == {os.getpid()}
    assert noting.results == [result]
    logged = [r for r in read_log(tmp_path / "log.jsonl") if "evaluation" not in r]
    steps = [m for (kind, _), m in zip(noting.calls, noting.metrics, strict=True) if kind == "step"]
    assert steps == [{k: v for k, v in r.items() if k not in ("step", "seconds")} for r in logged]
    assert noting.metrics[2] == {"score": 0.5}


@pytest.mark.parametrize("raising", [("step", 3), ("evaluation", 2)])
def test_a_callback_that_raises_loses_no_step(tmp_path: Path, raising: tuple[str, int]) -> None:
    noting, other = Noting(raising), Noting()
    options = evaluated(save_every=100)
    with pytest.raises(RuntimeError, match=f"no {raising[0]} {raising[1]}"):
        toy_trainer(tmp_path / "run", **options, callbacks=[noting, other]).run()
    assert other.results == noting.results == [None]
    assert find_checkpoints(tmp_path / "run")[0].name == f"checkpoint-{raising[1]:08}.safetensors"
    again = Noting(raising)
    toy_trainer(tmp_path / "run", **options, callbacks=[again], resume=True).run()
    assert raising not in again.calls, "it would never get past it"
    assert steps_of(tmp_path / "run") == [1, 2, 3, 4]
    toy_trainer(tmp_path / "whole", **options).run()
    assert same_arrays(tmp_path / "run" / "weights.safetensors", tmp_path / "whole" / "weights.safetensors")


def test_an_error_at_the_end_comes_after_the_weights(tmp_path: Path) -> None:
    noting, other = Noting(("end", 0)), Noting()
    with pytest.raises(RuntimeError, match="no end"):
        toy_trainer(tmp_path, toy_settings(2), callbacks=[noting, other]).run()
    assert (tmp_path / "weights.safetensors").is_file()
    assert isinstance(other.results[0], TrainResult)


def test_an_error_at_the_end_does_not_hide_the_one_that_stopped_the_run(tmp_path: Path) -> None:
    class Broken(Squares):
        def batch(self, step: int) -> Any:
            raise ValueError("no batch")

    with pytest.raises(ValueError, match="no batch") as caught:
        toy_trainer(tmp_path, toy_settings(2), loader=Broken(2, side=8), callbacks=[Noting(("end", 0))]).run()
    assert caught.value.__notes__ == ["A callback's on_end raised RuntimeError: no end"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_callbacks_and_goes_on(tmp_path: Path, number: int) -> None:
    first, second = Noting(), Noting()
    with pytest.raises(Interrupted):
        toy_trainer(
            tmp_path, toy_settings(4), loader=Interrupting(2, side=8, at=3, number=number), callbacks=[first]
        ).run()
    result = toy_trainer(tmp_path, toy_settings(4), resume=True, callbacks=[second]).run()
    assert first.results == [None]
    assert second.results == [result]
    assert [step for _, step in first.calls + second.calls] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (None, "callbacks must be a list of callbacks, got None"),
        (Noting(), "callbacks must be a list of callbacks, got .*: put it in a list"),
        ([print], r"callbacks\[0\] must have the methods on_step, on_evaluation, on_end, got"),
        ([Noting(), Noting], r"callbacks\[1\] must have .*, got the class Noting: make an instance of it"),
    ],
)
def test_what_is_no_callback_is_refused(tmp_path: Path, callbacks: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        toy_trainer(tmp_path, callbacks=callbacks)


# ------------------------------------------------------------------ tracking


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    """Refuse, and note, connections of this process to any machine but this one; no settings from outside."""
    tried: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            tried.append(address)
            raise OSError("no network in tests")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in [n for n in os.environ if n.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield tried
    assert tried == []


def stored_records(file: Path) -> Iterator[bytes]:
    """Yield the records of a file of wandb: seven bytes, then LevelDB's log format in blocks of 32 KiB."""
    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no header fits in the rest of a block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def records_of_wandb(folder: Path, steps: int) -> list[dict[str, float]]:
    """Return the history of the offline runs in a folder, in the order of the runs.

    The process that writes them can be a moment behind a run that has ended, on a busy machine.
    """
    for _ in range(200):
        if len(rows := _stored_history(folder)) >= steps:
            break
        time.sleep(0.05)
    return rows


def _stored_history(folder: Path) -> list[dict[str, float]]:
    from wandb.proto import wandb_internal_pb2

    rows = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        for data in stored_records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def test_wandb_gets_steps_and_evaluations_offline(tmp_path: Path, offline: list[Any]) -> None:
    callback = WandbCallback("nuclei", folder=tmp_path, name="one", config={"lr": 0.1}, mode="offline")
    settings = toy_settings(4, eval_every=2, keep_best="score")
    toy_trainer(
        tmp_path, settings, evaluate=lambda model: {"score": 0.5, "AP_0.5:0.95": math.nan}, callbacks=[callback]
    ).run()
    rows = records_of_wandb(tmp_path, 4)
    assert [row["_step"] for row in rows] == [1, 2, 3, 4]
    assert [row.get("score") for row in rows] == [None, 0.5, None, 0.5]
    logged = [r for r in read_log(tmp_path / "log.jsonl") if "evaluation" not in r]
    assert [row["train/total_loss"] for row in rows] == pytest.approx([r["total_loss"] for r in logged])
    assert json.loads((tmp_path / "wandb.json").read_text())["id"]


def test_a_resumed_run_goes_on_in_wandb(tmp_path: Path, offline: list[Any]) -> None:
    def run(**options: Any) -> None:
        toy_trainer(
            tmp_path, toy_settings(4), callbacks=[WandbCallback("p", folder=tmp_path, mode="offline")], **options
        ).run()

    with pytest.raises(Interrupted):
        run(loader=Interrupting(2, side=8, at=3))
    run(resume=True)
    names = {file.stem for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}
    assert len(names) == 1, "another run was begun"
    assert [row["_step"] for row in records_of_wandb(tmp_path, 4)] == [1, 2, 3, 4]


def mlflow_runs(store: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("nuclei")
    return client.search_runs([experiment.experiment_id])


def test_mlflow_gets_steps_and_evaluations_into_a_folder(tmp_path: Path, offline: list[Any]) -> None:
    pytest.importorskip("mlflow")
    store = (tmp_path / "store").as_uri()

    def run(**options: Any) -> None:
        callback = MLflowCallback(
            "nuclei", folder=tmp_path / "run", name="one", config={"lr": 0.1, "class_weights": None}, tracking_uri=store
        )
        settings = toy_settings(4, eval_every=2, keep_best="score")
        metrics = {"score": 0.5, "AP_0.5:0.95": 0.25, "segm/AP@100": math.nan, "segm/AP-große Zelle": 1.0}
        toy_trainer(tmp_path / "run", settings, evaluate=lambda model: metrics, callbacks=[callback], **options).run()

    with pytest.raises(Interrupted):
        run(loader=Interrupting(2, side=8, at=4))
    (one,) = mlflow_runs(store)
    assert one.info.status == "KILLED"
    run(resume=True)
    (one,) = mlflow_runs(store)
    assert (one.info.status, one.info.run_name) == ("FINISHED", "one")
    assert one.data.params == {"lr": "0.1", "class_weights": "None"}
    assert one.data.metrics["AP_0.5-0.95"] == 0.25
    assert one.data.metrics["segm/AP-große Zelle"] == 1.0
    from mlflow.tracking import MlflowClient

    history = MlflowClient(store).get_metric_history(one.info.run_id, "train/total_loss")
    logged = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" not in r]
    assert [(m.step, m.value) for m in history] == [(r["step"], pytest.approx(r["total_loss"])) for r in logged]


@pytest.mark.parametrize(("kind", "module"), [(WandbCallback, "wandb"), (MLflowCallback, "mlflow")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, module: str) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf"{kind.__name__} needs .*: pip install {module}"):
        kind("p", folder=tmp_path)


@pytest.mark.parametrize("kind", [WandbCallback, MLflowCallback])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folder": ""}, ValueError, "folder must not be an empty string"),
        ({"name": 3}, TypeError, "name must be"),
        ({"config": [1]}, TypeError, "config must be a mapping"),
    ],
)
def test_wrong_arguments_of_trackers(tmp_path: Path, kind: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        kind("p", **{"folder": tmp_path, **options})
    with pytest.raises(ValueError, match="mode must be"):
        WandbCallback("p", folder=tmp_path, mode="off")


@pytest.mark.parametrize("kind", [WandbCallback, MLflowCallback])
def test_a_file_of_an_id_that_is_damaged_is_named(tmp_path: Path, kind: Any, offline: list[Any]) -> None:
    for name in ("wandb", "mlflow"):
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no id of a run: delete it"):
        kind("p", folder=tmp_path).on_step(1, {"lr": 1.0})
