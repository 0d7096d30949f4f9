"""What the objects of a data set are like beside a model's settings, and what to set.

Sizes are the square root of a mask's area, as anchors are given by the sides of squares. "In the network" they are in
pixels of the network's input, after the image has been resized by the model's :class:`ImageConfig`.

Shapes: n objects of all images, crowds left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn.annotation_formats.coco import complete_annotation
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.config import BackboneConfig, ModelConfig, anchor_levels
from lucid_maskrcnn.plotting import INK, new_figure, plot_path, save_figure, style_axes
from lucid_maskrcnn.reprs import fields_repr
from lucid_maskrcnn.text_tables import align_columns, count_of
from lucid_maskrcnn.transforms import resized_size
from lucid_maskrcnn.validators import instance

__all__ = ["Suggestions", "suggest"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_GOOD_IOU = 0.5  # what an anchor should have with an object at least: the proposals are then moved onto it
_FEW = 0.05  # fraction of objects or images up to which nothing is said
_HELPS = 0.7  # a remedy leaves less than this fraction of the poor ones
_RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
_RARE = 0.01  # fraction of the images
_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@answers_wrong_calls
@dataclass(frozen=True, eq=False)
class Suggestions:
    """Numbers of a data set beside those of a model, and sentences on what to set.

    Attributes
    ----------
    num_images : int
        Images of the data set.
    sizes, network_sizes : ndarray of shape (n,)
        √area of each object, in pixels of its image and of the network's input.
    best_iou : ndarray of shape (n,)
        The IoU of each object's box with the anchor that fits best, if that lies at its center.
    objects_per_image : ndarray of shape (num_images,), int64
        Objects of each image.
    shrunk : int
        Images that ``max_size`` makes smaller than they should be.
    network_size : (height, width)
        The largest input of the network.
    memory : float or None
        Estimated GB that the activations of one such image take in training; None for a user's own backbone.
    categories : dict of str to int
        Images with objects of each category.
    anchor_sizes : tuple of float
        The model's: side of the anchors of each level, in pixels of the network's input.
    top_k : int
        The model's.
    sentences : tuple of str
        What to set; what is said first matters most.
    """

    __repr__ = fields_repr

    num_images: int
    sizes: np.ndarray
    network_sizes: np.ndarray
    best_iou: np.ndarray
    objects_per_image: np.ndarray
    shrunk: int
    network_size: tuple[int, int]
    memory: float | None
    categories: dict[str, int]
    anchor_sizes: tuple[float, ...]
    top_k: int
    sentences: tuple[str, ...] = field(default=())

    def table(self) -> list[str]:
        """Return the numbers as lines of text."""
        rows: list[tuple[str, ...]] = [("√area of objects, pixels", *(f"{q:.0%}" for q in _QUANTILES))]
        for name, sizes in (("in the images", self.sizes), ("in the network", self.network_sizes)):
            quantiles = np.quantile(sizes, _QUANTILES).tolist() if len(sizes) else []
            rows.append((f"  {name}", *(f"{value:.1f}" for value in quantiles or [math.nan] * len(_QUANTILES))))
        counts = self.objects_per_image
        most = int(counts.max(initial=0))
        heading = f"{count_of(self.num_images, 'image')} with {count_of(len(self.sizes), 'object')}"
        lines = [heading, "", *align_columns(rows)]
        lines.append(f"anchors: {', '.join(f'{a:g}' for a in self.anchor_sizes)}")
        lines.append(f"objects an image: {np.median(counts):g} at the median, {most} at most (top_k={self.top_k})")
        height, width = self.network_size
        memory = "" if self.memory is None else f", about {max(self.memory, 0.1):.1f} GB for an image in training"
        lines.append(f"largest input of the network: {height} × {width}{memory}")
        return lines

    def plot(self, path: str | Path) -> None:
        """Plot sizes beside the anchors, and objects an image beside ``top_k``; needs matplotlib.

        Parameters
        ----------
        path : str or Path
            A ``.png``, ``.pdf`` or ``.svg`` file.

        Raises
        ------
        ImportError, TypeError, ValueError
            If matplotlib is not installed, or ``path`` is not as above.
        """
        file = plot_path("path", path)
        figure = new_figure(11, 4.2)
        left, right = figure.subplots(1, 2)
        sizes = self.network_sizes[self.network_sizes > 0]
        low = min(sizes.min(initial=8), min(self.anchor_sizes)) / 1.5
        high = max(sizes.max(initial=64), max(self.anchor_sizes)) * 1.5
        left.hist(sizes, bins=np.geomspace(low, high, 50), color="#6baed6")
        for i, side in enumerate(self.anchor_sizes):
            left.axvline(side, color=INK, linestyle="--", linewidth=1, label="anchors" if i == 0 else None)
        left.set(xscale="log", xlabel="√area in the network's input, pixels", ylabel="objects")
        ticks: list[float] = []
        for side in self.anchor_sizes:  # those that there is room for
            if not ticks or side >= 1.5 * ticks[-1]:
                ticks.append(side)
        left.set_xticks(ticks, [f"{t:g}" for t in ticks])
        left.minorticks_off()
        most = int(self.objects_per_image.max(initial=1))
        right.hist(self.objects_per_image, bins=min(most + 1, 40), color="#6baed6")
        right.axvline(self.top_k, color=INK, linestyle="--", linewidth=1, label=f"top_k={self.top_k}")
        right.set(xlabel="objects in an image", ylabel="images")
        for axes in (left, right):
            style_axes(axes)
            axes.legend(framealpha=0.9, edgecolor="none", loc="upper right")
        save_figure(figure, file)


@answers_wrong_calls
def suggest(dataset: Any, config: ModelConfig) -> Suggestions:
    """Compare the objects of a data set with a model's anchors, scale and limits.

    Parameters
    ----------
    dataset : CocoInstances, LabelImages or Subset
        Any data set with ``coco()``.
    config : ModelConfig
        ``model.config``, of the model that is to be trained or to predict.

    Returns
    -------
    Suggestions

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the data set has no image.
    """
    instance("config", config, ModelConfig, "a ModelConfig, such as model.config")
    if not callable(getattr(dataset, "coco", None)):
        given = type(dataset).__name__
        raise TypeError(f"dataset must have coco(), as CocoInstances and LabelImages have, got {given}.")
    content = dataset.coco()
    if not content["images"]:
        raise ValueError("dataset must have at least one image, got none.")
    images = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    resized = {number: resized_size(size, config.image) for number, size in images.items()}
    objects = [complete_annotation(a, images[a["image_id"]]) for a in content["annotations"] if not a.get("iscrowd")]
    scale = np.array([resized[o["image_id"]][0] / images[o["image_id"]][0] for o in objects])
    boxes = np.array([o["bbox"][2:] for o in objects], float).reshape(-1, 2) * scale[:, None]
    sizes = np.sqrt(np.array([o["area"] for o in objects], float))
    counts = Counter(o["image_id"] for o in objects)
    names = {c["id"]: str(c["name"]) for c in content["categories"]}
    of_category = Counter(c for _, c in {(o["image_id"], o["category_id"]) for o in objects})
    network_size = max(resized.values(), key=lambda size: size[0] * size[1])
    anchors = sorted({side for level in anchor_levels(config.anchor_sizes, per_level=config.use_fpn) for side in level})
    found = Suggestions(
        num_images=len(images),
        sizes=sizes,
        network_sizes=sizes * scale,
        best_iou=_best_iou(boxes, anchors, config.aspect_ratios),
        objects_per_image=np.array([counts[number] for number in images]),
        shrunk=sum(_wanted_scale(size, config) > resized[n][0] / size[0] * 1.02 for n, size in images.items()),
        network_size=network_size,
        memory=_memory(network_size, config),
        categories={names[c]: of_category[c] for c in names},
        anchor_sizes=tuple(anchors),
        top_k=config.heads.top_k,
    )
    return Suggestions(**{**found.__dict__, "sentences": tuple(_sentences(found, boxes, config)) or (_NOTHING,)})


_NOTHING = "Nothing needs to be set: anchors, scale and limits suit these objects."


def _wanted_scale(size: tuple[int, int], config: ModelConfig) -> float:
    return config.image.scale or config.image.min_size / min(size)


def _best_iou(boxes: np.ndarray, anchors: list[float], ratios: tuple[float, ...]) -> np.ndarray:
    """Return the IoU of each (width, height) with the best of all anchors, centers together."""
    sides = np.array([(side / math.sqrt(ratio), side * math.sqrt(ratio)) for side in anchors for ratio in ratios])
    shared = np.minimum(boxes[:, None], sides).prod(axis=2)
    union = boxes.prod(axis=1)[:, None] + sides.prod(axis=1) - shared
    return (shared / union).max(axis=1, initial=0)


def _memory(size: tuple[int, int], config: ModelConfig) -> float | None:
    """Estimate the GB of what a training step keeps of one image: outputs of body, pyramid and RPN head, twice.

    Twice, as their gradients take as much again.
    """
    backbone = config.backbone
    if not isinstance(backbone, BackboneConfig):
        return None
    width = backbone.width
    per_pixel = width / 4
    for stage, blocks in enumerate(_BLOCKS[backbone.depth]):
        channels = width * 2**stage
        outputs = 2 * channels if backbone.depth == 18 else 6 * channels  # of a block: 3×3, 3×3, or 1×1, 3×3, 1×1
        per_pixel += blocks * outputs / (16 * 4**stage)
    per_pixel += 3 * backbone.out_channels * sum(4.0**-level for level in range(2, 7))
    return 2 * 4 * per_pixel * size[0] * size[1] / 1e9


def _sentences(found: Suggestions, boxes: np.ndarray, config: ModelConfig) -> Iterator[str]:
    """Yield what to set, the most important first."""
    if not len(found.sizes):
        yield "There are no objects: there is nothing to compare."
        return
    yield from _about_scale(found, boxes, config)
    most = int(found.objects_per_image.max())
    if most > found.top_k:
        full, enough = int((found.objects_per_image > found.top_k).sum()), _rounded_up(1.2 * most)
        yield (
            f"{_images(full, found)} more objects than top_k={found.top_k}, up to {most}: predict and evaluate with "
            f"--top-k {enough} (top_k=), or build the model with heads={{'top_k': {enough}}}."
        )
    if 4 * most > config.rpn.post_nms_top_n:
        numbers = {"pre_nms_top_n": _rounded_up(8 * most), "post_nms_top_n": _rounded_up(4 * most)}
        yield (
            f"Up to {most} objects an image may need more than post_nms_top_n={config.rpn.post_nms_top_n} proposals: "
            f"build the model with rpn={numbers}."
        )
    rare = [f"{name} ({count})" for name, count in found.categories.items() if 0 < count < _RARE * found.num_images]
    if rare:
        yield (
            f"Few images have {', '.join(rare[:8])}: train with --repeat-thresh (repeat_thresh=), which shows them "
            "more often, or --class-weights NAME=W, and keep some in each part with split-data."
        )
    missing = [name for name, count in found.categories.items() if not count]
    if missing:
        yield f"No image has an object of {', '.join(missing[:8])}: these categories cannot be learned."


def _about_scale(found: Suggestions, boxes: np.ndarray, config: ModelConfig) -> Iterator[str]:
    image, anchors = config.image, found.anchor_sizes
    if found.shrunk > _FEW * found.num_images:
        yield (
            f"{_images(found.shrunk, found)} a longer side than max_size={image.max_size} allows, and would be shrunk: "
            "predict with --tiles (predict_tiled), and train with --crop, or raise --max-size."
        )
    poor = float((found.best_iou < _GOOD_IOU).mean())
    if poor <= _FEW:
        return
    low, middle, high = np.quantile(found.network_sizes, (0.1, 0.5, 0.9)).tolist()
    if low < anchors[0] and high > anchors[-1]:
        factor = math.sqrt(anchors[0] * anchors[-1]) / middle
    else:
        factor = anchors[0] / low if low < anchors[0] else min(1.0, anchors[-1] / high)
    sides, ratios = _anchors(found), config.aspect_ratios
    remedies = [
        (_poor(boxes * factor, list(anchors), ratios), _resize(factor, config)),
        (_poor(boxes, list(sides), ratios), f"build the model with anchor_sizes={sides}"),
        (_poor(boxes, list(anchors), _RATIOS), f"build the model with aspect_ratios={_RATIOS}"),
        (_poor(boxes, list(sides), _RATIOS), f"build the model with anchor_sizes={sides} and aspect_ratios={_RATIOS}"),
    ]
    helpful = [f"{what} ({share:.0%} then)" for share, what in remedies if share < _HELPS * poor][:3]
    yield (
        f"{poor:.0%} of the objects fit no anchor well (IoU below {_GOOD_IOU:g}): most are from {low:.0f} to "
        f"{high:.0f} pixels in the network, anchors from {anchors[0]:g} to {anchors[-1]:g}; "
        f"{', or '.join(helpful) or 'more sizes a level may help, as their boxes are of many shapes'}."
    )


def _poor(boxes: np.ndarray, anchors: list[float], ratios: tuple[float, ...]) -> float:
    return float((_best_iou(boxes, anchors, ratios) < _GOOD_IOU).mean())


def _resize(factor: float, config: ModelConfig) -> str:
    """Return what resizes all images by a factor."""
    if config.image.scale is not None:
        return f"build the model with image={{'scale': {config.image.scale * factor:.2g}}}"
    size, most = (_rounded_up(value * factor) for value in (config.image.min_size, config.image.max_size))
    return f"train with --min-size {size} --max-size {most} (min_size=, max_size= of the model)"


def _anchors(found: Suggestions) -> tuple[int, ...]:
    """Return as many sides as the model has, from the small objects to the large ones."""
    low, high = np.quantile(found.network_sizes, (0.1, 0.9)).tolist()
    sides = np.geomspace(max(0.8 * low, 4.0), max(1.25 * high, 8.0), len(found.anchor_sizes))
    return tuple(round(side) for side in sides.tolist())


def _images(count: int, found: Suggestions) -> str:
    return f"{count} of {count_of(found.num_images, 'image')} {'has' if count == 1 else 'have'}"


def _rounded_up(value: float) -> int:
    """Round to two digits, upwards."""
    step = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return math.ceil(value / step) * step
