"""The page in a real browser: what people see, point at, filter and save."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import tifffile
from app_servers import FLUORESCENCE, Server, running_server
from browser_pages import NEEDS_CHROMIUM, ViewerPage, contrast, running_browser
from PIL import Image

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.detections import Detections

pytestmark = NEEDS_CHROMIUM


class Page(ViewerPage):
    """The page of the server."""

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(lambda: self.js("return page.session?.session"))

    def send(self, path: Path) -> None:
        before = self.js("return page.key")
        self.part("#file").send_keys(str(path))
        self.until(lambda: self.js("return page.key") != before and self.js("return page.running === null"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running_browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def page(driver: Any, server: Server) -> Page:
    page = Page(driver)
    page.open(f"{server.address}/")
    return page


@pytest.fixture(scope="module")
def found() -> Detections:
    return MaskRCNN.from_file("NUCLEI").eval().predict(FLUORESCENCE)[0]


def numbers_above(found: Detections, score: float) -> list[int]:
    return [i + 1 for i, value in enumerate(found.scores.numpy().tolist()) if value > score]


def test_objects_are_seen_filtered_and_switched_off(page: Page, found: Detections) -> None:
    page.send(FLUORESCENCE)
    sure = numbers_above(found, 0.5)
    assert page.visible() == sure
    assert page.part("#count").text == f"{len(sure)} of {len(found)} objects"
    page.slide(0.05)
    assert page.visible() == list(range(1, len(found) + 1))
    page.slide(0.97)
    assert page.visible() == numbers_above(found, 0.97) != sure
    page.slide(0.5)

    areas = found.areas
    page.part("#area-min").send_keys("60")
    page.part("#area-max").send_keys("100")
    assert page.visible() == [i for i in sure if 60 <= areas[i - 1] <= 100] != []
    for field in ("#area-min", "#area-max"):
        page.part(field).clear()
    page.part("#class-list input").click()
    assert page.visible() == []
    page.part("#class-list input").click()
    page.part("tr[data-id='2'] .hide").click()
    assert page.visible() == [i for i in sure if i != 2]
    page.part("#show-hidden").click()
    assert page.visible() == sure
    page.part("#show-masks").click()
    assert page.js("return getComputedStyle(page.shown[0].element).strokeOpacity") == "0"


def test_pointer_and_keys_show_an_object(page: Page, found: Detections) -> None:
    from selenium.webdriver.common.keys import Keys

    page.send(FLUORESCENCE)
    assert not page.part("#tip").is_displayed()
    for number in (1, 5, 12):
        page.point_at(number)
        score, area = float(found.scores[number - 1].item()), found.areas[number - 1]
        assert page.part("#tip").text == f"nucleus {number}\nscore {score:.3f}\narea {area} pixels"
        assert page.part("tr.on").get_attribute("data-id") == str(number)
    picture = page.part("#picture")
    picture.send_keys(Keys.ESCAPE)
    assert not page.part("#tip").is_displayed()
    picture.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.part("#tip").text.startswith("nucleus 2\n")
    assert page.js("return current.textContent").startswith("nucleus 2, score")  # for those who hear it
    picture.send_keys("h")
    assert 2 not in page.visible()
    assert page.part("#tip").text.startswith("nucleus 3\n")
    picture.send_keys("+")
    assert page.js("return page.view.width") < 256
    picture.send_keys("0")
    assert page.js("return page.view.width") == 256


def test_saved_files_are_what_is_seen(page: Page, found: Detections) -> None:
    page.send(FLUORESCENCE)
    page.slide(0.9)
    page.part("tr[data-id='3'] .hide").click()
    shown = [i for i in numbers_above(found, 0.9) if i != 3]
    table = pandas.read_csv(page.save("csv"))
    assert table["id"].tolist() == shown
    assert np.allclose(table["score"], found.scores.numpy()[np.array(shown) - 1])
    annotations = json.loads(page.save("coco").read_text())["annotations"]
    assert [annotation["id"] for annotation in annotations] == shown
    assert np.unique(tifffile.imread(page.save("label-image"))).tolist() == [0, *shown]
    with Image.open(page.save("drawing")) as drawing:
        assert drawing.width >= 256


def test_page_asks_only_its_server(page: Page, server: Server) -> None:
    page.driver.get_log("performance")
    page.open(f"{server.address}/")
    page.send(FLUORESCENCE)
    messages = [json.loads(line["message"])["message"] for line in page.driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 6
    assert [url for url in asked if not url.startswith((server.address, f"blob:{server.address}"))] == []
    assert [line for line in page.driver.get_log("browser") if line["level"] == "SEVERE"] == []


def test_broken_file_is_told_and_the_next_one_shown(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "<img src=x onerror=document.title=1>.png"
    broken.write_bytes(FLUORESCENCE.read_bytes()[:2000])
    page.part("#file").send_keys(str(broken))
    message = page.until(lambda: page.driver.find_elements("css selector", ".message.error p"))[0].text
    assert "Cannot read the image file '<img src=x onerror=document.title=1>.png'" in message
    assert page.driver.title == "lucid-maskrcnn"
    page.send(FLUORESCENCE)
    assert len(page.visible()) > 30
    assert page.driver.find_elements("css selector", ".message") == []


def test_hundreds_of_objects_are_pointed_at_without_delay(page: Page, tmp_path: Path) -> None:
    tile = np.asarray(Image.open(FLUORESCENCE).convert("RGB"))
    Image.fromarray(np.tile(tile, (3, 3, 1))).save(tmp_path / "many.png")
    page.send(tmp_path / "many.png")
    assert len(page.visible()) > 300
    assert "tiles" in page.part("#result-about").text
    elapsed = page.js(
        "const start = performance.now();"
        "for (const object of page.shown.slice(0, 200)) point(object.id);"
        "document.body.getBoundingClientRect(); return (performance.now() - start) / 200"
    )
    assert elapsed < 16  # milliseconds: a frame


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_and_contrast(page: Page, server: Server, scheme: str) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        page.open(f"{server.address}/")
        page.send(FLUORESCENCE)
        assert page.js("return document.documentElement.scrollWidth") == 390
        for selector in ("#count", ".quiet", "#find", "a, button.link", "label", "#weights"):
            assert contrast(page, selector) >= 4.5, selector
        unnamed = "return [...document.querySelectorAll('input, select, button')].filter(e => e.checkVisibility() && "
        unnamed += "!(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.outerHTML)"
        assert page.js(unnamed) == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
