"""The folder of downloaded weights, and the downloads into it.

The folder is Lucid's own, and so are the environment variables (those of 2.16, read at each call):

``LUCID_HOME``
    The files lie in ``$LUCID_HOME/weights``; by default in ``~/.cache/lucid/weights``.
``LUCID_WEIGHTS_OFFLINE``
    ``1``: no network is touched. Files put into the folder by hand are found all the same.
``LUCID_WEIGHTS_BASE``, ``LUCID_WEIGHTS_MIRRORS``
    Hosts of copies, tried before the publisher and (a list, with commas) after it. The path of the published address
    is put behind them: ``https://download.pytorch.org/models/x.pth`` is looked for at ``<base>/models/x.pth``.
``LUCID_WEIGHTS_PROGRESS``
    ``0``: no progress bars.
``LUCID_SSL_CA_BUNDLE``, ``LUCID_SSL_NO_VERIFY``
    A file of certificates to trust; ``1`` to trust any.

``HTTPS_PROXY``, ``HTTP_PROXY``, ``NO_PROXY`` and ``REQUESTS_CA_BUNDLE`` hold as everywhere.

Beside a file ``x`` may lie ``x.part`` and ``x.part.etag``, what has arrived of it and of which version; ``x.lock``,
held by the process that downloads it; and ``x.checked``, the size and time of change with which its hash was found
right. A hash is computed once, and again only if these two have changed: it takes 0.3 to 0.5 seconds for 170 MB.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import write_json
from .registry import PublishedWeights, file_hash

if TYPE_CHECKING:
    import requests

__all__ = ["cache_folder", "cached", "fetch"]

_TIMEOUTS = (10.0, 60.0)  # seconds until a server accepts, and between two pieces of its answer
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before another try after a cut connection or a server's fault
_PIECE = 64 * 1024  # bytes; what a cut connection loses at most
_PATIENCE = 1.0  # seconds before saying that another process is being waited for
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # states of a server that may be others in a moment


def cache_folder() -> Path:
    """Return the folder that downloaded weights are kept in, Lucid's own; it need not exist."""
    home = os.environ.get("LUCID_HOME")
    return (Path.home() / ".cache" / "lucid" if home is None else Path(home)) / "weights"


def cached(entry: PublishedWeights) -> Path | None:
    """Return the file of published weights if it is on this machine and what was published, else None."""
    if entry.url is None:
        return Path(__file__).resolve().parent.parent / "assets" / entry.file
    path = cache_folder() / entry.file
    return path if path.is_file() and _is_known_good(path, entry) else None


def fetch(entry: PublishedWeights, *, progress: bool = True) -> Path:
    """Return the file of published weights, which is downloaded if it is not on this machine.

    A download that was cut, killed or interrupted goes on where it ended. Two processes that want the same file
    download it once.

    Parameters
    ----------
    entry : PublishedWeights
        From :func:`lucid_maskrcnn.weights.registry.find_published`.
    progress : bool
        Whether to draw a bar on a terminal.

    Raises
    ------
    FileNotFoundError
        If the file is not there and ``LUCID_WEIGHTS_OFFLINE=1`` forbids to download it.
    ConnectionError
        If it could not be downloaded; what has arrived is kept for the next call.
    ValueError
        If what arrived is not what was published; nothing of it is kept.
    OSError
        If the folder cannot be written, or has no room left.
    """
    found = cached(entry)
    if found is not None:
        return found
    path = cache_folder() / entry.file
    if os.environ.get("LUCID_WEIGHTS_OFFLINE", "0") == "1":
        raise _forbidden(entry, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path, progress):
            if cached(entry) is None:  # else another process brought it while this one waited
                _download(entry, path, progress and os.environ.get("LUCID_WEIGHTS_PROGRESS", "1") != "0")
    except _DownloadError as trouble:
        raise ConnectionError(
            f"{_title(entry)} could not be downloaded: {trouble}. Try again, which goes on where this ended, or "
            f"{_by_hand(entry, path)}."
        ) from None
    except OSError as error:
        raise _unwritable(error, entry, path) from error
    return path


# ------------------------------------------------------------------ what is there


def _is_known_good(path: Path, entry: PublishedWeights) -> bool:
    if entry.hash_prefix is None:
        return True
    with suppress(OSError, ValueError):  # no note, or a broken one
        if json.loads(_note(path).read_text(encoding="utf-8")) == _state(path, entry):
            return True
    if _fault(path, entry) is not None:
        return False
    _remember(path, entry)
    return True


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked")


def _state(path: Path, entry: PublishedWeights) -> list[int | str | None]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, entry.hash_prefix]


def _remember(path: Path, entry: PublishedWeights) -> None:
    """Note that the file's hash was right."""
    with suppress(OSError):  # in a folder that only others may fill the hash is computed each time
        write_json(_note(path), _state(path, entry))


def _fault(path: Path, entry: PublishedWeights) -> str | None:
    """Return in words how a file's hash differs from the published one, or None."""
    kind, prefix = entry.hash_kind, entry.hash_prefix
    if kind is None or prefix is None:
        return None
    digest = file_hash(path, kind)
    if digest.startswith(prefix):
        return None
    size = path.stat().st_size
    return f"its {kind} should begin with {prefix} and begins with {digest[: len(prefix)]} ({size} bytes)"


# ------------------------------------------------------------------ words


class _DownloadError(Exception):
    """A download failed, for a reason in words; ``passing`` if trying again may help."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def _title(entry: PublishedWeights) -> str:
    return f"{entry.name} of {entry.architecture}"


def _by_hand(entry: PublishedWeights, path: Path) -> str:
    return f"download {entry.url} by other means and put it into {str(path.parent)!r} as {path.name!r}"


def _forbidden(entry: PublishedWeights, path: Path) -> Exception:
    if path.is_file():
        return ValueError(
            f"{str(path)!r} is not what was published as {_title(entry)}: {_fault(path, entry)}. "
            f"LUCID_WEIGHTS_OFFLINE=1 forbids to download it again: {_by_hand(entry, path)}, or unset the variable."
        )
    return FileNotFoundError(
        f"{_title(entry)} is not on this machine and LUCID_WEIGHTS_OFFLINE=1 forbids to download it: "
        f"{_by_hand(entry, path)}, or unset the variable."
    )


def _unwritable(error: OSError, entry: PublishedWeights, path: Path) -> OSError:
    kind = PermissionError if isinstance(error, PermissionError) else OSError
    return kind(
        f"{_title(entry)} cannot be kept in {str(path.parent)!r}: {error.strerror or error}. Make room there, or set "
        "LUCID_HOME to a folder that can be written."
    )


def _reason(error: BaseException) -> str:
    error = _bottom(error)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _bottom(error: BaseException) -> BaseException:
    """Return the error that was wrapped, often several times, into this one."""
    # not __context__: that leads on to whatever the caller was handling
    inner = (error.__cause__, getattr(error, "reason", None), *error.args)
    deeper = next((e for e in inner if isinstance(e, BaseException)), None)
    return error if deeper is None else _bottom(deeper)


# ------------------------------------------------------------------ downloads


@contextmanager
def _alone(path: Path, progress: bool) -> Iterator[None]:
    """Hold the lock of a file: of all processes only one is inside."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        if progress:
            print(f"Waiting for another process that downloads {path.name}.", file=sys.stderr)
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()


class _Partial:
    """What has arrived of a file."""

    def __init__(self, path: Path) -> None:
        self.file = path.with_name(f"{path.name}.part")
        self.tag = path.with_name(f"{path.name}.part.etag")

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def headers(self) -> dict[str, str]:
        """Return how to ask for the rest, and only of the version that the beginning is of."""
        if not self.size:
            return {}
        tag = {"If-Range": self.tag.read_text(encoding="latin-1")} if self.tag.exists() else {}
        return {"Range": f"bytes={self.size}-", **tag}

    def begin(self, etag: str | None) -> None:
        self.file.open("wb").close()
        self.tag.unlink(missing_ok=True)
        if etag is not None and not etag.startswith("W/"):  # servers do not resume by a weak tag
            self.tag.write_text(etag, encoding="latin-1")

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        os.replace(self.file, path)
        self.tag.unlink(missing_ok=True)


def _sources(url: str) -> list[str]:
    """Return where to look, in Lucid's order: the base, the publisher, the mirrors."""
    tail = url.split("/", 3)[3]
    base = os.environ.get("LUCID_WEIGHTS_BASE", "")
    mirrors = os.environ.get("LUCID_WEIGHTS_MIRRORS", "").split(",")
    copies = [f"{host.strip().rstrip('/')}/{tail}" if host.strip() else "" for host in (base, *mirrors)]
    return [source for source in dict.fromkeys([copies[0], url, *copies[1:]]) if source]


def _download(entry: PublishedWeights, path: Path, progress: bool) -> None:
    import requests

    assert entry.url is not None
    part = _Partial(path)
    troubles = []
    with requests.Session() as session:
        for url in _sources(entry.url):
            try:
                _bring(session, url, part, entry, progress)
            except _DownloadError as trouble:
                troubles.append(f"{url}: {trouble}")
            else:
                part.finish(path)
                _remember(path, entry)
                return
    raise _DownloadError("; ".join(troubles))


def _bring(session: requests.Session, url: str, part: _Partial, entry: PublishedWeights, progress: bool) -> None:
    """Complete the partial file from ``url`` and check it."""
    resumed = _transfer(session, url, part, progress)
    fault = _fault(part.file, entry)
    if fault is not None and resumed:  # its beginning may have been of another version, or spoilt
        part.discard()
        _transfer(session, url, part, progress)
        fault = _fault(part.file, entry)
    if fault is not None:
        part.discard()
        raise ValueError(f"what {url} sent is not what was published as {_title(entry)}: {fault}.")


def _transfer(session: requests.Session, url: str, part: _Partial, progress: bool) -> bool:
    """Ask until all has arrived; return whether it came in more than one piece."""
    resumed = False
    for pause in (*_PAUSES, None):
        resumed |= part.size > 0
        try:
            _ask(session, url, part, progress)
            return resumed
        except _DownloadError as trouble:
            if pause is None or not trouble.passing:
                raise
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _ask(session: requests.Session, url: str, part: _Partial, progress: bool) -> None:
    """Make one request and keep what comes."""
    import requests

    headers = {"Accept-Encoding": "identity", **part.headers()}
    try:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUTS, verify=_verify())
    except (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise _DownloadError(_reason(error)) from error  # another try would only take longer
    except (requests.ConnectionError, requests.Timeout) as error:
        # A server that hangs up may answer the next time; where there was none from the start there is no network.
        passing = part.size > 0 or isinstance(_bottom(error), (ConnectionResetError, TimeoutError))
        raise _DownloadError(_reason(error), passing=passing) from error
    except OSError as error:  # all other errors of requests, and a file of certificates that is not there
        raise _DownloadError(_reason(error)) from error
    with response:
        if response.status_code == 416 and part.size:
            _settle(response, part)
        else:
            _receive(response, part, _prepare(response, part), progress)


def _verify() -> bool | str:
    if os.environ.get("LUCID_SSL_NO_VERIFY", "0") == "1":
        return False
    # True: requests then looks at its own variables
    return os.environ.get("LUCID_SSL_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True


def _settle(response: requests.Response, part: _Partial) -> None:
    """There is nothing behind what has arrived: it is whole, or of no use."""
    if response.headers.get("Content-Range", "").strip() != f"bytes */{part.size}":
        part.discard()
        raise _DownloadError("the server has less than had arrived", passing=True)


def _prepare(response: requests.Response, part: _Partial) -> int | None:
    """Make the partial file ready for the answer; return the size of the whole file if the server says it."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != part.size:
            part.discard()
            raise _DownloadError("the server sent another part than was asked for", passing=True)
        return None if match[2] == "*" else int(match[2])
    if response.status_code != 200:
        raise _DownloadError(
            f"the server answered {response.status_code} {response.reason}",
            passing=response.status_code in _PASSING,
        )
    part.begin(response.headers.get("ETag"))
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None


def _receive(response: requests.Response, part: _Partial, total: int | None, progress: bool) -> None:
    import requests
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        initial=part.size,
        unit="B",
        unit_scale=True,
        desc=part.file.name.removesuffix(".part"),
        disable=None if progress else True,  # None: drawn on a terminal only
    )
    with bar, part.file.open("ab") as file:
        try:
            for piece in response.iter_content(_PIECE):
                file.write(piece)
                bar.update(len(piece))
        except requests.RequestException as error:
            arrived = f"{file.tell()} of {total or 'unknown many'} bytes"
            raise _DownloadError(f"the connection was cut after {arrived}: {_reason(error)}", passing=True) from error
        file.flush()
        os.fsync(file.fileno())
    if total is not None and part.size != total:
        raise _DownloadError(f"{part.size} of {total} bytes arrived", passing=True)
