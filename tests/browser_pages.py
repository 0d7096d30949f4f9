"""A real browser without a screen, and pages in it that show a result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

NEEDS_CHROMIUM = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"
)

_FOREVER = 300  # seconds: a page that hangs must not hang the tests

# As root, without a screen, and without looking for anything outside.
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@contextmanager
def running_browser(folder: Path, *more: str) -> Iterator[Any]:
    """Run a browser with its files in a folder; what it saves lies in the folder ``saved`` of its driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for switch in (*SWITCHES, *more, "--window-size=1280,800", f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(switch)
    saved = folder / "saved"
    saved.mkdir()
    options.add_experimental_option("prefs", {"download.default_directory": str(saved)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    running.saved = saved
    try:
        yield running
    finally:
        running.quit()


class ViewerPage:
    """A page that shows a result, with what its parts are called."""

    def __init__(self, driver: Any) -> None:
        self.driver, self.saved = driver, driver.saved

    def part(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, what: Callable[[], Any]) -> Any:
        since = time.monotonic()
        while not (value := what()):
            assert time.monotonic() - since < _FOREVER, "the page does not come to an end"
            assert not [
                line for line in self.driver.get_log("browser") if line["level"] == "SEVERE" and ".js" in str(line)
            ]
            time.sleep(0.02)
        return value

    def visible(self) -> list[int]:
        """The numbers of the outlines that are seen."""
        script = "return [...document.querySelectorAll('#masks path')].filter(p => p.style.display !== 'none')"
        return sorted(int(number) for number in self.js(script + ".map(p => p.dataset.id)"))

    def slide(self, score: float) -> None:
        self.js("score.value = arguments[0]; score.dispatchEvent(new Event('input'))", score)

    def point_at(self, number: int) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        place = "const b = page.result.objects[arguments[0] - 1].element.getBoundingClientRect();"
        x, y = self.js(place + "return [b.x + b.width / 2, b.y + b.height / 2]", number)
        chain = ActionChains(self.driver)
        chain.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        chain.perform()

    def tap(self, number: int) -> None:
        """Tap on an object with a finger."""
        place = "const e = page.result.objects[arguments[0] - 1].element; e.scrollIntoView({block: 'center'});"
        place += "const b = e.getBoundingClientRect(); return {x: b.x + b.width / 2, y: b.y + b.height / 2}"
        point = self.js(place, number)
        for kind, points in (("touchStart", [point]), ("touchEnd", [])):
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def save(self, format: str) -> Path:
        """Save what is seen, and return the file once it is whole: until then Chromium writes one of another name."""
        before = set(self.saved.iterdir())
        self.part(f"[data-format={format}]").click()

        def new_file() -> Path | None:
            files = set(self.saved.iterdir())
            if any(path.name.startswith(".") or path.suffix in (".crdownload", ".tmp") for path in files):
                return None
            return next(iter(files - before), None)

        return self.until(new_file)


def contrast(page: ViewerPage, selector: str) -> float:
    """The contrast of an element's text with what lies behind it, as WCAG defines it."""
    script = """
      let e = document.querySelector(arguments[0]); const text = getComputedStyle(e).color;
      while (getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;
      return [text, getComputedStyle(e).backgroundColor]"""

    def luminance(color: str) -> float:
        parts = np.array([int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]) / 255
        return float(
            np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        )

    light, dark = sorted((luminance(color) for color in page.js(script, selector)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
