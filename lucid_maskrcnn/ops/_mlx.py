"""How MLX is set up and imported: before anything else imports it, and with a sentence where it cannot be.

MLX reads these environment variables when it first computes; values that are set already are left alone.

``MLX_ENABLE_TF32``
    0 here. On NVIDIA GPUs, and on Apple's from the M5 on, MLX multiplies float32 matrices in TF32 by default, with 10
    bits instead of 23: results then differ by about 3e-4 from those on cpu, and detections near a threshold with them.
    1 turns it on.
``MLX_CUDA_CONV_CACHE_SIZE``, ``MLX_CUDA_GRAPH_CACHE_SIZE``
    8192 and 2048. MLX keeps the plans of so many convolutions (128 by default) and CUDA graphs (400), and raises "cache
    thrashing" once twice as many were not found, in the whole life of the process. An image size takes about 41 plans,
    in training three times as many: with the default that is over after seven sizes, here after about 400, or 130 in
    training. Graphs differ less from size to size, and hold memory of the GPU, which a multiple of 2048 may exhaust.
``MLX_ENABLE_CACHE_THRASHING_CHECK``
    0 here, where MLX knows it: a full cache then drops what was used least recently, and raises nothing, so that a
    folder may have any number of image sizes.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from lucid_maskrcnn.user_warnings import warn_user

__all__ = ["DEFAULTS", "prepare_mlx", "unheeded"]

DEFAULTS = {
    "MLX_ENABLE_TF32": "0",
    "MLX_CUDA_CONV_CACHE_SIZE": "8192",
    "MLX_CUDA_GRAPH_CACHE_SIZE": "2048",
    "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
}
BACKENDS = ("mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")  # for Linux; each brings mlx/lib/libmlx.so
DISTRIBUTIONS = ("lucid-maskrcnn", "lucid-maskrcnn-cuda")  # of this package

_SCALARS = 256  # bytes: `import lucid` makes a few, and computes nothing

unheeded: list[str] = []
"""Those of the variables that were set here after MLX had computed."""


def prepare_mlx() -> None:
    """Set the environment, look at what is installed, and import MLX.

    Raises
    ------
    ImportError
        If MLX cannot be loaded; the sentence says what is missing.

    Warns
    -----
    UserWarning
        If two backends of MLX are installed, of which one has overwritten the other, or two distributions of this
        package.
    """
    if _has_computed():
        unheeded.extend(name for name in DEFAULTS if name not in os.environ)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    clash = _clash()
    try:
        import mlx.core  # noqa: F401  # Lucid imports it too, and only says that it is not there
    except ImportError as error:
        raise ImportError(f"MLX, which Lucid needs, cannot be loaded ({error}): {clash or _remedy(error)}") from None
    if clash:
        warn_user(clash)


def _has_computed() -> bool:
    """Whether somebody has imported MLX already and used it, as far as its memory tells."""
    core = sys.modules.get("mlx.core")
    return core is not None and core.get_peak_memory() > _SCALARS


def _installed(names: tuple[str, ...]) -> list[str]:
    """Return which of these distributions are installed, by the folders that pip leaves beside their packages.

    ``importlib.metadata`` says the same, and takes a third of the time of importing this package.
    """
    found = set()
    for folder in sys.path:
        with suppress(OSError):  # an archive, or nothing
            entries = os.listdir(folder or ".")
            found |= {entry.partition("-")[0].lower() for entry in entries if entry.endswith(".dist-info")}
    return [name for name in names if name.replace("-", "_") in found]


def _clash() -> str | None:
    """Return what to do if several backends, or several distributions of this package, are installed."""
    backends, ours = _installed(BACKENDS), _installed(DISTRIBUTIONS)
    if len(backends) > 1:
        fault = (
            f"{' and '.join(backends)} are both installed and own the same libraries, so that chance decides whether "
        )
        fault += "MLX computes on the GPU, on the CPU, or not at all"
    elif len(ours) > 1:
        fault = f"{' and '.join(ours)} are both installed and own the same files"
    else:
        return None
    return (
        f"{fault}: run `pip uninstall -y {' '.join([*ours, 'mlx', *backends])}`, then `pip install "
        "lucid-maskrcnn-cuda` for an NVIDIA GPU or `pip install lucid-maskrcnn` for the CPU."
    )


def _remedy(error: ImportError) -> str:
    """Return what to do if MLX cannot be loaded and nothing clashes."""
    backends = _installed(BACKENDS)
    if "libcuda." in str(error):
        removed = " ".join([*_installed(DISTRIBUTIONS), "mlx", *backends])
        return (
            "MLX for NVIDIA GPUs is installed, but this machine has no NVIDIA driver: install the driver, or for the "
            f"CPU run `pip uninstall -y {removed}`, then `pip install lucid-maskrcnn`."
        )
    if sys.platform != "linux":
        return "run `pip install --force-reinstall mlx`."
    if not backends:
        return (
            "MLX has no backend here: run `pip install --force-reinstall 'mlx[cpu]'`, or for an NVIDIA GPU "
            "`pip uninstall -y lucid-maskrcnn mlx`, then `pip install lucid-maskrcnn-cuda`."
        )
    extra = backends[0].removeprefix("mlx-").replace("-", "")
    return f"run `pip install --force-reinstall 'mlx[{extra}]'`."


prepare_mlx()
