"""Record what torchvision and detectron2 find with converted models, by running the lines that ``convert`` prints.

Two steps, the first here, the second where the other libraries are:

    uv run python tests/data/conversions/record.py write FOLDER
    python tests/data/conversions/record.py run FOLDER

The second puts into this folder, for each case of ``tests/converted_models.py``, the lines that it has run, the
configuration for detectron2, and a .npz: names and shapes of the state dict that the built model has there, and boxes,
scores, labels (from 1 on) and masks of two images.

Recorded with torchvision 0.28.0 and PyTorch 2.13.0, and with detectron2 0.6, on a CPU.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SUFFIXES = {"torchvision": ".pth", "detectron2": ".pkl"}


def write(folder):
    sys.path.insert(0, str(HERE.parents[1]))
    from converted_models import CASES, converted_images, converted_model

    from lucid_maskrcnn.weights import loading_code, read_weights_file, save_weights, write_converted

    np.savez(folder / "images.npz", *converted_images())
    os.chdir(folder)  # so that the lines name no folder of this machine
    for library, case in CASES:
        name = Path(f"{library}_{case}{SUFFIXES[library]}")
        save_weights(converted_model(library, case), "ours.safetensors")
        file = read_weights_file("ours.safetensors")
        write_converted(file, name, to=library)
        name.with_suffix(".py").write_text(loading_code(file, name, to=library), encoding="utf-8")


def run(folder):
    import torchvision  # noqa: F401

    images = list(np.load(folder / "images.npz").values())
    os.chdir(folder)
    for code in sorted(Path().glob("*.py")):
        names = {}
        exec(code.read_text(encoding="utf-8"), names)
        model = names["model"] if "model" in names else names["predictor"].model
        entries = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        found = {"entries": np.array(json.dumps(entries))}
        for i, image in enumerate(images):
            results = of_torchvision(model, image) if "model" in names else of_detectron2(names["predictor"], image)
            found |= {f"{key}{i}": value for key, value in results.items()}
            print(code, f"image {i}: {len(found[f'boxes{i}'])} found")
        np.savez_compressed(HERE / code.with_suffix(".npz").name, **found)
        shutil.copy(code, HERE)
        if code.with_suffix(".yaml").exists():
            shutil.copy(code.with_suffix(".yaml"), HERE)


def of_torchvision(model, image):
    import torch

    with torch.no_grad():
        found = model([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    masks = (found["masks"][:, 0] > 0.5).numpy()
    return results(found["boxes"], found["scores"], found["labels"], masks)


def of_detectron2(predictor, image):
    found = predictor(image[:, :, ::-1])["instances"]
    return results(found.pred_boxes.tensor, found.scores, found.pred_classes + 1, found.pred_masks.numpy())


def results(boxes, scores, labels, masks):
    packed = np.packbits(masks.astype(bool), axis=None)
    return {"boxes": boxes.numpy(), "scores": scores.numpy(), "labels": labels.numpy(), "masks": packed}


if __name__ == "__main__":
    {"write": write, "run": run}[sys.argv[1]](Path(sys.argv[2]))
