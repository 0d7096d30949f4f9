"""From regions to features of a fixed size (He et al. 2017, section 3; Lin et al. 2017, section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lucid.nn as nn
from lucid import Tensor

from .. import ops

__all__ = ["MultiScaleROIAlign", "ROIAlign"]


def map_scale(image: int, cells: int) -> float:
    """Return the cells per pixel of a map ``cells`` long of an image ``image`` long.

    The inverse of a power of two if one explains the rounded-up size, then of a whole stride, else the
    plain ratio.
    """
    nearest = max(image / max(cells, 1), 1e-6)
    for stride in (2.0 ** round(math.log2(nearest)), float(max(round(nearest), 1))):
        if math.ceil(image / stride) == cells:
            return 1 / stride
    return cells / image


def _scales(image_size: tuple[int, int], features: Tensor) -> tuple[float, float]:
    return map_scale(image_size[0], features.shape[2]), map_scale(image_size[1], features.shape[3])


class ROIAlign(nn.Module):
    """RoIAlign on one feature map.

    Parameters
    ----------
    output_size : (int, int)
        Height and width of the result.
    sampling_ratio, aligned
        See :func:`lucid_maskrcnn.ops.roi_align`.
    """

    def __init__(self, output_size: tuple[int, int], *, sampling_ratio: int = 2, aligned: bool = False) -> None:
        super().__init__()
        self.output_size, self.sampling_ratio, self.aligned = output_size, sampling_ratio, aligned

    def forward(self, features: Tensor, rois: Tensor, roi_idx: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Pool the RoIs (R, 4), in pixels of images of ``image_size``: ``(R, C, h, w)``."""
        scale = _scales(image_size, features)
        return ops.roi_align(features, rois, roi_idx, self.output_size, scale, self.sampling_ratio, self.aligned)


class MultiScaleROIAlign(nn.Module):
    """RoIAlign on a pyramid: each RoI on level ``⌊4 + log2(√area / 224)⌋``, within the levels there are.

    Parameters
    ----------
    output_size : (int, int)
        Height and width of the result.
    num_levels : int
        How many of the maps are pooled from, finest first: P2 to P5, not P6.
    sampling_ratio, aligned
        See :func:`lucid_maskrcnn.ops.roi_align`.
    level_margin : (float, float)
        See :func:`lucid_maskrcnn.ops.roi_levels`.
    """

    def __init__(
        self,
        output_size: tuple[int, int],
        *,
        num_levels: int = 4,
        sampling_ratio: int = 2,
        aligned: bool = False,
        level_margin: tuple[float, float] = (0.0, 1e-6),
    ) -> None:
        super().__init__()
        self.output_size, self.num_levels = output_size, num_levels
        self.sampling_ratio, self.aligned, self.level_margin = sampling_ratio, aligned, level_margin

    def forward(self, features: Sequence[Tensor], rois: Tensor, roi_idx: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Pool the RoIs (R, 4), in pixels of images of ``image_size``: ``(R, C, h, w)``."""
        maps = list(features[: self.num_levels])
        scales = [_scales(image_size, f) for f in maps]
        finest = round(-math.log2(scales[0][0]))  # level k has stride 2**k
        levels = ops.roi_levels(rois, len(maps), finest_level=finest, margin=self.level_margin)
        return ops.multiscale_roi_align(
            maps, rois, roi_idx, levels, self.output_size, scales, self.sampling_ratio, self.aligned
        )
