"""torchvision on the same card, in a process of its own: answers one task per line, in JSON.

    python gpu_peer.py TF32          # 0 or 1

``gpu.py`` starts it. The interpreter needs torch, torchvision, NumPy and this file's neighbors, nothing else of the
project. Every measurement ends when the card has finished.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import contenders
import numpy as np
import torch
import torchvision
from torchvision import ops
from torchvision.models.detection import transform as detection_transform

KIND = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
DEVICE = torch.device(KIND)
PASTE = detection_transform.paste_masks_in_image


def synchronize() -> None:
    if KIND == "cuda":
        torch.cuda.synchronize()
    elif KIND == "mps":
        torch.mps.synchronize()


def seconds(run: Callable[[], Any]) -> float:
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def timed(run: Callable[[], Any], runs: int) -> dict[str, float]:
    """Return median, minimum and maximum of some runs, after two to warm up."""
    times = [seconds(run) for _ in range(runs + 2)][2:]
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


class Stages(contenders.Stages):
    """Seconds in chosen methods, the card having finished before and after each."""

    @contextlib.contextmanager
    def measure(self, name: str) -> Any:
        synchronize()
        with super().measure(name):
            yield
            synchronize()


class Peer:
    """What ``gpu.py`` asks for, by name; sizes are (height, width)."""

    def header(self) -> dict[str, Any]:
        names = {"cuda": lambda: torch.cuda.get_device_name(), "mps": lambda: "Apple GPU", "cpu": lambda: "CPU"}
        tf32 = KIND == "cuda" and bool(torch.backends.cuda.matmul.allow_tf32)
        found = {"torch": torch.__version__, "torchvision": torchvision.__version__}
        return {**found, "kind": KIND, "name": names[KIND](), "tf32": tf32}

    def predict(self, size: list[int], batch: int, dtype: str, masks: bool, runs: int) -> dict[str, float]:
        model = self._model(size)
        images = [self._pixels(contenders.scene((size[0], size[1]), seed + 1)[0]) for seed in range(batch)]
        self._forget_peak()
        found = timed(lambda: self._predict(model, images, dtype, masks), runs)
        return {**found, "peak": self._peak()}

    def sizes(self, sizes: list[list[int]]) -> dict[str, list[float]]:
        """Return the seconds of an image of each size, the first and the second time that the size is seen."""
        model = self._model((800, 1333) if min(sizes[0]) > 400 else sizes[0])
        images = [self._pixels(contenders.scene((h, w))[0]) for h, w in sizes]
        rounds = [[seconds(lambda i=i: self._predict(model, [i], "float32", True)) for i in images] for _ in range(2)]
        return {"first": rounds[0], "second": rounds[1]}

    def train(self, size: list[int], batch: int, runs: int) -> dict[str, float]:
        model = self._model(size).train()
        scenes = [contenders.scene((size[0], size[1]), seed + 1) for seed in range(batch)]
        images = [self._pixels(image) for image, _ in scenes]
        targets = [{k: torch.from_numpy(v) for k, v in target.items()} for _, target in scenes]
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9, weight_decay=1e-4
        )

        def step() -> None:
            given = [{k: v.to(DEVICE) for k, v in target.items()} for target in targets]
            losses = model([image.to(DEVICE).float() / 255 for image in images], given)
            total = sum(losses.values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            torch.stack(list(losses.values())).tolist()

        self._forget_peak()
        return {**timed(step, runs), "peak": self._peak()}

    def stages(self, size: list[int], runs: int) -> dict[str, float]:
        model, stages = self._model(size), Stages()
        heads = model.roi_heads
        for owner, attribute, name in [
            (model.backbone, "forward", "body, pyramid, RPN head"),
            (model.rpn.head, "forward", "body, pyramid, RPN head"),
            (model.rpn, "forward", "proposals"),
            (heads.box_roi_pool, "forward", "box head"),
            (heads.box_head, "forward", "box head"),
            (heads.box_predictor, "forward", "box head"),
            (heads, "postprocess_detections", "post-processing"),
            (heads.mask_roi_pool, "forward", "mask head"),
            (heads.mask_head, "forward", "mask head"),
            (heads.mask_predictor, "forward", "mask head"),
            (model.transform, "postprocess", "pasting"),
            (model.rpn.head, "forward", "RPN head alone"),
            (model.transform, "forward", "resizing"),
        ]:
            stages.watch(owner, attribute, name)
        image = self._pixels(contenders.scene((size[0], size[1]))[0])
        rows = []
        for _ in range(runs + 2):
            stages.seconds = {}
            self._predict(model, [image], "float32", True)
            stages.seconds["proposals"] -= stages.seconds.pop("RPN head alone")  # which it contains
            rows.append(stages.seconds)
        return {name: statistics.median(row[name] for row in rows[2:]) for name in rows[-1]}

    def convolution(
        self, x: list[int], weight: list[int], stride: int, padding: int, runs: int
    ) -> dict[str, dict[str, float]]:
        """Shapes are this package's: x (N, H, W, C), weight (O, kh, kw, C)."""
        draw = torch.Generator().manual_seed(0)
        n, h, w, c = x
        images = torch.randn((n, c, h, w), generator=draw).to(DEVICE)
        filters = torch.randn((weight[0], c, weight[1], weight[2]), generator=draw).to(DEVICE)
        out = torch.nn.functional.conv2d(images, filters, None, stride, padding)
        grad, options = torch.ones_like(out), {"stride": stride, "padding": padding}
        return {
            "forward": timed(lambda: torch.nn.functional.conv2d(images, filters, None, stride, padding), runs),
            "input": timed(lambda: torch.nn.grad.conv2d_input(images.shape, filters, grad, **options), runs),
            "weights": timed(lambda: torch.nn.grad.conv2d_weight(images, filters.shape, grad, **options), runs),
        }

    def operators(self, runs: int) -> dict[str, dict[str, float]]:
        given = {k: torch.from_numpy(v).to(DEVICE) for k, v in contenders.op_inputs().items()}
        features = given["map"].permute(0, 3, 1, 2).contiguous().requires_grad_()
        cotangent = given["cotangent"].permute(0, 3, 1, 2).contiguous()
        rois = torch.cat([torch.zeros(1000, 1, device=DEVICE), given["rois"]], 1)
        out = ops.roi_align(features, rois, 7, 0.25, 2)

        def backward() -> None:
            torch.autograd.grad(out, features, cotangent, retain_graph=True)

        few, many = given["scores"][:2000], (given["many"], given["scores"], given["classes"], 0.7)
        return {
            "roi_align": timed(lambda: ops.roi_align(features.detach(), rois, 7, 0.25, 2), runs),
            "roi_align, gradient": timed(backward, runs),
            "nms, 2000 boxes": timed(lambda: ops.nms(given["dense"], few, 0.7), runs),
            "batched_nms, 5 × 1000 boxes": timed(lambda: ops.batched_nms(*many), runs),
        }

    # ---------------------------------------------------------------- parts

    def _model(self, size: Any) -> Any:
        if KIND == "cuda":
            torch.cuda.empty_cache()
        elif KIND == "mps":
            torch.mps.empty_cache()
        return contenders.Torchvision(channels_last=False).model(tuple(size)).to(DEVICE)

    def _pixels(self, image: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def _predict(self, model: Any, images: list[Any], dtype: str, masks: bool) -> None:
        """Predict from images of bytes in the host's memory; masks are made boolean on the card."""
        detection_transform.paste_masks_in_image = PASTE if masks else lambda masks, *_: masks
        half = contextlib.nullcontext() if dtype == "float32" else torch.autocast(KIND, dtype=getattr(torch, dtype))
        with torch.inference_mode(), half:
            found = model([image.to(DEVICE).float() / 255 for image in images])
            if masks:
                _ = [f["masks"] > 0.5 for f in found]

    def _forget_peak(self) -> None:
        if KIND == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 1e6 if KIND == "cuda" else None


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever prints must not disturb the answers
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = sys.argv[1] == "1"
    peer = Peer()
    for line in sys.stdin:
        task, *args = json.loads(line)
        try:
            answer = getattr(peer, task)(*args)
        except Exception as error:  # the others go on
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
