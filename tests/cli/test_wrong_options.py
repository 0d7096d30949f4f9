"""Every option of every command with wrong values: a sentence on stderr that names it, the usage, and exit code 2.

The commands are told to look for files that there are not: what says so has taken the options before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from lucid_maskrcnn.cli import build_parser, main
from lucid_maskrcnn.cli.parser import commands_of

# Arguments of each command that let it fail before it does anything, once its options are read.
NOWHERE = {
    "app": ["--weights", "nowhere.pth"],
    "check-data": ["nowhere", "nowhere.json"],
    "convert": ["nowhere.pth", "out.safetensors"],
    "convert-data": ["nowhere.json", "out.json"],
    "split-data": ["nowhere.json", "out"],
    "suggest": ["nowhere", "nowhere.json"],
    "demo": ["--out", "nowhere/deep.png"],
    "export": ["nowhere.pth", "out.onnx"],
    "evaluate": ["nowhere", "nowhere.json"],
    "info": ["nowhere.pth"],
    "predict": ["nowhere.png"],
    "train": ["nowhere", "nowhere.json", "--out", "out", "--steps", "1"],
}
WRONG = ["nope", "", "-1", "0", "nan", "inf", "1.5", "99999999999999999999", "a,b"]
ANY_TEXT = {  # files and names, which are looked for later
    *("--weights", "--weights-backbone", "--out", "--labels", "--draw", "--keep-best", "--classes", "--host"),
    *("--config", "--categories"),
    *("--results", "--wandb", "--mlflow", "--images", "--names", "--attribute", "--group-by"),
    *("--val-images", "--val-annotations", "--val-labels"),
}
ZERO = {  # what 0 means is said in the help
    *("--score-thresh", "--nms-thresh", "--mask-thresh", "--min-area", "--max-area", "--page", "--channels", "--seed"),
    *("--trainable-layers", "--momentum", "--weight-decay", "--warmup", "--max-grad-norm", "--ema", "--overlap"),
    "--freeze-bn-after",
    "--port",
}
FRACTIONS = {
    "--distributed-timeout",
    "--epochs",
    "--minutes",
    "--min-area",
    "--max-area",
    "--lr",
    "--weight-decay",
    "--max-grad-norm",
    "--max-upload",
    "--max-pixels",
}
UNBOUNDED = {
    *("--min-area", "--max-area", "--top-k", "--page", "--channels", "--tile-size", "--overlap", "--shard-size"),
    *("--limit", "--batch-size", "--crop", "--min-size", "--max-size", "--steps", "--accumulate", "--processes"),
    *("--lr", "--weight-decay", "--warmup", "--max-grad-norm", "--save-every", "--keep-last", "--eval-every"),
    *("--patience", "--max-upload", "--max-pixels", "--epochs", "--minutes", "--distributed-timeout"),
}


def options() -> list[tuple[str, str, bool]]:
    """Return command, option, and whether it takes a value."""
    found = []
    for command, (_, parser) in commands_of(build_parser()).items():
        for action in parser._actions:
            if action.option_strings and not isinstance(action, argparse._HelpAction):
                found += [(command, name, action.nargs != 0) for name in action.option_strings if name[:2] == "--"]
    return found


OPTIONS = options()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the sentence that a command answers with."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(str(stop.code))
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), (arguments, out, err)
    sentence, *usage = err.splitlines()
    assert [line[:7] for line in usage] in ([], ["usage: "]), err
    assert sentence.endswith((".", "?")), err
    return sentence


def takes(option: str, value: str) -> bool:
    """Return whether an option takes one of the wrong values, which are right for some."""
    return (
        option in ANY_TEXT
        or (value == "0" and option in ZERO)
        or (value == "1.5" and option in FRACTIONS)
        or (value == "99999999999999999999" and option in UNBOUNDED)
    )


def test_every_command_with_options_is_here() -> None:
    commands = {command for command, _, _ in OPTIONS}
    assert commands - set(NOWHERE) - {"env"} == set(), "add arguments with which the new command fails before it works"


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, o, takes_value in OPTIONS if takes_value])
def test_wrong_values_are_named(capsys: pytest.CaptureFixture[str], command: str, option: str) -> None:
    for value in WRONG:
        if not takes(option, value):
            said = answer(capsys, command, *NOWHERE[command], f"{option}={value}")
            assert option in said, f"{option}={value}: {said}"
    assert option in answer(capsys, command, *NOWHERE[command], option)


@pytest.mark.parametrize(("command", "option", "takes_value"), OPTIONS)
def test_misspelt_options_get_a_suggestion(
    capsys: pytest.CaptureFixture[str], command: str, option: str, takes_value: bool
) -> None:
    misspelt = option + option[-1]
    said = answer(capsys, command, *NOWHERE.get(command, []), misspelt)
    assert f"there is no option {misspelt!r}; did you mean {option!r}?" in said
    if not takes_value:
        assert option in answer(capsys, command, *NOWHERE.get(command, []), f"{option}=yes")


@pytest.mark.parametrize("command", NOWHERE)
def test_missing_files_are_named(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "nowhere" in answer(capsys, command, *NOWHERE[command])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--milestones", "3,4"], "--milestones must be a number above 0 and below 1, got 3.0."),
        (["--milestones", "0.8,0.5"], "--milestones must be fractions in ascending order, got '0.8,0.5'."),
        (["--momentum", "2"], "--momentum must be a number of at least 0 and below 1, got 2.0."),
        (["--trainable-layers", "6"], "--trainable-layers must be an integer from 0 to 5, got 6."),
    ],
)
def test_numbers_of_a_run_are_checked_as_they_are_read(
    capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert sentence in answer(capsys, "train", *NOWHERE["train"], *options)
