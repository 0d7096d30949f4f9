"""What ``predict`` returns for several images."""

from __future__ import annotations

from typing import Any, SupportsIndex, overload

from lucid_maskrcnn.text_tables import count_of
from lucid_maskrcnn.validators import integer

from .detected_objects import Detections
from .notebook_html import SHOWN_IMAGES, predictions_html, scores_below

__all__ = ["Predictions"]


class Predictions(list[Detections]):
    """The detections of each image: a list that shows itself in a notebook.

    Examples
    --------
    >>> found = model.predict(["a.png", "b.png"])
    >>> found
    Predictions(2 images, 51 objects)
      [0] 39 in 256 × 256 pixels, on cpu
      [1] 12 in 520 × 696 pixels, on cpu
    """

    @overload
    def __getitem__(self, key: SupportsIndex) -> Detections: ...
    @overload
    def __getitem__(self, key: slice) -> Predictions: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return Predictions(super().__getitem__(key))
        number = integer("The index of an image", key)
        if not -len(self) <= number < len(self):
            raise IndexError(f"There is no image {number}: the predictions are of {count_of(len(self), 'image')}.")
        return super().__getitem__(number)

    def _title(self) -> str:
        return f"Predictions({count_of(len(self), 'image')}, {count_of(sum(map(len, self)), 'object')})"

    def __repr__(self) -> str:
        lines = [self._title()]
        for i, found in enumerate(self[:SHOWN_IMAGES]):
            low = scores_below(found)
            lines.append(f"[{i}] {found.summary}{f', {low}' if low else ''}")
        if len(self) > SHOWN_IMAGES:
            lines.append(f"… {len(self) - SHOWN_IMAGES} more")
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        return predictions_html(self, self._title())

    def show(self, **options: Any) -> None:
        """Show the drawing of each image; options are those of :meth:`Detections.draw`."""
        for found in self:
            found.show(**options)
