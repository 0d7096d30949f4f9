"""Formats of annotations that other tools read and write, one file each.

These are the parts from which :func:`~lucid_maskrcnn.data.convert_data`, :class:`~lucid_maskrcnn.data.CocoInstances`,
:class:`~lucid_maskrcnn.data.LabelImages` and the exports of :class:`~lucid_maskrcnn.Detections` are made: most programs
need only those.
"""

from .coco import (
    bboxes_of,
    complete_annotation,
    make_annotations,
    make_data_set,
    make_results,
    read_annotations,
    read_results,
)
from .csv_tables import table_text
from .geojson import make_feature_collection
from .imagej import make_rois, write_roi_zip
from .label_images import labels_of_masks, read_label_image, read_label_image_size, write_label_image

__all__ = [
    "bboxes_of",
    "complete_annotation",
    "labels_of_masks",
    "make_annotations",
    "make_data_set",
    "make_feature_collection",
    "make_results",
    "make_rois",
    "read_annotations",
    "read_label_image",
    "read_label_image_size",
    "read_results",
    "table_text",
    "write_label_image",
    "write_roi_zip",
]
