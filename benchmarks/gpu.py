"""Measure the gpu of this machine (NVIDIA or Apple), and torchvision on the same card.

    python benchmarks/gpu.py                          # all of it, about ten minutes
    python benchmarks/gpu.py --peer /path/to/python   # beside torchvision of that interpreter (torch with the same GPU)
    python benchmarks/gpu.py --only predict train --minutes 5
    python benchmarks/gpu.py --small                  # tiny, on any machine: whether this script works

Each result is printed as it comes, the most important first, and saved in ``--out``: ``results.json``, and at the end
``gpu.png``. First of all cpu and gpu must agree. A section that fails is reported with its error, and the others go on;
the exit status is then 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import threading
import time
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The images and weights of the other benchmarks, and from the tests the counter of waits and a tiny model.
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent)]

import gpu_sections  # noqa: E402

from lucid_maskrcnn import __version__, ops  # noqa: E402

_PEER_LIMIT = 300  # seconds for an answer of torchvision's process
SECTIONS = {section.__name__: section for section in gpu_sections.SECTIONS}


class Peer:
    """torchvision in a process of its own, if there is any; why not is in ``missing``."""

    def __init__(self, python: str | None, *, tf32: bool, cpu_will_do: bool) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.missing, self.header = "no torchvision: name an interpreter that has it with --peer", {}
        if python is None:
            return
        self.process = subprocess.Popen(
            [python, str(HERE / "gpu_peer.py"), str(int(tf32))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.header = self.ask("header")
        if "error" in self.header:
            self.close(self.header["error"])
        elif self.header["kind"] == "cpu" and not cpu_will_do:
            self.close("torch sees no GPU")

    def ask(self, *task: Any) -> dict[str, Any]:
        """Return the answer, or ``{"error": …}``."""
        if self.process is None:
            return {"error": self.missing, "missing": True}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
            watch = threading.Timer(_PEER_LIMIT, self.process.kill)  # of a process that hangs
            watch.start()
            answer = self.process.stdout.readline()
            watch.cancel()
        except OSError:
            answer = ""
        if not answer:
            self.close("torchvision's process ended, or took more than 5 minutes; its message is above")
        return json.loads(answer) if answer else {"error": self.missing}

    def close(self, reason: str = "closed") -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process, self.missing = None, reason


class Bench:
    """What the sections use: sizes, the peer, the time that is left, and where results go."""

    def __init__(self, args: argparse.Namespace, peer: Peer, header: dict[str, Any]) -> None:
        self.small, self.peer, self.out, self.backend = args.small, peer, args.out, header["backend"]
        self.runs = args.runs or (2 if args.small else 15)
        self.end = time.monotonic() + 60 * args.minutes
        self.results: dict[str, Any] = {"header": header, "sections": {}}

    def check_time(self) -> None:
        """Raise what ends a section if the time is spent."""
        if time.monotonic() > self.end:
            raise gpu_sections.OutOfTime

    def ask(self, *task: Any) -> dict[str, Any]:
        """Ask the peer, with the card's memory free."""
        gpu_sections.free_memory()
        return self.peer.ask(*task)

    def record(self, section: str, name: str, **values: Any) -> None:
        """Print and save one result."""
        self.results.setdefault(section, {})[name] = values
        print(f"  {name:56}{described(values)}", flush=True)
        self.save()

    def save(self) -> None:
        (self.out / "results.json").write_text(json.dumps(self.results, indent=1))

    def run(self, names: list[str]) -> None:
        """Run the sections, and note how each of them ended."""
        for name in names:
            print(f"\n{name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
            start, state = time.monotonic(), "done"
            try:
                self.check_time()
                SECTIONS[name](self)
            except gpu_sections.OutOfTime:
                state = "cut short, no time left" if name in self.results else "skipped, no time left"
            except Exception as error:  # the others go on
                traceback.print_exc()
                state = f"failed: {type(error).__name__}: {error}"
            gpu_sections.free_memory()
            self.results["sections"][name] = {"state": state, "seconds": round(time.monotonic() - start, 1)}
            print(f"  {name}: {state}, {time.monotonic() - start:.0f} s", flush=True)
            self.save()


# ------------------------------------------------------------------ the report


def described(values: dict[str, Any]) -> str:
    """Return a result in one line: timings with torchvision's and their ratio, other values as they are."""
    ours, theirs = values.get("ours", {}), values.get("torchvision", {})
    parts = [duration(ours)] if ours else []
    if theirs and "missing" not in theirs:
        parts.append(f"torchvision {duration(theirs)}")
    if "median" in ours and "median" in theirs:
        parts.append(f"ratio {ours['median'] / theirs['median']:.2f}")
    for name, value in values.items():
        if name not in ("ours", "torchvision") and not isinstance(value, (list, dict)):
            parts.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    return "   ".join(parts)


def duration(timing: dict[str, Any]) -> str:
    if "error" in timing:
        return timing["error"]
    median, low, high = (1e3 * timing[k] for k in ("median", "min", "max"))
    peak = f", peak {timing['peak']:.0f} MB" if timing.get("peak") else ""
    return f"{median:9.2f} ms ({low:.2f} to {high:.2f}{peak})"


def summary(results: dict[str, Any]) -> None:
    """Print all comparisons in one table, and how the sections ended."""
    rows = [
        (section, name, values)
        for section in SECTIONS
        for name, values in results.get(section, {}).items()
        if "median" in values.get("ours", {}) and section in ("predict", "train", "batches")
    ]
    print(f"\n{'milliseconds, medians':50}{'ours':>10}{'torchvision':>14}{'ratio':>8}")
    for section, name, values in rows:
        ours, theirs = values["ours"]["median"], values.get("torchvision", {}).get("median")
        rest = f"{1e3 * theirs:14.1f}{ours / theirs:8.2f}" if theirs else f"{'–':>14}{'–':>8}"
        print(f"{section + ', ' + name:50}{1e3 * ours:10.1f}{rest}")
    if results["header"]["torchvision missing"]:
        print(f"torchvision's column is empty: {results['header']['torchvision missing']}")
    for name, section in results["sections"].items():
        if section["state"] != "done":
            print(f"{name}: {section['state']}")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw predict and training, stages, convolutions, and the memory of training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    header = results["header"]
    figure.suptitle(f"{header['card']}, {header['backend']}, TF32 {'on' if header['tf32'] else 'off'}")
    plot_bars(axes[0, 0], {**results.get("predict", {}), **results.get("train", {})}, "Predict and training step")
    plot_bars(axes[0, 1], results.get("stages", {}), "Stages of a prediction")
    forward = {k: v for k, v in results.get("micro", {}).items() if k.endswith("forward")}
    plot_bars(axes[1, 0], forward, "Convolutions of R-50, forward")
    for values in results.get("memory", {}).values():
        if "active" in values:
            axes[1, 1].plot(values["steps"], values["active"], ".-", color="#0b6e4f")
    axes[1, 1].set(title="Training with live batch norm", xlabel="step", ylabel="active memory, MB", ylim=(0, None))
    figure.savefig(path, dpi=110)


def plot_bars(axis: Any, rows: dict[str, Any], title: str) -> None:
    rows = {name: values for name, values in rows.items() if "median" in values.get("ours", {})}
    for offset, who, color in ((-0.2, "ours", "#0b6e4f"), (0.2, "torchvision", "#b3541e")):
        found = [(i, v[who]["median"]) for i, v in enumerate(rows.values()) if "median" in v.get(who, {})]
        axis.barh([i + offset for i, _ in found], [1e3 * t for _, t in found], 0.4, color=color, label=who)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=7)
    axis.invert_yaxis()
    axis.set(title=title, xlabel="milliseconds")
    if rows:
        axis.legend(fontsize=8)


# ------------------------------------------------------------------ the command


def header_of(backend: ops.GPUBackend, peer: Peer) -> dict[str, Any]:
    """Return what the results depend on."""
    return {
        "card": backend.name,
        "backend": backend.kind,
        "tf32": backend.tf32,
        "mlx": metadata.version("mlx"),
        "lucid-dl": metadata.version("lucid-dl"),
        "lucid_maskrcnn": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "torchvision": peer.header,
        "torchvision missing": "" if peer.process else peer.missing,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="an interpreter with torch and torchvision; this one if it has them")
    parser.add_argument("--small", action="store_true", help="a tiny model on tiny images, also without a GPU")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="sections to run")
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing new after so many (default 60)")
    parser.add_argument("--runs", type=int, help="timed runs of each (default 15, with --small 2)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"), help="folder of results.json and gpu.png")
    return parser.parse_args()


def main() -> int:
    args, backend = arguments(), ops.gpu_backend()
    if backend.kind == "cpu" and not args.small:
        print(f"There is no GPU to measure, MLX computes on the CPU ({backend.name}): --small tries this script out.")
        return 2
    warnings.filterwarnings("ignore", "Objects may be missing")  # of weights that are not trained
    warnings.filterwarnings("ignore", 'The device "gpu" is MLX')  # the header says so
    here = sys.executable if importlib.util.find_spec("torchvision") and not args.small else None
    args.out.mkdir(parents=True, exist_ok=True)
    peer = Peer(args.peer or here, tf32=backend.tf32, cpu_will_do=args.small)
    bench = Bench(args, peer, header_of(backend, peer))
    for name, value in bench.results["header"].items():
        print(f"{name:22}{value}")
    if args.small:
        print("With --small the models differ, and nothing here says how fast a GPU is.")
    try:
        bench.run([name for name in SECTIONS if name in args.only])
    finally:
        peer.close()
    summary(bench.results)
    saved = ["results.json"]
    if importlib.util.find_spec("matplotlib"):
        plot(bench.results, args.out / "gpu.png")
        saved.append("gpu.png")
    print(f"\nSaved {' and '.join(saved)} in {args.out}.")
    return int(any(s["state"].startswith("failed") for s in bench.results["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
