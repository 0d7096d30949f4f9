"""``predict`` as a process: kills, signals, pipes, and what the exit code says."""

from __future__ import annotations

import io
import json
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_processes import wait_for
from small_jobs import content, files, load, make_image, make_images, rows
from tiny_runs import slim

import lucid_maskrcnn
from lucid_maskrcnn import MaskRCNN, predict_tiled, save_weights
from lucid_maskrcnn.cli import main

COMMAND = [sys.executable, "-m", "lucid_maskrcnn.cli", "predict"]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Weights that find something everywhere."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(slim(), path)
    return ["--weights", str(path), "--score-thresh", "0.3", "--top-k", "20", "--shard-size", "4"]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return make_images(tmp_path / "images", 10, side=64)


def start(arguments: Sequence[object], **more: Any) -> subprocess.Popen[str]:
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a background job ignores
        **streams,
    )


def shell(script: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in which $predict is the command."""
    script = f"set -o pipefail; predict={shlex.quote(shlex.join(COMMAND))}; {script}"
    command = ["bash", "-c", script, "bash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def num_rows(out: Path) -> int:
    return sum(part.read_bytes().count(b"\n") for part in (out / "results").glob("part-*.jsonl"))


# ------------------------------------------------------------------ kills


def kill_and_resume(tmp_path: Path, images: list[Path], options: list[str], kills: int, seed: int) -> int:
    """Kill a run that often at random moments and check after each that nothing is lost; return the rows kept."""
    whole, out, rng = tmp_path / "whole", tmp_path / "out", random.Random(seed)
    assert main(["predict", *map(str, images), "--out", str(whole), "--quiet", *options]) == 0
    kept: list[bytes] = []
    survived = 0
    for number in range(kills):
        run = start([*images, "--out", out, "--resume", *options])
        goal = min(len(kept) + rng.randint(0, 2), len(images) - 1)
        while run.poll() is None and num_rows(out) < goal:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3) if number % 2 else 0)
        run.kill()
        run.communicate()
        parts = sorted((out / "results").glob("*.jsonl"))
        lines = [line for part in parts for line in part.read_bytes().splitlines(keepends=True)]
        found = [line for line in lines if line.endswith(b"\n")]
        assert found[: len(kept)] == kept
        assert len(lines) - len(found) <= 1  # the one that it was at
        kept = found
        survived += len(found)
    assert main(["predict", *map(str, images), "--out", str(out), "--resume", "--quiet", *options]) == 0
    assert content(out, but=()) == content(whole, but=())
    return survived


def test_killed_runs_lose_nothing(tmp_path: Path, images: list[Path], options: list[str]) -> None:
    assert kill_and_resume(tmp_path, images, options, 3, seed=1) > 0


@pytest.mark.slow
def test_runs_killed_at_many_moments_lose_nothing(tmp_path: Path, options: list[str]) -> None:
    images = make_images(tmp_path / "images", 40, side=64)
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert kill_and_resume(folder, images, options, 12, seed) > 0


@pytest.mark.parametrize(
    ("number", "code", "why"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        pytest.param(signal.SIGHUP, 129, "ended by SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_signal_ends_the_run_in_one_sentence(
    tmp_path: Path, images: list[Path], options: list[str], number: signal.Signals, code: int, why: str
) -> None:
    out = tmp_path / "out"
    run = start([*images, "--out", out, *options])
    wait_for(lambda: run.poll() is not None or num_rows(out) >= 2)
    run.send_signal(number)
    if number == signal.SIGINT:
        time.sleep(0.01)
        run.send_signal(number)  # an impatient user
    _, err = run.communicate()
    lines = [line for line in err.splitlines() if "Objects may be missing" not in line]
    assert lines[-1] in (
        f"lucid-maskrcnn: {why}; what was predicted is kept in '{out}', and --resume goes on from there.",
        "lucid-maskrcnn: interrupted.",
    )
    assert len(lines) == 1
    assert run.returncode == code
    assert len(rows(out)) >= 2
    assert [p.name for p in out.rglob("*.tmp")] == []


@pytest.mark.slow
def test_ignored_hangup_stays_ignored(tmp_path: Path, images: list[Path], options: list[str]) -> None:
    out = tmp_path / "out"
    command = ["nohup", *COMMAND, *map(str, images[:4]), "--out", str(out), *options]
    nohup = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: nohup.poll() is not None or num_rows(out) >= 1)
    nohup.send_signal(signal.SIGHUP)
    nohup.communicate()
    assert nohup.returncode == 0
    assert len(rows(out)) == 4


# ------------------------------------------------------------------ many calls, one folder


def test_xargs_accumulates_with_resume(tmp_path: Path, images: list[Path], options: list[str]) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    listed = "\0".join(map(str, images[:4])) + "\0"
    done = shell('xargs -0 -n2 $predict --out "$1" --resume "${@:2}"', out, *options, input=listed)
    assert done.returncode == 0
    assert "resuming" in done.stderr
    assert "4 images, 2 of them new, 2 have their results" in done.stderr
    assert main(["predict", *map(str, images[:4]), "--out", str(whole), "--quiet", *options]) == 0
    assert content(out, but=()) == content(whole, but=())


@pytest.mark.slow
def test_xargs_without_resume_loses_nothing(tmp_path: Path, images: list[Path], options: list[str]) -> None:
    out = tmp_path / "out"
    listed = "\0".join(map(str, images[:4])) + "\0"
    done = shell('xargs -0 -n2 $predict --out "$1" "${@:2}"', out, *options, input=listed)
    assert done.returncode == 123  # xargs: some call has failed
    assert f"'{out}' holds a job already: resume it" in done.stderr
    assert [row["source"] for row in rows(out)] == [str(path) for path in images[:2]]
    assert (out / "001.png").exists()


# ------------------------------------------------------------------ pipes and streams


def with_stdin(content: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None if content is None else io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_list_on_standard_input(
    tmp_path: Path, images: list[Path], options: list[str], separator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stdin(separator.join(map(str, images[:3])).encode(), monkeypatch)
    assert main(["predict", "-", str(images[3]), "--out", str(tmp_path / "out"), *options]) == 0
    assert [row["source"] for row in rows(tmp_path / "out")] == [str(path) for path in images[:4]]


@pytest.mark.parametrize(("content", "message"), [(b"\n", "standard input is empty"), (None, "which is closed")])
def test_no_list_on_standard_input(
    tmp_path: Path,
    content: bytes | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_stdin(content, monkeypatch)
    assert main(["predict", "-", "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("redirect", ["| head -n1", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lose_nothing(tmp_path: Path, images: list[Path], options: list[str], redirect: str) -> None:
    out = tmp_path / "out"
    done = shell(f'$predict "$2" "$3" --out "$1" --top-k 1 "${{@:4}}" {redirect}', out, *images[:2], *options)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert [row["id"] for row in rows(out)] == [1, 2]
    assert files(out) == ["000.png", "001.png", "detections.json", "images.json", "job.json", "results"]


def test_full_disk_behind_standard_output_loses_nothing(tmp_path: Path, images: list[Path], options: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = shell('$predict "$2" "$3" --out "$1" "${@:4}" >/dev/full', tmp_path / "out", *images[:2], *options)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "lucid-maskrcnn: [Errno 28] No space left on device"
    assert len(load(tmp_path / "out" / "images.json")["images"]) == 2


def test_full_disk_is_one_sentence_with_the_file(tmp_path: Path, images: list[Path], options: list[str]) -> None:
    out = tmp_path / "out"
    done = shell('ulimit -f 16; $predict "${@:2}" --out "$1" --no-draw', out, *images, *options, "--shard-size", 1000)
    assert done.returncode == 2
    n = num_rows(out)
    sentences = [line for line in done.stderr.splitlines() if line.startswith("lucid-maskrcnn")]
    assert sentences[-1:] == [  # a measurement of coverage writes to that disk, too, and says so
        f"lucid-maskrcnn: '{out}/results/part-00000.jsonl': File too large; {n} of 10 images have their results, "
        "resume to go on."
    ]
    assert 0 < n < 10
    more = [*map(str, images), *options, "--shard-size", "1000", "--no-draw", "--quiet"]
    assert main(["predict", *more, "--out", str(out), "--resume"]) == 0
    assert main(["predict", *more, "--out", str(tmp_path / "whole")]) == 0
    assert content(out, but=()) == content(tmp_path / "whole", but=())


# ------------------------------------------------------------------ arguments and exit codes


def test_folder_pattern_and_names_with_dashes(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder/a.png", "folder/sub/b.png", "p1.png", "p2.png", "-c.png", "-"):
        make_image(Path(name), 64)
    arguments = ["--quiet", *options, "--out", "out", "--", "folder", "p*.png", "-c.png", "./-"]
    assert main(["predict", *arguments]) == 0
    assert [row["source"] for row in rows(Path("out"))] == [
        "folder/a.png",
        "folder/sub/b.png",
        "p1.png",
        "p2.png",
        "-c.png",
        "-",
    ]


def test_resume_without_images_goes_on(
    tmp_path: Path, images: list[Path], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out"), *options]
    assert main(["predict", *map(str, images[:2]), *out]) == 0
    part = tmp_path / "out" / "results" / "part-00000.jsonl"
    part.write_bytes(part.read_bytes().splitlines(keepends=True)[0])
    capsys.readouterr()
    assert main(["predict", "--resume", *out]) == 0
    output, err = capsys.readouterr()
    assert err.startswith(f"resuming {tmp_path / 'out'}: 2 images, 1 have their results\n")
    assert [line.split(":")[0] for line in output.splitlines()[:-1]] == [str(images[1])]


def test_nothing_readable_is_an_exit_code_of_one(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(7)]
    for path in paths:
        path.write_text("no image")
    assert main(["predict", *map(str, paths), "--out", str(tmp_path / "out"), *options]) == 1
    output, err = capsys.readouterr()
    assert output == f"no detections in {tmp_path / 'out' / 'detections.json'}\n"
    lines = err.splitlines()
    assert lines[0] == "lucid-maskrcnn: 7 of 7 images could not be predicted on."
    assert lines[1] == f"  Cannot read the image file '{paths[0]}': it is not an image."
    assert len(lines) == 7
    assert lines[-1] == f"  … all are in {tmp_path / 'out' / 'results'}, as 'error'"


def test_results_as_parquet(
    tmp_path: Path, images: list[Path], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for format in ("jsonl", "parquet"):
        job = [*map(str, images), "--out", str(tmp_path / format), "--format", format, "--quiet", "--no-draw", *options]
        assert main(["predict", *job]) == 0
    assert files(tmp_path / "parquet" / "results") == [".lock", *(f"part-0000{k}.parquet" for k in range(3))]
    results = [(tmp_path / format / "detections.json").read_bytes() for format in ("jsonl", "parquet")]
    assert results[0] == results[1]
    job = ["predict", "--out", str(tmp_path / "parquet"), "--no-draw", "--resume", *options]
    assert main(job) == 2
    assert "format was 'parquet' and is 'jsonl'" in capsys.readouterr().err
    assert main([*job, "--format", "parquet"]) == 0


def test_parquet_without_pyarrow_is_one_sentence(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main(["predict", str(images[0]), "--out", str(tmp_path / "out"), "--format", "parquet"]) == 2
    assert capsys.readouterr().err == (
        "lucid-maskrcnn: format='parquet' (--format parquet) needs pyarrow: pip install 'lucid-maskrcnn[parquet]'.\n"
    )
    assert not (tmp_path / "out").exists()


def test_quiet_prints_the_summary_only(
    tmp_path: Path, images: list[Path], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *map(str, images[:2]), "--out", str(tmp_path / "out"), "--quiet", *options]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_images_are_printed_as_they_were_given(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_image(Path("a.png"), 64)
    assert main(["predict", "a.png", "missing.png", *options]) == 1
    output, err = capsys.readouterr()
    assert output.startswith("a.png: ")
    assert "drawn in out/a.png\n" in output
    assert err.splitlines()[-1] == "  There is no image file 'missing.png'."
    assert [image["file_name"] for image in load(Path("out/images.json"))["images"]] == ["a.png"]


@pytest.mark.filterwarnings("default:Objects may be missing")
def test_limits_are_told_for_each_image(
    tmp_path: Path, images: list[Path], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *map(str, images[:2]), "--out", str(tmp_path / "out"), *options, "--top-k", "1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for path, line in zip(images, lines, strict=False):
        assert line.startswith("lucid-maskrcnn: warning: Objects may be missing: top_k=1 cuts off detections")
        assert f"'{path}'" in line


def test_predict_by_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = Path(lucid_maskrcnn.__file__).parent / "assets" / "nuclei_fluorescence_small.png"
    call = ["predict", str(picture), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*call, "--tiles", "--tile-size", "160", "--overlap", "48"]) == 0
    settings: Any = {"tile_size": 160, "overlap": 48, "score_thresh": 0.5, "progress": False}
    expected = predict_tiled(MaskRCNN.from_file("NUCLEI"), picture, **settings).to_coco(1)
    assert load(tmp_path / "out" / "detections.json") == json.loads(json.dumps(expected))
    assert (tmp_path / "out" / picture.name).exists()
    assert main([*call, "--resume"]) == 2
    assert "tiles was True and is the model's own" in capsys.readouterr().err
    assert main([*call, "--tile-size", "160", "--overwrite"]) == 2
    assert "tile_size is of tiles, got it without tiles=True (--tiles)." in capsys.readouterr().err
