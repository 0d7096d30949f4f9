"""Output whose reader has gone away does not stop the work; progress bars, also in a notebook."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from notebook_runs import WITHOUT_WIDGETS, data_of, run_cells, text_of

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


# ------------------------------------------------------------------ progress in a notebook

PREPARE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "Objects may be missing")
from pathlib import Path
import numpy as np
from PIL import Image
from tiny_runs import TrainerSettings, slim, toy_trainer
from lucid_maskrcnn import predict_files, predict_stream, predict_tiled, save_weights
from lucid_maskrcnn.evaluation import evaluate
from lucid_maskrcnn.data import CocoInstances
import data_sets
data_sets.write(Path())
for i in range(3):
    Image.new("RGB", (64, 64)).save(f"{{i}}.png")
model = slim(num_classes=3)
save_weights(model, "w.safetensors")
assert "tqdm.auto" not in sys.modules
"""
BARS = {
    "3/3 steps": """
run = toy_trainer(Path("run"), TrainerSettings(steps=3), progress=True, evaluate=lambda model: {"AP": 0.25}).run()
""",
    "4/4": "result = evaluate(model, CocoInstances('images', 'instances.json'))",
    "3/3": "result = predict_files(['0.png', '1.png', '2.png'], 'w.safetensors', 'job', draw=False)",
    "2/2": "for found in predict_stream(model, ['0.png', '1.png'], progress=True): pass",
    "16/16": "found = predict_tiled(model, np.zeros((200, 200, 3), np.uint8), tile_size=64, overlap=8)",
}
LEAVE_NOTHING = ("4/4", "16/16")  # bars of a part of the work, which vanish at their end
SILENT = """
found = predict_tiled(model, np.zeros((200, 200, 3), np.uint8), tile_size=64, overlap=8, progress=False)
for found in predict_stream(model, ["0.png"]): pass
"""


@pytest.mark.once
@pytest.mark.parametrize("widgets", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_bars_show_in_a_notebook(tmp_path: Path, widgets: bool) -> None:
    """As widgets, or as text without a word about widgets; warnings are errors in that kernel."""
    before = [] if widgets else [WITHOUT_WIDGETS]
    outputs = run_cells(tmp_path, *before, PREPARE, *BARS.values(), SILENT)
    outputs = outputs[len(before) + 1 :]
    assert outputs.pop() == []
    for end, cell in zip(BARS, outputs, strict=True):
        shown = [data for data in data_of(cell) if "application/vnd.jupyter.widget-view+json" in data]
        assert len(shown) == widgets, end
        text = text_of(cell, "stderr")
        assert text.count("\n") <= 1, text
        if not widgets and end not in LEAVE_NOTHING:
            assert end in text
    assert text_of(outputs[0], "stdout") == "learning rate 0.0025: 0.00125 × 2\nstep 3: AP 0.250\n"
