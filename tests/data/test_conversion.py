"""Annotations of other tools: there and back, and files as the tools write them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import noise_image
from PIL import Image

from lucid_maskrcnn.cli import main
from lucid_maskrcnn.data import CocoInstances, DataFaultError, convert_data
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.rle import encode_rle

SIZES = {"a.png": (40, 60), "more/b.png": (50, 45), "c d.png": (30, 30), "empty.png": (20, 30)}
SUFFIX = {"coco": "out.json", "via": "out.json", "cvat": "out.xml"}


def write_images(folder: Path) -> None:
    for name, size in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise_image(size)).save(folder / name)


def separate_masks(rng: random.Random, size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Objects in cells of a grid, so that none overlap: L shapes, solid."""
    masks = []
    cells = [(y, x) for y in range(0, size[0] - 10, 11) for x in range(0, size[1] - 10, 11)]
    for y, x in rng.sample(cells, min(count, len(cells))):
        mask = np.zeros(size, bool)
        h, w = rng.randint(3, 10), rng.randint(3, 10)
        mask[y : y + h, x : x + w] = True
        mask[y : y + h // 2, x + w // 2 : x + w] = h < 4 or w < 4
        masks.append(mask)
    return masks


def write_coco(folder: Path, seed: int = 0) -> Path:
    """Four images, one of them without objects."""
    rng = random.Random(seed)
    write_images(folder / "images")
    images, annotations = [], []
    for i, (name, (height, width)) in enumerate(SIZES.items(), start=1):
        images.append({"id": i, "file_name": name, "height": height, "width": width})
        for mask in [] if name == "empty.png" else separate_masks(rng, (height, width), rng.randint(1, 5)):
            y, x = np.nonzero(mask)
            bbox = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
            own = {"id": len(annotations) + 1, "image_id": i, "category_id": rng.choice([3, 7]), "iscrowd": 0}
            annotations.append({**own, "segmentation": encode_rle(mask), "bbox": bbox, "area": int(mask.sum())})
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "big dog"}]
    file = folder / "truth.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def objects_of(file: Path, *, of_names: bool = True) -> dict[str, list[tuple[str, bytes]]]:
    """Return the names and pixels of the objects of each image, in any order."""
    content = json.loads(file.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    found: dict[str, list[tuple[str, bytes]]] = {}
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        masks = CompressedMasks.from_coco(
            [a["segmentation"] for a in own], (image["height"], image["width"])
        ).to_dense()
        pairs = zip(own, masks, strict=True)
        found[image["file_name"]] = sorted((names[a["category_id"]] if of_names else "", m.tobytes()) for a, m in pairs)
    return found


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("to", ["coco", "yolo", "labelme", "voc", "via", "cvat", "label-images"])
def test_masks_come_back_from_every_format(tmp_path: Path, to: str, seed: int) -> None:
    truth, images = write_coco(tmp_path, seed), tmp_path / "images"
    there = tmp_path / SUFFIX.get(to, "there")
    done = convert_data(truth, there, to=to, images_dir=images)
    assert (done.num_images, done.from_format, done.to) == (4, "coco", to)
    assert done.issues == []
    back = convert_data(there, tmp_path / "back.json", to="coco", images_dir=images)
    assert back.from_format == to
    expected = objects_of(truth)
    found = objects_of(tmp_path / "back.json")
    if to in ("labelme", "via", "cvat", "yolo", "voc", "label-images", "coco"):
        assert found == expected
    data = CocoInstances(images, tmp_path / "back.json")
    assert len(data) == 4
    assert set(data.categories.values()) == {"cat", "big dog"}


def test_what_a_format_cannot_hold_is_counted(tmp_path: Path) -> None:
    truth = write_coco(tmp_path)
    content = json.loads(truth.read_text())
    crowd = {**content["annotations"][0], "id": 900, "iscrowd": 1}
    box = {
        "id": 901,
        "image_id": 1,
        "category_id": 3,
        "bbox": [1, 2, 5, 6],
        "area": 30,
        "iscrowd": 0,
        "segmentation": [],
    }
    ring = np.zeros((50, 45), bool)
    ring[40:49, 30:44] = True
    ring[43:46, 34:38] = False
    holes = {"id": 902, "image_id": 2, "category_id": 3, "segmentation": encode_rle(ring), "iscrowd": 0}
    content["annotations"] += [crowd, box, holes]
    truth.write_text(json.dumps(content))
    yolo = convert_data(truth, tmp_path / "yolo", to="yolo", images_dir=tmp_path / "images")
    notes = " ".join(yolo.notes)
    assert "1 object left out: a crowd." in notes
    assert "1 object left out: a box without a mask." in notes
    assert "with parts or holes joined to one outline" in notes
    labelme = convert_data(truth, tmp_path / "labelme", to="labelme", images_dir=tmp_path / "images")
    assert "1 object left out: a crowd." in labelme.notes
    filled = convert_data(truth, tmp_path / "x.json", to="coco", images_dir=tmp_path / "images", boxes_as_masks=True)
    assert filled.num_objects == len(content["annotations"])


# ------------------------------------------------------------------ files as the tools write them

VIA = {
    "_via_settings": {},
    "_via_img_metadata": {
        "a.png123": {
            "filename": "a.png",
            "size": 123,
            "regions": [
                {
                    "shape_attributes": {
                        "name": "polygon",
                        "all_points_x": [1, 11, 11, 1],
                        "all_points_y": [2, 2, 8, 8],
                    },
                    "region_attributes": {"kind": "cat"},
                },
                {
                    "shape_attributes": {"name": "circle", "cx": 30, "cy": 20, "r": 8},
                    "region_attributes": {"kind": "dog"},
                },
                {
                    "shape_attributes": {"name": "ellipse", "cx": 45, "cy": 20, "rx": 8, "ry": 4},
                    "region_attributes": {"kind": "dog"},
                },
            ],
            "file_attributes": {},
        }
    },
    "_via_attributes": {"region": {"kind": {"type": "text"}}, "file": {}},
}
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels></task></meta>
  <image id="0" name="a.png" width="60" height="40">
    <polygon label="cat" source="manual" occluded="0" points="1.00,2.00;11.00,2.00;11.00,8.00;1.00,8.00" z_order="0"/>
    <mask label="dog" occluded="0" rle="0, 4, 2, 2" left="20" top="10" width="4" height="2" z_order="0"/>
  </image>
</annotations>
"""
LABELME = {
    "version": "5.5.0",
    "flags": {},
    "shapes": [
        {
            "label": "cat",
            "points": [[1, 2], [11, 2], [11, 8], [1, 8]],
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        },
        {"label": "dog", "points": [[30, 20], [30, 28]], "group_id": None, "shape_type": "circle", "flags": {}},
    ],
    "imagePath": "a.png",
    "imageData": None,
    "imageHeight": 40,
    "imageWidth": 60,
}


def areas(file: Path) -> dict[str, list[int]]:
    content = json.loads(file.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    found: dict[str, list[int]] = {}
    for a in content["annotations"]:
        area = int(CompressedMasks.from_coco([a["segmentation"]], sizes[a["image_id"]]).areas[0])
        found.setdefault(names[a["category_id"]], []).append(area)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(noise_image((40, 60))).save(tmp_path / "a.png")
    return tmp_path


def test_via(image: Path) -> None:
    (image / "via.json").write_text(json.dumps(VIA))
    convert_data(image / "via.json", image / "out.json", to="coco")
    found = areas(image / "out.json")
    assert found["cat"] == [60]
    assert found["dog"][0] == pytest.approx(np.pi * 64, rel=0.05)
    assert found["dog"][1] == pytest.approx(np.pi * 32, rel=0.05)


def test_via_csv(image: Path) -> None:
    rows = [
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes",
        'a.png,123,"{}",1,0,"{""name"":""polygon"",""all_points_x"":[1,11,11,1],""all_points_y"":[2,2,8,8]}","{""kind"":""cat""}"',
    ]
    (image / "via.csv").write_text("\n".join(rows))
    convert_data(image / "via.csv", image / "out.json", to="coco")
    assert areas(image / "out.json") == {"cat": [60]}


def test_cvat(image: Path) -> None:
    (image / "annotations.xml").write_text(CVAT)
    convert_data(image / "annotations.xml", image / "out.json", to="coco")
    assert areas(image / "out.json") == {"cat": [60], "dog": [6]}


def test_labelme(image: Path) -> None:
    (image / "a.json").write_text(json.dumps(LABELME))
    convert_data(image, image.parent / "labelme.json", to="coco")
    found = areas(image.parent / "labelme.json")
    assert found["cat"] == [60]
    assert found["dog"][0] == pytest.approx(np.pi * 64, rel=0.05)


def test_yolo(tmp_path: Path) -> None:
    for folder in ("images/train", "labels/train"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    Image.fromarray(noise_image((40, 60))).save(tmp_path / "set/images/train/a.png")
    (tmp_path / "set/labels/train/a.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")
    (tmp_path / "set/data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/train\nnames:\n  0: cat\n  1: dog\n"
    )
    convert_data(tmp_path / "set", tmp_path / "out.json", to="coco")
    assert areas(tmp_path / "out.json") == {"dog": [24 * 16]}


def test_yolo_in_a_folder_called_labels_beside_the_images_has_its_names(tmp_path: Path) -> None:
    for folder in ("images", "labels/labels"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(noise_image((40, 60))).save(tmp_path / "images/a.png")
    (tmp_path / "labels/labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")
    (tmp_path / "labels/data.yaml").write_text("path: .\ntrain: images\nval: images\nnames:\n  0: dog\n")
    convert_data(tmp_path / "labels", tmp_path / "out.json", to="coco", images_dir=tmp_path / "images")
    assert areas(tmp_path / "out.json") == {"dog": [24 * 16]}


def test_voc(tmp_path: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "SegmentationObject", "SegmentationClass"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    Image.fromarray(noise_image((40, 60))).save(tmp_path / "voc/JPEGImages/a.jpg")
    objects = np.zeros((40, 60), np.uint8)
    objects[2:8, 1:11], objects[20:30, 20:25], objects[20:30, 25] = 1, 2, 255
    of_class = np.where(objects == 1, 8, np.where(objects == 2, 12, objects)).astype(np.uint8)  # cat and dog
    for folder, picture in (("SegmentationObject", objects), ("SegmentationClass", of_class)):
        image = Image.fromarray(picture)
        image.putpalette(list(range(256)) * 3)
        image.save(tmp_path / "voc" / folder / "a.png")
    xml = "<annotation><filename>a.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>"
    for name, box in (("cat", (2, 3, 11, 8)), ("dog", (21, 21, 25, 30))):
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        xml += f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"
    (tmp_path / "voc/Annotations/a.xml").write_text(xml + "</annotation>")
    convert_data(tmp_path / "voc", tmp_path / "out.json", to="coco")
    assert areas(tmp_path / "out.json") == {"cat": [60], "dog": [50]}


# ------------------------------------------------------------------ what goes wrong

HOSTILE = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "aaaa">]><annotations><image id="0" name="&x;"/></annotations>'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", HOSTILE, "a.xml.*DOCTYPE|document type|entit"),
        ("a.xml", "<annotations><image", "a.xml"),
        ("a.json", "{", "a.json"),
        ("a.json", '{"a": 1}', "a.json"),
        ("a.csv", "x,y\n1,2\n", "a.csv"),
    ],
)
def test_broken_files_are_answered_in_a_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        convert_data(tmp_path / name, tmp_path / "out.json", to="coco")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    "line",
    [
        "1 0.1 0.1 0.5",
        "x 0.1 0.1 0.5 0.1 0.5 0.5",
        "0 0.1 0.1 nan 0.1 0.5 0.5",
        "-1 .1 .1 .2 .2 .3 .3",
        "1e30 .5 .5 .1 .1",
        "0_0 .5 .5 .1 .1",
    ],
)
def test_wrong_line_of_yolo_is_named(tmp_path: Path, line: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(noise_image((40, 60))).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text(f"0 0.1 0.1 0.5 0.1 0.5 0.5\n{line}\n")
    with pytest.raises(DataFaultError, match=r"a\.txt'.*line 2"):
        convert_data(tmp_path, tmp_path / "out.json", to="coco", names=["cat"])


def test_out_is_not_replaced_unless_asked_for(tmp_path: Path) -> None:
    truth, images = write_coco(tmp_path), tmp_path / "images"
    convert_data(truth, tmp_path / "yolo", to="yolo", images_dir=images)
    before = (tmp_path / "yolo/data.yaml").read_bytes()
    with pytest.raises(FileExistsError, match=r"--overwrite"):
        convert_data(truth, tmp_path / "yolo", to="yolo", images_dir=images)
    convert_data(truth, tmp_path / "yolo", to="yolo", images_dir=images, overwrite=True)
    assert (tmp_path / "yolo/data.yaml").read_bytes() == before
    (tmp_path / "yolo/mine.doc").write_text("x")
    with pytest.raises(ValueError, match=r"mine\.doc"):
        convert_data(truth, tmp_path / "yolo", to="yolo", images_dir=images, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "truth.json", "yolo"]


def test_folder_that_cannot_be_replaced_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, images, out = write_coco(tmp_path), tmp_path / "images", tmp_path / "yolo"
    convert_data(truth, out, to="yolo", images_dir=images)
    files, replace, calls = sorted(out.rglob("*")), os.replace, []

    def fail(source: Path, target: Path) -> None:
        calls.append(target)
        if calls.count(out.resolve()) == 1 and target == out.resolve():
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=r"No space left on device.*yolo"):
        convert_data(truth, out, to="yolo", images_dir=images, overwrite=True)
    assert sorted(out.rglob("*")) == files
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "truth.json", "yolo"]


def test_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    truth = write_coco(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    for _ in range(2):
        convert_data(truth, tmp_path / "link", to="yolo", images_dir=tmp_path / "images", overwrite=True)
        assert (tmp_path / "real/data.yaml").is_file()
        assert (tmp_path / "link").is_symlink()


def test_command_line_converts_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = write_coco(tmp_path)
    arguments: list[Any] = ["convert-data", truth, tmp_path / "yolo", "--to", "yolo", "--images", tmp_path / "images"]
    assert main([*map(str, arguments), "--copy-images"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'yolo'}: 4 images with ")
    assert lines[0].endswith("from coco to yolo")
    assert (tmp_path / "yolo/images/more/b.png").exists()
    assert main([str(a) for a in arguments]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["convert-data", str(tmp_path / "yolo"), str(tmp_path / "back.json")]) == 0
    assert objects_of(tmp_path / "back.json") == objects_of(truth)


def test_labels_of_a_namesake_in_another_folder_are_not_taken(tmp_path: Path) -> None:
    for folder in ("images/train", "labels/train", "labels/val"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    Image.fromarray(noise_image((40, 60))).save(tmp_path / "set/images/train/1.png")
    (tmp_path / "set/labels/train/1.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "set/labels/val/1.txt").write_text("1 0.1 0.1 0.9 0.1 0.9 0.9\n")
    with pytest.raises(DataFaultError, match=r"val/1\.txt"):
        convert_data(tmp_path / "set", tmp_path / "out.json", to="coco")
    done = convert_data(tmp_path / "set", tmp_path / "out.json", to="coco", on_fault="skip")
    assert done.categories == {"class 0": 1}
    (tmp_path / "set/labels/train/1.txt").unlink()
    with pytest.raises(DataFaultError, match=r"val/1\.txt"):
        convert_data(tmp_path / "set", tmp_path / "other.json", to="coco")


def test_crowds_with_a_box_only_stay_crowds(tmp_path: Path) -> None:
    truth = write_coco(tmp_path)
    content = json.loads(truth.read_text())
    crowd = {"id": 77, "image_id": 1, "category_id": 3, "bbox": [1, 1, 3, 3], "iscrowd": 1, "segmentation": []}
    content["annotations"] = [{**crowd, "attributes": {"x": 1}}]
    truth.write_text(json.dumps(content))
    convert_data(truth, tmp_path / "out.json", to="coco", images_dir=tmp_path / "images")
    (only,) = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert (only["id"], only["iscrowd"], only["attributes"]) == (77, 1, {"x": 1})
    assert (
        "1 object left out: a crowd."
        in convert_data(truth, tmp_path / "y", to="yolo", images_dir=tmp_path / "images").notes
    )
    content["annotations"] = [{**crowd, "image_id": [1]}, {**crowd, "category_id": {"a": 1}}]
    truth.write_text(json.dumps(content))
    with pytest.raises(DataFaultError, match="has no such image or category"):
        convert_data(truth, tmp_path / "z.json", to="coco", images_dir=tmp_path / "images")
