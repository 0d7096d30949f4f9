"""Imports run one way; see "Where things live" in CONTRIBUTING.md.

Read from the source with :mod:`ast`, so that imports inside functions count too. Imports under
``if TYPE_CHECKING`` do not: they draw no arrow when the program runs.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lucid_maskrcnn

PACKAGE = "lucid_maskrcnn"
ROOT = Path(lucid_maskrcnn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Rooms of the package by tier: a room may import those of earlier tiers, and of its own tier those before it.
TIERS: tuple[tuple[str, ...], ...] = (
    (
        "version",
        "validators",
        "remote_files",
        "call_answers",
        "streams",
        "text_tables",
        "reprs",
        "user_warnings",
        "json_text",
        "config",
        "atomic",
        "ops",
        "array_arguments",
        "plotting",
    ),
    ("images", "transforms", "masks"),
    ("measure", "annotation_formats", "visualization"),
    ("detections", "targets", "weights"),
    ("models", "data"),
    ("inference", "export"),
    ("evaluation",),
    ("training",),
    ("app",),
    ("cli",),
)
ROOMS = [room for tier in TIERS for room in tier]
ARROWS: dict[str, set[str]] = {room: set(ROOMS[:i]) for i, room in enumerate(ROOMS)}
# Files that may do what their part may not.
# weights="..." may be a name or a path there; the reader is a call away.
# The answers of the page's server are imported when it starts.
EXCEPTIONS = {"models/factories.py": {"weights", "pathlib"}, "app/routes.py": {"starlette"}}

FILE_MODULES = {
    "PIL",
    "filelock",
    "glob",
    "io",
    "json",
    "os",
    "pathlib",
    "pickle",
    "requests",
    "safetensors",
    "shutil",
    "tempfile",
    "urllib",
}
DEPENDENCIES = {
    {"lucid-dl": "lucid", "pillow": "PIL"}.get(name, name)
    for name in (
        re.split(r"[^\w-]", line)[0]
        for line in tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    )
}
OPTIONAL = {
    "fsspec",
    "IPython",
    "mlflow",
    "mpi4py",
    "onnx",
    "wandb",
    "pycocotools",
    "starlette",
    "uvicorn",
    "matplotlib",
    "shtab",
    "tensorboard",
    "pandas",
    "psutil",
    "ray",
    "pyarrow",
    "roifile",
    "supervision",
    "yaml",
}  # extras: imported inside the function that needs them


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from statements(other)
        else:
            yield from statements(node)


def imports(path: Path, nodes: Iterator[ast.AST] | None = None) -> list[tuple[str, int]]:
    """Return the dotted names that a file imports, absolute, each with its line."""
    package = [PACKAGE, *path.relative_to(ROOT).parts[:-1]]
    found = []
    for node in statements(tree_of(path)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def module_level(path: Path) -> list[tuple[str, int]]:
    """Return what is imported as soon as the file is."""
    skipped = {
        id(inner)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    return imports(path, (n for n in statements(tree_of(path)) if id(n) not in skipped))


def inside(dotted: str) -> str | None:
    """Return the part of this package that a dotted name lies in."""
    head, _, rest = dotted.partition(".")
    return rest.split(".")[0] if head == PACKAGE and rest else None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    if part in {"__init__", "__main__"}:
        return
    assert part in ARROWS, f"{part} is new: say in tests/test_layering.py what it may import."
    allowed = ARROWS[part] | EXCEPTIONS.get(name_of(path), set()) | {part}
    wrong = [
        f"{name_of(path)}:{line} imports {dotted}"
        for dotted, line in imports(path)
        if inside(dotted) in ARROWS and inside(dotted) not in allowed
    ]
    assert wrong == []


def test_arrows_form_no_circle() -> None:
    assert set().union(*ARROWS.values()) <= set(ARROWS)
    TopologicalSorter(ARROWS).prepare()


def test_files_form_no_circle() -> None:
    """No file needs another, directly or not, that needs it, when both are being imported."""
    modules = {}
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join([PACKAGE, *parts]).removesuffix(".__init__")] = path
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = [dotted for dotted, _ in module_level(path)]
        # "from .x import y" is an import of x, and of x.y where that is a file
        targets = {n if n in modules else n.rpartition(".")[0] for n in names} & set(modules)
        graph[module] = targets - {module, PACKAGE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_one_file_knows_lucids_insides(path: Path) -> None:
    if name_of(path) == "ops/_operation.py":
        return
    wrong = [
        f"{name_of(path)}:{line} imports {dotted}"
        for dotted, line in imports(path)
        if dotted.split(".")[0] == "lucid" and any(p.startswith("_") for p in dotted.split(".")[1:])
    ]
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Attribute):
            continue
        of_lucid = isinstance(node.value, ast.Name) and node.value.id == "lucid" and node.attr.startswith("_")
        if of_lucid or node.attr in {"_prev", "_backward_op", "_backward_hooks", "_is_free", "_version"}:
            wrong.append(f"{name_of(path)}:{node.lineno} uses {ast.unparse(node)}")
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_dependencies_are_the_declared_ones(path: Path) -> None:
    """Extras are imported where they are used, and torch nowhere."""
    known = set(sys.stdlib_module_names) | {PACKAGE, "__future__"} | DEPENDENCIES | EXCEPTIONS.get(name_of(path), set())
    at_once = [f"{name_of(path)}:{line} {d}" for d, line in module_level(path) if d.split(".")[0] not in known]
    assert at_once == [], "Declare it in pyproject.toml, or import it in the function that needs it."
    lazily = {d.split(".")[0] for d, _ in imports(path)} - known
    assert lazily <= OPTIONAL


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) == "models"], ids=name_of)
def test_models_see_tensors_only_and_no_files(path: Path) -> None:
    forbidden = (FILE_MODULES | {"numpy", "mlx"}) - EXCEPTIONS.get(name_of(path), set())
    wrong = [f"{name_of(path)}:{line} imports {d}" for d, line in imports(path) if d.split(".")[0] in forbidden]
    wrong += [
        f"{name_of(path)}:{node.lineno} opens a file"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]
    assert wrong == []


def test_every_stem_names_one_file() -> None:
    """A file's or a folder's name says which it is, wherever it stands: in an error, a tab, a search."""
    names = [path.stem for path in FILES if path.stem not in {"__init__", "__main__"}]
    names += [path.parent.name for path in FILES if path.stem == "__init__"]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def private_module(path: Path, dotted: str) -> bool:
    """Whether a name is, or lies in, an underscore module of another package folder of this package."""
    parts = dotted.split(".")
    private = next((i for i, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")), None)
    if parts[0] != PACKAGE or private is None:
        return False
    folder = ROOT.joinpath(*parts[1:private])
    return (folder / f"{parts[private]}.py").exists() and folder != path.parent


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_underscore_modules_are_imported_in_their_own_folder_only(path: Path) -> None:
    wrong = [f"{name_of(path)}:{line} imports {d}" for d, line in imports(path) if private_module(path, d)]
    assert wrong == [], "Import it from the folder's __init__.py, which exports what others need."


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) != "ops"], ids=name_of)
def test_mlx_is_imported_in_ops_only(path: Path) -> None:
    wrong = [f"{name_of(path)}:{line} imports {d}" for d, line in imports(path) if d.split(".")[0] == "mlx"]
    assert wrong == []


def test_import_of_the_package_is_light() -> None:
    """Neither extras nor torch nor the command line come along with ``import lucid_maskrcnn``."""
    script = (
        "import sys, lucid\nbefore = set(sys.modules)\nimport lucid_maskrcnn\n"
        "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "lucid_maskrcnn.ops" in loaded
    unwanted = {"torch", "torchvision", "pycocotools", "matplotlib", "detectron2", "PIL", "tifffile", "requests"}
    assert {name.split(".")[0] for name in loaded} & unwanted == set()
    assert "lucid_maskrcnn.cli" not in loaded
    slow = {"importlib.metadata", "html", "difflib", "tempfile", "zipfile", "email", "logging"}  # of Python's library
    assert loaded & slow == set()


def test_the_rules_can_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of imports sees relative, lazy and aliased ones, and skips those for type checkers."""
    (tmp_path / "ops").mkdir()
    path = tmp_path / "ops" / "bad.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "from .. import models as m\n"
        "from ._operation import Op\n"
        "if TYPE_CHECKING:\n    from lucid_maskrcnn.targets import Target\n"
        "def f():\n    from ..detections import Detections\n    import lucid_maskrcnn.cli\n"
    )
    (tmp_path / "ops" / "_operation.py").touch()
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [inside(d) for d, _ in imports(path)] == [None, "models", "ops", "detections", "cli"]
    assert [inside(d) for d, _ in module_level(path)] == [None, "models", "ops"]
    with pytest.raises(AssertionError, match=r"ops/bad.py:2 imports lucid_maskrcnn.models"):
        test_imports_run_one_way(path)
    outside = tmp_path / "models" / "bad.py"
    assert private_module(outside, f"{PACKAGE}.ops._operation.Op")
    assert private_module(outside, f"{PACKAGE}.ops._operation")
    assert not private_module(path, f"{PACKAGE}.ops._operation.Op")
    assert not private_module(outside, f"{PACKAGE}.ops.Op")
