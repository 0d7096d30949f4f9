"""State dicts that are wrong in any way, saved in any way, are loaded or refused in one sentence."""

from __future__ import annotations

import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from any_objects import everything
from checkpoint_files import torch_save

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn
from lucid_maskrcnn.weights import load_weights
from lucid_maskrcnn.weights.layouts import torchvision_arrays
from lucid_maskrcnn.weights.naming import CAFFE2, DETECTRON2

TINY = {"width": 2, "fpn_channels": 2, "hidden_dim": 2, "mask_hidden_channels": 2}
ODD = [*everything().values(), np.array("x"), np.array([None]), np.zeros(3, complex), 2**70, None, True, {}, [], ()]


def mutated(weights: dict[Any, Any], draw: random.Random) -> dict[Any, Any]:
    """Spoil names, shapes, dtypes or values of a few entries."""
    weights = dict(weights)
    for _ in range(draw.choice([0, 1, 1, 2, 5])):
        name = draw.choice([n for n in weights if isinstance(n, str)] or [""])
        found = weights.pop(name, None)
        array = found.copy() if isinstance(found, np.ndarray) and found.dtype.kind == "f" else np.ones(1, np.float32)
        match draw.randrange(8):
            case 0:
                weights[name] = draw.choice(ODD)
            case 1:
                weights[name] = array.reshape(-1)
            case 2:
                weights[name] = np.zeros([draw.choice([0, 1, 2, 7]) for _ in range(draw.randrange(6))], np.float32)
            case 3:
                weights[name] = array.astype(draw.choice(["f8", "i8", "?", "c8", "f2"]))
            case 4 if array.size:
                array.flat[draw.randrange(array.size)] = draw.choice([np.nan, np.inf, -np.inf, 1e30, -1.0])
                weights[name] = array
            case 5:
                weights[draw.choice(["module.", "model.", "ema.", ".", ".."]) + name] = array
            case 6:
                weights[draw.choice([3, ("a",), None, name + "\n", name + "\x1b[31m", name + "9" * 300])] = array
            case 7:
                weights[name.replace("1", draw.choice(["9", "99999", "²"]))] = array
    return weights


def nested(weights: dict[Any, Any], draw: random.Random) -> Any:
    key = draw.choice(["model", "ema", "teacher", "x", ""])
    choices = [
        weights,
        [weights, 3],
        {key: weights, **everything()},
        {key: weights, "model_ema": mutated(weights, draw)},
    ]
    return draw.choice([*choices, {f"{key}.{name}": array for name, array in weights.items()}])


def fuzz(path: Path, seed: int, model: MaskRCNN) -> bool:
    """Load weights that are spoilt as ``seed`` says; tell whether they were taken."""
    draw = random.Random(seed)
    ours = {name: np.array(array) for name, array in model.state_dict().items()}
    torchvisions = torchvision_arrays(ours)
    detectron2s, detectrons = ({naming.theirs(n): a for n, a in ours.items()} for naming in (DETECTRON2, CAFFE2))
    content = nested(mutated(draw.choice([torchvisions, torchvisions, detectron2s, detectrons, ours]), draw), draw)
    if draw.random() < 0.5:
        torch_save(path, content, draw.choice([2, 5]))
    else:
        path.write_bytes(pickle.dumps(content, draw.choice([2, 5])))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of other conventions, and of a choice
            load_weights(model, path)
    except ValueError as error:
        text = str(error)
        assert path.name in text, (seed, text)
        assert text.isprintable(), (seed, text)
        assert len(text) < 4000, (seed, text)
        return False
    return True


def test_mutated_state_dicts_are_loaded_or_refused_in_a_sentence(tmp_path: Path) -> None:
    model = mask_rcnn_resnet_18_fpn(2, **TINY)
    taken = [fuzz(tmp_path / "x.pth", seed, model) for seed in range(150)]
    assert 10 < sum(taken) < 140


@pytest.mark.slow
def test_many_mutated_state_dicts(tmp_path: Path) -> None:
    model = mask_rcnn_resnet_18_fpn(2, **TINY)
    for seed in range(10**6, 10**6 + 5000):
        fuzz(tmp_path / "x.pth", seed, model)
