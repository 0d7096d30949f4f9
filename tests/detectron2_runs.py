"""What a run of detectron2 leaves behind: a checkpoint under its names, and config.yaml; small ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_50_fpn
from lucid_maskrcnn.weights.detectron2_keys import ZOO
from lucid_maskrcnn.weights.naming import DETECTRON2, Naming

SLIM = {"width": 8, "fpn_channels": 8, "hidden_dim": 16, "mask_hidden_channels": 8}
#: What the configuration of such a model, with three classes, has in place of the zoo's values.
SLIM_KEYS: dict[str, Any] = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
}


def arrays_of(model: MaskRCNN, naming: Naming = DETECTRON2) -> dict[str, np.ndarray]:
    """Return a model's weights by detectron2's names, with the background last."""
    arrays = {naming.theirs(name): np.asarray(array) for name, array in model.state_dict().items()}
    for kind in ("weight", "bias"):
        name = f"roi_heads.box_predictor.cls_score.{kind}"
        arrays[name] = np.roll(arrays[name], -1, axis=0)
    return arrays


def slim(num_classes: int = 3, **settings: Any) -> MaskRCNN:
    """Return a thin ResNet-50, the least that detectron2's names are for."""
    return mask_rcnn_resnet_50_fpn(num_classes, conventions="detectron2", **(SLIM | settings))


def yaml_of(changes: dict[str, Any] | None = None, *, zoo: bool = True) -> str:
    """Return the text of a config.yaml: the zoo's values, and those that change by their keys."""
    tree: dict[str, Any] = {}
    for key, value in {**(ZOO if zoo else {}), **(changes or {})}.items():
        *sections, own = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[own] = value
    return json.dumps(tree, indent=1)  # which is YAML


def write_checkpoint(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    path.write_bytes(pickle.dumps({"model": arrays, "iteration": 7}, protocol=2))
    return path
