"""A prediction on gpu waits twice, whatever the model and the images; it is the cpu's; and shapes are few."""

from __future__ import annotations

import os
import threading
import warnings
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits
from tiny_runs import SIDE, Squares, slim

from lucid_maskrcnn import ops
from lucid_maskrcnn.ops import proposals as proposals_module

pytestmark = pytest.mark.filterwarnings("ignore:Objects may be missing")
MODELS = {
    "2 classes": {},
    "1 class": {"num_classes": 1},
    "90 classes": {"num_classes": 90},
    "v2 heads": {"box_convs": True, "head_norm": "frozen"},
}


def photographs(count, seed=0, side=SIDE):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (side, side, 3)).astype(np.uint8) for _ in range(count)]


def normalized(count, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (count, 3, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_waits_twice(name):
    model = slim(**MODELS[name]).to("gpu").eval()
    counts = []
    for thresh, images, options in (
        (0.0, photographs(1), {}),
        (0.99, photographs(1), {}),
        (0.0, photographs(4), {"batch_size": 4}),
        (0.0, ops.as_tensor(normalized(2), "gpu"), {}),
    ):
        with device_waits() as waits:
            counts.append([len(d) for d in model.predict(images, score_thresh=thresh, **options)])
        assert len(waits) <= 2, waits
        assert waits.uploads < 48, waits.uploads
    assert counts[0][0] > 0
    assert counts[1] == [0]


def test_images_one_by_one_wait_twice_each_and_losses_once():
    model = slim().to("gpu").eval()
    with device_waits() as waits:
        model.predict(photographs(3))
    assert len(waits) <= 6, waits
    batch = Squares(2).batch(0)
    for images in (batch.images, ops.as_tensor(normalized(2), "gpu")):
        with device_waits() as waits:
            model.get_loss(images, batch.targets)
        assert len(waits) <= 1, waits
    with device_waits() as waits:
        model.forward(ops.as_tensor(normalized(1), "gpu"))
    assert len(waits) <= 2, waits


def test_samples_without_a_fixed_number_wait_once_more():
    model = slim(conventions="detectron2").to("gpu").eval()
    with device_waits() as waits:
        model.predict(photographs(1))
    assert len(waits) <= 4, waits


@pytest.mark.parametrize("seed", range(5))
def test_predictions_of_both_devices(seed):
    images = photographs(2, seed)
    both = [slim(seed).to(device).eval().predict(images, score_thresh=0.0) for device in ("cpu", "gpu")]
    for a, b in zip(*both, strict=True):
        assert len(a) > 0
        np.testing.assert_allclose(ops.host(b.scores), ops.host(a.scores), rtol=1e-5, atol=1e-5)
        # An untrained model's scores differ by less than float32 rounds: such neighbors may change places.
        cpu, gpu = (np.column_stack([ops.host(d.boxes), ops.host(d.labels), ops.host(d.scores)]) for d in (a, b))
        near = (np.abs(cpu[:, None] - gpu[None]) < np.array([5e-3] * 4 + [0.1, 1e-5])).all(axis=2)
        assert near.any(axis=0).all()
        assert near.any(axis=1).all()


def test_proposals_that_are_not_settled_are_computed_again():
    images = photographs(1)
    expected = slim().eval().predict(images)[0]
    with patch.object(proposals_module, "ROUNDS", 1):
        found = slim().to("gpu").eval().predict(images)[0]
    np.testing.assert_array_equal(ops.host(found.labels), ops.host(expected.labels))
    np.testing.assert_allclose(ops.host(found.boxes), ops.host(expected.boxes), rtol=1e-4, atol=1e-3)


def test_two_threads_predict_with_one_model():
    model = slim().to("gpu").eval()
    images = photographs(2)
    alone = [ops.host(model.predict(image)[0].scores) for image in images]
    found = {}

    def predict(i):
        found[i] = [np.array(ops.host(model.predict(images[i])[0].scores)) for _ in range(3)]

    threads = [threading.Thread(target=predict, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, scores in enumerate(alone):
        for again in found[i]:
            np.testing.assert_allclose(again, scores, rtol=1e-5, atol=1e-6)


def test_tensors_that_are_not_finite_spoil_nothing(device):
    model = slim(norm="batch").to(device).train()
    before = [np.array(ops.host(buffer)) for buffer in model.buffers()]
    array = normalized(2)
    array[1, 0, 3, 3] = np.nan
    wrong = ops.as_tensor(array, device)
    for call in (model.predict, lambda images: model.get_loss(images, Squares(2).batch(0).targets)):
        with pytest.raises(ValueError, match=r"images\[1\] must be finite, got a tensor with NaN or infinity"):
            call(wrong)
    assert before
    for buffer, values in zip(model.buffers(), before, strict=True):
        np.testing.assert_array_equal(ops.host(buffer), values)


def test_tensors_that_are_not_normalized_are_told(device):
    model = slim().to(device).eval()
    pixels = ops.as_tensor(np.stack(photographs(1)).transpose(0, 3, 1, 2).astype(np.float32), device)
    for call in (model.predict, lambda images: model.get_loss(images, Squares(1).batch(0).targets)):
        with pytest.warns(UserWarning, match="does not look normalized"):
            call(pixels)


@pytest.mark.filterwarnings("default:Objects may be missing")
@pytest.mark.parametrize("top_k", [0, 5])
def test_what_is_cut_off_is_told_alike(top_k):
    said = []
    for device in ("cpu", "gpu"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            slim().to(device).eval().predict(photographs(2), score_thresh=0.0, top_k=top_k)
        said.append([str(w.message) for w in caught if "Objects may be missing" in str(w.message)])
    assert said[0] == said[1]
    assert f"top_k={top_k} cuts off detections" in said[0][0]


# ------------------------------------------------------------------ shapes


def convolutions(call):
    """Return the distinct shapes and strides that MLX convolves while ``call`` runs."""
    seen = set()

    def recording(real):
        def convolve(x, weight, *args, **options):
            seen.add((x.shape, weight.shape, str(args), str(sorted(options.items(), key=str))))
            return real(x, weight, *args, **options)

        return convolve

    names = ("conv2d", "conv_general", "conv_transpose2d")
    with patch.multiple(mx, **{name: recording(getattr(mx, name)) for name in names}):
        call()
    return seen


def test_the_mask_head_convolves_few_shapes():
    model = slim(mask_hidden_channels=9).to("gpu").eval()
    image = photographs(1)

    def predictions():
        for top_k in (1, 2, 7, 8, 9, 16, 17, 31, 33, 64, 65, 99, 100):
            model.predict(image, score_thresh=0.0, top_k=top_k)

    shapes = convolutions(predictions)
    of_head = [shape for shape in shapes if shape[1][0] == 9]
    layers = {shape[1:] for shape in of_head}
    assert of_head
    assert all(sum(shape[1:] == layer for shape in of_head) <= 5 for layer in layers)


def test_twenty_sizes_stay_below_what_mlx_keeps():
    model = slim(min_size=48, max_size=96).to("gpu").eval()
    rng = np.random.default_rng(0)

    def predictions():
        for i in range(20):
            height, width = 40 + 3 * i, 100 - 2 * i
            model.predict(rng.integers(0, 255, (height, width, 3)).astype(np.uint8), score_thresh=0.0)

    assert 0 < len(convolutions(predictions)) < 2 * int(os.environ["MLX_CUDA_CONV_CACHE_SIZE"])
