"""Completion, asked of the real shells."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from command_line import COMMAND, run_command

from lucid_maskrcnn.cli import build_parser
from lucid_maskrcnn.cli.parser import commands_of

ASK = """
source {script}
complete_words() {{
  COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
  function=$(complete -p lucid-maskrcnn | sed 's/.*-F \\([^ ]*\\).*/\\1/')
  "$function" lucid-maskrcnn "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
  printf '%s\\n' "${{COMPREPLY[@]}}"
}}
complete_words {words}
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    run = run_command("completion", "bash")
    assert (run.returncode, run.stderr) == (0, "")
    path = tmp_path_factory.mktemp("completion") / "script"
    path.write_text(run.stdout, encoding="utf-8")
    return path


def completed(script: Path, *words: str, cwd: Path | None = None) -> list[str]:
    """Return what bash offers for the last word."""
    source = ASK.format(script=shlex.quote(str(script)), words=shlex.join(["lucid-maskrcnn", *words]))
    run = subprocess.run(["bash", "--norc", "-c", source], capture_output=True, text=True, check=False, cwd=cwd)
    assert run.stderr == ""
    return [line for line in run.stdout.splitlines() if line]


def test_commands(script: Path) -> None:
    assert set(completed(script, "")) >= set(commands_of(build_parser()))
    assert completed(script, "pred") == ["predict"]
    assert completed(script, "--v") == ["--version"]


def test_options_of_each_command(script: Path) -> None:
    for name, (_, command) in commands_of(build_parser()).items():
        assert set(completed(script, name, "--")) == {o for o in command._option_string_actions if o.startswith("--")}


def test_values(script: Path, tmp_path: Path) -> None:
    (tmp_path / "NUCLEI_mine.safetensors").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "image.png").touch()
    assert completed(script, "predict", "a.png", "--device", "m") == ["mps", "metal"]
    names = completed(script, "predict", "--weights", "NU", cwd=tmp_path)
    assert names == ["NUCLEI", "NUCLEI_mine.safetensors"]
    assert completed(script, "info", "COCO_D2", cwd=tmp_path) == ["COCO_D2_1X", "COCO_D2_3X"]
    assert sorted(completed(script, "predict", "im", cwd=tmp_path)) == ["image.png", "images"]
    assert completed(script, "predict", "image.png", "--out", "im", cwd=tmp_path) == ["images"]
    assert completed(script, "evaluate", "im", cwd=tmp_path) == ["images"]
    assert "IMAGENET1K_V1" in completed(script, "train", "images", "--weights-backbone", "IMA", cwd=tmp_path)
    assert completed(script, "completion", "f") == ["fish"]


def test_interactive_bash_completes_with_the_tabulator(script: Path, tmp_path: Path) -> None:
    """As a person does it: the script sourced, a word begun, and the key pressed."""
    import os
    import pty

    ours, its = pty.openpty()
    env = os.environ | {"PS1": "", "INPUTRC": "/dev/null", "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}"}
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=its, stdout=its, stderr=its, env=env, start_new_session=True
    )
    os.close(its)
    os.write(
        ours, f"source {shlex.quote(str(script))}\nlucid-maskrcnn vers\x15lucid-maskrcnn eval\t--help\nexit\n".encode()
    )
    printed = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        printed += part
    bash.wait()
    assert b"usage: lucid-maskrcnn evaluate" in printed


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_script_is_that_shells_language(shell: str, tmp_path: Path) -> None:
    run = run_command("completion", shell)
    assert (run.returncode, run.stderr) == (0, "")
    assert "predict" in run.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here to read it")
    path = tmp_path / "script"
    path.write_text(run.stdout, encoding="utf-8")
    check: Mapping[str, list[str]] = {"zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}
    assert subprocess.run([*check[shell], str(path)], capture_output=True, check=False).returncode == 0


def test_without_shtab_the_sentence_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from lucid_maskrcnn.cli import main

    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'lucid-maskrcnn[completion]'" in capsys.readouterr().err
