"""Warnings that point at the user's line, however deep in the package they are raised."""

from __future__ import annotations

import os
import sys
import warnings

from lucid_maskrcnn.text_tables import printable

__all__ = ["warn_user"]

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def warn_user(sentence: str) -> None:
    """Issue a ``UserWarning`` at the line that called into this package; names in it are printable.

    The call may have come through Lucid: its modules call ours.
    """
    lucid = getattr(sys.modules.get("lucid"), "__file__", None)
    passed = (_PACKAGE,) if lucid is None else (_PACKAGE, os.path.join(os.path.dirname(lucid), ""))
    warnings.warn(printable(sentence), UserWarning, skip_file_prefixes=passed)
