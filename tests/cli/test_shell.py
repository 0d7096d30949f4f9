"""The installed command in real processes: help, examples, tables on a terminal, encodings, streams, exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, run_command, run_on_terminal
from PIL import Image

from lucid_maskrcnn import list_weights
from lucid_maskrcnn.cli import build_parser, main
from lucid_maskrcnn.cli.overview import EXAMPLES, GROUPS
from lucid_maskrcnn.cli.parser import commands_of
from lucid_maskrcnn.text_tables import cell_width

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo terminals that Python opens")


def png(path: Path, size: int = 16) -> Path:
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(path)
    return path


# ------------------------------------------------------------------ the overview


def test_overview_lists_each_command_once_with_examples() -> None:
    run = run_command()
    assert (run.returncode, run.stderr) == (0, "")
    listed = [name for names in GROUPS.values() for name in names]
    commands = commands_of(build_parser())
    assert set(commands) <= set(listed)
    assert len(listed) == len(set(listed))
    for name, (text, _) in commands.items():
        assert text
        assert sum(line.startswith(f"  {name} ") for line in run.stdout.splitlines()) == 1
    assert all(f"\n    lucid-maskrcnn {arguments}\n" in run.stdout for arguments in EXAMPLES.values())
    assert max(map(len, run.stdout.splitlines())) < 80


def test_package_is_a_command_too() -> None:
    module = subprocess.run(
        [sys.executable, "-m", "lucid_maskrcnn"], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert module.stdout == run_command().stdout


def nuclei(folder: Path) -> None:
    """Write images/a.png and data.json: a nucleus a bright square, in a small picture."""
    (folder / "images").mkdir()
    pixels = np.full((64, 64, 3), 20, np.uint8)
    annotations = []
    for k, (x, y) in enumerate([(8, 8), (40, 36)], start=1):
        pixels[y : y + 14, x : x + 14] = 200
        corners = [x, y, x + 14, y, x + 14, y + 14, x, y + 14]
        annotations.append(
            {"id": k, "image_id": 1, "category_id": 1, "bbox": [x, y, 14, 14], "area": 196, "iscrowd": 0}
            | {"segmentation": [corners]}
        )
    Image.fromarray(pixels).save(folder / "images" / "a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 64, "width": 64}]
    categories = [{"id": 1, "name": "nucleus"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "data.json").write_text(json.dumps(content))


def test_examples_run_as_they_are_printed(tmp_path: Path) -> None:
    nuclei(tmp_path)
    for arguments in EXAMPLES.values():
        if "COCO_V1" in arguments:  # 170 MB to download: its arguments are sound
            build_parser().parse_args(shlex.split(arguments))
            continue
        run = run_command(*shlex.split(arguments), cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "found" / "detections.json").exists()
    assert (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "same"), [("help", "--help"), ("help predict", "predict --help"), ("version", "--version")]
)
def test_words_that_other_programs_have(arguments: str, same: str) -> None:
    run = run_command(*arguments.split())
    assert run.returncode == 0
    assert run.stdout == run_command(*same.split()).stdout


# ------------------------------------------------------------------ tables


@on_posix
@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize("arguments", [["info"], ["info", "NUCLEI"], ["env"]])
def test_tables_fit_the_terminal(columns: int, arguments: list[str]) -> None:
    lines = run_on_terminal(columns, *arguments)
    sentences = ("lucid-maskrcnn info NAME", "80 kinds", "nuclei in", "training on")  # which the terminal may break
    assert max(len(line) for line in lines if not line.startswith(sentences)) <= columns


@on_posix
def test_names_and_values_lose_nothing_on_a_narrow_terminal() -> None:
    narrow = "".join("".join(run_on_terminal(60, "info", "NUCLEI")).split())
    assert narrow == "".join(run_command("info", "NUCLEI").stdout.split())


def test_tables_are_whole_in_a_pipe() -> None:
    text = run_command("info", env={"COLUMNS": "40"}).stdout
    assert "…" not in text
    assert all(entry.architecture in text for entry in list_weights())


def test_weights_are_listed_by_what_they_are_for() -> None:
    lines = run_command("info").stdout.splitlines()
    assert lines[0].startswith("gpu  ")
    headings = [line for line in lines if line.endswith(":")]
    assert headings[0] == "nuclei in microscopy images, fluorescence or stained:"
    assert len(headings) == 3
    assert lines[lines.index(headings[0]) + 1].split()[0] == "NUCLEI"


# ------------------------------------------------------------------ names and encodings


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_of_any_script_on_consoles_of_any_encoding(tmp_path: Path, encoding: str) -> None:
    images = [png(tmp_path / f"{name}.png") for name in ("日本語", "Äpfel é", "кот")]
    env = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [COMMAND, "predict", *map(str, images), "--out", str(tmp_path / "out"), "--no-draw"]
    run = subprocess.run(command, capture_output=True, env=env, check=False)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.decode(encoding).splitlines()
    assert len(lines) == 4
    if encoding != "utf-8":
        assert r"\u65e5\u672c\u8a9e.png" in lines[0]


@on_posix
def test_wide_letters_count_two_cells(tmp_path: Path) -> None:
    folder = tmp_path / ("細胞の画像" * 8)
    folder.mkdir()
    (folder / "nuclei.safetensors").write_bytes(
        (Path(__file__).parents[2] / "lucid_maskrcnn/assets/nuclei_resnet18_fpn.safetensors").read_bytes()
    )
    lines = run_on_terminal(60, "info", folder / "nuclei.safetensors")
    assert max(map(cell_width, lines)) <= 60


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("vresion", "Did you mean 'version'?"),
        ("predicts a.png", "Did you mean 'predict'?"),
        ("a.png", "Did you mean 'predict a.png'?"),
        ("NUCLEI", "Did you mean 'info NUCLEI'?"),
        ("info --score-thresh 0.5", "it is an option of 'demo', 'predict', "),
        ("predict --version", "it is an option of 'lucid-maskrcnn'."),
        ("predict a.pgn", "There is no image file 'a.pgn'. Did you mean 'a.png'?"),
        ("predict image", "There is no image file 'image'. Did you mean 'images'?"),
        ("predict imags/b.png", "Did you mean 'images'?"),
        ("predict a.png --weights NUCLIE", "Did you mean 'NUCLEI'?"),
        ("predict a.png --weights mine.safetensor", "Did you mean 'mine.safetensors'?"),
        ("evaluate imges data.json", "There is no folder of images 'imges'. Did you mean 'images'?"),
        ("evaluate images dta.json", "'dta.json': No such file or directory. Did you mean 'data.json'?"),
        ("train images data.jsn --out o --epochs 1", "Did you mean 'data.json'?"),
    ],
)
def test_what_may_have_been_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    hint: str,
) -> None:
    png(tmp_path / "a.png")
    nuclei(tmp_path)
    (tmp_path / "mine.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert exit_code(arguments.split()) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert hint in said


def exit_code(arguments: list[str]) -> int:
    """Run the command in this process: what a sentence says does not depend on the shell."""
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        ("info a b", "usage: lucid-maskrcnn info [NAME|FILE] [OPTIONS]"),
        ("predict", "usage: lucid-maskrcnn predict [IMAGE ...] [OPTIONS]"),
        ("convert a", "usage: lucid-maskrcnn convert IN OUT [OPTIONS]"),
        ("completion", "usage: lucid-maskrcnn completion SHELL [OPTIONS]"),
        (
            "train a",
            "usage: lucid-maskrcnn train (--epochs N | --steps N | --minutes N) --out DIR IMAGES [ANNOTATIONS] "
            "[OPTIONS]",
        ),
        ("nothing", "usage: lucid-maskrcnn COMMAND ..."),
    ],
)
def test_usage_of_the_right_command_follows_the_sentence(
    capsys: pytest.CaptureFixture[str], arguments: str, usage: str
) -> None:
    assert exit_code(arguments.split()) == 2
    sentence, line = capsys.readouterr().err.splitlines()
    assert sentence.startswith("lucid-maskrcnn")
    assert line == usage


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_half_precision_without_a_gpu(tmp_path: Path, device: str) -> None:
    run = run_command("predict", png(tmp_path / "a.png"), "--device", device, "--dtype", "float16", cwd=tmp_path)
    if "--device gpu, which is" in run.stderr:
        pytest.skip("this machine has a GPU")
    assert run.returncode == 2
    assert "--dtype float16 needs a GPU" in run.stderr
    assert "leave out --dtype" in run.stderr
    assert 'choose "gpu"' not in run.stderr
    assert len(run.stderr.splitlines()) == 1


# ------------------------------------------------------------------ streams


def test_quiet_says_results_only(tmp_path: Path) -> None:
    run = run_command("predict", png(tmp_path / "a.png"), "--out", tmp_path / "out", "--quiet")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"no detections in {tmp_path / 'out' / 'detections.json'}\n"


def test_some_images_that_cannot_be_read_are_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no image")
    run = run_command("predict", png(tmp_path / "a.png"), tmp_path / "b.png", "--out", tmp_path / "out")
    assert run.returncode == 1
    assert "1 of 2 images could not be predicted on" in run.stderr


@on_posix
@pytest.mark.parametrize("arguments", ["info", "completion bash"])
def test_reader_that_goes_away(arguments: str) -> None:
    line = f"set -o pipefail; {shlex.quote(COMMAND)} {arguments} | head -c 1 > /dev/null"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_no_escapes_of_terminals_are_printed(tmp_path: Path) -> None:
    """NO_COLOR has nothing to switch off but the colors of argparse's help, on Python 3.14."""
    for arguments in ("--help", "predict --help", "info"):
        assert "\x1b" not in run_command(*arguments.split(), env={"NO_COLOR": "1", "FORCE_COLOR": ""}).stdout
    png(tmp_path / "a.png")
    if sys.platform != "win32":
        lines = run_on_terminal(80, "predict", "a.png", "--out", "out", "--quiet", cwd=tmp_path)
        assert not any("\x1b" in line for line in lines)
