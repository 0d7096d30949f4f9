"""What an implementation of Mask R-CNN has to fix beyond the paper, as data.

The defaults of each class are torchvision's conventions (``maskrcnn_resnet50_fpn``); a model
takes one instance of each as a keyword-only argument. :data:`TORCHVISION` and :data:`DETECTRON2`
are the two sets that published weights were trained with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_ANY_AREA = 2.0**-126  # the smallest normal float32: any side but one of length 0


class Preset:
    """A default in a signature that a model's own settings replace.

    ``predict(images)`` of a model with presets uses those; ``predict(images, top_k=100)`` uses 100.
    """


class PresetInt(Preset, int):
    """A whole number."""


class PresetFloat(Preset, float):
    """A number."""


@dataclass(frozen=True)
class ImageConfig:
    """How pictures become the network's input.

    Attributes
    ----------
    min_size, max_size : int
        The short side becomes ``min_size`` pixels, unless the long side would pass ``max_size``.
    scale : float, optional
        Sides are multiplied by this, in place of bringing the short one to ``min_size``; ``max_size`` holds. Objects
        in photographs have any size, but a microscope's pixels are of one: there, a small picture shows less, not
        the same from further away.
    pixel_mean, pixel_std : tuple of float
        Per channel (red, green, blue), of pixel values in [0, 1].
    size_divisor : int
        A batch is padded with zeros, at the right and below, to multiples of this.
    bgr : bool
        Whether the network takes blue, green, red. Pictures and the two settings above are always red,
        green, blue; only tensors, which are taken as they are, have to be in the network's order.
    antialias : bool
        Whether pictures are resized by Pillow, which averages where it shrinks and rounds to whole
        values, to sides that are rounded; or interpolated as floats, to sides that are rounded down.
    clip_restored : bool
        Whether boxes are clipped, and empty ones dropped, in the original image again.

    Raises
    ------
    ValueError
        If a size is below 1, or ``scale`` is not above 0.
    """

    min_size: int = 800
    max_size: int = 1333
    scale: float | None = None
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    size_divisor: int = 32
    bgr: bool = False
    antialias: bool = False
    clip_restored: bool = False

    def __post_init__(self) -> None:
        for name in ("min_size", "max_size", "size_divisor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 pixel, got {getattr(self, name)}.")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be a number above 0, or None, got {self.scale}.")


@dataclass(frozen=True)
class RPNConfig:
    """The region proposal network (Ren et al. 2015, section 3.1).

    Attributes
    ----------
    pre_nms_top_n, post_nms_top_n : int
        Proposals kept per level before, and per image after, non-maximum suppression at prediction.
    pre_nms_top_n_train, post_nms_top_n_train : int
        The same in training.
    nms_thresh : float
        IoU above which the weaker of two proposals of a level goes.
    min_size : float
        Proposals with a shorter side than this, in pixels, are dropped.
    by_logits : bool
        Whether proposals are ranked by their logits, or by the probabilities, which tie where large ones
        round to 1.
    finite_only : bool
        Whether proposals that are not finite are dropped before anything else.
    whole_pixels : bool
        Whether the anchors' corners around a position are rounded to whole pixels.
    nominal_strides : bool
        Whether the anchors of a map step by its power of two, or by the input's size divided by the
        map's, rounded down.
    foreground_iou, background_iou : float
        An anchor is positive from the one on, negative below the other, and ignored between.
    batch_size, positive_fraction : int, float
        Anchors sampled per image for the loss, and the largest share of positive ones.
    """

    pre_nms_top_n: int = 1000
    post_nms_top_n: int = 1000
    pre_nms_top_n_train: int = 2000
    post_nms_top_n_train: int = 2000
    nms_thresh: float = 0.7
    min_size: float = 1e-3
    by_logits: bool = False
    finite_only: bool = False
    whole_pixels: bool = True
    nominal_strides: bool = False
    foreground_iou: float = 0.7
    background_iou: float = 0.3
    batch_size: int = 256
    positive_fraction: float = 0.5


@dataclass(frozen=True)
class HeadConfig:
    """The box and mask heads (He et al. 2017, section 3; Girshick 2015).

    Attributes
    ----------
    sampling_ratio, aligned : int, bool
        RoIAlign's samples per bin and axis (0: as many as the bin has cells), and whether boxes are
        shifted by half a cell, so that a cell's number is its centre's; mask targets are cut out likewise.
    box_weights : tuple of float
        Scale of the regression targets (dx, dy, dw, dh).
    foreground_iou : float
        A RoI with at least this IoU with an object is trained as that object, else as background.
    batch_size, positive_fraction : int, float
        RoIs sampled per image for the loss, and the largest share of positive ones.
    min_size : float
        Detections with a shorter side than this, in pixels of the network's input, are dropped.
    nms_thresh : float
        Of two detections of a class whose boxes have a greater IoU, the weaker goes, unless ``predict`` is told
        otherwise.
    top_k : int
        Detections returned per image, unless ``predict`` is told otherwise.
    finite_only : bool
        Whether RoIs with an answer that is not finite are dropped before anything else.
    level_margin : (float, float)
        Added to √area / 224 before, and to its logarithm after it is taken, so that a box on the edge
        between two levels of the pyramid goes to the coarser.
    snap_masks : bool
        Whether masks are pasted into boxes of whole pixels, or sampled at the centre of each pixel.
    """

    sampling_ratio: int = 2
    aligned: bool = False
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    foreground_iou: float = 0.5
    batch_size: int = 512
    positive_fraction: float = 0.25
    min_size: float = 1e-2
    nms_thresh: float = 0.5
    top_k: int = 100
    finite_only: bool = False
    level_margin: tuple[float, float] = (0.0, 1e-6)
    snap_masks: bool = True


@dataclass(frozen=True)
class Conventions:
    """All settings of one implementation.

    Attributes
    ----------
    name : str
        What it is called.
    image, proposals, heads
        Its settings.
    stride_in_1x1 : bool
        Whether a stage's first bottleneck strides in its first 1×1 convolution, or in its 3×3 one.
    """

    name: str
    image: ImageConfig = ImageConfig()
    rpn: RPNConfig = RPNConfig()
    heads: HeadConfig = HeadConfig()
    stride_in_1x1: bool = False


#: Those of torchvision 0.28, ``maskrcnn_resnet50_fpn`` and ``maskrcnn_resnet50_fpn_v2``.
TORCHVISION = Conventions("torchvision")

#: Those of detectron2, ``mask_rcnn_R_50_FPN_3x`` and its kin.
DETECTRON2 = Conventions(
    "detectron2",
    image=ImageConfig(
        pixel_mean=(123.675 / 255, 116.28 / 255, 103.53 / 255),
        pixel_std=(1 / 255, 1 / 255, 1 / 255),
        bgr=True,
        antialias=True,
        clip_restored=True,
    ),
    rpn=RPNConfig(
        post_nms_top_n_train=1000,
        min_size=_ANY_AREA,
        by_logits=True,
        finite_only=True,
        whole_pixels=False,
        nominal_strides=True,
    ),
    heads=HeadConfig(
        sampling_ratio=0, aligned=True, min_size=0.0, finite_only=True, level_margin=(1e-8, 0.0), snap_masks=False
    ),
    stride_in_1x1=True,
)
