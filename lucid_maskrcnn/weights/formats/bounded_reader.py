"""Reading a file sequentially without trusting the lengths that it states."""

from __future__ import annotations

from typing import BinaryIO

from .stored_arrays import CheckpointError, Span

__all__ = ["BoundedReader"]

_BLOCK = 2**14
_MAX_LINE = 2**30  # of an array that is written as text
_MAX_SHORT_LINE = 2**16


class BoundedReader:
    """Reads a byte range of a file block by block, and nothing beyond it; skipped bytes are never read.

    Not a memory map: that would end the process if another one truncates the file.

    Parameters
    ----------
    file : BinaryIO
        Unbuffered.
    start, end : int
        Offsets of the first byte and behind the last.

    Attributes
    ----------
    position : int
        Offset of the next byte.
    end : int
        As given.
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.position, self.end = start, end
        self._file = file
        self._block, self._block_start = b"", start

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes, a number that may come from the file: it is checked against the range."""
        begin = self.position - self._block_start
        if begin + count > len(self._block):
            self._check_available(count)
            self._load(count)
            begin = 0
        self.position += count
        return self._block[begin : begin + count]

    def skip(self, count: int) -> Span:
        """Skip the next ``count`` bytes and return where they are."""
        self._check_available(count)
        self.position += count
        return Span(self.position - count, count)

    def read_uint(self, num_bytes: int) -> int:
        """Return the next bytes as an unsigned little-endian integer."""
        return int.from_bytes(self.read(num_bytes), "little")

    def skip_line(self, max_length: int = _MAX_LINE) -> Span:
        """Skip the rest of the line and return where it is, without its newline."""
        start = self.position
        while True:
            begin = self.position - self._block_start
            found = self._block.find(b"\n", begin)
            if found >= 0:
                self.position += found + 1 - begin
                return Span(start, self.position - 1 - start)
            self.position = max(self.position, self._block_start + len(self._block))
            if self.position - start > max_length:  # the file may have any size without holding anything
                raise CheckpointError(f"has a line of more than {max_length} bytes in its pickle")
            self._check_available(1)
            self._load(1)

    def read_line(self, max_length: int, what: str) -> bytes:
        """Return the rest of the line; ``what`` names it in the message if it is longer than ``max_length``."""
        span = self.skip_line(_MAX_SHORT_LINE)
        if span.length > max_length:
            raise CheckpointError(f"has a {what} of {span.length} characters in its pickle")
        return self.read_span(span)

    def read_span(self, span: Span) -> bytes:
        """Return bytes that were skipped before; the position stays."""
        position, self.position = self.position, span.offset
        if self.position < self._block_start:
            self._block, self._block_start = b"", self.position
        content = self.read(span.length)
        self.position = position
        return content

    def _check_available(self, count: int) -> None:
        if count > self.end - self.position:
            raise CheckpointError("ends in the middle of its pickle, or is damaged")

    def _load(self, count: int) -> None:
        """Make the block begin at the position and hold at least ``count`` bytes."""
        self._file.seek(self.position)
        want = min(max(count, _BLOCK), self.end - self.position)
        self._block, self._block_start = self._file.read(want), self.position
        if len(self._block) < count:
            raise CheckpointError("ends in the middle of its pickle")
