"""Lucid tensor operators of Mask R-CNN, on cpu (NumPy) and gpu (MLX)."""

from . import _mlx  # noqa: F401  # first: it prepares MLX, which Lucid imports
from ._memory import release_memory
from ._operation import (
    array_module,
    as_tensor,
    begin,
    device_array,
    engine_is_sound,
    evaluate,
    host,
    host_zeros,
    is_device_array,
    no_grad,
    numbers,
    recording,
    repair_engine,
    shape_only,
    zeros,
)
from ._parallel import chunks, num_threads, parallel_for, split_evenly
from .backend import DEVICES, GPUBackend, device_name, gpu_backend, move_module
from .boxes import box_area, box_iou, clip_boxes, decode_boxes, encode_boxes
from .buckets import bucket_size, padded_rows
from .compilation import compiled, compiling
from .conv import conv2d, conv_transpose2d, one_channel
from .functional import add_scalars, concat_anchors, dropout, flatten, linear
from .layout import nearest as nearest_cells
from .loss_functions import binary_cross_entropy, cross_entropy, smooth_l1
from .mask_resampling import mask_targets, paste_masks
from .nms import batched_nms, nms
from .normalization import batch_norm, fold_batch_norm
from .roi_align import multiscale_roi_align, roi_align, roi_levels
from .selection import (
    arange,
    cell_anchors,
    concat,
    finite_rows,
    full,
    grid_anchors,
    match,
    nonzero_above,
    permutation,
    pick,
    remove_small_boxes,
    sample_balanced,
    sigmoid,
    softmax,
    take,
    top_k_per_level,
)
from .sgd_step import moved_averages, sgd_update, sum_of_squares
from .spatial import max_pool2d, subsample, upsample_add

__all__ = [
    "DEVICES",
    "GPUBackend",
    "add_scalars",
    "arange",
    "array_module",
    "as_tensor",
    "batch_norm",
    "batched_nms",
    "begin",
    "binary_cross_entropy",
    "box_area",
    "box_iou",
    "bucket_size",
    "cell_anchors",
    "chunks",
    "clip_boxes",
    "compiled",
    "compiling",
    "concat",
    "concat_anchors",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "decode_boxes",
    "device_array",
    "device_name",
    "dropout",
    "encode_boxes",
    "engine_is_sound",
    "evaluate",
    "finite_rows",
    "flatten",
    "fold_batch_norm",
    "full",
    "gpu_backend",
    "grid_anchors",
    "host",
    "host_zeros",
    "is_device_array",
    "linear",
    "mask_targets",
    "match",
    "max_pool2d",
    "move_module",
    "moved_averages",
    "multiscale_roi_align",
    "nearest_cells",
    "nms",
    "no_grad",
    "nonzero_above",
    "num_threads",
    "numbers",
    "one_channel",
    "padded_rows",
    "parallel_for",
    "paste_masks",
    "permutation",
    "pick",
    "recording",
    "release_memory",
    "remove_small_boxes",
    "repair_engine",
    "roi_align",
    "roi_levels",
    "sample_balanced",
    "sgd_update",
    "shape_only",
    "sigmoid",
    "smooth_l1",
    "softmax",
    "split_evenly",
    "subsample",
    "sum_of_squares",
    "take",
    "top_k_per_level",
    "upsample_add",
    "zeros",
]
