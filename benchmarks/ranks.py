"""Training in a group of ranks: what a step takes on this machine, and a simulation of what it takes on many.

    uv run python benchmarks/ranks.py                         # measure two ranks here, then simulate
    uv run python benchmarks/ranks.py --backend ring --side 256 --steps 10
    uv run python benchmarks/ranks.py --only simulate         # from benchmarks/out/ranks.json

The model of a step: the slowest rank's gradients, then the sum over the ranks, then the optimizer.

    T(n) = max over ranks of (batches per rank × compute) + 2 (n - 1) / n × bytes / bandwidth + 2 (n - 1) × latency

"measure" gets each part by itself: compute, with the optimizer, from two processes that train alone side by side, as
they share the memory of this machine, and the time of the sum from sums of a vector of as many bytes. It then trains
with two ranks, and compares. "simulate" puts in more ranks, other networks and faster machines: nothing of that is
measured, and a network is taken to carry ``--efficiency`` of its nominal rate. How much the compute of a step varies is
drawn from what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PARAMETERS = {"R-50": 44.4e6, "R-101": 63.4e6}  # that are trained with frozen batch norm and five trainable layers
NETWORKS = (10, 100)  # Gbit/s
RANKS = (1, 2, 4, 8, 16, 32, 64)


# ------------------------------------------------------------------ one process


def _make_trainer(args: argparse.Namespace, out: str, group: Any, seconds: list[float]) -> Any:
    import lucid

    from lucid_maskrcnn import mask_rcnn_resnet_50_fpn
    from lucid_maskrcnn.training import Callback, Trainer, TrainerSettings

    class Clock(Callback):
        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            seconds.append(time.perf_counter())

    lucid.random.seed(0)
    model = mask_rcnn_resnet_50_fpn(2, norm="frozen", min_size=args.side, max_size=args.side)
    settings = TrainerSettings(
        steps=args.steps, accumulate=1 if group is None else group.size, lr=1e-4, save_every=1000
    )
    options: dict[str, Any] = {"callbacks": [Clock()], "progress": False, "tensorboard": False, "group": group}
    return Trainer(model, _Pictures(args.side), out=out, settings=settings, **options)


class _Pictures:
    """One made picture with twenty squares a batch."""

    batch_size = 1

    def __init__(self, side: int) -> None:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
        corners = rng.integers(0, side - side // 8, (20, 2))
        boxes = np.concatenate([corners, corners + side // 8], axis=1)
        masks = np.zeros((20, side, side), bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = True
        self._target = {"boxes": boxes.astype(np.float32), "labels": np.ones(20, np.int32), "masks": masks}
        self._image = image

    def iterate(self, start: int, stop: int) -> Any:
        from types import SimpleNamespace

        for index in range(start, stop):
            yield SimpleNamespace(images=[self._image], targets=[self._target], image_ids=[index])


def _train(args: argparse.Namespace) -> dict[str, Any]:
    """Train, alone or in a group, and return the seconds of each step after the first."""
    from contextlib import nullcontext

    from lucid_maskrcnn.training import init_group

    moments: list[float] = []
    with (
        tempfile.TemporaryDirectory() as out,
        nullcontext() if args.backend is None else init_group(args.backend) as group,
    ):
        _make_trainer(args, f"{out}/run", group, moments).run()
    return {"rank": 0 if group is None else group.rank, "steps": np.diff(moments).tolist()}


def _reduce(args: argparse.Namespace) -> dict[str, Any]:
    """Sum a vector over the ranks, and return the seconds of each time."""
    from lucid_maskrcnn.training import init_group

    found = []
    with init_group(args.backend) as group:
        for _ in range(args.steps):
            vector = np.ones(int(PARAMETERS["R-50"]), np.float32)
            group.barrier()
            start = time.perf_counter()
            group.all_reduce([vector])
            found.append(time.perf_counter() - start)
    return {"rank": group.rank, "steps": found[1:], "bytes": vector.nbytes}


# ------------------------------------------------------------------ measuring


def _start(args: argparse.Namespace, part: str, backend: str | None) -> subprocess.Popen[str]:
    words = [sys.executable, *(["-m", "mpi4py"] if backend == "mpi" else []), __file__, "--part", part]
    words += ["--side", str(args.side), "--steps", str(args.steps), *(["--backend", backend] if backend else [])]
    folder = Path(sys.executable).parent
    launch = {
        None: [],
        "mpi": [str(folder / "mpiexec"), "-n", "2"],
        "ring": [str(folder / "mlx.launch"), "-n", "2", "--"],
    }
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([*launch[backend], *words], stdout=subprocess.PIPE, text=True, env=environment)


def _reports(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output = process.communicate()[0]
    return [json.loads(line[7:]) for line in output.splitlines() if line.startswith("REPORT ")]


def measure(args: argparse.Namespace, backends: list[str]) -> dict[str, Any]:
    """Return what the parts of a step take, and what a step of two ranks takes."""
    alone = [_start(args, "train", None) for _ in range(2)]
    steps = [seconds for process in alone for report in _reports(process) for seconds in report["steps"]]
    compute = statistics.median(steps)
    found: dict[str, Any] = {"side": args.side, "machine": platform.processor() or platform.machine()}
    found |= {"compute": compute, "relative": [seconds / compute for seconds in steps]}
    print(f"a step of one picture of {args.side} x {args.side}, two processes side by side: {compute:.2f} s")
    for backend in backends:
        [sums, *_] = _reports(_start(args, "reduce", backend))
        [trained] = [report for report in _reports(_start(args, "train", backend)) if report["rank"] == 0]
        reduction, step = statistics.median(sums["steps"]), statistics.median(trained["steps"])
        slowest = _slowest(found["relative"], 2) * compute
        found[backend] = {
            "reduction": reduction,
            "step": step,
            "predicted": slowest + reduction,
            "bytes": sums["bytes"],
        }
        print(
            f"{backend}: sum of {sums['bytes'] / 1e6:.0f} MB {reduction:.2f} s; step of two ranks {step:.2f} s, "
            f"predicted {slowest + reduction:.2f} s ({step / (slowest + reduction) - 1:+.0%}); "
            f"{2 * compute / step:.2f} times one process"
        )
    return found


# ------------------------------------------------------------------ simulation


def _slowest(relative: list[float], ranks: int, draws: int = 4000) -> float:
    """Return the mean of the slowest of some ranks, in medians of one."""
    rng = np.random.default_rng(0)
    return float(rng.choice(np.asarray(relative), (draws, ranks)).max(axis=1).mean())


def step_seconds(
    ranks: int, batches: int, compute: float, size: float, gbits: float, relative: list[float], args: argparse.Namespace
) -> float:
    """Return the seconds of a step of so many batches, each of ``compute`` seconds, and gradients of ``size`` bytes."""
    share = -(-batches // ranks)
    exchange = 2 * (ranks - 1) / ranks * size * 8e-9 / (gbits * args.efficiency) + 2 * (ranks - 1) * args.latency
    return share * compute * _slowest(relative, ranks) + exchange


def simulate(args: argparse.Namespace, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Print what 64 pictures a step take on many machines, and return it."""
    rows = []
    print(f"\nSIMULATION: a step of 64 pictures of {measured['side']} x {measured['side']}, gradients in float64")
    print("model, machine          network     " + "".join(f"{f'{n} ranks':>14}" for n in RANKS))
    for name, factor in (("R-50", 1.0), ("R-101", args.r101)):
        for cores, speed in ((1, 1.0), (8, 8.0), (32, 32.0)):
            compute = measured["compute"] * factor / speed
            for gbits in NETWORKS:
                size = 8 * PARAMETERS[name]
                seconds = [step_seconds(n, 64, compute, size, gbits, measured["relative"], args) for n in RANKS]
                efficiency = [seconds[0] / (n * s) for n, s in zip(RANKS, seconds, strict=True)]
                rows.append(
                    {"model": name, "cores": cores, "gbits": gbits, "seconds": seconds, "efficiency": efficiency}
                )
                cells = "".join(f"{f'{s:.2f} s {e:.0%}':>14}" for s, e in zip(seconds, efficiency, strict=True))
                print(f"{f'{name}, {cores} cores a rank':<24}{f'{gbits} Gbit/s':<12}{cells}")
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the efficiency of each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, name in zip(axes, ("R-50", "R-101"), strict=True):
        for row in (row for row in rows if row["model"] == name):
            style = {"linestyle": "-" if row["gbits"] == NETWORKS[1] else "--", "marker": "."}
            color = {1: "tab:blue", 8: "tab:orange", 32: "tab:red"}[row["cores"]]
            axis.plot(
                RANKS, row["efficiency"], color=color, label=f"{row['cores']} cores, {row['gbits']} Gbit/s", **style
            )
        axis.set(title=f"{name}, 64 pictures a step (simulation)", xlabel="ranks", xscale="log", ylim=(0, 1.05))
        axis.set_xticks(RANKS, [str(n) for n in RANKS])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("speed / (ranks × speed of one)")
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("ring", "mpi"), help="(default: both)")
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels (default: 512)")
    parser.add_argument("--steps", type=int, default=8, help="(default: 8)")
    parser.add_argument("--only", choices=("measure", "simulate"))
    parser.add_argument("--efficiency", type=float, default=0.8, help="of a network's nominal rate (default: 0.8)")
    parser.add_argument("--latency", type=float, default=5e-5, help="seconds of a message (default: 0.00005)")
    parser.add_argument("--r101", type=float, default=1.3, help="compute of R-101 over that of R-50 (default: 1.3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--part", choices=("train", "reduce"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        report = _train(args) if args.part == "train" else _reduce(args)
        os.write(1, f"REPORT {json.dumps(report)}\n".encode())
        return
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "ranks.json"
    if args.only == "simulate":
        measured = json.loads(path.read_text())["measured"]
    else:
        measured = measure(args, [args.backend] if args.backend else ["ring", "mpi"])
    rows = [] if args.only == "measure" else simulate(args, measured)
    path.write_text(json.dumps({"measured": measured, "simulated": rows}, indent=1))
    if rows:
        draw(rows, args.out / "ranks.png")


if __name__ == "__main__":
    main()
