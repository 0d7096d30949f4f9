"""Places that are not on this machine: objects in memory, a server of web pages, and one that speaks S3's protocol."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec


def objects(url: str) -> dict[str, bytes]:
    """Everything at a URL, by its name there."""
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return {name[len(root) :].lstrip("/"): system.cat_file(name) for name in system.find(root)}


def upload(folder: Path, url: str) -> None:
    """Copy the files of a folder and of its folders to a URL."""
    system, root = fsspec.core.url_to_fs(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            system.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *_: Any) -> None:
        pass


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server of S3's protocol in this process; yield its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
