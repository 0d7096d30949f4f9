"""Prediction by tiles: each object once and whole, at every place; memory, reading, settings and warnings."""

from __future__ import annotations

import json
import re
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from exact_detector import ExactDetector, draw, scene
from PIL import Image

from lucid_maskrcnn import MaskRCNN, predict_files, predict_tiled
from lucid_maskrcnn.detections import Detections
from lucid_maskrcnn.images import load_image
from lucid_maskrcnn.inference.tile_grid import TileGrid
from lucid_maskrcnn.masks import CompressedMasks, overlapping_pairs

ASSETS = Path(__file__).parents[2] / "lucid_maskrcnn" / "assets"


def found_in(image: Any, tile_size: int, overlap: int, hidden: int = 0, **options: Any) -> Detections:
    return predict_tiled(ExactDetector(hidden), image, tile_size=tile_size, overlap=overlap, **options)


def same_masks(found: CompressedMasks, expected: np.ndarray) -> bool:
    def encoded(masks: CompressedMasks) -> list[str]:
        return sorted(rle["counts"] for rle in masks.to_rle())

    return encoded(found) == encoded(CompressedMasks.from_dense(expected))


# ------------------------------------------------------------------ geometry


@pytest.mark.parametrize(
    ("length", "starts"), [(1, (0,)), (10, (0,)), (11, (0, 1)), (17, (0, 7)), (18, (0, 7, 8)), (31, (0, 7, 14, 21))]
)
def test_tiles_cover_the_image_have_one_size_and_move_inwards_at_the_end(length: int, starts: tuple[int, ...]) -> None:
    grid = TileGrid.of((length, 40), 10, 3)
    assert grid.tops == starts
    boxes = grid.boxes
    assert len(boxes) == len(grid) == len(grid.tops) * len(grid.lefts)
    assert (boxes[:, 2:] - boxes[:, :2] == (10, min(length, 10))).all()
    assert boxes.min() == 0
    assert (boxes[:, 2:].max(axis=0) == (40, length)).all()


def test_all_tiles_have_the_shape_of_the_first() -> None:
    model = ExactDetector()
    predict_tiled(model, np.zeros((101, 257, 3), np.uint8), tile_size=64, overlap=16)
    assert set(model.calls) == {(64, 64, 3)}
    assert len(model.calls) == 2 * 6


# ------------------------------------------------------------------ each object once, and whole


@pytest.mark.parametrize("size", [(160, 160), (161, 160), (160, 161), (127, 211), (64, 200), (40, 500)])
@pytest.mark.parametrize(("tile_size", "overlap"), [(64, 24), (64, 40), (50, 24), (63, 25)])
def test_crowded_objects_smaller_than_the_overlap_are_found_once_and_whole(
    size: tuple[int, int], tile_size: int, overlap: int
) -> None:
    masks = scene(*size, count=60, largest=20, seed=sum(size))
    found = found_in(draw(masks), tile_size, overlap)
    assert same_masks(found.compressed_masks, masks)
    np.testing.assert_array_equal(np.sort(found.scores)[::-1], found.scores)
    np.testing.assert_allclose(found.boxes, found.compressed_masks.boxes)


@pytest.mark.parametrize("hidden", [1, 2])
def test_outlines_that_end_before_the_border_are_no_doubles(hidden: int) -> None:
    masks = scene(200, 200, count=40, largest=16, seed=3)
    masks[:, :2], masks[:, -2:], masks[:, :, :2], masks[:, :, -2:] = False, False, False, False
    masks = masks[masks.any(axis=(1, 2))]
    assert same_masks(found_in(draw(masks), 64, 24, hidden).compressed_masks, masks)


@pytest.mark.parametrize("size", [1, 2, 7, 16, 23, 24, 25, 26, 40, 63, 64, 65, 100, 150])
def test_an_object_of_any_size_at_any_place_around_the_corner_of_four_tiles_is_whole(size: int) -> None:
    for top, left in ((40 - size // 2, 40 - size // 2), (40, 40), (64 - size, 64 - size), (39, 50), (12, 1), (0, 0)):
        masks = np.zeros((1, 190, 190), bool)
        masks[0, max(top, 0) : top + size, max(left, 0) : left + size] = True
        found = found_in(draw(masks), 64, 24)
        assert len(found) == 1, (top, left)
        assert same_masks(found.compressed_masks, masks), (top, left)


def test_objects_larger_than_the_overlap_and_the_tiles_are_united() -> None:
    masks = np.zeros((4, 300, 400), bool)
    masks[0, 10:290, 20:30] = True  # down five rows of tiles
    masks[0, 280:290, 20:380] = True
    masks[1, 40:60, 50:390] = True
    y, x = np.mgrid[:300, :400]
    masks[2] = (np.hypot(y - 170, x - 200) < 90) & (np.hypot(y - 170, x - 200) > 60)  # a ring
    masks[3] = np.hypot(y - 170, x - 200) < 55
    found = found_in(draw(masks), 64, 16)
    assert same_masks(found.compressed_masks, masks)
    np.testing.assert_array_equal(found.boxes, found.compressed_masks.boxes)


def test_an_object_as_large_as_the_image_is_one() -> None:
    masks = np.ones((1, 150, 230), bool)
    assert same_masks(found_in(draw(masks), 50, 10).compressed_masks, masks)


def test_touching_objects_stay_apart_at_every_seam() -> None:
    masks = np.zeros((16 * 20, 160, 200), bool)
    for i in range(16):
        for j in range(20):
            masks[20 * i + j, 10 * i : 10 * i + 10, 10 * j : 10 * j + 10] = True
    assert same_masks(found_in(draw(masks), 48, 15).compressed_masks, masks)


def test_touching_objects_that_are_larger_than_the_overlap_stay_apart() -> None:
    masks = np.zeros((6, 120, 300), bool)
    for i in range(6):
        masks[i, 20 * i : 20 * i + 20] = True
    assert same_masks(found_in(draw(masks), 64, 16).compressed_masks, masks)


def test_nothing_is_found_in_an_empty_image() -> None:
    found = found_in(np.zeros((100, 130, 3), np.uint8), 40, 10)
    assert len(found) == 0
    assert found.image_size == (100, 130)
    assert found.to_coco(1) == []
    assert found.categories == ExactDetector.categories


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (50, 64), (64, 64)])
def test_an_image_smaller_than_a_tile_is_predicted_on_as_it_is(size: tuple[int, int]) -> None:
    image = draw(np.ones((1, *size), bool))
    model = ExactDetector()
    tiled, whole = predict_tiled(model, image, tile_size=100, overlap=20), model.predict(image)[0]
    assert model.calls == [image.shape] * 2
    np.testing.assert_array_equal(tiled.boxes, whole.boxes)
    np.testing.assert_array_equal(tiled.scores, whole.scores)
    assert tiled.to_coco(1) == whole.to_coco(1)


# ------------------------------------------------------------------ labels, and detections without pixels


class OneSquare:
    """Finds a square, in part where a tile has a part, and gives it the next label with each call."""

    categories = ExactDetector.categories

    def __init__(self, labels: Any, empty_masks: bool = False) -> None:
        self._labels, self._empty = iter(labels), empty_masks

    def predict(self, image: np.ndarray, **options: Any) -> list[Detections]:
        self.options = options
        mask, label = image[None, ..., 0] > 0, next(self._labels)
        boxes = CompressedMasks.from_dense(mask).boxes
        found = Detections(boxes, [0.9], [label], masks=mask & (not self._empty), categories=self.categories)
        return [found[: int(mask.any())]]


SQUARE = np.zeros((100, 100, 3), np.uint8)
SQUARE[40:60, 40:60] = 255


def test_objects_of_different_labels_stay_apart_unless_suppression_is_of_all_classes() -> None:
    for agnostic, expected in ((False, [1, 2]), (True, [1])):
        model = OneSquare([1, 2, 1, 2])
        found = predict_tiled(model, SQUARE, tile_size=64, overlap=28, class_agnostic_nms=agnostic)
        assert np.asarray(found.labels).tolist() == expected
        assert found.areas.tolist() == [400] * len(expected)


def test_detections_without_pixels_are_merged_by_their_boxes() -> None:
    found = predict_tiled(OneSquare([1] * 4, empty_masks=True), SQUARE, tile_size=64, overlap=28)
    assert np.asarray(found.boxes).tolist() == [[40, 40, 60, 60]]
    assert found.areas.tolist() == [0]


def test_a_model_gets_the_options_and_only_those_that_are_set() -> None:
    model = OneSquare([1] * 9)
    predict_tiled(model, SQUARE, tile_size=64, score_thresh=0.3, classes=["dog"], mask_nms=True, top_k=7)
    assert model.options == {
        **{"score_thresh": 0.3, "nms_thresh": None, "top_k": 7, "mask_thresh": 0.5},
        **{"classes": [2], "mask_nms": True, "keep_image": False},
    }


# ------------------------------------------------------------------ reading


class Pixels:
    """Finds nothing, and keeps the tiles that it is given."""

    def __init__(self) -> None:
        self.tiles: list[np.ndarray] = []

    def predict(self, image: np.ndarray, **_: Any) -> list[Detections]:
        self.tiles.append(image.copy())
        return [Detections(np.zeros((0, 4)), [], [], np.zeros((0, 28, 28)), image.shape[:2])]


def seen(image: Any, size: tuple[int, int], **options: Any) -> np.ndarray:
    """The image that the network has seen."""
    model = Pixels()
    predict_tiled(model, image, tile_size=40, overlap=8, **options)
    grid = TileGrid.of(size, 40, 8)
    out = np.zeros((*size, 3), np.uint8)
    for tile, (x1, y1, x2, y2) in zip(model.tiles, grid.boxes, strict=True):
        out[y1:y2, x1:x2] = tile
    return out


@pytest.mark.parametrize("options", [{}, {"tile": (16, 32)}, {"rowsperstrip": 7, "compression": "zlib"}])
@pytest.mark.parametrize("intensity", ["max", "full", (1, 99)])
def test_the_intensity_is_that_of_the_whole_image(tmp_path: Path, options: dict[str, Any], intensity: Any) -> None:
    samples = np.random.default_rng(0).integers(0, 3000, (3, 90, 130)).astype(np.uint16)
    samples[:, 60:] //= 10
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack", **options)
    read = {"page": 1, "intensity": intensity}
    np.testing.assert_array_equal(
        seen(tmp_path / "a.tif", (90, 130), **read), load_image(tmp_path / "a.tif", page=1, intensity=intensity)
    )


def test_channels_are_chosen_and_png_pil_and_arrays_are_taken(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (61, 77, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels):
        np.testing.assert_array_equal(seen(image, (61, 77)), pixels)
        np.testing.assert_array_equal(seen(image, (61, 77), channels=(2, 1, 0)), pixels[..., ::-1])


def test_a_dark_image_is_warned_of_once(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((90, 130), 1000, np.uint16), tile=(16, 16))
    with pytest.warns(UserWarning, match="comes out dark") as caught:
        predict_tiled(Pixels(), tmp_path / "a.tif", tile_size=40)
    assert len(caught) == 1


@pytest.mark.parametrize("options", [{"tile": (256, 256), "compression": "zlib"}, {}])
def test_memory_is_that_of_a_row_of_tiles(tmp_path: Path, options: dict[str, Any]) -> None:
    size = (6000, 3000)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(size, np.uint16), **options)
    model = Pixels()
    model.tiles = _Dropped()
    tracemalloc.start()
    predict_tiled(model, tmp_path / "a.tif", tile_size=256, overlap=32, intensity="max")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size[0] * size[1] * 2  # a 16-bit image of this size, which in RGB is half as much again


class _Dropped(list[np.ndarray]):
    def append(self, item: np.ndarray) -> None:
        pass


# ------------------------------------------------------------------ wrong calls


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tile_size": 0}, ValueError, "tile_size must be an integer from 2 on, got 0."),
        ({"tile_size": 12.5}, TypeError, "tile_size must be an integer from 2 on, got 12.5."),
        ({"tile_size": 64, "overlap": 64}, ValueError, "overlap must be an integer from 1 to 63, got 64."),
        ({"tile_size": 64, "overlap": 0}, ValueError, "overlap must be an integer from 1 to 63, got 0."),
        ({"merge_thresh": 0}, ValueError, "merge_thresh must be"),
        ({"merge_thresh": "a"}, TypeError, "merge_thresh must be"),
        ({"score_thresh": 2}, ValueError, "score_thresh must be"),
        ({"classes": "mouse"}, ValueError, "there is no class 'mouse'"),
        ({"class_agnostic_nms": 1}, TypeError, "class_agnostic_nms must be"),
        ({"page": "all"}, ValueError, "page must be a number here"),
        ({"channels": 7}, ValueError, "channels must be among those of the array"),
        ({"progress": None}, TypeError, "progress must be"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        predict_tiled(ExactDetector(), SQUARE, **{"tile_size": 64, **options})


def test_a_model_is_needed_and_without_a_scale_the_size_of_the_tiles() -> None:
    with pytest.raises(
        TypeError, match=r"^model must be a MaskRCNN or another model with a predict method, got 'a'\.$"
    ):
        predict_tiled("a", SQUARE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^tile_size must be given: the model has no config\.image"):
        predict_tiled(ExactDetector(), SQUARE)
    with pytest.raises(TypeError, match=r"^An image must be a path, a PIL image or an array"):
        predict_tiled(ExactDetector(), [SQUARE], tile_size=64)  # type: ignore[arg-type]


# ------------------------------------------------------------------ jobs


def test_a_job_predicts_by_tiles_and_is_not_resumed_with_others(tmp_path: Path) -> None:
    masks = scene(120, 150, count=20, largest=20)
    Image.fromarray(draw(masks)).save(tmp_path / "a.png")
    job: dict[str, Any] = {"tiles": True, "tile_size": 64, "overlap": 24}
    result = predict_files([tmp_path / "a.png"], ExactDetector(), tmp_path / "out", progress=False, **job)
    assert (result.n_failed, result.n_objects) == (0, len(masks))
    assert (tmp_path / "out" / "a.png").exists()
    again: Any = {"resume": True, "progress": False}
    predict_files([], ExactDetector(), tmp_path / "out", **job, **again)
    for other, message in (
        ({**job, "overlap": 20}, "overlap was 24 and is 20"),
        ({**job, "tile_size": 65}, "tile_size was 64 and is 65"),
        ({}, "tiles was True and is the model's own"),
    ):
        with pytest.raises(ValueError, match=message):
            predict_files([], ExactDetector(), tmp_path / "out", **other, **again)
    with pytest.raises(ValueError, match=r"^tile_size is of tiles, got it without tiles=True \(--tiles\)\.$"):
        predict_files([], ExactDetector(), tmp_path / "new", tile_size=64)


# ------------------------------------------------------------------ the real network


@pytest.fixture(scope="module")
def nuclei() -> MaskRCNN:
    return MaskRCNN.from_file("NUCLEI")


def test_real_nuclei_are_found_once_although_seams_go_through_them(nuclei: MaskRCNN) -> None:
    picture = load_image(ASSETS / "nuclei_fluorescence_small.png")
    whole = nuclei.predict(picture, score_thresh=0.5, keep_image=False)[0]
    tiled = predict_tiled(nuclei, picture, tile_size=144, overlap=48, score_thresh=0.5, progress=False)
    borders = np.array([96, 112, 144])
    cut = ((np.asarray(whole.boxes)[:, :1] < borders) & (np.asarray(whole.boxes)[:, 2:3] > borders)).any()
    assert cut
    masks = CompressedMasks.concatenated([whole.compressed_masks, tiled.compressed_masks])
    first, second = overlapping_pairs(masks.boxes)
    shared, areas = masks.intersections(first, second), masks.areas
    across = (first < len(whole)) & (second >= len(whole))
    same = shared > 0.6 * (areas[first] + areas[second] - shared)
    assert len(set(first[across & same])) >= 0.95 * len(whole)
    mine = first >= len(whole)
    assert (shared[mine] < 0.3 * np.minimum(areas[first], areas[second])[mine]).all()
    assert abs(len(tiled) - len(whole)) <= 2
    assert tiled.names[0] == "nucleus"


def _turned(image: np.ndarray, way: int) -> np.ndarray:
    """One of the eight ways to turn and mirror an image."""
    turned = np.rot90(image, way % 4)
    return turned[:, ::-1] if way >= 4 else turned


@pytest.mark.parametrize("side", [512, pytest.param(2048, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tile_size", [256, None])
def test_a_mosaic_of_known_nuclei_has_what_single_pictures_have(
    nuclei: MaskRCNN, side: int, tile_size: int | None
) -> None:
    if side == 512 and tile_size is None:
        pytest.skip("a single tile")
    picture = load_image(ASSETS / "nuclei_fluorescence_small.png")
    data = json.loads((Path(__file__).parents[1] / "data" / "nuclei_demo.json").read_text())
    image_id = next(i["id"] for i in data["images"] if i["file_name"] == "nuclei_fluorescence_small.png")
    objects = [a["segmentation"] for a in data["annotations"] if a["image_id"] == image_id]
    truth = CompressedMasks.from_coco(objects, (256, 256))
    truth = truth[
        ((truth.boxes > 0) & (truth.boxes < 256)).all(axis=1)
    ]  # what a picture cuts off, touches the next one
    turned = [truth.rotated(way % 4).flipped(horizontal=way >= 4) for way in range(8)]
    single = []
    for way in range(8):
        alone = nuclei.predict(_turned(picture, way), score_thresh=0.5, keep_image=False)[0]
        single.append(_found(turned[way], alone.compressed_masks).sum())
    pixels = np.zeros((side, side, 3), np.uint8)
    everywhere, expected = [], 0
    for number, (top, left) in enumerate(np.ndindex(side // 256, side // 256)):
        place = slice(256 * top, 256 * top + 256), slice(256 * left, 256 * left + 256)
        way = (3 * number) % 8
        pixels[place] = _turned(picture, way)
        expected += single[way]
        everywhere.append(turned[way].cropped(-256 * top, -256 * left, side, side))
    tiled = predict_tiled(nuclei, pixels, tile_size=tile_size, score_thresh=0.5, progress=False)
    found = _found(CompressedMasks.concatenated(everywhere), tiled.compressed_masks)
    assert found.sum() >= 0.99 * expected
    masks = tiled.compressed_masks
    first, second = overlapping_pairs(masks.boxes)
    shared, areas = masks.intersections(first, second), masks.areas
    assert (shared <= 0.5 * np.minimum(areas[first], areas[second])).all()


def _found(truth: CompressedMasks, masks: CompressedMasks) -> np.ndarray:
    """Whether each object has a mask with an IoU of 0.5."""
    both = CompressedMasks.concatenated([truth, masks])
    first, second = overlapping_pairs(both.boxes)
    across = (first < len(truth)) & (second >= len(truth))
    found = np.zeros(len(truth), bool)
    shared = both.intersections(first, second)
    iou = shared / (both.areas[first] + both.areas[second] - shared)
    found[first[across & (iou >= 0.5)]] = True
    return found


def test_limits_are_warned_of_once_and_not_for_each_tile(nuclei: MaskRCNN) -> None:
    picture = load_image(ASSETS / "nuclei_fluorescence_small.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predict_tiled(nuclei, picture, tile_size=144, overlap=48, top_k=2, progress=False)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert re.search(
        r"in the tile at row 0, column 0, .* and 6 more tiles: pass top_k=\d+, or pass a smaller tile_size\.$", message
    )


def test_tiles_are_by_default_at_the_scale_of_the_weights(nuclei: MaskRCNN) -> None:
    model = ExactDetector()
    model.config = nuclei.config  # type: ignore[attr-defined]
    predict_tiled(model, np.zeros((600, 520, 3), np.uint8))  # type: ignore[arg-type]
    assert set(model.calls) == {(512, 512, 3)}  # scale 2.5, max_size 2560
    assert len(model.calls) == 4


def test_a_model_on_gpu_gives_detections_there(nuclei: MaskRCNN) -> None:
    picture = load_image(ASSETS / "nuclei_fluorescence_small.png")[:128, :180]  # two tiles
    settings: dict[str, Any] = {"tile_size": 128, "overlap": 64, "score_thresh": 0.5, "progress": False}
    on_cpu = predict_tiled(nuclei, picture, **settings)
    on_gpu = predict_tiled(MaskRCNN.from_file("NUCLEI").to("gpu"), picture, **settings)
    assert (on_gpu.boxes.device, on_gpu.scores.device, on_gpu.labels.device) == ("gpu",) * 3
    assert len(on_gpu) == len(on_cpu) > 5
    np.testing.assert_allclose(np.asarray(on_gpu.boxes), np.asarray(on_cpu.boxes), atol=1e-2)
    assert np.abs(on_gpu.areas - on_cpu.areas).max() <= 2
