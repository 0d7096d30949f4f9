"""Train the Mask R-CNN of nuclei that comes with the package, from scratch, on an ordinary CPU.

    python examples/train_nuclei.py DATA_DIR                   # 8000 steps of about 0.7 s on two cores
    python examples/train_nuclei.py DATA_DIR --resume          # continues a run that was stopped or killed
    python examples/train_nuclei.py DATA_DIR --start runs/nuclei/weights.safetensors --gentle --lr 0.005 --steps 1500
    python examples/train_nuclei.py DATA_DIR --evaluate-only runs/nuclei/weights.safetensors

DATA_DIR holds ``images/``, ``instances_train.json`` and ``instances_val.json``: the stage 1 images of the
2018 Data Science Bowl (BBBC038v1, CC0) in COCO format. The evaluation needs the extra ``[coco]``.
"""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lucid
import numpy as np

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn
from lucid_maskrcnn.config import HeadConfig, ImageConfig, RPNConfig
from lucid_maskrcnn.data import Augmentation, CocoInstances, Loader, Subset
from lucid_maskrcnn.evaluation import Evaluation, evaluate, evaluate_results
from lucid_maskrcnn.training import Trainer, TrainerSettings
from lucid_maskrcnn.weights import save_weights

# The configuration of the model. Most nuclei are 6 to 50 pixels wide, whether an image has 256 pixels or 1024: all
# images are enlarged by 2.5, so that a nucleus of 6 pixels has nearly four cells of the finest map, and anchors start
# at 12.
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
    "image": {"scale": 2.5},
    "max_size": 2560,
    # An image has up to 375 nuclei, each with several proposals.
    "top_k": 400,
    "rpn": {"pre_nms_top_n": 2000, "post_nms_top_n": 2000},
    # Half a pixel matters on a nucleus: RoIs are aligned with the cells' centers, and masks are sampled at pixel
    # centers, not pasted into whole pixels.
    # Nuclei do not overlap much: if two boxes do, one of them is of a part of a nucleus or of a pair.
    "heads": {"aligned": True, "snap_masks": False, "nms_thresh": 0.3},
}
# Half of torchvision's proposals and RoIs: a crop has a few dozen nuclei, and the mask head, which is applied to every
# positive RoI, takes most of the time of a step.
SAMPLING = {
    "rpn": RPNConfig(pre_nms_top_n_train=1000, post_nms_top_n_train=1000, **ARCHITECTURE["rpn"]),
    "heads": HeadConfig(batch_size=256, **ARCHITECTURE["heads"]),
}
CROP = 448
# Crops vary as much as microscopes and stains do. When that no longer helps, a last run on crops that differ little
# from the images themselves gains half a point of AP_0.5.
VARIATION = {"zoom": (0.7, 1.35), "exposure": 0.35, "gamma": 0.2, "channels": 0.08, "blur": 0.6, "noise": 4.0}
GENTLE = {"zoom": (0.9, 1.1), "exposure": 0.1, "gamma": 0.05, "channels": 0.02}
# Sampling weights by kind and by size of the image, 1 if not named. Sizes tell the microscopes apart: the embryos, four
# images of a thousand nuclei side by side, are the hardest; those of 520 × 696 are nearly solved.
KINDS = {"histology_lilac": 2.5, "histology_white": 2, "histology_pink": 2}
SIZES = {(485, 1024): 3.5, (256, 256): 1.5, (520, 696): 0.5}
LICENCE = "CC0-1.0: trained on BBBC038v1, Broad Bioimage Benchmark Collection (Caicedo et al. 2019)"


def loader_of(dataset: CocoInstances, batch: int, seed: int, variation: dict[str, Any]) -> Loader:
    """Return batches of random crops at about the scale of a prediction, with random rotation and stain."""
    image = ImageConfig(**ARCHITECTURE["image"], max_size=ARCHITECTURE["max_size"])
    augment = Augmentation.microscopy(crop=CROP, image=image, **variation)
    # AP counts nuclei, not images: large and crowded images are drawn more often, by the square root of their area
    # and number of nuclei. So are the fifth of the images that are not fluorescence, which vary more, and those in
    # which earlier weights had most errors.
    images = dataset.coco()["images"]
    areas = [image["height"] * image["width"] for image in images]
    chosen = [KINDS.get(image.get("kind"), 1) * SIZES.get((image["height"], image["width"]), 1) for image in images]
    weights = np.sqrt((1.0 + np.asarray(dataset.object_counts)) * areas) * chosen
    return Loader(dataset, batch, seed=seed, augment=augment, sample_weights=weights)


def open_images(data_dir: Path, split: str) -> CocoInstances:
    """Return the images of ``"train"`` or ``"val"``."""
    return CocoInstances(data_dir / "images", data_dir / f"instances_{split}.json")


def measure(model: MaskRCNN, data_dir: Path) -> Evaluation:
    """Return the evaluation on the held-out images."""
    return evaluate(model, open_images(data_dir, "val"))


def train(args: argparse.Namespace) -> None:
    lucid.random.seed(args.seed)
    dataset = open_images(args.data_dir, "train")
    model = mask_rcnn_resnet_18_fpn(
        weights=args.start, trainable_layers=5, categories=dataset.categories, **{**ARCHITECTURE, **SAMPLING}
    )
    if args.batch_size % args.processes:
        raise SystemExit(f"--batch-size must be a multiple of --processes, got {args.batch_size} and {args.processes}.")
    loader = loader_of(dataset, args.batch_size // args.processes, args.seed, GENTLE if args.gentle else VARIATION)
    settings = TrainerSettings(
        steps=args.steps,
        seed=args.seed,
        accumulate=args.processes,
        processes=args.processes,
        lr=args.lr,
        decay_norms=False,
        schedule="cosine",
        warmup=min(300, args.steps // 10),
        ema=0.998,
        # The statistics of two crops are poor, and vary with the kind of image. Pretrained weights have better ones.
        freeze_bn_after=0.001 if args.start else 0.4,
        freeze_bn_lr_factor=1.0,
        save_every=100,
        keep_last=2,
    )
    trainer = Trainer(
        model,
        loader,
        out=args.out,
        settings=settings,
        image_config=replace(model.config.image, **loader.augment.network),
        resume="auto" if args.resume else False,
    )
    result = trainer.run()
    write(result.weights, args.data_dir, args.out / "nuclei.safetensors")


def calibrate(model: MaskRCNN, data_dir: Path) -> None:
    """Shift the scores so that 0.5 is where AP_0.5 is highest, on every third training image."""
    dataset = open_images(data_dir, "train")
    some = Subset(dataset, range(0, len(dataset), 3))
    found = evaluate(model, some, score_thresh=0.3, iou_types=())
    ap = {
        score: evaluate_results(found.truth, found.results, object_score=score, iou_types=()).metrics["AP_0.5"]
        for score in (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)
    }
    best = max(ap, key=ap.__getitem__)
    print(f"AP_0.5 by score: {', '.join(f'{score}: {value:.4f}' for score, value in ap.items())}; {best} becomes 0.5")
    bias = model.cls_score.bias
    bias.data = bias.data - np.array([0, math.log(best / (1 - best))], bias.data.dtype)


def write(weights: Path, data_dir: Path, target: Path) -> None:
    """Write the weights in half precision, with the metrics of what is written."""
    model = mask_rcnn_resnet_18_fpn(weights=weights)
    calibrate(model, data_dir)
    save_weights(model, target, dtype="float16")
    found = measure(mask_rcnn_resnet_18_fpn(weights=target), data_dir)
    metrics = {name: round(value, 4) for name, value in found.metrics.items() if math.isfinite(value)}
    for kind, group in found.per_group.items():
        metrics |= {f"{kind}/{name}": round(group.metrics()[name], 4) for name in ("AP_0.5", "AP_0.7")}
    metadata = {"licence": LICENCE, "dataset": "BBBC038v1", "metrics": json.dumps(metrics)}
    save_weights(model, target, metadata=metadata, dtype="float16")
    print(found, f"wrote {target}, {target.stat().st_size / 1e6:.1f} MB", sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/nuclei"), help="folder of the run")
    parser.add_argument(
        "--start", metavar="WEIGHTS", help="start from these weights, such as NUCLEI, instead of random ones"
    )
    parser.add_argument("--gentle", action="store_true", help="vary the crops little: for a last, short run")
    parser.add_argument("--steps", type=int, default=8000, help="length of the run (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=2, help="crops per step (default: %(default)s)")
    parser.add_argument(
        "--processes",
        type=int,
        default=2 if sys.platform == "linux" else 1,
        help="processes that compute them, at most the number of cores; 1 except on Linux (default: %(default)s)",
    )
    parser.add_argument("--lr", type=float, default=0.015, help="highest learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in --out")
    parser.add_argument("--evaluate-only", type=Path, metavar="WEIGHTS", help="evaluate these weights and stop")
    args = parser.parse_args()
    if args.evaluate_only:
        print(measure(mask_rcnn_resnet_18_fpn(weights=args.evaluate_only), args.data_dir))
    else:
        train(args)
