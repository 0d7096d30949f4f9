"""Prediction on many images, and on large ones."""

from .drawings import DRAWING_FORMATS, save_drawing
from .image_stream import predict_stream
from .image_work import ImagePrediction
from .job_exports import JOB_EXPORTS, check_exports
from .job_storage import holds_job
from .jobs import JobResult, JobStart, predict_files
from .sources import expand_pattern, split_list
from .tiles import predict_tiled

__all__ = [
    "DRAWING_FORMATS",
    "JOB_EXPORTS",
    "ImagePrediction",
    "JobResult",
    "JobStart",
    "check_exports",
    "expand_pattern",
    "holds_job",
    "predict_files",
    "predict_stream",
    "predict_tiled",
    "save_drawing",
    "split_list",
]
