"""Names with terminal escapes, and file names that are no text: no command prints them raw, or fails at printing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import Squares, slim

from lucid_maskrcnn import Detections
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.evaluation import evaluate_results
from lucid_maskrcnn.text_tables import align_columns, printable
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.weights import save_weights

CLEAR, ONE_BYTE, TURNED = (
    "\x1b[2J",
    "\x9b31m",
    "\u202egnp",
)  # clears a terminal; the same in one byte; turns text around
HOSTILE = f"a{CLEAR}b{ONE_BYTE}c{TURNED}<b>&\u2028d"
FILE = os.fsdecode(f"x{CLEAR}{TURNED}".encode() + b"\xff.png")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def is_clean(text: str) -> bool:
    """Whether nothing but line ends controls the terminal."""
    return not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in text if c != "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images and their annotations, and weights; category, image and metadata have hostile names."""
    (tmp_path / "images").mkdir()
    batch, images, annotations = Squares(2).batch(0), [], []
    try:
        (tmp_path / "images" / FILE).touch()
    except OSError:
        pytest.skip("this file system has text for names only")
    for i, (image, target) in enumerate(zip(batch.images, batch.targets, strict=True), 1):
        name = FILE if i == 1 else "b.png"
        Image.fromarray(image).save(tmp_path / "images" / name, "PNG")
        images.append({"id": i, "file_name": name, "height": 64, "width": 64, "kind": HOSTILE})
        for x1, y1, x2, y2 in target["boxes"].tolist():
            corners = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            entry = {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": corners, "area": (x2 - x1) * (y2 - y1)}
            annotations.append({**entry, "id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0})
    categories = [{"id": 1, "name": HOSTILE}, {"id": 2, "name": f"other{CLEAR}"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    model = slim(categories={1: HOSTILE, 2: f"other{CLEAR}"})
    metadata = {"source": HOSTILE, "licence": HOSTILE, "metrics": json.dumps({HOSTILE: 1})}
    save_weights(model, tmp_path / f"w{CLEAR}.safetensors", metadata=metadata)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Run a command, and return all that it prints."""
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert is_clean(text), ascii(text)
    return text


def weights(folder: Path) -> Path:
    return folder / f"w{CLEAR}.safetensors"


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert r"a\x1b[2Jb\x9b31mc\u202egnp<b>&\u2028d" in run(capsys, "info", weights(folder))


def test_check_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert r"a\x1b[2Jb" in run(capsys, "check-data", folder / "images", folder / "truth.json")
    (folder / "images" / FILE).write_bytes(b"no image")
    assert r"x\x1b[2J\u202egnp\udcff.png" in run(capsys, "check-data", folder / "images", folder / "truth.json", code=1)


def test_predict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / f"out{CLEAR}"
    options = ["--weights", weights(folder), "--out", out, "--score-thresh", 0, "--top-k", 3]
    assert r"x\x1b[2J" in run(capsys, "predict", folder / "images" / FILE, *options)
    missing = run(capsys, "predict", folder / f"no{CLEAR}.png", *options[:-2], "--out", folder / "other", code=2)
    assert r"no\x1b[2J.png" in missing


def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--weights", weights(folder), "--out", folder / f"out{CLEAR}", "--without-coco", "--score-thresh", 0]
    assert r"a\x1b[2Jb" in run(capsys, "evaluate", folder / "images", folder / "truth.json", *options)


def test_train(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucid_maskrcnn.training.trainer.draw_curves", lambda *_: None)
    options = ["--weights", weights(folder), "--out", folder / f"run{CLEAR}", "--steps", 1, "--no-tensorboard"]
    assert r"\x1b[2J" in run(capsys, "train", folder / "images", folder / "truth.json", *options)


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", f"no{CLEAR}"],
        ["convert", f"no{CLEAR}.pth", "a.safetensors"],
        ["check-data", f"no{CLEAR}", "truth.json"],
        ["evaluate", ".", f"no{CLEAR}.json", "--without-coco"],
        ["demo", "--out", f"no{CLEAR}/a.png"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_mistakes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert r"no\x1b[2J" in run(capsys, *arguments, code=2)


def test_unknown_options_and_commands() -> None:
    """In a process of its own: these end it."""
    for arguments in ([f"--no{CLEAR}"], [f"no{CLEAR}"], ["predict", "a.png", "--device", f"no{CLEAR}"]):
        done = subprocess.run(
            [sys.executable, "-m", "lucid_maskrcnn.cli", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert is_clean(done.stdout + done.stderr), ascii(done.stderr)


# ------------------------------------------------------------------ in Python


def test_detections_show_no_hostile_name() -> None:
    found = Detections([[0, 0, 5, 5]], [0.9], [1], np.ones((1, 4, 4)), (9, 9), categories={1: HOSTILE})
    assert is_clean(repr(found))
    html = found._repr_html_()
    assert is_clean(html)
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp;" in html
    assert found.names == [HOSTILE]  # what the name is, is not what is shown


def test_tables_and_warnings_show_no_hostile_name() -> None:
    lines = align_columns([("name", "n"), (HOSTILE, "1"), ("plain", "2")])
    assert is_clean("".join(lines))
    assert len({len(line) for line in lines}) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_user(f"{HOSTILE} and {FILE}.")
    assert is_clean(str(caught[0].message))
    assert caught[0].filename == __file__


def test_an_evaluation_shows_no_hostile_name() -> None:
    names: Any = [{"id": 1, "name": HOSTILE}, {"id": 2, "name": f"b{CLEAR}"}]
    image = {"id": 1, "height": 9, "width": 9, "file_name": FILE, "kind": HOSTILE}
    found = evaluate_results({"images": [image], "annotations": [], "categories": names}, [], iou_types=())
    assert is_clean(str(found))


@pytest.mark.parametrize("text", ["plain", "µm, 3 × 4 – “a”", "日本語", "", "no\u00a0break", "é"])
def test_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
