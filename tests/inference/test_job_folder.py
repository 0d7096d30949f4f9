"""A job's folder: what is in it at any moment, what a resume makes of it, and what it keeps out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_jobs import TwoBoxes, content, copy_of, files, load, make_image, make_images, rows, stop_at
from tiny_runs import slim

from lucid_maskrcnn import mask_rcnn_resnet_18_fpn
from lucid_maskrcnn.inference import ImagePrediction, JobResult, JobStart, predict_files
from lucid_maskrcnn.inference.job_list import read_job
from lucid_maskrcnn.inference.job_storage import job_storage
from lucid_maskrcnn.weights import locate


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "images", 5)


@pytest.fixture
def whole(tmp_path: Path, images: list[Path]) -> Path:
    """The folder of a job that nothing has disturbed, in parts of two images."""
    predict(images, tmp_path / "whole")
    return tmp_path / "whole"


def predict(paths: Any, out: Path, model: Any = None, **options: Any) -> JobResult:
    return predict_files(paths, TwoBoxes() if model is None else model, out, **{"shard_size": 2, **options})


# ------------------------------------------------------------------ what is in it


def test_folder_has_the_files_that_the_documentation_lists(whole: Path, images: list[Path]) -> None:
    drawings = [f"{path.stem}.png" for path in images]
    assert files(whole) == sorted([*drawings, "detections.json", "images.json", "job.json", "results"])
    assert files(whole / "results") == [".lock", "part-00000.jsonl", "part-00001.jsonl", "part-00002.jsonl"]
    assert [p for p in whole.rglob("*.jsonl") if p.parent != whole / "results"] == []


def test_part_k_holds_its_ids_one_row_a_line(whole: Path, images: list[Path]) -> None:
    for k, ids in enumerate([[1, 2], [3, 4], [5]]):
        text = (whole / "results" / f"part-{k:05}.jsonl").read_bytes()
        assert text.endswith(b"\n")
        assert [json.loads(line)["id"] for line in text.splitlines()] == ids
    first = rows(whole)[0]
    assert list(first) == ["id", "source", "page", "size", "detections"]
    assert (first["source"], first["page"], first["size"]) == (str(images[0]), None, [24, 32])
    assert [d["category_id"] for d in first["detections"]] == [1, 2]
    assert load(whole / "detections.json") == [d for row in rows(whole) for d in row["detections"]]


def test_list_says_what_the_job_is(tmp_path: Path, images: list[Path]) -> None:
    from lucid_maskrcnn import __version__

    predict_files(images[:2], "NUCLEI", tmp_path / "out", score_thresh=0.9, top_k=7)
    job = load(tmp_path / "out" / "job.json")
    assert job["weights"] == {"name": "NUCLEI", "sha256": hashlib.sha256(locate("NUCLEI").read_bytes()).hexdigest()}
    assert job["options"] == {
        "score_thresh": 0.9,
        "nms_thresh": None,
        "top_k": 7,
        "mask_thresh": 0.5,
        "draw": True,
        "page": None,
        "channels": None,
        "intensity": None,
    }
    assert (job["package_version"], job["shard_size"]) == (__version__, 1000)
    assert [(e["id"], e["source"], e["page"]) for e in job["images"]] == [
        (1, str(images[0]), None),
        (2, str(images[1]), None),
    ]


def test_row_is_there_before_the_next_image_is_begun(tmp_path: Path, images: list[Path]) -> None:
    out, seen = tmp_path / "out", []
    model: Any = TwoBoxes(lambda number, _: seen.append(len(rows(out))))
    predict(images, out, model)
    assert seen == [0, 1, 2, 3, 4]


def test_no_drawings_if_not_wanted(tmp_path: Path, images: list[Path], whole: Path) -> None:
    seen: list[ImagePrediction] = []
    predict(images, tmp_path / "out", draw=False, on_image=seen.append)
    assert files(tmp_path / "out") == ["detections.json", "images.json", "job.json", "results"]
    assert [image.drawing for image in seen] == [None] * 5
    assert (tmp_path / "out" / "detections.json").read_bytes() == (whole / "detections.json").read_bytes()


# ------------------------------------------------------------------ resume


@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_resumed_job_is_what_it_would_have_been(tmp_path: Path, images: list[Path], whole: Path, call: int) -> None:
    out, model = tmp_path / "out", TwoBoxes()
    with pytest.raises(KeyboardInterrupt):
        predict(images, out, stop_at(call))
    assert [row["id"] for row in rows(out)] == list(range(1, call))
    starts: list[JobStart] = []
    assert predict(images, out, model, resume=True, on_start=starts.append) == JobResult(out, 5, 0, 10)
    assert content(out) == content(whole)
    assert model.calls == 5 - (call - 1)  # nothing is done twice
    assert starts == [JobStart(out, resumed=True, n_images=5, n_done=call - 1, n_new=0)]


@pytest.mark.parametrize("part", [1, 0.5])
def test_row_that_is_written_outlives_a_signal_and_a_half_one_goes(
    tmp_path: Path, images: list[Path], whole: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    """Ctrl-C is answered as soon as the system call returns, when the line may be in the file."""
    write, out = os.write, tmp_path / "out"

    def interrupted(descriptor: int, line: memoryview) -> int:
        if not bytes(line).startswith(b'{"id": 2,'):
            return write(descriptor, line)
        write(descriptor, line[: int(part * len(line))])
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal has been answered")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict(images, out)
    lines = (out / "results" / "part-00000.jsonl").read_bytes()
    assert (lines[-1:], lines.count(b"\n")) == (b"\n", 2 if part == 1 else 1)
    predict(images, out, resume=True)
    assert content(out) == content(whole)


def test_resume_begins_where_there_is_nothing_and_says_so(tmp_path: Path, images: list[Path], whole: Path) -> None:
    starts: list[JobStart] = []
    predict(images, tmp_path / "out", resume=True, on_start=starts.append)
    assert starts == [JobStart(tmp_path / "out", resumed=False, n_images=5, n_done=0, n_new=5)]
    assert content(tmp_path / "out") == content(whole)


def test_resume_without_images_finishes_the_list(tmp_path: Path, images: list[Path], whole: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict(images, tmp_path / "out", stop_at(3))
    predict([], tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == content(whole)


def test_resume_of_a_complete_job_changes_nothing(images: list[Path], whole: Path) -> None:
    before, model = content(whole, but=()), TwoBoxes()
    predict(images, whole, model, resume=True)
    assert content(whole, but=()) == before
    assert model.calls == 0


def test_resume_adds_the_images_that_are_not_listed(tmp_path: Path, images: list[Path], whole: Path) -> None:
    """As ``xargs -n2 predict --resume`` does."""
    out, starts = tmp_path / "out", []
    for pair in (images[:2], images[1:4], images[4:], images[:1]):
        predict(pair, out, resume=True, on_start=starts.append)
    assert [(start.n_images, start.n_done, start.n_new) for start in starts] == [
        (2, 0, 2),
        (4, 2, 2),
        (5, 4, 1),
        (5, 5, 0),
    ]
    assert content(out, but=()) == content(whole, but=())


def test_resume_from_another_folder_knows_the_images(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, folder = tmp_path / "out", images[0].parent
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    predict(["images/000.png"], out)
    monkeypatch.chdir(folder)
    model = TwoBoxes()
    predict(["000.png", folder / "000.png", "../images/000.png", "../link/000.png", "001.png"], out, model, resume=True)
    assert model.calls == 1
    assert [e["source"] for e in load(out / "job.json")["images"]] == ["images/000.png", str(folder / "001.png")]
    assert rows(out)[1]["source"] == str(folder / "001.png")


def test_job_that_was_interrupted_goes_on_from_another_folder(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        predict(["images"], tmp_path / "out", stop_at(3))
    monkeypatch.chdir(tmp_path / "out")
    assert predict([], tmp_path / "out", resume=True).n_failed == 0
    assert len(rows(tmp_path / "out")) == 5


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_line_that_was_cut_off_is_predicted_again(images: list[Path], whole: Path, cut: int) -> None:
    out, part = copy_of(whole, "cut"), "results/part-00001.jsonl"
    lines = (out / part).read_bytes().splitlines(keepends=True)
    (out / part).write_bytes(lines[0] + lines[1][:cut])
    for name in ("results/part-00002.jsonl", "detections.json", "images.json"):
        (out / name).unlink()
    model = TwoBoxes()
    predict(images, out, model, resume=True)
    assert model.calls == 2
    assert content(out) == content(whole)


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 500 + b"\n",
        b"{\n",
        b"[]\n",
        b"7\n",
        b'{"id": 1}\n',
        b'{"id": true, "source": "", "page": null, "size": [1, 1], "detections": []}\n',
        b'{"id": 2, "source": "", "page": null, "size": [1], "detections": []}\n',
        b'{"id": 1, "source": "", "page": null, "size": [1, 1], "detections": 7}\n',
        b'{"id": 1, "source": "", "page": null, "size": [1, 1], "detections": [{}]}\n',
        b'{"id": 1, "source": "", "page": null, "size": [1, 1], "detections": ["a"]}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
    ids=lambda line: str(line[:12]),
)
def test_line_that_is_no_row_is_predicted_again(images: list[Path], whole: Path, line: bytes) -> None:
    """As a power failure can leave it."""
    out, part = copy_of(whole, "damaged"), "results/part-00000.jsonl"
    lines = (out / part).read_bytes().splitlines(keepends=True)
    (out / part).write_bytes(line + lines[1])
    model = TwoBoxes()
    predict(images, out, model, resume=True)
    assert model.calls == 1
    assert sorted(rows(out), key=lambda row: row["id"]) == rows(whole)
    assert (out / "detections.json").read_bytes() == (whole / "detections.json").read_bytes()
    assert (out / "images.json").read_bytes() == (whole / "images.json").read_bytes()


def test_rows_of_another_job_are_not_taken(images: list[Path], whole: Path) -> None:
    out = copy_of(whole, "mixed")
    part = out / "results" / "part-00000.jsonl"
    part.write_bytes(part.read_bytes().replace(b"000.png", b"999.png"))
    with pytest.raises(
        ValueError, match=r"Row 1 of .*999\.png.*job\.json lists .*000\.png.*: they belong to different"
    ):
        predict(images, out, resume=True)


def test_missing_drawing_is_drawn_by_the_resume(tmp_path: Path, images: list[Path], whole: Path) -> None:
    out = copy_of(whole, "undrawn")
    (out / "003.png").unlink()
    model = TwoBoxes()
    predict(images, out, model, resume=True)
    assert model.calls == 1
    assert content(out) == content(whole)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"score_thresh": 0.5}, "score_thresh was 0.05 and is 0.5"),
        ({"nms_thresh": 0.3}, "nms_thresh was the model's own and is 0.3"),
        ({"top_k": 7}, "top_k was the model's own and is 7"),
        ({"mask_thresh": 0.4}, "mask_thresh was 0.5 and is 0.4"),
        ({"draw": False}, "draw was True and is False"),
        ({"shard_size": 3}, "shard_size was 2 and is 3"),
    ],
    ids=str,
)
def test_other_options_are_refused_by_name(
    images: list[Path], whole: Path, options: dict[str, Any], difference: str
) -> None:
    before = content(whole, but=())
    with pytest.raises(ValueError, match=re.escape(f"cannot be resumed with other settings: {difference}. Give those")):
        predict(images, whole, resume=True, **options)
    assert content(whole, but=()) == before


def test_other_weights_are_refused(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "out"
    small: Any = {"num_classes": 1, "width": 8, "fpn_channels": 8, "hidden_dim": 8, "min_size": 32, "max_size": 32}
    model = mask_rcnn_resnet_18_fpn(**small)
    predict_files(images[:1], model, out)
    predict_files(images[:2], model, out, resume=True)
    model.cls_score.bias.data[0] += 1
    with pytest.raises(
        ValueError, match=r"settings: the weights were 'a model' \(\w{8}…\) and are 'a model' \(\w{8}…\)"
    ):
        predict_files(images, model, out, resume=True)
    with pytest.raises(ValueError, match=r"the weights were 'a model' \(\w{8}…\) and are 'NUCLEI' \(4599ba0d…\)"):
        predict_files(images, "NUCLEI", out, resume=True)


def test_other_version_of_the_package_is_said(images: list[Path], whole: Path) -> None:
    job = load(whole / "job.json")
    (whole / "job.json").write_text(json.dumps({**job, "package_version": "0.0.9"}))
    with pytest.warns(UserWarning, match=r"was begun with version 0\.0\.9 of this package"):
        predict(images, whole, resume=True)


def test_option_of_a_later_version_may_be_missing_in_the_list(images: list[Path], whole: Path) -> None:
    job = load(whole / "job.json")
    del job["options"]["nms_thresh"]
    (whole / "job.json").write_text(json.dumps(job))
    predict(images, whole, resume=True)
    with pytest.raises(ValueError, match=r"nms_thresh was the model's own and is 0\.3"):
        predict(images, whole, resume=True, nms_thresh=0.3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"format": "lucid_maskrcnn job", "version": "1"}',
        "[" * 100_000,
        "\0",
    ],
    ids=lambda text: repr(text[:10]),
)
def test_damaged_list_is_named(images: list[Path], whole: Path, text: str) -> None:
    (whole / "job.json").write_text(text)
    for options in ({}, {"resume": True}):
        with pytest.raises(ValueError, match=r"job\.json' is not the list of a job, or is damaged"):
            predict(images, whole, **options)
    predict(images, whole, overwrite=True)
    assert read_job(job_storage(whole)) is not None


def test_list_of_a_newer_version_is_told(images: list[Path], whole: Path) -> None:
    (whole / "job.json").write_text('{"format": "lucid_maskrcnn job", "version": 2}')
    with pytest.raises(ValueError, match=r"job\.json' was written by a newer version of this package: update it"):
        predict(images, whole, resume=True)


@pytest.mark.parametrize("name", ["../precious.png", "/tmp/precious.png", "results/part-00000.jsonl", "..", 7])
def test_list_cannot_name_drawings_elsewhere(tmp_path: Path, images: list[Path], whole: Path, name: Any) -> None:
    """Overwriting deletes what the list names."""
    (tmp_path / "precious.png").write_text("precious")
    job = load(whole / "job.json")
    job["images"][0]["drawing"] = name
    (whole / "job.json").write_text(json.dumps(job))
    with pytest.raises(ValueError, match="damaged"):
        predict(images, whole, resume=True)
    predict(images, whole, overwrite=True)
    assert (tmp_path / "precious.png").read_text() == "precious"


def test_resume_and_overwrite_exclude_each_other(images: list[Path], whole: Path) -> None:
    with pytest.raises(ValueError, match="resume and overwrite exclude each other"):
        predict(images, whole, resume=True, overwrite=True)


# ------------------------------------------------------------------ images that fail


def test_bad_image_is_a_row_with_its_error(tmp_path: Path, images: list[Path]) -> None:
    images[1].write_bytes(images[1].read_bytes()[:400])
    images[3].unlink()
    job = predict(images, tmp_path / "out")
    assert (job.n_images, job.n_failed, job.n_objects) == (5, 2, 6)
    assert [reason.count(str(images[k])) for k, reason in zip((1, 3), job.failures, strict=True)] == [1, 1]
    found = rows(tmp_path / "out")
    assert [row["id"] for row in found] == [1, 2, 3, 4, 5]
    assert [list(row) for row in found if row["id"] in (2, 4)] == [["id", "source", "page", "error"]] * 2
    assert found[1]["error"].startswith(f"Cannot read the image file {str(images[1])!r}: ")
    assert [image["id"] for image in load(tmp_path / "out" / "images.json")["images"]] == [1, 3, 5]
    assert {d["image_id"] for d in load(tmp_path / "out" / "detections.json")} == {1, 3, 5}


def test_image_that_was_away_is_tried_again_by_the_resume(tmp_path: Path, images: list[Path], whole: Path) -> None:
    out, away = tmp_path / "out", images[1].with_name("away")
    images[1].rename(away)
    assert predict(images, out).n_failed == 1
    assert predict(images, out, resume=True).n_failed == 1
    assert [row["id"] for row in rows(out)] == [1, 2, 3, 4, 5]
    away.rename(images[1])
    assert predict(images, out, resume=True) == JobResult(out, 5, 0, 10)
    for name in ("detections.json", "images.json", *(f"{p.stem}.png" for p in images)):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_image_that_vanishes_while_the_job_runs_fails_alone(tmp_path: Path, images: list[Path]) -> None:
    job = predict(images, tmp_path / "out", on_image=lambda done: images[3].unlink(missing_ok=True))
    assert (job.n_images, job.n_failed) == (5, 1)
    assert f"no image file {str(images[3])!r}" in job.failures[0]


def test_image_that_the_model_refuses_fails_alone(tmp_path: Path, images: list[Path]) -> None:
    for error in (ValueError("too small"), MemoryError(), RuntimeError("[malloc] Unable to allocate")):
        job = predict(images, tmp_path / type(error).__name__, stop_at(2, error))
        assert (job.n_images, job.n_failed, job.n_objects) == (5, 1, 8)
        assert job.failures[0].startswith(f"{str(images[1])!r}: ")


def test_defect_of_a_model_stops_the_job_and_loses_nothing(tmp_path: Path, images: list[Path]) -> None:
    with pytest.raises(AttributeError):
        predict(images, tmp_path / "out", stop_at(3, AttributeError("no such thing")))
    assert [row["id"] for row in rows(tmp_path / "out")] == [1, 2]


def test_each_image_is_opened_once(tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = open

    def counting(self: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(str(self))
        return original(self, *arguments, **options)

    monkeypatch.setattr("builtins.open", counting)
    predict(images, tmp_path / "out", draw=False)
    assert [opened.count(str(path)) for path in images] == [1] * 5


def test_warnings_about_images_name_them_all(tmp_path: Path, images: list[Path]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        predict(images, tmp_path / "out", slim(), score_thresh=0, top_k=1)
    assert len(caught) == 5
    for path, warning in zip(images, caught, strict=True):
        assert re.match(rf"Objects may be missing: top_k=1 cuts off .* in {str(path)!r}: ", str(warning.message))
    assert len(rows(tmp_path / "out")) == 5


def test_two_threads_leave_the_warnings_of_the_process_as_they_were(tmp_path: Path, images: list[Path]) -> None:
    before, filters = warnings.showwarning, list(warnings.filters)
    barrier = threading.Barrier(2, timeout=60)

    def run(name: str) -> None:
        predict(images, tmp_path / name, TwoBoxes(lambda *_: barrier.wait()))

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (warnings.showwarning, list(warnings.filters)) == (before, filters)
    assert (tmp_path / "a" / "detections.json").read_bytes() == (tmp_path / "b" / "detections.json").read_bytes()


# ------------------------------------------------------------------ what must not be replaced


def test_second_job_in_a_folder_is_refused(images: list[Path], whole: Path) -> None:
    before = content(whole, but=())
    with pytest.raises(ValueError, match="holds a job already: resume it"):
        predict(images[:1], whole)
    assert content(whole, but=()) == before


def test_second_process_is_refused_while_the_first_is_at_work(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "out"
    script = (
        "import sys; from small_jobs import TwoBoxes; from lucid_maskrcnn import predict_files\n"
        "predict_files([sys.argv[1]], TwoBoxes(lambda *_: (print('begun', flush=True), sys.stdin.read())), sys.argv[2])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    first = subprocess.Popen(
        [sys.executable, "-c", script, str(images[0]), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"begun\n"
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=r"Another process is at work in .*out'"):
            predict(images, out, shard_size=1000, **options)
    first.kill()
    first.communicate()
    assert predict(images, out, shard_size=1000, resume=True).n_images == 5  # the lock died with its owner


def test_a_job_inside_a_job_is_refused(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="Another process is at work"):
        predict(images, out, on_image=lambda _: predict(images, out, resume=True))


@pytest.mark.parametrize("name", ["002.png", "002.PNG", "detections.json", "images.json", "results/part-00000.jsonl"])
@pytest.mark.parametrize("resume", [False, True])
def test_files_of_others_are_not_replaced(tmp_path: Path, images: list[Path], name: str, resume: bool) -> None:
    other = tmp_path / "out" / name
    other.parent.mkdir(parents=True)
    other.write_text("precious")
    with pytest.raises(ValueError, match=rf"holds '{name}', which this job would replace: choose another folder, or"):
        predict(images, tmp_path / "out", resume=resume)
    assert other.read_text() == "precious"
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [other]
    predict(images, tmp_path / "out", overwrite=True)
    assert len(rows(tmp_path / "out")) == 5


def test_file_that_an_added_image_would_replace_is_not(tmp_path: Path, images: list[Path], whole: Path) -> None:
    (whole / "new.png").write_text("precious")
    before = content(whole, but=())
    with pytest.raises(ValueError, match=r"holds 'new\.png', which this job would replace"):
        predict([*images, make_image(tmp_path / "new.png")], whole, resume=True)
    assert content(whole, but=()) == before


def test_file_that_appears_while_the_job_runs_is_not_replaced(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "out"
    job = predict(images, out, on_image=lambda _: (out / "004.png").write_text("precious"))
    assert (out / "004.png").read_text() == "precious"
    assert "its drawing would replace" in job.failures[0]
    assert (job.n_failed, job.n_objects) == (0, 10)


def test_overwrite_leaves_nothing_of_the_earlier_job(tmp_path: Path, images: list[Path], whole: Path) -> None:
    (whole / "notes.txt").write_text("mine")
    predict(images[:1], whole, overwrite=True)
    names = ["000.png", "detections.json", "images.json", "job.json", "notes.txt", "results"]
    assert files(whole) == names
    assert [row["source"] for row in rows(whole)] == [str(images[0])]


def test_wrong_weights_do_not_overwrite(images: list[Path], whole: Path) -> None:
    before = content(whole, but=())
    with pytest.raises(FileNotFoundError):
        predict_files(images, "nowhere.safetensors", whole, overwrite=True)
    assert content(whole, but=()) == before


def test_leftovers_of_killed_writers_are_removed(images: list[Path], whole: Path) -> None:
    leftovers = [whole / f".{'0a' * 16}.tmp", whole / "results" / f".{'0b' * 16}.tmp"]
    others = [whole / ".mine.tmp", whole / f"{'0a' * 16}.tmp"]
    for path in (*leftovers, *others):
        path.touch()
    predict(images, whole, resume=True)
    assert [path.exists() for path in (*leftovers, *others)] == [False, False, True, True]


# ------------------------------------------------------------------ what goes wrong on the disk


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a full disk, no file grows beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_loses_no_row_and_is_one_sentence(tmp_path: Path, images: list[Path], whole: Path) -> None:
    out = tmp_path / "out"
    size = len((whole / "results" / "part-00000.jsonl").read_bytes().splitlines(keepends=True)[0])
    with (
        largest_file(int(2.5 * size)),
        pytest.raises(OSError, match="2 of 5 images have their results, resume") as error,
    ):
        predict(images, out, shard_size=1000, draw=False)
    assert error.value.filename == str(out / "results" / "part-00000.jsonl")
    assert [row["id"] for row in rows(out)] == [1, 2]  # whole lines
    predict(images, out, shard_size=1000, draw=False, resume=True)
    assert (out / "detections.json").read_bytes() == (whole / "detections.json").read_bytes()


def test_full_disk_at_the_drawings_keeps_the_rows(tmp_path: Path, images: list[Path], whole: Path) -> None:
    out = tmp_path / "out"
    assert (whole / "000.png").stat().st_size > 2000 > (whole / "results" / "part-00000.jsonl").stat().st_size
    with largest_file(2000):
        job = predict(images, out, shard_size=2, on_image=None)
    assert (job.n_images, job.n_failed, job.n_objects) == (5, 0, 10)
    assert len(job.failures) == 5
    assert f"{str(images[0])!r}: its drawing could not be written. {str(out / '000.png')!r}: " in job.failures[0]
    assert [p for p in out.iterdir() if p.suffix in (".png", ".tmp")] == []
    predict(images, out, resume=True)
    assert content(out) == content(whole)


def test_full_disk_at_the_summary_keeps_the_rows(tmp_path: Path, images: list[Path], whole: Path) -> None:
    size = (whole / "results" / "part-00000.jsonl").stat().st_size
    out = tmp_path / "out"
    assert (whole / "detections.json").stat().st_size > 1.5 * size
    sentence = "File too large; all rows are in .*, resume to go on"
    with largest_file(int(1.5 * size)), pytest.raises(OSError, match=sentence) as error:
        predict(images, out, draw=False)
    assert error.value.filename == str(out / "detections.json")
    assert sorted(files(out)) == ["job.json", "results"]
    predict(images, out, draw=False, resume=True)
    assert (out / "detections.json").read_bytes() == (whole / "detections.json").read_bytes()


def test_folder_that_vanishes_is_named(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "out"
    with pytest.raises(OSError, match="The folder is gone") as error:
        predict(images, out, on_image=lambda done: shutil.rmtree(out) if done.image_id == 2 else None)
    assert error.value.filename == str(out / "results" / "part-00001.jsonl")
    assert not out.exists()


def test_folder_that_vanishes_after_the_last_image_is_named(tmp_path: Path, images: list[Path]) -> None:
    out = tmp_path / "out"
    with pytest.raises(OSError, match="There is no folder"):
        predict(images, out, on_image=lambda done: shutil.rmtree(out) if done.image_id == 5 else None)


def test_part_that_vanishes_is_predicted_again(tmp_path: Path, images: list[Path], whole: Path) -> None:
    out = tmp_path / "out"
    part = out / "results" / "part-00000.jsonl"
    with pytest.raises(ValueError, match=r"part-00000\.jsonl' is gone: resume to predict on its images again"):
        predict(images, out, on_image=lambda done: part.unlink() if done.image_id == 3 else None)
    predict(images, out, resume=True)
    assert content(out) == content(whole)


def test_list_that_vanishes_is_written_again(tmp_path: Path, images: list[Path], whole: Path) -> None:
    out = tmp_path / "out"
    predict(images, out, on_image=lambda done: (out / "job.json").unlink(missing_ok=True))
    assert content(out, but=()) == content(whole, but=())


# ------------------------------------------------------------------ tampered files


def mutate(value: Any, rng: random.Random) -> Any:
    """Change something in JSON values."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if not keys or rng.random() < 0.1:
        return rng.choice([None, True, -1, 0, 2**70, 1.5, "", "..", "\ud800", [], {}, [[]], {"a": 1}])
    changed, key = value.copy(), rng.choice(list(keys))
    if rng.random() < 0.2:
        del changed[key]
    else:
        changed[key] = mutate(value[key], rng)
    return changed


@pytest.mark.filterwarnings("ignore:The job in .* was begun with version:UserWarning")
def test_tampered_folder_is_resumed_or_refused_in_a_sentence(images: list[Path], whole: Path) -> None:
    rng, refusals, resumed = random.Random(0), [], 0
    for number in range(150):
        out = copy_of(whole, f"tampered_{number}")
        path = out / rng.choice(["job.json", "results/part-00000.jsonl"])
        lines = path.read_bytes().splitlines(keepends=True)
        k, position = rng.randrange(len(lines)), rng.randrange(len(lines[0]))
        if rng.random() < 0.5:
            lines[k] = json.dumps(mutate(json.loads(lines[k]), rng)).encode() + b"\n"
        else:
            lines[k] = lines[k][:position] + rng.randbytes(rng.randrange(3)) + lines[k][position + rng.randrange(9) :]
        path.write_bytes(b"".join(lines))
        try:
            predict(images, out, resume=True)
        except ValueError as error:
            refusals.append(str(error))
        else:
            resumed += 1
            assert {1, 2, 3, 4, 5} <= {row["id"] for row in rows(out)}
        shutil.rmtree(out)
    known = r"is not the list of a job|with other settings|belong to different jobs"
    assert [sentence for sentence in refusals if not re.search(known, sentence)] == []
    assert min(len(refusals), resumed) > 20
