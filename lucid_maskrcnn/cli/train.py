"""``train``: train a model on images with annotations."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from typing import Any

from .common import say, say_device
from .data_options import describe_data, match_by_name, open_data
from .train_options import add_options

__all__ = ["add_commands"]

_BATCH_SIZE = 2
_EPILOG = """\
With --weights or --weights-backbone the heads, the pyramid and the upper layers of the backbone are trained, and batch
norm is constant, whatever the weights were trained with. Without, all layers are trained with live batch norm, which
needs about ten thousand steps and a higher learning rate.

The learning rate scales with the images of a step: 0.02 for 16, so 0.0025 for the default batch of 2. If --weights have
as many classes as the data set, the run is fine-tuning: the rate is a fifth of that if it sees up to 120 images, falls
with the square root of their number to a twentieth, and the weights are evaluated before the first step, too. For
objects of another kind give --weights-backbone, or the --lr that is wanted.

Ctrl-C stops the run after the current step; the same command with --resume continues it, and gives the same weights as
an uninterrupted run."""


def add_commands(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    train = commands.add_parser(
        "train",
        help="train on your own images",
        description="Train on images with COCO annotations or label images. DIR gets log.jsonl, checkpoints, "
        "weights.safetensors and curves.png.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(train)
    train.set_defaults(run=_train)


# ------------------------------------------------------------------ the command


def _train(args: argparse.Namespace) -> None:
    if args.distributed is None:
        _check_launcher()
        _train_in_group(args, None)
        return
    from lucid_maskrcnn.training import init_group

    with init_group(args.distributed, timeout=args.distributed_timeout) as group, _only_main_speaks(group):
        _train_in_group(args, group)


def _check_launcher() -> None:
    """Refuse to train alone in one of several processes that a launcher has started: each would be a run of its own."""
    sizes = (os.environ.get(name, "") for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
    backend = (
        "ring" if "MLX_RANK" in os.environ else "mpi" if any(n.isdecimal() and int(n) > 1 for n in sizes) else None
    )
    if backend is not None:
        raise ValueError(f"A launcher has started this process as one of several: say --distributed {backend}.")


@contextmanager
def _only_main_speaks(group: Any) -> Iterator[None]:
    """Leave it to rank 0 to say what there is to say: it is told the errors of the others."""
    if group.rank == 0:
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    except (KeyboardInterrupt, OSError, SystemExit, TypeError, ValueError) as error:
        group.abort(f"{type(error).__name__}: {error}")
        if group.speaks:
            raise
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from error


def _train_in_group(args: argparse.Namespace, group: Any) -> None:
    import lucid

    from lucid_maskrcnn.training import DivergenceError, Interrupted, Trainer
    from lucid_maskrcnn.training.checkpoints import check_folder

    resume, is_main = "auto" if args.auto_resume else args.resume, group is None or group.rank == 0
    if is_main:
        check_folder(args.out, resume)
    config = _config_of(args.weights) if args.weights else None
    dataset, held_out, ids = _data(args, config)
    lucid.random.seed(args.seed)  # new layers are initialized from it
    model = _model(args, dataset, config)
    if args.batch_size is None:
        args.batch_size = min(_BATCH_SIZE, len(dataset))
    loader = _loader(args, dataset, model)
    settings = _settings(args, model, loader.steps_per_epoch, evaluated=held_out is not None)
    evaluate = None if held_out is None else _evaluator(args, held_out, ids, model)
    if not args.quiet:
        say_device(args.device)
    model.to(args.device)
    trainer = Trainer(
        model,
        loader,
        out=args.out,
        settings=settings,
        image_config=replace(model.config.image, **getattr(loader.augment, "network", {})),
        evaluate=evaluate,
        resume=resume,
        allow_changes=args.allow_changes,
        progress=not args.quiet and is_main,
        tensorboard=args.tensorboard,
        callbacks=_callbacks(args, settings) if is_main else (),
        group=group,
    )
    say(_summary(args, dataset, loader, trainer.settings))
    try:
        result = trainer.run()
    except Interrupted:
        say(f"Stopped after step {trainer.state.step}: the same command with --resume continues.", to_stderr=True)
        raise
    except DivergenceError as error:
        raise SystemExit(f"lucid-maskrcnn: {error}") from error
    _say_result(result, trainer.settings)


def _say_result(result: Any, settings: Any) -> None:
    from lucid_maskrcnn.training.log import headline, is_better

    for name, value in headline(result.metrics).items():
        say(f"  {name} {value:.3f}")
    say(f"{result.step} steps in {result.seconds / 60:.1f} min; weights: {result.weights}")
    if result.best_weights is not None:
        best = "lowest" if is_better(settings.keep_best or "", 0, 1) else "highest"
        say(f"{best} {settings.keep_best} {result.best:.3f}: {result.best_weights}")
    if result.stopped_early:
        say(f"stopped early: --patience {settings.patience} evaluations without a better {settings.keep_best}")


def _callbacks(args: argparse.Namespace, settings: Any) -> list[Any]:
    """Return what the run is sent to."""
    from lucid_maskrcnn.training import MLflowCallback, WandbCallback

    paths = ("images", "annotations", "labels", "weights", "weights_backbone", "arch", "batch_size", "augment", "crop")
    config = asdict(settings) | {name: str(v) for name in paths if (v := getattr(args, name)) is not None}
    callbacks: list[Any] = []
    if args.wandb:
        callbacks.append(WandbCallback(args.wandb, folder=args.out, config=config))
    if args.mlflow:
        callbacks.append(MLflowCallback(args.mlflow, folder=args.out, config=config))
    return callbacks


def _summary(args: argparse.Namespace, dataset: Any, loader: Any, settings: Any) -> str:
    images_per_step = args.batch_size * args.accumulate
    length = f"{settings.minutes:g} minutes" if settings.steps is None else f"{settings.steps} steps"
    kinds = "1 category" if len(dataset.categories) == 1 else f"{len(dataset.categories)} categories"
    names = ", ".join(str(name) for name in list(dataset.categories.values())[:8])
    more = f" and {len(dataset.categories) - 8} more" if len(dataset.categories) > 8 else ""
    return (
        f"{len(dataset)} images, {kinds} ({names}{more}); {length} of {images_per_step} "
        f"{'image' if images_per_step == 1 else 'images'}, {loader.steps_per_epoch / args.accumulate:g} per epoch; "
        f"learning rate {settings.lr:g}, {settings.warmup} steps of warm-up"
    )


def _settings(args: argparse.Namespace, model: Any, batches: int, *, evaluated: bool) -> Any:
    from lucid_maskrcnn.training import TrainerSettings

    epoch = batches / args.accumulate
    main_metric = "segm/AP" if _has_pycocotools() else "AP_0.5:0.95"
    freeze_bn_after = args.freeze_bn_after
    if freeze_bn_after is None and any(not getattr(module, "frozen", True) for module in model.modules()):
        freeze_bn_after = 0.8
    return TrainerSettings(
        steps=args.steps if args.epochs is None else max(1, math.ceil(args.epochs * epoch)),
        minutes=args.minutes,
        seed=args.seed,
        accumulate=args.accumulate,
        processes=args.processes,
        lr=args.lr,
        optimizer=args.optimizer,
        loss_weights=args.loss_weights,
        class_weights=args.class_weights,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        decay_norms=args.decay_norms,
        schedule=args.schedule,
        warmup=args.warmup,
        max_grad_norm=args.max_grad_norm or None,
        ema=args.ema,
        freeze_bn_after=freeze_bn_after or None,
        save_every=args.save_every,
        keep_last=args.keep_last,
        eval_every=(args.eval_every or max(200, math.ceil(epoch))) if evaluated else None,
        keep_best=(args.keep_best or main_metric) if evaluated else None,
        patience=args.patience,
        **({} if args.milestones is None else {"milestones": args.milestones}),
        **({} if args.betas is None else {"betas": args.betas}),
    )


# ------------------------------------------------------------------ data


def _data(args: argparse.Namespace, config: Any) -> tuple[Any, Any, Mapping[int, int]]:
    """Return the data set to train on, the one to evaluate on or None, and the category ids of the latter by label."""
    reading: Any = {"on_fault": args.on_fault, "channels": args.channels, "intensity": args.intensity}
    if args.intensity is None and config is not None:
        reading["intensity"] = config.image.intensity  # as the weights were trained
    dataset = open_data(args.images, args.annotations, args.labels, ("ANNOTATIONS", "--labels"), **reading)
    for line in describe_data(args.annotations or args.labels, dataset, "train on"):
        say(line)
    if not args.val_annotations and not args.val_labels:
        if args.val_loss:
            raise ValueError("--val-loss needs --val-annotations or --val-labels.")
        if args.val_images or args.eval_every or args.keep_best or args.patience:
            raise ValueError(
                "--val-images, --eval-every, --keep-best and --patience need --val-annotations or --val-labels."
            )
        return dataset, None, {}
    held_out = open_data(
        args.val_images or args.images,
        args.val_annotations,
        args.val_labels,
        ("--val-annotations", "--val-labels"),
        **reading,
    )
    for line in describe_data(args.val_annotations or args.val_labels, held_out, "evaluate on"):
        say(line)
    both = {dataset.images_dir.resolve() / name for name in dataset.file_names}
    both &= {held_out.images_dir.resolve() / name for name in held_out.file_names}
    if both:
        say(
            f"NOTE {len(both)} of the {len(held_out)} images to evaluate on are also trained on: their scores say "
            "nothing about new images."
        )
    unnamed = args.labels is not None or args.val_labels is not None
    return dataset, held_out, match_by_name(dataset, held_out, unnamed=unnamed)


def _loader(args: argparse.Namespace, dataset: Any, model: Any) -> Any:
    from lucid_maskrcnn.data import Augmentation, Loader

    image = model.config.image
    crop = {} if args.crop is None else {"crop": args.crop}
    augment: Augmentation | None
    if args.augment is None:
        augment = Augmentation.suited_to(image, fine_tuning=model.pretrained, **crop)
    elif args.augment == "none":
        augment = Augmentation(**crop, image=image) if crop else None
    else:
        augment = getattr(Augmentation, args.augment)(**crop, **({"image": image} if crop else {}))
    return Loader(dataset, args.batch_size, seed=args.seed, augment=augment, repeat_thresh=args.repeat_thresh)


def _evaluator(args: argparse.Namespace, held_out: Any, ids: Mapping[int, int], model: Any) -> Any:
    losses = None
    if args.val_loss or (args.keep_best or "").startswith("val/"):
        label_of = {number: label for label, number in ids.items()}
        labels = {n: label_of[number] for n, number in held_out.category_ids.items() if number in label_of}
        losses = {"labels": labels, "loss_weights": args.loss_weights, "class_weights": args.class_weights}
    return _Evaluator(held_out, ids, model, progress=not args.quiet, losses=losses)


class _Evaluator:
    """Evaluates a model on a data set; ``metric_names`` are known before the first evaluation."""

    def __init__(
        self, dataset: Any, category_ids: Mapping[int, int], model: Any, *, progress: bool, losses: Any
    ) -> None:
        from lucid_maskrcnn.evaluation import evaluate_results
        from lucid_maskrcnn.models.losses import LOSS_NAMES

        self._losses = losses
        self._dataset, self._category_ids, self._progress = dataset, category_ids, progress
        self._iou_types = ("segm", "bbox") if _has_pycocotools() else ()
        nothing = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
        top_k = max(1, model.config.heads.top_k)
        empty = evaluate_results(nothing, [], max_detections=top_k, iou_types=self._iou_types)
        counts = getattr(dataset, "category_counts", None) or dict.fromkeys(dataset.categories.values(), 1)
        categories = [name for name, count in counts.items() if count] if len(counts) > 1 else []
        of_category = [f"{kind}/AP-{name}" for kind in self._iou_types for name in categories]
        self.metric_names = (
            *empty.metrics,
            *of_category,
            *([] if losses is None else [f"val/{name}" for name in (*LOSS_NAMES, "total_loss")]),
        )

    def __call__(self, model: Any) -> Mapping[str, float]:
        from lucid_maskrcnn.evaluation import evaluate
        from lucid_maskrcnn.training import validation_losses

        found = evaluate(
            model,
            self._dataset,
            iou_types=self._iou_types,
            category_ids=self._category_ids,
            progress=self._progress,
        )
        losses = {} if self._losses is None else validation_losses(model, self._dataset, **self._losses)
        several = [c for c in found.per_category if c.num_objects] if len(found.per_category) > 1 else []
        return (
            found.metrics
            | {
                f"{kind}/AP-{category.name}": category.metrics[f"{kind}/AP"]
                for kind in self._iou_types
                for category in several
            }
            | losses
        )


def _has_pycocotools() -> bool:
    return importlib.util.find_spec("pycocotools") is not None


# ------------------------------------------------------------------ model


def _model(args: argparse.Namespace, dataset: Any, config: Any) -> Any:
    from lucid_maskrcnn.config import make_categories
    from lucid_maskrcnn.models import factories

    if args.weights and args.weights_backbone:
        raise ValueError("--weights and --weights-backbone exclude each other: a detector has a backbone.")
    name = args.arch or "mask_rcnn_resnet_50_fpn"
    if args.weights and not args.arch:
        name = _architecture_of(args.weights, config)
    own = {n: getattr(args, n) for n in ("min_size", "max_size", "norm") if getattr(args, n) is not None}
    if not args.weights and not args.weights_backbone:
        own.setdefault("norm", "batch")  # which gives the pyramid norms, too
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = getattr(factories, name)(
            max(dataset.categories),
            weights=args.weights,
            weights_backbone=args.weights_backbone,
            trainable_layers=args.trainable_layers,
            categories=make_categories(dataset.categories, dataset.category_ids),
            image=None if args.intensity is None else {"intensity": args.intensity},
            **own,
        )
    for warning in caught:
        say(str(warning.message))
    return model


def _config_of(weights: str) -> Any:
    """Return the configuration that weights bring, None if they bring none."""
    from lucid_maskrcnn.weights import locate, read_weights_file

    return read_weights_file(locate(weights)).config


def _architecture_of(weights: str, config: Any) -> str:
    from lucid_maskrcnn.config import architecture_of

    name = None if config is None else architecture_of(config)
    if name is None:
        raise ValueError(f"--weights {weights!r} do not say which model they belong to: say --arch.")
    return name
