"""Writing an ONNX graph as if it were arithmetic on arrays.

Names: a ``Value`` is what flows along one edge of the graph; numbers and arrays in an expression become constants, of
which equal ones are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["Graph", "Value"]

_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Pow", "Clip", "Where"}
_COMPARISONS = {"Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
_OF_BOOLEANS = _COMPARISONS | {"And", "Or", "Not", "IsNaN", "IsInf"}
_OF_INTEGERS = {"Shape", "Size", "NonZero", "NonMaxSuppression"}
_SMALL = 1024  # numbers of a constant up to which equal ones are found
_LARGEST_FLOAT16 = 65504.0


class Value:
    """What an operator returns, or takes: an edge of the graph.

    Attributes
    ----------
    graph : Graph
        In which it is.
    name : str
        Its name there.
    dtype : numpy.dtype
        Of its elements; constants in an expression with it have the same.
    """

    __array_ufunc__ = None  # or NumPy would make an array of objects of "array + value"

    def __init__(self, graph: Graph, name: str, dtype: Any) -> None:
        self.graph, self.name, self.dtype = graph, name, np.dtype(dtype)

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.dtype})"

    def __add__(self, other: Any) -> Value:
        return self.graph.Add(self, other)

    def __radd__(self, other: Any) -> Value:
        return self.graph.Add(other, self)

    def __sub__(self, other: Any) -> Value:
        return self.graph.Sub(self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.graph.Sub(other, self)

    def __mul__(self, other: Any) -> Value:
        return self.graph.Mul(self, other)

    def __rmul__(self, other: Any) -> Value:
        return self.graph.Mul(other, self)

    def __truediv__(self, other: Any) -> Value:
        """Divide; integers are rounded toward zero."""
        return self.graph.Div(self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.graph.Div(other, self)

    def __matmul__(self, other: Any) -> Value:
        return self.graph.MatMul(self, other)

    def __mod__(self, other: Any) -> Value:
        return self.graph.Mod(self, other)

    def __neg__(self) -> Value:
        return self.graph.Neg(self)

    def __and__(self, other: Any) -> Value:
        return self.graph.And(self, other)

    def __lt__(self, other: Any) -> Value:
        return self.graph.Less(self, other)

    def __le__(self, other: Any) -> Value:
        return self.graph.LessOrEqual(self, other)

    def __gt__(self, other: Any) -> Value:
        return self.graph.Greater(self, other)

    def __ge__(self, other: Any) -> Value:
        return self.graph.GreaterOrEqual(self, other)

    def cast(self, dtype: Any) -> Value:
        """Return it with elements of another type."""
        from onnx.helper import np_dtype_to_tensor_dtype

        dtype = np.dtype(dtype)
        return self if dtype == self.dtype else self.graph.Cast(self, to=np_dtype_to_tensor_dtype(dtype), dtype=dtype)

    def reshape(self, *shape: int | Value) -> Value:
        """Return it in another shape, of numbers and values (); -1 is what is left."""
        return self.graph.Reshape(self, self.graph.vector(*shape))

    def transpose(self, *axes: int) -> Value:
        """Return it with its axes in another order."""
        return self.graph.Transpose(self, perm=list(axes))

    def take(self, indices: Any, axis: int = 0) -> Value:
        """Return the slices with these indices, from 0, along an axis; one number drops the axis."""
        return self.graph.Gather(self, indices, axis=axis)

    def part(self, start: int, stop: int, axis: int = -1, step: int = 1) -> Value:
        """Return ``start:stop:step`` along an axis."""
        return self.graph.Slice(self, [start], [stop], [axis], [step])

    def unsqueeze(self, *axes: int) -> Value:
        """Return it with axes of length 1 at these places of the result."""
        return self.graph.Unsqueeze(self, list(axes))

    def size(self, axis: int) -> Value:
        """Return the length of an axis, ()."""
        return self.graph.Shape(self).take(axis)


class Graph:
    """A graph that is being written: any operator of ONNX is a method, ``graph.Relu(x)``.

    An operator's inputs are values, numbers, arrays, or None for one that is left out; its attributes are keywords.
    Numbers among arithmetic have the type of the values beside them, others are integers. ``outputs=2`` returns two
    values.

    Parameters
    ----------
    names : mapping of int to str
        What the arrays of parameters are called, by their ``id``.
    half : bool
        Whether filters and matrices are stored as float16. They are cast to float32 where they are used.

    Attributes
    ----------
    num_bytes : int
        Of all constants.
    """

    def __init__(self, names: Mapping[int, str], *, half: bool = False) -> None:
        self.names, self.half = names, half
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._constants: dict[tuple[Any, ...], Value] = {}
        self._weights: dict[str, Value] = {}
        self.num_bytes = 0
        self._count = 0
        self._scope = ""

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, {len(self.initializers)} constants)"

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        if not operator[:1].isupper():
            raise AttributeError(operator)

        def call(*inputs: Any, **options: Any) -> Any:
            return self._node(operator, inputs, **options)

        return call

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Have the nodes that are written inside named after a stage."""
        before, self._scope = self._scope, f"{self._scope}{name}/"
        try:
            yield
        finally:
            self._scope = before

    # -------------------------------------------------------------- constants

    def constant(self, value: Any, dtype: Any = None) -> Value:
        """Return a number or an array as a value."""
        array = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        key = (array.dtype, array.shape, array.tobytes()) if array.size <= _SMALL else (id(array),)
        if key not in self._constants:
            self._constants[key] = self._initializer(f"constant_{len(self.initializers)}", array)
        return self._constants[key]

    def weight(self, name: str, array: np.ndarray) -> Value:
        """Return the numbers of a layer as a value in float32; a layer may be used several times."""
        if name not in self._weights:
            self._weights[name] = self._stored(name, array)
        return self._weights[name]

    def _stored(self, name: str, array: np.ndarray) -> Value:
        array = np.ascontiguousarray(array, np.float32)
        fits = np.abs(array).max(initial=0) <= _LARGEST_FLOAT16  # one that does not stays as it is
        if self.half and array.ndim > 1 and fits:
            return self._initializer(name, array.astype(np.float16)).cast(np.float32)
        return self._initializer(name, array)

    def _initializer(self, name: str, array: np.ndarray) -> Value:
        from onnx import numpy_helper

        self.num_bytes += array.nbytes
        self.initializers.append(numpy_helper.from_array(array, name))
        return Value(self, name, array.dtype)

    def vector(self, *numbers: int | Value) -> Value:
        """Return numbers and values () as one vector of int64."""
        if all(isinstance(n, int) for n in numbers):
            return self.constant(numbers, np.int64)
        parts = [n.reshape(1) if isinstance(n, Value) else self.constant([n], np.int64) for n in numbers]
        return parts[0] if len(parts) == 1 else self.Concat(*parts, axis=0)

    def range(self, count: Value) -> Value:
        """Return the integers below a value ()."""
        return self.Range(self.constant(0, np.int64), count, self.constant(1, np.int64))

    def rows_where(self, mask: Value) -> Value:
        """Return the places at which a mask (n,) is true."""
        return self.NonZero(mask).reshape(-1)

    # -------------------------------------------------------------- nodes

    def _node(
        self, operator: str, inputs: Sequence[Any], *, outputs: int = 1, dtype: Any = None, **options: Any
    ) -> Any:
        from onnx import helper

        values = self._as_values(operator, inputs)
        name = self._name(operator)
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        given = [v.name if v is not None else "" for v in values]
        self.nodes.append(helper.make_node(operator, given, names, name=name, **options))
        kinds = [dtype or _result(operator, values), *[np.int64] * (outputs - 1)]  # of TopK; Split is not used
        made = [Value(self, n, kind) for n, kind in zip(names, kinds, strict=True)]
        return made[0] if outputs == 1 else made

    def _name(self, operator: str) -> str:
        self._count += 1
        return f"{self._scope}{operator}_{self._count}"

    def _as_values(self, operator: str, inputs: Sequence[Any]) -> list[Value | None]:
        beside = [v.dtype for v in inputs if isinstance(v, Value)]
        kind: Any = beside[-1] if operator in _ARITHMETIC | _COMPARISONS and beside else np.int64
        return [
            v if v is None or isinstance(v, Value)
            else self.constant(v) if isinstance(v, (np.ndarray, np.generic))
            else self.constant(v, kind)
            for v in inputs
        ]  # fmt: skip

    def loop(
        self, count: Value, state: Sequence[Value], body: Callable[..., tuple[Sequence[Value], Sequence[Value]]]
    ) -> tuple[list[Value], list[Value]]:
        """Repeat the nodes that ``body`` writes.

        Parameters
        ----------
        count : Value of shape ()
            How often.
        state : sequence of Value
            What the first turn begins with.
        body : callable
            Takes the number of the turn (), int64, and the state; returns the next state, and what is collected.

        Returns
        -------
        state, collected : list of Value
            The last state, and what all turns have collected along a new first axis.
        """
        from onnx import helper

        outer, self.nodes = self.nodes, []
        turn, go_on, *before = (
            Value(self, self._name("turn"), kind) for kind in (np.int64, np.bool_, *(v.dtype for v in state))
        )
        after, collected = body(turn, *before)
        results = [self.Identity(v) for v in (go_on, *after, *collected)]
        taken = [_described(turn, []), _described(go_on, []), *(_described(v) for v in before)]
        inner = helper.make_graph(self.nodes, self._name("body"), taken, [_described(v) for v in results])
        self.nodes = outer
        name = self._name("Loop")
        made = [Value(self, f"{name}_{i}", v.dtype) for i, v in enumerate(results[1:])]
        inputs = [count.name, "", *(v.name for v in state)]
        self.nodes.append(helper.make_node("Loop", inputs, [v.name for v in made], name=name, body=inner))
        return made[: len(after)], made[len(after) :]


def _described(value: Value, shape: Sequence[int] | None = None) -> Any:
    """Return the description of a body's input or output; without a shape that is found by inference."""
    from onnx import helper

    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)


def _result(operator: str, values: Sequence[Value | None]) -> Any:
    """Return the type of what an operator returns first."""
    if operator in _OF_BOOLEANS:
        return np.bool_
    if operator in _OF_INTEGERS:
        return np.int64
    source = values[1] if operator == "Where" else values[0]
    assert source is not None
    return source.dtype
