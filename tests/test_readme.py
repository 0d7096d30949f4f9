"""The README's examples run as they stand: those after a ``<!-- runnable: name -->`` line."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import Any

import lucid
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- runnable: (\w+) -->\n```python\n(.*?)```\n", README, flags=re.DOTALL))


def run(source: str) -> tuple[dict[str, Any], Any]:
    """Execute as a notebook cell: return the names, and the value of the last line if it has one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    names: dict[str, Any] = {}
    exec(compile(tree, "README.md", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "README.md", "eval"), names) if last else None
    return names, value


def test_all_marked_blocks_are_tested() -> None:
    assert set(BLOCKS) == {"backbone", "training"}
    assert README.count("<!-- runnable") == len(BLOCKS)


def test_every_python_block_is_python() -> None:
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        ast.parse(block)


def test_backbone_example() -> None:
    lucid.random.seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Lucid 2.9's layers cast the uninitialized memory of a bias before they fill it.
        warnings.filterwarnings("ignore", ".* encountered in cast", RuntimeWarning)
        # Random weights find as much as they are let to.
        warnings.filterwarnings("ignore", "Objects may be missing", UserWarning)
        names, (boxes, scores, labels, masks) = run(BLOCKS["backbone"])
    assert [w.category for w in caught] == [UserWarning]
    assert "anchor_stride" in str(caught[0].message)
    r = names["cls_logits"].shape[0]
    assert r > 0
    assert names["cls_logits"].shape == (r, 6)
    assert names["bbox_deltas"].shape == (r, 20)
    assert names["mask_logits"].shape == (r, 5, 28, 28)
    n = len(names["detections"][0])
    assert (boxes, scores, labels, masks) == ((n, 4), (n,), (n,), (n, 512, 512))


def test_training_example(capsys: pytest.CaptureFixture[str]) -> None:
    lucid.random.seed(0)
    names, _ = run(BLOCKS["training"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert "total_loss" in printed[0]
    assert all(p.grad is not None for p in names["optimizer"].params)
