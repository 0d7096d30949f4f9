"""Make the pictures of the landing page, the quick start and docs/do/predict.md.

Run: ``uv run python docs/make_task_pictures.py``.
"""

import shutil
import warnings
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import lucid_maskrcnn
from lucid_maskrcnn import MaskRCNN

ASSETS = Path(lucid_maskrcnn.__file__).parent / "assets"
DARK, LILAC = ASSETS / "nuclei_fluorescence_small.png", ASSETS / "nuclei_histology_lilac.png"
OUT = Path(__file__).parent / "images"
PLAIN = {"boxes": False, "labels": False}


def save(image, name, side=1200, quality=80):
    image.thumbnail((side, side))
    image.save(OUT / name, quality=quality, method=6)


def beside(*images, height=600, gap=8):
    """Return images side by side, all of one height, with nothing between them but the page."""
    images = [image.resize((round(image.width * height / image.height), height)) for image in images]
    row = Image.new("RGB", (sum(i.width for i in images) + gap * (len(images) - 1), height), "#808080")
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


def panels(name, region, variants, *, source=LILAC, scale=4, size=22, **drawn):
    """Save a row of drawings of a region of an image, each with the options it was made with beneath."""
    model = MaskRCNN.from_file("NUCLEI")
    font = ImageFont.truetype(ASSETS / "fonts" / "DejaVuSans.ttf", size)
    x1, y1, x2, y2 = (v * scale for v in region)
    cells = []
    for title, options in variants.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # top_k says that it leaves some out, which is what is shown
            found = model.predict(source, **{"score_thresh": 0.5} | options)[0]
        cell = found.draw(scale=scale, score_thresh=0, **{**PLAIN, "alpha": 0.3} | drawn).crop((x1, y1, x2, y2))
        whole = Image.new("RGB", (cell.width, cell.height + 2 * size), "white")
        whole.paste(cell, (0, 0))
        ImageDraw.Draw(whole).text((cell.width // 2, cell.height + size), title, "black", font=font, anchor="mm")
        cells.append(whole)
    save(beside(*cells, height=cells[0].height), f"{name}.webp", 1400)


def start(model):
    """The landing page and the quick start."""
    drawings = []
    for source in (DARK, LILAC):
        found = model.predict(source, score_thresh=0.5)[0]
        drawings.append(found.draw(scale=4, alpha=0.4, line_width=4, **PLAIN))
    save(beside(*drawings, height=640), "hero.webp", 1440)
    shutil.copy(DARK, OUT / "cells.png")
    found = model.predict(DARK, score_thresh=0.5)[0]
    drawn = found.draw(scale=3)
    save(
        beside(Image.open(DARK).convert("RGB").resize(drawn.size, Image.Resampling.BICUBIC), drawn), "quick_start.webp"
    )


def knobs():
    """What the options of ``predict`` change."""
    region = (0, 88, 160, 216)
    panels("knob_score_thresh", region, {f"score_thresh={s}": {"score_thresh": s} for s in (0.05, 0.5, 0.95)})
    panels("knob_nms_thresh", region, {f"nms_thresh={t}": {"nms_thresh": t} for t in (0.05, 0.3, 0.9)}, boxes=True)
    panels(
        "knob_mask_thresh",
        (150, 60, 230, 124),
        {f"mask_thresh={t}": {"mask_thresh": t} for t in (0.1, 0.5, 0.9)},
        scale=8,
    )
    panels("knob_top_k", (0, 0, 320, 256), {f"top_k={k}": {"top_k": k} for k in (5, 400)}, scale=2, size=16)


def main():
    model = MaskRCNN.from_file("NUCLEI")
    start(model)
    knobs()


if __name__ == "__main__":
    main()
