"""Arrays in files: what they say of themselves, and files that change after they were opened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import RECORDED, SIX, good_zip

from lucid_maskrcnn.weights.formats import open_checkpoint


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
    path = good_zip(tmp_path / "x.pth")
    array = open_checkpoint(path).arrays["a"]
    status = path.stat()
    array._disk.__dict__["size"] = 60  # as if it had always been so short
    path.write_bytes(path.read_bytes()[:60])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ValueError, match=r"x.pth' ends before its arrays do\.$"):
        np.asarray(array)
