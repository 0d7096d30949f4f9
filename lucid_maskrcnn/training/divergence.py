"""Stop training on NaN or infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lucid import Tensor

from ..atomic import replacing

__all__ = ["DivergenceError", "first_bad", "save_batches"]


class DivergenceError(FloatingPointError):
    """A loss, the gradients or the weights became infinite or no number.

    Attributes
    ----------
    step : int
        At which, counted from 1.
    term : str
        What it was.
    image_ids : list
        Of the step's images.
    """

    def __init__(self, message: str, step: int, term: str, image_ids: Sequence[Any]) -> None:
        super().__init__(message)
        self.step, self.term, self.image_ids = step, term, list(image_ids)

    def __reduce__(self) -> Any:
        return type(self), (*self.args, self.step, self.term, self.image_ids)


def first_bad(values: Mapping[str, float]) -> str | None:
    """Return the name of the first value that is not finite, None if all are."""
    return next((name for name, value in values.items() if not math.isfinite(value)), None)


def save_batches(path: Path, batches: Sequence[Any]) -> None:
    """Write the images and targets of some batches as an ``.npz`` file: ``image_0``, ``boxes_0``, … for each image."""
    arrays: dict[str, np.ndarray] = {"image_ids": np.array([str(i) for batch in batches for i in batch.image_ids])}
    images = [image for batch in batches for image in batch.images]
    targets = [target for batch in batches for target in batch.targets]
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        for name, value in {"image": image, **target}.items():
            array = np.asarray(value.data) if isinstance(value, Tensor) else value
            array = array.to_dense() if hasattr(array, "to_dense") else array  # CompressedMasks
            if isinstance(array, np.ndarray) and array.dtype != object:
                arrays[f"{name}_{i}"] = array
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
