"""Losses and gradients of the batches of a step: what each process of a run computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lucid
from lucid import Tensor
from lucid.nn import Module

from .. import ops
from ..validators import shown
from .divergence import DivergenceGuard
from .gradients import GradientMean

__all__ = ["BatchGradients", "BatchLosses"]

type BatchLosses = tuple[int, dict[str, float]]  # the number of images of a batch, and its losses


class BatchGradients:
    """Forward and backward passes of batches.

    Parameters
    ----------
    model : Module
        With ``get_loss``.
    params : sequence of Parameter
        Those whose gradients are computed.
    guard : DivergenceGuard
        Checks the losses.
    seed, accumulate : int
        As in :class:`TrainerSettings`.
    loss_options : mapping
        Keywords of ``get_loss``.
    """

    def __init__(
        self,
        model: Module,
        params: Sequence[Tensor],
        guard: DivergenceGuard,
        *,
        seed: int,
        accumulate: int,
        loss_options: Mapping[str, Any],
    ) -> None:
        self.model, self.params = model, list(params)
        self.guard, self._seed, self._accumulate = guard, seed, accumulate
        self._loss_options = dict(loss_options)

    def set_mode(self, *, bn_frozen: bool) -> None:
        """Put the model into training mode, with or without live batch norm."""
        self.model.train()
        for module in self.model.modules() if bn_frozen else ():
            if hasattr(module, "running_mean"):
                module.eval()

    def compute(self, batches: Sequence[Any], step: int, first: int, mean: GradientMean) -> list[BatchLosses]:
        """Add the gradients of some batches of a step to ``mean``, and return their losses.

        Parameters
        ----------
        batches : sequence of batches
            With ``images``, ``targets`` and ``image_ids``.
        step : int
            Counted from 0.
        first : int
            Index of the first of these batches within the step.
        mean : GradientMean
            Of ``params``.

        Raises
        ------
        DivergenceError
            If a loss is not finite.
        ValueError
            If a target is not as it must be.
        """
        found: list[dict[str, Tensor]] = []
        for p in self.params:
            p.grad = None
        for number, batch in enumerate(batches, step * self._accumulate + first):
            # Sampling and dropout draw from Lucid's generator: each batch has its own seed, for runs that are resumed.
            lucid.random.seed(self._seed + number)
            losses = self._losses(batch, step)
            losses["total_loss"].backward()
            mean.accumulate()
            found.append(losses)
        return self._checked_values(batches, step, found)

    def _checked_values(
        self, batches: Sequence[Any], step: int, losses: Sequence[Mapping[str, Tensor]]
    ) -> list[BatchLosses]:
        """Read the losses of all batches: only now, so that a gpu is waited for once, and works meanwhile."""
        read = iter(ops.numbers([loss for of_batch in losses for loss in of_batch.values()]))
        found = []
        for batch, of_batch in zip(batches, losses, strict=True):
            values = dict(zip(of_batch, read, strict=False))
            self.guard.check_values(step, values, [batch])
            found.append((len(batch.images), values))
        return found

    def _losses(self, batch: Any, step: int) -> dict[str, Tensor]:
        try:
            losses = self.model.get_loss(batch.images, batch.targets, **self._loss_options)
        except ValueError as error:
            raise ValueError(f"Step {step + 1}, images {list(batch.image_ids)}: {error}") from error
        return _checked_losses(losses, step)


def _checked_losses(losses: Any, step: int) -> dict[str, Tensor]:
    """Return what ``get_loss`` returned, if it is what a step needs."""
    wanted = f"Step {step + 1}: get_loss must return a mapping of names to losses"
    if not isinstance(losses, Mapping):
        raise TypeError(f"{wanted}, got {shown(losses)}.")
    if "total_loss" not in losses:
        raise ValueError(f"{wanted} with 'total_loss', got {', '.join(map(str, losses)) or 'none'}.")
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.size != 1:
            given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else shown(loss)
            raise TypeError(f"{wanted}, tensors of one value, got {given} for {name!r}.")
    return dict(losses)
