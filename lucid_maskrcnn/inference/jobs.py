"""Prediction on many image files: a folder of rows, drawings and COCO results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.annotation_formats.imagej import require_roifile
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.config import make_categories
from lucid_maskrcnn.detections.detection_arguments import checked_areas
from lucid_maskrcnn.models.mask_rcnn import MaskRCNN
from lucid_maskrcnn.ops import DTYPES, device_name, host
from lucid_maskrcnn.remote_files import exists_at, path_or_url
from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.version import __version__
from lucid_maskrcnn.weights.registry import file_hash, locate

from .engines import Engine, check_engine
from .image_work import ImagePrediction, ImageWork
from .job_exports import check_exports
from .job_folder import JobFolder, earlier_job
from .job_list import JOB_FORMATS, Job, JobSettings
from .job_storage import JobStorage, job_storage
from .parquet_rows import require_pyarrow
from .predictors import check_predictor, checked_options, labels_of
from .sources import FoundImage, PathKeys, find_images, working_folder
from .tiles import check_tiles

__all__ = ["JobResult", "JobStart", "predict_files"]

_MOST_FAILURES = 10  # that a result has in words
_MOST_ASKED = 5  # URLs, whether they exist


@dataclass(frozen=True)
class JobStart:
    """What :func:`predict_files` is about to do.

    Attributes
    ----------
    out : Path or str
        The folder of the job; a str if it is a URL.
    resumed : bool
        Whether the folder held the job before.
    n_images, n_done, n_new : int
        Images of the job, those of them that have their results, and those that were added to the list now.
    """

    __repr__ = fields_repr

    out: Path | str
    resumed: bool
    n_images: int
    n_done: int
    n_new: int


@dataclass(frozen=True)
class JobResult:
    """What the folder of a job holds.

    Attributes
    ----------
    out : Path or str
        The folder; a str if it is a URL.
    n_images : int
        Images of the job, also those that an earlier call predicted on.
    n_failed : int
        Those of them that could not be read, or not be predicted on.
    n_objects : int
        Detections in all of them.
    failures : tuple of str
        Why the first ten of them failed; also drawings and exports that could not be written. Each begins with the
        image's path.
    """

    __repr__ = fields_repr

    out: Path | str
    n_images: int
    n_failed: int
    n_objects: int
    failures: tuple[str, ...] = ()


@answers_wrong_calls
def predict_files(
    paths: Sequence[str | Path],
    weights: str | Path | MaskRCNN,
    out: str | Path,
    *,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    threads_per_worker: int | None = None,
    format: str = "jsonl",
    shard_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tiles: bool = False,
    tile_size: int | None = None,
    overlap: int | None = None,
    export: Sequence[str] = (),
    draw: bool = True,
    device: str = "cpu",
    dtype: str | None = None,
    score_thresh: float = 0.05,
    nms_thresh: float | None = None,
    top_k: int | None = None,
    mask_thresh: float = 0.5,
    classes: str | int | Sequence[str | int] | None = None,
    class_agnostic_nms: bool = False,
    mask_nms: bool = False,
    min_area: float | None = None,
    max_area: float | None = None,
    exclude_edge: bool = False,
    page: int | None = None,
    channels: int | Sequence[int] | None = None,
    intensity: str | Sequence[float] | None = None,
    progress: bool = True,
    on_start: Callable[[JobStart], None] | None = None,
    on_image: Callable[[ImagePrediction], None] | None = None,
) -> JobResult:
    """Predict on image files one by one, and write results as they come, drawings, and a summary at the end.

    Whatever ends the process, what was predicted is in the folder, and a call with ``resume=True`` does the rest. An
    image that cannot be read does not stop the job. Memory does not grow with the number of images, but for their
    names.

    Parameters
    ----------
    paths : sequence of str or Path
        Files, and folders, which stand for the images in them and in their folders. A file that is given twice is
        predicted on once. The images' ids are 1, 2, … in this order. Both may be at URLs that fsspec knows, such as
        ``"s3://bucket/folder"`` (extra ``storage``).
    weights : str, Path or MaskRCNN
        A name that :func:`~lucid_maskrcnn.weights.list_weights` knows, a file, or a model (any object with such a
        ``predict``).
    out : str or Path
        The folder, created if it does not exist. ``results/part-00000.jsonl``, …: one row an image. ``<stem>.png``: the
        drawing of each image (``<stem>_2.png`` where that name is taken). ``detections.json``: a list of COCO results,
        and ``images.json``, a COCO data set without annotations: ids, file names, categories. ``job.json``: settings,
        and the list of images. It may be a URL; parts of the results appear there once they are complete, or when this
        call ends. No two processes may work in one folder there, which no lock prevents.
    engine : {"local", "ray"}
        What predicts: this process, or workers of a Ray cluster (extra ``ray``), each with a model of its own, which
        write a part of the results at a time. The results are the same to the byte if as many threads compute them, and
        a job may be resumed with the other engine.
    address : str, optional
        Of a Ray cluster: ``"auto"`` on one of its machines, ``"host:port"``, or ``"ray://host:port"``. A process that
        is connected already (``ray.init``) uses what it has, and leaves it as it is. By default the address is that in
        the environment variable ``RAY_ADDRESS``; without it workers are on this machine alone, and end with the job.
    workers : int, optional
        Workers of Ray, by default as many as the cluster has room for, on a GPU one for each.
    threads_per_worker : int, optional
        Threads of each worker, and the CPUs that it asks Ray for. One by default, which loses least to threads that
        wait for each other; more take less memory for as many CPUs.
    format : {"jsonl", "parquet"}
        What the results become once a part of them is complete: the lines of JSON that they are until then, or
        ``results/part-00000.parquet`` in place of those. Needs pyarrow (extra ``parquet``).
    shard_size : int, optional
        Images in a part of the results. By default 1000, with ``engine="ray"`` fewer if there are fewer than 64 000
        images, so that there are 64 parts to share; a job that is resumed keeps its own.
    resume : bool
        Go on with the job that the folder holds, and add those of ``paths`` that it does not list yet; begin one if it
        holds none. Images that could not be read are tried again, drawings and exports that are missing are made, and
        rows are kept as they are, even if an image has changed.
    overwrite : bool
        Delete the job that the folder holds, and replace other files of the names above. By default that is refused.
    tiles : bool
        Predict on each image by overlapping tiles, see :func:`predict_tiled`. Without drawings memory is that of one
        row of tiles, where the format of an image allows it.
    tile_size, overlap : int, optional
        As in :func:`predict_tiled`; only with ``tiles``.
    export : sequence of str
        Formats of :meth:`~lucid_maskrcnn.detections.Detections.save` to write for each image beside its drawing, under
        the same name with the suffix of the format: ``"label-image"`` (``.tif``), ``"csv"``, ``"geojson"``,
        ``"imagej"`` (``.zip``), ``"yolo"`` (``.txt``), ``"coco"`` or ``"labelme"`` (``.json``), ``"crops"`` (a folder,
        ``…_crops``). Intensities are measured in the unscaled samples of the image's file.
    draw : bool
        Whether to write drawings.
    device : {"cpu", "gpu", "cuda", "mps", "metal", "auto"}
        Of a model that is loaded here. A model that is given stays on its own. With ``engine="ray"`` a GPU is one that
        Ray counts (NVIDIA's).
    dtype : {"float32", "float16", "bfloat16"}, optional
        What a model that is loaded here computes in, float32 by default: see
        :meth:`MaskRCNN.to <lucid_maskrcnn.MaskRCNN.to>`. A job is resumed in the precision that it was begun in.
    score_thresh, nms_thresh, top_k, mask_thresh, classes, class_agnostic_nms, mask_nms
        As in :meth:`MaskRCNN.predict <lucid_maskrcnn.MaskRCNN.predict>`.
    min_area, max_area, exclude_edge
        As in :meth:`Detections.filter <lucid_maskrcnn.detections.Detections.filter>`.
    page, channels, intensity
        As in :func:`~lucid_maskrcnn.images.load_image`: of every image the same page.
    progress : bool
        Show a progress bar, on stderr if that is a terminal, or in a notebook.
    on_start : callable, optional
        Called with a :class:`JobStart` before the first image.
    on_image : callable, optional
        Called with an :class:`ImagePrediction` after each image, but not for those that cannot be read. With
        ``engine="ray"`` images come in the order in which workers are done with them, before their part is written,
        and their detections have the masks of the rows (no ``mask_probs``).

    Returns
    -------
    JobResult

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If an argument is not as above, none of the images exists, the folder holds a job or files that would be
        replaced, another process is at work in it, or ``resume`` comes with other weights or options than the job was
        begun with. Nothing has been written then.
    ImportError
        If Ray or pyarrow is asked for and not installed.
    OSError
        If a file of the job cannot be written. What was predicted before is kept. A ``ConnectionError`` if there is no
        Ray cluster at the address (nothing has been written then), a ``ChildProcessError`` if workers have died again
        and again; the parts of the others are kept.
    """
    given = _check_paths(paths)
    runner = check_engine(engine, address, workers, threads_per_worker)
    storage = job_storage(path_or_url("out", out))
    options = checked_options(score_thresh, nms_thresh, top_k, mask_thresh, class_agnostic_nms, mask_nms)
    chosen = _filters(min_area, max_area, exclude_edge)
    _check_tiling(tiles, tile_size, overlap)
    number = validators.optional(validators.non_negative_int)("page", page)
    read = {"page": number, **validators.reading(channels, intensity)}
    exports = _exports(export, storage)
    if validators.choice("format", format, JOB_FORMATS) == "parquet":
        require_pyarrow()
    shard_size = validators.optional(validators.positive_int)("shard_size", shard_size)
    validators.flag("draw", draw)
    mode = _mode(resume, overwrite)
    device_name("device", device)
    _check_dtype(dtype, weights)
    validators.flag("progress", progress)
    _check_callbacks(on_start=on_start, on_image=on_image)
    images, earlier = _find(given, storage, **mode)
    if shard_size is None:
        shard_size = earlier.settings.shard_size if earlier and resume else runner.shard_size(len(images))
    model = _load(runner, weights, device, dtype)
    _complete(options, read, model, classes, (tile_size, overlap) if tiles else None)
    with runner.started(model, *((device, dtype) if _is_file(weights) else (None, None))) as started:
        row_options = _row_options({**options, **chosen}, draw, exports, format, started.precision, read)
        settings = JobSettings(row_options, _describe(weights), shard_size, __version__, _categories(model))
        with JobFolder.open(storage, images, settings, **mode, draw=draw, export=exports) as job:
            _warn_of_version(job)
            if on_start is not None:
                on_start(JobStart(storage.place, job.resumed, len(job.job.images), job.n_done, job.n_new))
            work = ImageWork(job.storage, job.sources_from, job.job.settings.weights, options, chosen, read, progress)
            problems = started.predict(job, work, on_image=on_image, progress=progress)
            tally = job.finish()
    failures = (*tally.failures, *problems)[:_MOST_FAILURES]
    return JobResult(storage.place, tally.n_images, tally.n_failed, tally.n_objects, failures)


# ------------------------------------------------------------------ arguments


def _check_paths(paths: Sequence[str | Path]) -> list[Path | str]:
    if isinstance(paths, (str, os.PathLike)):
        raise TypeError(f"paths must be a sequence of paths, got {validators.shown(paths)}: put it in a list.")
    return list(validators.sequence("paths", paths, path_or_url))


def _find(
    paths: Sequence[Path | str], storage: JobStorage, *, resume: bool, overwrite: bool
) -> tuple[list[FoundImage], Job | None]:
    """Return the images that paths stand for, and the folder's job; refuse it before weights are loaded."""
    earlier = earlier_job(storage, resume=resume, overwrite=overwrite)
    keys = PathKeys(working_folder())
    own = set() if earlier is None else {keys(str(storage.address(name))) for name in earlier.files()}

    def is_own(path: str) -> bool:
        return keys(path) in own or keys(os.path.dirname(path)) in own  # a folder of crops

    images = find_images(paths, own_folder=storage.key, is_drawing=is_own)
    if images and not (earlier is not None and resume) and not _one_exists(images):
        more = {1: "", 2: ", nor the other one"}.get(len(images), f", nor any of the {len(images) - 1} others")
        hint = "" if validators.is_url(images[0].path) else validators.near_file(images[0].path)
        raise FileNotFoundError(f"There is no image file {images[0].path!r}{more}.{hint}")
    return images, earlier


def _one_exists(images: Sequence[FoundImage]) -> bool:
    """Whether one of the images exists. Of many at URLs the first few are asked for, one after the other."""
    if any(os.path.lexists(image.path) for image in images):
        return True
    urls = [image.path for image in images if validators.is_url(image.path)]
    return len(urls) > _MOST_ASKED or any(exists_at("paths", url) for url in urls)


def _filters(min_area: Any, max_area: Any, exclude_edge: Any) -> dict[str, Any]:
    """Return the filters that are set; jobs of before have no entries for them."""
    areas = checked_areas(min_area, max_area)
    return {**areas, **({"exclude_edge": True} if validators.flag("exclude_edge", exclude_edge) else {})}


def _check_tiling(tiles: Any, tile_size: Any, overlap: Any) -> None:
    """Refuse settings of tiles without tiles; what they may be depends on the model."""
    if not validators.flag("tiles", tiles) and (tile_size is not None or overlap is not None):
        setting = "overlap" if tile_size is None else "tile_size"
        raise ValueError(f"{setting} is of tiles, got it without tiles=True (--tiles).")


def _exports(export: Any, storage: JobStorage) -> tuple[str, ...]:
    exports = check_exports("export", export)
    if "imagej" in exports:
        require_roifile()
    if storage.is_remote and "crops" in exports:
        raise ValueError(
            f"export cannot be 'crops' with out={storage.place!r}: a folder of files cannot appear whole at a URL."
        )
    return exports


def _mode(resume: Any, overwrite: Any) -> dict[str, bool]:
    mode = {"resume": validators.flag("resume", resume), "overwrite": validators.flag("overwrite", overwrite)}
    if all(mode.values()):
        raise ValueError("resume and overwrite exclude each other: overwrite begins anew.")
    return mode


def _check_callbacks(**callbacks: Any) -> None:
    for name, callback in callbacks.items():
        if callback is not None and (not callable(callback) or isinstance(callback, type)):
            raise TypeError(f"{name} must be a function, got {validators.shown(callback)}.")


def _check_dtype(dtype: str | None, weights: Any) -> None:
    if dtype is None:
        return
    validators.choice("dtype", dtype, DTYPES)
    if not _is_file(weights):
        raise ValueError('dtype is of a model that is loaded here, got a model: call model.to("gpu", dtype=...).')


def _is_file(weights: Any) -> bool:
    """Whether weights are a file, or the name of one, and not a model."""
    return isinstance(weights, (str, os.PathLike))


def _load(runner: Engine, weights: str | Path | MaskRCNN, device: str, dtype: str | None) -> Any:
    if _is_file(weights):
        return runner.load(weights, device, dtype)
    check_predictor("weights", weights, "a name, a path or a model")
    return weights


def _complete(
    options: dict[str, Any], read: dict[str, Any], model: Any, classes: Any, tiling: tuple[Any, Any] | None
) -> None:
    """Add to options and to how images are read what depends on the model."""
    if read["intensity"] is None and isinstance(model, MaskRCNN):
        read["intensity"] = model.config.image.intensity
    if classes is not None:
        options["classes"] = labels_of(model, classes)
    if tiling is not None:
        tile_size, overlap = check_tiles(model, *tiling)
        options |= {"tiles": True, "tile_size": tile_size, "overlap": overlap}


# ------------------------------------------------------------------ what a job was begun with


def _row_options(
    options: Mapping[str, Any],
    draw: bool,
    exports: tuple[str, ...],
    format: str,
    precision: str,
    read: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what results depend on, without what jobs of before could not have, where that is not used."""
    return {
        **options,
        "draw": draw,
        **({"export": list(exports)} if exports else {}),
        **({} if format == "jsonl" else {"format": format}),
        **({} if precision == "float32" else {"dtype": precision}),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in read.items()},
    }


def _warn_of_version(job: JobFolder) -> None:
    begun_with = job.job.settings.package_version
    if begun_with != __version__:
        message = f"The job in {str(job.storage.place)!r} was begun with version {begun_with} of this package"
        warn_user(f"{message}, which is now {__version__}: results may differ.")


def _describe(weights: Any) -> dict[str, Any]:
    """Return name and SHA-256 of weights: of the file, or of a model's configuration, parameters and buffers."""
    if isinstance(weights, (str, os.PathLike)):
        name = os.fspath(weights)
        return {"name": name, "sha256": file_hash(locate(name), "sha256")}
    if not isinstance(weights, MaskRCNN):
        return {"name": type(weights).__name__, "sha256": None}
    digest = hashlib.sha256(json.dumps(weights.config.to_dict(), sort_keys=True).encode())
    for name, variable in sorted(weights.state_dict(keep_vars=True).items()):
        digest.update(name.encode() + host(variable).tobytes())
    return {"name": "a model", "sha256": digest.hexdigest()}


def _categories(model: Any) -> list[dict[str, Any]]:
    categories = make_categories(getattr(model, "categories", None))
    return [{"id": c.id, "name": c.name} for c in sorted(categories, key=lambda c: c.id)]
