"""Files of detections: whole or not at all, in every format, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from odd_masks import NAMES, SIZE, dense_masks, odd_detections
from PIL import Image
from pycocotools.coco import COCO

from lucid_maskrcnn.annotation_formats.labelme import parse_labelme
from lucid_maskrcnn.annotation_formats.yolo import parse_yolo
from lucid_maskrcnn.data import CocoInstances
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.detections.saving import EXPORT_FORMATS, suffix_of
from lucid_maskrcnn.masks import CompressedMasks

# pycocotools' arrays do not know the copy keyword of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PICTURE = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
BY_SUFFIX = {
    "a.png": "drawing", "a.jpg": "drawing", "a.tif": "label-image", "a.csv": "csv", "a.geojson": "geojson",
    "a.zip": "imagej", "a.txt": "yolo", "a.json": "coco", "a.CSV": "csv",
}  # fmt: skip


@pytest.mark.parametrize(("name", "format"), BY_SUFFIX.items())
def test_suffix_says_the_format(tmp_path, name, format):
    found = odd_detections()[[0, 1, 2, 4]]  # without the name whose letters few fonts have
    found.save(tmp_path / name, image=PICTURE)
    found.save(str(tmp_path / f"named.{name.split('.')[1]}"), format=format, image=PICTURE)
    first, second = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert len(first) > 50
    assert first == second.replace(b"named.png", b"a.png")  # the name of the image, in a data set


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_no_detections_can_be_saved(tmp_path, format):
    odd_detections()[:0].save(tmp_path / f"a{suffix_of(format)}", format=format, image=PICTURE)
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_categories_are_not_needed(tmp_path, format):
    odd_detections(categories=None).save(tmp_path / f"a{suffix_of(format)}", format=format, image=PICTURE)
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("a.xlsx", {}, ValueError, r"xlsx': .*\.csv \(csv\), \.geojson \(geojson\).*only by name: 'labelme', 'crops'"),
        ("a", {}, ValueError, "path must end in the suffix of a format"),
        ("a.csv", {"format": "cvs"}, ValueError, "format must be one of .*, got 'cvs'. Did you mean 'csv'"),
        ("a.csv", {"format": "imagej"}, ValueError, "path must end in .zip for the format 'imagej'"),
        ("a.csv", {"padding": 3}, TypeError, "no option 'padding' for the format 'csv', which takes page, pixel_size"),
        ("a.zip", {"dtype": "uint8"}, TypeError, "has no option 'dtype' for the format 'imagej', which has no options"),
        ("a.png", {"image": PICTURE, "alhpa": 1}, TypeError, "has no option 'alhpa' .* Did you mean 'alpha'"),
        ("a.png", {"image": PICTURE, "alpha": 7}, ValueError, "alpha must be"),
        ("a.png", {}, ValueError, "image must be given"),
        ("nowhere/a.csv", {}, FileNotFoundError, "There is no folder .*nowhere"),
        ("nowhere/a", {"format": "crops", "image": PICTURE}, FileNotFoundError, "There is no folder .*nowhere"),
        ("a.json", {"image_id": "1"}, TypeError, "image_id must be an integer, got '1'"),
        ("a.json", {"file_name": 3}, TypeError, "file_name must be a string, got 3"),
        ("a.csv", {"image": "nowhere.tif"}, FileNotFoundError, "nowhere.tif"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused_and_nothing_written(tmp_path, name, options, error, message):
    with pytest.raises(error, match=message):
        odd_detections().save(tmp_path / name, **options)
    assert [*tmp_path.iterdir()] == []


def test_path_must_be_one():
    with pytest.raises(TypeError, match="path must be a path as str or Path, got 3"):
        odd_detections().save(3)


@pytest.mark.parametrize("format", [f for f in EXPORT_FORMATS if suffix_of(f)])
def test_failing_save_leaves_the_old_file(tmp_path, format, monkeypatch):
    path = tmp_path / f"a{suffix_of(format)}"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        odd_detections()[:3].save(path, format=format, image=PICTURE)
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


# ------------------------------------------------------------------ COCO


def test_data_set_is_opened_by_pycocotools(tmp_path):
    found = odd_detections(categories=[(label, name, 10 * label) for label, name in NAMES.items()])
    found.save(tmp_path / "a.json", image_id=7, file_name="folder/é.png")
    coco = COCO(str(tmp_path / "a.json"))
    assert coco.loadImgs(7) == [{"id": 7, "file_name": "folder/é.png", "height": 24, "width": 30}]
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == {
        **{10 * label: name for label, name in NAMES.items()}, 5: "class 5"
    }  # fmt: skip
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [a["id"] for a in annotations] == [1, 2, 3, 4, 5, 6]
    assert [a["category_id"] for a in annotations] == [10, 20, 30, 40, 10, 5]
    assert [a["score"] for a in annotations] == [0.9, 0.3, 0.95, 0.5, 0.05, 1]
    for annotation, mask in zip(annotations, dense_masks(), strict=False):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    assert [type(a["segmentation"]).__name__ for a in annotations] == ["list", "dict", "list", "dict", "list", "list"]


def test_data_set_can_be_trained_on_and_made_detections_again(tmp_path):
    found = odd_detections()[:6]
    Image.fromarray(PICTURE).save(tmp_path / "p.png")
    found.save(tmp_path / "a.json", image=tmp_path / "p.png")
    data = CocoInstances(tmp_path, tmp_path / "a.json")
    _, target = data[0]
    np.testing.assert_array_equal(np.asarray(target["masks"]), dense_masks()[:6])
    content = json.loads((tmp_path / "a.json").read_text())
    again = Detections.from_coco(content["annotations"], SIZE, categories=content["categories"])
    assert again.names == found.names
    np.testing.assert_array_equal(np.asarray(again.scores), np.asarray(found.scores))
    np.testing.assert_array_equal(np.asarray(again.boxes), np.asarray(found.boxes))
    np.testing.assert_array_equal(again.compressed_masks.to_dense(), dense_masks()[:6])


# ------------------------------------------------------------------ YOLO and LabelMe


def test_yolo_text_is_the_masks_again(tmp_path):
    found = odd_detections()
    found.save(tmp_path / "a.txt")
    text = (tmp_path / "a.txt").read_text()
    assert text == found.to_yolo()
    objects = parse_yolo(text, SIZE, "a.txt")
    assert [int(entry.name) for entry in objects] == [0, 1, 2, 3, 0, 4]  # labels from 0 on
    masks = CompressedMasks.from_coco([entry.segmentation for entry in objects], SIZE)
    np.testing.assert_array_equal(masks.to_dense(), dense_masks()[:6])


def test_yolo_text_is_read_by_supervision(tmp_path):
    import supervision

    found = odd_detections()[[0, 4, 5]]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(PICTURE).save(tmp_path / "images" / "a.png")
    found.save(tmp_path / "labels" / "a.txt")
    (tmp_path / "data.yaml").write_text("names: [a, b, c, d, e]")
    data = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml"), force_masks=True
    )
    (_, _, there) = next(iter(data))
    assert there.class_id.tolist() == [0, 0, 4]
    assert there.mask.shape == (3, *SIZE)
    assert not (dense_masks()[[0, 4, 5]] & ~there.mask).any()  # OpenCV fills the outline with its border


def test_labelme_file_is_the_masks_again(tmp_path):
    found = odd_detections()
    found.save(tmp_path / "a.json", format="labelme", file_name="p.png")
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(found.to_labelme("p.png")))
    assert {shape["group_id"] for shape in content["shapes"]} == {1, 2, 3, 4, 5, 6}
    record = parse_labelme(content, "a.json")
    assert (record.file_name, record.size) == ("p.png", SIZE)
    assert [entry.name for entry in record.objects] == found.names[:6]
    masks = CompressedMasks.from_coco([entry.segmentation for entry in record.objects], SIZE)
    np.testing.assert_array_equal(masks.to_dense(), dense_masks()[:6])


@pytest.mark.parametrize("format", ["coco", "labelme"])
def test_name_of_the_image_is_that_of_its_file(tmp_path, format):
    Image.fromarray(PICTURE).save(tmp_path / "p.png")
    found = odd_detections()
    for options, name in (
        ({"image": tmp_path / "p.png"}, "p.png"),
        ({}, "a.png"),
        ({"file_name": "x/y.tif"}, "x/y.tif"),
    ):
        found.save(tmp_path / "a.json", format=format, **options)
        content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        assert (content["imagePath"] if format == "labelme" else content["images"][0]["file_name"]) == name


# ------------------------------------------------------------------ crops


def test_crops_are_files_named_by_id(tmp_path):
    found = odd_detections()
    found.save(tmp_path / "crops", format="crops", image=PICTURE, padding=1)
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == [f"{i}.png" for i in range(1, 8)]
    for number, crop in enumerate(found.crops(image=PICTURE, padding=1), start=1):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "crops" / f"{number}.png")), crop)


def test_folder_of_crops_is_replaced_whole_and_no_other_folder(tmp_path):
    folder = tmp_path / "crops"
    odd_detections().save(folder, format="crops", image=PICTURE)
    odd_detections()[:2].save(folder, format="crops", image=PICTURE)
    assert sorted(path.name for path in folder.iterdir()) == ["1.png", "2.png"]
    (folder / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="holds other files than crops, which would be lost"):
        odd_detections().save(folder, format="crops", image=PICTURE)
    assert sorted(path.name for path in folder.iterdir()) == ["1.png", "2.png", "mine.txt"]
    assert [*tmp_path.iterdir()] == [folder]
    with pytest.raises(ValueError, match="holds other files"):
        odd_detections().save(folder / "mine.txt", format="crops", image=PICTURE)


@pytest.mark.parametrize("failing", [1, 2])
def test_failing_save_of_crops_leaves_the_old_ones(tmp_path, failing, monkeypatch):
    folder, replace, calls = tmp_path / "crops", os.replace, []
    odd_detections()[:2].save(folder, format="crops", image=PICTURE)

    def fail(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=r"No space left on device.*crops"):
        odd_detections().save(folder, format="crops", image=PICTURE)
    assert sorted(path.name for path in folder.iterdir()) == ["1.png", "2.png"]
    assert [*tmp_path.iterdir()] == [folder]


# ------------------------------------------------------------------ all of them


def test_every_format_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "do" / "export.md").read_text(encoding="utf-8")
    for name, known in EXPORT_FORMATS.items():
        for text in (f"``{name}``", *(f"``{option}``" for option in known.options)):
            assert text in Detections.save.__doc__, text
        assert f"`{name}`" in page


@pytest.mark.parametrize("name", ["a.csv", "a.tif", "a.geojson", "a.zip", "a.txt", "a.json", "a.png"])
def test_folder_in_the_place_of_the_file_is_one_sentence(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=name):
        odd_detections()[:1].save(tmp_path / name, image=PICTURE)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_ids_are_the_same_in_every_export(tmp_path):
    import roifile
    import tifffile

    found = odd_detections()[[3, 0, 2]]  # in another order, of other scores
    for name in ("a.csv", "a.geojson", "a.zip", "a.json", "a.tif"):
        found.save(tmp_path / name)
    areas = dict(zip([1, 2, 3], found.areas.tolist(), strict=True))
    table = pd.read_csv(tmp_path / "a.csv")
    assert dict(zip(table["id"], table["area"], strict=True)) == areas
    features = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"]
    assert {f["id"]: f["properties"]["measurements"]["area"] for f in features} == areas
    annotations = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert {a["id"]: a["area"] for a in annotations} == areas
    labels = tifffile.imread(tmp_path / "a.tif")
    assert {i: (labels == i).sum() for i in (1, 2, 3)} == areas
    names = {1: NAMES[4], 2: NAMES[1], 3: NAMES[3]}
    assert [(int(roi.name), roi.props.splitlines()[1]) for roi in roifile.roiread(tmp_path / "a.zip")] == [
        (i, f"name: {name}".replace("\\", "\\\\").replace("\n", "\\n")) for i, name in names.items()
    ]
