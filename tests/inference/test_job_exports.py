"""Exports of a job: beside the drawings, made once, made again when missing, never over other files."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import roifile
import tifffile
from PIL import Image
from small_jobs import TwoBoxes, make_image, stop_at

from lucid_maskrcnn.inference import JOB_EXPORTS, JobResult, predict_files

ALL = tuple(name for name in JOB_EXPORTS if name != "labelme")  # its files have the name of COCO's
ENDINGS = {
    "label-image": ".tif", "csv": ".csv", "geojson": ".geojson", "imagej": ".zip", "yolo": ".txt", "coco": ".json",
    "crops": "_crops",
}  # fmt: skip


def run(paths, out, model=None, **options) -> JobResult:
    return predict_files(paths, model or TwoBoxes(), out, **{"export": ALL, "progress": False, **options})


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    (tmp_path / "in").mkdir()
    return [make_image(tmp_path / "in" / name, seed=i) for i, name in enumerate(["a.png", "b.png"])]


def state(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_every_export_stands_beside_the_drawing(tmp_path, images):
    assert set(ALL) == set(ENDINGS)
    result = run(images, tmp_path / "out")
    assert result.failures == ()
    wanted = {stem + ending for stem in "ab" for ending in (".png", *ENDINGS.values())}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *wanted, "job.json", "results", "detections.json", "images.json"
    }  # fmt: skip


def test_exports_agree_with_the_rows_and_each_other(tmp_path, images):
    run(images, tmp_path / "out")
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "results" / "part-00000.jsonl").read_text().splitlines()]
    table = pd.read_csv(out / "b.csv")
    assert table["score"].tolist() == pytest.approx([d["score"] for d in rows[1]["detections"]])
    labels = tifffile.imread(out / "b.tif")
    assert (labels == 1).sum() == table["area"][0] > 100
    assert [roi.name for roi in roifile.roiread(out / "b.zip")] == ["1", "2"]
    data = json.loads((out / "b.json").read_text())
    assert data["images"][0]["file_name"] == "b.png"
    assert data["images"][0]["id"] == rows[1]["id"] == 2
    assert sorted(path.name for path in (out / "b_crops").iterdir()) == ["1.png", "2.png"]
    assert len((out / "b.txt").read_text().splitlines()) == 2


def test_exports_say_which_weights_found_the_objects(tmp_path, images):
    class Weighted(TwoBoxes):
        pass

    run(images[:1], tmp_path / "out", Weighted(), export=["geojson", "coco"])
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    made_by = json.loads((tmp_path / "out" / "a.geojson").read_text())["made_by"]
    assert made_by == {"software": f"lucid-maskrcnn {job['package_version']}"}  # no hash is known of such an object


def test_intensities_are_measured_in_the_file_unscaled(tmp_path):
    pixels = np.full((3, 24, 24), 40000, np.uint16)
    pixels[2] = 50000
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, resolution=(2, 2), metadata={"axes": "TYX", "unit": "um"})
    run([tmp_path / "a.tif"], tmp_path / "out", export=["csv"], page=2, draw=False)
    table = pd.read_csv(tmp_path / "out" / "a.csv")
    assert table["intensity_mean_0"].tolist() == [50000, 50000]
    assert table["area_um2"].tolist() == (table["area"] / 4).tolist()


def test_nothing_but_exports(tmp_path, images):
    run(images, tmp_path / "out", export=["csv"], draw=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.csv", "b.csv", "job.json", "results", "detections.json", "images.json"
    }  # fmt: skip


@pytest.mark.parametrize("lost", ["a.csv", "b.geojson", "b_crops", "a.png"])
def test_resume_makes_what_is_missing_and_nothing_else(tmp_path, images, lost):
    out = tmp_path / "out"
    run(images, out)
    before, path = state(out), out / lost
    times = {
        p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in {".csv", ".tif", ".png"} and lost not in str(p)
    }
    if path.is_dir():
        for crop in path.iterdir():
            crop.unlink()
        path.rmdir()
    else:
        path.unlink()
    model = TwoBoxes()
    run(images, out, model, resume=True)
    assert state(out) == before
    assert model.calls == 1
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_run_that_is_stopped_is_finished_by_resume(tmp_path, images):
    run(images, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", stop_at(2))
    run(images, tmp_path / "out", resume=True)
    whole, again = state(tmp_path / "whole"), state(tmp_path / "out")
    assert whole == again


def test_resume_with_other_exports_is_refused(tmp_path, images):
    run(images, tmp_path / "out", export=["csv"])
    with pytest.raises(ValueError, match=r"export was \['csv'\] and is \['csv', 'yolo'\]"):
        run(images, tmp_path / "out", export=["csv", "yolo"], resume=True)
    run(images, tmp_path / "plain", export=())
    with pytest.raises(ValueError, match=r"export was \[\] and is \['csv'\]"):
        run(images, tmp_path / "plain", export=["csv"], resume=True)


def test_other_files_are_never_replaced_without_overwrite(tmp_path, images):
    out = tmp_path / "out"
    (out / "b_crops").mkdir(parents=True)
    (out / "b_crops" / "mine.txt").write_text("mine")
    (out / "a.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'a.csv' and 1 more, which this job would replace"):
        run(images, out)
    assert state(out) == {"a.csv": b"mine", "b_crops/mine.txt": b"mine"}
    result = run(images, out, overwrite=True)
    assert (out / "a.csv").read_text().startswith("id,")
    assert (out / "b_crops" / "mine.txt").read_text() == "mine"  # a folder is not replaced
    assert len(result.failures) == 1
    assert "b.png': its export as crops could not be written" in result.failures[0]


def test_overwrite_deletes_the_exports_of_before(tmp_path, images):
    out = tmp_path / "out"
    run(images, out)
    (out / "a_crops" / "mine.txt").write_text("mine")
    run(images, out, export=["csv"], overwrite=True)
    assert {path.name for path in out.iterdir()} == {
        "a.csv", "b.csv", "a.png", "b.png", "job.json", "results", "detections.json", "images.json",
        "a_crops",  # which holds another file
    }  # fmt: skip


def test_names_are_free_in_all_formats(tmp_path, images):
    """An export never replaces an image, a file of the job or the export of another image of that name."""
    out = tmp_path / "out"
    out.mkdir()
    more = [make_image(tmp_path / name) for name in ("images.png", "a.bmp")]
    tifffile.imwrite(out / "b.tif", np.zeros((24, 24), np.uint8))
    before = (out / "b.tif").read_bytes()
    run([images[0], *more, out / "b.tif"], out, export=["coco", "label-image"])
    job = json.loads((out / "job.json").read_text())
    assert [entry["exports"]["coco"] for entry in job["images"]] == ["a.json", "images_2.json", "a_2.json", "b_2.json"]
    assert [entry["drawing"] for entry in job["images"]] == ["a.png", "images_2.png", "a_2.png", "b_2.png"]
    assert (out / "b.tif").read_bytes() == before


def test_exports_are_no_images_of_the_next_run(tmp_path, images):
    out = tmp_path / "out"
    run(images, out)
    result = run([out / "a.tif", out / "a_crops", *images], out, resume=True)
    assert result.n_images == 2


@pytest.mark.parametrize(
    ("export", "error", "message"),
    [
        ("csv", TypeError, "export must be a sequence of formats, such as .* got 'csv'"),
        (["cvs"], ValueError, "export must be one of .* got 'cvs'. Did you mean 'csv'"),
        (["drawing"], ValueError, "export must be one of .* got 'drawing'"),
        (["coco", "labelme"], ValueError, "export cannot have both 'coco' and 'labelme'"),
        ([3], TypeError, "export must be one of"),
    ],
)
def test_wrong_exports_are_refused_before_anything_is_written(tmp_path, images, export, error, message):
    with pytest.raises(error, match=message):
        run(images, tmp_path / "out", export=export)
    assert not (tmp_path / "out").exists()


def test_missing_library_is_said_before_the_first_image(tmp_path, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "roifile", None)
    with pytest.raises(ImportError, match=r"lucid-maskrcnn\[imagej\]"):
        run(images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "exports", [{"csv": "../a.csv"}, {"csv": "job.json"}, {"foo": "a.csv"}, {"csv": 3}, {"crops": "_crops"}, [1]]
)
def test_list_that_names_other_files_is_damaged(tmp_path, images, exports):
    """Overwriting deletes what the list names."""
    out = tmp_path / "out"
    run(images, out)
    job = json.loads((out / "job.json").read_text())
    job["images"][0]["exports"] = exports
    (out / "job.json").write_text(json.dumps(job))
    with pytest.raises(ValueError, match="is not the list of a job, or is damaged"):
        run(images, out, resume=True)


def test_export_that_cannot_be_written_is_told_and_tried_again(tmp_path, images, monkeypatch):
    from lucid_maskrcnn.detections import saving

    write = saving.table_text
    monkeypatch.setattr(saving, "table_text", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    result = run(images, tmp_path / "out", export=["csv", "yolo"])
    assert [failure.split(":")[1] for failure in result.failures] == [
        " its export as csv could not be written. [Errno 28] No space left on device"
    ] * 2
    assert not (tmp_path / "out" / "a.csv").exists()
    monkeypatch.setattr(saving, "table_text", write)
    assert run(images, tmp_path / "out", export=["csv", "yolo"], resume=True).failures == ()
    assert (tmp_path / "out" / "a.csv").exists()


def test_job_of_before_there_were_exports_goes_on(tmp_path, images):
    out = tmp_path / "out"
    run(images[:1], out, export=())
    assert "exports" not in json.loads((out / "job.json").read_text())["images"][0]
    assert run(images, out, export=(), resume=True).n_images == 2


def test_images_may_have_no_objects(tmp_path):
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(tmp_path / "a.png")
    result = run([tmp_path / "a.png"], tmp_path / "out", score_thresh=0.95)
    assert (result.n_objects, result.failures) == (0, ())
    assert tifffile.imread(tmp_path / "out" / "a.tif").max() == 0
    assert len(pd.read_csv(tmp_path / "out" / "a.csv")) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize(
    "name", [b"\xff\xe9.png", "é漢.png".encode(), b"a b;'$.png", b"x" * 240 + b".png", b"new\nline.png"]
)
def test_images_may_have_any_name(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    make_image(tmp_path / "plain.png").rename(path)
    result = run([path], tmp_path / "out")
    assert (result.n_failed, result.failures) == (0, ())
    (entry,) = json.loads((tmp_path / "out" / "job.json").read_text())["images"]
    assert all((tmp_path / "out" / file).exists() for file in [entry["drawing"], *entry["exports"].values()])
    data = json.loads((tmp_path / "out" / entry["exports"]["coco"]).read_text())
    assert data["images"][0]["file_name"] == path.name
    run([path], tmp_path / "again", export=["labelme"])
    assert run([path], tmp_path / "out", resume=True).n_images == 1
