"""``env``: the machine, the versions and the settings that results and speed depend on, for a bug report."""

from __future__ import annotations

import argparse
import ctypes
import locale
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lucid_maskrcnn.ops import engine_is_sound, num_threads
from lucid_maskrcnn.text_tables import count_of
from lucid_maskrcnn.version import __version__

from .common import describe_gpu, say_pairs

__all__ = ["add_commands"]

_DISTRIBUTIONS = ("lucid-maskrcnn", "lucid-maskrcnn-cuda")  # the same sources, with other backends of MLX
_BACKENDS = ("mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")
_OURS = ("LUCID_", "MLX_")
_OTHERS = (
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "NO_COLOR",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "PYTHONIOENCODING",
    "PYTHONUTF8",
    "SSL_CERT_FILE",
    "VECLIB_MAXIMUM_THREADS",
)


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    env = commands.add_parser(
        "env",
        help="print machine, versions and settings, for a bug report",
        description="Print what results and speed depend on: machine, versions of all dependencies and extras, what "
        "computes on the gpu, BLAS, memory, the folder of downloaded weights, and environment variables. Passwords in "
        "addresses are left out.",
    )
    env.set_defaults(run=_env)


def _env(_: argparse.Namespace) -> None:
    say_pairs(_environment())


def _environment() -> dict[str, str]:
    python = f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    return {
        "lucid-maskrcnn": f"{__version__}, {_installation()}",
        "Python": python,
        "system": _system(),
        "encoding": _encoding(),
        "processor": _processor(),
        "cores": f"{os.cpu_count()}, of which {num_threads()} are used",
        "memory": _memory(),
        "gpu": describe_gpu(),
        "BLAS": _blas(),
        "gradients": "right" if engine_is_sound() else "wrong: Lucid's engine is not repaired (LUCID_MASKRCNN_REPAIR)",
        "weights folder": _weights_folder(),
        **_packages(),
        "environment": ", ".join(_heeded(os.environ)) or "nothing that this package heeds is set",
    }


# ------------------------------------------------------------------ this package


def _installation() -> str:
    folder = str(Path(__file__).resolve().parent.parent)
    names = [name for name in _DISTRIBUTIONS if _version_of(name) is not None]
    return f"{' and '.join(names) or 'not installed'} in {folder}"


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> dict[str, str]:
    """Return the versions of what this package needs, and of what its extras need, each with the extra's name."""
    owner = next((name for name in _DISTRIBUTIONS if _version_of(name) is not None), None)
    table: dict[str, str] = {}
    for requirement in (metadata.requires(owner) if owner else None) or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        missing = f"not installed (extra {extra[1]})" if extra else "not installed"
        if name not in _DISTRIBUTIONS and "not installed" in table.get(name, "not installed"):
            table[name] = _version_of(name) or missing
    return table | {name: version for name in _BACKENDS if (version := _version_of(name)) is not None}


# ------------------------------------------------------------------ the machine


def _system() -> str:
    text = platform.platform()
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {text}"
    except (OSError, KeyError):
        return text


def _encoding() -> str:
    language, encoding = locale.getlocale()
    output = getattr(sys.stdout, "encoding", None)
    return f"{output}, file names {sys.getfilesystemencoding()}, locale {language or 'C'}.{encoding or 'ASCII'}"


def _processor() -> str:
    name = ""
    if sys.platform == "linux":
        found = re.search(r"^model name\s*:\s*(.+)$", _text_of("/proc/cpuinfo"), flags=re.MULTILINE)
        name = found[1] if found else ""
    elif sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string")
    return f"{name or platform.processor() or 'unknown'}, {platform.machine()}"


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _memory() -> str:
    """Return the memory of the machine, what of it is free, and the limit of a container."""
    if sys.platform == "linux":
        kib = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text_of("/proc/meminfo"), flags=re.MULTILINE))
        parts = [f"{int(kib[k]) / 2**20:.1f} GiB {what}" for k, what in _MEMORY_LINES.items() if k in kib]
        limit = _text_of("/sys/fs/cgroup/memory.max").strip() or _text_of(_OLD_CGROUP).strip()
        if limit.isdigit() and "MemTotal" in kib and int(limit) < 1024 * int(kib["MemTotal"]):
            parts.append(f"{int(limit) / 2**30:.1f} GiB for this container")
        return ", ".join(parts) or "unknown"
    if sys.platform == "darwin":
        size = _sysctl("hw.memsize")
        return f"{int(size) / 2**30:.1f} GiB" if size.isdigit() else "unknown"
    return _windows_memory()


_MEMORY_LINES = {"MemTotal": "in all", "MemAvailable": "available"}
_OLD_CGROUP = "/sys/fs/cgroup/memory/memory.limit_in_bytes"


def _windows_memory() -> str:
    class Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong) for name in ("total", "free", "page", "free_page", "virtual", "free_v", "ext")
        ]

    windll = getattr(ctypes, "windll", None)
    status = Status(length=ctypes.sizeof(Status))
    if windll is None or not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return "unknown"
    return f"{status.total / 2**30:.1f} GiB in all, {status.free / 2**30:.1f} GiB available"


def _blas() -> str:
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    texts = [
        ", ".join(
            [
                f"{library['internal_api']} {library['version']}",
                *([library["architecture"]] if library.get("architecture") else []),
                f"{library['num_threads']} threads",
            ]
        )
        for library in libraries
    ]
    return "; ".join(dict.fromkeys(texts)) or "none that threadpoolctl knows"


def _weights_folder() -> str:
    from lucid_maskrcnn.weights.download import cache_folder

    folder = cache_folder()
    try:
        sizes = [file.stat().st_size for file in folder.iterdir() if file.is_file()]
    except OSError:
        return f"{folder}, which does not exist yet"
    return f"{folder}, {count_of(len(sizes), 'file')}, {sum(sizes) / 1e6:.0f} MB"


# ------------------------------------------------------------------ variables


def _heeded(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the environment variables that this package, MLX, BLAS or Python heed; those of MLX it sets itself."""
    for name in sorted(environ):
        if name.startswith(_OURS) or name in _OTHERS:
            yield f"{name}={re.sub(r'//[^/@\s]*@', '//…@', environ[name])}"
