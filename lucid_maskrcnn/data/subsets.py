"""Parts of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.reprs import described
from lucid_maskrcnn.validators import integer, non_negative_int, number, sequence, shown

from .dataset import check_dataset, check_index

__all__ = ["Subset", "split"]

_SELECTED = ("image_ids", "file_names", "sizes", "object_counts")


@answers_wrong_calls
class Subset:
    """Some of the images of a data set, in the order given.

    ``subset[i]`` is a pair (image, target), ``subset[i:j]`` another subset.

    Parameters
    ----------
    dataset : CocoInstances, LabelImages or Subset
        The data set, or itself a part of one; it is not copied.
    indices : iterable of int
        Which images; a negative index counts from the end.

    Attributes
    ----------
    categories, category_ids, image_ids, file_names, sizes, object_counts
        Those of the data set, of these images.

    Raises
    ------
    TypeError
        If ``dataset`` has no categories or no annotations, or an index is no integer.
    ValueError
        If an index is out of range.
    """

    def __init__(self, dataset: Any, indices: Iterable[int]) -> None:
        length = len(check_dataset("dataset", dataset))
        missing = [name for name in ("categories", "category_ids", "coco") if not hasattr(dataset, name)]
        if missing:
            raise TypeError(
                f"dataset must have {missing[0]}, as CocoInstances and LabelImages have, got {shown(dataset)}: "
                "of a list of pairs take a list."
            )
        self.dataset = dataset
        if isinstance(indices, (str, Mapping)) or not isinstance(indices, Iterable):
            raise TypeError(f"indices must be integers, got {shown(indices)}.")
        chosen = sequence("indices", list(indices), lambda name, value: integer(name, value, -length, length - 1))
        self.indices = [index % length for index in chosen]
        self.categories, self.category_ids = dataset.categories, dataset.category_ids

    def __len__(self) -> int:
        return len(self.indices)

    @described
    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self.dataset!r})"

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Subset(self.dataset, self.indices[index])
        return self.dataset[self.indices[check_index(index, len(self))]]

    def __getattr__(self, name: str) -> list[Any]:
        if name not in _SELECTED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        values = getattr(self.dataset, name)
        return [values[i] for i in self.indices]

    def coco(self) -> dict[str, Any]:
        """Return the annotations of these images in COCO's format, as an evaluation needs them."""
        whole, ids = self.dataset.coco(), set(self.image_ids)
        return {
            **whole,
            "images": [image for image in whole["images"] if image["id"] in ids],
            "annotations": [a for a in whole["annotations"] if a["image_id"] in ids],
        }


@answers_wrong_calls
def split(dataset: Any, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Divide a data set at random, for example into images for training and for evaluation.

    Parameters
    ----------
    dataset : CocoInstances, LabelImages or Subset
        Of two images at least.
    fraction : float
        Fraction of the images that the second part gets, above 0 and below 1; each part gets at least one image.
    seed : int
        The same seed gives the same parts. They are drawn from a NumPy generator.

    Returns
    -------
    (Subset, Subset)
        Each in the order of the data set.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    """
    length = len(check_dataset("dataset", dataset))
    wanted = "a number above 0 and below 1"
    part = number("fraction", fraction, wanted)
    if not 0 < part < 1:
        raise ValueError(f"fraction must be {wanted}, got {shown(fraction)}.")
    seed = non_negative_int("seed", seed)
    if length < 2:
        raise ValueError(f"dataset must have at least two images to be split, got {length}.")
    order = np.random.default_rng(seed).permutation(length)
    count = min(max(1, round(part * length)), length - 1)
    return Subset(dataset, sorted(order[count:].tolist())), Subset(dataset, sorted(order[:count].tolist()))
