"""The configuration of a model: one typed, validated object from a file's header to the modules.

:class:`ModelConfig` holds all that builds a Mask R-CNN, with its parts :class:`ImageConfig`, :class:`RPNConfig`,
:class:`HeadConfig` and :class:`BackboneConfig`. Their fields have the names of the constructors' keyword arguments and
are checked when the object is made. :data:`TORCHVISION` and :data:`DETECTRON2` are the conventions that published
weights were trained with, :data:`ARCHITECTURES` the models that have a factory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.reprs import brief, described
from lucid_maskrcnn.validators import (
    Check,
    check_keywords,
    choice,
    flag,
    fraction,
    fraction_below_one,
    instance,
    integer,
    intensity_rule,
    non_negative_int,
    non_negative_number,
    optional,
    pair,
    positive_int,
    positive_number,
    sequence,
    shown,
    text,
)

__all__ = [
    "ARCHITECTURES",
    "CONFIG_VERSION",
    "DETECTRON2",
    "TORCHVISION",
    "VIEW_SCORE",
    "BackboneConfig",
    "Category",
    "CategoryNames",
    "Conventions",
    "HeadConfig",
    "ImageConfig",
    "ModelConfig",
    "RPNConfig",
    "anchor_levels",
    "architecture_of",
    "config_from_version_0",
    "conventions_of",
    "make_categories",
]

CONFIG_VERSION = 2  #: of :meth:`ModelConfig.to_dict`
VIEW_SCORE = 0.5  #: the score from which on detections are shown to people, unless they ask for others

_ANY_AREA = 2.0**-126  # the smallest normal float32: any side but one of length 0
# No model needs more; a file's header that asks for more is damaged or hostile.
_MAX_SIDE = 100_000  # pixels
_MAX_COUNT = 1_000_000  # boxes, classes
_MAX_CHANNELS = 65_536
_MAX_SIZES = 64  # anchor sizes of a level
_PYRAMID_LEVELS = 5  # P2 … P6
MAX_CELLS = 256  # of pooled features, and samples of a bin


def _setting[T](default: T, check: Check[Any]) -> T:
    """Return a field with its default, and the check that its values pass."""
    made: T = field(default=default, metadata={"check": check})
    return made


def _required(check: Check[Any]) -> Any:
    return field(metadata={"check": check})


_size = partial(positive_int, maximum=_MAX_SIDE)
_count = partial(positive_int, maximum=_MAX_COUNT)
_channels = partial(positive_int, maximum=_MAX_CHANNELS)
_cells = partial(pair, check=partial(positive_int, maximum=MAX_CELLS))
_norm = partial(choice, options=("frozen", "batch"))


def _factor(name: str, value: Any, wanted: str) -> float:
    factor = positive_number(name, value)
    if not 1e-3 <= factor <= 1e3:
        raise ValueError(f"{name} must be {wanted} from 0.001 to 1000, got {shown(value)}.")
    return factor


_scale = partial(_factor, wanted="a number above 0,")
_aspect_ratio = partial(_factor, wanted="height over width")


def _depth(name: str, value: Any) -> int:
    return choice(name, integer(name, value), (18, 50, 101))


@answers_wrong_calls
class _Config:
    """What all parts of a configuration do: check their fields, and turn into JSON values and back."""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, f.metadata["check"](f.name, getattr(self, f.name)))
        self._check_relations()

    def _check_relations(self) -> None:
        """Raise where two fields contradict each other."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build it from JSON values; fields that are not named have their defaults.

        Raises
        ------
        TypeError, ValueError
            If a key is unknown, and then with the nearest known one, or a value is not what its field holds.
        """
        instance("values", values, Mapping, f"a mapping of the fields of {cls.__name__}")
        check_keywords(cls.__name__, map(str, values), [f.name for f in fields(cls)])  # type: ignore[arg-type]
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, _Config):
        return value.to_dict()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _part[C: _Config](kind: type[C], called: str) -> Check[C]:
    """Return the check of a field that is a configuration itself; a mapping names what is not the default."""

    def check(name: str, value: Any) -> C:
        if isinstance(value, Mapping):
            try:
                return kind.from_dict(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from error
        return instance(name, value, kind, f"{called} or a mapping of its fields")

    return check


# ------------------------------------------------------------------ the parts


@answers_wrong_calls
@dataclass(frozen=True)
class ImageConfig(_Config):
    """How images become the network's input; the defaults are torchvision's.

    Attributes
    ----------
    min_size, max_size : int
        The short side becomes ``min_size`` pixels, unless the long side would exceed ``max_size``.
    scale : float, optional
        Both sides are multiplied by this instead of bringing the short one to ``min_size``; ``max_size`` holds. Objects
        in photographs have any size, but a microscope's pixels have a fixed one: there a smaller image shows less of
        the sample, not the same from further away.
    pixel_mean, pixel_std : tuple of float
        Per channel (red, green, blue), of pixel values in [0, 1].
    size_divisor : int
        A batch is padded with zeros, at the right and below, to multiples of this.
    bgr : bool
        Whether the network takes blue, green, red. Images and the two settings above are always red, green, blue;
        only tensors, which are taken as they are, must be in the network's order.
    antialias : bool
        Whether images are resized by Pillow, which averages where it shrinks and rounds to whole values, to sides
        that are rounded to the nearest integer; or interpolated as floats, to sides that are rounded down.
    clip_restored : bool
        Whether boxes are clipped, and empty ones dropped, once more in the original image.
    intensity : "full", "max" or (float, float), optional
        How more than 8 bits became 8 in training, see :func:`~lucid_maskrcnn.images.load_image`; predictions
        follow it unless they are told otherwise. None is "full", with a warning where that makes an image dark.

    Raises
    ------
    TypeError, ValueError
        If a field is not as above, or ``min_size`` is greater than ``max_size``.
    """

    min_size: int = _setting(800, _size)
    max_size: int = _setting(1333, partial(positive_int, maximum=2**31 - 1))
    scale: float | None = _setting(None, optional(_scale))
    pixel_mean: tuple[float, float, float] = _setting(
        (0.485, 0.456, 0.406), partial(sequence, check=non_negative_number, length=3)
    )
    pixel_std: tuple[float, float, float] = _setting(
        (0.229, 0.224, 0.225), partial(sequence, check=positive_number, length=3)
    )
    size_divisor: int = _setting(32, partial(positive_int, maximum=4096))
    bgr: bool = _setting(False, flag)
    antialias: bool = _setting(False, flag)
    clip_restored: bool = _setting(False, flag)
    intensity: str | tuple[float, float] | None = _setting(None, optional(intensity_rule))

    def _check_relations(self) -> None:
        if self.scale is None and self.min_size > self.max_size:
            raise ValueError(
                f"min_size must be at most max_size, got min_size={self.min_size} and max_size={self.max_size}: "
                "set both."
            )
        for name in ("pixel_mean", "pixel_std"):
            if max(getattr(self, name)) > 1:
                raise ValueError(
                    f"{name} must be of pixel values in [0, 1], got {getattr(self, name)}: divide values for "
                    "pixels of 0 to 255 by 255."
                )


@answers_wrong_calls
@dataclass(frozen=True)
class RPNConfig(_Config):
    """The region proposal network (Ren et al. 2015, section 3.1); the defaults are torchvision's.

    Attributes
    ----------
    pre_nms_top_n, post_nms_top_n : int
        Proposals kept per level before, and per image after, non-maximum suppression at prediction.
    pre_nms_top_n_train, post_nms_top_n_train : int
        The same in training.
    nms_thresh : float
        Of two proposals of a level with a greater IoU, the one with the lower score is dropped.
    min_size : float
        Proposals with a shorter side than this, in pixels of the network's input, are dropped.
    by_logits : bool
        Whether proposals are ranked by their logits, or by the probabilities, which tie where large ones round to 1.
    finite_only : bool
        Whether proposals that are not finite are dropped before anything else.
    whole_pixels : bool
        Whether the anchors' corners around a position are rounded to whole pixels.
    nominal_strides : bool
        Whether the anchors of a map step by its power of two, or by the input's size divided by the map's, rounded
        down.
    sizes_first : bool
        Whether the anchors of a position, where a map has several sizes, are ordered by size and then by ratio, or by
        ratio and then by size.
    foreground_iou, background_iou : float
        An anchor is positive if its IoU is at least the first, negative if it is below the second, and ignored
        between the two.
    batch_size, positive_fraction : int, float
        Anchors sampled per image for the loss, and the largest fraction of positive ones.

    Raises
    ------
    TypeError, ValueError
        If a field is not as above, or ``background_iou`` is greater than ``foreground_iou``.
    """

    pre_nms_top_n: int = _setting(1000, _count)
    post_nms_top_n: int = _setting(1000, _count)
    pre_nms_top_n_train: int = _setting(2000, _count)
    post_nms_top_n_train: int = _setting(2000, _count)
    nms_thresh: float = _setting(0.7, fraction)
    min_size: float = _setting(1e-3, non_negative_number)
    by_logits: bool = _setting(False, flag)
    finite_only: bool = _setting(False, flag)
    whole_pixels: bool = _setting(True, flag)
    nominal_strides: bool = _setting(False, flag)
    sizes_first: bool = _setting(False, flag)
    foreground_iou: float = _setting(0.7, fraction)
    background_iou: float = _setting(0.3, fraction)
    batch_size: int = _setting(256, _count)
    positive_fraction: float = _setting(0.5, fraction)

    def _check_relations(self) -> None:
        if self.background_iou > self.foreground_iou:
            raise ValueError(
                f"background_iou must be at most foreground_iou, got background_iou={self.background_iou} and "
                f"foreground_iou={self.foreground_iou}."
            )


@answers_wrong_calls
@dataclass(frozen=True)
class HeadConfig(_Config):
    """The box and mask heads (He et al. 2017, section 3; Girshick 2015); the defaults are torchvision's.

    Attributes
    ----------
    sampling_ratio, aligned : int, bool
        RoIAlign's samples per bin and axis (0: as many as the bin has cells, rounded up), and whether boxes are
        shifted by half a cell, so that a cell's value belongs to its center; mask targets are cut out likewise.
    box_weights : tuple of float
        Factors of the regression targets (dx, dy, dw, dh).
    foreground_iou : float
        A RoI with at least this IoU with an object is trained as that object, else as background.
    batch_size, positive_fraction : int, float
        RoIs sampled per image for the loss, and the largest fraction of positive ones.
    min_size : float
        Detections with a shorter side than this, in pixels of the network's input, are dropped.
    nms_thresh : float
        Of two detections of a class whose boxes have a greater IoU, the one with the lower score is dropped, unless
        ``predict`` is told otherwise.
    top_k : int
        Detections returned per image, unless ``predict`` is told otherwise.
    finite_only : bool
        Whether RoIs with a prediction that is not finite are dropped before anything else.
    level_margin : (float, float)
        Added to √area / 224 before, and to its logarithm after it is taken, so that a box on the border between two
        levels of the pyramid is assigned to the coarser one.
    snap_masks : bool
        Whether masks are pasted into boxes of whole pixels, or sampled at the center of each pixel.

    Raises
    ------
    TypeError, ValueError
        If a field is not as above.
    """

    sampling_ratio: int = _setting(2, partial(non_negative_int, maximum=MAX_CELLS))
    aligned: bool = _setting(False, flag)
    box_weights: tuple[float, float, float, float] = _setting(
        (10.0, 10.0, 5.0, 5.0), partial(sequence, check=positive_number, length=4)
    )
    foreground_iou: float = _setting(0.5, fraction)
    batch_size: int = _setting(512, _count)
    positive_fraction: float = _setting(0.25, fraction)
    min_size: float = _setting(1e-2, non_negative_number)
    nms_thresh: float = _setting(0.5, fraction)
    top_k: int = _setting(100, partial(non_negative_int, maximum=_MAX_COUNT))
    finite_only: bool = _setting(False, flag)
    level_margin: tuple[float, float] = _setting((0.0, 1e-6), partial(sequence, check=fraction, length=2))
    snap_masks: bool = _setting(True, flag)


@answers_wrong_calls
@dataclass(frozen=True)
class BackboneConfig(_Config):
    """A ResNet with a feature pyramid.

    Attributes
    ----------
    depth : {18, 50, 101}
        Layers of the ResNet.
    width : int
        Channels of its stem; 64 in the paper. The stages follow.
    out_channels : int
        Channels of every level of the pyramid; 256 in the paper.
    norm : {"frozen", "batch"}
        Constant batch norm in the ResNet, for pretrained weights, or live, for training from scratch.
    fpn_norm : {"frozen", "batch"}, optional
        Batch norm after the pyramid's convolutions; none in the paper.
    norm_eps : float
        Added to the variances of batch norm.
    stride_in_1x1 : bool
        Whether a stage's first bottleneck strides in its first 1×1 convolution (the paper's and detectron2's weights)
        or in its 3×3 one (torchvision's).

    Raises
    ------
    TypeError, ValueError
        If a field is not as above.
    """

    depth: int = _setting(50, _depth)
    width: int = _setting(64, partial(positive_int, maximum=1024))
    out_channels: int = _setting(256, _channels)
    norm: str = _setting("frozen", _norm)
    fpn_norm: str | None = _setting(None, optional(_norm))
    norm_eps: float = _setting(1e-5, fraction_below_one)
    stride_in_1x1: bool = _setting(False, flag)


class Category(NamedTuple):
    """A category: the model's label (1, 2, …), its name, and its id in the data set that it was trained on."""

    label: int
    name: str
    id: int


class CategoryNames(dict[int, str]):
    """Names of a model's labels, as a dict, and the data set's id of each.

    Data sets, models and detections hand it on, so that what is found is written with the ids of the data set that
    the model was trained on.

    Parameters
    ----------
    names : mapping of int to str
        Label, from 1 -> name.
    ids : mapping of int to int, optional
        By default each label is its own id.

    Attributes
    ----------
    ids : dict of int to int
        Label -> the id in the data set.
    """

    def __init__(self, names: Mapping[int, str], ids: Mapping[int, int] | None = None) -> None:
        super().__init__(names)
        self.ids = {label: label if ids is None else ids.get(label, label) for label in names}

    @classmethod
    def of(cls, categories: Any) -> CategoryNames | None:
        """Return categories of any form that :func:`make_categories` takes; None stays None."""
        return None if categories is None else cls._of_rows(make_categories(categories))

    @classmethod
    def _of_rows(cls, rows: tuple[Category, ...]) -> CategoryNames:
        return cls({c.label: c.name for c in rows}, {c.label: c.id for c in rows})


def _are_triples(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(row, (list, tuple)) and len(row) == 3 for row in value)


@answers_wrong_calls
def make_categories(categories: Any, ids: Mapping[int, int] | None = None) -> tuple[Category, ...]:
    """Return categories, ordered by label.

    Parameters
    ----------
    categories : mapping of int to str, or sequence of (label, name, id)
        Names of the labels.
    ids : mapping of int to int, optional
        The data set's id of each label; by default those of :class:`CategoryNames`, or else the label itself.

    Raises
    ------
    TypeError, ValueError
        If labels are not distinct positive integers or names not strings.
    """
    if categories is None:
        return ()
    if isinstance(categories, Mapping):
        known = categories.ids if isinstance(categories, CategoryNames) else {}
        own_ids = instance("ids", known if ids is None else ids, Mapping, "a mapping of labels to ids")
        rows = [(label, name, own_ids.get(label, label)) for label, name in categories.items()]
    elif isinstance(categories, (list, tuple)) and all(
        isinstance(c, (list, tuple)) and len(c) == 3 for c in categories
    ):
        rows = [(label, name, number) for label, name, number in categories]
    else:
        raise TypeError(
            f"categories must map labels to names, such as {{1: 'cell', 2: 'nucleus'}}, got {shown(categories)}."
        )
    made = [
        Category(positive_int("a label of categories", n), text(f"the name of category {n}", s), integer("an id", i))
        for n, s, i in rows
    ]
    labels = [c.label for c in made]
    if len(set(labels)) < len(labels):
        raise ValueError(f"categories must have distinct labels, got {shown(labels)}.")
    if len({c.id for c in made}) < len(made):
        raise ValueError(f"categories must have distinct ids, got {shown([c.id for c in made])}.")
    return tuple(sorted(made))


# ------------------------------------------------------------------ the whole


def _check_anchor_sizes(name: str, value: Any) -> tuple[Any, ...]:
    """Return sides: a number each, or a group of them for each level."""

    def side_or_sides(inner: str, v: Any) -> Any:
        if isinstance(v, (list, tuple)) or (hasattr(v, "ndim") and v.ndim == 1):
            return sequence(inner, v, _anchor_side, minimum=1)
        return _anchor_side(inner, v)

    checked = sequence(name, value, side_or_sides, minimum=1)
    most = max(len(checked), *(len(entry) for entry in checked if isinstance(entry, tuple)), 1)
    if most > _MAX_SIZES:
        raise ValueError(f"{name} must have at most {_MAX_SIZES} sizes for a level, got {most}.")
    return checked


@answers_wrong_calls
def anchor_levels(anchor_sizes: Any, *, per_level: bool) -> list[tuple[float, ...]]:
    """Return the sides of the anchors on each feature map.

    Parameters
    ----------
    anchor_sizes : sequence
        With ``per_level`` one entry for each map, a number or several; else numbers, all of them on the one map.
    per_level : bool
        Whether there are several maps.

    Raises
    ------
    TypeError, ValueError
        If they are not positive numbers, or not equally many on each map.
    """
    flag("per_level", per_level)
    checked = _check_anchor_sizes("anchor_sizes", anchor_sizes)
    if not per_level:
        if any(isinstance(entry, tuple) for entry in checked):
            raise ValueError(
                f"anchor_sizes must be numbers where the backbone returns one feature map, got {shown(checked)}."
            )
        return [checked]
    levels = [entry if isinstance(entry, tuple) else (entry,) for entry in checked]
    if len({len(level) for level in levels}) > 1:
        raise ValueError(f"anchor_sizes must name equally many sizes for every level, got {shown(checked)}.")
    return levels


def _anchor_side(name: str, value: Any) -> float:
    side = positive_number(name, value)
    if side > _MAX_SIDE:
        raise ValueError(f"{name} must be at most {_MAX_SIDE} pixels, got {shown(value)}.")
    return side


def _categories(name: str, value: Any) -> tuple[Category, ...]:
    return make_categories(value)


@answers_wrong_calls
@dataclass(frozen=True)
class ModelConfig(_Config):
    """All that builds a Mask R-CNN. Fields have the names of :class:`~lucid_maskrcnn.MaskRCNN`'s arguments.

    Attributes
    ----------
    num_classes : int
        Classes without background; torchvision counts it, here it is not counted.
    feat_channels : int
        Channels of the feature maps.
    use_fpn, anchor_sizes, aspect_ratios, anchor_stride, pool_size, hidden_dim, dropout, mask_pool_size, \
mask_hidden_channels, mask_out_size, pooled_levels, rpn_convs, box_convs, head_norm
        See :class:`~lucid_maskrcnn.MaskRCNN`.
    image : ImageConfig
        How images are scaled and normalized.
    rpn : RPNConfig
        Numbers of the region proposal network.
    heads : HeadConfig
        Where a mapping is given it names what is not torchvision's.
    categories : tuple of Category
        May be given as a mapping of labels to names.
    backbone : BackboneConfig or None
        None for a backbone that is not a ResNet-FPN of this package: such a model cannot be rebuilt from its file.

    Raises
    ------
    TypeError, ValueError
        If a field is not as above, or two contradict each other.
    """

    num_classes: int = _required(_count)
    feat_channels: int = _setting(256, _channels)
    use_fpn: bool = _setting(False, flag)
    anchor_sizes: tuple[Any, ...] = _setting((128, 256, 512), _check_anchor_sizes)
    aspect_ratios: tuple[float, ...] = _setting((0.5, 1.0, 2.0), partial(sequence, check=_aspect_ratio, minimum=1))
    anchor_stride: int = _setting(16, _size)
    pool_size: tuple[int, int] = _setting((7, 7), _cells)
    hidden_dim: int = _setting(4096, _channels)
    dropout: float = _setting(0.5, fraction_below_one)
    mask_pool_size: tuple[int, int] = _setting((14, 14), _cells)
    mask_hidden_channels: int = _setting(256, _channels)
    mask_out_size: int = _setting(28, positive_int)
    pooled_levels: int | None = _setting(None, optional(positive_int))
    rpn_convs: int = _setting(1, partial(positive_int, maximum=16))
    box_convs: bool = _setting(False, flag)
    head_norm: str | None = _setting(None, optional(_norm))
    image: ImageConfig = _setting(ImageConfig(), _part(ImageConfig, "an ImageConfig"))  # noqa: RUF009 - a field
    rpn: RPNConfig = _setting(RPNConfig(), _part(RPNConfig, "an RPNConfig"))  # noqa: RUF009 - a field
    heads: HeadConfig = _setting(HeadConfig(), _part(HeadConfig, "a HeadConfig"))  # noqa: RUF009 - a field
    categories: tuple[Category, ...] = _setting((), _categories)
    backbone: BackboneConfig | None = _setting(None, optional(_part(BackboneConfig, "a BackboneConfig")))  # noqa: RUF009

    @described
    def __repr__(self) -> str:
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        parts = {n: changed.pop(n) for n in ("image", "rpn", "heads", "backbone", "categories") if n in changed}
        numbers = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        lines = [f"{numbers},", *(f"{n}={brief(v) if n == 'categories' else repr(v)}," for n, v in parts.items())]
        return "\n  ".join(["ModelConfig(", *lines]) + "\n)"

    def _check_relations(self) -> None:
        if (self.mask_out_size, self.mask_out_size) != (2 * self.mask_pool_size[0], 2 * self.mask_pool_size[1]):
            raise ValueError(
                f"mask_out_size must be twice mask_pool_size {self.mask_pool_size}, got {self.mask_out_size}: the mask "
                "head doubles what it pools."
            )
        if self.pooled_levels is not None and self.pooled_levels > (len(self.anchor_sizes) if self.use_fpn else 1):
            raise ValueError(
                f"pooled_levels must be at most the number of feature maps, {len(self.anchor_sizes)} as anchor_sizes "
                f"says, got {self.pooled_levels}."
            )
        beyond = [c.label for c in self.categories if c.label > self.num_classes]
        if beyond:
            raise ValueError(
                f"categories must have labels from 1 to num_classes, {self.num_classes}, got {shown(beyond)}."
            )
        if self.backbone is not None and self.backbone.out_channels != self.feat_channels:
            raise ValueError(
                f"feat_channels must be the backbone's out_channels, {self.backbone.out_channels}, got "
                f"{self.feat_channels}."
            )
        if self.backbone is not None and not self.use_fpn:
            raise ValueError("use_fpn must be True for a ResNet-FPN backbone, which returns a pyramid, got False.")
        if self.backbone is not None and len(self.anchor_sizes) != _PYRAMID_LEVELS:
            raise ValueError(
                f"anchor_sizes must have {_PYRAMID_LEVELS} entries, one for each level of the pyramid, got "
                f"{len(self.anchor_sizes)}."
            )
        anchor_levels(self.anchor_sizes, per_level=self.use_fpn)

    @property
    def category_names(self) -> CategoryNames:
        """Names of the labels, with the data set's ids; empty if there are none."""
        return CategoryNames._of_rows(self.categories)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON values, with ``config_version``."""
        return {"config_version": CONFIG_VERSION, **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from what :meth:`to_dict` returned; fields that are not named have their defaults.

        Raises
        ------
        TypeError, ValueError
            If a key is unknown: then with the nearest known one, or, if a newer version of this package wrote it, that
            it did. If a value is not what its field holds.
        """
        instance("values", values, Mapping, "a mapping of the fields of ModelConfig")
        given = {str(k): v for k, v in values.items()}
        version = positive_int("config_version", given.pop("config_version", CONFIG_VERSION))
        if "num_classes" not in given:
            raise ValueError("num_classes is missing in the configuration.")
        if version == 1:
            given = _from_version_1(given)
        try:
            return super().from_dict(given)
        except (TypeError, ValueError) as error:
            if version > CONFIG_VERSION:
                raise ValueError(
                    "The configuration was written by a newer version of lucid_maskrcnn (config_version "
                    f"{version}, this one reads up to {CONFIG_VERSION}): update the package. ({error})"
                ) from error
            raise

    def changed(self, **settings: Any) -> Self:
        """Return the configuration with other settings, those of the factories.

        Parameters
        ----------
        **settings
            Fields of this class; ``width``, ``fpn_channels``, ``norm``, ``fpn_norm``, ``norm_eps`` and
            ``stride_in_1x1`` of the backbone; ``min_size`` and ``max_size`` of the image and ``top_k`` of the heads;
            ``conventions``, the name of one. ``image``, ``rpn`` and ``heads`` may be mappings of what changes. None
            changes nothing.

        Raises
        ------
        TypeError, ValueError
            If a setting is unknown or not as it must be.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        config: Self = _rebased(self, given.pop("conventions")) if "conventions" in given else self
        parts: dict[str, dict[str, Any]] = {"image": {}, "rpn": {}, "heads": {}, "backbone": {}}
        for name, changes in parts.items():
            if isinstance(given.get(name), Mapping):
                changes |= given.pop(name)
        for name in [n for n in given if n in _PLACES]:
            part, own_name = _PLACES[name]
            given[name] = _KINDS[part].__dataclass_fields__[own_name].metadata["check"](name, given[name])
            if own_name in parts[part] and parts[part][own_name] != given[name]:
                raise ValueError(
                    f"{name} is given twice, as {name}={shown(given[name])} and in {part}="
                    f"{{{own_name!r}: {shown(parts[part][own_name])}}}: give one of them."
                )
            parts[part][own_name] = given.pop(name)
        if "min_size" in parts["image"]:  # asked for in place of a fixed scale
            parts["image"].setdefault("scale", None)
        if "out_channels" in parts["backbone"]:
            given.setdefault("feat_channels", parts["backbone"]["out_channels"])
        for name, changes in parts.items():
            if changes:
                own = given.get(name, getattr(config, name))
                if own is None:
                    raise ValueError(
                        f"{next(iter(changes))} is of a ResNet-FPN backbone, which this model does not have."
                    )
                instance(name, own, _Config, "a configuration or a mapping of its fields")
                check_keywords(f"{name}: {type(own).__name__}", map(str, changes), [f.name for f in fields(own)])
                given[name] = replace(own, **changes)
        check_keywords("ModelConfig", given, [f.name for f in fields(self)])
        return replace(config, **given)


# A factory's keyword -> the part of the configuration it belongs to, and its name there.
_PLACES = {
    "width": ("backbone", "width"),
    "fpn_channels": ("backbone", "out_channels"),
    "norm": ("backbone", "norm"),
    "fpn_norm": ("backbone", "fpn_norm"),
    "norm_eps": ("backbone", "norm_eps"),
    "stride_in_1x1": ("backbone", "stride_in_1x1"),
    "min_size": ("image", "min_size"),
    "max_size": ("image", "max_size"),
    "top_k": ("heads", "top_k"),
}
_KINDS: dict[str, Any] = {"image": ImageConfig, "heads": HeadConfig, "backbone": BackboneConfig}


# ------------------------------------------------------------------ conventions and architectures


@answers_wrong_calls
@dataclass(frozen=True)
class Conventions:
    """What an implementation of Mask R-CNN fixes beyond the paper.

    Attributes
    ----------
    name : str
        What it is called.
    image, rpn, heads
        Its settings.
    stride_in_1x1 : bool
        See :class:`BackboneConfig`.
    """

    name: str
    image: ImageConfig = ImageConfig()
    rpn: RPNConfig = RPNConfig()
    heads: HeadConfig = HeadConfig()
    stride_in_1x1: bool = False

    def __post_init__(self) -> None:
        text("name", self.name)
        for name, kind in (("image", ImageConfig), ("rpn", RPNConfig), ("heads", HeadConfig)):
            instance(name, getattr(self, name), kind, f"an object of {kind.__name__}")
        flag("stride_in_1x1", self.stride_in_1x1)

    @described
    def __repr__(self) -> str:
        return f"Conventions({self.name!r})"


#: Those of torchvision 0.28, ``maskrcnn_resnet50_fpn`` and ``maskrcnn_resnet50_fpn_v2``.
TORCHVISION = Conventions("torchvision")

#: Those of detectron2, ``mask_rcnn_R_50_FPN_3x`` and the like.
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
        sizes_first=True,
    ),
    heads=HeadConfig(
        sampling_ratio=0, aligned=True, min_size=0.0, finite_only=True, level_margin=(1e-8, 0.0), snap_masks=False
    ),
    stride_in_1x1=True,
)
_CONVENTIONS = {c.name: c for c in (TORCHVISION, DETECTRON2)}


@answers_wrong_calls
def conventions_of(config: ModelConfig) -> tuple[Conventions, dict[str, Any]]:
    """Return the conventions that a configuration is nearest to, and where it differs from them.

    Returns
    -------
    conventions : Conventions
        :data:`TORCHVISION` or :data:`DETECTRON2`.
    differences : dict
        Field -> value for ``"image"``, ``"rpn"`` and ``"heads"``, and ``"stride_in_1x1"`` if it differs.
    """
    instance("config", config, ModelConfig, "a ModelConfig")
    found = [(c, _differences(config, c)) for c in _CONVENTIONS.values()]
    return min(found, key=lambda pair: sum(len(d) if isinstance(d, dict) else 1 for d in pair[1].values()))


def _differences(config: ModelConfig, conventions: Conventions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in ("image", "rpn", "heads"):
        own, usual = getattr(config, part), getattr(conventions, part)
        found[part] = {f.name: v for f in fields(own) if (v := getattr(own, f.name)) != getattr(usual, f.name)}
    if all(len(level) == 1 for level in anchor_levels(config.anchor_sizes, per_level=config.use_fpn)):
        found["rpn"].pop("sizes_first", None)  # it makes no difference
    if config.backbone is not None and config.backbone.stride_in_1x1 != conventions.stride_in_1x1:
        found["stride_in_1x1"] = config.backbone.stride_in_1x1
    return {name: value for name, value in found.items() if value != {}}


def _rebased[M: ModelConfig](config: M, name: Any) -> M:
    """Return the configuration under other conventions: what differs from its present ones stays as it is."""
    target = _CONVENTIONS[choice("conventions", name, tuple(_CONVENTIONS))]
    _, kept = conventions_of(config)
    parts = {p: replace(getattr(target, p), **kept.get(p, {})) for p in ("image", "rpn", "heads")}
    backbone = config.backbone
    if backbone is not None:
        backbone = replace(backbone, stride_in_1x1=kept.get("stride_in_1x1", target.stride_in_1x1))
    return replace(config, **parts, backbone=backbone)


_RESNET_FPN = ModelConfig(
    num_classes=90,  # COCO's category ids with their gaps, so that labels are ids
    use_fpn=True,
    anchor_sizes=(32, 64, 128, 256, 512),
    hidden_dim=1024,
    dropout=0.0,
    backbone=BackboneConfig(norm="batch"),  # as there are no weights yet; see factories
)

#: The models that have a factory, by its name.
ARCHITECTURES: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "mask_rcnn_resnet_18_fpn": _RESNET_FPN.changed(backbone={"depth": 18}),
        "mask_rcnn_resnet_50_fpn": _RESNET_FPN,
        "mask_rcnn_resnet_50_fpn_v2": _RESNET_FPN.changed(
            rpn_convs=2, box_convs=True, fpn_norm="batch", head_norm="batch"
        ),
        "mask_rcnn_resnet_101_fpn": _RESNET_FPN.changed(backbone={"depth": 101}),
    }
)


@answers_wrong_calls
def architecture_of(config: ModelConfig) -> str | None:
    """Return the name of the factory that builds such a model; None for a backbone of the user's own."""
    instance("config", config, ModelConfig, "a ModelConfig")
    if config.backbone is None:
        return None
    return f"mask_rcnn_resnet_{config.backbone.depth}_fpn" + ("_v2" if config.box_convs else "")


# ------------------------------------------------------------------ files of earlier versions


def _from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of version 2: in version 1 a pyramid had norms if the ResNet's were live."""
    backbone = values.get("backbone")
    if isinstance(backbone, Mapping) and backbone.get("norm") == "batch":
        return {**values, "backbone": {"fpn_norm": "batch", **backbone}}
    return values


# The keywords that the factories had.
_VERSION_0 = (
    "depth",
    "conventions",
    *_PLACES,
    *(f.name for f in fields(ModelConfig) if f.name not in ("feat_channels", "use_fpn", "categories", "backbone")),
)


@answers_wrong_calls
def config_from_version_0(
    arguments: Mapping[str, Any], categories: Mapping[int, str] | None = None
) -> ModelConfig | None:
    """Return the configuration in a header of version 0: the arguments of a factory as a flat mapping.

    Parameters
    ----------
    arguments : mapping
        JSON values, with ``"depth"`` and what differs from the factory's defaults.
    categories : mapping of int to str, optional
        Names of the labels, which had an entry of their own.

    Returns
    -------
    ModelConfig or None
        None if the header does not say which ResNet it was.

    Raises
    ------
    TypeError, ValueError
        If a key is unknown or a value is not what it must be.
    """
    instance("arguments", arguments, Mapping, "a mapping of a factory's arguments")
    categories = instance("categories", categories, (Mapping, type(None)), "a mapping of labels to names")
    given = {str(name): value for name, value in arguments.items() if value is not None}
    if "depth" not in given:
        return None
    if "proposals" in given and "rpn" not in given:
        given["rpn"] = given.pop("proposals")
    check_keywords("the header", given, _VERSION_0)
    norm = given.setdefault("norm", "frozen")
    config = _RESNET_FPN.changed(
        backbone={"depth": given.pop("depth"), "fpn_norm": "batch" if norm == "batch" else None}
    )
    image = instance("image", given.pop("image", {}), Mapping, "a mapping")
    given["image"] = {**image, **{name: given.pop(name) for name in ("min_size", "max_size") if name in given}}
    # A short side beyond the long one was accepted and never reached: the long one decided.
    sizes = {name: given["image"].get(name, getattr(config.image, name)) for name in ("min_size", "max_size")}
    given["image"]["min_size"] = min(positive_int(name, size) for name, size in sizes.items())
    given["image"].setdefault("scale", None)
    return config.changed(**given, categories=categories or None)
