"""Starting the page's server, and ending it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.validators import flag, function, instance, integer, optional, text

from .app_options import AppOptions
from .request_checks import is_loopback, own_names

__all__ = ["serve_app"]

_PORT = 7860
_TRIED = 50  # ports, if none is asked for
_MOST_REQUESTS = 200  # at a time


@answers_wrong_calls
def serve_app(
    options: AppOptions,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, which raise ``KeyboardInterrupt``.

    Parameters
    ----------
    options : AppOptions
        The model, and what visitors of the page may do.
    host : str
        The address to listen on. There is no password: on another than a loopback address everyone who can reach this
        machine can use it.
    port : int, optional
        By default 7860, or the next one that is free. 0 is any free one.
    browser : bool
        Whether to open the page in the user's browser.
    on_start : function, optional
        Is called with the address of the page, once it answers.

    Raises
    ------
    ImportError
        If the extra is not installed.
    OSError
        If the address cannot be listened on.
    TypeError, ValueError
        If an argument is not as above.
    """
    instance("options", options, AppOptions, "AppOptions")
    text("host", host)
    port = optional(partial(integer, minimum=0, maximum=65535))("port", port)
    flag("browser", browser)
    optional(partial(function, wanted="on_start(address)"))("on_start", on_start)
    try:
        import uvicorn

        from .routes import make_app
    except ImportError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise ImportError(
            "The page in the browser needs Starlette and uvicorn: pip install 'lucid-maskrcnn[app]'."
        ) from error
    listener = _listen(host, port)
    address = _address(host, listener.getsockname()[1])

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if on_start is not None:
                on_start(address)
            if browser and _has_browser():
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    with tempfile.TemporaryDirectory(prefix="lucid_maskrcnn_app_", ignore_cleanup_errors=True) as folder, listener:
        app = make_app(options, Path(folder), own_names(host), loopback=is_loopback(host))
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_REQUESTS,
            timeout_graceful_shutdown=2,
            ws="none",
        )
        with _ended_by_sigterm():
            asyncio.run(Server(config).serve([listener]))


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM end the block as Ctrl-C does: otherwise the process dies before the image files are deleted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wanted = [port] if port is not None else range(_PORT, _PORT + _TRIED)
    for number in wanted:
        listener = socket.socket(family, socket.SOCK_STREAM)
        if os.name != "nt":  # there it would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if port is not None or number == wanted[-1] or isinstance(error, socket.gaierror):
                reason = error.strerror or str(error)
                raise OSError(
                    f"Cannot listen on {host!r}, port {number}: {reason}; choose others with --host and --port."
                ) from error
    raise AssertionError("unreachable")


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def _has_browser() -> bool:
    """Whether a browser can be opened that does not take the terminal, as those of text do."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
