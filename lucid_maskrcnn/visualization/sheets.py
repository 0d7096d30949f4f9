"""Sheets of images side by side, each with text above it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

__all__ = ["GAP", "INK", "LINE", "PAPER", "TILE", "make_sheet"]

TILE, GAP, LINE = 480, 12, 20  # pixels: the width of a tile, the space around it, the height of a line of text
PAPER, INK = (250, 250, 250), (30, 30, 30)


def make_sheet(tiles: Sequence[Image.Image], columns: int, top: int = 0) -> Image.Image:
    """Return tiles in rows of at most ``columns``, below ``top`` empty pixels."""
    columns = max(1, min(columns, len(tiles)))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + GAP for row in rows]
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, top + GAP + sum(heights)), PAPER)
    y = top + GAP
    for row, height in zip(rows, heights, strict=True):
        for k, tile in enumerate(row):
            sheet.paste(tile, (GAP + k * (TILE + GAP), y))
        y += height
    return sheet
