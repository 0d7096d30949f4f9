"""Train on a Ray cluster: the workers are ranks that share the batches of each step; if one fails, all start again.

    pip install 'lucid-maskrcnn[ray-train]'
    python examples/train_ray.py IMAGES ANNOTATIONS --out /shared/run --workers 4 --threads-per-worker 8 --address auto

All machines of the cluster must have IMAGES, ANNOTATIONS, --weights and --out. The weights are of a ResNet-18.
Ray itself keeps records in the folder OUT_ray, its sessions in /tmp/ray and a token in ~/.ray.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


def make_run(options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the model, with new class layers if the weights have other classes, and the loader."""
    import lucid

    from lucid_maskrcnn import mask_rcnn_resnet_18_fpn
    from lucid_maskrcnn.config import make_categories
    from lucid_maskrcnn.data import Augmentation, CocoInstances, Loader

    dataset = CocoInstances(options["images"], options["annotations"])
    lucid.random.seed(0)  # new layers are initialized from it
    model = mask_rcnn_resnet_18_fpn(
        max(dataset.categories),
        weights=options["weights"],
        categories=make_categories(dataset.categories, dataset.category_ids),
    )
    augment = Augmentation.suited_to(model.config.image, fine_tuning=model.pretrained)
    return model, Loader(dataset, batch_size=1, augment=augment)


def train_rank(options: dict[str, Any]) -> None:
    """Train as one rank: Ray calls this in each worker, and after a failure in new ones."""
    from lucid_maskrcnn.training import Trainer, TrainerSettings, init_group

    with init_group("ring", timeout=options["timeout"]) as group:
        model, loader = make_run(options)
        settings = TrainerSettings(
            steps=options["steps"], accumulate=options["accumulate"], save_every=options["save_every"]
        )
        Trainer(model, loader, out=options["out"], settings=settings, resume="auto", group=group).run()


def main() -> None:
    """Start the workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="NUCLEI", help="of a ResNet-18: a name or a file (default: NUCLEI)")
    parser.add_argument("--address", help="of the cluster, such as auto (default: one on this machine)")
    parser.add_argument("--workers", type=int, default=2, help="(default: 2)")
    parser.add_argument("--threads-per-worker", type=int, default=1, help="(default: 1)")
    parser.add_argument("--steps", type=int, default=100, help="(default: 100)")
    parser.add_argument("--accumulate", type=int, default=4, help="images per step, of all workers (default: 4)")
    parser.add_argument("--save-every", type=int, default=20, help="steps between checkpoints (default: 20)")
    parser.add_argument("--max-failures", type=int, default=3, help="restarts (default: 3)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds of silence of a lost worker (default: 60)")
    args = parser.parse_args()

    # Under "uv run" Ray would copy this folder to each worker, and run uv there.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from lucid_maskrcnn.training import ray_ring

    paths = ["images", "annotations", "out", *(["weights"] if Path(args.weights).exists() else [])]
    options = vars(args) | {name: str(Path(getattr(args, name)).absolute()) for name in paths}
    make_run(options)  # what is wrong with it is said here, and not by each worker
    ray.init(args.address)
    DataParallelTrainer(
        train_rank,
        train_loop_config=options,
        backend_config=ray_ring(),
        scaling_config=ScalingConfig(num_workers=args.workers, resources_per_worker={"CPU": args.threads_per_worker}),
        run_config=RunConfig(
            storage_path=f"{options['out']}_ray", failure_config=FailureConfig(max_failures=args.max_failures)
        ),
    ).fit()
    print(f"weights: {args.out / 'weights.safetensors'}")


if __name__ == "__main__":
    main()
