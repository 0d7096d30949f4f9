"""What the page's server is started with, and its bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.ops import device_name
from lucid_maskrcnn.validators import non_negative_int, optional, path, positive_int, positive_number

__all__ = ["AppOptions"]


@answers_wrong_calls
@dataclass(frozen=True)
class AppOptions:
    """What the page's server is started with.

    Attributes
    ----------
    weights : str, Path or None
        A file or a name, which the page's menu begins with; others are in the menu, too.
    device : str
        What predicts, as for :meth:`MaskRCNN.to`.
    max_upload : int
        Bytes of an image file.
    max_pixels : int
        Pixels of a page of it; decided before they are decoded.
    max_sessions : int
        Open pages; the one that was idle for the longest gives way to a new one.
    max_images : int
        Image files that a session has on the server's disk, and results of predictions.
    max_files, max_results : int
        Bytes of all image files on disk, and of all results in memory; the oldest give way.
    max_waiting : int
        Predictions that wait for their turn.
    expire_after : float
        Seconds without a request after which a session and its files are deleted.

    Raises
    ------
    TypeError, ValueError
        If a field is not as above.
    """

    weights: str | Path | None = None
    device: str = "cpu"
    max_upload: int = 200_000_000
    max_pixels: int = 100_000_000
    max_sessions: int = 64
    max_images: int = 4
    max_files: int = 4_000_000_000
    max_results: int = 1_000_000_000
    max_waiting: int = 16
    expire_after: float = 3600.0

    def __post_init__(self) -> None:
        optional(path)("weights", self.weights)
        device_name("device", self.device)
        for name in ("max_upload", "max_pixels", "max_sessions", "max_images", "max_files", "max_results"):
            positive_int(name, getattr(self, name))
        non_negative_int("max_waiting", self.max_waiting)
        positive_number("expire_after", self.expire_after)
