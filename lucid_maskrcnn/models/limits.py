"""What the limits of a prediction cut off, and the one warning that says so.

There are three: ``max_size`` shrinks an image below the scale that the weights were trained at, ``pre_nms_top_n`` and
``post_nms_top_n`` drop proposals, ``top_k`` drops detections. The steps of ``predict`` add what they cut to a
:class:`Limits`, and at its end there is one warning, which names the numbers and what to set.

torchvision's proposals are always full, with background where there are not as many objects: that says nothing. They
have run out if the last one that was kept still looks like an object. Measured with the weights NUCLEI on 66
validation images and the 40 training images with the most nuclei, up to 375: after non-maximum suppression the last
objectness that was kept is at most 0.79, before it 0.992, and with four times as many proposals the same objects
are found; in a mosaic of 2048² pixels with 1880 nuclei it is 0.987 and 0.9996, and a tenth more is found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

from lucid import Tensor

from .. import ops
from ..config import ImageConfig, RPNConfig
from ..user_warnings import warn_user

__all__ = ["Limits"]

# The objectness of the last proposal that was kept, from which on it was not the last object.
_OBJECT_AFTER_NMS = 0.9
_OBJECT_BEFORE_NMS = 0.995  # where an object still has dozens of proposals
_NAMED = 3  # images that the warning names

type Size = tuple[int, int]

_outer: ContextVar[Limits | None] = ContextVar("_outer", default=None)  # that collects


class Limits:
    """What was cut off in the images of one call.

    As a context manager it collects what all calls of ``predict`` within it cut off, and issues one warning at the end
    instead of one each.

    Attributes
    ----------
    name : str or None
        What the image is called whose prediction follows, where images are predicted on one by one; else they are
        ``images[0]``, ``images[1]``, ….
    tiled : bool
        Whether the images of ``predict`` are tiles of larger ones.
    first : int
        Number of the first image of the batch, among those of the call.
    objectness : list of Tensor
        What is read at the end of the call.
    """

    def __init__(self) -> None:
        outer = _outer.get()
        self.name: str | None = None if outer is None else outer.name
        self.tiled = False
        self.first = 0
        self._before = 0 if outer is None else outer.first  # images of earlier calls
        self.shrunk: list[tuple[str, int, int]] = []  # image and what became of it, max_size, the one that it needs
        self.full: list[tuple[str, int, int]] = []  # image, its detections, top_k
        self.exhausted: list[tuple[str, float, str]] = []  # image, objectness, what to set
        self._weakest: list[tuple[str, float, RPNConfig]] = []  # image, threshold and numbers of each of these:
        self.objectness: list[Tensor] = []  # probabilities on the device until the end, NaN where none was cut off

    # -------------------------------------------------------------- what the steps add

    def add_sizes(self, originals: Sequence[Size], sizes: Sequence[Size], config: ImageConfig) -> None:
        """Note the images that ``max_size`` shrinks too much.

        With a fixed ``scale`` that is any reduction. Without one photographs of usual shapes are shrunk as in
        torchvision; it is too much where the short side is below half of ``min_size``.
        """
        for i, (original, size) in enumerate(zip(originals, sizes, strict=True)):
            wanted = (config.scale or config.min_size / min(original)) * max(original)  # the long side without a limit
            if wanted <= config.max_size or (config.scale is None and 2 * min(size) >= config.min_size):
                continue
            if config.scale is not None:
                less = f"a scale of {config.max_size / max(original):.3g} instead of {config.scale:g}"
            else:
                less = f"a short side of {min(size)} pixels instead of {config.min_size}"
            what = f"{self._name(i)} ({_shown(original)} to {_shown(size)}, {less})"
            self.shrunk.append((what, config.max_size, math.ceil(wanted)))

    def add_proposals(self, proposals: ops.Proposals, config: RPNConfig) -> None:
        """Note the last proposal of each level before suppression, and the last that an image keeps after it."""
        images, numbers = proposals.weakest.shape
        for i in range(images):
            self._weakest += [(self._name(i), _OBJECT_BEFORE_NMS, config)] * (numbers - 1)
            self._weakest.append((self._name(i), _OBJECT_AFTER_NMS, config))
        self.objectness.append(proposals.weakest)

    def add_detections(self, counts: Sequence[int], top_k: int) -> None:
        """Note the images that have more detections than ``top_k``; ``counts`` are those before the cut."""
        self.full += [(self._name(i), count, top_k) for i, count in enumerate(counts) if count > top_k]

    def _name(self, image: int) -> str:
        return self.name or f"images[{self._before + self.first + image}]"

    # -------------------------------------------------------------- the warning

    def __enter__(self) -> Self:
        self._token = _outer.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _outer.reset(self._token)
        if kind is None:
            self.warn()

    @contextmanager
    def collecting(self, first: int) -> Iterator[None]:
        """Collect what a call of ``predict`` cuts off, without a warning; ``first`` is its first image's number."""
        self.first = first
        token = _outer.set(self)
        try:
            yield
        finally:
            _outer.reset(token)

    def warn(self) -> None:
        """Issue the warning, if anything was cut off; within another ``Limits`` that is left to the other."""
        self._read()
        outer = _outer.get()
        if outer is not None:
            outer.tiled |= self.tiled
            outer.shrunk += self.shrunk
            outer.full += self.full
            outer.exhausted += self.exhausted
        elif sentence := self.sentence():
            warn_user(sentence)

    def _read(self) -> None:
        found: dict[str, tuple[float, RPNConfig]] = {}
        values = [float(value) for weakest in self.objectness for value in ops.host(weakest).ravel()]
        for (name, thresh, config), value in zip(self._weakest, values, strict=True):
            if value >= thresh:
                found[name] = max(value, found.get(name, (0.0, config))[0]), config
        for name, (value, config) in found.items():
            numbers = {"pre_nms_top_n": 4 * config.pre_nms_top_n, "post_nms_top_n": 4 * config.post_nms_top_n}
            self.exhausted.append((name, value, str(numbers)))
        self.objectness, self._weakest = [], []

    def sentence(self) -> str:
        """Return what was cut off, and what to set; ``""`` if it is nothing."""
        parts = []
        smaller = ", or pass a smaller tile_size" if self.tiled else ""
        if self.shrunk:
            tiles = ", or use predict_tiled (--tiles)"
            named = self._listed([what for what, *_ in self.shrunk])
            max_size, needed = self.shrunk[0][1], max(needed for *_, needed in self.shrunk)
            parts.append(
                f"max_size={max_size} shrinks {named}: build the model with max_size={needed}{smaller or tiles}"
            )
        if self.exhausted:
            named = self._listed(
                [f"{name} (the last one still has an objectness of {v:.3f})" for name, v, _ in self.exhausted]
            )
            parts.append(f"the proposals ran out in {named}: build the model with rpn={self.exhausted[0][2]}{smaller}")
        if self.full:
            named = self._listed([f"{count} in {name}" for name, count, _ in self.full])
            top_k, most = self.full[0][2], max(count for _, count, _ in self.full)
            parts.append(f"top_k={top_k} cuts off detections, of which there are {named}: pass top_k={most}{smaller}")
        return f"Objects may be missing: {'; '.join(parts)}." if parts else ""

    def _listed(self, names: list[str]) -> str:
        more = f"{len(names) - _NAMED} more {'tiles' if self.tiled else 'images'}"
        *first, last = [*names[:_NAMED], *([more] if len(names) > _NAMED else [])]
        return f"{', '.join(first)} and {last}" if first else last


def _shown(size: Size) -> str:
    return f"{size[0]} × {size[1]}"
