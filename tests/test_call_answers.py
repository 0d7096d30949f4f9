"""Calls that do not fit a signature: what is said, and that nothing else changes."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from lucid_maskrcnn import load_weights
from lucid_maskrcnn.call_answers import answers_wrong_calls
from lucid_maskrcnn.data import Loader


@answers_wrong_calls
def scaled(values: list[float], factor: float, *, limit: float = 9) -> list[float]:
    """Return products."""
    return [min(value * factor, limit) for value in values]


@answers_wrong_calls
class Base:
    def __init__(self, size: int, *, color: str = "red") -> None:
        self.size = size

    def moved(self, by: int) -> int:
        return self.size + by

    @classmethod
    def of(cls, size: int) -> Base:
        return cls(size)

    def open_ended(self, size: int, **options: Any) -> Any:
        return options


class Inheriting(Base):
    pass


@answers_wrong_calls
@dataclass(frozen=True)
class Record:
    width: int
    height: int = 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: scaled([1], 2, limmit=3), "scaled() has no argument 'limmit'; did you mean 'limit'?"),
        (lambda: scaled([1]), "scaled() needs factor, which is missing."),
        (lambda: scaled(), "scaled() needs values and factor, which are missing."),
        (
            lambda: scaled([1], 2, 3),
            "scaled() takes 2 arguments without a name, values, factor, got 3: name the others.",
        ),
        (lambda: scaled([1], 2, values=[3]), "scaled() got values twice: [1] and [3]."),
        (lambda: Base(3, colour="blue"), "Base has no argument 'colour'; did you mean 'color'?"),
        (lambda: Base(), "Base needs size, which is missing."),
        (lambda: Base(1, 2), "Base takes 1 argument without a name, size, got 2: name the others."),
        (lambda: Base(1).moved(bye=1), "Base.moved() has no argument 'bye'; did you mean 'by'?"),
        (lambda: Inheriting(1).moved(), "Inheriting.moved() needs by, which is missing."),
        (lambda: Inheriting.of(sise=1), "Inheriting.of() has no argument 'sise'; did you mean 'size'?"),
        (lambda: Inheriting(sise=1), "Inheriting has no argument 'sise'; did you mean 'size'?"),
        (lambda: Base(1).open_ended(what=1), "Base.open_ended() needs size, which is missing."),
        (lambda: Record(hight=1), "Record has no argument 'hight'; did you mean 'height'?"),
    ],
)
def test_the_answer_is_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == sentence
    assert caught.value.__suppress_context__


def test_errors_from_within_stay_as_they_are() -> None:
    with pytest.raises(TypeError, match="not supported between instances"):
        scaled(["a"], 2)  # type: ignore[list-item]

    @answers_wrong_calls
    def outer() -> None:
        inner(1)  # type: ignore[call-arg]

    def inner() -> None:
        pass

    with pytest.raises(TypeError, match=r"inner\(\) takes 0 positional arguments but 1 was given"):
        outer()


def test_signatures_names_and_pickles_stay() -> None:
    assert str(inspect.signature(scaled)).startswith("(values: 'list[float]', factor: 'float', *, limit")
    assert (scaled.__name__, scaled.__doc__) == ("scaled", "Return products.")
    assert list(inspect.signature(Loader).parameters)[:2] == ["dataset", "batch_size"]
    assert pickle.loads(pickle.dumps(load_weights)) is load_weights
    assert Record(2) == Record(2, 1)
