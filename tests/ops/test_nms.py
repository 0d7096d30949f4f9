"""Non-maximum suppression against torchvision, a slow loop, and between devices."""

import sys
from contextlib import contextmanager

import numpy as np
import pytest
from gradients import cpu_gpu_agree, tensor, values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lucid_maskrcnn.ops import batched_nms, nms


def slow_nms(boxes, scores, thresh):
    """Return what stays, one pair of boxes at a time, in the arithmetic of ``boxes``."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    zero, kept = boxes.dtype.type(0), []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):  # sorted() is stable
        for j in kept:
            w = max(zero, min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]))
            h = max(zero, min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]))
            with np.errstate(divide="ignore", invalid="ignore"):
                iou = w * h / (area[i] + area[j] - w * h)
            if float(iou) > thresh:
                break
        else:
            kept.append(i)
    return kept


@contextmanager
def ways(neighbors):
    """Compare candidates with their neighbours from the second block on, in small blocks; or never."""
    module = sys.modules["lucid_maskrcnn.ops.nms"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MANY", 0 if neighbors else 10**9)
        if neighbors:
            for name, value in {"_RARE": 2, "_BLOCK": 2, "_NEIGHBORS": 3}.items():
                patch.setattr(module, name, value)
        yield


def random_boxes(rng, num, extent):
    low = rng.uniform(0, extent, (num, 2))
    return np.concatenate([low, low + rng.uniform(5, 60, (num, 2))], axis=1).astype(np.float32)


# ------------------------------------------------------------------ torchvision's numbers


@pytest.mark.parity
@pytest.mark.parametrize("prefix", ["nms_keep_", "nms_exact_", "bnms_keep_", "bnms1000_", "bnms1001_", "bnms_offset_"])
def test_nms_equals_torchvision(torchvision_ops, device, prefix):
    keeps = [n for n in torchvision_ops.names(prefix) if "_keep_" in n and n[-3:].isdigit()]
    source = prefix.removesuffix("keep_") if prefix != "bnms_keep_" else "nms_"
    boxes, scores = (tensor(torchvision_ops[source + part], device) for part in ("boxes", "scores"))
    assert keeps
    for name in keeps:
        thresh = int(name[-3:]) / 100
        if prefix.startswith("bnms"):
            classes = torchvision_ops[prefix.removesuffix("keep_") + "class"].astype(np.int32)
            keep = batched_nms(boxes, scores, tensor(classes, device), thresh)
        else:
            keep = nms(boxes, scores, thresh)
        assert keep.device == device
        assert values(keep).dtype == np.int32
        np.testing.assert_array_equal(values(keep), torchvision_ops[name], err_msg=name)


@pytest.mark.parity
def test_batched_nms_rounds_offsets_as_torchvision(torchvision_ops):
    kept, exact = (torchvision_ops[f"bnms_offset_keep_050{how}"] for how in ("", "_per_class"))
    assert set(kept) != set(exact)  # or the test above would prove nothing


# ------------------------------------------------------------------ by hand


def test_nms_by_hand(device):
    # IoUs with the first: 1/3, 1/2, none.
    boxes = tensor(np.float32([[0, 0, 4, 4], [2, 0, 6, 4], [0, 0, 4, 2], [9, 9, 10, 10]]), device)
    scores = tensor(np.float32([0.9, 0.8, 0.7, 0.95]), device)
    assert values(nms(boxes, scores, 0.3)).tolist() == [3, 0]
    assert values(nms(boxes, scores, 0.4)).tolist() == [3, 0, 1]
    assert values(nms(boxes, scores, 0.5)).tolist() == [3, 0, 1, 2]  # exactly the threshold stays
    classes = tensor(np.int32([1, 2, 1, 1]), device)
    assert values(batched_nms(boxes, scores, classes, 0.3)).tolist() == [3, 0, 1]


def test_nms_of_equal_scores_keeps_the_lower_index(device):
    boxes = tensor(np.float32([[0, 0, 4, 4]] * 3), device)
    assert values(nms(boxes, tensor(np.float32([0.5, 0.5, 0.5]), device), 0.9)).tolist() == [0]
    assert values(nms(boxes, tensor(np.float32([0.5, 0.7, 0.7]), device), 0.9)).tolist() == [1]
    assert values(nms(boxes, tensor(np.float32([0.5, 0.5, 0.5]), device), 1)).tolist() == [0, 1, 2]


def test_nms_keeps_boxes_without_area(device):
    boxes = tensor(np.float32([[3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 6, 6]]), device)
    assert values(nms(boxes, tensor(np.float32([3, 2, 1]), device), 0)).tolist() == [0, 1, 2]


def test_nms_puts_nan_scores_first_as_torch(device):
    boxes = tensor(np.float32([[0, 0, 1, 1], [5, 5, 6, 6], [8, 8, 9, 9]]), device)
    assert values(nms(boxes, tensor(np.float32([0.5, np.nan, 0.7]), device), 0.5)).tolist() == [1, 2, 0]


def test_nms_compares_the_threshold_in_double_precision(device):
    # IoU 3/10 rounds to a float32 above 0.3, and stays above only if 0.3 is not rounded up as well.
    boxes = np.float32([[0, 0, 10, 1], [0, 0, 3, 1]])
    assert float(np.float32(0.3)) > 0.3
    assert values(nms(tensor(boxes, device), tensor(np.float32([1, 0]), device), 0.3)).tolist() == [0]


def test_nms_of_no_boxes(device):
    boxes, scores, classes = (
        tensor(a, device) for a in (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    )
    for keep in (nms(boxes, scores, 0.5), batched_nms(boxes, scores, classes, 0.5)):
        assert values(keep).shape == (0,)
        assert values(keep).dtype == np.int32


# ------------------------------------------------------------------ a slow loop


@pytest.mark.parametrize("thresh", [0, 0.3, 0.5, 0.7, 1])
@pytest.mark.parametrize("extent", [20, 150])
@pytest.mark.parametrize("neighbors", [False, True])
def test_nms_equals_a_loop(thresh, extent, neighbors):
    rng = np.random.default_rng(5)
    boxes, scores = random_boxes(rng, 200, extent), rng.integers(0, 50, 200).astype(np.float32)  # more than a block
    with ways(neighbors):
        assert values(nms(tensor(boxes), tensor(scores), thresh)).tolist() == slow_nms(boxes, scores, thresh)


@pytest.mark.parametrize("thresh", [0.1, 0.5, 0.7, 0.9])
def test_nms_of_boxes_that_overlap_at_one_end(thresh):
    # In twelve rows a wide box, and at its right end a better and narrower one whose IoU is just over, or under.
    left, top = np.arange(12) * 0.25, np.arange(12) * 100.0
    for part in (thresh + 0.004, thresh - 0.004):
        wide = np.stack([left, top, left + 1000, top + 50], axis=1)
        narrow = np.stack([left + 1000 * (1 - part), top, left + 1000, top + 50], axis=1)
        boxes, scores = np.float32(np.concatenate([wide, narrow])), np.arange(24).astype(np.float32)
        with ways(neighbors=True):
            found = values(nms(tensor(boxes), tensor(scores), thresh)).tolist()
        assert found == list(range(23, 11 if part > thresh else -1, -1))


@pytest.mark.parametrize("offset", [0, 1e7, -3e5])
def test_nms_of_many_boxes_that_hardly_overlap_equals_a_loop(offset):
    # Far from the origin the corners are rounded to whole pixels.
    rng = np.random.default_rng(6)
    boxes = random_boxes(rng, 700, 900) + np.float32(offset)
    scores = rng.permutation(700).astype(np.float32)
    boxes[::50, 2] = [np.nan, np.inf] * 7
    boxes[1::50, 0] = [-np.inf, np.nan] * 7
    assert values(nms(tensor(boxes), tensor(scores), 0.5)).tolist() == slow_nms(boxes, scores, 0.5)


@settings(deadline=None, max_examples=80)
@given(
    arrays(np.float32, st.tuples(st.integers(0, 12), st.just(4)), elements=st.integers(-4, 8).map(float)),
    st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]),
    st.booleans(),
    st.data(),
)
def test_nms_of_any_boxes_equals_a_loop(boxes, thresh, neighbors, data):
    scores = data.draw(arrays(np.float32, len(boxes), elements=st.integers(0, 3).map(float)))
    with ways(neighbors):
        assert values(nms(tensor(boxes), tensor(scores), thresh)).tolist() == slow_nms(boxes, scores, thresh)


@pytest.mark.parametrize("num", [1000, 1001])
def test_batched_nms_equals_nms_of_each_class(num):
    rng = np.random.default_rng(num)
    boxes, scores, classes = random_boxes(rng, num, 300), rng.random(num, np.float32), rng.integers(0, 5, num, np.int32)
    expected = np.concatenate(
        [
            members[values(nms(tensor(boxes[members]), tensor(scores[members]), 0.5))]
            for members in (np.flatnonzero(classes == c) for c in range(5))
        ]
    )
    keep = values(batched_nms(tensor(boxes), tensor(scores), tensor(classes), 0.5))
    assert keep.tolist() == expected[np.argsort(-scores[expected])].tolist()


def test_nms_does_not_depend_on_the_order_of_boxes():
    rng = np.random.default_rng(7)
    boxes, scores, order = random_boxes(rng, 300, 100), rng.random(300, np.float32), rng.permutation(300)
    keep = values(nms(tensor(boxes), tensor(scores), 0.5))
    shuffled = values(nms(tensor(boxes[order]), tensor(scores[order]), 0.5))
    assert order[shuffled].tolist() == keep.tolist()


def test_devices_agree():
    rng = np.random.default_rng(8)
    boxes, scores, classes = random_boxes(rng, 300, 200), rng.random(300, np.float32), rng.integers(0, 3, 300, np.int32)
    cpu_gpu_agree(lambda b, s: nms(b, s, 0.5), boxes, scores, wrt=())
    cpu_gpu_agree(lambda b, s, c: batched_nms(b, s, c, 0.5), boxes, scores, classes, wrt=())


# ------------------------------------------------------------------ wrong arguments


BOXES, SCORES = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nms(tensor(BOXES[:, :2]), tensor(SCORES), 0.5), ValueError, r"boxes must have shape \(R, 4\)"),
        (lambda: nms(tensor(BOXES), tensor(SCORES[:2]), 0.5), ValueError, r"scores must have shape \(3,\), got \(2,\)"),
        (lambda: nms(tensor(BOXES), SCORES, 0.5), TypeError, "scores must be a Lucid tensor"),
        (lambda: nms(tensor(BOXES), tensor(SCORES), 50), ValueError, "iou_thresh .* got 50"),
        (lambda: batched_nms(tensor(BOXES), tensor(SCORES), tensor(SCORES), 0.5), TypeError, "idxs .* got float32"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
