"""``job.json``: what a job is, and the list of its images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lucid_maskrcnn.atomic import write_json
from lucid_maskrcnn.validators import shown

from .job_exports import is_export
from .job_storage import JobStorage

__all__ = ["JOB_FORMATS", "Job", "JobSettings", "ListedImage", "read_job", "write_job"]

_FORMAT, _VERSION = "lucid_maskrcnn job", 1
JOB_FORMATS = ("jsonl", "parquet")  # of complete parts
_ABSENT: dict[str, Any] = {"export": [], "format": "jsonl"}  # what an option is that a job does not have


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
    exports : dict of str to str
        File name of each export, by its format.
    """

    id: int
    source: str
    page: int | None
    drawing: str | None
    exports: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> list[str]:
        """Return the names of all files about it."""
        return [*([] if self.drawing is None else [self.drawing]), *self.exports.values()]


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

    @property
    def format(self) -> str:
        """What complete parts are written as, one of ``JOB_FORMATS``."""
        return self.options.get("format", _ABSENT["format"])

    def differences(self, others: JobSettings) -> list[str]:
        """Return what is different in ``others``, in words: "score_thresh 0.5, now 0.7"."""
        names = sorted({*self.options, *others.options})
        pairs = [(name, *(o.options.get(name, _ABSENT.get(name)) for o in (self, others))) for name in names]
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
    images : sequence of ListedImage
    """

    settings: JobSettings
    working_folder: str
    images: Sequence[ListedImage]

    def files(self) -> list[str]:
        """Return the names of the drawings and the exports."""
        return [name for image in self.images for name in image.files()]


def read_job(storage: JobStorage) -> Job | None:
    """Return the job that a folder holds, None if it holds none.

    Raises
    ------
    ValueError
        If its ``job.json`` is damaged, or something else.
    """
    path = str(storage.address("job.json"))
    try:
        text = storage.read("job.json")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        content = json.loads(text)
        version = content["version"] if content["format"] == _FORMAT else None
        is_newer = type(version) is int and version > _VERSION
        job = None if is_newer else _parse_job(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path!r} is not the list of a job, or is damaged: choose another folder, or overwrite it."
        ) from error
    if is_newer:
        raise ValueError(
            f"{path!r} was written by a newer version of this package: update it, or choose another folder."
        )
    return job


def _parse_job(content: Any) -> Job:
    if content["format"] != _FORMAT or content["version"] != _VERSION:
        raise ValueError("another format")
    images = [_parse_image(entry) for entry in content["images"]]
    for number, image in enumerate(images, start=1):
        if image.id != number or not isinstance(image.source, str):
            raise ValueError(f"image {number}")
        # Drawings are deleted when the job is overwritten: they must be drawings, in this folder.
        if image.drawing is not None and os.path.basename(image.drawing) != image.drawing.removesuffix(".png") + ".png":
            raise ValueError(f"the drawing of image {number}")
        if not all(is_export(format, name) for format, name in image.exports.items()):
            raise ValueError(f"the exports of image {number}")
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


def _parse_image(entry: Any) -> ListedImage:
    known = {name: entry[name] for name in ("id", "source", "page", "drawing")}
    return ListedImage(**known, exports=dict(entry.get("exports", {})))  # which jobs of before do not have


def write_job(storage: JobStorage, job: Job) -> None:
    """Write the list of a job to its folder."""
    head = {"format": _FORMAT, "version": _VERSION, **asdict(job.settings), "working_folder": job.working_folder}
    write_json(storage.folder / "job.json", {**head, "images": [_entry(image) for image in job.images]})
    storage.publish("job.json")


def _entry(image: ListedImage) -> dict[str, Any]:
    entry = asdict(image)
    return entry if entry["exports"] else {name: value for name, value in entry.items() if name != "exports"}
