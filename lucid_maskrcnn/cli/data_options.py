"""Data sets of ``train`` and ``evaluate``: opened whole before any work, and what is said about them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .common import check_image_folder, warn

__all__ = ["add_on_fault", "describe_data", "match_by_name", "open_data"]

_NAMED = 8  # categories


def add_on_fault(group: Any) -> None:
    """Add ``--on-fault``."""
    group.add_argument(
        "--on-fault",
        choices=("stop", "skip"),
        default="stop",
        help="at a fault that check-data lists: stop, or leave out the annotation or image that has it (default: stop)",
    )


def open_data(
    images: Path,
    annotations: Path | None,
    labels: Path | None,
    names: tuple[str, str],
    *,
    on_fault: str,
    category: str = "object",
    channels: Any = None,
    intensity: Any = None,
) -> Any:
    """Return a data set whose files have all been opened.

    Parameters
    ----------
    images : Path
    annotations, labels : Path, optional
        One of them.
    names : (str, str)
        The arguments that they were given as.
    on_fault : {"stop", "skip"}
    category : str
        Of the objects of label images.
    channels, intensity
        As the data sets take them.

    Raises
    ------
    ValueError
        If the folder, a file or the data set cannot be used.
    """
    from lucid_maskrcnn.data import CocoInstances, DataFaultError, LabelImages

    if (annotations is None) == (labels is None):
        raise ValueError(f"Give {names[0]} or {names[1]}, one of them.")
    check_image_folder(images)
    options: Any = {"on_fault": on_fault, "open_images": True, "channels": channels, "intensity": intensity}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Left out of ", UserWarning)  # which describe_data says
            if annotations is not None:
                return CocoInstances(images, annotations, **options)
            return LabelImages(images, labels or Path(), category=category, **options)
    except DataFaultError as error:
        _say_faults(str(annotations or labels), error)
        raise


def _say_faults(source: str, error: Any) -> None:
    """Print the faults of several kinds, a line for each; one kind is in the error's own sentence."""
    from lucid_maskrcnn.data.issues import group_issues

    lines = group_issues(error.issues)
    if len(lines) == 1:
        return
    for line in lines:
        warn(line)
    raise ValueError(
        f"{source!r} has {len(error.issues):,} faults: mend them, or leave out what has one with --on-fault skip."
    ) from error


def describe_data(source: Path, dataset: Any, use: str) -> list[str]:
    """Return lines that say what a data set holds, what is wrong with it and what was left out; the last is a summary.

    Parameters
    ----------
    source : Path
        The file or folder of the annotations.
    dataset : CocoInstances or LabelImages
    use : str
        What the summary begins with: "train on".

    Raises
    ------
    ValueError
        If there are no objects.
    """
    from lucid_maskrcnn.data.issues import group_issues
    from lucid_maskrcnn.data.validation import issues_of_counts
    from lucid_maskrcnn.text_tables import count_of

    counts = dataset.category_counts
    total, empty = sum(counts.values()), sum(not count for count in dataset.object_counts)
    if not total:
        (nothing,) = issues_of_counts(len(dataset), counts, dataset.num_crowds, empty)
        raise ValueError(f"In {str(source)!r}, {nothing}")
    named = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:_NAMED])
    more = f" and {len(counts) - _NAMED} more categories" if len(counts) > _NAMED else ""
    without = f" ({empty} without objects)" if empty else ""
    summary = f"{use} {count_of(len(dataset), 'image')}{without} with {count_of(total, 'object')}: {named}{more}"
    lost = ((dataset.num_listed - len(dataset), "image"), (dataset.num_left_out, "annotation"),
            (dataset.num_crowds, "crowd"))  # fmt: skip
    left_out = ", ".join(count_of(count, noun) for count, noun in lost if count)
    return [*group_issues(dataset.issues), summary + (f"; left out: {left_out}" if left_out else "")]


def match_by_name(dataset: Any, held_out: Any, *, unnamed: bool) -> Mapping[int, int]:
    """Return the category id in ``held_out`` of each label of ``dataset``.

    Parameters
    ----------
    dataset, held_out
        What is trained on and evaluated on.
    unnamed : bool
        Whether one of them has label images, whose category has no name of its own: one is matched with one.

    Raises
    ------
    ValueError
        If ``held_out`` has objects of a category that ``dataset`` does not have.
    """
    if unnamed and len(dataset.categories) == len(held_out.categories) == 1:
        return dict(zip(dataset.categories, held_out.category_ids.values(), strict=True))
    ids = {name: held_out.category_ids[label] for label, name in held_out.categories.items()}
    known = list(dataset.categories.values())
    unknown = [name for name, count in held_out.category_counts.items() if count and name not in known]
    if unknown:
        raise ValueError(
            f"The images to evaluate on have objects of the category {unknown[0]!r}, which those to train on do not "
            f"have: they have {', '.join(map(repr, known))}."
        )
    return {label: ids[name] for label, name in dataset.categories.items() if name in ids}
