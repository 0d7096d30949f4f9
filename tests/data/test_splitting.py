"""Splitting annotations into parts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lucid_maskrcnn.cli import main
from lucid_maskrcnn.data import split_coco


def content(num_images: int, seed: int = 0) -> dict[str, Any]:
    """Images of 10 folders; a frequent, a rare and a very rare category; some images without objects."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "file_name": f"p{i % 10}/{i}.png", "height": 9, "width": 9} for i in range(1, num_images + 1)]
    annotations = []
    for image in images:
        for category, share in ((1, 0.8), (2, 0.2), (5, 0.06)):
            for _ in range(int(rng.integers(1, 4)) if rng.random() < share else 0):
                annotations.append({"id": len(annotations) + 1, "image_id": image["id"], "category_id": category})
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "rare"}, {"id": 5, "name": "very rare"}]
    return {"info": {"a": 1}, "images": images, "annotations": annotations, "categories": categories}


def images_with(part: dict[str, Any]) -> Counter[int]:
    return Counter(c for _, c in {(a["image_id"], a["category_id"]) for a in part["annotations"]})


@pytest.mark.parametrize("seed", range(3))
def test_parts_share_no_image_and_have_their_fraction_of_each_category(seed: int) -> None:
    whole = content(300, seed)
    parts = [part.content for part in split_coco(whole, (0.7, 0.2, 0.1), seed=seed)]
    ids = [i["id"] for part in parts for i in part["images"]]
    assert sorted(ids) == [i["id"] for i in whole["images"]]
    assert sum(len(part["annotations"]) for part in parts) == len(whole["annotations"])
    total = images_with(whole)
    for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
        assert len(part["images"]) == pytest.approx(300 * share, abs=6)
        for category, count in total.items():
            assert images_with(part)[category] == pytest.approx(count * share, abs=1.5 + 0.02 * count)
        own = {i["id"] for i in part["images"]}
        assert all(a["image_id"] in own for a in part["annotations"])
        assert (part["categories"], part["info"]) == (whole["categories"], {"a": 1})


def test_same_seed_gives_the_same_parts_in_any_order() -> None:
    whole = content(60)
    shuffled = {**whole, "images": whole["images"][::-1], "annotations": whole["annotations"][::-1]}

    def ids(of: dict[str, Any], seed: int) -> list[set[int]]:
        return [{i["id"] for i in part.content["images"]} for part in split_coco(of, seed=seed)]

    assert ids(whole, 3) == ids(shuffled, 3)
    assert ids(whole, 3) != ids(whole, 4)


@pytest.mark.parametrize("group_by", ["folder", r"^p(\d)"])
def test_groups_stay_together(group_by: str) -> None:
    train, val = split_coco(content(200), group_by=group_by)
    folders = [{i["file_name"].split("/")[0] for i in part.content["images"]} for part in (train, val)]
    assert folders[0].isdisjoint(folders[1])
    assert (len(folders[0]), len(folders[1])) in ((8, 2), (7, 3))  # ten folders, whose categories differ


def test_no_part_is_empty() -> None:
    whole = {**content(3), "annotations": []}
    assert [len(part.content["images"]) for part in split_coco(whole, (0.98, 0.01, 0.01))] == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.5, 0.4)}, "fractions must have the sum 1, got"),
        ({"fractions": (1.0,)}, "fractions.* must"),
        ({"names": ("a", "A")}, "names must be different"),
        ({"names": ("a", "../b")}, "names must be of letters"),
        ({"group_by": "("}, "group_by must be 'folder' or a regular expression"),
        ({"annotations": content(1)}, "only 1 groups of images"),
        ({"annotations": {**content(4), "images": [{"id": 1}, {"id": 1}]}}, r"images\[1\] has the id 1 of another"),
        (
            {"annotations": {**content(4), "annotations": [{"image_id": 77, "category_id": 1}]}},
            "image 77, which is not",
        ),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_coco(**{"annotations": content(4), **options})


def test_command_line_writes_files_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.json").write_text(json.dumps(content(50)))
    arguments = ["split-data", str(tmp_path / "all.json"), str(tmp_path / "parts"), "--fractions", "0.6,0.2,0.2"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["part", "images", "objects", "cell", "rare", "very", "rare"]
    names = ["instances_test.json", "instances_train.json", "instances_val.json"]
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == names
    counts = [len(json.loads((tmp_path / "parts" / name).read_text())["images"]) for name in names]
    assert sum(counts) == 50
    assert counts == [pytest.approx(10, abs=2), pytest.approx(30, abs=3), pytest.approx(10, abs=2)]
    assert main(arguments) == 2
    assert "exists: give another OUT, or --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
