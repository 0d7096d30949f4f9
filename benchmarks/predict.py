"""Time ``predict`` of Mask R-CNN R-50-FPN, beside torchvision's where there is one.

    uv run python benchmarks/predict.py --size 800 1216 --runs 5
    uv run python benchmarks/predict.py --peer /path/to/python   # an interpreter with torch and torchvision

Both get the same pseudo-random weights and the same drawn scene, at exactly the given size. They run in
processes of their own and take turns, so that whatever else the machine does hits both; what counts is the
ratio of the medians. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "tests" / "data" / "torchvision"
SEED = 7


def inputs(size: tuple[int, int]) -> tuple[dict, object]:
    sys.path.insert(0, str(RECIPE))
    import recipe

    return recipe.state_dict("maskrcnn_resnet50_fpn", 91, SEED), recipe.scene(*size, seed=1)[0]


def ours(size: tuple[int, int]) -> Callable[[], int]:
    from lucid_maskrcnn import mask_rcnn_resnet_50_fpn
    from lucid_maskrcnn.weights import load_torchvision_weights

    weights, image = inputs(size)
    model = mask_rcnn_resnet_50_fpn(min_size=min(size), max_size=max(size))
    load_torchvision_weights(model, weights)

    def run() -> int:
        (found,) = model.predict(image)
        return found["masks"].shape[0]  # pasted, as torchvision's are

    return run


def torchvisions(size: tuple[int, int], channels_last: bool) -> Callable[[], int]:
    import numpy as np
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    weights, image = inputs(size)
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=min(size), max_size=max(size), num_classes=91
    )
    # Built without weights it has live batch norm: in eval mode the same arithmetic as the frozen one.
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    model.eval()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        model.backbone.register_forward_pre_hook(
            lambda module, inputs: (inputs[0].contiguous(memory_format=torch.channels_last),)
        )
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255

    def run() -> int:
        with torch.inference_mode():
            (found,) = model([pixels])
        return int((found["masks"] > 0.5).shape[0])

    return run


def work(args: argparse.Namespace) -> None:
    """Answer each line on stdin with the seconds of one prediction and the number of detections."""
    if args.preload:
        __import__(args.preload)
    size = tuple(args.size)
    run = ours(size) if args.worker == "ours" else torchvisions(size, args.worker.endswith("last"))
    run()
    for _ in sys.stdin:
        start = time.perf_counter()
        count = run()
        print(json.dumps([time.perf_counter() - start, count]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1216], metavar=("H", "W"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer", help="an interpreter that has torch and torchvision")
    parser.add_argument("--preload", default="", help="a module to import in the peer's process first")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    who = {"ours": sys.executable}
    if args.peer:
        who |= {"torchvision": args.peer, "torchvision channels-last": args.peer}
    workers = {}
    for name, python in who.items():
        command = [python, __file__, "--worker", name, "--size", *map(str, args.size)]
        if name != "ours" and args.preload:
            command += ["--preload", args.preload]
        workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    times: dict[str, list[float]] = {name: [] for name in workers}
    counts = {}
    for _ in range(args.runs):
        for name, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            seconds, counts[name] = json.loads(worker.stdout.readline())
            times[name].append(seconds)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    reference = statistics.median(times["ours"])
    print(f"{platform.machine()}, {os.cpu_count()} cores, {args.size[0]} × {args.size[1]}, {args.runs} runs in turns")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"{name:26} {median:6.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})  {counts[name]} detections"
            + ("" if name == "ours" else f"  ours takes {reference / median:.2f} of its time")
        )


if __name__ == "__main__":
    main()
