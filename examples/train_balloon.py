"""Train a Mask R-CNN on a few photographs of balloons.

    python examples/train_balloon.py DATA_DIR                # about 20 minutes on two cores
    python examples/train_balloon.py DATA_DIR --scratch      # without the backbone of the nuclei model
    python examples/train_balloon.py DATA_DIR --resume

DATA_DIR holds ``images/``, ``instances_train.json`` (61 photographs) and ``instances_val.json`` (13), polygons in
COCO format. No download is needed: the backbone comes from the nuclei model in the package, which was not trained on
photographs. Where weights can be downloaded, ``weights="COCO_V1"`` of ``mask_rcnn_resnet_50_fpn`` is a far better
start. The evaluation needs the extra ``[coco]``.

What to expect: more than half of the balloons are detected with good masks, together with several times as many false
positives, such as faces, shirts and patches of sky: 61 photographs show what a balloon is, but not what everything else
is. Raise the score threshold, or start from COCO's weights.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import lucid

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn
from lucid_maskrcnn.config import HeadConfig
from lucid_maskrcnn.data import Augmentation, CocoInstances, Loader
from lucid_maskrcnn.evaluation import contact_sheet, evaluate
from lucid_maskrcnn.training import Trainer, TrainerSettings
from lucid_maskrcnn.weights import locate

CROP = 384


def build(scratch: bool, categories: dict[int, str]) -> MaskRCNN:
    """Return the model, with the backbone of the nuclei model or from scratch."""
    arguments = {
        "num_classes": len(categories),
        "categories": categories,
        "norm": "batch",
        "width": MaskRCNN.from_file("NUCLEI").config.backbone.width,
        "fpn_channels": 64,
        "hidden_dim": 256,
        "mask_hidden_channels": 64,
        "min_size": 400,
        "max_size": 667,
    }
    start = {} if scratch else {"weights_backbone": locate("NUCLEI"), "trainable_layers": 5}
    return mask_rcnn_resnet_18_fpn(**arguments, **start, heads=HeadConfig(batch_size=128))


def train(args: argparse.Namespace) -> None:
    lucid.random.seed(0)
    dataset, held_out = (
        CocoInstances(args.data_dir / "images", args.data_dir / f"instances_{split}.json") for split in ("train", "val")
    )
    model = build(args.scratch, dataset.categories)
    augment = Augmentation.photographs(crop=CROP, image=model.config.image, zoom=(0.6, 1.4), exposure=0.1)
    settings = TrainerSettings(
        steps=args.steps,
        lr=0.01,
        decay_norms=False,
        schedule="cosine",
        warmup=args.steps // 20,
        ema=0.998,
        freeze_bn_after=0.7,
        freeze_bn_lr_factor=0.5,
    )
    trainer = Trainer(
        model,
        Loader(dataset, 2, augment=augment),
        out=args.out,
        settings=settings,
        image_config=replace(model.config.image, **augment.network),
        resume="auto" if args.resume else False,
    )
    result = trainer.run()
    found = evaluate(mask_rcnn_resnet_18_fpn(weights=result.weights), held_out)
    print(found)
    found.to_json(args.out / "evaluation.json")
    for name, images in (("worst", found.worst(4)), ("best", found.best(4))):
        contact_sheet(held_out, found, images).save(args.out / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/balloon"), help="folder of the run")
    parser.add_argument("--steps", type=int, default=900, help="length of the run (default: %(default)s)")
    parser.add_argument("--scratch", action="store_true", help="start from random weights")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in --out")
    train(parser.parse_args())
