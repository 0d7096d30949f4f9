"""Connecting to a Ray cluster, or starting one on this machine that leaves nothing behind."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from . import ray_keeper

__all__ = ["RayCluster", "connected", "require_ray"]

_SECONDS_TO_ANSWER = 5.0
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5)  # of HTTP/2, with empty settings
_STORE_MARGIN = 128 << 20  # bytes of a local cluster's object store besides the model: reports, and Ray's own


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster that this process is connected to.

    Attributes
    ----------
    ray : module
    address : str or None
        None for one that this process has started, or the caller before it.
    cpus, gpus : tuple of float
        Those of each machine.
    streams : bool
        Whether results of a call can come one by one, which Ray's client (``ray://``) cannot do.
    """

    ray: Any
    address: str | None
    cpus: tuple[float, ...]
    gpus: tuple[float, ...]
    streams: bool


def require_ray() -> None:
    """Raise ``ImportError`` with the command that installs Ray, if it is missing."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ImportError("engine='ray' (--engine ray) needs Ray: pip install 'lucid-maskrcnn[ray]'.") from error


@contextmanager
def connected(address: str | None, *, cpus: int | None, model_bytes: int) -> Iterator[RayCluster]:
    """Connect to a Ray cluster for as long as the block lasts.

    Parameters
    ----------
    address : str, optional
        ``"auto"``, ``"host:port"`` or ``"ray://host:port"``; by default that of the environment variable
        ``RAY_ADDRESS``, which Ray sets for its jobs. Without either the caller's connection is used, and left as it is,
        if there is one; else a cluster is started in this process, on this machine, and ended with the block.
    cpus : int, optional
        That a cluster that is started here says it has; by default the machine's.
    model_bytes : int
        What workers are sent.

    Raises
    ------
    ImportError
        If Ray is not installed.
    ConnectionError
        If no cluster answers, or it cannot be used from here.
    """
    require_ray()
    import ray

    if ray.is_initialized():
        yield _described(ray, address)
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    is_local = address in (None, "local")
    with _adapted(ray), _local(cpus, model_bytes) if is_local else _remote(str(address)):
        yield _described(ray, None if is_local else address)


def _described(ray: Any, address: str | None) -> RayCluster:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (tuple(float(resources.get(kind, 0)) for resources in alive) for kind in ("CPU", "GPU"))
    return RayCluster(ray, address, cpus, gpus, streams=not ray.util.client.ray.is_connected())


# ------------------------------------------------------------------ a cluster that exists


@contextmanager
def _remote(address: str) -> Iterator[None]:
    _check_answer(address)
    with _initialized(address, {"log_to_driver": False}):
        yield


def _check_answer(address: str) -> None:
    """Raise ``ConnectionError`` if nothing answers at an address; Ray itself would try for two minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto", which Ray answers at once
    with_tls = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER) as connection:
            if not with_tls:
                connection.sendall(_HELLO)
                if connection.recv(9)[3:4] != b"\4":  # a frame with the other side's settings comes first
                    raise ConnectionError("something else answers")
    except (OSError, OverflowError) as error:
        reason = "nothing answers in time" if isinstance(error, TimeoutError) else str(error)
        raise ConnectionError(
            f"No Ray cluster answers at {address!r} ({reason}): start one with `ray start --head`, which prints its "
            "address, or leave address (--address) out to use this machine alone."
        ) from error


# ------------------------------------------------------------------ a cluster of this machine


@contextmanager
def _local(cpus: int | None, model_bytes: int) -> Iterator[None]:
    """Start a cluster on this machine; nothing of it is left afterwards, not even if this process is killed."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if not os.path.exists(os.path.expanduser("~/.ray/auth_token")) and "RAY_AUTH_MODE" not in os.environ:
        # The ports of the cluster are open to the network. Ray would write the token into the home folder.
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    options: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "num_cpus": cpus,
        "object_store_memory": _STORE_MARGIN + 2 * model_bytes,
    }
    with _kept_folder() as folder, _environment(settings), _initialized("local", {**options, "_temp_dir": folder}):
        yield


@cache
def _token() -> str:
    return secrets.token_hex(32)  # one for all clusters of this process: Ray remembers it


@contextmanager
def _kept_folder() -> Iterator[str]:
    """Make a folder for the files of a cluster; both go when the block ends or the process does."""
    import psutil  # of Ray, which has imported it

    # Sockets lie in it, whose paths may have 107 bytes; that of a user's temporary folder may be longer than /tmp.
    short = "/tmp" if os.path.isdir("/tmp") and os.access("/tmp", os.W_OK) else None
    folder = os.path.realpath(tempfile.mkdtemp(prefix="lucid_maskrcnn_ray_", dir=short))
    keeper = subprocess.Popen(
        [sys.executable, ray_keeper.__file__, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(psutil.__file__))},
        start_new_session=True,  # Ctrl-C on a terminal is not for it
    )
    try:
        yield folder
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()


# ------------------------------------------------------------------ Ray's ways


@contextmanager
def _initialized(address: str, options: Mapping[str, Any]) -> Iterator[None]:
    import ray

    try:
        _initialize(ray, address, options)
        yield
    finally:
        ray.shutdown()


def _initialize(ray: Any, address: str, options: Mapping[str, Any]) -> None:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address, configure_logging=False, **options)
        return
    except SystemExit as error:
        ended = error
    except Exception as error:
        raise ConnectionError(_reason(address, error)) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():  # Ray sets its own
                if handler is not None:
                    signal.signal(number, handler)
    if address == "local":  # a SIGTERM came, which Ray's handler has taken
        signal.raise_signal(signal.SIGTERM)
    raise ConnectionError(_reason(address, ended)) from ended


def _reason(address: str, error: BaseException) -> str:
    sentence = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
    where = "A local Ray cluster could not be started" if address == "local" else f"No use of Ray at {address!r}"
    hint = " Start one with `ray start --head`." if address == "auto" and isinstance(error, ConnectionError) else ""
    return f"{where}: {sentence}{hint}"


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that Ray reads, and forget the token that it has read before."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    _forget_token()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _forget_token()


def _forget_token() -> None:
    with suppress(ImportError, AttributeError):  # Ray of before has no tokens
        from ray import _raylet

        module: Any = _raylet
        module.AuthenticationTokenLoader.instance().reset_cache()
        module.Config.initialize("")


@contextmanager
def _adapted(ray: Any) -> Iterator[None]:
    """Change what Ray does in this process and has no setting for."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    with (
        # It prints notes about workers that died on standard output, which is the caller's.
        _replaced(ray._private.worker, "print_to_stdstream", lambda *_, **__: None),
        # It would have each worker run `uv run` if this process was started so, in a copy of the current folder.
        _replaced(ray._private.ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", False),
    ):
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Replace what a module has, if it has it."""
    if not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
