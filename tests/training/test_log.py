"""The log of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_processes import finish, num_logged, run_in_process, wait_for
from tiny_runs import (
    Interrupting,
    steps_of,
    toy_settings,
    toy_trainer,
)

from lucid_maskrcnn.training import (
    Interrupted,
    read_log,
)


def test_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first = run_in_process(tmp_path / "run", "--wait", 0.2)
    wait_for(lambda: num_logged(tmp_path / "run") >= 1)
    with pytest.raises(ValueError, match="run' is in use: another run is writing there"):
        toy_trainer(tmp_path / "run", resume="auto").run()
    first.kill()
    finish(first)
    assert toy_trainer(tmp_path / "run", resume="auto").run().step == 40


def test_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        toy_trainer(out, loader=Interrupting(2, side=8, at=9)).run()
    with open(out / "log.jsonl", "a") as file:
        file.write('{"step": 6, "of": "steps that no checkpoint has"}\n{"step": 7, "cut of')
    (out / f".{'0' * 32}.tmp").write_text("half a file")
    (out / ".mine.tmp").write_text("not of a killed run")
    toy_trainer(out, resume=True).run()
    assert steps_of(out) == list(range(1, 41))
    assert [p.name for p in out.glob(".*")] == [".mine.tmp"]


@pytest.mark.parametrize("content", ["mine\n", '{"mine": 1}\n', '{"step": "one"}\n', "[]\n"])
def test_file_that_is_not_a_log_is_left_unchanged(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"log.jsonl' is not the log of a run: move it away"):
        toy_trainer(tmp_path).run()
    assert (tmp_path / "log.jsonl").read_text() == content


@pytest.mark.parametrize(
    "content",
    [
        "mine\n",
        '{"images": []}',
        '{\n "step": 1\n}',
        "[]\n",
        '{"step": "one"}\n',
        '{"step": true}\n',
        "\n",
        "PK",
        "[" * 100_000,
    ],
)
def test_read_log_refuses_other_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other.json' is not the log of a run, such as log.jsonl of a run's folder"):
        read_log(path)
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path / "nothing.jsonl")
    with pytest.raises(TypeError, match="path must be a path as str or Path, got None"):
        read_log(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("unfinished", ["", "{", '{"st', '{"step": 2, "sec', '{"step": 2}'])
def test_read_log_leaves_out_an_unfinished_line(tmp_path: Path, unfinished: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n' + unfinished)
    assert read_log(path) == [{"step": 1}]


def test_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    toy_trainer(tmp_path, toy_settings(3)).run()
    assert steps_of(tmp_path) == [1, 2, 3]


def test_log_holds_json_only(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", toy_settings(4)).run()
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
