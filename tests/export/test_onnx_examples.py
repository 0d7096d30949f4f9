"""``examples/onnx``: programs without this package find what ``predict`` finds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export.exported_models import ASSETS, session
from PIL import Image

from lucid_maskrcnn import Detections, MaskRCNN
from lucid_maskrcnn.export import to_onnx
from lucid_maskrcnn.images import open_image

EXAMPLES = Path(__file__).parents[2] / "examples" / "onnx"
IMAGE = ASSETS / "nuclei_histology_lilac.png"


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    return MaskRCNN.from_file("NUCLEI")


@pytest.fixture(scope="module")
def file(model: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "nuclei.onnx"
    to_onnx(model, path, full_masks=True)
    return path


def run(command: list[Any], folder: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def check(folder: Path, model: MaskRCNN) -> None:
    """The data set has the objects of ``predict``, and the picture is the image but for them."""
    found = model.predict(IMAGE, score_thresh=0.5)[0]
    data = json.loads((folder / "found.json").read_text())
    assert [c["name"] for c in data["categories"]] == ["nucleus"]
    size = (data["images"][0]["height"], data["images"][0]["width"])
    read = Detections.from_coco(data["annotations"], size)
    assert len(read) == len(found) == 25
    np.testing.assert_allclose(read.boxes.data, found.boxes.data, atol=0.02)
    np.testing.assert_allclose(read.scores.data, found.scores.data, atol=2e-4)
    assert (read.masks.data != found.masks.data).mean() <= 1e-4
    image, picture = (np.asarray(Image.open(path).convert("RGB")) for path in (IMAGE, folder / "found.png"))
    changed, covered = (image != picture).any(axis=2), found.masks.data.any(axis=0)
    assert not changed[~covered].any()
    assert changed[covered].mean() > 0.95


def test_python_without_lucid(tmp_path: Path, file: Path, model: MaskRCNN) -> None:
    script = (EXAMPLES / "predict.py").read_text()
    assert "lucid_maskrcnn" not in script
    said = run([sys.executable, EXAMPLES / "predict.py", file, IMAGE, "found"], tmp_path)
    assert said == "25 objects: found.png, found.json\n"
    check(tmp_path, model)


SHOWN = {None: "full", "max": "max", (5, 99): "percentiles"}


@pytest.mark.parametrize("rule", SHOWN, ids=SHOWN.values())
@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_python_reads_more_than_8_bits_as_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, rule: Any
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from predict import read_image

    samples = np.random.default_rng(0).random((20, 30))
    deep = (samples * 40000).astype(np.uint16) if kind == "uint16" else samples.astype(np.float32)
    Image.fromarray(deep).save(path := tmp_path / "deep.tif")
    metadata = {"conventions": json.dumps({"image": {"intensity": rule}})}
    with open_image(path) as opened:
        np.testing.assert_array_equal(read_image(str(path), metadata), opened.read_rgb(intensity=rule))


def test_python_answers_what_it_cannot_take(tmp_path: Path, model: MaskRCNN) -> None:
    to_onnx(model, tmp_path / "small.onnx")
    for arguments, sentence in (
        (["small.onnx", IMAGE, "found"], "small.onnx has no output full_masks: export it with --full-masks."),
        (["small.onnx"], "usage: python predict.py MODEL.onnx IMAGE OUT"),
    ):
        command = [sys.executable, EXAMPLES / "predict.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, sentence + "\n")


def test_javascript(tmp_path: Path, file: Path, model: MaskRCNN) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("there is no node, or no npm, on this machine")
    for name in ("package.json", "predict.mjs"):
        shutil.copy(EXAMPLES / name, tmp_path)
    options = ["--no-audit", "--no-fund", "--no-package-lock", "--prefer-offline", "--silent"]
    installed = subprocess.run([npm, "install", *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"npm cannot install the packages of the example: {installed.stderr.strip()[-200:]}")
    assert run([node, "predict.mjs", file, IMAGE, "found"], tmp_path) == "25 objects: found.png, found.json\n"
    check(tmp_path, model)
    gray = np.asarray(Image.open(IMAGE).convert("L"))
    for name, pixels in (("8", gray), ("16", gray.astype(np.uint16) * 257)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        run([node, "predict.mjs", file, f"{name}.png", name], tmp_path)
    deep, shallow = (json.loads((tmp_path / f"{name}.json").read_text())["annotations"] for name in ("8", "16"))
    assert deep == shallow
    assert len(deep) > 5


@pytest.mark.slow
def test_int8(tmp_path: Path, file: Path, model: MaskRCNN) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("nuclei_histology_lilac.png", "nuclei_fluorescence_small.png"):
        shutil.copy(ASSETS / name, images)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "quantize.py", file, images, "int8.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "int8.onnx").stat().st_size < 0.3 * file.stat().st_size
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["int8.onnx"]
    found = model.predict(IMAGE, score_thresh=0.5)[0]
    image = np.array(Image.open(IMAGE).convert("RGB"))
    boxes, scores, *_ = session(tmp_path / "int8.onnx").run(None, {"image": image})
    near = np.abs(boxes[scores > 0.4][:, None] - found.boxes.data).max(axis=2).min(axis=0) < 3
    assert near.mean() >= 0.9
