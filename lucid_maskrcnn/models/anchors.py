"""Anchors: the boxes that proposals start from (Ren et al. 2015, section 3.1.1).

Names: a ``cell`` has the anchors of one position, around the origin; ``grid``, rows and columns of a map; ``stride``,
the step between positions in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..config import anchor_levels
from ..reprs import described
from ..user_warnings import warn_user
from ..validators import positive_number, sequence
from .pooling import FeatureMaps, map_scale

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
    whole_pixels, nominal_strides, sizes_first : bool
        See :class:`lucid_maskrcnn.RPNConfig`.
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
        sizes_first: bool = False,
    ) -> None:
        super().__init__()
        self.nominal_strides = nominal_strides
        self.stride = None if per_level or stride is None else positive_number("anchor_stride", stride)
        ratios = sequence("aspect_ratios", aspect_ratios, positive_number, minimum=1)
        levels = anchor_levels(sizes, per_level=per_level)
        options = {"whole_pixels": whole_pixels, "sizes_first": sizes_first}
        self.cells = [ops.cell_anchors(level, ratios, **options) for level in levels]
        self.num_anchors = len(self.cells[0])
        self._warned = False

    @described
    def __repr__(self) -> str:
        strides = "the stride of each map" if self.stride is None else f"stride {self.stride:g}"
        return f"_AnchorGenerator({len(self.cells)} maps, {self.num_anchors} anchors at a position, {strides})"

    def forward(self, features: FeatureMaps) -> list[Tensor]:
        """Return each map's anchors, (rows · columns · num_anchors, 4), in pixels of the images that the maps cover.

        Raises
        ------
        ValueError
            If there are not as many maps as entries of ``sizes``.
        """
        return [ops.grid_anchors(*level, features.maps[0]) for level in self._levels(features)]

    def joined(self, features: FeatureMaps) -> tuple[Tensor, list[int]]:
        """Return the anchors of all maps in one tensor, (A, 4), and how many each map has; they are kept a while."""
        levels = self._levels(features)
        anchors = ops.joined_anchors(levels, features.maps[0])
        return anchors, [len(cells) * grid[0] * grid[1] for cells, grid, _ in levels]

    def on_cpu(self, features: FeatureMaps) -> Tensor:
        """Return the anchors of :meth:`joined` on cpu, whatever device the maps are on; no device is waited for."""
        return ops.joined_anchors(self._levels(features), ops.zeros(0))

    def _levels(self, features: FeatureMaps) -> list[ops.AnchorLevel]:
        maps, image_size = features
        if len(maps) != len(self.cells):
            raise ValueError(
                f"anchor_sizes has {len(self.cells)} entries but the backbone gives {len(maps)} feature maps: "
                "one entry per map."
            )
        levels = []
        for cells, feature_map in zip(self.cells, maps, strict=True):
            grid = feature_map.shape[2], feature_map.shape[3]
            stride = (self._step(image_size[0], grid[0]), self._step(image_size[1], grid[1]))
            if self.stride is not None:
                self._warn_once(self.stride, image_size, grid)
                stride = (self.stride, self.stride)
            levels.append((tuple(cells), grid, stride))
        return levels

    def _step(self, image: int, cells: int) -> float:
        return 1 / map_scale(image, cells) if self.nominal_strides else max(image // cells, 1)

    def _warn_once(self, given: float, image_size: tuple[int, int], grid: tuple[int, ...]) -> None:
        sides = list(zip(image_size, grid, strict=True))
        fits = all(n // given <= m <= -(-n // given) or abs(given - n / m) < 1 for n, m in sides)
        if self._warned or fits:
            return
        self._warned = True
        warn_user(
            f"anchor_stride={given} is used as given, but the backbone's feature map has a stride of "
            f"{sides[0][0] / sides[0][1]:g} pixels: anchors will not sit where the features do."
        )
