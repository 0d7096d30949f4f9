"""RoIAlign as one kernel for Metal and for CUDA, forward and gradient, with any number of samples.

Nothing is gathered: a thread computes one number of the result, or spreads one number of its gradient. The body of a
kernel is written once, in what Metal and CUDA have in common with C++; tests compile that very text with the system's
compiler. What differs between the three are the few lines of :data:`DIALECTS`.

Gradients are summed by atomic additions, in whatever order threads come: they are not the same bit for bit from run to
run. The environment variable ``LUCID_MASKRCNN_KERNELS=0`` chooses the plain form in MLX instead, which is also taken,
with a warning, where a kernel does not compile or does not agree with it.

Shapes and names are those of :mod:`~lucid_maskrcnn.ops.roi_align`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from lucid_maskrcnn.user_warnings import warn_user

from ._checks import as_int32
from .backend import gpu_kind
from .roi_align_gpu import Grid, Pyramid, add_gradients, pool, pyramid, reads

__all__ = [
    "DIALECTS",
    "KERNELS",
    "SHARED",
    "gradient",
    "inputs_of",
    "kernel_for",
    "kernel_source",
    "pooled",
    "template",
]

_THREADS = 256  # of a group
_MOST_THREADS = 2**31 - 1 - _THREADS
_IN_CONSTANT_MEMORY = 8  # Metal compiles a kernel anew where an array begins or ceases to have fewer elements
_HEADER = 8  # numbers before the levels in the table

MOST_SAMPLES = 1 << 20
"""Cells of a bin that an RoI may have where the number of samples follows them; beyond, its result is NaN."""


class Dialect(NamedTuple):
    """What differs between the languages.

    Attributes
    ----------
    header : str
        ``HELPER`` before a function, and ``ADD(array, place, number)``, an atomic addition.
    thread : str
        Makes ``thread_number``, which of all threads this is.
    """

    header: str
    thread: str


DIALECTS = {
    "metal": Dialect(
        "#define HELPER inline\n"
        "#define ADD(array, place, number) atomic_fetch_add_explicit(&array[place], number, memory_order_relaxed)\n",
        "const unsigned int thread_number = thread_position_in_grid.x;\n",
    ),
    "cuda": Dialect(
        "#define HELPER __device__ inline\n#define ADD(array, place, number) atomicAdd(&array[place], number)\n",
        "const unsigned int thread_number = blockIdx.x * blockDim.x + threadIdx.x;\n",
    ),
}

SHARED = """
struct RoiAxis {  // how one bin is sampled along one axis
  float start;    // of the bin
  float step;     // from this bin to the next
  float share;    // weight of a sample in the bin's mean
  int samples;
  int first;      // samples from first to before stop may lie inside the map
  int stop;
};

HELPER RoiAxis roi_axis(float low, float high, float scale, int size, int bin, int bins, int ratio, bool aligned,
                        int most, float unknown) {
  RoiAxis axis;
  const float offset = aligned ? 0.5f : 0.0f;
  const float start = low * scale - offset;
  float length = high * scale - offset - start;
  if (!aligned && length < 1.0f) length = 1.0f;
  axis.step = length / float(bins);
  axis.start = start + float(bin) * axis.step;
  axis.samples = ratio;
  bool known = axis.step == axis.step;  // not NaN
  if (ratio == 0) {
    if (axis.step > float(most)) known = false;
    axis.samples = known && axis.step > 0.0f ? int(ceil(axis.step)) : 0;
  }
  axis.share = known ? 1.0f / float(axis.samples > 0 ? axis.samples : 1) : unknown;
  axis.first = 0;
  axis.stop = axis.samples;
  const float spacing = axis.step / float(axis.samples);
  if (axis.samples > 8 && spacing > 0.0f) {  // of a large RoI, skip most of what lies outside the map
    const float before = (-1.0f - axis.start) / spacing - 4.0f;
    const float behind = (float(size) - axis.start) / spacing + 4.0f;
    if (before > 0.0f) axis.first = before < float(axis.samples) ? int(before) : axis.samples;
    if (behind < float(axis.samples)) axis.stop = behind > 0.0f ? int(behind) : 0;
  }
  return axis;
}

struct RoiTap {  // what one sample reads along one axis
  int low;
  int high;
  float upper;   // weight of the second cell, 0 to 1
  bool inside;
};

HELPER RoiTap roi_tap(RoiAxis axis, int number, int size) {
  RoiTap tap;
  float position = axis.start + (float(number) + 0.5f) * axis.step / float(axis.samples);
  tap.inside = !(position < -1.0f || position > float(size));
  if (position < 0.0f) position = 0.0f;
  const float last = float(size - 1);
  float cell = floor(position);
  tap.upper = position >= last ? 0.0f : position - cell;
  if (!(cell > 0.0f)) cell = 0.0f;  // NaN, too
  if (!(cell < last)) cell = last;
  tap.low = int(cell);
  tap.high = tap.low + 1 < size ? tap.low + 1 : size - 1;
  return tap;
}
"""

# The start of both bodies: which number of the result, and how its bin is sampled. An image or a level that does not
# exist reads the first, and its weights are NaN.
_PLACE = """
const int num_rois = table[0], num_images = table[1], num_levels = table[2];
const unsigned int num_threads = (unsigned int)(num_rois) * BINS_Y * BINS_X * CHANNELS;
if (thread_number < num_threads) {
  const int channel = int(thread_number % CHANNELS);
  const int bin_x = int(thread_number / CHANNELS % BINS_X);
  const int bin_y = int(thread_number / CHANNELS / BINS_X % BINS_Y);
  const int roi = int(thread_number / CHANNELS / BINS_X / BINS_Y);
  const int image = roi_idx[roi], level = levels[roi];
  const bool known = image >= 0 && image < num_images && level >= 0 && level < num_levels;
  const int own = known ? level : 0;
  const int height = table[8 + 4 * own + 1], width = table[8 + 4 * own + 2];
  const size_t base = size_t(table[8 + 4 * own]) + size_t(known ? image : 0) * size_t(height) * size_t(width);
  const float unknown = scales[0];
  const RoiAxis y = roi_axis(rois[4 * roi + 1], rois[4 * roi + 3], scales[8 + 2 * own], height, bin_y, BINS_Y,
                             RATIO, ALIGNED, MOST, unknown);
  const RoiAxis x = roi_axis(rois[4 * roi], rois[4 * roi + 2], scales[8 + 2 * own + 1], width, bin_x, BINS_X,
                             RATIO, ALIGNED, MOST, unknown);
  const float share = known ? y.share * x.share : unknown;
"""

# Both go over the samples that lie inside the map, with what each reads.
_SAMPLES = """
  for (int sample_y = y.first; sample_y < y.stop; ++sample_y) {
    const RoiTap row = roi_tap(y, sample_y, height);
    if (!row.inside) continue;
    const size_t low = base + size_t(row.low) * size_t(width), high = base + size_t(row.high) * size_t(width);
    for (int sample_x = x.first; sample_x < x.stop; ++sample_x) {
      const RoiTap column = roi_tap(x, sample_x, width);
      if (!column.inside) continue;
"""
_END_OF_SAMPLES = """    }
  }
"""

_SUM = """
      const float low_low = static_cast<float>(cells[(low + size_t(column.low)) * CHANNELS + channel]);
      const float low_high = static_cast<float>(cells[(low + size_t(column.high)) * CHANNELS + channel]);
      const float high_low = static_cast<float>(cells[(high + size_t(column.low)) * CHANNELS + channel]);
      const float high_high = static_cast<float>(cells[(high + size_t(column.high)) * CHANNELS + channel]);
      sum += (1.0f - row.upper) * ((1.0f - column.upper) * low_low + column.upper * low_high)
           + row.upper * ((1.0f - column.upper) * high_low + column.upper * high_high);
"""

_SPREAD = """
      const float at_low = (1.0f - row.upper) * own_grad, at_high = row.upper * own_grad;
      ADD(total, (low + size_t(column.low)) * CHANNELS + channel, (1.0f - column.upper) * at_low);
      ADD(total, (low + size_t(column.high)) * CHANNELS + channel, column.upper * at_low);
      ADD(total, (high + size_t(column.low)) * CHANNELS + channel, (1.0f - column.upper) * at_high);
      ADD(total, (high + size_t(column.high)) * CHANNELS + channel, column.upper * at_high);
"""


def _body(before: str, of_sample: str, after: str) -> str:
    """Return a kernel: what is done before the samples, for each of them, and after them."""
    parts = (_PLACE, before, _SAMPLES, of_sample, _END_OF_SAMPLES, after)
    return "".join(part.removeprefix("\n") for part in parts)


class Kernel(NamedTuple):
    """One of the two kernels.

    Attributes
    ----------
    values : str
        Name of its first input, of the type ``T``: the flattened maps, or the gradient of the pooled RoIs. The others
        are ``rois``, ``roi_idx``, ``levels``, ``table`` and ``scales``.
    output : str
    body : str
    """

    values: str
    output: str
    body: str


_START_OF_SUM = "  float sum = 0.0f;\n"
_END_OF_SUM = "  pooled[thread_number] = static_cast<T>(sum * share);\n}\n"
_OWN_GRADIENT = "  const float own_grad = static_cast<float>(cotangent[thread_number]) * share;\n"

KERNELS = {
    "roi_align": Kernel("cells", "pooled", _body(_START_OF_SUM, _SUM, _END_OF_SUM)),
    "roi_align_gradient": Kernel("cotangent", "total", _body(_OWN_GRADIENT, _SPREAD, "}\n")),
}
_OTHER_INPUTS = ["rois", "roi_idx", "levels", "table", "scales"]


def kernel_source(name: str, dialect: Dialect) -> tuple[str, str]:
    """Return the header and the body of a kernel in one of the languages."""
    return dialect.header + SHARED, dialect.thread + KERNELS[name].body


@cache
def _kernel(name: str, kind: str) -> Any:
    header, source = kernel_source(name, DIALECTS[kind])
    values, output, _ = KERNELS[name]
    options: dict[str, Any] = {"name": name, "input_names": [values, *_OTHER_INPUTS], "output_names": [output]}
    if kind == "metal":
        atomic = name == "roi_align_gradient"
        return mx.fast.metal_kernel(**options, source=source, header=header, atomic_outputs=atomic)
    return mx.fast.cuda_kernel(**options, source=source, header=header)


def template(dtype: Any, channels: int, grid: Grid) -> list[tuple[str, Any]]:
    """Return what a kernel is compiled for."""
    (bins_y, bins_x), ratio = grid.output_size, max(grid.sampling_ratio, 0)
    numbers = {"CHANNELS": channels, "BINS_Y": bins_y, "BINS_X": bins_x, "RATIO": ratio, "MOST": MOST_SAMPLES}
    return [("T", dtype), *numbers.items(), ("ALIGNED", grid.aligned)]


def inputs_of(rois: mx.array, roi_idx: mx.array, levels: mx.array, maps: Pyramid) -> list[mx.array]:
    """Return the inputs of both kernels behind the first: regions, their places, and where the maps lie."""
    table = np.zeros(_HEADER + 4 * len(maps.shapes), np.int32)
    table[:3] = rois.shape[0], maps.shapes[0][0], len(maps.shapes)
    table[_HEADER:].reshape(-1, 4)[:, :3] = maps.table
    scales = np.full(_HEADER + 2 * len(maps.shapes), np.nan, np.float32)
    scales[_HEADER:] = np.ravel(maps.scales)
    places = (as_int32(roi_idx), as_int32(levels))
    return [_padded(array) for array in (rois, *places, mx.array(table), mx.array(scales))]


def _padded(array: mx.array) -> mx.array:
    flat = array.reshape(-1)
    missing = _IN_CONSTANT_MEMORY - flat.shape[0]
    return mx.concatenate([flat, mx.zeros(missing, flat.dtype)]) if missing > 0 else flat


def pooled(kind: str, maps: Pyramid, inputs: Sequence[mx.array], num_rois: int, grid: Grid) -> mx.array:
    """Return all RoIs, pooled (R, Py, Px, C), in the type of the maps."""
    channels, dtype = maps.cells.shape[1], maps.cells.dtype
    shape = (num_rois, *grid.output_size, channels)
    (output,) = _kernel("roi_align", kind)(
        inputs=[_padded(maps.cells), *inputs],
        template=template(dtype, channels, grid),
        grid=(int(np.prod(shape)), 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[shape],
        output_dtypes=[dtype],
    )
    return output


def gradient(
    kind: str, cotangent: mx.array, inputs: Sequence[mx.array], shape: tuple[int, int], grid: Grid
) -> mx.array:
    """Return the gradient of the flattened maps, float32 of ``shape`` (…, C), for that of the pooled RoIs."""
    (output,) = _kernel("roi_align_gradient", kind)(
        inputs=[_padded(cotangent), *inputs],
        template=template(cotangent.dtype, shape[1], grid),
        grid=(cotangent.size, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[shape],
        output_dtypes=[mx.float32],
        init_value=0,
    )
    return output


# ------------------------------------------------------------------ when


def kernel_for(maps: Pyramid, num_rois: int, grid: Grid) -> str | None:
    """Return the language whose kernel pools these RoIs, or None for the plain form."""
    threads = num_rois * grid.output_size[0] * grid.output_size[1] * maps.cells.shape[1]
    if not 0 < threads <= _MOST_THREADS or os.environ.get("LUCID_MASKRCNN_KERNELS", "1") == "0":
        return None
    kind = gpu_kind()
    return kind if kind in DIALECTS and _agrees(kind, maps.cells.dtype) else None


@cache
def _agrees(kind: str, dtype: Any) -> bool:
    """Return whether a kernel compiles and gives what the plain form does, tried once in a process."""
    try:
        difference = _largest_difference(kind, dtype, Grid((2, 3), 2, False))
    except Exception as error:  # whatever a compiler or a driver raises: there is another way
        problem = f"{type(error).__name__}: {error}"
    else:
        if difference < (1e-4 if dtype == mx.float32 else 0.1):  # of numbers around 1
            return True
        problem = f"its results differ by {difference:.1e}"
    warn_user(f"RoIAlign's kernel for {kind} does not work here, and the slower plain form is used ({problem}).")
    return False


def _largest_difference(kind: str, dtype: Any, grid: Grid) -> float:
    values = np.arange(2 * 5 * 6 * 4, dtype=np.float32).reshape(2, 5, 6, 4)
    maps = pyramid([mx.array(np.sin(values)).astype(dtype), mx.array(np.cos(values)).astype(dtype)], [(0.5, 0.5)] * 2)
    rois = mx.array([[1.0, 1, 9, 7], [0, 0, 0, 0], [-9, 2, 30, 5]])
    roi_idx, levels = mx.array([0, 1, 1], mx.int32), mx.array([0, 1, 0], mx.int32)
    inputs, read = inputs_of(rois, roi_idx, levels, maps), reads(rois, roi_idx, levels, maps, grid)
    expected, found = pool(maps.cells, read), pooled(kind, maps, inputs, 3, grid)
    shape = (maps.cells.shape[0], maps.cells.shape[1])
    back, found_back = add_gradients(mx.zeros(shape), read, expected), gradient(kind, expected, inputs, shape, grid)
    return float(np.asarray(mx.maximum(mx.abs(found - expected).max(), mx.abs(found_back - back).max())))
