"""3×3 convolutions with a quarter of the multiplications (Winograd 1980; Lavin and Gray 2015).

A tile of 6 × 6 input pixels gives 4 × 4 outputs. Along one axis, six values d and a kernel g of three
give four outputs ``y = Aᵀ (G g ∘ Bᵀ d)``: both are read as polynomials, evaluated at six points,
multiplied there, and the product is interpolated. Over two axes:

    V = Bᵀ d B              for each tile and input channel
    M[k] = V[k] · U[k]      tiles × channels times channels × filters, for each of the 36 points k
    Y = Aᵀ M A              for each tile and filter

All of it is matrix products on channels-last memory. Six rows of pixels, which a row of tiles has, are one matrix
whatever their width; six neighbouring pixels of all channels are one too. So no tile is ever copied out of the image.

The points are 0, ±2/3, ±3/2 and infinity: half the rounding error of the customary 0, ±1, ±2 and
infinity. They are also each other's inverses, so the transform of a kernel rotated by 180 degrees is the
transform U of the kernel itself, reordered and scaled. The gradient with respect to the input thus
needs no transform of its own: the order and the scales are put into A and B instead.

Shapes: N images, C input channels, O output channels (filters), H × W input pixels, P × Q output pixels, T tiles.

Names: ``points`` is U, ``v`` and ``m`` are V and M; ``a``, ``b``, ``g`` are Aᵀ, Bᵀ and G. A ``chunk`` of tiles goes
through all three steps at once, a ``block`` of it through one of them, a ``piece`` is some columns of a block;
``cols`` is the number of tiles in a row of them. ``turned`` is a kernel rotated by 180 degrees.
"""

from __future__ import annotations

import weakref
import zlib
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ._memory import empty
from ._parallel import chunks, num_threads, parallel_for, scratch, split_evenly

__all__ = ["Transforms", "correlate", "grad_weight", "suits", "weight_points"]

_OUT, _IN = 4, 6  # side of a tile's outputs and inputs
_POINTS = _IN * _IN
_NODES = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity
_INVERSES = [5, 3, 4, 1, 2, 0]  # where each node's inverse stands

_FEWEST_CHANNELS = 32  # on either side: with fewer, the transforms cost more than they save
_CHUNK_VALUES = 4 << 20  # of V and M of the tiles that are taken through all the steps at once
_PIECE_VALUES = 1 << 20  # of V or M of the tiles that a thread transforms at a time
_TAPS = 1 << 14  # kernels that a thread transforms back at a time
_FEWEST_PARTS = 6  # that a step is cut into for threads that work on the same tiles


class Transforms(NamedTuple):
    """The matrices: of the outputs, of the inputs, and of the weights as a Kronecker product over both axes."""

    a: np.ndarray  # (4, 6)
    b: np.ndarray  # (6, 6)
    g: np.ndarray  # (36, 9)


@cache
def _transforms(dtype: np.dtype, turned: bool) -> Transforms:
    """Return the matrices; ``turned`` for the transform of kernels that are to be rotated by 180 degrees."""
    n = len(_NODES)
    others = [[x for j, x in enumerate(_NODES) if j != i] for i in range(n)]
    scale = np.array([np.prod([x - y for y in rest]) for x, rest in zip(_NODES, others, strict=True)])
    a, b, g = np.zeros((_OUT, _IN)), np.zeros((_IN, _IN)), np.zeros((_IN, 3))
    for i, x in enumerate(_NODES):
        a[:, i] = x ** np.arange(_OUT)
        b[i, :n] = np.poly(others[i])[::-1]
        g[i] = x ** np.arange(3) / scale[i]
    a[-1, n] = g[n, -1] = 1
    b[n] = np.poly(_NODES)[::-1]
    # A factor may be moved between a row of B and that of G: rows of equal size have the least rounding errors.
    balance = np.sqrt(np.abs(b).sum(axis=1) / np.abs(g).sum(axis=1))
    b, g = b / balance[:, None], g * balance[:, None]
    if turned:
        # G applied to the rotated kernel is G's own rows at the inverse nodes, times these factors.
        factor = g.sum(axis=1) / g[_INVERSES].sum(axis=1)
        a, b = a[:, _INVERSES], (b * factor[:, None])[_INVERSES]
    return Transforms(*(np.ascontiguousarray(m, dtype) for m in (a, b, np.kron(g, g))))


# ------------------------------------------------------------------ weights


class _Kept(NamedTuple):
    """The transform of a weight array, and what shows whether the array has changed since."""

    weight: weakref.ref[np.ndarray]
    contents: tuple[int, ...]
    points: np.ndarray


_kept: dict[int, _Kept] = {}


def weight_points(weight: np.ndarray, scale: np.ndarray | None, *, keep: bool) -> np.ndarray:
    """Return U, (36, C, O), of ``weight`` (O, C, 3, 3) times ``scale`` (O,).

    With ``keep`` it is kept as long as the array lives and holds the same numbers: training gives a
    parameter new arrays, and a change of the numbers is noticed.
    """
    kept = _kept.get(id(weight))
    if keep or kept is not None:  # a weight in training has nothing to be compared with
        contents = _contents(weight) + (() if scale is None else _contents(scale))
        if kept is not None and kept.weight() is weight and kept.contents == contents:
            return kept.points
    filters, channels = weight.shape[:2]
    # What is kept for long would fragment the arena.
    points = (np.empty if keep else empty)((_POINTS, filters, channels), weight.dtype)
    g = _transforms(weight.dtype, turned=False).g
    flat = weight.reshape(filters, channels, 9)

    def run(some: slice) -> None:
        taps = flat[some] if scale is None else flat[some] * scale[some, None, None]
        np.matmul(g, taps.reshape(-1, 9).T, out=points[:, some].reshape(_POINTS, -1))

    parallel_for(split_evenly(filters, 2 * num_threads()), run)
    points = points.transpose(0, 2, 1)  # of use as it is: a product reads its factors in either order
    if not keep:
        return points
    key = id(weight)
    _kept[key] = _Kept(weakref.ref(weight, lambda _: _forget(key)), contents, points)
    return points


def _forget(key: int) -> None:
    kept = _kept.get(key)
    if kept is not None and kept.weight() is None:  # not a new array in the same place
        _kept.pop(key, None)


def _contents(array: np.ndarray) -> tuple[int, ...]:
    """Return a fingerprint of an array: the sum of its words, and a checksum of a sample of them, in order."""
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view(np.uint32)
    return int(np.add.reduce(words, dtype=np.uint32)), zlib.crc32(np.ascontiguousarray(words[::61]))


# ------------------------------------------------------------------ tiles


class _Block(NamedTuple):
    """Tiles that are worked on together: whole images, or tile rows of one image."""

    images: slice
    rows: slice
    start: int  # how many tiles of the larger block come before
    size: int  # in tiles

    def of(self, values: np.ndarray, cols: int) -> np.ndarray:
        """Return this block's part of the larger block's values (36, T, channels): (6, 6, N, rows, cols, channels)."""
        part = values[:, self.start : self.start + self.size]
        return part.reshape(_IN, _IN, self.images.stop - self.images.start, -1, cols, values.shape[2])


def _tiles(n: int, height: int, width: int) -> tuple[_Block, int]:
    """Return all tiles of ``n`` images of that many output pixels, and how many tiles a row has."""
    rows, cols = -(-height // _OUT), -(-width // _OUT)
    return _Block(slice(0, n), slice(0, rows), 0, n * rows * cols), cols


def _cut(block: _Block, cols: int, most: int) -> list[_Block]:
    """Cut a block into equal ones of about ``most`` tiles, at least a row of them."""
    most = max(most, 1)
    (first, last), (top, bottom) = ((s.start, s.stop) for s in (block.images, block.rows))
    of_image = (bottom - top) * cols
    if of_image <= most:
        parts = split_evenly(last - first, max(-(-block.size // most), 1))
        pieces = [(slice(first + p.start, first + p.stop), block.rows) for p in parts]
    else:
        parts = split_evenly(bottom - top, -(-of_image // most))
        pieces = [(slice(i, i + 1), slice(top + p.start, top + p.stop)) for i in range(first, last) for p in parts]
    blocks, start = [], 0
    for images, rows in pieces:
        count = (images.stop - images.start) * (rows.stop - rows.start) * cols
        blocks.append(_Block(images, rows, start, count))
        start += count
    return blocks


class _Run(NamedTuple):
    """Neighbouring tiles along an axis, of which the same pixels lie inside the image."""

    tiles: slice
    inside: slice  # of a tile's pixels
    first: int  # of those, in the first tile


def _runs(tiles: slice, side: int, offset: int, size: int) -> list[_Run]:
    """Cut tiles of ``side`` pixels, the first of tile 0 at ``-offset``, by what of them lies in 0 … size - 1."""

    def inside(tile: int) -> tuple[int, int]:
        first = _OUT * tile - offset
        low = min(max(-first, 0), side)
        return low, max(low, min(side, size - first))

    runs = []
    for (low, high), group in groupby(range(tiles.start, tiles.stop), inside):
        members = list(group)
        span = slice(members[0] - tiles.start, members[-1] + 1 - tiles.start)
        runs.append(_Run(span, slice(low, high), _OUT * members[0] - offset + low))
    return runs


def _pieces(cols: int, values: int) -> list[slice]:
    """Cut the columns of a block, of which each has that many values at the points, so that a piece stays in cache."""
    return split_evenly(cols, -(-cols * values // _PIECE_VALUES))


def _to_points(x: np.ndarray, block: _Block, matrix: np.ndarray, offset: int, points: np.ndarray) -> None:
    """Apply a matrix (6, side) to the side × side pixels of each tile of a block, along both axes.

    The first tile begins at ``-offset``, and outside the image there are zeros. The values are written to ``points``
    (6, 6, N, rows, cols, C).
    """
    images, rows, cols, channels = points.shape[2:]
    side, item = matrix.shape[1], x.itemsize
    for piece in _pieces(cols, _POINTS * images * rows * channels):
        half = _rows_to_points(x, block, piece, matrix, offset)
        # A tile's pixels of a row are a matrix (side, C).
        pixels: np.ndarray = np.ndarray(
            (images, rows, _IN, piece.stop - piece.start, side, channels),
            x.dtype,
            half,
            strides=(*half.strides[:3], _OUT * channels * item, channels * item, item),
        )
        np.matmul(matrix, pixels, out=points[:, :, :, :, piece].transpose(2, 3, 0, 4, 1, 5))


def _rows_to_points(x: np.ndarray, block: _Block, piece: slice, matrix: np.ndarray, offset: int) -> np.ndarray:
    """Apply a matrix to the rows of pixels of each row of tiles: (N, rows, 6, values of the piece's pixels)."""
    height, width, channels = x.shape[1:]
    images, rows = (s.stop - s.start for s in (block.images, block.rows))
    side, first = matrix.shape[1], _OUT * piece.start - offset
    across = _OUT * (piece.stop - piece.start - 1) + side
    low = min(max(-first, 0), across)
    high = max(low, min(across, width - first))
    half = scratch("half", images * rows * _IN * across * channels, x.dtype).reshape(images, rows, _IN, -1)
    half[..., : low * channels] = 0
    half[..., high * channels :] = 0
    inner = half[..., low * channels : high * channels]
    of_image, of_row, of_pixel, item = x.strides
    for down in _runs(block.rows, side, offset, height):
        there, inside = inner[:, down.tiles], down.inside.stop - down.inside.start
        if inside and there.size:
            pixels: np.ndarray = np.ndarray(
                (images, there.shape[1], inside, there.shape[3]),
                x.dtype,
                x,
                block.images.start * of_image + down.first * of_row + (first + low) * of_pixel,
                (of_image, _OUT * of_row, of_row, item),
            )
            np.matmul(matrix[:, down.inside], pixels, out=there)
        else:  # wide padding has tiles that lie in it altogether
            there[...] = 0
    return half


# ------------------------------------------------------------------ the convolution


def suits(kernel: tuple[int, int], stride: int, channels: int, filters: int) -> bool:
    """Return whether a convolution is faster in the transform domain."""
    return kernel == (3, 3) and stride == 1 and min(channels, filters) >= _FEWEST_CHANNELS


def correlate(
    x: np.ndarray,
    points: np.ndarray,
    padding: int,
    *,
    turned: bool = False,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    relu: bool = False,
) -> np.ndarray:
    """Convolve ``x`` (N, H, W, C) with the kernels whose transform is ``points`` (36, C, O): (N, P, Q, O).

    Parameters
    ----------
    turned : bool
        Whether the kernels are rotated by 180 degrees: with ``points`` (36, O, C) of a convolution it gives that
        convolution's gradient with respect to its input.
    bias, residual, relu
        Added to the result: (O,), (N, P, Q, O); and whether negative results then become 0.
    """
    if turned:
        points = points.transpose(0, 2, 1)
    n, height, width, _ = x.shape
    out = empty((n, height + 2 * padding - 2, width + 2 * padding - 2, points.shape[2]), x.dtype)
    convolution = _Convolution(x, points, padding, out, turned=turned, bias=bias, residual=residual, relu=relu)
    parallel_for(convolution.chunks(), convolution.run)
    return out


class _Convolution:
    """A convolution of ``x`` into ``out``: chunks of tiles, each of which goes through three steps."""

    def __init__(
        self,
        x: np.ndarray,
        points: np.ndarray,
        padding: int,
        out: np.ndarray,
        *,
        turned: bool,
        bias: np.ndarray | None,
        residual: np.ndarray | None,
        relu: bool,
    ) -> None:
        self.x, self.points, self.padding, self.out = x, points, padding, out
        self.bias, self.residual, self.relu = bias, residual, relu
        self.channels, self.filters = x.shape[3], out.shape[3]
        self.a, self.b, _ = _transforms(x.dtype, turned)
        # Along the second axis one point more, whose value, the bias, reaches every output as it is.
        self.biased = self.a if bias is None else np.concatenate([self.a, np.ones_like(self.a[:, :1])], axis=1)
        self.tiles, self.cols = _tiles(*out.shape[:3])
        self.parts = max(_FEWEST_PARTS, 2 * num_threads())
        # A row of zeros: the maximum of two arrays is three times as fast as that with a number.
        self.zero = np.zeros(out.shape[2] * self.filters if relu else 0, x.dtype)

    def chunks(self) -> list[_Block]:
        """Cut the tiles for :meth:`run`.

        Many tiles: each thread takes a chunk of them through all the steps. Few: the threads share every step.
        """
        most = _CHUNK_VALUES // (_POINTS * (self.channels + self.filters))
        if self.tiles.size > most:
            rounds = -(-self.tiles.size // (most * num_threads()))  # equally many for each thread
            most = -(-self.tiles.size // (rounds * num_threads()))
        return _cut(self.tiles, self.cols, most)

    def run(self, chunk: _Block) -> None:
        """Take a chunk of tiles from the pixels of ``x`` to those of ``out``."""
        v = scratch("v", _POINTS * chunk.size * self.channels, self.x.dtype)
        v = v.reshape(_POINTS, chunk.size, self.channels)
        m = scratch("m", _POINTS * chunk.size * self.filters, self.x.dtype)
        m = m.reshape(_POINTS, chunk.size, self.filters)

        def to_points(block: _Block) -> None:
            _to_points(self.x, block, self.b, self.padding, block.of(v, self.cols))

        def multiply(some: slice) -> None:
            np.matmul(v[some], self.points[some], out=m[some])

        blocks = self._blocks(chunk)
        parallel_for(blocks, to_points)
        parallel_for(split_evenly(_POINTS, self.parts), multiply)
        parallel_for(blocks, lambda block: self._to_pixels(block.of(m, self.cols), block))

    def _blocks(self, chunk: _Block) -> list[_Block]:
        most = _PIECE_VALUES // (_POINTS * max(self.channels, self.filters))
        shared = chunk.size == self.tiles.size
        return _cut(chunk, self.cols, min(most, -(-chunk.size // self.parts)) if shared else most)

    def _to_pixels(self, m: np.ndarray, block: _Block) -> None:
        """Write a block's outputs, of which ``m`` (6, 6, N, rows, cols, O) has the values at the points."""
        images, rows, cols, filters = m.shape[2:]
        points = self.biased.shape[1]
        for piece in _pieces(cols, _POINTS * images * rows * filters):
            count = piece.stop - piece.start
            half = scratch("half", points * images * rows * _OUT * count * filters, m.dtype)
            half = half.reshape(points, images, rows, _OUT, count * filters)
            # Along the columns, a row of tiles at a time; then along the rows, a column of a tile at a time.
            given = m[:, :, :, :, piece].transpose(0, 2, 3, 1, 4, 5).reshape(_IN, images, rows, _IN, -1)
            np.matmul(self.a, given, out=half[:_IN])
            half = half.reshape(points, images, rows, _OUT, count, filters)
            if self.bias is not None:
                half[_IN] = self.bias
            self._put(half, block, piece)
            self._finish(block, piece)

    def _put(self, half: np.ndarray, block: _Block, piece: slice) -> None:
        """Compute the outputs along the rows, from ``half`` (points, N, rows, 4, columns, O), in their place."""
        _, height, width, filters = self.out.shape
        of_image, of_row, of_pixel, item = self.out.strides
        for down in _runs(block.rows, _OUT, 0, height):
            for across in _runs(piece, _OUT, 0, width):
                high, wide = down.inside.stop, across.inside.stop
                given = half[:, :, down.tiles, :wide, across.tiles].transpose(1, 2, 4, 3, 0, 5)
                there: np.ndarray = np.ndarray(
                    (*given.shape[:4], high, filters),
                    half.dtype,
                    self.out,
                    block.images.start * of_image + down.first * of_row + across.first * of_pixel,
                    (of_image, _OUT * of_row, _OUT * of_pixel, of_pixel, of_row, item),
                )
                np.matmul(self.biased[:high], given, out=there)

    def _finish(self, block: _Block, piece: slice) -> None:
        """Add the residual to the outputs that were written, and apply the ReLU."""
        _, height, width, filters = self.out.shape
        rows = slice(_OUT * block.rows.start, min(_OUT * block.rows.stop, height))
        cols = slice(_OUT * piece.start * filters, min(_OUT * piece.stop, width) * filters)
        here = block.images, rows, cols
        part = self.out.reshape(len(self.out), height, -1)[here]
        if self.residual is not None:
            part += self.residual.reshape(len(self.out), height, -1)[here]
        if self.relu:
            np.maximum(part, self.zero[cols], out=part)


def grad_weight(
    x: np.ndarray,
    grad: np.ndarray,
    shape: tuple[int, ...],
    stride: int,
    padding: int,
    scale: np.ndarray | None = None,
) -> np.ndarray:
    """Return the gradient of :func:`correlate` with respect to the weight, of that ``shape``, before the ``scale``.

    The same three steps backwards: ``dU[k] = V[k]ᵀ · dM[k]``, summed over the tiles.
    """
    filters, channels = shape[:2]
    a, b, g = _transforms(x.dtype, turned=False)
    whole, cols = _tiles(*grad.shape[:3])
    sums = empty((_POINTS, filters, channels), x.dtype)

    def add(chunk: _Block, first: bool) -> None:
        v = scratch("v", _POINTS * chunk.size * channels, x.dtype).reshape(_POINTS, -1, channels)
        m = scratch("m", _POINTS * chunk.size * filters, x.dtype).reshape(_POINTS, -1, filters)

        def x_to_points(block: _Block) -> None:
            _to_points(x, block, b, padding, block.of(v, cols))

        def grad_to_points(block: _Block) -> None:
            _to_points(grad, block, a.T, 0, block.of(m, cols))

        def multiply(k: int) -> None:
            if first:
                np.matmul(m[k].T, v[k], out=sums[k])
            else:
                product = scratch("product", filters * channels, x.dtype).reshape(filters, channels)
                sums[k] += np.matmul(m[k].T, v[k], out=product)

        blocks = _cut(chunk, cols, _PIECE_VALUES // (_POINTS * max(channels, filters)))
        tasks = [(step, block) for step in (x_to_points, grad_to_points) for block in blocks]
        parallel_for(tasks, lambda task: task[0](task[1]))
        parallel_for(range(_POINTS), multiply)

    # Chunks of a fixed size, one after the other: the same sum for any number of threads.
    parts = _cut(whole, cols, _CHUNK_VALUES // (_POINTS * (channels + filters)))
    for i, chunk in enumerate(parts):
        add(chunk, first=i == 0)
    if not parts:  # of no images
        sums.fill(0)
    return _to_taps(sums, g, scale)


def _to_taps(sums: np.ndarray, g: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Return ``gᵀ · sums`` of the transforms of weights (36, O, C), times ``scale`` (O,): (O, C, 3, 3)."""
    _, filters, channels = sums.shape
    taps = empty((filters, channels, 9), sums.dtype)

    def run(some: slice) -> None:
        part = taps[some]
        np.matmul(sums[:, some].reshape(_POINTS, -1).T, g, out=part.reshape(-1, 9))
        if scale is not None:
            part *= scale[some, None, None]

    parallel_for(chunks(filters, max(_TAPS // max(channels, 1), 1)), run)
    return taps.reshape(filters, channels, 3, 3)
