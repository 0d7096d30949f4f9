"""Anchors: the boxes that proposals start from (Ren et al. 2015, section 3.1.1)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from .pooling import map_scale

__all__ = ["_AnchorGenerator"]


class _AnchorGenerator(nn.Module):
    """Anchors of every size and ratio at every position of every feature map.

    Parameters
    ----------
    sizes : sequence of numbers, or of sequences of numbers
        Side of a square anchor in pixels. With ``per_level`` one entry (a number, or several) per map;
        otherwise all of them on the one map.
    aspect_ratios : sequence of float
        Height over width; the area stays.
    per_level : bool
        Whether there is a list of maps.
    stride : float, optional
        Step between positions in pixels, for a single map. By default, and always with ``per_level``,
        the step is the input's size divided by the map's, rounded down, as in torchvision.
    whole_pixels, nominal_strides : bool
        See :class:`lucid_maskrcnn.config.RPNConfig`.
    """

    def __init__(
        self,
        sizes: Sequence[float | Sequence[float]],
        aspect_ratios: Sequence[float],
        *,
        per_level: bool,
        stride: float | None = None,
        whole_pixels: bool = True,
        nominal_strides: bool = False,
    ) -> None:
        super().__init__()
        self.nominal_strides = nominal_strides
        groups: list[Any] = list(sizes) if per_level else [sizes]
        levels = [[g] if isinstance(g, (int, float)) else list(g) for g in groups]
        self.stride = None if per_level else stride
        self.cells = [ops.cell_anchors(level, aspect_ratios, whole_pixels=whole_pixels) for level in levels]
        counts = {len(c) for c in self.cells}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"anchor_sizes must name equally many sizes for every level, got {tuple(sizes)}.")
        self.num_anchors = counts.pop()
        self._warned = False

    def forward(self, maps: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Return each map's anchors, (rows · columns · num_anchors, 4), in pixels of an image of ``image_size``.

        Raises
        ------
        ValueError
            If there are not as many maps as entries of ``sizes``.
        """
        if len(maps) != len(self.cells):
            raise ValueError(
                f"anchor_sizes has {len(self.cells)} entries but the backbone gives {len(maps)} feature maps: "
                "one entry per map."
            )
        anchors = []
        for cells, features in zip(self.cells, maps, strict=True):
            grid = tuple(features.shape[2:])
            stride = (self._step(image_size[0], grid[0]), self._step(image_size[1], grid[1]))
            if self.stride is not None:
                self._warn_of(self.stride, image_size, grid)
                stride = (self.stride, self.stride)
            anchors.append(ops.grid_anchors(cells, grid, stride, features))
        return anchors

    def _step(self, image: int, cells: int) -> float:
        return 1 / map_scale(image, cells) if self.nominal_strides else max(image // cells, 1)

    def _warn_of(self, given: float, image_size: tuple[int, int], grid: tuple[int, ...]) -> None:
        sides = list(zip(image_size, grid, strict=True))
        fits = all(n // given <= m <= -(-n // given) or abs(given - n / m) < 1 for n, m in sides)
        if self._warned or fits:
            return
        self._warned = True
        warnings.warn(
            f"anchor_stride={given} is used as given, but the backbone's feature map has a stride of "
            f"{sides[0][0] / sides[0][1]:g} pixels: anchors will not sit where the features do.",
            UserWarning,
            stacklevel=2,
        )
