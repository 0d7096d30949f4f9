"""What an implementation of Mask R-CNN has to fix beyond the paper, as data.

The defaults of each class are torchvision's conventions (``maskrcnn_resnet50_fpn``); a model
takes one instance of each as a keyword-only argument.
"""

from __future__ import annotations

from dataclasses import dataclass


class Preset(int):
    """A default in a signature that a model's own settings replace.

    ``predict(images)`` of a model with presets uses those; ``predict(images, top_k=100)`` uses 100.
    """


@dataclass(frozen=True)
class ImageSettings:
    """How pictures become the network's input.

    Attributes
    ----------
    min_size, max_size : int
        The short side becomes ``min_size`` pixels, unless the long side would pass ``max_size``.
    pixel_mean, pixel_std : tuple of float
        Per channel (red, green, blue), of pixel values in [0, 1].
    size_divisor : int
        A batch is padded with zeros, at the right and below, to multiples of this.
    """

    min_size: int = 800
    max_size: int = 1333
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    size_divisor: int = 32


@dataclass(frozen=True)
class ProposalSettings:
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
        Shorter sides than this, in pixels, are dropped.
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
    foreground_iou: float = 0.7
    background_iou: float = 0.3
    batch_size: int = 256
    positive_fraction: float = 0.5


@dataclass(frozen=True)
class HeadSettings:
    """The box and mask heads (He et al. 2017, section 3; Girshick 2015).

    Attributes
    ----------
    sampling_ratio, aligned : int, bool
        RoIAlign's samples per bin and axis (0: as many as the bin has cells), and whether boxes are
        shifted by half a cell.
    box_weights : tuple of float
        Scale of the regression targets (dx, dy, dw, dh).
    foreground_iou : float
        A RoI with at least this IoU with an object is trained as that object, else as background.
    batch_size, positive_fraction : int, float
        RoIs sampled per image for the loss, and the largest share of positive ones.
    min_size : float
        Detections with a shorter side than this, in pixels of the network's input, are dropped.
    top_k : int
        Detections returned per image, unless ``predict`` is told otherwise.
    """

    sampling_ratio: int = 2
    aligned: bool = False
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    foreground_iou: float = 0.5
    batch_size: int = 512
    positive_fraction: float = 0.25
    min_size: float = 1e-2
    top_k: int = 100
