"""The rows of a job, in parts: lines of JSON as they come, and with ``format="parquet"`` a table of each complete part.

``results/part-00000.jsonl`` becomes ``results/part-00000.parquet`` once each of its images has a row. A row that is to
be added to a table, in place of an error or for a new image, makes it lines again until the part is complete once more.
A part that a kill has left in both forms has all of its rows in the two together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lucid_maskrcnn.atomic import replacing
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import shown

from .job_list import Job, ListedImage
from .job_rows import append_line, keep_only, read_rows, row_line
from .parquet_rows import parquet_text, read_parquet, write_parquet

__all__ = ["JobParts", "find_parts"]


class JobParts:
    """The parts in a job's folder.

    Parameters
    ----------
    out : Path
        The folder.
    job : Job
    """

    def __init__(self, out: Path, job: Job) -> None:
        self._out, self._job = out, job
        self._size, self._makes_tables = job.settings.shard_size, job.settings.format == "parquet"
        self._done = bytearray(len(job.images) + 1)
        self._tables: set[int] = set()  # numbers of the parts that are tables

    def has_row(self, image: ListedImage) -> bool:
        """Whether an image has its row already."""
        return bool(self._done[image.id])

    @property
    def n_done(self) -> int:
        """Images that have a row."""
        return sum(self._done)

    # -------------------------------------------------------------- reading

    def find(self) -> None:
        """Find the images that have rows, and cut off unfinished lines, and errors, which get another try."""
        for number in range(-(-len(self._job.images) // self._size)):
            lines = self._path(number, "jsonl")
            if self._makes_tables and self._path(number, "parquet").exists():
                self._tables.add(number)
                if lines.exists():
                    self._open_again(number)
            if number in self._tables:
                self._mark(self._results_in_table(number))
            elif lines.exists():
                found = list(self._results_in_lines(number))
                self._mark(row for _, row in found)
                keep_only(lines, [place for place, _ in found])
                if self._makes_tables and self._is_complete(number):
                    self._complete(number)

    def _mark(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._done[row["id"]] = 1

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows in the order of the ids.

        Raises
        ------
        ValueError
            If one is gone.
        """
        for number in range(-(-len(self._job.images) // self._size)):
            yield from self._rows_of(number)

    def _rows_of(self, number: int) -> Iterator[dict[str, Any]]:
        images = self._images_of(number)
        if number in self._tables:
            yield from self._rows_of_table(number, images)
            return
        part = self._path(number, "jsonl")
        if not part.exists():
            raise ValueError(f"{str(part)!r} is gone: resume to predict on its images again.")
        places = {row["id"]: offset for offset, _, row in read_rows(part) if row is not None}
        with open(part, "rb") as file:
            for image in images:
                if image.id not in places:
                    raise _lost(part, image)
                file.seek(places[image.id])
                yield json.loads(file.readline())

    def _rows_of_table(self, number: int, images: Sequence[ListedImage]) -> Iterator[dict[str, Any]]:
        part = self._path(number, "parquet")
        left = iter(images)
        try:
            for row, image in zip(read_parquet(part), left, strict=False):
                if row["id"] != image.id:
                    raise _lost(part, image)
                yield {**row, "source": image.source}
        except FileNotFoundError as error:
            raise ValueError(f"{str(part)!r} is gone: resume to predict on its images again.") from error
        if (image_left := next(left, None)) is not None:
            raise _lost(part, image_left)

    def _results_in_lines(self, number: int) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
        """Yield (offset, length) and content of the first row of each image that has a result."""
        part, left = self._path(number, "jsonl"), set(self._ids_of(number))
        for offset, length, row in read_rows(part):
            if row is not None and "error" not in row and row["id"] in left:
                image = self._job.images[row["id"] - 1]
                self._check_source(row, image, image.source, part)
                left.remove(image.id)
                yield (offset, length), row

    def _results_in_table(self, number: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table that have a result; of a damaged one there is none."""
        part, ids = self._path(number, "parquet"), self._ids_of(number)
        try:
            rows = [row for row in read_parquet(part) if "error" not in row and row["id"] in ids]
        except ValueError:
            warn_user(f"{str(part)!r} is damaged: its images are predicted on again.")
            return
        for row in rows:
            image = self._job.images[row["id"] - 1]
            self._check_source(row, image, parquet_text(image.source), part)
            yield {**row, "source": image.source}

    def _check_source(self, row: Mapping[str, Any], image: ListedImage, source: str, part: Path) -> None:
        if (row["source"], row["page"]) != (source, image.page):
            raise ValueError(
                f"Row {row['id']} of {str(part)!r} is of {shown(row['source'])}, but job.json lists "
                f"{shown(image.source)}: they belong to different jobs."
            )

    # -------------------------------------------------------------- writing

    def append(self, image: ListedImage, content: Mapping[str, Any]) -> None:
        """Write the row of an image; a part whose last row it is, is on the disk then.

        Parameters
        ----------
        image : ListedImage
        content : mapping
            ``size`` and ``detections``, or the ``error`` for which it has none.

        Raises
        ------
        OSError
            If it cannot be written. The rows before it are unharmed.
        """
        number = self._number_of(image)
        part = self._path(number, "jsonl")
        try:
            if number in self._tables:
                self._open_again(number)
            append_line(part, row_line(image, content))
            self._done[image.id] = 1
            if self._is_complete(number):
                self._complete(number)
        except OSError as error:
            raise self.unwritten(error, part) from error

    def unwritten(self, error: OSError, part: Path | None = None) -> OSError:
        """Return the error of a row that could not be written, with what is kept."""
        done = f"{self.n_done} of {len(self._job.images)} images have their results"
        reason = f"{error.strerror}; {done}, resume to go on"
        if not self._out.is_dir():
            reason = "The folder is gone, with all results"
        return OSError(error.errno, reason, error.filename or str(part or self._out))

    def write_whole(self, number: int, contents: Mapping[int, Mapping[str, Any]]) -> None:
        """Write the rows that a part has and new ones at once, in the order of the ids, as the part that is complete.

        Two processes may do so at the same time: what the last one has written is there then, whole.

        Parameters
        ----------
        number : int
            Of the part, from 0 on.
        contents : mapping of int to mapping
            By the id of each image that has no row: ``size`` and ``detections``, or ``error``.

        Raises
        ------
        OSError
            If it cannot be written. The rows before it are unharmed.
        """
        lines, table = (self._path(number, ending) for ending in ("jsonl", "parquet"))
        rows: dict[int, Mapping[str, Any]] = {}
        if self._makes_tables and table.exists():
            rows |= {row["id"]: row for row in self._results_in_table(number)}
        with suppress(FileNotFoundError):
            rows |= {row["id"]: row for _, row in self._results_in_lines(number)}
        rows |= contents
        listed = [(self._job.images[id - 1], rows[id]) for id in sorted(rows)]
        if self._makes_tables:
            in_order = ({"id": i.id, "source": i.source, "page": i.page, **row} for i, row in listed)
            write_parquet(table, in_order, asdict(self._job.settings))
            lines.unlink(missing_ok=True)
        else:
            with replacing(lines) as file:
                file.writelines(row_line(image, row) for image, row in listed)

    def take_over(self, number: int) -> None:
        """Take a part that another process has written whole as it is."""
        ids = self._ids_of(number)
        self._done[ids.start : ids.stop] = b"\1" * len(ids)
        if self._makes_tables:
            self._tables.add(number)

    def sync(self) -> None:
        """Have the system write the last part to the disk."""
        if self._job.images:
            self._sync(self._number_of(self._job.images[-1]))

    def _complete(self, number: int) -> None:
        """Put a part on the disk that has all of its rows, as a table if the job is to have tables."""
        self._sync(number)
        if self._makes_tables:
            write_parquet(self._path(number, "parquet"), self._rows_of(number), asdict(self._job.settings))
            self._tables.add(number)
            self._path(number, "jsonl").unlink()

    def _open_again(self, number: int) -> None:
        """Make lines of a table, without its errors, and of the lines that there are."""
        lines, table = (self._path(number, ending) for ending in ("jsonl", "parquet"))
        rows = {row["id"]: row for row in self._results_in_table(number)}
        if lines.exists():
            rows |= {row["id"]: row for _, row in self._results_in_lines(number)}
        with replacing(lines) as file:
            for id, row in sorted(rows.items()):
                file.write(row_line(self._job.images[id - 1], row))
        table.unlink()
        self._tables.discard(number)

    def _sync(self, number: int) -> None:
        with suppress(FileNotFoundError), open(self._path(number, "jsonl"), "rb") as file:
            os.fsync(file.fileno())

    # -------------------------------------------------------------- numbers

    def _number_of(self, image: ListedImage) -> int:
        return (image.id - 1) // self._size

    def _ids_of(self, number: int) -> range:
        return range(number * self._size + 1, min((number + 1) * self._size, len(self._job.images)) + 1)

    def _images_of(self, number: int) -> Sequence[ListedImage]:
        return self._job.images[number * self._size : (number + 1) * self._size]

    def _is_complete(self, number: int) -> bool:
        ids = self._ids_of(number)
        return self._done.count(1, ids.start, ids.stop) == len(ids)

    def _path(self, number: int, ending: str) -> Path:
        return self._out / "results" / f"part-{number:05}.{ending}"


def _lost(part: Path, image: ListedImage) -> ValueError:
    return ValueError(f"{str(part)!r} has lost the row of image {image.id}: resume to predict it again.")


def find_parts(out: Path) -> list[Path]:
    """Return the files in a job's folder that are parts, or could be taken for some by who reads the folder."""
    folder = out / "results"
    return sorted(path for path in folder.iterdir() if path.suffix in (".jsonl", ".parquet")) if folder.is_dir() else []
