"""The page without a server, examples/browser, as it is built, in a real browser."""

from __future__ import annotations

import base64
import json
import re
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import shapely.geometry
from app_servers import FLUORESCENCE, HISTOLOGY
from browser_pages import NEEDS_CHROMIUM, ViewerPage, contrast, running_browser
from lucid import Tensor
from PIL import Image

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, save_weights
from lucid_maskrcnn.annotation_formats.csv_tables import table_text
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.images import open_image
from lucid_maskrcnn.inference import predict_tiled
from lucid_maskrcnn.inference.tile_grid import TileGrid
from lucid_maskrcnn.inference.tile_merging import TiledObjects, merge_tiles
from lucid_maskrcnn.masks import trace_parts
from lucid_maskrcnn.masks.runs import bounding_slices
from lucid_maskrcnn.ops import mask_patches

from .page_images import write_animations, write_readable, write_unreadable

BUILD = Path(__file__).parents[2] / "examples" / "browser" / "build.py"
# A name that is no secure context: no service worker, one thread.
PLAIN = "plain.test"

pytestmark = [
    NEEDS_CHROMIUM,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, which comes with Node.js"),
]


class Page(ViewerPage):
    """The page without a server."""

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(lambda: self.js("return window.page?.model && document.documentElement.dataset.ready"))

    def give(self, path: Path) -> None:
        self.part("#file").send_keys(str(path))

    def send(self, path: Path) -> None:
        self.give(path)
        self.until(lambda: not self.js("return page.running"))

    def sentences(self) -> list[str]:
        return [part.text for part in self.driver.find_elements("css selector", ".message p")]

    def call(self, module: str, function: str, *arguments: Any) -> Any:
        """Call a function of one of the page's modules with values of JSON, "u8:", "f32:" or "file:" in base64."""
        script = """
          const [module, name, given, done] = arguments;
          const bytes = (text) => Uint8Array.from(atob(text.slice(text.indexOf(":") + 1)), (c) => c.charCodeAt(0));
          const kinds = {u8: bytes, f32: (t) => new Float32Array(bytes(t).buffer), file: (t) => new Blob([bytes(t)])};
          const made = (_, value) => (/^(u8|f32|file):/.test(value) ? kinds[value.split(":")[0]](value) : value);
          const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
          const answer = (value) => done(JSON.stringify(value, plain));
          import(new URL(module, location)).then((m) => m[name](...JSON.parse(given, made)))
            .then(answer, (error) => answer({error: error.message}))
        """
        return json.loads(self.driver.execute_async_script(script, f"./{module}", function, json.dumps(arguments)))


def packed(kind: str, content: Any) -> str:
    return f"{kind}:{base64.b64encode(bytes(content)).decode()}"


class Quiet(SimpleHTTPRequestHandler):
    """A plain file host, which sends no more than it must."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a file host has: the page in a folder."""
    out = tmp_path_factory.mktemp("site") / "page"
    done = subprocess.run([sys.executable, str(BUILD), str(out)], capture_output=True, text=True, check=False)
    if "npm could not fetch" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return out.parent


@pytest.fixture(scope="module")
def host(site: Path) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running_browser(tmp_path_factory.mktemp("browser"), f"--host-resolver-rules=MAP {PLAIN} 127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def opened(driver: Any, host: ThreadingHTTPServer) -> Page:
    page = Page(driver)
    page.open(f"http://localhost:{host.server_port}/page/")
    return page


@pytest.fixture
def page(opened: Page) -> Page:
    return opened


@pytest.fixture(scope="module")
def shown(opened: Page) -> Page:
    """The page with the objects of the fluorescence example."""
    opened.driver.get_log("performance")
    opened.send(FLUORESCENCE)
    return opened


@pytest.fixture(scope="module")
def found() -> Detections:
    return MaskRCNN.from_file("NUCLEI").eval().predict(FLUORESCENCE)[0]


# ------------------------------------------------------------------ the model's answers


def test_detections_are_those_of_predict(shown: Page, found: Detections) -> None:
    objects = shown.js("return page.result.objects.map(({element, ...rest}) => rest)")
    assert len(objects) == len(found) > 40
    assert np.abs(np.array([o["box"] for o in objects]) - found.boxes.numpy()).max() < 0.02
    assert np.abs(np.array([o["score"] for o in objects]) - found.scores.numpy()).max() < 2e-4
    assert [(o["id"], o["label"], o["name"]) for o in objects] == [(i + 1, 1, "nucleus") for i in range(len(found))]
    areas = np.array([o["area"] for o in objects])
    assert np.abs(areas - found.areas).sum() <= 1e-4 * found.areas.sum() + 1
    same = [o["parts"] for o in objects] == plain(trace_parts(found.compressed_masks))
    assert same or np.abs(areas - found.areas).sum() > 0


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_several_threads_from_a_plain_file_host(page: Page) -> None:
    assert page.js("return crossOriginIsolated")
    assert page.js("return page.threads") == min(page.js("return navigator.hardwareConcurrency"), 8) > 1
    assert "threads" in page.part("#loading").text


def test_nothing_is_sent(shown: Page, host: ThreadingHTTPServer) -> None:
    messages = [json.loads(line["message"])["message"] for line in shown.driver.get_log("performance")]
    asked = [m["params"]["request"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [r for r in asked if not r["url"].startswith("blob:")] == []  # since the image was given
    own = f"http://localhost:{host.server_port}/page/"
    names = shown.js("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(names) > 10
    assert [name for name in names if not name.startswith((own, f"blob:{own}"))] == []


# ------------------------------------------------------------------ what is shown


def numbers_above(found: Detections, score: float) -> list[int]:
    return [i + 1 for i, value in enumerate(found.scores.numpy().tolist()) if value > score]


def test_objects_are_pointed_at_filtered_and_switched_off(shown: Page, found: Detections) -> None:
    page, sure = shown, numbers_above(found, 0.5)
    assert page.visible() == sure
    assert page.part("#count").text == f"{len(sure)} of {len(found)} objects"
    for number in (1, 5):
        page.point_at(number)
        score, area = float(found.scores[number - 1].item()), found.areas[number - 1]
        assert page.part("#tip").text == f"nucleus {number}\nscore {score:.3f}\narea {area} pixels"
        assert page.part("tr.on").get_attribute("data-id") == str(number)
    page.slide(0.05)
    assert page.visible() == list(range(1, len(found) + 1))
    page.slide(0.97)
    assert page.visible() == numbers_above(found, 0.97) != sure
    page.slide(0.5)
    page.part("tr[data-id='2'] .hide").click()
    assert page.visible() == [i for i in sure if i != 2]
    page.part("#show-hidden").click()
    assert page.visible() == sure
    page.part("#show-masks").click()
    assert page.js("return getComputedStyle(page.shown[0].element).strokeOpacity") == "0"
    page.part("#show-masks").click()


def test_saved_files_are_those_of_the_package(shown: Page, found: Detections) -> None:
    page = shown
    page.slide(0.9)
    page.part("tr[data-id='3'] .hide").click()
    numbers = [i for i in numbers_above(found, 0.9) if i != 3]
    ours = found.to_dataframe(image=FLUORESCENCE).set_index("id").loc[numbers].reset_index()
    path = page.save("csv")
    assert path.name == "nuclei_fluorescence_small.csv"
    theirs = pandas.read_csv(path)
    assert list(theirs.columns) == list(ours.columns)
    pandas.testing.assert_frame_equal(theirs, ours, check_dtype=False, rtol=1e-4, atol=0.02)

    package = found.to_geojson(image=FLUORESCENCE)
    wanted = {feature["id"]: feature for feature in package["features"] if feature["id"] in numbers}
    collection = json.loads(page.save("geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    assert collection["made_by"]["software"] == package["made_by"]["software"]
    assert [feature["id"] for feature in collection["features"]] == numbers
    for feature in collection["features"]:
        own, properties = wanted[feature["id"]], feature["properties"]
        assert {key: properties[key] for key in ("objectType", "name", "classification")} == {
            key: own["properties"][key] for key in ("objectType", "name", "classification")
        }
        assert list(properties["measurements"]) == list(own["properties"]["measurements"])
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.is_valid
        assert geometry.area == properties["measurements"]["area"]
    page.part("#show-hidden").click()
    page.slide(0.5)


# ------------------------------------------------------------------ the modules, beside the package


def test_masks_are_pasted_bit_for_bit(page: Page, found: Detections) -> None:
    rng = np.random.default_rng(0)
    probs, boxes = found.mask_probs.numpy(), found.boxes.numpy()
    side = probs.shape[-1]
    odd = rng.uniform(-30, 300, (40, 4)).astype(np.float32)
    odd[:, 2:] = odd[:, :2] + rng.uniform(0, 120, (40, 2))
    odd[:4] = [[5, 5, 5, 9], [1e9, 1e9, 2e9, 2e9], [10, 10, 10.000001, 12], [0, 0, 1e38, 1e38]]
    boxes = np.concatenate([boxes, odd])
    probs = np.concatenate([probs, rng.uniform(0.3, 0.7, (40, side, side)).astype(np.float32)])
    size = {"height": 200, "width": 256}
    for snap in (False, True):
        arguments = (packed("f32", probs.tobytes()), packed("f32", boxes.tobytes()), side, size, {"snap": snap})
        pasted = page.call("paste.js", "pasteMasks", *arguments)
        ours = mask_patches(Tensor(probs), Tensor(boxes), (200, 256), snap=snap)
        for theirs, (rows, columns, mask) in zip(pasted, ours, strict=True):
            bits = np.array(theirs["bits"], bool).reshape(theirs["height"], theirs["width"])
            assert (theirs["top"], theirs["left"]) == (rows.start, columns.start)
            assert np.array_equal(bits, mask)


def test_outlines_and_measurements_of_any_mask(page: Page) -> None:
    rng = np.random.default_rng(3)
    for trial in range(60):
        height, width = (int(side) for side in rng.integers(1, 14, 2))
        mask = rng.random((1, height, width)) < rng.choice([0.0, 0.3, 0.5, 0.7, 0.9])
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        own = Detections.from_masks(mask)
        bits = mask_of(mask[0])
        parts = page.call("rings.js", "traceParts", bits)
        assert parts == plain(trace_parts(own.compressed_masks)[0]), trial
        about = {"width": width, "height": height, "channels": 3, "samples": packed("u8", image.tobytes())}
        measured = page.call("measure.js", "measureMask", bits, about)
        row = own.to_dataframe(image=image).iloc[0]
        for name, value in measured.items():
            assert np.isclose(np.nan if value is None else value, row[name], rtol=1e-9, equal_nan=True), (trial, name)


def cut_by_tiles(rng: np.random.Generator, grid: TileGrid) -> TiledObjects:
    """Objects of many sizes as the tiles of a grid see them, not quite alike."""
    height, width = grid.image_size
    y, x = np.mgrid[:height, :width]
    centers, axes = rng.uniform(0, (width, height), (40, 2)), rng.uniform(2, 45, (40, 2))
    parts = []
    for tile, (x1, y1, x2, y2) in enumerate(grid.boxes.tolist()):
        for (cx, cy), (a, b) in zip(centers + rng.normal(0, 0.4, (40, 2)), axes, strict=True):
            mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 <= 1
            mask &= (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
            box = np.clip([cx - a, cy - b, cx + a, cy + b], [x1, y1, x1, y1], [x2, y2, x2, y2])
            if mask.any() and rng.random() < 0.9:
                parts.append((box, rng.uniform(0.3, 1), rng.integers(1, 3), mask, tile))
    boxes, scores, labels, masks, tiles = (np.array(column) for column in zip(*parts, strict=True))
    compressed = Detections.from_masks(masks).compressed_masks
    return TiledObjects(boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int32), compressed, tiles)


def test_tiles_are_merged_as_by_the_package(page: Page) -> None:
    rng = np.random.default_rng(5)
    for size, side in (((150, 230), 64), ((90, 300), 100), ((260, 260), 128)):
        grid = TileGrid.of(size, side, side // 4)
        about = page.call("tile_grid.js", "tileGrid", {"width": size[1], "height": size[0]}, side)
        assert about["boxes"] == grid.boxes.tolist()
        found = cut_by_tiles(rng, grid)
        merged = merge_tiles(found, grid, 0.5, class_agnostic=False)
        assert 0 < len(merged) < len(found)
        numbers = zip(found.boxes, found.scores, found.labels, found.masks.to_dense(), found.tiles, strict=True)
        names = ("box", "score", "label", "mask", "tile")
        objects = [
            dict(zip(names, (box.tolist(), float(score), int(label), mask_of(mask), int(tile)), strict=True))
            for box, score, label, mask, tile in numbers
        ]
        theirs = page.call("tile_merging.js", "mergeTiles", objects, about)
        assert [o["box"] for o in theirs] == merged.boxes.tolist()
        assert [o["score"] for o in theirs] == merged.scores.tolist()
        assert [o["label"] for o in theirs] == merged.labels.tolist()
        for own, mask in zip(theirs, merged.masks.to_dense(), strict=True):
            placed, part = np.zeros(size, bool), own["mask"]
            rows = slice(part["top"], part["top"] + part["height"])
            columns = slice(part["left"], part["left"] + part["width"])
            placed[rows, columns] = np.reshape(part["bits"], (part["height"], part["width"]))
            assert np.array_equal(placed, mask)


def mask_of(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask as the page has them: the part that it covers."""
    rows, columns = bounding_slices(mask)
    part = mask[rows, columns]
    size = {"width": part.shape[1], "height": part.shape[0]}
    return {"left": columns.start, "top": rows.start, **size, "bits": packed("u8", part.tobytes())}


@pytest.mark.slow
def test_large_images_are_looked_at_in_tiles(page: Page, tmp_path: Path) -> None:
    tile = np.asarray(Image.open(FLUORESCENCE).convert("RGB"))
    Image.fromarray(np.tile(tile, (3, 4, 1))[:600, :900]).save(tmp_path / "large.png")
    package = predict_tiled(MaskRCNN.from_file("NUCLEI").eval(), tmp_path / "large.png", progress=False)
    page.send(tmp_path / "large.png")
    assert "6 tiles of 512 pixels" in page.part("#result-about").text
    objects = page.js("return page.result.objects.map(({box, score, area}) => [...box, score, area])")
    ours = np.concatenate([package.boxes.numpy(), package.scores.numpy()[:, None], package.areas[:, None]], axis=1)
    assert len(objects) == len(package) > 300
    theirs = np.array(objects)
    nearest = (
        np.abs(theirs[:, None, :4] - ours[None, :, :4]).max(axis=2).argmin(axis=1)
    )  # equal tiles: no order of scores
    assert len(set(nearest.tolist())) == len(package)
    assert np.abs(theirs - ours[nearest])[:, :5].max() < 0.02
    assert np.abs(theirs - ours[nearest])[:, 5].sum() <= 1e-4 * package.areas.sum()


def test_table_has_the_text_of_the_package(page: Page) -> None:
    rng = np.random.default_rng(4)
    numbers = np.concatenate(
        [rng.normal(size=50) * 10.0 ** rng.integers(-8, 20, 50), [0.0, 1.0, -2.0, 1e15, 1e16, 0.1]]
    )
    small = (rng.normal(size=len(numbers)) * 10.0 ** rng.integers(-6, 4, len(numbers))).astype(np.float32)
    names = ["=1+1", 'a "b", c', "line\nbreak", "ä", "-x", *(["nucleus"] * (len(numbers) - 5))]
    flags = rng.random(len(numbers)) < 0.5
    ours = table_text({"id": np.arange(len(numbers)), "name": names, "small": small, "large": numbers, "flag": flags})
    columns = {"id": "integer", "name": "text", "small": "float32", "large": "float64", "flag": "flag"}
    values = zip(range(len(numbers)), names, small.tolist(), numbers.tolist(), flags.tolist(), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in values]
    assert page.call("csv.js", "tableText", columns, rows) == ours


def test_images_are_read_as_the_package_reads_them(page: Page, tmp_path: Path) -> None:
    for path in write_readable(tmp_path):
        dark = path.name == "dark_gray.png"
        read = page.call("image_files.js", "readImage", packed("file", path.read_bytes()), "max" if dark else "")
        assert "error" not in read, (path.name, read)
        with open_image(path) as image:
            samples, rgb = image.read(), image.read_rgb(intensity="max" if dark else "full")
        assert (read["height"], read["width"]) == samples.shape[:2], path.name
        theirs = np.array(read["samples"]).reshape(*samples.shape[:2], read["channels"])
        assert read["channels"] == samples.shape[2] or path.suffix in (".gif", ".bmp"), path.name
        assert np.array_equal(theirs, np.broadcast_to(samples, theirs.shape)), path.name
        assert np.array_equal(np.array(read["rgb"]).reshape(rgb.shape), rgb), path.name
        assert read["warnings"] == [], path.name
        assert read["deep"] == (samples.dtype == np.uint16)


def test_what_is_not_taken_as_it_is_is_said(page: Page, tmp_path: Path) -> None:
    for path in write_animations(tmp_path):
        read = page.call("image_files.js", "readImage", packed("file", path.read_bytes()), "")
        assert read["warnings"] == ["has 3 frames: the first one is taken."], path.name
        with open_image(path) as image:
            first = image.read_rgb(page=0)
        assert np.array_equal(np.array(read["rgb"]).reshape(first.shape), first), path.name
    dim = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    Image.fromarray(dim).save(tmp_path / "dim.png")
    content = packed("file", (tmp_path / "dim.png").read_bytes())
    (warning,) = page.call("image_files.js", "readImage", content, "")["warnings"]
    assert warning.startswith("comes out dark: its largest value is 4080 of 65535, as 12 bits in 16 do.")
    with pytest.warns(UserWarning, match="comes out dark"), open_image(tmp_path / "dim.png") as image:
        image.read_rgb()
    for rule in ("full", "max", (0.1, 99.9)):
        read = page.call("image_files.js", "readImage", content, rule)
        with open_image(tmp_path / "dim.png") as image:
            assert np.array_equal(np.array(read["rgb"]).reshape(16, 16, 3), image.read_rgb(intensity=rule))
        assert read["warnings"] == []


def test_brightness_is_a_choice_for_16_bits_alone(page: Page, tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).save(tmp_path / "deep.png")
    (tmp_path / "empty.png").write_bytes(b"")
    page.send(tmp_path / "deep.png")
    assert page.part("#intensity").is_displayed()
    page.send(tmp_path / "empty.png")
    assert not page.part("#intensity").is_displayed()
    page.send(FLUORESCENCE)  # as the tests that follow expect it
    assert not page.part("#intensity").is_displayed()


# ------------------------------------------------------------------ what goes wrong


def test_files_that_cannot_be_read_are_answered(shown: Page, tmp_path: Path) -> None:
    for path, sentence in write_unreadable(tmp_path).items():
        shown.send(path)
        (said,) = shown.sentences()
        assert said.startswith(f"Cannot read {path.name}: "), said
        assert sentence in said
        assert said.endswith("."), said
        assert len(shown.visible()) > 30  # the result before stays
    hostile = tmp_path / "<img src=x onerror=document.title=1>.png"
    hostile.write_bytes(b"")
    shown.send(hostile)
    assert shown.sentences() == [f"Cannot read {hostile.name}: it is an empty file."]
    assert shown.driver.title != "1"


def test_page_stays_alive_and_can_be_interrupted(shown: Page, found: Detections) -> None:
    page = shown
    script = "window.ticks = 0; const t = setInterval(() => page.running ? ticks += 1 : clearInterval(t), 20)"
    page.give(HISTOLOGY)
    page.js(script)
    page.until(lambda: "Looking for objects" in page.js("return document.getElementById('progress-text').textContent"))
    page.until(lambda: page.js("return ticks") > 10)
    assert page.js("return page.running")
    page.part("#cancel").click()
    assert not page.part("#progress").is_displayed()
    assert page.js("return page.result.name") == FLUORESCENCE.name
    page.send(FLUORESCENCE)  # in a new worker
    assert page.visible() == numbers_above(found, 0.5)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_and_contrast(shown: Page, scheme: str) -> None:
    page = shown
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        assert page.js("return document.documentElement.scrollWidth") == 390
        for selector in ("#count", ".quiet", "button.link", "label", "[data-format]", "#private h2", "#loading"):
            assert contrast(page, selector) >= 4.5, selector
        unnamed = "return [...document.querySelectorAll('input, select, button')].filter(e => e.checkVisibility() && "
        unnamed += "!(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.outerHTML)"
        assert page.js(unnamed) == []
        page.tap(4)
        assert page.part("#tip").text.startswith("nucleus 4\n")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# ------------------------------------------------------------------ hosts


def test_without_a_service_worker_there_is_one_thread(
    driver: Any, host: ThreadingHTTPServer, found: Detections
) -> None:
    page = Page(driver)
    driver.switch_to.new_window("tab")
    try:
        page.open(f"http://{PLAIN}:{host.server_port}/page/")
        assert page.js("return [isSecureContext, crossOriginIsolated, page.threads]") == [False, False, 1]
        page.send(FLUORESCENCE)
        assert page.visible() == numbers_above(found, 0.5)
    finally:
        driver.close()
        driver.switch_to.window(driver.window_handles[0])


def test_page_that_the_browser_kept_is_not_one_that_waits(driver: Any, host: ThreadingHTTPServer) -> None:
    """The first visit loads itself anew; Chromium keeps what was before, and shows it when the driver asks for it."""
    before = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        page = Page(driver)
        page.open(f"http://127.0.0.1:{host.server_port}/page/")  # an origin that has no service worker yet
        driver.refresh()
        page.until(lambda: page.js("return window.page?.model && document.documentElement.dataset.ready"))
        assert page.js("return crossOriginIsolated")
    finally:
        driver.close()
        driver.switch_to.window(before)


def test_host_with_half_a_model_is_answered(driver: Any, host: ThreadingHTTPServer, site: Path) -> None:
    shutil.copytree(site / "page", site / "half")
    whole = (site / "half" / "model.onnx").read_bytes()
    (site / "half" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    page = Page(driver)
    driver.switch_to.new_window("tab")
    try:
        driver.get(f"http://{PLAIN}:{host.server_port}/half/")
        page.until(page.sentences)
        assert page.sentences() == ["The model cannot be loaded: the file model.onnx of this page came only in part."]
        (site / "half" / "model.onnx").write_bytes(whole)
        page.give(FLUORESCENCE)  # it is tried again
        page.until(lambda: page.js("return page.model"))
        assert page.sentences() == []
        page.part("#cancel").click()
    finally:
        driver.close()
        driver.switch_to.window(driver.window_handles[0])


def test_new_build_is_taken_once_the_page_was_left(driver: Any, host: ThreadingHTTPServer, site: Path) -> None:
    shutil.copytree(site / "page", site / "renewed")
    address = f"http://localhost:{host.server_port}/renewed/"
    page = Page(driver)
    driver.switch_to.new_window("tab")
    try:
        page.open(address)
        index = (site / "renewed" / "index.html").read_text()
        (site / "renewed" / "index.html").write_text(index.replace("Nothing is uploaded", "Renewed"))
        build = (site / "renewed" / "build.js").read_text()
        (site / "renewed" / "build.js").write_text(re.sub('id: "[0-9a-f]+"', 'id: "new"', build))
        page.open(address)
        assert page.part("#private h2").text == "Nothing is uploaded"  # whole, of the old build
        kept = """
          const done = arguments[0], cache = caches.open(`lucid-maskrcnn ${location} new`);
          cache.then((opened) => opened.keys()).then((keys) => done(keys.length))"""
        page.until(lambda: driver.execute_async_script(kept) > 30)

        def renewed() -> bool:
            driver.get("about:blank")
            time.sleep(0.3)  # until the browser has noticed that it was left
            page.open(address)
            return page.part("#private h2").text == "Renewed"

        page.until(renewed)
    finally:
        driver.close()
        driver.switch_to.window(driver.window_handles[0])


def test_works_without_a_network(page: Page, host: ThreadingHTTPServer, found: Detections) -> None:
    host.shutdown()
    host.socket.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", host.server_port)):
        pass
    page.open(f"http://localhost:{host.server_port}/page/")
    page.part("[data-example='fluorescence.png']").click()
    page.until(lambda: page.js("return page.result && !page.running"))
    assert page.visible() == numbers_above(found, 0.5)


# ------------------------------------------------------------------ building


def test_build_overwrites_nothing_of_yours(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = subprocess.run([sys.executable, str(BUILD), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("OUT must be a new or an empty folder, or one that was built before, got ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_build_answers_weights_that_it_cannot_take(tmp_path: Path) -> None:
    command = [sys.executable, str(BUILD), str(tmp_path / "page"), "--weights", "nuclei"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"build.py: weights must be one of .* Did you mean 'NUCLEI'\?\n", done.stderr)
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("weights", "name"),
    [("NUCLEI", "NUCLEI"), ("runs/mine/best.safetensors", "mine"), ("run/model_final.pth", "run"), ("a/b.pkl", "b")],
)
def test_page_calls_weights_by_what_tells_them_apart(monkeypatch: pytest.MonkeyPatch, weights: str, name: str) -> None:
    monkeypatch.syspath_prepend(str(BUILD.parent))
    monkeypatch.delitem(sys.modules, "build", raising=False)
    from build import page_name

    assert page_name(weights) == name


def test_page_of_weights_without_names_says_which_labels_there_are(tmp_path: Path) -> None:
    build = runpy.run_path(str(BUILD))
    save_weights(mask_rcnn_resnet_18_fpn(3, width=4, fpn_channels=8, hidden_dim=8), tmp_path / "mine.safetensors")
    said = build["export_model"](str(tmp_path / "mine.safetensors"), tmp_path / "model.onnx")
    assert said["about"] == "mine: labels 1 to 3, without names."
    assert said["categories"] == {}
