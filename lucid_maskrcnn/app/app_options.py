"""What the page's server is started with, and its bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["AppOptions"]


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
