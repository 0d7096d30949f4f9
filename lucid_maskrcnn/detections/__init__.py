"""What ``predict`` returns for one image."""

from .detected_objects import Detections

__all__ = ["Detections"]
