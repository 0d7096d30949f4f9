"""The table of detectron2's keys: whole, without contradictions, and in terms of the configuration's fields."""

from __future__ import annotations

from functools import reduce

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
