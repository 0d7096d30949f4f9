"""What scripts in docs/ compute for its pages is what the pages have."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from lucid_maskrcnn.config import DETECTRON2, TORCHVISION
from lucid_maskrcnn.models.layers import shapes_only

DOCS = Path(__file__).parents[1] / "docs"


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(DOCS / f"{name}.py"))


@pytest.fixture(scope="module")
def counted() -> dict[str, Any]:
    return script("make_model_numbers")


def written(name: str) -> dict[str, Any]:
    return json.loads((DOCS / "understand" / f"{name}_numbers.json").read_text(encoding="utf-8"))


def test_parameters_and_arithmetic_of_the_factories(counted):
    assert counted["numbers"]() == written("model")


@pytest.mark.parametrize(
    ("name", "detections", "published"),
    # torchvision's figures are of a noise image: the first model finds nothing in it, the second all 100 that it may
    [("resnet_50", 0, 134.38), ("resnet_50_v2", 100, 333.577)],
)
def test_arithmetic_is_what_torchvision_publishes(counted, name, detections, published):
    with shapes_only():
        model = counted["factory"](name)(91, norm="frozen")  # torchvision's heads have a mask for background, too
    stages = counted["gigamacs"](model, (800, 800), 1000, detections, every_class=True)
    assert sum(stages.values()) == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize("name", ["predict_flow", "training_flow", "modules"])
def test_diagrams_are_as_drawn(name, monkeypatch, tmp_path):
    drawing = script("make_diagrams")
    monkeypatch.setitem(drawing[name].__globals__, "OUT", tmp_path)
    drawing[name]().save(name)
    drawn = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert drawn == (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8")


def test_every_link_of_a_diagram_leads_to_a_stage():
    page = (DOCS / "understand" / "how_it_works.md").read_text(encoding="utf-8")
    for file in (DOCS / "images").glob("*.svg"):
        links = [part.partition('"')[0] for part in file.read_text(encoding="utf-8").split("how_it_works.html#")[1:]]
        assert all(f"\n({link})=\n" in page for link in links), file.name


@pytest.mark.slow
def test_numbers_of_the_stages(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    stages = script("make_stage_pictures")
    found, expected = stages["numbers"](stages["run"]()), written("stage")
    assert found.keys() == expected.keys()
    for name, value in found.items():  # rounding differs between processors, and decides for some boxes
        numbers = [float(str(v).replace(",", "")) for v in (value, expected[name])]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.03, abs=2), name


def test_page_of_conventions_has_every_setting_that_differs():
    page = (DOCS / "understand" / "conventions.md").read_text(encoding="utf-8")
    for part in ("image", "rpn", "heads"):
        ours, theirs = getattr(TORCHVISION, part).to_dict(), getattr(DETECTRON2, part).to_dict()
        missing = [name for name in ours if ours[name] != theirs[name] and f"`{part}.{name}`" not in page]
        assert not missing, part


def test_measured_rates_of_convolutions_are_those_that_were_recorded():
    page = (DOCS / "understand" / "convolutions.md").read_text(encoding="utf-8")
    recorded = (DOCS.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(("| 1, ", "| 70, "))]
    assert len(rows) > 5
    for row in rows:
        assert row.rpartition(" | ")[0] in recorded


def test_figures_of_speed_are_those_of_the_records():
    texts = script("speed_texts")
    for path, text in texts["written"](texts["runs"]()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run docs/make_speed_plots.py"


def test_figures_of_speed_are_ranges_over_runs_and_kinds_of_processors():
    texts = script("speed_texts")
    runs = [
        {"machine": {"instructions": kind}, "predict": {"ours": {"median": ours}, "torchvision": {"median": 4.0}}}
        for kind, ours in [("AVX2", 2.0), ("AVX-512", 2.4), ("AVX-512", 3.0), ("AVX-512", 2.2)]
    ]
    table = texts["ratio_table"](runs)
    assert "| this package over … | | AVX2, 1 run | AVX-512, 3 runs |" in table
    assert "| `predict`, one image of 800 × 1216 | torchvision's time | 0.50 | 0.55 to 0.75 |" in table
    assert "OpenVINO" not in table
    assert "0.50 to 0.75 of torchvision's time" in texts["readme_line"](runs)
