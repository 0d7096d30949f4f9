"""The sections of ``gpu.py``: each takes a ``Bench``, and records its results as they come.

MLX computes when values are needed: whatever is timed here ends with an evaluation and a synchronization.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import contenders
import mlx.core as mx
import numpy as np
import tiny_runs
from device_waits import device_waits
from lucid import Tensor

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_50_fpn, ops
from lucid_maskrcnn.models.heads import postprocess_detections
from lucid_maskrcnn.models.matcher import BalancedSampler
from lucid_maskrcnn.ops import conv_gpu
from lucid_maskrcnn.training import SGD
from lucid_maskrcnn.weights import load_weights

if TYPE_CHECKING:
    from gpu import Bench

WARM_UP = 3  # runs: the first of a shape is eager, the second compiles
KERNELS = "LUCID_MASKRCNN_KERNELS"  # 0 in the environment chooses RoIAlign's plain form


class OutOfTime(Exception):  # noqa: N818  # no error
    """The budget of minutes is spent."""


# ------------------------------------------------------------------ timing


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a function and what its result still needs take."""
    mx.synchronize()
    start = time.perf_counter()
    mx.eval(run())
    mx.synchronize()
    return time.perf_counter() - start


def alternate(bench: Bench, runs: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    """Return median, minimum, maximum and peak memory (MB) of each function, called in turns."""
    bench.check_time()
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, float] = {}
    for repetition in range(WARM_UP + bench.runs):
        for name, run in runs.items():
            mx.reset_peak_memory()
            taken = seconds(run)
            if repetition >= WARM_UP:
                times[name].append(taken)
                peaks[name] = mx.get_peak_memory() / 1e6
    return {
        name: {"median": statistics.median(t), "min": min(t), "max": max(t), "peak": peaks[name]}
        for name, t in times.items()
    }


def timed(bench: Bench, run: Callable[[], Any]) -> dict[str, float]:
    return alternate(bench, {"": run})[""]


def timed_or_error(bench: Bench, run: Callable[[], Any]) -> dict[str, Any]:
    """Return the timing, or ``{"error": …}``: a form that a backend does not know must not end a section."""
    try:
        return timed(bench, run)
    except OutOfTime:
        raise
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def free_memory() -> None:
    """Give memory that MLX keeps for later back to the card."""
    mx.clear_cache()


# ------------------------------------------------------------------ what is measured


def image_size(bench: Bench) -> tuple[int, int]:
    return (64, 96) if bench.small else (800, 1216)


def model_of(bench: Bench, size: tuple[int, int] | None = None, device: str = "gpu", **options: Any) -> MaskRCNN:
    """Return R-50 with the weights of the other benchmarks, frozen norm; with ``--small`` a slim R-18."""
    size = size or image_size(bench)
    sides = {"min_size": min(size), "max_size": max(size)}
    if bench.small:
        model = tiny_runs.slim(**{"norm": "frozen", **sides, **options})
    else:
        model = mask_rcnn_resnet_50_fpn(trainable_layers=3, **sides, **options)
        if "norm" not in options:
            load_weights(model, weights())
    return model.eval().to(device)


@functools.cache
def weights() -> dict[str, np.ndarray]:
    return contenders.weights()


def scene(bench: Bench, size: tuple[int, int], seed: int = 1) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    image, target = contenders.scene(size, seed)
    if bench.small:
        target["labels"] = target["labels"] % 2 + 1  # the slim model's classes
    return image, target


def arrays_of(tensors: Any) -> list[mx.array]:
    """Return the arrays of tensors in lists and tuples."""
    if isinstance(tensors, Tensor):
        return [tensors.data]
    return [a for t in tensors for a in arrays_of(t)] if isinstance(tensors, (list, tuple)) else []


def predictor(model: MaskRCNN, images: list[np.ndarray], *, masks: bool, compiled: bool | None) -> Callable[[], Any]:
    """Return a function that predicts from images in the host's memory; pasted masks stay on the card."""

    def run() -> list[Any]:
        with ops.compiling(compiled):
            found = model.predict(images, batch_size=len(images), keep_image=False)
        return [d["masks"].data for d in found] if masks else []

    return run


def trainer(model: MaskRCNN, images: list[np.ndarray], targets: list[dict[str, Any]]) -> Callable[[], Any]:
    """Return a function that takes one step, and reads the losses."""
    model.train()
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def run() -> list[mx.array]:
        losses = model.get_loss(images, targets)
        losses["total_loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if not all(map(math.isfinite, ops.numbers(list(losses.values())))):
            raise FloatingPointError("a loss is not finite")
        return arrays_of([*model.parameters(), *model.buffers()])

    return run


def pairs(bench: Bench, count: int, size: tuple[int, int] | None = None) -> tuple[list[Any], list[Any]]:
    """Return so many images and their targets."""
    found = [scene(bench, size or image_size(bench), seed + 1) for seed in range(count)]
    return [image for image, _ in found], [target for _, target in found]


# ------------------------------------------------------------------ a. parity


def parity(bench: Bench) -> None:
    """Check that cpu and gpu find the same, and have the same losses and gradients."""
    model = model_of(bench, device="cpu")
    model.rpn.sampler = BalancedSampler(256, 0.5, order=np.arange)  # the first ones instead of random ones
    model.roi_sampler.sampler = BalancedSampler(512, 0.25, order=np.arange)
    images, targets = pairs(bench, 1)
    rough = bench.results["header"]["tf32"]
    cpu, gpu = ({**found_on(model.to(device), images, targets)} for device in ("cpu", "gpu"))
    rows = detections_compared(cpu, gpu)
    limits = {"boxes": 5.0 if rough else 0.1, "scores": 2e-2 if rough else 1e-3, "masks": 2e-2 if rough else 2e-3}
    losses = {k: abs(gpu["losses"][k] - v) / max(abs(v), 1e-3) for k, v in cpu["losses"].items()}
    bench.record("parity", "detections, largest differences", **rows)
    bench.record("parity", "losses and norm of gradients, relative", **losses)
    off = [f"{k} differ by {rows[k]:.3g}" for k, most in limits.items() if not rows[k] <= most]
    off += [f"{k} differs by {v:.1e}" for k, v in losses.items() if not v <= (5e-2 if rough else 2e-3)]
    if rows["of cpu's"] and rows["found on both"] < 0.95 * rows["of cpu's"]:
        off.append(f"only {rows['found on both']} of {rows["of cpu's"]} detections are found on both")
    if off:
        raise AssertionError(f"PARITY: gpu and cpu do not agree, all below is in doubt: {', '.join(off)}.")


def found_on(model: MaskRCNN, images: list[Any], targets: list[Any]) -> dict[str, Any]:
    """Return detections as arrays, and losses with the norm of the gradients."""
    found = model.predict(images)[0]
    columns = {name: np.asarray(found[name].data) for name in ("boxes", "labels", "scores", "masks")}
    losses = model.get_loss(images, targets)
    losses["total_loss"].backward()
    values = dict(zip(losses, ops.numbers(list(losses.values())), strict=True))
    grads = [np.asarray(p.grad, np.float64) for p in model.parameters() if p.grad is not None]
    for parameter in model.parameters():
        parameter.grad = None
    return {**columns, "losses": {**values, "gradients": math.sqrt(sum((g**2).sum() for g in grads))}}


def detections_compared(cpu: dict[str, Any], gpu: dict[str, Any]) -> dict[str, Any]:
    """Match each detection with the nearest of its label, and return the largest differences of the matched.

    Of masks it is the share of pixels that differ: where a probability is just the threshold, rounding decides.
    """
    rows: dict[str, list[float]] = {"boxes": [0.0], "scores": [0.0]}
    free, matched, different, pixels = np.ones(len(gpu["boxes"]), bool), 0, 0, 1
    for i, box in enumerate(cpu["boxes"]):
        far = np.abs(gpu["boxes"] - box).max(axis=1, initial=0) + 1e3 * np.abs(gpu["scores"] - cpu["scores"][i])
        far = np.where(free & (gpu["labels"] == cpu["labels"][i]), far, np.inf)
        if not len(far) or far.min() > 50:
            continue
        j = int(far.argmin())
        free[j], matched = False, matched + 1
        rows["boxes"].append(float(np.abs(gpu["boxes"][j] - box).max()))
        rows["scores"].append(float(abs(gpu["scores"][j] - cpu["scores"][i])))
        pixels += int(cpu["masks"][i].sum())
        different += int((gpu["masks"][j] != cpu["masks"][i]).sum())
    largest = {**{name: max(values) for name, values in rows.items()}, "masks": different / pixels}
    return {**largest, "found on both": matched, "of cpu's": len(cpu["boxes"])}


# ------------------------------------------------------------------ b.–f. whole runs


def predict(bench: Bench) -> None:
    """One image, R-50 at 800 × 1216, from bytes on the host to detections; torchvision's float16 is autocast."""
    size = image_size(bench)
    images, _ = pairs(bench, 1)
    for dtype in ("float32", "float16"):
        model = model_of(bench)
        if dtype == "float16":
            model.half()
        for masks in (False, True):
            theirs = bench.ask("predict", size, 1, dtype, masks, bench.runs)
            kinds = {"eager": False, "compiled": True}
            found = alternate(bench, {k: predictor(model, images, masks=masks, compiled=c) for k, c in kinds.items()})
            for kind, ours in found.items():
                name = f"{dtype}, {'with masks' if masks else 'without pasting'}, {kind}"
                bench.record("predict", name, ours=ours, torchvision=theirs)


def train(bench: Bench) -> None:
    """Train a step, two images of 800 × 1216, forward, backward and update."""
    theirs = bench.ask("train", image_size(bench), 2, bench.runs)
    ours = timed(bench, trainer(model_of(bench), *pairs(bench, 2)))
    bench.record("train", "float32, batch 2", ours=ours, torchvision=theirs)


def batches(bench: Bench) -> None:
    """Predictions of batches, with masks."""
    model = model_of(bench)
    for batch in range(1, 3 if bench.small else 5):
        theirs = bench.ask("predict", image_size(bench), batch, "float32", True, bench.runs)
        ours = timed(bench, predictor(model, pairs(bench, batch)[0], masks=True, compiled=None))
        bench.record("batches", f"batch {batch}", ours=ours, torchvision=theirs)


def sizes(bench: Bench) -> None:
    """Images of twenty sizes, each three times: what a new size costs, and whether plans run out."""
    rng, (height, width) = np.random.default_rng(0), image_size(bench)
    count = 4 if bench.small else 20
    of_images = [(int(rng.integers(height * 0.6, height)), int(rng.integers(width * 0.6, width))) for _ in range(count)]
    theirs = bench.ask("sizes", of_images)
    model = model_of(bench, None if bench.small else (800, 1333))
    images = [scene(bench, size)[0] for size in of_images]
    for turn in ("first", "second", "third"):
        bench.check_time()
        times = [seconds(predictor(model, [image], masks=True, compiled=None)) for image in images]
        ours = {"median": statistics.median(times), "min": min(times), "max": max(times)}
        values = theirs.get(turn)
        peer = {"median": statistics.median(values), "min": min(values), "max": max(values)} if values else theirs
        bench.record("sizes", f"an image, {turn} time", ours=ours, torchvision=peer, seconds=times)


def memory(bench: Bench) -> None:
    """Training with live batch norm: active memory must stay level."""
    size, steps = ((64, 64), 8) if bench.small else ((512, 768), 200)
    model = model_of(bench, size, norm="batch")
    batches_of_two = [pairs(bench, 2, size), tuple(part[::-1] for part in pairs(bench, 2, size))]
    runs = [trainer(model, *batch) for batch in batches_of_two]
    at, active = [], []
    mx.reset_peak_memory()
    for step in range(steps):
        mx.eval(runs[step % len(runs)]())
        if step % max(1, steps // 40) == 0 or step == steps - 1:
            at.append(step + 1)
            active.append(mx.get_active_memory() / 1e6)
        if step > steps // 10 and time.monotonic() > bench.end:
            break
    settled = active[len(active) // 4]
    growth = {"growth in MB": active[-1] - settled, "peak in MB": mx.get_peak_memory() / 1e6}
    bench.record("memory", f"{at[-1]} steps, live batch norm", steps=at, active=active, **growth)
    if active[-1] > 1.1 * settled + 1:
        raise AssertionError(
            f"active memory grows: {settled:.0f} MB after {at[len(at) // 4]} steps, now {active[-1]:.0f}"
        )


# ------------------------------------------------------------------ g. stages


def stages(bench: Bench) -> None:
    """Each stage of a prediction by itself, its inputs computed before: they overlap in a real one."""
    theirs = bench.ask("stages", image_size(bench), bench.runs)
    with ops.no_grad():
        for name, run in stages_of(model_of(bench), pairs(bench, 1)[0]):
            peer = {k: theirs.get(name) for k in ("median", "min", "max")} if name in theirs else {}
            bench.record("stages", name, ours=timed(bench, run), torchvision=peer)


def stages_of(model: MaskRCNN, images: list[np.ndarray]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield name and function of each stage, in order."""
    rules = {"score_thresh": 0.05, "nms_thresh": model.config.heads.nms_thresh, "top_k": model.config.heads.top_k}
    batch, _ = model._prepare(images, model.config.image)
    mx.eval(batch.tensor.data)
    yield "resizing", lambda: model._prepare(images, model.config.image)[0].tensor.data

    def network() -> Any:
        features = model._features(batch.tensor)
        return features, model.rpn(features)

    features, rpn = network()
    mx.eval(arrays_of([*features.maps, rpn.objectness, rpn.deltas, rpn.anchors]))
    yield "body, pyramid, RPN head", lambda: arrays_of([(found := network()[1]).objectness, found.deltas])
    proposals = model.rpn.propose(rpn, batch.sizes, training=False)
    mx.eval(arrays_of(list(proposals)))
    yield "proposals", lambda: arrays_of(list(model.rpn.propose(rpn, batch.sizes, training=False)))
    predictions = model._box_head(features, proposals.boxes, proposals.roi_idx)
    mx.eval(arrays_of(list(predictions)))
    yield "box head", lambda: arrays_of(list(model._box_head(features, proposals.boxes, proposals.roi_idx)))

    def detect() -> Any:
        return postprocess_detections(*predictions, proposals, batch.sizes, model.config.heads, **rules)

    found = detect() or model._detect(features, proposals.again(), batch.sizes, rules)
    mx.eval(arrays_of([[f.boxes, f.scores, f.labels] for f in found]))
    yield "post-processing", lambda: arrays_of([[f.boxes, f.scores, f.labels] for f in detect() or []])
    yield "mask head", lambda: arrays_of(model._mask_probs(features, found))
    detections = [d for image in images for d in model.predict([image])]
    yield "pasting", lambda: arrays_of([d._pasted(slice(None)) for d in detections])


# ------------------------------------------------------------------ h. single operators


def micro(bench: Bench) -> None:
    """Each distinct convolution of a prediction, RoIAlign and NMS; weights' gradients in both forms."""
    for x, weight, stride, padding in convolutions(bench):
        theirs = bench.ask("convolution", x, weight, stride, padding, bench.runs)
        for what, run in forms_of(x, weight, stride, padding):
            ours = timed_or_error(bench, run)
            size = (x[1] * x[2] // stride**2) * x[0] * math.prod(weight)
            name = f"{x[0]} × {x[1]} × {x[2]}, {x[3]}→{weight[0]}, {weight[1]}², stride {stride}, {what}"
            peer = theirs.get(what.split(",")[0], theirs)
            bench.record("micro", name, ours=ours, torchvision=peer, TFLOPs=2e-12 * size / ours.get("median", math.inf))
    theirs = bench.ask("operators", bench.runs)
    for what, run in operators_of(bench):
        with kernels("0" if "plain" in what else "1"):
            peer = theirs.get(what.removesuffix(", plain").removesuffix(", kernel"), theirs)
            bench.record("micro", what, ours=timed_or_error(bench, run), torchvision=peer)


def convolutions(bench: Bench) -> list[tuple[Any, Any, int, int]]:
    """Return the shapes (N, H, W, C) and (O, kh, kw, C), stride and padding of the convolutions of a prediction."""
    found: dict[Any, None] = {}
    real = ops.conv2d

    def noted(x: Tensor, weight: Tensor, *args: Any, **options: Any) -> Tensor:
        shapes = tuple((s[0], s[2], s[3], s[1]) for s in (x.shape, weight.shape))
        found[(*shapes, options.get("stride", 1), options.get("padding", 0))] = None
        return real(x, weight, *args, **options)

    with patch.object(ops, "conv2d", noted), ops.compiling(False):
        model_of(bench).predict(pairs(bench, 1)[0])
    return list(found)[: 2 if bench.small else None]


def forms_of(x_shape: Any, shape: Any, stride: int, padding: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    x, filters = mx.random.normal(x_shape), mx.random.normal(shape)
    passed = mx.ones_like(conv_gpu.correlate(x, filters, stride, padding))
    mx.eval(x, filters, passed)
    yield "forward", lambda: conv_gpu.correlate(x, filters, stride, padding)
    yield "input", lambda: conv_gpu.grad_input(passed, filters, stride, padding, (x_shape[1], x_shape[2]))
    for name, convolve in (("weights, convolved", True), ("weights, products", False)):

        def run(convolve: bool = convolve) -> mx.array:
            return conv_gpu.grad_filters(x, passed, (shape[1], shape[2]), stride, padding, convolve=convolve)

        yield name, run


def operators_of(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    given, count = contenders.op_inputs(), 1000
    if bench.small:
        given, count = {k: v[:100] for k, v in given.items()}, 20
        given["map"] = given["map"][:, :25, :38, :8]
    maps = np.ascontiguousarray(given["map"].transpose(0, 3, 1, 2))
    features = ops.as_tensor(maps, "gpu")
    features.requires_grad = True
    rois, image = ops.as_tensor(given["rois"][:count], "gpu"), ops.as_tensor(np.zeros(count, np.int32), "gpu")
    cotangent = mx.array(np.ascontiguousarray(given["cotangent"][:count, :, :, : maps.shape[1]].transpose(0, 3, 1, 2)))
    dense, many, scores = (ops.as_tensor(given[k], "gpu") for k in ("dense", "many", "scores"))
    few = ops.as_tensor(given["scores"][: len(given["dense"])], "gpu")
    classes = ops.as_tensor(given["classes"].astype(np.int32), "gpu")
    mx.eval(arrays_of([features, rois, image, dense, many, scores, few, classes]), cotangent)

    def backward() -> Any:
        out = ops.roi_align(features, rois, image, 7, 0.25, 2)
        features.grad, out.grad = None, cotangent
        out.backward()
        return features.grad

    for form in ("kernel", "plain"):
        yield f"roi_align, {form}", lambda: arrays_of(ops.roi_align(features, rois, image, 7, 0.25, 2))
        yield f"roi_align, gradient, {form}", backward
    yield "nms, 2000 boxes", lambda: arrays_of(ops.nms(dense, few, 0.7))
    yield "batched_nms, 5 × 1000 boxes", lambda: arrays_of(ops.batched_nms(many, scores, classes, 0.7))


@contextmanager
def kernels(value: str) -> Iterator[None]:
    with patch.dict(os.environ, {KERNELS: value}):
        yield


# ------------------------------------------------------------------ i. waits


def waits(bench: Bench) -> None:
    """How often the host waits for the card, uploads to it, and peak memory."""
    images, targets = pairs(bench, 2)
    model = model_of(bench)
    for name, run in (
        ("predict, one image", lambda: model.predict(images[:1])),
        ("predict, batch of two", lambda: model.predict(images, batch_size=2)),
        ("training step, batch of two", trainer(model_of(bench), images, targets)),
    ):
        bench.check_time()
        for _ in range(WARM_UP):
            mx.eval(arrays_of(run()))
        mx.reset_peak_memory()
        with device_waits() as counted:
            run()
        mx.synchronize()
        peak = mx.get_peak_memory() / 1e6
        values = {"waits": len(counted), "uploads": counted.uploads, "peak in MB": peak}
        bench.record("waits", name, **values, places=counted.places)


SECTIONS = (parity, predict, train, batches, sizes, memory, stages, micro, waits)
