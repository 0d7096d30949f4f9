"""Reading a part of a file without trusting the lengths that it states."""

from __future__ import annotations

import io

import pytest

from lucid_maskrcnn.weights.formats.bounded_reader import BoundedReader
from lucid_maskrcnn.weights.formats.pickles import read_pickle
from lucid_maskrcnn.weights.formats.stored_arrays import CheckpointError


def test_file_truncated_while_reading() -> None:
    reader = BoundedReader(io.BytesIO(b"\x80\2}"), 0, 100)
    with pytest.raises(CheckpointError, match="ends in the middle of its pickle"):
        read_pickle(reader, {})
