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

model, path, out = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3  # errors only: that the input network_size may be left out is a warning otherwise
session = onnxruntime.InferenceSession(model, options)
categories = json.loads(session.get_modelmeta().custom_metadata_map["categories"])
ids = {category["label"]: category["id"] for category in categories}
image = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))  # uint8 (H, W, 3)
outputs = [output.name for output in session.get_outputs()]
found = dict(zip(outputs, session.run(None, {"image": image}), strict=True))
height, width = image.shape[:2]
picture, annotations = image.astype(np.float32), []
for i in np.flatnonzero(found["scores"] > 0.5):
    mask, label, score = found["full_masks"][i], int(found["labels"][i]), float(found["scores"][i])
    picture[mask] = 0.5 * picture[mask] + 0.5 * np.random.default_rng(i).uniform(0, 255, 3)
    pixels = mask.T.ravel()  # column by column, as COCO counts them
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    segmentation = {"size": [height, width], "counts": np.diff([0, *changes, pixels.size]).tolist()}  # of 0, 1, 0, …
    x1, y1, x2, y2 = found["boxes"][i].tolist()
    place = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(mask.sum()), "segmentation": segmentation, "iscrowd": 0}
    annotations.append({"id": int(i) + 1, "image_id": 1, "category_id": ids.get(label, label), "score": score, **place})
Image.fromarray(picture.astype(np.uint8)).save(f"{out}.png")
images = [{"id": 1, "file_name": path, "height": height, "width": width}]
named = [{"id": category["id"], "name": category["name"]} for category in categories]
with open(f"{out}.json", "w", encoding="utf-8") as file:
    json.dump({"images": images, "annotations": annotations, "categories": named}, file)
print(f"{len(annotations)} objects: {out}.png, {out}.json")
