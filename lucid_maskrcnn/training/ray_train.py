"""Ray Train as a launcher: it starts the ranks of a ring on a cluster, and starts them again if one of them fails."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from typing import Any

__all__ = ["ray_ring"]

_kept: list[Any] = []  # the files of this process


def ray_ring() -> Any:
    """Return the ``backend_config`` with which Ray Train's workers are the ranks of a ring.

    .. code-block:: python

       from ray.train import FailureConfig, RunConfig, ScalingConfig
       from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

       def train_rank():
           with init_group("ring") as group:
               Trainer(model, loader, out="/shared/run", settings=settings, resume="auto", group=group).run()

       DataParallelTrainer(
           train_rank,
           backend_config=ray_ring(),
           scaling_config=ScalingConfig(num_workers=4, resources_per_worker={"CPU": 8}),
           run_config=RunConfig(failure_config=FailureConfig(max_failures=10)),
       ).fit()

    Rank 0 may be on another machine after a restart: the folder of the run must be one that all of them see.

    Returns
    -------
    ray.train.BackendConfig

    Raises
    ------
    ImportError
        If Ray Train is not installed.
    """
    try:
        import ray
        from ray.train.backend import Backend, BackendConfig
    except ImportError as error:
        raise ImportError("ray_ring needs Ray Train: pip install 'lucid-maskrcnn[ray-train]'.") from error

    class RingBackend(Backend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            hosts = [[place] for place in worker_group.execute(_own_place)]
            ray.get([worker_group.execute_single_async(i, _join, i, hosts) for i in range(len(hosts))])

    class RingConfig(BackendConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return RingBackend

    return RingConfig()


def _own_place() -> str:
    """Return the address of this process's machine, and a port that is free there."""
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _join(rank: int, hosts: list[list[str]]) -> None:
    """Tell MLX by its environment variables what the ring is."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it has no name, and is gone with the process
    file.write(json.dumps(hosts).encode())
    file.seek(0)
    _kept[:] = [file]
    os.environ.update(MLX_RANK=str(rank), MLX_HOSTFILE=f"/dev/fd/{file.fileno()}")
