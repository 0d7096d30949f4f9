"""The gradients of a step: their mean over several batches, and their norm."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from lucid import Tensor

from .. import ops
from ..call_answers import answers_wrong_calls
from ..reprs import described
from ..validators import positive_int, positive_number, sequence, shown
from .parameters import parameter_list

__all__ = ["GradientMean", "clip_gradients"]


@answers_wrong_calls
class GradientMean:
    """The mean of the gradients of several backward passes.

    Parameters
    ----------
    params : iterable of Parameter
        Their ``grad`` is read by :meth:`accumulate` and set by :meth:`assign_mean`.

    Attributes
    ----------
    count : int
        Backward passes so far.
    sums : list
        Sum of the gradients of each parameter, as NumPy or MLX arrays; None for parameters without a gradient. In NumPy
        sums of several passes are float64.

    Notes
    -----
    Sums in float64 that are rounded to float32 once do not depend on the order of the passes, nor on how they are
    divided among processes, as long as the exponents of what is added differ by less than 29 bits. MLX's gpu has no
    float64.

    Lucid adds to an existing gradient in place, in an array that another tensor may share; so the gradients of each
    pass are removed from the parameters and added here.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params, self.count = parameter_list("params", params), 0
        self.sums: list[Any | None] = [None] * len(self.params)

    @described
    def __repr__(self) -> str:
        return f"GradientMean({len(self.params)} parameters, {self.count} passes)"

    def accumulate(self) -> None:
        """Add the gradients of one backward pass, and remove them from the parameters."""
        self.add([p.grad for p in self.params], 1)
        for p in self.params:
            p.grad = None

    def add(self, sums: Sequence[Any | None], count: int) -> None:
        """Add the sums of the gradients of ``count`` passes, None for parameters without a gradient."""
        sums, count = sequence("sums", sums, _array, length=len(self.params)), positive_int("count", count)
        self.count += count
        for i, more in enumerate(sums):
            if more is not None:
                total = self.sums[i]
                self.sums[i] = more if total is None else _added(total, more)
        ops.begin(total for total in self.sums if total is not None)

    def assign_mean(self) -> None:
        """Set the parameters' gradients to the mean over all passes; parameters without a gradient get None."""
        for i, p in enumerate(self.params):
            total, self.sums[i] = self.sums[i], None
            p.grad = total if total is None or self.count == 1 else _like(p, total / self.count)


def _added(total: Any, more: Any) -> Any:
    return np.add(total, more, dtype=np.float64) if isinstance(total, np.ndarray) else total + more


def _like(p: Tensor, gradient: Any) -> Any:
    """Return a gradient in the dtype of its parameter."""
    return gradient.astype(p.data.dtype, copy=False) if isinstance(gradient, np.ndarray) else gradient


def _array(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, np.ndarray) and not ops.is_device_array(value):
        raise TypeError(f"{name} must be an array of a gradient or None, got {shown(value)}.")
    return value


@answers_wrong_calls
def clip_gradients(params: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by one factor so that their common L2 norm is at most ``max_norm``.

    Parameters
    ----------
    params : iterable of Parameter
        Those without a gradient are skipped. Scaled gradients are new arrays.
    max_norm : float
        Above 0; with ``math.inf`` the norm is only measured.

    Returns
    -------
    float
        The norm before scaling. If it is NaN or infinite the gradients are left as they are: check it before the
        optimizer's step.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    if not isinstance(max_norm, numbers.Real) or max_norm != math.inf:
        max_norm = positive_number("max_norm", max_norm)
    with_gradient = [p for p in parameter_list("params", params) if p.grad is not None]
    norm = math.sqrt(ops.sum_of_squares([p.grad for p in with_gradient]))
    if math.isfinite(norm) and norm > max_norm:
        scale = max_norm / (norm + 1e-6)
        for p in with_gradient:
            p.grad = p.grad * scale
        ops.begin(p.grad for p in with_gradient)
    return norm
