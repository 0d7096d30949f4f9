"""Mutated annotations and results: an evaluation answers each with metrics, or with a sentence of its own."""

from __future__ import annotations

import copy
import dis
import json
import math
import random
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lucid_maskrcnn.evaluation import coco_average_precision, evaluate_results
from lucid_maskrcnn.masks.rle import encode_rle

pytest.importorskip("pycocotools")

VALUES: list[Any] = [None, True, False, 0, -1, 1.5, "", "a", "1", math.nan, math.inf, 1e308, 10**30, 10**400, 2**63]
VALUES += [[], [[]], [None], {}, {"a": 1}, [1, 2, 3], [[1, 2, 3, 4, 5, 6]], "\ud800", b"x", (1, 2), {1}, object()]
VALUES += [np.int64(1), np.float32(2), np.arange(4), np.array(3), np.bool_(True), 1j, [[[[1]]]]]
VALUES += [{"size": [40, 60], "counts": [2400]}, {"size": None, "counts": "a"}, {"counts": [1]}]
BYTES = [b'"', b"[", b"}", b",", b"null", b"1e400", b"\0", b"\xff", b"-", b'"id":1,', b"[" * 100_000]
NUMBERS = [b"9" * 400, b"9" * 5000, b"1e9", b"-1", b"NaN", b"1e400", b"true", b"null", b"9" * 20]


def sound() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations of three images with two objects each, one of them a crowd, and results that find them."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60, "kind": "ab"[i % 2]} for i in (1, 2, 3)]
    annotations, results = [], []
    for k, (image_id, x, y) in enumerate([(1, 3, 5), (1, 30, 9), (2, 4, 4), (2, 40, 20), (3, 0, 0), (3, 20, 2)], 1):
        mask = np.zeros((40, 60), bool)
        mask[y : y + 14, x : x + 12] = True
        polygon = [float(v) for v in (x, y, x + 12, y, x + 12, y + 14, x, y + 14)]
        shape = encode_rle(mask) if k % 2 else [polygon]
        ids = {"image_id": image_id, "category_id": 1 + k % 2}
        bbox = [x, y, 12, 14]
        annotations.append({"id": k, **ids, "segmentation": shape, "bbox": bbox, "area": 168, "iscrowd": int(k == 6)})
        results.append({**ids, "segmentation": encode_rle(mask), "bbox": list(bbox), "score": 0.9 - k / 10})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from places(value, (*place, key))


def mutate(content: Any, chance: random.Random) -> None:
    """Set, remove, negate, wrap, repeat or rename a value in JSON-like content."""
    place = chance.choice(list(places(content)))
    for key in place[:-1]:
        content = content[key]
    key, value = place[-1], content[place[-1]]
    match chance.choice(("set", "set", "remove", "negate", "wrap", "repeat", "rename", "huge")):
        case "set":
            content[key] = chance.choice(VALUES)
        case "remove":
            del content[key]
        case "negate" if isinstance(value, (int, float)):
            content[key] = -value
        case "wrap":
            content[key] = chance.choice([[value], {"x": value}, str(value)])
        case "repeat" if isinstance(content, list):
            content.append(copy.deepcopy(value))
        case "rename" if isinstance(content, dict):
            content[chance.choice(["x", None, 3, b"k"])] = content.pop(key)
        case "huge" if isinstance(value, (int, float)):
            content[key] = chance.choice([value * 1e9, value + 0.5, int(value) * 10**25, str(value)])


def mutate_bytes(text: bytes, chance: random.Random) -> bytes:
    i = chance.randrange(len(text))
    match chance.choice(("cut", "flip", "insert", "number", "encoding")):
        case "cut":
            return text[:i] + text[i + chance.randrange(1, len(text)) :]
        case "flip":
            return text[:i] + bytes([chance.randrange(256)]) + text[i + 1 :]
        case "insert":
            return text[:i] + chance.choice(BYTES) + text[i:]
        case "number":
            found = chance.choice(list(re.finditer(rb"\d+", text)))
            return text[: found.start()] + chance.choice(NUMBERS) + text[found.end() :]
        case encoding:
            assert encoding == "encoding"
            return text.decode().encode(chance.choice(["utf-16", "utf-8-sig", "utf-32"]))


def is_answer(error: BaseException) -> bool:
    """Whether a ``raise`` of this package raised it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    assert place is not None
    ours = place.tb_frame.f_globals["__name__"].startswith("lucid_maskrcnn")
    return ours and dis.opname[place.tb_frame.f_code.co_code[place.tb_lasti]] == "RAISE_VARARGS"


def check(annotations: Any, results: Any, **options: Any) -> bool:
    """Evaluate, and return whether there are metrics; fail for anything but those or a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's: an overflow is a wrong answer
        warnings.simplefilter("ignore", UserWarning)
        try:
            found = evaluate_results(annotations, results, **options)
        except (TypeError, ValueError, FileNotFoundError) as error:
            if not is_answer(error) or len(str(error)) > 1000 or "\n" in str(error):
                pytest.fail(repr(error)[:1000])
            return False
    assert all(math.isnan(value) or 0 <= value <= 1 for value in found.metrics.values())
    assert str(found)
    return True


def test_mutated_content_gives_metrics_or_a_sentence() -> None:
    truth, results = sound()
    answered = 0
    for seed in range(300):
        chance = random.Random(seed)
        content = [copy.deepcopy(truth), copy.deepcopy(results)]
        for _ in range(chance.choice((1, 1, 2))):
            mutate(content[seed % 2], chance)
        kinds = chance.choice([("segm", "bbox"), ("segm",), ("bbox",)])
        answered += not check(*content, iou_types=kinds)
    assert 100 < answered < 300


def test_mutated_files_give_metrics_or_a_sentence(tmp_path: Path) -> None:
    files = [tmp_path / "truth.json", tmp_path / "results.json"]
    sources = [json.dumps(content).encode() for content in sound()]
    answered = 0
    for seed in range(200):
        chance = random.Random(seed)
        for file, source in zip(files, sources, strict=True):
            file.write_bytes(source)
        files[seed % 2].write_bytes(mutate_bytes(sources[seed % 2], chance))
        answered += not check(*files)
    assert 80 < answered < 200


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_any_value_in_the_place_of_any_other_gives_metrics_or_a_sentence(value: Any) -> None:
    truth, results = sound()
    whole = {"truth": truth, "results": results}
    by_kind = {tuple("#" if isinstance(key, int) else key for key in place): place for place in places(whole)}
    for place in by_kind.values():
        changed = copy.deepcopy(whole)
        inner: Any = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        check(changed["truth"], changed["results"])


# ------------------------------------------------------------------ what was found


def test_results_with_masks_and_no_boxes_are_evaluated_as_boxes() -> None:
    truth, results = sound()
    for entry in (*truth["annotations"], *results):
        del entry["bbox"]
    assert coco_average_precision(truth, results, iou_type="bbox")["AP"] == pytest.approx(1)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_annotation_without_an_id_is_named(key: str) -> None:
    truth, results = sound()
    del truth["annotations"][2][key]
    with pytest.raises(ValueError, match=rf"annotations\[2\] has no '{key}'"):
        evaluate_results(truth, results)


def test_annotations_of_images_that_are_not_listed_are_left_out_with_a_warning() -> None:
    truth, results = sound()
    truth["annotations"][1]["image_id"] = 77
    with pytest.warns(UserWarning, match=r"1 of 6 annotations are left out, .* annotations\[1\] with image_id 77\."):
        found = evaluate_results(truth, results)
    assert len(found.truth["annotations"]) == 5


@pytest.mark.parametrize("width", [-12, 1e308])
@pytest.mark.parametrize("where", ["annotations", "results"])
def test_boxes_that_are_none_are_refused(where: str, width: float) -> None:
    truth, results = sound()
    entries: Any = truth["annotations"] if where == "annotations" else results
    entries[0]["bbox"][2] = width
    with pytest.raises(ValueError, match=rf"{where}\[0\] must have a bbox .* not negative"):
        evaluate_results(truth, results)


def test_negative_area_is_refused() -> None:
    truth, results = sound()
    truth["annotations"][0]["area"] = -1
    with pytest.raises(ValueError, match=r"annotations\[0\] must have an area of at least 0 pixels, got -1"):
        evaluate_results(truth, results)


def test_scores_in_percent_are_noted() -> None:
    truth, results = sound()
    for result in results:
        result["score"] *= 100
    assert any(
        note.startswith("6 scores are not between 0 and 1, such as 80")
        for note in evaluate_results(truth, results).notes
    )
