"""The folder of a job: what it is about, one row an image as they come, and the summary at the end.

``job.json``
    What the job is: options, weights, package version, shard size, and the list of its images, id → source and page.
``results/part-00000.jsonl``, …
    One row an image, a JSON object on a line of its own: ``id``, ``source``, ``page``, ``size`` (height, width) and
    ``detections`` (COCO results), or ``error`` in place of the last two. Part k holds the ids k·S + 1 … (k + 1)·S, S
    being the shard size. A row counts if it ends in a newline and parses.
``detections.json``, ``images.json``
    Made from the rows once each image has one.

A row is appended in one write. It survives whatever ends the process, but not a power failure in the seconds before
the system writes it to the disk; a part that is complete is on the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lucid_maskrcnn.atomic import remove_leftovers, replacing, write_json
from lucid_maskrcnn.validators import shown

from .drawings import DrawingNames, name_key
from .sources import FoundImage, PathKeys, working_folder

__all__ = ["Job", "JobFolder", "JobSettings", "ListedImage", "Tally", "earlier_job", "plan_job", "read_job"]

_FORMAT, _VERSION = "lucid_maskrcnn job", 1
_SUMMARY = ("detections.json", "images.json")
_OWN_NAMES = ("job.json", "results", *_SUMMARY)
_MOST_FAILURES = 10  # that a tally has in words


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image of a job.

    Attributes
    ----------
    id : int
        1, 2, … in the order of the list.
    source : str
        The file; a relative path begins at the job's working folder.
    page : int or None
        Of a file with several.
    drawing : str or None
        File name of the drawing, None if there is none.
    """

    id: int
    source: str
    page: int | None
    drawing: str | None


@dataclass(frozen=True)
class JobSettings:
    """What the rows of a job depend on: a resumed job must have the same.

    Attributes
    ----------
    options : dict
        JSON values by the name of the argument. An option that a job of an earlier version does not have, is None in
        it.
    weights : dict
        ``name`` and ``sha256``.
    shard_size : int
        Images in a part.
    package_version : str
        May be another one in a resumed job.
    categories : list of dict
        COCO's, ``id`` and ``name``.
    """

    options: dict[str, Any]
    weights: dict[str, Any]
    shard_size: int
    package_version: str
    categories: list[dict[str, Any]]

    def differences(self, others: JobSettings) -> list[str]:
        """Return what is different in ``others``, in words: "score_thresh 0.5, now 0.7"."""
        names = sorted({*self.options, *others.options})
        pairs = [(name, self.options.get(name), others.options.get(name)) for name in names]
        pairs.append(("shard_size", self.shard_size, others.shard_size))
        found = [f"{name} was {_brief(old)} and is {_brief(new)}" for name, old, new in pairs if old != new]
        if self.weights.get("sha256") != others.weights.get("sha256"):
            old, new = (
                f"{_brief(w.get('name'))} ({str(w.get('sha256'))[:8]}…)" for w in (self.weights, others.weights)
            )
            found.append(f"the weights were {old} and are {new}")
        return found


def _brief(value: Any) -> str:
    return "the model's own" if value is None else shown(value)


@dataclass(frozen=True)
class Job:
    """What ``job.json`` says.

    Attributes
    ----------
    settings : JobSettings
    working_folder : str
        Where relative sources begin.
    images : list of ListedImage
    """

    settings: JobSettings
    working_folder: str
    images: list[ListedImage]

    def drawings(self) -> list[str]:
        """Return the file names of the drawings."""
        return [image.drawing for image in self.images if image.drawing is not None]


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


# ------------------------------------------------------------------ job.json


def read_job(out: Path) -> Job | None:
    """Return the job that a folder holds, None if it holds none.

    Raises
    ------
    ValueError
        If its ``job.json`` is damaged, or something else.
    """
    path = out / "job.json"
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _parse_job(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} is not the list of a job, or is damaged: choose another folder, or overwrite it."
        ) from error


def _parse_job(content: Any) -> Job:
    if content["format"] != _FORMAT or content["version"] != _VERSION:
        raise ValueError("another format")
    images = [ListedImage(*(entry[name] for name in ListedImage.__slots__)) for entry in content["images"]]
    for number, image in enumerate(images, start=1):
        if image.id != number or not isinstance(image.source, str):
            raise ValueError(f"image {number}")
        # Drawings are deleted when the job is overwritten: they must be drawings, in this folder.
        if image.drawing is not None and os.path.basename(image.drawing) != image.drawing.removesuffix(".png") + ".png":
            raise ValueError(f"the drawing of image {number}")
    keys = ("options", "weights", "shard_size", "package_version", "categories")
    settings = JobSettings(*(content[key] for key in keys))
    if type(settings.shard_size) is not int or settings.shard_size < 1:
        raise ValueError("shard_size")
    mappings, texts = (settings.options, settings.weights), (settings.package_version, content["working_folder"])
    if not all(isinstance(part, dict) for part in mappings) or not all(isinstance(part, str) for part in texts):
        raise ValueError("settings")
    if not all(type(entry["id"]) is int and isinstance(entry["name"], str) for entry in settings.categories):
        raise ValueError("categories")
    return Job(settings, content["working_folder"], images)


def _write_job(out: Path, job: Job) -> None:
    head = {"format": _FORMAT, "version": _VERSION, **asdict(job.settings), "working_folder": job.working_folder}
    write_json(out / "job.json", {**head, "images": [asdict(image) for image in job.images]})


# ------------------------------------------------------------------ the folder


class JobFolder:
    """A job's folder, which no other process writes to as long as it is open; :meth:`open` makes it.

    Attributes
    ----------
    path : Path
    job : Job
    resumed : bool
        Whether it held the job before.
    n_new : int
        Images that were added to the list.
    """

    def __init__(self, path: Path, job: Job, *, resumed: bool, n_new: int, replaceable: set[str]) -> None:
        self.path, self.job, self.resumed, self.n_new = path, job, resumed, n_new
        self._replaceable = replaceable
        self._done = bytearray(len(job.images) + 1)
        self._sources_from = "" if job.working_folder == working_folder() else job.working_folder

    @classmethod
    @contextmanager
    def open(
        cls,
        out: Path,
        images: Sequence[FoundImage],
        settings: JobSettings,
        *,
        resume: bool,
        overwrite: bool,
        draw: bool,
    ) -> Iterator[JobFolder]:
        """Begin a job in a folder, or go on with the one that it holds, and keep other processes out of it.

        Parameters
        ----------
        out : Path
            Created if it does not exist.
        images : sequence of FoundImage
            What is to be predicted on; a resumed job adds those that it does not list yet.
        settings : JobSettings
        resume : bool
            Go on with the job that the folder holds, if it holds one.
        overwrite : bool
            Delete the job that the folder holds, and replace other files of the names that this one writes.
        draw : bool
            Whether images have drawings.

        Raises
        ------
        ValueError
            If another process is at work in the folder, if it holds a job or files that would be replaced, or if the
            job has other settings.
        OSError
            If the folder cannot be written to.
        """
        plan_job(out, images, settings, resume=resume, overwrite=overwrite, draw=draw)  # before anything is made
        with _locked(out):
            remove_leftovers(out)
            remove_leftovers(out / "results")
            earlier, job, replaced = plan_job(out, images, settings, resume=resume, overwrite=overwrite, draw=draw)
            resumed = earlier is not None and resume
            if overwrite:
                _delete_job(out)
            known = earlier.images if earlier is not None and resumed else []
            if earlier is None or not resumed or len(known) < len(job.images):
                _write_job(out, job)
            ours = {image.drawing for image in known if image.drawing is not None}
            n_new = len(job.images) - len(known)
            folder = cls(out, job, resumed=resumed, n_new=n_new, replaceable={*ours, *replaced})
            folder._find_rows()
            yield folder
            folder._sync_part(len(job.images))

    # -------------------------------------------------------------- rows

    def path_of(self, image: ListedImage) -> str:
        """Return the file of an image."""
        return os.path.join(self._sources_from, image.source)

    def has_row(self, image: ListedImage) -> bool:
        """Whether an image has its row already."""
        return bool(self._done[image.id])

    @property
    def n_done(self) -> int:
        """Images that have a row."""
        return sum(self._done)

    def append(self, image: ListedImage, content: Mapping[str, Any]) -> None:
        """Write the row of an image.

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
        row = {"id": image.id, "source": image.source, "page": image.page, **content}
        line = json.dumps(row, allow_nan=False).encode("ascii") + b"\n"
        part = self._part_of(image.id)
        try:
            _append(part, line)
        except OSError as error:
            done = f"{self.n_done} of {len(self.job.images)} images have their results"
            reason = f"{error.strerror}; {done}, resume to go on"
            if not self.path.is_dir():
                reason = "The folder is gone, with all results"
            raise OSError(error.errno, reason, str(part)) from error
        self._done[image.id] = 1
        if image.id % self.job.settings.shard_size == 0:
            self._sync_part(image.id)

    def drawing_of(self, image: ListedImage) -> Path | None:
        """Return the path of an image's drawing, None if it has none."""
        return None if image.drawing is None else self.path / image.drawing

    def may_draw(self, image: ListedImage) -> bool:
        """Whether a drawing can be written without replacing a file that is not this job's."""
        path = self.drawing_of(image)
        return path is not None and (image.drawing in self._replaceable or not os.path.lexists(path))

    # -------------------------------------------------------------- the end

    def finish(self) -> Tally:
        """Write ``detections.json`` and ``images.json`` from the rows, one row at a time.

        Raises
        ------
        ValueError
            If a row is gone.
        OSError
            If they cannot be written.
        """
        if not (self.path / "job.json").exists():  # without it the rows could not be resumed
            _write_job(self.path, self.job)
        results_path, images_path = (self.path / name for name in _SUMMARY)
        try:
            # The larger one ends first: if the disk is full, neither is replaced.
            with replacing(images_path) as images, replacing(results_path) as results:
                summary = _Summary(
                    _ListWriter(results, results_path), _ListWriter(images, images_path, b'{"images": '), self.job
                )
                for row in self._rows_in_order():
                    summary.add(row)
                return summary.close()
        except OSError as error:
            reason = f"{error.strerror}; all rows are in {str(self.path / 'results')!r}, resume to go on"
            raise OSError(error.errno, reason, error.filename) from error

    def _rows_in_order(self) -> Iterator[dict[str, Any]]:
        images, size = self.job.images, self.job.settings.shard_size
        for start in range(0, len(images), size):
            part = self._part_of(start + 1)
            if not part.exists():
                raise ValueError(f"{str(part)!r} is gone: resume to predict on its images again.")
            places = {row["id"]: offset for offset, _, row in _read_rows(part) if row is not None}
            with open(part, "rb") as file:
                for image in images[start : start + size]:
                    if image.id not in places:
                        raise ValueError(
                            f"{str(part)!r} has lost the row of image {image.id}: resume to predict it again."
                        )
                    file.seek(places[image.id])
                    yield json.loads(file.readline())

    # -------------------------------------------------------------- parts

    def _part_of(self, image_id: int) -> Path:
        number = (image_id - 1) // self.job.settings.shard_size
        return self.path / "results" / f"part-{number:05}.jsonl"

    def _find_rows(self) -> None:
        """Find the images that have rows, and cut off unfinished lines, and errors, which get another try."""
        size = self.job.settings.shard_size
        for start in range(0, len(self.job.images), size):
            part = self._part_of(start + 1)
            if not part.exists():
                continue
            ids = range(start + 1, min(start + size, len(self.job.images)) + 1)
            kept: list[tuple[int, int]] = []
            for offset, length, row in _read_rows(part):
                if row is not None and "error" not in row and row["id"] in ids and not self._done[row["id"]]:
                    self._check_source(row, part)
                    self._done[row["id"]] = 1
                    kept.append((offset, length))
            _keep_only(part, kept)

    def _check_source(self, row: Mapping[str, Any], part: Path) -> None:
        image = self.job.images[row["id"] - 1]
        if (row["source"], row["page"]) != (image.source, image.page):
            raise ValueError(
                f"Row {row['id']} of {str(part)!r} is of {shown(row['source'])}, but job.json lists "
                f"{shown(image.source)}: they belong to different jobs."
            )

    def _sync_part(self, image_id: int) -> None:
        """Have the system write a part to the disk."""
        part = self._part_of(max(image_id, 1))
        with suppress(FileNotFoundError), open(part, "rb") as file:
            os.fsync(file.fileno())


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


# ------------------------------------------------------------------ lines of a part


def _append(part: Path, line: bytes) -> None:
    """Append a line; what cannot be written whole is taken back."""
    # Opened each time: a file that is held open outlives its folder, and what is written to it then is lost.
    descriptor = os.open(part, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        end = os.fstat(descriptor).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BaseException:
            with suppress(OSError):  # a resume cuts it off
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def _read_rows(part: Path) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """Yield offset, length and content of each line of a part; the content is None if it is no row."""
    offset = 0
    with open(part, "rb") as file:
        for line in file:
            yield offset, len(line), _parse_row(line)
            offset += len(line)


def _parse_row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
        is_row = type(row["id"]) is int and {"source", "page"} <= row.keys()
        if "error" not in row:
            height, width = row["size"]
            is_row = is_row and type(height) is type(width) is int
            results = row["detections"]
            is_row = is_row and all(r["image_id"] == row["id"] and type(r["category_id"]) is int for r in results)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return row if is_row else None


def _keep_only(part: Path, kept: Sequence[tuple[int, int]]) -> None:
    """Cut everything out of a part but the lines that begin at these offsets and have these lengths."""
    length = sum(n for _, n in kept)
    if length == part.stat().st_size:
        return
    if not kept or kept[-1][0] + kept[-1][1] == length:  # all that goes is at the end
        with open(part, "r+b") as file:
            file.truncate(length)
        return
    with open(part, "rb") as old, replacing(part) as new:
        for offset, n in kept:
            old.seek(offset)
            new.write(old.read(n))


# ------------------------------------------------------------------ beginning


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a folder, which the system releases when this process ends, however that happens."""
    from filelock import FileLock, Timeout

    (out / "results").mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "results" / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"Another process is at work in {str(out)!r}: wait for it, or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def earlier_job(out: Path, *, resume: bool, overwrite: bool) -> Job | None:
    """Return the job that a folder holds, None if it holds none.

    Raises
    ------
    ValueError
        If it holds one that is neither to be resumed nor to be overwritten, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out {str(out)!r} is a file, not a folder.")
    try:
        earlier = read_job(out)
    except ValueError:
        if overwrite:
            return None
        raise
    if earlier is not None and not resume and not overwrite:
        raise ValueError(
            f"{str(out)!r} holds a job already: resume it (resume=True, --resume), overwrite it (overwrite=True, "
            "--overwrite), or choose another folder."
        )
    return earlier


def plan_job(
    out: Path, images: Sequence[FoundImage], settings: JobSettings, *, resume: bool, overwrite: bool, draw: bool
) -> tuple[Job | None, Job, list[str]]:
    """Return the job that a folder holds, the one that it is to hold, and the files that this replaces.

    Raises
    ------
    ValueError
        If the folder holds what must not be replaced, or a job that cannot be resumed.
    """
    earlier = earlier_job(out, resume=resume, overwrite=overwrite)
    resumed = earlier if resume else None
    if resumed is not None and (differences := resumed.settings.differences(settings)):
        raise ValueError(
            f"The job in {str(out)!r} cannot be resumed with other settings: {'; '.join(differences)}. Give those that "
            "it was begun with, or choose another folder."
        )
    begun = Job(settings, working_folder(), []) if resumed is None else resumed
    job = Job(begun.settings, begun.working_folder, [*begun.images, *_listed(out, begun, images, draw)])
    replaced = _foreign_files(out, job, earlier)
    if replaced and not overwrite:
        more = f" and {len(replaced) - 1} more" if len(replaced) > 1 else ""
        raise ValueError(
            f"{str(out)!r} holds {replaced[0]!r}{more}, which this job would replace: choose another folder, or "
            "overwrite (overwrite=True, --overwrite)."
        )
    return earlier, job, replaced


def _listed(out: Path, job: Job, images: Sequence[FoundImage], draw: bool) -> Iterator[ListedImage]:
    """Yield the entries of the images that a job does not list yet."""
    here = working_folder()
    old_keys, keys = PathKeys(job.working_folder), PathKeys(here)
    known = {old_keys(image.source) for image in job.images}
    new = [image for image in images if keys(image.path) not in known]
    folder = os.path.realpath(out)
    everything = [*known, *(keys(image.path) for image in new)]
    sources = [os.path.basename(key) for key in everything if os.path.dirname(key) == folder]
    names = DrawingNames([*_OWN_NAMES, *job.drawings(), *sources])  # a drawing never replaces an image
    for number, image in enumerate(new, start=len(job.images) + 1):
        source = image.path if here == job.working_folder else os.path.join(here, image.path)
        yield ListedImage(number, source, None, names.give(image.stem) if draw else None)


def _foreign_files(out: Path, job: Job, earlier: Job | None) -> list[str]:
    """Return the files in a folder that a job would replace and that no job has written."""
    wanted = {name_key(name) for name in (*_SUMMARY, *job.drawings())}
    ours = {name_key(name) for name in (*_SUMMARY, *earlier.drawings())} if earlier is not None else set()
    if not out.is_dir():
        return []
    found = sorted(name for name in os.listdir(out) if name_key(name) in wanted - ours)
    if earlier is None and (out / "results").is_dir():
        found += sorted(f"results/{part.name}" for part in (out / "results").glob("*.jsonl"))
    if earlier is None and (out / "job.json").exists():
        found.append("job.json")
    return found


def _delete_job(out: Path) -> None:
    """Delete what a job has written. Its rows go first: they must not be taken for those of the next one."""
    for part in (out / "results").glob("part-*.jsonl"):
        part.unlink()
    with suppress(ValueError):
        if (job := read_job(out)) is not None:
            for name in (*_SUMMARY, *job.drawings()):
                (out / name).unlink(missing_ok=True)
