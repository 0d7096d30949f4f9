"""Prediction on images as they come."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from tiny_runs import slim

from lucid_maskrcnn import Detections, predict_stream
from lucid_maskrcnn.ops import host

IMAGES = [np.random.default_rng(i).integers(0, 255, (40 + i, 50, 3), np.uint8) for i in range(5)]
OPTIONS = {"score_thresh": 0.2, "top_k": 4}


def same(a: Detections, b: Detections) -> bool:
    return host(a.boxes).tolist() == host(b.boxes).tolist() and a.image_size == b.image_size


@pytest.mark.filterwarnings("ignore:Objects may be missing")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_answers_are_those_of_predict_and_come_as_images_do(batch_size: int) -> None:
    model, asked = slim(), []

    def images() -> Iterator[np.ndarray]:
        for i, image in enumerate(IMAGES):
            asked.append(i)
            yield image

    stream = predict_stream(model, images(), batch_size=batch_size, **OPTIONS)
    assert asked == []
    first = next(stream)
    assert asked == [*range(batch_size)]
    assert first.image is None
    expected = model.predict(IMAGES, batch_size=batch_size, **OPTIONS)
    assert all(same(a, b) for a, b in zip([first, *stream], expected, strict=True))


def test_one_warning_names_the_images_at_the_end() -> None:
    with pytest.warns(UserWarning, match=r"top_k=4 cuts off .* in images\[0\], .* in images\[1\]") as warned:
        assert len(list(predict_stream(slim(), IMAGES, **OPTIONS))) == 5
    assert len(warned) == 1
    assert re.search("and 2 more images", str(warned[0].message))


def test_images_are_kept_if_asked_for() -> None:
    found = list(predict_stream(slim(), IMAGES[:1], keep_image=True, score_thresh=0.9))
    np.testing.assert_array_equal(found[0].image, IMAGES[0])
    assert list(predict_stream(slim(), [])) == []


def test_wrong_arguments_are_refused_at_once() -> None:
    for images, options, error, message in (
        ("a.png", {}, TypeError, "images must be an iterable of paths, PIL images or arrays, got 'a.png'"),
        (IMAGES, {"score_thresh": 2}, ValueError, "score_thresh must be a number between 0 and 1, got 2"),
        (IMAGES, {"batch_size": 0}, ValueError, "batch_size must be an integer from 1"),
    ):
        with pytest.raises(error, match=message):
            predict_stream(slim(), images, **options)
    with pytest.raises(TypeError, match="model must be a MaskRCNN"):
        predict_stream("NUCLEI", IMAGES)
