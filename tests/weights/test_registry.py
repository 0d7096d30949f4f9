"""The registry of published weights: from a name or a file to an entry, and from a name or path to a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from lucid_maskrcnn.config import make_categories
from lucid_maskrcnn.weights import locate
from lucid_maskrcnn.weights.categories import CATEGORIES, COCO, COCO_CONTIGUOUS, COCO_IDS
from lucid_maskrcnn.weights.download import cached, fetch
from lucid_maskrcnn.weights.registry import (
    file_hash,
    find_by_name,
    find_published,
    identify,
    identify_by_hash,
    list_weights,
)

BASE = "mask_rcnn_resnet_50_fpn"
TORCHVISION = "https://download.pytorch.org/models/"
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"


@pytest.mark.parametrize(
    ("name", "architecture", "url", "kind", "prefix", "eps"),
    [
        ("COCO_V1", BASE, f"{TORCHVISION}maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "sha256", "bf2d0c1e", 0.0),
        (
            "COCO_V2",
            f"{BASE}_v2",
            f"{TORCHVISION}maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
            "sha256",
            "73cbd019",
            1e-5,
        ),
        (
            "COCO_D2_3X",
            BASE,
            f"{DETECTRON2}COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
            "md5",
            "f10217",
            1e-5,
        ),
        (
            "COCO_D2_3X",
            "mask_rcnn_resnet_101_fpn",
            f"{DETECTRON2}COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
            "md5",
            "a3ec72",
            1e-5,
        ),
        ("IMAGENET1K_V2", "resnet50", f"{TORCHVISION}resnet50-11ad3fa6.pth", "sha256", "11ad3fa6", 1e-5),
        ("MSRA", "resnet101", f"{DETECTRON2}ImageNetPretrained/MSRA/R-101.pkl", None, None, 1e-5),
    ],
)
def test_published_weights(
    name: str, architecture: str, url: str, kind: str | None, prefix: str | None, eps: float
) -> None:
    entry = find_published(name, architecture)
    assert (entry.url, entry.hash_kind, entry.hash_prefix, entry.norm_eps) == (url, kind, prefix, eps)
    assert entry in list_weights(architecture)


def test_entries_are_complete() -> None:
    entries = list_weights()
    assert len({(entry.name, entry.architecture) for entry in entries}) == len(entries)
    assert len({entry.file for entry in entries}) == len(entries)
    assert len(set(entries)) == len(entries)  # hashable
    for entry in entries:
        assert entry.url is None or entry.url.startswith("https://")
        assert entry.metrics
        assert all(0 < value < 100 for value in entry.metrics.values())
        assert entry.licence
        assert entry.source.startswith("https://")
        assert entry.size is None or entry.size > 1_000_000
        assert entry.categories is None or CATEGORIES[entry.categories]
        assert (entry.categories is None) == entry.architecture.startswith("resnet")
        assert (entry.conventions == "detectron2") == (entry.name.startswith("COCO_D2") or entry.name == "MSRA")
        assert entry.hash_prefix is None or entry.url is None or entry.hash_prefix in entry.file
        if entry.num_parameters and entry.size:  # four bytes each, and constant statistics
            assert 1 < entry.size / 4 / entry.num_parameters < 1.02 or entry.name == "NUCLEI"
    assert list_weights("mask_rcnn_vgg") == []


def test_shipped_weights_are_in_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_HOME", str(tmp_path / "home"))
    entry = find_published("NUCLEI", "mask_rcnn_resnet_18_fpn")
    path = fetch(entry)
    assert path == cached(entry)
    assert path.parts[-3:] == ("lucid_maskrcnn", "assets", entry.file)
    assert not (tmp_path / "home").exists()
    assert path.stat().st_size == entry.size
    assert identify(path) is identify_by_hash(path) is entry
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        sizes = {name: int(np.prod(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
    assert json.loads(metadata["categories"]) == {str(k): name for k, name in CATEGORIES["NUCLEI"].items()}
    trained = [n for name, n in sizes.items() if not name.endswith(("running_mean", "running_var"))]
    assert sum(trained) == entry.num_parameters
    metrics = json.loads(metadata["figures"])
    names = ("segm/AP@100", "segm/AP50@100", "segm/AP", "segm/AP50", "AP_0.5", "AP_0.7")
    recorded = [metrics[name] for name in names]
    assert list(entry.metrics.values()) == [round(100 * value, 1) for value in recorded]


def test_categories_of_coco() -> None:
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert list(COCO) == [i for i in range(1, 91) if i not in gaps]
    assert list(COCO_CONTIGUOUS) == list(range(1, 81))
    assert tuple(c.id for c in make_categories(COCO_CONTIGUOUS)) == COCO_IDS  # results have COCO's ids
    assert all(c.id == c.label for c in make_categories(COCO))
    # detectron2's classes 0, 10, 11, 20, 40, 60, 79
    assert [COCO_IDS[c] for c in (0, 10, 11, 20, 40, 60, 79)] == [1, 11, 13, 22, 46, 67, 90]
    assert [COCO_CONTIGUOUS[c + 1] for c in (0, 11, 60, 79)] == ["person", "stop sign", "dining table", "toothbrush"]


def test_unknown_name_or_architecture() -> None:
    with pytest.raises(
        ValueError, match=r"weights of mask_rcnn_resnet_50_fpn must be one of 'COCO_V1', .*, got 'coco'\.$"
    ):
        find_published("coco", BASE)
    with pytest.raises(
        ValueError, match=r"one of 'COCO_V2', got 'COCO_V1'; 'COCO_V1' exists for 'mask_rcnn_resnet_50_fpn'\.$"
    ):
        find_published("COCO_V1", f"{BASE}_v2")
    with pytest.raises(
        ValueError, match=r"published for 'mask_rcnn_vgg', only for 'mask_rcnn_resnet_18_fpn', .*'resnet101'\.$"
    ):
        find_published("COCO_V1", "mask_rcnn_vgg")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "COCO_V1"),
        (Path("/somewhere/maskrcnn_resnet50_fpn_v2_coco-73cbd019 (1).pth"), "COCO_V2"),
        ("zoo/model_final_a54504(2).pkl", "COCO_D2_1X"),
        ("MSRA-R-50.pkl", "MSRA"),
        ("R-50.pkl", None),  # torchvision's, converted for detectron2, is called so too
        ("finetuned-maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", None),
        ("maskrcnn_resnet50_fpn_coco-bf2d0c1e.safetensors", None),
        ("model.pth", None),
    ],
)
def test_identify_by_file_name(path: str | Path, expected: str | None) -> None:
    entry = identify(path)
    assert (None if entry is None else entry.name) == expected


def test_identify_by_hash(tmp_path: Path) -> None:
    (tmp_path / "any").write_bytes(b"something else")
    assert identify_by_hash(tmp_path / "any") is None


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x", "md5") == "900150983cd24fb0d6963f7d28e17f72"
    assert file_hash(str(tmp_path / "x"), "sha256").startswith("ba7816bf8f01cfea414140de5dae2223")


# ------------------------------------------------------------------ from a name or a path to a file


def test_find_by_name() -> None:
    assert [e.architecture for e in find_by_name("COCO_D2_3X")] == [BASE, "mask_rcnn_resnet_101_fpn"]
    assert [e.architecture for e in find_by_name(f"{BASE}/COCO_D2_3X")] == [BASE]
    assert find_by_name("coco") == find_by_name("weights/x.pth") == find_by_name(Path("x.pth")) == []


def test_locate_a_name_or_a_path(tmp_path: Path) -> None:
    shipped = locate("NUCLEI")
    assert shipped.name == "nuclei_resnet18_fpn.safetensors"
    assert locate("mask_rcnn_resnet_18_fpn/NUCLEI") == locate("NUCLEI", "mask_rcnn_resnet_18_fpn") == shipped
    (tmp_path / "x.pth").write_bytes(b"")
    assert locate(tmp_path / "x.pth") == locate(str(tmp_path / "x.pth"), BASE) == tmp_path / "x.pth"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None,), TypeError, "weights must be a path as str or Path, got None."),
        ((True,), TypeError, "weights must be a path as str or Path, got True."),
        ((b"x.pth",), TypeError, "weights must be a path as str or Path, got b'x.pth'."),
        (("",), ValueError, "weights must not be an empty string."),
        (("NUCLEI", 3), TypeError, "architecture must be a string, got 3."),
        (("NUCLEI", ""), ValueError, "architecture must not be an empty string."),
        ((".",), ValueError, "weights must be a name or the path of a file: '.' is a directory."),
        (("a\0b",), ValueError, r"weights must be a path, got 'a\x00b' with a null character, which no path has."),
        (("x" * 5000,), FileNotFoundError, "there is no file 'xxx"),
        (("nuclei",), FileNotFoundError, "there is no file 'nuclei'. Did you mean 'NUCLEI'?"),
        (
            ("coco_v1", BASE),
            FileNotFoundError,
            "must be one of 'COCO_V1', 'COCO_D2_1X', 'COCO_D2_3X' or the path",
        ),
        (("x.pth", "mask_rcnn_vgg"), FileNotFoundError, "must be one of none, as no names are known here, or the path"),
        (("COCO_V2", BASE), ValueError, f"'COCO_V2' exists for '{BASE}_v2'."),
        (
            ("COCO_D2_3X",),
            ValueError,
            f"pass '{BASE}/COCO_D2_3X' or 'mask_rcnn_resnet_101_fpn/COCO_D2_3X'.",
        ),
    ],
)
def test_locate_wrong_arguments(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        locate(*arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: list_weights(3), TypeError, "architecture must be a string, got 3."),
        (lambda: list_weights(""), ValueError, "architecture must not be an empty string."),
        (lambda: find_published(None, BASE), TypeError, "name must be a string, got None."),
        (lambda: find_published("COCO_V1", None), TypeError, "architecture must be a string, got None."),
        (lambda: find_by_name(None), TypeError, "weights must be a path as str or Path, got None."),
        (lambda: identify(None), TypeError, "path must be a path as str or Path, got None."),
        (lambda: identify_by_hash(3), TypeError, "path must be a path as str or Path, got 3."),
        (lambda: file_hash("x", "crc32"), ValueError, "kind must be one of 'sha256', 'md5', got 'crc32'."),
    ],
)
def test_registry_wrong_arguments(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
