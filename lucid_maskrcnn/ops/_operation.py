"""The base class of operators on Lucid's internals: the only file that uses them.

Everything that differs between Lucid 2.9 and 2.16 is handled here, and what is defective in Lucid is repaired here (see
:func:`repair_engine`).

Writing an operator
-------------------
Subclass :class:`Op` and write ``cpu`` for NumPy arrays and ``gpu`` for MLX arrays. Both take the
inputs' arrays and return ``(output, backward)``; ``backward(grad)`` returns one array, or None,
per input. Settings go to the constructor, an input that is None reaches the method as None::

    class _Scale(Op):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def cpu(self, x):
            return x * self.factor, lambda grad: (grad * self.factor,)

        gpu = cpu

    def scale(x: Tensor, factor: float) -> Tensor:
        return _Scale(factor)(x)

An operator without a gradient sets ``differentiable = False`` and returns the output alone, or a
tuple of outputs.

Lucid adds gradients in place and may run a backward twice, so each array that ``backward``
returns must be fresh: not ``grad`` itself handed to two inputs, not an array saved for later.
``self.needs[i]`` says whether input *i* needs a gradient: skip work that nothing asked for.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ContextDecorator, contextmanager, nullcontext
from typing import Any, ClassVar, Self

import lucid
import lucid._backend.core as core
import lucid.nn as nn
import mlx.core as mx
import numpy as np
from lucid import Tensor

from lucid_maskrcnn.validators import flag, instance, non_negative_int, sequence, shown

from . import _memory, _tensor_protocol
from ._parallel import add
from .backend import announce_backend, device_name, move_module
from .tracing_gpu import stand_in

__all__ = [
    "Op",
    "array_module",
    "as_tensor",
    "begin",
    "device_array",
    "engine_is_sound",
    "evaluate",
    "host",
    "is_device_array",
    "no_grad",
    "numbers",
    "on_arrays",
    "on_host",
    "recording",
    "repair_engine",
    "shape_only",
    "zeros",
]

_LucidOperation: Any = getattr(core, "Operation", None) or core.operation  # 2.16, 2.9

type Array = Any  # np.ndarray or mx.array
type Backward = Callable[[Array], Sequence[Array | None]]


class Op(_LucidOperation):
    """One operator of this package; an instance is called once, with tensors.

    Attributes
    ----------
    needs : tuple of bool
        Which inputs want a gradient.
    owns_gradient : bool
        Whether the backward function may write into the gradient that it gets: nobody reads it afterwards.
    """

    differentiable: ClassVar[bool] = True
    needs: tuple[bool, ...] = ()
    owns_gradient: bool = False

    # Lucid stores the output on its operator, which makes a reference cycle that keeps every
    # activation of an abandoned forward pass alive until the garbage collector runs.
    result = property(lambda self: None, lambda self, value: None)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for device in ("cpu", "gpu"):
            method = cls.__dict__.get(device)
            if method is not None:
                setattr(cls, device, _bridge(method, device, cls.differentiable))

    def __call__(self, *inputs: Tensor | None) -> Any:
        self._present = tuple(t is not None for t in inputs)
        tensors = [t for t in inputs if t is not None]
        for t in tensors:
            if not isinstance(t, Tensor):
                raise TypeError(f"{self._name()} takes Lucid tensors, got {type(t).__name__}: use lucid.Tensor(...).")
        _bring_together(self._name(), tensors)
        self.needs = tuple(t is not None and t.requires_grad and lucid.grad_enabled() for t in inputs)
        return super().__call__(*tensors)

    def _name(self) -> str:
        return type(self).__name__.lstrip("_")


def _bring_together(name: str, tensors: Sequence[Tensor]) -> None:
    """Move Lucid's "free" tensors, made from lists, to the device of the others; raise if those are on two."""
    devices = {t.device for t in tensors if not t.is_free}
    if len(devices) > 1:
        raise ValueError(f"{name} got tensors on cpu and on gpu: move them together with .to(...).")
    for t in tensors if devices else []:
        t.to(*devices)  # Lucid would rather move the others


def _bridge(method: Callable[..., Any], device: str, differentiable: bool) -> Callable[..., Any]:
    """Turn a method on arrays into the method on tensors that Lucid calls."""

    def on_tensors(op: Op, *tensors: Tensor) -> Any:
        present = iter(tensors)
        arrays = [stand_in(next(present).data) if p else None for p in op._present]
        if differentiable:
            output, backward = method(op, *arrays)
            result = _wrap(output)
            return result, _gradient_function(result, backward, op._present, device)
        output = method(op, *arrays)
        if isinstance(output, tuple):
            return tuple((_wrap(o), None) for o in output)
        return ((_wrap(output), None),)

    if differentiable:
        bridged = core.func_op(None, 1, True, device)(on_tensors)
    else:
        bridged = _plain(on_tensors)
    return bridged


def _plain(on_tensors: Callable[..., Any]) -> Callable[..., Any]:
    """Choose the device by the inputs: all that an operator without a gradient needs of Lucid's bookkeeping."""

    def call(op: Op, *tensors: Tensor) -> Any:
        gpu = any(t.is_gpu() for t in tensors)
        outputs = tuple(t for t, _ in on_tensors(op, *(t.to("gpu") if gpu else t for t in tensors)))
        return outputs if len(outputs) > 1 else outputs[0]

    return call


def _wrap(output: Array) -> Tensor:
    # Scalars would become Lucid's "free" tensors, which change device and dtype when they meet other tensors.
    return Tensor(output if isinstance(output, (np.ndarray, mx.array)) else np.asarray(output))


def _gradient_function(result: Tensor, backward: Backward, present: tuple[bool, ...], device: str) -> Callable[[], Any]:
    of_result = weakref.ref(result)  # not the tensor itself: that would be a cycle
    zero = np.zeros((), np.float32) if device == "cpu" else mx.zeros(())

    def gradients() -> Any:
        output = of_result()
        # Lucid's own engine may visit a node again after its gradient was used.
        if output is None or output.grad is None:
            wanted: list[Array | None] = [None] * sum(present)
        else:
            wanted = [g for g, p in zip(backward(output.grad), present, strict=True) if p]
        filled = tuple(zero if g is None else g for g in wanted)
        return filled[0] if len(filled) == 1 else filled

    return gradients


# ------------------------------------------------------------------ between tensors and arrays


def array_module(array: Array) -> Any:
    """Return the array module (``numpy`` or ``mlx.core``) that ``array`` belongs to."""
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    instance("array", array, mx.array, "a NumPy or MLX array")
    return mx


def host(tensor: Tensor) -> np.ndarray:
    """Return the tensor's values as a NumPy array; on gpu this waits for the computation."""
    data = instance("tensor", tensor, Tensor, "a Lucid tensor").data
    if isinstance(data, mx.array) and data.dtype == mx.bfloat16:  # which NumPy does not have
        data = data.astype(mx.float32)
    return np.asarray(data)


_MAX_VALUES = 2**40  # of an array: more is a mistake


def as_tensor(values: Any, like: Tensor | str = "cpu", dtype: Any = None) -> Tensor:
    """Return ``values`` as a tensor without a gradient.

    Parameters
    ----------
    values : Tensor, array or nested list
        Not modified; a tensor that already fits is returned as it is.
    like : Tensor or str
        The device to be on, see :func:`device_name`, or a tensor that is on it.
    dtype : NumPy dtype, optional
        Element type, by default that of ``values``.

    Raises
    ------
    TypeError
        If ``values`` are not numbers, or of a type that Lucid does not have, such as uint8.
    ValueError
        If nested lists have rows of different lengths, or there is no such device.
    """
    device = like.device if isinstance(like, Tensor) else device_name("like", like)
    wanted = None if dtype is None else _dtype(dtype)
    if isinstance(values, Tensor):
        same_dtype = wanted is None or str(values.data.dtype).split(".")[-1] == wanted.name
        if values.device == device and same_dtype:
            return values
        values = values.data
    array = _numbers(values, wanted)
    return Tensor(mx.array(array) if device == "gpu" else array)


def _dtype(dtype: Any) -> np.dtype:
    try:
        made = np.dtype(dtype)
    except TypeError:
        made = np.dtype(object)
    if dtype is None or made.kind not in "biufc":
        raise TypeError(f'dtype must be a NumPy dtype of numbers such as "float32", got {shown(dtype)}.')
    return made


def _numbers(values: Any, dtype: np.dtype | None) -> np.ndarray:
    if dtype is not None and not isinstance(values, (np.ndarray, mx.array)):
        _numbers(values, None)  # else NumPy would read a string, and None as NaN
    try:
        array = np.asarray(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        wanted = "" if dtype is None else f" of {dtype}"
        raise kind(f"values cannot be made an array of numbers{wanted}, got {shown(values)}.") from None
    if array.dtype.kind == "u":
        raise TypeError(f'values are {array.dtype}, which Lucid does not have: give a dtype such as "int32".')
    if array.dtype.kind not in "bifc":
        raise TypeError(f"values must be numbers, got {shown(values)}.")
    return array


def device_array(array: np.ndarray, device: str) -> Array:
    """Return a NumPy array on ``device``: itself on "cpu", a copy in MLX on "gpu"."""
    instance("array", array, np.ndarray, "a NumPy array")
    return mx.array(array) if device_name("device", device) == "gpu" else array


def is_device_array(array: Any) -> bool:
    """Return whether an array is MLX's: the data of a tensor on "gpu"."""
    return isinstance(array, mx.array)


def evaluate(arrays: Iterable[Array]) -> None:
    """Compute these arrays if they are MLX's, which are lazy: until then they are only described by a graph."""
    mx.eval(_mlx_arrays(arrays))


def begin(arrays: Iterable[Array]) -> None:
    """Have MLX begin to compute its ones among these arrays, without waiting for them.

    What has begun can be read in any thread, and keeps nothing alive that it is computed from.
    """
    mx.async_eval(_mlx_arrays(arrays))


def _mlx_arrays(arrays: Iterable[Array]) -> list[mx.array]:
    if isinstance(arrays, Tensor):
        raise TypeError("arrays must be a list of arrays, got a Lucid tensor: give [tensor.data].")
    if not isinstance(arrays, Iterable):
        raise TypeError(f"arrays must be a list of NumPy or MLX arrays, got {shown(arrays)}.")
    given: list[Array] = [instance("arrays", array, (np.ndarray, mx.array), "NumPy or MLX arrays") for array in arrays]
    return [array for array in given if isinstance(array, mx.array)]


def numbers(tensors: Sequence[Tensor]) -> list[float]:
    """Return the values of tensors of one element each, waiting once for those on gpu.

    Raises
    ------
    TypeError, ValueError
        If they are not tensors, or one has not exactly one element.
    """
    sequence("tensors", tensors, _one_element)
    on_gpu = [t.data.reshape(1).astype(mx.float32) for t in tensors if t.is_gpu()]
    read = iter(np.asarray(mx.concatenate(on_gpu)).tolist() if on_gpu else [])
    return [next(read) if t.is_gpu() else float(t.data.reshape(())) for t in tensors]


def _one_element(name: str, tensor: Any) -> Tensor:
    if instance(name, tensor, Tensor, "a Lucid tensor").size != 1:
        raise ValueError(f"{name} must have one element, got shape {tuple(tensor.shape)}.")
    return tensor


def _checked_shape(shape: tuple[int, ...]) -> list[int]:
    sides = [non_negative_int("shape", n) for n in shape]
    if max(sides, default=0) > _MAX_VALUES or math.prod(sides) > _MAX_VALUES:
        raise ValueError(f"shape must have at most 2⁴⁰ elements in all, got {shown(tuple(sides))}.")
    return sides


def zeros(*shape: int) -> Tensor:
    """Return float32 zeros on cpu, in memory that is reused when they are freed, as :func:`host_zeros`."""
    return Tensor(host_zeros(shape, np.float32))


def host_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a NumPy array of zeros; its memory is reused when the array and all its views are freed."""
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"shape must be a tuple of integers, got {shown(shape)}.")
    return _memory.zeros(tuple(_checked_shape(tuple(shape))), _dtype(dtype))


def shape_only(*shape: int) -> Tensor:
    """Return a float32 tensor on cpu that has a shape but no memory; its values are not to be written."""
    return Tensor(np.broadcast_to(np.float32(0), _checked_shape(shape)))


def on_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of arrays, NumPy or MLX, a function of tensors without a gradient."""
    name = function.__name__.lstrip("_")

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        _bring_together(name, [a for a in args if isinstance(a, Tensor)])
        return _wrap_all(function(*(a.data if isinstance(a, Tensor) else a for a in args), **options))

    return call


def on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of NumPy arrays a function of tensors without a gradient, on either device.

    For results whose size depends on the data: MLX has no such shapes. On gpu it waits for the inputs.
    """
    name = function.__name__.lstrip("_")

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor)]
        _bring_together(name, tensors)
        gpu = any(t.is_gpu() for t in tensors)
        out = function(*(host(a) if isinstance(a, Tensor) else a for a in args), **options)
        return _wrap_all(out, mx.array if gpu else np.asarray)

    return call


def _wrap_all(output: Any, convert: Callable[[Any], Array] = lambda a: a) -> Any:
    if isinstance(output, tuple):
        return tuple(_wrap(convert(o)) for o in output)
    return _wrap(convert(output))


# ------------------------------------------------------------------ repair of Lucid's engine


def _accumulate(tensor: Tensor, grad: Array, at: Any = ...) -> None:
    """Add ``grad`` to the tensor's gradient without writing into an array that others may hold."""
    if not tensor.requires_grad or grad is None:
        return
    if tensor.grad is None:
        tensor.grad = grad
    elif at is Ellipsis and tensor.is_cpu() and tensor.shape == grad.shape:
        unshared = _is_unshared(tensor)  # before the call, whose arguments are references, too
        tensor.grad = add(tensor.grad, grad, overwrite=unshared)
    elif at is Ellipsis:
        tensor.grad = tensor.grad + grad
    elif tensor.is_cpu():
        total = np.array(tensor.grad)
        np.add.at(total, at, grad)  # repeated indices add up
        tensor.grad = total
    else:
        tensor.grad = tensor.grad.at[at].add(grad)


def _is_unshared(tensor: Tensor) -> bool:
    """Return whether nobody but the tensor, on cpu, holds its gradient, or what that is a view of."""
    if not isinstance(tensor.grad, np.ndarray):
        return False
    owner, counts = _references(tensor)
    owns_memory = owner.base is None or _memory.is_kept(owner.base)
    return owns_memory and tensor.grad.flags.writeable and counts in _UNSHARED


def _references(tensor: Tensor) -> tuple[np.ndarray, list[int]]:
    """Return the array that a tensor's gradient is a view of, and how many references there are to all on the way."""
    array, counts = tensor.grad, [sys.getrefcount(tensor.grad)]
    while isinstance(array.base, np.ndarray):
        array = array.base
        counts.append(sys.getrefcount(array))
    return array, counts


def _references_if_unshared() -> list[list[int]]:
    tensor, found = Tensor(np.zeros(2)), []
    for gradient in (np.zeros, lambda n: np.zeros(n)[:]):
        tensor.grad = gradient(2)
        found.append(_references(tensor)[1])
    return found


_UNSHARED = _references_if_unshared()  # of an array and of a view of one, as this Python counts what it holds itself


def _match_shape(data: Array, grad: Array, device: str = "cpu") -> Array:
    """Sum ``grad`` over the axes along which ``data`` was broadcast."""
    if grad is None or data.shape == grad.shape:
        return grad
    if [n for n in data.shape if n != 1] == [n for n in grad.shape if n != 1]:
        return grad.reshape(data.shape)
    xp = np if device == "cpu" else mx
    folded = grad
    while folded.ndim > data.ndim:
        folded = folded.sum(axis=0)
    own = data.shape[data.ndim - folded.ndim :]
    broadcast = tuple(i for i, (n, m) in enumerate(zip(own, folded.shape, strict=True)) if n == 1 != m)
    if broadcast:
        folded = folded.sum(axis=broadcast, keepdims=True)
    try:
        return xp.broadcast_to(folded, data.shape)
    except ValueError:
        # Lucid 2.9's reductions hand over gradients without the reduced axis.
        return _originals["_match_grad_shape"](data, grad, device=device)


def _backward(self: Tensor, keep_grad: bool = False, retain_graph: bool = False, retain_grad: bool = False) -> None:
    """Back-propagate from this tensor: each node once, after all that use it."""
    seed = self.grad
    if seed is None:
        seed = np.ones_like(self.data) if self.is_cpu() else mx.ones_like(self.data)
    order = _topological_order(self)
    leaves = [n for n in order if n.is_leaf and n.is_gpu()]
    # What a node kept from an earlier pass is added at the end, not passed on a second time.
    earlier = {id(n): n.grad for n in order if n._prev and n.grad is not None and n is not self}
    for inner in (n for n in order if id(n) in earlier):
        inner.grad = None
        del inner
    self.grad = seed
    if not retain_graph:
        _forget_results(order)
    while order:
        node = order.pop()  # and so forgotten here: its activations are freed on the way
        keeps = node.is_leaf or keep_grad or retain_grad or node.keep_grad
        try:
            if node.grad is not None:
                _count_axes_from_the_front(node)
                if isinstance(node._op, Op):
                    node._op.owns_gradient = not (keeps or node._backward_hooks) and _is_unshared(node)
                node._backward_op()
                for hook in node._backward_hooks:
                    hook(node, node.grad)
        except Exception as error:
            raise lucid.BackwardError(shape=node.shape, op=node._op) from error
        kept = earlier.pop(id(node), None)
        if not keeps:
            node.grad = None
        elif kept is not None:
            node.grad = kept if node.grad is None else kept + node.grad
        if not retain_graph:
            if node._op is not None:
                node._op.clear()
            node._prev, node._backward_op, node._op = [], _no_backward, None
    mx.async_eval([n.grad for n in leaves if n.grad is not None])  # which MLX begins in this thread only


def _forget_results(order: list[Tensor]) -> None:
    """Free the values that nobody but the graph has: what the gradients read of them, their operators have kept."""
    uses = Counter(id(given) for node in order for given in node._prev)
    for node in order:
        if sys.getrefcount(node) == _LISTED_ONCE + uses[id(node)] and not node._backward_hooks:
            node.data = _shape_of(node.data)


def _references_if_listed_once() -> int:
    for listed in [object()]:
        count = sys.getrefcount(listed)
    return count


_LISTED_ONCE = _references_if_listed_once()  # as this Python counts what it holds itself


def _shape_of(data: Array) -> Array:
    """Return an array of the same shape that takes no memory."""
    return np.broadcast_to(data.dtype.type(0), data.shape) if isinstance(data, np.ndarray) else data


def _count_axes_from_the_front(node: Tensor) -> None:
    """Make a reduction's axes non-negative: Lucid 2.9 puts a reduced axis back in the wrong place if it is negative."""
    axis = getattr(node._op, "axis", None)
    if axis is not None and not getattr(node._op, "keepdims", True):
        axes = axis if isinstance(axis, tuple) else (axis,)
        node._op.axis = tuple(sorted(a % node._prev[0].ndim for a in axes))


def _topological_order(root: Tensor) -> list[Tensor]:
    order: list[Tensor] = []
    seen = {id(root)}
    stack = [(root, iter(root._prev))]
    while stack:
        node, inputs = stack[-1]
        fresh = next((t for t in inputs if id(t) not in seen), None)
        if fresh is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(id(fresh))
            stack.append((fresh, iter(fresh._prev)))
    return order


_no_backward = Tensor(np.zeros((), np.float32))._backward_op
_originals: dict[str, Any] = {
    "_set_tensor_grad": lucid._set_tensor_grad,
    "_match_grad_shape": lucid._match_grad_shape,
    "backward": Tensor.backward,
    "grad_enabled": lucid.grad_enabled,
    "no_grad": lucid.no_grad,
    "to": nn.Module.to,
}


def engine_is_sound() -> bool:
    """Return whether Lucid's engine computes the right gradients of four small graphs: its releases 2.9 to 2.16 do not.

    A gradient shared by two inputs, an index that repeats, a bias broadcast over rows, and a
    tensor that an operator takes twice.
    """

    def leaf(*shape: int) -> Tensor:
        return Tensor(np.ones(shape, np.float32), requires_grad=True)

    try:
        with _with_gradients():
            x, y = leaf(2), leaf(2)
            ((x + y) + x).sum().backward()
            shared = np.array_equal(y.grad, [1, 1])
            x = leaf(3)
            x[[0, 0, 2]].sum().backward()
            repeated = np.array_equal(x.grad, [2, 0, 1])
            x, b = leaf(3, 2), leaf(2)
            ((x + b) * Tensor(np.arange(6, dtype=np.float32).reshape(3, 2))).sum().backward()
            broadcast = np.array_equal(b.grad, [6, 9])
            x = leaf(2)
            y = x * 3
            (y * y).sum().backward()
            twice = np.array_equal(x.grad, [18, 18])
    except Exception:  # whatever a broken engine raises, it is not sound
        return False
    return shared and repeated and broadcast and twice


class _Thread(threading.local):
    """What belongs to each thread: the modes that it has entered and not left, the last one last."""

    def __init__(self) -> None:
        self.entered: list[_ProcessMode | None] = []


_thread = _Thread()


def _grad_enabled() -> bool:
    """Return whether gradients are on: Lucid's own flag, which is the whole process's, and this thread's are.

    It stands in for ``lucid.grad_enabled``. So a prediction in one thread leaves training in another alone; whoever
    imported Lucid's ``no_grad`` by its name before this package sets the first.
    """
    return bool(lucid._grad_enabled) and not _thread.entered


class _ProcessMode:
    """Turn gradients off in the whole process, as Lucid's own switch does: for an engine without the repair.

    Threads may be in it at the same time, and the last to leave restores what was there. A thread that records
    gradients and one that turns them off refuse each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: Counter[int] = Counter()
        self._recording: Counter[int] = Counter()
        self._before = True

    def enter(self) -> None:
        """Turn gradients off."""
        with self._lock:
            self._refuse_others(self._recording)
            if not self._inside.total():
                self._before = lucid._grad_enabled
            self._inside[threading.get_ident()] += 1
            lucid._grad_enabled = False

    def leave(self) -> None:
        """Turn gradients on again, if no other thread needs them off."""
        with self._lock:
            self._inside[threading.get_ident()] -= 1
            if not self._inside.total():
                lucid._grad_enabled = self._before

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep other threads from turning gradients off."""
        with self._lock:
            self._refuse_others(self._inside)
            self._recording[threading.get_ident()] += 1
        try:
            yield
        finally:
            with self._lock:
                self._recording[threading.get_ident()] -= 1

    def _refuse_others(self, threads: Counter[int]) -> None:
        if any(count for ident, count in threads.items() if ident != threading.get_ident()):
            raise RuntimeError(
                "One thread computes losses while another predicts, and without the repair of Lucid's engine gradients "
                "are on or off in all threads at once: leave LUCID_MASKRCNN_REPAIR on, or do one after the other."
            )


_process = _ProcessMode()


class _NoGrad(ContextDecorator):
    """A context, and a decorator, in which this thread records nothing for a backward pass."""

    def __enter__(self) -> Self:
        mode = None if lucid.grad_enabled is _grad_enabled else _process
        if mode is not None:
            mode.enter()
        _thread.entered.append(mode)
        return self

    def __exit__(self, *exc: object) -> None:
        mode = _thread.entered.pop()
        if mode is not None:
            mode.leave()


def no_grad() -> AbstractContextManager[Any]:
    """Return a context in which this thread records nothing for a backward pass; other threads are not affected.

    With ``LUCID_MASKRCNN_REPAIR=0`` it is the whole process that records nothing.
    """
    return _NoGrad()


def recording() -> AbstractContextManager[None]:
    """Return a context for what must be recorded for a backward pass.

    Raises
    ------
    RuntimeError
        On entering, if another thread is in :func:`no_grad` and the engine's repair is off.
    """
    return nullcontext() if lucid.grad_enabled is _grad_enabled else _process.recording()


@contextmanager
def _with_gradients() -> Iterator[None]:
    """Turn gradients on, whoever turned them off."""
    flag, lucid._grad_enabled = lucid._grad_enabled, True
    entered, _thread.entered = _thread.entered, []
    try:
        yield
    finally:
        lucid._grad_enabled, _thread.entered = flag, entered


def repair_engine(enable: bool = True) -> bool:
    """Replace what is defective in Lucid, process-wide.

    Called at import, unless the environment variable ``LUCID_MASKRCNN_REPAIR`` is ``0``.

    - The three defective functions of the autograd engine, where it does not pass :func:`engine_is_sound`. The losses
      of this package do not depend on them; arithmetic that you do on tensors yourself does.
    - ``lucid.no_grad`` and ``lucid.grad_enabled``: gradients are on or off in each thread, not in all at once.
    - What ``lucid.Tensor`` lacks beside NumPy and Python: ``np.asarray(tensor)`` and NumPy's functions,
      ``float(tensor)``, ``f"{tensor:.2f}"``, iteration that ends, arithmetic with arrays and with numbers that the
      tensor's type cannot hold, copies that keep what is frozen frozen, pickles.
    - ``Module.to``: it moves all that the module has now, knows the names of devices (:func:`device_name`), and changes
      nothing if there is no such device.

    Parameters
    ----------
    enable : bool
        ``False`` puts Lucid's own functions back.

    Returns
    -------
    bool
        Whether the repaired functions of the engine are in place now.
    """
    _tensor_protocol.install(flag("enable", enable))
    nn.Module.to = move_module if enable else _originals["to"]
    lucid.grad_enabled = _grad_enabled if enable else _originals["grad_enabled"]
    lucid.no_grad = _NoGrad if enable else _originals["no_grad"]
    if not enable:
        lucid._set_tensor_grad = _originals["_set_tensor_grad"]
        lucid._match_grad_shape = _originals["_match_grad_shape"]
        Tensor.backward = _originals["backward"]
        return False
    if not engine_is_sound():
        lucid._set_tensor_grad = _accumulate
        lucid._match_grad_shape = _match_shape
        Tensor.backward = _backward
    return Tensor.backward is _backward


# Lucid warns of everything that is not Metal, and says that it is slower than the CPU.
lucid._tensor.tensor.check_metal_availability = announce_backend

if os.environ.get("LUCID_MASKRCNN_REPAIR", "1") != "0":
    repair_engine()
