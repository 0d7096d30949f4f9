"""Casts between element types, and bfloat16 as a type of Lucid's tensors."""

from __future__ import annotations

import lucid
import mlx.core as mx
import numpy as np
import pytest

from lucid_maskrcnn import ops


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_has_a_gradient(dtype: str) -> None:
    x = lucid.Tensor(np.array([1.0, 2.0, 3.0], np.float32), requires_grad=True).to("gpu")
    out = ops.cast(ops.cast(x, dtype), "float32")
    assert ops.dtype_name(ops.cast(x, dtype)) == dtype
    (out * 2).sum().backward()
    assert x.grad.dtype == mx.float32
    np.testing.assert_array_equal(np.asarray(x.grad), [2, 2, 2])


def test_casts_that_change_nothing_are_the_tensor_itself(device: str) -> None:
    x = lucid.Tensor(np.ones(2, np.float32)).to(device)
    assert ops.cast(x, "float32") is x
    assert ops.cast_like(x, lucid.Tensor(np.ones(1, np.float32)).to(device)) is x
    y = lucid.Tensor(np.ones(1, np.float16)).to(device)
    assert ops.dtype_name(ops.cast_like(x, y)) == "float16"
    assert ops.dtype_name(ops.cast_like(y, x)) == "float32"


def test_wrong_casts() -> None:
    x = lucid.Tensor(np.ones(2, np.float32))
    with pytest.raises(ValueError, match="dtype must be"):
        ops.cast(x, "float64")
    with pytest.raises(ValueError, match="x is on cpu"):
        ops.cast(x, "bfloat16")
    with pytest.raises(TypeError, match="x must be a tensor of float"):
        ops.cast(lucid.Tensor(np.ones(2, np.int32)), "float32")


def test_bfloat16_arrays_are_tensors() -> None:
    x = lucid.Tensor(mx.array([1.0, 1.0 + 2**-7]).astype(mx.bfloat16))
    assert str(x.dtype) == "bfloat16"
    for values in (ops.host(x), np.asarray(x), x.numpy()):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, [1.0, 1.0 + 2**-7])


def test_parameters_change_their_type_in_place() -> None:
    weight = lucid.nn.Parameter(lucid.Tensor(np.array([0.1, 3.0], np.float32))).to("gpu")
    ops.convert(weight, "float16")
    assert str(weight.dtype) == "float16"
    assert weight.requires_grad
    ops.set_values(weight, np.array([1.0, 2.0], np.float32))
    assert ops.dtype_name(weight) == "float16"
    np.testing.assert_array_equal(ops.host(weight), [1, 2])


def test_what_float16_can_hold() -> None:
    values = {65504.0: True, 65505.0: False, np.inf: False, np.nan: False, 1e-9: True}
    assert {v: ops.fits_float16(lucid.Tensor(np.array([0, v], np.float32))) for v in values} == values
    assert ops.fits_float16(ops.zeros(0))
