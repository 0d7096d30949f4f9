"""The two files in COCO's format at the end of a job, written from its rows one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lucid_maskrcnn.atomic import replacing

from .job_list import Job

__all__ = ["SUMMARY_FILES", "Tally", "write_summary"]

SUMMARY_FILES = ("detections.json", "images.json")
_MOST_FAILURES = 10  # that a tally has in words


@dataclass(frozen=True)
class Tally:
    """What the rows of a job hold.

    Attributes
    ----------
    n_images, n_failed, n_objects : int
        Images, those of them without a result, and detections in the others.
    failures : tuple of str
        Why the first ten failed, each with its source.
    """

    n_images: int
    n_failed: int
    n_objects: int
    failures: tuple[str, ...]


def write_summary(folder: Path, job: Job, rows: Iterable[Mapping[str, Any]]) -> Tally:
    """Write ``detections.json`` and ``images.json``, and return what is in them.

    Parameters
    ----------
    folder : Path
    job : Job
    rows : iterable of mapping
        In the order of the ids.
    """
    results_path, images_path = (folder / name for name in SUMMARY_FILES)
    # The larger one ends first: if the disk is full, neither is replaced.
    with replacing(images_path) as images, replacing(results_path) as results:
        summary = _Summary(_ListWriter(results, results_path), _ListWriter(images, images_path, b'{"images": '), job)
        for row in rows:
            summary.add(row)
        return summary.close()


class _Summary:
    """Writes the two files of the end from rows, and counts what is in them."""

    def __init__(self, results: _ListWriter, images: _ListWriter, job: Job) -> None:
        self._results, self._images = results, images
        self._names = {entry["id"]: entry["name"] for entry in job.settings.categories}
        self._n_images = len(job.images)
        self._n_failed = self._n_objects = 0
        self._failures: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        if "error" in row:
            self._n_failed += 1
            if len(self._failures) < _MOST_FAILURES:
                name, reason = repr(row["source"]), str(row["error"])
                self._failures.append(reason if name in reason else f"{name}: {reason}")
            return
        height, width = row["size"]
        self._images.add({"id": row["id"], "file_name": row["source"], "height": height, "width": width})
        for result in row["detections"]:
            self._results.add(result)
            self._names.setdefault(result["category_id"], f"class {result['category_id']}")
        self._n_objects += len(row["detections"])

    def close(self) -> Tally:
        """End the files, and return the counts."""
        categories = [{"id": number, "name": name} for number, name in sorted(self._names.items())]
        self._results.close()
        self._images.close(f', "annotations": [], "categories": {json.dumps(categories)}}}'.encode())
        return Tally(self._n_images, self._n_failed, self._n_objects, tuple(self._failures))


class _ListWriter:
    """Writes a JSON list one element at a time, as ``json.dumps`` would write the whole; its errors name the file."""

    def __init__(self, file: BinaryIO, path: Path, before: bytes = b"") -> None:
        self._file, self._path, self._separator = file, path, b""
        self._write(before + b"[")

    def add(self, element: Any) -> None:
        self._write(self._separator + json.dumps(element).encode("ascii"))
        self._separator = b", "

    def close(self, after: bytes = b"") -> None:
        self._write(b"]" + after)

    def _write(self, text: bytes) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
