"""How MLX is set up and imported: before anything else imports it, and with a sentence where it cannot be.

MLX reads these environment variables when it first computes; values that are set already are left alone.

``MLX_ENABLE_TF32``
    0 here. On NVIDIA GPUs, and on Apple's from the M5 on, MLX multiplies float32 matrices in TF32 by default, with 10
    bits instead of 23: results then differ by about 3e-4 from those on cpu, and detections near a threshold with them.
    1 turns it on.
``MLX_CUDA_CONV_CACHE_SIZE``, ``MLX_CUDA_GRAPH_CACHE_SIZE``
    MLX keeps the plans of so many convolutions (128 by default) and CUDA graphs (400), and raises "cache thrashing"
    once twice as many were not found, in the whole life of the process. An image size takes about 41 plans, in training
    three times as many: with the defaults that is over after seven sizes, with these numbers after about 1600.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import metadata

__all__ = ["BACKEND_PACKAGES", "DEFAULTS", "prepare_mlx"]

DEFAULTS = {
    "MLX_ENABLE_TF32": "0",
    "MLX_CUDA_CONV_CACHE_SIZE": "32768",  # some kilobytes each, and only once they are used
    "MLX_CUDA_GRAPH_CACHE_SIZE": "32768",
}
BACKEND_PACKAGES = ("mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")  # for Linux; each brings mlx/lib/libmlx.so
_REMEDY = {
    "cpu": "`pip install --force-reinstall mlx-cpu`",
    "cuda": "`pip uninstall mlx-cpu`, then `pip install --force-reinstall --no-deps mlx-cuda-13`",
}


def prepare_mlx() -> None:
    """Set the environment, look at what is installed, and import MLX.

    Raises
    ------
    ImportError
        If MLX cannot be loaded; the sentence says what is missing.

    Warns
    -----
    UserWarning
        If two backends of MLX are installed, of which one has overwritten the other.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    backends = installed_backends()
    try:
        import mlx.core  # noqa: F401  # Lucid imports it too, and only says that it is not there
    except ImportError as error:
        raise ImportError(_why_not(error, backends)) from error
    if len(backends) > 1:
        warnings.warn(_clash(backends), UserWarning, stacklevel=2)


def installed_backends() -> list[str]:
    """Return which of MLX's backends for Linux are installed: one is right, several overwrite each other."""
    found = []
    for name in BACKEND_PACKAGES:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def _clash(backends: list[str]) -> str:
    return (
        f"{' and '.join(backends)} are installed, which overwrite each other's libraries, so that MLX may compute on "
        f"the CPU although there is a GPU, or not load: keep one. For an NVIDIA GPU {_REMEDY['cuda']}; for the CPU "
        f"uninstall the others, then {_REMEDY['cpu']}."
    )


def _why_not(error: ImportError, backends: list[str]) -> str:
    if len(backends) > 1:
        return f"MLX, which Lucid needs, cannot be loaded ({error}): {_clash(backends)}"
    if "libcuda" in str(error):
        return (
            f"MLX for NVIDIA GPUs is installed, but there is no NVIDIA driver on this machine ({error}): install it, "
            "or do without: `pip uninstall mlx-cuda-13 mlx-cuda-12`, then `pip install --force-reinstall mlx-cpu`."
        )
    if sys.platform == "linux" and not backends:
        return (
            f"MLX, which Lucid needs, has no backend ({error}): install one, `pip install mlx-cpu`, or for an NVIDIA "
            "GPU `pip install mlx-cuda-13`."
        )
    return f"MLX, which Lucid needs, cannot be loaded: {error}."


prepare_mlx()
