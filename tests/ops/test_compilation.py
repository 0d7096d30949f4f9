"""Compiled modules give what the modules give, follow their weights, and neither pile up nor keep anything alive."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lucid.nn as nn
import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits, pending, primitives
from gradients import float32, values
from lucid import Tensor
from tiny_runs import slim

from lucid_maskrcnn import MaskRCNN, ops
from lucid_maskrcnn.models.backbone import BasicBlock
from lucid_maskrcnn.models.layers import Conv2d
from lucid_maskrcnn.ops import compiled
from lucid_maskrcnn.ops.compilation import _thread as this_thread

pytestmark = pytest.mark.skipif(
    not (mx.metal.is_available() or mx.cuda.is_available() or shutil.which("g++")),
    reason="MLX compiles for the CPU with g++",
)


@pytest.fixture(autouse=True)
def compiling() -> Iterator[None]:
    this_thread.known.clear()
    with ops.compiling(True), ops.no_grad():
        yield
    this_thread.known.clear()


def block(**more: Any) -> BasicBlock:
    settings = {"stride": 2, "norm": "frozen", "stride_in_1x1": False, **more}
    module = BasicBlock(2, 4, **settings).to("gpu")
    for i, buffer in enumerate(module.buffers()):
        buffer.data = buffer.data + 0.1 * i
        mx.eval(buffer.data)
    return module


def image(*shape: int, seed: int = 0) -> Tensor:
    return float32(*(shape or (1, 2, 6, 6)), device="gpu", seed=seed)


def check_equal(module: nn.Module, x: Tensor) -> mx.array:
    found = compiled(module, x)
    np.testing.assert_allclose(values(found), values(module(x)), rtol=1e-5, atol=1e-6)
    return found.data


def test_a_shape_is_compiled_when_it_comes_again() -> None:
    module, x = block(), image()
    plain = pending(module(x).data)
    assert [pending(compiled(module, x).data) < plain for _ in range(3)] == [False, True, True]
    for seed in range(3):
        check_equal(module, image(seed=seed))


def test_neither_folding_nor_looking_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = block(), image()
    calls = []
    forward = BasicBlock.forward
    monkeypatch.setattr(BasicBlock, "forward", lambda self, x: calls.append(0) or forward(self, x))
    for _ in range(4):
        out = compiled(module, x)
    assert len(calls) == 2
    assert not {"Sqrt", "Power", "Contiguous"} & set(primitives(out.data))
    assert primitives(out.data)["Convolution"] == 2
    with device_waits() as waits:
        compiled(module, x)
    assert not len(waits), str(waits)


def change_weight(module: BasicBlock) -> None:
    module.conv1.weight.data = module.conv1.weight.data * 2


def change_weight_in_place(module: BasicBlock) -> None:
    module.conv1.weight.data *= 2


def change_statistics(module: BasicBlock) -> None:
    module.bn2.running_mean.data = module.bn2.running_mean.data + 1


def change_eps(module: BasicBlock) -> None:
    module.bn1.eps = 3.0


def replace_layer(module: BasicBlock) -> None:
    module.conv2 = Conv2d(4, 4, 3, padding=1, bias=False).to("gpu")


def replace_by_another_kind(module: BasicBlock) -> None:
    module.conv2 = Conv2d(4, 4, 1, bias=False).to("gpu")


def share_weights(module: BasicBlock) -> None:
    module.bn1.bias.data = module.bn1.weight.data


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        change_weight_in_place,
        change_statistics,
        change_eps,
        replace_layer,
        replace_by_another_kind,
        share_weights,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_changes_are_followed(change: Callable[[BasicBlock], None]) -> None:
    module, x = block(), image()
    for _ in range(3):
        before = check_equal(module, x)
    for _ in range(2):
        change(module)
        for _ in range(3):
            after = check_equal(module, x)
    assert np.abs(np.asarray(after) - np.asarray(before)).max() > 1e-3


def test_weights_that_were_one_array_can_part() -> None:
    module, x = block(), image()
    share_weights(module)
    for _ in range(3):
        check_equal(module, x)
    module.bn1.bias.data = module.bn1.bias.data + 1
    for _ in range(3):
        check_equal(module, x)


def test_another_module_of_the_same_kind_uses_its_own_weights() -> None:
    one, other, x = block(), block(), image()
    for _ in range(3):
        check_equal(one, x)
    assert len(this_thread.known) == 1
    assert pending(check_equal(other, x)) == 0
    assert len(this_thread.known) == 1


def test_few_shapes_are_kept_and_no_module() -> None:
    module = block()
    for size in range(4, 16):
        for _ in range(2):
            compiled(module, image(1, 2, size, 4))
    assert len(this_thread.known) == 8
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


class Reading(nn.Module):
    """Reads values on the host, which a function that is being compiled cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = block()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * float(np.asarray(x.data).max())


class Twice(BasicBlock):
    """Not this package's, whatever it is derived from."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(np.asarray(x.data).max())


def test_modules_of_users_are_called_as_they_are() -> None:
    derived = Twice(2, 4, stride=2, norm="frozen", stride_in_1x1=False).to("gpu")
    hooked, patched = block(), block()
    hooked.register_forward_hook(lambda module, inputs, out: out)
    patched.forward = lambda x: x * float(np.asarray(x.data).max())
    x = image()
    for module in (Reading(), derived, hooked, patched, lambda x: x * float(np.asarray(x.data).max())):
        for _ in range(3):
            check_equal(module, x)
    assert not this_thread.known


def test_not_where_gradients_are_computed_nor_on_cpu_nor_when_switched_off() -> None:
    module, x = block(), image()
    with ops.compiling(False):
        compiled(module, x)
    compiled(BasicBlock(2, 4, stride=2, norm="frozen", stride_in_1x1=False), float32(1, 2, 6, 6))
    assert not this_thread.known
    with pytest.raises(TypeError, match="enabled"), ops.compiling("yes"):
        pass
    for wrong in (3, [3], []):
        with pytest.raises((TypeError, ValueError), match="inputs"):
            compiled(module, wrong)


def test_gradients_are_on_where_they_were() -> None:
    found: list[Any] = []

    def train() -> None:  # in a thread of its own, which is in no "no_grad"
        module = block()
        found.append(compiled(module, image()).requires_grad)
        found.append(len(this_thread.known))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [True, 0]


def test_by_default_only_where_there_is_a_gpu() -> None:
    module = block()
    with ops.compiling(None):
        compiled(module, image())
    assert bool(this_thread.known) == (mx.metal.is_available() or mx.cuda.is_available())


@pytest.mark.slow
def test_predictions_in_two_threads_equal_those_that_are_not_compiled() -> None:
    model = slim().eval().to("gpu")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)

    def predict(model: MaskRCNN) -> list[np.ndarray]:
        (found,) = model.predict(pixels, score_thresh=0, top_k=5)
        return [np.asarray(found.boxes), np.asarray(found.scores), np.asarray(found.masks)]

    with ops.compiling(False):
        expected = predict(model)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(predict, [model] * 6):
            for array, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(array, other, atol=1e-3)
    for _ in range(3):
        for array, other in zip(predict(model), expected, strict=True):
            np.testing.assert_allclose(array, other, atol=1e-3)
    assert len(this_thread.known) == 2
