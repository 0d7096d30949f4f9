"""Models with which something happens, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from small_jobs import TwoBoxes

from lucid_maskrcnn.images import load_image


class Fails(TwoBoxes):
    """A model with which something happens at the image of one shade, until a file is there."""

    def __init__(self, marker: Path, shade: int) -> None:
        super().__init__()
        self.marker, self.shade = marker, shade

    def predict(self, image: np.ndarray, **options: Any) -> Any:
        if image[0, 0, 0] == self.shade and not self.marker.exists():
            self.happen()
        return super().predict(image, **options)

    def happen(self) -> None:
        raise NotImplementedError


class Dies(Fails):
    def happen(self) -> None:
        self.marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class DiesAlways(Fails):
    def happen(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Divides(Fails):
    def happen(self) -> None:
        _ = 1 / 0


class Warns(Fails):
    def happen(self) -> None:
        warnings.warn("it is late", UserWarning, stacklevel=1)


def shade_of(image: Path) -> int:
    return int(load_image(image)[0, 0, 0])
