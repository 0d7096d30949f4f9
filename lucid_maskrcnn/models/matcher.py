"""Which object each box is trained as, and which boxes are trained at all; shared by RPN and heads.

Shapes: A boxes (anchors or proposals) of an image, G ground-truth objects.
Names: ``matches``, for each box, the index of its object, or -1 below the thresholds (background), or -2 between them.
"""

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
    foreground_iou, background_iou : float
        A box with at least the first belongs to its best object, one below the second to the background.
    allow_low_quality_matches : bool
        Whether each object keeps its best boxes whatever their IoU.
    """

    foreground_iou: float
    background_iou: float
    allow_low_quality_matches: bool

    def __call__(self, gt_boxes: Tensor, boxes: Tensor) -> Tensor:
        """Return the matches (A,) of the boxes (A, 4) with the objects' boxes (G, 4)."""
        return ops.match_boxes(
            gt_boxes,
            boxes,
            self.foreground_iou,
            self.background_iou,
            allow_low_quality_matches=self.allow_low_quality_matches,
        )


@dataclass(frozen=True)
class BalancedSampler:
    """Draws a fixed number of boxes per image, at most a given fraction of them positive.

    Attributes
    ----------
    batch_size, positive_fraction : int, float
        That number and that fraction.
    order : callable
        Takes a count and returns a permutation; by default a random one from Lucid's generator.
    """

    batch_size: int
    positive_fraction: float
    order: Callable[[int], Any] = ops.permutation

    def __call__(self, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows drawn of the positive and of the negative boxes, each ascending."""
        return ops.sample_balanced(matches, self.batch_size, self.positive_fraction, self.order)
