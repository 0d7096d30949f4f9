"""Mask R-CNN (He et al. 2017): the whole flow of data.

Shapes: N images, L feature maps, R regions (RoIs) over the batch, K classes without background,
M the side of a mask, n detections of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lucid.nn as nn
from lucid import Tensor

from .. import ops, transforms
from ..config import HeadConfig, ImageConfig, Preset, PresetFloat, PresetInt, RPNConfig
from ..detections import Detections
from ..images import load_image
from ..targets import Target
from .anchors import _AnchorGenerator
from .heads import ConvStack, RoISampler, _MaskHead, detect
from .layers import Dropout, Linear
from .losses import MaskRCNNLosses, _MaskRCNNLoss
from .pooling import MultiScaleROIAlign, ROIAlign
from .rpn import _RegionProposalNetwork

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MaskRCNN"]


class MaskRCNN(nn.Module):
    """Finds objects and their masks.

    Parameters
    ----------
    backbone : nn.Module
        Takes images (N, 3, H, W) and returns a feature map (N, feat_channels, h, w) of any stride, or,
        with ``use_fpn``, a list of them, finest first.
    feat_channels : int
        Channels of the feature maps.
    num_classes : int
        Kinds of objects, background not counted; labels are 1 to ``num_classes``.
    use_fpn : bool
        Whether the backbone returns a pyramid.
    anchor_sizes : sequence
        Sides of square anchors in pixels: all of them on the one map, or with ``use_fpn`` one entry (a
        number, or several) per map.
    aspect_ratios : sequence of float
        Height over width of the anchors.
    anchor_stride : int
        Step between the anchors of a single map, in pixels; a pyramid's maps have the steps that their
        sizes give. If it contradicts the map's real stride it is used as given, with one warning.
    pool_size : (int, int)
        Of the features that the box head sees.
    hidden_dim : int
        Width of the two linear layers of the box head.
    dropout : float
        Share of their outputs that training zeroes.
    mask_pool_size : (int, int)
        Of the features that the mask head sees.
    mask_hidden_channels : int
        Of the mask head's convolutions.
    mask_out_size : int
        Side M of the masks: twice ``mask_pool_size``.
    pooled_levels : int, optional
        How many maps of a pyramid the heads pool from; by default all but the last.
    rpn_convs : int
        3×3 convolutions of the region proposal network's head; 2 in torchvision's v2.
    box_convs : bool
        Whether the box head is four convolutions and one linear layer, as in torchvision's v2, instead of
        two linear layers.
    head_norm : {"batch", "frozen"}, optional
        Batch norm after the convolutions of box and mask head; none by default.
    image : ImageConfig
        How pictures are resized, normalised and padded; as torchvision does by default.
    rpn : RPNConfig
        Numbers of proposals, thresholds and samples; torchvision's by default.
    heads : HeadConfig
        The same of the box and mask heads.
    categories : mapping of int to str, optional
        Names of the labels, which detections carry.

    Attributes
    ----------
    arguments : dict or None
        What a factory built the model with, for the header of its file; None if no factory did.

    Raises
    ------
    ValueError
        If a setting is out of range or contradicts another.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feat_channels: int,
        num_classes: int,
        *,
        use_fpn: bool = False,
        anchor_sizes: Sequence[Any] = (128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        anchor_stride: int = 16,
        pool_size: tuple[int, int] = (7, 7),
        hidden_dim: int = 4096,
        dropout: float = 0.5,
        mask_pool_size: tuple[int, int] = (14, 14),
        mask_hidden_channels: int = 256,
        mask_out_size: int = 28,
        pooled_levels: int | None = None,
        rpn_convs: int = 1,
        box_convs: bool = False,
        head_norm: str | None = None,
        image: ImageConfig = ImageConfig(),  # noqa: B008 - frozen
        rpn: RPNConfig = RPNConfig(),  # noqa: B008
        heads: HeadConfig = HeadConfig(),  # noqa: B008
        categories: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        _check_positive(
            feat_channels=feat_channels,
            num_classes=num_classes,
            anchor_stride=anchor_stride,
            hidden_dim=hidden_dim,
            mask_hidden_channels=mask_hidden_channels,
            rpn_convs=rpn_convs,
        )
        if (mask_out_size, mask_out_size) != (2 * mask_pool_size[0], 2 * mask_pool_size[1]):
            raise ValueError(
                f"mask_out_size must be twice mask_pool_size {tuple(mask_pool_size)}, got {mask_out_size}: the mask "
                "head doubles what it pools."
            )
        self.num_classes, self.feat_channels, self.use_fpn = num_classes, feat_channels, use_fpn
        self.image_settings, self.head_settings, self.categories = image, heads, categories
        self.arguments: dict[str, Any] | None = None
        self.backbone = backbone
        anchors = _AnchorGenerator(
            anchor_sizes,
            aspect_ratios,
            per_level=use_fpn,
            stride=anchor_stride,
            whole_pixels=rpn.whole_pixels,
            nominal_strides=rpn.nominal_strides,
        )
        self.rpn = _RegionProposalNetwork(feat_channels, anchors, rpn, rpn_convs)
        rule: dict[str, Any] = {"sampling_ratio": heads.sampling_ratio, "aligned": heads.aligned}
        if use_fpn:
            levels = max(len(anchors.cells) - 1, 1) if pooled_levels is None else pooled_levels
            rule["level_margin"] = heads.level_margin
            self.roipool = MultiScaleROIAlign(pool_size, num_levels=levels, **rule)
            self.mask_roipool = MultiScaleROIAlign(mask_pool_size, num_levels=levels, **rule)
        else:
            self.roipool = ROIAlign(pool_size, **rule)
            self.mask_roipool = ROIAlign(mask_pool_size, **rule)
        self.fc1 = Linear(feat_channels * pool_size[0] * pool_size[1], hidden_dim)
        self.box_convs = ConvStack(feat_channels, feat_channels, head_norm) if box_convs else None
        self.fc2 = None if box_convs else Linear(hidden_dim, hidden_dim)
        self.drop1, self.drop2 = Dropout(dropout), Dropout(dropout)
        self.cls_score = Linear(hidden_dim, num_classes + 1, std=0.01)
        self.bbox_pred = Linear(hidden_dim, 4 * num_classes, std=0.001)
        self.mask_head = _MaskHead(feat_channels, num_classes, mask_hidden_channels, head_norm)
        self.roi_sampler = RoISampler(heads, mask_out_size)
        self.loss = _MaskRCNNLoss()

    @classmethod
    def from_file(cls, weights: str | Path) -> MaskRCNN:
        """Build the model that a file of weights belongs to.

        Parameters
        ----------
        weights : str or Path
            ``.safetensors``, ``.pth`` or ``.pkl``, of this package, torchvision or detectron2: architecture, classes
            and conventions are found in it. Or a name that only one architecture has, such as ``"NUCLEI"``.

        Returns
        -------
        MaskRCNN

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, it is damaged, or holds no Mask R-CNN with a ResNet-FPN.
        """
        from .factories import load_model  # which builds on this class

        return load_model(weights)

    # -------------------------------------------------------------- the three ways to call it

    def forward(
        self, images: Tensor, rois: Tensor | None = None, roi_idx: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the heads say of each region.

        Parameters
        ----------
        images : Tensor of shape (N, 3, H, W)
            Normalised pixels.
        rois : Tensor of shape (R, 4), optional
            Boxes in pixels of ``images``; the network's own proposals by default.
        roi_idx : Tensor of shape (R,), int32, optional
            The image of each; may be left out for a single image.

        Returns
        -------
        cls_logits : Tensor of shape (R, K + 1)
            Column 0 is background.
        bbox_deltas : Tensor of shape (R, 4 · K)
        mask_logits : Tensor of shape (R, K, M, M)
        """
        batch = transforms.pad(images, self.image_settings.size_divisor)
        features, size = self._features(batch.tensor)
        if rois is None:
            with ops.no_grad():
                proposals = self.rpn.propose(self.rpn(features, size), batch.sizes, training=False)
            rois, roi_idx = ops.concat(proposals), _image_of_each(proposals)
        rois, roi_idx = _check_rois(rois, roi_idx, batch.tensor)
        cls_logits, bbox_deltas = self._box_head(features, rois, roi_idx, size)
        return cls_logits, bbox_deltas, self._mask_logits(features, rois, roi_idx, size)

    def predict(
        self,
        images: Any,
        *,
        score_thresh: float = 0.05,
        nms_thresh: float = PresetFloat(0.5),
        top_k: int = PresetInt(100),
        mask_thresh: float = 0.5,
    ) -> list[Detections]:
        """Find the objects in images; training mode makes no difference.

        Parameters
        ----------
        images : Tensor, path, PIL image, uint8 array, or list of those
            A tensor (N, 3, H, W) or (3, H, W), or a list of tensors (3, H, W), is taken as it is. A path, a
            PIL image or a uint8 array (H, W, 3), RGB, or a list of those of any sizes, is resized,
            normalised and padded.
        score_thresh : float
            Detections score more than this.
        nms_thresh : float
            Of two detections of a class whose IoU is greater, the weaker goes; 0.5 unless the weights came with a
            number of their own.
        top_k : int
            At most so many per image; 100 unless the weights came with a number of their own.
        mask_thresh : float
            Pixels of a mask have a probability over this.

        Returns
        -------
        list of Detections
            One per image, in that image's own pixels (for tensors: the tensor's), best first.

        Raises
        ------
        FileNotFoundError, ValueError, TypeError
            If an image cannot be read, or an argument is not as above.
        """
        if isinstance(nms_thresh, Preset):
            nms_thresh = self.head_settings.nms_thresh
        _check_fractions(score_thresh=score_thresh, nms_thresh=nms_thresh, mask_thresh=mask_thresh)
        if not isinstance(top_k, int) or top_k < 0:
            raise ValueError(f"top_k must be a whole number from 0 on, got {top_k!r}.")
        limit = self.head_settings.top_k if isinstance(top_k, Preset) else top_k
        with ops.no_grad():
            batch, pictures = self._prepare(images)
            features, size = self._features(batch.tensor)
            proposals = self.rpn.propose(self.rpn(features, size), batch.sizes, training=False)
            found = self._detect(features, proposals, batch.sizes, size, score_thresh, nms_thresh, limit)
            boxes = [f.boxes for f in found]
            classes = ops.concat([f.labels for f in found]) - 1
            logits = self._mask_logits(features, ops.concat(boxes), _image_of_each(boxes), size, classes)
            probs = ops.sigmoid(logits.reshape(-1, *logits.shape[2:]))  # (R, M, M)
            ends = _ends(boxes)
            detections = [
                Detections(
                    transforms.resize_boxes(f.boxes, batch.sizes[i], batch.original_sizes[i]),
                    f.scores,
                    f.labels,
                    probs[ends[i] : ends[i + 1]],
                    batch.original_sizes[i],
                    categories=self.categories,
                    mask_thresh=mask_thresh,
                    snap_masks=self.head_settings.snap_masks,
                    image=pictures[i],
                )
                for i, f in enumerate(found)
            ]
            return [d.clipped() for d in detections] if self.image_settings.clip_restored else detections

    def get_loss(self, images: Any, targets: Sequence[Mapping[str, Any]]) -> MaskRCNNLosses:
        """Return the training losses; ``["total_loss"].backward()`` computes the gradients.

        Batch norm and dropout behave as the module's mode says (``train()`` or ``eval()``).

        Parameters
        ----------
        images
            As for :meth:`predict`.
        targets : sequence of mappings
            One per image, with ``"boxes"`` (G, 4), ``"labels"`` (G,) from 1 to ``num_classes`` and
            ``"masks"`` (G, H, W), in pixels of the image as it was given. ``G = 0`` is an image without
            objects. Masks may also be :class:`~lucid_maskrcnn.masks.CompressedMasks` or a list of COCO's
            run-length encodings or polygons, of which only what the regions cut out is ever decoded.

        Returns
        -------
        dict
            0-d tensors ``rpn_cls_loss``, ``rpn_reg_loss``, ``roi_cls_loss``, ``roi_reg_loss``,
            ``mask_loss`` and their sum ``total_loss``.

        Raises
        ------
        FileNotFoundError, ValueError, TypeError
            If an image or a target is not as above; nothing has been computed then.
        """
        batch, _ = self._prepare(images)
        objects = self._check_targets(targets, batch)
        features, size = self._features(batch.tensor)
        rpn = self.rpn(features, size)
        anchors = self.rpn.sample(rpn, objects)
        proposals = self.rpn.propose(rpn, batch.sizes, training=True)
        rois = self.roi_sampler(proposals, objects)
        cls_logits, bbox_deltas = self._box_head(features, rois.rois, rois.roi_idx, size)
        masked, masked_idx = ops.take(rois.rois, rois.positive), ops.take(rois.roi_idx, rois.positive)
        mask_logits = self._mask_logits(features, masked, masked_idx, size, rois.positive_class)
        return self.loss(rpn, anchors, cls_logits, bbox_deltas, mask_logits, rois)

    # -------------------------------------------------------------- their steps

    def _prepare(self, images: Any) -> tuple[transforms.ImageBatch, list[Any]]:
        """Return the network's batch, and the pictures it was made of (None for tensors)."""
        several = images if isinstance(images, (list, tuple)) else [images]
        if all(isinstance(i, Tensor) for i in several):
            if len(several) == 1 and several[0].ndim == 4:
                several = several[0]
            batch = transforms.pad(several, self.image_settings.size_divisor)
            return batch, [None] * len(batch.sizes)
        if any(isinstance(i, Tensor) for i in several):
            raise TypeError("images must be all tensors or all pictures, got both in one list.")
        pictures = [load_image(i) for i in several]
        return transforms.prepare(pictures, self.image_settings, self.device), pictures

    def _check_targets(self, targets: Sequence[Mapping[str, Any]], batch: transforms.ImageBatch) -> list[Target]:
        if isinstance(targets, Mapping):
            raise TypeError("targets must be a list of mappings, one per image, got a mapping: put it in a list.")
        if len(targets) != len(batch.sizes):
            raise ValueError(f"targets must have one entry per image, got {len(targets)} for {len(batch.sizes)}.")
        checked = [
            Target.from_mapping(
                target, index=i, image_size=size, num_classes=self.num_classes, device=batch.tensor.device
            )
            for i, (target, size) in enumerate(zip(targets, batch.original_sizes, strict=True))
        ]
        return [t if size == t.image_size else t.resized(size) for t, size in zip(checked, batch.sizes, strict=True)]

    def _features(self, images: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """Return the feature maps of a batch, and the batch's height and width."""
        if images.shape[0] == 0:
            raise ValueError(f"images must be at least one, got a tensor of shape {tuple(images.shape)}.")
        out = self.backbone(images)
        maps = list(out) if isinstance(out, (list, tuple)) else [out]
        if self.use_fpn != isinstance(out, (list, tuple)):
            kind = "a list of feature maps" if self.use_fpn else "one feature map"
            raise TypeError(f"backbone must return {kind} with use_fpn={self.use_fpn}, got {type(out).__name__}.")
        for features in maps:
            if features.ndim != 4 or features.shape[1] != self.feat_channels:
                raise ValueError(
                    f"feat_channels is {self.feat_channels}, but the backbone returned a feature map of shape "
                    f"{tuple(features.shape)}."
                )
        return maps, (images.shape[2], images.shape[3])

    def _box_head(
        self, features: list[Tensor], rois: Tensor, roi_idx: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        pooled = self.roipool(features if self.use_fpn else features[0], rois, roi_idx, size)  # (R, C, h, w)
        if self.box_convs is not None:
            pooled = self.box_convs(pooled)
        hidden = self.drop1(self.fc1(ops.flatten(pooled), relu=True))
        if self.fc2 is not None:
            hidden = self.drop2(self.fc2(hidden, relu=True))
        return self.cls_score(hidden), self.bbox_pred(hidden)

    def _mask_logits(
        self,
        features: list[Tensor],
        rois: Tensor,
        roi_idx: Tensor,
        size: tuple[int, int],
        classes: Tensor | None = None,
    ) -> Tensor:
        pooled = self.mask_roipool(features if self.use_fpn else features[0], rois, roi_idx, size)  # (R, C, h, w)
        return self.mask_head(pooled, classes)

    def _detect(
        self,
        features: list[Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        size: tuple[int, int],
        score_thresh: float,
        nms_thresh: float,
        top_k: int,
    ) -> list[Any]:
        """Return each image's detections in pixels of the network's input."""
        logits, deltas = self._box_head(features, ops.concat(proposals), _image_of_each(proposals), size)
        ends = _ends(proposals)
        return [
            detect(
                logits[ends[i] : ends[i + 1]],
                deltas[ends[i] : ends[i + 1]],
                boxes,
                sizes[i],
                self.head_settings,
                score_thresh=score_thresh,
                nms_thresh=nms_thresh,
                top_k=top_k,
            )
            for i, boxes in enumerate(proposals)
        ]


def _image_of_each(boxes: Sequence[Tensor]) -> Tensor:
    """Return the image index of each row of the boxes joined: (R,), int32."""
    return ops.concat([ops.full(b.shape[0], i, b) for i, b in enumerate(boxes)])


def _ends(boxes: Sequence[Tensor]) -> list[int]:
    """Return where each image's rows begin, and where the last ones end."""
    ends = [0]
    for b in boxes:
        ends.append(ends[-1] + b.shape[0])
    return ends


def _check_rois(rois: Any, roi_idx: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    rois = ops.as_tensor(rois, images, "float32")
    if rois.ndim != 2 or rois.shape[1] != 4:
        raise ValueError(f"rois must have shape (R, 4), got {tuple(rois.shape)}.")
    if roi_idx is None:
        if images.shape[0] != 1:
            raise ValueError(f"roi_idx must say which of the {images.shape[0]} images each RoI is in, got None.")
        roi_idx = ops.full(rois.shape[0], 0, rois)
    return rois, ops.as_tensor(roi_idx, images, "int32")


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def _check_fractions(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}.")
