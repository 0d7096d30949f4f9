"""Output whose reader has gone away does not stop the work."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from lucid_maskrcnn.streams import write_text

SCRIPT = """
import sys
from lucid_maskrcnn.streams import write_text
stream = getattr(sys, sys.argv[1])
try:
    for _ in range(3):
        write_text("x" * 100_000 + "\\n", stream)
except OSError as error:
    write_text(f"told: {error.strerror}", sys.stderr)
"""


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_reader_that_goes_away_is_no_error(name: str) -> None:
    line = f'{{ {sys.executable} -c "$0" {name} {"2>&1 >/dev/null" if name == "stderr" else ""}; echo $? >&2; }} | true'
    run = subprocess.run(["bash", "-c", line, SCRIPT], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == "0"
    assert "Error" not in run.stderr


@pytest.mark.parametrize(("name", "told"), [("stdout", "told: No space left on device"), ("stderr", "")])
def test_full_disk_is_an_error_for_standard_output_only(name: str, told: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, name: full}
        run = subprocess.run([sys.executable, "-c", SCRIPT, name], text=True, check=False, **streams)
    assert (run.returncode, run.stderr or "") == (0, told)


def test_closed_stream_takes_nothing() -> None:
    write_text("a", None)


def test_characters_that_cannot_be_encoded_are_escapes() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "latin-1")
    write_text("é 日", stream)
    assert stream.buffer.getvalue() == b"\xe9 \\u65e5"
