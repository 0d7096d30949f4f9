"""Deterministic weights of torchvision's ``maskrcnn_resnet50_fpn_v2``, and the script that recorded its answers.

The recording in ``model_v2.npz`` was made by torchvision 0.28.0 (torch 2.13.0, CPU) with

    python recipe_v2.py        # where torchvision is installed; writes model_v2.npz beside this file

Everything but ``record`` needs NumPy alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import recipe

SEED, NUM_CLASSES, SIZES = 11, 91, {"min_size": 256, "max_size": 400}


def state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Fill the shapes, under torchvision's names, with the numbers of ``recipe``; norms outside the body too."""
    arrays = {}
    for name, shape in shapes.items():
        owner, field = name.rsplit(".", 1)
        if owner.startswith("backbone.body"):
            arrays[name] = recipe._tensor(name, shape, SEED, (3, 4, 6, 3))
        elif len(shape) == 1 and owner.endswith(".1"):  # a norm of pyramid or heads
            low, high = {"weight": (0.8, 1.6), "running_var": (0.6, 1.4)}.get(field, (-0.2, 0.2))
            arrays[name] = recipe._uniform(SEED, name, shape, low, high)
        else:
            arrays[name] = recipe._tensor(_v1(name), shape, SEED + len(name), (3, 4, 6, 3))
    arrays["roi_heads.box_predictor.cls_score.bias"][0] += 16.0  # background: a few dozen detections
    return arrays


def _v1(name: str) -> str:
    """Return the name by which ``recipe`` knows a layer like this."""
    for v2, v1 in (
        ("rpn.head.conv.1.", "rpn.head.conv.0."),
        ("roi_heads.box_head.5.", "roi_heads.box_head.fc6."),
        *((f"roi_heads.box_head.{i}.0.", f"roi_heads.mask_head.{i}.0.") for i in range(4)),
    ):
        if name.startswith(v2):
            return v1 + name[len(v2) :]
    return name


def record() -> None:
    import torch

    try:
        import torchvision_cpu  # noqa: F401 - operators where torchvision's own do not load
    except ImportError:
        pass
    import torchvision

    model = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES, **SIZES
    )
    own = {n: tuple(t.shape) for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    model.load_state_dict({n: torch.from_numpy(a) for n, a in state_dict(own).items()}, strict=False)
    image, objects = recipe.scene(200, 304, 5)
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    out = {"names": np.array(list(own)), "shapes": np.array([str(s) for s in own.values()]), "image": image}
    model.eval()
    probs = []
    model.roi_heads.mask_predictor.register_forward_hook(lambda _m, _i, o: probs.append(o))
    with torch.no_grad():
        found = model([x])[0]
        images, _ = model.transform([x])
        for i, features in enumerate(model.backbone(images.tensors).values()):
            out[f"p{i + 2}_mean"] = features.mean((0, 2, 3)).numpy()
            out[f"p{i + 2}_std"] = features.std((0, 2, 3)).numpy()
    rows = torch.arange(len(found["labels"]))
    out |= {k: found[k].numpy() for k in ("boxes", "scores", "labels")}
    out["mask_probs"] = probs[0][rows, found["labels"]].sigmoid().numpy()

    original = torch.randperm
    torch.randperm = lambda n, **kw: torch.arange(n, device=kw.get("device"))
    try:
        model.train()
        boxes = np.array([o["box"] for o in objects], np.float32)
        labels = np.array([o["label"] for o in objects], np.int64)
        masks = np.stack([o["mask"] for o in objects]).astype(np.uint8)
        target = {k: torch.from_numpy(v) for k, v in (("boxes", boxes), ("labels", labels), ("masks", masks))}
        losses = model([x], [target])
        sum(losses.values()).backward()
    finally:
        torch.randperm = original
    out |= {"target_boxes": boxes, "target_labels": labels, "target_masks": np.packbits(masks)}
    out["losses"] = np.array([losses[k].item() for k in LOSSES])
    parameters = dict(model.named_parameters())
    out["grad_names"] = np.array(list(parameters))
    out["grad_norms"] = np.array([p.grad.double().norm().item() for p in parameters.values()])
    np.savez_compressed(Path(__file__).with_name("model_v2.npz"), **out)
    print(len(found["scores"]), "detections", out["scores"], out["losses"], sep="\n")


LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
if __name__ == "__main__":
    record()
