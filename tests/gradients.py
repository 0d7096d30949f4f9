"""Checks that every differentiable operator must pass: finite differences, and cpu against gpu."""

from collections.abc import Callable, Iterable

import numpy as np
from lucid import Tensor

from lucid_maskrcnn.ops import as_tensor


def tensor(array, device="cpu", requires_grad=False):
    """Return a leaf tensor with a copy of ``array`` on ``device``."""
    leaf = as_tensor(np.array(array), device)
    leaf.requires_grad = requires_grad
    return leaf


def values(result):
    """Return a tensor's values as a NumPy array."""
    return np.asarray(result.data)


def backward(output, cotangent):
    """Back-propagate ``sum(output * cotangent)``."""
    output.grad = as_tensor(np.array(cotangent), output.device).data
    output.backward()


def gradients(fn: Callable[..., Tensor], *arrays, wrt: Iterable[int], cotangent=None, device="cpu", seed=0):
    """Return ``fn(*arrays)`` as an array, and the gradient of its sum with a cotangent for each input in ``wrt``.

    The cotangent is random, the same for a seed and a shape, unless given.
    """
    wrt = tuple(wrt)
    inputs = [tensor(a, device, requires_grad=i in wrt) for i, a in enumerate(arrays)]
    output = fn(*inputs)
    if cotangent is None:
        cotangent = _cotangent(values(output), seed)
    backward(output, cotangent)
    return values(output), [np.asarray(inputs[i].grad) for i in wrt]


def check_gradients(fn: Callable[..., Tensor], *arrays, wrt=None, eps=1e-6, tol=1e-6, seed=0):
    """Compare the gradients of ``fn`` with central differences in float64 on cpu.

    Parameters
    ----------
    fn : callable
        Takes tensors, returns one tensor.
    *arrays : array_like
        Its inputs; floats are made float64, integers stay.
    wrt : sequence of int, optional
        Inputs to differentiate by; by default all floats.
    eps : float
        Half the difference of inputs.
    tol : float
        Largest error allowed, relative to the largest gradient or 1.
    """
    arrays = [np.array(a, np.float64) if np.asarray(a).dtype.kind == "f" else np.array(a) for a in arrays]
    wrt = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"] if wrt is None else wrt
    output, found = gradients(fn, *arrays, wrt=wrt, seed=seed)
    assert output.dtype == np.float64, f"float64 inputs gave {output.dtype}"
    cotangent = _cotangent(output, seed)
    for i, grad in zip(wrt, found, strict=True):
        assert grad.shape == arrays[i].shape
        expected = np.zeros_like(arrays[i])
        for place in np.ndindex(*arrays[i].shape):
            sums = []
            for step in (eps, -eps):
                moved = [a.copy() for a in arrays]
                moved[i][place] += step
                sums.append(float((values(fn(*map(tensor, moved))) * cotangent).sum()))
            expected[place] = (sums[0] - sums[1]) / (2 * eps)
        scale = max(1, np.abs(expected).max(initial=0))
        np.testing.assert_allclose(grad, expected, rtol=0, atol=tol * scale, err_msg=f"gradient of input {i}")


def cpu_gpu_agree(fn: Callable[..., Tensor], *arrays, wrt=None, tol=1e-5, seed=0):
    """Compare values and gradients of ``fn`` on both devices, in float32.

    ``tol`` is the largest error allowed, relative to the largest value or 1; ``wrt=()`` compares values
    only, and then exactly where the output is not a float.
    """
    arrays = [np.array(a, np.float32) if np.asarray(a).dtype.kind == "f" else np.array(a) for a in arrays]
    wrt = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"] if wrt is None else wrt
    if wrt:
        (cpu, cpu_grads), (gpu, gpu_grads) = (
            gradients(fn, *arrays, wrt=wrt, device=device, seed=seed) for device in ("cpu", "gpu")
        )
    else:
        cpu, gpu = (values(fn(*(tensor(a, device) for a in arrays))) for device in ("cpu", "gpu"))
        cpu_grads = gpu_grads = []
    for on_cpu, on_gpu in zip([cpu, *cpu_grads], [gpu, *gpu_grads], strict=True):
        assert on_cpu.dtype == on_gpu.dtype
        assert on_cpu.shape == on_gpu.shape
        scale = max(1, np.abs(on_cpu[np.isfinite(on_cpu)]).max(initial=0)) if on_cpu.dtype.kind == "f" else 0
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=0, atol=tol * scale)


def _cotangent(output, seed):
    return np.random.default_rng(seed).standard_normal(output.shape).astype(output.dtype)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normally distributed numbers, the same for a seed and a shape."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def float32(*shape: int, device: str = "cpu", seed: int = 0) -> Tensor:
    """Return :func:`normal` as a float32 tensor."""
    return tensor(normal(*shape, seed=seed).astype(np.float32), device)


def check_empty(fn, arrays: list[np.ndarray], shape: tuple[int, ...], device: str) -> None:
    """Check value and gradients where there is nothing to compute: empty, or 0 for what was not empty."""
    arrays = [a.astype(np.float32) for a in arrays]
    value, grads = gradients(fn, *arrays, wrt=range(len(arrays)), device=device)
    assert value.shape == shape
    assert value.dtype == np.float32
    assert [g.shape for g in grads] == [a.shape for a in arrays]
    assert not any(g.any() for g in grads)
