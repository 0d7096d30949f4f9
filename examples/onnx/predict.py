"""Find objects with an exported model, without Lucid.

    python predict.py nuclei.onnx cells.png found

Needs numpy, Pillow and onnxruntime, and a file of ``lucid-maskrcnn export NUCLEI nuclei.onnx --full-masks``. Writes
found.png, the image with its objects in color, and found.json, a COCO data set of them.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read_image(path: str, metadata: dict[str, str]) -> np.ndarray:
    """Return an image as the model was trained on it, uint8 (H, W, 3); gray of more than 8 bits by the model's rule."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
    if not image.mode.startswith(("I", "F")):
        return np.array(image.convert("RGB"))
    samples = np.asarray(image, np.float64)
    rule = json.loads(metadata["conventions"])["image"]["intensity"] or "full"
    full = {"full": 1.0 if image.mode == "F" else 65535.0, "max": samples.max()}
    low, high = (0.0, full[rule]) if isinstance(rule, str) else np.percentile(samples, rule)
    if rule == "full" and not (samples.min() >= 0 and samples.max() <= high):
        sys.exit(
            f"{path}: values run from {samples.min():g} to {samples.max():g}, beyond 0 to {high:g}: scale them first."
        )
    gray = np.floor(255 * (samples - low) / max(high - low, 1e-12) + 0.5).clip(0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def main(model: str, path: str, out: str) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: that the input network_size may be left out is a warning otherwise
    session = onnxruntime.InferenceSession(model, options)
    outputs = [output.name for output in session.get_outputs()]
    if "full_masks" not in outputs:
        sys.exit(f"{model} has no output full_masks: export it with --full-masks.")
    metadata = session.get_modelmeta().custom_metadata_map
    categories = json.loads(metadata["categories"])
    ids = {category["label"]: category["id"] for category in categories}
    image = read_image(path, metadata)
    found = dict(zip(outputs, session.run(None, {"image": image}), strict=True))
    height, width = image.shape[:2]
    picture, annotations = image.astype(np.float32), []
    for i in np.flatnonzero(found["scores"] > 0.5):
        mask, label, score = found["full_masks"][i], int(found["labels"][i]), float(found["scores"][i])
        picture[mask] = 0.5 * picture[mask] + 0.5 * np.random.default_rng(i).uniform(60, 255, 3)
        pixels = mask.T.ravel()  # column by column, as COCO counts them
        changes = np.flatnonzero(np.diff(pixels, prepend=False))
        segmentation = {"size": [height, width], "counts": np.diff([0, *changes, pixels.size]).tolist()}  # of 0, 1, …
        x1, y1, x2, y2 = found["boxes"][i].tolist()
        place = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(mask.sum()), "segmentation": segmentation}
        about = {"id": int(i) + 1, "image_id": 1, "category_id": ids.get(label, label), "score": score, "iscrowd": 0}
        annotations.append({**about, **place})
    Image.fromarray(picture.astype(np.uint8)).save(f"{out}.png")
    images = [{"id": 1, "file_name": path, "height": height, "width": width}]
    named = [{"id": category["id"], "name": category["name"]} for category in categories]
    with open(f"{out}.json", "w", encoding="utf-8") as file:
        json.dump({"images": images, "annotations": annotations, "categories": named}, file)
    print(f"{len(annotations)} objects: {out}.png, {out}.json")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python predict.py MODEL.onnx IMAGE OUT")
    main(*sys.argv[1:])
