"""File names of annotations: what is in the folder of images, and nothing else."""

import json
import os
import unicodedata

import data_sets
import pytest
from PIL import Image

from lucid_maskrcnn.data import CocoInstances, validate
from lucid_maskrcnn.data.image_folder import safe_stem


@pytest.fixture
def files(tmp_path):
    return data_sets.write(tmp_path)


def named(name):
    content = data_sets.coco()
    content["images"][0]["file_name"] = name
    return content


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "sub/../../secret.png",
        "{folder}/secret.png",
        "..\\secret.png",
        "sub\\..\\..\\secret.png",
        "C:\\secret.png",
        "c:/secret.png",
        "\\\\server\\share\\secret.png",
        "linked.png",
        "linked_folder/secret.png",
    ],
)
@pytest.mark.parametrize("on_fault", ["stop", "skip"])
def test_file_name_that_leaves_the_folder_is_not_read(files, tmp_path, name, on_fault):
    secret = tmp_path / "secret.png"
    Image.fromarray(data_sets.noise_image(data_sets.SIZES[0])).save(secret)
    (files[0] / "linked.png").symlink_to(secret)
    (files[0] / "linked_folder").symlink_to(tmp_path)
    content = named(name.format(folder=tmp_path))
    if on_fault == "skip":
        with pytest.warns(UserWarning, match="Left out of "):
            dataset = CocoInstances(files[0], content, on_fault="skip")
        assert dataset.image_ids == [20, 30, 40]
        assert "leads out of the folder of images" in dataset.issues[0].problem
    else:
        with pytest.raises(ValueError, match="leads out of the folder of images"):
            CocoInstances(files[0], content)
    visited = []
    validate(files[0], content, on_image=visited.append)
    assert [image.file_name for image in visited] == ["b.png", "c.png", "d.png"]


def test_folder_of_images_may_be_a_link(files, tmp_path):
    (tmp_path / "link").symlink_to(files[0])
    (files[0] / "sub").mkdir()
    (files[0] / "a.png").rename(files[0] / "sub" / "a.png")
    (files[0] / "inner.png").symlink_to(files[0] / "sub" / "a.png")
    for name in ("sub/a.png", "inner.png", "./sub/a.png"):
        assert len(CocoInstances(tmp_path / "link", named(name))) == 4


@pytest.mark.parametrize(
    ("name", "there", "remedy"),
    [
        ("..\\export\\a.png", "a.png", "'a.png', its last part, is there: write that as file_name"),
        ("/data/train/a.png", "a.png", "'a.png', its last part, is there"),
        ("train/a.png", "a.png", "'a.png', its last part, is there"),
        ("sub\\a.png", "sub/a.png", "'sub/a.png', a name like it, is there"),
        ("my%20cell.png", "my cell.png", "'my cell.png', a name like it, is there"),
        ("A.PNG", "a.png", "'a.png' is there, which differs in case"),
        ("a.jpg", "a.png", "'a.png' is there, which differs in case, accents, ending or folder"),
        ("A.png", "train/deep/a.png", "'train/deep/a.png' is there, which differs in case"),
        ("a.png", "train/deep/a.png", "images/train/deep': give that as the folder of images"),
        ("images/a.png", "./a.png", "'a.png', its last part, is there"),
        ("other/a.png", "../other/a.png", "': give that as the folder of images"),
        (unicodedata.normalize("NFD", "zoë.png"), unicodedata.normalize("NFC", "zoë.png"), "is there, which differs"),
        (unicodedata.normalize("NFC", "zoë.png"), unicodedata.normalize("NFD", "zoë.png"), "is there, which differs"),
        ("zzz.png", "a.png", "file_name is the path within the folder of images: give the right folder"),
        ("a\x00.png", "a.png", "file_name is the path within the folder of images"),
        ("\ud800.png", "a.png", "file_name is the path within the folder of images"),
        ("x" * 5000 + ".png", "a.png", "file_name is the path within the folder of images"),
    ],
)
def test_name_that_is_nearly_right_is_answered_with_the_one_that_is_there(files, name, there, remedy):
    (files[0] / there).parent.mkdir(parents=True, exist_ok=True)
    (files[0] / "a.png").rename(files[0] / there)
    with pytest.raises(ValueError, match="image 10") as caught:
        CocoInstances(files[0], named(name))
    assert remedy in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipe_is_no_image_and_does_not_hang(files):
    (files[0] / "a.png").unlink()
    os.mkfifo(files[0] / "a.png")
    with pytest.raises(ValueError, match=r"image 10 \(a.png\) is not in"):
        CocoInstances(*files)


def test_names_of_drawings_are_safe():
    names = ["/etc/a.png", "../../etc/a.jpg", "a.png", "..", "C:\\b.png", "\x1b[2J.png", "", ".x", "sub/zoë 1.tif"]
    stems = ["etc_a", "etc_a", "a", "image", "C__b", "_[2J".replace("[", "_"), "image", "x", "sub_zoë 1"]
    assert [safe_stem(name) for name in names] == stems


def test_twenty_thousand_mistakes_of_one_exporter_are_one_line(files):
    content = data_sets.coco()
    flat = {**content["annotations"][0], "segmentation": [10, 5, 20, 5, 20, 15]}
    content["annotations"] += [{**flat, "id": 100 + k} for k in range(2000)]
    files[1].write_text(json.dumps(content))
    (line,) = [line for line in validate(*files).issue_lines() if line.startswith("FAULT")]
    assert line == (
        "FAULT (2,000×) annotation 100 has a segmentation that is one flat list of numbers, [10, 5, 20, 5, 20, 15]: it "
        "is a list of polygons, put [ ] around it. Also annotation 101, annotation 102 and 1,997 more."
    )


def test_escapes_in_names_are_not_printed_raw(files):
    content = data_sets.coco()
    for image in content["images"]:
        image["file_name"] = f"\x1b[2J{image['id']}.png"
    for line in validate(files[0], content).issue_lines():
        assert "\x1b" not in line
    with pytest.raises(ValueError, match=r"\(4×\) image 10 .* Also image 20") as caught:
        CocoInstances(files[0], content)
    assert "\x1b" not in str(caught.value)
