"""The losses against torchvision, by hand, by finite differences, at extremes and between devices."""

import math

import numpy as np
import pytest
from gradients import check_gradients, cpu_gpu_agree, gradients, tensor, values
from lucid import Tensor

from lucid_maskrcnn.ops import binary_cross_entropy, cross_entropy, mask_targets, smooth_l1

LN2, LN3 = math.log(2), math.log(3)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def index(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def loss_and_gradient(fn, *arrays: np.ndarray, device: str = "cpu") -> tuple[float, np.ndarray]:
    """The loss and its gradient by the first array, which has that array's shape and type."""
    value, (grad,) = gradients(fn, *arrays, wrt=(0,), cotangent=np.float32(1), device=device)
    assert value.shape == ()
    assert grad.shape == arrays[0].shape
    assert value.dtype == grad.dtype == np.float32
    return float(value), grad


def l1(beta: float, divisor: float):
    return lambda x, i, j, targets: smooth_l1(x, i, j, targets, beta=beta, divisor=divisor)


# ------------------------------------------------------------------ torchvision's numbers


@pytest.mark.parity
def test_box_head_losses_equal_torchvision(torchvision_ops, device: str) -> None:
    labels = torchvision_ops["loss_labels"].astype(np.int32)
    loss, grad = loss_and_gradient(cross_entropy, torchvision_ops["loss_logits"], labels, device=device)
    assert loss == pytest.approx(float(torchvision_ops["loss_classifier"]), abs=2e-6)
    np.testing.assert_allclose(grad, torchvision_ops["loss_logits_grad"], rtol=0, atol=1e-7)
    (rows,) = np.nonzero(labels)
    arrays = torchvision_ops["loss_deltas"], rows.astype(np.int32), labels[rows], torchvision_ops["loss_targets"][rows]
    loss, grad = loss_and_gradient(l1(1 / 9, len(labels)), *arrays, device=device)
    assert loss == pytest.approx(float(torchvision_ops["loss_box_reg"]), abs=2e-6)
    np.testing.assert_allclose(grad, torchvision_ops["loss_deltas_grad"], rtol=0, atol=1e-7)


@pytest.mark.parity
def test_mask_loss_equals_torchvision(torchvision_ops, device: str) -> None:
    objects = torchvision_ops["loss_mask_index"].astype(np.int32)
    gt_masks = torchvision_ops["target_gt_masks"].astype(bool)
    boxes = torchvision_ops["loss_mask_boxes"]
    targets = mask_targets(*(tensor(a, device) for a in (gt_masks, boxes, objects)), 28)
    labels = torchvision_ops["loss_mask_gt_labels"].astype(np.int32)[objects]
    loss, grad = loss_and_gradient(
        binary_cross_entropy,
        torchvision_ops["loss_mask_logits"],
        np.arange(6, dtype=np.int32),
        labels,
        values(targets),
        device=device,
    )
    assert loss == pytest.approx(float(torchvision_ops["loss_mask"]), abs=2e-6)
    np.testing.assert_allclose(grad, torchvision_ops["loss_mask_logits_grad"], rtol=0, atol=1e-7)


@pytest.mark.parity
def test_rpn_losses_equal_torchvision(torchvision_ops, device: str) -> None:
    labels = torchvision_ops["loss_rpn_labels"]
    positive, sampled = [], []  # (image, anchor)
    for image in range(2):
        (yes,), (no,) = np.nonzero(labels[image] == 1), np.nonzero(labels[image] == 0)
        yes = yes[:20]
        positive += [(image, a) for a in yes]
        sampled += [(image, a) for a in (*yes, *no[: 40 - len(yes)])]
    images, anchors = np.array(sampled, np.int32).T
    loss, grad = loss_and_gradient(
        binary_cross_entropy,
        torchvision_ops["loss_rpn_objectness"].reshape(2, 60, 1),
        images,
        anchors,
        labels[images, anchors][:, None],
        device=device,
    )
    assert loss == pytest.approx(float(torchvision_ops["loss_objectness"]), abs=2e-6)
    np.testing.assert_allclose(grad.reshape(120, 1), torchvision_ops["loss_rpn_objectness_grad"], rtol=0, atol=1e-7)
    images, anchors = np.array(positive, np.int32).T
    targets = torchvision_ops["loss_rpn_targets"][images, anchors]
    deltas = torchvision_ops["loss_rpn_deltas"].reshape(2, 60, 4)
    loss, grad = loss_and_gradient(l1(1 / 9, len(sampled)), deltas, images, anchors, targets, device=device)
    assert loss == pytest.approx(float(torchvision_ops["loss_rpn_box_reg"]), abs=2e-6)
    np.testing.assert_allclose(grad.reshape(120, 4), torchvision_ops["loss_rpn_deltas_grad"], rtol=0, atol=1e-7)


# ------------------------------------------------------------------ by hand


def test_cross_entropy_by_hand(device: str) -> None:
    logits = np.float32([[0, LN3], [5, 5]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    loss, grad = loss_and_gradient(cross_entropy, logits, index(0, 1), device=device)
    assert loss == pytest.approx((2 * LN2 + LN2) / 2, rel=1e-6)
    np.testing.assert_allclose(grad, [[-3 / 8, 3 / 8], [1 / 4, -1 / 4]], rtol=1e-6)


def test_smooth_l1_by_hand(device: str) -> None:
    x = np.float32([[[1, 0], [7, 7]], [[8, 8], [0.25, -2]]])  # differs by 1, 0, 0.25 and -2 from the targets
    arrays = x, index(0, 1), index(0, 1), np.zeros((2, 2), np.float32)
    loss, grad = loss_and_gradient(l1(0.5, 4), *arrays, device=device)
    assert loss == pytest.approx((0.75 + 0 + 0.0625 + 1.75) / 4, rel=1e-6)
    np.testing.assert_allclose(grad, np.array([[[1, 0], [0, 0]], [[0, 0], [0.5, -1]]]) / 4, rtol=1e-6)
    flat_loss, flat_grad = loss_and_gradient(l1(0.5, 4), x.reshape(2, 4), *arrays[1:], device=device)
    assert flat_loss == loss
    np.testing.assert_array_equal(flat_grad, grad.reshape(2, 4))


def test_binary_cross_entropy_by_hand(device: str) -> None:
    x = np.float32([[LN3, 50], [-LN3, 0]])  # sigmoid 3/4, 1/4 and 1/2
    arrays = x, index(0, 1, 1), index(0, 0, 1), np.float32([0, 1, 0.25])
    loss, grad = loss_and_gradient(binary_cross_entropy, *arrays, device=device)
    assert loss == pytest.approx((2 * LN2 + 2 * LN2 + LN2) / 3, rel=1e-6)
    np.testing.assert_allclose(grad, [[0.75 / 3, 0], [-0.75 / 3, 0.25 / 3]], rtol=1e-6)


def test_binary_cross_entropy_of_a_zero_logit(device: str) -> None:
    """An untrained mask head without features says exactly 0 everywhere."""
    arrays = np.zeros((1, 2), np.float32), index(0, 0), index(0, 1), np.float32([0, 1])
    loss, grad = loss_and_gradient(binary_cross_entropy, *arrays, device=device)
    assert loss == pytest.approx(LN2, rel=1e-6)
    assert grad.tolist() == [[0.25, -0.25]]


def test_the_divisor_is_at_least_one(device: str) -> None:
    arrays = np.float32([[[3]]]), index(0), index(0), np.float32([[1]])
    assert loss_and_gradient(l1(1, 0), *arrays, device=device)[0] == 1.5
    assert loss_and_gradient(l1(1, 2), *arrays, device=device)[0] == 0.75


# ------------------------------------------------------------------ finite differences, devices


PICKED = [
    pytest.param(normal(3, 4, 4), index(0, 2, 1, 2), index(3, 0, 0, 2), normal(4, 4, seed=1), id="boxes"),
    pytest.param(normal(3, 8), index(0, 2, 2), index(1, 0, 1), normal(3, 4, seed=1), id="flat boxes"),
    pytest.param(normal(2, 5, 1), index(0, 1, 0), index(4, 0, 0), normal(3, 1, seed=1), id="logits"),
    pytest.param(normal(3, 2, 4, 3), index(2, 0), index(1, 0), normal(2, 4, 3, seed=1), id="masks"),
    pytest.param(normal(3, 4), index(2, 0), index(1, 3), normal(2, seed=1), id="numbers"),
    pytest.param(normal(2, 3, 4), index(1, 1, 0, 1), index(2, 2, 0, 2), normal(4, 4, seed=1), id="the same again"),
]


@pytest.mark.parametrize(("x", "i", "j", "targets"), PICKED)
def test_picked_losses(x: np.ndarray, i: np.ndarray, j: np.ndarray, targets: np.ndarray) -> None:
    probs = 1 / (1 + np.exp(-targets))
    by_entry = x.reshape(len(x), -1, *targets.shape[1:])[i, j]
    found = float(values(binary_cross_entropy(*map(tensor, (x, i, j, probs)))))
    sigmoid = 1 / (1 + np.exp(-by_entry))
    assert found == pytest.approx(-(probs * np.log(sigmoid) + (1 - probs) * np.log(1 - sigmoid)).mean(), rel=1e-12)
    size = np.abs(by_entry - targets)
    found = float(values(l1(0.7, 5)(*map(tensor, (x, i, j, targets)))))
    assert found == pytest.approx(sum(0.5 * d * d / 0.7 if d < 0.7 else d - 0.35 for d in size.flat) / 5, rel=1e-12)
    for fn, wanted in ((binary_cross_entropy, probs), (l1(0.7, 5), targets)):
        check_gradients(fn, x, i, j, wanted, wrt=(0,), tol=1e-8)
        cpu_gpu_agree(fn, x, i, j, wanted, wrt=(0,), tol=1e-6)


@pytest.mark.parametrize("labels", [index(0, 1, 2, 3, 3), index(1, 1, 1, 1, 1)])
def test_cross_entropy_gradients(labels: np.ndarray) -> None:
    logits = normal(5, 4) * 3
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = float(values(cross_entropy(tensor(logits), tensor(labels))))
    assert found == pytest.approx(-np.log(probs[np.arange(5), labels]).mean(), rel=1e-12)
    check_gradients(cross_entropy, logits, labels, tol=1e-8)
    cpu_gpu_agree(cross_entropy, logits, labels, wrt=(0,), tol=1e-6)


@pytest.mark.parametrize("weights", [[1.0, 2.0, 0.5, 4.0], [0.0, 3.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
def test_weighted_cross_entropy_and_its_gradients(weights: list[float]) -> None:
    logits, labels, row = normal(5, 4) * 3, index(0, 1, 2, 3, 3), np.array(weights)
    of_row = row[labels]
    per_row = -np.log((np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(5), labels])
    wanted = (per_row * of_row).sum() / of_row.sum() if of_row.any() else 0.0  # PyTorch's CrossEntropyLoss(weight)
    assert float(values(cross_entropy(*map(tensor, (logits, labels, row))))) == pytest.approx(wanted, rel=1e-12)
    check_gradients(cross_entropy, logits, labels, row, wrt=(0,), tol=1e-8)
    cpu_gpu_agree(cross_entropy, logits, labels, row, wrt=(0,), tol=1e-6)


def test_weighted_cross_entropy_wants_a_weight_for_each_class(device: str) -> None:
    logits, labels, row = (
        tensor(a, device) for a in (np.zeros((2, 3), np.float32), index(0, 1), np.ones(2, np.float32))
    )
    with pytest.raises(ValueError, match="weights"):
        cross_entropy(logits, labels, row)
    nothing = cross_entropy(
        *(tensor(a, device) for a in (np.zeros((0, 2), np.float32), index(), np.ones(2, np.float32)))
    )
    assert float(values(nothing)) == 0


def test_gradients_of_repeated_indices_add_up(device: str) -> None:
    x = np.float32([[[3], [3]]])
    once = loss_and_gradient(l1(1, 1), x, index(0), index(1), np.float32([[0]]), device=device)[1]
    thrice = loss_and_gradient(l1(1, 1), x, index(0, 0, 0), index(1, 1, 1), np.float32([[0]] * 3), device=device)[1]
    assert once.tolist() == [[[0], [1]]]
    np.testing.assert_array_equal(thrice, 3 * once)


def test_a_cotangent_scales_the_gradient(device: str) -> None:
    arrays = normal(3, 4).astype(np.float32), index(0, 1, 2)
    _, one = loss_and_gradient(cross_entropy, *arrays, device=device)
    _, (half,) = gradients(cross_entropy, *arrays, wrt=(0,), cotangent=np.float32(0.5), device=device)
    np.testing.assert_allclose(half, one / 2, rtol=1e-6)


# ------------------------------------------------------------------ extremes


def test_losses_of_large_logits_do_not_overflow(device: str) -> None:
    logits = np.float32([[1000, -1000, 0], [1000, -1000, 0]])
    loss, grad = loss_and_gradient(cross_entropy, logits, index(0, 1), device=device)
    assert loss == 1000  # right for nothing, wrong for 2000, in the mean
    assert grad.tolist() == [[0, 0, 0], [0.5, -0.5, 0]]
    x = np.float32([[1000, 1000, -1000, -1000]])
    arrays = x, index(0, 0, 0, 0), index(0, 1, 2, 3), np.float32([1, 0, 1, 0])
    loss, grad = loss_and_gradient(binary_cross_entropy, *arrays, device=device)
    assert loss == 500
    assert grad.tolist() == [[0, 0.25, -0.25, 0]]
    arrays = np.float32([[[1e6, -1e6]]]), index(0), index(0), np.zeros((1, 2), np.float32)
    loss, grad = loss_and_gradient(l1(1 / 9, 1), *arrays, device=device)
    assert loss == pytest.approx(2e6, rel=1e-6)
    assert grad.tolist() == [[[1, -1]]]


def test_nearly_right_logits_keep_small_losses(device: str) -> None:
    arrays = np.float32([[10, -10]]), index(0, 0), index(0, 1), np.float32([1, 0])
    loss, grad = loss_and_gradient(binary_cross_entropy, *arrays, device=device)
    assert loss == pytest.approx(math.log1p(math.exp(-10)), rel=1e-3)
    np.testing.assert_allclose(grad, [[-0.5 / (1 + math.exp(10)), 0.5 / (1 + math.exp(10))]], rtol=1e-2)


# ------------------------------------------------------------------ nothing


NOWHERE = index()


@pytest.mark.parametrize("rows", [0, 3])
def test_losses_of_an_empty_selection_are_zero(device: str, rows: int) -> None:
    cases = [
        (l1(1 / 9, 0), normal(rows, 5, 4), np.zeros((0, 4))),
        (l1(1 / 9, 512), normal(rows, 20), np.zeros((0, 4))),
        (binary_cross_entropy, normal(rows, 5, 1), np.zeros((0, 1))),
        (binary_cross_entropy, normal(rows, 5, 28, 28), np.zeros((0, 28, 28))),
    ]
    for fn, x, targets in cases:
        arrays = x.astype(np.float32), NOWHERE, NOWHERE, targets.astype(np.float32)
        loss, grad = loss_and_gradient(fn, *arrays, device=device)
        assert loss == 0
        assert not grad.any()


def test_cross_entropy_of_no_rows_is_zero(device: str) -> None:
    loss, grad = loss_and_gradient(cross_entropy, np.zeros((0, 5), np.float32), NOWHERE, device=device)
    assert loss == 0
    assert grad.size == 0


def test_targets_and_indices_get_no_gradient(device: str) -> None:
    x = tensor(normal(2, 3, 4).astype(np.float32), device, requires_grad=True)
    i, j = tensor(index(0), device), tensor(index(2), device)
    targets: Tensor = tensor(np.zeros((1, 4), np.float32), device)
    binary_cross_entropy(x, i, j, targets).backward()
    assert [t.grad is None for t in (x, i, j, targets)] == [False, True, True, True]
