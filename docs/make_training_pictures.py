"""Make the pictures of docs/do/evaluate.md and train.md: ``uv run python docs/make_training_pictures.py``.

With the folder of a training run as an argument, its curves and first batches are copied, too.
"""

import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.data import CocoInstances, suggest
from lucid_maskrcnn.evaluation import contact_sheet, evaluate, evaluate_results

DATA = Path(__file__).parents[1] / "examples" / "data" / "nuclei"
OUT = Path(__file__).parent / "images"
WIDTH = 1000


def save(picture, name):
    """Save a picture, not wider than a page and in few bytes."""
    picture = picture.convert("RGB")
    picture.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
    if name.endswith(".jpg"):
        picture.save(OUT / name, quality=80)
    else:
        picture.quantize(64).save(OUT / name, optimize=True)


def plot(draw, name):
    """Save what a function plots to a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plot.png"
        draw(file)
        with Image.open(file) as picture:
            save(picture, name)


def in_two_classes(found):
    """Return the evaluation of the same objects and detections as two classes, as in evaluate.md."""
    truth, results = json.loads(json.dumps([found.truth, found.results]))
    truth["categories"] = [{"id": 1, "name": "small nucleus"}, {"id": 2, "name": "large nucleus"}]
    for annotation in truth["annotations"]:
        annotation["category_id"] = 1 if annotation["area"] < 400 else 2
    for result in results:
        width, height = result["bbox"][2:]
        result["category_id"] = 1 if width * height * 0.785 < 400 else 2
    return evaluate_results(truth, results)


def main():
    model = MaskRCNN.from_file("NUCLEI")
    held_out = CocoInstances(DATA / "images", DATA / "instances_val.json")
    found = evaluate(model, held_out)
    save(contact_sheet(held_out, found, found.worst(3)), "evaluate_worst.jpg")
    plot(found.plot_thresholds, "evaluate_thresholds.png")
    plot(in_two_classes(found).plot_confusion, "evaluate_confusion.png")
    training = CocoInstances(DATA / "images", DATA / "instances_train.json")
    plot(suggest(training, model.config).plot, "train_sizes.png")
    for run in map(Path, sys.argv[1:]):
        save(Image.open(run / "curves.png"), "train_curves.png")
        save(Image.open(run / "batches.png"), "train_batches.jpg")


if __name__ == "__main__":
    main()
