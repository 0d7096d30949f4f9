"""Training runs in groups of processes; this file is also what the launchers start: one rank of such a run."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController
from tiny_runs import Squares, Toy, slim, toy_settings

from lucid_maskrcnn import mask_rcnn_resnet_50_fpn
from lucid_maskrcnn.training import Trainer, init_group
from lucid_maskrcnn.training.groups import SingleGroup

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parent),
    "OPENBLAS_NUM_THREADS": "1",  # as many for each rank as for one process: products are rounded in the same way
}


def launched(backend: str, size: int, *command: object) -> list[str]:
    """Return the command that starts ``size`` ranks of a Python command."""
    words = [str(word) for word in command]
    if backend == "mpi":
        return [str(BIN / "mpiexec"), "-n", str(size), sys.executable, "-m", "mpi4py", *words]
    # Which picks its ports by itself; a Python file that is not executable needs its interpreter.
    ring = ["-n", str(size), "--starting-port", str(free_ports())]
    return [str(BIN / "mlx.launch"), *ring, "--", sys.executable, *words]


def free_ports() -> int:
    """Return the first of eight ports in a row that nothing listens on."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            first = int(probe.getsockname()[1])
        try:
            for port in range(first, first + 8):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first


def start(backend: str, size: int, *command: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        launched(backend, size, *command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def run(backend: str, size: int, *arguments: object) -> tuple[dict[int, dict[str, Any]], str]:
    """Run ranks of this file to their end, and return what each of them reports, and the whole output."""
    process = start(backend, size, __file__, backend, *arguments)
    output = process.communicate()[0]
    reports = [json.loads(line[7:]) for line in output.splitlines() if line.startswith("REPORT ")]
    return {report["rank"]: report for report in reports}, output


def has_launcher(backend: str) -> bool:
    return shutil.which("mpiexec" if backend == "mpi" else "mlx.launch", path=str(BIN)) is not None


# ------------------------------------------------------------------ one rank


class Faulty(Squares):
    """Has something happen on one rank as it loads a batch."""

    def __init__(self, *args: Any, what: str, at: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.what, self.at = what, at

    def batch(self, step: int) -> Any:
        batch = super().batch(step)
        if step == self.at:
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.what == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            if self.what == "raise":
                raise ValueError("bad data")
            if self.what == "nan":
                batch.images[0] = batch.images[0] * np.float32("nan")
        return batch


def _trainer(args: argparse.Namespace, group: Any) -> Trainer:
    mine = group.rank == args.rank
    model: Any
    if args.model == "toy":
        model, size, side = Toy(norm=args.norm == "batch"), 2, 8
    elif args.model == "slim":
        model, size, side = slim(norm=args.norm), 1, 64
    else:
        import lucid

        lucid.random.seed(0)
        model = mask_rcnn_resnet_50_fpn(2, norm=args.norm, min_size=64, max_size=64)
        size, side = 1, 64
    loader: Squares = Squares(size, side=side)
    if args.what and mine:
        loader = Faulty(size, side=side, what=args.what, at=args.at)
    settings = toy_settings(args.steps, accumulate=args.accumulate, seed=args.seed + (args.what == "seed" and mine))
    options: dict[str, Any] = {"evaluate": (lambda _: {"score": float(group.rank)}) if args.evaluate else None}
    return Trainer(
        model.to(args.device),
        loader,
        out=args.out,
        settings=settings,
        resume="auto",
        progress=False,
        tensorboard=False,
        group=group,
        **options,
    )


def digest(model: Any) -> str:
    content = hashlib.sha256()
    for _, variable in sorted(model.state_dict(keep_vars=True).items()):
        content.update(np.ascontiguousarray(variable.data).tobytes())
    return content.hexdigest()


def alone(*arguments: object) -> str:
    """Run the same training in this process alone, and return the digest of its weights."""
    args = _parser().parse_args(["none", *map(str, arguments)])
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        trainer = _trainer(args, SingleGroup())
        trainer.run()
    return digest(trainer.model)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("backend")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=("toy", "slim", "r50"), default="toy")
    parser.add_argument("--norm", choices=("frozen", "batch"), default="frozen")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--accumulate", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--what", default="")
    parser.add_argument("--at", type=int, default=-1)
    parser.add_argument("--rank", type=int, default=-1)
    return parser


def main() -> int:
    args = _parser().parse_args()
    report: dict[str, Any] = {}
    code = 0
    timeout = 3 if args.what == "stop" else 30  # only a frozen rank is waited for: on a busy machine all are slow
    with init_group(args.backend, timeout=timeout, start_timeout=60) as group:
        report["rank"] = group.rank
        try:
            trainer = _trainer(args, group)
            result = trainer.run()
            report |= {"digest": digest(trainer.model), "step": result.step, "metrics": result.metrics}
        except (Exception, KeyboardInterrupt) as error:
            report |= {"error": type(error).__name__, "message": str(error)}
            code = 1
        os.write(1, f"REPORT {json.dumps(report)}\n".encode())  # in one piece: the others write, too
        if code:
            group.abort("failed")
    return code


if __name__ == "__main__":
    sys.exit(main())
