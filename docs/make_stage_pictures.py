"""Make the pictures and numbers of docs/understand: ``uv run python docs/make_stage_pictures.py``.

They are the figures of the notebook ``examples/inside_the_model.ipynb``, by their names, on a transparent ground so
that they fit light and dark pages; and numbers that its cells compute, which the pages write as ``{{ num_anchors }}``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
PICTURES, NUMBERS = DOCS / "images" / "stages", DOCS / "understand" / "stage_numbers.json"


def cells() -> str:
    """Return the code of the notebook, without the commands of IPython."""
    notebook = json.loads((EXAMPLES / "inside_the_model.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join(code).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


def run() -> dict[str, Any]:
    """Execute the notebook's code in its folder, and return its variables; its figures stay open."""
    left = os.getcwd()
    os.chdir(EXAMPLES)
    try:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(cells(), "inside_the_model", "exec"), names)
    finally:
        os.chdir(left)
    return names


def numbers(names: dict[str, Any]) -> dict[str, Any]:
    """Return what the pages say of this prediction, by names that Markdown can substitute."""
    found = {
        "num_anchors": f"{len(names['anchors']):,}",
        "num_likely_anchors": f"{int((names['probs'] > 0.5).sum()):,}",
        "num_candidates": f"{names['boxes'].shape[0]:,}",
        "num_proposals": f"{names['kept'].shape[0]:,}",
        "num_best_after": len(names["after"]),
        "num_sure_rois": int((names["nucleus"] > 0.5).sum()),
        "num_over_low": f"{int((names['nucleus'] > 0.05).sum()):,}",
        "num_detections": len(names["found"].scores),
        "num_sure": int((names["found"].scores.data > 0.5).sum()),
        "num_objects": len(names["gt_boxes"]),
        "num_rois": len(names["positive"]),
        "num_positive_rois": int(names["positive"].sum()),
    }
    found |= {f"num_{name}_anchors": f"{int(count):,}" for name, count in names["counts"].items()}
    found |= {f"anchors_p{k}": f"{count:,}" for k, count in enumerate(names["rpn"].level_sizes, start=2)}
    found |= {f"rois_p{k + 2}": f"{int((names['roi_level'] == k).sum()):,}" for k in range(4)}
    return found | {name: f"{float(loss):.3f}" for name, loss in names["losses"].items()}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    names = run()
    for number in plt.get_fignums():
        figure = plt.figure(number)
        file = PICTURES / f"{figure.get_label()}.webp"
        figure.savefig(file, dpi=110, transparent=True, pil_kwargs={"quality": 82, "method": 6})
        print(f"{file.name:18} {file.stat().st_size / 1000:5.0f} kB")
    NUMBERS.write_text(json.dumps(numbers(names), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
