"""GeoJSON for QuPath, read back with shapely."""

import json

import numpy as np
import pytest
from odd_masks import NAMES, ROWS, dense_masks, odd_detections
from shapely import Polygon, box, equals_exact
from shapely.geometry import shape
from shapely.ops import unary_union

from lucid_maskrcnn.annotation_formats.geojson import make_feature_collection
from lucid_maskrcnn.masks import CompressedMasks


def geometries(content):
    return {feature["id"]: shape(feature["geometry"]) for feature in json.loads(json.dumps(content))["features"]}


def test_geometries_are_valid_and_cover_the_pixels():
    found = geometries(odd_detections().to_geojson())
    assert [*found] == [1, 2, 3, 4, 5, 6]  # the seventh is empty
    for number, geometry in found.items():
        mask = dense_masks()[number - 1]
        assert geometry.is_valid
        assert geometry.area == mask.sum()
        pixels = unary_union([box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask)])
        assert equals_exact(geometry.symmetric_difference(pixels), Polygon()) or geometry.equals(pixels)


def test_parts_that_touch_at_a_corner_are_several_polygons_and_holes_are_rings():
    found = dict(zip(ROWS, geometries(odd_detections().to_geojson()).values(), strict=False))
    kinds = {name: geometry.geom_type for name, geometry in found.items()}
    assert kinds == {
        "whole": "Polygon", "hole": "MultiPolygon", "corner": "MultiPolygon",
        "closing": "Polygon", "pixel": "Polygon", "apart": "MultiPolygon",
    }  # fmt: skip
    assert [len(part.interiors) for part in found["hole"].geoms] == [1, 0]
    assert len(found["closing"].interiors) == 1


def test_feature_is_what_qupath_reads():
    content = odd_detections().to_geojson()
    assert content["type"] == "FeatureCollection"
    assert content["made_by"]["software"].startswith("lucid-maskrcnn ")
    first, second = content["features"][:2]
    assert first["type"] == "Feature"
    properties = first["properties"]
    assert (properties["objectType"], properties["name"]) == ("detection", "1")
    assert properties["classification"]["name"] == "nucleus"
    assert second["properties"]["classification"]["name"] == NAMES[2]
    assert second["properties"]["classification"]["color"] != properties["classification"]["color"]
    assert all(type(part) is int and 0 <= part <= 255 for part in properties["classification"]["color"])
    measured = properties["measurements"]
    assert (measured["id"], measured["area"], measured["centroid_x"], measured["touches_edge"]) == (1, 12, 2, 1)
    assert measured["score"] == pytest.approx(0.9)
    assert {type(value) for value in measured.values()} <= {int, float}


def test_annotations_and_intensities_on_request():
    content = odd_detections().to_geojson(object_type="annotation", image=np.full((24, 30), 5.0), pixel_size=0.5)
    properties = content["features"][0]["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["measurements"]["intensity_mean_0"] == 5
    assert properties["measurements"]["area_um2"] == 3
    with pytest.raises(ValueError, match="object_type must be one of 'detection', 'annotation', got 'cell'"):
        odd_detections().to_geojson(object_type="cell")


def test_values_that_json_lacks_are_left_out():
    image = np.full((24, 30), np.nan)
    content = odd_detections().to_geojson(image=image)
    json.dumps(content, allow_nan=False)
    assert "intensity_mean_0" not in content["features"][0]["properties"]["measurements"]


def test_no_objects_are_no_features():
    masks = CompressedMasks.from_dense(np.zeros((0, 5, 5), bool))
    assert make_feature_collection(masks, ids=[], names=[], colors=[], measurements={})["features"] == []


def test_label_without_a_category_is_drawn_all_the_same():
    """Its category id would be that of another, which only exports with ids of categories refuse."""
    found = odd_detections(categories=[(1, "nucleus", 2)])
    assert len(found.to_geojson()["features"]) == 6
    with pytest.raises(ValueError, match="Label 2 has no category"):
        found.to_dataframe()
