"""The files that the pages use: the tests put them into a folder, the built documentation offers them as a download."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

ROOT = Path(__file__).parents[2]
NUCLEI = ROOT / "examples" / "data" / "nuclei"
ASSETS = ROOT / "lucid_maskrcnn" / "assets"
ARCHIVE = ROOT / "docs" / "do" / "samples.zip"


def sample_files(folder: Path) -> None:
    """Put what the pages use into a folder: images of nuclei, and a data set in COCO's format.

    ``cells.png`` and ``histology.png``; ``images`` with ``instances_train.json`` and ``instances_val.json``; ``new``,
    every other image of the second alone; ``stack.tif``, three pages of 16 bits; ``slide.tif``, 768 × 768 pixels.
    """
    cells = np.asarray(Image.open(ASSETS / "nuclei_fluorescence_small.png").convert("L"))
    shutil.copy(ASSETS / "nuclei_fluorescence_small.png", folder / "cells.png")
    shutil.copy(ASSETS / "nuclei_histology_lilac.png", folder / "histology.png")
    shutil.copytree(NUCLEI, folder, dirs_exist_ok=True)
    (folder / "new").mkdir()
    for image in json.loads((NUCLEI / "instances_val.json").read_text())["images"][::2]:
        shutil.copy(NUCLEI / "images" / image["file_name"], folder / "new")
    pages = np.stack([cells, cells[::-1], cells[:, ::-1]]).astype(np.uint16) * 200 + 100
    tifffile.imwrite(
        folder / "stack.tif", pages, imagej=True, metadata={"axes": "ZYX", "unit": "um"}, resolution=(2, 2)
    )
    tifffile.imwrite(folder / "slide.tif", np.tile(cells, (3, 3)), tile=(256, 256))


def pack(app: object) -> None:
    """Make the archive that pages link to, before Sphinx reads them."""
    with tempfile.TemporaryDirectory() as folder:
        sample_files(Path(folder))
        shutil.make_archive(str(ARCHIVE.with_suffix("")), "zip", folder)


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", pack)
    return {"parallel_read_safe": True}
