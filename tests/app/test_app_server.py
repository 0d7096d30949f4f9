"""The page's server, asked over HTTP: its bounds, hostile files and requests, several people at once."""

from __future__ import annotations

import io
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas
import pytest
import requests
import tifffile
from app_servers import FLUORESCENCE, HISTOLOGY, Client, Server, running_server, sentence
from PIL import Image
from pycocotools.coco import COCO

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.app import routes
from lucid_maskrcnn.detections import Detections


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--max-upload", "2", "--max-pixels", "1") as running:
        yield running
        assert running.process.poll() is None  # nothing has ended it
        code, error = running.stop()
        assert (code, error) == (0, "lucid-maskrcnn app: ended.\n")  # and nothing was written: no traceback


@pytest.fixture(scope="module")
def found() -> Detections:
    return MaskRCNN.from_file("NUCLEI").eval().predict(FLUORESCENCE)[0]


@pytest.fixture(scope="module")
def predicted(server: Server) -> tuple[Client, str, dict]:
    client = Client(server)
    return client, *client.predict(FLUORESCENCE)


def png_header(width: int, height: int) -> bytes:
    """A PNG of which only the header is there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# ------------------------------------------------------------------ results


def test_objects_are_those_of_predict(predicted: tuple[Client, str, dict], found: Detections) -> None:
    content = predicted[2]
    assert (content["height"], content["width"]) == found.image_size
    assert [o["score"] for o in content["objects"]] == found.scores.numpy().tolist()
    assert [o["area"] for o in content["objects"]] == found.areas.tolist()
    assert [o["id"] for o in content["objects"]] == list(range(1, len(found) + 1))
    for shown, box in zip(content["objects"], found.compressed_masks.boxes, strict=True):
        points = np.array(re.findall(r"[\d.]+", shown["path"]), float).reshape(-1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        assert np.abs([*(low - box[:2]), *(high - box[2:])]).max() <= 1.01  # the outline is where the mask is


def test_picture_is_the_image(predicted: tuple[Client, str, dict]) -> None:
    client, key, _ = predicted
    picture = Image.open(io.BytesIO(client.ask("GET", f"predictions/{key}/picture").content))
    assert np.array_equal(np.asarray(picture), np.asarray(Image.open(FLUORESCENCE).convert("RGB")))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_files_hold_what_is_shown_with_its_numbers(
    predicted: tuple[Client, str, dict], found: Detections, tmp_path: Path
) -> None:
    client, key, _ = predicted
    ids = [2, 3, 7, 20]
    rows = np.array(ids) - 1
    files = {}
    for format in ("coco", "csv", "label-image", "drawing", "geojson", "imagej"):
        answer = client.export(key, format, ids)
        assert answer.status_code == 200, answer.text
        files[format] = (
            tmp_path / re.fullmatch(r'attachment; filename="([\w.-]+)"', answer.headers["Content-Disposition"])[1]
        )
        files[format].write_bytes(answer.content)
    ends = ["_coco.json", ".csv", "_label_image.tif", "_drawing.png", ".geojson", "_imagej.zip"]
    assert [path.name for path in files.values()] == [FLUORESCENCE.stem + end for end in ends]

    table = pandas.read_csv(files["csv"])
    assert table["id"].tolist() == ids
    assert table["area"].tolist() == found.areas[rows].tolist()
    assert "intensity_mean_0" in table
    coco = COCO(files["coco"])
    assert coco.getAnnIds() == ids
    for number in ids:
        mask = coco.annToMask(coco.loadAnns([number])[0]).astype(bool)
        assert np.array_equal(mask, found.compressed_masks.decode(number - 1))
    labels = tifffile.imread(files["label-image"])
    assert np.unique(labels).tolist() == [0, *ids]
    assert np.array_equal(labels > 0, np.any([found.compressed_masks.decode(i) for i in rows], axis=0))
    with Image.open(files["drawing"]) as drawing:
        assert drawing.format == "PNG"
    assert files["geojson"].read_text().count('"Feature"') == len(ids)
    assert files["imagej"].suffix == ".zip"


def test_file_of_no_object_is_written(predicted: tuple[Client, str, dict]) -> None:
    client, key, _ = predicted
    for format in ("coco", "csv", "label-image", "drawing"):
        assert client.export(key, format, []).status_code == 200, format


def test_image_without_objects(server: Server, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 80), np.uint8)).save(tmp_path / "black.png")
    client = Client(server)
    key, content = client.predict(tmp_path / "black.png")
    assert content["objects"] == []
    assert client.export(key, "coco", []).status_code == 200


def test_tiles_show_their_progress_and_find_the_objects(server: Server, tmp_path: Path) -> None:
    tile = np.asarray(Image.open(FLUORESCENCE).convert("RGB"))
    Image.fromarray(np.tile(tile, (2, 3, 1))).save(tmp_path / "mosaic.png")
    client = Client(server)
    _, content = client.predict(tmp_path / "mosaic.png", tiles="on", tile_size=384)
    assert content["tiles"] == 2 * 3
    shown = [o for o in content["objects"] if o["score"] > 0.5]
    assert 6 * 36 <= len(shown) <= 6 * 41


# ------------------------------------------------------------------ files


def test_choice_of_page_channels_and_intensity(server: Server, tmp_path: Path) -> None:
    gray = np.asarray(Image.open(FLUORESCENCE).convert("L")).astype(np.uint16) * 16
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([np.zeros_like(gray), gray]), photometric="minisblack")
    client = Client(server)
    about = client.send("stack.tif", (tmp_path / "stack.tif").read_bytes()).json()
    assert (about["pages"], about["channels"], about["deep"]) == (2, 1, True)
    without = client.queue(about["image"]).json()["prediction"]
    assert "it has 2 pages" in client.wait(without)["error"]
    key, content = client.predict(tmp_path / "stack.tif", page=1, intensity="max")
    assert sum(o["score"] > 0.5 for o in content["objects"]) > 30
    table = pandas.read_csv(io.BytesIO(client.export(key, "csv", [1]).content))
    assert table["intensity_mean_0"][0] > 255  # of the samples as they are


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"hello", "it is not an image"),
        (FLUORESCENCE.read_bytes()[:3000], "Cannot read"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "a HEIC image"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "an SVG drawing"),
        (b"II*\0" + bytes(40), "Cannot read"),
        (png_header(5000, 3000), "has 3000 × 5000 pixels, 15 million: this server takes 1 million"),
        (png_header(30000, 30000), "exceeds limit of"),
    ],
    ids=["empty", "text", "cut", "heic", "pdf", "svg", "tiff", "large", "bomb"],
)
def test_files_that_are_no_images_are_told_in_a_sentence(server: Server, content: bytes, said: str) -> None:
    client = Client(server)
    name = "<img src=x onerror=alert(1)>.png"
    answer = client.send(name, content)
    if answer.status_code == 201:  # its header is an image's
        state = client.wait(client.queue(answer.json()["image"]).json()["prediction"])
        assert state["state"] == "failed"
        told = state["error"]
    else:
        assert answer.status_code in (413, 415)
        told = sentence(answer)
    assert said in told
    assert "/tmp" not in told
    assert Client(server).send("a.png", FLUORESCENCE.read_bytes()).status_code == 201  # the server lives


def test_bytes_are_bounded_before_and_while_they_come(server: Server) -> None:
    client = Client(server)
    answer = client.send("large.png", bytes(2_000_001))
    assert (answer.status_code, sentence(answer)[:33]) == (413, "The file is larger than 2 MB, the")
    stream = (bytes(100_000) for _ in range(30))  # without a length
    with suppress(requests.ConnectionError):  # the server may close it before it has come
        assert client.send("stream.png", stream).status_code == 413
    assert client.send("a.png", FLUORESCENCE.read_bytes()).status_code == 201


def test_names_of_saved_files_are_plain(server: Server) -> None:
    client = Client(server)
    image = client.send('../../été "x"\r\nSet-Cookie: a=b.png', FLUORESCENCE.read_bytes()).json()
    assert "/" not in image["name"]
    key = client.queue(image["image"]).json()["prediction"]
    client.wait(key)
    header = client.export(key, "csv", [1]).headers["Content-Disposition"]
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._-]+\.csv"', header)


# ------------------------------------------------------------------ requests


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:7860"}, 403),
        ({"Host": "192.168.0.7"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost"}, 201),
        ({"Host": "[::1]:7860"}, 201),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
    ],
)
def test_other_names_and_origins_are_refused(server: Server, headers: dict[str, str], status: int) -> None:
    answer = requests.post(f"{server.address}/api/sessions", headers=headers)
    assert answer.status_code == status
    assert "evil" not in answer.text


def test_page_asks_no_other_server(server: Server) -> None:
    static = Path(routes.__file__).parent / "static"
    names = [file.name for file in static.iterdir() if file.name != "index.html"]
    assert len(names) > 10
    for path in ("", *names):
        answer = requests.get(f"{server.address}/{path}")
        assert answer.status_code == 200
        assert set(re.findall(r"https?://[^\"'\s]+", answer.text)) <= {"http://www.w3.org/2000/svg"}
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/routes.py", "/static/app.js", "/api/examples/..%2f..%2fx"]
)
def test_no_other_file_is_answered(server: Server, path: str) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(100).split()[1] in (b"404", b"405")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"weights": "/etc/passwd"}, "no such weights"),
        ({"weights": "../x.safetensors"}, "no such weights"),
        ({"weights": None}, "no such weights"),
        ({"image": "../../etc/passwd"}, "no longer has this image"),
        ({"image": 3}, "no longer has this image"),
        ({"nms_thresh": 2}, "nms_thresh must be"),
        ({"mask_thresh": "a"}, "mask_thresh must be"),
        ({"top_k": -1}, "top_k must be"),
        ({"page": -1}, "page must be"),
        ({"channels": [0, 1]}, "channels must be"),
        ({"intensity": [99, 1]}, "intensity must be"),
        ({"tiles": "yes"}, "tiles must be"),
        ({"tile_size": 1}, "tile_size must be"),
        ({"mask_nms": "yes"}, "mask_nms must be"),
    ],
)
def test_wrong_requests_are_told_in_a_sentence(server: Server, request_: dict[str, object], said: str) -> None:
    client = Client(server)
    image = client.send("a.png", FLUORESCENCE.read_bytes()).json()["image"]
    answer = client.ask("POST", "predictions", json={"image": image, "weights": "NUCLEI", **request_})
    assert answer.status_code in (400, 404)
    assert said in sentence(answer)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b'"' + b"a" * 5_000_000 + b'"'])
def test_bodies_that_are_no_requests(server: Server, body: bytes) -> None:
    client = Client(server)
    answer = client.ask("POST", "predictions", data=body)
    assert answer.status_code in (400, 413)
    assert sentence(answer)


@pytest.mark.parametrize("ids", [[0], [10_000], ["1"], "1", None, [1.5]])
def test_ids_are_checked(predicted: tuple[Client, str, dict], ids: object) -> None:
    client, key, _ = predicted
    answer = client.ask("POST", f"predictions/{key}/export", json={"format": "csv", "ids": ids})
    assert answer.status_code == 400
    assert sentence(answer).startswith("ids must be")


# ------------------------------------------------------------------ several people


def test_each_session_has_its_own(server: Server) -> None:
    clients = [Client(server) for _ in range(6)]
    files = [FLUORESCENCE, HISTOLOGY] * 3
    results: dict[int, tuple[str, dict]] = {}

    def work(number: int) -> None:
        results[number] = clients[number].predict(files[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (key, content) in results.items():
        assert content["name"] == files[number].name
        assert content["objects"] == results[number % 2][1]["objects"]
        other = clients[(number + 1) % 6]
        assert other.ask("GET", f"predictions/{key}/objects").status_code == 404
        assert other.export(key, "csv", [1]).status_code == 404
    stranger = requests.get(f"{server.address}/api/predictions/{results[0][0]}/objects")
    assert stranger.status_code == 404


def test_oldest_images_and_results_give_way(server: Server) -> None:
    client = Client(server)
    first, _ = client.predict(FLUORESCENCE)
    images = [client.send("a.png", FLUORESCENCE.read_bytes()).json()["image"] for _ in range(5)]
    gone = client.queue(images[0])
    assert (gone.status_code, sentence(gone)[:36]) == (404, "The server no longer has this image:")
    for _ in range(4):
        client.wait(client.queue(images[-1], page=9).json()["prediction"])  # which fails at once
    assert client.ask("GET", f"predictions/{first}/objects").status_code == 404


def test_prediction_can_be_canceled(server: Server) -> None:
    client, other = Client(server), Client(server)
    image = client.send("a.png", FLUORESCENCE.read_bytes()).json()["image"]
    busy = other.queue(other.send("a.png", FLUORESCENCE.read_bytes()).json()["image"]).json()["prediction"]
    key = client.queue(image).json()["prediction"]
    assert client.ask("DELETE", f"predictions/{key}").status_code == 200
    assert client.wait(key)["state"] in ("canceled", "done")
    assert other.wait(busy)["state"] == "done"


def test_menu_begins_with_nuclei(server: Server) -> None:
    menu = Client(server).begun["weights"]
    assert menu[0]["key"] == "NUCLEI"
    assert not menu[0]["download"]
    assert any("COCO_V1" in row["key"] for row in menu)
