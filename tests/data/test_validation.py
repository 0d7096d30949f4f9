"""Looking through data: counts, every fault in one line, drawings, exit codes."""

import json
import shutil

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.cli import main
from lucid_maskrcnn.data import CocoInstances, Fault, LabelImages, check, survey
from lucid_maskrcnn.masks.rle import encode_rle


@pytest.fixture
def files(tmp_path):
    return data_sets.write(tmp_path)


def faults_of(files, content):
    return [str(fault) for fault in check(files[0], content)]


# ------------------------------------------------------------------ what is there


def test_counts_of_sound_data(files):
    found = survey(*files)
    assert found.faults == []
    assert found.lines() == [
        "4 images, 1 without objects; 4 objects and 1 crowd",
        "  dog: 2",
        "  cat: 1",
        "  kite: 1",
        "  3 small, 1 medium, 0 large",
    ]
    assert check(CocoInstances(*files)) == []


def test_no_images():
    nothing = {"images": [], "annotations": [], "categories": []}
    assert survey("nowhere", nothing).lines() == ["no images; no objects"]


def test_data_sets_of_ones_own():
    mask = data_sets.box_mask((20, 30), 2, 3, 5, 6)
    good = {"boxes": [[2, 3, 7, 9]], "labels": [1], "masks": [encode_rle(mask)]}
    items = [
        (data_sets.picture((20, 30)), good),
        (data_sets.picture((20, 30)), good | {"boxes": [[2, 3, 2, 9]]}),
        (data_sets.picture((30, 20)), good),
        ("no.png", good),
        (data_sets.picture((20, 30)), good | {"masks": mask[None]}),
    ]
    found = survey(items)
    assert (found.num_images, found.objects) == (2, {"1": 2})
    assert [fault.place for fault in found.faults] == ["item 1", "item 2", "item 3"]
    assert "has no area" in found.faults[0].what
    assert "20 × 30 pixels, but the image has 30 × 20" in found.faults[1].what
    assert str(found.faults[2]) == "item 3 is no good: FileNotFoundError: There is no image file 'no.png'."


# ------------------------------------------------------------------ what is wrong


def test_all_faults_are_listed_not_the_first(files):
    content = data_sets.coco()
    one, two, three, _, five = content["annotations"]
    one["segmentation"] = []
    two["bbox"] = [1, 2, 0, 4]
    three["segmentation"]["size"] = [50, 51]
    five["id"] = 0
    content["annotations"] += [{**five, "id": 6, "image_id": 99}, {**five, "id": 6}, "nothing"]
    content["images"].append({"id": 50, "file_name": "e.png", "height": 5, "width": 5})
    (files[0] / "c.png").write_bytes(b"no picture")
    assert faults_of(files, content) == [
        f"image 30 (c.png) is no good: Cannot read the image file {str(files[0] / 'c.png')!r}: it is not a picture.",
        f"image 50 (e.png) is not in {str(files[0])!r}.",
        "annotation 1 has no segmentation: give it polygons or run lengths, or take it out.",
        "annotation 2 has the bbox (1, 2, 0, 4), without area in its image of 40 × 60: it is left out.",
        "annotation 0 has id 0, which COCO's evaluation takes for no object: count from 1.",
        "annotation 6 has image_id 99, which is not among the images.",
        "annotation 6 is there twice: every id must be another.",
        "annotations[7] must be a mapping, got 'nothing'.",
        "annotation 3 has a segmentation that is malformed: rle['counts'] does not cover the 50 × 51 pixels of "
        "rle['size'].",
    ]


def test_pictures_are_opened(files):
    shutil.copy(files[0] / "a.png", files[0] / "b.png")
    (files[0] / "c.png").write_bytes(b"no picture")
    (files[0] / "d.png").unlink()
    whole = (files[0] / "a.png").read_bytes()
    (files[0] / "a.png").write_bytes(whole[: len(whole) // 2])
    found = faults_of(files, data_sets.coco())
    assert found[:3] == [
        "image 20 (b.png) has 40 × 60 pixels (height × width), but the annotations say 50 × 50.",
        f"image 30 (c.png) is no good: Cannot read the image file {str(files[0] / 'c.png')!r}: it is not a picture.",
        f"image 40 (d.png) is not in {str(files[0])!r}.",
    ]
    (cut_off,) = found[3:]  # whose beginning is as it should be
    assert cut_off.startswith(f"image 10 (a.png) is no good: Cannot read the image file {str(files[0] / 'a.png')!r}")


def test_corners_in_place_of_sides_are_noticed(files):
    content = data_sets.coco()
    content["annotations"][0]["bbox"] = [10, 5, 30, 15]
    (fault,) = check(files[0], content)
    assert str(fault) == (
        "annotation 1 has a box from its bbox, (10, 5, 40, 20), that is not the one around its segmentation, "
        "(10, 5, 30, 15); a bbox is x, y, width, height."
    )
    assert not fault.grave
    CocoInstances(files[0], content)  # which can be trained on


def test_objects_without_pixels_and_objects_twice(files):
    content = data_sets.coco()
    content["annotations"][0]["segmentation"] = [[10, 5, 10.2, 5, 10.2, 5.2]]
    content["annotations"].append({**content["annotations"][4], "id": 6})
    content["images"].append({**content["images"][0], "id": 50})
    assert faults_of(files, content) == [
        "image 50 is the same file as image 10, 'a.png'.",
        "annotation 1 has a segmentation that covers no pixel.",
        "annotation 6 covers the same pixels as annotation 5.",
    ]


def test_boxes_a_little_off_are_no_faults(files):
    content = data_sets.coco()
    content["annotations"][2]["bbox"] = [3.5, 5, 23, 12.5]
    assert check(files[0], content) == []


def test_a_fault_is_a_sentence():
    assert str(Fault("annotation 7", "has no area")) == "annotation 7 has no area."


@pytest.mark.parametrize("options", [{}, {"annotations": "a", "labels": "b"}])
def test_annotations_or_labels(options):
    with pytest.raises(ValueError, match="annotations or labels, one of them"):
        check("images", **options)


# ------------------------------------------------------------------ the command


def test_command_on_sound_data(files, tmp_path, capsys):
    out = tmp_path / "drawn"
    arguments = ["check-data", str(files[0]), str(files[1])]
    assert main([*arguments, "--draw", str(out), "--limit", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 images")
    assert lines[-2:] == [f"3 pictures drawn in {out}", "no faults"]
    assert sorted(p.name for p in out.iterdir()) == [f"{name}_annotated.png" for name in "abc"]
    with Image.open(out / "a_annotated.png") as drawn:
        assert drawn.size == (240, 160)  # four times as large
        pixels = np.asarray(drawn)
    assert (pixels != np.asarray(Image.open(files[0] / "a.png").resize((240, 160), Image.Resampling.BICUBIC))).any()
    assert main(arguments) == 0


def test_command_on_faulty_data(files, tmp_path, capsys):
    content = data_sets.coco()
    content["annotations"][0]["segmentation"] = []
    files[1].write_text(json.dumps(content))
    (files[0] / "b.png").unlink()
    assert main(["check-data", str(files[0]), str(files[1]), "--draw", str(tmp_path / "drawn")]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line.split()[0:3] for line in lines if line.startswith("FAULT")] == [
        ["FAULT", "image", "20"],
        ["FAULT", "annotation", "1"],
    ]
    assert lines[-2:] == [f"3 pictures drawn in {tmp_path / 'drawn'}", "2 faults"]


def test_command_on_label_images(tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.fromarray(data_sets.picture((20, 30))).save(tmp_path / "images" / "a.png")
    labels = data_sets.box_mask((20, 30), 3, 4, 5, 6).astype(np.uint8) * 7
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    arguments = ["check-data", str(tmp_path / "images"), "--labels", str(tmp_path / "labels")]
    assert main([*arguments, "--draw", str(tmp_path / "drawn")]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["1 image; 1 object", "  object: 1"]
    assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["a_annotated.png"]
    assert survey(LabelImages(tmp_path / "images", tmp_path / "labels", category="cell")).objects == {"cell": 1}
    Image.fromarray(labels.T).save(tmp_path / "labels" / "a.png")
    assert main(arguments) == 1
    assert "FAULT picture 'a.png' has 20 × 30 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{images}"], "Give ANNOTATIONS or --labels, one of them."),
        (["{images}", "{file}", "--labels", "x"], "Give ANNOTATIONS or --labels, one of them."),
        (["nowhere", "{file}"], "There is no folder of pictures 'nowhere'."),
        (["{images}", "nowhere.json"], "nowhere.json: No such file or directory."),
        (["{images}", "{images}/a.png"], "is not JSON"),
        (["{images}", "{file}", "--draw", "{file}"], "is a file, not a directory."),
        (["{images}", "{file}", "--draw", "{images}"], "--draw must be another folder than that of the pictures."),
    ],
)
def test_mistakes_in_the_arguments(files, capsys, arguments, message):
    filled = [a.format(images=files[0], file=files[1]) for a in arguments]
    assert main(["check-data", *filled]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
