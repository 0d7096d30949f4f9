"""Make the pictures of docs/do/draw.md, and the README's: ``uv run python docs/make_pictures.py``."""

from pathlib import Path

import numpy as np
from PIL import Image

import lucid_maskrcnn
from lucid_maskrcnn import Detections, mask_rcnn_resnet_18_fpn

ASSETS = Path(lucid_maskrcnn.__file__).parent / "assets"
OUT = Path(__file__).parent / "images"


def mosaic(found, pixels, times):
    """Return an image side by side with itself ``times`` × ``times``, and its detections in each."""
    height, width = found.image_size
    columns = {name: np.asarray(getattr(found, name)) for name in ("scores", "labels", "mask_probs")}
    parts = {name: np.concatenate([values] * times**2) for name, values in columns.items()}
    shifts = [(x * width, y * height) for y in range(times) for x in range(times)]
    boxes = np.concatenate([np.asarray(found.boxes) + np.tile(shift, 2) for shift in shifts])
    size = height * times, width * times
    return Detections(boxes, **parts, image_size=size), np.tile(pixels, (times, times, 1))


def before_and_after(drawings, side=420, gap=8):
    """Return a strip: each image as it is, and beside it with what was found."""
    images = [image.convert("RGB") for pair in drawings for image in pair]
    panels = [image.resize((side, side), Image.Resampling.LANCZOS) for image in images]
    strip = Image.new("RGB", (len(panels) * (side + gap) - gap, side), "white")
    for place, panel in enumerate(panels):
        strip.paste(panel, (place * (side + gap), 0))
    return strip


def main():
    model = mask_rcnn_resnet_18_fpn(weights="NUCLEI").eval()
    lilac = np.asarray(Image.open(ASSETS / "nuclei_histology_lilac.png").convert("RGB"))
    dark = np.asarray(Image.open(ASSETS / "nuclei_fluorescence_small.png").convert("RGB"))
    found = model.predict(lilac, score_thresh=0.5)[0]
    many, pixels = mosaic(model.predict(dark, score_thresh=0.5)[0], dark, 3)
    names = {1: "čelik", 2: "клетка", 3: "κύτταρο", 4: "خلية"}
    boxes = np.asarray(found.boxes)[:12]
    columns = boxes, found.scores[:12], np.arange(12) % 4 + 1, found.mask_probs[:12]
    named = Detections(*columns, found.image_size, categories=names)
    drawings = {
        "lilac": found.draw(lilac),
        "outlines": found.draw(lilac, alpha=0, boxes=False, labels=False, palette="yellow"),
        "many": many.draw(pixels),
        "names": named.draw(lilac, color_by="class", font_size=16),
    }
    for name, drawn in drawings.items():
        drawn.thumbnail((640, 640))
        drawn.save(OUT / f"pictures_{name}.jpg", quality=88)
    cells = model.predict(dark, score_thresh=0.5)[0]
    style = {"labels": False, "boxes": False, "alpha": 0.45, "scale": 3}
    both = (dark, cells), (lilac, found)
    pairs = [(Image.fromarray(pixels), objects.draw(pixels, **style)) for pixels, objects in both]
    before_and_after(pairs).save(OUT / "readme.jpg", quality=85)


if __name__ == "__main__":
    main()
