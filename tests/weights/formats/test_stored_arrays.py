"""Arrays in files: what they say of themselves, and files that change after they were opened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import RECORDED, SIX, good_zip

from lucid_maskrcnn.weights.formats import open_checkpoint
from lucid_maskrcnn.weights.formats.stored_arrays import ByteOrder, DiskFile, ElementType, Span, StoredArray


def test_stored_array_repr_dtype_and_copy() -> None:
    array = open_checkpoint(RECORDED / "views_zip.pth").arrays["c"]
    assert repr(array) == f"StoredArray((6, 4), float32, in {str(RECORDED / 'views_zip.pth')!r})"
    assert np.asarray(array, np.float16).dtype == np.float16
    assert np.array(array).flags.writeable
    with pytest.raises(ValueError, match="copy=False is not possible for an array in a file"):
        np.asarray(array, copy=False)


def test_file_changed_after_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x.pth")
    array = open_checkpoint(good_zip(path)).arrays["a"]
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(array, SIX.reshape(2, 3))  # from another directory too
    monkeypatch.chdir(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"^'x.pth' has changed since it was opened\.$"):
        np.asarray(array)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"^'x.pth' has changed since it was opened\.$"):
        np.asarray(array)
    path.unlink()
    with pytest.raises(ValueError, match=r"^'x.pth' can no longer be read: No such file or directory\.$"):
        np.asarray(array)


def test_file_shorter_than_the_checks_saw(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(12))
    disk = DiskFile(path, path, size=12, modified=path.stat().st_mtime_ns)
    array = StoredArray(disk, Span(0, 24), ElementType.of("float32"), (6,))
    with pytest.raises(ValueError, match=r"x' ends before its arrays do\.$"):
        np.asarray(array)


@pytest.mark.parametrize(
    ("name", "order", "content", "expected"),
    [
        ("float32", "<", b"\0\0\x80\x3f", np.float32(1)),
        ("f4", ">", b"\x3f\x80\0\0", np.float32(1)),
        ("bfloat16", "<", b"\x80\x3f", np.float32(1)),
        ("int16", ">", b"\1\2", np.int16(258)),
        ("bool", "<", b"\2", np.True_),
    ],
)
def test_element_types(tmp_path: Path, name: str, order: ByteOrder, content: bytes, expected: np.generic) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    disk = DiskFile(path, path, size=len(content), modified=path.stat().st_mtime_ns)
    found = np.asarray(StoredArray(disk, Span(0, len(content)), ElementType.of(name, order), ()))
    assert (found.dtype, found.item()) == (expected.dtype, expected.item())
