"""Images are decoded before a run: files that are cut off, EXIF turns that a size cannot tell."""

import warnings
from pathlib import Path
from typing import Any

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn import MaskRCNN, mask_rcnn_resnet_18_fpn, save_weights
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


# ------------------------------------------------------------------ more than 8 bits


def _of_12_bits(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Write a 16-bit image that uses 12 bits, and return it as 8 bits by its own maximum, and its annotations."""
    samples = np.random.default_rng(0).integers(0, 3501, (40, 50)).astype(np.uint16)
    samples[0, 0] = 3500
    Image.fromarray(samples).save(folder / "a.png")
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 20, 5, 20]]}]
    images = [{"id": 1, "file_name": "a.png", "height": 40, "width": 50}]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cell"}]}
    return np.floor(255 * samples.astype(np.float64) / 3500 + 0.5).astype(np.uint8), content


def test_data_set_of_12_bits_is_read_by_the_rule_that_is_asked_for(tmp_path: Path) -> None:
    wanted, content = _of_12_bits(tmp_path)
    dataset = CocoInstances(tmp_path, content, intensity="max", open_images=True)
    np.testing.assert_array_equal(dataset[0][0], np.repeat(wanted[:, :, None], 3, axis=2))
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.pad(np.ones((15, 20), np.uint8), ((5, 20), (5, 25)))).save(tmp_path / "labels" / "a.png")
    labels = LabelImages(tmp_path, tmp_path / "labels", intensity="max", open_images=True)
    np.testing.assert_array_equal(labels[0][0], dataset[0][0])
    with pytest.warns(UserWarning, match="intensity='max'"):
        assert CocoInstances(tmp_path, content)[0][0].max() < 20
    with pytest.raises(ValueError, match="intensity must be 'full', 'max' or two percentiles"):
        CocoInstances(tmp_path, content, intensity="auto")


def test_rule_of_the_training_travels_with_the_weights(tmp_path: Path) -> None:
    wanted, _ = _of_12_bits(tmp_path)
    slim = {"width": 8, "fpn_channels": 8, "hidden_dim": 16, "mask_hidden_channels": 8, "min_size": 64, "max_size": 96}
    model = mask_rcnn_resnet_18_fpn(1, image={"intensity": "max"}, **slim)
    save_weights(model, tmp_path / "weights.safetensors")
    model = MaskRCNN.from_file(tmp_path / "weights.safetensors")
    assert model.config.image.intensity == "max"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Objects may be missing")
        (found,) = model.predict(tmp_path / "a.png")
        np.testing.assert_array_equal(found.image[:, :, 0], wanted)
        (dark,) = model.predict(tmp_path / "a.png", intensity="full")
        assert dark.image.max() < 20
