"""The notebooks run from beginning to end, show what they promise, and are committed with their outputs.

The long ones run with ``-m slow``; what they import and call is looked up in each run of the tests.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebook_runs import EXAMPLES, run_notebook, text_of

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MAX_BYTES = 1_500_000
# What must hold after the last cell, in the notebook's names.
PROMISES = {
    "quick_start": """
assert 54 <= len(found) <= 60  # a score near the threshold may lie on its other side on another processor
assert (len(whole), len(many)) == (13, 3)
assert 19 <= (np.asarray(found.scores) >= 0.5).sum() <= 21
assert [round(area / 100) for area in largest.areas] == [32, 30, 29]
assert len(__import__("json").loads((out / "nuclei.geojson").read_text())["features"]) == len(table) == 13
""",
    "measure_and_export": """
assert np.abs(np.array([len(found) for found in images]) - [30, 16, 22, 9]).max() <= 1
assert len(table) == sum(map(len, images)) > sum(map(len, kept)) > 50
assert np.allclose(table["area_um2"], table["area"] / 4)
assert (again.areas == first.areas).all()
assert (job.n_images, job.n_failed) == (8, 0)
assert job.n_objects > 100
""",
    "train_shapes": """
assert found.metrics["segm/AP50"] > 0.7
assert again.categories == model.categories
assert np.allclose(again.predict(held_out[0][0])[0].boxes, model.predict(held_out[0][0])[0].boxes, atol=0.01)
""",
    "fine_tune_nuclei": """
assert after.metrics["segm/AP"] > before.metrics["segm/AP"] + 0.06
assert after.metrics["AP_0.5"] > before.metrics["AP_0.5"] + 0.12
""",
}
LONG = ("fine_tune_nuclei", "inside_the_model", "train_shapes")
ids = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else []) for path in NOTEBOOKS],
)
def test_a_notebook_runs_from_a_fresh_clone(path: Path, tmp_path: Path) -> None:
    """In a copy of the examples and nothing else: no error, no warning, and what it promises."""
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("*.ipynb", "out", "__pycache__"))
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    if path.stem in PROMISES:
        notebook.cells.append(nbformat.v4.new_code_cell(PROMISES[path.stem]))
    for cell in code_cells(run_notebook(notebook, folder)):
        said = text_of(cell.outputs, "stderr")
        bars = re.findall(r"[^\r\n]*\|[^\r\n]*\|[^\r\n]*", said)
        assert "".join(bars).strip() == said.strip(), f"{cell.source}\n{said}"
        assert "Warning" not in text_of(cell.outputs), cell.source


def wrong_keywords(tree: ast.Module) -> list[str]:
    """Run the imports of a program and nothing else; return the keywords that what they bring does not take."""
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), "imports", "exec"), names)
    wrong = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        path = ast.unparse(call.func)
        if not re.fullmatch(r"\w+(\.\w+)*", path) or path.partition(".")[0] not in names:
            continue
        try:
            takes = inspect.signature(eval(path, names)).parameters
        except ValueError:  # a function in C tells nothing
            continue
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in takes.values()):
            wrong += [f"{path}({word.arg}=…)" for word in call.keywords if word.arg and word.arg not in takes]
    return wrong


@ids
def test_a_notebook_imports_and_calls_what_there_is(path: Path) -> None:
    code = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    assert wrong_keywords(ast.parse(re.sub(r"(?m)^%config .*$", "", code))) == []


def test_a_wrong_keyword_is_found() -> None:
    program = "from lucid_maskrcnn.training import {}, TrainerSettings as S\n{}(model, step=1, out=S(stepz=3))"
    assert wrong_keywords(ast.parse(program.format("Trainer", "Trainer"))) == ["Trainer(step=…)", "S(stepz=…)"]
    with pytest.raises(ImportError, match="Trainr"):
        wrong_keywords(ast.parse(program.format("Trainr", "Trainr")))


@ids
def test_outputs_are_committed(path: Path) -> None:
    """Of one run from top to bottom, without times and paths of somebody's computer."""
    text, notebook = path.read_text(encoding="utf-8"), nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
    assert not any(text_of(cell.outputs, "stderr") for cell in cells)
    assert len(text.encode()) <= MAX_BYTES
    assert not re.search(r"/(home|root|tmp|Users|work)/|execution_state|iopub|widget-view", text)


@ids
def test_a_notebook_begins_with_a_title_and_has_no_magics(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# \S", notebook.cells[0].source)
    for cell in code_cells(notebook):
        ast.parse(re.sub(r"(?m)^%config .*$", "", cell.source))  # a cell can be copied into a script


@ids
def test_a_notebook_is_listed(path: Path) -> None:
    """In the folder's README, and with a picture in the gallery of the documentation."""
    assert f"({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    gallery = (EXAMPLES.parent / "docs" / "notebooks" / "index.md").read_text(encoding="utf-8")
    assert f":link: {path.stem}\n" in gallery
    assert re.search(rf"^{path.stem}$", gallery, re.MULTILINE)  # in the table of contents


def test_the_command_writes_outputs_and_refuses_warnings(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "run_notebooks.py", tmp_path)
    cells = ["print('a', 6 * 7)", "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass"]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(made, tmp_path / "good.ipynb")
    command = [sys.executable, str(tmp_path / "run_notebooks.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:11]) == (0, "good.ipynb:"), done.stderr
    first, second = nbformat.read(tmp_path / "good.ipynb", as_version=4).cells
    assert text_of(first.outputs) == "a 42\n"
    assert second.outputs == []
    before = (tmp_path / "good.ipynb").read_bytes()
    for source, said in (("import warnings; warnings.warn('oh')", "oh"), ("import os; print(os.getcwd())", "a path")):
        made.cells[0].source = source
        nbformat.write(made, tmp_path / "bad.ipynb")
        done = subprocess.run([*command, "bad"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert said in done.stderr
    assert (tmp_path / "good.ipynb").read_bytes() == before
