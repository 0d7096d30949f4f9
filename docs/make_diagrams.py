"""Draw the diagrams of docs/understand: ``uv run python docs/make_diagrams.py``.

The files are put into the pages as they are, so that the colors are those of the theme, light or dark; they are narrow
enough for a phone.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

OUT = Path(__file__).parent / "images"
WIDTH = 380
TEXT = "font-family: var(--font-stack), sans-serif"
CODE = "font-family: var(--font-stack--monospace), monospace"
NORMAL, PALE, LINE = (f"var(--color-foreground-{name})" for name in ("primary", "secondary", "muted"))
STYLE = f"""
  .diagram {{ width: 100%; max-width: 460px; display: block; margin: 1.2em auto; {TEXT} }}
  .diagram text {{ fill: {NORMAL}; font-size: 13px }}
  .diagram .small {{ fill: {PALE}; font-size: 11.5px }}
  .diagram .shape {{ fill: {PALE}; font-size: 11.5px; {CODE} }}
  .diagram rect {{ fill: var(--color-background-secondary); stroke: var(--color-foreground-border) }}
  .diagram rect.data {{ fill: none; stroke-dasharray: 3 3 }}
  .diagram rect.group {{ fill: none }}
  .diagram a {{ text-decoration: none }}
  .diagram a rect {{ stroke: var(--color-brand-content); stroke-width: 1.4 }}
  .diagram a:hover rect {{ fill: var(--color-background-hover) }}
  .diagram path {{ fill: none; stroke: {LINE}; stroke-width: 1.5 }}
  .diagram .head {{ fill: {LINE}; stroke: none }}
"""


class Diagram:
    """Boxes and arrows from top to bottom."""

    def __init__(self, title: str, height: int) -> None:
        self.title, self.height, self.parts = title, height, [""]

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        of_class = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text{of_class} x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>')

    def box(
        self, x: float, y: float, w: float, h: float, lines: list[str], *, kind: str = "", link: str | None = None
    ) -> None:
        """Draw a box with its name, and below it smaller lines; those that begin with "(" are shapes."""
        if link:
            self.parts.append(f'<a href="how_it_works.html#{link}">')
        of_class = f' class="{kind}"' if kind else ""
        self.parts.append(f'<rect{of_class} x="{x}" y="{y}" width="{w}" height="{h}" rx="5"/>')
        top = y + h / 2 - 8 * (len(lines) - 1) + 4.5
        for i, line in enumerate(lines):
            self.text(x + w / 2, top + 16 * i, line, ("shape" if line.startswith("(") else "small") if i else "")
        if link:
            self.parts.append("</a>")

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line through the points, which ends in an arrow head."""
        (x0, y0), (x, y) = points[-2:]
        down, right = (y > y0) - (y < y0), (x > x0) - (x < x0)
        back = (x - 6 * right, y - 6 * down)
        line = " L ".join(f"{a} {b}" for a, b in (*points[:-1], back))
        self.parts.append(f'<path d="M {line}"/>')
        side = (4 * down, 4 * right)
        corners = ((x, y), (back[0] - side[0], back[1] - side[1]), (back[0] + side[0], back[1] + side[1]))
        self.parts.append(f'<path class="head" d="M {" L ".join(f"{a} {b}" for a, b in corners)} Z"/>')

    def save(self, name: str) -> None:
        body = "\n".join(self.parts)
        svg = (
            f'<svg class="diagram" viewBox="0 0 {WIDTH} {self.height}" role="group" xmlns="http://www.w3.org/2000/svg">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>{body}\n</svg>\n"
        )
        (OUT / f"{name}.svg").write_text(svg, encoding="utf-8")


def predict_flow() -> Diagram:
    """Return the flow of data of a prediction, each stage a link."""
    title = (
        "From images to detections: transforms.prepare, backbone, region proposal network, proposals, RoIAlign, box "
        "head, post-processing, RoIAlign, mask head, pasting. The feature maps go to the region proposal network and "
        "to both RoIAligns."
    )
    d, x, w = Diagram(title, 908), 76, 228
    stages = [
        (["image(s)", "(H, W, 3) uint8, paths, …"], "data", None),
        (["transforms.prepare", "resize, normalize, pad"], "", "stage-input"),
        (["batch", "(N, 3, H, W)"], "data", None),
        (["backbone", "ResNet body and feature pyramid"], "", "stage-pyramid"),
        (["features P2 … P6", "(N, C, h, w) each"], "data", None),
        (["rpn", "objectness and deltas of all anchors"], "", "stage-rpn"),
        (["rpn.propose", "best, decode, clip, NMS"], "", "stage-proposals"),
        (["proposals", "(R, 4), roi_idx (R,)"], "data", None),
        (["roipool", "(R, C, 7, 7)"], "", "stage-roialign"),
        (["box head", "fc1, fc2, cls_score, bbox_pred"], "", "stage-box-head"),
        (["postprocess_detections", "softmax, decode, clip, NMS, top_k"], "", "stage-detections"),
        (["boxes, scores, labels", "(n, 4), (n,), (n,)"], "data", None),
        (["mask_roipool", "(n, C, 14, 14)"], "", "stage-mask-head"),
        (["mask_head", "(n, 28, 28) probabilities"], "", "stage-mask-head"),
        (["resize_boxes, paste_masks", "back to the pixels of the image"], "", "stage-paste"),
        (["Detections", "boxes, scores, labels, masks"], "data", "stage-result"),
    ]
    h, gap = 42, 15
    tops = {}
    for i, (lines, kind, link) in enumerate(stages):
        y = 6 + i * (h + gap)
        tops[lines[0]] = y
        d.box(x, y, w, h, lines, kind=kind, link=link)
        if i + 1 < len(stages):
            d.arrow((x + w / 2, y + h), (x + w / 2, y + h + gap))
    start = tops["features P2 … P6"] + h / 2
    for offset, target in ((20, "roipool"), (42, "mask_roipool")):
        y = tops[target] + h / 2
        d.arrow((x, start), (x - offset, start), (x - offset, y), (x, y))
    d.text(10, start - 8, "features", "small", "start")
    boxes, paste = tops["boxes, scores, labels"] + h / 2, tops["resize_boxes, paste_masks"] + h / 2
    d.arrow((x + w, boxes), (x + w + 24, boxes), (x + w + 24, paste), (x + w, paste))
    d.text(x + w + 30, (boxes + paste) / 2 + 4, "boxes", "small", "start")
    rows = tops["rpn"] + h / 2
    d.text(x + w + 8, rows + 4, "(N, A, ·)", "shape", "start")
    return d


def training_flow() -> Diagram:
    """Return the flow of data of get_loss."""
    title = (
        "get_loss: the annotated objects are matched with anchors and with proposals; samples of both, and their "
        "targets, meet the predictions in the five losses."
    )
    d = Diagram(title, 560)
    d.box(8, 6, 168, 42, ["images", "(N, 3, H, W)"], kind="data")
    d.box(196, 6, 172, 42, ["targets", "boxes, labels, masks"], kind="data")
    d.box(8, 72, 168, 42, ["backbone, rpn", "as in a prediction"], link="stage-rpn")
    d.arrow((92, 48), (92, 72))
    d.box(196, 148, 172, 58, ["label_and_sample_anchors", "IoU ≥ 0.7 or < 0.3;", "256 an image"], link="train-anchors")
    d.arrow((288, 48), (288, 148))
    d.arrow((92, 114), (92, 130), (250, 130), (250, 148))
    d.text(170, 126, "anchors", "small")
    d.box(8, 148, 168, 58, ["rpn.propose", "2000, as constants:", "no gradient"], link="stage-proposals")
    d.arrow((70, 114), (70, 148))
    d.box(196, 244, 172, 58, ["select_training_samples", "IoU ≥ 0.5;", "512 an image"], link="train-rois")
    d.arrow((176, 177), (186, 177), (186, 273), (196, 273))
    d.text(181, 230, "proposals", "small", "end")
    d.arrow((368, 27), (376, 27), (376, 273), (368, 273))
    d.box(8, 244, 152, 58, ["roipool, box head", "mask_roipool,", "mask_head"], link="stage-box-head")
    d.arrow((196, 290), (160, 290))
    d.text(178, 305, "RoIs", "small")
    d.box(
        8, 356, 364, 58, ["loss", "predictions of rpn and heads for the samples", "against gt_deltas, labels, gt_masks"]
    )
    d.arrow((84, 302), (84, 356))
    d.arrow((288, 302), (288, 356))
    names = [
        ("rpn_cls_loss", 8),
        ("rpn_reg_loss", 132),
        ("roi_cls_loss", 256),
        ("roi_reg_loss", 70),
        ("mask_loss", 194),
    ]
    for i, (name, x) in enumerate(names):
        d.box(x, 438 + 36 * (i > 2), 116, 28, [name], kind="data", link="train-losses")
    d.arrow((190, 414), (190, 436))
    d.box(122, 522, 136, 30, ["total_loss: the sum"], kind="data", link="train-losses")
    d.arrow((190, 502), (190, 522))
    return d


def modules() -> Diagram:
    """Return the modules of the model, by the names of its attributes."""
    d = Diagram("The modules of MaskRCNN and the layers in them, by the names of the attributes.", 632)
    d.box(4, 4, 372, 624, [], kind="group")
    d.text(190, 24, "MaskRCNN")

    def group(y: float, h: float, name: str, words: str, parts: list[tuple[str, str, str]]) -> None:
        d.box(14, y, 352, h, [], kind="group")
        d.text(24, y + 19, name, anchor="start")
        d.text(356, y + 19, words, "small", "end")
        width = (352 - 10 * (len(parts) + 1)) / len(parts)
        for i, (part, what, link) in enumerate(parts):
            d.box(24 + i * (width + 10), y + 29, width, h - 39, [part, what], link=link)

    body, fpn = ("body", "ResNet, C2 … C5", "stage-pyramid"), ("fpn", "pyramid", "stage-pyramid")
    group(36, 84, "backbone", "(N, 3, H, W) → P2 … P6", [body, fpn])
    anchors = ("anchor_generator", "(A, 4)", "stage-anchors")
    group(130, 84, "rpn", "→ objectness, deltas", [anchors, ("head", "conv, cls_logits, bbox_pred", "stage-rpn")])
    d.box(14, 224, 352, 42, ["roipool", "(R, C, 7, 7)"], link="stage-roialign")
    d.box(14, 276, 171, 42, ["fc1, drop1", "or box_convs, fc1"], link="stage-box-head")
    d.box(195, 276, 171, 42, ["fc2, drop2", "(R, hidden_dim)"], link="stage-box-head")
    d.box(14, 328, 171, 42, ["cls_score", "(R, K + 1)"], link="stage-box-head")
    d.box(195, 328, 171, 42, ["bbox_pred", "(R, 4 · K)"], link="stage-box-head")
    d.box(14, 380, 352, 42, ["mask_roipool", "(R, C, 14, 14)"], link="stage-mask-head")
    d.box(14, 432, 352, 84, [], kind="group")
    d.text(24, 451, "mask_head", anchor="start")
    d.text(356, 451, "→ (R, K, M, M)", "shape", "end")
    for i, (part, what) in enumerate(
        [("conv1 … conv4", "3 × 3, ReLU"), ("deconv", "2 × 2, stride 2"), ("mask_predictor", "1 × 1 to K")]
    ):
        d.box(24 + i * 113, 461, 106, 45, [part, what], link="stage-mask-head")
    d.box(14, 526, 352, 42, ["roi_sampler", "training: which RoIs, and their targets"], link="train-rois")
    d.box(14, 578, 352, 42, ["loss", "training: five losses and their sum"], link="train-losses")
    return d


def main() -> None:
    predict_flow().save("predict_flow")
    training_flow().save("training_flow")
    modules().save("modules")


if __name__ == "__main__":
    main()
