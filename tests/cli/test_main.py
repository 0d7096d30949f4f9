"""The command line as a whole."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from lucid_maskrcnn import __version__
from lucid_maskrcnn.cli import main


def test_version_of_the_package_and_of_what_it_depends_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    line = capsys.readouterr().out
    assert line.startswith(f"lucid-maskrcnn {__version__}, lucid-dl {version('lucid-dl')}, mlx ")
    assert "Python 3." in line


def test_versions_of_package_and_distribution_are_one() -> None:
    assert version("lucid-maskrcnn") == __version__
