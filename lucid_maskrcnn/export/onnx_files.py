"""A model with all of ``predict`` as an ONNX file.

Shapes: an image of H × W pixels, n detections, M the side of a mask.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..atomic import replacing
from ..call_answers import answers_wrong_calls
from ..config import make_categories
from ..models import MaskRCNN
from ..ops import host
from ..validators import choice, flag, fraction, instance, integer, non_negative_int
from ..validators import path as checked_path
from ..version import __version__
from .onnx_backbone import feature_pyramid, resnet
from .onnx_boxes import clip_boxes
from .onnx_graph import Graph, Value
from .onnx_heads import box_head, detect, mask_probs
from .onnx_masks import paste_masks
from .onnx_pooling import FeatureValues, map_strides
from .onnx_rpn import propose
from .onnx_settings import check_layers
from .onnx_transforms import prepare, ratios

__all__ = ["to_onnx"]

_OLDEST_OPSET = 18
_MASK_THRESH = 0.5  # of full masks
_MOST = 2**31 - 1  # detections
_MOST_BYTES = 2**31 - 2**24  # of constants: a protocol buffer has less than 2**31, the rest is for nodes and names


class Thresholds(NamedTuple):
    """Which detections are returned."""

    score_thresh: float
    nms_thresh: float
    top_k: int


@answers_wrong_calls
def to_onnx(
    model: MaskRCNN,
    path: str | Path,
    *,
    score_thresh: float = 0.05,
    nms_thresh: float | None = None,
    top_k: int | None = None,
    full_masks: bool = False,
    dtype: str = "float32",
    opset: int = 18,
) -> None:
    """Write a model as an ONNX file that does all that ``predict`` does, from the pixels of an image of any size on.

    The graph has the input ``image``, uint8 (H, W, 3), red, green, blue, and the outputs ``boxes`` (n, 4) float32,
    ``(x1, y1, x2, y2)`` in pixels of the image; ``scores`` (n,) float32, in descending order; ``labels`` (n,) int64,
    from 1; ``masks`` (n, M, M) float32, probabilities on the grid of each box. The input ``network_size``, int64 (2,),
    may be left out: the height and width that the image is resized to, by default those of the model's own rule.

    Parameters
    ----------
    model : MaskRCNN
        With the ResNet-FPN backbone of this package. It is exported as it predicts, on any device.
    path : str or Path
        File to write; it is there whole or not at all.
    score_thresh : float
        Detections have a higher score than this.
    nms_thresh : float, optional
        Of two detections of a class with a greater IoU, the one with the lower score is dropped; by default the model's
        own number.
    top_k : int, optional
        At most so many detections; by default the model's own number.
    full_masks : bool
        Whether there is one output more: ``full_masks`` (n, H, W) bool, the masks pasted into the image, as
        ``Detections.masks``.
    dtype : {"float32", "float16"}
        What filters and matrices are stored in. It is computed in float32 in any case; float16 is half the file.
    opset : int
        Version of ONNX's operators, 18 or later; runtimes may not know a newer one: ONNX Runtime 1.32 runs up to 21.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, the model's backbone is one of your own, or the file would exceed 2 GB.
    ImportError
        If ``onnx`` is not installed (extra ``onnx``).
    OSError
        If the file cannot be written.
    """
    onnx = _onnx()
    instance("model", model, MaskRCNN, "a MaskRCNN")
    path = checked_path("path", path)
    heads = model.config.heads
    thresholds = Thresholds(
        fraction("score_thresh", score_thresh),
        heads.nms_thresh if nms_thresh is None else fraction("nms_thresh", nms_thresh),
        min(heads.top_k if top_k is None else non_negative_int("top_k", top_k), _MOST),
    )
    full_masks, half = flag("full_masks", full_masks), choice("dtype", dtype, ("float32", "float16")) == "float16"
    opset = integer("opset", opset, _OLDEST_OPSET, onnx.defs.onnx_opset_version())
    check_layers(model)
    made = _graph(model, thresholds, full_masks=full_masks, half=half)
    proto = _with_metadata(_checked(made, opset), model, thresholds)
    with replacing(path) as file:
        file.write(proto.SerializeToString())


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "to_onnx needs the package onnx: pip install 'lucid-maskrcnn[onnx]', or pip install onnx."
        ) from error
    return onnx


# ------------------------------------------------------------------ the graph


def _graph(model: MaskRCNN, thresholds: Thresholds, *, full_masks: bool, half: bool) -> Any:
    """Return all of ``predict`` as a graph of the package onnx."""
    from onnx import helper, numpy_helper

    names = {id(variable): name for name, variable in model.state_dict(keep_vars=True).items()}
    g = Graph(names, half=half)
    image, given_size = Value(g, "image", np.uint8), Value(g, "network_size", np.int64)
    outputs = _predict(g, image, given_size, model, thresholds, full_masks=full_masks)
    _check_size(g)
    for name, value in outputs.items():
        g.nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
    side = model.config.mask_out_size
    shapes: dict[str, list[Any]] = {"boxes": ["n", 4], "scores": ["n"], "labels": ["n"], "masks": ["n", side, side]}
    shapes["full_masks"] = ["n", "H", "W"]
    inputs = [_described("image", np.uint8, ["H", "W", 3]), _described("network_size", np.int64, [2])]
    g.initializers.append(numpy_helper.from_array(np.zeros(2, np.int64), "network_size"))  # may be left out
    described = [_described(name, value.dtype, shapes[name]) for name, value in outputs.items()]
    return helper.make_graph(g.nodes, "Mask R-CNN", inputs, described, g.initializers)


def _check_size(g: Graph) -> None:
    # Before anything is serialized, which fails without a word about the size.
    if g.num_bytes > _MOST_BYTES:
        smaller = "build it with a smaller hidden_dim" if g.half else "pass dtype='float16'"
        raise ValueError(
            f"model must take up less than 2 GB as an ONNX file, got {g.num_bytes / 1e9:.1f} GB: {smaller}."
        )


def _predict(
    g: Graph, image: Value, given_size: Value, model: Any, thresholds: Thresholds, *, full_masks: bool
) -> dict[str, Value]:
    """Return the outputs by their names."""
    config = model.config
    with g.scope("prepare"):
        prepared = prepare(g, image, given_size, config.image)
    with g.scope("backbone"):
        stages = resnet(g, prepared.tensor, model.backbone.body, bgr=config.image.bgr)
        maps = feature_pyramid(g, stages, model.backbone.fpn)
        features = FeatureValues(maps, [map_strides(g, prepared.padded_size, m) for m in maps], prepared.padded_size)
    with g.scope("rpn"):
        proposals = propose(g, features, prepared.size, model.rpn)
    with g.scope("box_head"):
        probs, deltas = box_head(g, features, proposals, model)
        found = detect(g, probs, deltas, proposals, prepared.size, model, thresholds)
    with g.scope("mask_head"):
        masks = mask_probs(g, features, found, model)
    with g.scope("restore"):
        boxes = found.boxes * ratios(g, prepared.original_size, prepared.size)
        outputs = {"boxes": boxes, "scores": found.scores, "labels": found.classes + 1, "masks": masks}
        if config.image.clip_restored:
            outputs = _clipped(g, outputs, prepared.original_size)
    if full_masks:
        with g.scope("paste"):
            outputs["full_masks"] = paste_masks(
                g, outputs["masks"], outputs["boxes"], prepared.original_size, config.mask_out_size, _MASK_THRESH,
                config.heads.snap_masks,
            )  # fmt: skip
    return outputs


def _clipped(g: Graph, outputs: dict[str, Value], size: Value) -> dict[str, Value]:
    """Return the detections with their boxes clipped to the image, without those that have no area then."""
    boxes = clip_boxes(g, outputs["boxes"], size)
    sides = boxes.part(2, 4) - boxes.part(0, 2)
    rows = g.rows_where(g.ReduceMin((sides > 0.0).cast(np.int32), [-1], keepdims=0) > 0)
    return {name: value.take(rows) for name, value in {**outputs, "boxes": boxes}.items()}


def _described(name: str, dtype: Any, shape: list[Any]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


# ------------------------------------------------------------------ the file


def _checked(graph: Any, opset: int) -> Any:
    """Return the graph as a model that the checker of onnx has passed."""
    from onnx import checker, helper

    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="lucid_maskrcnn",
        producer_version=__version__,
        doc_string="Mask R-CNN: the objects in an image, their boxes, scores, labels and masks.",
    )
    checker.check_model(proto, full_check=True)
    return proto


def _with_metadata(proto: Any, model: MaskRCNN, thresholds: Thresholds) -> Any:
    """Add what a program must know to use the outputs, as JSON."""
    config = model.config
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name, variable in sorted(model.state_dict(keep_vars=True).items()):
        digest.update(name.encode() + host(variable).tobytes())
    categories = [{"label": c.label, "name": c.name, "id": c.id} for c in make_categories(config.categories)]
    conventions = {
        "boxes": "x1, y1, x2, y2 in pixels of the image; pixel i covers i to i + 1",
        "masks": "snapped" if config.heads.snap_masks else "aligned",
        "mask_thresh": _MASK_THRESH,
        "image": asdict(config.image),
        **thresholds._asdict(),
    }
    from onnx import helper

    helper.set_model_props(
        proto,
        {
            "categories": json.dumps(categories),
            "conventions": json.dumps(conventions),
            "lucid_maskrcnn_version": __version__,
            "weights_sha256": digest.hexdigest(),
        },
    )
    return proto
