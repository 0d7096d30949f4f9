"""Detections as data of other forms: NumPy, COCO's results, and what other tools read.

Shapes: n detections, H × W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.annotation_formats.coco import make_results
from lucid_maskrcnn.annotation_formats.geojson import make_feature_collection
from lucid_maskrcnn.annotation_formats.label_images import labels_of_masks
from lucid_maskrcnn.annotation_formats.labelme import make_labelme
from lucid_maskrcnn.annotation_formats.yolo import make_yolo
from lucid_maskrcnn.atomic import write_json
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.config import CategoryNames
from lucid_maskrcnn.masks import CompressedMasks, trace_parts
from lucid_maskrcnn.masks.overlaps import outer_boxes
from lucid_maskrcnn.masks.parts import placed_runs
from lucid_maskrcnn.masks.rings import boundary_rings
from lucid_maskrcnn.measure import measure_objects
from lucid_maskrcnn.ops import host
from lucid_maskrcnn.validators import flag, integer, non_negative_int, text
from lucid_maskrcnn.validators import path as checked_path
from lucid_maskrcnn.version import __version__

from .detection_arguments import checked_category_ids
from .saving import save_detections

if TYPE_CHECKING:
    import pandas
    import supervision

__all__ = ["DetectionExports", "check_dense"]

_MOST_DENSE = 4 << 30  # bytes of masks in the size of the image


def check_dense(num: int, image_size: tuple[int, int]) -> None:
    """Refuse to make masks in the size of the image that would take more than 4 GB, with what takes less."""
    height, width = image_size
    if num * height * width > _MOST_DENSE:
        raise ValueError(
            f"masks of {num} objects in {height} × {width} pixels would take {num * height * width / 1e9:.1f} GB: "
            "compressed_masks, to_rle(), to_label_image() and crops() take less."
        )


@answers_wrong_calls
class DetectionExports:
    """What :class:`Detections` can be turned into. In every form the number of an object is its row + 1.

    The attributes are those of :class:`Detections`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_size: tuple[int, int]
    categories: CategoryNames | None
    image: np.ndarray | None

    @property
    def masks(self) -> Tensor:
        """Masks of the size of the image, (n, H, W) bool."""
        raise NotImplementedError

    @property
    def compressed_masks(self) -> CompressedMasks:
        """The masks as runs of pixels."""
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        """Category names of the detections; ``"class 7"`` for a label without one."""
        categories: Mapping[int, str] = self.categories or {}
        return [categories.get(label, f"class {label}") for label in host(self.labels).tolist()]

    @property
    def ids(self) -> np.ndarray:
        """Numbers of the detections, 1 to n, (n,) int64: their ids in everything that is exported from these."""
        return np.arange(1, self.boxes.shape[0] + 1)

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
            chosen = checked_category_ids(given, labels)
            return [chosen[label] for label in labels]
        ids = self.categories.ids if self.categories else {}
        for label in labels:
            if label not in ids and label in ids.values():
                raise ValueError(
                    f"Label {label} has no category, and {label} is the id of another one: give the detections "
                    "categories with that label, or pass category_ids."
                )
        return [ids.get(label, label) for label in labels]

    def numpy(self) -> dict[str, np.ndarray]:
        """Return the four tensors as NumPy arrays of their own: what is written into them changes nothing here."""
        check_dense(len(self.ids), self.image_size)
        columns = {key: host(getattr(self, key)).copy() for key in ("boxes", "scores", "labels")}
        return {**columns, "masks": self.compressed_masks.to_dense()}

    def to_rle(self) -> list[dict[str, Any]]:
        """Return each mask as a compressed COCO run-length encoding, ``{"size", "counts"}``."""
        return self.compressed_masks.to_rle()

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
        rings: list[list[list[float]]] = [[] for _ in range(self.boxes.shape[0])]
        owner, *runs = placed_runs(self.compressed_masks)
        for ring in boundary_rings(owner, *runs):
            if ring.is_outer:
                rings[owner[ring.run]].append([float(value) for point in ring.points for value in point])
        return rings

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
        return make_results(
            image_id=integer("image_id", image_id),
            category_ids=self._category_ids(category_ids),
            boxes=host(self.boxes),
            scores=host(self.scores).tolist(),
            segmentations=self.to_rle(),
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

    # -------------------------------------------------------------- measurements

    def _table(self, **measured_in: Any) -> dict[str, Any]:
        """Return the columns of a table, a list of names and arrays of shape (n,)."""
        boxes = host(self.boxes)
        return {
            "id": self.ids,
            "label": host(self.labels).copy(),
            "name": self.names,
            "category_id": self.category_ids,
            "score": host(self.scores).copy(),
            **{name: boxes[:, i].copy() for i, name in enumerate(("x1", "y1", "x2", "y2"))},
            **measure_objects(self.compressed_masks, **measured_in),
        }

    def to_dataframe(self, *, image: Any = None, page: int | None = None, pixel_size: Any = None) -> pandas.DataFrame:
        """Return a table of the detections with measurements, one row each.

        Parameters
        ----------
        image : path, PIL image or array of shape (H, W) or (H, W, C), optional
            What intensities are measured in, unscaled: 16 bits stay 16 bits. Without it there are none; the image that
            detections carry is the network's copy of 8 bits, and is not taken.
        page : int, optional
            Of a file with several, counted from 0.
        pixel_size : number or (height, width), optional
            Of a pixel in µm. By default what the image's file says, if it does.

        Returns
        -------
        pandas.DataFrame
            ``id`` (row + 1, as in every export), ``label``, ``name``, ``category_id``, ``score``, the box ``x1 y1 x2
            y2``, and the measurements of the mask: ``area`` in pixels, ``centroid_x``, ``centroid_y``,
            ``equivalent_diameter_area``, ``axis_major_length``, ``axis_minor_length``, ``eccentricity``,
            ``touches_edge``, with an image ``intensity_mean_0``, …, and with the size of a pixel ``area_um2`` and
            ``…_um``. They are described at :func:`lucid_maskrcnn.measure.measure_objects`.

        Raises
        ------
        ImportError
            If pandas is not installed.
        TypeError, ValueError
            If an argument is not as above, the image has another size than that of the detections, or a label has no
            category id.
        FileNotFoundError
            If there is no such image.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("A data frame needs pandas: pip install 'lucid-maskrcnn[tables]'.") from error
        return pandas.DataFrame(self._table(image=image, page=page, pixel_size=pixel_size))

    # -------------------------------------------------------------- what other tools read

    def to_label_image(self, *, dtype: Any = None) -> np.ndarray:
        """Return one channel with the id of the object that each pixel belongs to, 0 where there is none.

        Parameters
        ----------
        dtype : type of integers, optional
            By default uint16, or uint32 for more than 65535 objects: numbers never wrap.

        Returns
        -------
        ndarray of shape (H, W)
            Where masks overlap, the object with the better score lies on top; of equal ones, the one with the lower
            id. An object that lies under others, or is empty, may have no pixel.

        Raises
        ------
        TypeError, ValueError
            If ``dtype`` is no type of integers, or cannot hold the number of objects.
        """
        order = np.argsort(-host(self.scores), kind="stable")
        return labels_of_masks(self.compressed_masks, order=order, dtype=dtype)

    def to_geojson(
        self,
        *,
        object_type: Literal["detection", "annotation"] = "detection",
        image: Any = None,
        page: int | None = None,
        pixel_size: Any = None,
    ) -> dict[str, Any]:
        """Return the detections as a GeoJSON ``FeatureCollection``, as QuPath opens it.

        Parameters
        ----------
        object_type : {"detection", "annotation"}
            What QuPath makes of them: detections are many and fixed, annotations can be edited.
        image, page, pixel_size
            As for :meth:`to_dataframe`, for the measurements.

        Returns
        -------
        dict
            For ``json.dump``. Each feature has ``id``, a geometry along the edges of the mask's pixels with its holes,
            valid and of the mask's area, the name and color of its class, and measurements: ``id``, ``score``,
            and those of :meth:`to_dataframe`. Empty masks have no feature.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above.
        """
        return self._geojson(self._made_by(None), object_type, image=image, page=page, pixel_size=pixel_size)

    def _geojson(self, made_by: Mapping[str, str], object_type: Any, **measured_in: Any) -> dict[str, Any]:
        measured = measure_objects(self.compressed_masks, **measured_in)
        return make_feature_collection(
            self.compressed_masks,
            ids=self.ids.tolist(),
            names=self.names,
            colors=self._class_colors(),
            measurements={"id": self.ids, "score": host(self.scores), **measured},
            object_type=object_type,
            made_by=made_by,
        )

    def to_yolo(self) -> str:
        """Return the text of YOLO's labels: a line for each object, with its class and its outline.

        Returns
        -------
        str
            The class counts from 0: label - 1. Coordinates are fractions of the image's width and height. An outline
            goes along the edges of the mask's pixels; parts and holes are joined to it over bridges without area. Empty
            masks have no line. YOLO's lines have no score and no name; names are those of ``data.yaml``.
        """
        return make_yolo(trace_parts(self.compressed_masks), (host(self.labels) - 1).tolist(), self.image_size)

    def to_labelme(self, file_name: str) -> dict[str, Any]:
        """Return the content of LabelMe's JSON file.

        Parameters
        ----------
        file_name : str
            The image: its path, relative to the folder of the JSON file.

        Returns
        -------
        dict
            A shape for each part of each object, with the object's id as ``group_id``: polygons along the edges of the
            pixels, and masks for parts with holes. Empty masks have none.

        Raises
        ------
        TypeError, ValueError
            If ``file_name`` is no text.
        """
        return make_labelme(
            trace_parts(self.compressed_masks),
            self.names,
            self.image_size,
            file_name=text("file_name", file_name),
            ids=self.ids.tolist(),
            scores=host(self.scores).tolist(),
        )

    def _class_colors(self) -> list[tuple[int, int, int]]:
        from lucid_maskrcnn.visualization import color_of  # which imports Pillow

        return [color_of(label) for label in host(self.labels).tolist()]

    def _made_by(self, weights: Mapping[str, Any] | None) -> dict[str, str]:
        """Return what exports say of their origin."""
        made_by = {"software": f"lucid-maskrcnn {__version__}"}
        if weights is not None and weights.get("sha256"):
            made_by |= {"weights": str(weights.get("name")), "weights_sha256": str(weights["sha256"])}
        return made_by

    def to_supervision(self) -> supervision.Detections:
        """Return the detections for the annotators and trackers of supervision.

        Returns
        -------
        supervision.Detections
            ``xyxy``, ``mask``, ``confidence``, ``class_id`` (the labels, from 1 on), and in ``data`` ``class_name``,
            ``id`` and ``category_id``. Masks are an array, or beyond 4 GB a ``CompactMask``.

        Raises
        ------
        ImportError
            If supervision is not installed.
        ValueError
            If a label has no category id.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("This needs supervision: pip install 'lucid-maskrcnn[supervision]'.") from error
        masks = self.compressed_masks
        mask: Any = None
        if len(masks) * self.image_size[0] * self.image_size[1] > _MOST_DENSE:
            mask = supervision.CompactMask.from_coco_rle(masks.to_rle(), masks.boxes, self.image_size)
        else:
            mask = masks.to_dense()
        return supervision.Detections(
            xyxy=host(self.boxes).copy(),
            mask=mask,
            confidence=host(self.scores).copy(),
            class_id=host(self.labels).astype(np.int64),
            data={"class_name": np.array(self.names, object), "id": self.ids, "category_id": self.category_ids},
        )

    def crops(self, *, image: Any = None, padding: int = 0, masked: bool = False) -> list[np.ndarray]:
        """Return the part of the image around each object.

        Parameters
        ----------
        image : path, PIL image or array, optional
            As for :func:`~lucid_maskrcnn.images.load_image`. By default the image that the detections carry.
        padding : int
            Pixels around the object's box, as far as the image goes.
        masked : bool
            Whether to make everything black that is not of the object.

        Returns
        -------
        list of ndarray of shape (h, w, 3), uint8
            RGB, in the order of the ids. A crop holds the object's box and its mask; it has at least one pixel.

        Raises
        ------
        TypeError, ValueError
            If there is no image, it has another size than that of the detections, or an argument is not as above.
        """
        padding, masked = non_negative_int("padding", padding), flag("masked", masked)
        pixels = self._pixels(image)
        masks, found = self.compressed_masks, []
        for i, (rows, columns) in enumerate(self._regions(padding)):
            crop = pixels[rows, columns].copy()
            if masked:
                crop[~masks.decode_region(i, rows, columns)] = 0
            found.append(crop)
        return found

    def _pixels(self, image: Any) -> np.ndarray:
        from lucid_maskrcnn.images import load_image

        source = self.image if image is None else image
        if source is None:
            raise ValueError("image must be given: these detections do not carry their image.")
        pixels = load_image(source)
        if pixels.shape[:2] != self.image_size:
            (height, width), (h, w) = self.image_size, pixels.shape[:2]
            raise ValueError(f"image must be of the detections' size, {height} × {width} pixels, got {h} × {w}.")
        return pixels

    def _regions(self, padding: int) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns around each box and mask, within the image and of at least one pixel."""
        height, width = self.image_size
        outer = outer_boxes(host(self.boxes), self.compressed_masks)
        low, high = np.floor(outer[:, :2]) - padding, np.ceil(outer[:, 2:]) + padding
        low = low.clip(0, (width - 1, height - 1)).astype(np.int64)
        high = np.maximum(high.clip(0, (width, height)).astype(np.int64), low + 1)
        for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True):
            yield slice(top, bottom), slice(left, right)

    # -------------------------------------------------------------- files

    def save(self, path: str | Path, *, format: str | None = None, image: Any = None, **options: Any) -> None:
        """Write the detections to a file, whole or not at all; an existing one is replaced.

        Parameters
        ----------
        path : str or Path
            The file to write.
        format : str, optional
            One of those below; by default that of the suffix of ``path``.
        image : path, PIL image or array, optional
            The image. Drawings and crops need it, unless the detections carry theirs; tables and GeoJSON have
            intensities with it; COCO and LabelMe take its name from it.
        options
            Of the format.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, the suffix says no format, or the format has no such option.
        ImportError
            If the format needs a library that is not installed.
        OSError
            If the file cannot be written.

        Notes
        -----
        ================ ============== ===========================================================================
        format           suffix         options
        ================ ============== ===========================================================================
        ``drawing``      .png .jpg      those of :meth:`draw`
        ``label-image``  .tif           ``dtype``; by name also as .png, which holds 65535 objects
        ``csv``          .csv           ``page``, ``pixel_size``, as for :meth:`to_dataframe`
        ``geojson``      .geojson       ``object_type``, ``page``, ``pixel_size``, as for :meth:`to_geojson`
        ``imagej``       .zip           none
        ``yolo``         .txt           none
        ``coco``         .json          ``file_name`` of the image, ``image_id`` (by default 1)
        ``labelme``      by name: .json ``file_name`` of the image
        ``crops``        by name        ``padding``, ``masked``, as for :meth:`crops`; ``path`` is a folder
        ================ ============== ===========================================================================
        """
        save_detections(self, path, format=format, image=image, options=options)
