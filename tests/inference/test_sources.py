"""Which images files, folders, patterns and lists stand for, and what their drawings are called."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from small_jobs import TwoBoxes, files, load, make_image, make_images, rows

from lucid_maskrcnn.inference import JobResult, expand_pattern, predict_files, split_list
from lucid_maskrcnn.inference.drawings import DrawingNames


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def predict(paths: list[str | Path], out: str = "out", *, resume: bool = False, overwrite: bool = False) -> JobResult:
    return predict_files(paths, TwoBoxes(), out, resume=resume, overwrite=overwrite)


def listed(out: str = "out") -> dict[str, str]:
    """Sources of a job, and what their drawings are called."""
    return {entry["source"]: entry["drawing"] for entry in load(Path(out) / "job.json")["images"]}


# ------------------------------------------------------------------ folders


def test_folder_stands_for_the_images_in_it_and_in_its_folders(here: Path) -> None:
    for name in ("b.png", "a.PNG", "sub/a.png", "sub/deep/a.jpg", "sub/.hidden.png", ".cache/a.png"):
        make_image(here / "images" / name)
    (here / "images" / "notes.txt").write_text("no image")
    predict(["images"])
    assert listed() == {
        "images/a.PNG": "a.png",
        "images/b.png": "b.png",
        "images/sub/a.png": "sub_a.png",
        "images/sub/deep/a.jpg": "sub_deep_a.png",
    }


def test_names_of_folders_do_not_make_two_drawings_one(here: Path) -> None:
    for name in ("a/b_c.png", "a_b/c.png", "a_b_c.png"):
        make_image(here / "images" / name)
    predict(["images"])
    assert sorted(listed().values()) == ["a_b_c.png", "a_b_c_2.png", "a_b_c_3.png"]
    assert {name for name in files(here / "out") if name.endswith(".png")} == set(listed().values())


def test_links_to_folders_are_not_followed(here: Path) -> None:
    make_image(here / "images" / "a.png")
    (here / "images" / "loop").symlink_to(here / "images")
    (here / "images" / "link.png").symlink_to("a.png")
    predict(["images"])
    assert list(listed()) == ["images/a.png", "images/link.png"]


def test_results_in_the_folder_of_the_images_are_not_predicted_on(here: Path) -> None:
    """Nor the drawings of a resumed job whose folder is that of its images, nor those of other jobs."""
    make_images(here / "images", 2)
    for out in ("images/out", "images/other", "images"):
        predict(["images"], out)
        predict(["images"], out, resume=True)
        assert len(rows(here / out)) == 2
        predict(["images"], out, overwrite=True)
        assert list(listed(out)) == ["images/000.png", "images/001.png"]
    assert sorted(path.name for path in (here / "images").glob("*.png")) == [
        "000.png",
        "000_2.png",
        "001.png",
        "001_2.png",
    ]


def test_drawings_that_the_shell_adds_to_the_images_are_not_predicted_on(here: Path) -> None:
    make_images(here, 2)
    predict(sorted(here.glob("*.png")), ".")
    job = predict(sorted(here.glob("*.png")), ".", resume=True)
    assert (job.n_images, len(list(here.glob("*.png")))) == (2, 4)


def test_folder_without_images_is_refused(here: Path) -> None:
    (here / "empty").mkdir()
    make_image(here / "a.png")
    with pytest.raises(FileNotFoundError, match=r"There is no image in the folder 'empty', no file that ends in \.bmp"):
        predict(["a.png", "empty"])
    assert files(here) == ["a.png", "empty"]


def test_folder_that_cannot_be_read_is_said(here: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    make_image(here / "images" / "a.png")
    make_image(here / "images" / "locked" / "a.png")
    (here / "images" / "locked").chmod(0)
    with pytest.warns(UserWarning, match=r"The folder 'images/locked' cannot be read \(Permission denied\)"):
        predict(["images"])


def test_file_that_is_given_twice_is_predicted_on_once(here: Path) -> None:
    make_image(here / "images" / "a.png")
    (here / "link").symlink_to("images")
    given = ["images/a.png", "images", "./images/../images/a.png", "link/a.png", str(here / "images" / "a.png")]
    assert predict(given).n_images == 1
    assert listed() == {"images/a.png": "a.png"}


# ------------------------------------------------------------------ names

NAMES = [
    "new\nline.png",
    "-dash.png",
    "--out.png",
    "two  spaces .png",
    'it\'s "quoted" $HOME `x` *.png',
    "\x1b[2Jescape.png",
    "日本語 🙂.png",
    unicodedata.normalize("NFC", "é.png"),
    unicodedata.normalize("NFD", "é.png"),
    "upper.png",
    "UPPER.png",
    "detections.png",
    "images.png",
    "results.png",
    "job.json.png",
    "job.json",
    "no_suffix",
    "img[1].png",
    "img1.png",
    "trailing. ",
    "n" * 251 + ".png",
    "n" * 255,
    "é" * 125 + ".tiff",
    "{}.png",
    "%s.png",
    "back\\slash.png",
    "-",
]


def test_files_of_any_name_are_predicted_on(here: Path) -> None:
    folder = os.fsencode(here / "images")
    os.mkdir(folder)
    names = [*map(os.fsencode, NAMES), b"not utf-8 \xff\xfe.png", b"\xe9.png"]
    template = make_image(here / "template.png").read_bytes()
    for name in list(names):
        try:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(template)
        except OSError:  # not every file system takes every name
            names.remove(name)
    assert len(names) > 20
    paths = [os.path.join("images", os.fsdecode(name)) for name in names]
    job = predict(list(paths))
    assert (job.n_images, job.n_failed) == (len(names), 0)
    found = rows(here / "out")
    assert [row["source"] for row in found] == paths  # and so through JSON
    assert [os.fsencode(row["source"]) for row in found] == [os.path.join(b"images", name) for name in names]
    assert [e["file_name"] for e in load(here / "out" / "images.json")["images"]] == paths
    drawings = list(listed().values())
    keys = {unicodedata.normalize("NFC", name.casefold()) for name in drawings}
    assert len(keys) == len(names)  # on any file system
    assert set(drawings) <= set(files(here / "out"))
    assert predict(list(paths), resume=True) == job
    assert [row["id"] for row in rows(here / "out")] == list(range(1, len(names) + 1))


def test_drawings_of_one_stem_are_numbered_as_before() -> None:
    names = DrawingNames(["a.png", "b_2.png"])
    given = [names.give(stem) for stem in ("a", "A", "b", "b", "a")]
    assert given == ["a_2.png", "A_3.png", "b.png", "b_3.png", "a_4.png"]


def test_long_stems_leave_room_for_suffix_and_number() -> None:
    names = DrawingNames([])
    for stem in ("é" * 200, "é" * 200, "n" * 255):
        assert len(os.fsencode(names.give(stem))) <= 255


# ------------------------------------------------------------------ patterns and lists


def test_pattern_stands_for_the_files_that_match(here: Path) -> None:
    for name in ("b.png", "a.png", "sub/c.png", "img[1].png", "img1.png"):
        make_image(here / name)
    (here / "folder.png").mkdir()
    assert expand_pattern("*.png") == ["a.png", "b.png", "img1.png", "img[1].png"]
    assert expand_pattern("**/c.png") == ["sub/c.png"]
    assert expand_pattern("[ab].png") == ["a.png", "b.png"]
    assert expand_pattern("img[1].png") == ["img[1].png"]  # which there is
    assert expand_pattern("none*.png") == ["none*.png"]
    assert expand_pattern("missing.png") == ["missing.png"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a.png\nb c.png\n", ["a.png", "b c.png"]),
        (b"a.png\r\nb.png\r\n", ["a.png", "b.png"]),
        (b"a.png", ["a.png"]),
        (b" a.png \n", [" a.png "]),
        (b"\xef\xbb\xbfa.png\n", ["a.png"]),
        (b"a.png\0b\nc.png\0", ["a.png", "b\nc.png"]),
        (b"\xff.png\n", ["\udcff.png"]),
        (b"-\n--out\n", ["-", "--out"]),
    ],
)
def test_list_of_files(here: Path, text: bytes, names: list[str]) -> None:
    assert split_list(text) == names


def test_name_that_ends_in_a_carriage_return_is_one_if_there_is_such_a_file(here: Path) -> None:
    (here / "a.png\r").touch()
    assert split_list(b"a.png\r\nb.png\r\n") == ["a.png\r", "b.png"]


def test_current_folder_that_is_gone_is_said(here: Path) -> None:
    image = make_image(here.parent / "a.png")
    here.rmdir()
    with pytest.raises(FileNotFoundError, match="The current folder does not exist any more"):
        predict([image], str(here.parent / "out"))
