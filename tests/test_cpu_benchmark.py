"""``benchmarks/run.py`` goes on without contenders that are not there, and refuses those whose answers differ."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lucid_maskrcnn import Target

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def scripts(monkeypatch) -> Any:
    """Return a function that imports a script of the folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module
    for name in ("run", "records", "contenders"):
        sys.modules.pop(name, None)


def test_a_contender_without_its_packages_is_named_and_left_out(scripts, capsys):
    run = scripts("run")
    bench = run.Bench(sys.executable, [], 1)
    assert bench.start(run.OPENVINO) == {}
    assert bench.skipped["openvino"].startswith(f"{sys.executable} has no torch, torchvision, ")
    assert run.Bench(None, [], 1).start(run.PEER) == {}
    machine = {"processor": "P", "instructions": "I", "cores": 2, "blas": "B"}
    run.report({"machine": machine, "skipped": bench.skipped})
    assert "openvino is not measured: " in capsys.readouterr().out


class Contender:
    """Answers as a worker does, with outputs that differ from the others' by a factor."""

    def __init__(self, name: str, factor: float) -> None:
        self.name, self.factor, self.is_open = name, factor, True

    def ask(self, task: str, size: tuple[int, int], folder: str) -> dict[str, float]:
        values = np.random.default_rng(0).standard_normal((2, 3))
        np.savez(Path(folder) / f"{self.name}.npz", values, self.factor * values)
        return {"seconds": 1.0}

    def close(self) -> None:
        self.is_open = False


def test_a_contender_whose_outputs_differ_is_not_timed(scripts, monkeypatch):
    run = scripts("run")
    workers = {name: Contender(name, factor) for name, factor in [("ours", 1), ("openvino", 1.01), ("torchvision", 1)]}
    everyone = list(workers.values())
    bench = run.Bench(None, [], 2)
    monkeypatch.setattr(bench, "start", lambda *_: workers)
    assert run.measure_trunk(bench).keys() == {"ours", "torchvision"}
    assert bench.skipped["openvino"].startswith("its outputs differ by ")
    assert not any(worker.is_open for worker in everyone)


def test_trunk_of_this_package(scripts, tmp_path):
    contenders = scripts("contenders")
    timed = contenders.timed_trunk("ours", contenders.Ours(plain=False), (64, 96), str(tmp_path))
    assert timed()["seconds"] > 0
    with np.load(tmp_path / "ours.npz") as saved:
        shapes = [saved[name].shape for name in saved.files]
    sides = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert shapes == [(1, channels, *side) for channels in (256, 3, 12) for side in sides]


class Finder:
    """Answers as a worker that predicts nuclei does."""

    def __init__(self, count: int, export: str | None = None) -> None:
        self.count, self.export, self.is_open = count, export, True

    def ask(self, task: str, *args: Any) -> Any:
        return self.export if task == "export" else {"seconds": 1.0, "detections": self.count}

    def close(self) -> None:
        self.is_open = False


@pytest.mark.parametrize(
    ("finders", "measured", "skipped"),
    [
        (
            {"ours": Finder(7), "openvino": Finder(6), "onnxruntime": Finder(7)},
            {"ours", "onnxruntime"},
            "it finds 6 nuclei",
        ),
        ({"ours": Finder(7, "no onnx here"), "openvino": Finder(7)}, {"ours"}, "no onnx here"),
    ],
)
def test_an_engine_that_finds_something_else_is_not_compared(scripts, monkeypatch, finders, measured, skipped):
    run = scripts("run")
    everyone = list(finders.values())
    bench = run.Bench(None, [], 2)
    monkeypatch.setattr(bench, "start", lambda *_: finders)
    rows = run.measure_nuclei(bench)
    assert len(rows) == len(run.NUCLEI_SIZES)
    assert all(row.keys() == measured for row in rows.values())
    assert bench.skipped["openvino"].startswith(skipped)
    assert not any(worker.is_open for worker in everyone)


def test_nuclei_are_found_by_this_package_and_by_its_file(scripts, tmp_path):
    contenders = scripts("contenders")
    own = contenders.Ours(plain=False)
    assert own.export(str(tmp_path)) is None
    found = own.nuclei((128, 160), str(tmp_path))()
    assert found["detections"] > 5
    assert contenders.ONNXRuntime().nuclei((128, 160), str(tmp_path))()["detections"] == found["detections"]


@pytest.mark.parametrize("count", [1, 4000])
def test_crowd_is_a_valid_target(scripts, count):
    target = scripts("contenders").crowd((512, 512), count)
    found = Target.from_mapping(target, index=0, image_size=(512, 512), num_classes=90)
    assert len(found) == count
    assert found.masks.areas.tolist() == pytest.approx([36] * count, abs=15)  # outlines may lie between pixels


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--peer", "/no/python"], "--peer must be an interpreter, and '/no/python' is none."),
        (
            ["--record", "--only", "nuclei", "predict"],
            "and --only leaves out train, ops.",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_measured(
    scripts, monkeypatch, capsys, tmp_path, arguments, sentence
):
    run = scripts("run")
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit, match="2"):
        run.main()
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_part_that_is_drawn_there_is_no_picture(scripts, tmp_path):
    run, path = scripts("run"), tmp_path / "speed.png"
    path.write_bytes(b"of a run before")
    assert run.plot({"nuclei": {}}, path) is False
    assert not path.exists()


def test_a_run_is_added_to_the_records(scripts, monkeypatch, tmp_path):
    records = scripts("records")
    monkeypatch.setattr(records, "FILE", tmp_path / "cpu.json")
    records.FILE.write_text(json.dumps({"about": "…", "runs": [{"predict": 1}]}))
    records.append({"train": {"ours": {"median": 1.23456, "memory": 1234.56}}, "curve": [1.0], "skipped": {}})
    assert records.read() == [{"predict": 1}, {"train": {"ours": {"median": 1.235, "memory": 1235}}, "skipped": {}}]


def test_this_machine_is_described(scripts):
    machine = scripts("records").machine()
    assert machine["processor"]
    assert machine["instructions"]
    assert machine["blas"]
    assert machine["cores"] > 0
