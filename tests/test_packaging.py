"""The two distributions of this package: what they contain and what they bring with them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from lucid_maskrcnn import __version__

ROOT = Path(__file__).parents[1]
CUDA = ROOT / "packaging" / "cuda"
PLAIN, FOR_CUDA = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (ROOT, CUDA))


def brings(project: dict[str, Any]) -> list[str]:
    """Return what a distribution depends on, but for MLX's backend."""
    return [re.sub(r"mlx\[\w+\]", "mlx[…]", line) for line in project["project"]["dependencies"]]


def test_dependencies_differ_in_the_backend_alone() -> None:
    assert brings(FOR_CUDA) == brings(PLAIN)
    backends = [
        [d for d in project["project"]["dependencies"] if d.startswith("mlx[")] for project in (PLAIN, FOR_CUDA)
    ]
    assert backends == [["mlx[cpu]>=0.29; sys_platform == 'linux'"], ["mlx[cuda13]>=0.29; sys_platform == 'linux'"]]


def test_no_extra_brings_a_second_backend() -> None:
    """It would own the same libraries: ``uv sync --all-extras`` must not break an installation."""
    for project in (PLAIN, FOR_CUDA):
        extras = project["project"]["optional-dependencies"]
        assert not [line for lines in extras.values() for line in lines if line.startswith("mlx")]
        assert not [line for group in project.get("dependency-groups", {}).values() for line in group if "mlx" in line]


def test_what_both_say_is_equal() -> None:
    plain, cuda = PLAIN["project"], FOR_CUDA["project"]
    for key in ("requires-python", "license", "optional-dependencies", "scripts", "dynamic"):
        assert cuda[key] == plain[key], key
    assert FOR_CUDA["build-system"] == PLAIN["build-system"]
    paths = [(folder / p["tool"]["hatch"]["version"]["path"]) for folder, p in ((ROOT, PLAIN), (CUDA, FOR_CUDA))]
    assert paths[0].samefile(paths[1])


def test_override_for_a_clone_leaves_out_the_other_backend() -> None:
    assert (CUDA / "overrides.txt").read_text().strip() == "mlx-cpu ; sys_platform == 'never'"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[zipfile.ZipFile]:
    """Both, built as ``uv build --wheel`` does."""
    pytest.importorskip("hatchling")
    built = []
    for folder in (ROOT, CUDA):
        out = tmp_path_factory.mktemp("dist")
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        (wheel,) = out.iterdir()
        built.append(zipfile.ZipFile(wheel))
    return built


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_wheels_have_the_same_files(wheels: list[zipfile.ZipFile]) -> None:
    plain, cuda = ({i.filename: i.CRC for i in w.infolist() if ".dist-info/" not in i.filename} for w in wheels)
    assert plain == cuda
    assert "lucid_maskrcnn/py.typed" in plain
    assert not [name for name in plain if not name.startswith("lucid_maskrcnn/") or "__pycache__" in name]


def test_metadata_of_the_wheels(wheels: list[zipfile.ZipFile]) -> None:
    plain, cuda = map(metadata_of, wheels)
    assert (plain["Name"], cuda["Name"]) == ("lucid-maskrcnn", "lucid-maskrcnn-cuda")
    assert plain["Version"] == cuda["Version"] == __version__
    needs = [[re.sub(r"\s", "", line) for line in m.get_all("Requires-Dist")] for m in (plain, cuda)]
    assert [line for line in needs[0] if line not in needs[1]] == ["mlx[cpu]>=0.29;sys_platform=='linux'"]
    assert [line for line in needs[1] if line not in needs[0]] == ["mlx[cuda13]>=0.29;sys_platform=='linux'"]
