"""Jobs at URLs: the same folder as on this machine, images that are elsewhere, and storages that fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from remote_places import objects, s3_server, upload, web_server
from small_jobs import TwoBoxes, content, make_image, make_images, stop_at

from lucid_maskrcnn.atomic import is_temporary
from lucid_maskrcnn.inference import ImagePrediction, JobResult, JobStart, expand_pattern, holds_job, predict_files

OUT = "memory://bucket/out"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Five images at URLs."""
    make_images(tmp_path / "images", 5)
    upload(tmp_path / "images", "memory://bucket/images")
    return [f"memory://bucket/images/{k:03}.png" for k in range(5)]


def predict(paths: Any, out: Any = OUT, model: Any = None, **options: Any) -> JobResult:
    return predict_files(paths, TwoBoxes() if model is None else model, out, **{"shard_size": 2, **options})


# ------------------------------------------------------------------ the folder


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_folder_at_a_url_is_the_one_on_this_machine(tmp_path: Path, images: list[str], format: str) -> None:
    options: dict[str, Any] = {"format": format, "export": ["csv", "label-image", "geojson"]}
    job = predict(images, **options)
    assert job == JobResult(OUT, 5, 0, 10)
    predict(images, tmp_path / "out", **options)
    assert objects(OUT) == content(tmp_path / "out", but=())
    assert f"results/part-00002.{format}" in objects(OUT)


def test_results_name_urls(images: list[str]) -> None:
    seen: list[ImagePrediction] = []
    starts: list[JobStart] = []
    predict(images[:1], export=["csv"], on_image=seen.append, on_start=starts.append)
    assert (starts[0].out, seen[0].path) == (OUT, images[0])
    assert (seen[0].drawing, seen[0].exports) == (f"{OUT}/000.png", (f"{OUT}/000.csv",))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_interrupted_job_keeps_all_rows(images: list[str], call: int, format: str) -> None:
    predict(images, "memory://bucket/whole", format=format)
    with pytest.raises(KeyboardInterrupt):
        predict(images, OUT, stop_at(call), format=format)
    model = TwoBoxes()
    assert predict(images, OUT, model, format=format, resume=True) == JobResult(OUT, 5, 0, 10)
    assert model.calls == 5 - (call - 1)
    assert results_of(OUT) == results_of("memory://bucket/whole")


def results_of(url: str) -> dict[str, bytes]:
    return {name: data for name, data in objects(url).items() if name != "job.json"}


def test_parts_appear_once_they_are_complete(images: list[str]) -> None:
    seen: list[list[str]] = []

    def look(done: ImagePrediction) -> None:
        seen.append([name for name in objects(OUT) if name.startswith("results/")])

    predict(images, on_image=look)
    parts = [f"results/part-0000{k}.jsonl" for k in range(3)]
    assert seen == [[], parts[:1], parts[:1], parts[:2], parts]


def test_images_that_failed_are_tried_again_and_new_ones_added(images: list[str]) -> None:
    predict(images, "memory://bucket/whole", format="parquet")
    system = fsspec.filesystem("memory")
    system.mv("/bucket/images/002.png", "/bucket/away.png")
    job = predict(images[:3], format="parquet")
    assert (job.n_failed, job.failures) == (1, (f"There is no image file {images[2]!r}.",))
    system.mv("/bucket/away.png", "/bucket/images/002.png")
    model = TwoBoxes()
    predict(images, OUT, model, format="parquet", resume=True)
    assert (model.calls, results_of(OUT)) == (3, results_of("memory://bucket/whole"))


def test_missing_drawings_are_made(images: list[str]) -> None:
    predict(images)
    before, model = objects(OUT), TwoBoxes()
    fsspec.filesystem("memory").rm_file("/bucket/out/001.png")
    predict([], OUT, model, resume=True)
    assert (model.calls, objects(OUT)) == (1, before)


def test_nothing_is_replaced_unasked(images: list[str]) -> None:
    predict(images)
    with pytest.raises(ValueError, match=rf"^'{OUT}' holds a job already: resume it"):
        predict(images)
    with pytest.raises(ValueError, match=rf"^The job in '{OUT}' cannot be resumed with other settings: top_k was"):
        predict(images, top_k=1, resume=True)
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/other/001.png", b"mine")
    with pytest.raises(ValueError, match=r"^'memory://bucket/other' holds '001\.png', which this job would replace"):
        predict(images, "memory://bucket/other")
    system.pipe_file("/bucket/more/results/mine.jsonl", b"mine")
    with pytest.raises(ValueError, match=r"^'memory://bucket/more' holds 'results/mine\.jsonl', which this job would"):
        predict(images, "memory://bucket/more")
    predict(images[:2], "memory://bucket/other", overwrite=True, export=["csv"])
    predict(images[1:], "memory://bucket/other", overwrite=True, format="parquet")
    assert sorted(objects("memory://bucket/other")) == sorted(
        [*(f"00{k}.png" for k in range(1, 5)), "detections.json", "images.json", "job.json"]
        + [f"results/part-0000{k}.parquet" for k in range(2)]
    )


def test_damaged_list_is_one_sentence(images: list[str]) -> None:
    predict(images)
    fsspec.filesystem("memory").pipe_file("/bucket/out/job.json", b"{")
    with pytest.raises(ValueError, match=rf"^'{OUT}/job\.json' is not the list of a job, or is damaged"):
        predict(images, resume=True)


def test_rows_of_another_job_are_refused(images: list[str]) -> None:
    predict(images)
    system = fsspec.filesystem("memory")
    changed = system.cat_file("/bucket/out/results/part-00000.jsonl").replace(b"000.png", b"009.png")
    system.pipe_file("/bucket/out/results/part-00000.jsonl", changed)
    with pytest.raises(
        ValueError, match=rf"^Row 1 of '{OUT}/results/part-00000\.jsonl' is of 'memory://bucket/images/0"
    ):
        predict(images, resume=True)


def test_part_that_vanishes_is_named(images: list[str]) -> None:
    def vanish(done: ImagePrediction) -> None:
        if done.image_id == 3:
            fsspec.filesystem("memory").rm_file("/bucket/out/results/part-00000.jsonl")

    with pytest.raises(ValueError, match=rf"^'{OUT}/results/part-00000\.jsonl' is gone: resume to predict on its"):
        predict(images, on_image=vanish)


def test_job_goes_on_in_another_folder(tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    make_image(here / "own.png")
    monkeypatch.chdir(here)
    with pytest.raises(KeyboardInterrupt):
        predict(["own.png", *images[:2]], OUT, stop_at(2))
    monkeypatch.chdir(there)
    assert predict([*images, str(here / "own.png")], resume=True) == JobResult(OUT, 6, 0, 12)
    listed = json.loads(objects(OUT)["job.json"])
    assert [entry["source"] for entry in listed["images"]] == ["own.png", *images]


def test_job_is_found_at_a_url(images: list[str]) -> None:
    assert not holds_job(OUT)
    predict(images[:1])
    assert holds_job(OUT)


def test_folder_of_a_killed_process_is_deleted_by_the_next_one(temporary: Path, images: list[str]) -> None:
    left, held, new, link = (temporary / f"lucid_maskrcnn-{name}" for name in ("left", "held", "new", "link"))
    elsewhere = temporary / "elsewhere"
    for folder in (left, held, new, elsewhere):
        (folder / "results").mkdir(parents=True)
        os.utime(folder, (0, 0 if folder != new else time.time()))
    link.symlink_to(elsewhere)
    with FileLock(held / ".lock"):
        os.utime(held, (0, 0))
        predict(images)
    assert sorted(path.name for path in temporary.iterdir()) == ["elsewhere", *(f.name for f in (held, link, new))]
    link.unlink()
    for folder in (held, new, elsewhere):
        shutil.rmtree(folder)


# ------------------------------------------------------------------ images


def test_folder_at_a_url_stands_for_its_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("b.png", "a.TIF", "z/a.png", "c/d/x.jpg", "notes.txt", ".hidden.png", ".git/a.png"):
        make_image(folder / name)
    predict([folder / "b.png"], folder / "c" / "job")
    upload(folder, "memory://bucket/images")
    job = predict(["memory://bucket/images/"], "memory://bucket/images/found")
    local = predict([folder], folder / "found")
    assert job.n_images == local.n_images == 4
    remote, here = objects(str(job.out))["job.json"], (folder / "found" / "job.json").read_bytes()
    lists = [json.loads(text)["images"] for text in (remote, here)]
    sources = [entry["source"].removeprefix("memory://bucket/images/") for entry in lists[0]]
    assert sources == [os.path.relpath(entry["source"], folder) for entry in lists[1]]
    assert [entry["drawing"] for entry in lists[0]] == [entry["drawing"] for entry in lists[1]]
    again = predict(["memory://bucket/images"], "memory://bucket/images/found", resume=True)
    assert again.n_images == 4  # its own drawings are no images


def test_image_is_taken_once_however_its_url_is_spelled(images: list[str]) -> None:
    job = predict([images[0], "MEMORY:///bucket/images/000.png", "memory://bucket/images"])
    assert job.n_images == 5


def test_drawing_does_not_replace_an_image_beside_it(images: list[str]) -> None:
    before = objects("memory://bucket/images")
    predict(images, "memory://bucket/images")
    after = objects("memory://bucket/images")
    assert {name: after[name] for name in before} == before
    assert "000_2.png" in after


def test_pattern_at_a_url(images: list[str]) -> None:
    assert expand_pattern("memory://bucket/images/00[13].png") == [f"memory:///bucket/images/00{k}.png" for k in (1, 3)]
    assert expand_pattern("memory://bucket/images/*.tif") == ["memory://bucket/images/*.tif"]
    assert expand_pattern("http://127.0.0.1:9/a.png?version=1") == ["http://127.0.0.1:9/a.png?version=1"]
    assert predict(expand_pattern("memory://bucket/**/*.png")).n_images == 5


def test_file_url_is_a_path(tmp_path: Path, images: list[str]) -> None:
    path = make_image(tmp_path / "a b.png")
    job = predict([path.as_uri()], (tmp_path / "out").as_uri())
    assert job == JobResult(tmp_path / "out", 1, 0, 2)
    assert json.loads((tmp_path / "out" / "job.json").read_text())["images"][0]["source"] == str(path)
    assert expand_pattern((tmp_path / "a b.png").as_uri().replace("a%20b", "*")) == [str(path)]


def test_images_of_a_web_server(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 3)
    make_image(tmp_path / "images" / "more" / "a b.png")
    with web_server(tmp_path) as address:
        urls = [f"{address}/images/00{k}.png" for k in range(3)]
        job = predict([*urls, f"{address}/images/gone.png"], tmp_path / "out")
        folder = predict([f"{address}/images/"], tmp_path / "folder")
        assert predict([f"{address}/images/000.png?version=2"], tmp_path / "query").n_failed == 0
    assert (job.n_images, job.failures) == (4, (f"There is no image file '{address}/images/gone.png'.",))
    assert (folder.n_images, folder.n_failed) == (4, 0)
    assert (tmp_path / "folder" / "more_a b.png").exists()
    assert (tmp_path / "query" / "000.png").exists()


def test_image_that_cannot_be_fetched_is_a_row_with_its_error(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.png")
    job = predict([image, "http://127.0.0.1:9/a.png"], tmp_path / "out")
    assert job.n_failed == 1
    assert job.failures[0].startswith("Cannot read the image file 'http://127.0.0.1:9/a.png': ")


def test_images_that_do_not_exist_are_one_sentence(images: list[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no image file 'memory://bucket/x\.png'\.$"):
        predict(["memory://bucket/x.png"])
    with pytest.raises(FileNotFoundError, match=r"'memory://bucket/x\.png', nor the other one\.$"):
        predict(["memory://bucket/x.png", "memory://bucket/images/9.png"])
    fsspec.filesystem("memory").pipe_file("/bucket/texts/a.txt", b"")
    with pytest.raises(FileNotFoundError, match="There is no image in the folder 'memory://bucket/texts', no file"):
        predict(["memory://bucket/texts"])
    assert objects("memory://bucket/out") == {}


# ------------------------------------------------------------------ an object storage


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a server that speaks S3's protocol."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    settings = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch, s3_server() as address:
        for name, value in {**settings, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"


_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from small_jobs import TwoBoxes
from lucid_maskrcnn.inference import predict_files

def kill(number, image):
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)

predict_files(["{s3}/images"], TwoBoxes(kill), "{s3}/killed", shard_size=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_job_in_s3_goes_on_with_its_parts(tmp_path: Path, s3: str) -> None:
    make_images(tmp_path / "images", 5)
    upload(tmp_path / "images", f"{s3}/images")
    predict([f"{s3}/images"], f"{s3}/whole", export=["csv"])
    predict([f"{s3}/images"], tmp_path / "local", export=["csv"])
    assert objects(f"{s3}/whole") == content(tmp_path / "local", but=())

    script = _KILLED.format(tests=str(Path(__file__).parent.parent), s3=s3)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == -signal.SIGKILL
    parts = [name for name in objects(f"{s3}/killed") if name.startswith("results/")]
    assert parts == ["results/part-00000.jsonl"]
    model = TwoBoxes()
    assert predict([f"{s3}/images"], f"{s3}/killed", model, resume=True).n_objects == 10
    assert model.calls == 3
    names = ("detections.json", "images.json", *(f"results/part-0000{k}.jsonl" for k in range(3)))
    killed, whole = (objects(f"{s3}/{name}") for name in ("killed", "whole"))
    assert {name: killed[name] for name in names} == {name: whole[name] for name in names}


def test_what_others_have_uploaded_since_is_seen(tmp_path: Path, s3: str) -> None:
    """Listings are remembered by s3fs for as long as the process lives."""
    make_images(tmp_path / "images", 3)
    upload(tmp_path / "images", f"{s3}/growing")
    assert not holds_job(f"{s3}/grown")
    assert predict([f"{s3}/growing"], tmp_path / "out").n_images == 3
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file("bucket/growing/new.png", (tmp_path / "images" / "000.png").read_bytes())
    other.pipe_file("bucket/grown/job.json", b"")
    assert len(expand_pattern(f"{s3}/growing/*.png")) == 4
    assert predict([f"{s3}/growing"], tmp_path / "out", resume=True).n_images == 4
    assert holds_job(f"{s3}/grown")


def test_odd_names_of_objects(tmp_path: Path, s3: str) -> None:
    for name in ("a b", "c#d", "e?f", "g*h", "ü[1]", "100%"):
        make_image(tmp_path / "images" / f"{name}.png")
    upload(tmp_path / "images", f"{s3}/odd")
    job = predict([f"{s3}/odd/"], f"{s3}/odd found/")
    assert (job.n_images, job.failures) == (6, ())
    predict([tmp_path / "images"], tmp_path / "out")
    assert sorted(objects(f"{s3}/odd found")) == sorted(content(tmp_path / "out", but=()))
    assert predict([], f"{s3}/odd found", resume=True, overwrite=False).n_failed == 0


def test_bucket_itself_can_be_the_folder(tmp_path: Path, s3: str) -> None:
    fsspec.filesystem("s3").mkdir("whole-bucket")
    predict([make_image(tmp_path / "a.png")], "s3://whole-bucket")
    predict([tmp_path / "a.png"], tmp_path / "out")
    assert objects("s3://whole-bucket") == content(tmp_path / "out", but=())


def test_parquet_in_s3_is_read_in_one_line(tmp_path: Path, s3: str) -> None:
    import pandas

    make_images(tmp_path / "images", 3)
    predict([tmp_path / "images"], f"{s3}/tables", format="parquet")
    assert pandas.read_parquet(f"{s3}/tables/results/")["id"].tolist() == [1, 2, 3]
    assert expand_pattern(f"{s3}/tables/00*.png") == [f"{s3}/tables/00{k}.png" for k in range(3)]


def test_bucket_that_does_not_exist_is_one_sentence(tmp_path: Path, s3: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        predict([make_image(tmp_path / "a.png")], "s3://no-such-bucket/out")
    assert error.value.filename == "s3://no-such-bucket/out/job.json"


# ------------------------------------------------------------------ storages that fail


class Failing(MemoryFileSystem):
    """A storage that fails as soon as it is told to."""

    protocol = ("failing", "memory")  # so that an upload appears whole
    fails = ""

    def put_file(self, lpath: str, rpath: str, *arguments: Any, **options: Any) -> None:
        if self.fails and self.fails in rpath:
            raise RuntimeError("503: slow down.\nMore of it")
        super().put_file(lpath, rpath, *arguments, **options)

    def ls(self, path: str, *arguments: Any, **options: Any) -> Any:
        if self.fails == "ls":
            raise PermissionError("Access Denied")
        return super().ls(path, *arguments, **options)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Failing]]:
    fsspec.register_implementation("failing", Failing, clobber=True)
    yield Failing
    Failing.fails = ""


def test_part_that_cannot_be_written_is_one_sentence(images: list[str], failing: type[Failing]) -> None:
    failing.fails = "part-00001.jsonl"
    sentence = r"503: slow down\. More of it; 2 of 5 images have their results, resume to go on"
    with pytest.raises(OSError, match=sentence) as error:
        predict(images, "failing://out")
    assert error.value.filename == "failing://out/results/part-00001.jsonl"
    failing.fails = ""
    model = TwoBoxes()
    assert predict(images, "failing://out", model, resume=True).n_objects == 10
    assert model.calls == 3


def test_interruption_does_not_hide_that_rows_are_lost(images: list[str], failing: type[Failing]) -> None:
    failing.fails = "part-00001.jsonl"
    with pytest.raises(OSError, match="503: slow down") as error:
        predict(images, "failing://out", stop_at(4))
    assert error.value.filename == "failing://out/results/part-00001.jsonl"
    assert isinstance(error.value.__context__.__context__, KeyboardInterrupt)


def test_drawing_that_cannot_be_written_does_not_stop_the_job(images: list[str], failing: type[Failing]) -> None:
    failing.fails = "003.png"
    job = predict(images, "failing://out")
    assert job.failures == (
        f"{images[3]!r}: its drawing could not be written. 'failing://out/003.png': 503: slow down. More of it.",
    )
    failing.fails = ""
    assert predict(images, "failing://out", resume=True).failures == ()


def test_summary_that_cannot_be_written_is_one_sentence(images: list[str], failing: type[Failing]) -> None:
    failing.fails = "images.json"
    with pytest.raises(OSError, match="More of it; all rows are in 'failing://out/results', resume to go on") as error:
        predict(images, "failing://out")
    assert error.value.filename == "failing://out/images.json"


def test_folder_that_cannot_be_listed_is_one_sentence(images: list[str], failing: type[Failing]) -> None:
    failing.fails = "ls"
    with pytest.raises(OSError, match="Access Denied") as error:
        predict(images, "failing://out")
    assert error.value.filename == "failing://out"


class Disk(LocalFileSystem):
    """A file server: what is being uploaded can be seen already."""

    protocol = "disk"
    breaks = False

    def put_file(self, lpath: str, rpath: str, *arguments: Any, **options: Any) -> None:
        if Disk.breaks:
            Path(rpath).write_bytes(Path(lpath).read_bytes()[:10])
            raise ConnectionResetError("gone")
        super().put_file(lpath, rpath, *arguments, **options)


def test_file_server_has_no_half_files(tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("disk", Disk, clobber=True)
    out = f"disk://{tmp_path}/out"
    predict(images, tmp_path / "local")
    with pytest.raises(KeyboardInterrupt):
        predict(images, out, stop_at(4))
    monkeypatch.setattr(Disk, "breaks", True)
    before = content(tmp_path / "out", but=())
    with pytest.raises(OSError, match="gone"):
        predict(images, out, resume=True)
    after = content(tmp_path / "out", but=())
    half = [name for name in after if name not in before]
    assert half
    assert all(is_temporary(Path(name).name) for name in half)
    assert {name: after[name] for name in before} == before
    monkeypatch.setattr(Disk, "breaks", False)
    predict(images, out, resume=True)
    assert content(tmp_path / "out", but=()) == content(tmp_path / "local", but=())


# ------------------------------------------------------------------ wrong places


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("http://127.0.0.1/out", ValueError, r"^out must be a folder or a URL that can be written to, got 'http://12"),
        (
            "nosuch://out",
            ValueError,
            r"^out must be a path or a URL of a protocol that fsspec knows, got 'nosuch://out'",
        ),
        ("file://elsewhere/out", ValueError, r"^out must be on this machine if it begins with file://, got 'file://el"),
        (
            Path("s3://bucket/out"),
            ValueError,
            r"^out must be a path, got 's3:/bucket/out'",
        ),
        ("dropbox://out", ImportError, r"^out 'dropbox://out' needs the package of dropbox: .*dropbox"),
    ],
)
def test_wrong_places_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Any, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        predict([make_image(tmp_path / "a.png")], out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "temporary"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            "nosuch://a",
            ValueError,
            r"^paths must be a path or a URL of a protocol that fsspec knows, got 'nosuch://a'\.$",
        ),
        ("file://elsewhere/a", ValueError, r"^paths\[0\] must be on this machine if it begins with file://, got 'file"),
        (Path("s3://bucket/a.png"), ValueError, r"^paths\[0\] must be a path, got 's3:/bucket/a"),
        ("dropbox://a", ImportError, r"^paths 'dropbox://a' needs the package of dropbox: .*dropbox"),
    ],
)
def test_wrong_sources_are_refused(tmp_path: Path, source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        predict([source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_crops_are_refused_at_a_url(images: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"^export cannot be 'crops' with out='{OUT}': a folder of files cannot"):
        predict(images, export=["crops"])


def test_without_fsspec_a_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    image = make_image(tmp_path / "a.png")
    with pytest.raises(ImportError, match=r"^out 's3://bucket/out' needs fsspec: pip install 'lucid-maskrcnn\[storage"):
        predict([image], "s3://bucket/out")
    with pytest.raises(ImportError, match=r"^paths 's3://bucket/folder' needs fsspec: pip install"):
        predict(["s3://bucket/folder"], tmp_path / "out")
    assert predict([image], tmp_path / "out").n_failed == 0
