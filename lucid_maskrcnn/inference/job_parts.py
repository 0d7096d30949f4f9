"""The rows of a job, in parts: lines of JSON as they come, and with ``format="parquet"`` a table of each complete part.

``results/part-00000.jsonl`` becomes ``results/part-00000.parquet`` once each of its images has a row. A row that is to
be added to a table, in place of an error or for a new image, makes it lines again until the part is complete once more.
A part that is there in both forms, after a kill, has all of its results in the two together.
"""

from __future__ import annotations

import json
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
from .job_storage import JobStorage
from .parquet_rows import parquet_text, read_parquet, write_parquet

__all__ = ["JobParts", "find_parts"]


class JobParts:
    """The parts in a job's folder.

    Parameters
    ----------
    storage : JobStorage
        The folder.
    job : Job
    """

    def __init__(self, storage: JobStorage, job: Job) -> None:
        self._storage, self._job = storage, job
        self._size, self._makes_tables = job.settings.shard_size, job.settings.format == "parquet"
        self._done = bytearray(len(job.images) + 1)
        self._tables: set[int] = set()  # numbers of the parts that are tables
        self._taken: set[int] = set()  # those that rows can be added to
        self._grown: set[int] = set()  # those of them that have got some

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
            has_lines = self._storage.exists(_lines(number))
            if self._makes_tables and self._storage.exists(_table(number)):
                self._tables.add(number)
                if has_lines:
                    self._take(number)
            if number in self._tables:
                self._done_in(self._results_in_table(number))
            elif has_lines:
                self._find_in_lines(number)
                if self._makes_tables and self._is_complete(number):
                    self._take(number)
                    self._complete(number)

    def _find_in_lines(self, number: int) -> None:
        with self._storage.reading(_lines(number)) as part:
            kept = [place for place, row in self._results_in_lines(number, part) if self._done_in([row])]
            is_cut = sum(length for _, length in kept) != part.stat().st_size
        if is_cut:
            keep_only(self._take(number), kept)

    def _done_in(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        for row in rows:
            self._done[row["id"]] = 1
        return True

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
        is_table = number in self._tables
        name = _table(number) if is_table else _lines(number)
        try:
            with self._storage.reading(name) as part:
                yield from (self._rows_of_table if is_table else self._rows_of_lines)(number, part)
        except FileNotFoundError as error:
            address = str(self._storage.address(name))
            raise ValueError(f"{address!r} is gone: resume to predict on its images again.") from error

    def _rows_of_lines(self, number: int, part: Path) -> Iterator[dict[str, Any]]:
        places = {row["id"]: offset for offset, _, row in read_rows(part) if row is not None}
        with open(part, "rb") as file:
            for image in self._images_of(number):
                if image.id not in places:
                    raise self._lost(_lines(number), image)
                file.seek(places[image.id])
                yield json.loads(file.readline())

    def _rows_of_table(self, number: int, part: Path) -> Iterator[dict[str, Any]]:
        left = iter(self._images_of(number))
        for row, image in zip(read_parquet(part), left, strict=False):
            if row["id"] != image.id:
                raise self._lost(_table(number), image)
            yield {**row, "source": image.source}
        if (image_left := next(left, None)) is not None:
            raise self._lost(_table(number), image_left)

    def _lost(self, name: str, image: ListedImage) -> ValueError:
        address = str(self._storage.address(name))
        return ValueError(f"{address!r} has lost the row of image {image.id}: resume to predict it again.")

    def _results_in_lines(self, number: int, part: Path) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
        """Yield (offset, length) and content of the first row of each image that has a result."""
        left = set(self._ids_of(number))
        for offset, length, row in read_rows(part):
            if row is not None and "error" not in row and row["id"] in left:
                image = self._job.images[row["id"] - 1]
                self._check_source(row, image, image.source, _lines(number))
                left.remove(image.id)
                yield (offset, length), row

    def _results_in_table(self, number: int) -> list[dict[str, Any]]:
        """Return the rows of a table that have a result; of a damaged one there is none."""
        name, ids = _table(number), self._ids_of(number)
        try:
            with self._storage.reading(name) as part:
                rows = [row for row in read_parquet(part) if "error" not in row and row["id"] in ids]
        except ValueError:
            warn_user(f"{str(self._storage.address(name))!r} is damaged: its images are predicted on again.")
            return []
        for row in rows:
            image = self._job.images[row["id"] - 1]
            self._check_source(row, image, parquet_text(image.source), name)
            row["source"] = image.source
        return rows

    def _results_of(self, number: int, *, is_table: bool) -> dict[int, dict[str, Any]]:
        """Return the results in a table, if there is one, and in the lines that there are besides, by their ids."""
        found = {row["id"]: row for row in self._results_in_table(number)} if is_table else {}
        if self._storage.exists(_lines(number)):
            with self._storage.reading(_lines(number)) as part:
                found |= {row["id"]: row for _, row in self._results_in_lines(number, part)}
        return found

    def _check_source(self, row: Mapping[str, Any], image: ListedImage, source: str, name: str) -> None:
        if (row["source"], row["page"]) != (source, image.page):
            raise ValueError(
                f"Row {row['id']} of {str(self._storage.address(name))!r} is of {shown(row['source'])}, but job.json "
                f"lists {shown(image.source)}: they belong to different jobs."
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
        try:
            append_line(self._take(number), row_line(image, content))
            self._grown.add(number)
            self._done[image.id] = 1
            if self._is_complete(number):
                self._complete(number)
        except OSError as error:
            raise self.unwritten(error, _lines(number)) from error

    def unwritten(self, error: OSError, name: str = "") -> OSError:
        """Return the error of a row that could not be written, with what is kept."""
        lost = sum(self._num_done(number) for number in self._grown) if self._storage.is_remote else 0
        done = f"{self.n_done - lost} of {len(self._job.images)} images have their results"
        reason = f"{error.strerror}; {done}, resume to go on"
        if not self._storage.folder.is_dir():
            reason = "The folder is gone, with all results"
        return OSError(error.errno, reason, error.filename or str(self._storage.address(name)))

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
        lines, table = _lines(number), _table(number)
        rows: dict[int, Mapping[str, Any]] = {}
        with suppress(FileNotFoundError):
            rows |= self._results_of(number, is_table=self._makes_tables and self._storage.exists(table))
        rows |= contents
        listed = [(self._job.images[id - 1], rows[id]) for id in sorted(rows)]
        if self._makes_tables:
            in_order = ({"id": i.id, "source": i.source, "page": i.page, **row} for i, row in listed)
            write_parquet(self._storage.folder / table, in_order, asdict(self._job.settings))
            self._storage.publish(table)
            self._storage.delete(lines)
        else:
            with replacing(self._storage.folder / lines) as file:
                file.writelines(row_line(image, row) for image, row in listed)
            self._storage.publish(lines)

    def take_over(self, number: int) -> None:
        """Take a part that another process has written whole as it is."""
        ids = self._ids_of(number)
        self._done[ids.start : ids.stop] = b"\1" * len(ids)
        if self._makes_tables:
            self._tables.add(number)
        self._storage.forget(_lines(number))
        self._taken.discard(number)

    def sync(self) -> None:
        """Put the parts where they belong that have got some of their rows only."""
        grown, self._grown = self._grown, set()
        self._taken.clear()
        for number in sorted(grown):
            if (self._storage.folder / _lines(number)).exists():
                self._storage.publish(_lines(number))

    def _take(self, number: int) -> Path:
        """Return the file of lines that rows are added to until the part is complete.

        Of a table, and of the lines that there are besides, they are its results. The table stays until there is a new
        one.
        """
        name = _lines(number)
        if number in self._taken:
            return self._storage.folder / name
        if number in self._tables:
            rows = self._results_of(number, is_table=True)
            with replacing(self._storage.folder / name) as file:
                for id, row in sorted(rows.items()):
                    file.write(row_line(self._job.images[id - 1], row))
            self._tables.remove(number)
        path = self._storage.take(name)
        self._taken.add(number)
        return path

    def _complete(self, number: int) -> None:
        """Put a part in its place that has all of its rows, as a table if the job is to have tables."""
        if self._makes_tables:
            metadata = asdict(self._job.settings)
            write_parquet(self._storage.folder / _table(number), self._rows_of(number), metadata)
            self._storage.publish(_table(number))
            self._tables.add(number)
            self._storage.delete(_lines(number))
        else:
            self._storage.publish(_lines(number))
        self._taken.discard(number)
        self._grown.discard(number)

    # -------------------------------------------------------------- numbers

    def _number_of(self, image: ListedImage) -> int:
        return (image.id - 1) // self._size

    def _ids_of(self, number: int) -> range:
        return range(number * self._size + 1, min((number + 1) * self._size, len(self._job.images)) + 1)

    def _images_of(self, number: int) -> Sequence[ListedImage]:
        return self._job.images[number * self._size : (number + 1) * self._size]

    def _num_done(self, number: int) -> int:
        ids = self._ids_of(number)
        return self._done.count(1, ids.start, ids.stop)

    def _is_complete(self, number: int) -> bool:
        return self._num_done(number) == len(self._ids_of(number))


def _lines(number: int) -> str:
    return f"results/part-{number:05}.jsonl"


def _table(number: int) -> str:
    return f"results/part-{number:05}.parquet"


def find_parts(storage: JobStorage) -> list[str]:
    """Return the files in a job's folder that are parts, or could be taken for some by who reads the folder."""
    return [f"results/{name}" for name in storage.names("results") if name.endswith((".jsonl", ".parquet"))]
