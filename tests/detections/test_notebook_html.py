"""How detections show themselves in a notebook."""

from __future__ import annotations

import base64
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from notebook_runs import data_of, run_cells
from PIL import Image

from lucid_maskrcnn import Detections, Predictions

DISC = (np.hypot(*np.mgrid[-1:1:14j, -1:1:14j]) < 0.9).astype(np.float32)


def make(count: int = 4, size: tuple[int, int] = (40, 60), image: Any = "dark", **more: Any) -> Detections:
    """Discs of scores from 0.9 to 0.3, on an image."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.7, (count, 2)) * size[::-1]
    boxes = np.concatenate([corners, corners + 0.2 * np.array(size[::-1])], axis=1)
    if isinstance(image, str):
        image = rng.integers(0, 255, (*size, 3), np.uint8) if image == "noise" else np.zeros((*size, 3), np.uint8)
    probs = np.broadcast_to(DISC, (count, 14, 14))
    options = {"image": image, **more}
    return Detections(boxes, np.linspace(0.9, 0.3, count), np.arange(count) % 3 + 1, probs, size, **options)


def pictures(html: str) -> list[tuple[str, int, Image.Image]]:
    """The pictures of some HTML: kind, bytes, pixels."""
    found = [(kind, base64.b64decode(data)) for kind, data in re.findall(r"data:image/(\w+);base64,([^\"]*)", html)]
    return [(kind, len(data), Image.open(io.BytesIO(data)).convert("RGB")) for kind, data in found]


@pytest.mark.parametrize(
    ("size", "image", "kind", "side"),
    [
        ((40, 60), "dark", "png", 240),
        ((1, 1), "dark", "png", 4),
        ((1, 3000), "dark", "png", 1200),
        ((900, 700), "noise", "jpeg", 900),
        ((2500, 3000), "dark", "png", 1200),
        ((3000, 2500), "noise", "jpeg", 1200),
    ],
)
def test_one_picture_of_bounded_size(size: tuple[int, int], image: str, kind: str, side: int) -> None:
    [(got, num_bytes, picture)] = pictures(make(size=size, image=image)._repr_html_())
    assert got == kind
    assert num_bytes <= 500_000
    assert max(picture.size) <= side
    assert max(picture.size) >= 0.6 * side  # noise is the worst that there is


def test_it_is_what_draw_shows() -> None:
    found = make(9)
    [(_, _, picture)] = pictures(found._repr_html_())
    assert picture.tobytes() == found.draw().tobytes()


def test_masks_are_drawn_on_a_reduced_image() -> None:
    """Both kinds of masks, the object where it is in the large image."""
    found = make(1, (4000, 4000), categories={1: "a"})
    [(_, _, picture)] = pictures(found._repr_html_())
    x, y = (np.asarray(found.boxes)[0].reshape(2, 2).mean(axis=0) * 1200 / 4000).astype(int)
    assert picture.size == (1200, 1200)
    assert sum(picture.getpixel((int(x), int(y)))) > 0
    compressed = Detections.from_masks(found.compressed_masks, scores=found.scores)
    compressed.image = found.image
    [(_, _, other)] = pictures(compressed._repr_html_())
    assert np.mean(np.asarray(picture) != np.asarray(other)) < 0.01


def test_the_caption_counts_and_says_what_is_not_drawn() -> None:
    html = make(9, categories={1: "cat", 2: "<b>&", 3: "зерно"})._repr_html_()
    assert "<figcaption><b>Detections</b>: 9 in 40 × 60 pixels, on cpu. 2 cat, 2 &lt;b&gt;&amp;, 2 зерно. " in html
    assert "3 with a score below 0.5 not drawn: draw(score_thresh=0) shows all</figcaption>" in html
    assert make(0)._repr_html_().endswith("<b>Detections</b>: 0 in 40 × 60 pixels, on cpu</figcaption></figure>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the caption says it; draw() warns
        assert "3 with a score below 0.5 not drawn" in make(9)[6:]._repr_html_()


@pytest.mark.parametrize("count", [0, 12])
def test_without_an_image_there_is_a_table(count: int) -> None:
    html = make(count, image=None, categories={1: "<bird>"})._repr_html_()
    assert "<table>" in html
    assert ("… 2 more" in html) == (count == 12)
    assert ("4 with a score below 0.5" in html) == (count == 12)
    assert "<bird>" not in html


@pytest.mark.parametrize("count", [0, 1, 12])
def test_a_list_shows_some_small_pictures(count: int) -> None:
    html = Predictions([make(9, (600, 700), "noise") for _ in range(count)])._repr_html_()
    shown = pictures(html)
    assert len(shown) == min(count, 8)
    assert all(num_bytes <= 90_000 and max(picture.size) <= 480 for _, num_bytes, picture in shown)
    assert len(html) < 1_000_000
    assert ("… 4 more" in html) == (count == 12)
    assert html.count("<b>[") == len(shown)
    assert html.count("3 with a score below 0.5 not drawn") == len(shown)


def test_a_list_without_images_is_text() -> None:
    html = Predictions([make(9, image=None), make(1)])._repr_html_()
    assert "<b>[0]</b> 9 in 40 × 60 pixels, on cpu, 3 with a score below 0.5</div>" in html
    assert len(pictures(html)) == 1


def test_a_notebook_keeps_the_picture_once(tmp_path: Path) -> None:
    """What a real kernel answers, which is what is stored."""
    code = """
import numpy as np
from lucid_maskrcnn import Detections, Predictions
found = Detections([[2, 3, 20, 30]], [0.9], [1], np.ones((1, 4, 4)), (40, 60), image=np.zeros((40, 60, 3), np.uint8))
"""
    outputs = run_cells(tmp_path, code + "found", "Predictions([found, found])", "found.show()")
    one, many, shown = ([*data_of(cell)] for cell in outputs)
    assert [sorted(data) for data in one + many] == [["text/html", "text/plain"]] * 2
    assert len(pictures(one[0]["text/html"])) == 1
    assert len(pictures(many[0]["text/html"])) == 2
    assert one[0]["text/plain"].startswith("Detections(1 in 40 × 60 pixels, on cpu)\n")
    assert "image/png" in shown[0]
