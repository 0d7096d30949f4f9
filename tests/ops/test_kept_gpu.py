"""Folded filters on gpu: computed once, again when the weights change, and gone with them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import lucid
import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits, primitives
from gradients import float32, values

from lucid_maskrcnn.models.layers import BatchNorm2d, Conv2d, conv_norm
from lucid_maskrcnn.ops import kept_gpu


def layer() -> tuple[Conv2d, BatchNorm2d]:
    conv, norm = Conv2d(3, 4, 3, bias=False), BatchNorm2d(4, frozen=True)
    norm.running_var.data = np.float32([1, 2, 3, 4])
    return conv.to("gpu"), norm.to("gpu")


@lucid.no_grad()
def apply(conv: Conv2d, norm: BatchNorm2d) -> mx.array:
    return conv_norm(float32(1, 3, 5, 5, device="gpu"), conv, norm).data


@lucid.no_grad()
def on_cpu(conv: Conv2d, norm: BatchNorm2d) -> np.ndarray:
    twins = Conv2d(3, 4, 3, bias=False), BatchNorm2d(4, frozen=True)
    for twin, module in zip(twins, (conv, norm), strict=True):
        twin.load_state_dict({name: np.asarray(array) for name, array in module.state_dict().items()})
    return values(conv_norm(float32(1, 3, 5, 5), *twins))


def test_filters_are_folded_once() -> None:
    conv, norm = layer()
    first = primitives(apply(conv, norm))
    assert (first["Convolution"], first["Multiply"], first["Sqrt"]) == (1, 0, 0)  # it is being computed already
    count = len(kept_gpu._kept)
    for _ in range(2):
        assert primitives(apply(conv, norm)) == first
    assert len(kept_gpu._kept) == count


def test_folding_does_not_wait() -> None:
    conv, norm = layer()
    with device_waits() as waits:
        apply(conv, norm)
        apply(conv, norm)
    assert not len(waits), str(waits)


def assign(conv: Conv2d, norm: BatchNorm2d) -> None:
    conv.weight.data = conv.weight.data * 2


def assign_elements(conv: Conv2d, norm: BatchNorm2d) -> None:
    conv.weight.data[0] = 3.0


def add_in_place(conv: Conv2d, norm: BatchNorm2d) -> None:
    conv.weight.data += 1


def add_in_place_and_compute(conv: Conv2d, norm: BatchNorm2d) -> None:
    conv.weight.data += 1
    mx.eval(conv.weight.data)


def move_statistics(conv: Conv2d, norm: BatchNorm2d) -> None:
    norm.running_var.data = norm.running_var.data * 2


def move_statistics_in_place(conv: Conv2d, norm: BatchNorm2d) -> None:
    norm.running_mean.data += 2
    norm.running_mean.data[1] = 5.0


def other_eps(conv: Conv2d, norm: BatchNorm2d) -> None:
    norm.eps = 0.5


@pytest.mark.parametrize(
    "change",
    [
        assign,
        assign_elements,
        add_in_place,
        add_in_place_and_compute,
        move_statistics,
        move_statistics_in_place,
        other_eps,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_change_is_noticed(change: Callable[[Conv2d, BatchNorm2d], None]) -> None:
    conv, norm = layer()
    before = np.asarray(apply(conv, norm))
    for _ in range(2):
        change(conv, norm)
        after = np.asarray(apply(conv, norm))
        np.testing.assert_allclose(after, np.asarray(apply(conv, norm)), rtol=1e-6)
        if change is not other_eps:
            np.testing.assert_allclose(after, on_cpu(conv, norm), atol=1e-5)
        assert np.abs(after - before).max() > 1e-2


def test_what_is_kept_goes_with_the_weights() -> None:
    gc.collect()
    before = len(kept_gpu._kept)
    conv, norm = layer()
    apply(conv, norm)
    assert len(kept_gpu._kept) == before + 2
    for _ in range(3):  # as training does
        conv.weight.data = conv.weight.data * 2
        mx.eval(conv.weight.data)
        apply(conv, norm)
    assert len(kept_gpu._kept) == before + 2
    del conv, norm
    gc.collect()
    assert len(kept_gpu._kept) == before


def test_weights_in_training_are_not_kept() -> None:
    conv, norm = layer()
    before = len(kept_gpu._kept)
    conv_norm(float32(1, 3, 5, 5, device="gpu"), conv, norm)
    assert len(kept_gpu._kept) == before + 1  # the norm's constants


def test_other_threads_can_use_what_one_has_kept() -> None:
    conv, norm = layer()
    expected = np.asarray(apply(conv, norm))
    found: list[np.ndarray] = []
    for count in range(2):
        threads = [threading.Thread(target=lambda: found.append(np.asarray(apply(conv, norm)))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 2
        while found:
            np.testing.assert_allclose(found.pop(), expected * 2**count, rtol=1e-6)
        if not count:
            conv.weight.data = conv.weight.data * 2
            norm.bias.data = norm.bias.data * 2
            mx.eval(conv.weight.data, norm.bias.data)
