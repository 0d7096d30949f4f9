"""The folder of downloaded weights, and downloads into it.

The folder and the environment variables are Lucid's own (as of 2.16), read at each call:

``LUCID_HOME``
    Files are kept in ``$LUCID_HOME/weights``; by default in ``~/.cache/lucid/weights``.
``LUCID_WEIGHTS_OFFLINE``
    ``1``: no network access. Files that were put into the folder by hand are used.
``LUCID_WEIGHTS_BASE``, ``LUCID_WEIGHTS_MIRRORS``
    A host tried before the publisher, and a comma-separated list of hosts tried after it. The path of the published
    URL is appended: ``https://download.pytorch.org/models/x.pth`` becomes ``<base>/models/x.pth``.
``LUCID_WEIGHTS_PROGRESS``
    ``0``: no progress bars.
``LUCID_SSL_CA_BUNDLE``, ``LUCID_SSL_NO_VERIFY``
    A file of certificates to trust; ``1`` to trust any certificate.

``HTTPS_PROXY``, ``HTTP_PROXY``, ``NO_PROXY`` and ``REQUESTS_CA_BUNDLE`` work as in other programs.

A file ``x`` may have companions: ``x.part`` and ``x.part.etag`` hold an unfinished download and the ETag of its
version; ``x.lock`` is held by the process that downloads; ``x.checked`` holds the size and modification time for which
the hash was last found correct. A hash is computed again only if these two have changed: it takes 0.3 to 0.5 seconds
for 170 MB.

A download ends early if it is larger than the published file can be (twice the published size, or 1 GiB if none is
published), or slower than 1 KiB a second.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .. import validators
from ..atomic import write_json
from ..json_text import read_json
from ..streams import progress_bar, shows_progress
from .registry import PublishedWeights, file_hash

if TYPE_CHECKING:
    import requests

__all__ = ["cache_folder", "cached", "fetch"]

_TIMEOUTS = (10.0, 60.0)  # seconds to connect, and between two chunks of the response
_RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0)  # seconds before each new try after a dropped connection or a server error
_CHUNK_SIZE = 64 * 1024  # bytes; a dropped connection loses at most one chunk
_MAX_SIZE = 2**30  # bytes of a file whose size is not published
_STALL = (60.0, 60 * 1024)  # in each so many seconds at least so many bytes must arrive
_QUIET_WAIT = 1.0  # seconds of waiting for another process before a message says so
_RETRYABLE_STATUSES = {408, 425, 429, 500, 502, 503, 504}  # HTTP status codes worth retrying


def cache_folder() -> Path:
    """Return the folder of downloaded weights, which is Lucid's own; it need not exist."""
    home = os.environ.get("LUCID_HOME")
    return (Path.home() / ".cache" / "lucid" if home is None else Path(home)) / "weights"


def cached(entry: PublishedWeights) -> Path | None:
    """Return the file of published weights if it is on this machine and its hash is the published one, else None."""
    validators.instance("entry", entry, PublishedWeights, "an entry of list_weights()")
    if entry.url is None:
        return Path(__file__).resolve().parent.parent / "assets" / entry.file
    path = cache_folder() / entry.file
    return path if path.is_file() and _has_published_hash(path, entry) else None


def fetch(entry: PublishedWeights, *, progress: bool = True) -> Path:
    """Return the file of published weights, downloading it if it is not on this machine.

    An interrupted download is resumed. Two processes that need the same file download it once.

    Parameters
    ----------
    entry : PublishedWeights
        From :func:`lucid_maskrcnn.weights.list_weights`.
    progress : bool
        Whether to draw a progress bar, on a terminal or in a notebook.

    Raises
    ------
    FileNotFoundError
        If the file is not there and ``LUCID_WEIGHTS_OFFLINE=1`` forbids the download.
    ConnectionError
        If the download failed; the part that arrived is kept for the next call.
    ValueError
        If the downloaded file does not have the published hash; it is deleted.
    OSError
        If the folder cannot be written, or the disk is full.
    """
    progress = validators.flag("progress", progress)
    found = cached(entry)
    if found is not None:
        return found
    path = cache_folder() / entry.file
    if os.environ.get("LUCID_WEIGHTS_OFFLINE", "0") == "1":
        raise _offline_error(entry, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _file_lock(path, progress):
            if cached(entry) is None:  # else another process downloaded it while this one waited
                _download(entry, path, progress and os.environ.get("LUCID_WEIGHTS_PROGRESS", "1") != "0")
    except _DownloadError as error:
        raise ConnectionError(
            f"{_title(entry)} could not be downloaded: {error}. Try again, which resumes the download, or "
            f"{_manual_download(entry, path)}."
        ) from None
    except OSError as error:
        raise _write_error(error, entry, path) from error
    return path


# ------------------------------------------------------------------ checks of the hash


def _has_published_hash(path: Path, entry: PublishedWeights) -> bool:
    if entry.hash_prefix is None:
        return True
    with suppress(OSError, ValueError):  # no record, or a broken one
        if read_json(_check_record(path)) == _file_state(path, entry):
            return True
    if _hash_mismatch(path, entry) is not None:
        return False
    _record_check(path, entry)
    return True


def _check_record(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked")


def _file_state(path: Path, entry: PublishedWeights) -> list[int | str | None]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, entry.hash_prefix]


def _record_check(path: Path, entry: PublishedWeights) -> None:
    """Record that the file has the published hash."""
    with suppress(OSError):  # in a read-only folder the hash is computed each time
        write_json(_check_record(path), _file_state(path, entry))


def _hash_mismatch(path: Path, entry: PublishedWeights) -> str | None:
    """Return in words how a file's hash differs from the published one, None if it does not."""
    kind, prefix = entry.hash_kind, entry.hash_prefix
    if kind is None or prefix is None:
        return None
    digest = file_hash(path, kind)
    if digest.startswith(prefix):
        return None
    size = path.stat().st_size
    return f"its {kind} should begin with {prefix} and begins with {digest[: len(prefix)]} ({size} bytes)"


# ------------------------------------------------------------------ error messages


class _DownloadError(Exception):
    """A download failed, for the reason in the message; ``retryable`` if another try may succeed."""

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.retryable = retryable


def _title(entry: PublishedWeights) -> str:
    return f"{entry.name} of {entry.architecture}"


def _manual_download(entry: PublishedWeights, path: Path) -> str:
    return f"download {entry.url} by other means and save it in {str(path.parent)!r} as {path.name!r}"


def _offline_error(entry: PublishedWeights, path: Path) -> Exception:
    if path.is_file():
        return ValueError(
            f"{str(path)!r} is not what was published as {_title(entry)}: {_hash_mismatch(path, entry)}. "
            f"LUCID_WEIGHTS_OFFLINE=1 forbids downloading it again: unset it, or {_manual_download(entry, path)}."
        )
    return FileNotFoundError(
        f"{_title(entry)} is not on this machine and LUCID_WEIGHTS_OFFLINE=1 forbids downloading it: "
        f"unset it, or {_manual_download(entry, path)}."
    )


def _write_error(error: OSError, entry: PublishedWeights, path: Path) -> OSError:
    kind = PermissionError if isinstance(error, PermissionError) else OSError
    return kind(
        f"{_title(entry)} cannot be saved in {str(path.parent)!r}: {error.strerror or error}. Free disk space, or set "
        "LUCID_HOME to a writable folder."
    )


def _reason(error: BaseException) -> str:
    error = _innermost(error)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _innermost(error: BaseException) -> BaseException:
    """Return the original error inside this one, which requests and urllib3 wrap several times."""
    # not __context__, which may be an exception that the caller is handling
    inner = (error.__cause__, getattr(error, "reason", None), *error.args)
    deeper = next((e for e in inner if isinstance(e, BaseException)), None)
    return error if deeper is None else _innermost(deeper)


# ------------------------------------------------------------------ downloads


@contextmanager
def _file_lock(path: Path, progress: bool) -> Iterator[None]:
    """Hold the lock of a file, so that only one process at a time is inside the block."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=_QUIET_WAIT)
    except Timeout:
        if progress:
            print(f"Waiting for another process that downloads {path.name}.", file=sys.stderr)
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()


class _PartialFile:
    """An unfinished download, and the ETag of the version that it belongs to."""

    def __init__(self, path: Path, entry: PublishedWeights) -> None:
        self.file = path.with_name(f"{path.name}.part")
        self.etag_file = path.with_name(f"{path.name}.part.etag")
        self.max_size = _MAX_SIZE if entry.size is None else 2 * entry.size  # published sizes are rounded
        self._has_hash = entry.hash_prefix is not None

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def headers(self) -> dict[str, str]:
        """Return the request headers that ask for the rest, if the server still has the same version."""
        if not self.size:
            return {}
        if not self._has_hash and not self.etag_file.exists():
            self.discard()  # nothing would tell that the rest belongs to another version
            return {}
        condition = {"If-Range": self.etag_file.read_text(encoding="latin-1")} if self.etag_file.exists() else {}
        return {"Range": f"bytes={self.size}-", **condition}

    def begin(self, etag: str | None) -> None:
        self.file.open("wb").close()
        self.etag_file.unlink(missing_ok=True)
        if etag is not None and not etag.startswith("W/"):  # servers do not resume by a weak ETag
            self.etag_file.write_text(etag, encoding="latin-1")

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self.etag_file.unlink(missing_ok=True)

    def check_size(self, size: int) -> None:
        """Refuse a size that the published file cannot have."""
        if size > self.max_size:
            self.discard()
            raise _DownloadError(f"the server sends more than {self.max_size} bytes, which the file cannot have")

    def finish(self, path: Path) -> None:
        os.replace(self.file, path)
        self.etag_file.unlink(missing_ok=True)


def _candidate_urls(url: str) -> list[str]:
    """Return the URLs to try, in Lucid's order: the base, the publisher, the mirrors."""
    path = url.split("/", 3)[3]
    base = os.environ.get("LUCID_WEIGHTS_BASE", "")
    mirrors = os.environ.get("LUCID_WEIGHTS_MIRRORS", "").split(",")
    copies = [f"{host.strip().rstrip('/')}/{path}" if host.strip() else "" for host in (base, *mirrors)]
    return [candidate for candidate in dict.fromkeys([copies[0], url, *copies[1:]]) if candidate]


def _download(entry: PublishedWeights, path: Path, progress: bool) -> None:
    import requests

    assert entry.url is not None
    part = _PartialFile(path, entry)
    errors = []
    with requests.Session() as session:
        for url in _candidate_urls(entry.url):
            try:
                _download_from(session, url, part, entry, progress)
            except _DownloadError as error:
                errors.append(f"{url}: {error}")
            else:
                part.finish(path)
                _record_check(path, entry)
                return
    raise _DownloadError("; ".join(errors))


def _download_from(
    session: requests.Session, url: str, part: _PartialFile, entry: PublishedWeights, progress: bool
) -> None:
    """Complete the partial file from ``url`` and check its hash."""
    resumed = _request_until_complete(session, url, part, progress)
    mismatch = _hash_mismatch(part.file, entry)
    if mismatch is not None and resumed:  # the earlier part may be damaged, or of another version
        part.discard()
        _request_until_complete(session, url, part, progress)
        mismatch = _hash_mismatch(part.file, entry)
    if mismatch is not None:
        part.discard()
        raise ValueError(f"The file at {url} is not what was published as {_title(entry)}: {mismatch}.")


def _request_until_complete(session: requests.Session, url: str, part: _PartialFile, progress: bool) -> bool:
    """Repeat the request until the file is complete; return whether a part of it is from an earlier request."""
    resumed = False
    for delay in (*_RETRY_DELAYS, None):
        resumed |= part.size > 0
        try:
            _request(session, url, part, progress)
            return resumed
        except _DownloadError as error:
            if delay is None or not error.retryable:
                raise
        time.sleep(delay)
    raise AssertionError("the last try returns or raises")


def _request(session: requests.Session, url: str, part: _PartialFile, progress: bool) -> None:
    """Make one request and append what arrives to the partial file."""
    import requests

    headers = {"Accept-Encoding": "identity", **part.headers()}
    try:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUTS, verify=_verify())
    except (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise _DownloadError(_reason(error)) from error  # another try would fail the same way
    except (requests.ConnectionError, requests.Timeout) as error:
        # A server that drops the connection may answer the next time; without any connection there is no network.
        retryable = part.size > 0 or isinstance(_innermost(error), (ConnectionResetError, TimeoutError))
        raise _DownloadError(_reason(error), retryable=retryable) from error
    except OSError as error:  # all other errors of requests, and a missing file of certificates
        raise _DownloadError(_reason(error)) from error
    with response:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise _DownloadError(f"the server redirects to {response.url}, which is not encrypted")
        if response.status_code == 416 and part.size:
            _check_complete(response, part)
        else:
            _write_body(response, part, _begin_or_resume(response, part), progress)


def _verify() -> bool | str:
    if os.environ.get("LUCID_SSL_NO_VERIFY", "0") == "1":
        return False
    # With True, requests reads its own environment variables.
    return os.environ.get("LUCID_SSL_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True


def _check_complete(response: requests.Response, part: _PartialFile) -> None:
    """Check that a partial file which the server cannot continue is complete, else discard it."""
    if response.headers.get("Content-Range", "").strip() != f"bytes */{part.size}":
        part.discard()
        raise _DownloadError("the server's file is smaller than the part that had arrived", retryable=True)


def _begin_or_resume(response: requests.Response, part: _PartialFile) -> int | None:
    """Prepare the partial file for the response's body; return the size of the whole file if the server states it."""
    if response.status_code == 206:
        match = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "").strip()
        )
        if match is None or int(match[1]) != part.size:
            part.discard()
            raise _DownloadError("the server sent another range than was requested", retryable=True)
        return None if match[2] == "*" else int(match[2])
    if response.status_code != 200:
        raise _DownloadError(
            f"the server answered {response.status_code} {response.reason}",
            retryable=response.status_code in _RETRYABLE_STATUSES,
        )
    part.begin(response.headers.get("ETag"))
    length = re.fullmatch(r"[0-9]{1,18}", response.headers.get("Content-Length", "").strip())
    return int(length[0]) if length and "Content-Encoding" not in response.headers else None


def _write_body(response: requests.Response, part: _PartialFile, total: int | None, progress: bool) -> None:
    part.check_size(total or 0)
    bar = progress_bar(
        total=total,
        initial=part.size,
        unit="B",
        unit_scale=True,
        desc=part.file.name.removesuffix(".part"),
        disable=not shows_progress(progress),
    )
    with bar, part.file.open("ab") as file:
        try:
            for chunk in _received(response):
                file.write(chunk)
                bar.update(len(chunk))
                part.check_size(file.tell())
        except _BrokenConnectionError as error:
            arrived = f"{file.tell()} of {total} bytes" if total else f"{file.tell()} bytes"
            raise _DownloadError(f"the connection dropped after {arrived}: {error}", retryable=True) from error
        file.flush()
        os.fsync(file.fileno())
    if total is not None and part.size != total:
        raise _DownloadError(f"{part.size} of {total} bytes arrived", retryable=True)


class _BrokenConnectionError(Exception):
    """A response ended early, for the reason in the message."""


def _received(response: requests.Response) -> Iterator[bytes]:
    """Yield what arrives as it arrives, so that a server which sends a byte now and then is noticed."""
    read = response.raw.read1 if hasattr(response.raw, "read1") else response.raw.read  # urllib3 from 2.1 on
    begin, count = time.monotonic(), 0
    seconds, least = _STALL
    while True:
        try:
            chunk = read(_CHUNK_SIZE, decode_content=True)
        except Exception as error:  # of urllib3, of its ssl and of the socket
            raise _BrokenConnectionError(_reason(error)) from error
        if not chunk:
            return
        yield chunk
        count += len(chunk)
        if time.monotonic() - begin > seconds:
            if count < least:
                raise _BrokenConnectionError(f"only {count} bytes arrived in {seconds:g} seconds")
            begin, count = time.monotonic(), 0
