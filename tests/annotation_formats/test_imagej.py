"""ImageJ's regions, read back with roifile."""

import io
import sys
import zipfile

import numpy as np
import pytest
import roifile
from odd_masks import NAMES, dense_masks, odd_detections
from shapely import Polygon

from lucid_maskrcnn.annotation_formats.imagej import make_rois, write_roi_zip
from lucid_maskrcnn.masks import CompressedMasks

BLUE = (0, 0, 255)


def pixels_of(roi, size=(24, 30)):
    """Return the pixels whose middles lie inside an odd number of a region's rings, as ImageJ fills it."""
    rings = [Polygon(ring) for ring in roi.coordinates(multi=True)]
    minx, miny, maxx, maxy = Polygon([(0, 0), (size[1], 0), (size[1], size[0]), (0, size[0])]).bounds
    inside = np.zeros(size, bool)
    from shapely import contains_xy

    y, x = np.mgrid[miny + 0.5 : maxy, minx + 0.5 : maxx]
    for ring in rings:
        inside ^= contains_xy(ring, x, y)
    return inside


def test_regions_are_the_masks_and_named_by_their_ids(tmp_path):
    odd_detections().save(tmp_path / "a.zip")
    rois = roifile.roiread(tmp_path / "a.zip")
    assert [roi.name for roi in rois] == ["1", "2", "3", "4", "5", "6"]  # the seventh is empty
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == [f"{i}.roi" for i in range(1, 7)]
    for roi, mask in zip(rois, dense_masks(), strict=False):
        np.testing.assert_array_equal(pixels_of(roi), mask, err_msg=roi.name)
    assert [roi.composite for roi in rois] == [False, True, True, True, False, True]
    assert rois[0].roitype == roifile.ROI_TYPE.TRACED
    assert (rois[0].left, rois[0].top, rois[0].right, rois[0].bottom) == (0, 0, 4, 3)


def test_class_and_score_are_properties(tmp_path):
    found = odd_detections()
    found.save(tmp_path / "a.zip")
    rois = roifile.roiread(tmp_path / "a.zip")
    assert rois[0].properties["name"] == "nucleus"
    assert (rois[0].properties["score"], rois[0].properties["id"], rois[0].properties["label"]) == (0.9, 1, 1)
    assert rois[0].properties["software"].startswith("lucid-maskrcnn ")
    assert rois[1].properties["name"] == NAMES[2]
    assert rois[2].properties["name"] == NAMES[3].replace("\n", "\\n")  # escaped, as Java's properties have it
    assert {len(roi.props.splitlines()) for roi in rois} == {5}
    assert rois[0].hexcolor(rois[0].stroke_color) != rois[1].hexcolor(rois[1].stroke_color)


def test_file_is_replaced_and_equal_detections_give_equal_bytes(tmp_path):
    path = tmp_path / "a.zip"
    odd_detections().save(path)
    first = path.read_bytes()
    odd_detections().save(path)
    assert path.read_bytes() == first
    odd_detections()[:1].save(path)
    assert roifile.roiread(path)[0].name == "1"
    assert len(zipfile.ZipFile(path).namelist()) == 1


@pytest.mark.parametrize("at", [100, 32766, 40000, 70000])
def test_coordinates_beyond_16_bits_are_kept(at):
    size = (at + 10, 20)
    square = [[[5.0, at, 9.0, at, 9.0, at + 4, 5.0, at + 4]]]
    (roi,) = make_rois(CompressedMasks.from_coco(square, size), ids=[1], colors=[BLUE], properties=[{}])
    read = roifile.ImagejRoi.frombytes(roi.tobytes())
    (ring,) = read.coordinates(multi=True)
    assert Polygon(ring).bounds == (5, at, 9, at + 4)
    assert Polygon(ring).area == 16


def test_outline_of_very_many_points_is_kept():
    comb = np.zeros((1, 2, 70001), bool)
    comb[0, 0], comb[0, 1, ::2] = True, True
    (roi,) = make_rois(CompressedMasks.from_dense(comb), ids=[1], colors=[BLUE], properties=[{}])
    (ring,) = roifile.ImagejRoi.frombytes(roi.tobytes()).coordinates(multi=True)
    assert Polygon(ring).area == comb.sum()


def test_no_objects_are_an_empty_archive():
    file = io.BytesIO()
    write_roi_zip(
        file, make_rois(CompressedMasks.from_dense(np.zeros((0, 4, 4), bool)), ids=[], colors=[], properties=[])
    )
    assert zipfile.ZipFile(file).namelist() == []


def test_missing_library_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "roifile", None)
    with pytest.raises(ImportError, match=r"pip install 'lucid-maskrcnn\[imagej\]'"):
        odd_detections().save(tmp_path / "a.zip")
    assert [*tmp_path.iterdir()] == []
