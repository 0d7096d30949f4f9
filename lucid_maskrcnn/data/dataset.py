"""What a data set is: anything with a length whose items are (image, target) pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from lucid_maskrcnn.validators import integer, shown

__all__ = ["Dataset", "check_dataset", "check_index", "check_pair", "load_pair"]

_WANTED = "a data set, a sequence of (image, target) pairs such as CocoInstances"


class Dataset(Protocol):
    """A sequence of (image, target) pairs, as :class:`~lucid_maskrcnn.data.CocoInstances` is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def check_dataset(name: str, value: Any) -> Dataset:
    """Return a data set; ``name`` is the argument that it was given as.

    Raises
    ------
    TypeError
        If the value has no length or no items, as a ``Loader`` has none, or is a string or a mapping.
    """
    if isinstance(value, type):
        raise TypeError(f"{name} must be {_WANTED}, got the class {value.__name__}.")
    is_sequence = hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__")
    if not is_sequence or isinstance(value, (str, bytes, Mapping)):
        inner = f": pass its dataset, the attribute {name}.dataset" if hasattr(value, "dataset") else ""
        raise TypeError(f"{name} must be {_WANTED}, got {shown(value)}{inner}.")
    dataset: Dataset = value
    return dataset


def load_pair(dataset: Dataset, index: int) -> tuple[Any, Any]:
    """Return the image and the target of an item.

    Raises
    ------
    TypeError
        If the item is no pair.
    """
    return check_pair(f"dataset[{index}]", dataset[index])


def check_pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return a tuple or list of two, an image and its target."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        given = type(value).__name__
        length = f" and length {len(value)}" if isinstance(value, (tuple, list)) else ""
        raise TypeError(f"{name} must be a pair (image, target), got an object of type {given}{length}.")
    image, target = value
    return image, target


def check_index(index: Any, length: int) -> int:
    """Return the index of an item, counted from 0; a negative one counts from the end.

    Raises
    ------
    TypeError
        If it is no integer.
    IndexError
        If there is no such item, as the protocol of sequences demands.
    """
    try:
        number = integer("index", index)
    except TypeError:
        raise TypeError(f"The index of a data set must be an integer or a slice, got {shown(index)}.") from None
    if not -length <= number < length:
        raise IndexError(f"There is no image {number}: the data set has {length} images.")
    return number % length
