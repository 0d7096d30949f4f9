"""Watching over a group: each process tells rank 0 every second that it lives, and learns from it who does not.

The engines wait for ever for a process that does not answer. So rank 0 has a connection to each of the others, beside
the engine's own, on which both sides send a line a second. One that ends, is silent for too long, or has stopped with
an error is named to all; who waits for it in the engine by then, and is not told by the engine, ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .protocol import GroupError

__all__ = ["StartLimit", "Watch"]

_BEAT = 1.0  # seconds between two lines
_GRACE = 5.0  # seconds in which the engine may raise an error by itself, so that rank 0 can write a checkpoint
_LEFT = 10.0  # seconds that one that has left may be waited for: its last messages are still on their way
_CONNECT = 20.0  # seconds to connect to rank 0, whose machine the engine has reached already
_LAST_WORDS = 60.0  # seconds that rank 0 has to write a checkpoint after an error
_OWN_PAUSE = 5.0  # seconds without a turn of the loop, at most: this process itself has been stopped
_LONGEST_LINE = 4096  # bytes, of the first one

_WATCHER = """
import os, signal, sys, time
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    time.sleep(0.2)
    if os.getppid() != int(sys.argv[1]):
        sys.exit()
print(sys.argv[3], file=sys.stderr, flush=True)
os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


class StartLimit:
    """A context in which an engine is started, and after ``seconds`` this process is ended with a sentence.

    The engine waits for the others in a call that nothing interrupts, and holds the interpreter's lock: so a process
    of its own watches the clock.
    """

    def __init__(self, seconds: float, sentence: str) -> None:
        self._arguments = [str(os.getpid()), str(seconds), sentence]

    def __enter__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _WATCHER, *self._arguments])

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class Watch:
    """The connections of a group's processes, and the thread that watches them.

    Parameters
    ----------
    rank, size : int
        Of this process, and the number of processes.
    share : callable
        Takes what rank 0 has to tell and returns it on all ranks, by the engine.
    timeout : float
        Seconds of silence after which a process counts as lost.
    """

    def __init__(self, rank: int, size: int, share: Callable[[dict[str, Any] | None], Any], timeout: float) -> None:
        self._rank, self._size, self._timeout = rank, size, timeout
        self._places: dict[int, list[Any]] = {}  # as _place() returns them
        self._peers: dict[int, _Peer] = {}
        self._lock = threading.Lock()
        self._told = False
        self._frozen: list[Any] | None = None  # where a process is that does not answer
        self._lost: str | None = None
        self._lost_at = 0.0
        self._left: dict[int, float] = {}  # when others have left
        self._is_leaving = self._main_speaks = False
        self._waiting_since: float | None = None
        self._closed = threading.Event()
        self._connect(share)
        threading.Thread(target=self._run, name="lucid_maskrcnn_watch", daemon=True).start()

    # -------------------------------------------------------------- in the main thread

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the others in this block: it ends with GroupError, or this process does, if one of them is lost."""
        self._raise_if_lost()
        self._waiting_since = time.monotonic()
        try:
            yield
        except Exception as error:
            # The engine is often the first to notice; who it was, the connections tell a moment later.
            end = time.monotonic() + 3 * _BEAT
            while self._lost is None and time.monotonic() < end:
                time.sleep(0.05)
            self._raise_if_lost(error)
            if self._left:
                raise GroupError(f"{self._who(min(self._left))} has left the group.") from error
            if isinstance(error, GroupError):
                raise
            raise GroupError(f"The connection to the other ranks is broken ({error}).") from error
        finally:
            self._waiting_since = None

    def tell(self, message: str) -> None:
        """Tell all that this process stops, and why; a rank other than 0 then waits until rank 0 has ended."""
        if self._told or self._closed.is_set():
            return
        self._told = True
        with self._lock:
            for peer in self._peers.values():
                peer.send({"stopped": message})
        end = time.monotonic() + (2 * _BEAT if self._rank == 0 else _LAST_WORDS)
        while time.monotonic() < end and (self._rank == 0 or 0 in self._peers):
            time.sleep(_BEAT / 4)  # what is sent is read by then

    def leave(self) -> None:
        """Say that this process is about to close: who waits for it in anything else waits in vain."""
        self._is_leaving = True
        with self._lock:
            for peer in self._peers.values():
                peer.send({"leaving": True})

    def close(self) -> None:
        """End the watch: this process needs the others no more."""
        if not self._closed.is_set():
            self._closed.set()
            self._lost = None  # others may have left before
            with self._lock:
                for peer in self._peers.values():
                    peer.send({"done": True})
                    peer.close()

    def end_frozen(self) -> None:
        """End a process of this machine that does not answer: its launcher would wait for it for ever."""
        *machine, number = self._frozen or [None]
        if machine == _place()[:-1] and hasattr(signal, "SIGKILL") and _is_stopped(number):
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._closed.is_set()

    @property
    def speaks(self) -> bool:
        """Whether this process tells the user what has happened: one of them does."""
        main_is_lost = (self._lost or "").startswith("Rank 0 ") and not self._main_speaks
        return self._rank == (1 if main_is_lost else 0)

    @property
    def lost(self) -> str | None:
        """What has happened to another process, None if nothing has."""
        return self._lost

    def _raise_if_lost(self, cause: Exception | None = None) -> None:
        if self._lost is not None:
            raise GroupError(self._lost) from cause

    # -------------------------------------------------------------- connections

    def _connect(self, share: Callable[[dict[str, Any] | None], Any]) -> None:
        if self._rank:
            told = share(None)
            self._places[0] = told["place"]
            self._peers[0] = _Peer(_dial(told, self._rank))
            return
        token, end = secrets.token_hex(16), time.monotonic() + _CONNECT
        with _server() as server:
            server.settimeout(_BEAT / 4)
            where = {"hosts": _addresses(), "port": server.getsockname()[1]}
            share({**where, "token": token, "place": _place()})
            while len(self._peers) < self._size - 1:
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    # In threads: strangers who say nothing do not keep the others waiting.
                    threading.Thread(target=self._welcome, args=(connection, token, end), daemon=True).start()
                if time.monotonic() > end:
                    missing = min({*range(1, self._size)} - {*self._peers})
                    raise GroupError(
                        f"Rank {missing} cannot connect to rank 0 on {socket.gethostname()}: allow TCP connections "
                        "between the machines of the group."
                    )

    def _welcome(self, connection: socket.socket, token: str, end: float) -> None:
        """Take a connection if it is from a process of this group."""
        peer = _Peer(connection)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            said = peer.first_line(end)
            rank, place = said["rank"], said["place"]
            if secrets.compare_digest(said["token"], token) and 0 < rank < self._size:
                with self._lock:
                    if rank not in self._peers:
                        self._places[rank], self._peers[rank] = place, peer
                        return
        peer.close()

    # -------------------------------------------------------------- in the watching thread

    def _run(self) -> None:
        turn = time.monotonic()
        while not self._closed.wait(_BEAT / 4):
            now = time.monotonic()
            if now - turn > min(_OWN_PAUSE, self._timeout / 2):  # this process was stopped, or its machine slept
                for peer in self._peers.values():
                    peer.heard = now
            turn = now
            self._turn(now)
            self._miss(now)
            since, lost = self._waiting_since, self._lost
            if lost is not None and since is not None and now - max(since, self._lost_at) > _GRACE:
                self._end_process(lost)

    def _turn(self, now: float) -> None:
        for rank, peer in list(self._peers.items()):
            with self._lock:
                peer.beat(now)
            for said in peer.lines(now):
                if "stopped" in said:
                    self._main_speaks = self._main_speaks or rank == 0
                    self._note(f"{self._who(rank)} has stopped: {said['stopped']}", rank)
                elif "lost" in said:
                    self._note(said["lost"], rank)
                elif "leaving" in said or "done" in said:
                    self._left.setdefault(rank, now)
                    peer.is_done = peer.is_done or "done" in said
            if peer.is_closed and not peer.is_done:
                self._note(f"{self._who(rank)} has ended.", rank)
            elif not peer.is_closed and now - peer.heard > self._timeout:
                self._note(f"{self._who(rank)} has not answered for {self._timeout:g} seconds.", rank)
                self._frozen = self._places[rank]
            if peer.is_closed:
                with self._lock:
                    del self._peers[rank]

    def _miss(self, now: float) -> None:
        """Note that this process waits for one that has left the group."""
        since = self._waiting_since
        if since is None or self._is_leaving:
            return
        for rank, moment in self._left.items():
            if now - max(since, moment) > _LEFT:
                self._note(f"{self._who(rank)} has left the group.", rank)

    def _note(self, what: str, rank: int) -> None:
        """Keep the first loss, and tell the others if this is rank 0."""
        if self._lost is not None or self._closed.is_set():
            return
        self._lost_at, self._lost = time.monotonic(), what
        if self._rank == 0:
            with self._lock:
                for other, peer in self._peers.items():
                    if other != rank:
                        peer.send({"lost": what})

    def _who(self, rank: int) -> str:
        return f"Rank {rank} on {self._places[rank][0]}"

    def _end_process(self, lost: str) -> None:
        """End this process, whose main thread waits in the engine: no exception would reach it there."""
        if self.speaks:
            print(f"lucid-maskrcnn: {lost}", file=sys.stderr, flush=True)
        self.end_frozen()
        os._exit(1)


class _Peer:
    """A connection to another process, on which lines of JSON go both ways."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._rest = connection, b""
        self.heard, self._sent = time.monotonic(), 0.0
        self.is_closed = self.is_done = False
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def first_line(self, end: float) -> Any:
        """Wait for a line until a moment of the clock, and then for none any more."""
        while b"\n" not in self._rest:
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            more = self._socket.recv(_LONGEST_LINE)
            if not more or len(self._rest) > _LONGEST_LINE or time.monotonic() > end:
                raise ConnectionError
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        self._socket.setblocking(False)
        return json.loads(line)

    def lines(self, now: float) -> list[dict[str, Any]]:
        """Return the messages that have come, and note when."""
        try:
            while more := self._socket.recv(65536):
                self._rest, self.heard = self._rest + more, now
            self.close()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
        *whole, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in whole]

    def beat(self, now: float) -> None:
        """Send a line if it is time."""
        if now - self._sent >= _BEAT:
            self._sent = now
            self.send({})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; what cannot be sent is lost, as the other side is."""
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        self.is_closed = True
        self._socket.close()


def _server() -> socket.socket:
    """Return a socket that listens on a port that the system chooses."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _place() -> list[Any]:
    """Return machine, space of process numbers (a container has its own), and this process's number."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return [socket.gethostname(), space, os.getpid()]


def _is_stopped(number: int) -> bool:
    """Whether a process of this machine is stopped, as by SIGSTOP; one that is only busy ends by itself."""
    try:
        with open(f"/proc/{number}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:  # there is no /proc, or no such process
        return not os.path.isdir("/proc/self")


def _addresses() -> list[str]:
    """Return what other machines may reach this one by, the likeliest first."""
    found: list[str] = []
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Nothing is sent: this asks which of its addresses the system would use. The far ones are for documentation.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            found.append(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)]
    return list(dict.fromkeys([*found, socket.gethostname(), "127.0.0.1"]))


def _dial(told: dict[str, Any], rank: int) -> socket.socket:
    """Return a connection to rank 0, at the first of its addresses that answers."""
    machine = told["place"][0]
    here = machine == socket.gethostname()
    hosts = sorted(told["hosts"], key=lambda host: not (here and host == "127.0.0.1"))
    for host in hosts:
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, told["port"]), timeout=_CONNECT / len(hosts))
            hello = {"token": told["token"], "rank": rank, "place": _place()}
            connection.sendall(json.dumps(hello).encode() + b"\n")
            connection.setblocking(False)
            return connection
    raise GroupError(
        f"Rank {rank} on {socket.gethostname()} cannot connect to rank 0 on {machine} ({', '.join(hosts)}): allow "
        "TCP connections between the machines of the group."
    )
