"""Arguments of the public operators: what is not as documented is refused with a sentence that names the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import lucid
import numpy as np
import pytest
from gradients import backward, check_gradients, gradients, tensor, values
from lucid import Tensor

from lucid_maskrcnn import ops


def of(*shape: int) -> Tensor:
    return tensor(np.ones(shape, np.float32))


def ints(*numbers: int) -> Tensor:
    return tensor(np.array(numbers, np.int32))


BOXES = np.float32([[0, 0, 8, 8], [1, 1, 5, 6], [2, 0, 9, 9]])


def boxes() -> Tensor:
    return tensor(BOXES)


# A valid call of each operator that takes tensors, all arguments by name.
CALLS: dict[str, dict[str, Any]] = {
    "arange": {"count": 3, "like": of(1)},
    "batch_norm": {
        "x": of(2, 3, 4, 4),
        **dict.fromkeys(["weight", "bias", "running_mean", "running_var"], of(3)),
        "training": False,
        "momentum": 0.1,
        "eps": 1e-5,
        "residual": of(2, 3, 4, 4),
        "relu": True,
    },
    "batched_nms": {"boxes": boxes(), "scores": of(3), "idxs": ints(0, 0, 1), "iou_thresh": 0.5},
    "binary_cross_entropy": {"x": of(4, 2), "i": ints(0, 3), "j": ints(1, 1), "targets": of(2)},
    "box_area": {"boxes": boxes()},
    "box_iou": {"a": boxes(), "b": boxes()},
    "clip_boxes": {"boxes": boxes(), "size": (8, 9)},
    "concat": {"parts": [of(2, 3), of(1, 3)]},
    "concat_anchors": {"maps": [of(1, 8, 2, 2), of(1, 8, 1, 1)], "values": 4},
    "conv2d": {
        "x": of(1, 3, 8, 8),
        "weight": of(4, 3, 3, 3),
        "bias": of(4),
        "stride": 1,
        "padding": 1,
        "scale": of(4),
        "residual": of(1, 4, 8, 8),
        "relu": True,
    },
    "conv_transpose2d": {"x": of(1, 3, 8, 8), "weight": of(3, 4, 2, 2), "bias": of(4), "stride": 2, "relu": False},
    "cross_entropy": {"logits": of(3, 5), "labels": ints(0, 4, 2), "weights": of(5)},
    "decode_boxes": {"deltas": of(3, 2, 4), "boxes": boxes(), "weights": (10, 10, 5, 5)},
    "dropout": {"x": of(3, 2), "p": 0.5},
    "encode_boxes": {"reference": boxes(), "boxes": boxes(), "weights": (1, 1, 1, 1)},
    "finite_rows": {"boxes": boxes(), "scores": of(3)},
    "first_rows": {"x": of(4, 2), "count": 3},
    "flatten": {"x": of(2, 3, 4, 4)},
    "fold_batch_norm": {
        **dict.fromkeys(["weight", "bias", "running_mean", "running_var"], of(3)),
        "eps": 1e-5,
    },
    "full": {"count": 2, "value": 7, "like": of(1)},
    "grid_anchors": {"cells": [(-1, -1, 1, 1)], "grid": (2, 3), "stride": (4, 4), "like": of(1)},
    "host": {"tensor": of(2)},
    "linear": {"x": of(2, 3), "weight": of(4, 3), "bias": of(4), "relu": True},
    "mask_targets": {"gt_masks": of(2, 9, 9), "rois": boxes(), "gt_idx": ints(0, 1, 1), "size": 4, "aligned": False},
    "match": {"iou": of(2, 3), "foreground": 0.7, "background": 0.3, "allow_low_quality_matches": True},
    "match_boxes": {
        "gt_boxes": boxes(),
        "boxes": boxes(),
        "foreground": 0.7,
        "background": 0.3,
        "allow_low_quality_matches": True,
    },
    "max_pool2d": {"x": of(1, 2, 6, 6), "kernel_size": 3, "stride": 2, "padding": 1},
    "multiscale_roi_align": {
        "features": [of(2, 3, 8, 8), of(2, 3, 4, 4)],
        "rois": boxes(),
        "roi_idx": ints(0, 1, 1),
        "levels": ints(1, 0, 1),
        "output_size": (2, 2),
        "spatial_scales": [1, 0.5],
        "sampling_ratio": 2,
        "aligned": False,
    },
    "nms": {"boxes": boxes(), "scores": of(3), "iou_thresh": 0.5},
    "nonzero_above": {"scores": of(2, 3), "threshold": 0.05},
    "one_channel": {"x": of(2, 3, 4, 4), "weight": of(5, 3, 1, 1), "bias": of(5), "channels": ints(0, 4)},
    "paste_masks": {"mask_probs": of(3, 4, 4), "boxes": boxes(), "image_size": (9, 9), "threshold": 0.5, "snap": True},
    "pick": {"x": of(3, 2), "i": ints(0, 2), "j": ints(1, 1)},
    "remove_small_boxes": {"boxes": boxes(), "min_size": 1},
    "scale_scalar": {"x": of(), "factor": 2.0},
    "roi_align": {
        "features": of(2, 3, 8, 8),
        "rois": boxes(),
        "roi_idx": ints(0, 1, 1),
        "output_size": 2,
        "spatial_scale": 1,
        "sampling_ratio": 2,
        "aligned": False,
    },
    "roi_levels": {
        "rois": boxes(),
        "num_levels": 4,
        "canonical_size": 224,
        "canonical_level": 4,
        "finest_level": 2,
        "margin": (0, 1e-6),
    },
    "sample_balanced": {
        "matches": ints(0, -1, -2),
        "batch_size": 2,
        "positive_fraction": 0.5,
        "order": np.arange,
    },
    "sigmoid": {"x": of(3)},
    "smooth_l1": {
        "x": of(2, 3, 4),
        "i": ints(0, 1),
        "j": ints(2, 2),
        "targets": of(2, 4),
        "beta": 0.1,
        "divisor": 1,
    },
    "softmax": {"logits": of(2, 3)},
    "subsample": {"x": of(1, 2, 3, 3)},
    "take": {"x": of(3, 2), "rows": ints(0, 2)},
    "top_k_per_level": {"scores": of(5), "level_sizes": [2, 3], "k": 1},
    "upsample_add": {"coarse": of(1, 2, 3, 3), "fine": of(1, 2, 5, 6), "overwrite": False},
}
# What takes no tensors, or any number of them, is tested below or in the file of its module.
OTHERS = {
    *("DEVICES", "DTYPES", "cast", "cast_like", "convert", "dtype_name", "fits_float16", "set_values"),
    *("add_scalars", "array_module", "as_tensor", "cell_anchors", "chunks", "device_array", "engine_is_sound"),
    *(
        "begin",
        "compiled",
        "compiling",
        "BoxDetections",
        "DetectionRules",
        "ProposalRules",
        "Proposals",
        "detect_boxes",
        "mask_patches",
        "filter_proposals",
        "AnchorLevel",
        "joined_anchors",
        "bucket_size",
        "padded_rows",
        "GPUBackend",
        "device_name",
        "gpu_backend",
        "move_module",
        "evaluate",
        "host_zeros",
        "is_device_array",
        "nearest_cells",
        "no_grad",
        "num_threads",
        "numbers",
        "adamw_update",
        "moved_averages",
        "parallel_for",
    ),
    *(
        "permutation",
        "recording",
        "release_memory",
        "repair_engine",
        "sgd_update",
        "shape_only",
        "split_evenly",
        "sum_of_squares",
        "zeros",
    ),
}
DIFFERENTIABLE = {
    *("batch_norm", "binary_cross_entropy", "box_area", "box_iou", "clip_boxes", "concat_anchors", "conv2d"),
    *("conv_transpose2d", "cross_entropy", "decode_boxes", "dropout", "encode_boxes", "first_rows", "flatten"),
    *("linear", "max_pool2d", "multiscale_roi_align", "one_channel", "roi_align", "smooth_l1", "subsample"),
    "scale_scalar",
    "upsample_add",
}
FRACTIONS = {"targets", "running_var", "scores", "mask_probs", "gt_masks", "iou"}  # what may not be negative
OPTIONAL = {"bias", "residual", "scale", "weights"}  # may be None
TENSORS = [
    (name, argument)
    for name, arguments in CALLS.items()
    for argument, value in arguments.items()
    if isinstance(value, Tensor) and argument != "like"
]


def call(name: str, **changed: Any) -> Any:
    return getattr(ops, name)(**{**CALLS[name], **changed})


def test_every_operator_is_here() -> None:
    assert set(ops.__all__) == set(CALLS) | OTHERS, "add a valid call of the new operator to CALLS, or to OTHERS"
    assert ops.__all__ == sorted(set(ops.__all__), key=lambda name: (not name.isupper(), name))  # constants come first
    assert all(hasattr(ops, name) for name in ops.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_valid_calls_are_valid(name: str) -> None:
    assert set(inspect.signature(getattr(ops, name)).parameters) == set(CALLS[name])
    call(name)


def on(device: str, argument: str, value: Any) -> Any:
    """Return an argument of a call on a device; a tensor of ones has become one of various numbers."""
    if isinstance(value, list):
        return [on(device, f"{argument} {i}", v) for i, v in enumerate(value)]
    if not isinstance(value, Tensor):
        return value
    array = values(value)
    if array.dtype == np.float32 and array.size and (array == 1).all():
        low = 0.1 if argument in FRACTIONS else -0.9
        array = np.random.default_rng(list(argument.encode())).uniform(low, 0.9, array.shape).astype(np.float32)
    return tensor(array, device, requires_grad=array.dtype == np.float32)


def results_on(device: str, name: str) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Return the results of a valid call on a device, and its gradients."""
    arguments = {k: on(device, k, v) for k, v in CALLS[name].items()}
    lucid.random.seed(0)
    found = getattr(ops, name)(**arguments)
    results = [t for t in (found if isinstance(found, (tuple, list)) else [found]) if t is not None]
    leaves = [t for v in arguments.values() for t in (v if isinstance(v, list) else [v]) if isinstance(t, Tensor)]
    if isinstance(results[0], Tensor):
        assert {t.device for t in results} == {device}
        if results[0].requires_grad:
            shape = results[0].shape
            backward(results[0], np.cos(np.arange(np.prod(shape, dtype=int))).astype(np.float32).reshape(shape))
    grads = [None if t.grad is None else np.asarray(t.grad) for t in leaves]
    return [values(t) if isinstance(t, Tensor) else np.asarray(t) for t in results], grads


@pytest.mark.parametrize("name", [name for name, arguments in CALLS.items() if "data" not in arguments])
def test_values_and_gradients_are_those_of_the_cpu_on_gpu(name: str) -> None:
    (cpu, cpu_grads), (gpu, gpu_grads) = results_on("cpu", name), results_on("gpu", name)
    assert len(cpu) == len(gpu)
    for on_cpu, on_gpu in zip(cpu, gpu, strict=True):
        assert (on_cpu.dtype, on_cpu.shape) == (on_gpu.dtype, on_gpu.shape)
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-5, atol=1e-5)
    assert [g is None for g in cpu_grads] == [g is None for g in gpu_grads]
    assert any(g is not None for g in gpu_grads) == (name in DIFFERENTIABLE)
    for on_cpu, on_gpu in zip(cpu_grads, gpu_grads, strict=True):
        if on_cpu is not None and on_gpu is not None:
            np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "argument"), TENSORS)
@pytest.mark.parametrize("wrong", ["array", None, "x.png", [[1.0, 2.0]], 3.5], ids=repr)
def test_what_is_no_tensor_is_named(name: str, argument: str, wrong: Any) -> None:
    if wrong is None and argument in OPTIONAL and name not in {"one_channel", "fold_batch_norm", "batch_norm"}:
        return
    if wrong is None and (name, argument) == ("batch_norm", "residual"):
        return
    if wrong == "array":
        wrong = values(CALLS[name][argument])
    with pytest.raises(TypeError, match=rf"^{argument} must be .* got .*\.$"):
        call(name, **{argument: wrong})


@pytest.mark.parametrize(("name", "argument"), [t for t in TENSORS if t[0] not in {"dropout", "sigmoid", "host"}])
def test_a_wrong_number_of_axes_is_named(name: str, argument: str) -> None:
    right = CALLS[name][argument]
    wrong = tensor(values(right)[(None,) * (6 - right.ndim)][..., None])
    if name in {"take", "pick"} and argument in {"x", "rows"}:
        wrong = tensor(values(right).ravel()[0])
    if (name, argument) in {("take", "rows"), ("first_rows", "x"), ("smooth_l1", "x"), ("binary_cross_entropy", "x")}:
        return  # of any shape
    with pytest.raises(ValueError, match=rf"^({argument}|targets\[0\]|scores|boxes) must .* got .*\.$"):
        call(name, **{argument: wrong})


@pytest.mark.parametrize(("name", "argument"), [t for t in TENSORS if t[0] != "host"])
def test_wrong_element_types_are_named(name: str, argument: str) -> None:
    right = values(CALLS[name][argument])
    if (name in {"take", "pick"} and argument == "x") or argument == "gt_masks":
        wrong = right.astype(np.complex64)
    else:
        wrong = right.astype(np.int32 if right.dtype.kind == "f" else np.float32)
    with pytest.raises(TypeError, match=rf"^{argument} must be a tensor of .* elements, got {wrong.dtype}\.$"):
        call(name, **{argument: tensor(wrong)})


@pytest.mark.parametrize(
    ("name", "argument"), [t for t in TENSORS if len([o for o in TENSORS if o[0] == t[0]]) > 1 and t[0] != "host"]
)
def test_tensors_on_two_devices_are_refused(name: str, argument: str) -> None:
    with pytest.raises(ValueError, match=r"got tensors on cpu and on gpu: move them together with \.to\(\.\.\.\)\."):
        call(name, **{argument: tensor(values(CALLS[name][argument]), "gpu")})


def settings() -> list[Any]:
    """(operator, argument, wrong value, error, sentence) of everything that is no tensor."""
    integers = {
        "arange.count": 0,
        "concat_anchors.values": 1,
        "conv2d.padding": 0,
        "conv2d.stride": 1,
        "conv_transpose2d.stride": 1,
        "full.count": 0,
        "mask_targets.size": 1,
        "max_pool2d.kernel_size": 1,
        "max_pool2d.padding": 0,
        "max_pool2d.stride": 1,
        "roi_align.sampling_ratio": -1,
        "multiscale_roi_align.sampling_ratio": -1,
        "roi_levels.num_levels": 1,
        "sample_balanced.batch_size": 0,
        "take.rows": 0,
        "top_k_per_level.k": 1,
    }
    rows: list[Any] = []
    for place, least in integers.items():
        rows += [(place, least - 1, ValueError), (place, -5, ValueError)]
        rows += [(place, wrong, TypeError) for wrong in (1.5, "3", True, (2, 2))]
    fractions = ["nms.iou_thresh", "batched_nms.iou_thresh", "match.foreground", "match.background"]
    fractions += ["match_boxes.foreground", "match_boxes.background"]
    fractions += ["sample_balanced.positive_fraction", "batch_norm.momentum", "paste_masks.threshold", "dropout.p"]
    for place in fractions:
        rows += [(place, wrong, ValueError) for wrong in (-0.1, 2, float("nan"), float("inf"))]
        rows += [(place, wrong, TypeError) for wrong in ("0.5", True, [0.5])]
    numbers = ["remove_small_boxes.min_size", "smooth_l1.beta", "smooth_l1.divisor", "roi_align.spatial_scale"]
    numbers += ["batch_norm.eps", "fold_batch_norm.eps", "roi_levels.canonical_size"]
    for place in numbers:
        rows += [(place, wrong, ValueError) for wrong in (-1, float("nan"))]
        rows += [(place, wrong, TypeError) for wrong in ("1", None, True)]
    for place in ["batch_norm.training", "batch_norm.relu", "conv2d.relu", "conv_transpose2d.relu", "linear.relu"]:
        rows += [(place, wrong, TypeError) for wrong in ("no", None, 1)]
    for place in [
        "match.allow_low_quality_matches",
        "match_boxes.allow_low_quality_matches",
        "mask_targets.aligned",
        "paste_masks.snap",
        "roi_align.aligned",
    ]:
        rows += [(place, wrong, TypeError) for wrong in ("no", None, 1)]
    for place in ["clip_boxes.size", "paste_masks.image_size", "roi_align.output_size", "roi_levels.margin"]:
        rows += [(place, wrong, TypeError) for wrong in ("32", None, True, (True, 1), ("1", 2))]
        rows += [(place, wrong, ValueError) for wrong in (-1, (1, 2, 3), (1,), (4, -1))]
    for place in ["decode_boxes.weights", "encode_boxes.weights"]:
        rows += [(place, wrong, TypeError) for wrong in (None, 1.0, ("1", 1, 1, 1))]
        rows += [(place, wrong, ValueError) for wrong in ((1, 1, 1), (1, 1, 0, 1), (1, 1, 1, float("nan")))]
    for place in ["concat.parts", "concat_anchors.maps", "multiscale_roi_align.features"]:
        rows += [(place, wrong, TypeError) for wrong in (None, of(2), [BOXES])]
        rows += [(place, [], ValueError), (place, [of(2, 3), of(2, 4)], ValueError)]
    return rows


@pytest.mark.parametrize(("place", "wrong", "error"), settings())
def test_settings_out_of_range_are_named(place: str, wrong: Any, error: type[Exception]) -> None:
    name, _, argument = place.partition(".")
    with pytest.raises(error, match=rf"^{argument}(\[\d\])? must .*\.$"):
        call(name, **{argument: wrong})


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: call("conv2d", padding="same"), TypeError, "padding must be an integer from 0 to 1024, got 'same'"),
        (lambda: call("max_pool2d", padding=5), ValueError, "padding must be at most half of kernel_size, 3, got 5"),
        (lambda: call("match", foreground=0.3, background=0.7), ValueError, "background must not be greater than fore"),
        (lambda: call("top_k_per_level", level_sizes=[2, 4]), ValueError, r"add up to the 5 scores, got \(2, 4\)"),
        (lambda: call("full", value=2**31), ValueError, "value must be an integer from"),
        (lambda: call("sample_balanced", order=None), TypeError, "order must be a function"),
        (lambda: call("softmax", logits=of(2, 0)), ValueError, "at least one column"),
        (lambda: call("concat_anchors", values=3), ValueError, r"maps\[0\] must have a multiple of 3 channels, got 8"),
        (lambda: call("grid_anchors", cells=[(1, 2, 3)]), ValueError, r"cells\[0\] must be a sequence of 4 values"),
        (lambda: call("grid_anchors", stride=0), ValueError, "stride must be a number above 0"),
        (lambda: ops.cell_anchors((0,), (1,)), ValueError, r"sizes\[0\] must be a number above 0"),
        (lambda: ops.cell_anchors((8,), (-1,)), ValueError, r"aspect_ratios\[0\] must be a number above 0"),
        (lambda: ops.cell_anchors((8,), 1), TypeError, "aspect_ratios must be a sequence"),
        (lambda: ops.add_scalars(), ValueError, "terms must have at least one tensor"),
        (lambda: ops.add_scalars(of(1)), ValueError, r"terms\[0\] must have shape \(\), got \(1,\)"),
        (lambda: ops.permutation(-1), ValueError, "count must be an integer from 0"),
        (lambda: ops.zeros(-1), ValueError, "shape must be a non-negative integer"),
        (lambda: ops.repair_engine("no"), TypeError, "enable must be True or False"),
        (lambda: ops.device_array(BOXES, "tpu"), ValueError, "device must be one of 'cpu', .*, 'auto', got 'tpu'"),
    ],
)
def test_relations_are_named(run: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize(
    ("values", "like", "dtype", "error", "message"),
    [
        ([1, 2], "tpu", None, ValueError, "like must be one of 'cpu', .*, 'auto', got 'tpu'"),
        ([1, 2], None, None, TypeError, "like must be one of 'cpu', .*, 'auto', got None"),
        (np.zeros(3, np.uint8), "cpu", None, TypeError, "values are uint8, which Lucid does not have"),
        ([1], "cpu", "uint16", TypeError, "values are uint16, which Lucid does not have"),
        ([1], "cpu", "float31", TypeError, "dtype must be a NumPy dtype"),
        ([[1, 2], [3]], "cpu", None, ValueError, "values cannot be made an array of numbers"),
        (["a"], "cpu", np.float32, TypeError, "values must be numbers"),
        (None, "cpu", None, TypeError, "values must be numbers, got None"),
        (["a"], "gpu", None, TypeError, r"values must be numbers, got \['a'\]"),
    ],
)
def test_as_tensor_refuses(values: Any, like: Any, dtype: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.as_tensor(values, like, dtype)


# ------------------------------------------------------------------ indices


@pytest.mark.parametrize(
    ("name", "argument", "wrong", "what"),
    [
        ("take", "rows", (0, 3), "3 rows"),
        ("pick", "i", (3, 0), "3 rows"),
        ("pick", "j", (0, 2), "2 columns"),
        ("cross_entropy", "labels", (0, 5, 0), "5 columns of logits"),
        ("binary_cross_entropy", "i", (0, 4), "4 rows of x"),
        ("binary_cross_entropy", "j", (0, 2), "2 entries of a row of x"),
        ("smooth_l1", "i", (2, 0), "2 rows of x"),
        ("smooth_l1", "j", (3, 0), "3 entries of a row of x"),
        ("one_channel", "channels", (5, 0), "5 outputs"),
        ("roi_align", "roi_idx", (0, 2, 0), "2 images"),
        ("multiscale_roi_align", "levels", (0, 0, 2), "2 levels"),
        ("mask_targets", "gt_idx", (0, 2, 0), "2 masks"),
    ],
)
def test_indices_out_of_range_are_named(name: str, argument: str, wrong: tuple[int, ...], what: str) -> None:
    place = int(np.argmax(wrong))
    with pytest.raises(
        ValueError, match=rf"^{argument}\[{place}\] must be an index of one of {what}, got {wrong[place]}"
    ):
        call(name, **{argument: ints(*wrong)})
    negative = [-1 if i == place else 0 for i in range(len(wrong))]
    with pytest.raises(ValueError, match=rf"^{argument}\[{place}\] must be an index .* got -1"):
        call(name, **{argument: ints(*negative)})
    with pytest.raises(ValueError, match="got -1"):  # 64 bits, too
        call(name, **{argument: tensor(np.array(negative, np.int64))})


@pytest.mark.parametrize("label", [-1, 5, 10**6])
def test_a_label_out_of_range_on_gpu_makes_the_loss_nan(label: int) -> None:
    loss = ops.cross_entropy(tensor(np.ones((3, 5), np.float32), "gpu"), tensor(np.int32([0, label, 2]), "gpu"))
    assert np.isnan(values(loss))


@pytest.mark.parametrize("targets", [[5, 0], [0, -3], [0, np.nan]])
def test_targets_of_binary_cross_entropy_are_probabilities(targets: list[float]) -> None:
    with pytest.raises(ValueError, match="targets must be probabilities between 0 and 1"):
        call("binary_cross_entropy", targets=tensor(np.float32(targets)))


def test_targets_may_leave_0_to_1_by_rounding() -> None:
    assert np.isfinite(values(call("binary_cross_entropy", targets=tensor(np.float32([1 + 1e-6, -1e-6])))))


# ------------------------------------------------------------------ what is taken as well


def test_one_number_is_both_of_a_pair() -> None:
    for name, argument, one in (
        ("clip_boxes", "size", 4),
        ("paste_masks", "image_size", 9),
        ("roi_align", "output_size", 3),
    ):
        both = call(name, **{argument: (one, one)})
        np.testing.assert_array_equal(values(call(name, **{argument: one})), values(both))
        np.testing.assert_array_equal(values(call(name, **{argument: np.int64(one)})), values(both))


def test_numpy_scalars_are_numbers() -> None:
    assert values(call("top_k_per_level", k=np.int64(2))[0]).tolist() == [0, 1, 2, 3]
    assert values(call("nms", iou_thresh=np.float32(0.5))).tolist() == values(call("nms")).tolist()
    np.testing.assert_array_equal(values(call("take", rows=np.int32(1))), np.ones(2))


def test_float16_boxes_do_not_overflow(device: str) -> None:
    boxes = np.array([[0, 0, 600, 600], [10, 10, 590, 610], [900, 900, 1000, 1000]], np.float16)
    small, large = tensor(boxes, device), tensor(boxes.astype(np.float32), device)
    scores = tensor(np.float32([0.9, 0.8, 0.7]), device)
    for fn in (
        ops.box_area,
        lambda b: ops.box_iou(b, b),
        lambda b: ops.clip_boxes(b, (605, 800)),
        lambda b: ops.encode_boxes(b, b),
        lambda b: ops.decode_boxes(b, b),
        lambda b: ops.nms(b, scores, 0.5),
        lambda b: ops.roi_levels(b, 4),
        lambda b: ops.roi_align(
            tensor(np.ones((1, 2, 8, 8), np.float32), device), b, tensor(np.int32([0] * 3), device), 2, 0.01
        ),
    ):
        found, expected = values(fn(small)), values(fn(large))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    _, (grad,) = gradients(ops.box_area, boxes[:, :], wrt=(0,), cotangent=np.ones(3, np.float32), device=device)
    assert grad.dtype == np.float16
    np.testing.assert_array_equal(grad[0], [-600, -600, 600, 600])


def test_linear_without_bias(device: str) -> None:
    x, weight = (np.random.default_rng(i).standard_normal((3, 4)) for i in range(2))
    found = ops.linear(*(tensor(a.astype(np.float32), device) for a in (x, weight)), relu=True)
    np.testing.assert_allclose(values(found), np.maximum(x @ weight.T, 0), rtol=1e-5)
    for relu in (False, True):
        check_gradients(lambda x, w, relu=relu: ops.linear(x, w, None, relu=relu), x, weight)


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        ([np.nan, 0, 10, 10], [0, 1, 2]),  # no IoU with NaN is above a threshold
        ([10, 0, 0, 10], [0, 1, 2]),  # swapped corners overlap nothing
        ([10, 10, 0, 0], [0, 1, 2]),
        ([0, 0, 10, 10], [0, 2]),
    ],
)
def test_nms_keeps_boxes_of_nan_or_swapped_corners(device: str, bad: list[float], kept: list[int]) -> None:
    boxes = np.float32([[0, 0, 10, 11], bad, [50, 50, 60, 60]])
    found = ops.nms(tensor(boxes, device), tensor(np.float32([0.9, 0.8, 0.7]), device), 0.5)
    assert values(found).tolist() == kept


def test_checks_on_gpu_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, rows = tensor(np.ones((4, 2), np.float32), "gpu"), tensor(np.int32([0, 1]), "gpu")
    labels = tensor(np.int32([0, 1, 1, 0]), "gpu")
    monkeypatch.setattr(np, "asarray", lambda *_, **__: pytest.fail("the device is waited for"))
    results = ops.take(x, rows), ops.pick(x, rows, rows), ops.cross_entropy(x, labels)
    monkeypatch.undo()
    assert {t.device for t in results} == {"gpu"}
