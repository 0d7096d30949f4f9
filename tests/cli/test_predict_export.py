"""``predict --export``: files for other programs beside the drawings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import roifile
import tifffile
from shapely.geometry import shape

import lucid_maskrcnn
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.inference import JOB_EXPORTS

NUCLEI = Path(lucid_maskrcnn.__file__).parent / "assets" / "nuclei_fluorescence_small.png"


def test_predict_exports_what_it_finds(tmp_path: Path) -> None:
    out = tmp_path / "out"
    formats = ",".join(name for name in JOB_EXPORTS if name != "coco")
    assert main(["predict", str(NUCLEI), "--out", str(out), "--export", formats, "--no-draw", "--quiet"]) == 0
    found = json.loads((out / "detections.json").read_text())
    stem = out / NUCLEI.stem
    table = pd.read_csv(stem.with_suffix(".csv"))
    assert table["score"].tolist() == pytest.approx([entry["score"] for entry in found])
    content = json.loads(stem.with_suffix(".geojson").read_text())
    polygons = [shape(feature["geometry"]) for feature in content["features"]]
    assert all(polygon.is_valid for polygon in polygons)
    assert [polygon.area for polygon in polygons] == table["area"].tolist()
    assert content["made_by"]["weights"] == "NUCLEI"
    job = json.loads((out / "job.json").read_text())
    assert content["made_by"]["weights_sha256"] == job["weights"]["sha256"]
    labels = tifffile.imread(stem.with_suffix(".tif"))
    assert np.unique(labels).tolist() == list(range(len(found) + 1))
    assert [roi.name for roi in roifile.roiread(stem.with_suffix(".zip"))] == [str(i + 1) for i in range(len(found))]
    assert len(stem.with_suffix(".txt").read_text().splitlines()) == len(found)
    assert json.loads(stem.with_suffix(".json").read_text())["imagePath"] == NUCLEI.name
    assert len([*(out / f"{NUCLEI.stem}_crops").iterdir()]) == len(found)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cvs", "--export must be one of 'label-image', 'csv', .*got 'cvs'. Did you mean 'csv'"),
        ("csv,", "--export must be one of .* got ''"),
        ("coco,labelme", "--export:? cannot have both 'coco' and 'labelme'"),
    ],
)
def test_wrong_formats_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["predict", str(NUCLEI), "--out", str(tmp_path / "out"), "--export", value])
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "out").exists()


def test_help_lists_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["predict", "--help"])
    text = capsys.readouterr().out.split("--export")[-1]
    assert all(name in text for name in JOB_EXPORTS)
