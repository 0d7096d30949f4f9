"""Make the picture of docs/start/try.md: the page without a server, in Chromium.

Run: ``uv run python docs/make_page_pictures.py``. It needs npm, Chromium and its driver.
"""

import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "examples" / "browser"), str(ROOT / "tests")]
from browser_pages import ViewerPage, running_browser  # noqa: E402
from build import build  # noqa: E402

WIDTH, HEIGHT, SCALE = 1180, 760, 2
OUT = Path(__file__).parent / "images" / "try.webp"


def take(page, address, path):
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": SCALE, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.driver.get(address)
    page.until(lambda: page.js("return window.page?.model && document.documentElement.dataset.ready"))
    page.part("[data-example='histology.png']").click()
    page.until(lambda: page.js("return page.result && !page.running"))
    page.point_at(3)
    page.driver.save_screenshot(str(path))


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder / "page", "NUCLEI")
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder / "page"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with running_browser(folder) as driver:
            take(ViewerPage(driver), f"http://localhost:{server.server_port}/", folder / "shot.png")
        Image.open(folder / "shot.png").convert("RGB").save(OUT, quality=80, method=6)


if __name__ == "__main__":
    main()
