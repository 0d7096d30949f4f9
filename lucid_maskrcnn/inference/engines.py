"""What predicts on the images of a job: this process, or the workers of a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from lucid_maskrcnn import validators
from lucid_maskrcnn.models.mask_rcnn import MaskRCNN
from lucid_maskrcnn.ops import device_name, host

from .image_work import ImageWork
from .job_folder import JobFolder
from .local_engine import predict_locally

__all__ = ["Engine", "StartedEngine", "check_engine"]

_ENGINES = ("local", "ray")
_LARGEST_PART, _FEWEST_PARTS = 1000, 64  # so that 64 workers have something to do, where there are so many images
_SOME_BYTES = 256 << 20  # of a model that does not say


@dataclass(frozen=True)
class StartedEngine:
    """An engine that is ready for a job.

    Attributes
    ----------
    predict : callable
        Takes the folder, what is done with each image, and keywords ``on_image`` and ``progress``; returns why drawings
        and exports could not be written.
    precision : str
        What the model computes in.
    """

    predict: Callable[..., list[str]]
    precision: str


@dataclass(frozen=True)
class Engine:
    """An engine as it was asked for.

    Attributes
    ----------
    name : {"local", "ray"}
    address : str or None
        Of a Ray cluster.
    workers, threads : int or None
        Workers of the cluster, and threads of each.
    """

    name: str
    address: str | None
    workers: int | None
    threads: int | None

    def shard_size(self, images: int) -> int:
        """Return how many images a part of a new job has that does not say so."""
        if self.name == "local":
            return _LARGEST_PART
        return max(1, min(_LARGEST_PART, -(-images // _FEWEST_PARTS)))

    def load(self, weights: Any, device: str, dtype: str | None) -> MaskRCNN:
        """Return the model in a file of weights; Ray's workers take it to the device."""
        model = MaskRCNN.from_file(weights)
        return model.to(device, dtype) if self.name == "local" else model

    @contextmanager
    def started(self, model: Any, device: str | None, dtype: str | None) -> Iterator[StartedEngine]:
        """Start what there is to start, for as long as the block lasts.

        Parameters
        ----------
        model : MaskRCNN
            Or any object with such a ``predict``.
        device, dtype : str, optional
            Of a model that :meth:`load` returned; None for another one.
        """
        precision = model.dtype if isinstance(model, MaskRCNN) else "float32"
        if self.name == "local":
            yield StartedEngine(partial(predict_locally, model=model), precision)
            return
        # Here, as most processes need none of it.
        from .ray_cluster import connected
        from .ray_engine import predict_with_ray, ray_workers

        cpus = None if self.workers is None else self.workers * (self.threads or 1)
        with connected(self.address, cpus=cpus, model_bytes=_bytes_of(model)) as cluster:
            workers = ray_workers(cluster, self.workers, self.threads, on_gpu=_is_on_gpu(model, device))
            if device is not None:
                device, precision = ("gpu", dtype or precision) if workers.gpus else ("cpu", "float32")

            def predict(folder: JobFolder, work: ImageWork, **options: Any) -> list[str]:
                return predict_with_ray(folder, model, work, cluster, workers, device=device, dtype=dtype, **options)

            yield StartedEngine(predict, precision)


def check_engine(engine: Any, address: Any, workers: Any, threads_per_worker: Any) -> Engine:
    """Return the engine that arguments of :func:`predict_files` ask for.

    Raises
    ------
    TypeError, ValueError
        If one is wrong, or is of Ray only.
    ImportError
        If Ray is not installed.
    """
    name = validators.choice("engine", engine, _ENGINES)
    given = {"address": address, "workers": workers, "threads_per_worker": threads_per_worker}
    of_ray = next((key for key, value in given.items() if value is not None), None)
    if name == "local" and of_ray is not None:
        option = of_ray.replace("_", "-")
        raise ValueError(f"{of_ray} (--{option}) is of Ray, got it without engine='ray' (--engine ray).")
    positive = validators.optional(validators.positive_int)
    checked = Engine(
        name,
        validators.optional(_address)("address", address),
        positive("workers", workers),
        positive("threads_per_worker", threads_per_worker),
    )
    if name == "ray":
        from .ray_cluster import require_ray

        require_ray()
    return checked


def _address(name: str, value: Any) -> str:
    address = validators.text(name, value)
    if address not in ("auto", "local") and not re.fullmatch(r"(ray://)?([^:/\s]+|\[[0-9a-fA-F:]+\]):\d{1,5}", address):
        raise ValueError(f"{name} must be 'auto', 'host:port' or 'ray://host:port', got {validators.shown(value)}.")
    return address


def _is_on_gpu(model: Any, device: str | None) -> bool | None:
    """Whether a worker needs a GPU; None: where there is one."""
    if device is not None:
        if device.lower().removesuffix(":0") == "auto":
            return None
        return device_name("device", device) == "gpu"
    return getattr(model, "device", "cpu") == "gpu"


def _bytes_of(model: Any) -> int:
    if not isinstance(model, MaskRCNN):
        return _SOME_BYTES
    return sum(host(variable).nbytes for variable in model.state_dict(keep_vars=True).values())
