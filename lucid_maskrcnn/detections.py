"""What ``predict`` returns for one image.

Shapes: n detections, M × M the resolution of the mask head, H × W the image.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.annotation_formats.coco import make_results
from lucid_maskrcnn.atomic import write_json
from lucid_maskrcnn.masks import encode_rle, trace_polygons
from lucid_maskrcnn.ops import as_tensor, host, paste_masks
from lucid_maskrcnn.text_tables import align_columns

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Detections"]

_KEYS = ("boxes", "scores", "labels", "masks")
_ROWS = ("boxes", "scores", "labels", "mask_probs")  # the constructor's arguments: one row a detection,
_COMMON = ("image_size", "categories", "mask_thresh", "snap_masks", "image")  # and of all of them


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
        Corners (x1, y1, x2, y2) in pixels of the image. The other tensors follow to its device.
    scores : Tensor or array of shape (n,), float32
    labels : Tensor or array of shape (n,), int32
    mask_probs : Tensor or array of shape (n, M, M), float32
        Probability of the object in each cell of its box.
    image_size : tuple of int
        Height and width of the image.
    categories : mapping of int to str, optional
        Names of the labels.
    mask_thresh : float
        A pixel belongs to the mask where its probability is above this.
    snap_masks : bool
        Whether masks are pasted as torchvision or as detectron2 does, see
        :func:`lucid_maskrcnn.ops.paste_masks`.
    image : uint8 array of shape (H, W, 3), optional
        The picture itself: then ``draw`` needs none, and notebooks show it.

    Attributes
    ----------
    boxes, scores, labels, mask_probs, image_size, categories, mask_thresh, snap_masks, image
        As given; tensors in the types above.

    Raises
    ------
    ValueError
        If a shape, the size or the threshold is not as above.

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
        categories: Mapping[int, str] | None = None,
        mask_thresh: float = 0.5,
        snap_masks: bool = True,
        image: np.ndarray | None = None,
    ) -> None:
        device = boxes if isinstance(boxes, Tensor) else "cpu"
        self.boxes = as_tensor(boxes, device, np.float32)  # (n, 4)
        self.scores = as_tensor(scores, device, np.float32)  # (n,)
        self.labels = as_tensor(labels, device, np.int32)  # (n,)
        self.mask_probs = as_tensor(mask_probs, device, np.float32)  # (n, M, M)
        self.image_size = _checked_size(image_size)
        self.categories = categories
        self.mask_thresh, self.snap_masks = float(mask_thresh), snap_masks
        self.image = None if image is None else np.asarray(image)
        self._masks: Tensor | None = None
        self._check()

    def _check(self) -> None:
        n = self.boxes.shape[0] if self.boxes.ndim else 0
        side = self.mask_probs.shape[-1] if self.mask_probs.ndim else 0
        shapes = {"boxes": (n, 4), "scores": (n,), "labels": (n,), "mask_probs": (n, side, side)}
        for name, wanted in shapes.items():
            shape = tuple(getattr(self, name).shape)
            if shape != wanted:
                raise ValueError(f"{name} must have shape {wanted} beside {n} boxes, got {shape}.")
        if not 0 <= self.mask_thresh <= 1:
            raise ValueError(f"mask_thresh must be between 0 and 1, got {self.mask_thresh}.")
        if self.image is None:
            return
        height, width = self.image_size
        if self.image.shape != (height, width, 3) or self.image.dtype != np.uint8:
            raise ValueError(
                f"image must be a uint8 array of shape ({height}, {width}, 3), as image_size says, "
                f"got {self.image.dtype} of shape {self.image.shape}."
            )

    # -------------------------------------------------------------- the mapping and the list

    @property
    def masks(self) -> Tensor:
        """Masks at the size of the image, (n, H, W) bool.

        They are pasted when first asked for, and kept: n · H · W bytes, 97 MB for 100 objects in
        800 × 1216 pixels. All other methods do without them, one object at a time.
        """
        if self._masks is None:
            self._masks = self._pasted()
        return self._masks

    @property
    def names(self) -> list[str]:
        """Category names of the detections; ``"class 7"`` for a label without one."""
        categories = self.categories or {}
        return [categories.get(label, f"class {label}") for label in host(self.labels).tolist()]

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: int | slice | Sequence[int] | np.ndarray | Tensor) -> Detections: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in _KEYS:
                raise KeyError(f"Detections have no {key!r}: the keys are {', '.join(_KEYS)}.")
            return getattr(self, key)
        rows = self._rows(key)
        return self._replaced(**{name: _take(getattr(self, name), rows) for name in _ROWS})

    def _replaced(self, **changes: Any) -> Detections:
        """Return the detections with other values for some of the constructor's arguments."""
        return Detections(**{name: getattr(self, name) for name in (*_ROWS, *_COMMON)} | changes)

    def _rows(self, key: Any) -> np.ndarray:
        """Turn any index into row numbers, which both devices understand alike."""
        n = len(self)
        if isinstance(key, slice):
            return np.arange(n)[key]
        index = host(key) if isinstance(key, Tensor) else np.asarray(key)
        if index.dtype == bool:
            if index.shape != (n,):
                raise ValueError(f"A bool index must have one value a detection, ({n},), got {index.shape}.")
            return np.flatnonzero(index)
        if index.ndim > 1 or (index.size and index.dtype.kind not in "iu"):
            raise TypeError(
                f"Detections are indexed by a key, an integer, a slice, a bool mask or a list of integers, got {key!r}."
            )
        rows = index.reshape(-1).astype(np.int64)
        if ((rows < -n) | (rows >= n)).any():
            raise IndexError(f"Index {key!r} is out of range: there are {n} detections.")
        return rows

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __contains__(self, key: object) -> bool:
        return key in _KEYS

    # Comparing tensors element by element is no answer to "the same?".
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # -------------------------------------------------------------- other forms

    def clipped(self) -> Detections:
        """Return the detections with their boxes clipped to the image, without those that have no area then."""
        height, width = self.image_size
        boxes = np.clip(host(self.boxes), 0, np.array([width, height, width, height], np.float32))
        inside = self._replaced(boxes=as_tensor(boxes, self.boxes))
        return inside[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]

    def numpy(self) -> dict[str, np.ndarray]:
        """Return the four tensors as NumPy arrays; on cpu they share the tensors' memory."""
        return {key: host(self[key]) for key in _KEYS}

    def _mask(self, i: int) -> np.ndarray:
        """Return the mask of detection ``i``, (H, W) bool, without pasting the others."""
        if self._masks is not None:
            return host(self._masks)[i]
        return host(self[i]._pasted())[0]

    def _pasted(self) -> Tensor:
        return paste_masks(self.mask_probs, self.boxes, self.image_size, self.mask_thresh, snap=self.snap_masks)

    def enlarged(self, scale: int) -> Detections:
        """Return the detections of the same picture, ``scale`` times as large."""
        if scale == 1:
            return self
        return self._replaced(
            boxes=as_tensor(host(self.boxes) * np.float32(scale), self.boxes),
            image_size=[n * scale for n in self.image_size],
            image=None,
        )

    def to_rle(self) -> list[dict[str, Any]]:
        """Return each mask as a compressed COCO run-length encoding, ``{"size", "counts"}``."""
        return [encode_rle(self._mask(i)) for i in range(len(self))]

    def to_polygons(self) -> list[list[list[float]]]:
        """Return each mask as COCO polygons.

        Returns
        -------
        list of list of list of float
            For each detection one ring ``[x, y, x, y, ...]`` for each part of its mask, clockwise
            along the edges of its pixels; none for an empty mask. COCO's polygons know no holes,
            so holes come out filled: :meth:`to_rle` keeps them. Parts that touch at a corner
            only are separate parts.
        """
        return [trace_polygons(self._mask(i)) for i in range(len(self))]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the detections as COCO results.

        Parameters
        ----------
        image_id : int
            The image's id in the ground truth.

        Returns
        -------
        list of dict
            ``image_id``, ``category_id`` (the label), ``bbox`` (x, y, width, height), ``score``
            and ``segmentation`` (compressed run lengths), for ``json.dump`` and pycocotools'
            ``loadRes``.
        """
        return make_results(
            image_id=image_id,
            category_ids=host(self.labels).tolist(),
            boxes=host(self.boxes),
            scores=host(self.scores).tolist(),
            segmentations=self.to_rle(),
        )

    def to_json(self, path: str | Path, image_id: int) -> None:
        """Write :meth:`to_coco` to a file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            An existing file is replaced, at the last moment.
        image_id : int
            The image's id in the ground truth.
        """
        write_json(path, self.to_coco(image_id))

    # -------------------------------------------------------------- to look at

    def draw(self, image: Any = None, **options: Any) -> Image.Image:
        """Draw the detections on the picture.

        Parameters
        ----------
        image : path, PIL image or uint8 array of shape (H, W, 3), optional
            By default the picture the detections carry.
        **options
            Those of :func:`lucid_maskrcnn.visualization.draw_detections`.

        Returns
        -------
        PIL.Image.Image
            RGB, of the picture's own size.

        Raises
        ------
        ValueError
            If there is no picture, or it has another size than the detections' image.
        """
        from lucid_maskrcnn.visualization import draw_detections  # Pillow only where pictures are made

        if image is None and self.image is None:
            raise ValueError("image must be given: these detections do not carry their picture.")
        return draw_detections(self.image if image is None else image, self, **options)

    def rows(self, limit: int | None = None) -> list[tuple[str, ...]]:
        """Return a table of the first ``limit`` detections: number, name, score, x1, y1, x2, y2."""
        top = self[:limit]
        columns = zip(top.names, host(top.scores).tolist(), host(top.boxes).tolist(), strict=True)
        return [
            (str(i), name, f"{score:.3f}", *(f"{x:.1f}" for x in box)) for i, (name, score, box) in enumerate(columns)
        ]

    def _summary(self) -> str:
        height, width = self.image_size
        return f"{len(self)} in {height} × {width} pixels, on {self.boxes.device}"

    def __repr__(self) -> str:
        shown = 5
        table = [("#", "name", "score", "x1", "y1", "x2", "y2"), *self.rows(shown)]
        lines = [f"Detections({self._summary()})", *(align_columns(table, left=(1,)) if len(self) else ())]
        if len(self) > shown:
            lines.append(f"… {len(self) - shown} more")
        return "\n  ".join(lines)

    def _repr_png_(self) -> bytes | None:
        if self.image is None:
            return None
        from lucid_maskrcnn.visualization import viewing_scale

        buffer = io.BytesIO()
        self.draw(scale=viewing_scale(self.image_size)).save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        shown = 10
        picture = self._repr_png_()
        title = f"<p><b>Detections</b>: {self._summary()}</p>"
        if picture is not None:
            return f'{title}<img src="data:image/png;base64,{base64.b64encode(picture).decode("ascii")}">'
        head = "".join(f"<th>{c}</th>" for c in ("#", "name", "score", "x1", "y1", "x2", "y2"))
        rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows(shown))
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        more = f"<p>… {len(self) - shown} more</p>" if len(self) > shown else ""
        return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _checked_size(size: Sequence[int]) -> tuple[int, int]:
    try:
        height, width = (int(n) for n in size)
    except (TypeError, ValueError):
        raise ValueError(f"image_size must be (height, width), got {size!r}.") from None
    if height < 1 or width < 1:
        raise ValueError(f"image_size must be (height, width) of at least one pixel, got {size!r}.")
    return height, width


def _take(tensor: Tensor, rows: np.ndarray) -> Tensor:
    return as_tensor(host(tensor)[rows], tensor)
