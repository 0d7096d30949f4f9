"""``convert``: what it says; what it writes is tested in tests/weights/test_conversion.py."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lucid_maskrcnn.cli import main
from lucid_maskrcnn.weights import locate, read_weights_file, write_converted


def test_converted_file_is_described_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "nuclei.safetensors"
    assert main(["convert", "NUCLEI", str(target), "--dtype", "float16"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(
        f"{target}: mask_rcnn_resnet_18_fpn, lucid_maskrcnn's weights under lucid_maskrcnn's names, 8."
    )


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("nowhere.pth", "out.safetensors", "there is no file 'nowhere.pth'"),
        ("NUCLEY", "out.safetensors", "Did you mean 'NUCLEI'?"),
        ("", "out.safetensors", "weights must not be an empty string."),
        ("NUCLEI", "out.pth", "OUT must end in .safetensors, got "),
        ("NUCLEI", "no/such/folder/out.safetensors", "there is no folder "),
        ("NUCLEI", "folder.safetensors", "OUT must be a file, got the folder "),
        ("COCO_D2_3X", "out.safetensors", "'mask_rcnn_resnet_50_fpn/COCO_D2_3X' or 'mask_rcnn_resnet_101_fpn/"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str, message: str
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    assert main(["convert", source, str(tmp_path / target)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["folder.safetensors"]


def test_weights_that_lack_an_entry_are_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read_weights_file(locate("NUCLEI"))
    arrays = {name: array for name, array in whole.arrays.items() if name != "bbox_pred.bias"}
    write_converted(replace(whole, arrays=arrays), tmp_path / "part.safetensors")
    assert main(["convert", str(tmp_path / "part.safetensors"), str(tmp_path / "out.safetensors")]) == 2
    assert "missing: bbox_pred.bias" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["part.safetensors"]


def test_input_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    assert main(["convert", "NUCLEI", str(path)]) == 0
    before = path.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(path)
    for target in (path, tmp_path / "link.safetensors", tmp_path / "." / "model.safetensors"):
        assert main(["convert", str(path), str(target), "--dtype", "float16"]) == 2
        assert "OUT must be another file than IN" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_conversion_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    for seed in "012":  # metadata, and whatever else has an order, in other processes
        command = [
            sys.executable,
            "-m",
            "lucid_maskrcnn.cli",
            "convert",
            "NUCLEI",
            str(tmp_path / f"{seed}.safetensors"),
        ]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True)
    first, *others = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert all(other == first for other in others)
    assert main(["convert", str(tmp_path / "0.safetensors"), str(tmp_path / "again.safetensors")]) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == first
