"""The runs of ``run.py`` that are kept, in ``records/cpu.json``, and what machine this is.

A run has the layout of ``run.py``'s ``results.json``, to four digits, without what no page of the documentation needs.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from contenders import num_cores
from threadpoolctl import threadpool_info

FILE = Path(__file__).resolve().parent / "records" / "cpu.json"
LEFT_OUT = ("curve", "lucid")
NEEDED = ("predict", "train", "ops")  # the documentation states them of every run
INSTRUCTIONS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # the flags of /proc/cpuinfo, best first


def read() -> list[dict[str, Any]]:
    """Return the runs that are kept, oldest first."""
    return json.loads(FILE.read_text(encoding="utf-8"))["runs"]


def append(results: dict[str, Any]) -> None:
    """Add a run to those that are kept."""
    kept = {part: found for part, found in results.items() if part not in LEFT_OUT}
    run = json.loads(json.dumps(kept), parse_float=lambda text: float(f"{float(text):.4g}"))
    file = json.loads(FILE.read_text(encoding="utf-8"))
    file["runs"].append(run)
    FILE.write_text(json.dumps(file, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ this machine


def machine() -> dict[str, Any]:
    """Return what a run's figures depend on."""
    return {
        "processor": processor(),
        "instructions": instructions(),
        "cores": num_cores(),
        "blas": blas(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("lucid-maskrcnn", "lucid-dl", "numpy")},
        "commit": _output("git", "-C", str(FILE.parent), "describe", "--always", "--dirty"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def processor() -> str:
    """Return the processor's name, as far as the operating system knows it."""
    name = _cpuinfo("model name") or (sys.platform == "darwin" and _output("sysctl", "-n", "machdep.cpu.brand_string"))
    return name or platform.processor() or platform.machine()


def instructions() -> str:
    """Return the widest vector instructions of the processor, or its architecture where that is not known."""
    flags = _cpuinfo("flags").split()
    return next((name for flag, name in INSTRUCTIONS.items() if flag in flags), platform.machine())


def blas() -> str:
    """Return the library of NumPy's matrix products, with the kernels that it has chosen."""
    found = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    if found:
        return " ".join(str(found[0].get(key) or "") for key in ("internal_api", "version", "architecture")).strip()
    return np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]  # Apple's Accelerate, for one


def _cpuinfo(key: str) -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
