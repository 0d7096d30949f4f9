"""Every public name is called wrongly, in each argument in turn: the answer is a sentence that names the argument.

The wrong calls are generated from the valid ones in tests/valid_calls.py. What an argument takes of the wrong values
is declared in ``TAKES``; anything else must be refused by a ``raise`` of this package.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import valid_calls
from gradients import tensor, values
from lucid import Tensor
from taken_values import TAKES

from lucid_maskrcnn.cli import _is_answer

PACKAGES = [
    "",
    "ops",
    "models",
    "data",
    "evaluation",
    "training",
    "inference",
    "export",
    "masks",
    "images",
    "weights",
    "config",
]
PACKAGES += ["export", "transforms", "visualization", "measure", "targets", "app", "annotation_formats"]

# ------------------------------------------------------------------ the public names


def public_names() -> dict[str, Any]:
    """Return all that can be called, by its shortest name: functions, classes, and their public methods."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for package in PACKAGES:
        module = importlib.import_module(f"lucid_maskrcnn.{package}".rstrip("."))
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and id(value) not in seen:
                seen.add(id(value))
                found[f"{package}.{name}" if package else name] = value
    for name, value in list(found.items()):
        if isinstance(value, type) and not name.rpartition(".")[2].startswith("_"):
            found.update({f"{name}.{method}": getattr(value, method) for method in methods_of(value)})
    return found


def methods_of(kind: type) -> list[str]:
    """Return the public methods that are this package's, ``__getitem__`` and ``__call__`` among them."""
    ours = [k for k in kind.__mro__ if k.__module__.startswith("lucid_maskrcnn")]
    names = [
        n
        for k in ours
        for n, v in vars(k).items()
        if inspect.isfunction(v) or isinstance(v, (classmethod, staticmethod))
    ]
    return sorted({n for n in names if not n.startswith("_") or n in ("__getitem__", "__call__")})


RECORDS = "made by this package, and not by users: it holds what it is given"
TYPES = "a type, an interface or an error, and no call"
PARTS = "private: the parts of the network that the paper draws"
EXPORTS = "the exports of Detections call it with what they have made"
BY_TRAINER = "a trainer calls it"
# Names that are not called here, with the reason.
NOT_CALLED = {
    "training.Callback": TYPES,
    **{
        f"training.{kind}.{method}": BY_TRAINER
        for kind in ("Callback", "WandbCallback", "MLflowCallback")
        for method in ("on_step", "on_evaluation", "on_end")
    },
    **dict.fromkeys(["ops.AnchorLevel", "images.Size", "models.MaskRCNNLosses", "training.BatchSource"], TYPES),
    **dict.fromkeys(["data.DataFaultError", "data.LoadingError", "training.DivergenceError"], TYPES),
    **dict.fromkeys(["training.Group", "training.GroupError"], TYPES),
    **{f"training.Group.{method}": TYPES for method in ("all_reduce", "broadcast", "barrier")},
    "training.ray_ring": "it has no arguments",
    "training.init_group": "a launcher starts what it joins; tests/training/test_groups.py calls it",
    **dict.fromkeys(["training.Interrupted", "images.ImageHandle", "training.BatchSource.iterate"], TYPES),
    **dict.fromkeys(["ops.BoxDetections", "ops.DetectionRules", "ops.GPUBackend", "ops.ProposalRules"], RECORDS),
    **dict.fromkeys(["ops.Proposals", "models.FeatureMaps", "transforms.ImageBatch", "config.Category"], RECORDS),
    **dict.fromkeys(
        ["data.Batch", "data.Issue", "data.ValidatedImage", "data.ValidationReport", "data.Conversion"], RECORDS
    ),
    **dict.fromkeys(["evaluation.CategoryMetrics", "evaluation.Evaluation", "evaluation.ImageMetrics"], RECORDS),
    **dict.fromkeys(["evaluation.InstanceAccuracy", "training.TrainResult", "inference.ImagePrediction"], RECORDS),
    **dict.fromkeys(["inference.JobResult", "inference.JobStart", "weights.PublishedWeights"], RECORDS),
    "weights.WeightsFile": RECORDS,
    **dict.fromkeys(["config.CategoryNames", "config.CategoryNames.of"], "make_categories, is called with the same"),
    **dict.fromkeys(["evaluation.ConfusionMatrix", "evaluation.Precision", "evaluation.ThresholdCurve"], RECORDS),
    "evaluation.Precision.metrics": RECORDS,
    **dict.fromkeys(["evaluation.ThresholdCurve.rows", "evaluation.ThresholdCurve.sentence"], "it has no arguments"),
    **dict.fromkeys(["Predictions", "images.RGBRegions", "data.DataPart", "data.Suggestions"], RECORDS),
    **dict.fromkeys(["Detections.show", "Predictions.show"], "it opens a window; its arguments are those of draw"),
    **dict.fromkeys(["annotation_formats.table_text", "annotation_formats.make_rois"], EXPORTS),
    **dict.fromkeys(["annotation_formats.write_roi_zip"], EXPORTS),
    "annotation_formats.make_feature_collection": EXPORTS,
    "visualization.class_colors": "its arguments are those of draw_detections",
    **dict.fromkeys(["MaskRCNN.predict_options"], "its arguments are those of predict"),
}

# ------------------------------------------------------------------ wrong values

type Wrong = Callable[[Any], Any]


class Nothing:
    """Returned in place of a wrong value where there is none for an argument."""


def of_another_type(right: Any) -> Any:
    """Return numbers as complex ones."""
    if isinstance(right, Tensor):
        return tensor(values(right).astype(np.complex64))
    if isinstance(right, np.ndarray):
        return right.astype(np.complex64)
    return Nothing


def with_an_axis(right: Any) -> Any:
    if isinstance(right, Tensor):
        return tensor(values(right)[(None,) * (7 - right.ndim)])
    return right[(None,) * (7 - right.ndim)] if isinstance(right, np.ndarray) else Nothing


def on_the_other_device(right: Any) -> Any:
    return tensor(values(right), "gpu" if right.device == "cpu" else "cpu") if isinstance(right, Tensor) else Nothing


def as_array(right: Any) -> Any:
    return np.array(values(right)) if isinstance(right, Tensor) else Nothing


def shorter(right: Any) -> Any:
    if isinstance(right, Tensor):
        return tensor(values(right)[:-1]) if right.ndim else Nothing
    return right[:-1] if isinstance(right, (np.ndarray, list, tuple)) and len(right) > 1 else Nothing


def not_finite(right: Any) -> Any:
    if isinstance(right, Tensor) and values(right).dtype.kind == "f":
        return tensor(np.full_like(values(right), np.nan))
    if isinstance(right, np.ndarray) and right.dtype.kind == "f":
        return np.full_like(right, np.nan)
    return Nothing


WRONG: dict[str, Wrong] = {
    "none": lambda right: None,
    "text": lambda right: "no such thing",
    "empty": lambda right: "",
    "bytes": lambda right: b"x.png",
    "object": lambda right: object(),
    "class": lambda right: dict,
    "strings": lambda right: ["a", "b"],
    "nan": lambda right: float("nan"),
    "minus": lambda right: -1,
    "zero": lambda right: 0,
    "fraction": lambda right: 1.5,
    "huge": lambda right: 10**30,
    "true": lambda right: True,
    "numbers": lambda right: [1.0, 2.0],
    "generator": lambda right: (x for x in "ab"),
    "mapping": lambda right: {"a": 1},
    "no rows": lambda right: np.zeros((0,), np.float32),
    "axes": with_an_axis,
    "dtype": of_another_type,
    "device": on_the_other_device,
    "array": as_array,
    "shorter": shorter,
    "not finite": not_finite,
}


# ------------------------------------------------------------------ the wrong calls


def run(name: str, changed: dict[str, Any], without: str = "") -> Any:
    """Make the valid call, with some of its arguments changed or one left out."""
    function, arguments = valid_calls.CALLS[name]()
    arguments = {k: v for k, v in (arguments | changed).items() if k != without}
    unnamed = next((k for k in arguments if k.startswith("*")), None)
    return function(*(arguments.pop(unnamed) if unnamed else ()), **arguments)


def wrong_calls(name: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (argument, kind of wrong value, value)."""
    _, arguments = valid_calls.CALLS[name]()
    for argument, right in arguments.items():
        for kind, make in WRONG.items():
            if argument.startswith("*"):
                value = make(right[0])
                yield argument, kind, value if value is Nothing else (value, *right[1:])
            else:
                yield argument, kind, make(right)


def remove(path: str) -> None:
    """Remove what a call has written under the name of a file that there is not."""
    if Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def judged(name: str, argument: str, kind: str, value: Any) -> str:
    """Return "taken", "refused", or what is wrong with the answer."""
    try:
        run(name, {argument: value})
    except Exception as error:
        return fault_of(error, argument, kind, valid_calls.CALLS[name]()[1])
    finally:
        remove("no such thing")
    return "taken"


# Called by a function of their own, see CALLS.
CALLED_BY_ANOTHER = {"app.serve_app", "training.EMA.applied", "ops.compiling", "data.Loader.iterate", "predict_stream"}
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
RELATIONS = ("shorter", "axes", "no rows", "zero", "numbers", "strings")  # may be wrong beside another argument only
LUCIDS = ("train", "eval", "extra_repr", "load_state_dict")  # methods of Lucid's modules
ANSWERS = (TypeError, ValueError, IndexError, OSError, ImportError, KeyError)
# What an argument is called in messages beside its own name.
ALSO = {
    "index": "index|selected by|the keys are|there is no image",
    "images": "an? image|images?",
    "source": "an? image|image",
    "pixels": "an? image|image",
    "image_size": "of images|image has|image",
    "height": "pixels",
    "width": "pixels",
    "to_size": "pixels",
    "scale": "pixels",
    "segmentations": "masks",
    "target": "targets",
    "value": "device",
    "values": "has no argument|in the configuration",
    "arrays": "do not fit the model",
    "inputs": "x",
    "order": "masks",
    "first": "masks",
    "second": "masks",
    "tiles": "tile_size",
    "paths": "image file",
}
OF_USERS = {"ops.parallel_for.tasks"}  # what the user's own function raises is left as it is


def fault_of(error: Exception, argument: str, kind: str, others: Collection[str] = ()) -> str:
    """Return what is wrong with the answer to a wrong argument; "refused" if it is good."""
    said = f"{type(error).__name__}: {error}"
    if not isinstance(error, ANSWERS):
        return f"is no answer to a mistake: {said}"
    if not _is_answer(error):
        return f"is not this package's: {said}"
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    names = [argument, *(others if kind in RELATIONS else ())]
    words = "|".join([*(re.escape(name.strip("*")) for name in names), ALSO.get(argument, "(?!)")])
    file = kind in ("text", "bytes") and ("no such thing" in text or "x.png" in text)
    device = kind == "device" and "on cpu and on gpu" in text
    if not (file or device or re.search(rf"\b({words})\b", text, re.IGNORECASE)):
        return f"does not name {argument}: {said}"
    if not text.endswith((".", "?")) or "\n" in text:
        return f"is no sentence: {said}"
    return "refused"


def takes_by_itself(name: str, argument: str, kind: str, right: Any) -> bool:
    """Return whether the signature says that the argument takes such a value, or the value is of no other kind."""
    if kind == "none":
        function = public_names().get(name)
        known = inspect.signature(function).parameters if function is not None else {}
        return argument in known and known[argument].default is None
    return kind == "true" and isinstance(right, bool)


@functools.cache
def declared() -> frozenset[tuple[str, str]]:
    """Return the places and kinds of :data:`TAKES`."""
    return frozenset((place, kind) for kind, places in TAKES.items() for place in places.split())


# ------------------------------------------------------------------ the tests

NAMES = [name for name in valid_calls.CALLS if not name.startswith("models._")]


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The current folder has what the calls read."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("calls"))
    valid_calls.write_files()
    yield
    os.chdir(before)


def test_every_public_name_is_called() -> None:
    public = {name for name in public_names() if not name.rpartition(".")[2].startswith("_") or "__" in name}
    of_base = {n for n in public if n.startswith("MaskRCNN.") and n.rpartition(".")[2] in LUCIDS}
    missing = public - of_base - set(valid_calls.CALLS) - set(NOT_CALLED)
    assert not missing, "add a small valid call of each to tests/valid_calls.py"
    assert not set(NOT_CALLED) & set(valid_calls.CALLS)


def test_every_argument_is_given() -> None:
    public = public_names()
    for name in (name for name in NAMES if name in public and not name.endswith("__")):
        own = {p.name for p in inspect.signature(public[name]).parameters.values() if p.kind not in VARIABLE}
        assert own - set(valid_calls.CALLS[name]()[1]) <= {"self"}, f"add the new argument to the call of {name}"


@pytest.mark.parametrize("name", NAMES)
def test_wrong_calls_are_answered_in_a_sentence(name: str) -> None:
    faults = []
    _, arguments = valid_calls.CALLS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(name, {})
        for argument, kind, value in wrong_calls(name):
            place = (
                f"{name.replace('_50_fpn_v2', '_18_fpn').replace('_50_', '_18_').replace('_101_', '_18_')}.{argument}"
            )
            if value is Nothing or (place in OF_USERS and kind in ("text", "strings")):
                continue
            answer = judged(name, argument, kind, value)
            taken = (place, kind) in declared() or takes_by_itself(name, argument, kind, arguments[argument])
            if answer == "taken" and not taken:
                faults.append(f"{argument} takes {kind} in silence; declare it in TAKES if that is right")
            elif answer == "refused" and taken and (place, kind) in declared():
                faults.append(f"{argument} refuses {kind}, which TAKES declares")
            elif answer not in ("taken", "refused"):
                faults.append(f"{argument}, {kind}: {answer}")
    assert not faults, "\n".join([name, *faults])


@pytest.mark.parametrize("name", NAMES)
def test_misspelt_and_missing_arguments_are_named(name: str) -> None:
    arguments = valid_calls.CALLS[name]()[1]
    parameters = inspect.signature(public_names()[name]).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if name.endswith("__") or name in CALLED_BY_ANOTHER or open_ended:
        return
    for argument in [a for a in arguments if a in parameters][:3]:
        misspelt = argument + argument[-1]
        with pytest.raises(TypeError, match=misspelt) as caught:
            run(name, {misspelt: arguments[argument]}, without=argument)
        if not name.startswith("ops."):
            assert "__init__" not in str(caught.value)
            assert f"did you mean {argument!r}?" in str(caught.value)
        if parameters[argument].default is inspect.Parameter.empty:
            with pytest.raises(TypeError, match=rf"\b{argument}\b"):
                run(name, {}, without=argument)
