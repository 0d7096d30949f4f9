"""Images with label images: what is read, and the sentence for what is not."""

import re

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.data import LabelImages, validate

SIZE = (40, 60)


def labels():
    """Three instances with gaps in their numbers, the second in two parts."""
    image = np.zeros(SIZE, np.uint16)
    image[2:10, 3:20] = 4
    image[20:25, 30:50] = image[30:35, 30:50] = 9
    image[39, 59] = 2
    return image


@pytest.fixture
def folders(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path / "images", tmp_path / "labels"


def add(folders, name, image, suffix=".png", image_suffix=".png"):
    Image.fromarray(data_sets.noise_image(SIZE)).save(folders[0] / f"{name}{image_suffix}")
    path = folders[1] / f"{name}{suffix}"
    if suffix == ".npy":
        np.save(path, image)
    else:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


def palette(image):
    indexed = Image.frombytes("P", SIZE[::-1], image.astype(np.uint8).tobytes())
    indexed.putpalette([(7 * n) % 256 for n in range(768)])
    return indexed


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (labels(), ".png"),
        (labels().astype(np.uint8), ".png"),
        (labels().astype(np.int32) * 70_000, ".tif"),
        (labels(), ".tiff"),
        (palette(labels()), ".png"),
        (labels().astype(np.int64), ".npy"),
        (labels().astype(np.uint32), ".npy"),
    ],
)
def test_integers_of_any_width(folders, image, suffix):
    add(folders, "a", image, suffix, ".jpg")
    dataset = LabelImages(*folders, category="cell")
    image, target = dataset[0]
    assert image.shape == (*SIZE, 3)
    expected = np.stack([labels() == n for n in (2, 4, 9)])
    np.testing.assert_array_equal(target["masks"].to_dense(), expected)
    assert target["boxes"].tolist() == [[59, 39, 60, 40], [3, 2, 20, 10], [30, 20, 50, 35]]
    assert target["labels"].tolist() == [1, 1, 1]
    assert (target["boxes"].dtype, target["labels"].dtype) == (np.float32, np.int32)
    assert validate(dataset).issues == []


def test_attributes(folders):
    add(folders, "b", labels())
    add(folders, "a", np.zeros(SIZE, np.uint8), ".tif", ".JPG")
    for path in (folders[0] / "notes.txt", folders[1] / ".hidden.png", folders[1] / "Thumbs.db"):
        path.write_bytes(b"no image")
    dataset = LabelImages(*folders)
    assert len(dataset) == 2
    assert dataset.categories == {1: "object"}
    assert dataset.category_ids == {1: 1}
    assert dataset.file_names == ["a.JPG", "b.png"]
    assert dataset.image_ids == [1, 2]
    assert dataset.sizes == [SIZE, SIZE]
    assert dataset.object_counts == [0, 3]
    assert [dataset[i][1]["image_id"] for i in (0, 1)] == [1, 2]
    assert repr(dataset) == "LabelImages(2 images, category 'object')"


def test_evaluation_gets_coco_annotations(folders):
    add(folders, "a", labels())
    found = LabelImages(*folders, category="cell").coco()
    assert found["images"] == [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}]
    assert found["categories"] == [{"id": 1, "name": "cell"}]
    assert [a["id"] for a in found["annotations"]] == [1, 2, 3]
    assert [a["area"] for a in found["annotations"]] == [1, 136, 200]
    assert found["annotations"][2]["bbox"] == [30, 20, 20, 15]


@pytest.mark.parametrize(
    ("image", "suffix", "message"),
    [
        (data_sets.noise_image(SIZE), ".png", r"a.png' is in color \(mode RGB\), but one channel is wanted"),
        (Image.fromarray(data_sets.noise_image(SIZE)).convert("LA"), ".png", r"is in color \(mode LA\)"),
        (labels().astype(np.float32), ".tif", "has numbers of type float32, but it needs one integer"),
        (labels().astype(float), ".npy", "has numbers of type float64"),
        (labels() > 0, ".npy", "black and white only"),
        (Image.fromarray(labels() > 0), ".png", "black and white only"),
        (np.zeros((*SIZE, 1), int), ".npy", r"has shape \(40, 60, 1\)"),
        (-labels().astype(np.int32), ".tif", "has negative numbers, -9"),
    ],
)
def test_other_label_images_are_refused(folders, image, suffix, message):
    add(folders, "a", image, suffix)
    with pytest.raises(ValueError, match=message) as caught:
        LabelImages(*folders)
    assert str(caught.value).endswith(".")
    issue, nothing = validate(*folders[:1], labels=folders[1]).issues
    assert str(issue).startswith("image 'a.png' ")
    assert nothing.place == "the data set"


def test_label_images_of_several_frames_are_refused(folders):
    add(folders, "a", labels())
    (folders[1] / "a.png").unlink()
    frames = [Image.fromarray(labels()) for _ in range(3)]
    frames[0].save(folders[1] / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"Cannot read the label image .*a.tif': it has 3 frames, and one is wanted\."):
        LabelImages(*folders)


def test_file_that_is_no_label_image_is_refused(folders):
    add(folders, "a", labels())
    (folders[1] / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image 'a.png' cannot be used: Cannot read the label image '.*a.png': .*\."):
        LabelImages(*folders)
    issue, _ = validate(folders[0], labels=folders[1]).issues
    assert str(issue).startswith("image 'a.png' cannot be used: Cannot read the label image")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_label_image_of_another_size_is_refused(folders, suffix):
    add(folders, "a", labels().T, suffix)
    message = (
        r"image 'a.png' has 40 × 60 pixels \(height × width\), but its label image has 60 × 40: its height and width "
        r"are swapped\."
    )
    with pytest.raises(ValueError, match=message):
        LabelImages(*folders)
    issue, _ = validate(folders[0], labels=folders[1]).issues
    assert re.match(message, str(issue))


def test_evaluation_reads_the_label_images_that_the_run_began_with(folders):
    add(folders, "a", labels())
    dataset = LabelImages(*folders)
    before = dataset.coco()
    add(folders, "a", np.zeros_like(labels()))
    assert dataset.coco() == before
    assert len(dataset[0][1]["masks"]) == 3
    Image.fromarray(data_sets.noise_image(SIZE[::-1])).save(folders[0] / "a.png")
    with pytest.raises(ValueError, match=r"a.png' has 60 × 40 pixels .*, but its label image has 40 × 60"):
        dataset[0]


def test_every_image_needs_a_label_image(folders):
    add(folders, "a", labels())
    add(folders, "b", labels())
    (folders[1] / "a.png").unlink()
    with pytest.raises(ValueError, match=r"image 'a.png' has no label image in '.*labels'\."):
        LabelImages(*folders)
    (folders[0] / "a.png").unlink()
    (folders[0] / "b.png").rename(folders[0] / "c.png")
    issues = [str(issue) for issue in validate(folders[0], labels=folders[1]).issues]
    assert len(issues) == 2
    assert issues[0].startswith("label image 'b.png' has no image in")
    assert issues[1].startswith("image 'c.png' has no label image in")
    with pytest.raises(ValueError, match="There is 1 more of other kinds: lucid-maskrcnn check-data lists them"):
        LabelImages(*folders)


def test_two_images_of_the_same_name_are_refused(folders):
    add(folders, "a", labels())
    add(folders, "a", labels(), image_suffix=".jpg")
    with pytest.raises(ValueError, match=r"cannot be paired: 'a.jpg', 'a.png' have the same name"):
        LabelImages(*folders)


def test_missing_folders(folders):
    with pytest.raises(ValueError, match="no' does not exist"):
        LabelImages(folders[0], folders[1] / "no")
    with pytest.raises(ValueError, match="has no images"):
        LabelImages(*folders)
    add(folders, "a", labels())
    (folders[1] / "a.png").unlink()
    with pytest.raises(ValueError, match="labels' has no label images"):
        LabelImages(*folders)
    for name, remedy in (("a.txt", "as YOLO's labels are"), ("a.xml", "as Pascal VOC's"), ("a.jpg", "as PNG or TIFF")):
        (folders[1] / name).touch()
        with pytest.raises(ValueError, match=f"labels' has no label images .*{remedy}"):
            LabelImages(*folders)
        if name != "a.jpg":
            (folders[1] / name).unlink()
    add(folders, "b", labels())
    with pytest.raises(
        ValueError, match=r"image 'a.png' has no label image in .*: 'a.jpg' is there: save it as PNG or"
    ):
        LabelImages(*folders)
    (folders[0] / "b.png").unlink()
    with pytest.raises(ValueError, match=r"has no images \(.*\): '.*images' has some, give that\."):
        LabelImages(folders[0].parent, folders[1])


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images_dir": None}, TypeError, "images_dir must be a path as str or Path, got None."),
        ({"labels_dir": 3}, TypeError, "labels_dir must be a path as str or Path, got 3."),
        ({"labels_dir": ""}, ValueError, "labels_dir must not be an empty string."),
        ({"category": 1}, TypeError, "category must be a string, got 1."),
        ({"category": ""}, ValueError, "category must not be an empty string."),
    ],
)
def test_arguments_are_checked(folders, options, error, message):
    add(folders, "a", labels())
    arguments = {"images_dir": folders[0], "labels_dir": folders[1]} | options
    with pytest.raises(error, match=re.escape(message)):
        LabelImages(**arguments)


def test_slice_is_a_subset(folders):
    for name in "abc":
        add(folders, name, labels())
    part = LabelImages(*folders)[1:]
    assert part.file_names == ["b.png", "c.png"]
    assert [target["image_id"] for _, target in part] == [2, 3]
    with pytest.raises(IndexError, match=r"There is no image 3: the data set has 3 images\."):
        LabelImages(*folders)[3]
