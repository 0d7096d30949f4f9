"""``predict`` with images and a folder at URLs, and what the other commands say to a URL."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from remote_places import objects, upload, web_server
from small_jobs import content, make_images
from tiny_runs import slim

from lucid_maskrcnn import save_weights
from lucid_maskrcnn.cli import main

IMAGES, OUT = "memory://bucket/images", "memory://bucket/found"


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


def code_of(arguments: list[str]) -> int | str | None:
    """The exit code of a command."""
    try:
        return main(arguments)
    except SystemExit as error:  # of the parser
        return error.code


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Weights that find something everywhere; three images are at a URL."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images", 3, side=64)
    upload(tmp_path / "images", IMAGES)
    save_weights(slim(), tmp_path / "tiny.safetensors")
    return ["--weights", "tiny.safetensors", "--score-thresh", "0.3", "--top-k", "9", "--shard-size", "2"]


def test_images_and_folder_at_urls(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", f"{IMAGES}/*.png", "--out", OUT, *options]) == 0
    said = capsys.readouterr()
    assert "memory:///bucket/images/002.png: 9 objects in " in said.out
    assert f", drawn in {OUT}/002.png\n" in said.out
    assert said.out.endswith(f"27 detections in {OUT}/detections.json\n")
    assert main(["predict", "images", "--out", "here", "--quiet", *options]) == 0
    names = ("detections.json", "000.png", "001.png", "002.png")
    assert {name: objects(OUT)[name] for name in names} == {name: content(tmp_path / "here")[name] for name in names}
    assert sorted(os.listdir()) == ["here", "images", "tiny.safetensors"]


def test_job_at_a_url_is_resumed(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(["predict", "--out", OUT, "--resume", *options]) == 2
    assert "missing: IMAGE" in capsys.readouterr().err
    options += ["--format", "parquet"]
    assert main(["predict", IMAGES, f"{IMAGES}/gone.png", "--out", OUT, "--quiet", *options]) == 1
    said = capsys.readouterr()
    assert said.err == (
        f"lucid-maskrcnn: 1 of 4 images could not be predicted on.\n  There is no image file '{IMAGES}/gone.png'.\n"
    )
    assert main(["predict", IMAGES, "--out", OUT, *options]) == 2
    assert f"'{OUT}' holds a job already" in capsys.readouterr().err
    assert main(["predict", "--out", OUT, "--resume", *options]) == 1
    assert f"resuming {OUT}: 4 images, 3 have their results\n" in capsys.readouterr().err


def test_list_of_urls_on_standard_input(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server(tmp_path / "images") as address, open("list", "w+") as file:
        file.write(
            f"{address}/000.png\n{(tmp_path / 'images' / '001.png').as_uri()}\nimages/002.png\n{IMAGES}/000.png\n"
        )
        file.seek(0)
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["predict", "-", "--out", "here", *options]) == 0
    sources = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()[:4]]
    assert sources == [
        f"{address}/000.png",
        str(tmp_path / "images" / "001.png"),
        "images/002.png",
        f"{IMAGES}/000.png",
    ]
    assert {"000.png", "001.png", "002.png", "000_2.png"} <= set(os.listdir("here"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--out", "http://127.0.0.1/x"],
            "out must be a folder or a URL that can be written to, got 'http://127.0.0.1/x'.",
        ),
        (["--out", "nosuch://x"], "out must be a path or a URL of a protocol that fsspec knows, got 'nosuch://x'."),
        (["--export", "crops", "--out", OUT], f"export cannot be 'crops' with out='{OUT}': a folder of files cannot"),
        (["nosuch://*.png"], "paths must be a path or a URL of a protocol that fsspec knows, got 'nosuch://*.png'."),
        (["http://127.0.0.1:9/"], "'http://127.0.0.1:9/': "),
    ],
)
def test_wrong_urls_are_one_sentence(
    options: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    before = sorted(os.listdir())
    assert main(["predict", "images", *arguments, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lucid-maskrcnn: {sentence}")
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "command",
    [
        "evaluate s3://b/images labels.json",
        "evaluate images s3://b/labels.json",
        "train images s3://b/labels.json --steps 1 --out runs",
        "train images labels.json --steps 1 --out s3://b/runs",
        "convert s3://b/weights.pth tiny2.safetensors",
        "convert tiny.safetensors s3://b/tiny.safetensors",
        "info s3://b/weights.pth",
        "check-data s3://b/images labels.json",
        "convert-data s3://b/images labels.json",
        "convert-data images s3://b/labels.json",
        "split-data labels.json s3://b/parts",
        "suggest s3://b/images labels.json",
        "predict images --weights s3://b/weights.pth",
        "demo --out s3://b/demo.png",
    ],
)
def test_commands_that_need_files_say_so(options: list[str], capsys: pytest.CaptureFixture[str], command: str) -> None:
    before = sorted(os.listdir())
    assert code_of(command.split()) == 2
    assert " must be a path on this machine, got the URL 's3://b/" in capsys.readouterr().err
    assert sorted(os.listdir()) == before
