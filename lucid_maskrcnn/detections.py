"""What ``predict`` returns for one image.

Shapes: n detections, M × M cells of the mask head, H × W pixels of the image.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.annotation_formats.coco import make_results
from lucid_maskrcnn.array_arguments import described, finite_boxes, numeric_array, refuse_rows, row_numbers
from lucid_maskrcnn.atomic import write_json
from lucid_maskrcnn.config import CategoryNames
from lucid_maskrcnn.masks import CompressedMasks, encode_rle, trace_polygons
from lucid_maskrcnn.ops import as_tensor, evaluate, host, paste_masks
from lucid_maskrcnn.text_tables import align_columns, printable
from lucid_maskrcnn.validators import (
    choice,
    flag,
    fraction,
    instance,
    integer,
    label_names,
    optional,
    positive_int,
    shown,
)
from lucid_maskrcnn.validators import image_size as checked_size
from lucid_maskrcnn.validators import path as checked_path

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Detections"]

_KEYS = ("boxes", "scores", "labels", "masks")
_COLUMNS = ("boxes", "scores", "labels", "mask_probs")
_HEADINGS = ("#", "name", "score", "x1", "y1", "x2", "y2")


class Detections(Mapping[str, Tensor]):
    """The objects found in one image, in that image's pixels.

    A mapping of four tensors, ``"boxes"``, ``"scores"``, ``"labels"`` and ``"masks"``, that also
    behaves like a list of detections: its length is their number, and an integer, a slice, a bool
    mask or an array of indices selects some, always as ``Detections``. Iteration goes over the
    four keys, as for any mapping. Detections are kept in the order given: ``predict`` sorts by
    score.

    Parameters
    ----------
    boxes : Tensor or array of shape (n, 4), float32
        Corners (x1, y1, x2, y2) in pixels of the image, finite. The other tensors are moved to its device.
    scores : Tensor or array of shape (n,), float32
        From 0 to 1.
    labels : Tensor or array of shape (n,), int32
        From 1 on.
    mask_probs : Tensor or array of shape (n, M, M), float32
        Probability of the object in each cell of its box, from 0 to 1.
    image_size : (height, width)
        Of the image.
    categories : mapping of int to str, or sequence of (label, name, id), optional
        Names of the labels, and their ids in the data set; ``model.categories`` and ``dataset.categories`` have both.
        By default a label is its own id.
    mask_thresh : float
        A pixel belongs to the mask where its probability is above this.
    snap_masks : bool
        Whether masks are pasted as torchvision or as detectron2 does, see
        :func:`lucid_maskrcnn.ops.paste_masks`.
    image : uint8 array of shape (H, W, 3), optional
        The image itself: :meth:`draw` uses it, and notebooks show it.

    Attributes
    ----------
    boxes, scores, labels, mask_probs, image_size, mask_thresh, snap_masks, image
        As given, but copied: tensors of the types above. What is overwritten later does not change them.
    categories : CategoryNames or None
        Names of the labels, a dict; its attribute ``ids`` has their ids in the data set.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> sure = found[found.scores > 0.9]
    >>> sure["boxes"].shape, sure.names[:2]
    ((12, 4), ['nucleus', 'nucleus'])
    """

    def __init__(
        self,
        boxes: Any,
        scores: Any,
        labels: Any,
        mask_probs: Any,
        image_size: Sequence[int],
        *,
        categories: Mapping[int, str] | Sequence[Any] | None = None,
        mask_thresh: float = 0.5,
        snap_masks: bool = True,
        image: np.ndarray | None = None,
    ) -> None:
        given = (boxes, scores, labels, mask_probs)
        evaluate([values.data for values in given if isinstance(values, Tensor)])  # on gpu at once, not one by one
        corners = _checked_boxes(boxes)
        num = len(corners)
        device = boxes if isinstance(boxes, Tensor) else "cpu"
        self.boxes = _own(boxes if isinstance(boxes, Tensor) else corners, device, np.float32)  # (n, 4)
        self.scores = _own(_checked_scores(scores, num), device, np.float32)  # (n,)
        self.labels = _own(_checked_labels(labels, num), device, np.int32)  # (n,)
        self.mask_probs = _own(_checked_probs(mask_probs, num), device, np.float32)  # (n, M, M)
        self.image_size = checked_size("image_size", image_size)
        self.categories = _checked_categories(categories)
        self.mask_thresh, self.snap_masks = fraction("mask_thresh", mask_thresh), flag("snap_masks", snap_masks)
        self.image = None if image is None else _checked_image(image, self.image_size).copy()
        self._masks: Tensor | None = None

    # -------------------------------------------------------------- the mapping and the list

    @property
    def masks(self) -> Tensor:
        """Masks of the size of the image, (n, H, W) bool.

        They are pasted when first asked for, and kept: n · H · W bytes, 97 MB for 100 objects in
        800 × 1216 pixels. All other methods paste one mask at a time.
        """
        if self._masks is None:
            self._masks = self._pasted(slice(None))
            evaluate([self._masks.data])  # on gpu; any thread may read them later
        return self._masks

    @property
    def names(self) -> list[str]:
        """Category names of the detections; ``"class 7"`` for a label without one."""
        categories: Mapping[int, str] = self.categories or {}
        return [categories.get(label, f"class {label}") for label in host(self.labels).tolist()]

    @property
    def ids(self) -> np.ndarray:
        """Numbers of the detections, 1 to n, (n,) int64: their ids in everything that is exported from these."""
        return np.arange(1, len(self) + 1)

    @property
    def category_ids(self) -> np.ndarray:
        """Ids of the detections' categories in the data set that the model was trained on, (n,) int64.

        Raises
        ------
        ValueError
            If a label has no category, and is the id of another one.
        """
        return np.array(self._category_ids(None), np.int64)

    def _category_ids(self, given: Mapping[int, int] | None) -> list[int]:
        labels = host(self.labels).tolist()
        if given is not None:
            chosen = _checked_ids(given, labels)
            return [chosen[label] for label in labels]
        ids = self.categories.ids if self.categories else {}
        for label in labels:
            if label not in ids and label in ids.values():
                raise ValueError(
                    f"Label {label} has no category, and {label} is the id of another one: give the detections "
                    "categories with that label, or pass category_ids."
                )
        return [ids.get(label, label) for label in labels]

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: int | slice | Sequence[int] | np.ndarray | Tensor) -> Detections: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in _KEYS:
                raise KeyError(f"Detections have no {key!r}: the keys are {', '.join(_KEYS)}.")
            return getattr(self, key)
        rows = row_numbers(key, len(self), "detections")
        return self._replaced(**{name: _take(getattr(self, name), rows) for name in _COLUMNS})

    def _replaced(self, **changes: Any) -> Detections:
        """Return the detections with other attributes, which need no checks."""
        other = object.__new__(Detections)
        other.__dict__ = {**self.__dict__, **changes, "_masks": None}
        return other

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in _KEYS

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_masks": None}  # they can be pasted again

    # The comparison of a mapping would compare tensors, whose answer is a tensor: identity is meant.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # -------------------------------------------------------------- other forms

    def clipped(self) -> Detections:
        """Return the detections with their boxes clipped to the image, without those that have no area then."""
        height, width = self.image_size
        boxes = np.clip(host(self.boxes), 0, np.array([width, height, width, height], np.float32))
        inside = self._replaced(boxes=as_tensor(boxes, self.boxes))
        return inside[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]

    def _on_host(self) -> Detections:
        """Return the detections on cpu, where exports read one mask after the other; from gpu it is one copy."""
        if self.boxes.device == "cpu":
            return self
        moved = {name: as_tensor(getattr(self, name), "cpu") for name in _COLUMNS}
        found = self._replaced(**moved)
        found._masks = None if self._masks is None else as_tensor(self._masks, "cpu")
        return found

    def numpy(self) -> dict[str, np.ndarray]:
        """Return the four tensors as NumPy arrays of their own: what is written into them changes nothing here."""
        found = self._on_host()
        columns = {key: host(found[key]).copy() for key in _KEYS if key != "masks"}
        if found._masks is not None:
            return {**columns, "masks": host(found._masks).copy()}
        return {**columns, "masks": host(found._pasted(slice(None)))}  # not kept, so that it need not be copied

    def _each_mask(self) -> Iterator[np.ndarray]:
        """Yield the mask of each detection, (H, W) bool, without pasting the others."""
        found = self._on_host()
        for i in range(len(found)):
            yield host(found._pasted(slice(i, i + 1)))[0] if found._masks is None else host(found._masks)[i]

    def _pasted(self, rows: slice) -> Tensor:
        probs, boxes = self.mask_probs, self.boxes
        if rows != slice(None):
            probs, boxes = (as_tensor(host(tensor)[rows], tensor) for tensor in (probs, boxes))
        return paste_masks(probs, boxes, self.image_size, self.mask_thresh, snap=self.snap_masks)

    def to_rle(self) -> list[dict[str, Any]]:
        """Return each mask as a compressed COCO run-length encoding, ``{"size", "counts"}``."""
        return [encode_rle(mask) for mask in self._each_mask()]

    def to_polygons(self) -> list[list[list[float]]]:
        """Return each mask as COCO polygons.

        Returns
        -------
        list of list of list of float
            For each detection one ring ``[x, y, x, y, ...]`` for each part of its mask, clockwise
            along the edges of its pixels; none for an empty mask. COCO's polygons cannot have holes,
            so holes are filled: :meth:`to_rle` keeps them. Parts that touch at a corner
            only are separate parts.
        """
        return [trace_polygons(mask) for mask in self._each_mask()]

    def to_coco(self, image_id: int, *, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """Return the detections as COCO results.

        Parameters
        ----------
        image_id : int
            The image's id in the ground truth.
        category_ids : mapping of int to int, optional
            The category id of each label, by default that of the data set that the model was trained on
            (:attr:`category_ids`).

        Returns
        -------
        list of dict
            ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score`` and ``segmentation`` (compressed
            run lengths), for ``json.dump`` and pycocotools' ``loadRes``.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or a label has no category id.
        """
        found = self._on_host()
        return make_results(
            image_id=integer("image_id", image_id),
            category_ids=found._category_ids(category_ids),
            boxes=host(found.boxes),
            scores=host(found.scores).tolist(),
            segmentations=found.to_rle(),
        )

    def to_json(self, path: str | Path, image_id: int, *, category_ids: Mapping[int, int] | None = None) -> None:
        """Write :meth:`to_coco` to a file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            An existing file is replaced once all is written.
        image_id, category_ids
            As for :meth:`to_coco`.
        """
        write_json(checked_path("path", path), self.to_coco(image_id, category_ids=category_ids))

    # -------------------------------------------------------------- drawings and tables

    def draw(
        self,
        image: Any = None,
        *,
        score_thresh: float = 0.0,
        color_by: Literal["instance", "class"] = "instance",
        masks: bool = True,
        boxes: bool = True,
        labels: bool = True,
        alpha: float = 0.35,
        scale: int = 1,
    ) -> Image.Image:
        """Draw the detections on the image.

        Parameters
        ----------
        image : path, PIL image or uint8 array of shape (H, W, 3), optional
            By default the image that the detections carry.
        score_thresh : float
            Detections with a lower score are not drawn.
        color_by : {"instance", "class"}
            Whether each object has its own color or each label. The n-th detection, or label n, has
            the same color in every image and every run.
        masks, boxes, labels : bool
            What to draw.
        alpha : float
            Opacity of the masks, from 0 (contours only) to 1.
        scale : int
            Enlarge the image so many times first: masks, lines and text are drawn in the finer pixels.

        Returns
        -------
        PIL.Image.Image
            RGB, ``scale`` times the size of the image.

        Raises
        ------
        TypeError, ValueError
            If there is no image, it has another size than that of the detections, or an option is not as above.
        """
        from lucid_maskrcnn.images import load_image
        from lucid_maskrcnn.visualization import draw_detections  # which imports Pillow

        source = self.image if image is None else image
        if source is None:
            raise ValueError("image must be given: these detections do not carry their image.")
        pixels = load_image(source)
        if pixels.shape[:2] != self.image_size:
            (height, width), (h, w) = self.image_size, pixels.shape[:2]
            raise ValueError(f"image must be of the detections' size, {height} × {width} pixels, got {h} × {w}.")
        choice("color_by", color_by, ("instance", "class"))
        scale = positive_int("scale", scale)
        found = self._on_host()
        keep = np.flatnonzero(host(found.scores) >= fraction("score_thresh", score_thresh))
        found = found[keep]
        return draw_detections(
            pixels,
            boxes=found.boxes,
            labels=found.labels,
            scores=found.scores,
            masks=found._masks_at(scale) if flag("masks", masks) else None,
            categories=self.categories,
            color_ids=found.labels if color_by == "class" else keep,
            show_boxes=flag("boxes", boxes),
            show_labels=flag("labels", labels),
            alpha=alpha,
            scale=scale,
        )

    def _masks_at(self, scale: int) -> CompressedMasks:
        """Return the masks in an image ``scale`` times as large, whose finer pixels they are pasted into."""
        boxes = as_tensor(host(self.boxes) * np.float32(scale), self.boxes)
        size = self.image_size[0] * scale, self.image_size[1] * scale
        return CompressedMasks.from_coco(self._replaced(boxes=boxes, image_size=size).to_rle(), size)

    def rows(self, limit: int | None = None) -> list[tuple[str, ...]]:
        """Return a table of the first ``limit`` detections: number, name, score, x1, y1, x2, y2."""
        top = self._on_host()[: optional(positive_int)("limit", limit)]
        columns = zip(top.names, host(top.scores).tolist(), host(top.boxes).tolist(), strict=True)
        return [
            (str(i), name, f"{score:.3f}", *(f"{x:.1f}" for x in box)) for i, (name, score, box) in enumerate(columns)
        ]

    def _summary(self) -> str:
        height, width = self.image_size
        return f"{len(self)} in {height} × {width} pixels, on {self.boxes.device}"

    def __repr__(self) -> str:
        limit = 5
        table = [_HEADINGS, *self.rows(limit)]
        lines = [f"Detections({self._summary()})", *(align_columns(table, left=(1,)) if len(self) else ())]
        if len(self) > limit:
            lines.append(f"… {len(self) - limit} more")
        return "\n  ".join(lines)

    def _repr_png_(self) -> bytes | None:
        if self.image is None:
            return None
        from lucid_maskrcnn.visualization import viewing_scale

        buffer = io.BytesIO()
        self.draw(scale=viewing_scale(self.image_size)).save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        limit = 10
        png = self._repr_png_()
        title = f"<p><b>Detections</b>: {self._summary()}</p>"
        if png is not None:
            return f'{title}<img src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
        head = "".join(f"<th>{c}</th>" for c in _HEADINGS)
        rows = ("".join(f"<td>{html.escape(printable(cell))}</td>" for cell in row) for row in self.rows(limit))
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        more = f"<p>… {len(self) - limit} more</p>" if len(self) > limit else ""
        return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _take(tensor: Tensor, rows: np.ndarray) -> Tensor:
    return as_tensor(host(tensor)[rows], tensor)


def _own(values: Any, device: Tensor | str, dtype: Any) -> Tensor:
    """Return a tensor that shares no memory with what a user gave."""
    made = as_tensor(values, device, dtype)
    given = host(values) if isinstance(values, Tensor) else values
    shares = made is values or np.may_share_memory(host(made), given)
    return as_tensor(host(made).copy(), made) if shares else made


# ------------------------------------------------------------------ arguments


def _checked_categories(categories: Any) -> CategoryNames | None:
    if categories is None or isinstance(categories, Mapping):
        label_names("categories", categories)
    return CategoryNames.of(categories)


def _checked_ids(category_ids: Any, labels: list[int]) -> dict[int, int]:
    """Return the user's category id of each label."""
    instance("category_ids", category_ids, Mapping, "a mapping of labels to category ids, such as {1: 0, 2: 7}")
    ids = {
        integer("a label of category_ids", label): integer(f"category_ids[{label!r}]", number)
        for label, number in category_ids.items()
    }
    missing = next((label for label in labels if label not in ids), None)
    if missing is not None:
        raise ValueError(f"category_ids must have an id for each label, got none for {missing}: {shown(category_ids)}.")
    return ids


def _checked_boxes(boxes: Any) -> np.ndarray:
    corners = finite_boxes("boxes", boxes)
    swapped = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    refuse_rows("boxes", corners, swapped, "has swapped corners: boxes are (x1, y1, x2, y2) with x1 ≤ x2 and y1 ≤ y2")
    return corners


def _checked_scores(scores: Any, num: int) -> Any:
    array = numeric_array("scores", scores, f"numbers of shape ({num},), one for each box", shape=(num,))
    refuse_rows("scores", array, ~((array >= 0) & (array <= 1)), "must be from 0 to 1")
    return scores if isinstance(scores, Tensor) else array


def _checked_labels(labels: Any, num: int) -> Any:
    wanted = f"integers of shape ({num},), one for each box"
    array = numeric_array("labels", labels, wanted, kinds="iu", shape=(num,))
    wrong = (array < 1) | (array >= 2**31)
    refuse_rows("labels", array, wrong, "must be a label from 1 on; 0 is background, which is never returned")
    return labels if isinstance(labels, Tensor) else array


def _checked_probs(probs: Any, num: int) -> Any:
    array = numeric_array("mask_probs", probs, f"numbers of shape ({num}, M, M)", shape=(num, None, None))
    if array.shape == (0, 0, 0):  # given as [], which has no cells
        return np.zeros((0, 1, 1), np.float32)
    if array.shape[1] != array.shape[2] or not array.shape[1]:
        raise ValueError(f"mask_probs must be numbers of shape ({num}, M, M), got {described(array)}.")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
        row = int((~((array >= 0) & (array <= 1))).any((1, 2)).argmax())
        raise ValueError(
            f"mask_probs[{row}] must be probabilities from 0 to 1, got {array[row].min():g} to {array[row].max():g}: "
            "apply a sigmoid to logits."
        )
    return probs if isinstance(probs, Tensor) else array


def _checked_image(image: Any, size: tuple[int, int]) -> np.ndarray:
    wanted = f"a uint8 array of shape ({size[0]}, {size[1]}, 3), as image_size says"
    array = numeric_array("image", image, wanted, kinds="biuf", shape=(*size, 3))
    if array.dtype != np.uint8:
        raise TypeError(f"image must be {wanted}, got {described(array)}.")
    return array
