"""Measurements of objects, beside scikit-image's."""

import tracemalloc

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import regionprops_table

from lucid_maskrcnn import measure
from lucid_maskrcnn.masks import CompressedMasks
from lucid_maskrcnn.measure import measure_objects

SHAPES = ("area", "centroid", "equivalent_diameter_area", "axis_major_length", "axis_minor_length", "eccentricity")
NAMES = {"centroid-0": "centroid_y", "centroid-1": "centroid_x"}


def by_scikit_image(labels, image=None, spacing=None):
    properties = SHAPES if image is None else (*SHAPES, "intensity_mean")
    table = regionprops_table(labels, intensity_image=image, properties=properties, spacing=spacing)
    table = {NAMES.get(name, name.replace("intensity_mean-", "intensity_mean_")): v for name, v in table.items()}
    return {name: values + 0.5 if "centroid" in name else values for name, values in table.items()}


def assert_equal(found, wanted, tolerance=1e-6):
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=tolerance, err_msg=name)


label_images = hnp.arrays(
    np.int64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.integers(0, 5)
)


@given(label_images)
@settings(max_examples=100, deadline=None)
def test_shapes_are_those_of_scikit_image(labels):
    found = measure_objects(CompressedMasks.from_labels(labels))
    assert_equal(found, by_scikit_image(labels))
    assert found["area"].dtype == np.int64
    assert found["touches_edge"].dtype == bool


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64, bool])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (5,)])
def test_intensities_are_those_of_scikit_image(dtype, channels):
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 7, (40, 30))
    image = (generator.random((40, 30, *channels)) * 60000).astype(dtype)
    found = measure_objects(CompressedMasks.from_labels(labels), image=image)
    wanted = by_scikit_image(labels, (image if channels else image[:, :, None]).astype(np.float64))
    assert [name for name in found if "intensity" in name] == [
        f"intensity_mean_{i}" for i in range(max([1, *channels]))
    ]
    assert_equal(found, wanted)


def test_overlapping_masks_are_measured_each_for_itself():
    masks = np.zeros((2, 9, 12), bool)
    masks[0, 1:6, 2:9], masks[1, 4:9, 5:12] = True, True
    found = measure_objects(CompressedMasks.from_dense(masks), image=np.arange(108).reshape(9, 12))
    assert found["area"].tolist() == [35, 35]
    assert found["centroid_x"].tolist() == [5.5, 8.5]
    assert found["centroid_y"].tolist() == [3.5, 6.5]
    assert found["touches_edge"].tolist() == [False, True]
    wanted = by_scikit_image(masks[0].astype(int), np.arange(108).reshape(9, 12, 1))
    assert_equal({name: values[:1] for name, values in found.items()}, wanted)


def test_one_pixel_is_an_object():
    mask = np.zeros((1, 5, 5), bool)
    mask[0, 3, 2] = True
    found = {name: values.tolist() for name, values in measure_objects(CompressedMasks.from_dense(mask)).items()}
    assert found["area"] == [1]
    assert (found["centroid_x"], found["centroid_y"]) == ([2.5], [3.5])
    assert (found["axis_major_length"], found["axis_minor_length"], found["eccentricity"]) == ([0], [0], [0])


def test_empty_mask_has_an_area_and_no_place():
    found = measure_objects(CompressedMasks.from_dense(np.zeros((1, 5, 5), bool)), image=np.ones((5, 5)))
    assert (found["area"][0], found["equivalent_diameter_area"][0], found["touches_edge"][0]) == (0, 0, False)
    rest = set(found) - {"area", "equivalent_diameter_area", "touches_edge"}
    assert all(np.isnan(found[name][0]) for name in rest), found
    assert {"centroid_x", "eccentricity", "intensity_mean_0"} <= rest


def test_no_objects_have_all_columns():
    masks = CompressedMasks.from_dense(np.zeros((0, 5, 5), bool))
    found = measure_objects(masks, image=np.ones((5, 5, 2)), pixel_size=0.5)
    assert {values.shape for values in found.values()} == {(0,)}
    assert [*found][-8:] == [
        "intensity_mean_0", "intensity_mean_1", "area_um2", "centroid_x_um", "centroid_y_um",
        "equivalent_diameter_area_um", "axis_major_length_um", "axis_minor_length_um",
    ]  # fmt: skip


@pytest.mark.parametrize("pixel_size", [0.25, (0.25, 0.25), (0.5, 0.2)])
def test_lengths_in_micrometers_are_those_of_scikit_image(pixel_size):
    labels = np.random.default_rng(0).integers(0, 4, (20, 20))
    height, width = pixel_size if isinstance(pixel_size, tuple) else (pixel_size, pixel_size)
    found = measure_objects(CompressedMasks.from_labels(labels), pixel_size=pixel_size)
    wanted = by_scikit_image(labels, spacing=(height, width))
    np.testing.assert_allclose(found["area_um2"], wanted["area"])
    np.testing.assert_allclose(found["centroid_x_um"], wanted["centroid_x"] - 0.5 + width / 2)
    np.testing.assert_allclose(found["centroid_y_um"], wanted["centroid_y"] - 0.5 + height / 2)
    for name in ("equivalent_diameter_area", "axis_major_length", "axis_minor_length"):
        np.testing.assert_allclose(found[f"{name}_um"], wanted[name], err_msg=name)
    assert_equal(found, by_scikit_image(labels))  # those in pixels stay


def test_file_gives_unscaled_intensities_and_the_size_of_a_pixel(tmp_path):
    image = np.full((6, 8), 40000, np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    masks = CompressedMasks.from_dense(np.ones((1, 6, 8), bool))
    found = measure_objects(masks, image=path)
    assert found["intensity_mean_0"][0] == 40000
    assert found["area_um2"][0] == pytest.approx(48 / 16)
    assert measure_objects(masks, image=path, pixel_size=1)["area_um2"][0] == 48


def test_page_of_a_file_is_chosen(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.stack([np.full((4, 5), k, np.uint16) for k in range(3)]), imagej=True, metadata={"axes": "TYX"}
    )
    masks = CompressedMasks.from_dense(np.ones((1, 4, 5), bool))
    assert measure_objects(masks, image=path, page=2)["intensity_mean_0"][0] == 2
    with pytest.raises(ValueError, match="it has 3 pages; choose one with page=0"):
        measure_objects(masks, image=path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image": np.zeros((5, 4))}, ValueError, r"image must be of the masks' size, 4 × 5 pixels, got 5 × 4"),
        ({"image": "nowhere.png"}, FileNotFoundError, "nowhere.png"),
        ({"image": 3}, TypeError, "An image must be a path"),
        ({"pixel_size": 0}, ValueError, "pixel_size must be a number above 0, got 0"),
        ({"pixel_size": "0.5 um"}, TypeError, "pixel_size must be"),
        ({"pixel_size": (1, 2, 3)}, ValueError, "pixel_size must be a sequence of 2 values"),
        ({"page": 1}, ValueError, "give image= too"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        measure_objects(CompressedMasks.from_dense(np.zeros((1, 4, 5), bool)), **options)


def test_masks_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="masks must be CompressedMasks"):
        measure_objects(np.zeros((1, 4, 5), bool))


def test_memory_follows_the_objects_and_not_the_image():
    """A stack of these masks would take 40 GB."""
    size = 20000
    rles = [[[i * 150, i * 150, i * 150 + 90, i * 150, i * 150 + 50, i * 150 + 80]] for i in range(100)]
    masks = CompressedMasks.from_coco(rles, (size, size))
    image = np.broadcast_to(np.uint16(7), (size, size))
    tracemalloc.start()
    found = measure_objects(masks, image=image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["intensity_mean_0"].tolist() == [7] * 100
    assert peak < 2e6


def test_object_as_large_as_the_image_is_measured_in_parts():
    masks = CompressedMasks.from_dense(np.ones((1, 3000, 3000), bool))
    image = np.arange(9_000_000, dtype=np.uint32).reshape(3000, 3000)
    tracemalloc.start()
    assert measure_objects(masks, image=image)["intensity_mean_0"][0] == 4499999.5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize(
    "options", [{"tile": (64, 64)}, {"rowsperstrip": 16}, {"tile": (64, 64), "compression": "zlib"}, {}]
)
def test_file_is_read_in_bands(tmp_path, monkeypatch, options):
    monkeypatch.setattr(measure, "_BAND", 300 * 3 * 2 * 40)
    monkeypatch.setattr(measure, "_ROWS", 16)
    generator = np.random.default_rng(0)
    image = generator.integers(0, 60000, (200, 300, 3), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", **options)
    labels = np.kron(generator.integers(0, 40, (10, 15)), np.ones((20, 20), int))  # objects in many bands
    masks = CompressedMasks.from_labels(labels)
    found = measure_objects(masks, image=tmp_path / "a.tif")
    assert_equal(found, by_scikit_image(labels, image))
    assert_equal(measure_objects(masks, image=image), found)


def test_memory_does_not_follow_the_file(tmp_path):
    """100 MB of pixels, compressed in tiles to very little."""
    size = 7168
    tifffile.imwrite(tmp_path / "a.tif", np.full((size, size), 9, np.uint16), tile=(256, 256), compression="zlib")
    squares = [[[i * 1000.0, i * 1000, i * 1000 + 90, i * 1000, i * 1000 + 50, i * 1000 + 80]] for i in range(7)]
    masks = CompressedMasks.from_coco(squares, (size, size))
    tracemalloc.start()
    found = measure_objects(masks, image=tmp_path / "a.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["intensity_mean_0"].tolist() == [9] * 7
    assert peak < 50e6
