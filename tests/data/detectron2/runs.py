"""Weights of the thin models in ``runs.npz``, from a seed and each entry's name and shape.

``runs.npz`` was recorded from detectron2 0.6 on a CPU, with torch 2.13.0 and torchvision 0.28.0: for each run the text of
the ``config.yaml`` that detectron2 wrote, the names and shapes of its checkpoint, and what its ``DefaultPredictor`` found in
two images, the parts ``IMAGES`` of ``img1_image`` in ``model_r50.npz``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

IMAGES = ((slice(40, 180), slice(30, 230)), (slice(250, 450), slice(100, 230)))  # rows and columns


_GAINS = (  # of linear layers and convolutions: what keeps scores and boxes apart
    ("cls_score", 3.0),
    ("objectness", 2.0),
    ("anchor_deltas", 0.3),
    ("bbox_pred", 1.0),
    ("mask_head.predictor", 3.0),
    ("fpn_output", 1.0),
)


def weights(shapes: Mapping[str, Sequence[int]], pixel_std: float = 1.0) -> dict[str, np.ndarray]:
    """Return arrays for a checkpoint's entries; ``pixel_std`` is what the pixels are divided by."""
    lateral = 1.0 if "backbone.fpn_lateral2.norm.weight" in shapes else 0.2
    return {name: _array(name, tuple(shape), pixel_std, lateral) for name, shape in shapes.items()}


def _array(name: str, shape: tuple[int, ...], pixel_std: float, lateral: float) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        array = rng.uniform(0.5, 1.5, shape)
    elif ".norm." in name:
        array = rng.uniform(0.8, 1.2, shape) if name.endswith("weight") else rng.normal(0, 0.1, shape)
    elif name.endswith("bias"):
        array = rng.normal(0, 0.05, shape)
        if "cls_score" in name:
            array[-1] = 3.0  # background
    else:
        gain = next((g for part, g in (("fpn_lateral", lateral), *_GAINS) if part in name), math.sqrt(2))
        array = rng.normal(0, gain / math.sqrt(math.prod(shape[1:])), shape)
        if "stem.conv1" in name:
            array *= pixel_std / 60
        if name.endswith("conv3.weight"):
            array *= 0.2  # so that residuals do not grow
    return array.astype(np.float32)
