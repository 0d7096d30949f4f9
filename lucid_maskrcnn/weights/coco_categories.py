"""Names of a model's labels from a file of COCO's annotations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import CategoryNames
from ..json_text import read_json
from ..validators import instance, integer, path, shown, text

__all__ = ["categories_of_file"]


def categories_of_file(categories: str | Path, num_classes: int | None = None) -> CategoryNames:
    """Return the categories of COCO's annotations as names of labels, with their ids.

    Parameters
    ----------
    categories : str or Path
        The JSON file that a model was trained with; of its content only the list of categories is used.
    num_classes : int, optional
        Of the model, background not counted. If it is the number of categories, labels are 1, 2, … in the order of the
        ids, as in detectron2 and here; else, if it is the greatest id, labels are the ids, as often in torchvision.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it has no categories with distinct ids and names, or they are not as many as the model
        has.
    """
    file = path("categories", categories)
    name = f"categories {str(file)!r}"
    content = read_json(file)
    entries = content.get("categories") if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{name} must be COCO's annotations, a JSON file with a list of 'categories'.")
    names: dict[int, str] = {}
    for i, entry in enumerate(entries):
        number, called = _entry(f"{name}: entry {i}", entry)
        if number in names:
            raise ValueError(f"{name}: the id {number} comes twice.")
        names[number] = called
    ids = sorted(names)
    if num_classes in (None, len(ids)):
        labels = dict(enumerate(ids, start=1))
    elif num_classes == ids[-1] and ids[0] >= 1:
        labels = {number: number for number in ids}
    else:
        raise ValueError(
            f"{name} has {len(ids)} categories with ids up to {ids[-1]}, but the model has {num_classes} classes."
        )
    return CategoryNames({label: names[number] for label, number in labels.items()}, labels)


def _entry(name: str, entry: Any) -> tuple[int, str]:
    instance(name, entry, Mapping, "a mapping with 'id' and 'name'")
    for key in ("id", "name"):
        if key not in entry:
            raise ValueError(f"{name} has no {key!r}: {shown(entry)}.")
    return integer(f"{name}: id", entry["id"]), text(f"{name}: name", entry["name"])
