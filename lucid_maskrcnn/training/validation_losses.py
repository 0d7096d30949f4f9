"""The training losses on images that are not trained on: where they rise, a model begins to overfit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import ops
from ..call_answers import answers_wrong_calls
from ..data.dataset import check_dataset, load_pair
from ..validators import instance, non_negative_int, optional, shown

__all__ = ["validation_losses"]


@answers_wrong_calls
def validation_losses(
    model: Any,
    dataset: Any,
    *,
    labels: Mapping[int, int] | None = None,
    seed: int = 0,
    loss_weights: Mapping[str, float] | None = None,
    class_weights: Mapping[str | int, float] | None = None,
) -> dict[str, float]:
    """Return the mean losses of a model over the images of a data set, for the metrics of an evaluation.

    Images are not augmented, dropout is off, norms use their running statistics, and nothing is changed: neither the
    model nor Lucid's generator. Proposals are sampled with numbers of ``seed``, the same at each call.

    Parameters
    ----------
    model : MaskRCNN
        In training mode or not.
    dataset : sequence of (image, target)
        With targets as ``get_loss`` takes them.
    labels : mapping of int to int, optional
        Label in the data set -> label of the model; by default they are the same.
    seed : int
        A non-negative integer.
    loss_weights, class_weights : mapping, optional
        As for ``get_loss``.

    Returns
    -------
    dict of str to float
        ``"val/total_loss"``, ``"val/mask_loss"`` and so on.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or there are no images.
    """
    if isinstance(model, type) or not callable(getattr(model, "get_loss", None)):
        raise TypeError(f"model must be a module with get_loss, such as a MaskRCNN, got {shown(model)}.")
    if len(check_dataset("dataset", dataset)) == 0:
        raise ValueError("dataset must have at least one image, got none.")
    optional(lambda name, value: instance(name, value, Mapping, "a mapping of labels"))("labels", labels)
    seed = non_negative_int("seed", seed, 2**31 - 1)
    weights = {"loss_weights": loss_weights, "class_weights": class_weights}
    options = {name: value for name, value in weights.items() if value is not None}
    modes = [(module, module.training) for module in model.modules()]
    state = np.random.get_state()  # noqa: NPY002 - Lucid draws from NumPy's global generator
    sums: dict[str, float] = {}
    try:
        model.eval()
        for index in range(len(dataset)):
            image, target = load_pair(dataset, index)
            np.random.seed((seed + index) % 2**32)  # noqa: NPY002
            with ops.no_grad():
                losses = model.get_loss([image], [_relabeled(target, labels)], **options)
            for name, value in zip(losses, ops.numbers(list(losses.values())), strict=True):
                sums[name] = sums.get(name, 0.0) + float(value)
    finally:
        np.random.set_state(state)  # noqa: NPY002
        for module, mode in modes:
            module.training = mode
    return {f"val/{name}": total / len(dataset) for name, total in sums.items()}


def _relabeled(target: Mapping[str, Any], labels: Mapping[int, int] | None) -> Mapping[str, Any]:
    if labels is None:
        return target
    given = np.asarray(target["labels"]).ravel().tolist()
    unknown = next((label for label in given if label not in labels), None)
    if unknown is not None:
        raise ValueError(f"labels must have every label of the data set, got none for {unknown}.")
    return {**target, "labels": np.array([labels[label] for label in given], np.int32)}
