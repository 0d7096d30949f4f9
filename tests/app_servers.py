"""The page's server in a process of its own, and clients of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

ASSETS = Path(__file__).parent.parent / "lucid_maskrcnn" / "assets"
FLUORESCENCE = ASSETS / "nuclei_fluorescence_small.png"
HISTOLOGY = ASSETS / "nuclei_histology_lilac.png"


@dataclass
class Server:
    """A running server: its address, without the last slash, and its process."""

    address: str
    process: subprocess.Popen[str]

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Press Ctrl-C, or send another signal; return the exit code and what was said on stderr."""
        self.process.send_signal(number)
        error = self.process.communicate()[1]
        return self.process.returncode, error


@contextmanager
def running_server(*arguments: str, folder: Path | None = None) -> Iterator[Server]:
    """Run ``lucid-maskrcnn app`` on a free port; ``folder`` is for its temporary files."""
    command = [sys.executable, "-m", "lucid_maskrcnn.cli", "app", "--no-browser", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ({} if folder is None else {"TMPDIR": str(folder)}),
        # A shell's background jobs ignore SIGINT, and their children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, process.communicate()
        yield Server(line.split()[2].rstrip("/"), process)
    finally:
        process.terminate()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


@dataclass
class Client:
    """What a page does."""

    server: Server
    http: requests.Session = field(default_factory=requests.Session)
    begun: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        answer = self.http.post(f"{self.server.address}/api/sessions")
        assert answer.status_code == 201, answer.text
        self.begun = answer.json()
        self.http.headers["Lucid-Session"] = self.begun["session"]

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.http.request(method, f"{self.server.address}/api/{path}", **options)

    def send(self, name: str, content: Any) -> requests.Response:
        return self.ask("POST", "images", params={"name": name}, data=content)

    def queue(self, image: str, **options: Any) -> requests.Response:
        return self.ask("POST", "predictions", json={"image": image, "weights": "NUCLEI", **options})

    def wait(self, key: str) -> dict[str, Any]:
        while True:
            state = self.ask("GET", f"predictions/{key}").json()
            if state["state"] in ("done", "failed", "canceled"):
                return state
            time.sleep(0.02)

    def predict(self, path: Path, **options: Any) -> tuple[str, dict[str, Any]]:
        """Return the key of a result and its content."""
        image = self.send(path.name, path.read_bytes()).json()["image"]
        key = self.queue(image, **options).json()["prediction"]
        state = self.wait(key)
        assert state["state"] == "done", state
        return key, self.ask("GET", f"predictions/{key}/objects").json()

    def export(self, key: str, format: str, ids: list[int]) -> requests.Response:
        return self.ask("POST", f"predictions/{key}/export", json={"format": format, "ids": ids})


def sentence(answer: requests.Response) -> str:
    return answer.json()["error"]
