from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from app_servers import Client, running_server, sentence

from lucid_maskrcnn import cli, save_weights
from lucid_maskrcnn.app.app_options import AppOptions
from lucid_maskrcnn.app.request_checks import check_headers, is_loopback, own_names
from lucid_maskrcnn.app.sessions import SessionStore
from lucid_maskrcnn.models import MaskRCNN


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "nowhere.safetensors"], "there is no file 'nowhere.safetensors'"),
        (["--weights", "NUCLE"], "Did you mean 'NUCLEI'?"),
        (["--port", "70000"], "--port must be"),
        (["--max-upload", "0"], "--max-upload must be"),
        (["--max-pixels", "-1"], "--max-pixels must be"),
        (["--host", "256.1.1.1"], "Cannot listen on '256.1.1.1'"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(["app", "--no-browser", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err


def test_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "lucid_maskrcnn.cli", "app", "--no-browser", "--port", port]
        run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert f"Cannot listen on '127.0.0.1', port {port}" in run.stderr
    assert run.stderr.count("\n") == 1


def test_own_weights_come_first_and_other_hosts_are_warned_of(tmp_path: Path) -> None:
    save_weights(MaskRCNN.from_file("NUCLEI"), tmp_path / "mine.safetensors")
    with running_server("--weights", str(tmp_path / "mine.safetensors"), "--host", "0.0.0.0") as server:
        client = Client(server)
        assert client.begun["weights"][0]["title"] == "mine.safetensors"
        assert client.begun["default_weights"] == client.begun["weights"][0]["key"]
        assert str(tmp_path) not in str(client.begun)
        (tmp_path / "mine.safetensors").unlink()
        image = client.ask("POST", "examples/histology").json()["image"]
        key = client.queue(image, weights=client.begun["default_weights"]).json()["prediction"]
        told = client.wait(key)["error"]
        assert "mine.safetensors" in told
        assert str(tmp_path) not in told
        missing = client.ask("POST", "examples/cats")
        assert (missing.status_code, sentence(missing)) == (404, "There is no such example.")
        code, error = server.stop()
    assert code == 0
    assert "there is no password" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_end_leaves_no_files_even_while_it_predicts(number: int, tmp_path: Path) -> None:
    with running_server(folder=tmp_path) as server:
        client = Client(server)
        image = client.ask("POST", "examples/fluorescence").json()["image"]
        client.queue(image)
        assert [path.is_file() for path in tmp_path.glob("*/*")] == [True]
        assert server.stop(number) == (0, "lucid-maskrcnn app: ended.\n")
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_server() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    names = own_names("0.0.0.0")
    check_headers("POST", {"host": f"{socket.gethostname()}:7860"}, names, loopback=False)
    check_headers("POST", {"host": "192.168.0.7:7860", "origin": "http://192.168.0.7:7860"}, names, loopback=False)
    with pytest.raises(Exception, match="does not answer for that name"):
        check_headers("GET", {"host": "evil.example"}, names, loopback=False)


def test_sessions_expire_and_are_bounded(tmp_path: Path) -> None:
    store = SessionStore(AppOptions(max_sessions=2, expire_after=1000.0, max_files=100), tmp_path)
    first = store.new()
    path = store.new_path()
    path.write_bytes(bytes(60))
    store.add_image(first, "a", path, 60)
    second = store.new()
    other = store.new_path()
    other.write_bytes(bytes(60))
    store.reserve(60)  # makes room: the file of the first goes
    assert not path.exists()
    store.release(60)
    store.add_image(second, "b", other, 60)
    store.find(first.key)
    third = store.new()  # the second was idle for longer
    assert not other.exists()
    for session in (first, third):
        session.used -= 2000
    store.expire()
    with pytest.raises(Exception, match="idle for too long"):
        store.find(first.key)
