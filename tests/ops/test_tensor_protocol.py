"""Lucid's tensors beside NumPy, Python's numbers and other libraries: the first lines of every notebook."""

from __future__ import annotations

import copy
import io
import json
import math
import operator
import os
import pickle
import statistics
import subprocess
import sys
from typing import Any

import lucid
import mlx.core as mx
import numpy as np
import pytest
from lucid import Tensor

from lucid_maskrcnn.ops import no_grad, repair_engine

VALUES = np.array([0.5, 0.25, 0.75], np.float32)


def tensor(values: Any, device: str = "cpu", dtype: Any = None, *, requires_grad: bool = False) -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=requires_grad, device=device)


# ------------------------------------------------------------------ arrays


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int64", "int8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3,), (2, 3)])
def test_asarray_of_a_tensor_raises_index_error(device: str, dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    array = np.asarray(tensor(values, device))
    np.testing.assert_array_equal(array, values, strict=True)
    assert type(array) is np.ndarray


def test_asarray_is_a_view_that_cannot_write_into_results(device: str) -> None:
    t = tensor(VALUES, device)
    array = np.asarray(t)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        np.copyto(t, 9)
    with pytest.raises(ValueError, match="read-only"):
        np.mean(np.ones((2, 3)), axis=0, out=t)
    if device == "cpu":
        assert np.shares_memory(array, t.data)
        assert t.data.flags.writeable
    assert t.tolist() == VALUES.tolist()


def test_copies_and_types_are_as_asked(device: str) -> None:
    t = tensor(VALUES, device)
    own = np.array(t)
    own[0] = 9
    wide = np.asarray(t, dtype=np.float64)
    wide[1] = 9
    assert (own.dtype, wide.dtype) == (np.float32, np.float64)
    assert t.tolist() == VALUES.tolist()
    assert np.asarray(t, dtype="float32", copy=False).tolist() == VALUES.tolist()
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(t, dtype=np.int64, copy=False)


def test_bfloat16_is_float32_in_numpy() -> None:
    t = tensor(VALUES, "gpu")
    t.data = t.data.astype(mx.bfloat16)
    assert np.asarray(t).dtype == np.float32
    assert np.asarray(t).tolist() == VALUES.tolist()
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(t, copy=False)


def test_tensors_that_require_gradients_are_arrays_and_numbers_too(device: str) -> None:
    x = tensor(VALUES, device, requires_grad=True)
    y = x * 2.0
    assert np.asarray(y).tolist() == (VALUES * 2).tolist()
    assert float(y.sum()) == 3
    assert [float(v) for v in y] == (VALUES * 2).tolist()
    assert np.mean(y) == 1
    y.sum().backward()
    assert np.asarray(x.grad).tolist() == [2, 2, 2]


NUMPY_CALLS = {
    "mean": lambda a: np.mean(a),
    "sum": lambda a: np.sum(a, axis=0),
    "any": lambda a: np.any(a > 0.6),
    "all": lambda a: np.all(a),
    "max": lambda a: np.max(a),
    "argmax": lambda a: np.argmax(a),
    "argsort": lambda a: np.argsort(a),
    "clip": lambda a: np.clip(a, 0.3, 0.6),
    "round": lambda a: np.round(a, 1),
    "std": lambda a: np.std(a),
    "median": lambda a: np.median(a),
    "concatenate": lambda a: np.concatenate([a, a, np.ones(2)]),
    "stack": lambda a: np.stack((a, a), axis=1),
    "where": lambda a: np.where(a > 0.4, a, 0),
    "histogram": lambda a: np.histogram(a, bins=4)[0],
    "unique": lambda a: np.unique(a),
    "reshape": lambda a: np.reshape(a, (3, 1)),
    "transpose": lambda a: np.transpose(a),
    "squeeze": lambda a: np.squeeze(a),
    "cumsum": lambda a: np.cumsum(a),
    "dot": lambda a: np.dot(a, a),
    "einsum": lambda a: np.einsum("i,i->", a, a),
    "norm": lambda a: np.linalg.norm(a),
    "exp": lambda a: np.exp(a),
    "maximum": lambda a: np.maximum(a, 0.4),
    "reduce": lambda a: np.maximum.reduce(a),
    "count_nonzero": lambda a: np.count_nonzero(a > 0.4),
    "nonzero": lambda a: np.nonzero(a > 0.4)[0],
    "shape": lambda a: [*np.shape(a), np.ndim(a), np.size(a)],
    "allclose": lambda a: np.allclose(a, a),
    "array of tensors": lambda a: np.array([a, a]),
    "array of numbers": lambda a: np.array(list(a)),
    "from a comparison": lambda a: np.arange(3)[a > 0.4],
}


@pytest.mark.parametrize("name", NUMPY_CALLS)
def test_numpys_functions_take_tensors(device: str, name: str) -> None:
    call = NUMPY_CALLS[name]
    found, expected = call(tensor(VALUES, device)), call(VALUES)
    assert not isinstance(found, Tensor)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), strict=True)


def test_tensors_can_be_saved_by_numpy(device: str) -> None:
    file = io.BytesIO()
    np.save(file, tensor(VALUES, device))
    assert np.load(io.BytesIO(file.getvalue())).tolist() == VALUES.tolist()
    file = io.BytesIO()
    np.savez(file, **{"scores": tensor(VALUES, device)})
    assert np.load(io.BytesIO(file.getvalue()))["scores"].tolist() == VALUES.tolist()


def test_masks_choose_pixels_of_a_picture(device: str) -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    mask = np.array([[True, False, False, True], [False] * 4])
    t = tensor(mask, device)
    np.testing.assert_array_equal(picture[t], picture[mask], strict=True)
    painted = picture.copy()
    painted[t] = 255
    assert (painted[mask] == 255).all()
    assert (painted[~mask] == picture[~mask]).all()
    single = np.array([7, 8])
    assert single[tensor([False, True], device)].tolist() == [8]
    assert np.array([7])[tensor([False], device)].tolist() == []  # not array[0]
    np.testing.assert_array_equal(
        picture * t[:, :, None] if device == "cpu" else picture * np.asarray(t)[:, :, None],
        picture * mask[:, :, None],
        strict=True,
    )


# ------------------------------------------------------------------ numbers


def test_a_score_is_a_number(device: str) -> None:
    score = tensor(VALUES, device)[1]
    assert type(float(score)) is float
    assert float(score) == 0.25
    assert f"{score:.2f}" == "0.25"
    assert f"{score:>8.3f}|" == "   0.250|"
    assert f"{score:.0%}" == "25%"
    assert "%.1f" % score == "0.2"  # noqa: UP031 - users write it
    assert f"{score}" == str(score)
    assert (int(score), round(score), round(score, 1), bool(score)) == (0, 0, 0.2, True)
    assert complex(score) == 0.25
    assert math.sqrt(score) == 0.5
    assert json.dumps(float(score)) == "0.25"
    assert np.float64(score) == 0.25
    assert not tensor(0.0, device)
    assert float(tensor([[2.5]], device)) == 2.5


def test_a_label_is_an_integer(device: str) -> None:
    names = {1: "cat", 2: "dog"}
    for label, name in zip(tensor([2, 1], device, np.int32), ("dog", "cat"), strict=True):
        assert names[int(label)] == name
        assert ["", "cat", "dog"][label] == name
        assert np.array(["", "cat", "dog"])[label] == name
        assert len(range(label)) == int(label)
        assert f"{label:03d}" == f"{int(label):03d}"
        assert f"{label:.1f}" == f"{int(label):.1f}"
        assert operator.index(label) == int(label)
    assert (math.isnan(tensor(np.nan, device)), int(tensor(2.7, device)), int(tensor(-2.7, device))) == (True, 2, -2)


@pytest.mark.parametrize("values", [1.0, True, [1], [True], [1, 2]])
def test_only_a_0d_integer_is_an_index(device: str, values: Any) -> None:
    with pytest.raises(TypeError, match="0-d tensor of integers"):
        operator.index(tensor(values, device))


@pytest.mark.parametrize("call", [float, int, complex, round, lambda t: f"{t:.2f}"])
@pytest.mark.parametrize("values", [[1.0, 2.0], []])
def test_several_values_are_no_number(device: str, call: Any, values: list[float]) -> None:
    with pytest.raises(TypeError, match=r"one element .* np\.asarray"):
        call(tensor(values, device, np.float32))


def test_iteration_ends(device: str) -> None:
    boxes, scores = tensor([[1, 2, 3, 4], [5, 6, 7, 8]], device, np.float32), tensor([0.25, 0.75], device, np.float32)
    assert [float(v) for v in scores] == [0.25, 0.75]
    assert [[float(v) for v in box] for box in boxes] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [(int(x1), int(y2)) for (x1, _, _, y2), _ in zip(boxes, scores, strict=True)] == [(1, 4), (5, 8)]
    assert list(tensor(np.zeros((0, 4)), device)) == []
    with pytest.raises(TypeError, match="0-d tensor cannot be iterated"):
        iter(scores[0])  # at once, not only when the first value is asked for
    assert [float(v) for v in sorted(scores, reverse=True)] == [0.75, 0.25]
    assert (float(max(scores)), float(min(scores)), float(sum(scores))) == (0.75, 0.25, 1)
    assert float(statistics.fmean(scores)) == 0.5
    assert [float(v) for v in reversed(scores)] == [0.75, 0.25]
    assert 0.75 in scores
    assert 0.7 not in scores
    assert 1.5 not in tensor([1, 2], device, np.int32)


# ------------------------------------------------------------------ arithmetic


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_array_times_tensor_loses_no_gradient(device: str, name: str) -> None:
    function = getattr(operator, name)
    array = np.array([2, 4, 8], np.float32)
    for order in (1, -1):
        x = tensor(VALUES, device, requires_grad=True)
        result = function(*(array, x)[::order])
        assert isinstance(result, Tensor)
        np.testing.assert_allclose(np.asarray(result), function(*(array, VALUES)[::order]))
        result.sum().backward()
        eps = np.float32(1 / 256)
        above, below = (function(*(array, VALUES + d)[::order]).astype(np.float64) for d in (eps, -eps))
        np.testing.assert_allclose(np.asarray(x.grad), (above - below) / (2 * eps), rtol=1e-3)


def test_array_at_tensor_is_their_product(device: str) -> None:
    x = tensor(np.eye(2) * 2, device, np.float32, requires_grad=True)
    result = np.array([[1, 2], [3, 4]], np.float32) @ x
    assert result.tolist() == [[2, 4], [6, 8]]
    result.sum().backward()
    assert np.asarray(x.grad).tolist() == [[4, 4], [6, 6]]


def test_scalars_of_numpy_keep_the_gradient(device: str) -> None:
    x = tensor(VALUES, device, requires_grad=True)
    (np.float32(3) * x + np.float64(1) - x / np.int64(2)).sum().backward()
    assert np.asarray(x.grad).tolist() == [2.5, 2.5, 2.5]
    assert np.asarray(x * np.float64(2)).dtype == np.float32


def test_unsigned_arrays_keep_the_gradient(device: str) -> None:
    x = tensor(VALUES, device, requires_grad=True)
    pixels = np.array([1, 2, 255], np.uint8)
    (pixels * x + x * pixels).sum().backward()
    assert np.asarray(x.grad).tolist() == [2, 4, 510]


LABELS, MASK = np.array([1, 2, 3], np.int32), np.array([True, False, True])
MIXED = {
    "masks > 0.5": (MASK, lambda t: t > 0.5),
    "0.5 < masks": (MASK, lambda t: 0.5 < t),  # noqa: SIM300 - the point
    "masks * 255": (MASK, lambda t: t * 255),
    "255 * masks": (MASK, lambda t: 255 * t),
    "1 - masks": (MASK, lambda t: 1 - t),
    "masks == 2": (MASK, lambda t: t == 2),
    "masks * 0.5": (MASK, lambda t: t * 0.5),
    "masks & array": (MASK, lambda t: t & np.array([True, True, False])),
    "array & masks": (MASK, lambda t: np.array([True, True, False]) & t),
    "array | masks": (MASK, lambda t: np.array([True, True, False]) | t),
    "array == masks": (MASK, lambda t: np.array([True, True, False]) == t),
    "uint8 * masks": (MASK, lambda t: np.array([1, 2, 3], np.uint8) * t),
    "masks * uint8": (MASK, lambda t: t * np.array([1, 2, 3], np.uint8)),
    "labels < 1.5": (LABELS, lambda t: t < 1.5),
    "labels == 1.5": (LABELS, lambda t: t == 1.5),
    "labels == nan": (LABELS, lambda t: t == math.nan),
    "labels * 1.5": (LABELS, lambda t: t * 1.5),
    "1.5 - labels": (LABELS, lambda t: 1.5 - t),
    "labels / 2": (LABELS, lambda t: t / 2),
    "float32 * labels": (LABELS, lambda t: np.float32(1.5) * t),
    "labels * float64": (LABELS, lambda t: t * np.float64(1.5)),
    "labels - 1": (LABELS, lambda t: t - 1),
    "labels == uint64": (LABELS, lambda t: t == np.array([1, 5, 3], np.uint64)),
    "scores > float64": (VALUES, lambda t: t > np.float64(0.4)),
    "abs": (VALUES, lambda t: abs(t - 0.5)),
    "float array > scores": (VALUES, lambda t: np.float32([1, 0, 1]) > t),
}


@pytest.mark.parametrize("name", MIXED)
def test_masks_above_one_half_are_all_false(device: str, name: str) -> None:
    """And the like: a number takes the type of the tensor in Lucid, so that 0.5 was True."""
    values, call = MIXED[name]
    found, expected = np.asarray(call(tensor(values, device))), call(values)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype.kind == expected.dtype.kind


# ------------------------------------------------------------------ other libraries


def test_matplotlib_draws_tensors(device: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, axes = plt.subplots()
    try:
        mask = np.arange(12).reshape(3, 4) % 2 == 0
        shown = axes.imshow(tensor(mask, device))
        np.testing.assert_array_equal(np.asarray(shown.get_array()), mask)
        counts, _, _ = axes.hist(tensor(VALUES, device), bins=4, range=(0, 1))
        assert counts.tolist() == [0, 1, 1, 1]
        (line,) = axes.plot(tensor([1, 2, 3], device, np.int32), tensor(VALUES, device))
        assert np.asarray(line.get_ydata()).tolist() == VALUES.tolist()
        points = axes.scatter(tensor(VALUES, device), tensor(VALUES, device), c=tensor(VALUES, device))
        assert points.get_offsets().tolist() == np.stack([VALUES, VALUES], 1).tolist()
        x1, y1, x2, y2 = tensor([1, 2, 4, 8], device, np.float32)
        box = axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1))
        assert box.get_bbox().bounds == (1, 2, 3, 6)
        axes.text(x1, y1, f"{tensor(VALUES, device)[0]:.2f}")
        figure.canvas.draw()
    finally:
        plt.close(figure)


def test_pandas_makes_a_table_of_tensors(device: str) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"label": tensor([1, 2, 3], device, np.int32), "score": tensor(VALUES, device)})
    assert table["label"].tolist() == [1, 2, 3]
    assert table["score"].tolist() == VALUES.tolist()
    assert table.dtypes.astype(str).tolist() == ["int32", "float32"]
    assert pandas.Series(tensor(VALUES, device)).mean() == 0.5
    boxes = pandas.DataFrame(tensor([[1, 2, 3, 4]], device, np.float32), columns=["x1", "y1", "x2", "y2"])
    assert boxes.loc[0].tolist() == [1, 2, 3, 4]
    table["mask_area"] = tensor([5, 6, 7], device, np.int32)
    assert table[np.asarray(tensor(VALUES, device) > 0.4)]["mask_area"].tolist() == [5, 7]


def test_opencv_draws_boxes_and_masks_of_tensors(device: str) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = np.zeros((20, 20, 3), np.uint8)
    for x1, y1, x2, y2 in tensor([[2, 3, 10, 12]], device, np.float32):
        cv2.rectangle(picture, (int(x1), int(y1)), (int(x2), int(y2)), (0, 255, 0), 1)
    assert picture[3, 2].tolist() == [0, 255, 0]
    assert picture[5, 5].tolist() == [0, 0, 0]
    (box,) = tensor([[2, 3, 10, 12]], device, np.int32)
    cv2.rectangle(picture, box[:2].tolist(), box[2:].tolist(), (9, 9, 9), -1)
    assert picture[5, 5].tolist() == [9, 9, 9]
    mask = np.zeros((20, 20), bool)
    mask[4:8, 5:9] = True
    contours, _ = cv2.findContours(np.asarray(tensor(mask, device), np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    assert cv2.boundingRect(contours[0]) == (5, 4, 4, 4)
    assert cv2.resize(np.asarray(tensor(mask, device)).astype(np.float32), (10, 10)).sum() == 4


# ------------------------------------------------------------------ copies and pickles


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int64", "bool"])
def test_tensors_pickle(device: str, dtype: str, protocol: int) -> None:
    t = tensor([[0, 1, 2], [3, 0, 5]], device, dtype)
    again = pickle.loads(pickle.dumps(t, protocol))
    assert type(again) is Tensor
    assert (again.device, again.dtype, again.requires_grad) == (device, t.dtype, False)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(t), strict=True)


def test_memory_order_survives_a_pickle_and_a_copy() -> None:
    nhwc = np.random.default_rng(0).random((2, 5, 6, 3)).astype(np.float32)
    t = Tensor(nhwc.transpose(0, 3, 1, 2))
    for again in (pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
        assert again.data.strides == t.data.strides
        np.testing.assert_array_equal(again.data, t.data)
        assert not np.shares_memory(again.data, t.data)
    for view in (nhwc[::-1], np.broadcast_to(np.float32(3), (4, 2)), nhwc[:0], nhwc[0, 0, 0, 0], nhwc[::2, 1:, ::3]):
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(Tensor(view))).data, view, strict=True)


def test_a_row_is_pickled_without_its_table() -> None:
    table = tensor(np.zeros((1000, 1000)), dtype=np.float32)
    assert len(pickle.dumps(table[3])) < 10_000


def test_a_pickle_has_no_graph(device: str) -> None:
    x = tensor(VALUES, device, requires_grad=True)
    y = pickle.loads(pickle.dumps(x * 2.0))
    assert y.requires_grad
    (y * 3.0).sum().backward()
    assert np.asarray(y.grad).tolist() == [3, 3, 3]
    assert x.grad is None


@pytest.mark.parametrize("again", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, copy.copy])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_copy_of_a_frozen_parameter_is_frozen(device: str, again: Any, frozen: bool) -> None:
    parameter = lucid.nn.Parameter(tensor(VALUES, device))
    buffer = lucid.nn.Buffer(tensor(VALUES, device))
    parameter.requires_grad = not frozen
    made = again(parameter)
    with no_grad():
        inside = again(parameter)
    for new in (made, inside):
        assert type(new) is lucid.nn.Parameter
        assert new is not parameter
        assert (new.requires_grad, new.keep_grad, new.device) == (not frozen, True, device)
        assert np.asarray(new).tolist() == VALUES.tolist()
    assert type(again(buffer)) is lucid.nn.Buffer
    assert not again(buffer).requires_grad


def test_gpu_pickle_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(tensor(VALUES, "gpu"))

    def no_device(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("No Metal device")

    monkeypatch.setattr(mx, "eval", no_device)
    with pytest.raises(RuntimeError, match=r'pickled on "gpu", which does not work here: move .* to "cpu"'):
        pickle.loads(data)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [int, float, bool, np.float64, np.int32, "int64", np.uint8, "uint16"])
def test_astype_does_not_change_the_tensor_that_it_is_asked_of(device: str, dtype: Any) -> None:
    if device == "gpu" and dtype is np.float64:
        pytest.skip("MLX has no float64 there")
    t = tensor([0.25, 1.5, 7.0], device, np.float32)
    converted = t.astype(dtype)
    np.testing.assert_array_equal(np.asarray(converted), np.float32([0.25, 1.5, 7.0]).astype(dtype))
    np.testing.assert_array_equal(np.asarray(t), np.float32([0.25, 1.5, 7.0]))
    assert np.asarray(t).dtype == np.float32
    mask = tensor([True, False], device)
    assert (np.asarray(mask.astype(np.uint8) * np.uint8(255)) == [255, 0]).all()
    assert np.asarray(mask).dtype == bool


def test_a_gradient_goes_through_astype() -> None:
    t = tensor([1.0, 2.0], dtype=np.float32, requires_grad=True)
    (t * t).sum().astype(float).backward()
    np.testing.assert_array_equal(t.grad, [2.0, 4.0])


# ------------------------------------------------------------------ on and off


def test_the_protocol_is_under_the_repairs_switch() -> None:
    t = tensor(VALUES)
    own = set(vars(Tensor))
    try:
        repair_engine(False)
        repair_engine(False)
        with pytest.raises(IndexError):
            np.asarray(t)
        with pytest.raises(TypeError):
            float(t[0])
        assert not hasattr(Tensor, "__array_priority__")
    finally:
        repair_engine()
        repair_engine()
    assert set(vars(Tensor)) == own
    assert float(t[0]) == 0.5


@pytest.mark.parametrize("setting", ["0", "1"])
def test_environment_variable_decides_about_the_protocol(setting: str) -> None:
    script = "import lucid, lucid_maskrcnn; print(hasattr(lucid.Tensor, '__array__'), lucid.no_grad.__module__)"
    environment = {**os.environ, "LUCID_MASKRCNN_REPAIR": setting}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    has, module = run.stdout.split()
    assert has == str(setting == "1")
    assert module.startswith("lucid_maskrcnn") == (setting == "1")
