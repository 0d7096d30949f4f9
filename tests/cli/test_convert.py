"""``convert``: what it says; what it writes is tested in tests/weights/test_conversion.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lucid_maskrcnn.cli import main


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
