"""What predict returns: a mapping, a list of detections, and its other forms."""

import copy
import json
import multiprocessing
import pickle
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor

import lucid
import mlx.core as mx
import numpy as np
import pytest
from device_waits import device_waits
from PIL import Image

from lucid_maskrcnn.detections import Detections, detected_objects
from lucid_maskrcnn.inference import save_drawing
from lucid_maskrcnn.masks import decode_rle, trace_polygons
from lucid_maskrcnn.ops import as_tensor, paste_masks

# pycocotools' arrays do not know the copy keyword of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (40, 60)
NAMES = {1: "cat", 2: "dog & <bird>"}


def make(n=4, device="cpu", **options):
    """Detections with disc-shaped masks of n boxes of different sizes."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 25, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 15, (n, 2))], axis=1)
    y, x = np.mgrid[-1:1:14j, -1:1:14j]
    disc = 1 / (1 + np.exp(8 * (np.hypot(x, y) - 0.9)))
    tensors = (
        lucid.Tensor(array.astype(dtype)).to(device)
        for array, dtype in (
            (boxes, np.float32),
            (np.linspace(0.9, 0.3, n), np.float32),
            (np.arange(n) % 3 + 1, np.int32),
            (np.broadcast_to(disc, (n, 14, 14)), np.float32),
        )
    )
    return Detections(*tensors, SIZE, **{"categories": NAMES, **options})


def arrays(found):
    return {key: np.asarray(found[key].data) for key in found}


# ------------------------------------------------------------------ on gpu


class Copies:
    """How many arrays were copied from the device."""

    def __init__(self, monkeypatch):
        self.count = 0
        asarray = np.asarray

        def counting(values, *args, **options):
            self.count += isinstance(values, mx.array)
            return asarray(values, *args, **options)

        monkeypatch.setattr(np, "asarray", counting)


EXPORTS = {
    "to_rle": lambda found: found.to_rle(),
    "to_polygons": lambda found: found.to_polygons(),
    "to_coco": lambda found: found.to_coco(1),
    "numpy": lambda found: found.numpy(),
    "draw": lambda found: found.draw(scale=2),
    "table": repr,
    "html": lambda found: found._replaced(image=None)._repr_html_(),
}


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
@pytest.mark.parametrize("n", [0, 1, 12])
def test_exports_copy_from_the_device_once(export, n, monkeypatch):
    image = np.zeros((*SIZE, 3), np.uint8)
    on_gpu, on_cpu = make(n, "gpu", image=image), make(n, image=image)
    copies = Copies(monkeypatch)
    with device_waits() as waits:
        found = export(on_gpu)
    assert len(waits) == 0, waits
    assert waits.uploads == 0
    assert copies.count <= 5  # boxes (for the masks, too), scores, labels, mask_probs
    expected = export(on_cpu)
    if isinstance(found, dict):
        for key, values in found.items():
            np.testing.assert_array_equal(values, expected[key])
            assert values.flags.writeable
    elif isinstance(found, Image.Image):
        assert found.tobytes() == expected.tobytes()
    elif isinstance(found, str):
        assert found == expected.replace("on cpu", "on gpu")
    else:
        assert found == expected


def test_exports_of_pasted_masks_copy_them_once(monkeypatch):
    found = make(5, "gpu")
    assert found.masks.device == "gpu"
    copies = Copies(monkeypatch)
    assert found.to_rle() == make(5).to_rle()
    assert copies.count <= 5


def test_what_is_computed_on_the_device_is_waited_for_once():
    given = [
        as_tensor(a, "gpu")
        for a in (np.float32([[1, 2, 9, 9]]), np.float32([0.5]), np.int32([1]), np.ones((1, 4, 4), np.float32))
    ]
    for one in given:
        one.data = one.data * mx.ones((), one.data.dtype)
    with device_waits() as waits:
        found = Detections(*given, SIZE)
    assert len(waits) == 1, waits
    rows = []
    thread = threading.Thread(target=lambda: rows.append((found.to_rle(), found.masks.data.sum().item())))
    thread.start()
    thread.join()
    assert rows[0][1] == found.numpy()["masks"].sum() > 0


def test_masks_are_waited_for_once():
    found = make(3, "gpu")
    with device_waits() as waits:
        masks = found.masks
        np.asarray(masks.data)
    assert len(waits) == 1, waits


# ------------------------------------------------------------------ the mapping


@pytest.mark.parametrize("n", [0, 1, 4])
def test_four_tensors_of_the_promised_types(device, n):
    found = make(n, device)
    assert list(found) == list(found.keys()) == ["boxes", "scores", "labels", "masks"]
    types = {k: (v.shape, v.dtype) for k, v in arrays(found).items()}
    assert types == {
        "boxes": ((n, 4), np.float32),
        "scores": ((n,), np.float32),
        "labels": ((n,), np.int32),
        "masks": ((n, *SIZE), np.bool_),
    }
    assert {t.device for t in found.values()} == {device}
    assert all(found[key] is getattr(found, key) for key in found)
    assert {k: v.shape for k, v in found.numpy().items()} == {k: shape for k, (shape, _) in types.items()}


def test_arrays_and_lists_become_tensors():
    found = Detections([[1, 2, 3, 4]], [0.5], [1], np.ones((1, 2, 2)), SIZE)
    assert {k: v.dtype for k, v in arrays(found).items()} == {
        "boxes": np.float32,
        "scores": np.float32,
        "labels": np.int32,
        "masks": np.bool_,
    }


def test_masks_are_pasted_once_and_only_when_asked_for(device, monkeypatch):
    found = make(4, device)
    counts = dict.fromkeys(["paste_masks", "mask_patches"], 0)

    def count(name):
        function = getattr(detected_objects, name)

        def counted(*args, **options):
            counts[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(detected_objects, name, counted)

    for name in counts:
        count(name)
    found.to_rle(), found.to_polygons(), found.to_coco(1), found[:2], repr(found)
    assert counts == {"paste_masks": 0, "mask_patches": 1}
    expected = paste_masks(found.mask_probs, found.boxes, SIZE, 0.5)
    np.testing.assert_array_equal(found.numpy()["masks"], np.asarray(expected.data))
    np.testing.assert_array_equal(np.asarray(found.masks.data), np.asarray(expected.data))
    assert found.masks is found.masks
    assert counts == {"paste_masks": 1, "mask_patches": 1}


def test_mask_thresh_moves_the_contour():
    areas = [make(1, mask_thresh=t).numpy()["masks"].sum() for t in (0.2, 0.5, 0.8)]
    assert areas[0] > areas[1] > areas[2] > 0


def test_keys_and_length():
    found = make(3)
    assert len(found) == 3
    assert make(0)["boxes"].shape == (0, 4)
    assert not make(0)
    assert "masks" in found
    assert "areas" not in found
    assert 0 not in found
    assert found.get("areas") is None
    with pytest.raises(KeyError, match="boxes, scores, labels, masks"):
        found["areas"]


def test_detections_compare_and_hash_by_identity():
    found = make()
    assert found == found
    assert found != make()
    assert len({found, make()}) == 2


# ------------------------------------------------------------------ the list


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (-1, [3]),
        (np.int64(2), [2]),
        (slice(None, 2), [0, 1]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (slice(9, 12), []),
        ([], []),
        ([3, 0, 0], [3, 0, 0]),
        (np.array([1, -2]), [1, 2]),
        (np.array([True, False, False, True]), [0, 3]),
        ([False] * 4, []),
    ],
)
def test_any_index_gives_detections(device, index, rows):
    found = make(4, device, image=np.zeros((*SIZE, 3), np.uint8))
    some = found[index]
    assert type(some) is Detections
    for key, values in arrays(found).items():
        np.testing.assert_array_equal(arrays(some)[key], values[rows])
    assert some.boxes.device == device
    assert some.image_size == SIZE
    assert some.categories == NAMES
    assert some.image is found.image


def test_tensors_index_on_their_device(device):
    found = make(4, device)
    assert len(found[found.scores > 0.6]) == 2
    assert found[lucid.Tensor(np.array([2, 0], np.int32)).to(device)].labels.tolist() == [3, 1]
    assert len(make(0, device)[make(0, device).scores > 0.5]) == 0


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (4, IndexError, "there are 4 detections"),
        ([0, -5], IndexError, "there are 4 detections"),
        (np.ones(3, bool), ValueError, r"\(4,\), got \(3,\)"),
        (True, ValueError, "one value for each of the 4"),
        (0.5, TypeError, "selected by"),
        ("7", KeyError, "no '7'"),
        ((0, 1, 2, 3.0), TypeError, "selected by"),
        (None, TypeError, "selected by"),
        (np.zeros((2, 2), int), TypeError, "selected by"),
    ],
)
def test_wrong_indices_are_named(index, error, message):
    with pytest.raises(error, match=message):
        make(4)[index]


# ------------------------------------------------------------------ what is refused


GOOD = {
    "boxes": np.zeros((2, 4)),
    "scores": np.zeros(2),
    "labels": np.ones(2, int),
    "mask_probs": np.zeros((2, 28, 28)),
    "image_size": (7, 8),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"boxes": np.zeros((2, 5))},
            ValueError,
            r"boxes must be numbers of shape \(n, 4\), got float64 of shape \(2, 5\)",
        ),
        ({"boxes": np.float32(1)}, TypeError, "boxes must be numbers"),
        ({"boxes": None}, TypeError, "boxes must be numbers .* got None"),
        ({"boxes": "ab"}, TypeError, "boxes must be numbers .* got 'ab'"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, 1]]}, ValueError, "boxes .* rows of different lengths"),
        ({"boxes": [[0, 0, 1, 1], [0, np.nan, 1, 1]]}, ValueError, r"boxes\[1\] = \(0, nan, 1, 1\) is not finite"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, 1e300, 1]]}, ValueError, r"boxes\[1\] = \(0, 0, inf, 1\) is not finite"),
        ({"boxes": [[5, 0, 1, 1], [0, 0, 1, 1]]}, ValueError, r"boxes\[0\] = \(5, 0, 1, 1\) has swapped corners"),
        (
            {"scores": np.zeros(3)},
            ValueError,
            r"scores must be numbers of shape \(2,\), one for each box, got .*\(3,\)",
        ),
        ({"scores": [0.5, 9]}, ValueError, r"scores\[1\] = 9 must be from 0 to 1"),
        ({"scores": [-0.5, 0]}, ValueError, r"scores\[0\] = -0.5 must be from 0 to 1"),
        ({"scores": [0.5, np.nan]}, ValueError, r"scores\[1\] = nan must be from 0 to 1"),
        ({"scores": ["0.5", "0.1"]}, TypeError, "scores must be numbers"),
        ({"scores": [True, False]}, TypeError, "scores must be numbers .* got bool"),
        ({"labels": np.ones((2, 1), int)}, ValueError, "labels must be integers of shape"),
        ({"labels": [1.7, 2.0]}, TypeError, "labels must be integers .* got float64"),
        ({"labels": ["cat", "dog"]}, TypeError, "labels must be integers"),
        ({"labels": [1, 0]}, ValueError, r"labels\[1\] = 0 must be a label from 1 on; 0 is background"),
        ({"labels": [1, 2**40]}, ValueError, r"labels\[1\] = 1099511627776 must be"),
        ({"mask_probs": np.zeros((2, 28))}, ValueError, r"mask_probs must be numbers of shape \(2, M, M\)"),
        ({"mask_probs": np.zeros((2, 28, 14))}, ValueError, "mask_probs must be numbers .* got float64 of shape"),
        ({"mask_probs": np.zeros((2, 0, 0))}, ValueError, "mask_probs must be numbers"),
        ({"mask_probs": np.full((2, 2, 2), 1.5)}, ValueError, r"mask_probs\[0\] .* 1.5 to 1.5: apply a sigmoid"),
        ({"mask_probs": np.full((2, 2, 2), -3)}, ValueError, r"mask_probs\[0\] must be probabilities"),
        ({"mask_probs": np.full((2, 2, 2), np.nan)}, ValueError, r"mask_probs\[0\] must be probabilities"),
        ({"mask_probs": None}, TypeError, "mask_probs or masks must be given, got neither"),
        ({"image_size": (7, 8, 9)}, ValueError, "image_size must be a sequence of 2 values"),
        ({"image_size": (0, 8)}, ValueError, r"image_size\[0\] must be a positive integer, got 0"),
        ({"image_size": (7.5, 8)}, TypeError, r"image_size\[0\] must be a positive integer, got 7.5"),
        ({"image_size": "78"}, TypeError, "image_size must be a sequence of 2 values, got '78'"),
        ({"image_size": None}, TypeError, "image_size must be"),
        ({"mask_thresh": 1.5}, ValueError, "mask_thresh must be a number between 0 and 1"),
        ({"mask_thresh": float("nan")}, ValueError, "mask_thresh must be a number between 0 and 1"),
        ({"mask_thresh": "0.5"}, TypeError, "mask_thresh must be a number between 0 and 1"),
        ({"mask_thresh": None}, TypeError, "mask_thresh must be a number between 0 and 1"),
        ({"snap_masks": "no"}, TypeError, "snap_masks must be True or False, got 'no'"),
        ({"categories": ["cat", "dog"]}, TypeError, "categories must map labels to names, such as"),
        ({"categories": {"1": "cat"}}, TypeError, "a label of categories must be a positive integer, got '1'"),
        ({"categories": {0: "cat"}}, ValueError, "a label of categories must be a positive integer, got 0"),
        ({"categories": {1: None}}, TypeError, "the name of label 1 in categories must be a string"),
        ({"image": np.zeros((8, 7, 3), np.uint8)}, ValueError, r"shape \(7, 8, 3\)"),
        ({"image": np.zeros((7, 8, 3))}, TypeError, "uint8"),
        ({"image": "a.png"}, TypeError, "image must be a uint8 array .* got 'a.png'"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    Detections(**GOOD)
    with pytest.raises(error, match=message) as caught:
        Detections(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_one_number_is_both_sides_of_the_image():
    assert Detections(**{**GOOD, "image_size": np.int64(9)}).image_size == (9, 9)


def test_no_detections_may_be_empty_lists(device):
    found = Detections([], [], [], [], (7, 8))
    assert found.numpy()["masks"].shape == (0, 7, 8)
    assert (found.to_rle(), found.to_coco(1), found.names) == ([], [], [])
    tensors = [as_tensor(np.zeros(shape, np.float32), device) for shape in ((0, 4), (0,), (0, 28, 28))]
    found = Detections(tensors[0], tensors[1], as_tensor(np.zeros(0, np.int32), device), tensors[2], (7, 8))
    assert found.masks.shape == (0, 7, 8)


# ------------------------------------------------------------------ other forms


@pytest.mark.parametrize("n", [0, 4])
def test_rle_is_the_masks(device, n):
    found = make(n, device)
    rles = found.to_rle()
    assert len(rles) == n
    masks = found.numpy()["masks"]
    for rle, mask, again in zip(rles, masks, found.to_rle(), strict=True):
        np.testing.assert_array_equal(decode_rle(rle), mask)
        assert again == rle


@pytest.mark.parametrize("n", [0, 4])
def test_coco_results_are_plain_and_load_in_pycocotools(tmp_path, device, n):
    coco = pytest.importorskip("pycocotools.coco")
    found = make(n, device)
    results = found.to_coco(7)
    assert json.loads(json.dumps(results)) == results
    assert [r["category_id"] for r in results] == found.labels.tolist()
    for result, box in zip(results, arrays(found)["boxes"].tolist(), strict=True):
        x, y, w, h = result["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], box, rtol=1e-6)
        assert {type(v) for v in (x, y, w, h, result["score"])} == {float}
    if results:  # loadRes looks at the first
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": 7, "height": 40, "width": 60}],
            "annotations": [],
            "categories": [],
        }
        truth.createIndex()
        loaded = truth.loadRes(results)
        np.testing.assert_array_equal(
            [loaded.annToMask(a) for a in loaded.loadAnns(loaded.getAnnIds())], found.numpy()["masks"]
        )


def test_json_holds_the_results(tmp_path):
    found = make()
    found.to_json(tmp_path / "a.json", 3)
    found.to_json(str(tmp_path / "b.json"), 3)
    assert json.loads((tmp_path / "a.json").read_text()) == found.to_coco(3)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(("name", "image_id"), [("a.json", {1, 2}), ("folder", 1), ("nowhere/a.json", 1)])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path, name, image_id):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises((TypeError, OSError)):
        make().to_json(tmp_path / name, image_id)
    assert (tmp_path / "a.json").read_text() == "old"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "folder"]


@pytest.mark.parametrize(
    ("image_id", "message"),
    [(None, "None"), ("7", "'7'"), (7.0, "7.0"), (True, "True"), ([7], r"\[7\]")],
)
def test_image_id_must_be_an_integer(tmp_path, image_id, message):
    for call in (lambda i: make().to_coco(i), lambda i: make().to_json(tmp_path / "a.json", i)):
        with pytest.raises(TypeError, match=f"image_id must be an integer, got {message}"):
            call(image_id)
    assert not list(tmp_path.iterdir())


def test_image_id_may_be_a_numpy_integer(tmp_path):
    make().to_json(tmp_path / "a.json", np.int64(7))
    assert {type(r["image_id"]) for r in make().to_coco(np.int32(7))} == {int}
    assert json.loads((tmp_path / "a.json").read_text()) == make().to_coco(7)


@pytest.mark.parametrize(("path", "error"), [(None, TypeError), (7, TypeError), ("", ValueError)])
def test_path_of_to_json_must_be_a_path(path, error):
    with pytest.raises(error, match="path must"):
        make().to_json(path, 1)


def test_json_is_written_through_a_link(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    make().to_json(tmp_path / "link.json", 1)
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())


# ------------------------------------------------------------------ polygons


def test_polygons_of_detections(device):
    found = make(4, device)
    polygons = found.to_polygons()
    assert polygons == [trace_polygons(mask) for mask in found.numpy()["masks"]]
    assert make(0, device).to_polygons() == []
    json.dumps(polygons)


# ------------------------------------------------------------------ to look at


def test_names_come_from_the_categories():
    assert make(4).names == ["cat", "dog & <bird>", "class 3", "cat"]
    assert make(2, categories=None).names == ["class 1", "class 2"]
    assert make(0).names == []


def test_repr_shows_count_size_and_the_first_rows(device):
    text = repr(make(8, device))
    assert text.startswith(f"Detections(8 in 40 × 60 pixels, on {device})")
    assert "cat" in text
    assert "0.900" in text
    assert text.splitlines()[-2:] == ["  … 3 more", "  3 with a score below 0.5"]
    assert repr(make(0)) == "Detections(0 in 40 × 60 pixels, on cpu)"
    good = make(3)[:2]
    assert len(repr(good).splitlines()) == 4
    assert len({len(line) for line in repr(good).splitlines()[1:]}) == 1


def test_draw_needs_an_image_of_the_right_size():
    image = np.zeros((*SIZE, 3), np.uint8)
    drawn = make().draw(image)
    assert isinstance(drawn, Image.Image)
    assert drawn.size == (240, 160)  # enlarged to be looked at
    assert make(image=image).draw(boxes=False, scale=1).size == (60, 40)
    with pytest.raises(ValueError, match="image must be given"):
        make().draw()
    with pytest.raises(ValueError, match="of the detections' size, 40 × 60 pixels, got 30 × 60"):
        make().draw(image[:30])


def test_the_first_look_is_the_same_through_all_doors(tmp_path):
    """What draw() shows, and what the command line writes, but for scores below the threshold."""
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    found = make(9, image=image)
    drawn = found.draw()
    assert drawn.size == (240, 160)
    assert found._repr_html_().count("base64,") == 1
    save_drawing(tmp_path / "a.png", image, found[found.scores >= 0.5])
    assert Image.open(tmp_path / "a.png").tobytes() == drawn.tobytes()
    assert found.draw(score_thresh=0).tobytes() != drawn.tobytes()
    save_drawing(tmp_path / "b.png", image, found)  # a job draws all that it has found
    assert Image.open(tmp_path / "b.png").tobytes() == found.draw(score_thresh=0).tobytes()


def test_scores_that_are_not_drawn_are_told():
    found = make(9, image=np.zeros((*SIZE, 3), np.uint8))
    low = int((np.asarray(found.scores) < 0.5).sum())
    assert f"{low} with a score below 0.5 not drawn: draw(score_thresh=0) shows all" in found._repr_html_()
    assert "not drawn" not in found[np.asarray(found.scores) > 0.5]._repr_html_()
    with pytest.warns(UserWarning, match=r"No detection is drawn: score_thresh is 0.95, and the best of 9 has 0.9\."):
        found.draw(score_thresh=0.95)
    make(0).draw(found.image)  # without a warning


def test_a_palette_begins_with_label_1():
    found = make(3)
    drawn = np.asarray(
        found.draw(np.zeros((*SIZE, 3), np.uint8), color_by="class", palette=["#010000", "#000100"], alpha=1)
    )
    assert {tuple(color) for color in drawn.reshape(-1, 3)} >= {(1, 0, 0), (0, 1, 0)}
    one = found[:1].draw(np.zeros((*SIZE, 3), np.uint8), color_by="class", palette=["#f00000", "#00f000"], labels=False)
    assert np.asarray(one)[..., 0].any()
    assert not np.asarray(one)[..., 1].any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"score_thresh": "0.5"}, TypeError, "score_thresh must be a number between 0 and 1, got '0.5'"),
        ({"score_thresh": None}, TypeError, "score_thresh must be a number"),
        ({"score_thresh": 50}, ValueError, "score_thresh must be a number between 0 and 1, got 50"),
        ({"color_by": "score"}, ValueError, "color_by must be one of 'instance', 'class', got 'score'"),
        ({"color_by": None}, TypeError, "color_by must be one of"),
        ({"masks": "no"}, TypeError, "masks must be True or False, got 'no'"),
        ({"boxes": 1}, TypeError, "boxes must be True or False"),
        ({"labels": None}, TypeError, "labels must be True or False"),
        ({"alpha": 2}, ValueError, "alpha must be a number between 0 and 1, got 2"),
        ({"scale": 0}, ValueError, "scale must be a positive integer, got 0"),
        ({"scale": 1.5}, TypeError, "scale must be a positive integer, got 1.5"),
        ({"palette": "ocher"}, ValueError, "palette must be a color such as 'orange'"),
        (
            {"colour_by": "class"},
            TypeError,
            r"Detections\.draw\(\) has no argument 'colour_by'; did you mean 'color_by'",
        ),
    ],
)
def test_wrong_options_of_draw_are_named(options, error, message):
    with pytest.raises(error, match=message):
        make().draw(np.zeros((*SIZE, 3), np.uint8), **options)


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), ("5", TypeError), (True, TypeError)])
def test_rows_take_a_positive_limit(limit, error):
    assert len(make(4).rows(np.int64(2))) == 2
    assert len(make(4).rows()) == 4
    with pytest.raises(error, match="limit must be a positive integer"):
        make(4).rows(limit)


def test_the_best_lies_on_top_whatever_the_order():
    image, probs = np.zeros((*SIZE, 3), np.uint8), np.ones((2, 14, 14), np.float32)
    boxes, scores = np.float32([[5, 5, 30, 30], [10, 10, 20, 20]]), np.float32([0.9, 0.6])
    options = {"boxes": False, "labels": False, "palette": ["#ff0000", "#0000ff"], "alpha": 1, "scale": 1}
    sorted_, reversed_ = (
        Detections(boxes[order], scores[order], [1, 1], probs, SIZE, image=image) for order in ([0, 1], [1, 0])
    )
    assert tuple(np.asarray(sorted_.draw(**options))[15, 15]) == (255, 0, 0)
    assert tuple(np.asarray(reversed_.draw(**options))[15, 15]) == (0, 0, 255)  # the same object, now the second


# ------------------------------------------------------------------ what is the detections' own


@pytest.mark.parametrize("as_given", [np.array, lambda a: lucid.Tensor(np.array(a))])
def test_detections_stay_when_what_they_were_made_of_is_overwritten(as_given):
    given = {
        "boxes": as_given(np.array([[2, 3, 20, 30]], np.float32)),
        "scores": as_given(np.array([0.5], np.float32)),
        "labels": as_given(np.array([1], np.int32)),
        "mask_probs": as_given(np.ones((1, 14, 14), np.float32)),
    }
    image = np.full((*SIZE, 3), 7, np.uint8)
    names = {1: "cat"}
    found = Detections(**given, image_size=SIZE, image=image, categories=names)
    before = (arrays(found), found.to_rle(), found.image.copy())
    found._masks = None
    for values in given.values():
        (values if isinstance(values, np.ndarray) else values.data)[...] = 0
    image[...], names[1] = 0, "dog"
    for key, values in before[0].items():
        np.testing.assert_array_equal(arrays(found)[key], values)
    assert found.to_rle() == before[1]
    assert (found.image == 7).all()
    assert found.names == ["cat"]


@pytest.mark.parametrize("pasted", [False, True])
def test_arrays_of_detections_can_be_written_into(device, pasted):
    found = make(3, device)
    before = found.to_rle(), found.boxes.tolist()
    if pasted:
        assert found.masks.shape == (3, *SIZE)
    for values in found.numpy().values():
        values[...] = 0
    assert (found.to_rle(), found.boxes.tolist()) == before
    assert found.numpy()["masks"].any()


def test_detections_are_what_notebooks_take(device):
    found = make(3, device)
    assert np.asarray(found.scores).tolist() == found.scores.tolist()
    assert np.asarray(found["masks"][0]).shape == SIZE
    lines = [
        f"{name} {score:.2f} {int(label)}"
        for name, score, label in zip(found.names, found.scores, found.labels, strict=True)
    ]
    assert lines == ["cat 0.90 1", "dog & <bird> 0.60 2", "class 3 0.30 3"]
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[found.masks[0]] = (255, 0, 0)
    assert (picture[..., 0] > 0).sum() == np.sum(found.masks[0])
    assert [[int(v) for v in box] for box in found.boxes] == np.asarray(found.boxes).astype(int).tolist()
    assert len(found[np.asarray(found.scores) > 0.5]) == len(found[found.scores > 0.5]) == 2


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found))])
def test_detections_pickle_and_copy(device, again):
    found = make(4, device, image=np.full((*SIZE, 3), 7, np.uint8), categories=[(1, "cat", 0), (2, "dog", 7)])
    masks = found.masks
    made = again(found)
    assert type(made) is Detections
    assert made is not found
    assert made._masks is None  # a cache
    for key, values in arrays(found).items():
        np.testing.assert_array_equal(arrays(made)[key], values, strict=True)
    assert made.boxes.device == device
    assert (made.names, made.category_ids.tolist()) == (found.names, found.category_ids.tolist())
    assert (made.image_size, made.mask_thresh, made.snap_masks) == (SIZE, 0.5, True)
    np.testing.assert_array_equal(made.image, found.image)
    np.testing.assert_array_equal(np.asarray(made.masks), np.asarray(masks))
    assert made.to_coco(1) == found.to_coco(1)


def test_a_selection_is_pickled_without_the_rest():
    many = make(500)
    assert many.masks.shape[0] == 500
    assert len(pickle.dumps(many[:2])) < len(pickle.dumps(many)) / 50


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_detections_cross_a_process_pool(method):
    found = make(3, image=np.zeros((*SIZE, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            back = pool.submit(copy.copy, found).result()
    assert back.to_coco(3) == found.to_coco(3)


def test_detections_cross_pickles_of_functions():
    cloudpickle = pytest.importorskip("cloudpickle")
    found = make(2)
    area = cloudpickle.loads(cloudpickle.dumps(lambda: int(np.sum(found.masks))))
    assert area() == np.asarray(found.masks).sum() > 0


# ------------------------------------------------------------------ ids


def test_coco_results_have_the_category_ids_of_the_data_set(device):
    """An own scoring with ids from 0 was silently wrong: labels stood there."""
    found = make(4, device, categories=[(1, "cat", 0), (2, "dog", 7), (3, "bird", 3)])
    assert found.categories == {1: "cat", 2: "dog", 3: "bird"}
    assert found.labels.tolist() == [1, 2, 3, 1]
    assert found.category_ids.tolist() == [0, 7, 3, 0]
    assert found.ids.tolist() == [1, 2, 3, 4]
    assert [r["category_id"] for r in found.to_coco(1)] == [0, 7, 3, 0]
    assert [r["category_id"] for r in found[1:].clipped().to_coco(1)] == [7, 3, 0]
    assert [r["category_id"] for r in found.to_coco(1, category_ids={1: 10, 2: np.int64(20), 3: 30})] == [
        10,
        20,
        30,
        10,
    ]
    assert Detections([], [], [], [], SIZE, categories=found.categories).category_ids.tolist() == []
    again = make(4, categories=found.categories)
    assert again.category_ids.tolist() == [0, 7, 3, 0]
    assert make(4, categories=None).category_ids.tolist() == make(4).category_ids.tolist() == [1, 2, 3, 1]


@pytest.mark.parametrize("number", [5, np.int64(5), np.uint8(5), np.array(5), lucid.Tensor(np.array(5, np.int32))])
def test_ids_may_be_integers_of_numpy(tmp_path, number):
    (tmp_path / "made").mkdir()
    found = make(1)
    found.to_json(tmp_path / "found.json", number, category_ids={np.int64(1): number})
    (result,) = json.loads((tmp_path / "found.json").read_text())
    assert (result["image_id"], result["category_id"]) == (5, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image_id": True}, TypeError, "image_id must be an integer, got True"),
        ({"image_id": np.True_}, TypeError, "image_id must be an integer"),
        ({"image_id": 1.0}, TypeError, "image_id must be an integer, got 1.0"),
        ({"image_id": np.array([1])}, TypeError, "image_id must be an integer"),
        ({"image_id": 1, "category_ids": [1, 2, 3]}, TypeError, "category_ids must be a mapping of labels"),
        ({"image_id": 1, "category_ids": {1: "a"}}, TypeError, r"category_ids\[1\] must be an integer, got 'a'"),
        (
            {"image_id": 1, "category_ids": {1: 0}},
            ValueError,
            "category_ids must have an id for each label, got none for 2",
        ),
    ],
)
def test_wrong_ids_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make(4).to_coco(**arguments)


def test_a_label_without_a_category_takes_no_others_id():
    found = make(4, categories=[(1, "cat", 3), (2, "dog", 1)])  # label 3 has none
    with pytest.raises(ValueError, match="Label 3 has no category, and 3 is the id of another one"):
        found.to_coco(1)
    assert make(4, categories=[(1, "cat", 7), (2, "dog", 8)]).category_ids.tolist() == [7, 8, 3, 7]
