"""The command line as a whole: its parser, its answers to mistakes, its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn import Detections, MaskRCNN, __version__
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.cli.common import say, say_device
from lucid_maskrcnn.ops import backend


def exit_code(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as error:
        return int(error.code or 0)


def test_version_of_the_package_and_of_what_it_depends_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"lucid-maskrcnn {__version__}, lucid-dl {version('lucid-dl')}, mlx ")
    assert "Python 3." in line


def test_versions_of_package_and_distribution_are_one() -> None:
    assert version("lucid-maskrcnn") == __version__


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_list_of_commands(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert exit_code(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(name in out for name in ("demo", "predict", "evaluate", "check-data", "train", "convert", "info"))


@pytest.mark.parametrize("command", ["demo", "predict", "evaluate", "check-data", "train", "convert", "info"])
def test_help_of_each_command(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert exit_code([command, "--help"]) == 0
    assert f"usage: lucid-maskrcnn {command}" in capsys.readouterr().out


# ------------------------------------------------------------------ mistakes

MISTAKES = {
    "predit a.png": "lucid-maskrcnn: COMMAND must be one of 'demo', 'predict', .* Did you mean 'predict'?",
    "--vresion": "lucid-maskrcnn: there is no option '--vresion'; did you mean '--version'?",
    "--score-thresh 0.5": "lucid-maskrcnn: there is no option '--score-thresh'; it is an option of .*'export'.",
    "--scores 0.5": "lucid-maskrcnn: there is no option '--scores'; 'lucid-maskrcnn --help' lists them.",
    "predict": "lucid-maskrcnn predict: missing: IMAGE; see 'lucid-maskrcnn predict --help'.",
    "predict a.png --score-tresh 0.5": "lucid-maskrcnn predict: there is no option '--score-tresh'; "
    "did you mean '--score-thresh'?",
    "predict --score-tresh=0.5": "lucid-maskrcnn predict: there is no option '--score-tresh'; "
    "did you mean '--score-thresh'?",
    "predict a.png --score 0.5": "lucid-maskrcnn predict: there is no option '--score'; did you mean '--score-thresh'?",
    "predict a.png -w NUCLEI": "lucid-maskrcnn predict: there is no option '-w'; "
    "'lucid-maskrcnn predict --help' lists them.",
    "predict a.png --score-thresh": "lucid-maskrcnn predict: --score-thresh: expected one argument.",
    "predict a.png --score-thresh 1.5": "lucid-maskrcnn predict: --score-thresh must be a number between 0 and 1, "
    "got 1.5.",
    "predict a.png --device tpu": "lucid-maskrcnn predict: --device must be one of 'cpu', 'gpu', 'cuda', 'mps', "
    "'metal', 'auto', got 'tpu'.",
    "predict a.png --out=": "lucid-maskrcnn predict: --out must not be an empty string.",
    "evaluate a b --limit 0": "lucid-maskrcnn evaluate: --limit must be a positive integer, got 0.",
    "train a b --out c --epochs 1 --seed -1": "lucid-maskrcnn train: --seed must be an integer from 0 to 2147483647, "
    "got -1.",
    "train a b --out c --epochs x": "lucid-maskrcnn train: --epochs must be a number above 0, got 'x'.",
    "info a b": "lucid-maskrcnn info: one argument too many: 'b'.",
}


@pytest.mark.parametrize(("line", "sentence"), MISTAKES.items(), ids=list(MISTAKES))
def test_mistake_in_the_arguments_is_one_sentence(capsys: pytest.CaptureFixture[str], line: str, sentence: str) -> None:
    assert exit_code(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    start, _, end = sentence.partition(".*")
    said, usage = err.splitlines()
    assert said.startswith(start)
    assert said.endswith(end)
    assert usage.startswith(f"usage: {sentence.partition(':')[0]} ")


@pytest.mark.parametrize("defect", [lambda: int("x"), lambda: len(5), lambda: np.zeros(2) + np.zeros(3)])
def test_defects_keep_their_tracebacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: Callable[[], object]
) -> None:
    """Only what the package raises by a statement of its own is the answer to a mistake."""
    monkeypatch.setattr(MaskRCNN, "predict", lambda *_, **__: defect())
    with pytest.raises((TypeError, ValueError)):
        main(["demo", "--out", str(tmp_path / "demo.png")])


def test_control_characters_of_names_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(tmp_path / "a\x1b[2J\n\u202e.png")]) == 2
    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    say("a\x1b[2J\udcff\u202e é 日本")
    assert capsys.readouterr().out == "a\\x1b[2J\\udcff\\u202e é 日本\n"


def test_warnings_are_one_line_without_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def predict(model: MaskRCNN, *arguments: Any, **options: Any) -> list[Detections]:
        with warnings.catch_warnings(action="always"):
            warnings.warn("the image\nis large", UserWarning, stacklevel=1)
        return original(model, *arguments, **options)

    original = MaskRCNN.predict
    monkeypatch.setattr(MaskRCNN, "predict", predict)
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 0
    assert capsys.readouterr().err == "lucid-maskrcnn: warning: the image is large\n"


def test_full_disk_behind_stdout_is_one_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    for command in ("--help", "info"):
        with open("/dev/full", "w") as full:
            line = [sys.executable, "-m", "lucid_maskrcnn.cli", command]
            run = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (run.returncode, run.stderr) == (2, "lucid-maskrcnn: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "| true"])
def test_closed_streams_do_not_change_the_exit_code(redirect: str) -> None:
    line = f"set -o pipefail; {sys.executable} -m lucid_maskrcnn.cli --help {redirect}"
    run = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, check=False, env=os.environ)
    assert (run.returncode, run.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("cuda", "gpu", "gpu: CUDA, a card, TF32 off\n"),
        ("cuda", "cuda", "gpu: CUDA, a card, TF32 off\n"),
        ("metal", "auto", "gpu: Metal, a card, TF32 off\n"),
        ("cpu", "auto", "--device auto: cpu, as MLX has no GPU here (a card)\n"),
        ("cpu", "gpu", ""),  # which a warning tells
        ("cuda", "cpu", ""),
    ],
)
def test_what_computes_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, given: str, said: str
) -> None:
    monkeypatch.setattr(backend, "gpu_kind", lambda: kind)
    monkeypatch.setattr(backend, "_device_name", lambda: "a card")
    monkeypatch.setattr(backend, "_computes_in_tf32", lambda _: False)
    say_device(given)
    assert capsys.readouterr().err == said


def test_auto_predicts_and_says_on_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    assert exit_code(["predict", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--device", "auto"]) == 0
    assert len([line for line in capsys.readouterr().err.splitlines() if "gpu: " in line or "auto: " in line]) == 1
