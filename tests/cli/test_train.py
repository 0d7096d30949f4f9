"""``lucid-maskrcnn train``: from a folder of images to weights, and what it says about mistakes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tiny_runs import slim
from training_data import make_training_data

from lucid_maskrcnn import MaskRCNN
from lucid_maskrcnn.cli import main
from lucid_maskrcnn.data import Augmentation, CocoInstances, Loader
from lucid_maskrcnn.training import read_log
from lucid_maskrcnn.training.checkpoints import find_checkpoints, read_header
from lucid_maskrcnn.weights import save_weights

pycocotools = importlib.util.find_spec("pycocotools")
NAMES = {1: "dim", 2: "bright"}


# pycocotools' arrays do not know the copy keyword of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a tiny run."""
    monkeypatch.setattr("lucid_maskrcnn.training.trainer.draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_training_data(tmp_path_factory.mktemp("data"))


def train(data: Path, out: Path, *options: object) -> list[str]:
    """The arguments of a run of two steps, unless ``options`` say otherwise."""
    usual = [data / "images", data / "instances.json", "--weights", data / "slim.safetensors", "--out", out]
    length = [] if {"--steps", "--epochs", "--minutes"} & set(options) else ["--steps", 2]
    return ["train", *map(str, [*usual, *length, "--quiet", "--no-tensorboard", *options])]


def same_arrays(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_images_and_annotations_become_weights(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    predict = MaskRCNN.predict

    def watched(self: Any, images: Any, **options: Any) -> Any:
        sizes.append(self.config.image.min_size)
        return predict(self, images, **options)

    monkeypatch.setattr(MaskRCNN, "predict", watched)
    out = tmp_path / "run"
    options = [
        "--epochs",
        1,
        "--batch-size",
        3,
        "--crop",
        32,
        "--ema",
        0.9,
        "--val-annotations",
        data / "instances.json",
    ]
    assert main(train(data, out, *options)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"{use} on 6 images with 12 objects: dim 6, bright 6" for use in ("train", "evaluate")]
    assert said.pop(2).startswith("NOTE 6 of the 6 images to evaluate on are also trained on")
    assert said[2] == (
        "6 images, 2 categories (dim, bright); 2 steps of 3 images, 2 per epoch; learning rate 0.00075, 0 steps of "
        "warm-up"
    )
    names = [line.split()[0] for line in said[3:-2]]
    assert names == [
        *(["segm/AP", "segm/AP50", "bbox/AP", "bbox/AP50"] if pycocotools else []),
        "AP_0.5",
        "AP_0.5:0.95",
    ]
    assert said[-2].startswith("2 steps in 0.")
    assert said[-2].endswith(f"min; weights: {out / 'weights.safetensors'}")
    assert said[-1].startswith("highest segm/AP 0." if pycocotools else "highest AP_0.5:0.95 0.")
    assert said[-1].endswith(str(out / "best.safetensors"))
    assert sizes == [64] * 12  # before and after; as for a prediction, although training saw crops of 32
    model = MaskRCNN.from_file(out / "weights.safetensors")
    assert model.categories == NAMES
    assert model.config.image.min_size == 64
    assert [r["step"] for r in read_log(out / "log.jsonl") if "evaluation" not in r] == [1, 2]
    assert [r["step"] for r in read_log(out / "log.jsonl") if "evaluation" in r] == [0, 2]


def test_label_images_other_classes_and_a_new_body(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    common = ["--labels", str(data / "labels"), "--out", str(out), "--quiet", "--no-tensorboard", "--batch-size", "1"]
    length = ["--steps", "1", "--schedule", "constant"]
    weights = ["--weights", str(data / "slim.safetensors"), "--trainable-layers", "0"]
    assert main(["train", str(data / "images"), *common, *length, *weights, "--augment", "microscopy"]) == 0
    assert (
        "num_classes=1 but the weights have 2, background not counted: cls_score, bbox_pred" in capsys.readouterr().out
    )
    assert MaskRCNN.from_file(out / "weights.safetensors").categories == {1: "object"}
    before, after = load_file(data / "slim.safetensors"), load_file(out / "weights.safetensors")
    assert np.array_equal(before["backbone.body.layer4.0.conv1.weight"], after["backbone.body.layer4.0.conv1.weight"])
    assert not np.array_equal(before["fc1.weight"], after["fc1.weight"])


def test_every_option_arrives(data: Path, tmp_path: Path) -> None:
    given = {
        "--epochs": 1,
        "--batch-size": 2,
        "--accumulate": 2,
        "--processes": 2 if sys.platform == "linux" else 1,
        "--lr": 0.01,
        "--momentum": 0.8,
        "--weight-decay": 0.001,
        "--schedule": "cosine",
        "--milestones": "0.5,0.75",
        "--warmup": 1,
        "--max-grad-norm": 0,
        "--ema": 0.99,
        "--freeze-bn-after": 0.5,
        "--seed": 3,
        "--save-every": 7,
        "--keep-last": 2,
        "--min-size": 32,
        "--max-size": 48,
    }
    options = [part for pair in given.items() for part in pair]
    assert main(train(data, tmp_path, *options, "--no-decay-norms")) == 0
    numbers = read_header(find_checkpoints(tmp_path)[0])[0]
    wanted = {
        "steps": 2,  # an epoch of three batches, two of them a step
        "minutes": None,
        "seed": 3,
        "accumulate": 2,
        "processes": 2 if sys.platform == "linux" else 1,
        "lr": 0.01,
        "momentum": 0.8,
        "weight_decay": 0.001,
        "decay_norms": False,
        "schedule": "cosine",
        "milestones": [0.5, 0.75],
        "warmup": 1,
        "max_grad_norm": None,
        "ema": 0.99,
        "freeze_bn_after": 0.5,
        "save_every": 7,
        "keep_last": 2,
        "eval_every": None,
        "keep_best": None,
    }
    assert wanted.items() <= numbers["settings"].items()
    assert (numbers["data"]["seed"], numbers["data"]["batch_size"]) == (3, 2)
    model = MaskRCNN.from_file(tmp_path / "weights.safetensors")
    assert (model.config.image.min_size, model.config.image.max_size) == (32, 48)
    assert numbers["config"] == json.loads(json.dumps(model.config.to_dict()))


def test_ctrl_c_and_resume_give_what_one_run_gives(data: Path, tmp_path: Path) -> None:
    options = ["--steps", 3, "--batch-size", 1, "--ema", 0.9]
    assert main(train(data, tmp_path / "whole", *options)) == 0
    command = [sys.executable, "-m", "lucid_maskrcnn.cli", *train(data, tmp_path / "parts", *options)]
    # A shell's background jobs ignore SIGINT, and their children too.
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=default)
    log = tmp_path / "parts" / "log.jsonl"
    while run.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130
    step = int(find_checkpoints(tmp_path / "parts")[0].stem[-8:])
    assert said.splitlines() == [
        f"Stopped after step {step}: the same command with --resume continues.",
        "lucid-maskrcnn: interrupted.",
    ]
    assert main(train(data, tmp_path / "parts", *options, "--resume")) == 0
    assert same_arrays(*(tmp_path / name / "weights.safetensors" for name in ("whole", "parts")))


def test_prolonged_and_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, batch = tmp_path / "run", ["--batch-size", 1]
    assert main(train(data, out, *batch, "--steps", 1, "--auto-resume")) == 0
    assert main(train(data, out, *batch, "--steps", 1)) == 2
    assert (
        "holds a run already, checkpoint-00000001.safetensors: resume it (resume=True, --resume)"
        in capsys.readouterr().err
    )
    assert main(train(data, out, *batch, "--steps", 1, "--resume", "--seed", 4, "--lr", 1)) == 2
    said = capsys.readouterr().err
    assert (
        "cannot continue with other settings: seed was 0 and is 4; lr was 0.00025 and is 1.0; seed was 0 and is 4."
        in said
    )
    assert main(train(data, out, *batch, "--steps", 2, "--resume")) == 0
    assert [r["step"] for r in read_log(out / "log.jsonl")] == [1, 2]


def test_one_image_is_enough_for_a_run_without_a_batch_size(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "instances.json").read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
    (tmp_path / "one.json").write_text(json.dumps(content))
    run = train(data, tmp_path / "run", "--steps", 1)
    run[2] = str(tmp_path / "one.json")
    assert main(run) == 0


def test_annotations_that_have_changed_are_not_resumed_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(data, tmp_path / "run", "--batch-size", 1, "--steps", 1)
    assert main(run) == 0
    content = json.loads((data / "instances.json").read_text())
    del content["annotations"][-1]
    (tmp_path / "other.json").write_text(json.dumps(content))
    run[2] = str(tmp_path / "other.json")
    more = [*run, "--resume", "--steps", "2"]
    assert main(more) == 2
    assert "annotations was" in capsys.readouterr().err
    assert main([*more, "--allow-changes"]) == 0


def test_rule_for_more_than_8_bits_is_that_of_the_run_and_travels_with_its_weights(data: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for file in (data / "images").iterdir():
        gray = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
        Image.fromarray(gray * 13).save(tmp_path / "images" / file.name)  # 12 bits in 16
    run = train(data, tmp_path / "run", "--intensity", "max", "--batch-size", 1, "--steps", 1)
    run[1] = str(tmp_path / "images")
    assert main(run) == 0
    weights = tmp_path / "run" / "weights.safetensors"
    assert MaskRCNN.from_file(weights).config.image.intensity == "max"
    again = train(data, tmp_path / "again", "--weights", weights, "--batch-size", 1, "--steps", 1)
    again[1] = str(tmp_path / "images")
    assert main(again) == 0  # without the warning that images are dark
    assert main(["evaluate", again[1], again[2], "--weights", str(weights), "--without-coco"]) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy: overflow
def test_divergence_is_a_sentence_and_exit_code_1(data: Path, tmp_path: Path) -> None:
    options = ("--batch-size", 1, "--steps", 9, "--lr", 1e30, "--warmup", 0, "--max-grad-norm", 0)
    with pytest.raises(SystemExit) as caught:
        main(train(data, tmp_path / "run", *options))
    assert re.match(r"lucid-maskrcnn: Step [2-9]: \w+ is (nan|inf)", str(caught.value))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--resume"], "There is no checkpoint in"),
        (["--labels", "labels"], "Give ANNOTATIONS or --labels, one of them."),
        (["--val-images", "."], "--val-images, --eval-every, --keep-best and --patience need"),
        (["--patience", "3"], "--val-images, --eval-every, --keep-best and --patience need"),
        (["--weights", "nothing.safetensors"], "nothing.safetensors"),
        (["--weights-backbone", "IMAGENET1K_V1"], "--weights and --weights-backbone exclude each other"),
        (["--arch", "mask_rcnn_resnet_50_fpn"], "mask_rcnn_resnet_50_fpn"),
        (["--warmup", "2"], "warmup must be less than the 2 steps of the run, got 2."),
        (
            ["--val-annotations", "instances.json", "--keep-best", "AP_0.5:0.9"],
            "keep_best must be a metric of the evaluation, got 'AP_0.5:0.9'; did you mean 'AP_0.5:0.95'?",
        ),
        (["--batch-size", "100"], "batch_size must be at most the number of images, 6, got 100."),
    ],
)
def test_mistake_is_one_sentence_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    options = [str(data / option) if option == "instances.json" else option for option in options]
    assert main(train(data, tmp_path / "run", *options)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert sentence in said
    assert not (tmp_path / "run").exists()


def test_mistakes_about_places(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(train(data, tmp_path / "file")) == 2
    assert "file' is a file: a run needs a folder." in capsys.readouterr().err
    assert main(train(data, tmp_path / "file" / "below")) == 2
    assert "Not a directory" in capsys.readouterr().err
    command = train(data, tmp_path / "run")
    command[1] = str(tmp_path / "nowhere")
    assert main(command) == 2
    assert "There is no folder of images" in capsys.readouterr().err
    other = tmp_path / "other.json"
    content = json.loads((data / "instances.json").read_text())
    content["categories"][0]["name"] = "dog"
    other.write_text(json.dumps(content))
    assert main(train(data, tmp_path / "run", "--val-annotations", other)) == 2
    assert (
        "The images to evaluate on have objects of the category 'dog', which those to train on do not have: they have "
        "'dim', 'bright'."
    ) in capsys.readouterr().err


def rewritten(data: Path, file: Path, change: Any) -> list[str]:
    """Write changed annotations, and return the arguments of a run on them."""
    content = json.loads((data / "instances.json").read_text())
    change(content)
    file.write_text(json.dumps(content))
    command = train(data, file.parent / "run", "--batch-size", 1, "--steps", 1)
    command[2] = str(file)
    return command


def _all_crowds(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def _flat(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["segmentation"] = annotation["segmentation"][0]


@pytest.mark.parametrize("option", [[], ["--on-fault", "skip"]])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_all_crowds, "the data set has no objects, but 12 crowds"),
        (lambda c: c["annotations"].clear(), "the data set has no objects: there is nothing to train on"),
        (_flat, "it is a list of polygons, put [ ] around it"),
    ],
)
def test_nothing_to_train_on_stops_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, sentence: str, option: list[str]
) -> None:
    assert main([*rewritten(data, tmp_path / "changed.json", change), *option]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert (sentence if not option or change is not _flat else "the data set has no objects") in said
    assert not (tmp_path / "run").exists()


def _several_faults(content: dict[str, Any]) -> None:
    content["images"][5]["file_name"] = "../6.png"
    content["annotations"][0]["segmentation"] = []
    for annotation in content["annotations"][1:4]:
        annotation["bbox"] = [0, 0, 0, 0]


def test_faults_stop_a_run_or_are_left_out_with_their_number(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = rewritten(data, tmp_path / "changed.json", _several_faults)
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    *faults, end = said.err.splitlines()
    assert [line.split(" has ")[0] for line in faults] == ["FAULT image 6 (../6.png)", "FAULT annotation 1"]
    assert end.endswith("changed.json' has 2 faults: mend them, or leave out what has one with --on-fault skip.")
    assert main([*command, "--on-fault", "skip"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["FAULT", "FAULT", "WARNING"]
    assert lines[2].startswith("WARNING (3×) annotation 2 has the bbox (0, 0, 0, 0), without area")
    assert lines[3] == "train on 5 images with 9 objects: dim 4, bright 5; left out: 1 image, 3 annotations"


@pytest.mark.parametrize("where", ["--val-images", "images"])
def test_picture_that_is_cut_off_is_found_before_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """It ended a run in the middle of an epoch, without a checkpoint."""
    shutil.copytree(data / "images", tmp_path / "images")
    file = tmp_path / "images" / "4.png"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    command = train(data, tmp_path / "run", "--batch-size", 1, "--val-annotations", data / "instances.json")
    if where == "images":
        command[1] = str(tmp_path / "images")
    else:
        command += ["--val-images", str(tmp_path / "images")]
    assert main(command) == 2
    assert "image 4 (4.png) cannot be used: Cannot read the image file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_validation_categories_are_matched_by_name(data: Path, tmp_path: Path) -> None:
    """As evaluate does; the same categories with other ids were refused."""
    content = json.loads((data / "instances.json").read_text())
    content["categories"] = [{"id": 10, "name": "bright"}, {"id": 20, "name": "dim"}, {"id": 30, "name": "unused"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = {1: 20, 2: 10}[annotation["category_id"]]
    (tmp_path / "other.json").write_text(json.dumps(content))
    scores = []
    for file in (data / "instances.json", tmp_path / "other.json"):
        out = tmp_path / file.stem
        assert main(train(data, out, "--batch-size", 1, "--val-annotations", file, "--eval-every", 2)) == 0
        _, found = [record["evaluation"] for record in read_log(out / "log.jsonl") if "evaluation" in record]
        scores.append(found)
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--steps", "2", "--epochs", "3"],
        ["--steps", "0"],
        ["--minutes", "nan"],
        ["--steps", "2", "--lr", "0"],
        ["--steps", "2", "--seed", "-1"],
        ["--steps", "2", "--trainable-layers", "6"],
        ["--steps", "2", "--milestones", "a,b"],
        ["--steps", "2", "--resume", "--auto-resume"],
        ["--steps", "2", "--schedule", "linear"],
        ["--steps", "2", "--crop", "1"],
        ["--steps", "2", "--crop", "31.5"],
        ["--steps", "2", "--repeat-thresh", "0"],
        ["--steps", "2", "--repeat-thresh", "1.5"],
    ],
)
def test_arguments_that_cannot_be(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "images", "instances.json", "--out", "run", *options])
    assert caught.value.code == 2
    assert "lucid-maskrcnn train: " in capsys.readouterr().err


def test_help_says_how_the_learning_rate_scales(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert "The learning rate scales with the images of a step: 0.02 for 16" in said
    assert "--resume" in said


def test_help_is_quick_to_come() -> None:
    """Nothing that trains is imported for it."""
    script = (
        "import sys\nfrom lucid_maskrcnn.cli import build_parser\nbuild_parser()\n"
        "assert 'lucid_maskrcnn.training' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


# ------------------------------------------------------------------ fine-tuning


def first_settings(out: Path) -> Any:
    return read_header(find_checkpoints(out)[0])[0]


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_norm_is_constant_from_weights_unless_asked_otherwise(data: Path, tmp_path: Path, norm: str) -> None:
    """The weights were trained with live norm; the help said that they are then constant, and they were not."""
    weights = load_file(data / "slim.safetensors")
    for options in ([], ["--norm", norm]):
        out = tmp_path / f"run{len(options)}"
        assert main(train(data, out, "--batch-size", 1, "--trainable-layers", 5, *options)) == 0
        after = load_file(out / "weights.safetensors")
        constant = not options or norm == "frozen"
        for name in ("backbone.body.bn1.running_mean", "backbone.fpn.inner_norms.0.weight"):
            assert np.array_equal(weights[name], after[name]) == constant, name
        assert MaskRCNN.from_file(out / "weights.safetensors").config.backbone is not None
        assert after.keys() == weights.keys()


def test_run_from_nothing_has_live_norm_and_the_rate_of_the_paper(data: Path, tmp_path: Path) -> None:
    command = train(data, tmp_path / "run", "--batch-size", 2, "--steps", 1, "--min-size", 32, "--max-size", 32)
    del command[command.index("--weights") : command.index("--weights") + 2]
    assert main([*command, "--arch", "mask_rcnn_resnet_18_fpn"]) == 0
    header = first_settings(tmp_path / "run")
    assert header["settings"]["lr"] == 0.0025
    assert (header["config"]["backbone"]["norm"], header["config"]["backbone"]["fpn_norm"]) == ("batch", "batch")


@pytest.mark.parametrize(
    ("image", "options", "augment"),
    [
        ({"scale": 1.0}, [], Augmentation.microscopy(zoom=(0.9, 1.1), exposure=0.1, gamma=0.05, channels=0.02)),
        ({"scale": 1.0}, ["--augment", "microscopy"], Augmentation.microscopy()),
        ({"scale": 1.0}, ["--augment", "photographs"], Augmentation.photographs()),
        ({"scale": 1.0}, ["--min-size", 64, "--max-size", 64], Augmentation.photographs()),
        ({}, [], Augmentation.photographs()),
        ({}, ["--augment", "none"], None),
    ],
)
def test_augmentation_suits_the_weights_unless_it_is_given(
    data: Path, tmp_path: Path, image: Any, options: list[Any], augment: Augmentation | None
) -> None:
    save_weights(slim(categories=NAMES, image=image), tmp_path / "weights.safetensors")
    command = train(data, tmp_path / "run", "--batch-size", 1, "--steps", 1, *options)
    command[command.index("--weights") + 1] = str(tmp_path / "weights.safetensors")
    assert main(command) == 0
    assert first_settings(tmp_path / "run")["data"]["augment"] == repr(augment)


def test_a_run_repeats_rare_images_and_keeps_to_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = train(data, tmp_path / "run", "--batch-size", 1, "--steps", 1)
    assert main([*command, "--repeat-thresh", "1"]) == 0
    factors = Loader(CocoInstances(data / "images", data / "instances.json"), 1, repeat_thresh=1).repeat_factors
    assert factors is not None
    assert first_settings(tmp_path / "run")["data"]["repeat_factors"] == zlib.crc32(factors.tobytes())
    capsys.readouterr()
    assert main([*command, "--resume"]) != 0
    assert "the repeat factors of the data have changed" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--val-loss"], ["--keep-best", "val/total_loss"]])
def test_losses_of_the_images_to_evaluate_on(
    data: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = ["--val-annotations", data / "instances.json", "--batch-size", 1, "--steps", 1]
    assert main(train(data, tmp_path / "run", *held_out, *options)) == 0
    metrics = [r["evaluation"] for r in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in r][-1]
    assert metrics["val/total_loss"] > metrics["val/mask_loss"] > 0
    assert f"val/total_loss {metrics['val/total_loss']:.3f}" in capsys.readouterr().out


def test_new_classes_are_learned_at_the_rate_of_the_paper(data: Path, tmp_path: Path) -> None:
    command = train(data, tmp_path / "run", "--batch-size", 2, "--steps", 1, "--labels", data / "labels")
    command.remove(str(data / "instances.json"))
    assert main(command) == 0
    assert first_settings(tmp_path / "run")["settings"]["lr"] == 0.0025
