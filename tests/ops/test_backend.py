"""What is behind "gpu", what devices are called, what is said of it, and how modules move."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import lucid.nn as nn
import mlx.core as mx
import numpy as np
import pytest
from lucid import Tensor
from tiny_runs import slim

from lucid_maskrcnn import ops
from lucid_maskrcnn.models.layers import Conv2d
from lucid_maskrcnn.ops import _mlx, backend

HAS_GPU = mx.default_device().type == mx.gpu


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str, name: str = "a card", *, tf32: bool = False) -> None:
    """Have this machine's MLX be another, which nothing has been said of yet."""
    monkeypatch.setattr(backend, "gpu_kind", lambda: kind)
    monkeypatch.setattr(backend, "_device_name", lambda: name)
    monkeypatch.setattr(backend, "_computes_in_tf32", lambda _: tf32)
    monkeypatch.setattr(backend, "_said", False)


# ------------------------------------------------------------------ what it is


@pytest.mark.skipif(HAS_GPU, reason="is of MLX's CPU backend")
def test_mlx_without_a_gpu_says_so() -> None:
    found = ops.gpu_backend()
    assert (found.kind, found.tf32) == ("cpu", False)
    assert found.name == mx.device_info()["device_name"]
    assert str(found) == f"MLX's CPU code, no GPU, {found.name}, TF32 off"


@pytest.mark.parametrize(("kind", "word"), [("metal", "Metal"), ("cuda", "CUDA")])
def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch, kind: str, word: str) -> None:
    pretend(monkeypatch, kind, "Tesla", tf32=True)
    assert ops.gpu_backend() == (kind, "Tesla", True)
    assert str(ops.gpu_backend()) == f"{word}, Tesla, TF32 on"


def test_products_in_full_precision_are_not_taken_for_tf32() -> None:
    assert not backend._computes_in_tf32.__wrapped__("any")


def test_products_in_tf32_are_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers have 10 bits behind the point; here they are cut as the hardware does."""

    def full(shape: tuple[int, int], value: float) -> mx.array:
        bits = np.full(shape, value, np.float32).view(np.uint32)
        return mx.array(((bits + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32))

    monkeypatch.setattr(backend.mx, "full", full)
    assert backend._computes_in_tf32.__wrapped__("any")


# ------------------------------------------------------------------ what it is called


@pytest.mark.parametrize("kind", ["cpu", "metal", "cuda"])
@pytest.mark.parametrize(
    ("given", "device"),
    [("cpu", "cpu"), ("gpu", "gpu"), ("cuda", "gpu"), ("mps", "gpu"), ("metal", "gpu"), ("cuda:0", "gpu"),
     ("CUDA", "gpu"), ("mps:0", "gpu")],
)  # fmt: skip
def test_names_of_devices(monkeypatch: pytest.MonkeyPatch, kind: str, given: str, device: str) -> None:
    pretend(monkeypatch, kind)
    assert ops.device_name("device", given) == device


@pytest.mark.parametrize(("kind", "device"), [("cpu", "cpu"), ("metal", "gpu"), ("cuda", "gpu")])
def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, kind: str, device: str) -> None:
    pretend(monkeypatch, kind)
    assert ops.device_name("device", "auto") == device


WRONG: list[tuple[Any, type[Exception], str]] = [
    ("tpu", ValueError, "device must be one of 'cpu', 'gpu', 'cuda', 'mps', 'metal', 'auto', got 'tpu'."),
    ("", ValueError, "got ''"),
    ("cuda:1", ValueError, "got 'cuda:1': MLX computes on the first GPU."),
    (None, TypeError, "got None"),
    (0, TypeError, "got 0"),
    (b"cpu", TypeError, "got b'cpu'"),
    (mx.gpu, TypeError, "device must be one of"),
]


@pytest.mark.parametrize(("given", "error", "message"), WRONG)
def test_other_names_are_refused_with_the_choices(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.device_name("device", given)


# ------------------------------------------------------------------ what is said of it


def use_a_module() -> None:
    Conv2d(1, 1, 1).to("gpu")


def use_a_tensor_of_lucid() -> None:
    Tensor(np.zeros(1, np.float32)).to("gpu")


USES = [use_a_module, use_a_tensor_of_lucid, lambda: ops.as_tensor([1.0], "cuda"), lambda: Tensor([1.0], device="gpu")]


@pytest.mark.parametrize("use", USES)
def test_a_gpu_that_is_a_cpu_is_told_once(monkeypatch: pytest.MonkeyPatch, use: Callable[[], Any]) -> None:
    pretend(monkeypatch, "cpu", "EPYC")
    with pytest.warns(UserWarning, match=r"computes on the CPU here \(EPYC\): .* 30 times slower") as caught:
        [use() for _ in range(2)]
    assert len(caught) == 1
    assert caught[0].filename == __file__  # not a file of Lucid's


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["metal", "cuda"])
def test_nothing_is_said_of_a_gpu_that_works(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[], Any], kind: str
) -> None:
    pretend(monkeypatch, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use()


def test_mlx_used_first_in_tf32_is_told_when_the_gpu_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "metal", "Apple M5", tf32=True)
    monkeypatch.setattr(_mlx, "unheeded", list(_mlx.DEFAULTS))
    with pytest.warns(UserWarning, match=r"multiplies in TF32 \(Apple M5\): .* Import lucid_maskrcnn first"):
        use_a_module()


def test_mlx_used_first_with_small_caches_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda")
    monkeypatch.setattr(_mlx, "unheeded", ["MLX_CUDA_CONV_CACHE_SIZE"])
    with pytest.warns(UserWarning, match="cache thrashing.*set MLX_CUDA_CONV_CACHE_SIZE in the environment"):
        use_a_module()


@pytest.mark.parametrize(
    ("kind", "tf32", "unheeded"), [("cuda", True, []), ("metal", True, []), ("metal", False, list(_mlx.DEFAULTS))]
)
def test_tf32_that_the_user_wants_or_the_card_has_not_is_no_warning(
    monkeypatch: pytest.MonkeyPatch, kind: str, tf32: bool, unheeded: list[str]
) -> None:
    pretend(monkeypatch, kind, tf32=tf32)
    monkeypatch.setattr(_mlx, "unheeded", unheeded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_a_module()


@pytest.mark.skipif(HAS_GPU, reason="is of MLX's CPU backend")
@pytest.mark.parametrize("repair", ["0", "1"])
def test_lucids_own_sentence_is_never_printed(repair: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import lucid_maskrcnn, lucid\nlucid.Tensor([1.0]).to('gpu')"],
        capture_output=True,
        text=True,
        env={"LUCID_MASKRCNN_REPAIR": repair},
    )
    assert "Falling back" not in run.stderr
    assert run.stderr.count("Warning: ") == 1
    assert run.stderr.startswith("<string>:2: UserWarning: The device")


# ------------------------------------------------------------------ moving modules


def places(module: nn.Module) -> set[type]:
    return {type(v.data) for v in (*module.parameters(), *module.buffers())}


ARRAYS = {"cpu": np.ndarray, "gpu": mx.array}


@pytest.mark.parametrize("wrong", ["tpu", "cuda:1", "", None, 3])
@pytest.mark.parametrize("of", ["model", "backbone", "layer"])
def test_an_unknown_device_moves_nothing(device: str, wrong: Any, of: str) -> None:
    model = slim().to(device)
    module = {"model": model, "backbone": model.backbone, "layer": next(iter(model.backbone.modules()))}[of]
    with pytest.raises((TypeError, ValueError), match="device must be one of"):
        module.to(wrong)
    assert {m.device for m in model.modules()} == {device}
    assert places(model) == {ARRAYS[device]}


@pytest.mark.parametrize("alias", ["gpu", "cuda", "mps", "metal", "CUDA:0"])
def test_the_gpu_has_several_names(alias: str) -> None:
    model = slim()
    assert model.to(alias) is model
    assert {m.device for m in model.modules()} == {"gpu"}
    assert places(model) == {mx.array}


def test_a_module_that_replaces_one_is_moved_by_the_next_to() -> None:
    model = slim().to("gpu")
    model.mask_head = slim().mask_head
    assert places(model) == {mx.array, np.ndarray}
    model.to("gpu")
    assert places(model) == {mx.array}
    assert {m.device for m in model.modules()} == {"gpu"}


@pytest.mark.parametrize("alias", ["gpu", "cpu"])
def test_parameters_and_arrays_that_were_assigned_are_moved(alias: str) -> None:
    model = slim().to(alias)
    other = {"gpu": "cpu", "cpu": "gpu"}[alias]
    model.more = nn.Parameter(ops.as_tensor(np.ones(3, np.float32), other))
    kept = next(iter(model.backbone.parameters()))
    kept.data = ops.device_array(np.asarray(kept.data), other)  # behind the tensor's back
    model.to(alias)
    assert places(model) == {ARRAYS[alias]}
    assert {p.device for p in model.parameters()} == {alias}


def test_gradients_and_flags_move_along() -> None:
    layer = Conv2d(1, 2, 1)
    layer.weight.grad = np.full(layer.weight.shape, 3, np.float32)
    layer.bias.requires_grad = False
    values = np.array(layer.weight.data)
    layer.to("gpu")
    assert isinstance(layer.weight.grad, mx.array)
    assert (layer.weight.requires_grad, layer.bias.requires_grad, layer.bias.grad) == (True, False, None)
    layer.to("cpu")
    np.testing.assert_array_equal(layer.weight.grad, np.full(layer.weight.shape, 3))
    np.testing.assert_array_equal(layer.weight.data, values)


def test_a_shared_parameter_stays_shared() -> None:
    first, second = Conv2d(1, 1, 1), Conv2d(1, 1, 1)
    second.weight = first.weight
    nn.Sequential(first, second).to("gpu")
    assert first.weight is second.weight
    assert isinstance(first.weight.data, mx.array)


def test_a_move_that_fails_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = nn.Sequential(Conv2d(1, 1, 1), Conv2d(1, 1, 1))
    made: list[Any] = []

    def full(array: Any) -> Any:
        made.append(array)
        if len(made) == 3:
            raise RuntimeError("[metal::malloc] out of memory")
        return mx.array(array)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_array_on", lambda array, device: None if array is None else full(array))
        with pytest.raises(RuntimeError, match="out of memory"):
            layers.to("gpu")
    assert places(layers) == {np.ndarray}
    assert {m.device for m in layers.modules()} == {"cpu"}


class Moving(nn.Module):
    """A user's module that moves what is not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.ones(2, np.float32))
        self.table = [Tensor(np.ones(2, np.float32))]

    def to(self, device: str) -> Moving:
        super().to(device)
        self.table = [t.to(device) for t in self.table]
        return self


def test_a_method_of_the_users_own_is_called() -> None:
    layers = nn.Sequential(Moving(), Conv2d(1, 1, 1)).to("cuda")
    assert layers[0].table[0].device == "gpu"
    assert places(layers) == {mx.array}


def test_without_the_repair_a_model_moves_all_the_same() -> None:
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from lucid_maskrcnn import mask_rcnn_resnet_18_fpn as make\n"
        "o = dict(width=8, fpn_channels=8, hidden_dim=16, mask_hidden_channels=8)\n"
        "m = make(1, **o).to('cuda'); m.mask_head = make(1, **o).mask_head; m.to('gpu')\n"
        "print({type(p.data).__module__ for p in m.parameters()}, m.device, m.backbone.device)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"LUCID_MASKRCNN_REPAIR": "0"}
    )
    assert run.stdout == "{'mlx.core'} gpu gpu\n", run.stderr
