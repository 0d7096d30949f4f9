"""Label images that are none: pictures, one mask for all, maps of classes, numbers that run out."""

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.data import LabelImages, validate

SIZE = (64, 64)


def labels(value=None, dtype=np.uint8):
    """Nine squares, each with a number, or all with one."""
    image = np.zeros(SIZE, dtype)
    for k in range(9):
        y, x = 4 + 20 * (k // 3), 4 + 20 * (k % 3)
        image[y : y + 12, x : x + 12] = k + 1 if value is None else value
    return image


def save(folder, *images, suffix=".png"):
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(data_sets.noise_image(SIZE, i)).save(folder / "images" / f"{i}.png")
        if suffix == ".npy":
            np.save(folder / "labels" / f"{i}.npy", image)
        else:
            Image.fromarray(image).save(folder / "labels" / f"{i}{suffix}")
    return folder / "images", folder / "labels"


def found(folders):
    return [issue for issue in validate(folders[0], labels=folders[1]).issues if issue.place != "the data set"]


def test_sound_label_images_have_no_issues(tmp_path):
    assert validate(*(save(tmp_path, labels(), labels())[:1]), labels=tmp_path / "labels").issues == []


def test_label_images_that_are_the_grey_pictures_are_refused(tmp_path):
    noise = data_sets.noise_image(SIZE)[:, :, 0]
    y, x = np.mgrid[:64, :64]
    smooth = (100 + 50 * np.sin(x / 5) + 50 * np.sin(y / 7)).astype(np.uint8)
    deep = np.random.default_rng(0).integers(0, 65536, SIZE).astype(np.uint16)
    folders = save(tmp_path, labels(), noise, smooth, deep)
    with pytest.raises(ValueError, match=r"image '1\.png' has a picture as its label image: gray values all over"):
        LabelImages(*folders)
    assert [(i.place, i.level) for i in found(folders)] == [(f"image '{k}.png'", "fault") for k in (1, 2, 3)]
    with pytest.warns(UserWarning, match="Left out of "):
        assert LabelImages(*folders, on_fault="skip").object_counts == [9]


def test_one_folder_for_images_and_label_images_is_refused(tmp_path):
    folder = save(tmp_path, labels())[0]
    for labels_dir in (folder, tmp_path / "labels" / ".." / "images"):
        with pytest.raises(ValueError, match="has the images, so that each would be its own label image: give the"):
            LabelImages(folder, labels_dir)
    (issue,) = validate(folder, labels=folder).issues
    assert issue.place == "the folder"


@pytest.mark.parametrize("value", [1, 7, 255])
def test_one_mask_for_all_objects_is_refused(tmp_path, value):
    folders = save(tmp_path, labels(value), labels(value))
    with pytest.raises(ValueError, match=rf"has one number, {value}, on several separate parts: one mask, or a map of"):
        LabelImages(*folders)


def test_map_of_classes_is_refused(tmp_path):
    classes = labels()
    classes[classes > 0] = classes[classes > 0] % 3 + 1
    with pytest.raises(ValueError, match="has most of its numbers on several separate parts: one mask, or a map of"):
        LabelImages(*save(tmp_path, classes))


def test_black_and_white_mask_of_one_part_is_told(tmp_path):
    """It is one object to training; whether it is one in the image only its maker knows."""
    mask = data_sets.box_mask(SIZE, 10, 10, 20, 30).astype(np.uint8)
    assert found(save(tmp_path, mask)) == []
    (issue,) = found(save(tmp_path, 255 * mask))
    assert issue.level == "warning"
    assert "has no numbers but 0 and 255, as a mask of all objects has: it is taken for one object" in issue.problem


def test_object_behind_a_post_is_no_issue(tmp_path):
    behind = labels()
    behind[:, 9:11] = 0  # cuts three of nine
    assert found(save(tmp_path, behind, labels())) == []


def test_numbers_that_run_out_are_told(tmp_path):
    image = np.zeros(SIZE, np.uint8)
    for k in range(255):
        y, x = 4 * (k // 16), 4 * (k % 16)
        image[y : y + 3, x : x + 3] = k + 1
    (issue,) = found(save(tmp_path, image))
    assert str(issue) == (
        "image '0.png' uses all 255 numbers of its type: further objects would share them: save it with more bits."
    )


def test_border_of_pascal_voc_and_numbered_background_are_told(tmp_path):
    voc, numbered = labels(), labels() + 1
    voc[3, 3:60] = 255
    issues = found(save(tmp_path, voc, numbered, labels()))
    assert [(issue.place, issue.level, issue.kind) for issue in issues] == [
        ("image '0.png'", "warning", "border"),
        ("image '1.png'", "warning", "background"),
    ]
    assert "has the numbers 1 to 9 and 255, which Pascal VOC has at borders" in issues[0].problem
    assert "has no 0, and an object of 68% of the image" in issues[1].problem


def test_numbers_that_have_wrapped_around_are_refused(tmp_path):
    """More than 255 objects in 8 bits: the numbers begin again, and two objects are one."""
    image = np.zeros((128, 128), np.uint16)
    for k in range(400):
        y, x = 6 * (k // 20), 6 * (k % 20)
        image[y : y + 4, x : x + 4] = k + 1
    folders = save(tmp_path, image.astype(np.uint8))
    Image.fromarray(data_sets.noise_image((128, 128))).save(folders[0] / "0.png")
    with pytest.raises(
        ValueError, match="uses all 255 numbers of its type, and some for several objects: save it with"
    ):
        LabelImages(*folders)
    save(tmp_path, image)
    Image.fromarray(data_sets.noise_image((128, 128))).save(folders[0] / "0.png")
    assert LabelImages(*folders).object_counts == [400]


def test_fibers_and_spots_are_objects(tmp_path):
    """They fill little of their boxes, or have few pixels, as the gray values of a picture."""
    fibers, spots = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    for k in range(12):
        along = np.arange(40)
        fibers[along + k, along + 1 + k // 3] = k + 1
        fibers[along + k, along + k // 3] = k + 1
    spots[2::6, 2::6] = np.arange(1, 122).reshape(11, 11)
    folders = save(tmp_path, fibers, spots)
    assert found(folders) == []
    assert LabelImages(*folders).object_counts == [12, 121]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.repeat(labels()[:, :, None], 3, 2), "is in color .* Its channels are equal: save one of them"),
        (labels().astype(np.float32), r"numbers of type float32, .*: save labels.astype\(np.uint16\)"),
    ],
)
def test_color_and_float_label_images_are_refused_before_training(tmp_path, image, message):
    suffix = ".tif" if image.dtype == np.float32 else ".png"
    with pytest.raises(ValueError, match=message):
        LabelImages(*save(tmp_path, image, suffix=suffix))


def test_npz_under_the_name_npy_is_refused(tmp_path):
    folders = save(tmp_path, labels(), suffix=".npy")
    np.savez(tmp_path / "a.npz", labels=labels())
    (tmp_path / "a.npz").rename(folders[1] / "0.npy")
    with pytest.raises(ValueError, match=r"it is an .npz archive under the name .npy; save its array with np.save"):
        LabelImages(*folders)
