"""Prediction on many files: what is written, and what is refused before anything is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_jobs import TwoBoxes

import lucid_maskrcnn
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.inference import ImagePrediction, JobResult, predict_files
from lucid_maskrcnn.masks.rle import decode_rle

# pycocotools' arrays do not know the copy keyword of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


MODEL: Any = TwoBoxes()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two images with one stem, and a third."""
    paths = [tmp_path / "a.png", tmp_path / "more" / "a.jpg", tmp_path / "c.png"]
    paths[1].parent.mkdir()
    for k, path in enumerate(paths):
        Image.fromarray(np.full((30 + 10 * k, 50, 3), 60, np.uint8)).save(path)
    return paths


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def test_drawings_and_two_json_files_are_written(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "deep" / "out"
    assert predict_files(images, MODEL, out, score_thresh=0.5) == JobResult(out, 3, 0, 6)
    assert files(out) == ["a.png", "a_2.png", "c.png", "detections.json", "images.json", "job.json", "results"]
    with Image.open(out / "a.png") as drawing:
        assert drawing.size == (200, 120)  # small images are enlarged
    truth = load(out / "images.json")
    assert [(i["id"], i["file_name"], i["height"], i["width"]) for i in truth["images"]] == [
        (1, str(images[0]), 30, 50),
        (2, str(images[1]), 40, 50),
        (3, str(images[2]), 50, 50),
    ]
    assert truth["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    results = load(out / "detections.json")
    assert [r["image_id"] for r in results] == [1, 1, 2, 2, 3, 3]
    assert decode_rle(results[-1]["segmentation"]).shape == (50, 50)


def test_callback_is_called_after_each_image(tmp_path: Path, images: list[Path]) -> None:
    seen: list[ImagePrediction] = []
    predict_files(images, MODEL, tmp_path / "out", on_image=seen.append)
    assert [(s.image_id, s.path, s.drawing.name, len(s.detections)) for s in seen] == [
        (1, images[0], "a.png", 2),
        (2, images[1], "a_2.png", 2),
        (3, images[2], "c.png", 2),
    ]
    assert all(s.seconds >= 0 for s in seen)


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 2), ({"score_thresh": 0.7}, 1), ({"score_thresh": np.float32(1)}, 0), ({"top_k": 1}, 1), ({"top_k": 0}, 0)],
)
def test_score_thresh_and_top_k_reach_the_model(
    tmp_path: Path, images: list[Path], options: dict[str, Any], count: int
) -> None:
    assert predict_files(images[:1], MODEL, tmp_path / "out", **options).n_objects == count
    assert len(load(tmp_path / "out" / "detections.json")) == count


def test_page_channels_and_intensity_reach_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = np.random.default_rng(0).integers(0, 4096, (2, 24, 30, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", planarconfig="contig")
    options: dict[str, Any] = {"page": 1, "channels": [4, 0, 1], "intensity": (1, 99)}
    model = TwoBoxes()
    seen = []
    monkeypatch.setattr(model, "_before", lambda _, image: seen.append(image))
    assert predict_files([tmp_path / "a.tif"], model, tmp_path / "out", draw=False, **options).n_failed == 0
    np.testing.assert_array_equal(seen[0], load_image(pages[1], channels=(4, 0, 1), intensity=(1, 99)))
    with pytest.raises(ValueError, match="page"):  # a resumed job has the same options
        predict_files([tmp_path / "a.tif"], model, tmp_path / "out", draw=False, resume=True)
    failed = predict_files([tmp_path / "a.tif"], model, tmp_path / "other", draw=False)
    assert failed.n_failed == 1
    assert "it has 2 pages" in failed.failures[0]


def test_no_images_give_empty_files(tmp_path: Path) -> None:
    assert predict_files([], MODEL, tmp_path / "out") == JobResult(tmp_path / "out", 0, 0, 0)
    assert load(tmp_path / "out" / "detections.json") == []
    assert load(tmp_path / "out" / "images.json") == {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def test_pycocotools_loads_both_files(tmp_path: Path, images: list[Path]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    predict_files(images, MODEL, tmp_path / "out")
    truth = coco.COCO(tmp_path / "out" / "images.json")
    loaded = truth.loadRes(str(tmp_path / "out" / "detections.json"))
    assert len(loaded.getAnnIds(imgIds=[2], catIds=[1])) == 1
    assert loaded.annToMask(loaded.anns[1]).shape == (30, 50)


def test_drawings_never_replace_the_images(tmp_path: Path, images: list[Path]) -> None:
    before = {p: p.read_bytes() for p in images}
    predict_files(images, MODEL, tmp_path)
    assert {p: p.read_bytes() for p in images} == before
    of_job = ["a_2.png", "a_3.png", "c_2.png", "detections.json", "images.json", "job.json", "results"]
    assert files(tmp_path) == sorted(["a.png", "c.png", "more", *of_job])


def test_interrupted_run_leaves_whole_files_only(tmp_path: Path, images: list[Path]) -> None:
    class Interrupted(TwoBoxes):
        def predict(self, image: np.ndarray, **options: Any) -> list[Detections]:
            if image.shape[0] == 40:
                raise KeyboardInterrupt
            return super().predict(image, **options)

    interrupted: Any = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        predict_files(images, interrupted, tmp_path / "out")
    assert files(tmp_path / "out") == ["a.png", "job.json", "results"]


def test_weights_by_name(tmp_path: Path, images: list[Path]) -> None:
    job = predict_files([str(images[0])], "NUCLEI", str(tmp_path / "out"))
    assert job.n_images == 1
    assert [c["name"] for c in load(job.out / "images.json")["categories"]] == ["nucleus"]


def test_predict_files_is_exported_by_the_package() -> None:
    assert lucid_maskrcnn.predict_files is predict_files


# ------------------------------------------------------------------ wrong arguments

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"paths": "a.png"}, TypeError, "paths must be a sequence of paths, got 'a.png': put it in a list."),
    ({"paths": Path("a.png")}, TypeError, "paths must be a sequence of paths, got PosixPath('a.png')"),
    ({"paths": None}, TypeError, "paths must be a sequence, got None."),
    ({"paths": [3]}, TypeError, "paths[0] must be a path as str or Path, got 3."),
    ({"paths": [""]}, ValueError, "paths[0] must not be an empty string."),
    ({"paths": ["missing.png"]}, FileNotFoundError, "no image file 'missing.png'"),
    ({"weights": None}, TypeError, "weights must be a name, a path or a model with a predict method, got None."),
    (
        {"weights": TwoBoxes},
        TypeError,
        "weights must be a name, a path or a model with a predict method, got the",
    ),
    ({"weights": "NUCLEY"}, FileNotFoundError, "'NUCLEI'"),
    ({"out": None}, TypeError, "out must be a path as str or Path, got None."),
    ({"out": ""}, ValueError, "out must not be an empty string."),
    ({"out": __file__}, ValueError, "is a file, not a folder."),
    ({"score_thresh": "0.5"}, TypeError, "score_thresh must be a number between 0 and 1, got '0.5'."),
    ({"score_thresh": None}, TypeError, "score_thresh must be a number between 0 and 1, got None."),
    ({"score_thresh": float("nan")}, ValueError, "score_thresh must be a number between 0 and 1, got nan."),
    ({"score_thresh": True}, TypeError, "score_thresh must be a number between 0 and 1, got True."),
    ({"top_k": -5}, ValueError, "top_k must be a non-negative integer, got -5."),
    ({"top_k": 2.0}, TypeError, "top_k must be a non-negative integer, got 2.0."),
    (
        {"weights": "NUCLEI", "device": "tpu"},
        ValueError,
        "device must be one of 'cpu', 'gpu', 'cuda', 'mps', 'metal', 'auto', got 'tpu'.",
    ),
    (
        {"weights": "NUCLEI", "device": None},
        TypeError,
        "device must be one of 'cpu', 'gpu', 'cuda', 'mps', 'metal', 'auto', got None.",
    ),
    ({"on_image": "print"}, TypeError, "on_image must be a function, got 'print'."),
]


@pytest.mark.parametrize(("wrong", "kind", "sentence"), WRONG, ids=lambda v: str(v) if isinstance(v, dict) else None)
def test_wrong_argument_is_refused_before_anything_is_written(
    tmp_path: Path, images: list[Path], wrong: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(kind, match=re.escape(sentence)):
        predict_files(**{"paths": images, "weights": MODEL, "out": out, **wrong})
    assert not out.exists()


def test_classes_and_filters_are_those_of_detections(tmp_path: Path, images: list[Path]) -> None:
    def ids(**options: Any) -> list[int]:
        predict_files(images[:1], TwoBoxes(), tmp_path / "out", overwrite=True, draw=False, **options)
        return [result["category_id"] for result in load(tmp_path / "out" / "detections.json")]

    found = TwoBoxes().predict(load_image(images[0]), score_thresh=0.0)[0]
    small, large = sorted(found.areas.tolist())
    assert small < large
    assert ids() == [1, 2]
    assert ids(min_area=large) == ids(max_area=large, min_area=small + 1) == [2]
    assert ids(max_area=small) == [1]
    assert ids(exclude_edge=True) == found.filter(exclude_edge=True).category_ids.tolist() == [1]
    with pytest.raises(ValueError, match="min_area must not be greater than max_area, got 5 and 3"):
        ids(min_area=5, max_area=3)
    with pytest.raises(ValueError, match=r"classes\[0\]: there is no class 'dgo'; did you mean 'dog'"):
        ids(classes=["dgo"])


def test_chosen_classes_are_settings_of_a_job(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "out"
    nms = {"class_agnostic_nms": True, "mask_nms": True}
    predict_files(images[:1], TwoBoxes(), out, classes="dog", draw=False, **nms)
    options = load(out / "job.json")["options"]
    assert (options["classes"], options["class_agnostic_nms"], options["mask_nms"]) == ([2], True, True)
    predict_files(
        images[:1], TwoBoxes(), out, classes=[2], class_agnostic_nms=True, mask_nms=True, draw=False, resume=True
    )
    with pytest.raises(ValueError, match="classes"):
        predict_files(images[:1], TwoBoxes(), out, classes=1, draw=False, resume=True)
