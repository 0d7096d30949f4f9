"""The table of detectron2's keys: whole, without contradictions, and in terms of the configuration's fields."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

from lucid_maskrcnn.config import ARCHITECTURES
from lucid_maskrcnn.weights.detectron2_keys import (
    DEFAULTS,
    DERIVED,
    FIXED,
    IGNORED,
    IGNORED_SECTIONS,
    TAKEN,
    ZOO,
    is_ignored,
)


def test_each_key_is_in_one_group() -> None:
    groups = [set(TAKEN), set(DERIVED), set(FIXED)]
    assert set().union(*groups) == set(DEFAULTS) == set(ZOO)
    assert sum(map(len, groups)) == len(DEFAULTS)
    assert not [key for key in DEFAULTS if is_ignored(key)]
    assert not [key for key in IGNORED if any(key.startswith(section) for section in IGNORED_SECTIONS)]


def test_taken_keys_name_fields() -> None:
    config = ARCHITECTURES["mask_rcnn_resnet_50_fpn"].changed(conventions="detectron2", num_classes=80)
    for key, field in TAKEN.items():
        assert reduce(getattr, field.split("."), config) == ZOO[key], key


def test_the_zoo_has_what_can_be_built() -> None:
    assert {key: ZOO[key] for key in FIXED} == {key: fixed.value for key, fixed in FIXED.items()}


def test_page_for_users_of_detectron2_has_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coming_from" / "detectron2.md").read_text(encoding="utf-8")
    spans = set(re.findall(r"`([A-Z_0-9.]+)`", page)) | {"MODEL.PIXEL_STD"}  # beside PIXEL_MEAN in one row
    assert not {*TAKEN, *DERIVED, *FIXED, *IGNORED, *IGNORED_SECTIONS} - spans
    assert {
        (k, v) for k, v in re.findall(r"^\| `([A-Z_0-9.]+)` \| `([^`]+)` \| [a-z]", page, re.MULTILINE) if k in FIXED
    } == {
        (key, repr(list(fixed.value) if isinstance(fixed.value, tuple) else fixed.value))
        for key, fixed in FIXED.items()
    }
