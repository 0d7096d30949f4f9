"""How the processes of a group watch over each other."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lucid_maskrcnn.training.groups import GroupError, watch
from lucid_maskrcnn.training.groups.watch import Watch


class Telling:
    """What an engine does before the watch is set up: it gives all ranks what rank 0 has."""

    def __init__(self) -> None:
        self.told: Any = None
        self.ready = threading.Event()

    def __call__(self, message: Any) -> Any:
        if message is not None:
            self.told = json.loads(json.dumps(message))
            self.ready.set()
        assert self.ready.wait(20)
        return self.told


@pytest.fixture
def watches() -> Any:
    made: list[Watch] = []

    def make(size: int, timeout: float = 20) -> list[Watch]:
        telling = Telling()
        with ThreadPoolExecutor(size) as pool:
            made.extend(pool.map(lambda rank: Watch(rank, size, telling, timeout), range(size)))
        return made

    yield make
    for watcher in made:
        watcher.close()


def lost(watcher: Watch) -> str:
    """Wait until a process is lost, and return what has happened to it."""
    while watcher.lost is None:
        time.sleep(0.01)
    return watcher.lost


def test_a_process_that_stops_tells_all_why(watches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LAST_WORDS", 0.5)
    _, stopping, third = made = watches(3)
    stopping.tell("its disk is full")
    here = socket.gethostname()
    assert lost(made[0]) == f"Rank 1 on {here} has stopped: its disk is full"
    assert lost(third) == f"Rank 1 on {here} has stopped: its disk is full"
    with pytest.raises(GroupError, match="its disk is full"), third.waiting():
        pass


def test_a_process_whose_connection_ends_is_lost(watches: Any) -> None:
    first, second, third = watches(3)
    second._peers[0].close()  # as the system does for a process that ends
    assert lost(first) == lost(third) == f"Rank 1 on {socket.gethostname()} has ended."


def test_an_error_of_the_engine_is_explained(watches: Any) -> None:
    first, second = watches(2)
    second._peers[0].close()
    with pytest.raises(GroupError, match=r"Rank 1 on .* has ended") as caught, first.waiting():
        raise RuntimeError("[ring] failed")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_the_engine_alone(watches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_BEAT", 0.1)
    first, _ = watches(2)
    with pytest.raises(GroupError, match=r"broken \(\[ring\] failed\)"), first.waiting():
        raise RuntimeError("[ring] failed")


def test_a_silent_process_is_lost(watches: Any) -> None:
    first, second = watches(2, 1.5)
    with second._lock:  # its thread waits for it
        assert lost(first) == f"Rank 1 on {socket.gethostname()} has not answered for 1.5 seconds."
        first._frozen = None  # it is this very process


def test_processes_that_are_done_are_not_missed(watches: Any) -> None:
    first, second, third = watches(3)
    second.close()
    third.close()
    time.sleep(1)
    assert first.lost is None
    first.close()


@pytest.mark.parametrize("how", ["leave", "close"])
def test_a_process_that_leaves_is_not_waited_for(watches: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(watch, "_LEFT", 0.3)
    monkeypatch.setattr(watch, "_GRACE", 60)  # it would end this process
    first, second = watches(2)
    with contextlib.suppress(GroupError), first.waiting():
        getattr(second, how)()
        assert lost(first) == f"Rank 1 on {socket.gethostname()} has left the group."


def test_what_is_told_after_the_end_is_told_to_nobody(watches: Any) -> None:
    first, second = watches(2)
    first.close()
    second.close()
    second.tell("an error of the program")  # at once


def test_strangers_are_not_let_in(watches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hello = {"rank": 1, "place": ["stranger", "", 1]}
    telling = Telling()
    held: list[socket.socket] = []

    def knock() -> None:
        assert telling.ready.wait(20)
        silent = socket.create_connection(("127.0.0.1", telling.told["port"]))
        silent.sendall(b"{")  # and no more
        held.append(silent)
        for line in (
            b"GET / HTTP/1.1\n",
            b"[" * 4000 + b"\n",
            b"x" * 100_000,
            json.dumps({**hello, "token": "guessed"}).encode() + b"\n",
            b"[]\n",
        ):
            with socket.create_connection(("127.0.0.1", telling.told["port"])) as connection:
                connection.sendall(line)
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(10) == b""  # it is closed

    with ThreadPoolExecutor(3) as pool:
        knocking = pool.submit(knock)
        first = pool.submit(Watch, 0, 2, telling, 20)
        knocking.result()
        second = pool.submit(Watch, 1, 2, telling, 20)
        made = [first.result(), second.result()]
    assert {rank: place[0] for rank, place in made[0]._places.items()} == {1: socket.gethostname()}
    for watcher in made:
        watcher.close()
    held[0].close()


def test_a_rank_that_cannot_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_CONNECT", 0.3)
    with pytest.raises(GroupError, match=r"Rank 1 cannot connect to rank 0 on .*: allow TCP connections"):
        Watch(0, 2, lambda message: message, 5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = {"hosts": ["127.0.0.1"], "port": port, "token": "t", "place": ["far", "", 1]}
    with pytest.raises(GroupError, match=r"Rank 1 on .* cannot connect to rank 0 on far \(127.0.0.1\)"):
        Watch(1, 2, lambda _: told, 5)
