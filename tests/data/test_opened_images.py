"""Images are decoded before a run: files that are cut off, EXIF turns that a size cannot tell."""

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.data import CocoInstances, DataFaultError, LabelImages, validate


@pytest.fixture
def files(tmp_path):
    return data_sets.write(tmp_path)


def turn(file, orientation):
    image = Image.open(file)
    image.load()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(file, exif=exif)


@pytest.mark.parametrize(
    ("name", "orientation", "found"),
    [("b.png", 6, 1), ("b.png", 3, 1), ("b.png", 1, 0), ("a.png", 3, 1), ("a.png", 2, 1), ("a.png", 1, 0)],
)
def test_exif_turn_of_a_square_image_is_told(files, name, orientation, found):
    """Its size does not say whether the annotations are of the turned image."""
    turn(files[0] / name, orientation)
    issues = [issue for issue in validate(*files).issues if issue.kind == "EXIF"]
    assert len(issues) == found
    for issue in issues:
        assert issue.level == "warning"
        assert f"({name}) is turned by its EXIF orientation, {orientation}, and its annotations are taken" in str(issue)
    assert len(CocoInstances(*files, open_images=True).issues) == found


def test_exif_turn_is_told_where_the_annotations_have_no_sizes(files):
    content = data_sets.coco()
    for image in content["images"]:
        del image["height"], image["width"]
    content["annotations"] = content["annotations"][3:]  # of other images
    turn(files[0] / "a.png", 6)
    assert [i.place for i in validate(files[0], content).issues if i.kind == "EXIF"] == ["image 10 (a.png)"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_image_that_is_cut_off_is_found_and_left_out(tmp_path, suffix):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for name in "ab":
        Image.fromarray(data_sets.noise_image((40, 60))).save(tmp_path / "images" / f"{name}{suffix}")
        mask = data_sets.box_mask((40, 60), 3, 4, 5, 6).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "labels" / f"{name}.png")
    file = tmp_path / "images" / f"a{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    folders = tmp_path / "images", tmp_path / "labels"
    with pytest.raises(DataFaultError, match=r"image 'a\..*' cannot be used: Cannot read"):
        LabelImages(*folders, open_images=True)
    with pytest.warns(UserWarning, match="Left out of "):
        assert LabelImages(*folders, open_images=True, on_fault="skip").file_names == [f"b{suffix}"]
