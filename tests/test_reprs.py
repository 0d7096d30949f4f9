"""What objects look like as text: short, without addresses, in any state."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import valid_calls
from test_wrong_calls import CALLED_BY_ANOTHER
from tiny_runs import slim

import lucid_maskrcnn as root
from lucid_maskrcnn import config, data, evaluation, inference, masks, models, ops, targets, training, weights
from lucid_maskrcnn.reprs import brief
from lucid_maskrcnn.weights import PublishedWeights, list_weights

MODULES = (root, config, data, evaluation, inference, masks, models, ops, targets, training, weights)
CLASSES = {c for module in MODULES for c in map(vars(module).get, module.__all__) if inspect.isclass(c)}
MOST_LINES, MOST_CHARACTERS = 12, 1500


def check(shown: Any) -> None:
    text = repr(shown)
    assert " object at 0x" not in text
    assert text.count("\n") < MOST_LINES, text
    assert len(text) <= MOST_CHARACTERS, text


@pytest.mark.filterwarnings("ignore")
def test_no_object_of_the_package_is_shown_by_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that public calls return, and the objects whose methods they are."""
    monkeypatch.chdir(tmp_path)
    valid_calls.write_files()
    seen: set[type] = set()
    for name, make in valid_calls.CALLS.items():
        if name in CALLED_BY_ANOTHER or name.startswith(("ops.", "app.")):
            continue
        function, arguments = make()
        free = [value for key, values in arguments.items() if key.startswith("*") for value in values]
        got = function(*free, **{key: value for key, value in arguments.items() if not key.startswith("*")})
        for shown in (got, getattr(function, "__self__", None)):
            if type(shown) not in seen and type(shown).__module__.startswith("lucid_maskrcnn"):
                seen.add(type(shown))
                check(shown)
    for part in valid_calls.new_model().modules():
        if type(part).__module__.startswith("lucid_maskrcnn"):
            check(part)
            assert "\n" not in repr(part) or isinstance(part, root.MaskRCNN)
    assert len(seen) > 40


@pytest.mark.parametrize("cls", sorted(CLASSES, key=lambda c: c.__name__), ids=lambda c: c.__name__)
def test_an_object_that_is_not_made_yet_has_a_repr(cls: type) -> None:
    """A debugger shows objects before they have attributes."""
    if issubclass(cls, (BaseException, tuple)) or inspect.isabstract(cls) or getattr(cls, "_is_protocol", False):
        return
    made = cls.__new__(cls)
    assert repr(made).startswith("{}" if issubclass(cls, dict) else f"{cls.__name__}(")


def test_a_model_says_what_it_is() -> None:
    text = repr(root.mask_rcnn_resnet_18_fpn(weights="NUCLEI").eval())
    assert text.splitlines()[0] == "MaskRCNN("
    for part in (
        "depth=18",
        "1: nucleus",
        "2.5 times their size",
        "dtype=float32, device=cpu, evaluation mode",
        "modules    backbone",
    ):
        assert part in text
    assert "training mode" in repr(slim())


def test_a_model_on_gpu_is_shown_without_reading_weights() -> None:
    model = slim().to("gpu")
    assert "dtype=float32, device=gpu" in repr(model)
    assert "Conv2d(3, 8, 7" in repr(model.backbone.body.conv1)


def test_published_weights_fit_the_screen() -> None:
    for entry in list_weights():
        assert isinstance(entry, PublishedWeights)
        check(entry)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((2, 3), np.float32), "float32(2, 3)"),
        (np.float32(2), "float32 scalar"),
        (ops.as_tensor([[True]], "cpu"), "bool(1, 1)"),
        (Path("a/b"), "'a/b'"),
        ((1,), "(1,)"),
        ([1, 2], "[1, 2]"),
        (list(range(7)), "[… 7 entries]"),
        ({"a": np.zeros(2)}, "{'a': float64(2,)}"),
        (dict.fromkeys(range(7)), "{… 7 entries}"),
        (np.median, "median"),
        (object(), "object"),
        ("x" * 100, f"'{'x' * 59}…"),
    ],
)
def test_brief_values(value: Any, text: str) -> None:
    assert brief(value) == text
