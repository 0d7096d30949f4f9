"""The command line: what it writes, and what it says when something is wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.cli import main
from lucid_maskrcnn.cli.predict import predict_files
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.masks.rle import decode_rle

# pycocotools' arrays do not know the copy keyword of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class _TwoBoxes:
    """A model that finds the same two objects in every picture."""

    def predict(self, image, *, score_thresh, top_k=100):
        height, width = image.shape[:2]
        found = Detections(
            [[0, 0, width / 2, height / 2], [width / 4, height / 4, width, height]],
            [0.9, 0.6],
            [1, 2],
            np.ones((2, 28, 28)),
            (height, width),
            categories={1: "cat", 2: "dog"},
        )
        return [found[found.scores > score_thresh][:top_k]]


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of one stem, and a third."""
    paths = [tmp_path / "a.png", tmp_path / "more" / "a.jpg", tmp_path / "c.png"]
    paths[1].parent.mkdir()
    for k, path in enumerate(paths):
        Image.fromarray(np.full((30 + 10 * k, 50, 3), 60, np.uint8)).save(path)
    return paths


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


# ------------------------------------------------------------------ predict


def test_predict_writes_drawings_and_two_json_files(tmp_path, pictures, capsys):
    out = tmp_path / "deep" / "out"
    predict_files(_TwoBoxes(), pictures, out)
    assert files(out) == ["a.png", "a_2.png", "c.png", "detections.json", "images.json"]
    assert size_of(out / "a.png") == (200, 120)  # small pictures are enlarged
    images = json.loads((out / "images.json").read_text())
    assert [(i["id"], i["file_name"], i["height"], i["width"]) for i in images["images"]] == [
        (1, str(pictures[0]), 30, 50),
        (2, str(pictures[1]), 40, 50),
        (3, str(pictures[2]), 50, 50),
    ]
    assert images["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    results = json.loads((out / "detections.json").read_text())
    assert [r["image_id"] for r in results] == [1, 1, 2, 2, 3, 3]
    assert decode_rle(results[-1]["segmentation"]).shape == (50, 50)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith(f"{pictures[1]}: 2 objects in ")
    assert lines[1].endswith(f"drawn in {out / 'a_2.png'}")


def test_thresholds_reach_the_model(tmp_path, pictures):
    predict_files(_TwoBoxes(), pictures[:1], tmp_path / "a", score_thresh=0.7)
    predict_files(_TwoBoxes(), pictures[:1], tmp_path / "b", max_detections=1)
    predict_files(_TwoBoxes(), pictures[:1], tmp_path / "c", score_thresh=1.0)
    counts = [len(json.loads((tmp_path / x / "detections.json").read_text())) for x in "abc"]
    assert counts == [1, 1, 0]


def test_pycocotools_loads_both_files(tmp_path, pictures):
    coco = pytest.importorskip("pycocotools.coco")
    predict_files(_TwoBoxes(), pictures, tmp_path / "out")
    truth = coco.COCO(tmp_path / "out" / "images.json")
    loaded = truth.loadRes(str(tmp_path / "out" / "detections.json"))
    assert len(loaded.getAnnIds(imgIds=[2], catIds=[1])) == 1
    assert loaded.annToMask(loaded.anns[1]).shape == (30, 50)


def test_the_pictures_themselves_are_never_replaced(tmp_path, pictures):
    before = {p: p.read_bytes() for p in pictures}
    predict_files(_TwoBoxes(), pictures, tmp_path)
    assert {p: p.read_bytes() for p in pictures} == before
    assert files(tmp_path) == sorted(
        ["a.png", "a_2.png", "a_3.png", "c.png", "c_2.png", "detections.json", "images.json", "more"]
    )


def test_an_interrupted_run_leaves_whole_files_only(tmp_path, pictures):
    class Interrupted(_TwoBoxes):
        def predict(self, image, **options):
            if image.shape[0] == 40:
                raise KeyboardInterrupt
            return super().predict(image, **options)

    with pytest.raises(KeyboardInterrupt):
        predict_files(Interrupted(), pictures, tmp_path / "out")
    assert files(tmp_path / "out") == ["a.png"]


# ------------------------------------------------------------------ mistakes


def _broken(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    (tmp_path / "truncated.png").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    return whole


@pytest.mark.parametrize("name", ["missing.png", "truncated.png", "text.png", "empty.png", "folder"])
def test_a_picture_that_cannot_be_read_stops_before_anything_is_written(tmp_path, capsys, name):
    whole = _broken(tmp_path)
    before = files(tmp_path)
    assert main(["predict", str(whole), str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lucid-maskrcnn: ")
    assert name in err
    assert err.count("\n") == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "COCO"], "one of 'NUCLEI', 'COCO_V1'"),
        (["--weights", "nowhere.safetensors"], "no file 'nowhere.safetensors'"),
    ],
)
def test_unknown_weights_are_answered_with_the_names(tmp_path, capsys, options, message):
    whole = _broken(tmp_path)
    assert main(["predict", str(whole), "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file(tmp_path, pictures, capsys):
    (tmp_path / "file").write_text("precious")
    assert main(["predict", str(pictures[0]), "--out", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("out", ["a.txt", "", "nowhere/a.png", "folder.png"])
def test_demo_refuses_places_it_cannot_write_to(tmp_path, capsys, out):
    (tmp_path / "folder.png").mkdir()
    assert main(["demo", "--out", str(tmp_path / out)]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score-thresh", "1.5"], "--score-thresh must be a number between 0 and 1, got 1.5"),
        (["--score-thresh", "nan"], "--score-thresh must be a number between 0 and 1, got nan"),
        (["--score-thresh", "high"], "--score-thresh must be a number between 0 and 1, got 'high'"),
        (["--max-detections", "0"], "--max-detections must be a positive integer, got 0"),
        (["--max-detections", "-3"], "--max-detections must be a positive integer, got -3"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_wrong_options_exit_with_2(capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        main(["predict", "a.png", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["predict", "--help"], ["demo", "--help"]])
def test_help(capsys, argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 0
    assert "usage: lucid-maskrcnn" in capsys.readouterr().out


def test_a_reader_that_goes_away_does_not_stop_the_work(tmp_path, pictures):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from test_predict import _TwoBoxes, predict_files\n"
        "predict_files(_TwoBoxes(), [Path(p) for p in sys.argv[3:]], Path(sys.argv[2]))\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [os.path.dirname(__file__), str(tmp_path / "out"), *map(str, pictures)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 0, done.stderr.decode()
    assert b"BrokenPipe" not in done.stderr
    assert "detections.json" in files(tmp_path / "out")


# ------------------------------------------------------------------ with the weights that come along


@pytest.mark.parametrize(("image", "size"), [("fluorescence", (768, 768)), ("histology", (640, 512))])
def test_demo_finds_nuclei_and_draws_them(tmp_path, capsys, image, size):
    out = tmp_path / "demo.png"
    assert main(["demo", "--image", image, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    count = next(int(line.split()[0]) for line in lines if "objects with a score" in line)
    assert count > 10
    assert any("nucleus" in line for line in lines)
    assert any(line.startswith("load ") for line in lines)
    assert lines[-1] == f"picture: {out}"
    assert size_of(out) == size


def test_predict_end_to_end(tmp_path, pictures, capsys):
    assert main(["predict", str(pictures[0]), "--out", str(tmp_path / "out"), "--max-detections", "5"]) == 0
    assert files(tmp_path / "out") == ["a.png", "detections.json", "images.json"]
    assert "drawn in" in capsys.readouterr().out
