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

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from .drawings import DrawingNames, name_key
from .job_exports import ending_of
from .job_list import Job, JobSettings, ListedImage, read_job, write_job
from .job_parts import JobParts, find_parts
from .job_storage import JobStorage
from .job_summary import SUMMARY_FILES, Tally, write_summary
from .sources import FoundImage, PathKeys, located, working_folder

__all__ = ["JobFolder", "earlier_job", "plan_job"]

_OWN_NAMES = ("job.json", "results", *SUMMARY_FILES)


# ------------------------------------------------------------------ the folder


class JobFolder:
    """A job's folder, which no other process writes to as long as it is open; :meth:`open` makes it.

    Attributes
    ----------
    storage : JobStorage
    job : Job
    resumed : bool
        Whether it held the job before.
    n_new : int
        Images that were added to the list.
    sources_from : str
        Folder in which relative sources begin, "" if it is the current one.
    """

    def __init__(self, storage: JobStorage, job: Job, *, resumed: bool, n_new: int, replaceable: set[str]) -> None:
        self.storage, self.job, self.resumed, self.n_new = storage, job, resumed, n_new
        self._replaceable = replaceable
        self._parts = JobParts(storage, job)
        self.sources_from = "" if job.working_folder == working_folder() else job.working_folder

    @classmethod
    @contextmanager
    def open(
        cls,
        storage: JobStorage,
        images: Sequence[FoundImage],
        settings: JobSettings,
        *,
        resume: bool,
        overwrite: bool,
        draw: bool,
        export: Sequence[str] = (),
    ) -> Iterator[JobFolder]:
        """Begin a job in a folder, or go on with the one that it holds, and keep other processes out of it.

        Parameters
        ----------
        storage : JobStorage
            The folder; it is created if it does not exist.
        images : sequence of FoundImage
            What is to be predicted on; a resumed job adds those that it does not list yet.
        settings : JobSettings
        resume : bool
            Go on with the job that the folder holds, if it holds one.
        overwrite : bool
            Delete the job that the folder holds, and replace other files of the names that this one writes.
        draw : bool
            Whether images have drawings.
        export : sequence of str
            Formats of their exports.

        Raises
        ------
        ValueError
            If another process is at work in the folder, if it holds a job or files that would be replaced, or if the
            job has other settings.
        OSError
            If the folder cannot be written to.
        """
        plan = partial(
            plan_job, storage, images, settings, resume=resume, overwrite=overwrite, draw=draw, export=tuple(export)
        )
        plan()  # before anything is made
        with storage.opened():
            earlier, job, replaced = plan()
            resumed = earlier is not None and resume
            if overwrite:
                _delete_job(storage)
            known = earlier.images if earlier is not None and resumed else []
            if earlier is None or not resumed or len(known) < len(job.images):
                write_job(storage, job)
            ours = {name for image in known for name in image.files()}
            n_new = len(job.images) - len(known)
            folder = cls(storage, job, resumed=resumed, n_new=n_new, replaceable={*ours, *replaced})
            folder._parts.find()
            try:
                yield folder
            except OSError:
                with suppress(OSError):  # the first one says more
                    folder._parts.sync()
                raise
            finally:
                folder._parts.sync()

    # -------------------------------------------------------------- rows

    def has_row(self, image: ListedImage) -> bool:
        """Whether an image has its row already."""
        return self._parts.has_row(image)

    @property
    def n_done(self) -> int:
        """Images that have a row."""
        return self._parts.n_done

    def append(self, image: ListedImage, content: Mapping[str, Any]) -> None:
        """Write the row of an image, see :meth:`JobParts.append`."""
        self._parts.append(image, content)

    def unfinished(self, images: Iterable[ListedImage]) -> Iterator[tuple[ListedImage, bool]]:
        """Yield those of the images that there is something to do for, and whether each has no row yet."""
        for image in images:
            is_new = not self.has_row(image)
            if is_new or self.lacks_files(image):
                yield image, is_new

    def lacks_files(self, image: ListedImage) -> bool:
        """Whether a run was ended after the image's row was written and before its drawing and exports were."""
        return not all(map(self.storage.exists, image.files()))

    def may_write(self, name: str) -> bool:
        """Whether a drawing or an export can be written without replacing a file that is not this job's."""
        return name in self._replaceable or not self.storage.exists(name)

    def own_files(self, image: ListedImage) -> list[str]:
        """Return the names of files about an image that may be replaced if they are there."""
        return [name for name in image.files() if name in self._replaceable]

    def take_over(self, number: int) -> None:
        """Take a part that another process has written as complete, see :meth:`JobParts.take_over`."""
        self._parts.take_over(number)

    def unwritten(self, error: OSError) -> OSError:
        """Return the error that says of a row which could not be written what is kept, see :meth:`JobParts.append`."""
        return self._parts.unwritten(error)

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
        if not self.storage.exists("job.json"):  # without it the rows could not be resumed
            write_job(self.storage, self.job)
        try:
            tally = write_summary(self.storage.folder, self.job, self._parts.rows())
            for name in SUMMARY_FILES:
                self.storage.publish(name)
        except OSError as error:
            reason = f"{error.strerror}; all rows are in {str(self.storage.address('results'))!r}, resume to go on"
            raise OSError(error.errno, reason, error.filename) from error
        return tally


# ------------------------------------------------------------------ beginning


def earlier_job(storage: JobStorage, *, resume: bool, overwrite: bool) -> Job | None:
    """Return the job that a folder holds, None if it holds none.

    Raises
    ------
    ValueError
        If it holds one that is neither to be resumed nor to be overwritten.
    """
    try:
        earlier = read_job(storage)
    except ValueError:
        if overwrite:
            return None
        raise
    if earlier is not None and not resume and not overwrite:
        raise ValueError(
            f"{str(storage.place)!r} holds a job already: resume it (resume=True, --resume), overwrite it "
            "(overwrite=True, --overwrite), or choose another folder."
        )
    return earlier


def plan_job(
    storage: JobStorage,
    images: Sequence[FoundImage],
    settings: JobSettings,
    *,
    resume: bool,
    overwrite: bool,
    draw: bool,
    export: tuple[str, ...],
) -> tuple[Job | None, Job, list[str]]:
    """Return the job that a folder holds, the one that it is to hold, and the files that this replaces.

    Raises
    ------
    ValueError
        If the folder holds what must not be replaced, or a job that cannot be resumed.
    """
    earlier = earlier_job(storage, resume=resume, overwrite=overwrite)
    resumed = earlier if resume else None
    if resumed is not None and (differences := resumed.settings.differences(settings)):
        raise ValueError(
            f"The job in {str(storage.place)!r} cannot be resumed with other settings: {'; '.join(differences)}. Give "
            "those that it was begun with, or choose another folder."
        )
    begun = Job(settings, working_folder(), []) if resumed is None else resumed
    job = Job(begun.settings, begun.working_folder, [*begun.images, *_listed(storage, begun, images, draw, export)])
    replaced = _foreign_files(storage, job, earlier)
    if replaced and not overwrite:
        more = f" and {len(replaced) - 1} more" if len(replaced) > 1 else ""
        raise ValueError(
            f"{str(storage.place)!r} holds {replaced[0]!r}{more}, which this job would replace: choose another folder, "
            "or overwrite (overwrite=True, --overwrite)."
        )
    return earlier, job, replaced


def _listed(
    storage: JobStorage, job: Job, images: Sequence[FoundImage], draw: bool, export: tuple[str, ...]
) -> Iterator[ListedImage]:
    """Yield the entries of the images that a job does not list yet."""
    here = working_folder()
    old_keys, keys = PathKeys(job.working_folder), PathKeys(here)
    known = {old_keys(image.source) for image in job.images}
    new = [image for image in images if keys(image.path) not in known]
    everything = [*known, *(keys(image.path) for image in new)]
    sources = [os.path.basename(key) for key in everything if os.path.dirname(key) == storage.key]
    names = DrawingNames([*_OWN_NAMES, *job.files(), *sources])  # a drawing never replaces an image
    endings = [*([".png"] if draw else []), *map(ending_of, export)]
    for number, image in enumerate(new, start=len(job.images) + 1):
        source = image.path if here == job.working_folder else located(here, image.path)
        given = names.give_all(image.stem, endings)
        exports = dict(zip(export, given[len(given) - len(export) :], strict=True))
        yield ListedImage(number, source, None, given[0] if draw else None, exports)


def _foreign_files(storage: JobStorage, job: Job, earlier: Job | None) -> list[str]:
    """Return the files in a folder that a job would replace and that no job has written."""
    wanted = {name_key(name) for name in (*SUMMARY_FILES, *job.files())}
    ours = {name_key(name) for name in (*SUMMARY_FILES, *earlier.files())} if earlier is not None else set()
    found = [name for name in storage.names() if name_key(name) in wanted - ours]
    if earlier is None:
        found += find_parts(storage)
    if earlier is None and storage.exists("job.json"):
        found.append("job.json")
    return found


def _delete_job(storage: JobStorage) -> None:
    """Delete what a job has written. Its rows go first: they must not be taken for those of the next one."""
    for part in find_parts(storage):
        if part.startswith("results/part-"):
            storage.delete(part)
    with suppress(ValueError):
        if (job := read_job(storage)) is not None:
            for name in (*SUMMARY_FILES, *job.files()):
                storage.delete(name)
