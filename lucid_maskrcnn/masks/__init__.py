"""Masks in compressed form, COCO's run-length encoding and polygons."""

from .compressed import CompressedMasks, are_segmentations
from .overlaps import iou_of_pairs, mask_nms, overlapping_pairs
from .parts import trace_parts
from .polygons import fill_polygons, trace_polygons
from .rings import join_rings
from .rle import decode_rle, encode_rle, rle_area

__all__ = [
    "CompressedMasks",
    "are_segmentations",
    "decode_rle",
    "encode_rle",
    "fill_polygons",
    "iou_of_pairs",
    "join_rings",
    "mask_nms",
    "overlapping_pairs",
    "rle_area",
    "trace_parts",
    "trace_polygons",
]
