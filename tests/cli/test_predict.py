"""``demo`` and ``predict``: what they write, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lucid_maskrcnn
from lucid_maskrcnn.cli import main


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ------------------------------------------------------------------ what they write


@pytest.mark.parametrize(("name", "size"), [("fluorescence", (768, 768)), ("histology", (640, 512))])
def test_demo_finds_nuclei_and_draws_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, size: tuple[int, int]
) -> None:
    out = tmp_path / "demo.png"
    assert main(["demo", "--image", name, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    count = next(int(line.split()[0]) for line in lines if "objects with a score" in line)
    assert count > 10
    assert any("nucleus" in line for line in lines)
    assert any(line.startswith("load ") for line in lines)
    assert lines[-1] == f"drawing: {out}"
    with Image.open(out) as drawing:
        assert drawing.size == size


def test_demo_writes_jpeg_by_suffix(tmp_path: Path) -> None:
    assert main(["demo", "--score-thresh", "0.99", "--out", str(tmp_path / "demo.JPG")]) == 0
    with Image.open(tmp_path / "demo.JPG") as drawing:
        assert drawing.format == "JPEG"


def test_predict_writes_drawings_results_and_one_line_per_image(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copy = tmp_path / "out", tmp_path / "more" / "whole.png"
    copy.parent.mkdir()
    shutil.copy(image, copy)
    images = [str(image), str(copy), str(image)]  # one of them twice
    assert main(["predict", *images, "--out", str(out), "--score-thresh", "0.05", "--top-k", "2"]) == 0
    assert files(out) == ["detections.json", "images.json", "job.json", "results", "whole.png", "whole_2.png"]
    results = json.loads((out / "detections.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert len(results) == 4
    assert lines[0].startswith(f"{image}: 2 objects in ")
    assert lines[0].endswith(f" s, drawn in {out / 'whole.png'}")
    assert lines[2] == f"4 detections in {out / 'detections.json'}"


def test_reader_that_goes_away_does_not_stop_the_work(tmp_path: Path, image: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lucid_maskrcnn.cli", "predict", str(image), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "detections.json" in files(tmp_path / "out")


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize("name", ["missing.png", "truncated.png", "text.png", "empty.png"])
def test_unreadable_image_is_reported_at_the_end_and_the_others_are_predicted_on(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "truncated.png").write_bytes(image.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    assert main(["predict", str(tmp_path / name), str(image), "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == [str(image)]
    assert err.startswith("lucid-maskrcnn: 1 of 2 images could not be predicted on.\n")
    assert name in err
    assert err.count("\n") == 2
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [entry["id"] for entry in images] == [2]


@pytest.mark.parametrize("name", ["missing.png", "folder", "no*.png"])
def test_no_image_at_all_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "folder").mkdir()
    before = files(tmp_path)
    assert main(["predict", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lucid-maskrcnn: ")
    assert name in err
    assert err.count("\n") == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("COCO", "one of 'NUCLEI', 'COCO_V1'"),
        ("nowhere.safetensors", "no file 'nowhere.safetensors'"),
        ("", "weights must"),
    ],
)
def test_unknown_weights_are_answered_with_the_names(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str], weights: str, message: str
) -> None:
    assert main(["predict", str(image), "--out", str(tmp_path / "out"), "--weights", weights]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/deep/out"])
def test_output_folder_that_is_a_file(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").write_text("precious")
    assert main(["predict", str(image), "--out", str(tmp_path / out)]) == 2
    assert f"--out '{tmp_path / out}' cannot be a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.txt", "--out must end in .png, .jpg, .jpeg, got "),
        ("", "--out must end in .png, .jpg, .jpeg, got "),
        ("nowhere/a.png", "there is no folder "),
        ("folder.png", "--out must be a file, got the folder "),
        ("a_file/a.png", "cannot be a folder"),
    ],
)
def test_demo_refuses_places_it_cannot_write_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "a_file").touch()
    assert main(["demo", "--out", str(tmp_path / out)]) == 2
    err = capsys.readouterr().err
    assert "--out" in err
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score-thresh", "1.5"], "--score-thresh must be a number between 0 and 1, got 1.5"),
        (["--score-thresh", "nan"], "--score-thresh must be a number between 0 and 1, got nan"),
        (["--score-thresh", "high"], "--score-thresh must be a number between 0 and 1, got 'high'"),
        (["--top-k", "0"], "--top-k must be a positive integer, got 0"),
        (["--top-k", "-3"], "--top-k must be a positive integer, got -3"),
        (["--top-k", "1.5"], "--top-k must be a positive integer, got '1.5'"),
        (["--device", "tpu"], "--device must be one of 'cpu', 'gpu', 'cuda', 'mps', 'metal', 'auto', got 'tpu'"),
    ],
)
def test_wrong_option_values(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", "a.png", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_options_choose_what_is_found(tmp_path: Path) -> None:
    image = Path(lucid_maskrcnn.__file__).parent / "assets" / "nuclei_fluorescence_small.png"

    def count(*options: str) -> int:
        assert main(["predict", str(image), "--out", str(tmp_path / "out"), "--overwrite", "--no-draw", *options]) == 0
        return len(json.loads((tmp_path / "out" / "detections.json").read_text()))

    everything = count()
    assert everything == count("--classes", "1") == count("--classes", "nucleus", "--class-agnostic-nms")
    assert 0 < count("--exclude-edge") < everything
    assert 0 < count("--min-area", "60", "--max-area", "120.5") < everything
    assert count("--mask-nms", "--nms-thresh", "0.3") >= everything
