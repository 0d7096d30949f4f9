"""What ``predict`` returns for one image.

Shapes: n detections, M × M cells of the mask head, H × W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.array_arguments import numeric_array, row_numbers
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.config import VIEW_SCORE, CategoryNames
from lucid_maskrcnn.masks import CompressedMasks, mask_nms
from lucid_maskrcnn.ops import as_tensor, batched_nms, evaluate, host, mask_patches, paste_masks
from lucid_maskrcnn.reprs import described
from lucid_maskrcnn.streams import in_notebook
from lucid_maskrcnn.text_tables import align_columns
from lucid_maskrcnn.user_warnings import warn_user
from lucid_maskrcnn.validators import (
    choice,
    class_labels,
    flag,
    fraction,
    instance,
    optional,
    positive_int,
    sequence,
)
from lucid_maskrcnn.validators import image_size as checked_size

from .detection_arguments import (
    checked_areas,
    checked_boxes,
    checked_categories,
    checked_image,
    checked_labels,
    checked_masks,
    checked_probs,
    checked_scores,
)
from .exports import DetectionExports, check_dense
from .made_of_coco import from_coco_results
from .notebook_html import detections_html, scores_below

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Detections"]

_KEYS = ("boxes", "scores", "labels", "masks")
_FIXED = ("boxes", "scores", "labels", "mask_probs", "masks", "image_size", "mask_thresh", "snap_masks")
_COLUMNS = ("boxes", "scores", "labels", "mask_probs")  # tensors with a row for each detection
_HEADINGS = ("#", "name", "score", "x1", "y1", "x2", "y2")


@answers_wrong_calls
class Detections(DetectionExports, Mapping[str, Tensor]):
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
    mask_probs : Tensor or array of shape (n, M, M), float32, optional
        Probability of the object in each cell of its box, from 0 to 1.
    image_size : (height, width)
        Of the image. May be left out with ``masks``.
    masks : CompressedMasks, or what :meth:`CompressedMasks.of` takes, optional
        In place of ``mask_probs``: n masks of the size of the image.
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
        As given, but copied: tensors of the types above. What is overwritten later does not change them. ``mask_probs``
        is None for detections that were made of masks.
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

    _compressed: CompressedMasks | None = None
    _masks: Tensor | None = None

    def __init__(
        self,
        boxes: Any,
        scores: Any,
        labels: Any,
        mask_probs: Any = None,
        image_size: Sequence[int] | None = None,
        *,
        masks: Any = None,
        categories: Mapping[int, str] | Sequence[Any] | None = None,
        mask_thresh: float = 0.5,
        snap_masks: bool = True,
        image: np.ndarray | None = None,
    ) -> None:
        given = (boxes, scores, labels, mask_probs)
        evaluate([values.data for values in given if isinstance(values, Tensor)])  # on gpu at once, not one by one
        corners = checked_boxes(boxes)
        num = len(corners)
        device = boxes if isinstance(boxes, Tensor) else "cpu"
        self.boxes = _own(boxes if isinstance(boxes, Tensor) else corners, device, np.float32)  # (n, 4)
        self.scores = _own(checked_scores(scores, num), device, np.float32)  # (n,)
        self.labels = _own(checked_labels(labels, num), device, np.int32)  # (n,)
        if mask_probs is None and masks is None:
            raise TypeError("mask_probs or masks must be given, got neither.")
        if mask_probs is not None and masks is not None:
            raise ValueError("mask_probs and masks exclude each other, got both.")
        if masks is not None:
            self._compressed = checked_masks(masks, num, image_size)
            self.mask_probs: Tensor | None = None
            self.image_size = self._compressed.image_size
        else:
            self.mask_probs = _own(checked_probs(mask_probs, num), device, np.float32)  # (n, M, M)
            self.image_size = checked_size("image_size", image_size)
        self.categories = checked_categories(categories)
        self.mask_thresh, self.snap_masks = fraction("mask_thresh", mask_thresh), flag("snap_masks", snap_masks)
        self.image = None if image is None else checked_image(image, self.image_size).copy()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but not what masks and exports are made of; ``image`` is checked."""
        if name in _FIXED and (name in self.__dict__ or name == "masks"):
            raise AttributeError(
                f"Detections do not change, and {name} cannot be assigned: select with found[rows] or found.filter(), "
                "or make new ones with Detections(...)."
            )
        if name == "image" and value is not None and "image" in self.__dict__:
            value = checked_image(value, self.image_size).copy()
        super().__setattr__(name, value)

    # -------------------------------------------------------------- made of other forms

    @classmethod
    def from_coco(cls, results: Any, image_size: Sequence[int], *, categories: Any = None) -> Self:
        """Make detections of COCO results, or of annotations.

        Parameters
        ----------
        results : sequence of mapping
            Of one image: each with ``"category_id"`` and ``"segmentation"`` (run lengths or polygons), and mostly with
            ``"bbox"`` (by default that around the mask) and ``"score"`` (by default 1, as annotations have none).
        image_size : (height, width)
            Of the image.
        categories : mapping of int to str, sequence of (label, name, id), or COCO's list of categories, optional
            ``model.categories`` and ``dataset.categories`` have the label of each category id. COCO's list of
            ``{"id", "name"}`` gets labels 1, 2, … in the order of the ids, as in a data set. By default a category id
            is the label.

        Returns
        -------
        Detections
            In the order given.

        Raises
        ------
        TypeError, ValueError
            If ``results`` are not as above or of several images, or a category id has no label. The message names the
            row.
        """
        columns, known = from_coco_results(results, checked_size("image_size", image_size), categories)
        return cls(**columns, categories=known)

    @classmethod
    def from_masks(cls, masks: Any, *, scores: Any = None, labels: Any = None, categories: Any = None) -> Self:
        """Make detections of masks; their boxes are the tightest around the pixels.

        Parameters
        ----------
        masks : CompressedMasks, array or Tensor of shape (n, H, W), or label image of shape (H, W)
            bool, or zeros and ones. A label image has integers: 0 is background, each other number an object, in
            ascending order.
        scores : Tensor or array of shape (n,), optional
            By default 1.
        labels : Tensor or array of shape (n,), int, optional
            By default 1.
        categories
            As for :class:`Detections`.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above.
        """
        if not isinstance(masks, CompressedMasks):
            wanted = "CompressedMasks, zeros and ones of shape (n, H, W), or a label image of integers, (H, W)"
            array = numeric_array("masks", masks, wanted, kinds="biuf")
            if array.ndim == 2 and array.dtype.kind in "iu":
                masks = CompressedMasks.from_labels(array)
            elif array.ndim == 3:
                masks = CompressedMasks.from_dense(array)
            else:
                raise ValueError(f"masks must be {wanted}, got {array.dtype} of shape {array.shape}.")
        num = len(masks)
        return cls(
            masks.boxes,
            np.ones(num, np.float32) if scores is None else scores,
            np.ones(num, np.int32) if labels is None else labels,
            masks=masks,
            categories=categories,
        )

    @classmethod
    def merge(cls, parts: Sequence[Detections]) -> Detections:
        """Return the detections of several, of the same image, the best first.

        Nothing is left out: :meth:`nms` removes what was found twice.

        Parameters
        ----------
        parts : sequence of Detections
            At least one, of one image size, whose categories do not contradict each other.

        Returns
        -------
        Detections
            On the device of the first, with its image; those of equal score in the order given.

        Raises
        ------
        TypeError, ValueError
            If ``parts`` are not as above.
        """
        parts = sequence("parts", parts, lambda name, part: instance(name, part, Detections, "Detections"), minimum=1)
        first = parts[0]
        for i, part in enumerate(parts):
            if part.image_size != first.image_size:
                sizes = f"{first.image_size} and parts[{i}] with {part.image_size}"
                raise ValueError(f"parts must be of one image size, got parts[0] with {sizes}.")
        columns = {name: _joined([getattr(part, name) for part in parts], first.boxes) for name in _COLUMNS[:3]}
        order = np.argsort(-host(columns["scores"]), kind="stable")
        shared: dict[str, Any] = {"categories": _joined_categories(parts)}
        shared["image"] = next((part.image for part in parts if part.image is not None), None)
        if len({part._kind_of_masks() for part in parts}) == 1 and first.mask_probs is not None:
            columns["mask_probs"] = _joined([part.mask_probs for part in parts], first.boxes)
            return first._replaced(**columns, **shared)[order]
        masks = CompressedMasks.concatenated([part.compressed_masks for part in parts])
        return first._replaced(**columns, **shared, mask_probs=None, _compressed=masks)[order]

    def _kind_of_masks(self) -> Any:
        """Return what masks in boxes must have in common to stand in one tensor."""
        probs = self.mask_probs
        return None if probs is None else (tuple(probs.shape[1:]), self.mask_thresh, self.snap_masks)

    # -------------------------------------------------------------- the mapping and the list

    @property
    def masks(self) -> Tensor:
        """Masks of the size of the image, (n, H, W) bool.

        They are pasted when first asked for, and kept: n · H · W bytes, 97 MB for 100 objects in
        800 × 1216 pixels. All other methods look at one mask at a time, in its box.

        Raises
        ------
        ValueError
            If they would take more than 4 GB.
        """
        if self._masks is None:
            check_dense(len(self), self.image_size)
            if self.mask_probs is None:
                self._masks = as_tensor(self.compressed_masks.to_dense(), self.boxes)
            else:
                self._masks = paste_masks(
                    self.mask_probs, self.boxes, self.image_size, self.mask_thresh, snap=self.snap_masks
                )
            evaluate([self._masks.data])  # on gpu; any thread may read them later
        return self._masks

    @property
    def compressed_masks(self) -> CompressedMasks:
        """The masks as runs of pixels, a few hundred bytes each, on the host; made when first asked for, and kept."""
        if self._compressed is None:
            assert self.mask_probs is not None
            patches = mask_patches(self.mask_probs, self.boxes, self.image_size, self.mask_thresh, snap=self.snap_masks)
            self._compressed = CompressedMasks.from_patches(patches, self.image_size)
        return self._compressed

    @property
    def areas(self) -> np.ndarray:
        """Number of pixels of each mask, (n,) int64."""
        return self.compressed_masks.areas

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
        chosen = {name: _take(getattr(self, name), rows) for name in _COLUMNS if getattr(self, name) is not None}
        if self._compressed is not None:
            chosen["_compressed"] = self._compressed[rows]
        return self._replaced(**chosen)

    def _replaced(self, **changes: Any) -> Detections:
        """Return the detections with other attributes, which need no checks."""
        other = object.__new__(Detections)
        kept = self.__dict__ if self.mask_probs is None else {**self.__dict__, "_compressed": None}
        other.__dict__ = {**kept, "_masks": None, **changes}
        return other

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in _KEYS

    def __getstate__(self) -> dict[str, Any]:
        made_again = {"_masks": None} if self.mask_probs is None else {"_masks": None, "_compressed": None}
        return {**self.__dict__, **made_again}

    # The comparison of a mapping would compare tensors, whose answer is a tensor: identity is meant.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # -------------------------------------------------------------- chosen

    def filter(
        self,
        *,
        score_thresh: float | None = None,
        classes: Any = None,
        min_area: float | None = None,
        max_area: float | None = None,
        exclude_edge: bool = False,
    ) -> Detections:
        """Return the detections that pass all of these.

        Parameters
        ----------
        score_thresh : float, optional
            Detections have a higher score, as in ``predict``.
        classes : str, int, or sequence of them, optional
            Names or labels.
        min_area, max_area : float, optional
            Pixels that a mask has at least and at most.
        exclude_edge : bool
            Leave out objects whose mask has a pixel at the edge of the image.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or there is no such class.
        """
        keep = np.ones(len(self), bool)
        if score_thresh is not None:
            keep &= host(self.scores) > np.float32(fraction("score_thresh", score_thresh))
        if classes is not None:
            keep &= np.isin(host(self.labels), class_labels("classes", classes, self.categories))
        bounds = checked_areas(min_area, max_area)
        if "min_area" in bounds:
            keep &= self.areas >= bounds["min_area"]
        if "max_area" in bounds:
            keep &= self.areas <= bounds["max_area"]
        if flag("exclude_edge", exclude_edge):
            keep &= ~self.compressed_masks.touch_edge
        return self[keep]

    def nms(self, nms_thresh: float, *, class_agnostic: bool = False, masks: bool = False) -> Detections:
        """Return the detections without those that overlap a better one too much: non-maximum suppression.

        Parameters
        ----------
        nms_thresh : float
            Detections with a greater IoU are suppressed.
        class_agnostic : bool
            Whether detections of different classes suppress each other, too.
        masks : bool
            Whether the IoU is that of the masks instead of the boxes.

        Returns
        -------
        Detections
            In their order here.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above.
        """
        nms_thresh = fraction("nms_thresh", nms_thresh)
        groups = np.zeros(len(self), np.int32) if flag("class_agnostic", class_agnostic) else host(self.labels)
        if flag("masks", masks):
            keep = mask_nms(self.compressed_masks, host(self.scores), nms_thresh, groups)
        else:
            boxes, scores = as_tensor(host(self.boxes), "cpu"), as_tensor(host(self.scores), "cpu")
            keep = host(batched_nms(boxes, scores, as_tensor(groups, "cpu"), nms_thresh))
        return self[np.sort(keep)]

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
        moved = {name: as_tensor(getattr(self, name), "cpu") for name in _COLUMNS if getattr(self, name) is not None}
        found = self._replaced(**moved)
        found._compressed = self._compressed
        return found

    # -------------------------------------------------------------- drawings and tables

    def draw(
        self,
        image: Any = None,
        *,
        score_thresh: float = VIEW_SCORE,
        color_by: Literal["instance", "class"] = "instance",
        masks: bool = True,
        boxes: bool = True,
        labels: bool = True,
        alpha: float = 0.35,
        scale: int | None = None,
        palette: Any = None,
        line_width: float | None = None,
        font: Any = None,
        font_size: int | None = None,
    ) -> Image.Image:
        """Draw the detections on the image.

        The same picture as that of :meth:`show`, of a notebook and of the command line. Captions are name and score;
        they cover no object and no other caption, see :func:`lucid_maskrcnn.visualization.draw_detections`.

        Parameters
        ----------
        image : path, PIL image or uint8 array of shape (H, W, 3), optional
            By default the image that the detections carry.
        score_thresh : float
            Detections with a lower score are not drawn, by default those below 0.5; 0 draws all.
        color_by : {"instance", "class"}
            Whether each object has its own color or each label. The n-th detection, or label n, has the same color in
            every image and every run, unless that would vanish in the image.
        masks, boxes, labels : bool
            What to draw; labels are the captions.
        alpha : float
            Opacity of the masks, from 0 (outlines only) to 1.
        scale : int, optional
            Enlarge the image so many times first: masks, lines and text are drawn in the finer pixels. By default a
            small image is enlarged for the screen (:func:`lucid_maskrcnn.visualization.viewing_scale`); 1 keeps
            the image's own size.
        palette : color, or sequence of colors, optional
            Your own: ``"yellow"``, ``["#ff8800", (0, 160, 255)]``. They follow each other by instance, or by class
            from label 1 on.
        line_width : float, optional
            Width of outlines in pixels of the result; by default it follows the size of image and objects.
        font : str or Path, optional
            A TrueType or OpenType file for the captions.
        font_size : int, optional
            Height of letters in pixels of the result; by default it follows the size of image and objects.

        Returns
        -------
        PIL.Image.Image
            RGB, ``scale`` times the size of the image.

        Raises
        ------
        TypeError, ValueError
            If there is no image, it has another size than that of the detections, or an option is not as above.

        Warns
        -----
        UserWarning
            If there are detections and no score reaches ``score_thresh``, or no font has a letter of a name.
        """
        from lucid_maskrcnn.visualization import class_colors, draw_detections, viewing_scale  # which imports Pillow

        pixels = self._pixels(image)
        choice("color_by", color_by, ("instance", "class"))
        scale = viewing_scale(self.image_size) if scale is None else positive_int("scale", scale)
        found = self._on_host()
        keep = self._seen(fraction("score_thresh", score_thresh))
        if len(self) and not len(keep):
            best = f"{host(self.scores).max():.3g}"
            warn_user(
                f"No detection is drawn: score_thresh is {score_thresh:g}, and the best of {len(self)} has {best}."
            )
        found = found[keep]
        return draw_detections(
            pixels,
            boxes=found.boxes,
            labels=found.labels,
            scores=found.scores,
            masks=found._masks_at(scale) if flag("masks", masks) else None,
            categories=self.categories,
            color_ids=class_colors(found.labels, palette) if color_by == "class" else keep,
            show_boxes=flag("boxes", boxes),
            show_labels=flag("labels", labels),
            alpha=alpha,
            scale=scale,
            palette=palette,
            line_width=line_width,
            font=font,
            font_size=font_size,
        )

    def _seen(self, score_thresh: float) -> np.ndarray:
        """Return the rows of the detections that are drawn, the best first: they lie on top."""
        scores = host(self.scores)
        rows = np.flatnonzero(scores >= score_thresh)
        return rows[np.argsort(-scores[rows], kind="stable")]

    def _masks_at(self, scale: int) -> CompressedMasks:
        """Return the masks in an image ``scale`` times as large, if they are pasted into its finer pixels."""
        if self.mask_probs is None:
            return self.compressed_masks
        size = self.image_size[0] * scale, self.image_size[1] * scale
        boxes = as_tensor(host(self.boxes) * np.float32(scale), self.boxes)
        return self._replaced(boxes=boxes, image_size=size).compressed_masks

    def show(self, image: Any = None, **options: Any) -> None:
        """Show :meth:`draw`'s picture: in a notebook as the output of the cell, else in the program for images.

        Parameters
        ----------
        image, **options
            As for :meth:`draw`.

        Raises
        ------
        TypeError, ValueError
            As :meth:`draw`.
        RuntimeError
            If there is no program that shows images, such as on a server.
        """
        drawn = self.draw(image, **options)
        if in_notebook():
            from IPython.display import display

            display(drawn)
            return
        from PIL import ImageShow

        if not ImageShow.show(drawn, title="Detections"):
            raise RuntimeError(
                "There is no program here that shows images: write the drawing with save('drawing.png')."
            )

    def rows(self, limit: int | None = None) -> list[tuple[str, ...]]:
        """Return a table of the first ``limit`` detections: number, name, score, x1, y1, x2, y2."""
        top = self._on_host()[: optional(positive_int)("limit", limit)]
        columns = zip(top.names, host(top.scores).tolist(), host(top.boxes).tolist(), strict=True)
        return [
            (str(i), name, f"{score:.3f}", *(f"{x:.1f}" for x in box)) for i, (name, score, box) in enumerate(columns)
        ]

    @property
    def summary(self) -> str:
        """How many there are, the size of the image, and the device, in words."""
        height, width = self.image_size
        return f"{len(self)} in {height} × {width} pixels, on {self.boxes.device}"

    @described
    def __repr__(self) -> str:
        limit = 5
        table = [_HEADINGS, *self.rows(limit)]
        lines = [f"Detections({self.summary})", *(align_columns(table, left=(1,)) if len(self) else ())]
        if len(self) > limit:
            lines.append(f"… {len(self) - limit} more")
        low = scores_below(self)
        return "\n  ".join([*lines, *([low] if low else [])])

    def _repr_html_(self) -> str:
        return detections_html(self, _HEADINGS)


def _joined(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    return as_tensor(np.concatenate([host(tensor) for tensor in tensors]), like)


def _joined_categories(parts: Sequence[Detections]) -> CategoryNames | None:
    """Return the categories of all, which must not contradict each other."""
    rows: dict[int, tuple[str, int]] = {}
    for i, part in enumerate(parts):
        known = CategoryNames({}) if part.categories is None else part.categories
        for label, name in known.items():
            row = name, known.ids[label]
            if rows.setdefault(label, row) != row:
                raise ValueError(
                    f"parts must have the same categories, got label {label} as {rows[label]} and in parts[{i}] as "
                    f"{row} (name, id)."
                )
    return CategoryNames.of([(label, *row) for label, row in rows.items()]) if rows else None


def _take(tensor: Tensor, rows: np.ndarray) -> Tensor:
    return as_tensor(host(tensor)[rows], tensor)


def _own(values: Any, device: Tensor | str, dtype: Any) -> Tensor:
    """Return a tensor that shares no memory with what a user gave."""
    made = as_tensor(values, device, dtype)
    given = host(values) if isinstance(values, Tensor) else values
    shares = made is values or np.may_share_memory(host(made), given)
    return as_tensor(host(made).copy(), made) if shares else made
