"""Models in several files with an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import SIX, complaint, read, refused, torch_save
from safetensors.numpy import save_file

from lucid_maskrcnn.weights.formats import open_checkpoint
from lucid_maskrcnn.weights.registry import locate

FIRST = {"model.backbone.body.conv1.weight": SIX, "model.fc.bias": SIX + 1}
SECOND = {"model.roi_heads.box_predictor.cls_score.weight": SIX + 2, "step": np.array(3)}
NAMES = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write_index(path: Path, weight_map: Any) -> Path:
    path.write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": weight_map}))
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    save_file(FIRST, tmp_path / NAMES[0])
    save_file(SECOND, tmp_path / NAMES[1])
    weight_map = dict.fromkeys(FIRST, NAMES[0]) | dict.fromkeys(SECOND, NAMES[1])
    return write_index(tmp_path / "model.safetensors.index.json", weight_map)


def test_index_and_its_folder_are_read(index: Path) -> None:
    wanted = {name.removeprefix("model."): a for name, a in (FIRST | SECOND).items() if name != "step"}
    for path in (index, index.parent, locate(index.parent)):
        found = read(path)
        assert found.keys() == wanted.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, wanted[name])
    checkpoint = open_checkpoint(index)
    assert (checkpoint.kind, checkpoint.place, checkpoint.left_out) == ("safetensors", "(prefix model.)", ("step",))
    assert checkpoint.size == sum((index.parent / name).stat().st_size for name in NAMES)


def test_shards_of_pytorch_files(tmp_path: Path) -> None:
    names = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    torch_save(tmp_path / names[0], FIRST)
    torch_save(tmp_path / names[1], SECOND)
    weight_map = dict.fromkeys(FIRST, names[0]) | dict.fromkeys(SECOND, names[1])
    write_index(tmp_path / "pytorch_model.bin.index.json", weight_map)
    assert len(read(tmp_path)) == 3


def test_folder_of_one_file(tmp_path: Path) -> None:
    save_file(FIRST, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert len(read(tmp_path)) == len(read(locate(tmp_path))) == 2


def test_missing_shard_is_named(index: Path) -> None:
    (index.parent / NAMES[1]).unlink()
    for path in (index, index.parent):
        with pytest.raises(FileNotFoundError, match=rf"index.json' names '{NAMES[1]}', which is not in its folder"):
            open_checkpoint(path)


def test_one_shard_alone_is_refused(index: Path) -> None:
    refused(
        index.parent / NAMES[0],
        "is one of several files of a model: pass model.safetensors.index.json, which lists them",
    )


def test_array_that_its_shard_lacks_is_named(index: Path) -> None:
    save_file({"step": SIX}, index.parent / NAMES[1])
    with pytest.raises(
        ValueError, match=rf"{NAMES[1]}' lacks model.roi_heads.*weight, which should be in it by {index.name}"
    ):
        open_checkpoint(index)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "C:\\x", "a\0b", "x" * 300, 3, None, ["x"]],
)
def test_index_that_leaves_its_folder_is_refused(index: Path, name: Any) -> None:
    refused(write_index(index, {"a": name}), "names ")
    assert "as the file of a, which must be in its folder" in complaint(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has a index that is not JSON"),
        (b"[" * 100_000, "has a index that is nested too deeply"),
        (b'{"weight_map":' + b"9" * 400 + b"}", "has a number of 400 digits in its index"),
        (b'{"weight_map":{"a":"b","a":"c"}}', "has a twice in its index"),
        (b"{}", "is not an index of weights: it has no weight_map"),
        (b'{"weight_map":{}}', "is not an index of weights: it has no weight_map"),
        (b'{"weight_map":[]}', "is not an index of weights: it has no weight_map"),
        (b" " * (2**24 + 1), "is an index of more than 16777216 bytes"),
        (json.dumps({"weight_map": {f"a{i}": f"b{i}" for i in range(1001)}}).encode(), "names 1001 files, more than"),
    ],
)
def test_malformed_index_is_refused(index: Path, content: bytes, message: str) -> None:
    index.write_bytes(content)
    refused(index, message.replace("a index", "an index"))


def test_shard_that_is_no_file(index: Path) -> None:
    (index.parent / NAMES[1]).unlink()
    (index.parent / NAMES[1]).mkdir()
    with pytest.raises(ValueError, match="is a directory"):
        open_checkpoint(index)
