"""What is behind the device "gpu", the names of devices, and moving modules between them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import lucid.nn as nn
import mlx.core as mx
import numpy as np

from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import instance, shown, text

from . import _mlx

__all__ = ["DEVICES", "GPUBackend", "device_name", "gpu_backend", "gpu_kind", "move_module"]

DEVICES = ("cpu", "gpu", "cuda", "mps", "metal", "auto")
"""Names of devices that are understood: "cuda", "mps" and "metal" are the gpu."""


class GPUBackend(NamedTuple):
    """What computes on the device "gpu".

    Attributes
    ----------
    kind : {"metal", "cuda", "cpu"}
        MLX's backend; "cpu" where MLX has no GPU, which is slow.
    name : str
        Of the GPU or the processor.
    tf32 : bool
        Whether products of float32 matrices are computed in TF32, found by computing one.
    """

    kind: str
    name: str
    tf32: bool

    def __str__(self) -> str:
        kind = {"metal": "Metal", "cuda": "CUDA", "cpu": "MLX's CPU code, no GPU"}[self.kind]
        return f"{kind}, {self.name}, TF32 {'on' if self.tf32 else 'off'}"


def gpu_backend() -> GPUBackend:
    """Return what the device "gpu" is here."""
    kind = gpu_kind()
    return GPUBackend(kind, _device_name(), kind != "cpu" and _computes_in_tf32(kind))


def gpu_kind() -> str:
    """Return the ``kind`` of :func:`gpu_backend`, which costs next to nothing."""
    if mx.default_device().type != mx.gpu:  # there is none, or the user chose so
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def _device_name() -> str:
    info = getattr(mx, "device_info", None) or mx.metal.device_info
    return str(info().get("device_name", "unknown"))


@functools.cache
def _computes_in_tf32(kind: str) -> bool:
    """Multiply numbers that TF32 cannot hold: 1 + 2⁻¹³ becomes 1."""
    exact = 1 + 2.0**-13
    product = mx.full((256, 256), exact) @ mx.eye(256)
    return bool(np.abs(np.asarray(product) - exact).max() > 2.0**-20)


def device_name(name: str, value: Any) -> str:
    """Return "cpu" or "gpu" for the name of a device.

    Parameters
    ----------
    name : str
        What the argument is called, for the message.
    value : str
        "cpu"; "gpu", or its other names "cuda", "mps" and "metal", whatever is behind it (see :func:`gpu_backend`); or
        "auto", which is "gpu" where there is a GPU and "cpu" elsewhere. A number, as in "cuda:0", must be 0.

    Raises
    ------
    TypeError, ValueError
        If it is none of these.
    """
    name, listed = text("name", name), ", ".join(map(repr, DEVICES))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}, got {shown(value)}.")
    word = value.lower().removesuffix(":0")
    if word not in DEVICES:
        hint = ": MLX computes on the first GPU" if word.split(":")[0] in DEVICES else ""
        raise ValueError(f"{name} must be one of {listed}, got {shown(value)}{hint}.")
    if word == "auto":
        return "cpu" if gpu_kind() == "cpu" else "gpu"
    return "cpu" if word == "cpu" else "gpu"


# ------------------------------------------------------------------ what is said when the gpu is first used

_said = False


def announce_backend() -> None:
    """Warn, once, if the gpu is not what its user will expect: MLX's CPU code, or a GPU that computes in TF32."""
    global _said
    if _said:
        return
    _said = True
    backend = gpu_backend()
    if backend.kind == "cpu":
        warn_user(
            f'The device "gpu" is MLX, which computes on the CPU here ({backend.name}): right, but about 30 times '
            'slower than the device "cpu", which is NumPy. Use "cpu", or install MLX for your GPU.'
        )
    elif backend.tf32 and "MLX_ENABLE_TF32" in _mlx.unheeded:
        warn_user(
            f"MLX had computed before lucid_maskrcnn was imported, and so multiplies in TF32 ({backend.name}): results "
            "differ from the cpu's by about 3e-4. Import lucid_maskrcnn first, or set MLX_ENABLE_TF32 in the "
            "environment: to 0, or to 1 if TF32 is wanted."
        )
    elif backend.kind == "cuda" and _mlx.unheeded:
        warn_user(
            "MLX had computed before lucid_maskrcnn was imported, and so keeps few plans of convolutions: it may raise "
            '"cache thrashing" after some sizes of images. Import lucid_maskrcnn first, or set '
            f"{' and '.join(_mlx.unheeded)} in the environment."
        )


# ------------------------------------------------------------------ moving modules


def move_module[M: nn.Module](module: M, device: str) -> M:
    """Move all parameters and buffers of a module to a device, and return the module.

    Lucid's own ``to`` believes a module's ``device``, and leaves what was added or replaced since where it is; and it
    sets that before it knows whether the device exists.

    Parameters
    ----------
    module : Module
        A model or a part of one; changed in place.
    device : str
        See :func:`device_name`.

    Raises
    ------
    TypeError, ValueError
        If there is no such device; nothing has been moved then.
    """
    instance("module", module, nn.Module, "a module")
    device = device_name("device", device)
    if device == "gpu":
        announce_backend()
    for part in module.modules():
        if part is not module and type(part).to not in _OWN:
            part.to(device)  # a user's module that moves more than is registered
    variables = {id(v): v for m in module.modules() for v in (*m.parameters(False), *m.buffers(False)) if v is not None}
    moved = [(v, _array_on(v.data, device), _array_on(v.grad, device)) for v in variables.values()]
    for variable, data, grad in moved:  # all are there: from here on nothing can fail
        variable.data, variable.grad, variable.device = data, grad, device
    for part in module.modules():
        part.device = device
    return module


def _array_on(array: Any, device: str) -> Any:
    """Return an array on a device, itself if it is there; it is looked at, as its tensor's ``device`` may be wrong."""
    if array is None or isinstance(array, mx.array) == (device == "gpu"):
        return array
    return mx.array(array) if device == "gpu" else np.array(array)


_OWN = (nn.Module.to, move_module)  # Lucid's, and what stands in for it
