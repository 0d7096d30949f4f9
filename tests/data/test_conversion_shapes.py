"""Shapes of every kind that the tools draw, and masks with parts and holes, seen by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import noise_image
from PIL import Image

from lucid_maskrcnn.annotation_formats.records import AnnotationError
from lucid_maskrcnn.annotation_formats.xml_text import parse_xml
from lucid_maskrcnn.data import convert_data
from lucid_maskrcnn.masks.rle import encode_rle

# pycocotools' own arrays do not know NumPy 2's copy keyword
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (40, 60)
FILES = {"via": "via.json", "cvat": "cvat.xml"}


def masks_of(file: Path) -> list[tuple[str, bytes]]:
    coco = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO(str(file))
    return sorted((data.cats[a["category_id"]]["name"], data.annToMask(a).tobytes()) for a in data.anns.values())


def write_image(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(noise_image(SIZE)).save(folder / "a.png")


def hard_masks() -> list[np.ndarray]:
    """Return masks with a hole, two parts, one pixel, a diagonal, and noise."""
    masks = np.zeros((5, *SIZE), bool)
    masks[0, 2:20, 3:25] = True
    masks[0, 8:12, 8:15] = False
    masks[1, 25:30, 2:10] = masks[1, 33:39, 2:10] = True
    masks[2, 39, 59] = True
    masks[3, range(20, 30), range(30, 40)] = True
    masks[4, 5:15, 40:55] = np.random.default_rng(3).random((10, 15)) < 0.5
    return list(masks)


@pytest.mark.parametrize("to", ["yolo", "labelme", "voc", "via", "cvat", "label-images"])
def test_parts_and_holes_come_back_to_the_pixel(tmp_path: Path, to: str) -> None:
    write_image(tmp_path / "images")
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": encode_rle(mask)}
        for i, mask in enumerate(hard_masks(), start=1)
    ]
    image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    there = tmp_path / FILES.get(to, "there")
    convert_data(tmp_path / "truth.json", there, to=to, images_dir=tmp_path / "images")
    convert_data(there, tmp_path / "back.json", to="coco", images_dir=tmp_path / "images")
    assert masks_of(tmp_path / "back.json") == masks_of(tmp_path / "truth.json")


def areas(file: Path) -> list[tuple[str, int]]:
    return [(name, int(np.frombuffer(mask, np.uint8).sum())) for name, mask in masks_of(file)]


def converted(folder: Path, name: str, text: str, **options: Any) -> list[tuple[str, int]]:
    write_image(folder)
    (folder / name).write_text(text)
    convert_data(folder / name, folder / "out.json", to="coco", boxes_as_masks=True, **options)
    return areas(folder / "out.json")


def test_shapes_of_cvat(tmp_path: Path) -> None:
    shapes = """
    <box label="cat" xtl="2" ytl="3" xbr="12" ybr="9" z_order="0"/>
    <ellipse label="dog" cx="30" cy="20" rx="10" ry="6" z_order="0"/>
    <polygon label="owl" points="1,30;5,30;5,35;1,35" group_id="4" z_order="0"/>
    <polygon label="owl" points="9,30;13,30;13,35;9,35" group_id="4" z_order="0"/>
    <points label="cat" points="3,3" z_order="0"/>"""
    image = f'<image id="0" name="a.png" width="60" height="40">{shapes}</image>'
    found = converted(tmp_path, "a.xml", f"<annotations><version>1.1</version>{image}</annotations>")
    assert found[0] == ("cat", 60)
    assert found[1] == ("dog", pytest.approx(math.pi * 60, rel=0.05))
    assert found[2:] == [("owl", 40)]


def test_shapes_of_via(tmp_path: Path) -> None:
    shapes = [
        {"name": "rect", "x": 2, "y": 3, "width": 10, "height": 6},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 6},
        {"name": "point", "cx": 3, "cy": 3},
    ]
    names = ["cat", "dog", "cat"]
    regions = [{"shape_attributes": s, "region_attributes": {"kind": n}} for s, n in zip(shapes, names, strict=True)]
    entry = {"filename": "a.png", "size": 1, "regions": regions, "file_attributes": {}}
    found = converted(tmp_path, "a.json", json.dumps({"a.png1": entry}))
    assert found == [("cat", 60), ("dog", pytest.approx(math.pi * 60, rel=0.05))]


def test_rectangle_of_labelme(tmp_path: Path) -> None:
    shape = {"label": "cat", "points": [[12, 9], [2, 3]], "shape_type": "rectangle", "group_id": None, "flags": {}}
    content = {"version": "5.5.0", "shapes": [shape], "imagePath": "a.png", "imageHeight": 40, "imageWidth": 60}
    assert converted(tmp_path, "a.json", json.dumps(content)) == [("cat", 60)]


def test_pictures_of_objects_are_not_taken_for_images(tmp_path: Path) -> None:
    write_image(tmp_path / "images")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    convert_data(tmp_path / "truth.json", tmp_path / "voc", to="voc", images_dir=tmp_path / "images")
    done = convert_data(tmp_path / "voc", tmp_path / "back.json", to="coco")
    assert any("No images were found" in note for note in done.notes)
    assert json.loads((tmp_path / "back.json").read_text())["images"][0]["file_name"] == "a.png"


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE a [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd">',
    ],
)
def test_declarations_in_xml_are_refused(declaration: str) -> None:
    text = f'<?xml version="1.0"?>{declaration}<annotation><filename>a.png</filename></annotation>'
    with pytest.raises(AnnotationError, match=r"^a\.xml has a document type declaration"):
        parse_xml(text.encode(), "a.xml")
