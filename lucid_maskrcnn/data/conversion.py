"""Annotations of one tool as those of another: read, checked against the images, and written whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lucid_maskrcnn.annotation_formats.records import ImageRecord, ObjectRecord
from lucid_maskrcnn.atomic import replacing, replacing_folder
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.images import size_mismatch, size_on_disk
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.text_tables import count_of
from lucid_maskrcnn.validators import choice, flag, optional, text
from lucid_maskrcnn.validators import path as checked_path
from lucid_maskrcnn.validators import sequence as checked_sequence

from .foreign_reading import FORMATS, ForeignData, Source, read_foreign, recognize
from .foreign_writing import SUFFIX_OF_FILE, WRITTEN_SUFFIXES, Settled, write_foreign
from .image_finder import ImageFinder
from .issues import DataFaultError, Issue, group_issues, unreadable

__all__ = ["Conversion", "convert_data"]


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert_data` has done.

    Attributes
    ----------
    out : Path
        What was written.
    from_format, to : str
        The formats.
    images_dir : Path
        The folder that the file names are relative to.
    num_images, num_objects : int
        What was written.
    categories : dict of str to int
        Name -> number of objects.
    notes : list of str
        Sentences on what was left out or changed.
    issues : list of Issue
        What was skipped for a fault, with ``on_fault="skip"``, and warnings.
    """

    __repr__ = fields_repr

    out: Path
    from_format: str
    to: str
    images_dir: Path
    num_images: int
    num_objects: int
    categories: dict[str, int]
    notes: list[str]
    issues: list[Issue]


@answers_wrong_calls
def convert_data(
    annotations: str | Path,
    out: str | Path,
    *,
    to: str,
    from_format: str | None = None,
    images_dir: str | Path | None = None,
    names: Sequence[str] | None = None,
    attribute: str | None = None,
    boxes_as_masks: bool = False,
    copy_images: bool = False,
    overwrite: bool = False,
    on_fault: str = "stop",
) -> Conversion:
    """Convert the annotations of one tool into the format of another.

    Parameters
    ----------
    annotations : str or Path
        A file or folder: COCO instances (JSON), YOLO (a folder with ``labels``, or ``data.yaml``), LabelMe (a folder of
        JSON files, or one), Pascal VOC (a folder with ``Annotations``), VIA 2 (JSON or CSV), CVAT for images 1.1 (XML)
        or a folder of label images.
    out : str or Path
        What is written: a ``.json`` file (coco, via), an ``.xml`` file (cvat), or a folder.
    to : {"coco", "yolo", "labelme", "voc", "via", "cvat", "label-images"}
        Its format.
    from_format : str, optional
        That of the annotations, one of the same; by default it is recognized.
    images_dir : str or Path, optional
        The folder of the images, which file names are looked up in and are relative to in what is written. By default
        that of the format: ``images`` or ``JPEGImages`` beside the annotations, or their own folder.
    names : sequence of str, optional
        The categories in the order of their labels; for YOLO the names of the classes.
    attribute : str, optional
        The attribute of VIA's regions that names their category.
    boxes_as_masks : bool
        Whether objects that have only a box, as rectangles drawn in LabelMe, get a mask that fills it.
    copy_images : bool
        Whether the images are copied into the folder, where its format has them.
    overwrite : bool
        Whether ``out`` is replaced if it exists. A folder is replaced only if it has nothing but such annotations.
    on_fault : {"stop", "skip"}
        Whether a fault raises, or what has it is left out.

    Returns
    -------
    Conversion

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    FileNotFoundError, FileExistsError
        If there are no annotations, or ``out`` exists.
    ValueError
        If an argument is not as above, the annotations cannot be read, or the format cannot hold them.
    DataFaultError
        A ``ValueError``: if there is a fault and ``on_fault`` is ``"stop"``.
    """
    source_path, target = checked_path("annotations", annotations), checked_path("out", out)
    choice("to", to, FORMATS)
    choice("on_fault", on_fault, ("stop", "skip"))
    folder = optional(checked_path)("images_dir", images_dir) if images_dir is not None else None
    given_names = () if names is None else tuple(checked_sequence("names", names, text, minimum=1))
    if len(set(given_names)) < len(given_names):
        raise ValueError(f"names must be different, got {list(given_names)}.")
    boxes_as_masks, copy_images = flag("boxes_as_masks", boxes_as_masks), flag("copy_images", copy_images)
    if copy_images and to in SUFFIX_OF_FILE:
        raise ValueError(f"copy_images (--copy-images) needs a folder to copy to, but {to!r} is one file.")
    if folder is not None and not folder.is_dir():
        raise ValueError(f"images_dir must be a folder, and there is none {str(folder)!r}.")
    attribute = None if attribute is None else text("attribute", attribute)
    kind = recognize(source_path) if from_format is None else choice("from_format", from_format, FORMATS)
    if attribute is not None and kind != "via":
        raise ValueError(f"attribute (--attribute) is of VIA's regions, got {attribute!r} for annotations of {kind!r}.")
    if not source_path.exists():
        raise FileNotFoundError(f"{str(source_path)!r}: No such file or directory.")
    _check_target(target, to, source_path, overwrite=flag("overwrite", overwrite))

    data = read_foreign(Source(source_path, folder, given_names, attribute), kind)
    settled = _settle(
        data,
        given_names,
        target,
        images_given=folder is not None,
        boxes_as_masks=boxes_as_masks,
        by_stem=to not in SUFFIX_OF_FILE,
    )
    settled.copied = copy_images
    faults = [issue for issue in data.issues if issue.fatal]
    if faults and (on_fault == "stop" or not settled.records):
        advice = "on_fault='skip' (--on-fault skip) leaves out what has a fault."
        lines = group_issues(faults)
        more = f" There are faults of {count_of(len(lines) - 1, 'more kind')}." if len(lines) > 1 else ""
        raise DataFaultError(f"In {str(source_path)!r}, {lines[0].removeprefix('FAULT ')}{more} {advice}", faults)
    if not settled.records:
        raise ValueError(f"{str(source_path)!r} has no images.")
    _check_against_images(target, data.images_dir, settled)
    with _whole(target, to) as place:
        write_foreign(settled, to, place)
        if copy_images:
            _copy_images(settled, to, place)
    return _report(data, settled, target, kind, to)


def _report(data: ForeignData, settled: Settled, target: Path, kind: str, to: str) -> Conversion:
    counts = Counter(o.name for record in settled.records for o in record.objects)
    notes = [*data.notes, *(f"{count_of(count, 'object')} {what}." for what, count in settled.lost.items())]
    return Conversion(
        target, kind, to, data.images_dir, len(settled.records), counts.total(),
        {name: counts[name] for name in settled.categories}, notes, data.issues,
    )  # fmt: skip


# ------------------------------------------------------------------ checks of what was read


def _settle(
    data: ForeignData, names: Sequence[str], target: Path, *, images_given: bool, boxes_as_masks: bool, by_stem: bool
) -> Settled:
    """Return the records that can be written: with the files they mean, their sizes, and masks that have pixels."""
    finder = data.finder or ImageFinder(data.images_dir)
    ids = data.ids or list(range(1, len(data.records) + 1))
    categories = {name: i for i, name in enumerate(names, start=1)} if names else data.categories
    settled = Settled([], [], categories, data.images_dir, target, set())
    skipped: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for image_id, record in zip(ids, data.records, strict=True):
        skipped.update(record.skipped)
        issue = _place_image(record, finder, settled, images_given=images_given)
        key = record.file_name.rpartition(".")[0] if by_stem else record.file_name
        if issue is None and key in seen and (by_stem or not data.ids):
            problem = (
                f"has the name of {seen[key]!r}{' without its suffix' * by_stem}: their annotations would be one file"
            )
            issue = Issue(f"image {record.file_name!r}", problem, kind="annotated twice")
        seen.setdefault(key, record.file_name)
        if issue is not None:
            data.issues.append(issue)
            continue
        _settle_objects(record, settled, data.issues, boxes_as_masks=boxes_as_masks)
        settled.records.append(record)
        settled.ids.append(image_id)
    for what, count in skipped.items():
        data.notes.append(f"{count_of(count, 'shape')} left out: {what} is no object with an area.")
    boxes = sum(o.segmentation is None for record in settled.records for o in record.objects)
    if boxes:
        remedy = "boxes_as_masks=True (--boxes-as-masks) fills them"
        data.notes.append(f"{count_of(boxes, 'object')} with a box and no mask, which training needs: {remedy}.")
    if not images_given and not settled.found:
        data.notes.append(f"No images were found in {str(data.images_dir)!r}: their sizes were not checked.")
    return settled


def _place_image(record: ImageRecord, finder: ImageFinder, settled: Settled, *, images_given: bool) -> Issue | None:
    """Give a record the name of its file and its size, or return what is wrong."""
    place = f"image {record.file_name!r}"
    found = finder.find(record.file_name)
    if len(found) > 1:
        problem = f"may be any of {len(found)} files of that name in {str(finder.folder)!r}"
        return Issue(place, problem, remedy="give the folder that has one of them", kind="several files")
    if not found:
        where = f"is not in {str(finder.folder)!r}"
        remedy = "give the folder of the images with --images (images_dir=)"
        if images_given or record.size is None:
            return Issue(place, where, remedy="" if images_given else remedy, kind=where)
        if record.file_name.startswith("/") or ".." in record.file_name.split("/") or ":" in record.file_name:
            record.file_name = record.file_name.rpartition("/")[2]  # nothing is written outside of the folder
        return None
    record.file_name = found[0]
    settled.found.add(found[0])
    try:
        size = size_on_disk(finder.folder / found[0])[0]
    except ValueError as error:
        return unreadable(place, error)
    if record.size is not None and record.size != size:
        problem = size_mismatch(finder.folder / found[0], size, record.size, "the annotations say")
        return Issue(place, problem, kind="other size")
    record.size = size
    return None


def _settle_objects(record: ImageRecord, settled: Settled, issues: list[Issue], *, boxes_as_masks: bool) -> None:
    """Leave out the objects of a record that have a fault or no pixel in its image."""
    kept: list[ObjectRecord] = []
    size = record.size or (0, 0)
    for found in record.objects:
        if found.name not in settled.categories:
            known = ", ".join(map(repr, settled.categories))
            issues.append(
                Issue(found.place, f"is of the category {found.name!r}, which is not among {known}", kind=found.name)
            )
            continue
        if found.box is not None and found.segmentation is None:
            found.box = _clipped(found.box, size)
            if found.box is not None and boxes_as_masks:
                x1, y1, x2, y2 = found.box
                found.segmentation = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        if found.segmentation is not None:
            try:
                empty = not CompressedMasks.from_coco([found.segmentation], size).areas[0]
            except ValueError as error:
                problem = str(error).removeprefix("masks[0] ").rstrip(".")
                issues.append(Issue(found.place, f"has a mask that {problem}", kind="mask"))
                continue
        else:
            empty = found.box is None
        if empty:
            settled.lose("without a pixel in the image left out", 1)
        else:
            kept.append(found)
    record.objects = kept


def _clipped(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    x1, y1, x2, y2 = box
    x1, x2, y1, y2 = max(x1, 0.0), min(x2, size[1]), max(y1, 0.0), min(y2, size[0])
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


# ------------------------------------------------------------------ where it goes


def _check_target(target: Path, to: str, source: Path, *, overwrite: bool) -> None:
    suffix = SUFFIX_OF_FILE.get(to)
    if suffix is not None and target.suffix.lower() != suffix:
        raise ValueError(f"out must end in {suffix} for {to!r}, got {str(target)!r}.")
    if suffix is None and target.exists() and not target.is_dir():
        raise ValueError(f"out must be a folder for {to!r}, got the file {str(target)!r}.")
    if suffix is not None and target.is_dir():
        raise ValueError(f"out must be a file for {to!r}, got the folder {str(target)!r}.")
    place = target.absolute().parent
    if suffix is not None and not place.is_dir():
        raise FileNotFoundError(f"out {str(target)!r} cannot be written: there is no folder {str(target.parent)!r}.")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if source.resolve() == target.resolve() or target.resolve() in source.resolve().parents:
        raise ValueError(f"out must be another place than the annotations, got {str(target)!r}.")
    if not overwrite:
        raise FileExistsError(f"out {str(target)!r} exists: give another one, or overwrite=True (--overwrite).")


def _check_against_images(target: Path, images_dir: Path, settled: Settled) -> None:
    """Refuse to replace a folder with images in it that are read."""
    if target.is_dir() and any(target.iterdir()):
        real, images = target.resolve(), images_dir.resolve()
        if settled.found and (real == images or real in images.parents):
            raise ValueError(f"out must not have the images in it, which it replaces, got {str(target)!r}.")


@contextmanager
def _whole(target: Path, to: str) -> Iterator[Path]:
    """Give a place to write to, which becomes ``target`` once the block has ended without an error."""
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    if to not in SUFFIX_OF_FILE:
        if target.is_dir():
            _check_own(target, to)
        with replacing_folder(target) as folder:
            yield folder
        return
    temporary = target.absolute().parent / f".{secrets.token_hex(16)}.tmp"
    try:
        yield temporary
        with replacing(target) as file:
            file.write(temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)


def _check_own(target: Path, to: str) -> None:
    """Refuse to replace a folder with files in it that this does not write."""
    from .image_folder import walk

    for name in walk(target):
        known = Path(name).suffix.lower() in WRITTEN_SUFFIXES[to] or name.startswith(("images/", "JPEGImages/"))
        if not known:
            raise ValueError(
                f"out {str(target)!r} has {name!r}, which is not of {to!r}: it is not replaced, give another."
            )


def _copy_images(settled: Settled, to: str, place: Path) -> None:
    inside = "JPEGImages" if to == "voc" else "images"
    missing = next((r.file_name for r in settled.records if r.file_name not in settled.found), None)
    if missing is not None:
        raise ValueError(
            f"copy_images (--copy-images) cannot copy {missing!r}, which is not in {str(settled.images_dir)!r}."
        )
    for record in settled.records:
        file = place / inside / record.file_name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(settled.images_dir / record.file_name, file)
