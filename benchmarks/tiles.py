"""Prediction by tiles: what it finds in mosaics of pictures whose objects are known, and what memory it takes.

    uv run --with sahi python benchmarks/tiles.py IMAGES ANNOTATIONS                  # found, doubles, cuts, time
    uv run python benchmarks/tiles.py IMAGES ANNOTATIONS --memory 4096 8192           # peak memory, a TIFF file each
    uv run --with sahi python benchmarks/tiles.py --drawn                             # merging what is known exactly

IMAGES is a folder, ANNOTATIONS a COCO file with masks. The square pictures of one size (``--picture``, 256) are put
side by side, turned and mirrored at random, until the mosaic has ``--side`` pixels. They are predicted on by themselves
("single pictures"), and the mosaic by tiles, whose seams go through objects wherever they fall. What the tiles have is
merged by this package, and by the ways of SAHI on the very same boxes and masks. Results are printed, and saved as
``tiles.json`` in ``--out``.

With ``--drawn`` a perfect detector finds ellipses that touch and hide each other: what is wrong after merging, is the
merging's fault.

found
    Objects of the truth with a detection of an IoU of 0.5 or more. Those at the border of a picture are not counted:
    they are cut by it, and touch what the next one has there.
of single
    That number over what single pictures find.
doubles
    Detections that have more than half of their pixels in a better one, or whose object has a better one (IoU ≥ 0.5).
cuts
    Detections that end at a border of a tile where the object goes on: nine tenths of them lie in an object, and they
    have less than half of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from lucid_maskrcnn import CompressedMasks, Detections, MaskRCNN, predict_tiled
from lucid_maskrcnn.images import open_image
from lucid_maskrcnn.inference.tile_grid import TileGrid, default_overlap
from lucid_maskrcnn.inference.tile_merging import TiledObjects, merge_tiles
from lucid_maskrcnn.inference.tiles import predict_tiles
from lucid_maskrcnn.masks import overlapping_pairs, trace_polygons

SAHI = [("GREEDYNMM", "IOS"), ("NMM", "IOS"), ("NMS", "IOU"), ("NMS", "IOS")]  # the first is its default


# ------------------------------------------------------------------ mosaics


def pictures(folder: Path, annotations: Path, side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the square pictures of a data set, (S, S, 3), each with the numbers of its objects, (S, S)."""
    data = json.loads(annotations.read_text())
    masks: dict[int, list[Any]] = {}
    for annotation in data["annotations"]:
        masks.setdefault(annotation["image_id"], []).append(annotation["segmentation"])
    found = []
    for image in data["images"]:
        if (image["height"], image["width"]) == (side, side) and image["id"] in masks:
            numbers = np.zeros((side, side), np.int32)
            for i, mask in enumerate(CompressedMasks.from_coco(masks[image["id"]], (side, side)).to_dense(), start=1):
                numbers[mask] = i
            with Image.open(folder / image["file_name"]) as file:
                found.append((np.asarray(file.convert("RGB")), numbers))
    if not found:
        raise SystemExit(f"There is no picture of {side} x {side} pixels with objects.")
    return found


def mosaic(parts: list[tuple[np.ndarray, np.ndarray]], side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures side by side, (side, side, 3), and the numbers of their objects, (side, side)."""
    rng, size = np.random.default_rng(seed), len(parts[0][0])
    pixels, truth = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.int32)
    for top in range(0, side, size):
        for left in range(0, side, size):
            picture, numbers = parts[rng.integers(len(parts))]
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            place = slice(top, top + size), slice(left, left + size)
            for into, part in ((pixels, picture), (truth, np.where(numbers > 0, numbers + truth.max(), 0))):
                turned = np.rot90(part, turns)
                into[place] = turned[:, ::-1] if mirrored else turned
    return pixels, truth


# ------------------------------------------------------------------ measures


def _ious(first: CompressedMasks, second: CompressedMasks) -> tuple[np.ndarray, ...]:
    """Return the pairs of overlapping masks, their IoU, and the share of the second that is in the first."""
    both = CompressedMasks.concatenated([first, second])
    one, other = overlapping_pairs(both.boxes)
    across = (one < len(first)) & (other >= len(first))
    one, other = one[across], other[across]
    shared, areas = both.intersections(one, other), both.areas
    return one, other - len(first), shared / (areas[one] + areas[other] - shared), shared / areas[other]


def measure(
    truth: CompressedMasks, counted: np.ndarray, found: CompressedMasks, scores: np.ndarray, grid: TileGrid
) -> dict[str, Any]:
    """Return the figures of detections; ``counted`` says which objects count as found."""
    found = found[np.argsort(-scores, kind="stable")]
    objects, rows, iou, inside = _ious(truth, found)
    best, of_object = np.zeros(len(found)), np.zeros(len(truth))
    np.maximum.at(best, rows, iou)
    np.maximum.at(of_object, objects, iou)
    hits = iou >= 0.5
    doubles = set(rows[hits].tolist())
    _, firsts = np.unique(objects[hits], return_index=True)
    for one in objects[hits][firsts].tolist():
        doubles.discard(int(rows[hits & (objects == one)].min()))
    one, other = overlapping_pairs(found.boxes)
    shared, areas = found.intersections(one, other), found.areas
    inner = shared > 0.5 * np.minimum(areas[one], areas[other])
    doubles |= set(np.maximum(one, other)[inner].tolist())
    is_piece = np.zeros(len(found), bool)
    is_piece[rows[(inside >= 0.9) & (iou < 0.5)]] = True
    cuts = is_piece & (best < 0.5) & _at_seam(found.boxes, grid)
    return {
        "detections": len(found),
        "found": int((of_object[counted] >= 0.5).sum()),
        "mean IoU": round(float(of_object[counted & (of_object >= 0.5)].mean()), 3),
        "doubles": len(doubles),
        "cuts": int(cuts.sum()),
    }


def _at_seam(boxes: np.ndarray, grid: TileGrid) -> np.ndarray:
    tiles = grid.boxes[:, None]
    near = (np.abs(tiles - boxes) <= 2) & grid.inner_sides[:, None]
    inside = (boxes[:, :2] >= tiles[..., :2] - 2).all(axis=2) & (boxes[:, 2:] <= tiles[..., 2:] + 2).all(axis=2)
    return (near.any(axis=2) & inside).any(axis=0)


# ------------------------------------------------------------------ ways of merging


def by_sahi(found: TiledObjects, kind: str, metric: str) -> tuple[CompressedMasks, np.ndarray]:
    """Return the masks and scores that SAHI makes of what the tiles have; it merges polygons."""
    from sahi.postprocess.combine import GreedyNMMPostprocess, NMMPostprocess, NMSPostprocess
    from sahi.prediction import ObjectPrediction

    way = {"GREEDYNMM": GreedyNMMPostprocess, "NMM": NMMPostprocess, "NMS": NMSPostprocess}[kind]
    height, width = found.masks.image_size
    polygons = [outlines(found.masks, i) for i in range(len(found))]
    objects = [
        ObjectPrediction(
            bbox=box.tolist(),
            category_id=int(label),
            score=float(score),
            segmentation=outline,
            full_shape=[height, width],
        )
        for box, label, score, outline in zip(found.boxes, found.labels, found.scores, polygons, strict=True)
        if outline
    ]
    merged = way(match_threshold=0.5, match_metric=metric, class_agnostic=False)(objects)
    masks = CompressedMasks.from_coco([m.mask.segmentation for m in merged], (height, width))
    return masks, np.array([m.score.value for m in merged])


def outlines(masks: CompressedMasks, row: int) -> list[list[float]]:
    x1, y1, x2, y2 = masks.boxes[row].astype(int).tolist()
    polygons = trace_polygons(masks.decode_region(row, slice(y1, y2), slice(x1, x2)))
    moved = [np.add(np.asarray(p, float).reshape(-1, 2), (x1, y1)) for p in polygons]
    return [p.ravel().tolist() for p in moved if len(p) > 2]


class Perfect:
    """Finds what is drawn: red and green are an object's number. The scores are random."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def predict(self, image: np.ndarray, **_: Any) -> list[Detections]:
        masks = CompressedMasks.from_labels(image.astype(np.int64) @ [256, 1, 0])
        return [Detections.from_masks(masks, scores=self._rng.uniform(0.5, 1, len(masks)))]


def drawn(height: int, width: int, count: int, largest: int, seed: int) -> np.ndarray:
    """Return the numbers of ellipses of up to ``largest`` pixels across, each over those before, (height, width)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    numbers = np.zeros((height, width), np.int32)
    for i in range(1, count + 1):
        (a, b), center = rng.uniform(largest / 8, largest / 2, 2), rng.uniform(0, (height, width))
        numbers[((y - center[0]) / a) ** 2 + ((x - center[1]) / b) ** 2 < 1] = i
    return numbers


def compare_drawn(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield figures of scenes of small and of large objects, in tiles of 128 that overlap by 40."""
    for largest, count in ((20, 1500), (40, 600), (100, 120)):
        numbers = drawn(800, 1000, count, largest, args.seed)
        truth = CompressedMasks.from_labels(numbers)
        pixels = np.stack([numbers >> 8, numbers & 255, 0 * numbers], axis=2).astype(np.uint8)
        grid = TileGrid.of(numbers.shape, 128, 40)
        found, _ = predict_tiles(Perfect(), open_image(pixels).rgb_regions(), grid, {}, progress=False)
        for name, masks, scores, seconds in merged_by_each(found, grid):
            figures = measure(truth, np.ones(len(truth), bool), masks, scores, grid)
            yield {"way": f"{name}, up to {largest} pixels", "objects": len(truth), **figures, "merging": seconds}


def merged_by_each(found: TiledObjects, grid: TileGrid) -> Iterator[tuple[str, CompressedMasks, np.ndarray, float]]:
    """Yield each way of merging: its name, masks and scores, and seconds."""
    yield "not merged", found.masks, found.scores, 0.0
    started = time.perf_counter()
    merged = merge_tiles(found, grid, 0.5, class_agnostic=False)
    yield "predict_tiled", merged.masks, merged.scores, round(time.perf_counter() - started, 2)
    if importlib.util.find_spec("sahi"):
        for kind, metric in SAHI:
            started = time.perf_counter()
            masks, scores = by_sahi(found, kind, metric)
            yield f"SAHI {kind} {metric}", masks, scores, round(time.perf_counter() - started, 2)


def compare(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield figures of a mosaic of real pictures."""
    model = MaskRCNN.from_file("NUCLEI")
    pixels, numbers = mosaic(pictures(args.images, args.annotations, args.picture), args.side, args.seed)
    truth = CompressedMasks.from_labels(numbers)
    counted = ((truth.boxes % args.picture) > 0).all(axis=1)
    options = {"score_thresh": args.score_thresh}
    whole = TileGrid.of((args.side, args.side), args.picture, 0)
    regions = open_image(pixels).rgb_regions()
    started = time.perf_counter()
    single, _ = predict_tiles(model, regions, whole, options, progress=True)
    seconds = time.perf_counter() - started
    figures = measure(truth, counted, single.masks, single.scores, whole)
    alone = figures["found"]
    yield {
        "objects": len(truth),
        "counted": int(counted.sum()),
        "way": "single pictures",
        **figures,
        "of single": 1.0,
        "seconds": round(seconds, 1),
    }
    started = time.perf_counter()
    found = model.predict(pixels, top_k=10_000, keep_image=False, **options)[0]
    seconds = time.perf_counter() - started
    figures = measure(truth, counted, found.compressed_masks, found.scores.numpy(), whole)
    share = round(figures["found"] / alone, 4)
    yield {"way": "whole mosaic at once", **figures, "of single": share, "seconds": round(seconds, 1)}
    for tile_size in args.tiles:
        grid = TileGrid.of((args.side, args.side), tile_size, default_overlap(tile_size))
        started = time.perf_counter()
        found, _ = predict_tiles(model, regions, grid, options, progress=True)
        seconds = time.perf_counter() - started
        for name, masks, scores, merging in merged_by_each(found, grid):
            figures = measure(truth, counted, masks, scores, grid)
            share = round(figures["found"] / alone, 4)
            times = {"seconds": round(seconds, 1), "merging": merging}
            yield {"way": f"{name}, tiles {tile_size}", **figures, "of single": share, **times}


# ------------------------------------------------------------------ memory


def memory(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the peak memory of processes that predict on files of several sizes."""
    parts = pictures(args.images, args.annotations, args.picture)
    for side in args.memory:
        block, _ = mosaic(parts, min(side, 2048), args.seed)
        path = args.out / f"mosaic_{side}.tif"
        write_tiles(path, block, side)
        child = [sys.executable, __file__, str(args.images), str(args.annotations), "--child", str(path)]
        answer = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout
        path.unlink()
        yield {"way": f"{side} x {side}", **json.loads(answer)}


def write_tiles(path: Path, block: np.ndarray, side: int) -> None:
    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, side, 256):
            for left in range(0, side, 256):
                y, x = top % len(block), left % len(block)
                yield np.ascontiguousarray(block[y : y + 256, x : x + 256])

    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(256, 256), photometric="rgb")


def child(path: Path) -> None:
    """Predict on a file by tiles, and print what that took."""
    model = MaskRCNN.from_file("NUCLEI")
    model.predict(np.zeros((512, 512, 3), np.uint8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = predict_tiled(model, path, score_thresh=0.5)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    pixels = found.image_size[0] * found.image_size[1]
    figures = {
        "detections": len(found),
        "of pixels, MB": round(3 * pixels / 2**20),
        "of masks, MB": round(found.compressed_masks.nbytes / 2**20, 1),
        "before, MB": round(before / unit),
        "peak, MB": round(peak / unit),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("annotations", type=Path, nargs="?")
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--picture", type=int, default=256)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiles", type=int, nargs="+", default=[512, 256])
    parser.add_argument("--score-thresh", type=float, default=0.5)
    parser.add_argument("--memory", type=int, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.drawn and args.annotations is None:
        parser.error("IMAGES and ANNOTATIONS are needed, or --drawn")
    rows = []
    figures = compare_drawn(args) if args.drawn else memory(args) if args.memory else compare(args)
    for row in figures:
        rows.append(row)
        print(*(f"{value}" if key == "way" else f"{key} {value}" for key, value in row.items()), sep=" | ", flush=True)
    machine = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
    (args.out / "tiles.json").write_text(json.dumps({**machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
