"""What tests of exports share: small models whose detections differ, their files, and what two sides found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

import lucid_maskrcnn
from lucid_maskrcnn import MaskRCNN, ops
from lucid_maskrcnn.export import to_onnx

ASSETS = Path(lucid_maskrcnn.__file__).parent / "assets"
SMALL = {"width": 8, "fpn_channels": 16, "hidden_dim": 32, "mask_hidden_channels": 8, "min_size": 96, "max_size": 160}

# Standard deviations with which scores are spread over all of 0 to 1, as initial weights do not.
_SPREAD = {
    "rpn.head.cls_logits.weight": 0.3,
    "rpn.head.bbox_pred.weight": 0.05,
    "cls_score.weight": 0.4,
    "cls_score.bias": 1.0,
    "bbox_pred.weight": 0.2,
    "mask_head.mask_predictor.weight": 1.0,
    "mask_head.mask_predictor.bias": 0.5,
}


def lively(model: MaskRCNN) -> MaskRCNN:
    """Fill a model with numbers with which it finds something."""
    rng = np.random.default_rng(0)
    for name, variable in model.state_dict(keep_vars=True).items():
        if name in _SPREAD:
            values = rng.normal(0, _SPREAD[name], variable.shape)
        elif variable.ndim > 1:
            values = rng.normal(0, np.prod(variable.shape[1:]) ** -0.5, variable.shape)
            if name == "backbone.body.conv1.weight":  # detectron2's pixels are 58 times as large
                values *= model.config.image.pixel_std[0] / 0.229
        elif name.endswith(("running_var", ".weight")):
            values = rng.uniform(0.7, 1.3, variable.shape)
        else:
            values = rng.normal(0, 0.1, variable.shape)
        ops.set_values(variable, np.broadcast_to(np.float32(values), variable.shape))
    return model


def asset(name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    image = Image.open(ASSETS / f"{name}.png").convert("RGB")
    return np.asarray(image if size is None else image.resize(size[::-1]))


def session(path: str | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # or it warns of an input that may be left out
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(path, options)


class Exported:
    """A model's file in ONNX Runtime, with full masks."""

    def __init__(self, model: MaskRCNN, path: Path, **options: Any) -> None:
        to_onnx(model, path, full_masks=True, **options)
        self.session = session(path)

    def __call__(self, image: np.ndarray, **inputs: Any) -> dict[str, np.ndarray]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, {"image": image, **inputs}), strict=True))


def predicted(model: MaskRCNN, image: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
    found = model.predict(image, **options)[0]
    return {**found.numpy(), "full_masks": found.masks.data}


def assert_same(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray], *, box: float = 0.02) -> None:
    """Objects in pairs, within the tolerances; equal scores may change places, and leave it at the cut of top_k."""
    assert len(theirs["boxes"]) == len(ours["boxes"])
    pairs, left = [], list(range(len(theirs["boxes"])))
    least = theirs["scores"].min(initial=1) + 2e-4
    for i in range(len(ours["boxes"])):
        near = [
            j
            for j in left
            if theirs["labels"][j] == ours["labels"][i]
            and np.abs(theirs["boxes"][j] - ours["boxes"][i]).max() <= box
            and abs(theirs["scores"][j] - ours["scores"][i]) <= 2e-4
        ]
        if near:
            pairs.append((near[0], i))
            left.remove(near[0])
        else:
            assert ours["scores"][i] <= least, (i, ours["boxes"][i], ours["scores"][i])
    if pairs:
        there, here = (list(rows) for rows in zip(*pairs, strict=True))
        assert (theirs["full_masks"][there] != ours["full_masks"][here]).mean() <= 1e-4
