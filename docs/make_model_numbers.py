"""Count the parameters and arithmetic of the factories' models: ``uv run python docs/make_model_numbers.py``.

The pages of docs/understand/factories write these numbers as ``{{ resnet_50_gflop }}``. Nothing is computed: the models
have shapes and no memory, and the operators are replaced by ones that return shapes and count.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lucid.nn as nn
from lucid import Tensor

from lucid_maskrcnn import MaskRCNN, list_weights, models, ops
from lucid_maskrcnn.models.layers import BatchNorm2d, shapes_only
from lucid_maskrcnn.models.pooling import FeatureMaps
from lucid_maskrcnn.weights import PublishedWeights

FILE = Path(__file__).parent / "understand" / "model_numbers.json"
NAMES = ("resnet_18", "resnet_50", "resnet_50_v2", "resnet_101")
SIZE = (800, 1216)  # a photograph of 2 : 3, resized as torchvision does and padded
ROIS, DETECTIONS = 1000, 100


def factory(name: str) -> Any:
    depth, _, version = name.removeprefix("resnet_").partition("_")
    return getattr(models, f"mask_rcnn_resnet_{depth}_fpn" + (f"_{version}" if version else ""))


def num_parameters(model: nn.Module) -> int:
    """Return the numbers of a model that are trained, or would be with live batch norm; not its statistics."""
    frozen = [m for m in model.modules() if isinstance(m, BatchNorm2d) and not isinstance(m.weight, nn.Parameter)]
    return sum(p.size for p in model.parameters()) + sum(2 * norm.weight.size for norm in frozen)


def parameters_of_parts(model: MaskRCNN) -> dict[str, int]:
    """Return the parameters of each stage; they are those of the model together."""
    box_head = [model.box_convs, model.fc1, model.fc2, model.cls_score, model.bbox_pred]
    return {
        "body": num_parameters(model.backbone.body),
        "pyramid": num_parameters(model.backbone.fpn),
        "rpn": num_parameters(model.rpn),
        "box_head": sum(num_parameters(part) for part in box_head if part is not None),
        "mask_head": num_parameters(model.mask_head),
    }


@contextmanager
def counting(macs: Counter[str]) -> Iterator[None]:
    """Replace the operators by ones that return shapes; add their multiplications to ``macs``, by the key "now"."""
    shape = ops.shape_only

    def conv2d(x: Tensor, weight: Tensor, *_: Any, stride: int = 1, padding: int = 0, **__: Any) -> Tensor:
        h, w = ((n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[2:], weight.shape[2:], strict=True))
        macs["now"] += x.shape[0] * h * w * weight.size
        return shape(x.shape[0], weight.shape[0], h, w)

    def conv_transpose2d(x: Tensor, weight: Tensor, *_: Any, stride: int, **__: Any) -> Tensor:
        macs["now"] += x.shape[0] * x.shape[2] * x.shape[3] * weight.size
        return shape(x.shape[0], weight.shape[1], stride * x.shape[2], stride * x.shape[3])

    def linear(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
        macs["now"] += x.shape[0] * weight.size
        return shape(x.shape[0], weight.shape[0])

    def one_channel(x: Tensor, *_: Any) -> Tensor:
        macs["now"] += x.size
        return shape(x.shape[0], 1, *x.shape[2:])

    def pooled(maps: list[Tensor], rois: Tensor, _idx: Tensor, _levels: Any, size: tuple[int, int], *_: Any) -> Tensor:
        return shape(rois.shape[0], maps[0].shape[1], *size)

    replaced = {
        "conv2d": conv2d,
        "conv_transpose2d": conv_transpose2d,
        "linear": linear,
        "one_channel": one_channel,
        "multiscale_roi_align": pooled,
        "roi_levels": lambda rois, *_, **__: rois,
        "fold_batch_norm": lambda *_: (None, None),
        "max_pool2d": lambda x, *_, **__: shape(*x.shape[:2], *((n + 1) // 2 for n in x.shape[2:])),
        "subsample": lambda x: shape(*x.shape[:2], *((n + 1) // 2 for n in x.shape[2:])),
        "upsample_add": lambda _coarse, fine, **_: fine,
        "flatten": lambda x: shape(x.shape[0], x.size // max(x.shape[0], 1)),
        "cast": lambda x, _: x,
        "cast_like": lambda x, _: x,
    }
    with ExitStack() as stack:
        for name, function in replaced.items():
            stack.enter_context(patch.object(ops, name, function))
        stack.enter_context(ops.no_grad())
        yield


def gigamacs(
    model: MaskRCNN, size: tuple[int, int], rois: int, detections: int, *, every_class: bool = False
) -> dict[str, float]:
    """Return the multiply-adds of each stage of a prediction, in 1e9: what torchvision calls GFLOPS.

    Of convolutions, as direct ones, and of linear layers; of the mask predictor the channel of each detection's class,
    or with ``every_class`` all of them, which torchvision computes.
    """
    macs: Counter[str] = Counter()
    found = {}

    def stage(name: str) -> None:
        found[name] = macs.pop("now", 0) / 1e9

    with counting(macs):
        stages = model.backbone.body(ops.shape_only(1, 3, *size))
        stage("body")
        maps = model.backbone.fpn(stages)
        stage("pyramid")
        model.rpn.head(maps)
        stage("rpn")
        features = FeatureMaps(maps, size)
        model._box_head(features, ops.shape_only(rois, 4), ops.shape_only(rois))
        stage("box_head")
        classes = None if every_class else ops.shape_only(detections)
        model._mask_logits(features, ops.shape_only(detections, 4), ops.shape_only(detections), classes)
        stage("mask_head")
    return found


def weights_table(published: list[PublishedWeights]) -> str:
    """Return published weights as a table of Markdown."""
    rows = ["| name | box AP | mask AP | file | data | conventions | labels |", "|" + " --- |" * 7]
    for entry in published:
        size = "size not published" if entry.size is None else f"{entry.size / 1e6:.0f} MB"
        where = f"`{entry.file}`, in the package" if entry.url is None else f"[{entry.file}]({entry.url})"
        labels = {"COCO": "COCO's ids, 1 to 90", "COCO_CONTIGUOUS": "1 to 80", "NUCLEI": "1, nucleus"}
        metrics = [f"{entry.metrics[m]}" if m in entry.metrics else "–" for m in ("box AP", "mask AP")]
        columns = [f"`{entry.name}`", *metrics, f"{where}, {size}", entry.dataset, entry.conventions]
        rows.append("| " + " | ".join([*columns, labels[str(entry.categories)]]) + " |")
    return "\n".join(rows)


def signature_block(build: Any) -> str:
    """Return the signature of a factory as a block of code, an argument a line."""
    signature = inspect.signature(build)
    arguments: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        arguments.append(f"{parameter.name}: {parameter.annotation} = {parameter.default!r}")
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"```python\n{build.__name__}(\n{lines}) -> {signature.return_annotation}\n```"


def numbers() -> dict[str, str]:
    """Return what the pages write."""
    found = {}
    for name in NAMES:
        with shapes_only():
            model = factory(name)(norm="frozen")
        found[f"{name}_parameters"] = f"{num_parameters(model):,}"
        of_stage = gigamacs(model, SIZE, ROIS, DETECTIONS)
        found |= {f"{name}_{stage}": f"{2 * value:.0f}" for stage, value in of_stage.items()}
        found[f"{name}_gflop"] = f"{2 * sum(of_stage.values()):.0f}"
        found[f"{name}_gmac_800"] = f"{sum(gigamacs(model, (800, 800), ROIS, 0).values()):.2f}"
        all_masks = gigamacs(model, (800, 800), ROIS, DETECTIONS, every_class=True)
        found[f"{name}_gmac_800_masks"] = f"{sum(all_masks.values()):.2f}"
        published = list_weights(factory(name).__name__)
        found[f"{name}_weights"] = weights_table(published)
        found[f"{name}_weight_names"] = ", ".join(f"`{entry.name}`" for entry in published)
        found[f"{name}_mask_aps"] = ", ".join(f"{entry.metrics['mask AP']}" for entry in published)
        found[f"{name}_mask_ap"] = f"{max(entry.metrics['mask AP'] for entry in published)}"
        found |= {f"{name}_{part}_parameters": f"{count:,}" for part, count in parameters_of_parts(model).items()}
        found[f"{name}_signature"] = signature_block(factory(name))
    model = factory("resnet_18")(weights="NUCLEI")
    of_stage = gigamacs(model, (640, 640), 2000, 50)
    found["nuclei_gflop"] = f"{2 * sum(of_stage.values()):.1f}"
    found["nuclei_parameters"] = f"{num_parameters(model):,}"
    return found


def main() -> None:
    FILE.write_text(json.dumps(numbers(), indent=1) + "\n", encoding="utf-8")
    print(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
