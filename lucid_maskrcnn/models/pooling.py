"""From regions to features of a fixed size (He et al. 2017, section 3; Lin et al. 2017, section 4.2).

Shapes: N images, C channels, R RoIs over the batch, h × w cells of a map or of a pooled RoI.
Names: ``rois``, boxes in pixels of the network's input; ``roi_idx``, the image of each; ``scale``, cells per pixel.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import lucid.nn as nn
from lucid import Tensor

from .. import ops
from ..call_answers import answers_wrong_calls
from ..config import MAX_CELLS
from ..reprs import described, fields_repr
from ..validators import flag, fraction, instance, non_negative_int, pair, positive_int

__all__ = ["FeatureMaps", "MultiScaleROIAlign", "ROIAlign", "map_scale"]


def map_scale(image: int, cells: int) -> float:
    """Return the cells per pixel of a map ``cells`` long of an image ``image`` long.

    The inverse of a power of two if that stride gives ``cells``, rounded up; else of an integer stride; else the
    plain ratio.
    """
    nearest = max(image / max(cells, 1), 1e-6)
    for stride in (2.0 ** round(math.log2(nearest)), float(max(round(nearest), 1))):
        if math.ceil(image / stride) == cells:
            return 1 / stride
    return cells / image


class FeatureMaps(NamedTuple):
    """The feature maps of a batch, finest first, and the size of the images that they cover.

    Attributes
    ----------
    maps : list of Tensor of shape (N, C, h, w)
        One, or the levels of a pyramid.
    image_size : (height, width)
        Of the batch in pixels, padding included.
    """

    maps: list[Tensor]
    image_size: tuple[int, int]

    def __repr__(self) -> str:
        return fields_repr(self)

    @property
    def scales(self) -> list[tuple[float, float]]:
        """Cells per pixel of each map, along y and x."""
        height, width = self.image_size
        return [(map_scale(height, f.shape[2]), map_scale(width, f.shape[3])) for f in self.maps]


_cells = partial(positive_int, maximum=MAX_CELLS)


def _check_maps(features: FeatureMaps, count: int | None, words: str) -> None:
    instance("features", features, FeatureMaps, "FeatureMaps(maps, image_size)")
    if not features.maps or (count is not None and len(features.maps) != count):
        raise ValueError(f"features must have {words} feature map{'s' * (count is None)}, got {len(features.maps)}.")


@answers_wrong_calls
class ROIAlign(nn.Module):
    """RoIAlign on one feature map.

    Parameters
    ----------
    output_size : int or (int, int)
        Height and width of the result.
    sampling_ratio, aligned
        See :func:`lucid_maskrcnn.ops.roi_align`.
    """

    def __init__(self, output_size: int | tuple[int, int], *, sampling_ratio: int = 2, aligned: bool = False) -> None:
        super().__init__()
        self.output_size = pair("output_size", output_size, _cells)
        self.sampling_ratio = non_negative_int("sampling_ratio", sampling_ratio, MAX_CELLS)
        self.aligned = flag("aligned", aligned)

    @described
    def __repr__(self) -> str:
        options = f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        return f"ROIAlign({self.output_size}, {options})"

    def forward(self, features: FeatureMaps, rois: Tensor, roi_idx: Tensor) -> Tensor:
        """Pool the RoIs (R, 4), in pixels of the images that the one map covers: ``(R, C, h, w)``."""
        _check_maps(features, 1, "one")
        (feature_map,), (scale,) = features.maps, features.scales
        return ops.roi_align(feature_map, rois, roi_idx, self.output_size, scale, self.sampling_ratio, self.aligned)


@answers_wrong_calls
class MultiScaleROIAlign(nn.Module):
    """RoIAlign on a pyramid: each RoI on level ``⌊4 + log2(√area / 224)⌋``, within the levels there are.

    Parameters
    ----------
    output_size : int or (int, int)
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
        output_size: int | tuple[int, int],
        *,
        num_levels: int = 4,
        sampling_ratio: int = 2,
        aligned: bool = False,
        level_margin: tuple[float, float] = (0.0, 1e-6),
    ) -> None:
        super().__init__()
        self.output_size = pair("output_size", output_size, _cells)
        self.num_levels = positive_int("num_levels", num_levels)
        self.sampling_ratio = non_negative_int("sampling_ratio", sampling_ratio, MAX_CELLS)
        self.aligned = flag("aligned", aligned)
        self.level_margin = pair("level_margin", level_margin, fraction)

    @described
    def __repr__(self) -> str:
        options = f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        return f"MultiScaleROIAlign({self.output_size}, num_levels={self.num_levels}, {options})"

    def forward(self, features: FeatureMaps, rois: Tensor, roi_idx: Tensor) -> Tensor:
        """Pool the RoIs (R, 4), in pixels of the images that the maps cover: ``(R, C, h, w)``."""
        _check_maps(features, None, "one or more")
        maps, scales = features.maps[: self.num_levels], features.scales[: self.num_levels]
        finest = round(-math.log2(scales[0][0]))  # level k has stride 2**k
        levels = ops.roi_levels(rois, len(maps), finest_level=finest, margin=self.level_margin)
        return ops.multiscale_roi_align(
            maps, rois, roi_idx, levels, self.output_size, scales, self.sampling_ratio, self.aligned
        )
