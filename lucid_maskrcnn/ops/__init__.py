"""Lucid tensor operators of Mask R-CNN, on cpu (NumPy) and gpu (MLX)."""

from ._memory import release_memory
from ._operation import as_tensor, engine_is_sound, no_grad, repair_engine
from .boxes import box_area, box_iou, clip_boxes, decode_boxes, encode_boxes
from .conv import conv2d, conv_transpose2d, one_channel
from .descent import descend
from .layers import (
    add_scalars,
    batch_norm,
    concat_anchors,
    dropout,
    flatten,
    fold_batch_norm,
    linear,
    max_pool2d,
    subsample,
    upsample_add,
)
from .losses import binary_cross_entropy, cross_entropy, smooth_l1
from .masks import mask_targets, paste_masks
from .nms import batched_nms, nms
from .roi_align import multiscale_roi_align, roi_align, roi_levels
from .selection import (
    above,
    arange,
    cell_anchors,
    concat,
    finite,
    full,
    grid_anchors,
    large_enough,
    match,
    permutation,
    pick,
    sample_balanced,
    sigmoid,
    softmax,
    take,
    top_k_per_level,
)

__all__ = [
    "above",
    "add_scalars",
    "arange",
    "as_tensor",
    "batch_norm",
    "batched_nms",
    "binary_cross_entropy",
    "box_area",
    "box_iou",
    "cell_anchors",
    "clip_boxes",
    "concat",
    "concat_anchors",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "decode_boxes",
    "descend",
    "dropout",
    "encode_boxes",
    "engine_is_sound",
    "finite",
    "flatten",
    "fold_batch_norm",
    "full",
    "grid_anchors",
    "large_enough",
    "linear",
    "mask_targets",
    "match",
    "max_pool2d",
    "multiscale_roi_align",
    "nms",
    "no_grad",
    "one_channel",
    "paste_masks",
    "permutation",
    "pick",
    "release_memory",
    "repair_engine",
    "roi_align",
    "roi_levels",
    "sample_balanced",
    "sigmoid",
    "smooth_l1",
    "softmax",
    "subsample",
    "take",
    "top_k_per_level",
    "upsample_add",
]
