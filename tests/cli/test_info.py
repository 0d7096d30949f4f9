"""``info``: what it says of files and of published weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from lucid_maskrcnn import MaskRCNN, list_weights, mask_rcnn_resnet_18_fpn, mask_rcnn_resnet_50_fpn
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.cli.common import describe_gpu
from lucid_maskrcnn.weights import locate, save_weights

SLIM = {"width": 8, "fpn_channels": 8, "hidden_dim": 16, "mask_hidden_channels": 8}


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["info", *arguments]) == 0
    return capsys.readouterr().out


def describe(output: str) -> dict[str, str]:
    return {k: v.strip() for k, _, v in (line.partition("  ") for line in output.splitlines())}


def test_file_with_settings_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = mask_rcnn_resnet_50_fpn(
        3, conventions="detectron2", categories={1: "cell", 2: "dust", 3: "hair"}, top_k=7, **SLIM
    )
    path = tmp_path / "mine.safetensors"
    save_weights(model, path, metadata={"licence": "CC0-1.0", "metrics": '{"segm/AP": 0.51234, "all": {"AP": 1}}'})
    facts = describe(info(capsys, str(path)))
    assert facts["architecture"] == "mask_rcnn_resnet_50_fpn"
    assert facts["classes"] == "3 (cell, dust, hair)"
    assert facts["conventions"].startswith("detectron2: BGR")
    assert '"width": 8' in facts["settings"]
    assert facts["licence"] == "CC0-1.0"
    assert facts["metrics"] == "segm/AP 0.5123, all AP 1"
    assert facts["format"] == "safetensors, lucid_maskrcnn's names"
    arrays = MaskRCNN.from_file(path).state_dict().items()
    count = sum(a.size for n, a in arrays if not n.endswith(("running_mean", "running_var")))
    assert facts["parameters"] == f"{count:,}"


@pytest.mark.parametrize("metrics", ["[" * 100_000, "not JSON", "[1]", "7", "\x1b[2J"])
def test_metadata_of_any_form_is_printed_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metrics: str
) -> None:
    path = tmp_path / "mine.safetensors"
    save_weights(mask_rcnn_resnet_18_fpn(1, **SLIM), path, metadata={"metrics": metrics, "source": "a\x1b[2J\nb"})
    output = info(capsys, str(path))
    assert all(line.isprintable() for line in output.splitlines())
    assert "a\\x1b[2J\\nb" in output


def test_list_of_published_weights(capsys: pytest.CaptureFixture[str]) -> None:
    gpu, _, heading, *lines, _, _ = info(capsys).splitlines()
    assert gpu == f"gpu  {describe_gpu()}"
    assert heading.split() == ["name", "architecture", "licence", "metrics,", "%"]
    listed = [line.split()[:2] for line in lines if line.startswith("  ")]
    assert listed == [[e.name, e.architecture] for e in list_weights()]


def test_published_weights_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    facts = describe(info(capsys, "NUCLEI"))
    assert facts["name"] == "NUCLEI"
    assert facts["classes"] == "1 (nucleus)"
    assert facts["conventions"].endswith("except for the settings below")
    of_file = describe(info(capsys, str(locate("NUCLEI"))))
    assert of_file["settings"] == facts["settings"]
    assert of_file["conventions"] == facts["conventions"]


def test_published_weights_that_must_be_downloaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUCID_HOME", str(tmp_path))
    both = info(capsys, "COCO_D2_3X")  # of two architectures
    assert both.count("not on this machine") == 2
    assert "CC-BY-SA-3.0" in both
    assert "\n\n" in both
    one = info(capsys, "mask_rcnn_resnet_101_fpn/COCO_D2_3X")
    assert describe(one)["architecture"] == "mask_rcnn_resnet_101_fpn"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nothing.pth", "there is no file 'nothing.pth'"),
        ("nuclei", "Did you mean 'NUCLEI'?"),
        ("", "weights must not be an empty string."),
        (".", "'.' is a directory"),
        (__file__, "is not a checkpoint"),
    ],
)
def test_wrong_argument(capsys: pytest.CaptureFixture[str], argument: str, message: str) -> None:
    assert main(["info", argument]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
