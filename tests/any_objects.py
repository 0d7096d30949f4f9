"""Objects of any class, as training programs keep them in checkpoints beside the weights."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import types
from pathlib import Path
from typing import Any

import numpy as np

SIX = np.arange(6, dtype="<f4")


class Color(enum.Enum):
    RED = 1


class Config(dict[str, Any]):
    """As yacs, mmengine and OmegaConf have them: a dict with attributes."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(entries)
        self.__dict__["_frozen"] = True


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = {1, 2}


class Keyworded:
    def __new__(cls, *, a: int) -> Keyworded:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"a": 1}


def everything() -> dict[str, Any]:
    """Return what training programs keep beside the weights, and more."""
    return {
        "optimizer": {
            "state": {i: {"step": i, "momentum_buffer": SIX} for i in range(3)},
            "param_groups": [{"lr": 0.02, "betas": (0.9, 0.999), "params": [0, 1, 2]}],
        },
        "lr_scheduler": {"milestones": collections.Counter([16, 22]), "lr_lambdas": [None], "verbose": False},
        "args": argparse.Namespace(
            data_path=Path("/data"), sets={1, 2}, frozen=frozenset([1]), z=1 + 2j, b=b"abc", ba=bytearray(b"xyz")
        ),
        "epoch": 3,
        "lists": collections.defaultdict(list, {"a": [1]}),
        "queue": collections.deque([1, 2], maxlen=3),
        "when": (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(3)),
        "partial": functools.partial(print, 3),
        "color": Color.RED,
        "config": Config(a=Config(b=1)),
        "objects": [Slots(), Keyworded(a=1), types.SimpleNamespace(x=1), range(4), slice(1, 2), ..., NotImplemented],
        "numpy": [np.float64(3), np.dtype("f4"), np.random.default_rng(3), np.random.default_rng(3).bit_generator],
        "best": {(1, 2): "x", 3: None, 0.5: 1, None: 2, frozenset([1]): 3, "y" * 300: 4},
        "history": [0.5] * 1000,
        "long": 10**60,
        "text": "é" * 5000,
    }
