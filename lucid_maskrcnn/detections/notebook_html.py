"""How detections show themselves in a notebook: one picture of bounded size, and a line of text.

The picture is in the HTML and nowhere else: a notebook file keeps all forms in which an object can be shown.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from lucid_maskrcnn.config import VIEW_SCORE
from lucid_maskrcnn.ops import as_tensor, host
from lucid_maskrcnn.text_tables import count_of, printable

if TYPE_CHECKING:
    from PIL import Image

    from .detected_objects import Detections

__all__ = ["SHOWN_IMAGES", "detections_html", "predictions_html", "scores_below"]

SHOWN_IMAGES = 8  # of a list
_ROWS = 10  # of the table that stands in for the picture
_NAMES = 5  # whose objects are counted
_SIDE, _BYTES = 1200, 500_000  # of the picture: its longer side in pixels, and its file
_SIDE_OF_MANY, _BYTES_OF_MANY = 480, 90_000  # of each picture of a list
_QUALITIES = (90, 80, 65, 50)  # of JPEG; the best that fits
_SMALLER = 0.8  # the sides of a picture that fits with none of them


def scores_below(found: Detections) -> str:
    """Return how many have a score at which they are not shown, in words; ``""`` if there are none."""
    low = int((host(found.scores) < VIEW_SCORE).sum())
    return f"{low} with a score below {VIEW_SCORE:g}" if low else ""


def detections_html(found: Detections, headings: tuple[str, ...]) -> str:
    """Return the picture of detections and what is in it; a table if they do not carry their image."""
    low, lines = scores_below(found), [f"<b>Detections</b>: {found.summary}"]
    if found.image is None:
        more = [f"… {len(found) - _ROWS} more"] if len(found) > _ROWS else []
        text = "".join(f"<p>{line}</p>" for line in [*lines, *([low] if low else [])])
        return f"{text}{_table(found, headings)}" + "".join(f"<p>{line}</p>" for line in more)
    lines += [_names(found)] if len(found) else []
    lines += [f"{low} not drawn: draw(score_thresh=0) shows all"] if low else []
    return _figure(found, _SIDE, _BYTES, ". ".join(line for line in lines if line))


def predictions_html(images: list[Detections], title: str) -> str:
    """Return small pictures of the first images of a list, and what is in each."""
    shown, hidden = images[:SHOWN_IMAGES], False
    parts = []
    for i, found in enumerate(shown):
        low, text = scores_below(found), f"<b>[{i}]</b> {found.summary}"
        if found.image is None:
            parts.append(f'<div style="flex-basis:100%">{text}{f", {low}" if low else ""}</div>')
            continue
        hidden |= bool(low)
        text += f", {low} not drawn" if low else ""
        parts.append(_figure(found, _SIDE_OF_MANY, _BYTES_OF_MANY, text, width=260))
    notes = [f"… {len(images) - SHOWN_IMAGES} more"] if len(images) > SHOWN_IMAGES else []
    notes += ["[i].draw(score_thresh=0) shows all that is in image i"] if hidden else []
    pictures = f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(parts)}</div>'
    return f"<p>{title}</p>{pictures}" + "".join(f"<p>{note}</p>" for note in notes)


# ------------------------------------------------------------------ pieces


def _figure(found: Detections, side: int, max_bytes: int, caption: str, width: int | None = None) -> str:
    """Return a picture with its caption, which is HTML; ``width`` is that of the screen's pixels that it takes."""
    kind, data = _encoded(_drawn(found, side), max_bytes)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    style = "margin:0 0 8px 0" if width is None else f"margin:0;width:{width}px"
    picture = f'<img src="{source}" alt="{found.summary}" style="max-width:100%;height:auto">'
    return f'<figure style="{style}">{picture}<figcaption>{caption}</figcaption></figure>'


def _names(found: Detections) -> str:
    """Return how many objects of each class are drawn, the most frequent first."""
    counts = Counter(found[host(found.scores) >= VIEW_SCORE].names).most_common()
    named = [f"{count} {_escaped(name)}" for name, count in counts[:_NAMES]]
    return ", ".join([*named, *([count_of(len(counts) - _NAMES, "more name")] if len(counts) > _NAMES else [])])


def _escaped(text: str) -> str:
    from html import escape  # here, as its list of entities is for notebooks only

    return escape(printable(text))


def _table(found: Detections, headings: tuple[str, ...]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    rows = ("".join(f"<td>{_escaped(cell)}</td>" for cell in row) for row in found.rows(_ROWS))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def _drawn(found: Detections, side: int) -> Image.Image:
    """Return the drawing at a score that a person wants, its longer side at most ``side`` where one pixel allows it."""
    from lucid_maskrcnn.visualization import viewing_scale  # which imports Pillow

    small = _reduced(found, side)
    scale = max(1, min(viewing_scale(small.image_size), side // max(small.image_size)))
    if not (host(small.scores) >= VIEW_SCORE).any():
        small = small[:0]  # which draw() would warn of; the caption says it
    return small.draw(scale=scale)


def _reduced(found: Detections, side: int) -> Detections:
    """Return the detections in a smaller image: drawn in that, lines and letters stay readable."""
    from PIL import Image

    factor = side / max(found.image_size)
    if factor >= 1:
        return found
    height, width = (max(1, round(n * factor)) for n in found.image_size)
    assert found.image is not None
    image = Image.fromarray(found.image).resize((width, height), Image.Resampling.BOX)
    changes: dict[str, Any] = {"image": np.asarray(image), "image_size": (height, width)}
    shrunk = np.array([width / found.image_size[1], height / found.image_size[0]] * 2, np.float32)
    changes["boxes"] = as_tensor(host(found.boxes) * shrunk, found.boxes)
    if found.mask_probs is None:
        changes["_compressed"] = found.compressed_masks.resized((height, width), keep_all=True)
    return found._replaced(**changes)


def _encoded(drawn: Image.Image, max_bytes: int) -> tuple[str, bytes]:
    """Return the kind and content of a file of at most so many bytes: PNG, or JPEG for what PNG makes large."""
    png = _saved(drawn, "PNG")
    if len(png) <= max_bytes // 2:
        return "png", png
    while True:
        for quality in _QUALITIES:
            jpeg = _saved(drawn, "JPEG", quality=quality, subsampling=0)  # thin colored lines keep their colors
            if len(jpeg) <= max_bytes:
                return "jpeg", jpeg
        drawn = drawn.resize([max(1, round(n * _SMALLER)) for n in drawn.size])


def _saved(drawn: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    drawn.save(buffer, kind, **options)
    return buffer.getvalue()
