"""Validation of data sets: counts, and every issue in one line."""

import re
import shutil

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.data import CocoInstances, Issue, LabelImages, validate
from lucid_maskrcnn.masks.rle import encode_rle


@pytest.fixture
def files(tmp_path):
    return data_sets.write(tmp_path)


def issues_of(files, content):
    return [str(issue) for issue in validate(files[0], content).issues]


# ------------------------------------------------------------------ what is there


def test_counts_of_sound_data(files):
    found = validate(*files)
    assert found.issues == []
    assert found.lines() == [
        "4 images, 1 without objects; 4 objects and 1 crowd",
        "  dog: 2",
        "  cat: 1",
        "  kite: 1",
        "  3 small, 1 medium, 0 large",
    ]
    assert validate(CocoInstances(*files)).issues == []


def test_no_images():
    nothing = {"images": [], "annotations": [], "categories": []}
    report = validate("nowhere", nothing)
    assert report.lines() == ["no images; no objects"]
    assert [str(issue) for issue in report.issues] == ["the data set has no images that can be used."]


def test_any_sequence_of_pairs_is_validated():
    mask = data_sets.box_mask((20, 30), 2, 3, 5, 6)
    good = {"boxes": [[2, 3, 7, 9]], "labels": [1], "masks": [encode_rle(mask)]}
    items = [
        (data_sets.noise_image((20, 30)), good),
        (data_sets.noise_image((20, 30)), good | {"boxes": [[2, 3, 2, 9]]}),
        (data_sets.noise_image((30, 20)), good),
        ("no.png", good),
        (data_sets.noise_image((20, 30)), good | {"masks": mask[None]}),
    ]
    found = validate(items)
    assert (found.num_images, found.category_counts) == (2, {"1": 2})
    assert [issue.place for issue in found.issues] == ["item 1", "item 2", "item 3"]
    assert "has no area" in found.issues[0].problem
    assert "20 × 30 pixels, but the image has 30 × 20" in found.issues[1].problem
    assert str(found.issues[2]) == "item 3 cannot be used: FileNotFoundError: There is no image file 'no.png'."


# ------------------------------------------------------------------ what is wrong


def test_all_issues_are_listed_not_only_the_first(files):
    content = data_sets.coco()
    one, two, three, _, five = content["annotations"]
    one["segmentation"] = []
    two["bbox"] = [1, 2, 0, 4]
    three["segmentation"]["size"] = [50, 51]
    five["id"] = 0
    content["annotations"] += [{**five, "id": 6, "image_id": 99}, {**five, "id": 6}, "nothing"]
    content["images"].append({"id": 50, "file_name": "e.png", "height": 5, "width": 5})
    (files[0] / "c.png").write_bytes(b"no image")
    assert issues_of(files, content) == [
        f"image 30 (c.png) cannot be used: Cannot read the image file {str(files[0] / 'c.png')!r}: it is not an image.",
        f"image 50 (e.png) is not in {str(files[0])!r}: file_name is the path within the folder of images: give the "
        "right folder, or change the names.",
        "annotation 1 has no segmentation: give it polygons or a run-length encoding, or remove it.",
        "annotation 2 has the bbox (1, 2, 0, 4), without area in its image of 40 × 60: the box around its segmentation "
        "is used.",
        "annotation 0 has id 0, which COCO's evaluation takes for a missing object: count from 1.",
        "annotation 6 has image_id 99, which is not among the images.",
        "annotation 6 is there twice: ids must be unique, number them from 1 on.",
        "annotations[7] must be a mapping, got 'nothing'.",
        "annotation 3 has a segmentation that is malformed: rle['counts'] does not cover the 50 × 51 pixels of "
        "rle['size'].",
        "category 'kite' has no objects.",
        "the data set has 3 of 5 images without objects, which are background: if nobody has annotated them, leave "
        "them out.",
    ]


def test_images_are_opened(files):
    shutil.copy(files[0] / "a.png", files[0] / "b.png")
    (files[0] / "c.png").write_bytes(b"no image")
    (files[0] / "d.png").unlink()
    whole = (files[0] / "a.png").read_bytes()
    (files[0] / "a.png").write_bytes(whole[: len(whole) // 2])
    found = issues_of(files, data_sets.coco())
    assert found[:3] == [
        "image 20 (b.png) has 40 × 60 pixels (height × width), but the annotations say 50 × 50.",
        f"image 30 (c.png) cannot be used: Cannot read the image file {str(files[0] / 'c.png')!r}: it is not an image.",
        f"image 40 (d.png) is not in {str(files[0])!r}: file_name is the path within the folder of images: give the "
        "right folder, or change the names.",
    ]
    (cut_off,) = found[3:]  # whose beginning is as it should be
    assert cut_off.startswith(
        f"image 10 (a.png) cannot be used: Cannot read the image file {str(files[0] / 'a.png')!r}"
    )


def test_bbox_of_corners_is_an_issue(files):
    content = data_sets.coco()
    content["annotations"][0]["bbox"] = [10, 5, 30, 15]  # x1, y1, x2, y2
    (issue,) = validate(files[0], content).issues
    assert str(issue) == (
        "annotation 1 has a box from its bbox, (10, 5, 40, 20), that is not the one around its segmentation, "
        "(10, 5, 30, 15): it is x1, y1, x2, y2, where x, y, width, height is wanted; the box around its segmentation "
        "is used."
    )
    assert not issue.fatal
    CocoInstances(files[0], content)  # which can be trained on


def test_objects_without_pixels_and_duplicates_are_issues(files):
    content = data_sets.coco()
    content["annotations"][0]["segmentation"] = [[10, 5, 10.2, 5, 10.2, 5.2]]
    content["annotations"].append({**content["annotations"][4], "id": 6})
    content["images"].append({**content["images"][0], "id": 50})
    assert issues_of(files, content) == [
        "image 50 is the same file as image 10, 'a.png': give all its annotations one image_id, or its objects are "
        "background in the other.",
        "annotation 1 has a segmentation that covers no pixel: it is left out.",
        "annotation 6 covers the same pixels as annotation 5: remove one, the object counts twice.",
    ]


def test_boxes_a_little_off_are_no_issues(files):
    content = data_sets.coco()
    content["annotations"][2]["bbox"] = [3.5, 5, 23, 12.5]
    report = validate(files[0], content)
    assert report.is_sound
    assert [(issue.place, issue.level) for issue in report.issues] == [("annotation 3", "note")]
    content["annotations"][2]["bbox"] = [4.5, 5.5, 21, 11]
    assert validate(files[0], content).issues == []
    assert CocoInstances(files[0], content)[1][1]["boxes"].tolist() == [[4.5, 5.5, 25.5, 16.5]]


def test_an_issue_is_a_sentence():
    assert str(Issue("annotation 7", "has no area")) == "annotation 7 has no area."


def test_label_images_are_counted_under_their_category(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.fromarray(data_sets.noise_image((20, 30))).save(tmp_path / "images" / "a.png")
    Image.fromarray(data_sets.box_mask((20, 30), 3, 4, 5, 6).astype(np.uint8)).save(tmp_path / "labels" / "a.png")
    report = validate(LabelImages(tmp_path / "images", tmp_path / "labels", category="cell"))
    assert report.category_counts == {"cell": 1}
    assert report.issues == []


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("images",), {}, ValueError, "source, a folder, needs annotations or labels, one of them."),
        (("images", "a.json"), {"labels": "b"}, ValueError, "source, a folder, needs annotations or labels, one of"),
        (([], "a.json"), {}, ValueError, "source, a data set, needs no annotations and no labels: it has its own."),
        (
            (3,),
            {},
            TypeError,
            "source must be a data set, a sequence of (image, target) pairs such as CocoInstances, got",
        ),
        ((CocoInstances,), {}, TypeError, "got the class CocoInstances."),
        (("images",), {"labels": 3}, TypeError, "labels must be a path as str or Path, got 3."),
        (("images", 3), {}, TypeError, "annotations must be"),
        (([],), {"progress": "no"}, TypeError, "progress must be True or False, got 'no'."),
        (([],), {"on_image": "draw"}, TypeError, "on_image must be called as on_image(image), got 'draw'."),
    ],
)
def test_arguments_of_validate_are_checked(arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        validate(*arguments, **options)


def test_on_image_gets_the_images_that_could_be_read(files):
    (files[0] / "b.png").write_bytes(b"no image")
    visited = []
    validate(*files, on_image=visited.append)
    assert [(image.index, image.total, image.file_name) for image in visited] == [
        (0, 4, "a.png"),
        (2, 4, "c.png"),
        (3, 4, "d.png"),
    ]
    assert visited[0].pixels.shape == (40, 60, 3)
    assert visited[0].categories == {1: "cat", 2: "dog", 3: "kite"}
    assert len(visited[0].target["boxes"]) == 2
