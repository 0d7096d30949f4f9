"""How MLX is set up before it is imported, and what is said where it cannot be loaded or is there twice."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from lucid_maskrcnn.ops import _mlx

SETTINGS = "import os; print(*(os.environ[n] for n in ('MLX_ENABLE_TF32', 'MLX_CUDA_CONV_CACHE_SIZE')))"


def python(script: str, *path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process without MLX's settings; ``path`` comes first on its path."""
    inherited = {name: value for name, value in os.environ.items() if name not in _mlx.DEFAULTS}
    inherited["PYTHONPATH"] = os.pathsep.join([*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=inherited | environment
    )


def installed(folder: Path, *names: str) -> Path:
    """Make what pip leaves of a distribution."""
    for name in names:
        made = folder / f"{name.replace('-', '_')}-9.dist-info"
        made.mkdir(parents=True)
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9\n")
    return folder


def unloadable(folder: Path, error: str) -> Path:
    """Make an MLX whose import fails as that of the real one does."""
    (folder / "mlx").mkdir()
    (folder / "mlx" / "__init__.py").touch()
    (folder / "mlx" / "core.py").write_text(f"raise {error}\n")
    return folder


@pytest.mark.parametrize(
    "first", ["lucid_maskrcnn", "lucid_maskrcnn.cli", "lucid_maskrcnn.validators", "lucid_maskrcnn.masks.rle"]
)
def test_settings_are_there_before_mlx_is_imported(first: str) -> None:
    run = python(
        f"""
        import os, sys
        class Watch:
            def find_spec(self, name, *_):
                if name in ("mlx", "lucid"):
                    print(name, os.environ.get("MLX_ENABLE_TF32"), os.environ.get("MLX_CUDA_GRAPH_CACHE_SIZE"))
        sys.meta_path.insert(0, Watch())
        import {first}
        """
    )
    assert run.stdout.splitlines() == ["mlx 0 2048", "lucid 0 2048"]
    assert run.stderr == ""


def test_settings_of_the_user_are_left_alone() -> None:
    run = python(f"import lucid_maskrcnn; {SETTINGS}", MLX_ENABLE_TF32="1", MLX_CUDA_CONV_CACHE_SIZE="7")
    assert run.stdout.split() == ["1", "7"]


def test_capacities_allow_for_a_folder_of_many_sizes() -> None:
    """Where MLX does not know the switch that turns the error off: it raises beyond twice the capacity."""
    plans_per_size = 41
    assert 2 * int(_mlx.DEFAULTS["MLX_CUDA_CONV_CACHE_SIZE"]) > 300 * plans_per_size
    assert _mlx.DEFAULTS["MLX_ENABLE_CACHE_THRASHING_CHECK"] == "0"


@pytest.mark.parametrize(
    ("before", "unheeded"),
    [
        ("import lucid", []),  # MLX reads its settings when it first computes: nothing is lost
        ("import mlx.core as mx", []),
        ("import mlx.core as mx; mx.eval(mx.ones(300) + 1)", list(_mlx.DEFAULTS)),
        ("import os; os.environ.update(MLX_ENABLE_TF32='1'); import mlx.core as mx; mx.eval(mx.ones(300) + 1)",
         [n for n in _mlx.DEFAULTS if n != "MLX_ENABLE_TF32"]),
    ],
)  # fmt: skip
def test_settings_are_too_late_only_if_mlx_had_computed(before: str, unheeded: list[str]) -> None:
    run = python(f"{before}\nimport lucid_maskrcnn\nfrom lucid_maskrcnn.ops import _mlx\nprint(_mlx.unheeded)")
    assert run.stdout.strip() == str(unheeded)
    assert run.stderr == ""  # it is told when the gpu is used, and only where it matters


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["mlx-cpu", "mlx-cuda-13"], "mlx-cpu and mlx-cuda-13 are both installed and own the same libraries"),
        (["mlx-cuda-12", "mlx-cpu"], "mlx-cpu and mlx-cuda-12 are both installed and own the same libraries"),
        (["mlx-cuda-12", "mlx-cuda-13"], "mlx-cuda-12 and mlx-cuda-13 are both installed and own the same libraries"),
        (["mlx-cpu", *_mlx.DISTRIBUTIONS], "lucid-maskrcnn and lucid-maskrcnn-cuda are both installed and own the"),
    ],
)
def test_two_backends_or_distributions_are_told(
    monkeypatch: pytest.MonkeyPatch, names: list[str], sentence: str
) -> None:
    only(monkeypatch, names)
    with pytest.warns(UserWarning, match=sentence) as caught:
        _mlx.prepare_mlx()
    (warning,) = caught
    assert "run `pip uninstall -y " in str(warning.message)
    assert all(name in str(warning.message).partition("uninstall")[2] for name in names)
    assert "then `pip install lucid-maskrcnn-cuda` for an NVIDIA GPU" in str(warning.message)


@pytest.mark.parametrize("names", [["mlx-cpu", "lucid-maskrcnn"], ["mlx-cuda-13", "lucid-maskrcnn-cuda"], []])
def test_one_backend_is_right(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    only(monkeypatch, names)
    _mlx.prepare_mlx()


def only(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Have these distributions installed and no others."""
    monkeypatch.setattr(_mlx, "_installed", lambda wanted: [name for name in wanted if name in names])


def test_what_is_installed_is_what_metadata_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = installed(tmp_path, "mlx-cpu", "numpy")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "no folder"), __file__, str(folder), *sys.path])
    names = ("mlx-cpu", "mlx", "numpy", "lucid-dl", "lucid-maskrcnn", "lucid-maskrcnn-cuda", "lucid", "num")
    known = {distribution.name for distribution in metadata.distributions()}
    assert _mlx._installed(names) == [name for name in names if name in known]


def test_clash_is_told_once_at_the_users_import(tmp_path: Path) -> None:
    """With the metadata that pip leaves: the rest of the package works."""
    script = tmp_path / "users.py"
    script.write_text("\nimport lucid_maskrcnn\nprint(lucid_maskrcnn.__version__)\n")
    run = python("import users", installed(tmp_path, "mlx-cuda-13", "mlx-cpu"))
    assert run.stdout
    assert run.stderr.count("Warning: ") == 1
    assert f"{script}:2: UserWarning: mlx-cpu and mlx-cuda-13 are both installed" in run.stderr


LOADER = "cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("error", "dists", "cause", "remedy"),
    [
        ("libcuda.so.1", ["mlx-cuda-13", "lucid-maskrcnn-cuda"], "this machine has no NVIDIA driver",
         "`pip uninstall -y lucid-maskrcnn-cuda mlx mlx-cuda-13`, then `pip install lucid-maskrcnn`."),
        ("libcuda.so.1", ["mlx-cuda-13", "mlx-cpu", "lucid-maskrcnn"], "mlx-cpu and mlx-cuda-13 are both installed",
         "`pip uninstall -y lucid-maskrcnn mlx mlx-cpu mlx-cuda-13`"),
        ("libmlx.so", ["lucid-maskrcnn"], "MLX has no backend here", "`pip install --force-reinstall 'mlx[cpu]'`"),
        ("libmlx.so", ["lucid-maskrcnn", "mlx-cpu"], "", "run `pip install --force-reinstall 'mlx[cpu]'`."),
        ("libcudnn.so.9", ["mlx-cuda-13"], "", "run `pip install --force-reinstall 'mlx[cuda13]'`."),
    ],
)  # fmt: skip
@pytest.mark.skipif(sys.platform != "linux", reason="backends are packages of their own on Linux")
def test_mlx_that_cannot_be_loaded_is_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str, dists: list[str], cause: str, remedy: str
) -> None:
    only(monkeypatch, dists)
    monkeypatch.syspath_prepend(str(unloadable(tmp_path, f"ImportError('{error}: {LOADER}')")))
    for name in [n for n in sys.modules if n.partition(".")[0] == "mlx"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError) as raised:
        _mlx.prepare_mlx()
    sentence = str(raised.value)
    assert sentence.startswith(f"MLX, which Lucid needs, cannot be loaded ({error}: ")
    assert cause in sentence
    assert remedy in sentence
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "error", [f"ImportError('libcuda.so.1: {LOADER}')", "ModuleNotFoundError(\"No module named 'mlx'\", name='mlx')"]
)
def test_import_without_a_working_mlx_ends_in_one_sentence(tmp_path: Path, error: str) -> None:
    run = python("import lucid_maskrcnn", unloadable(tmp_path, error))
    assert run.returncode == 1
    assert run.stderr.count("Error: ") == 1
    assert run.stderr.splitlines()[-1].startswith("ImportError: MLX, which Lucid needs, cannot be loaded (")
    assert "`pip " in run.stderr.splitlines()[-1]
    assert run.stdout == ""  # Lucid's own advice is a print
