"""Predicting on the images of a job in the workers of a Ray cluster, each of which takes one part after another.

A worker is an actor of Ray's. It gets the model once, predicts on the images of a part that have no row yet, and writes
the part whole. Restarting a worker that has died and calling it again is Ray's work. This process lists the parts,
counts, and writes the summary.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any, overload

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.models.limits import Limits
from lucid_maskrcnn.models.mask_rcnn import MaskRCNN
from lucid_maskrcnn.text_tables import count_of
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import is_url

from .image_work import ImagePrediction, ImageWork
from .job_folder import JobFolder
from .job_list import Job, ListedImage
from .job_parts import JobParts
from .job_storage import JobStorage
from .local_engine import counting_images
from .ray_cluster import RayCluster
from .sources import located

__all__ = ["PartWorker", "RayWorkers", "predict_with_ray", "ray_workers"]

_RETRIES = 3  # of a part whose worker has died
_PATIENCE = 60.0  # seconds without any worker, after which that is said
_WORTH_SHARING = 4  # images for each worker
_PACKAGES = ("lucid-maskrcnn", "lucid-dl", "numpy")  # rows depend on them


# ------------------------------------------------------------------ how many workers


@dataclass(frozen=True)
class RayWorkers:
    """Workers of a job.

    Attributes
    ----------
    number : int
    threads : int
        Of each, and the CPUs that it asks Ray for.
    gpus : int
        That each asks Ray for.
    """

    number: int
    threads: int
    gpus: int


def ray_workers(cluster: RayCluster, workers: int | None, threads: int | None, *, on_gpu: bool | None) -> RayWorkers:
    """Return how many workers a job is to have, and what each takes of the cluster.

    Parameters
    ----------
    cluster : RayCluster
    workers, threads : int, optional
        By default as many workers as the cluster has room for, of one thread.
    on_gpu : bool or None
        Whether each needs a GPU; None: if the cluster has any.

    Raises
    ------
    ValueError
        If no machine of the cluster has room for a worker.
    """
    threads = 1 if threads is None else threads
    has_gpus = any(cluster.gpus)
    if on_gpu and not has_gpus:
        raise ValueError(
            "device is a GPU, but the Ray cluster has none that it counts (NVIDIA's): use device='cpu' (--device cpu), "
            "or engine='local' (--engine local) on a Mac."
        )
    gpus = int(has_gpus if on_gpu is None else on_gpu)
    fitting = [int(c // threads) for c in cluster.cpus]
    if gpus:
        fitting = [min(room, int(g)) for room, g in zip(fitting, cluster.gpus, strict=True)]
    room = sum(fitting)
    if not room:
        most = count_of(int(max(cluster.cpus, default=0)), "CPU")
        raise ValueError(
            f"threads_per_worker is {threads}, but no machine of the Ray cluster has so many CPUs"
            f"{' and a GPU' if gpus else ''}; the largest has {most}: ask for fewer (--threads-per-worker)."
        )
    if workers is not None and workers > room:
        warn_user(
            f"The Ray cluster has room for {room} of the {workers} workers, unless it grows: the others do not begin."
        )
    return RayWorkers(room if workers is None else workers, threads, gpus)


# ------------------------------------------------------------------ what is sent to workers


class _PartImages(Sequence[ListedImage]):
    """The images of a part in their places in a list that is otherwise not here."""

    def __init__(self, images: Sequence[ListedImage], total: int) -> None:
        self._by_place, self._total = {image.id - 1: image for image in images}, total

    def __len__(self) -> int:
        return self._total

    @overload
    def __getitem__(self, place: int) -> ListedImage: ...
    @overload
    def __getitem__(self, place: slice) -> list[ListedImage]: ...
    def __getitem__(self, place: int | slice) -> ListedImage | list[ListedImage]:
        if isinstance(place, slice):
            return [self._by_place[k] for k in range(*place.indices(self._total))]
        return self._by_place[place]


@dataclass(frozen=True)
class _Part:
    """What a worker does at a time.

    Attributes
    ----------
    number : int
    job : Job
        With the images of this part only, in their places.
    images : list of (ListedImage, bool)
        To be predicted on, and whether each has no row yet.
    own_files : frozenset of str
        Names of files about them that the job may replace.
    """

    number: int
    job: Job
    images: list[tuple[ListedImage, bool]]
    own_files: frozenset[str]


@dataclass(frozen=True)
class _Task:
    """What all workers need, sent once to each.

    Attributes
    ----------
    model : object
    work : ImageWork
    device, dtype : str or None
        Where a model that was loaded for the job is to be, and what it computes in; None leaves it as it is.
    threads : int
    current_folder : str
        In which relative paths begin.
    needs_folder : bool
        Whether there are any.
    job_hash : str
        Of ``job.json``.
    wants_results : bool
        Whether reports have what was found.
    """

    model: Any
    work: ImageWork
    device: str | None
    dtype: str | None
    threads: int
    current_folder: str
    needs_folder: bool
    job_hash: str
    wants_results: bool


@dataclass(frozen=True)
class _Report:
    """What a worker says of an image, or with no image of the part that it has ended."""

    image: ListedImage | None
    is_new: bool = False
    prediction: ImagePrediction | None = None  # with the row's detections
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: OSError | None = None  # for which the part could not be written


# ------------------------------------------------------------------ in a worker


class PartWorker:
    """What an actor does; it lives in another process, maybe on another machine."""

    def __init__(self, task: _Task) -> None:
        import threadpoolctl

        self._task = task
        self._model = task.model
        if isinstance(task.model, MaskRCNN) and task.device is not None:
            self._model = task.model.to(task.device, task.dtype)
        threadpoolctl.threadpool_limits(task.threads)

    def refusal(self) -> str | None:
        """Say why this machine cannot work on the job."""
        task, storage = self._task, self._task.work.storage
        try:
            os.chdir(task.current_folder)
        except OSError:
            if task.needs_folder:
                return f"lacks the folder {task.current_folder!r}, in which relative paths begin"
        try:
            if _hash(storage) == task.job_hash:
                return None
        except ImportError as error:
            return f"cannot write to the job: {str(error).rstrip('.')}"
        return f"does not see the job in {str(storage.place)!r}, which must be a folder that all machines share"

    def predict(self, part: _Part, *, is_again: bool) -> Iterator[_Report]:
        """Predict on the images of a part, write it, and report of each, the last one of the part."""
        contents: dict[int, Mapping[str, Any]] = {}
        storage, error = self._task.work.storage, None
        try:
            for image, is_new in part.images:
                yield self._predict(part, image, contents, is_new=is_new, is_again=is_again)
            if contents:
                JobParts(storage, part.job).write_whole(part.number, contents)
        except OSError as reason:
            error = reason
        finally:
            storage.close()
        yield _Report(None, error=error)

    def _predict(
        self, part: _Part, image: ListedImage, contents: dict[int, Mapping[str, Any]], *, is_new: bool, is_again: bool
    ) -> _Report:
        def write_row(content: Mapping[str, Any]) -> None:
            contents[image.id] = content

        def may_write(name: str) -> bool:
            # What has appeared since the first try is of the worker that died then.
            return is_again or name in part.own_files or not self._task.work.storage.exists(name)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Limits() as limits:
                limits.name = repr(image.source)
                done, problems = self._task.work.do(
                    image, self._model, write_row=write_row if is_new else None, may_write=may_write
                )
        if done is not None:
            done = replace(done, detections=_as_in_row(done.detections, image)) if self._task.wants_results else None
        said = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        return _Report(image, is_new, done, tuple(problems), said)


def _as_in_row(found: Detections, image: ListedImage) -> Detections:
    """Return detections with the masks of their row: run lengths take a hundredth of what the probabilities do."""
    return Detections.from_coco(found.to_coco(image.id), found.image_size, categories=found.categories)


def _hash(storage: JobStorage) -> str:
    with suppress(OSError):
        return hashlib.sha256(storage.read("job.json")).hexdigest()
    return ""


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _actor_class() -> type:
    """Return the class of the actors. Ray sends its code, as it is no module's: a machine without ours can say so."""

    class Worker:
        def __init__(self, versions: dict[str, str]) -> None:
            self._versions = versions
            self._worker: PartWorker | None = None

        def start(self, task: list[Any]) -> str | None:
            """Get ready; return what is wrong with this machine."""
            from importlib.metadata import PackageNotFoundError, version  # this code comes without its module

            for name, wanted in self._versions.items():
                try:
                    found = version(name)
                except PackageNotFoundError:
                    return f"lacks {name} {wanted}, which is installed here"
                if found != wanted:
                    return f"has {name} {found}, and here it is {wanted}: rows would differ"
            from ray.exceptions import RaySystemError

            try:
                return self._ready(task).refusal()
            except RaySystemError as error:  # the class of a model is in a module that is not installed there
                reason = next(line for line in str(error).splitlines() if line)
                return f"cannot open the model that it is sent ({reason})"

        def _ready(self, task: list[Any]) -> Any:
            if self._worker is None:  # also in one that Ray has started again
                import ray

                from lucid_maskrcnn.inference.ray_engine import PartWorker

                self._worker = PartWorker(ray.get(task[0]))
            return self._worker

        def predict(self, task: list[Any], part: Any) -> Iterator[Any]:
            """Report of one image after the other."""
            import warnings

            import ray

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it calls what Ray itself has deprecated
                is_again = ray.get_runtime_context().was_current_actor_reconstructed
            yield from self._ready(task).predict(part, is_again=is_again)

        def predict_whole(self, task: list[Any], part: Any) -> list[Any]:
            """Report of all images at the end."""
            return list(self.predict(task, part))

    return Worker


# ------------------------------------------------------------------ in this process


def predict_with_ray(
    folder: JobFolder,
    model: Any,
    work: ImageWork,
    cluster: RayCluster,
    workers: RayWorkers,
    *,
    device: str | None,
    dtype: str | None,
    on_image: Callable[[ImagePrediction], None] | None,
    progress: bool,
) -> list[str]:
    """Predict on the images of a job that have no row yet, and write drawings and exports that are missing.

    Parameters
    ----------
    folder : JobFolder
    model : MaskRCNN
        Or any object with such a ``predict``.
    work : ImageWork
    cluster : RayCluster
    workers : RayWorkers
    device, dtype : str, optional
        Of a model that was loaded for the job.
    on_image : callable, optional
        Called with an :class:`ImagePrediction` after each image that could be read, in the order in which they come.
    progress : bool
        Whether to show a bar, on a terminal or in a notebook.

    Returns
    -------
    list of str
        Why drawings and exports could not be written.

    Raises
    ------
    ValueError
        If a machine lacks the folder, or has other versions of what rows depend on.
    OSError
        If a part cannot be written; a ``ChildProcessError`` if parts are incomplete since their workers have died again
        and again. The other parts are complete then.
    """
    parts = deque(_parts(folder))
    if not parts:
        return []
    _warn_of_few(parts, workers.number)
    task = _Task(
        model,
        replace(work, progress=False),
        device,
        dtype,
        workers.threads,
        os.getcwd(),
        _has_relative_paths(folder),
        _hash(folder.storage),
        on_image is not None,
    )
    with counting_images(len(folder.job.images), folder.n_done, progress) as advance:
        crew = _Crew(cluster, workers, task, parts)
        try:
            for report in crew.reports(folder):
                if report.is_new:
                    advance()
                for sentence in report.warnings:
                    warn_user(sentence)
                if report.prediction is not None and on_image is not None:
                    on_image(report.prediction)
        finally:
            crew.end()
    if crew.lost:
        raise ChildProcessError(_lost(folder, crew.lost))
    return crew.problems


def _has_relative_paths(folder: JobFolder) -> bool:
    own = [] if folder.storage.is_remote else [str(folder.storage.place)]
    sources = (located(folder.sources_from, image.source) for image in folder.job.images)
    return any(not (os.path.isabs(path) or is_url(path)) for path in chain(own, sources))


def _parts(folder: JobFolder) -> Iterator[tuple[int, list[tuple[ListedImage, bool]]]]:
    """Yield the number of each part that is to be worked on, its images, and whether each has no row yet."""
    images, size = folder.job.images, folder.job.settings.shard_size
    for number, start in enumerate(range(0, len(images), size)):
        if found := list(folder.unfinished(images[start : start + size])):
            yield number, found


def _warn_of_few(parts: Sequence[tuple[int, list[Any]]], workers: int) -> None:
    images = sum(len(images) for _, images in parts)
    if len(parts) < workers and images >= _WORTH_SHARING * workers:
        warn_user(
            f"There is work in only {count_of(len(parts), 'part')} of the results, for {workers} workers: a smaller "
            "shard_size (--shard-size), which a job has from its beginning, makes more parts."
        )


def _lost(folder: JobFolder, numbers: Sequence[int]) -> str:
    named = ", ".join(f"part-{number:05}" for number in sorted(numbers)[:5])
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return (
        f"{count_of(len(numbers), 'part')} in {str(folder.storage.address('results'))!r} ({named}{more}) could not be "
        "completed: the worker died at each of several tries. Give each more memory, by fewer workers (--workers) or "
        "smaller tiles, and go on with resume=True (--resume)."
    )


class _Crew:
    """The actors of a job, and what they are at.

    Attributes
    ----------
    lost : list of int
        Parts whose worker has died too often.
    problems : list of str
        Files that could not be written.
    """

    def __init__(self, cluster: RayCluster, workers: RayWorkers, task: _Task, parts: deque[Any]) -> None:
        self._ray, self._streams, self._parts = cluster.ray, cluster.streams, parts
        self.lost: list[int] = []
        self.problems: list[str] = []
        try:
            self._task = [self._ray.put(task)]  # in a list, or Ray would fetch it for each call
        except (TypeError, AttributeError) as error:  # what pickle raises
            raise TypeError(f"weights cannot be sent to workers: {error}") from error
        make = self._ray.remote(_actor_class()).options(
            num_cpus=workers.threads,
            num_gpus=workers.gpus,
            max_restarts=-1,  # the retries of each part are bounded
            max_task_retries=_RETRIES,
        )
        self._actors = [make.remote(_versions()) for _ in range(min(workers.number, len(parts)))]
        self._starting = {actor.start.remote(self._task): actor for actor in self._actors}
        self._running: dict[Any, tuple[Any, int]] = {}

    def end(self) -> None:
        """End the actors."""
        for actor in self._actors:
            with suppress(Exception):
                self._ray.kill(actor)

    def reports(self, folder: JobFolder) -> Iterator[_Report]:
        """Yield what is reported of images until there is nothing more to do."""
        patience = time.monotonic() + _PATIENCE
        while self._running or (self._parts and self._starting):
            if self._running:
                patience = time.monotonic() + _PATIENCE
            elif time.monotonic() > patience:
                warn_user(
                    "No worker could begin for a minute: the Ray cluster is busy, or it lacks memory; `ray status` "
                    "says what is free."
                )
                patience = float("inf")
            for reference in self._next():
                if reference in self._starting:
                    self._begin(folder, self._starting.pop(reference), reference)
                else:
                    yield from self._reports_of(folder, reference)
        self.lost += [number for number, _ in self._parts]

    def _next(self) -> list[Any]:
        """Return what has something to say, after a second at most."""
        everything = [*self._running, *self._starting]
        ready, _ = self._ray.wait(everything, num_returns=1, timeout=1.0)
        if ready and len(everything) > 1:  # one turn each, however many there are
            ready, _ = self._ray.wait(everything, num_returns=len(everything), timeout=0)
        return ready

    def _begin(self, folder: JobFolder, actor: Any, reference: Any) -> None:
        """Give an actor that has started its first part."""
        from ray.exceptions import RayActorError

        with suppress(RayActorError):
            if refusal := self._ray.get(reference):
                raise ValueError(f"A machine of the Ray cluster {refusal}.")
            self._give_part(folder, actor)

    def _give_part(self, folder: JobFolder, actor: Any) -> None:
        if not self._parts:
            return
        number, images = self._parts.popleft()
        job, size = folder.job, folder.job.settings.shard_size
        in_part = job.images[number * size : (number + 1) * size]
        own = frozenset(name for image, _ in images for name in folder.own_files(image))
        light = Job(job.settings, job.working_folder, _PartImages(in_part, len(job.images)))
        part = _Part(number, light, images, own)
        if self._streams:
            call = actor.predict.options(num_returns="streaming").remote(self._task, part)
        else:
            call = actor.predict_whole.remote(self._task, part)
        self._running[call] = actor, number

    def _reports_of(self, folder: JobFolder, call: Any) -> Iterator[_Report]:
        """Yield what a call has to say now; when it has ended its actor gets another part."""
        from ray.exceptions import ActorDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

        actor, number = self._running[call]
        try:
            reports = [self._ray.get(next(call))] if self._streams else self._ray.get(call)
        except (RayActorError, WorkerCrashedError, OutOfMemoryError, ObjectLostError) as error:
            self.lost.append(number)
            del self._running[call]
            if not isinstance(error, ActorDiedError):
                self._starting[actor.start.remote(self._task)] = actor  # once Ray has started it again
            return
        for report in reports:
            self.problems += report.problems
            if report.image is not None:
                yield report
                continue
            if report.error is not None:
                raise folder.unwritten(report.error) from report.error
            folder.take_over(number)
            del self._running[call]
            self._give_part(folder, actor)
