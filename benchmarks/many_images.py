"""Prediction on many images: what workers of Ray do in the time of one process, and what starting them takes.

    uv run python benchmarks/many_images.py                       # the nuclei that come with the package, 256 x 256
    uv run python benchmarks/many_images.py --model r50           # ResNet-50 with random weights, images of 320 pixels

Each contender is the command ``predict`` as a process of its own, without drawings, on ``--few`` and on ``--many``
images; they alternate, and medians count. The difference of the two times gives the time of an image, what is left is
the start; so also for the seconds of the processors, which what else runs on the machine disturbs less. Contenders: one
process with one thread and with all, two workers of one thread, and one worker of two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import ray  # noqa: F401  which brings psutil
from PIL import Image

import lucid_maskrcnn
from lucid_maskrcnn import mask_rcnn_resnet_50_fpn, save_weights
from lucid_maskrcnn.images import load_image

import psutil  # isort: skip

RAY = ["--engine", "ray", "--workers"]
CONTENDERS: dict[str, tuple[list[str], str | None]] = {
    "local, 1 thread": ([], "1"),
    "local, all threads": ([], None),
    "ray, 2 workers x 1 thread": ([*RAY, "2"], None),
    "ray, 1 worker x 2 threads": ([*RAY, "1", "--threads-per-worker", "2"], None),
}


def make_images(folder: Path, count: int, side: int) -> Path:
    """Cut squares out of the picture of the demo."""
    folder.mkdir()
    picture = load_image(Path(lucid_maskrcnn.__file__).parent / "assets" / "nuclei_fluorescence_small.png")
    picture = np.pad(
        picture, ((0, max(0, side - len(picture))), (0, max(0, side - picture.shape[1])), (0, 0)), "reflect"
    )
    rng = np.random.default_rng(0)
    for number in range(count):
        top, left = (int(rng.integers(0, size - side + 1)) for size in picture.shape[:2])
        square = np.rot90(picture[top : top + side, left : left + side], number % 4)
        Image.fromarray(square).save(folder / f"{number:04}.png")
    return folder


def measured(images: Path, weights: str, options: list[str], threads: str | None) -> tuple[float, float]:
    """Return the seconds of a whole run of the command, and those of the processors in all of its processes."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "lucid_maskrcnn", "predict", str(images), "--weights", weights]
        started, used = time.perf_counter(), dict[int, float]()
        run = psutil.Popen(
            [*command, "--out", f"{out}/job", "--no-draw", "--quiet", "--shard-size", "4", *options],
            stdout=subprocess.DEVNULL,
            env={**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": threads})},
        )
        while run.poll() is None:
            with suppress(psutil.Error):
                for process in (run, *run.children(recursive=True)):
                    with suppress(psutil.Error):  # it has ended meanwhile
                        used[process.pid] = sum(process.cpu_times()[:2])
            time.sleep(0.1)
        if run.returncode:
            raise SystemExit(f"{options} ended with {run.returncode}")
        return time.perf_counter() - started, sum(used.values())


def slope(
    times: dict[tuple[str, int], list[tuple[float, float]]], name: str, counts: tuple[int, int], which: int
) -> tuple[float, float]:
    """Return what an image takes, and what no image takes."""
    few, many = (statistics.median(taken[which] for taken in times[name, count]) for count in counts)
    each = (many - few) / (counts[1] - counts[0])
    return each, few - counts[0] * each


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("nuclei", "r50"), default="nuclei")
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, weights, side = Path(temporary), "NUCLEI", 256
        if args.model == "r50":
            weights, side = str(folder / "r50.safetensors"), 320
            save_weights(mask_rcnn_resnet_50_fpn(num_classes=91, min_size=side, max_size=side), weights)
        counts = (args.few, args.many)
        images = {count: make_images(folder / str(count), count, side) for count in counts}
        times: dict[tuple[str, int], list[tuple[float, float]]] = {
            (name, count): [] for name in CONTENDERS for count in counts
        }
        for number in range(args.rounds):
            for (name, count), taken in times.items():
                taken.append(measured(images[count], weights, *CONTENDERS[name]))
                wall, cpu = taken[-1]
                print(f"round {number + 1}: {name}, {count} images: {wall:.1f} s, CPU {cpu:.1f} s", file=sys.stderr)
        print(f"{'':28}{'ms an image':>12}{'start, s':>10}{'CPU ms an image':>18}{'CPU start, s':>14}")
        for name in CONTENDERS:
            wall, cpu = (slope(times, name, counts, which) for which in (0, 1))
            print(f"{name:28}{1000 * wall[0]:12.0f}{wall[1]:10.1f}{1000 * cpu[0]:18.0f}{cpu[1]:14.1f}")


if __name__ == "__main__":
    main()
