"""Stop training on NaN or infinity."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from lucid import Tensor

from ..atomic import replacing
from .checkpoints import find_checkpoints

__all__ = ["DivergenceError", "DivergenceGuard"]


class DivergenceError(FloatingPointError):
    """A loss, the gradients or the weights became NaN or infinite.

    Attributes
    ----------
    step : int
        Number of the step, counted from 1.
    term : str
        Name of the value.
    image_ids : list
        Of the images of the step, or of one of its batches; empty if a weight is not finite.
    """

    problem: str = ""  # the part of the message that every rank knows
    packed: bytes | None = None  # the batches as a file, on a rank that writes none

    def __init__(self, message: str, step: int, term: str, image_ids: Sequence[Any]) -> None:
        super().__init__(message)
        self.step, self.term, self.image_ids = step, term, list(image_ids)

    def __reduce__(self) -> Any:
        return type(self), (*self.args, self.step, self.term, self.image_ids)


class DivergenceGuard:
    """Checks the values of a run before anything of their step is kept.

    Parameters
    ----------
    folder : Path, optional
        Of the run: its checkpoints are named in the message, and the batches are written there. None on a rank that
        writes no files: then the error carries the batches to rank 0, for :meth:`write_packed`.
    lr : float
        Highest learning rate, for the message.
    """

    def __init__(self, folder: Path | None, lr: float) -> None:
        self._folder, self._lr = folder, lr

    def check_values(self, step: int, values: Mapping[str, float], batches: Sequence[Any]) -> None:
        """Raise if a value is not finite, and write the batches to ``diverged-<step>.npz``.

        Parameters
        ----------
        step : int
            Number of the step, counted from 0.
        values : mapping of str to float
            Losses, or the norm of the gradients.
        batches : sequence of batches
            What the values were computed from.

        Raises
        ------
        DivergenceError
            It names the first value that is not finite.
        """
        term = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if term is None:
            return
        image_ids = [i for batch in batches for i in batch.image_ids]
        problem, written = f"{term} is {values[term]} for the images {image_ids}", ""
        if self._folder is None:
            error = self._error(step, problem, term, image_ids)
            error.packed = _packed(batches)
            raise error
        path = self._path(step + 1)
        with suppress(OSError):  # a full disk is not what the message should be about
            _save_batches(path, batches)
            written = f", written to {path.name}"
        raise self._error(step, problem + written, term, image_ids)

    def write_packed(self, error: DivergenceError) -> DivergenceError:
        """Write the batches of another rank's error, and return it with a message that names the file."""
        path, written = self._path(error.step), ""
        with suppress(OSError), replacing(path) as file:
            file.write(error.packed or b"")
            written = f", written to {path.name}"
        return self._error(error.step - 1, error.problem + written, error.term, error.image_ids)

    def check_array(self, step: int, name: str, array: np.ndarray) -> None:
        """Raise DivergenceError if an array that is about to be saved is not finite."""
        if not np.isfinite(array).all():
            raise self._error(step, f"{name} is not finite", name, [])

    def _path(self, step: int) -> Path:
        assert self._folder is not None
        return self._folder / f"diverged-{step:08}.npz"

    def _error(self, step: int, problem: str, term: str, image_ids: Sequence[Any]) -> DivergenceError:
        last = ""
        if self._folder is not None:
            found = find_checkpoints(self._folder)
            last = f"; the last checkpoint is {found[0].name}" if found else "; there is no checkpoint yet"
        message = f"Step {step + 1}: {problem}{last}; try a lower learning rate than {self._lr:g}."
        error = DivergenceError(message, step + 1, term, image_ids)
        error.problem = problem
        return error


def _save_batches(path: Path, batches: Sequence[Any]) -> None:
    """Write images and targets as an ``.npz`` file, with ``image_0``, ``boxes_0``, … for each image."""
    with replacing(path) as file:
        np.savez_compressed(file, **_arrays(batches))  # type: ignore[arg-type]


def _packed(batches: Sequence[Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **_arrays(batches))  # type: ignore[arg-type]
    return file.getvalue()


def _arrays(batches: Sequence[Any]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"image_ids": np.array([str(i) for batch in batches for i in batch.image_ids])}
    images = [image for batch in batches for image in batch.images]
    targets = [target for batch in batches for target in batch.targets]
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        for name, value in {"image": image, **target}.items():
            array = np.asarray(value.data) if isinstance(value, Tensor) else value
            array = array.to_dense() if hasattr(array, "to_dense") else array  # CompressedMasks
            if isinstance(array, np.ndarray) and array.dtype != object:
                arrays[f"{name}_{i}"] = array
    return arrays
