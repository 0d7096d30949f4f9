"""What ``predict`` returns: the detections of one image, and of several."""

from .detected_objects import Detections
from .predictions import Predictions

__all__ = ["Detections", "Predictions"]
