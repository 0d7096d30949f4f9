"""Results as Parquet: what a folder of parts is read as, what a resume makes of it, and damaged parts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.dataset
import pyarrow.parquet
import pytest
from small_jobs import TwoBoxes, content, copy_of, files, load, make_image, make_images, rows, stop_at

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.inference import JobResult, predict_files
from lucid_maskrcnn.inference.job_list import read_job
from lucid_maskrcnn.inference.job_parts import JobParts
from lucid_maskrcnn.inference.job_storage import job_storage
from lucid_maskrcnn.inference.parquet_rows import read_parquet


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "images", 5)


@pytest.fixture
def lines(tmp_path: Path, images: list[Path]) -> Path:
    """The folder of the same job in lines of JSON."""
    predict(images, tmp_path / "lines", format="jsonl")
    return tmp_path / "lines"


@pytest.fixture
def whole(tmp_path: Path, images: list[Path]) -> Path:
    """The folder of a job that nothing has disturbed, in parts of two images."""
    predict(images, tmp_path / "whole")
    return tmp_path / "whole"


def predict(paths: Any, out: Path, model: Any = None, **options: Any) -> JobResult:
    settings = {"shard_size": 2, "format": "parquet", "draw": False, **options}
    return predict_files(paths, TwoBoxes() if model is None else model, out, **settings)


def part(out: Path, number: int, ending: str = "parquet") -> Path:
    return out / "results" / f"part-{number:05}.{ending}"


class OddNumbers:
    """A model whose boxes, scores and classes are any numbers, and in some images there is nothing."""

    def predict(self, image: np.ndarray, **_: Any) -> list[Detections]:
        rng = np.random.default_rng(int(image.sum()))
        count, (height, width) = int(rng.integers(0, 4)), image.shape[:2]
        corners = rng.uniform(0, 1, (count, 2, 2)).cumsum(axis=1) * (width / 2, height / 2)
        boxes = corners.reshape(count, 4).astype(np.float32)
        scores = np.sort(rng.uniform(0, 1, count).astype(np.float32))[::-1]
        probs = rng.uniform(0, 1, (count, 28, 28)).astype(np.float32)
        return [Detections(boxes, scores, rng.integers(1, 90, count), probs, (height, width))]


# ------------------------------------------------------------------ what is in it


def test_each_part_is_one_file(whole: Path, lines: Path) -> None:
    assert files(whole / "results") == [".lock", *(f"part-0000{k}.parquet" for k in range(3))]
    assert [p.name for p in whole.iterdir() if p.suffix in (".parquet", ".jsonl")] == []
    for name in ("detections.json", "images.json"):
        assert (whole / name).read_bytes() == (lines / name).read_bytes()


def test_rows_are_those_of_the_lines_to_the_last_bit(tmp_path: Path) -> None:
    images = [*make_images(tmp_path / "images", 20), tmp_path / "missing.png"]
    for format in ("jsonl", "parquet"):
        predict(images, tmp_path / format, OddNumbers(), format=format, shard_size=8)
    found = [row for k in range(3) for row in read_parquet(part(tmp_path / "parquet", k))]
    assert json.dumps(found) == json.dumps(rows(tmp_path / "jsonl"))
    assert any(row.get("detections") == [] for row in found)
    assert "There is no image file" in found[-1]["error"]
    summaries = [(tmp_path / format / "detections.json").read_bytes() for format in ("jsonl", "parquet")]
    assert summaries[0] == summaries[1]


def test_pandas_and_arrow_read_the_folder_in_one_line(whole: Path, images: list[Path]) -> None:
    table = pandas.read_parquet(whole / "results")
    assert list(table) == ["id", "source", "page", "height", "width", "error", "detections"]
    assert table["id"].tolist() == [1, 2, 3, 4, 5]
    assert table["source"].tolist() == [str(path) for path in images]
    assert (table["height"].unique().tolist(), table["width"].unique().tolist()) == ([24], [32])
    objects = pandas.json_normalize(table["detections"].explode())
    assert objects["segmentation.counts"].tolist() == [d["segmentation"]["counts"] for d in load_results(whole)]
    dataset = pyarrow.dataset.dataset(whole / "results")
    assert dataset.to_table(columns=["id"], filter=pyarrow.dataset.field("error").is_null()).num_rows == 5


def load_results(out: Path) -> Any:
    return load(out / "detections.json")


def test_types_and_settings_are_in_the_file(whole: Path) -> None:
    schema = pyarrow.parquet.read_schema(part(whole, 0))
    result = schema.field("detections").type.value_type
    assert (str(schema.field("id").type), schema.field("id").nullable) == ("int64", False)
    assert [str(result.field(name).type) for name in ("category_id", "score")] == ["int64", "double"]
    settings = json.loads(schema.metadata[b"lucid_maskrcnn"])
    job = load(whole / "job.json")
    assert job["options"]["format"] == "parquet"
    assert settings == {name: job[name] for name in settings}
    assert {"weights", "categories", "package_version", "options"} <= set(settings)


def test_name_that_is_not_utf8_is_spelled_as_in_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.png")
    try:
        make_image(tmp_path / name)
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    predict([tmp_path / name, tmp_path / os.fsdecode(b"gone\xfe.png")], tmp_path / "out", shard_size=9)
    table = pandas.read_parquet(tmp_path / "out" / "results")
    assert table["source"].tolist() == [str(tmp_path / "a\\udcff.png"), str(tmp_path / "gone\\udcfe.png")]
    assert load(tmp_path / "out" / "images.json")["images"][0]["file_name"] == str(tmp_path / name)
    model = TwoBoxes()
    make_image(tmp_path / os.fsdecode(b"gone\xfe.png"))
    predict([], tmp_path / "out", model, shard_size=9, resume=True)
    assert model.calls == 1
    assert load(tmp_path / "out" / "images.json")["images"][0]["file_name"] == str(tmp_path / name)


# ------------------------------------------------------------------ resume


@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_resumed_job_is_what_it_would_have_been(tmp_path: Path, images: list[Path], whole: Path, call: int) -> None:
    out, model = tmp_path / "out", TwoBoxes()
    with pytest.raises(KeyboardInterrupt):
        predict(images, out, stop_at(call))
    predict(images, out, model, resume=True)
    assert content(out) == content(whole)
    assert model.calls == 5 - (call - 1)


@pytest.mark.parametrize("rows_in_lines", [[1], [1, 2]])
def test_part_that_a_kill_left_in_both_forms_has_the_rows_of_both(
    images: list[Path], whole: Path, lines: Path, rows_in_lines: list[int]
) -> None:
    texts = part(lines, 0, "jsonl").read_bytes().splitlines(keepends=True)
    part(whole, 0, "jsonl").write_bytes(b"".join(texts[k - 1] for k in rows_in_lines))
    before, model = content(whole), TwoBoxes()
    predict(images, whole, model, resume=True)
    assert model.calls == 0
    del before["results/part-00000.jsonl"]
    assert content(whole) == before


def test_complete_part_that_is_lines_still_becomes_a_table(images: list[Path], whole: Path, lines: Path) -> None:
    before, model = content(whole), TwoBoxes()
    part(whole, 1).unlink()
    shutil.copy(part(lines, 1, "jsonl"), part(whole, 1, "jsonl"))
    predict(images, whole, model, resume=True)
    assert (model.calls, content(whole)) == (0, before)


def test_images_that_failed_are_tried_again(tmp_path: Path, images: list[Path], whole: Path) -> None:
    out, moved = tmp_path / "out", images[2].with_name("away")
    images[2].rename(moved)
    assert predict(images, out).n_failed == 1
    assert "There is no image file" in pandas.read_parquet(out / "results")["error"][2]
    before = content(out)
    moved.rename(images[2])
    with pytest.raises(KeyboardInterrupt):
        predict(images, out, stop_at(1), resume=True)
    assert content(out) == before  # the part stays what it was until there is something better
    predict(images, out, resume=True)
    assert content(out) == content(whole)


def test_new_images_go_into_the_last_part(tmp_path: Path, images: list[Path], whole: Path) -> None:
    model = TwoBoxes()
    predict(images[:3], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        predict(images, tmp_path / "out", stop_at(2), resume=True)
    assert files(tmp_path / "out" / "results") == [".lock", "part-00000.parquet", "part-00001.parquet"]
    predict(images, tmp_path / "out", model, resume=True)
    assert (model.calls, content(tmp_path / "out")) == (1, content(whole))


def test_job_of_another_format_is_refused(images: list[Path], whole: Path, lines: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings: format was 'parquet' and is 'jsonl'\. Give those"):
        predict(images, whole, format="jsonl", resume=True)
    with pytest.raises(ValueError, match=r"other settings: format was 'jsonl' and is 'parquet'\. Give those"):
        predict(images, lines, resume=True)


def test_overwrite_leaves_nothing_of_the_other_format(images: list[Path], whole: Path, lines: Path) -> None:
    as_table, as_lines = content(whole), content(lines)
    predict(images, whole, format="jsonl", overwrite=True)
    predict(images, lines, overwrite=True)
    assert (content(whole), content(lines)) == (as_lines, as_table)


def test_foreign_table_is_not_replaced(tmp_path: Path, images: list[Path]) -> None:
    (tmp_path / "out" / "results").mkdir(parents=True)
    part(tmp_path / "out", 0).write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds 'results/part-00000\.parquet', which this job would replace"):
        predict(images, tmp_path / "out")


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from small_jobs import TwoBoxes
from lucid_maskrcnn.inference import job_parts, predict_files

def kill(at):
    if at == {at!r}:
        os.kill(os.getpid(), signal.SIGKILL)

write, unlink = job_parts.write_parquet, Path.unlink
def killed_write(path, rows, metadata):
    kill("before")
    write(path, rows, metadata)
    kill("between")
job_parts.write_parquet = killed_write
predict_files({images!r}, TwoBoxes(), {out!r}, shard_size=2, format="parquet", draw=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("at", ["before", "between"])
def test_process_killed_at_the_conversion_is_gone_on_with(
    tmp_path: Path, images: list[Path], whole: Path, at: str
) -> None:
    out, model = tmp_path / "out", TwoBoxes()
    tests = str(Path(__file__).parent.parent)
    script = _KILLED.format(tests=tests, at=at, images=[str(p) for p in images], out=str(out))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert part(out, 0, "jsonl").exists()
    assert part(out, 0).exists() == (at == "between")
    predict(images, out, model, resume=True)
    assert (model.calls, content(out)) == (3, content(whole))


# ------------------------------------------------------------------ damage


def other_table(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2]}), path)


def without_results(path: Path) -> None:
    table = pyarrow.parquet.read_table(path)
    nulls = pyarrow.nulls(table.num_rows, table.schema.field("detections").type)
    pyarrow.parquet.write_table(table.set_column(6, table.schema.field("detections"), nulls), path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes()[9:]),
        other_table,
        without_results,
    ],
    ids=["empty", "no table", "cut off", "without its head", "another table", "without results"],
)
def test_damaged_part_is_predicted_on_again(images: list[Path], whole: Path, damage: Any) -> None:
    before, model = content(whole), TwoBoxes()
    damage(part(whole, 0))
    with pytest.warns(UserWarning, match=r"part-00000\.parquet' is damaged: its images are predicted on again\.$"):
        predict(images, whole, model, resume=True)
    assert (model.calls, content(whole)) == (2, before)


@pytest.mark.filterwarnings("ignore:.*is damaged:UserWarning")
def test_part_with_changed_bytes_never_shows_what_arrow_says(images: list[Path], whole: Path) -> None:
    rng, data = random.Random(0), part(whole, 0).read_bytes()
    results = (whole / "detections.json").read_bytes()
    for number in range(60):
        out = copy_of(whole, f"damaged_{number}")
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        part(out, 0).write_bytes(changed)
        try:
            predict(images, out, resume=True)
        except ValueError as error:
            assert "they belong to different jobs" in str(error)  # noqa: PT017
        else:
            assert (out / "detections.json").read_bytes() == results
        shutil.rmtree(out)


def test_part_that_another_job_has_written_is_refused(images: list[Path], whole: Path) -> None:
    shutil.copy(part(whole, 1), part(whole, 0))
    model = TwoBoxes()
    predict(images, whole, model, resume=True)  # ids of another part are no rows of this one
    assert model.calls == 2
    table = pyarrow.parquet.read_table(part(whole, 0))
    named = table.set_column(1, table.schema.field("source"), pyarrow.array(["x.png", "y.png"]))
    pyarrow.parquet.write_table(named, part(whole, 0))
    with pytest.raises(ValueError, match=r"Row 1 of .*part-00000\.parquet' is of 'x\.png', but job\.json lists"):
        predict(images, whole, resume=True)


def test_part_that_vanishes_or_shrinks_is_named(tmp_path: Path, images: list[Path]) -> None:
    def vanish(done: Any) -> None:
        if done.image_id == 3:
            part(tmp_path / "out", 0).unlink()

    with pytest.raises(ValueError, match=r"part-00000\.parquet' is gone: resume to predict on its images again\.$"):
        predict(images, tmp_path / "out", on_image=vanish)

    def shrink(done: Any) -> None:
        if done.image_id == 3:
            path = part(tmp_path / "other", 0)
            pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).slice(0, 1), path)

    with pytest.raises(ValueError, match=r"part-00000\.parquet' has lost the row of image 2: resume to predict it"):
        predict(images, tmp_path / "other", on_image=shrink)


def test_full_disk_at_the_conversion_loses_no_row(
    tmp_path: Path, images: list[Path], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    out, model = tmp_path / "out", TwoBoxes()
    size = part(whole, 0).stat().st_size
    assert size > 2000  # more than two rows as lines
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, hard))
    try:
        with pytest.raises(OSError, match="2 of 5 images have their results, resume to go on") as error:
            predict(images, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(part(out, 0))
    assert files(out / "results") == [".lock", "part-00000.jsonl"]
    predict(images, out, model, resume=True)
    assert (model.calls, content(out)) == (3, content(whole))


def test_rows_come_in_their_order_whenever_they_were_written(tmp_path: Path, images: list[Path], whole: Path) -> None:
    job = read_job(job_storage(whole))
    assert job is not None
    (tmp_path / "out" / "results").mkdir(parents=True)
    parts = JobParts(job_storage(tmp_path / "out"), job)
    for row in [row for k in (2, 0, 1) for row in read_parquet(part(whole, k))][::-1]:
        parts.append(job.images[row["id"] - 1], {name: row[name] for name in ("size", "detections")})
    before = {name: data for name, data in content(whole).items() if name.startswith("results/")}
    assert content(tmp_path / "out") == before


# ------------------------------------------------------------------ without pyarrow


def test_without_pyarrow_a_sentence_names_the_extra(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    sentence = r"^format='parquet' \(--format parquet\) needs pyarrow: pip install 'lucid-maskrcnn\[parquet\]'\.$"
    with pytest.raises(ImportError, match=sentence):
        predict(images, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    predict(images, tmp_path / "out", format="jsonl")
    assert len(rows(tmp_path / "out")) == 5


@pytest.mark.parametrize(("format", "error"), [("csv", ValueError), (None, TypeError), (1, TypeError)])
def test_other_formats_are_refused(tmp_path: Path, images: list[Path], format: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"format must be one of 'jsonl', 'parquet', got "):
        predict(images, tmp_path / "out", format=format)
