"""What is timed: each contender runs in a separate process and answers one task per line, in JSON.

    python contenders.py ours|plain|torchvision|channels-last|openvino|onnxruntime [modules to import first ...]

``run.py`` starts these. The interpreter with torch needs only this file of the project, and the recipe for weights and
images in ``tests/data``.

The *trunk* is the body, the feature pyramid and the RPN's head: an image tensor to the maps, and each map's logits and
deltas. *Nuclei* are whole predictions of the weights that come with the package.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
RECIPE = PROJECT / "tests" / "data" / "torchvision"
CELLS = PROJECT / "lucid_maskrcnn" / "assets" / "nuclei_fluorescence_small.png"
SEED = 7
MAP, IMAGE = (200, 304), (800, 1216)  # P2 of an image, and the image


def recipe() -> Any:
    sys.path.insert(0, str(RECIPE))
    import recipe

    return recipe


def weights() -> dict[str, np.ndarray]:
    return recipe().state_dict("maskrcnn_resnet50_fpn", 91, SEED)


def scene(size: tuple[int, int], seed: int = 1) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    image, objects = recipe().scene(*size, seed)
    target = {
        "boxes": np.array([o["box"] for o in objects], np.float32),
        "labels": np.array([o["label"] for o in objects], np.int64),
        "masks": np.stack([o["mask"] for o in objects]),
    }
    return image, target


def boxes(count: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """Boxes of sides from ``low`` to ``high`` pixels anywhere on the image."""
    rng = np.random.default_rng(seed)
    height, width = IMAGE
    half = rng.uniform(low, high, (count, 2)) / 2
    center = rng.uniform(0, 1, (count, 2)) * [width, height]
    return np.concatenate([center - half, center + half], 1).clip(0, [width, height] * 2).astype(np.float32)


def op_inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "map": rng.standard_normal((1, *MAP, 256), np.float32),
        "cotangent": rng.standard_normal((1000, 7, 7, 256), np.float32),
        "rois": boxes(1000, 16, 112),
        "large_rois": boxes(1000, 16, 800),
        "dense": boxes(2000, 64, 256),
        "many": boxes(5000, 16, 256),
        "scores": rng.uniform(size=5000).astype(np.float32),
        "classes": np.repeat(np.arange(5), 1000),
        "masks": rng.uniform(size=(100, 28, 28)).astype(np.float32),
        "mask_boxes": boxes(100, 16, 400),
    }


LOSSES = {  # this package's names and torchvision's
    "roi_cls_loss": "loss_classifier",
    "roi_reg_loss": "loss_box_reg",
    "mask_loss": "loss_mask",
    "rpn_cls_loss": "loss_objectness",
    "rpn_reg_loss": "loss_rpn_box_reg",
}
SGD_SETTINGS = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}


def batches(size: tuple[int, int], steps: int) -> Iterator[tuple[list[np.ndarray], list[dict[str, np.ndarray]]]]:
    """Yield two images and their targets for each step, cycling through eight."""
    scenes = [scene(size, seed) for seed in range(1, 9)]
    for step in range(steps):
        pair = [scenes[(2 * step + i) % len(scenes)] for i in range(2)]
        yield [image for image, _ in pair], [dict(target) for _, target in pair]


def trunk_input(size: tuple[int, int]) -> np.ndarray:
    """Return an image as the body takes it: (1, 3, H, W), standardised."""
    return np.random.default_rng(0).standard_normal((1, 3, *size), np.float32)


def crowd(size: tuple[int, int], count: int) -> dict[str, Any]:
    """Return a target of ``count`` squares of 6 pixels in a grid, outlined as COCO's annotations are."""
    side = math.ceil(math.sqrt(count))
    step = np.array(size[::-1]) / side
    corner = np.stack(np.divmod(np.arange(count), side), 1) * step
    boxes = np.concatenate([corner, corner + 6], 1).astype(np.float32)
    outlines = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    return {"boxes": boxes, "labels": np.ones(count, np.int64), "masks": outlines}


def num_cores() -> int:
    """Return how many cores this process may use, and so how many threads every contender shall use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def training_step(loss: Callable[[], Any], optimizer: Any) -> dict:
    """Compute the loss, its gradients and new weights, and return the seconds of each."""
    stages = Stages()
    start = time.perf_counter()
    with stages.measure("forward"):
        total = loss()
    with stages.measure("backward"):
        total.backward()
    with stages.measure("step"):
        optimizer.step()
        optimizer.zero_grad()
    return {"seconds": time.perf_counter() - start, "stages": stages.seconds}


class Stages:
    """Adds up the seconds spent in chosen methods."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        method = getattr(owner, attribute)

        def timed(*args: Any, **options: Any) -> Any:
            with self.measure(name):
                return method(*args, **options)

        object.__setattr__(owner, attribute, timed)

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


# ------------------------------------------------------------------ this package


class Ours:
    """``lucid_maskrcnn``; with ``plain``, without Winograd convolutions."""

    needs = ("lucid_maskrcnn",)

    def __init__(self, plain: bool) -> None:
        from lucid_maskrcnn.ops import winograd

        if plain:
            winograd.suits = lambda *_: False

    def model(self, size: tuple[int, int]) -> Any:
        from lucid_maskrcnn import mask_rcnn_resnet_50_fpn
        from lucid_maskrcnn.weights import load_weights

        model = mask_rcnn_resnet_50_fpn(min_size=min(size), max_size=max(size), trainable_layers=3)
        load_weights(model, weights())
        return model.eval()

    def predictor(self, size: tuple[int, int], batch: int, detections: int | None) -> Callable[[], dict]:
        model = self.model(size)
        stages = Stages()
        for owner, attribute, name in [
            (model, "_prepare", "transform"),
            (model.backbone.body, "forward", "body"),
            (model.backbone.fpn, "forward", "fpn"),
            (model.rpn, "forward", "rpn"),
            (model.rpn, "propose", "rpn"),
            (model.roipool, "forward", "box pooling"),
            (model.mask_roipool, "forward", "mask pooling"),
            (model, "_box_head", "box head"),
            (model.mask_head, "forward", "mask head"),
        ]:
            stages.watch(owner, attribute, name)
        images = [scene(size, seed + 1)[0] for seed in range(batch)]
        options = {} if detections is None else {"score_thresh": 0.0, "nms_thresh": 1.0, "top_k": detections}

        def run() -> dict:
            stages.seconds.clear()
            start = time.perf_counter()
            found = model.predict(images, batch_size=max(1, len(images)), **options)
            with stages.measure("paste"):
                count = sum(len(f["masks"].data) for f in found)
            total = time.perf_counter() - start
            stages.seconds["box head"] -= stages.seconds["box pooling"]  # which it contains
            return {"seconds": total, "stages": dict(stages.seconds), "detections": count}

        return run

    def trunk(self, size: tuple[int, int]) -> Callable[[], list[np.ndarray]]:
        import lucid
        from lucid import Tensor

        model, image = self.model(size), Tensor(trunk_input(size))

        def run() -> list[np.ndarray]:
            with lucid.no_grad():
                maps = model.backbone(image)
                logits, deltas = model.rpn.head(maps)
            return [out.data for out in (*maps, *logits, *deltas)]

        return run

    def trainer(self, size: tuple[int, int], batch: int) -> Callable[[], dict]:
        from lucid_maskrcnn.training import SGD

        model = self.model(size).train()
        images, targets = zip(*(scene(size, seed + 1) for seed in range(batch)), strict=True)
        optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)

        return lambda: training_step(lambda: model.get_loss(list(images), list(targets))["total_loss"], optimizer)

    def crowd_loss(self, size: tuple[int, int], count: int) -> Callable[[], dict]:
        model = self.model(size).train()
        image, target = scene(size)[0], crowd(size, count)
        return lambda: {"seconds": seconds(lambda: model.get_loss([image], [target]))}

    def curve(self, size: tuple[int, int], steps: int) -> Callable[[], list]:
        """Train from the recipe's weights; samples are the first boxes instead of random ones."""
        from lucid_maskrcnn.models.matcher import BalancedSampler
        from lucid_maskrcnn.training import SGD

        model = self.model(size).train()
        model.rpn.sampler = BalancedSampler(256, 0.5, order=np.arange)
        model.roi_sampler.sampler = BalancedSampler(512, 0.25, order=np.arange)
        optimizer = SGD([p for p in model.parameters() if p.requires_grad], **SGD_SETTINGS)

        def run() -> list:
            rows = []
            for images, targets in batches(size, steps):
                losses = model.get_loss(images, targets)
                rows.append([float(losses[name].item()) for name in LOSSES])
                optimizer.zero_grad()
                losses["total_loss"].backward()
                optimizer.step()
            return rows

        return run

    def export(self, folder: str) -> str | None:
        """Write the model of nuclei for the engines; return why that cannot be."""
        if importlib.util.find_spec("onnx") is None:
            return f"{sys.executable} has no onnx"
        from lucid_maskrcnn import MaskRCNN
        from lucid_maskrcnn.export import to_onnx

        to_onnx(MaskRCNN.from_file("NUCLEI"), Path(folder) / "nuclei.onnx")
        return None

    def nuclei(self, size: tuple[int, int], folder: str) -> Callable[[], dict]:
        from PIL import Image

        from lucid_maskrcnn import MaskRCNN

        model = MaskRCNN.from_file("NUCLEI")
        cells = np.asarray(Image.open(CELLS).convert("RGB"))
        # Its mirror images beside and below, and black around them: about as many nuclei as there mostly are.
        height, width = (min(n, 2 * m) for n, m in zip(size, cells.shape, strict=False))
        side = max(cells.shape)
        image = np.zeros((*size, 3), np.uint8)
        image[:height, :width] = np.pad(cells, [(0, side), (0, side), (0, 0)], "symmetric")[:height, :width]
        np.save(Path(folder) / "image.npy", image)
        return lambda: timed_objects(lambda: len(model.predict(image)[0]))

    def ops(self) -> dict[str, Callable[[], float]]:
        from lucid import Tensor

        from lucid_maskrcnn import ops

        given = op_inputs()
        features = Tensor(given["map"].transpose(0, 3, 1, 2), requires_grad=True)
        image = Tensor(np.zeros(1000, np.int32))
        cotangent = given["cotangent"].transpose(0, 3, 1, 2)

        def pool(rois: str) -> Any:
            return ops.roi_align(features, Tensor(given[rois]), image, 7, 0.25, 2)

        def pool_backward(rois: str) -> float:
            out = pool(rois)
            out.grad = cotangent
            features.grad = None
            return seconds(out.backward)

        dense, many, scores, masks, places = (
            Tensor(given[k]) for k in ("dense", "many", "scores", "masks", "mask_boxes")
        )
        few, classes = Tensor(given["scores"][:2000]), Tensor(given["classes"].astype(np.int32))
        return {
            "roi_align": lambda: seconds(lambda: pool("rois")),
            "roi_align backward": lambda: pool_backward("rois"),
            "roi_align, large RoIs": lambda: seconds(lambda: pool("large_rois")),
            "roi_align backward, large RoIs": lambda: pool_backward("large_rois"),
            "nms": lambda: seconds(lambda: ops.nms(dense, few, 0.7)),
            "batched_nms": lambda: seconds(lambda: ops.batched_nms(many, scores, classes, 0.7)),
            "paste_masks": lambda: seconds(lambda: ops.paste_masks(masks, places, IMAGE)),
        }

    def gflop(self, size: tuple[int, int]) -> float:
        """Return the multiplications and additions of the network's layers, counted as direct convolutions."""
        from lucid_maskrcnn import ops

        total = 0.0

        def count(name: str, of: Callable[[tuple[int, ...], tuple[int, ...], tuple[int, ...]], float]) -> None:
            call = getattr(ops, name)

            def counted(x: Any, weight: Any, *others: Any, **options: Any) -> Any:
                nonlocal total
                out = call(x, weight, *others, **options)
                total += 2 * of(tuple(x.shape), tuple(weight.shape), tuple(out.shape)) / 1e9
                return out

            setattr(ops, name, counted)

        run = self.predictor(size, 1, None)
        run()
        count("conv2d", lambda x, w, out: np.prod(w) * out[0] * out[2] * out[3])
        count("conv_transpose2d", lambda x, w, out: np.prod(w) * x[0] * x[2] * x[3])
        count("one_channel", lambda x, w, out: np.prod(x))
        count("linear", lambda x, w, out: np.prod(w) * x[0])
        run()
        return total


# ------------------------------------------------------------------ torchvision


class Torchvision:
    """torchvision, in its default layout or channels-last; batch norm frozen, as with pretrained weights."""

    needs: tuple[str, ...] = ("torch", "torchvision")

    def __init__(self, channels_last: bool = False) -> None:
        self.channels_last = channels_last

    def model(self, size: tuple[int, int], **options: Any) -> Any:
        import torch
        from torchvision.models.detection import MaskRCNN
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops.misc import FrozenBatchNorm2d

        body = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
        )
        model = MaskRCNN(body, num_classes=91, min_size=min(size), max_size=max(size), **options)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights().items()})
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
            model.backbone.register_forward_pre_hook(
                lambda module, inputs: (inputs[0].contiguous(memory_format=torch.channels_last),)
            )
        return model.eval()

    def predictor(self, size: tuple[int, int], batch: int, detections: int | None) -> Callable[[], dict]:
        import torch

        options = {}
        if detections is not None:
            options = {"box_score_thresh": 0.0, "box_nms_thresh": 1.0, "box_detections_per_img": detections}
        model = self.model(size, **options)
        stages = Stages()
        heads = model.roi_heads
        for owner, attribute, name in [
            (model.transform, "forward", "transform"),
            (model.backbone.body, "forward", "body"),
            (model.backbone.fpn, "forward", "fpn"),
            (model.rpn, "forward", "rpn"),
            (heads.box_roi_pool, "forward", "box pooling"),
            (heads.mask_roi_pool, "forward", "mask pooling"),
            (heads.box_head, "forward", "box head"),
            (heads.box_predictor, "forward", "box head"),
            (heads.mask_head, "forward", "mask head"),
            (heads.mask_predictor, "forward", "mask head"),
            (model.transform, "postprocess", "paste"),
        ]:
            stages.watch(owner, attribute, name)
        images = [self.pixels(scene(size, seed + 1)[0]) for seed in range(batch)]

        def run() -> dict:
            stages.seconds.clear()
            start = time.perf_counter()
            with torch.inference_mode():
                found = model(images)
            with stages.measure("paste"):
                count = sum(len(f["masks"] > 0.5) for f in found)
            total = time.perf_counter() - start
            return {"seconds": total, "stages": dict(stages.seconds), "detections": count}

        return run

    def trunk_module(self, size: tuple[int, int]) -> Any:
        import torch

        model = self.model(size)

        class Trunk(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone, self.head = model.backbone, model.rpn.head

            def forward(self, image: Any) -> Any:
                maps = list(self.backbone(image).values())
                logits, deltas = self.head(maps)
                return (*maps, *logits, *deltas)

        return Trunk().eval()

    def trunk(self, size: tuple[int, int]) -> Callable[[], list[np.ndarray]]:
        import torch

        trunk, image = self.trunk_module(size), torch.from_numpy(trunk_input(size))

        def run() -> list[np.ndarray]:
            with torch.inference_mode():
                return [out.numpy() for out in trunk(image)]

        return run

    @staticmethod
    def pixels(image: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255

    def trainer(self, size: tuple[int, int], batch: int) -> Callable[[], dict]:
        import torch

        model = self.model(size).train()
        scenes = [scene(size, seed + 1) for seed in range(batch)]
        images = [self.pixels(image) for image, _ in scenes]
        targets = [{k: torch.from_numpy(v) for k, v in target.items()} for _, target in scenes]
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, weight_decay=1e-4)

        return lambda: training_step(lambda: sum(model(images, [dict(t) for t in targets]).values()), optimizer)

    def curve(self, size: tuple[int, int], steps: int, noise: float = 0.0) -> Callable[[], list]:
        """Train as ``Ours.curve`` does; ``noise`` is the relative size of random changes to the initial weights."""
        import torch

        torch.randperm = lambda count, **options: torch.arange(count, device=options.get("device"))
        model = self.model(size).train()
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 1 + noise * torch.randn(parameter.shape, generator=draw)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **SGD_SETTINGS)

        def run() -> list:
            rows = []
            for images, targets in batches(size, steps):
                given = [{k: torch.from_numpy(v) for k, v in target.items()} for target in targets]
                losses = model([self.pixels(image) for image in images], given)
                rows.append([losses[name].item() for name in LOSSES.values()])
                optimizer.zero_grad()
                sum(losses.values()).backward()
                optimizer.step()
            return rows

        return run

    def ops(self) -> dict[str, Callable[[], float]]:
        import torch
        from torchvision import ops
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        given = {k: torch.from_numpy(v) for k, v in op_inputs().items()}
        features = given["map"].permute(0, 3, 1, 2).contiguous().requires_grad_()
        cotangent = given["cotangent"].permute(0, 3, 1, 2).contiguous()

        def pool(rois: str) -> Any:
            return ops.roi_align(features, torch.cat([torch.zeros(1000, 1), given[rois]], 1), 7, 0.25, 2)

        def pool_backward(rois: str) -> float:
            out = pool(rois)
            features.grad = None
            return seconds(lambda: out.backward(cotangent))

        few, masks = given["scores"][:2000], given["masks"][:, None]
        return {
            "roi_align": lambda: seconds(lambda: pool("rois")),
            "roi_align backward": lambda: pool_backward("rois"),
            "roi_align, large RoIs": lambda: seconds(lambda: pool("large_rois")),
            "roi_align backward, large RoIs": lambda: pool_backward("large_rois"),
            "nms": lambda: seconds(lambda: ops.nms(given["dense"], few, 0.7)),
            "batched_nms": lambda: seconds(
                lambda: ops.batched_nms(given["many"], given["scores"], given["classes"], 0.7)
            ),
            "paste_masks": lambda: seconds(lambda: paste_masks_in_image(masks, given["mask_boxes"], IMAGE) > 0.5),
        }


# ------------------------------------------------------------------ engines


class Engine(Torchvision):
    """torchvision's trunk as an ONNX file, and this package's model of nuclei as one, computed by another engine."""

    def trunk(self, size: tuple[int, int]) -> Callable[[], list[np.ndarray]]:
        import torch

        image = trunk_input(size)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            file = Path(folder) / "trunk.onnx"
            torch.onnx.export(
                self.trunk_module(size), (torch.from_numpy(image),), file, dynamo=True, input_names=["image"]
            )
            run = self.opened(str(file))
        return lambda: run(image)

    def nuclei(self, size: tuple[int, int], folder: str) -> Callable[[], dict]:
        run, image = self.opened(str(Path(folder) / "nuclei.onnx")), np.load(Path(folder) / "image.npy")
        return lambda: timed_objects(lambda: len(run(image)[0]))

    def opened(self, file: str) -> Callable[[np.ndarray], list[np.ndarray]]:
        raise NotImplementedError


class OpenVINO(Engine):
    """In float32: left to itself, it computes in bfloat16 where the processor can."""

    needs = ("torch", "torchvision", "onnx", "onnxscript", "openvino")

    def opened(self, file: str) -> Callable[[np.ndarray], list[np.ndarray]]:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": num_cores(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(file, "CPU", settings)
        return lambda image: list(compiled({"image": image}, share_inputs=True, share_outputs=True).values())


class ONNXRuntime(Engine):
    """As it is: nothing is chosen but the number of threads."""

    needs = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")

    def opened(self, file: str) -> Callable[[np.ndarray], list[np.ndarray]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_cores()
        options.log_severity_level = 3  # that an input has a value if it is not given is a warning otherwise
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda image: session.run(None, {"image": image})


CONTENDERS: dict[str, Callable[[], Any]] = {
    "ours": lambda: Ours(plain=False),
    "plain": lambda: Ours(plain=True),
    "torchvision": Torchvision,
    "channels-last": lambda: Torchvision(channels_last=True),
    "openvino": OpenVINO,
    "onnxruntime": ONNXRuntime,
}


def timed_trunk(name: str, contender: Any, size: tuple[int, int], folder: str) -> Callable[[], dict]:
    """Save the trunk's outputs in a file of the contender's name, and return what times it."""
    run = contender.trunk(size)
    np.savez(Path(folder) / f"{name}.npz", *run())
    return lambda: {"seconds": seconds(run)}


def timed_objects(predict: Callable[[], int]) -> dict:
    """Predict once; return the seconds and how many objects were found."""
    start = time.perf_counter()
    count = predict()
    return {"seconds": time.perf_counter() - start, "detections": count}


# ------------------------------------------------------------------ Lucid's own


def lucid_detector() -> dict:
    """Predict once with Lucid's own detector on a small image, and return the result or the error."""
    import lucid
    import lucid.models as models

    lucid.random.seed(0)
    build = getattr(models, "mask_rcnn_resnet_50_fpn", None) or models.faster_rcnn_resnet_50_fpn
    model = build().eval()
    image = lucid.Tensor(np.random.default_rng(0).standard_normal((1, 3, 128, 128), np.float32))
    start = time.perf_counter()
    try:
        with lucid.no_grad():
            model.predict(image)
        end = "a result"
    except Exception as error:  # any error is the result here
        end = type(error).__name__
    return {"model": type(model).__name__, "seconds": time.perf_counter() - start, "end": end}


def gemm_rate() -> float:
    """Return the GFLOP/s of NumPy's fastest large matrix product."""
    a, b = (np.random.default_rng(i).standard_normal((2048, 2048), np.float32) for i in range(2))
    out = np.empty_like(a)
    return max(2 * 2048**3 / seconds(lambda: np.matmul(a, b, out=out)) / 1e9 for _ in range(8))


def peak_memory() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    name, *preload = sys.argv[1:]
    for module in preload:
        __import__(module)
    contender = CONTENDERS[name]()
    ready: dict[str, Any] = {}
    for line in sys.stdin:
        task, *args = json.loads(line)
        if task == "missing":
            answer: Any = [module for module in contender.needs if importlib.util.find_spec(module) is None]
        elif task == "memory":
            answer = peak_memory()
        elif task == "gemm":
            answer = gemm_rate()
        elif task == "gflop":
            answer = contender.gflop(tuple(args[0]))
        elif task == "lucid":
            answer = lucid_detector()
        elif task == "export":
            answer = contender.export(args[0])
        elif task == "op":
            if task not in ready:
                ready[task] = contender.ops()
            answer = {"seconds": ready[task][args[0]]()}
        else:
            if line not in ready:
                ready.clear()
                size = tuple(args[0])
                make = partial(timed_trunk, name, contender) if task == "trunk" else getattr(contender, task)
                ready[line] = make(size, *args[1:])
            answer = ready[line]()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
