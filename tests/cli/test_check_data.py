"""``check-data``: counts, issues, drawings, exit codes."""

import json

import data_sets
import numpy as np
import pytest
from PIL import Image

from lucid_maskrcnn.cli import main


@pytest.fixture
def files(tmp_path):
    return data_sets.write(tmp_path)


def test_command_on_sound_data(files, tmp_path, capsys):
    out = tmp_path / "drawn"
    arguments = ["check-data", str(files[0]), str(files[1])]
    assert main([*arguments, "--draw", str(out), "--limit", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 images")
    assert lines[-2:] == [f"3 images drawn in {out}", "no issues"]
    assert sorted(p.name for p in out.iterdir()) == [f"{name}_annotated.png" for name in "abc"]
    with Image.open(out / "a_annotated.png") as drawn:
        assert drawn.size == (240, 160)  # four times as large
        pixels = np.asarray(drawn)
    assert (pixels != np.asarray(Image.open(files[0] / "a.png").resize((240, 160), Image.Resampling.BICUBIC))).any()
    assert main(arguments) == 0


def test_command_on_data_with_issues(files, tmp_path, capsys):
    content = data_sets.coco()
    content["annotations"][0]["segmentation"] = []
    files[1].write_text(json.dumps(content))
    (files[0] / "b.png").unlink()
    assert main(["check-data", str(files[0]), str(files[1]), "--draw", str(tmp_path / "drawn")]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line.split()[0:3] for line in lines if line.isupper() or line.split()[0].isupper()] == [
        ["FAULT", "image", "20"],
        ["FAULT", "annotation", "1"],
    ]
    assert lines[-2:] == [f"3 images drawn in {tmp_path / 'drawn'}", "2 faults"]


def test_command_on_label_images(tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.fromarray(data_sets.noise_image((20, 30))).save(tmp_path / "images" / "a.png")
    labels = data_sets.box_mask((20, 30), 3, 4, 5, 6).astype(np.uint8) * 7
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    arguments = ["check-data", str(tmp_path / "images"), "--labels", str(tmp_path / "labels")]
    assert main([*arguments, "--draw", str(tmp_path / "drawn")]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["1 image; 1 object", "  object: 1"]
    assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["a_annotated.png"]
    Image.fromarray(labels.T).save(tmp_path / "labels" / "a.png")
    assert main(arguments) == 1
    assert "FAULT image 'a.png' has 20 × 30 pixels" in capsys.readouterr().out


def test_drawings_stay_in_their_folder(files, tmp_path, capsys):
    """A file_name of /absolute.png wrote into the root folder."""
    content = data_sets.coco()
    for image, name in zip(
        content["images"], [f"{tmp_path}/a.png", "../images/b.png", "sub/c.png", "sub_c.png"], strict=True
    ):
        image["file_name"] = name
    (files[0] / "sub").mkdir()
    for name in ("sub/c.png", "sub_c.png"):
        (files[0] / f"{'c' if '/' in name else 'd'}.png").rename(files[0] / name)
    (files[0] / "a.png").rename(tmp_path / "a.png")
    files[1].write_text(json.dumps(content))
    before = {p for p in tmp_path.rglob("*") if "drawn" not in p.parts}
    assert main(["check-data", str(files[0]), str(files[1]), "--draw", str(tmp_path / "drawn")]) == 1
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["sub_c_annotated.png", "sub_c_annotated_2.png"]
    assert {p for p in tmp_path.rglob("*") if "drawn" not in p.parts} == before
    assert "leads out of the folder of images" in capsys.readouterr().out


def test_every_issue_on_a_line_of_its_own(files, capsys):
    content = data_sets.coco()
    for annotation in content["annotations"][:3]:
        annotation["area"] = "200"
    files[1].write_text(json.dumps(content))
    assert main(["check-data", str(files[0]), str(files[1])]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("WARNING")] == [
        "WARNING (3×) annotation 1 must have a number of pixels as its area, got '200': its segmentation's pixels are "
        "counted. Also annotation 2, annotation 3."
    ]
    assert lines[-1] == "3 warnings"
    main(["check-data", str(files[0]), str(files[1]), "--all"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:20] for line in lines if line.startswith("WARNING")] == [f"WARNING annotation {k}" for k in (1, 2, 3)]


def _crowds(content):
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_crowds, "FAULT the data set has no objects, but 5 crowds, which are neither trained on nor counted: set"),
        (lambda c: c["annotations"].clear(), "FAULT the data set has no objects: there is nothing to train on"),
        (lambda c: c["images"].clear(), "FAULT the data set has no images that can be used."),
    ],
)
def test_data_without_objects_has_a_fault(files, capsys, change, sentence):
    content = data_sets.coco()
    change(content)
    files[1].write_text(json.dumps(content))
    assert main(["check-data", str(files[0]), str(files[1])]) == 1
    assert sentence in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{images}"], "Give ANNOTATIONS or --labels, one of them."),
        (["{images}", "{file}", "--labels", "x"], "Give ANNOTATIONS or --labels, one of them."),
        (["nowhere", "{file}"], "There is no folder of images 'nowhere'."),
        (["{images}", "nowhere.json"], "'nowhere.json': No such file or directory."),
        (["{images}", "{images}/a.png"], "is no JSON file of COCO instances, but an image"),
        (["{images}", "{file}", "--draw", "{file}"], "is a file."),
        (["{images}", "{file}", "--draw", "{images}"], "--draw must be another folder than that of the images."),
    ],
)
def test_mistakes_in_the_arguments(files, capsys, arguments, message):
    filled = [a.format(images=files[0], file=files[1]) for a in arguments]
    assert main(["check-data", *filled]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
