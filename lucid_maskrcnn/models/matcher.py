"""Which object each box is trained as, and which boxes are trained at all; shared by RPN and heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lucid import Tensor

from .. import ops

__all__ = ["BalancedSampler", "Matcher"]


@dataclass(frozen=True)
class Matcher:
    """Assigns objects to boxes by their IoU.

    Attributes
    ----------
    foreground, background : float
        From the one on a box belongs to its best object, under the other to the background.
    allow_low_quality_matches : bool
        Whether each object keeps its best boxes whatever their IoU.
    """

    foreground: float
    background: float
    allow_low_quality_matches: bool

    def __call__(self, gt_boxes: Tensor, boxes: Tensor) -> Tensor:
        """Return for each of the boxes (A, 4) its object's index, -1 for background, -2 for neither: (A,)."""
        return ops.match(
            ops.box_iou(gt_boxes, boxes),
            self.foreground,
            self.background,
            allow_low_quality_matches=self.allow_low_quality_matches,
        )


@dataclass(frozen=True)
class BalancedSampler:
    """Draws a fixed number of boxes per image, at most a given share of them positive.

    Attributes
    ----------
    batch_size, positive_fraction : int, float
        That number and that share.
    order : callable
        Takes a count and returns a permutation; random by Lucid's generator.
    """

    batch_size: int
    positive_fraction: float
    order: Callable[[int], Any] = ops.permutation

    def __call__(self, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows drawn of the positive and of the negative boxes, each ascending."""
        return ops.sample_balanced(matches, self.batch_size, self.positive_fraction, self.order)
