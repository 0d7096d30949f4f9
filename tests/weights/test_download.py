"""The cache folder, and downloads from servers with and without errors."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests

from lucid_maskrcnn.weights import download
from lucid_maskrcnn.weights.download import cache_folder, cached, fetch
from lucid_maskrcnn.weights.registry import PublishedWeights, find_published, list_weights

CONTENT = np.random.default_rng(0).bytes(700_000)
HALF = len(CONTENT) // 2


# ------------------------------------------------------------------ a server with errors


@dataclass
class Server:
    """Serves ``content`` under every path; ``errors`` answer the first requests, one each."""

    content: bytes = CONTENT
    ranges: bool = True
    etag: str | None = '"one"'
    errors: list[Callable[[Handler], None]] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes of each answer's body, in the order of their beginnings
    url: str = ""
    halfway: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def entry(self, **changes: object) -> PublishedWeights:
        """Return published weights that lie here."""
        digest = hashlib.sha256(CONTENT).hexdigest()[:8]
        entry = replace(find_published("COCO_V1", "mask_rcnn_resnet_50_fpn"), file=f"model-{digest}.pth")
        entry = replace(entry, url=f"{self.url}/models/{entry.file}", hash_prefix=digest)
        return replace(entry, **changes)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HTTPServer

    def do_GET(self) -> None:
        mine = self.server.mine
        mine.requests.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        self.close_connection = True
        if mine.errors:
            mine.errors.pop(0)(self)
        else:
            self.regular()

    def regular(self, pace: Callable[[int], None] | None = None, stop: int | None = None) -> None:
        """Answer as a good server does; ``stop`` after so many bytes of the file, or as ``pace`` goes."""
        mine = self.server.mine
        first = self.first()
        if first is not None and first >= len(mine.content):
            self.head(416, 0, {"Content-Range": f"bytes */{len(mine.content)}"})
            return
        rest = mine.content[first or 0 :]
        last = len(mine.content) - 1
        marks = {} if first is None else {"Content-Range": f"bytes {first}-{last}/{last + 1}"}
        self.head(200 if first is None else 206, len(rest), marks)
        self.body(rest[:stop], pace)

    def first(self) -> int | None:
        """Return which byte the client wants first, None if the whole file is to be sent."""
        mine = self.server.mine
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if match is None or not mine.ranges or condition not in (None, mine.etag):
            return None
        return int(match[1])

    def head(self, status: int, length: int, marks: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        if self.server.mine.etag is not None:
            self.send_header("ETag", self.server.mine.etag)
        for name, value in marks.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, content: bytes, pace: Callable[[int], None] | None = None) -> None:
        sent = self.server.mine.sent
        answer = len(sent)
        sent.append(0)
        with contextlib.suppress(OSError):  # the client has gone
            for start in range(0, len(content), 50_000):
                piece = content[start : start + 50_000]
                sent[answer] += len(piece)  # before the client has it, and may look
                self.wfile.write(piece)
                if pace is not None:
                    pace(sent[answer])

    def log_message(self, format: str, *args: object) -> None:
        pass


class HTTPServer(ThreadingHTTPServer):
    daemon_threads = False
    mine: Server

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed leave broken connections."""


def drop(handler: Handler) -> None:
    handler.regular(stop=HALF)


def status(code: int) -> Callable[[Handler], None]:
    return lambda handler: handler.head(code, 0, {})


def hang_up(handler: Handler) -> None:
    """Accept and say nothing."""


def wait_halfway(handler: Handler) -> None:
    def pace(sent: int) -> None:
        if sent >= HALF:
            handler.wfile.flush()
            handler.server.mine.halfway.set()
            handler.server.mine.release.wait(60)

    handler.regular(pace)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Return what starts servers; all are stopped, and their threads joined, at the end."""
    running: list[tuple[Server, HTTPServer, threading.Thread]] = []

    def start(**settings: object) -> Server:
        mine = Server(**settings)
        server = HTTPServer(("127.0.0.1", 0), Handler)
        server.mine = mine
        mine.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((mine, server, thread))
        return mine

    yield start
    for mine, server, thread in running:
        mine.release.set()
        server.shutdown()
        thread.join()
        server.server_close()  # joins the threads of the requests


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no proxies, no pauses; return the folder of the files."""
    for name in list(os.environ):
        if name.startswith("LUCID_") or name.lower().endswith("_proxy") or name.endswith(("CA_BUNDLE", "CERT_FILE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LUCID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "_RETRY_DELAYS", (0.0,) * 4)
    return tmp_path / "home" / "weights"


def kept_files(folder: Path) -> set[str]:
    """Return the names of the files in the cache, without locks and records of hashes."""
    return {path.name for path in folder.iterdir() if path.suffix not in {".lock", ".checked"}}


# ------------------------------------------------------------------ downloads that succeed


def test_download_is_kept(serve: Callable[..., Server], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = serve()
    entry = server.entry()
    assert cached(entry) is None
    assert not folder.exists()  # asking changes nothing
    path = fetch(entry)
    assert path == folder / entry.file == cached(entry)
    assert path.read_bytes() == CONTENT
    assert kept_files(folder) == {entry.file}
    assert fetch(entry) == path
    assert [r["path"] for r in server.requests] == [f"/models/{entry.file}"]
    assert "range" not in server.requests[0]
    assert capfd.readouterr() == ("", "")  # no terminal, no bar


def test_progress_bar_on_a_terminal(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # else a thread of tqdm outlives the test
    drawn = []
    for progress, variable in ((True, "1"), (False, "1"), (True, "0")):
        monkeypatch.setenv("LUCID_WEIGHTS_PROGRESS", variable)
        monkeypatch.setattr(sys, "stderr", Terminal())
        entry = serve().entry(file=f"model{len(drawn)}.pth")
        fetch(entry, progress=progress)
        drawn.append(sys.stderr.getvalue())
    assert re.search(r"model0\.pth: 100%.*700k/700k .*B/s\]", drawn[0])
    assert drawn[1:] == ["", ""]


def test_dropped_download_is_resumed(serve: Callable[..., Server]) -> None:
    server = serve(errors=[drop])
    assert fetch(server.entry()).read_bytes() == CONTENT
    first, second = server.sent
    assert first == HALF
    assert second <= len(CONTENT) - HALF + 64 * 1024  # at most one chunk is lost
    assert server.requests[1]["if-range"] == '"one"'


def test_next_call_resumes_after_too_many_drops(serve: Callable[..., Server]) -> None:
    def nibble(handler: Handler) -> None:
        handler.regular(stop=100_000)

    server = serve(errors=[nibble] * 5)
    entry = server.entry()
    with pytest.raises(ConnectionError, match=r"dropped after 500000 of 700000 bytes.* which resumes the download"):
        fetch(entry)
    assert len(server.requests) == 5
    assert fetch(entry).read_bytes() == CONTENT
    assert server.requests[5]["range"] == "bytes=500000-"


def test_other_version_is_not_appended(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(etag='"new"')
    entry = server.entry()
    folder.mkdir(parents=True)
    (folder / f"{entry.file}.part").write_bytes(b"old" * 1000)
    (folder / f"{entry.file}.part.etag").write_text('"old"')
    assert fetch(entry).read_bytes() == CONTENT
    assert [r["if-range"] for r in server.requests] == ['"old"']
    assert kept_files(folder) == {entry.file}


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_damaged_part_without_strong_etag_is_found_by_the_hash(
    serve: Callable[..., Server], folder: Path, etag: str | None
) -> None:
    server = serve(etag=etag, errors=[drop])
    entry = server.entry()
    folder.mkdir(parents=True)
    (folder / f"{entry.file}.part").write_bytes(b"old" * 1000)
    assert fetch(entry).read_bytes() == CONTENT
    assert ["range" in r for r in server.requests] == [True, True, False]
    assert all("if-range" not in r for r in server.requests)


def test_server_without_ranges(serve: Callable[..., Server]) -> None:
    server = serve(ranges=False, errors=[drop])
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert server.sent == [HALF, len(CONTENT)]


def test_server_sends_another_range(serve: Callable[..., Server]) -> None:
    def other_range(handler: Handler) -> None:
        handler.head(206, 10, {"Content-Range": f"bytes 0-9/{len(CONTENT)}"})
        handler.body(CONTENT[:10])

    server = serve(errors=[drop, other_range])
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert [r.get("range", "")[:6] for r in server.requests] == ["", "bytes=", ""]


@pytest.mark.parametrize("size", [len(CONTENT) + 1, len(CONTENT)])
def test_partial_file_as_long_as_the_file_or_longer(serve: Callable[..., Server], folder: Path, size: int) -> None:
    """Complete but killed before it was renamed: nothing is sent again. Too long: all of it is."""
    server = serve()
    entry = server.entry()
    folder.mkdir(parents=True)
    (folder / f"{entry.file}.part").write_bytes((CONTENT + b"x")[:size])
    assert fetch(entry).read_bytes() == CONTENT
    assert server.sent == ([] if size == len(CONTENT) else [len(CONTENT)])


def test_server_errors_are_retried(serve: Callable[..., Server]) -> None:
    server = serve(errors=[status(500), status(429), hang_up])
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert len(server.requests) == 4


def test_slow_server(serve: Callable[..., Server]) -> None:
    server = serve(errors=[lambda handler: handler.regular(lambda sent: time.sleep(0.03))])
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_redirects_are_followed(serve: Callable[..., Server]) -> None:
    target = serve()
    server = serve(errors=[lambda handler: handler.head(302, 0, {"Location": f"{target.url}/elsewhere"})])
    assert fetch(server.entry()).read_bytes() == CONTENT
    assert [r["path"] for r in target.requests] == ["/elsewhere"]


def test_response_without_length(serve: Callable[..., Server]) -> None:
    def until_the_end(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.body(CONTENT)

    assert fetch(serve(errors=[until_the_end]).entry()).read_bytes() == CONTENT


def test_weights_without_published_hash(serve: Callable[..., Server]) -> None:
    entry = serve(errors=[drop]).entry(hash_kind=None, hash_prefix=None)
    assert fetch(entry).read_bytes() == CONTENT
    assert cached(entry) is not None


def test_md5(serve: Callable[..., Server]) -> None:
    entry = serve().entry(hash_kind="md5", hash_prefix=hashlib.md5(CONTENT).hexdigest()[:6])
    assert fetch(entry).read_bytes() == CONTENT
    with pytest.raises(ValueError, match="its md5 should begin with 000000"):
        fetch(replace(entry, hash_prefix="000000"))


def test_proxy(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    entry = proxy.entry(url="http://weights.invalid/models/x.pth")  # a host that does not exist
    assert fetch(entry).read_bytes() == CONTENT
    assert [r["path"] for r in proxy.requests] == ["http://weights.invalid/models/x.pth"]


# ------------------------------------------------------------------ mirrors


def test_base_comes_first_and_mirrors_last(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    base, publisher, mirror = serve(errors=[status(404)]), serve(errors=[status(404)]), serve()
    monkeypatch.setenv("LUCID_WEIGHTS_BASE", f"{base.url}/copies/")
    monkeypatch.setenv("LUCID_WEIGHTS_MIRRORS", f" {mirror.url}/, {serve().url}")
    entry = publisher.entry()
    assert fetch(entry).read_bytes() == CONTENT
    paths = [[r["path"] for r in server.requests] for server in (base, publisher, mirror)]
    assert paths == [[f"/copies/models/{entry.file}"], [f"/models/{entry.file}"], [f"/models/{entry.file}"]]


def test_every_failed_url_is_named(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    base, publisher = serve(errors=[status(403)]), serve(errors=[status(404)])
    monkeypatch.setenv("LUCID_WEIGHTS_BASE", base.url)
    with pytest.raises(ConnectionError) as caught:
        fetch(publisher.entry())
    assert re.search(rf"{base.url}\S+: the server answered 403 Forbidden; {publisher.url}\S+: .*404", str(caught.value))


# ------------------------------------------------------------------ downloads that fail


def test_wrong_content_is_not_kept(serve: Callable[..., Server], folder: Path) -> None:
    page = b"<html>Please log in.</html>"
    server = serve(content=page)
    entry = server.entry()
    wanted, got = entry.hash_prefix, hashlib.sha256(page).hexdigest()[:8]
    with pytest.raises(ValueError, match=rf"sha256 should begin with {wanted} and begins with {got} \(27 bytes\)"):
        fetch(entry)
    assert kept_files(folder) == set()
    assert len(server.requests) == 1


def test_wrong_content_length(serve: Callable[..., Server], folder: Path) -> None:
    def too_long(handler: Handler) -> None:
        handler.head(200, len(CONTENT) + 5, {})
        handler.body(CONTENT)

    def too_short(handler: Handler) -> None:
        handler.head(200, HALF, {})
        handler.body(CONTENT)

    server = serve(errors=[too_long])
    assert fetch(server.entry()).read_bytes() == CONTENT  # more was asked for, and there was none
    short = serve(errors=[too_short]).entry(file="short.pth")
    with pytest.raises(ValueError, match=r"\(350000 bytes\)"):
        fetch(short)
    assert cached(short) is None
    assert "short.pth.part" not in kept_files(folder)


@pytest.mark.parametrize("length", ["none", "true", "chunked", "huge"])
def test_endless_download_is_stopped(serve: Callable[..., Server], folder: Path, length: str) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        if length == "true":
            handler.send_header("Content-Length", str(10**12))
        elif length == "huge":
            handler.send_header("Content-Length", "9" * 5000)
        elif length == "chunked":
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = bytes(50_000)
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n" if length == "chunked" else piece)

    server = serve(errors=[endless])
    with pytest.raises(ConnectionError, match=r"the server sends more than 1400000 bytes, which the file cannot have"):
        fetch(server.entry(size=700_000))
    assert kept_files(folder) == set()
    assert len(server.requests) == 1


def test_endless_rest_of_a_download_is_stopped(serve: Callable[..., Server], folder: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.head(206, 10**12, {"Content-Range": f"bytes {HALF}-{10**12}/{10**12 + 1}"})
        handler.body(bytes(2_000_000))

    entry = serve(errors=[drop, endless]).entry(size=None)
    with pytest.raises(ConnectionError, match=r"the server sends more than 1073741824 bytes"):
        fetch(entry)
    assert kept_files(folder) == set()


@pytest.mark.parametrize("header", ["Content-Range", "Content-Length"])
def test_sizes_of_thousands_of_digits(serve: Callable[..., Server], header: str) -> None:
    def long(handler: Handler) -> None:
        handler.send_response(206 if header == "Content-Range" else 200)
        handler.send_header("Connection", "close")
        handler.send_header(header, f"bytes {HALF}-9/{'9' * 5000}" if header == "Content-Range" else "²")
        handler.end_headers()
        handler.body(CONTENT)

    assert fetch(serve(errors=[drop, long] if header == "Content-Range" else [long]).entry()).read_bytes() == CONTENT


def test_server_that_sends_a_byte_now_and_then(
    serve: Callable[..., Server], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(handler: Handler) -> None:
        handler.head(200, len(CONTENT), {})
        with contextlib.suppress(OSError):
            for byte in CONTENT:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(0.01)

    monkeypatch.setattr(download, "_STALL", (0.1, 1000))
    server = serve(errors=[drip] * 5)
    with pytest.raises(ConnectionError, match=r"bytes: only \d+ bytes arrived in 0.1 seconds"):
        fetch(server.entry())
    assert fetch(server.entry()).read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_other_schemes_are_refused(serve: Callable[..., Server], folder: Path, target: str) -> None:
    server = serve(errors=[lambda handler: handler.head(302, 0, {"Location": target})])
    with pytest.raises(ConnectionError, match=r"could not be downloaded: .*No connection adapters"):
        fetch(server.entry())
    assert kept_files(folder) == set()


def test_redirects_in_a_circle(serve: Callable[..., Server]) -> None:
    server = serve()
    server.errors += [lambda handler: handler.head(302, 0, {"Location": f"{server.url}/again"})] * 40
    with pytest.raises(ConnectionError, match=r"could not be downloaded: .*Exceeded 30 redirects"):
        fetch(server.entry())


def test_other_version_without_hash_and_etag_is_not_appended(serve: Callable[..., Server]) -> None:
    def first_version(handler: Handler) -> None:
        handler.head(200, len(CONTENT), {})
        handler.body(bytes(HALF))

    server = serve(errors=[first_version], etag=None)
    assert fetch(server.entry(hash_kind=None, hash_prefix=None)).read_bytes() == CONTENT


def test_404_is_not_retried(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(errors=[status(404)])
    entry = server.entry()
    with pytest.raises(ConnectionError) as caught:
        fetch(entry)
    assert len(server.requests) == 1
    text = str(caught.value)
    for part in ("COCO_V1 of mask_rcnn_resnet_50_fpn", "404 Not Found", entry.url, repr(str(folder)), repr(entry.file)):
        assert str(part) in text
    assert caught.value.__suppress_context__  # the user sees one sentence


def test_refused_connection_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    entry = replace(list_weights("resnet18")[0], url=f"http://127.0.0.1:{port}/x.pth")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("must not wait without a network"))
    try:
        raise KeyError("what the caller is busy with")
    except KeyError:
        with pytest.raises(ConnectionError, match=r"x\.pth: Connection refused\. Try again, .* or download http://127"):
            fetch(entry)


def test_unknown_url_scheme() -> None:
    entry = replace(list_weights("resnet18")[0], url="gopher://x/y.pth")
    with pytest.raises(ConnectionError, match="No connection adapters"):
        fetch(entry)


def test_refused_proxy(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    server = serve()
    with pytest.raises(ConnectionError, match="Connection refused"):
        fetch(server.entry())
    assert server.requests == []


def test_cache_folder_is_a_file(serve: Callable[..., Server], folder: Path) -> None:
    folder.parent.write_text("not a folder")
    server = serve()
    with pytest.raises(OSError, match=r"cannot be saved in .*home/weights': .*set LUCID_HOME to a writable folder"):
        fetch(server.entry())
    assert server.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_cache_folder_is_read_only(serve: Callable[..., Server], folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=r"cannot be saved in .*: Permission denied"):
            fetch(serve().entry())
    finally:
        folder.chmod(0o700)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_disk_full(serve: Callable[..., Server], folder: Path) -> None:
    entry = serve().entry()
    folder.mkdir(parents=True)
    (folder / f"{entry.file}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot be saved in .*: No space left on device\. Free disk space"):
        fetch(entry)


# ------------------------------------------------------------------ offline, and the hash


def test_offline_uses_no_network(serve: Callable[..., Server], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    entry = server.entry()
    monkeypatch.setenv("LUCID_WEIGHTS_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as caught:
        fetch(entry)
    for part in ("LUCID_WEIGHTS_OFFLINE=1", entry.url, repr(str(folder)), repr(entry.file)):
        assert str(part) in str(caught.value)
    assert server.requests == []
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / entry.file).write_bytes(CONTENT)
    assert fetch(entry) == folder / entry.file


def test_damaged_file_is_reported_offline_and_replaced_online(
    serve: Callable[..., Server], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = serve().entry()
    path = fetch(entry)
    path.write_bytes(CONTENT[:-1])
    assert cached(entry) is None
    monkeypatch.setenv("LUCID_WEIGHTS_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"is not what was published as COCO_V1 .* begins with \w{8} \(699999 bytes\)"):
        fetch(entry)
    monkeypatch.setenv("LUCID_WEIGHTS_OFFLINE", "0")
    assert fetch(entry).read_bytes() == CONTENT


def test_hash_is_computed_once(serve: Callable[..., Server], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = serve().entry()
    computed = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: computed.append(args) or original(*args))
    path = fetch(entry)
    assert len(computed) == 1
    assert fetch(entry) == cached(entry) == path
    assert len(computed) == 1
    os.utime(path, (1, 1))  # modification time changed
    assert fetch(entry) == cached(entry) == path
    assert len(computed) == 2
    (folder / f"{entry.file}.checked").write_text("not JSON")
    assert cached(entry) == path
    assert len(computed) == 3


def test_cache_folder_is_lucids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_HOME", "elsewhere")
    assert cache_folder() == Path("elsewhere/weights")
    monkeypatch.delenv("LUCID_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lucid" / "weights"
    script = (
        "import lucid.weights\nfrom lucid_maskrcnn.weights.download import cache_folder\n"
        "assert getattr(lucid.weights, 'CACHE_HOME', cache_folder()) == cache_folder()"  # 2.9 has no weights yet
    )
    environment = {**os.environ, "LUCID_HOME": "some/where"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"LUCID_SSL_CA_BUNDLE": "ours.pem", "SSL_CERT_FILE": "theirs.pem"}, "ours.pem"),
        ({"SSL_CERT_FILE": "theirs.pem"}, "theirs.pem"),
        ({"LUCID_SSL_CA_BUNDLE": "ours.pem", "LUCID_SSL_NO_VERIFY": "1"}, False),
    ],
)
def test_certificate_variables(variables: dict[str, str], expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = []

    def get(*args: object, verify: object, **settings: object) -> None:
        given.append(verify)
        raise requests.exceptions.SSLError("certificate verify failed")

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        fetch(list_weights("resnet18")[0])
    assert given == [expected]


def test_missing_certificate_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_SSL_CA_BUNDLE", "/nowhere.pem")
    entry = replace(list_weights("resnet18")[0], url="https://127.0.0.1:1/x.pth")
    with pytest.raises(ConnectionError, match=r"/nowhere\.pem"):
        fetch(entry)


# ------------------------------------------------------------------ several processes

SCRIPT = """
import sys
from dataclasses import replace
from lucid_maskrcnn.weights.download import fetch
from lucid_maskrcnn.weights.registry import list_weights
url, file, prefix = sys.argv[1:]
entry = replace(list_weights("resnet18")[0], url=url, file=file, hash_prefix=prefix)
print("ready", flush=True)
print(fetch(entry), flush=True)
"""


def start(entry: PublishedWeights) -> subprocess.Popen[str]:
    """Start a process that fetches; return once it is about to."""
    command = [sys.executable, "-c", SCRIPT, str(entry.url), entry.file, str(entry.hash_prefix)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        pytest.fail(process.communicate()[1])
    return process


def test_two_processes_download_once(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(errors=[wait_halfway])
    entry = server.entry()
    with start(entry) as one, start(entry) as two:
        assert server.halfway.wait(60)
        # Whoever is second has begun to wait by now, or will find the file: either is right.
        server.release.set()
        answers = [process.communicate() for process in (one, two)]
    assert [out for out, _ in answers] == [f"{folder / entry.file}\n"] * 2, answers
    assert server.sent == [len(CONTENT)]
    assert kept_files(folder) == {entry.file}


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_killed_download_is_resumed(serve: Callable[..., Server], folder: Path, name: str) -> None:
    server = serve(errors=[wait_halfway])
    entry = server.entry()
    part = folder / f"{entry.file}.part"
    with start(entry) as process:
        assert server.halfway.wait(60)
        while process.poll() is None and (not part.exists() or part.stat().st_size == 0):
            time.sleep(0.01)
        process.send_signal(getattr(signal, name))
        process.communicate()
    server.release.set()
    assert process.returncode != 0
    assert cached(entry) is None
    arrived = part.stat().st_size
    assert arrived > 0
    assert fetch(entry).read_bytes() == CONTENT  # the dead process's lock does not block
    assert server.requests[1]["range"] == f"bytes={arrived}-"
    assert server.sent[1] == len(CONTENT) - arrived
    assert kept_files(folder) == {entry.file}


def test_message_while_waiting_for_another_process(
    serve: Callable[..., Server], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "_QUIET_WAIT", 0.01)
    server = serve(errors=[wait_halfway])
    entry = server.entry()
    other = threading.Thread(target=fetch, args=(entry,))
    other.start()
    assert server.halfway.wait(60)
    timer = threading.Timer(0.2, server.release.set)
    timer.start()
    assert fetch(entry).read_bytes() == CONTENT
    timer.join()
    other.join()
    assert f"Waiting for another process that downloads {entry.file}." in capsys.readouterr().err
    assert server.sent == [len(CONTENT)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fetch(None), "entry must be an entry of list_weights\\(\\), got None"),
        (lambda: fetch("COCO_V1"), "entry must be an entry of list_weights\\(\\), got 'COCO_V1'"),
        (lambda: cached(Path("x")), "entry must be an entry of list_weights"),
        (lambda: fetch(list_weights()[0], progress="no"), "progress must be True or False, got 'no'"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()
