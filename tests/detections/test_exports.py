"""Detections as tables, crops and supervision's detections."""

import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import supervision
import tifffile
from odd_masks import NAMES, SIZE, dense_masks, odd_detections
from PIL import Image

from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.ops import as_tensor

SHAPES = [
    "area", "centroid_x", "centroid_y", "equivalent_diameter_area", "axis_major_length", "axis_minor_length",
    "eccentricity", "touches_edge",
]  # fmt: skip
FIRST = ["id", "label", "name", "category_id", "score", "x1", "y1", "x2", "y2"]
PICTURE = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)


def huge(num=40):
    """Detections of small objects in an image of which one dense mask has 400 MB."""
    squares = [
        [[i * 400.0, i * 400, i * 400 + 30, i * 400, i * 400 + 30, i * 400 + 30, i * 400, i * 400 + 30]]
        for i in range(num)
    ]
    return Detections.from_masks(CompressedMasks.from_coco(squares, (20000, 20000)))


# ------------------------------------------------------------------ tables


def test_data_frame_has_a_row_each():
    found = odd_detections(categories=[(label, name, 10 * label) for label, name in NAMES.items()])
    frame = found.to_dataframe()
    assert [*frame.columns] == FIRST + SHAPES
    assert frame["id"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert frame["label"].tolist() == [1, 2, 3, 4, 1, 5, 2]
    assert frame["name"].tolist() == [*NAMES.values(), NAMES[1], "class 5", NAMES[2]]
    assert frame["category_id"].tolist() == [10, 20, 30, 40, 10, 5, 20]
    np.testing.assert_array_equal(frame["score"], np.asarray(found.scores))
    np.testing.assert_array_equal(frame[["x1", "y1", "x2", "y2"]], np.asarray(found.boxes))
    assert frame["area"].tolist() == dense_masks().sum((1, 2)).tolist()
    assert frame["touches_edge"].tolist() == [True, False, False, False, True, True, False]
    assert frame.loc[6, ["centroid_x", "eccentricity"]].isna().all()


def test_data_frame_with_intensities_and_micrometers():
    image = np.arange(np.prod(SIZE), dtype=np.uint16).reshape(SIZE) * 60
    frame = odd_detections().to_dataframe(image=image, pixel_size=0.5)
    assert frame.loc[4, "intensity_mean_0"] == image[-1, -1]
    assert frame.loc[0, "intensity_mean_0"] == image[:3, :4].mean()
    assert frame.loc[0, "area_um2"] == 3
    assert frame.loc[0, "centroid_x_um"] == 1
    assert [c for c in frame.columns if c.endswith(("_um", "_um2"))] == [
        "area_um2", "centroid_x_um", "centroid_y_um", "equivalent_diameter_area_um",
        "axis_major_length_um", "axis_minor_length_um",
    ]  # fmt: skip


def test_image_that_is_carried_is_not_measured():
    """It has 8 bits, scaled; only pixels that are given are unscaled."""
    assert not any("intensity" in name for name in odd_detections().to_dataframe().columns)
    found = Detections.from_masks(dense_masks())
    found.image = PICTURE
    assert not any("intensity" in name for name in found.to_dataframe().columns)


def test_csv_is_the_data_frame(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURE.astype(np.uint16) * 200, photometric="rgb")
    found = odd_detections()
    found.save(tmp_path / "a.csv", image=path, pixel_size=(0.5, 0.25))
    read, frame = pd.read_csv(tmp_path / "a.csv"), found.to_dataframe(image=path, pixel_size=(0.5, 0.25))
    assert [*read.columns] == [*frame.columns]
    assert read["name"].tolist() == [name.replace("=1+1", "'=1+1") for name in frame["name"]]
    for name in frame.columns.drop("name"):
        np.testing.assert_array_equal(read[name].astype(frame[name].dtype), frame[name], err_msg=name)
    assert frame["intensity_mean_2"].max() > 255


def test_no_detections_have_the_same_columns(tmp_path):
    none = odd_detections()[:0]
    image = np.zeros((*SIZE, 2))
    assert [*none.to_dataframe(image=image).columns] == [*odd_detections().to_dataframe(image=image).columns]
    none.save(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == (",".join(FIRST + SHAPES) + "\n").encode()


def test_missing_pandas_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'lucid-maskrcnn\[tables\]'"):
        odd_detections().to_dataframe()
    odd_detections().save(tmp_path / "a.csv")  # needs none


# ------------------------------------------------------------------ supervision


def test_supervision_gets_everything():
    found = odd_detections()
    there = found.to_supervision()
    assert isinstance(there, supervision.Detections)
    np.testing.assert_array_equal(there.xyxy, np.asarray(found.boxes))
    np.testing.assert_array_equal(there.mask, dense_masks())
    np.testing.assert_array_equal(there.confidence, np.asarray(found.scores))
    assert there.class_id.tolist() == [1, 2, 3, 4, 1, 5, 2]
    assert there["class_name"].tolist() == found.names
    assert there["id"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert len(there[there.confidence > 0.6]) == 3
    assert there.area.tolist() == found.areas.tolist()


def test_supervision_draws_them():
    scene = PICTURE.copy()
    drawn = supervision.MaskAnnotator(opacity=1).annotate(scene.copy(), odd_detections().to_supervision())
    changed = (drawn != scene).any(axis=2)
    assert not (changed & ~dense_masks().any(axis=0)).any()
    assert changed[dense_masks().any(axis=0)].mean() > 0.9


def test_no_detections_are_none_for_supervision():
    there = odd_detections()[:0].to_supervision()
    assert (len(there), there.mask.shape) == (0, (0, *SIZE))


def test_masks_beyond_4_gb_stay_compact_for_supervision():
    found = huge()
    there = found.to_supervision()
    assert isinstance(there.mask, supervision.CompactMask)
    assert there.area.tolist() == found.areas.tolist()
    assert np.flatnonzero(there[39].mask[0].any(axis=0))[[0, -1]].tolist() == [15600, 15629]


def test_missing_supervision_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'lucid-maskrcnn\[supervision\]'"):
        odd_detections().to_supervision()


# ------------------------------------------------------------------ crops


def test_crops_are_the_pixels_of_the_boxes():
    found = odd_detections()
    crops = found.crops(image=PICTURE)
    assert [crop.shape for crop in crops] == [
        (3, 4, 3), (5, 5, 3), (4, 4, 3), (4, 4, 3), (1, 1, 3), (2, 5, 3), (1, 1, 3)
    ]  # fmt: skip
    np.testing.assert_array_equal(crops[1], PICTURE[3:8, 8:13])
    crops[1][:] = 0  # their own
    assert PICTURE[3:8, 8:13].any()


def test_padding_ends_at_the_image_and_masked_is_black_outside():
    found = odd_detections()
    crops = found.crops(image=PICTURE, padding=2, masked=True)
    assert (crops[0].shape, crops[1].shape, crops[4].shape) == ((5, 6, 3), (9, 9, 3), (3, 3, 3))
    mask = dense_masks()[1, 1:10, 6:15]
    np.testing.assert_array_equal(crops[1], PICTURE[1:10, 6:15] * mask[:, :, None])


def test_crop_holds_box_and_mask():
    masks = np.zeros((1, *SIZE), bool)
    masks[0, 5:9, 5:9] = True
    found = Detections([[7.2, 3.9, 11.3, 7.5]], [1], [1], masks=masks)
    np.testing.assert_array_equal(found.crops(image=PICTURE)[0], PICTURE[3:9, 5:12])
    outside = Detections([[500, 500, 520, 520]], [1], [1], masks=np.zeros((1, *SIZE), bool))
    assert outside.crops(image=PICTURE)[0].shape == (1, 1, 3)


def test_crops_of_the_carried_image_and_of_a_file(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    carried = Detections(
        [[2, 2, 8, 9]], [1], [1], masks=np.ones((1, *SIZE), bool), image=PICTURE
    )  # its mask is the whole image
    np.testing.assert_array_equal(carried.crops()[0], PICTURE)
    np.testing.assert_array_equal(carried.crops(image=tmp_path / "a.png")[0], PICTURE)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "image must be given: these detections do not carry their image"),
        ({"image": PICTURE[1:]}, ValueError, "image must be of the detections' size, 24 × 30 pixels, got 23 × 30"),
        ({"image": PICTURE, "padding": -1}, ValueError, "padding must be a non-negative integer, got -1"),
        ({"image": PICTURE, "masked": 1}, TypeError, "masked must be True or False, got 1"),
    ],
)
def test_wrong_arguments_of_crops_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        odd_detections().crops(**options)


# ------------------------------------------------------------------ many, huge


def test_nothing_but_a_label_image_is_as_large_as_the_image(tmp_path):
    found = huge()
    tracemalloc.start()
    for name in ("a.csv", "a.geojson", "a.zip", "a.json", "a.txt"):
        found.save(tmp_path / name)
    found.save(tmp_path / "b.json", format="labelme")
    found.to_dataframe()
    assert len(found.to_polygons()) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6
    for what in ("masks", "numpy"):
        with pytest.raises(ValueError, match=r"would take 16\.0 GB: compressed_masks, to_rle\(\), to_label_image\(\)"):
            getattr(found, what)() if what == "numpy" else getattr(found, what)


@pytest.mark.parametrize("pixel_size", [0, -1, "1", (1,)])
def test_wrong_sizes_of_pixels_are_refused(pixel_size, tmp_path):
    for call in (
        lambda: odd_detections().to_dataframe(pixel_size=pixel_size),
        lambda: odd_detections().save(tmp_path / "a.csv", pixel_size=pixel_size),
        lambda: odd_detections().to_geojson(pixel_size=pixel_size),
    ):
        with pytest.raises((TypeError, ValueError), match="pixel_size must be"):
            call()
    assert [*tmp_path.iterdir()] == []


# ------------------------------------------------------------------ on gpu


def test_detections_on_gpu_are_exported_as_those_on_cpu(tmp_path):
    cpu = odd_detections()
    tensors = [as_tensor(getattr(cpu, name), "gpu") for name in ("boxes", "scores", "labels")]
    gpu = Detections(*tensors, masks=cpu.compressed_masks, categories=NAMES)
    assert gpu.boxes.device == "gpu"
    pd.testing.assert_frame_equal(gpu.to_dataframe(image=PICTURE), cpu.to_dataframe(image=PICTURE))
    assert gpu.to_geojson() == cpu.to_geojson()
    assert gpu.to_yolo() == cpu.to_yolo()
    assert gpu.to_labelme("a.png") == cpu.to_labelme("a.png")
    np.testing.assert_array_equal(gpu.to_label_image(), cpu.to_label_image())
    assert gpu.to_supervision() == cpu.to_supervision()
    for name in ("a.zip", "a.json"):
        gpu.save(tmp_path / name)
        written = (tmp_path / name).read_bytes()
        cpu.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == written
