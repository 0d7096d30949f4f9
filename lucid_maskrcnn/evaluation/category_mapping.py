"""The category of a data set that each label of a model stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["category_ids_of"]


def category_ids_of(model: Any, categories: Mapping[int, str], category_ids: Mapping[int, int]) -> dict[int, int]:
    """Return the category id of each of the model's labels that the data set has.

    Labels are used unchanged if the model and the data set have the same categories. Otherwise they are matched by
    name: the labels of published weights are COCO's ids, or consecutive numbers, whatever those of the data set are.
    A model without categories must have as many classes as the data set.

    Parameters
    ----------
    model : MaskRCNN
        Its ``categories`` and ``num_classes`` are read.
    categories, category_ids : mapping
        The data set's label -> name and id.

    Raises
    ------
    ValueError
        If the data set has categories that the model does not have, or names are not unique.
    """
    own = getattr(model, "categories", None)
    if own is None:
        count = getattr(model, "num_classes", None)
        if count is not None and count != max(categories, default=0):
            raise ValueError(
                f"The model has {count} classes without names, the data set has {len(categories)} "
                f"({brief(categories.values())}): give the model categories, or pass category_ids."
            )
        return dict(category_ids)
    if dict(own) == dict(categories):
        return dict(category_ids)
    ids = {name: category_ids[label] for label, name in categories.items()}
    labels = {name: label for label, name in own.items()}
    unknown = [name for name in ids if name not in labels]
    if unknown:
        raise ValueError(
            f"The data set has the categories {brief(unknown)}, which the model does not have: it has "
            f"{brief(own.values())}. Rename them, leave them out with CocoInstances(categories=...), or pass "
            "category_ids."
        )
    for whose, named in (("data set", categories), ("model", own)):
        names = list(named.values())
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"The {whose} has two categories {twice[0]!r}, which cannot be matched by name: pass category_ids."
            )
    return {labels[name]: number for name, number in ids.items()}


def brief(names: Iterable[str], shown: int = 5) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more
