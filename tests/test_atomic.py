"""Files are written whole or not at all, and errors name the file that the user asked for."""

import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from lucid_maskrcnn.atomic import remove_leftovers, replacing, replacing_folder, replacing_together, write_json


def names(folder):
    return sorted(p.name for p in folder.rglob("*"))


def test_file_is_replaced_when_the_block_has_ended(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_error_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_pipes_and_devices_are_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"A device or a pipe, not a file that can be replaced: '.*pipe'"):  # noqa: SIM117
        with replacing(path):
            pass
    assert path.is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("old", [True, False])
def test_pair_of_files_is_replaced_together_or_not_at_all(tmp_path, old):
    first, second = tmp_path / "a.pkl", tmp_path / "a.yaml"
    if old:
        first.write_text("old")

    def write(*, fails=False):
        with replacing_together(first, second) as files:
            for file in files:
                file.write(b"new")
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fails=True)
    second.mkdir()  # which no file replaces
    with pytest.raises(OSError, match=r"a\.yaml'"):
        write()
    assert names(tmp_path) == ["a.pkl", "a.yaml"][not old :]
    assert not old or first.read_text() == "old"
    second.rmdir()
    write()
    assert (first.read_text(), second.read_text()) == ("new", "new")
    assert names(tmp_path) == ["a.pkl", "a.yaml"]


def test_missing_folder_is_named_with_the_file_asked_for(tmp_path):
    path = tmp_path / "nowhere" / "a.json"
    for asked_for in (path, str(path)):
        with pytest.raises(FileNotFoundError) as caught:
            write_json(asked_for, {})
        assert caught.value.filename == str(path)
        assert caught.value.strerror == f"There is no folder {str(path.parent)!r}"
        assert ".tmp" not in str(caught.value)


def test_folder_in_the_place_of_the_file_is_named(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match=r"a\.json'") as caught:
        write_json(tmp_path / "a.json", {})
    assert caught.value.filename == str(tmp_path / "a.json")
    assert ".tmp" not in str(caught.value)
    assert names(tmp_path) == ["a.json"]


def test_error_about_another_file_stays_as_it_is(tmp_path):
    def write():
        with replacing(tmp_path / "a.txt"):
            (tmp_path / "other.txt").read_bytes()

    with pytest.raises(FileNotFoundError, match=r"other\.txt"):
        write()
    assert names(tmp_path) == []


@pytest.mark.parametrize(("path", "error"), [(None, TypeError), (7, TypeError), ("", ValueError)])
def test_path_must_be_a_path(path, error):
    with pytest.raises(error, match="path must"):
        write_json(path, {})


@pytest.mark.parametrize(("content", "error"), [(float("nan"), ValueError), (np.zeros(2), TypeError), ({1}, TypeError)])
def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, content, error):
    with pytest.raises(error):
        write_json(tmp_path / "a.json", [1, content])
    assert names(tmp_path) == []
    write_json(tmp_path / "a.json", [1, None])
    assert json.loads((tmp_path / "a.json").read_text()) == [1, None]


# ------------------------------------------------------------------ killed writers, full disks


@pytest.fixture(params=["unnamed", "named"])
def way(request, monkeypatch):
    """As on Linux, where a file needs no name until it is whole, and as elsewhere."""
    if request.param == "named":
        monkeypatch.delattr("os.O_TMPFILE", raising=False)
    return request.param


def test_both_ways_replace(tmp_path, way):
    path = tmp_path / "a.txt"
    path.write_text("old")
    (tmp_path / "link.txt").symlink_to(path)
    with replacing(tmp_path / "link.txt") as file:
        file.write(b"new")
        hidden = [name for name in names(tmp_path) if name.startswith(".")]
        assert len(hidden) == (0 if way == "unnamed" and hasattr(os, "O_TMPFILE") else 1)
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt", "link.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path, way):
    (tmp_path / "ordinary").write_text("")
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"new")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, way):
    path = tmp_path / "a.txt"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_json(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_killed_writer_leaves_nothing_or_what_can_be_removed(tmp_path, way):
    script = (
        "import os, sys\nfrom lucid_maskrcnn.atomic import replacing\n"
        "if sys.argv[2] == 'named' and hasattr(os, 'O_TMPFILE'): del os.O_TMPFILE\n"
        "with replacing(sys.argv[1]) as file:\n    file.write(b'half')\n    file.flush()\n    os.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt"), way], check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == (0 if way == "unnamed" and hasattr(os, "O_TMPFILE") else 1)
    (tmp_path / ".mine.tmp").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".mine.tmp"]


def test_half_written_folders_are_removed_too(tmp_path):
    folder = tmp_path / f".{'0' * 32}.tmp"
    folder.mkdir()
    (folder / "1.png").touch()
    (tmp_path / ".mine.tmp").mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".mine.tmp"]


# ------------------------------------------------------------------ folders


def test_folder_is_replaced_when_the_block_has_ended(tmp_path):
    folder = tmp_path / "a"
    for name in ("old", "new"):
        with replacing_folder(tmp_path / "a") as new:
            (new / name).touch()
            assert not (folder / "new").exists()
    assert names(tmp_path) == ["a", "new"]


def test_error_in_the_block_leaves_the_old_folder_and_names_the_new_one(tmp_path):
    (tmp_path / "a").mkdir()

    def write(name):
        with replacing_folder(tmp_path / "a") as new:
            (new / name).read_bytes()

    with pytest.raises(FileNotFoundError) as caught:
        write("b")
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"other\.txt"):
        write(tmp_path / "other.txt")
    assert names(tmp_path) == ["a"]
