"""Train a slim Mask R-CNN from scratch on cell nuclei, on an ordinary CPU, in an hour and a half.

    python examples/train_nuclei.py DATA_DIR --minutes 90
    python examples/train_nuclei.py DATA_DIR --minutes 90 --resume
    python examples/train_nuclei.py DATA_DIR --evaluate-only runs/nuclei/nuclei.safetensors

DATA_DIR holds ``images/``, ``instances_train.json`` and ``instances_val.json``: the stage 1 images of the
2018 Data Science Bowl (BBBC038v1, CC0) in COCO format. The evaluation needs the extra ``[coco]``.

The file reads from top to bottom: settings, data, evaluation, checkpoints, the training loop.
"""

import argparse
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import lucid
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from lucid_maskrcnn import mask_rcnn_resnet_18_fpn
from lucid_maskrcnn.evaluation import coco_average_precision
from lucid_maskrcnn.rle import decode_rle
from lucid_maskrcnn.settings import HeadSettings, ImageSettings, ProposalSettings
from lucid_maskrcnn.training import EMA, SGD, clip_gradients, decay_groups
from lucid_maskrcnn.transforms import load_image, prepare, resize_boxes, resize_masks, resized_size
from lucid_maskrcnn.weights import save_weights

# ------------------------------------------------------------------ settings

# What it takes to build the model again; it travels in the header of the weights. Most nuclei are 6 to 50
# pixels wide in images of 256 to 1024, so images are enlarged: at a short side of 800 the median nucleus has
# 44. At 640 mask AP50 on val was 0.03 lower, and a prediction took a fifth less time. There, anchors like these
# met 96 % of the nuclei with an IoU of 0.5; one size a level from 32 on, 79 %.
ARCHITECTURE = {
    "num_classes": 1,
    "norm": "batch",
    "width": 32,
    "fpn_channels": 64,
    "hidden_dim": 256,
    "mask_hidden_channels": 64,
    "dropout": 0.0,
    "anchor_sizes": [[12, 20], [32, 48], [64, 96], [128, 192], [256, 384]],
    "aspect_ratios": [0.5, 1.0, 2.0],
    "min_size": 800,
    "max_size": 1333,
    "top_k": 400,  # an image has up to 375 nuclei
}
# Half of torchvision's proposals and RoIs: a crop has a few dozen nuclei, and the mask head, which sees every
# positive RoI, is the dearest part of a step.
TRAINING = {
    "proposals": ProposalSettings(pre_nms_top_n_train=1000, post_nms_top_n_train=1000),
    "heads": HeadSettings(batch_size=256),
}
CATEGORIES = {1: "nucleus"}
LICENCE = "CC0-1.0: trained on BBBC038v1, Broad Bioimage Benchmark Collection (Caicedo et al. 2019)"
LOSSES = ("rpn_cls_loss", "rpn_reg_loss", "roi_cls_loss", "roi_reg_loss", "mask_loss")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data_dir", type=Path)
parser.add_argument("--out", type=Path, default=Path("runs/nuclei"), help="folder for log, checkpoint and weights")
length = parser.add_mutually_exclusive_group()
length.add_argument("--minutes", type=float, default=90, help="train so long (default: %(default)s)")
length.add_argument("--steps", type=int, help="train so many steps instead")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--batch", type=int, default=2, help="crops per step (default: %(default)s)")
parser.add_argument("--crop", type=int, default=448, help="side of a crop in pixels (default: %(default)s)")
parser.add_argument("--lr", type=float, default=0.015, help="highest learning rate (default: %(default)s)")
parser.add_argument("--warmup", type=int, default=200, help="steps of warm-up (default: %(default)s)")
parser.add_argument("--settle", type=float, default=0.8, help="part of the run after which batch norm is constant")
parser.add_argument("--log-every", type=int, default=20, metavar="STEPS")
parser.add_argument("--save-every", type=float, default=5, metavar="MINUTES")
parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
parser.add_argument("--evaluate-only", type=Path, metavar="WEIGHTS", help="evaluate these weights and stop")


# ------------------------------------------------------------------ data


class Nuclei:
    """The training images, and random crops of them."""

    def __init__(self, data_dir, split):
        coco = json.loads((data_dir / f"instances_{split}.json").read_text())
        self.folder, self.images = data_dir / "images", coco["images"]
        self.objects = {image["id"]: [] for image in self.images}
        for annotation in coco["annotations"]:
            self.objects[annotation["image_id"]].append(annotation)
        # AP counts nuclei, not images: crowded images come more often, as the root of their number.
        weights = np.sqrt([1 + len(self.objects[image["id"]]) for image in self.images])
        self.probabilities = weights / weights.sum()
        self.load = cache(self.load)

    def load(self, index):
        """Return the picture (H, W, 3) and a map (H, W) of its nuclei's numbers, from 1; 0 is background.

        No pixel belongs to two nuclei, so one map holds all the masks.
        """
        entry = self.images[index]
        instances = np.zeros((entry["height"], entry["width"]), np.uint16)
        for number, annotation in enumerate(self.objects[entry["id"]], 1):
            instances[decode_rle(annotation["segmentation"])] = number
        return load_image(self.folder / entry["file_name"]), instances

    def crop(self, rng, settings, side):
        """Draw a window that fills ``side`` pixels at about the scale of prediction, turned and tinted."""
        index = rng.choice(len(self.images), p=self.probabilities)
        picture, instances = self.load(int(index))
        height, width = instances.shape
        scale = resized_size((height, width), settings)[0] / height * 2 ** rng.uniform(-0.5, 0.4)
        h, w = (min(n, round(side / scale)) for n in (height, width))
        y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
        window = slice(y, y + h), slice(x, x + w)
        turns, flip = rng.integers(4), rng.integers(2)
        picture, part = (np.rot90(a[window], turns) for a in (picture, instances))
        if flip:
            picture, part = picture[:, ::-1], part[:, ::-1]
        return tint(picture, rng), part, np.bincount(instances.ravel())


def objects_of(part, full_areas, size, side):
    """Return the objects of the map ``part``, at ``size`` in a square of ``side``, without slivers."""
    visible = np.bincount(part.ravel(), minlength=len(full_areas))
    numbers = np.flatnonzero(visible >= np.maximum(0.1 * full_areas, 4))
    numbers = numbers[numbers > 0]
    masks = part == numbers[:, None, None]  # (G, h, w)
    (x1, x2), (y1, y2) = (extent(masks.any(axis)) for axis in (1, 2))
    boxes = resize_boxes(np.stack([x1, y1, x2, y2], 1), part.shape, size)
    wide = (boxes[:, 2:] - boxes[:, :2] >= 3).all(1)
    canvas = np.zeros((side, side), part.dtype)
    canvas[: size[0], : size[1]] = resize_masks(part[None], size)[0]
    masks = canvas == numbers[wide, None, None]  # (G, side, side)
    return {"boxes": boxes[wide], "labels": np.ones(len(masks), np.int32), "masks": masks}


def extent(profile):
    """Return where the first True of each row (G, n) is, and the end of the last."""
    return profile.argmax(1), profile.shape[1] - profile[:, ::-1].argmax(1)


def tint(picture, rng):
    """Vary exposure, gamma and colour: staining and exposure differ between laboratories."""
    gain = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.05, (3, 1)))
    gamma = np.exp(rng.normal(0, 0.15))
    table = np.clip(255 * gain * (np.arange(256) / 255) ** gamma, 0, 255).round().astype(np.uint8)  # (3, 256)
    return np.stack([table[c][picture[:, :, c]] for c in range(3)], 2)


def make_batch(nuclei, args, settings, step):
    """Return images (N, 3, side, side) and targets; the same for the same seed and step."""
    rng = np.random.default_rng((args.seed, step))
    crops = [nuclei.crop(rng, settings, args.crop) for _ in range(args.batch)]
    square = ImageSettings(min_size=args.crop, max_size=args.crop, size_divisor=args.crop)
    batch = prepare([picture for picture, _, _ in crops], square)
    targets = [
        objects_of(part, areas, size, args.crop) for (_, part, areas), size in zip(crops, batch.sizes, strict=True)
    ]
    return batch.tensor, targets


# ------------------------------------------------------------------ evaluation


def evaluate(model, data_dir, split="val"):
    """Return mask and box AP on a split; COCO's limit of 100 detections would cut crowded images off."""
    annotations = json.loads((data_dir / f"instances_{split}.json").read_text())
    results, start = [], time.perf_counter()
    for image in annotations["images"]:
        (found,) = model.predict(data_dir / "images" / image["file_name"])
        results += found.to_coco(image["id"])
    figures = {
        "split": split,
        "seconds_per_image": (time.perf_counter() - start) / len(annotations["images"]),
    }
    for iou_type, limit in (("segm", 100), ("segm", 400), ("bbox", 400)):
        figures[f"{iou_type}@{limit}"] = coco_average_precision(
            annotations, results, iou_type=iou_type, max_detections=limit
        )
    return figures


def show(figures):
    print(f"{figures['split']}: {figures['seconds_per_image']:.2f} s an image")
    for name, values in figures.items():
        if isinstance(values, dict):
            print(f"  {name:9}" + "".join(f"  {key} {value:.3f}" for key, value in values.items()))


# ------------------------------------------------------------------ files


def save_checkpoint(path, model, ema, optimizer, **numbers):
    """Write all that it takes to go on."""
    arrays = {f"model.{name}": array for name, array in model.state_dict().items()}
    arrays |= {f"ema.{name}": array for name, array in ema.state_dict().items()}
    momenta = optimizer.state_dict()["momenta"]
    arrays |= {f"momentum.{i}": v for i, v in enumerate(momenta) if v is not None}
    numbers["ema_updates"] = ema.updates
    partial = path.with_suffix(".partial")  # so that the checkpoint is there whole, this one or the last
    save_file(arrays, partial, {key: json.dumps(value) for key, value in numbers.items()})
    os.replace(partial, path)


def load_checkpoint(path, model, ema, optimizer):
    """Take over a checkpoint; return its numbers."""
    parts = {"model": {}, "ema": {}, "momentum": {}}
    with safe_open(path, "np") as file:
        numbers = {key: json.loads(value) for key, value in file.metadata().items()}
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            part, _, rest = name.partition(".")
            parts[part][rest] = file.get_tensor(name)
    model.load_state_dict(parts["model"])
    ema.load_state_dict(parts["ema"], numbers["ema_updates"])
    state = optimizer.state_dict()
    state["momenta"] = [parts["momentum"].get(str(i)) for i in range(len(state["momenta"]))]
    optimizer.load_state_dict(state)
    return numbers


def write_weights(model, path, header):
    """Write weights in half precision, with what it takes to build their model."""
    save_weights(
        model, path, arguments={"depth": 18, **ARCHITECTURE}, categories=CATEGORIES, metadata=header, dtype="float16"
    )


# ------------------------------------------------------------------ training


def train(args):
    args.out.mkdir(parents=True, exist_ok=True)
    lucid.random.seed(args.seed)
    model = mask_rcnn_resnet_18_fpn(**ARCHITECTURE, **TRAINING)
    settings = ImageSettings(min_size=ARCHITECTURE["min_size"], max_size=ARCHITECTURE["max_size"])
    optimizer = SGD(decay_groups(model.parameters(), weight_decay=1e-4), lr=args.lr, momentum=0.9)
    ema = EMA(model, decay=0.998)
    nuclei = Nuclei(args.data_dir, "train")
    checkpoint = args.out / "checkpoint.safetensors"
    step, before = 0, 0.0  # steps and seconds of earlier runs
    if args.resume:
        numbers = load_checkpoint(checkpoint, model, ema, optimizer)
        step, before = numbers["step"], numbers["seconds"]
        model.train(numbers["training"])

    start = saved = logged = time.perf_counter()
    sums, since = dict.fromkeys((*LOSSES, "total_loss", "norm"), 0.0), 0
    with ThreadPoolExecutor(1) as loader, open(args.out / "log.jsonl", "a" if args.resume else "w") as log:
        pending = loader.submit(make_batch, nuclei, args, settings, step)
        while True:
            seconds = before + time.perf_counter() - start
            progress = step / args.steps if args.steps else seconds / (60 * args.minutes)
            if progress >= 1:
                break
            images, targets = pending.result()
            pending = loader.submit(make_batch, nuclei, args, settings, step + 1)  # while this step computes

            # A batch comes from two pictures at most. Its statistics are those of dark fluorescence or of bright
            # histology, while a prediction uses the average of both: so the last part trains with the average.
            settling = progress >= args.settle
            if settling and model.training:
                ema = EMA(model, decay=0.998)  # of what comes from here on: the average of before is of another kind
            model.train(not settling)
            # Linear warm-up, then half a cosine down to nothing, over the steps or the time there is; and once more.
            peak, begin, end = (0.3 * args.lr, args.settle, 1) if settling else (args.lr, 0, args.settle)
            lr = peak * min(1, (step + 1) / max(1, args.warmup))
            lr *= 0.5 * (1 + math.cos(math.pi * (progress - begin) / (end - begin)))
            for group in optimizer.groups:
                group["lr"] = lr
            lucid.random.seed(args.seed + step)  # the samplers draw from it: a resumed run draws the same
            optimizer.zero_grad()
            losses = model.get_loss(images, targets)
            losses["total_loss"].backward()
            norm = clip_gradients(optimizer.params, max_norm=10.0)
            values = {name: float(losses[name].item()) for name in (*LOSSES, "total_loss")} | {"norm": norm}
            if not all(map(math.isfinite, values.values())):
                raise FloatingPointError(f"Step {step} is not finite, {values}: try a lower --lr.")
            optimizer.step()
            ema.update(model)
            step, since = step + 1, since + 1
            sums = {name: sums[name] + value for name, value in values.items()}

            now = time.perf_counter()
            if step % args.log_every == 0:
                means = {name: round(total / since, 4) for name, total in sums.items()}
                rate = since * args.batch / (now - logged)
                seconds = before + now - start
                left = (args.steps - step) * args.batch / rate if args.steps else 60 * args.minutes - seconds
                terms = "  ".join(f"{name.removesuffix('_loss')} {means[name]:.3f}" for name in LOSSES)
                print(
                    f"step {step:5}  loss {means['total_loss']:.3f} = {terms}  norm {means['norm']:.1f}  "
                    f"lr {lr:.4f}  {rate:.2f} images/s  {left / 60:.0f} min left",
                    flush=True,
                )
                line = {
                    "step": step,
                    "seconds": round(seconds, 1),
                    "lr": lr,
                    "images_per_s": round(rate, 3),
                    **means,
                }
                print(json.dumps(line), file=log, flush=True)
                sums, since, logged = dict.fromkeys(sums, 0.0), 0, now
            if now - saved > 60 * args.save_every:
                numbers = {"step": step, "seconds": before + now - start, "training": model.training}
                save_checkpoint(checkpoint, model, ema, optimizer, **numbers)
                saved = now

    seconds = before + time.perf_counter() - start
    save_checkpoint(checkpoint, model, ema, optimizer, step=step, seconds=seconds, training=model.training)
    weights = args.out / "nuclei.safetensors"
    model.load_state_dict(ema.state_dict())
    header = {"licence": LICENCE, "steps": str(step), "minutes": f"{seconds / 60:.1f}"}
    write_weights(model, weights, header)  # at once: the evaluation takes minutes
    figures = evaluate(mask_rcnn_resnet_18_fpn(weights=weights), args.data_dir)
    write_weights(model, weights, {**header, "figures": json.dumps(figures)})
    show(figures)
    print(f"wrote {weights}, {weights.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    args = parser.parse_args()
    if args.evaluate_only:
        show(evaluate(mask_rcnn_resnet_18_fpn(weights=args.evaluate_only), args.data_dir))
    else:
        train(args)
