"""Masks that stay compressed until a part of one is looked at.

A mask is kept as its runs of set pixels, one after the other down the columns: eight bytes for each
column of an object and each gap in it, however large the image is. Three hundred nuclei in 4000 × 4000
pixels are 4.8 GB as a stack of bool masks and under 1 MB as runs.

Shapes: G masks of H × W pixels, R runs of all of them, h × w a region of an image.

Names: *owner* is the mask that a run belongs to; *starts* and *stops* count pixels down the columns of the image (see
:mod:`lucid_maskrcnn.masks.runs`); *column*, *top* and *bottom* are the same run as a column and two rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from lucid_maskrcnn.array_arguments import finite_boxes, numeric_array, row_numbers, zeros_and_ones
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.masks.polygons import PolygonError, check_polygon, fill_polygons
from lucid_maskrcnn.masks.rle import decode_counts, encode_counts, parse_rle
from lucid_maskrcnn.masks.runs import run_lengths, runs_of_mask
from lucid_maskrcnn.ops import nearest_cells
from lucid_maskrcnn.reprs import described
from lucid_maskrcnn.validators import (
    flag,
    inner_slice,
    instance,
    integer,
    non_negative_int,
    pair,
    positive_int,
    sequence,
    shown,
)

__all__ = ["CompressedMasks"]

type Size = tuple[int, int]
type Runs = tuple[np.ndarray, np.ndarray]  # starts and stops

_WANTED = "CompressedMasks, COCO segmentations, or zeros and ones of shape (G, H, W)"


@answers_wrong_calls
@dataclass(frozen=True, eq=False, repr=False)
class CompressedMasks:
    """Masks of one image, stored as runs of pixels.

    Made by :meth:`from_dense`, :meth:`from_coco`, :meth:`from_labels` or :meth:`from_patches`, and never modified:
    methods that change something return new ones. ``masks[rows]`` selects by an integer, a slice, a bool mask or a list
    of integers, always as ``CompressedMasks``.

    Attributes
    ----------
    starts, stops : ndarray of shape (R,), int32
        The runs of all masks: pixels from start to before stop, counted down the columns of the image. Those of a
        mask ascend and do not touch within a column; none goes on over a column's end.
    offsets : ndarray of shape (G + 1,), int64
        The runs of mask *i* are those from ``offsets[i]`` to before ``offsets[i + 1]``.
    image_size : (height, width)
        Of the image that they cover.

    Examples
    --------
    >>> masks = CompressedMasks.from_coco([[[10, 10, 90, 10, 50, 80]]], (100, 120))
    >>> len(masks), masks.areas.tolist()
    (1, [2829])
    """

    starts: np.ndarray
    stops: np.ndarray
    offsets: np.ndarray
    image_size: Size

    def __post_init__(self) -> None:
        for name in ("starts", "stops", "offsets"):
            runs = getattr(self, name)
            if not isinstance(runs, np.ndarray) or runs.ndim != 1 or runs.dtype.kind not in "iu":
                raise TypeError(
                    f"{name} must be a one-dimensional array of integers, got {shown(runs)}: make CompressedMasks by "
                    "from_dense, from_coco or from_labels."
                )
        starts, stops, offsets = self.starts, self.stops, self.offsets
        if not len(offsets) or len(starts) != len(stops) or offsets[0] != 0 or offsets[-1] != len(starts):
            raise ValueError(
                f"offsets must begin with 0 and end with the number of starts and of stops, got {len(starts)} "
                f"starts, {len(stops)} stops and offsets {shown(offsets.tolist())}."
            )
        if (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"offsets must ascend, got {shown(offsets.tolist())}.")
        object.__setattr__(self, "image_size", _checked_size(self.image_size))
        _check_runs(starts, stops, offsets, self.image_size)
        for name, dtype in (("starts", np.int32), ("stops", np.int32), ("offsets", np.int64)):
            object.__setattr__(self, name, getattr(self, name).astype(dtype, copy=False))

    # -------------------------------------------------------------- made of other forms

    @classmethod
    def of(cls, masks: Any, image_size: Size) -> CompressedMasks:
        """Convert masks of any form that a target may have.

        Parameters
        ----------
        masks : CompressedMasks, list of COCO segmentations, or Tensor, array or nested list of shape (G, H, W)
            ``[]`` is no masks.
        image_size : (height, width)
            The size that they must have.

        Raises
        ------
        TypeError
            If they are something else.
        ValueError
            If they are malformed or of another size.
        """
        height, width = size = _checked_size(image_size)
        if not isinstance(masks, CompressedMasks):
            if are_segmentations(masks, size):
                return cls.from_coco(masks, size)
            array = numeric_array("masks", masks, _WANTED, kinds="biuf")
            masks = cls.from_dense(np.zeros((0, *size), bool) if array.shape[:1] == (0,) else array)
        if masks.image_size != size:
            found = masks.image_size
            raise ValueError(
                f"masks must be of the image's size, {height} × {width} (height × width), got {found[0]} × {found[1]}."
            )
        return masks

    @classmethod
    def from_dense(cls, masks: Any) -> CompressedMasks:
        """Compress a stack of masks.

        Parameters
        ----------
        masks : Tensor or array of shape (G, H, W)
            bool, or numbers that are all 0 or 1.

        Raises
        ------
        TypeError, ValueError
            If they are not as above.
        """
        wanted = "zeros and ones of shape (G, H, W)"
        array = zeros_and_ones("masks", numeric_array("masks", masks, wanted, kinds="biuf", shape=(None, None, None)))
        size = _checked_size(array.shape[1:])
        return _from_parts((runs_of_mask(mask, size[0]) for mask in array), size)

    @classmethod
    def from_coco(cls, segmentations: Iterable[Any], image_size: Size) -> CompressedMasks:
        """Convert what COCO annotations have as ``"segmentation"``.

        Parameters
        ----------
        segmentations : iterable
            For each object a run-length encoding, a mapping with ``"size"`` and ``"counts"`` (compressed, str or bytes,
            or a list of lengths), or a list of polygons ``[x, y, x, y, …]``, whose union is the mask, with
            pycocotools' pixels. The two may be mixed.
        image_size : (height, width)
            What each ``"size"`` must be. Parts of polygons outside the image are cut off.

        Raises
        ------
        TypeError
            If ``segmentations`` is a single one.
        ValueError
            If an encoding is malformed or of another size, or a polygon has fewer than three points, an odd number of
            coordinates or one that is not finite. The message names the object's row.
        """
        size = _checked_size(image_size)
        one_or_none = isinstance(segmentations, (str, bytes, Mapping)) or getattr(segmentations, "ndim", 1) == 0
        if one_or_none or not isinstance(segmentations, Iterable):
            raise TypeError(f"segmentations must be one for each object, in a list, got {shown(segmentations)}.")
        rles: dict[int, Mapping[str, Any]] = {}
        polygons: list[np.ndarray] = []
        polygon_owners: list[int] = []
        num = 0
        for num, segmentation in enumerate(segmentations, start=1):
            if isinstance(segmentation, Mapping):
                rles[num - 1] = segmentation
            else:
                own = _polygons(segmentation, num - 1)
                polygons += own
                polygon_owners += [num - 1] * len(own)
        # All objects at once: one by one they would be many small NumPy calls.
        found = [_runs_of_rles(rles, size)] if rles else []
        if polygons:
            try:
                which, *runs = fill_polygons(polygons, size)
            except PolygonError as error:
                _refuse(polygon_owners[error.index], f"cannot be used: a polygon of it {error}")
            found.append((np.array(polygon_owners)[which], *runs))
        none = np.zeros(0, np.int64)
        owner, starts, stops = (np.concatenate(parts) for parts in zip((none,) * 3, *found, strict=True))
        return _from_runs(*_split_at_columns(owner, starts, stops, size[0]), num, size)

    @classmethod
    def from_labels(cls, labels: Any) -> CompressedMasks:
        """Make a mask of each instance of a label image, in the order of their numbers.

        Parameters
        ----------
        labels : array or Tensor of shape (H, W), integers
            0 is background, each other number an instance.

        Raises
        ------
        TypeError, ValueError
            If ``labels`` is not as above.
        """
        array = numeric_array("labels", labels, "integers of shape (H, W)", kinds="iu", shape=(None, None))
        height, width = size = _checked_size(array.shape)
        # A row of background below the image ends each column's last run.
        columns = np.zeros((width, height + 1), array.dtype)
        columns[:, :height] = array.T
        flat = columns.ravel()
        begins = np.flatnonzero(np.diff(flat, prepend=flat.dtype.type(0)))
        value, ends = flat[begins], np.append(begins[1:], flat.size)
        some = value != 0
        numbers, owner = np.unique(value[some], return_inverse=True)
        column, top = np.divmod(begins[some], height + 1)
        return _from_runs(owner, column, top, ends[some] - column * (height + 1), len(numbers), size)

    @classmethod
    def from_patches(cls, patches: Iterable[tuple[slice, slice, np.ndarray]], image_size: Size) -> CompressedMasks:
        """Compress masks of which only a part of the image is given; the rest of it is not set.

        Parameters
        ----------
        patches : iterable of (rows, columns, mask)
            Of each mask the part: two slices with start and stop, and its pixels, (h, w) bool.
        image_size : (height, width)
            Of the whole image, in pixels.

        Raises
        ------
        TypeError, ValueError
            If a part is not inside the image, or its mask is of another size.
        """
        height, width = size = _checked_size(image_size)
        if isinstance(patches, (str, bytes)) or not isinstance(patches, Iterable):
            raise TypeError(f"patches must be (rows, columns, mask) of each mask, got {shown(patches)}.")

        def runs() -> Iterator[Runs]:
            for i, patch in enumerate(patches):
                name = f"patches[{i}]"
                if not isinstance(patch, (tuple, list)) or len(patch) != 3:
                    raise TypeError(f"{name} must be (rows, columns, mask), got {shown(patch)}.")
                rows, columns, mask = patch
                inner_slice(f"rows of {name}", rows, height)
                inner_slice(f"columns of {name}", columns, width)
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                pixels = numeric_array(name, mask, f"a mask of shape {shape}", kinds="biuf", shape=shape)
                yield runs_of_mask(zeros_and_ones(name, pixels), height, top=rows.start, left=columns.start)

        return _from_parts(runs(), size)

    @classmethod
    def concatenated(cls, parts: Sequence[CompressedMasks]) -> CompressedMasks:
        """Return the masks of several, one after the other.

        Parameters
        ----------
        parts : sequence of CompressedMasks
            At least one, all of the same image size.

        Raises
        ------
        TypeError, ValueError
            If they are not as above.
        """
        parts = sequence("parts", parts, lambda name, part: instance(name, part, CompressedMasks, "CompressedMasks"))
        if not parts:
            raise ValueError("parts must be at least one CompressedMasks, got none.")
        for i, part in enumerate(parts):
            if part.image_size != parts[0].image_size:
                raise ValueError(f"parts must be of one image size, got {parts[0]!r} and parts[{i}] = {part!r}.")
        lengths = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])
        return _unchecked(
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.stops for part in parts]),
            np.cumsum(lengths),
            parts[0].image_size,
        )

    # -------------------------------------------------------------- their properties

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @described
    def __repr__(self) -> str:
        height, width = self.image_size
        return f"CompressedMasks({len(self)} of {height} × {width} pixels, {self.nbytes} bytes)"

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.starts.nbytes + self.stops.nbytes + self.offsets.nbytes

    @property
    def areas(self) -> np.ndarray:
        """Number of pixels of each mask: (G,), int64."""
        total = np.concatenate([[0], np.cumsum(self.stops - self.starts, dtype=np.int64)])
        return np.diff(total[self.offsets])

    @property
    def boxes(self) -> np.ndarray:
        """The tightest boxes (x1, y1, x2, y2) around the pixels of each mask: (G, 4), float32; zeros if there are none.

        Pixel *i* covers ``[i, i + 1)``, so a mask of one pixel has a box of one by one.
        """
        boxes = np.zeros((len(self), 4), np.float32)
        some = np.flatnonzero(np.diff(self.offsets))
        if len(some):
            first = self.offsets[some]
            column, top, bottom = self._columns()
            boxes[some, 0] = column[first]
            boxes[some, 1] = np.minimum.reduceat(top, first)
            boxes[some, 2] = column[self.offsets[some + 1] - 1] + 1
            boxes[some, 3] = np.maximum.reduceat(bottom, first)
        return boxes

    @property
    def touch_edge(self) -> np.ndarray:
        """Whether a mask has a pixel at the edge of the image: (G,), bool."""
        height, width = self.image_size
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        return ((low <= 0) | (high >= (width, height))).any(axis=1) & (self.areas > 0)

    def areas_within(self, boxes: Any) -> np.ndarray:
        """Count the pixels that each mask has in a box of its own.

        Parameters
        ----------
        boxes : Tensor, array or nested list of shape (G, 4)
            (x1, y1, x2, y2) in pixels of the image, one for each mask. A pixel that a box only touches counts.

        Returns
        -------
        ndarray of shape (G,), int64

        Raises
        ------
        TypeError, ValueError
            If ``boxes`` is not as above.
        """
        corners = finite_boxes("boxes", boxes)
        if len(corners) != len(self):
            raise ValueError(f"boxes must be one for each mask, got {len(corners)} for {len(self)} masks.")
        height, width = self.image_size
        low, high = np.floor(corners[:, :2]), np.ceil(corners[:, 2:])
        around = np.concatenate([low, high], axis=1).clip(0, (width, height, width, height)).astype(np.int64)
        x1, y1, x2, y2 = around[self._owners()].T
        column, top, bottom = self._columns()
        rows = (np.minimum(bottom, y2) - np.maximum(top, y1)).clip(0) * ((column >= x1) & (column < x2))
        total = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        return np.diff(total[self.offsets])

    def intersections(self, first: Any, second: Any) -> np.ndarray:
        """Count the pixels that pairs of masks share.

        Parameters
        ----------
        first, second : sequence of int of length P
            The rows of each pair.

        Returns
        -------
        ndarray of shape (P,), int64

        Raises
        ------
        TypeError, ValueError, IndexError
            If they are not as above.
        """
        rows, others = row_numbers(first, len(self), "masks"), row_numbers(second, len(self), "masks")
        if len(rows) != len(others):
            raise ValueError(f"first and second must have the same length, got {len(rows)} and {len(others)}.")
        pixels = self.image_size[0] * self.image_size[1]
        begins = self._owners() * pixels + self.starts  # in int64, all masks one after the other
        ends = begins + (self.stops - self.starts)
        before = np.concatenate([[0], np.cumsum(ends - begins)])
        # The runs of the first mask of each pair, moved to where those of the second are.
        counts = np.diff(self.offsets)[rows]
        pair = np.repeat(np.arange(len(rows)), counts)
        run = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts) + self.offsets[rows][pair]
        shift = (others - rows)[pair] * pixels

        def set_before(position: np.ndarray) -> np.ndarray:
            """Count the pixels of all masks that lie before each position."""
            last = np.searchsorted(begins, position, side="right")
            beyond = np.append(0, ends)[last] - position
            return before[last] - beyond.clip(0)

        shared = set_before(ends[run] + shift) - set_before(begins[run] + shift)
        total = np.concatenate([[0], np.cumsum(shared)])
        ends_of_pairs = np.cumsum(counts)
        return total[ends_of_pairs] - total[ends_of_pairs - counts]

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the column of each run, its first row, and the row after its last."""
        height = self.image_size[0]
        column = self.starts // max(height, 1)
        base = column * height
        return column, self.starts - base, self.stops - base

    def _owners(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    # -------------------------------------------------------------- other forms

    def decode(self, index: int) -> np.ndarray:
        """Return the pixels of one mask: (H, W), bool."""
        height, width = self.image_size
        return self.decode_region(index, slice(0, height), slice(0, width))

    def decode_region(self, index: int, rows: slice, columns: slice) -> np.ndarray:
        """Return the pixels of a region of one mask; the rest of it is not decoded.

        Parameters
        ----------
        index : int
            Which mask, from 0 on.
        rows, columns : slice
            With start and stop, inside the image.

        Returns
        -------
        ndarray of shape (h, w), bool

        Raises
        ------
        IndexError
            If there is no such mask.
        ValueError
            If the region is not inside the image.
        """
        self._check_region(index, rows, columns)
        height = self.image_size[0]
        h, w = rows.stop - rows.start, columns.stop - columns.start
        first, last = self.offsets[index], self.offsets[index + 1]
        starts = self.starts[first:last]
        low, high = np.searchsorted(starts, np.array([columns.start, columns.stop], np.int64) * height)
        starts, stops = starts[low:high], self.stops[first + low : first + high]
        column = starts // max(height, 1)
        base = column * height + rows.start
        top, bottom = (starts - base).clip(0, h), (stops - base).clip(0, h)
        inside = top < bottom
        column = column[inside] - columns.start
        # +1 where a run begins, -1 after its end; a row below the region takes the ends of runs that go on.
        pixels = np.zeros((h + 1, w), np.int8)
        pixels[top[inside], column] = 1
        pixels[bottom[inside], column] = -1
        np.add.accumulate(pixels, axis=0, out=pixels)
        return pixels[:h].view(bool)

    def _check_region(self, index: int, rows: slice, columns: slice) -> None:
        index = integer("index", index)
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, as there are {len(self)} masks, got {index}.")
        inner_slice("rows", rows, self.image_size[0])
        inner_slice("columns", columns, self.image_size[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return :meth:`to_dense` to NumPy's functions: ``np.asarray(masks)``."""
        if copy is False:
            raise ValueError("Compressed masks cannot be an array without a copy: leave copy=False out.")
        dense = self.to_dense()
        return dense if dtype is None else dense.astype(dtype)

    def to_dense(self) -> np.ndarray:
        """Return the pixels of all masks: (G, H, W), bool."""
        out = np.zeros((len(self), *self.image_size), bool)
        for mask, (pixels, y, x) in zip(out, self._boxed(), strict=True):
            mask[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        return out

    def to_rle(self) -> list[dict[str, Any]]:
        """Return each mask as a compressed COCO run-length encoding, ``{"size", "counts"}``."""
        height, width = self.image_size
        rles = []
        for first, last in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            lengths = run_lengths(self.starts[first:last], self.stops[first:last], height * width)
            rles.append({"size": [height, width], "counts": encode_counts(lengths)})
        return rles

    # -------------------------------------------------------------- selected and moved

    def __getitem__(self, rows: Any) -> CompressedMasks:
        index = row_numbers(rows, len(self), "masks")
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        runs = np.repeat(self.offsets[index] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return _unchecked(self.starts[runs], self.stops[runs], offsets, self.image_size)

    def united(self, groups: Any) -> CompressedMasks:
        """Return the union of the masks of each group.

        Parameters
        ----------
        groups : sequence of int of length G
            The number of the union that each mask becomes a part of, counted from 0; a number that none has is an
            empty mask.

        Raises
        ------
        TypeError, ValueError
            If ``groups`` are not as above.
        """
        wanted = f"integers of shape ({len(self)},), one for each mask"
        numbers = numeric_array("groups", groups, wanted, kinds="iu", shape=(len(self),)).astype(np.int64)
        if (numbers < 0).any():
            raise ValueError(f"groups must be counted from 0, got {numbers.min()}.")
        num = int(numbers.max(initial=-1)) + 1
        return _from_runs(numbers[self._owners()], *self._columns(), num, self.image_size)

    def flipped(self, *, horizontal: bool = False, vertical: bool = False) -> CompressedMasks:
        """Return the masks mirrored: left and right swapped, or top and bottom, or both."""
        horizontal, vertical = flag("horizontal", horizontal), flag("vertical", vertical)
        height, width = self.image_size
        column, top, bottom = self._columns()
        if horizontal:
            column = width - 1 - column
        if vertical:
            top, bottom = height - bottom, height - top
        return _from_runs(self._owners(), column, top, bottom, len(self), self.image_size)

    def rotated(self, turns: int) -> CompressedMasks:
        """Return the masks rotated counterclockwise by quarter turns, as ``np.rot90(mask, turns)`` does."""
        turns = integer("turns", turns) % 4
        if turns % 2 == 0:
            return self.flipped(horizontal=turns == 2, vertical=turns == 2)
        # Transposing turns runs down the columns into runs along the rows, so each mask is decoded within its box.
        height, width = self.image_size
        transposed = _from_parts(
            (runs_of_mask(box.T, width, top=x, left=y) for box, y, x in self._boxed()), (width, height)
        )
        return transposed.flipped(vertical=turns == 1, horizontal=turns == 3)

    def _boxed(self) -> Iterable[tuple[np.ndarray, int, int]]:
        """Yield the pixels of each mask within its box, (h, w), and the box's first row and column."""
        for i, (x1, y1, x2, y2) in enumerate(self.boxes.astype(np.int64).tolist()):
            yield self.decode_region(i, slice(y1, y2), slice(x1, x2)), y1, x1

    def cropped(self, top: int, left: int, height: int, width: int) -> CompressedMasks:
        """Return the crop of ``height`` × ``width`` pixels whose first pixel is at row ``top`` and column ``left``.

        Where it reaches beyond the image, nothing is set.
        """
        top, left = integer("top", top, -(2**31), 2**31), integer("left", left, -(2**31), 2**31)
        height, width = _checked_size((positive_int("height", height), positive_int("width", width)))
        column, first, last = self._columns()
        column = column - left
        first, last = (first - top).clip(0, height), (last - top).clip(0, height)
        keep = (first < last) & (column >= 0) & (column < width)
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        start = column[keep].astype(np.int64) * height
        return _unchecked(_int32(start + first[keep]), _int32(start + last[keep]), offsets, (height, width))

    def resized(self, to_size: Size, *, keep_all: bool = False) -> CompressedMasks:
        """Return the masks resized to the nearest pixel, as :func:`lucid_maskrcnn.transforms.resize_masks` does.

        Parameters
        ----------
        to_size : (height, width)
            The new size, in pixels.
        keep_all : bool
            Whether a mask that would lose its last pixel gets the one at the center of the box around it.
        """
        keep_all = flag("keep_all", keep_all)
        height, width = _checked_size(pair("to_size", to_size, positive_int))
        rows, columns = (nearest_cells(max(n, 1), to) for n, to in zip(self.image_size, (height, width), strict=True))
        # The first new row (column) that copies an old one, or one after it.
        first_row, first_column = (
            np.searchsorted(of, np.arange(n + 1)) for of, n in zip((rows, columns), self.image_size, strict=True)
        )
        column, top, bottom = self._columns()
        top, bottom = first_row[top], first_row[bottom]
        copies = (first_column[column + 1] - first_column[column]) * (top < bottom)
        run = np.repeat(np.arange(len(copies)), copies)
        copy = np.arange(len(run)) - np.repeat(np.cumsum(copies) - copies, copies)
        resized = _from_runs(
            self._owners()[run], first_column[column[run]] + copy, top[run], bottom[run], len(self), (height, width)
        )
        return resized._with_centers_of(self) if keep_all else resized

    def _with_centers_of(self, before: CompressedMasks) -> CompressedMasks:
        """Return these masks, with a pixel for each that has none and had some before it was resized."""
        gone = (self.areas == 0) & (before.areas > 0)
        if not gone.any():
            return self
        x1, y1, x2, y2 = before.boxes[gone].astype(np.float64).T
        (height, width), (old_height, old_width) = self.image_size, before.image_size
        column = ((x1 + x2) / 2 * width / old_width).astype(np.int64).clip(0, width - 1)
        row = ((y1 + y2) / 2 * height / old_height).astype(np.int64).clip(0, height - 1)
        pixel, at = _int32(column * height + row), self.offsets[:-1][gone]
        offsets = self.offsets + np.concatenate([[0], np.cumsum(gone)])
        starts, stops = np.insert(self.starts, at, pixel), np.insert(self.stops, at, pixel + 1)
        return _unchecked(starts, stops, offsets, self.image_size)


@answers_wrong_calls
def are_segmentations(masks: Any, image_size: Size) -> bool:
    """Return whether these are run-length encodings or lists of polygons, rather than dense masks as nested lists."""
    image_size = _checked_size(image_size)
    if not isinstance(masks, (list, tuple)) or not masks:
        return False
    if any(isinstance(mask, Mapping) for mask in masks):
        return True
    rows = [row for mask in masks if isinstance(mask, (list, tuple)) for row in mask]
    rows = [row for row in rows if isinstance(row, (list, tuple, np.ndarray))]
    if len(rows) == len(masks) * image_size[0] and all(len(row) == image_size[1] for row in rows):
        return False
    # A polygon has coordinates where the rows of a mask have zeros and ones.
    return any(np.ndim(n) == 0 and n not in (0, 1) for row in rows for n in row)


# ------------------------------------------------------------------ runs


def _check_runs(starts: np.ndarray, stops: np.ndarray, offsets: np.ndarray, size: Size) -> None:
    """Raise ``ValueError`` for the first run that is not within a column, or not after that before it."""
    height, width = size
    wrong = (starts < 0) | (starts >= stops) | (stops > height * width)
    what = f"must be at least one pixel of the image, which has {height * width}"
    if not wrong.any():
        wrong = starts // max(height, 1) != (stops - 1) // max(height, 1)
        what = f"must lie within one column, of {height} pixels"
    if not wrong.any():
        near = (starts[1:] < stops[:-1]) | ((starts[1:] == stops[:-1]) & (starts[1:] % max(height, 1) != 0))
        wrong[1:] = near
        wrong[offsets[:-1][offsets[:-1] < len(starts)]] = False  # the first run of a mask has none before it
        what = "must come after the run before it in the same mask, and not touch it"
    if wrong.any():
        run = int(wrong.argmax())
        raise ValueError(f"starts[{run}] to stops[{run}] {what}, got {starts[run]} to {stops[run]}.")


def _unchecked(starts: np.ndarray, stops: np.ndarray, offsets: np.ndarray, size: Size) -> CompressedMasks:
    """Return masks of runs that need no checks."""
    masks = object.__new__(CompressedMasks)
    masks.__dict__.update(starts=starts, stops=stops, offsets=offsets, image_size=size)
    return masks


def _checked_size(size: Any) -> Size:
    height, width = pair("image_size", size, non_negative_int)
    if height * width >= 2**31:
        raise ValueError(f"Masks can be of images up to 2³¹ pixels, got {height} × {width}.")
    return height, width


def _int32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int32, copy=False)


def _from_runs(
    owner: np.ndarray, column: np.ndarray, top: np.ndarray, bottom: np.ndarray, num: int, size: Size
) -> CompressedMasks:
    """Return ``num`` masks of runs in any order, each within one column; runs that overlap or touch are merged."""
    height, width = size
    step = height + 1  # so that the end of a column and the start of the next are two places
    base = (owner * max(width, 1) + column) * step
    starts, stops = base + top, base + bottom
    if not (starts[1:] >= starts[:-1]).all():
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], stops[order]
    reach = np.maximum.accumulate(stops)
    first = np.flatnonzero(starts > np.concatenate([[-1], reach[:-1]])[: len(starts)])
    last = np.append(first[1:], len(starts))[: len(first)] - 1
    line, top = np.divmod(starts[first], step)  # columns of all masks, one mask after the other
    bottom = reach[last] - line * step
    owner, column = np.divmod(line, max(width, 1))
    base = column * height
    return _unchecked(_int32(base + top), _int32(base + bottom), np.searchsorted(owner, np.arange(num + 1)), size)


def _from_parts(parts: Iterable[Runs], size: Size) -> CompressedMasks:
    """Return masks of the runs of each."""
    starts, stops = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for first, last in parts:
        starts.append(_int32(first))
        stops.append(_int32(last))
    offsets = np.cumsum([len(part) for part in starts])
    return _unchecked(np.concatenate(starts), np.concatenate(stops), offsets, size)


def _lengths_of_rles(rles: Mapping[int, Mapping[str, Any]], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return the run lengths of all, one after the other, and how many each has."""
    if all(isinstance(r.get("counts"), (str, bytes)) and _is_size(r.get("size"), size) for r in rles.values()):
        with contextlib.suppress(ValueError):  # decoded one by one below, to name the row
            lengths, num = decode_counts([r["counts"] for r in rles.values()])
            total = np.add.reduceat(lengths, np.cumsum(num) - num) if num.all() else num
            if (lengths >= 0).all() and (lengths <= size[0] * size[1]).all() and (total == size[0] * size[1]).all():
                return lengths, num
    parts = [_lengths_of_rle(rle, size, row) for row, rle in rles.items()]
    return np.concatenate([np.zeros(0, np.int64), *parts]), np.array([len(part) for part in parts], np.int64)


def _is_size(value: Any, size: Size) -> bool:
    return isinstance(value, (list, tuple)) and tuple(value) == size


def _lengths_of_rle(rle: Mapping[str, Any], size: Size, row: int) -> np.ndarray:
    try:
        lengths, found = parse_rle(rle)
    except (TypeError, ValueError) as error:
        _refuse(row, f"is malformed: {str(error).rstrip('.')}")
    if found != size:
        _refuse(row, f"is of {found[0]} × {found[1]} pixels, but the image has {size[0]} × {size[1]}")
    return lengths


def _runs_of_rles(rles: Mapping[int, Mapping[str, Any]], size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the runs of all: the key of each, its start and its stop."""
    lengths, num = _lengths_of_rles(rles, size)
    owner = np.repeat([*rles], num)
    first = np.cumsum(num) - num
    total = np.cumsum(lengths)
    stops = total - np.repeat(np.concatenate([[0], total])[first], num)
    ones = (np.arange(len(lengths)) - np.repeat(first, num)) % 2 == 1
    return owner[ones], (stops - lengths)[ones], stops[ones]


def _polygons(segmentation: Any, row: int) -> list[np.ndarray]:
    if not isinstance(segmentation, (list, tuple)) or not segmentation:
        _refuse(row, f"must be a run-length encoding or a list of polygons, got {shown(segmentation)}")
    polygons = []
    for k, polygon in enumerate(segmentation):
        try:
            polygons.append(check_polygon(polygon))
        except ValueError as error:
            _refuse(row, f"is malformed: its polygon {k} {error}")
    return polygons


def _refuse(row: int, what: str) -> NoReturn:
    raise ValueError(f"masks[{row}] {what}.")


def _split_at_columns(
    owner: np.ndarray, starts: np.ndarray, stops: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Split runs where a column ends, and drop empty ones: return owner, column, top and bottom of each piece."""
    some = starts < stops
    owner, starts, stops = owner[some], starts[some], stops[some]
    first = starts // max(height, 1)
    pieces = (stops - 1) // max(height, 1) - first + 1
    run = np.repeat(np.arange(len(pieces)), pieces)
    column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    low = column * height
    top, bottom = np.maximum(starts[run] - low, 0), np.minimum(stops[run] - low, height)
    return owner[run], column, top, bottom
