"""Files of other tools are named, with what to do with them."""

import json

import pytest

from lucid_maskrcnn.annotation_formats.coco import read_annotations

REGION = {"shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}, "region_attributes": {}}
VIA = {"0.png123": {"filename": "0.png", "size": 123, "regions": [REGION], "file_attributes": {}}}
IMAGES = {"images": [{"id": 1}], "categories": []}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (VIA, r"VGG Image Annotator \(VIA\)"),
        ({"_via_settings": {}, "_via_img_metadata": VIA}, r"VGG Image Annotator \(VIA\)"),
        ({"version": "5", "shapes": [], "imagePath": "a.png", "imageData": None}, "labelme's annotations of one image"),
        ([{"id": 1, "annotations": [], "data": {"image": "a.png"}}], "Label Studio"),
        ([{"image": "a.png", "annotations": [{"label": "x", "coordinates": {}}]}], "CreateML, which has boxes only"),
        ([{"image_id": 1, "category_id": 1, "score": 0.5}], "COCO results, a list of detections"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}], "only a list of annotations"),
        ({**IMAGES, "annotations": [{"image_id": 1, "segments_info": []}]}, "COCO's panoptic annotations"),
        ({"images": [], "annotations": [{"image_id": 1, "caption": "a cat"}]}, "COCO's captions"),
        (IMAGES, "a list of images without annotations"),
        ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
        ({"description": "", "size": {}, "objects": []}, "Supervisely"),
        ({"item": {}, "annotations": []}, "V7 Darwin"),
        ([{"name": "a", "labels": []}], "BDD100K"),
        ([{"External ID": "a"}], "Labelbox"),
    ],
)
def test_content_of_another_tool_is_named(tmp_path, content, name):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"a.json' is not COCO instances, but .*{name}"):
        read_annotations(file)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("labels.txt", "as YOLO's labels are"),
        ("data.yaml", "as YOLO's data sets have one"),
        ("a.xml", "as Pascal VOC and CVAT write them"),
        ("a.csv", "a table, as VIA"),
        ("export.zip", "an archive: unpack it"),
        ("a.png", "an image: label images are a folder, given as --labels"),
    ],
)
def test_file_of_another_kind_is_named(tmp_path, name, what):
    (tmp_path / name).write_bytes(b"0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError, match=f"{name}' is no JSON file of COCO instances, but .*{what}"):
        read_annotations(tmp_path / name)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ([], "a folder: give the JSON file of COCO instances"),
        (["_annotations.coco.json"], "a folder: give the file in it, '_annotations.coco.json'"),
        (["a.json", "b.json"], "a folder of JSON files, as labelme and Supervisely write them"),
        (["a.txt"], "a folder of text files, as YOLO's labels are"),
        (["a.xml"], "a folder of XML files, as Pascal VOC's annotations are"),
        (["a.png"], "a folder of images: label images are given as --labels"),
    ],
)
def test_folder_in_place_of_a_file_is_named(tmp_path, names, what):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=what):
        read_annotations(tmp_path)


def test_json_under_another_name_is_read(tmp_path):
    (tmp_path / "a.txt").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert read_annotations(tmp_path / "a.txt")["images"] == []
