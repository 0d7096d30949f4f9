"""Annotations in COCO's format: what is read, and the sentence for what is not."""

import copy
import json
import pickle
import re

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.data import CocoInstances, DataFaultError, validate
from lucid_maskrcnn.data.annotation_checks import is_plain
from lucid_maskrcnn.data.coco_reader import Annotation
from lucid_maskrcnn.evaluation.coco_results import complete
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.masks.rle import encode_rle
from lucid_maskrcnn.targets import Target


@pytest.fixture
def files(tmp_path):
    return data_sets.write(tmp_path)


def changed(change, kind="annotations", index=0):
    """Return the annotations with one entry changed: keys set, or removed where the value is ``...``."""
    content = data_sets.coco()
    entry = content[kind][index]
    for key, value in change.items():
        if value is ...:
            del entry[key]
        else:
            entry[key] = value
    return content


def test_attributes(files):
    dataset = CocoInstances(*files)
    assert len(dataset) == 4
    assert dataset.categories == {1: "cat", 2: "dog", 3: "kite"}  # in the order of the ids
    assert dataset.category_ids == {1: 3, 2: 7, 3: 90}
    assert dataset.image_ids == [10, 20, 30, 40]
    assert dataset.file_names == ["a.png", "b.png", "c.png", "d.png"]
    assert dataset.sizes == data_sets.SIZES
    assert dataset.object_counts == [2, 1, 0, 1]
    assert repr(dataset) == "CocoInstances(4 images, 4 objects, 3 categories)"


def test_items(files):
    dataset = CocoInstances(str(files[0]), str(files[1]))
    image, target = dataset[0]
    np.testing.assert_array_equal(image, data_sets.noise_image(data_sets.SIZES[0]))
    assert {k: v.dtype for k, v in target.items() if isinstance(v, np.ndarray)} == {
        "boxes": np.float32,
        "labels": np.int32,
        "iscrowd": np.uint8,
    }
    assert target["boxes"].tolist() == [[10, 5, 30, 15], [40.5, 30, 60, 40]]  # the second is cut at the image
    assert target["labels"].tolist() == [2, 1]
    assert target["image_id"] == 10
    assert isinstance(target["masks"], CompressedMasks)
    dense = target["masks"].to_dense()
    np.testing.assert_array_equal(dense[0], data_sets.box_mask((40, 60), 10, 5, 20, 10))
    np.testing.assert_array_equal(dense[1], data_sets.box_mask((40, 60), 41, 30, 19, 10))
    np.testing.assert_array_equal(dataset[-1][1]["masks"].to_dense(), np.ones((1, 48, 64), bool))
    with pytest.raises(IndexError):
        dataset[4]


def test_masks_are_those_of_pycocotools(files):
    mask_utils = pytest.importorskip("pycocotools.mask")
    dataset = CocoInstances(*files)
    for i, image in enumerate(dataset.coco()["images"]):
        own = [a for a in data_sets.coco()["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        size = image["height"], image["width"]
        for annotation, rle in zip(own, dataset[i][1]["masks"].to_rle(), strict=True):
            theirs = annotation["segmentation"]
            if isinstance(theirs, list):
                theirs = mask_utils.merge(mask_utils.frPyObjects(theirs, *size))
            elif isinstance(theirs["counts"], list):
                theirs = mask_utils.frPyObjects(theirs, *size)
            counts = theirs["counts"]
            assert rle["counts"] == (counts.decode() if isinstance(counts, bytes) else counts)


def test_crowds_are_not_trained_on_but_kept_for_evaluation(files):
    dataset = CocoInstances(*files)
    assert len(dataset[1][1]["boxes"]) == 1
    assert dataset[1][1]["iscrowd"].tolist() == [0]
    assert dataset.coco() == data_sets.coco()


def test_image_without_objects(files):
    _, target = CocoInstances(*files)[2]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].to_dense().shape == (0, *data_sets.SIZES[2])
    without = CocoInstances(*files, keep_empty=False)
    assert without.image_ids == [10, 20, 40]
    assert [image["id"] for image in without.coco()["images"]] == [10, 20, 40]


def test_images_with_slivers_only_go_with_the_empty_ones(files):
    content = changed({"bbox": [0, 0, 64, 1], "segmentation": [[0, 0, 64, 0, 64, 1, 0, 1]]}, index=4)
    assert CocoInstances(files[0], content).image_ids == [10, 20, 30, 40]
    assert CocoInstances(files[0], content, keep_empty=False).image_ids == [10, 20]


def test_box_elsewhere_than_the_mask_is_the_one_around_the_mask(files):
    """It is reported by check-data, and does not end a run in the middle of an epoch."""
    files[1].write_text(json.dumps(changed({"bbox": [45, 30, 9, 9]})))
    (_, target) = CocoInstances(*files)[0]
    assert target["boxes"].tolist() == [[10, 5, 30, 15], [40.5, 30, 60, 40]]
    Target.from_mapping(target, index=0, image_size=data_sets.SIZES[0], num_classes=3)
    report = validate(*files)
    assert [str(i) for i in report.issues] == [
        "annotation 1 has a box from its bbox, (45, 30, 54, 39), that is not the one around its segmentation, "
        "(10, 5, 30, 15): a bbox is x, y, width, height; the box around its segmentation is used."
    ]


UNUSABLE = [[10, 5, 0, 10], [10, 5, 20, -3], [70, 5, 20, 10], [10, 5, 1e-9, 10], [0, 0, 0, 0], [0.2, 0.1, 0.3, 0.2]]
UNUSABLE += [None, [1, 2, 3], [1, 2, float("nan"), 4], "1234", [[1, 2], [3, 4]], ["1", "2", "3", "4"], [True] * 4, {}]


@pytest.mark.parametrize("bbox", UNUSABLE, ids=str)
def test_box_that_cannot_be_is_the_one_around_the_mask_for_training_and_evaluation(files, bbox):
    dataset = CocoInstances(files[0], changed({"bbox": bbox}))
    assert dataset.object_counts == [2, 1, 0, 1]
    assert dataset[0][1]["boxes"][0].tolist() == [10, 5, 30, 15]
    assert dataset.coco()["annotations"][0]["bbox"] == [10, 5, 20, 10]
    (issue,) = dataset.issues
    assert (issue.place, issue.level) == ("annotation 1", "warning")
    assert "the box around its segmentation is used" in issue.remedy + issue.problem


@pytest.mark.parametrize("area", [None, "200", [200], True, float("nan"), float("inf"), -3, {}], ids=str)
def test_area_that_cannot_be_is_counted(files, area):
    """An evaluation died of it when all images had been predicted."""
    dataset = CocoInstances(files[0], changed({"area": area}))
    assert dataset.coco()["annotations"][0]["area"] == 200
    (issue,) = dataset.issues
    assert "must have a number of pixels as its area, got" in issue.problem
    assert issue.level == "warning"
    assert complete(dataset.coco(), ["segm", "bbox"])["annotations"][0]["area"] == 200


def test_training_and_evaluation_count_the_same_objects(files):
    """A tiny object without a pixel was an object to the evaluation only, one with a wrong box too."""
    content = changed({"bbox": [0, 0, 0, 0]})
    content["annotations"][2]["segmentation"] = [[10, 5, 10.2, 5, 10.2, 5.2]]
    with pytest.warns(UserWarning, match=r"Left out of the annotations: 1 annotation; the data set's issues say why\."):
        dataset = CocoInstances(files[0], content)
    objects = [a for a in dataset.coco()["annotations"] if not a["iscrowd"]]
    assert sum(dataset.object_counts) == sum(len(dataset[i][1]["boxes"]) for i in range(4)) == len(objects) == 3
    assert dataset.num_left_out == 1
    assert dataset.category_counts == {"cat": 1, "dog": 2, "kite": 0}
    assert validate(files[0], content).category_counts.total() == 3


def test_iscrowd_of_null_is_no_crowd(files):
    assert CocoInstances(files[0], changed({"iscrowd": None})).object_counts == [2, 1, 0, 1]


def test_evaluation_reads_the_truth_that_the_run_began_with(files):
    dataset = CocoInstances(*files)
    files[1].write_text("{}")
    assert dataset.coco() == data_sets.coco()


def test_faults_are_skipped_when_told_and_counted(files):
    content = changed({"segmentation": []})
    content["annotations"].append({**content["annotations"][4], "id": "6"})
    (files[0] / "b.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="Left out of "):
        dataset = CocoInstances(files[0], content, on_fault="skip")
    assert dataset.image_ids == [10, 30, 40]
    assert dataset.object_counts == [1, 0, 1]
    assert (dataset.num_listed, dataset.num_left_out, dataset.num_crowds) == (4, 4, 0)
    assert repr(dataset) == "CocoInstances(3 images, 2 objects, 3 categories, without 4 annotations)"
    assert [i.place for i in dataset.issues] == ["image 20 (b.png)", "annotation 1", "annotations[5]"]
    assert {i.level for i in dataset.issues} == {"fault"}
    assert {a["image_id"] for a in dataset.coco()["annotations"]} == {10, 40}
    with pytest.raises(DataFaultError, match="image 20") as caught:
        CocoInstances(files[0], content)
    assert caught.value.issues == tuple(dataset.issues)


def test_picture_that_is_cut_off_is_found_before_an_epoch(files):
    whole = (files[0] / "a.png").read_bytes()
    (files[0] / "a.png").write_bytes(whole[: len(whole) // 2])
    assert len(CocoInstances(*files)) == 4  # whose beginning is as it should be
    with pytest.raises(DataFaultError, match=r"image 10 \(a.png\) cannot be used: Cannot read the image file"):
        CocoInstances(*files, open_images=True)
    with pytest.warns(UserWarning, match="Left out of "):
        dataset = CocoInstances(*files, open_images=True, on_fault="skip")
    assert dataset.image_ids == [20, 30, 40]
    assert dataset.num_left_out == 2


def test_missing_keys_are_computed_for_evaluation(files):
    content = changed({"bbox": ..., "area": ..., "iscrowd": ...})
    dataset = CocoInstances(files[0], content)
    assert dataset[0][1]["boxes"][0].tolist() == [10, 5, 30, 15]  # around the mask
    found = dataset.coco()["annotations"][0]
    assert (found["bbox"], found["area"], found["iscrowd"]) == ([10, 5, 20, 10], 200, 0)
    assert "bbox" not in content["annotations"][0]


def test_sizes_come_from_the_image_where_the_file_has_none(files):
    content = data_sets.coco()
    for image in content["images"]:
        del image["height"], image["width"]
    turned = Image.open(files[0] / "a.png").rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by a quarter to look at it
    turned.save(files[0] / "a.png", exif=exif)
    dataset = CocoInstances(files[0], content)
    assert dataset.sizes == data_sets.SIZES
    assert dataset[0][0].shape == (40, 60, 3)
    assert dataset.coco()["images"][0]["height"] == 40


@pytest.mark.parametrize(
    ("categories", "names", "ids", "counts"),
    [
        (["kite", "dog"], {1: "kite", 2: "dog"}, {1: 90, 2: 7}, [1, 1, 0, 1]),
        ({5: "dog", 2: "cat"}, {2: "cat", 5: "dog"}, {2: 3, 5: 7}, [2, 0, 0, 1]),
    ],
)
def test_categories_are_selected_and_labelled(files, categories, names, ids, counts):
    dataset = CocoInstances(*files, categories=categories)
    assert dataset.categories == names
    assert dataset.category_ids == ids
    assert dataset.object_counts == counts
    assert {c["name"] for c in dataset.coco()["categories"]} == set(names.values())
    assert {a["category_id"] for a in dataset.coco()["annotations"]} <= set(ids.values())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"categories": ["bird"]}, ValueError, "categories has 'bird', which is not among those of the file"),
        ({"categories": []}, ValueError, "categories must have at least one name; None means all categories"),
        ({"categories": {}}, ValueError, "categories must have at least one name"),
        ({"categories": ["dog", "cat", "dog"]}, ValueError, "categories must have each name once, got 'dog' twice."),
        ({"categories": "dog"}, TypeError, "a list of names, or a dict of labels and names, got 'dog'."),
        ({"categories": {"dog"}}, TypeError, "a list of names, or a dict of labels and names, got {'dog'}."),
        ({"categories": [1]}, TypeError, "categories[0] must be a string, got 1."),
        ({"categories": {0: "dog"}}, ValueError, "A label of categories must be a positive integer, got 0."),
        ({"categories": {"dog": 1}}, TypeError, "A label of categories must be a positive integer, got 'dog'."),
        ({"categories": {1: None}}, TypeError, "categories[1] must be a string, got None."),
        ({"on_fault": "ignore"}, ValueError, "on_fault must be"),
        ({"open_images": 1}, TypeError, "open_images must be True or False, got 1."),
        ({"keep_empty": "no"}, TypeError, "keep_empty must be True or False, got 'no'."),
        ({"images_dir": 3}, TypeError, "images_dir must be a path as str or Path, got 3."),
        ({"images_dir": ""}, ValueError, "images_dir must not be an empty string."),
        ({"annotations": None}, TypeError, "annotations must be a path as str or Path, got None."),
    ],
)
def test_arguments_are_checked(files, options, error, message):
    arguments = {"images_dir": files[0], "annotations": files[1]} | options
    with pytest.raises(error, match=re.escape(message)):
        CocoInstances(**arguments)


def test_numpy_ids_are_ids(files):
    content = data_sets.coco()
    for entry in content["annotations"]:
        entry |= {"image_id": np.int64(entry["image_id"]), "bbox": [np.float32(v) for v in entry["bbox"]]}
    assert CocoInstances(files[0], content).object_counts == CocoInstances(*files).object_counts


# Each with the sentence: changes to one entry.
FATAL = [
    ({"id": 2}, "annotation 2 is there twice"),
    ({"id": ...}, r"annotations\[0\] must have an integer as its id, got None"),
    ({"id": "1"}, r"annotations\[0\] must have an integer as its id, got '1'"),
    ({"image_id": 99}, "annotation 1 has image_id 99, which is not among the images"),
    ({"category_id": 1}, "annotation 1 has category_id 1, which is not among the categories"),
    ({"category_id": ...}, "annotation 1 has category_id None"),
    ({"iscrowd": 2}, "annotation 1 must have an iscrowd of 0 or 1, got 2"),
    ({"iscrowd": "0"}, "annotation 1 must have an iscrowd of 0 or 1, got '0'"),
    ({"iscrowd": [0]}, r"annotation 1 must have an iscrowd of 0 or 1, got \[0\]"),
    ({"category_id": "7"}, "annotation 1 has category_id '7', which is not among the categories: write numbers as"),
    ({"image_id": "10"}, "annotation 1 has image_id '10', which is not among the images: write numbers as numbers"),
    ({"image_id": True}, "annotation 1 has image_id True"),
    ({"image_id": 10.0}, "annotation 1 has image_id 10.0, .*: write whole numbers without a point, 7 and not 7.0"),
    ({"category_id": 0}, r"annotation 1 has category_id 0, .*: their ids are \[3, 7, 90\]"),
    ({"segmentation": [["1", "2", "3", "4", "5", "6"]]}, "annotation 1 .*: write numbers as numbers, 7 and not '7'"),
    ({"segmentation": {"size": [40, 60], "counts": "b'zz'"}}, r"is malformed: .*: write counts.decode\(\), not str"),
    ({"category_id": [7]}, r"annotation 1 has category_id \[7\]"),
    (
        {"segmentation": ...},
        "annotation 1 has no segmentation: give it polygons or a run-length encoding, or remove it",
    ),
    ({"segmentation": []}, "annotation 1 has no segmentation"),
    ({"segmentation": {}}, "annotation 1 has no segmentation"),
    (
        {"segmentation": "abc"},
        "annotation 1 must have polygons or a run-length encoding as its segmentation, got 'abc'",
    ),
    ({"segmentation": 7}, "annotation 1 must have polygons or a run-length encoding"),
    ({"segmentation": [1, 2, 3, 4, 5, 6]}, r"one flat list of numbers, .*: it is a list of polygons, put \[ \] around"),
    (
        {"segmentation": [[[1, 2], [3, 4], [5, 9]]]},
        r"write its points one after the other, \[x, y, x, y, …\], not \[\[",
    ),
    ({"segmentation": [[1, 2], [3, 4], [5, 9]]}, r"write its points one after the other, \[\[x, y, x, y, …\]\], not"),
    ({"segmentation": "[[1, 2, 3, 4, 5, 6]]"}, "annotation 1 .* write the list itself, without quotes"),
    ({"segmentation": [["1", "2", "3", "4", "5", "6"]]}, "annotation 1 has a polygon that must be a flat list"),
    ({"segmentation": [[0.2, 0.1, 0.5, 0.1, 0.5, 0.4]]}, "annotation 1 has coordinates between 0 and 1, where pixels"),
    ({"segmentation": [[80, 5, 90, 5, 90, 15]]}, r"annotation 1 lies outside its image of 40 × 60, from \(80, 5\)"),
    ({"segmentation": [[5, -20, 15, -20, 15, -9]]}, "annotation 1 lies outside its image of 40 × 60"),
    (
        {"segmentation": [[5, 40, 15, 40, 15, 58, 5, 58]]},
        "annotation 1 has a segmentation that fits into its image only",
    ),
    ({"segmentation": [[5, 10, 15, 10, 15, 30, 5, 30]]}, "annotation 1 .* x and y are swapped in one of the two"),
    ({"segmentation": [[1, 2, 3, 4, 5]]}, "annotation 1 has a polygon that has an odd number of coordinates, 5"),
    ({"segmentation": [[1, 2, 3, 4]]}, "annotation 1 has a polygon that has 2 points.*: four numbers are a box: write"),
    ({"segmentation": [[]]}, "annotation 1 has a polygon that has 0 points"),
    ({"segmentation": [[1, 2, 3, float("nan"), 5, 6]]}, "annotation 1 has a polygon that has a coordinate .* finite"),
    ({"segmentation": {"size": [40, 60]}}, "annotation 1 has a segmentation that is malformed: .*'counts'"),
    ({"segmentation": {"size": [40, 60], "counts": [5, 5]}}, "annotation 1 has a segmentation .* does not cover"),
    ({"segmentation": {"size": [40, 60], "counts": [2**40]}}, "annotation 1 has a segmentation .* does not cover"),
    ({"segmentation": {"size": [40, 60], "counts": [-(2**40)]}}, "annotation 1 has a segmentation that is malformed"),
    ({"segmentation": {"size": [40, 60], "counts": "zz"}}, "annotation 1 has a segmentation that is malformed"),
    (
        {"segmentation": {"size": [60, 40], "counts": [2400]}},
        r"annotation 1 has a segmentation of 60 × 40 pixels \(height × width\), but its image 10 has 40 × 60: its",
    ),
]


@pytest.mark.parametrize(("change", "message"), FATAL)
def test_fatal_issue_of_an_annotation_is_refused(files, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        CocoInstances(files[0], changed(change))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("In the annotations, ")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("images", {"id": 20}, "image 20 is there twice"),
        ("images", {"id": None}, r"images\[0\] must have an integer as its id"),
        ("images", {"file_name": ...}, "image 10 must have a file_name, got None"),
        ("images", {"file_name": ..., "path": "a.png"}, "image 10 .*: it has 'path': call that file_name"),
        ("images", {"file_name": ..., "coco_url": "http://x/a.png"}, "coco_url, 'a.png', may be it"),
        ("images", {"file_name": "x.png"}, r"image 10 \(x.png\) is not in '.*images'"),
        (
            "images",
            {"height": 0},
            "image 10 .* must have a height and a width that are positive integers, got 0 and 60",
        ),
        ("images", {"height": ...}, "image 10 .* got None and 60"),
        ("categories", {"id": 3}, "category 3 is there twice"),
        ("categories", {"name": ...}, "category 7 must have a name, got None"),
    ],
)
def test_fatal_issue_of_an_entry_is_refused(files, kind, change, message):
    with pytest.raises(ValueError, match=message):
        CocoInstances(files[0], changed(change, kind))


def test_image_of_another_size_is_refused(files):
    with pytest.raises(ValueError, match=r"image 10 \(a.png\) has 40 × 60 .*, but the annotations say 41 × 60\."):
        CocoInstances(files[0], changed({"height": 41}, "images"))
    dataset = CocoInstances(*files)
    Image.fromarray(data_sets.noise_image((30, 60))).save(files[0] / "a.png")
    with pytest.raises(ValueError, match=r"a.png' has 30 × 60 pixels .*, but the annotations say 40 × 60\."):
        dataset[0]


def test_image_that_cannot_be_opened_is_refused(files):
    (files[0] / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image 20 \(b.png\) cannot be used: Cannot read .*: it is not an image\. on"):
        CocoInstances(*files)


def test_number_of_further_fatal_issues_is_given(files):
    content = changed({"segmentation": []})
    content["annotations"][1]["segmentation"] = [[1, 2, 3]]
    files[1].write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"In '.*instances.json', annotation 1 .* There is 1 more of other kinds: lucid"
    ):
        CocoInstances(*files)


def test_annotations_of_a_missing_image_are_no_issues(files):
    with pytest.raises(ValueError, match=r"image 10 \(x.png\) is not in .*\.") as caught:
        CocoInstances(files[0], changed({"file_name": "x.png"}, "images"))
    assert "more: lucid" not in str(caught.value)


def test_exif_orientation_is_named(files):
    image = Image.open(files[0] / "a.png")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(files[0] / "a.png", exif=exif)
    with pytest.raises(ValueError, match=r"60 × 40 pixels .* 40 × 60: its EXIF orientation rotates it"):
        CocoInstances(*files)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is a list, as results are"),
        ("7", "must be a mapping"),
        ("{", "is not JSON"),
        ('{"images": []}', "has no list of 'annotations'"),
        ('{"images": {}, "annotations": [], "categories": []}', "has no list of 'images'"),
        ("\udcff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
    ids=["list", "number", "cut off", "no annotations", "images", "bytes", "nested"],
)
def test_files_of_another_format_are_refused(files, text, message):
    files[1].write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        CocoInstances(*files)


def test_missing_file_is_a_file_not_found_error(files):
    with pytest.raises(FileNotFoundError):
        CocoInstances(files[0], files[0] / "no.json")


def test_two_categories_of_one_name_are_refused(files):
    content = changed({"name": "cat"}, "categories")
    with pytest.raises(ValueError, match="category 7 has the name 'cat' of category 3: rename one, or give"):
        CocoInstances(files[0], content)
    with pytest.warns(UserWarning, match="Left out of "):
        dataset = CocoInstances(files[0], content, on_fault="skip")
    assert dataset.categories == {1: "cat", 2: "kite"}
    assert (dataset.object_counts, dataset.num_left_out) == ([1, 1, 0, 0], 3)
    (issue,) = CocoInstances(files[0], changed({"name": " Cat"}, "categories")).issues
    assert (issue.level, issue.problem) == (
        "warning",
        "' Cat' and 'cat' differ only in case or spaces: they are two classes",
    )


def test_empty_parent_category_is_no_class(files):
    """Exporters write the name of the data set as category 0; it became a class."""
    content = data_sets.coco()
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    dataset = CocoInstances(files[0], content)
    assert dataset.categories == {1: "cat", 2: "dog", 3: "kite"}
    assert [c["id"] for c in dataset.coco()["categories"]] == [7, 3, 90]
    assert [str(issue) for issue in dataset.issues] == [
        "category 0 ('animals') has no objects and is the supercategory of others: it is no class and is left out."
    ]
    content["annotations"][0]["category_id"] = 0  # one with objects is a class
    assert list(CocoInstances(files[0], content).categories.values()) == ["animals", "cat", "dog", "kite"]
    assert CocoInstances(files[0], content, categories=["animals", "dog"]).categories == {1: "animals", 2: "dog"}


@pytest.mark.parametrize("seed", range(8))
def test_polygons_that_are_not_filled_when_read_have_pixels(seed):
    """Reading fills only polygons that may be without a pixel or without a box that fits."""
    rng, pairs = np.random.default_rng(seed), []
    for k in range(300):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        if k % 3 == 0:
            rng.shuffle(angles)  # crosses itself
        points = rng.uniform(0, 60, 2) + rng.uniform(0.5, 9, 2) * np.stack([np.cos(angles), np.sin(angles)], 1)
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        box = tuple(np.clip([x1, y1, x2, y2], 0, 60).tolist())
        polygon, bbox = points.ravel(), [x1, y1, x2 - x1, y2 - y1]
        pairs.append((Annotation(k, 1, 1, box, bbox, 1.0, [polygon], False, {}), 1))
    plain = is_plain(pairs, (60, 60))
    assert 10 < plain.sum() < 200
    masks = CompressedMasks.from_coco([a.segmentation for a, _ in pairs], (60, 60))
    assert (masks.areas[plain] > 0).all()
    boxes = np.array([a.box for a, _ in pairs])
    assert np.median(np.abs(masks.boxes - boxes)[plain].max(axis=1)) <= 1
    assert not is_plain([*pairs, *pairs], (60, 60)).any()  # doubles are looked at


def test_masks_of_several_objects_each_are_told(files):
    """One mask a class, as made from a map of classes."""
    content = data_sets.coco()
    squares = [[x, y, x + 5, y, x + 5, y + 5, x, y + 5] for x in (2, 20) for y in (2, 20)]
    dots = np.zeros((50, 50), bool)
    dots[5:10, 5:10] = dots[20:25, 30:35] = True
    for annotation in content["annotations"]:
        size = (50, 50) if annotation["image_id"] == 20 else (40, 60)
        annotation |= {"segmentation": squares, "bbox": [2, 2, 23, 23], "iscrowd": 0}
        if size == (50, 50):
            annotation |= {"segmentation": encode_rle(dots), "bbox": [5, 5, 30, 20]}
    (issue,) = CocoInstances(files[0], content).issues
    assert str(issue) == (
        "the file has 5 of 5 objects that consist of several separate parts: if a mask has several objects, give each "
        "an annotation of its own."
    )


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 2**31}, "must have a height and a width that are positive integers, got 2147483648 and 60"),
        ({"height": 10**400}, "must have a height and a width that are positive integers"),
        ({"height": "40", "width": "60"}, "got '40' and '60': write numbers as numbers, 7 and not '7'"),
        ({"height": 40.0}, "got 40.0 and 60: without both, the file's own size is taken"),
        ({"height": 60, "width": 40}, "but the annotations say 60 × 40: height and width are swapped"),
        ({"height": True}, "got True and 60"),
        ({"height": float("nan")}, "got nan and 60"),
    ],
)
def test_sizes_that_cannot_be_are_refused(files, size, message):
    with pytest.raises(ValueError, match=message):
        CocoInstances(files[0], changed(size, "images"))


def test_size_of_null_is_that_of_the_file(files):
    assert CocoInstances(files[0], changed({"height": None, "width": None}, "images")).sizes == data_sets.SIZES


def test_data_sets_and_their_faults_cross_processes(files):
    dataset = pickle.loads(pickle.dumps(CocoInstances(*files)))
    assert dataset.coco() == data_sets.coco()
    assert dataset[0][1]["boxes"].tolist() == CocoInstances(*files)[0][1]["boxes"].tolist()
    with pytest.raises(DataFaultError) as caught:
        CocoInstances(files[0], changed({"id": 2}))
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.issues) == (str(caught.value), caught.value.issues)


def test_arguments_are_not_modified(files):
    content = data_sets.coco()
    before = copy.deepcopy(content)
    dataset = CocoInstances(files[0], content)
    dataset[0], dataset.coco()
    assert content == before


def test_segmentations_take_little_memory(files):
    content = changed({"segmentation": {"size": [40, 60], "counts": [10, 2380, 10]}})
    dataset = CocoInstances(files[0], content)
    held = [o.segmentation for p in dataset._images for o in p.objects]
    assert isinstance(held[0]["counts"], np.ndarray)
    assert all(isinstance(polygon, np.ndarray) for polygon in held[1])
    np.testing.assert_array_equal(dataset[0][1]["masks"][0].to_rle()[0]["counts"], encode_rle(~_corners())["counts"])


def _corners():
    mask = np.zeros((40, 60), bool)
    mask[:10, 0] = mask[-10:, -1] = True
    return mask
