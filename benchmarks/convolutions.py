"""Measure every convolution of R-50-FPN at 800 × 1216 with im2col and with Winograd.

    uv run python benchmarks/convolutions.py

Prints the table behind the choice in ``lucid_maskrcnn/ops/winograd.py``: GFLOP/s, counted as direct
convolutions. Nothing else should be running.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lucid_maskrcnn.ops import conv, winograd

RUNS = 9
# images, height, width, channels, filters, kernel, stride
SHAPES = [
    (1, 800, 1216, 3, 64, 7, 2),
    (1, 200, 304, 64, 64, 1, 1),
    (1, 200, 304, 64, 64, 3, 1),
    (1, 200, 304, 64, 256, 1, 1),
    (1, 200, 304, 128, 128, 3, 2),
    (1, 100, 152, 128, 128, 3, 1),
    (1, 100, 152, 512, 128, 1, 1),
    (1, 200, 304, 256, 256, 3, 1),
    (1, 100, 152, 256, 256, 3, 1),
    (1, 50, 76, 256, 256, 3, 1),
    (1, 25, 38, 256, 256, 3, 1),
    (1, 13, 19, 256, 256, 3, 1),
    (1, 25, 38, 512, 512, 3, 1),
    (70, 14, 14, 256, 256, 3, 1),
    (1, 100, 152, 8, 8, 3, 1),
    (1, 100, 152, 16, 16, 3, 1),
    (1, 100, 152, 32, 32, 3, 1),
    (1, 328, 440, 32, 32, 3, 1),  # of NUCLEI
]


def median(*runs: Callable[[], Any]) -> list[float]:
    """Return the median seconds of each; they alternate."""
    times: list[list[float]] = [[] for _ in runs]
    for repetition in range(RUNS + 1):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if repetition:  # the first is a warm-up
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def main() -> None:
    rng = np.random.default_rng(0)
    print("| images, map, channels | kernel, stride | im2col | Winograd | chosen |")
    print("| --- | --- | --- | --- | --- |")
    for n, height, width, channels, filters, k, stride in SHAPES:
        x = rng.standard_normal((n, height, width, channels), np.float32)
        weight = rng.standard_normal((filters, channels, k, k), np.float32)
        bias, padding = np.zeros(filters, np.float32), k // 2
        matrix = conv.as_matrix(weight)

        def im2col(
            x: Any = x, matrix: Any = matrix, k: int = k, stride: int = stride, padding: int = padding, bias: Any = bias
        ) -> Any:
            return conv.correlate(x, matrix, (k, k), stride, padding, bias=bias, relu=True)

        runs = [im2col]
        if (k, stride) == (3, 1):
            points = winograd.weight_points(weight, None, keep=False)
            runs.append(lambda x=x, points=points, bias=bias: winograd.correlate(x, points, 1, bias=bias, relu=True))
        gflop = 2 * im2col().size * channels * k * k / 1e9
        rates = [f"{gflop / seconds:.0f}" for seconds in median(*runs)]
        chosen = "Winograd" if winograd.suits((k, k), stride, channels, filters) else "im2col"
        print(
            f"| {n}, {height} × {width}, {channels} → {filters} | {k} × {k}, {stride} | {rates[0]} | "
            f"{rates[1] if len(rates) > 1 else '–'} | {chosen} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
