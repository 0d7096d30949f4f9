"""Splitting annotations into parts for training, validation and test, with the categories spread evenly.

Images, or groups of them, are shared out one by one: first those with the rarest category, each to the part that still
lacks most objects of that category (iterative stratification, Sechidis, Tsoumakas and Vlahavas 2011).

Shapes: P parts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import read_annotations
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.validators import integer, open_fraction, optional, sequence, shown, text

__all__ = ["DataPart", "split_coco"]

_NAMES = {2: ("train", "val"), 3: ("train", "val", "test")}
_FOLDER = "folder"


@dataclass(frozen=True)
class DataPart:
    """One part of a data set.

    Attributes
    ----------
    name : str
        Name of the part, such as ``"train"``.
    content : dict
        COCO's format: the images of the part and their annotations, and all else of the whole, categories included.
    """

    __repr__ = fields_repr

    name: str
    content: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Objects of each category, by name."""
        found = Counter(a["category_id"] for a in self.content["annotations"])
        return {str(c["name"]): found[c["id"]] for c in self.content["categories"]}


@answers_wrong_calls
def split_coco(
    annotations: str | Path | Mapping[str, Any],
    fractions: Sequence[float] = (0.8, 0.2),
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    group_by: str | None = None,
) -> list[DataPart]:
    """Split annotations into parts without an image in common.

    The same images, fractions and seed give the same parts, in whatever order the file has them.

    Parameters
    ----------
    annotations : str, Path or mapping
        COCO instances, or the JSON file of them.
    fractions : sequence of float
        Of the images in each part, at least two; their sum is 1.
    names : sequence of str, optional
        Of the parts: by default train and val, or train, val and test.
    seed : int
        Decides where the fractions and categories leave a choice.
    group_by : str, optional
        Images of one group stay together: ``"folder"``, the folder in the file name, or a regular expression, whose
        first group, or else whole match, in the file name is the group's name; a name without a match is its own group.

    Returns
    -------
    list of DataPart
        In the order of ``fractions``.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If an argument is not as above, an entry lacks an id or name, or there are fewer groups than parts.
    """
    shares = np.array(sequence("fractions", fractions, open_fraction, minimum=2))
    if abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"fractions must have the sum 1, got {shown(fractions)}, whose sum is {shares.sum():g}.")
    called = _checked_names(names, len(shares))
    rng = np.random.default_rng(integer("seed", seed, 0, 2**31 - 1))
    grouping = optional(_checked_grouping)("group_by", group_by)
    content = read_annotations(annotations)
    images, objects = _by_image(content)
    groups: dict[str, list[Any]] = defaultdict(list)
    for image_id in sorted(images, key=lambda i: (str(images[i].get("file_name")), str(i))):
        groups[_group_of(images[image_id], grouping)].append(image_id)
    if len(groups) < len(shares):
        raise ValueError(f"fractions are {len(shares)} parts, but there are only {len(groups)} groups of images.")
    part_of = _stratified([[objects[i] for i in group] for group in groups.values()], shares, rng)
    chosen = [set[Any]() for _ in shares]
    for group, part in zip(groups.values(), part_of, strict=True):
        chosen[part].update(group)
    return [
        DataPart(
            name,
            {
                **content,
                "images": [image for image in content["images"] if image["id"] in own],
                "annotations": [a for a in content["annotations"] if a["image_id"] in own],
            },
        )
        for name, own in zip(called, chosen, strict=True)
    ]


def _checked_names(names: Any, count: int) -> tuple[str, ...]:
    if names is None:
        return _NAMES.get(count) or tuple(f"part{i}" for i in range(1, count + 1))
    given = sequence("names", names, text, length=count)
    if len({name.casefold() for name in given}) < count:
        raise ValueError(f"names must be different, got {shown(names)}.")
    wrong = next((name for name in given if not re.fullmatch(r"[\w.-]+", name) or name.startswith(".")), None)
    if wrong is not None:
        raise ValueError(f"names must be of letters, digits, _, - and ., as files are called so, got {wrong!r}.")
    return given


def _checked_grouping(name: str, value: Any) -> re.Pattern[str] | str:
    if text(name, value) == _FOLDER:
        return _FOLDER
    try:
        return re.compile(value)
    except re.error as error:
        raise ValueError(f"{name} must be 'folder' or a regular expression, got {value!r}: {error}.") from None


def _by_image(content: Mapping[str, Any]) -> tuple[dict[Any, Mapping[str, Any]], dict[Any, Counter[Any]]]:
    """Return the images by id, and the categories of the objects in each."""
    images: dict[Any, Mapping[str, Any]] = {}
    for i, image in enumerate(content["images"]):
        if not isinstance(image, Mapping) or not isinstance(image.get("id"), (int, str)):
            raise ValueError(f"images[{i}] must be a mapping with an 'id', got {shown(image)}.")
        if image["id"] in images:
            raise ValueError(f"images[{i}] has the id {image['id']!r} of another image.")
        images[image["id"]] = image
    for i, category in enumerate(content["categories"]):
        if not isinstance(category, Mapping) or not {"id", "name"} <= category.keys():
            raise ValueError(f"categories[{i}] must be a mapping with 'id' and 'name', got {shown(category)}.")
    objects: dict[Any, Counter[Any]] = {image_id: Counter() for image_id in images}
    for i, annotation in enumerate(content["annotations"]):
        keys = ("image_id", "category_id")
        if not isinstance(annotation, Mapping) or any(not isinstance(annotation.get(k), (int, str)) for k in keys):
            raise ValueError(
                f"annotations[{i}] must be a mapping with image_id and category_id, got {shown(annotation)}."
            )
        if annotation["image_id"] not in images:
            raise ValueError(f"annotations[{i}] is of the image {annotation['image_id']!r}, which is not in the file.")
        objects[annotation["image_id"]][annotation["category_id"]] += 1
    return images, objects


def _group_of(image: Mapping[str, Any], grouping: re.Pattern[str] | str | None) -> str:
    name = str(image.get("file_name", image["id"]))
    if grouping is None:
        return f"image {image['id']!r}"
    if isinstance(grouping, str):
        return f"folder {name.rpartition('/')[0]}"
    found = grouping.search(name)
    if found is None:
        return f"image {image['id']!r}"
    return f"group {found.group(1) if found.groups() else found.group()}"


def _stratified(groups: Sequence[Sequence[Counter[Any]]], shares: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Return the part of each group: none is empty, and images and categories are shared out by ``shares``."""
    categories = sorted({c for group in groups for image in group for c in image}, key=str)
    row = {c: i for i, c in enumerate(categories)}
    # What each group has: images, images without objects, and images of each category.
    have = np.zeros((len(groups), 2 + len(categories)))
    for g, group in enumerate(groups):
        have[g, :2] = len(group), sum(not image for image in group)
        for image in group:
            for c in image:
                have[g, 2 + row[c]] += 1
    wanted = shares[:, None] * have.sum(axis=0)  # (P, 2 + categories), what each part still lacks
    left = np.ones(len(groups), bool)
    order = rng.permutation(len(groups))
    part_of = [-1] * len(groups)
    while left.any():
        remaining = have[left].sum(axis=0)
        kinds = [k for k in range(1, have.shape[1]) if remaining[k] > 0] or [0]
        rarest = min(kinds, key=lambda k: remaining[k])
        some = order[left[order] & (have[order, rarest] > 0)]
        for g in some[np.argsort(-have[some, rarest], kind="stable")].tolist():  # the largest groups first
            # The part that lacks most of this category, then of images.
            lacking = np.lexsort((rng.random(len(shares)), -wanted[:, 0], -wanted[:, rarest]))
            part_of[g] = int(lacking[0])
            wanted[part_of[g]] -= have[g]
            left[g] = False
    _fill_empty(part_of, have[:, 0], len(shares))
    return part_of


def _fill_empty(part_of: list[int], sizes: np.ndarray, num_parts: int) -> None:
    """Give each part without a group the smallest one of the part with most groups."""
    for part in range(num_parts):
        if part not in part_of:
            most = Counter(part_of).most_common(1)[0][0]
            part_of[min((g for g, p in enumerate(part_of) if p == most), key=lambda g: sizes[g])] = part
