"""The box of the page of messages finds the entry of what is pasted, in a browser."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")

sys.path.insert(0, str(ROOT / "docs"))

from extensions.messages import search_box  # noqa: E402

pytestmark = pytest.mark.skipif(not BROWSER or not DRIVER, reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for switch in ("headless", "no-sandbox", "disable-gpu", f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{switch}")
    running = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    page = tmp_path_factory.mktemp("page") / "index.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><main>{search_box()}</main>", encoding="utf-8")
    running.get(page.as_uri())
    yield running
    running.quit()


@pytest.mark.parametrize(
    ("pasted", "title"),
    [
        ("ValueError: batch_size must be a positive integer, got 0.", "An integer of a range"),
        (
            "Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\n    model.predict('x')\n"
            "FileNotFoundError: There is no image file 'cels.png'. Did you mean 'cells.png'?",
            "There is no such image file",
        ),
        ("lucid-maskrcnn: --dtype 'float16' needs a GPU, and there is none here (MLX computes on the CPU, x86): "
         "leave out --dtype, and the cpu computes in float32.", "No GPU for half precision"),
        ("FAULT (3×) annotation 7 has no segmentation: give it polygons or a run-length encoding, or remove it.",
         "A segmentation that is no polygon and no encoding"),
        ("proposals ran out objectness missing", "Objects may be missing"),
    ],
)  # fmt: skip
def test_the_first_answer_is_the_entry(driver: Any, pasted: str, title: str) -> None:
    box = driver.find_element("id", "message-box")
    driver.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", box, pasted
    )
    links = driver.find_elements("css selector", "#message-found a")
    assert links[0].text == title
    assert ".html#message-" in links[0].get_attribute("href")


def test_nothing_is_found_for_nothing(driver: Any) -> None:
    box = driver.find_element("id", "message-box")
    driver.execute_script("arguments[0].value = ''; arguments[0].dispatchEvent(new Event('input'))", box)
    assert not driver.find_elements("css selector", "#message-found a")
