"""Mask R-CNN (He et al. 2017): the whole flow of data.

Shapes: N images, L feature maps, R regions (RoIs) over the batch, P positive ones among them, K classes without
background, M the side of a mask, n detections of an image.
Names: ``features``, the backbone's maps; ``proposals``, boxes from the region proposal network; ``rois``, boxes that
the heads look at, and ``roi_idx``, the image of each; ``cls_logits``, ``bbox_deltas`` and ``mask_logits``, the heads'
predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import lucid.nn as nn
from lucid import Tensor

from .. import ops, transforms
from ..array_arguments import numeric_array
from ..call_answers import answers_wrong_calls
from ..config import TORCHVISION, Category, CategoryNames, HeadConfig, ImageConfig, ModelConfig, RPNConfig
from ..detections import Detections, Predictions
from ..images import check_source, load_pages
from ..reprs import brief, described
from ..targets import Target
from ..text_tables import printable
from ..validators import (
    flag,
    fraction_below_one,
    instance,
    integer,
    optional,
    shown,
)
from .anchors import _AnchorGenerator
from .backbone import _ResNetFPNBackbone
from .half_precision import HalfPrecision
from .heads import BoxDetections, ConvStack, RoISampler, RoISamples, _MaskHead, postprocess_detections
from .layers import BatchNorm2d, Dropout, Linear, parameters_of
from .limits import Limits
from .losses import MaskRCNNLosses, _MaskRCNNLoss, check_loss_weights, class_weight_row
from .pooling import FeatureMaps, MultiScaleROIAlign, ROIAlign
from .predict_options import PredictOptions
from .rois import concat_rois, split_per_image
from .rpn import _RegionProposalNetwork

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MaskRCNN"]

type PooledSize = int | tuple[int, int]


@answers_wrong_calls
class MaskRCNN(HalfPrecision):
    """Finds objects and their masks.

    Parameters
    ----------
    backbone : nn.Module
        Takes images (N, 3, H, W) and returns a feature map (N, feat_channels, h, w) of any stride, or,
        with ``use_fpn``, a list of them, finest first.
    feat_channels : int
        Channels of the feature maps.
    num_classes : int
        Classes without background; torchvision counts it, here it is not counted. Labels are 1 to ``num_classes``.
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
    pool_size : int or (int, int)
        Of the features that the box head sees.
    hidden_dim : int
        Width of the linear layers of the box head.
    dropout : float
        Dropout probability between the linear layers of the box head.
    mask_pool_size : int or (int, int)
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
    image : ImageConfig or mapping
        How images are resized, normalized and padded. A mapping names what is not torchvision's, here and below.
    rpn : RPNConfig or mapping
        Numbers of proposals, thresholds and samples of the region proposal network.
    heads : HeadConfig or mapping
        The same of the box and mask heads.
    categories : mapping of int to str, or sequence of (label, name, id), optional
        Names of the labels, which detections carry, and their ids in the data set.

    Attributes
    ----------
    config : ModelConfig
        All of the above, validated. ``config.backbone`` is None if the backbone is not a ResNet-FPN of this package.
    norm_by_default : bool
        Whether the kind of batch norm was left to a factory that got no weights: it is live, and becomes constant when
        weights are loaded.
    pretrained : bool
        Whether all layers have weights of a detector, from a factory's ``weights`` or :func:`load_weights`: a training
        run is then fine-tuning, with a lower learning rate by default.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above or contradicts another.
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
        pool_size: PooledSize = (7, 7),
        hidden_dim: int = 4096,
        dropout: float = 0.5,
        mask_pool_size: PooledSize = (14, 14),
        mask_hidden_channels: int = 256,
        mask_out_size: int = 28,
        pooled_levels: int | None = None,
        rpn_convs: int = 1,
        box_convs: bool = False,
        head_norm: str | None = None,
        image: ImageConfig | Mapping[str, Any] = TORCHVISION.image,
        rpn: RPNConfig | Mapping[str, Any] = TORCHVISION.rpn,
        heads: HeadConfig | Mapping[str, Any] = TORCHVISION.heads,
        categories: Mapping[int, str] | Sequence[Category] | None = None,
    ) -> None:
        super().__init__()
        # The arguments are the fields of the configuration, all but the backbone.
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__", "backbone")}
        self.backbone = instance("backbone", backbone, nn.Module, "an nn.Module from images to feature maps")
        of_backbone = backbone.config if isinstance(backbone, _ResNetFPNBackbone) else None
        self.config = ModelConfig(**settings, backbone=of_backbone)
        self.norm_by_default, self.pretrained = False, False
        self._build()

    @described
    def __repr__(self) -> str:
        config, heads, image = self.config, self.config.heads, self.config.image
        names = list(self.categories.values()) if self.categories else []
        named = f": {', '.join(printable(name) for name in names[:5])}{', …' * (len(names) > 5)}" if names else ""
        size = f"shorter side {image.min_size}" if image.scale is None else f"{image.scale:g} times their size"
        sizes = ", ".join(brief(sizes) for sizes in config.anchor_sizes)
        mode = "training" if self.training else "evaluation"
        lines = [
            f"backbone   {brief(self.backbone, longest=100)}",
            f"classes    {config.num_classes}{named}",
            f"images     {size}, longer side at most {image.max_size} pixels",
            f"anchors    {sizes} pixels, ratios {', '.join(f'{ratio:g}' for ratio in config.aspect_ratios)}",
            f"detections at most {heads.top_k} an image, nms_thresh={heads.nms_thresh:g}",
            f"numbers    {parameters_of(self)}, dtype={self.dtype}, device={self.device}, {mode} mode",
            f"modules    {', '.join(self._modules)}",
        ]
        return "\n  ".join(["MaskRCNN(", *lines]) + "\n)"

    def _build(self) -> None:
        """Make everything but the backbone."""
        config, heads = self.config, self.config.heads
        channels, hidden_dim, num_classes = config.feat_channels, config.hidden_dim, config.num_classes
        anchor_generator = _AnchorGenerator(
            config.anchor_sizes,
            config.aspect_ratios,
            per_level=config.use_fpn,
            stride=config.anchor_stride,
            whole_pixels=config.rpn.whole_pixels,
            nominal_strides=config.rpn.nominal_strides,
            sizes_first=config.rpn.sizes_first,
        )
        self.rpn = _RegionProposalNetwork(channels, anchor_generator, config.rpn, config.rpn_convs)
        self.roipool = self._pooler(config.pool_size)
        self.mask_roipool = self._pooler(config.mask_pool_size)
        self.fc1 = Linear(channels * config.pool_size[0] * config.pool_size[1], hidden_dim)
        self.box_convs = ConvStack(channels, channels, config.head_norm) if config.box_convs else None
        self.fc2 = None if config.box_convs else Linear(hidden_dim, hidden_dim)
        self.drop1, self.drop2 = Dropout(config.dropout), Dropout(config.dropout)
        self.cls_score = Linear(hidden_dim, num_classes + 1, std=0.01)
        self.bbox_pred = Linear(hidden_dim, 4 * num_classes, std=0.001)
        self.mask_head = _MaskHead(channels, num_classes, config.mask_hidden_channels, config.head_norm)
        self.roi_sampler = RoISampler(heads, config.mask_out_size)
        self.loss = _MaskRCNNLoss()

    def _pooler(self, output_size: tuple[int, int]) -> ROIAlign | MultiScaleROIAlign:
        config, heads = self.config, self.config.heads
        if not config.use_fpn:
            return ROIAlign(output_size, sampling_ratio=heads.sampling_ratio, aligned=heads.aligned)
        return MultiScaleROIAlign(
            output_size,
            num_levels=config.pooled_levels or max(len(config.anchor_sizes) - 1, 1),
            sampling_ratio=heads.sampling_ratio,
            aligned=heads.aligned,
            level_margin=heads.level_margin,
        )

    @classmethod
    def from_config(cls, config: ModelConfig, backbone: nn.Module | None = None, *, trainable_layers: int = 5) -> Self:
        """Build the model of a configuration, with initial weights.

        Parameters
        ----------
        config : ModelConfig
            All settings of the model, such as :attr:`config` of another one.
        backbone : nn.Module, optional
            By default the ResNet-FPN of ``config.backbone``.
        trainable_layers : int
            Of the body of that ResNet-FPN, see the factories.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or there is neither a ``backbone`` nor a ``config.backbone``.
        """
        instance("config", config, ModelConfig, "a ModelConfig")
        trainable_layers = integer("trainable_layers", trainable_layers, 0, 5)
        if backbone is None:
            if config.backbone is None:
                raise ValueError("backbone must be given: the configuration is of a backbone that is no ResNet-FPN.")
            backbone = _ResNetFPNBackbone(**config.backbone.to_dict(), trainable_layers=trainable_layers)
        settings = {name: getattr(config, name) for name in config.__dataclass_fields__ if name != "backbone"}
        return cls(backbone, **settings)

    @classmethod
    def from_file(cls, weights: str | Path, *, config: str | Path | None = None, **settings: Any) -> MaskRCNN:
        """Build the model that a file of weights belongs to.

        Parameters
        ----------
        weights : str or Path
            ``.safetensors``, ``.pth`` or ``.pkl``, of this package, torchvision or detectron2: architecture, classes
            and conventions are found in it. Or a name that only one architecture has, such as ``"NUCLEI"``.
        config : str or Path, optional
            The YAML of the detectron2 run that wrote the weights, for settings that no shape shows: channel order, mean
            and deviation of the pixels, strides, anchors, sizes, thresholds, … By default the ``config.yaml`` that lies
            beside a file under detectron2's names, unless it is a published one. It is read as data: nothing in it is
            executed.
        **settings
            Keywords of the factories, such as ``anchor_sizes``, ``min_size``, ``top_k`` and ``categories``: they stand
            above what file and ``config`` say. With ``conventions="detectron2"`` those of the model zoo are taken for
            the rest, without ``config`` and without a warning.

        Returns
        -------
        MaskRCNN

        Warns
        -----
        UserWarning
            If weights under detectron2's names have no ``config``: which settings are assumed.

        Raises
        ------
        TypeError
            If ``weights`` is neither a name nor a path, or a setting is unknown.
        FileNotFoundError, ValueError
            If there is no such file, it is damaged, or holds no Mask R-CNN with a ResNet-FPN; if ``config`` cannot be
            read or has a key that is not known or cannot be built; if it or a setting contradicts the shapes.
        ImportError
            If there is a ``config`` and PyYAML is not installed.
        """
        from .factories import build_from_file  # which builds on this class

        return build_from_file(weights, config, **settings)

    def freeze_norms(self, *, body_only: bool = False, norm_eps: float | None = None) -> None:
        """Make batch norm constant, as with ``norm="frozen"``; ``config`` follows.

        Parameters
        ----------
        body_only : bool
            Only in the backbone's ResNet, not in pyramid and heads.
        norm_eps : float, optional
            What is then added to the variances; by default as before.
        """
        norm_eps = optional(fraction_below_one)("norm_eps", norm_eps)
        for module in (self.backbone.body if flag("body_only", body_only) else self).modules():
            if isinstance(module, BatchNorm2d):
                module.freeze()
                module.eps = module.eps if norm_eps is None else norm_eps
        backbone, frozen = self.config.backbone, "frozen"
        changes: dict[str, Any] = {} if backbone is None else {"norm": frozen, "norm_eps": norm_eps}
        if not body_only:
            changes["head_norm"] = self.config.head_norm and frozen
            if backbone is not None:
                changes["fpn_norm"] = backbone.fpn_norm and frozen
        self.config = self.config.changed(**changes)
        if self.config.backbone is not None:
            self.backbone.config = self.config.backbone

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return self.config.num_classes

    @property
    def categories(self) -> CategoryNames | None:
        """Names of the labels, and in ``categories.ids`` their ids in the data set; None if there are none."""
        return self.config.category_names or None

    def predict_options(self, **options: Any) -> PredictOptions:
        """Return the options of a call of :meth:`predict`, checked, with this model's own where there is None.

        Raises
        ------
        TypeError, ValueError
            If one is not as above.
        """
        return PredictOptions.checked(self.config.heads, self.categories, self.num_classes, **options)

    if TYPE_CHECKING:  # Lucid ships no types: without these the result of model.eval() would be Any

        def train(self, mode: bool = True) -> Self: ...  # noqa: D102
        def eval(self) -> Self: ...  # noqa: D102

    def to(self, device: str | None = None, dtype: str | None = None) -> Self:
        """Move all parameters and buffers, and return the model.

        Parameters
        ----------
        device : str, optional
            "cpu" (NumPy), "gpu" (MLX; "cuda", "mps" and "metal" are other names of it), or "auto", "gpu" where there is
            one. :func:`lucid_maskrcnn.ops.gpu_backend` says what the gpu is. May be left out with ``dtype``.
        dtype : {"float32", "float16", "bfloat16"}, optional
            What convolutions and linear layers store and compute in, as :meth:`half` and :meth:`float`. By default as
            before; on cpu always float32, which a model in half precision becomes there.

        Raises
        ------
        TypeError, ValueError
            If there is no such device, or ``dtype`` is one of half precision and the device is cpu, or a weight is
            beyond the range of float16; the model stays as it is then.
        """
        if isinstance(device, str) and device in ops.DTYPES:
            raise ValueError(f"device must be the name of a device, got {device!r}: pass dtype={device!r}.")
        device = self.device if device is None and dtype is not None else ops.device_name("device", device)
        if dtype is not None:
            self._check_dtype(dtype, device)
        if device == "cpu" and self.device == "gpu":
            self.float()  # before its arrays become NumPy's, which has no bfloat16
        ops.move_module(self, device)
        return self if dtype is None else self._convert(dtype)

    # -------------------------------------------------------------- the three ways to call it

    def forward(
        self, images: Tensor, rois: Tensor | None = None, roi_idx: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the heads' predictions for each region.

        Parameters
        ----------
        images : Tensor of shape (N, 3, H, W)
            Normalized pixels.
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

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above.
        """
        instance("images", images, Tensor, "a Lucid tensor of shape (N, 3, H, W): predict takes paths and images")
        transforms.check_normalized(images, self.config.image)
        batch = transforms.pad(images, self.config.image.size_divisor)
        features = self._features(batch.tensor)
        if rois is None:
            with ops.no_grad():
                proposals = self.rpn.filter_proposals(self.rpn(features), batch.sizes, training=False)
            rois, roi_idx = concat_rois(proposals)
        rois, roi_idx = _check_rois(rois, roi_idx, batch.tensor)
        cls_logits, bbox_deltas = self._box_head(features, rois, roi_idx)
        mask_logits = self._mask_logits(features, rois, roi_idx)
        self._begin(cls_logits, bbox_deltas, mask_logits)
        return cls_logits, bbox_deltas, mask_logits

    def predict(
        self,
        images: Any,
        *,
        score_thresh: float = 0.05,
        nms_thresh: float | None = None,
        top_k: int | None = None,
        mask_thresh: float = 0.5,
        classes: str | int | Sequence[str | int] | None = None,
        class_agnostic_nms: bool = False,
        mask_nms: bool = False,
        keep_image: bool = True,
        batch_size: int = 1,
        page: int | str | None = None,
        channels: int | Sequence[int] | None = None,
        intensity: str | Sequence[float] | None = None,
    ) -> Predictions:
        """Find the objects in images; training mode makes no difference.

        Parameters
        ----------
        images : Tensor, path, PIL image, uint8 array, or list of those
            A tensor (N, 3, H, W) or (3, H, W), or a list of tensors (3, H, W), is taken as it is: resized and
            normalized with mean and deviation, not only scaled to [0, 1]. A path, a PIL image or a uint8 array
            (H, W, 3), RGB, or a list of those of any sizes, is resized, normalized and padded. A path may be a URL that
            fsspec knows, such as ``"s3://bucket/a.png"`` (extra ``storage``).
        score_thresh : float
            Detections have a higher score than this.
        nms_thresh : float, optional
            Of two detections of a class with a greater IoU, the one with the lower score is dropped; by default the
            model's own number, ``config.heads.nms_thresh`` (0.5 in torchvision).
        top_k : int, optional
            At most so many detections per image; by default the model's own number, ``config.heads.top_k`` (100 in
            torchvision).
        mask_thresh : float
            Pixels of a mask have a higher probability than this.
        classes : str, int, or sequence of them, optional
            Names or labels of the classes to find, as if the model knew no others: ``top_k`` counts only these. By
            default all.
        class_agnostic_nms : bool
            Whether detections of different classes suppress each other, too: one object, one label.
        mask_nms : bool
            Whether ``nms_thresh`` is the IoU of masks, so that objects that cross or lie aslant beside each other are
            both kept. Boxes are then suppressed only above (1 + ``nms_thresh``) / 2.
        keep_image : bool
            Whether the detections carry a copy of their image, for ``draw`` and notebooks.
        batch_size : int
            So many images of a list go through the network together, padded to the largest of them, which can change
            scores near a threshold: one by one, as by default, the answer for an image does not depend on the others. A
            tensor (N, 3, H, W) is one batch.
        page : int or "all", optional
            Of files with several pages, counted from 0; ``"all"`` takes each page as an image of its own. By default
            such files are refused.
        channels : int or sequence of int, optional
            One or three of an image's channels, counted from 0. By default it must have one or three, or be RGBA.
        intensity : "full", "max" or (float, float), optional
            How more than 8 bits become 8: what becomes white, the largest value of the type or of the image, or the
            percentiles that become black and white. By default as in training, ``config.image.intensity``, or "full".
            See "Images that are read" in the documentation.

        Returns
        -------
        Predictions
            A list of :class:`~lucid_maskrcnn.detections.Detections`, one per image, in that image's own pixels (for
            tensors: the tensor's), best first.

        Raises
        ------
        FileNotFoundError, ValueError, TypeError
            If an image cannot be read, or an argument is not as above.

        Warns
        -----
        UserWarning
            If a tensor has not been normalized. And once a call, with the numbers and what to set, if objects may be
            missing: there are more detections than ``top_k``, ``image.max_size`` shrinks an image below the scale that
            the weights were trained at, or the last proposal that ``rpn`` keeps still looks like an object.
        """
        options = self.predict_options(
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            top_k=top_k,
            mask_thresh=mask_thresh,
            classes=classes,
            class_agnostic_nms=class_agnostic_nms,
            mask_nms=mask_nms,
            keep_image=keep_image,
            batch_size=batch_size,
            page=page,
            channels=channels,
            intensity=intensity,
        )
        images, check = self._check_images(images, self.config.image)
        limits = Limits()
        detections = Predictions()
        with ops.no_grad():
            for batch in [images] if isinstance(images, Tensor) else _split(images, options.batch_size):
                detections += self._predict_batch(batch, check, options, limits)
                limits.first = len(detections)
        limits.warn()
        return Predictions(d.clipped() for d in detections) if self.config.image.clip_restored else detections

    def _predict_batch(
        self,
        images: Tensor | Sequence[Any],
        check: transforms.InputCheck,
        options: PredictOptions,
        limits: Limits,
    ) -> list[Detections]:
        batch, originals = self._prepare(images, self.config.image, limits, options.read)  # (N, 3, H, W)
        features = self._features(batch.tensor)  # L maps (N, C, h, w)
        proposals = self.rpn.propose(self.rpn(features), batch.sizes, training=False)  # (R, 4)
        # A gpu is waited for here, for the numbers of detections: the mask head's batch depends on them.
        proposals, found = self._detect(features, proposals, batch.sizes, options.of_boxes)  # n boxes of each image
        check.finish()
        mask_probs = self._mask_probs(features, found)  # (n, M, M) of each image
        limits.add_proposals(proposals, self.config.rpn)
        # From pixels of the network's input to those of the images as they were given.
        sizes = zip(batch.sizes, batch.original_sizes, strict=True)
        boxes = [transforms.resize_boxes(f.boxes, *size) for f, size in zip(found, sizes, strict=True)]
        scores, labels = [f.scores for f in found], [f.labels for f in found]
        ops.evaluate(t.data for t in (*boxes, *scores, *labels, *mask_probs, *limits.objectness))  # a gpu's second wait
        detections = [
            Detections(
                *columns,
                batch.original_sizes[i],
                categories=self.categories,
                mask_thresh=options.mask_thresh,
                snap_masks=self.config.heads.snap_masks,
                image=originals[i] if options.keep_image else None,
            )
            for i, columns in enumerate(zip(boxes, scores, labels, mask_probs, strict=True))
        ]
        counts = [f.num_before_top_k for f in found]
        if options.mask_nms:
            detections, counts = options.suppress(detections)
        limits.add_detections(counts, options.top_k)
        return detections

    def get_loss(
        self,
        images: Any,
        targets: Sequence[Mapping[str, Any]],
        *,
        image_config: ImageConfig | None = None,
        loss_weights: Mapping[str, float] | None = None,
        class_weights: Mapping[str | int, float] | None = None,
    ) -> MaskRCNNLosses:
        """Return the training losses; ``["total_loss"].backward()`` computes the gradients.

        Batch norm and dropout behave as the module's mode says (``train()`` or ``eval()``).

        Parameters
        ----------
        images
            As for :meth:`predict`.
        targets : sequence of mappings
            One per image, with ``"boxes"`` (G, 4), ``"labels"`` (G,) from 1 to ``num_classes`` and
            ``"masks"`` (G, H, W), in pixels of the image as it was given. ``G = 0`` is an image without
            objects. Masks may also be :class:`~lucid_maskrcnn.CompressedMasks` or a list of COCO's
            run-length encodings or polygons, of which only what the regions cut out is ever decoded.
        image_config : ImageConfig, optional
            How images are resized and normalized in place of ``config.image``, to train at another size.
        loss_weights : mapping of str to float, optional
            Factors of the losses by their names below, such as ``{"mask_loss": 2.0}``; others have 1.
        class_weights : mapping of str or int to float, optional
            What a region of a class counts in ``roi_cls_loss``, by name or label, such as ``{"mitosis": 4.0}``; others
            have 1, and so has what is no object, ``"background"`` or 0. The loss is the weighted mean, as PyTorch's
            ``CrossEntropyLoss(weight=…)``.

        Returns
        -------
        dict
            0-d tensors ``rpn_cls_loss``, ``rpn_reg_loss``, ``roi_cls_loss``, ``roi_reg_loss``,
            ``mask_loss``, each times its factor, and their sum ``total_loss``.

        Raises
        ------
        FileNotFoundError, ValueError, TypeError
            If an image or a target is not as above, or the model is in half precision, which is for prediction;
            nothing has been computed then.
        """
        if self.dtype != "float32":
            raise ValueError(
                f"get_loss needs a model in float32, got one in {self.dtype}, where gradients underflow: call "
                "model.float() first."
            )
        if image_config is None:
            image_config = self.config.image
        instance("image_config", image_config, ImageConfig, "an ImageConfig")
        factors = check_loss_weights("loss_weights", loss_weights)
        row = class_weight_row("class_weights", class_weights, self.categories, self.num_classes)
        images, check = self._check_images(images, image_config)
        batch, _ = self._prepare(images, image_config)
        objects = self._check_targets(targets, batch)
        statistics = [(buffer, buffer.data) for buffer in self.buffers()]
        with ops.recording():
            losses = self._losses(batch, objects, factors, row)
        self._begin(*losses.values())
        try:
            check.finish()
        except ValueError:
            for buffer, before in statistics:  # of batch norm, which have seen the wrong image
                buffer.data = before
            raise
        return losses

    # -------------------------------------------------------------- their steps

    def _begin(self, *results: Tensor) -> None:
        """Begin to compute on gpu what outlives a call: MLX does so only in the thread that described it.

        With it the statistics of batch norm, and parameters that a loop of the user's has updated: what nothing asks
        for would be described at greater and greater length, and keep the arrays of all steps alive.
        """
        if self.device == "gpu":
            ops.begin(t.data for t in (*results, *self.buffers(), *self.parameters()))

    def _losses(
        self,
        batch: transforms.ImageBatch,
        objects: list[Target],
        loss_weights: Mapping[str, float],
        class_weights: Sequence[float] | None,
    ) -> MaskRCNNLosses:
        features = self._features(batch.tensor)  # L maps (N, C, h, w)
        rpn = self.rpn(features)  # objectness and deltas of all anchors
        proposed = self.rpn.propose(rpn, batch.sizes, training=True)  # constants
        # Matching and sampling are the host's on either device: same boxes and random numbers give the same samples. A
        # gpu computes the proposals meanwhile, and is waited for once, when they are read.
        ops.begin(t.data for t in (*features.maps, rpn.objectness, rpn.deltas, proposed.boxes))
        anchors = self.rpn.label_and_sample_anchors(self.rpn.anchor_generator.on_cpu(features), objects)
        proposals = proposed.on_cpu()
        samples = self.roi_sampler.select_training_samples(proposals, objects)
        anchors, samples = anchors.on_device_of(batch.tensor), samples.on_device_of(batch.tensor)
        predictions = self._sample_predictions(features, samples, len(objects))
        row = (
            None if class_weights is None else ops.as_tensor(class_weights, batch.tensor, ops.dtype_name(batch.tensor))
        )
        return self.loss(rpn, anchors, *predictions, samples, loss_weights, row)

    def _sample_predictions(
        self, features: FeatureMaps, samples: RoISamples, num_images: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return cls_logits (R, K + 1), bbox_deltas (R, 4 · K), and mask_logits of at least P rows, the first ones.

        A gpu plans convolutions for each shape: their batches are padded, unless a norm takes statistics over them.
        """
        boxes: tuple[Tensor, ...] = (samples.rois, samples.roi_idx)
        if self.box_convs is not None and not self.box_convs.live:
            boxes = ops.padded_rows(*boxes, rows=num_images * self.config.heads.batch_size)
        count = samples.rois.shape[0]
        cls_logits, bbox_deltas = (ops.first_rows(x, count) for x in self._box_head(features, *boxes))
        positives = (samples.positive_rois, samples.positive_roi_idx, samples.positive_class)
        if not self.mask_head.live:
            positives = ops.padded_rows(*positives)
        return cls_logits, bbox_deltas, self._mask_logits(features, *positives)

    def _check_images(self, images: Any, config: ImageConfig) -> tuple[Tensor | list[Any], transforms.InputCheck]:
        """Return images as a list, or as the one tensor that is a batch, and the check of their values."""
        if isinstance(images, (list, tuple)) and len(images) == 1 and isinstance(images[0], Tensor):
            images = images[0] if images[0].ndim == 4 else images
        several = [images] if not isinstance(images, (list, tuple)) else list(images)
        if not several:
            raise ValueError("images must be at least one, got an empty list.")
        if not any(isinstance(i, Tensor) for i in several):
            for i, image in enumerate(several):
                check_source(f"images[{i}]" if isinstance(images, (list, tuple)) else "images", image)
            return several, transforms.InputCheck([], config)
        if not all(isinstance(i, Tensor) for i in several):
            raise TypeError("images must be all tensors or all paths, PIL images and arrays, got both in one list.")
        check = transforms.InputCheck(images, config)
        return images if isinstance(images, Tensor) else several, check

    def _prepare(
        self,
        images: Tensor | Sequence[Any],
        config: ImageConfig,
        limits: Limits | None = None,
        read: Mapping[str, Any] | None = None,
    ) -> tuple[transforms.ImageBatch, list[Any]]:
        """Return the network's batch of checked images, and the images that it was made of (None for tensors)."""
        if isinstance(images, Tensor) or (images and isinstance(images[0], Tensor)):
            batch = transforms.pad(images, config.size_divisor)
            return batch, [None] * len(batch.sizes)
        read = dict(read or {})
        if read.get("intensity") is None:
            read["intensity"] = config.intensity
        pixels = [page for image in images for page in load_pages(image, **read)]
        batch = transforms.prepare(pixels, config, self.device)
        if limits is not None:
            limits.add_sizes(batch.original_sizes, batch.sizes, config)
        return batch, pixels

    def _check_targets(self, targets: Any, batch: transforms.ImageBatch) -> list[Target]:
        if isinstance(targets, Mapping):
            raise TypeError("targets must be a list of mappings, one per image, got a mapping: put it in a list.")
        if not isinstance(targets, (list, tuple)):
            raise TypeError(f"targets must be a list of mappings, one per image, got {shown(targets)}.")
        if len(targets) != len(batch.sizes):
            raise ValueError(f"targets must have one entry per image, got {len(targets)} for {len(batch.sizes)}.")
        checked = [
            Target.from_mapping(target, index=i, image_size=size, num_classes=self.num_classes)
            for i, (target, size) in enumerate(zip(targets, batch.original_sizes, strict=True))
        ]
        return [t if size == t.image_size else t.resized(size) for t, size in zip(checked, batch.sizes, strict=True)]

    def _features(self, images: Tensor) -> FeatureMaps:
        """Return the feature maps of a batch."""
        config = self.config
        if images.shape[0] == 0:
            raise ValueError(f"images must be at least one, got a tensor of shape {tuple(images.shape)}.")
        if images.device != self.device:
            raise ValueError(f"images must be on the model's device, {self.device}, got a tensor on {images.device}.")
        out = ops.compiled(self.backbone, images)
        maps = list(out) if isinstance(out, (list, tuple)) else [out]
        if config.use_fpn != isinstance(out, (list, tuple)) or not all(isinstance(m, Tensor) for m in maps):
            kind = "a list of feature maps" if config.use_fpn else "one feature map"
            raise TypeError(f"backbone must return {kind} with use_fpn={config.use_fpn}, got {type(out).__name__}.")
        for feature_map in maps:
            if feature_map.ndim != 4 or feature_map.shape[1] != config.feat_channels:
                raise ValueError(
                    f"feat_channels is {config.feat_channels}, but the backbone returned a feature map of shape "
                    f"{tuple(feature_map.shape)}."
                )
        return FeatureMaps(maps, (images.shape[2], images.shape[3]))

    def _box_head(self, features: FeatureMaps, rois: Tensor, roi_idx: Tensor) -> tuple[Tensor, Tensor]:
        """Return cls_logits (R, K + 1) and bbox_deltas (R, 4 · K)."""
        pooled = self.roipool(features, rois, roi_idx)  # (R, C, h, w)
        if self.box_convs is not None:
            pooled = self.box_convs(pooled)
        hidden = self.drop1(self.fc1(ops.flatten(pooled), relu=True))  # (R, hidden_dim)
        if self.fc2 is not None:
            hidden = self.drop2(self.fc2(hidden, relu=True))
        return ops.cast(self.cls_score(hidden), "float32"), ops.cast(self.bbox_pred(hidden), "float32")

    def _mask_logits(
        self, features: FeatureMaps, rois: Tensor, roi_idx: Tensor, classes: Tensor | None = None
    ) -> Tensor:
        """Return (R, K, M, M), or with ``classes`` (R,) those of each region's own class: (R, 1, M, M)."""
        return ops.cast(self.mask_head(self.mask_roipool(features, rois, roi_idx), classes), "float32")

    def _detect(
        self,
        features: FeatureMaps,
        proposals: ops.Proposals,
        sizes: list[tuple[int, int]],
        thresholds: Mapping[str, Any],
    ) -> tuple[ops.Proposals, list[BoxDetections]]:
        """Return the proposals, settled, and each image's detections in pixels of the network's input."""
        predictions = self._box_head(features, proposals.boxes, proposals.roi_idx)
        found = postprocess_detections(*predictions, proposals, sizes, self.config.heads, **thresholds)
        if found is None:
            return self._detect(features, proposals.again(), sizes, thresholds)
        return proposals, found

    def _mask_probs(self, features: FeatureMaps, found: list[BoxDetections]) -> list[Tensor]:
        """Return each image's mask probabilities, (n, M, M), of the detections' own classes."""
        boxes = [f.boxes for f in found]
        classes = ops.concat([f.labels for f in found]) - 1
        logits = self._mask_logits(features, *ops.padded_rows(*concat_rois(boxes), classes))  # (R, 1, M, M)
        return split_per_image(ops.sigmoid(logits.reshape(-1, *logits.shape[2:])), boxes)


def _split(images: Sequence[Any], batch_size: int) -> list[Sequence[Any]]:
    """Return a list in parts of so many images; an empty one is one part."""
    return [images[i : i + batch_size] for i in range(0, max(len(images), 1), batch_size)]


def _numbers(name: str, values: Any, kinds: tuple[str, ...]) -> Any:
    """Return a tensor, or an array of what else there is, whose element type begins with one of the ``kinds``."""
    if not isinstance(values, Tensor):
        values = numeric_array(name, values, "a tensor or array of numbers")
    dtype = ops.dtype_name(values) if isinstance(values, Tensor) else str(values.dtype)
    if not dtype.removeprefix("u").startswith(kinds) and values.size:
        raise TypeError(f"{name} must be {'numbers' if 'float' in kinds else 'integers'}, got {dtype}.")
    return values


def _check_rois(rois: Any, roi_idx: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(rois, Mapping) or (isinstance(rois, (list, tuple)) and any(isinstance(r, Mapping) for r in rois)):
        raise TypeError("rois must be boxes of shape (R, 4), got mappings: for losses call get_loss(images, targets).")
    rois = ops.as_tensor(_numbers("rois", rois, ("float", "int")), images, "float32")
    if rois.ndim != 2 or rois.shape[1] != 4:
        raise ValueError(f"rois must have shape (R, 4), got {tuple(rois.shape)}.")
    num_images = images.shape[0]
    if roi_idx is None:
        if num_images != 1:
            raise ValueError(f"roi_idx must say which of the {num_images} images each RoI is in, got None.")
        return rois, ops.full(rois.shape[0], 0, rois)
    roi_idx = ops.as_tensor(_numbers("roi_idx", roi_idx, ("int",)), images, "int32")  # the operators check its range
    if tuple(roi_idx.shape) != (rois.shape[0],):
        raise ValueError(f"roi_idx must have shape ({rois.shape[0]},), one per RoI, got {tuple(roi_idx.shape)}.")
    return rois, roi_idx
