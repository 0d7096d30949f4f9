"""Compare this package with torchvision, with other engines, and with itself without Winograd convolutions.

    uv run --group bench python benchmarks/run.py
    uv run --group bench python benchmarks/run.py --peer /path/to/python   # an interpreter with torch, torchvision
    uv run --group bench python benchmarks/run.py --peer /path/to/python --record   # keeps the figures

Prints a table, and saves ``results.json`` and ``speed.png`` in the folder ``--out``. Each contender runs in a separate
process and they alternate, so that other load on the machine affects all of them; compare the ratios of the medians.
Nothing else should be running. All parts take about half an hour on two cores. ``--record`` adds the run to
``benchmarks/records/cpu.json``, from which ``docs/make_speed_plots.py`` writes the figures of the documentation.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import records
from contenders import num_cores

CONTENDERS = Path(__file__).resolve().parent / "contenders.py"
SIZE, TRAINING_SIZE, CURVE_SIZE, STEPS = (800, 1216), (512, 768), (256, 384), 20
CROWD_SIZE, CROWDS = (512, 512), (1, 4000)
NUCLEI_SIZES = ((256, 256), (520, 696), (1024, 1024))
THREADS = (1, 2, 4, 8)
TOLERANCE = 1e-3  # between the trunks' outputs, in standard deviations: float32 differs by 1e-5, bfloat16 by 1e-1
PARTS = ["predict", "trunk", "nuclei", "train", "crowd", "curve", "ops", "scaling", "import", "demo", "lucid", "growth"]
OURS, PLAIN, PEER, PEER_LAST = "ours", "plain", "torchvision", "channels-last"
OPENVINO, ONNXRUNTIME = "openvino", "onnxruntime"
OWN = (OURS, PLAIN)  # in this interpreter; the others are in the peer's
TRUNKS = (OURS, PEER, PEER_LAST, OPENVINO, ONNXRUNTIME)
ENGINES = (OURS, OPENVINO, ONNXRUNTIME)
PERTURBED = "torchvision, perturbed"
STAGES = ["transform", "body", "fpn", "rpn", "box pooling", "box head", "mask pooling", "mask head", "paste"]


class Worker:
    """A contender in a separate process, on the first ``threads`` of this process's cores, or on all."""

    def __init__(self, name: str, python: str, preload: list[str], threads: int | None = None) -> None:
        self.process = subprocess.Popen(
            [python, str(CONTENDERS), name, *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=threads and partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[:threads]),
        )

    def ask(self, *task: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"A contender failed on {task}; its message is above.")
        return json.loads(answer)

    def close(self) -> None:
        self.process.communicate()


class Bench:
    """Starts workers and alternates between them; ``skipped`` says why others are not there."""

    def __init__(self, peer: str | None, preload: list[str], runs: int) -> None:
        self.peer, self.preload, self.runs = peer, preload, runs
        self.skipped: dict[str, str] = {}

    def start(self, *names: str, threads: int | None = None) -> dict[str, Worker]:
        workers = {}
        for name in names:
            python = sys.executable if name in OWN else self.peer
            if python is None:
                self.skipped[name] = "no interpreter that has torchvision; give one with --peer"
                continue
            worker = Worker(name, python, [] if name in OWN else self.preload, threads)
            if missing := worker.ask("missing"):
                self.skipped[name] = f"{python} has no {', '.join(missing)}"
                worker.close()
            else:
                workers[name] = worker
        return workers

    def alternate[Name](
        self, workers: dict[Name, Worker], *task: Any, runs: int | None = None
    ) -> dict[Name, dict[str, Any]]:
        """Return each worker's median, minimum and maximum seconds, and the medians of its stages."""
        answers: dict[Name, list[dict]] = {name: [] for name in workers}
        for repetition in range((runs or self.runs) + 1):
            for name, worker in workers.items():
                answer = worker.ask(*task)
                if repetition:  # the first is a warm-up
                    answers[name].append(answer)
        return {name: summary(of_name) for name, of_name in answers.items()}


def summary(answers: list[dict]) -> dict[str, Any]:
    times = [a["seconds"] for a in answers]
    found: dict[str, Any] = {"median": statistics.median(times), "min": min(times), "max": max(times)}
    if "stages" in answers[0]:
        found["stages"] = {k: statistics.median(a["stages"][k] for a in answers) for k in answers[0]["stages"]}
    if "detections" in answers[0]:
        found["detections"] = answers[0]["detections"]
    return found


# ------------------------------------------------------------------ the parts


def measure_predict(bench: Bench) -> dict[str, Any]:
    workers = bench.start(OURS, PLAIN, PEER, PEER_LAST)
    found = bench.alternate(workers, "predictor", SIZE, 1, None)
    for name, worker in workers.items():
        found[name]["memory"] = worker.ask("memory")
    found["gflop"] = workers[OURS].ask("gflop", SIZE)
    found["gemm"] = workers[OURS].ask("gemm")
    for worker in workers.values():
        worker.close()
    return found


def measure_trunk(bench: Bench) -> dict[str, Any]:
    workers = bench.start(*TRUNKS)
    with tempfile.TemporaryDirectory() as folder:
        for name, worker in list(workers.items()):
            worker.ask("trunk", SIZE, folder)
            difference = largest_difference(Path(folder) / f"{name}.npz", Path(folder) / f"{OURS}.npz")
            print(f"  {name}: differs by {difference:.1e} standard deviations at most", file=sys.stderr)
            if not difference <= TOLERANCE:
                bench.skipped[name] = f"its outputs differ by {difference:.1e} standard deviations"
                workers.pop(name).close()
        found = bench.alternate(workers, "trunk", SIZE, folder)
    for worker in workers.values():
        worker.close()
    return found


def largest_difference(file: Path, other: Path) -> float:
    """Return by how much arrays of two files differ at most, in standard deviations of each array."""
    with np.load(file) as first, np.load(other) as second:
        return max(float(np.abs(first[name] - second[name]).max() / second[name].std()) for name in second.files)


def measure_nuclei(bench: Bench) -> dict[str, Any]:
    """Measure whole predictions of the weights that come with the package, here and by engines, as an ONNX file."""
    workers = bench.start(*ENGINES)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        reason = workers[OURS].ask("export", folder)
        for name in [name for name in workers if name != OURS and reason]:
            bench.skipped[name] = reason
            workers.pop(name).close()
        for size in NUCLEI_SIZES:
            rows = bench.alternate(workers, "nuclei", size, folder)
            own = rows[OURS]["detections"]
            for name in [name for name, row in rows.items() if row["detections"] != own]:
                bench.skipped[name] = f"it finds {rows.pop(name)['detections']} nuclei, not {own}"
                workers.pop(name).close()
            found[" × ".join(map(str, size))] = rows
    for worker in workers.values():
        worker.close()
    return found


def measure_crowd(bench: Bench) -> dict[str, Any]:
    """Measure the peak memory of the losses of an image with one object and with many."""
    found = {}
    for count in CROWDS:
        worker = bench.start(OURS)[OURS]
        worker.ask("crowd_loss", CROWD_SIZE, count)
        found[str(count)] = worker.ask("memory")
        worker.close()
    return found


def measure_scaling(bench: Bench) -> dict[str, Any]:
    """Measure predict with a growing number of threads, as far as there are cores."""
    counts = [n for n in THREADS if n <= num_cores()] if hasattr(os, "sched_getaffinity") else []
    workers = {(name, n): worker for n in counts for name, worker in bench.start(OURS, PEER_LAST, threads=n).items()}
    found = bench.alternate(workers, "predictor", SIZE, 1, None)
    for worker in workers.values():
        worker.close()
    return {str(n): {name: row for (name, m), row in found.items() if m == n} for n in counts}


def measure_train(bench: Bench) -> dict[str, Any]:
    workers = bench.start(OURS, PLAIN, PEER)
    found = bench.alternate(workers, "trainer", TRAINING_SIZE, 2)
    for name, worker in workers.items():
        found[name]["memory"] = worker.ask("memory")
        worker.close()
    return found


def measure_curve(bench: Bench) -> dict[str, Any]:
    """Train both from the same weights on the same images, with the same samples.

    Rounding differences grow, because the last digit can change which boxes are sampled. A second run of torchvision
    from slightly perturbed weights shows how fast.
    """
    workers = bench.start(OURS, PEER)
    found: dict[str, Any] = {name: worker.ask("curve", CURVE_SIZE, STEPS) for name, worker in workers.items()}
    if PEER in workers:
        found[PERTURBED] = workers[PEER].ask("curve", CURVE_SIZE, STEPS, 1e-6)
    for worker in workers.values():
        worker.close()
    return found


def relative_differences(curve: list[list[float]], other: list[list[float]]) -> list[float]:
    """Return the relative difference of two curves' total losses at each step."""
    return [abs(sum(a) - sum(b)) / sum(b) for a, b in zip(curve, other, strict=True)]


def measure_ops(bench: Bench) -> dict[str, Any]:
    workers = bench.start(OURS, PEER)
    names = ["roi_align", "roi_align backward", "roi_align, large RoIs", "roi_align backward, large RoIs"]
    found = {
        name: bench.alternate(workers, "op", name, runs=2 * bench.runs + 1)
        for name in [*names, "nms", "batched_nms", "paste_masks"]
    }
    for worker in workers.values():
        worker.close()
    return found


def measure_import(bench: Bench) -> dict[str, Any]:
    program = (
        "import time; a = time.perf_counter(); import lucid; b = time.perf_counter(); import lucid_maskrcnn; "
        "print(time.perf_counter() - b)"
    )
    times = [float(output_of("-c", program)) for _ in range(2 * bench.runs + 1)]
    return summary([{"seconds": t} for t in times[1:]])


def measure_demo(bench: Bench) -> dict[str, Any]:
    """Time the command ``demo`` as a person waits for it: from the shell to its end."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(bench.runs + 1):
            start = time.perf_counter()
            output_of("-m", "lucid_maskrcnn", "demo", "--out", f"{folder}/drawing.png")
            times.append(time.perf_counter() - start)
    return summary([{"seconds": t} for t in times[1:]])


def output_of(*arguments: str) -> str:
    """Run this interpreter, which may keep what it compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment)
    return run.stdout


def measure_lucid(bench: Bench) -> dict[str, Any]:
    worker = bench.start(OURS)[OURS]
    found = worker.ask("lucid")
    found["ours"] = summary([worker.ask("predictor", (128, 128), 1, None) for _ in range(bench.runs)])
    worker.close()
    return found


def measure_growth(bench: Bench) -> dict[str, Any]:
    workers = bench.start(OURS, PEER_LAST)
    found = {
        "side": {
            side: bench.alternate(workers, "predictor", (side, side), 1, None, runs=3)
            for side in (256, 512, 800, 1216, 1600)
        },
        "batch": {n: bench.alternate(workers, "predictor", TRAINING_SIZE, n, None, runs=3) for n in (1, 2, 4, 8)},
        "detections": {n: bench.alternate(workers, "predictor", SIZE, 1, n, runs=3) for n in (1, 10, 30, 100, 300)},
    }
    for worker in workers.values():
        worker.close()
    return found


# ------------------------------------------------------------------ the report


def report(results: dict[str, Any]) -> None:
    machine = results["machine"]
    print(f"\n{machine['processor']}, {machine['instructions']}, {machine['cores']} cores, {machine['blas']}\n")
    for name, why in results["skipped"].items():
        print(f"{name} is not measured: {why}.\n")
    if "predict" in results:
        found = results["predict"]
        print(f"predict, {SIZE[0]} × {SIZE[1]}, with masks")
        print_comparison(found, (OURS, PLAIN, PEER, PEER_LAST))
        floor = found["gflop"] / found["gemm"]
        print(
            f"  {found['gflop']:.0f} GFLOP as direct convolutions at NumPy's {found['gemm']:.0f} GFLOP/s take "
            f"{floor:.2f} s; ours reaches {floor / found[OURS]['median']:.2f} of that rate\n"
        )
        names = [n for n in (OURS, PLAIN, PEER, PEER_LAST) if n in found]
        print("  seconds by stage" + "".join(f"{n:>15}" for n in names))
        for stage in STAGES:
            print(f"  {stage:16}" + "".join(f"{found[n]['stages'][stage]:15.3f}" for n in names))
        print()
    if "trunk" in results:
        print(f"body, pyramid and RPN head, {SIZE[0]} × {SIZE[1]}, float32")
        print_comparison(results["trunk"], TRUNKS)
        print()
    for size, rows in results.get("nuclei", {}).items():
        print(f"NUCLEI, {size}, {rows[OURS]['detections']} nuclei")
        print_comparison(rows, ENGINES)
        print()
    if "train" in results:
        print(f"training step, batch of 2, {TRAINING_SIZE[0]} × {TRAINING_SIZE[1]}")
        print_comparison(results["train"], (OURS, PLAIN, PEER))
        print()
    if "crowd" in results:
        few, many = (results["crowd"][str(count)] for count in CROWDS)
        print(f"peak memory of the losses, {CROWD_SIZE[0]} × {CROWD_SIZE[1]}: with {CROWDS[0]} object {few:.0f} MB,")
        print(f"  with {CROWDS[1]} objects {many:.0f} MB, {many - few:+.0f} MB\n")
    if PEER in results.get("curve", {}):
        found = results["curve"]
        names = (OURS, PEER, PERTURBED)
        print(f"{STEPS} steps of SGD from the same weights, total losses: {', '.join(names)}")
        for step in sorted({0, 1, 2, 4, 9, STEPS - 1}):
            print(f"  step {step + 1:3}" + "".join(f"{sum(found[name][step]):12.6f}" for name in names))
        for name in (OURS, PERTURBED):
            of_steps = relative_differences(found[name], found[PEER])
            mean = sum(of_steps) / len(of_steps)
            print(
                f"  {name}: differs by {of_steps[0]:.1e} at first, {mean:.1e} on average, {max(of_steps):.1e} at most"
            )
        print()
    for name, found in results.get("ops", {}).items():
        print(name)
        print_comparison(found, (OURS, PEER), unit=1e3)
    if "scaling" in results:
        found = results["scaling"]
        absent = ", ".join(str(n) for n in THREADS if str(n) not in found)
        print("\npredict by threads" + (f"; there are no cores for {absent}" if absent else ""))
        for n, row in found.items():
            gain = found["1"][OURS]["median"] / row[OURS]["median"]
            print(f" {n}: ours {gain:.2f} times as fast as one thread")
            print_comparison(row, (OURS, PEER_LAST))
    if "import" in results:
        print(f"import, beyond Lucid's own: {results['import']['median']:.3f} s")
    if "demo" in results:
        print(f"the command demo, from the shell to its end: {results['demo']['median']:.2f} s")
    if "lucid" in results:
        found = results["lucid"]
        print(
            f"Lucid's own {found['model']} at 128 × 128: {found['end']} after {found['seconds']:.1f} s; "
            f"ours predicts in {found['ours']['median']:.2f} s"
        )
    for what, rows in results.get("growth", {}).items():
        print(f"\n{what:>12}" + "".join(f"{n:>15}" for n in next(iter(rows.values()))))
        for value, found in rows.items():
            print(f"{value:>12}" + "".join(f"{f['median']:13.2f} s" for f in found.values()))


def print_comparison(found: dict[str, Any], names: tuple[str, ...], unit: float = 1) -> None:
    own = found[OURS]
    for name in names:
        if name not in found:
            continue
        theirs = found[name]
        line = f"  {name:14}{theirs['median'] * unit:9.2f}  ({theirs['min'] * unit:.2f} to {theirs['max'] * unit:.2f})"
        line += " ms" if unit == 1e3 else " s"
        if "memory" in theirs:
            line += f"  {theirs['memory']:6.0f} MB"
        if name != OURS:
            line += f"   ours takes {own['median'] / theirs['median']:.2f} of its time"
            if "memory" in theirs:
                line += f", {own['memory'] / theirs['memory']:.2f} of its memory"
        print(line)


def plot(results: dict[str, Any], path: Path) -> bool:
    """Draw the stages of predict and what it grows with; without either there is no picture, and False is returned."""
    if not {"predict", "growth"} & results.keys():
        path.unlink(missing_ok=True)  # of a run before
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    labels = {
        OURS: "lucid_maskrcnn",
        PLAIN: "without Winograd",
        PEER: "torchvision",
        PEER_LAST: "torchvision, channels-last",
    }
    colors = {OURS: "#0b6e4f", PLAIN: "#8bc4a9", PEER: "#b3541e", PEER_LAST: "#e0a46e"}
    if "predict" in results:
        names = [n for n in labels if n in results["predict"]]
        left = [0.0] * len(names)
        shades = plt.colormaps["tab20c"]([0, 1, 2, 4, 5, 6, 8, 9, 12])
        for stage, shade in zip(STAGES, shades, strict=True):
            values = [results["predict"][n]["stages"][stage] for n in names]
            axes[0, 0].barh([labels[n] for n in names], values, left=left, label=stage, color=shade)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes[0, 0].invert_yaxis()
        axes[0, 0].legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.4, -0.16))
        axes[0, 0].set(title=f"predict, {SIZE[0]} × {SIZE[1]}, by stage", xlabel="seconds")
    titles = {"side": "Side of a square image", "batch": "Images of 512 × 768 at once", "detections": "Detections"}
    for axis, (what, rows) in zip(axes.flat[1:], results.get("growth", {}).items(), strict=False):
        for name in next(iter(rows.values())):
            axis.plot(
                [int(value) for value in rows],
                [found[name]["median"] for found in rows.values()],
                "o-",
                color=colors[name],
                label=labels[name],
            )
        axis.set(title=titles[what], ylabel="seconds", ylim=(0, None))
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    figure.savefig(path, dpi=110)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="an interpreter that has torch and torchvision; this one if it has them")
    parser.add_argument("--preload", nargs="*", default=[], help="modules to import in the peer's process first")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each contender")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--record", action="store_true", help="add the run to benchmarks/records/cpu.json")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"), help="folder of results.json and speed.png")
    args = parser.parse_args()
    if args.peer and not shutil.which(args.peer):
        parser.error(f"--peer must be an interpreter, and {args.peer!r} is none.")
    if args.record and (absent := [part for part in records.NEEDED if part not in args.only]):
        parser.error(
            f"--record keeps runs that the documentation can state, and --only leaves out {', '.join(absent)}."
        )
    peer = args.peer or (sys.executable if importlib.util.find_spec("torchvision") else None)
    bench = Bench(peer, args.preload, args.runs)
    results: dict[str, Any] = {"machine": records.machine(), "skipped": bench.skipped}
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.only:
        print(f"measuring: {part}", file=sys.stderr, flush=True)
        results[part] = globals()[f"measure_{part}"](bench)
        (args.out / "results.json").write_text(json.dumps(results, indent=1))
    report(results)
    if args.record:
        records.append(results)
    saved = [args.out / "results.json"]
    if plot(results, args.out / "speed.png"):
        saved.append(args.out / "speed.png")
    print(f"\nSaved {' and '.join(map(str, saved))}.")


if __name__ == "__main__":
    main()
