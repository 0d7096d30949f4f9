"""Checks of arguments that are arrays or indices, in the manner of :mod:`lucid_maskrcnn.validators`."""

from __future__ import annotations

from typing import Any

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.ops import host
from lucid_maskrcnn.validators import shown

__all__ = ["described", "finite_boxes", "numeric_array", "refuse_rows", "row_numbers", "zeros_and_ones"]


def described(values: object) -> str:
    """Return an array as messages show it, by type and shape; anything else by its ``repr``."""
    if isinstance(values, Tensor):
        return f"{str(values.data.dtype).split('.')[-1]} of shape {tuple(values.shape)}"
    if isinstance(values, np.ndarray):
        return f"{values.dtype} of shape {values.shape}"
    return shown(values)


def numeric_array(
    name: str, values: Any, wanted: str, *, kinds: str = "iuf", shape: tuple[int | None, ...] | None = None
) -> np.ndarray:
    """Return numbers as a NumPy array, of a shape that is wanted.

    Parameters
    ----------
    name : str
        What the message calls the argument.
    values : Tensor, array or nested list
        A tensor's memory is shared on cpu. ``[]`` has any element type and, for a shape that may begin with 0, that
        shape.
    wanted : str
        What the message says that it must be: ``"numbers of shape (n, 4)"``.
    kinds : str
        NumPy's letters of the kinds of element types that are allowed: b bool, i and u integers, f floats.
    shape : tuple of int or None, optional
        None in it is any length. By default any shape.

    Raises
    ------
    TypeError
        If they are no array, or of another element type.
    ValueError
        If the shape is another, or nested lists have different lengths.
    """
    try:
        array = host(values) if isinstance(values, Tensor) else np.asarray(values)
    except (ValueError, TypeError):  # NumPy cannot make an array of it
        differ = isinstance(values, (list, tuple))
        given = "rows of different lengths" if differ else described(values)
        raise (ValueError if differ else TypeError)(f"{name} must be {wanted}, got {given}.") from None
    given = described(array if array.ndim and array.dtype.kind in "biufc" else values)
    if array.shape == (0,) and (shape is None or shape[0] in (0, None)):
        return array if shape is None else np.zeros((0, *(n or 0 for n in shape[1:])), array.dtype)
    single = array.ndim == 0 and not isinstance(values, (np.ndarray, Tensor))
    if single or array.dtype.kind not in kinds:
        raise TypeError(f"{name} must be {wanted}, got {given}.")
    if shape is not None and (
        array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True))
    ):
        raise ValueError(f"{name} must be {wanted}, got {given}.")
    return array


def finite_boxes(name: str, values: Any) -> np.ndarray:
    """Return boxes as finite float32 corners of shape (n, 4); ``[]`` is no boxes."""
    array = numeric_array(name, values, "numbers of shape (n, 4)", shape=(None, 4))
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported as that
        boxes = array.astype(np.float32, copy=False)
    refuse_rows(name, boxes, ~np.isfinite(boxes).all(axis=1), "is not finite")
    return boxes


def refuse_rows(name: str, values: np.ndarray, wrong: np.ndarray, problem: str) -> None:
    """Raise ``ValueError`` for the first wrong row of an array, such as "boxes[2] = (0, 0, nan, 5) is not finite.".

    Parameters
    ----------
    name : str
    values : ndarray of shape (n,) or (n, k)
    wrong : ndarray of shape (n,), bool
    problem : str
        How the sentence goes on after the row's value.
    """
    if wrong.any():
        row = int(wrong.argmax())
        numbers = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in np.atleast_1d(values[row]).tolist())
        raise ValueError(f"{name}[{row}] = {numbers if values.ndim == 1 else f'({numbers})'} {problem}.")


def zeros_and_ones(name: str, masks: np.ndarray) -> np.ndarray:
    """Return masks as bools, if they are bools or hold nothing but 0 and 1; the message names the first other value.

    Parameters
    ----------
    name : str
    masks : ndarray of shape (H, W) or (G, H, W), bool or numbers
    """
    if masks.dtype == bool:
        return masks
    bools = masks != 0
    odd = bools & (masks != 1)
    if odd.any():
        first = np.unravel_index(int(odd.argmax()), odd.shape)
        place, remedy = (name, "mask > 0") if masks.ndim == 2 else (f"{name}[{first[0]}]", "masks > 0")
        raise ValueError(f"{place} must be of zeros and ones, got {masks[first]}: pass {remedy}, say.")
    return bools


def row_numbers(index: Any, num: int, noun: str) -> np.ndarray:
    """Return which of ``num`` rows an index selects.

    Parameters
    ----------
    index : int, slice, bool mask of shape (num,), or sequence of int
        Also as a tensor. Negative integers count from the end.
    num : int
        Number of rows.
    noun : str
        What messages call them, in the plural.

    Returns
    -------
    ndarray of shape (m,), int64

    Raises
    ------
    TypeError
        If the index is something else.
    ValueError
        If a bool mask has another length.
    IndexError
        If an integer is out of range.
    """
    if isinstance(index, slice):
        try:
            return np.arange(num)[index]
        except TypeError:
            raise TypeError(f"A slice of {noun} must have integers, got {shown(index)}.") from None
    try:
        rows = host(index) if isinstance(index, Tensor) else np.asarray(index)
    except ValueError:
        rows = np.asarray(None)
    if rows.dtype == bool:
        if rows.shape != (num,):
            raise ValueError(
                f"A bool index of {noun} must have one value for each of the {num}, shape ({num},), got {rows.shape}."
            )
        return np.flatnonzero(rows)
    if rows.ndim > 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise TypeError(
            f"{noun} are selected by an integer, a slice, a bool mask or a list of integers, got {described(index)}."
        )
    rows = rows.reshape(-1).astype(np.int64)
    if ((rows < -num) | (rows >= num)).any():
        raise IndexError(f"Index {described(index)} is out of range: there are {num} {noun}.")
    return np.where(rows < 0, rows + num, rows)
