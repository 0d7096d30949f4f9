"""Half precision of a model on gpu: which of its layers have it, and how it is turned on and off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import lucid.nn as nn

from .. import ops
from ..validators import choice
from .layers import Conv2d, ConvTranspose2d, Linear

__all__ = ["HalfPrecision"]

_LAYERS = (Conv2d, ConvTranspose2d, Linear)


class HalfPrecision(nn.Module):
    """What :class:`MaskRCNN` has for half precision.

    Weights and biases of this package's convolutions and linear layers are stored in the model's ``dtype``, and these
    layers compute in it: body, pyramid and heads. Parameters and statistics of batch norm stay float32, which is folded
    into filters in float32; so do anchors, boxes, scores, non-maximum suppression, mask probabilities and detections.
    Layers of other packages, such as a backbone of your own, stay as they are.
    """

    @property
    def dtype(self) -> str:
        """Element type that convolutions and linear layers compute in: "float32", "float16" or "bfloat16"."""
        found = {ops.dtype_name(part.weight) for part in self._layers()}
        return next((name for name in ("float16", "bfloat16") if name in found), "float32")

    def half(self) -> Self:
        """Store and compute convolutions and linear layers in float16, and return the model.

        For prediction on gpu: parameters take half the memory. What rounding to float16 loses is lost, also for
        :meth:`float` afterwards.

        Raises
        ------
        ValueError
            If the model is on cpu, or a weight is beyond the range of float16; the model is unchanged then.
        """
        return self._set_dtype("float16")

    def float(self) -> Self:
        """Store and compute everything in float32 again, and return the model; losses need that."""
        return self._set_dtype("float32")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Set parameters and buffers by name, as Lucid's modules do; each keeps its element type.

        Raises
        ------
        KeyError
            If ``strict``, and a name is missing or unknown.
        ValueError
            If the model is in float16 and a value is beyond its range; the model is unchanged then.
        """
        variables = self.state_dict(keep_vars=True)
        dtypes = {name: ops.dtype_name(variable) for name, variable in variables.items()}
        for name, values in state_dict.items():
            if dtypes.get(name) == "float16" and not ops.fits_float16(values):
                what = f"{name}, which has values beyond 65504 or NaN"
                raise ValueError(f"float16 cannot hold {what}: call float() first.")
        super().load_state_dict(state_dict, strict)
        for name, variable in variables.items():
            if ops.dtype_name(variable) != dtypes[name]:
                ops.convert(variable, dtypes[name])

    def _layers(self) -> list[nn.Module]:
        return [part for part in self.modules() if isinstance(part, _LAYERS)]

    def _set_dtype(self, dtype: str) -> Self:
        self._check_dtype(dtype, self.device)
        return self._convert(dtype)

    def _convert(self, dtype: str) -> Self:
        for part in self._layers():
            for variable in part.parameters(recurse=False):
                if variable is not None and ops.dtype_name(variable) != dtype:
                    ops.convert(variable, dtype)
        return self

    def _check_dtype(self, dtype: str, device: str) -> None:
        """Raise unless the model can have this element type on that device."""
        choice("dtype", dtype, ops.DTYPES)
        if dtype == "float32":
            return
        if device == "cpu":
            raise ValueError(
                f'{dtype} needs a gpu, where MLX computes in it, and the device is "cpu": choose "gpu", as in '
                f'model.to("gpu", dtype="{dtype}").'
            )
        if dtype == "float16":
            names = {id(v): name for name, v in self.state_dict(keep_vars=True).items()}
            for variable in (v for part in self._layers() for v in part.parameters(recurse=False) if v is not None):
                if not ops.fits_float16(variable):
                    raise ValueError(
                        f"float16 cannot hold {names[id(variable)]}, which has values beyond 65504 or NaN: "
                        'use dtype="bfloat16".'
                    )
