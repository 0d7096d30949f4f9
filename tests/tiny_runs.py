"""Training runs small enough for tests; ``python tests/tiny_runs.py OUT`` is one in a process of its own."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lucid
import lucid.nn as nn
import numpy as np
from safetensors.numpy import load_file

from lucid_maskrcnn import HeadConfig, MaskRCNN, RPNConfig, mask_rcnn_resnet_18_fpn, ops
from lucid_maskrcnn.models.layers import Linear
from lucid_maskrcnn.ops import as_tensor
from lucid_maskrcnn.training import Interrupted, Trainer, TrainerSettings, checkpoints, read_log

SIDE = 64
ARGUMENTS: dict[str, Any] = {
    "num_classes": 2,
    "width": 8,
    "fpn_channels": 8,
    "hidden_dim": 16,
    "mask_hidden_channels": 8,
    "norm": "batch",
    "min_size": SIDE,
    "max_size": SIDE,
    "anchor_sizes": [8, 16, 24, 32, 48],
}


def slim(seed: int = 0, **more: Any) -> MaskRCNN:
    """A Mask R-CNN whose step takes a fraction of a second."""
    lucid.random.seed(seed)
    return mask_rcnn_resnet_18_fpn(
        **{**ARGUMENTS, **more},
        rpn=RPNConfig(pre_nms_top_n_train=60, post_nms_top_n_train=60),
        heads=HeadConfig(batch_size=32),
    )


@dataclass
class Batch:
    images: list[np.ndarray]
    targets: list[dict[str, Any]]
    image_ids: list[int]
    indices: list[int]


def without_objects(batch: Batch) -> Batch:
    """The same images, in which there is nothing."""
    side = batch.images[0].shape[0]
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int32), "masks": np.zeros((0, side, side), bool)}
    return Batch(batch.images, [nothing for _ in batch.images], batch.image_ids, batch.indices)


class Squares:
    """Two bright squares on dark noise, the darker of class 1, in each image; no two batches are alike."""

    def __init__(self, batch_size: int = 2, seed: int = 0, side: int = SIDE, wait: float = 0) -> None:
        self.batch_size, self.seed, self.side, self.wait = batch_size, seed, side, wait

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        pairs = [self._make_image(rng) for _ in range(self.batch_size)]
        indices = [step * self.batch_size + i for i in range(self.batch_size)]
        return Batch([image for image, _ in pairs], [t for _, t in pairs], [100 + i for i in indices], indices)

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            time.sleep(self.wait)
            yield self.batch(step)

    def _make_image(self, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
        side = self.side
        image = rng.integers(0, 60, (side, side, 3)).astype(np.uint8)
        boxes, masks = [], np.zeros((2, side, side), bool)
        for k, mask in enumerate(masks):
            size = int(rng.integers(side // 4, side // 2))
            x, y = (int(v) for v in rng.integers(0, side - size, 2))
            image[y : y + size, x : x + size] = 120 + 100 * k
            mask[y : y + size, x : x + size] = True
            boxes.append([x, y, x + size, y + size])
        visible = masks[0] & ~masks[1]
        masks[0] = visible if visible.any() else masks[0]
        return image, {"boxes": np.array(boxes, np.float32), "labels": np.array([1, 2], np.int32), "masks": masks}


class Toy(nn.Module):
    """What a trainer sees of a detector, in a millisecond: losses, dropout, a norm with running statistics."""

    def __init__(self, seed: int = 0, side: int = 8, norm: bool = True) -> None:
        super().__init__()
        lucid.random.seed(seed)
        self.hidden, self.first, self.second = Linear(3 * side * side, 16), Linear(16, 2), Linear(16, 3)
        self.norm = _Norm(3 * side * side) if norm else nn.Identity()

    def get_loss(
        self, images: list[np.ndarray], targets: list[dict[str, Any]], image_config: Any = None
    ) -> dict[str, Any]:
        pixels = np.stack(images).reshape(len(images), -1).astype(np.float32) / 255
        hidden = self.hidden(self.norm(ops.as_tensor(pixels, self.hidden.weight)), relu=True)
        if self.training:
            hidden = ops.dropout(hidden, 0.25)
        bright = ops.as_tensor([int(t["boxes"][0, 0] > t["boxes"][1, 0]) for t in targets], hidden, np.int32)
        third = ops.as_tensor([int(t["boxes"][0, 1] // 2) % 3 for t in targets], hidden, np.int32)
        losses = {
            "first_loss": ops.cross_entropy(self.first(hidden), bright),
            "second_loss": ops.cross_entropy(self.second(hidden), third),
        }
        return {**losses, "total_loss": ops.add_scalars(*losses.values())}


class _Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.running_mean = nn.Buffer(lucid.zeros(channels, dtype=lucid.Float32))

    def forward(self, x: Any) -> Any:
        xp = ops.array_module(x.data)
        mean = self.running_mean.data
        if self.training and lucid.grad_enabled():
            mean = xp.mean(x.data, axis=0)
            self.running_mean.data = self.running_mean.data * 0.9 + mean * 0.1
        return lucid.Tensor(x.data - mean)


def toy_settings(steps: int = 40, **more: Any) -> TrainerSettings:
    """With all that a checkpoint has to hold."""
    usual = {
        "lr": 0.05,
        "warmup": 1,
        "schedule": "cosine",
        "ema": 0.9,
        "freeze_bn_after": 0.6,
        "accumulate": 2,
        "save_every": 1,
    }
    return TrainerSettings(steps=steps, **{**usual, **more})


def toy_trainer(out: Path, settings: TrainerSettings | None = None, **options: Any) -> Trainer:
    usual: dict[str, Any] = {"model": Toy(), "loader": Squares(2, side=8), "progress": False, "tensorboard": False}
    return Trainer(**{**usual, **options}, out=out, settings=settings or toy_settings())


class Interrupting(Squares):
    """Sends a signal to this process as it hands out a batch."""

    def __init__(self, *args: Any, at: int, number: int = signal.SIGINT, **options: Any) -> None:
        super().__init__(*args, **options)
        self.at, self.number = at, number

    def iterate(self, start: int, stop: int) -> Any:
        for index, batch in enumerate(super().iterate(start, stop), start):
            if index == self.at:
                os.kill(os.getpid(), self.number)
            yield batch


def same_arrays(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def close_arrays(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_allclose(array, second[name], rtol=1e-5, atol=1e-6, err_msg=name)


def steps_of(out: Path) -> list[int]:
    return [
        record["step"] for record in read_log(out / "log.jsonl") if not {"evaluation", "stopped_early"} & set(record)
    ]


def timeless(out: Path) -> list[dict[str, Any]]:
    """The log without what the clock says."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "images_per_s")}
        for record in read_log(out / "log.jsonl")
    ]


# ------------------------------------------------------------------ parameters


def parameter(values: Any, device: str = "cpu") -> Any:
    return nn.Parameter(as_tensor(values, device, np.float32))


def set_grad(p: Any, values: Any) -> None:
    array = np.asarray(values, np.float32)
    p.grad = ops.device_array(array, p.device)


# ------------------------------------------------------------------ in a process of its own


def _kill_in_checkpoint(step: int, tensors: int) -> None:
    """End the process without mercy when so many arrays of that step's checkpoint are written."""
    write = checkpoints.write_checkpoint

    def killing(path: Path, arrays: Any, numbers: Any, inspect: Any) -> None:
        left = tensors if numbers["state"]["step"] == step else -1

        def count(name: str, array: np.ndarray) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            inspect(name, array)

        write(path, arrays, numbers, count)
        if left == 0:  # after the last one: the file is complete, its forerunner still there
            os.kill(os.getpid(), signal.SIGKILL)

    sys.modules["lucid_maskrcnn.training.state"].write_checkpoint = killing  # type: ignore[attr-defined]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--model", choices=("toy", "slim"), default="toy")
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--evaluate", type=float, metavar="SECONDS")
    parser.add_argument("--kill", type=int, nargs=2, metavar=("STEP", "TENSORS"))
    args = parser.parse_args()
    if args.kill:
        _kill_in_checkpoint(*args.kill)

    def evaluate(model: Any) -> dict[str, float]:
        print("evaluating", flush=True)
        end = time.perf_counter() + args.evaluate
        while time.perf_counter() < end:  # Python sleeps through a signal that comes just before a sleep
            time.sleep(0.01)
        return {"score": 1.0}

    toy = args.model == "toy"
    trainer = Trainer(
        Toy() if toy else slim(),
        Squares(2, side=8, wait=args.wait) if toy else Squares(1),
        out=args.out,
        settings=toy_settings(
            args.steps, processes=args.processes, **({} if args.evaluate is None else {"eval_every": 5})
        ),
        evaluate=None if args.evaluate is None else evaluate,
        resume="auto",
        progress=False,
        tensorboard=False,
    )
    print("ready", flush=True)
    try:
        trainer.run()
    except Interrupted as stop:
        print(stop, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
