"""Prediction jobs small enough for tests: a model that needs no network, images, and what a job's folder holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from lucid_maskrcnn.detections import Detections


class TwoBoxes:
    """A model that finds the same two objects in every image, and counts what it is asked for.

    Parameters
    ----------
    before : callable, optional
        Called with the number of the call, from 1 on, and the image before it is predicted on.
    """

    categories: ClassVar = {1: "cat", 2: "dog"}

    def __init__(self, before: Callable[[int, np.ndarray], None] | None = None) -> None:
        self.calls = 0
        self._before = before

    def predict(
        self, image: np.ndarray, *, score_thresh: float, top_k: int | None = None, **_: Any
    ) -> list[Detections]:
        self.calls += 1
        if self._before is not None:
            self._before(self.calls, image)
        height, width = image.shape[:2]
        found = Detections(
            [[0, 0, width / 2, height / 2], [width / 4, height / 4, width, height]],
            [0.9, 0.6],
            [1, 2],
            np.ones((2, 28, 28)),
            (height, width),
            categories=self.categories,
        )
        return [found[found.scores > score_thresh][:top_k]]


def stop_at(call: int, error: BaseException | None = None) -> Any:
    """A model that fails at a call, by default as by Ctrl-C."""

    def fail(number: int, _: np.ndarray) -> None:
        if number == call:
            raise KeyboardInterrupt if error is None else error

    return TwoBoxes(fail)


def make_image(path: Path, side: int = 24, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side + 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def make_images(folder: Path, count: int, side: int = 24) -> list[Path]:
    return [make_image(folder / f"{k:03}.png", side, k) for k in range(count)]


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of a job, in the order of its files."""
    parts = sorted((out / "results").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_bytes().splitlines(keepends=True)]


def content(out: Path, *, but: Sequence[str] = ("job.json",)) -> dict[str, bytes]:
    """The files of a job by name, with their bytes."""
    found = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name not in (*but, "results/.lock")}


def copy_of(out: Path, name: str) -> Path:
    """A copy of a job's folder beside it."""
    shutil.copytree(out, out.with_name(name))
    return out.with_name(name)
