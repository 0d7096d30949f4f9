"""Damaged checkpoints: each is refused in one sentence, before anything of the run is changed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import Toy, toy_settings, toy_trainer

from lucid_maskrcnn.training.checkpoints import find_checkpoints, read_arrays, read_header, write_checkpoint

ABSENT = object()
SETTINGS = {"keep_best": "AP", "eval_every": 2}


def train(out: Path, **options: Any) -> Any:
    return toy_trainer(out, toy_settings(4, **SETTINGS), evaluate=lambda model: {"AP": 0.5}, **options)


def change(values: dict[str, Any], name: str, value: Any) -> None:
    if value is ABSENT:
        del values[name]
    else:
        values[name] = value


def check_refused(out: Path, header: dict[str, Any], arrays: dict[str, np.ndarray], message: str) -> None:
    """Write a checkpoint, and check that resuming from it raises and changes neither files nor weights."""
    (path,) = find_checkpoints(out)
    write_checkpoint(path, arrays, header, lambda name, array: None)
    (out / "log.jsonl").write_bytes((out / "log.jsonl").read_bytes() + b'{"step": 9}\n')
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    model = Toy(3)
    weights = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        train(out, model=model, resume=True).run()
    assert f"{path.name}' is damaged (" in str(caught.value)
    assert str(caught.value).endswith("): it is the only one, so begin in another folder.")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, weights[name])


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]]:
    train(tmp_path / "run").run()
    (path,) = find_checkpoints(tmp_path / "run")
    return tmp_path / "run", read_header(path)[0], dict(read_arrays(path))


type Saved = tuple[Path, dict[str, Any], dict[str, np.ndarray]]


@pytest.mark.parametrize("section", ["settings", "data", "config", "image_config", "machine", "state"])
@pytest.mark.parametrize("value", [None, [], 5, ABSENT], ids=["null", "list", "number", "absent"])
def test_section_that_is_missing_or_no_mapping(run: Saved, section: str, value: Any) -> None:
    out, header, arrays = run
    change(header, section, value)
    check_refused(out, header, arrays, f"has no '{section}'" if value is ABSENT else f"{section} must be a mapping")


@pytest.mark.parametrize("value", [None, -1, 1.0, "2", 99, ABSENT])
def test_count_of_averages_that_cannot_be(run: Saved, value: Any) -> None:
    out, header, arrays = run
    change(header, "ema_updates", value)
    check_refused(out, header, arrays, "ema_updates")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("step", v) for v in (None, -4, 4.0, True, "4", 3, 10**30, ABSENT)],
        *[("seconds", v) for v in (None, -1.0, float("nan"), float("inf"), "1", 10**400, ABSENT)],
        *[("bn_frozen", v) for v in (None, 1, "true", ABSENT)],
        *[(n, v) for n in ("evaluated", "best_step", "stale") for v in (None, -1, 0.5, "1", 5, ABSENT)],
        *[("metrics", v) for v in (None, [], 5, {"AP": None}, {"AP": "high"}, {"AP": True}, ABSENT)],
        *[("best", v) for v in (None, "0.5", True, [], float("nan"), ABSENT)],
        ("best_step", 0),
        ("unknown", 1),
    ],
)
def test_state_that_cannot_be(run: Saved, name: str, value: Any) -> None:
    out, header, arrays = run
    change(header["state"], name, value)
    check_refused(out, header, arrays, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "4"),
        ("steps", None),
        ("lr", None),
        ("lr", ABSENT),
        ("lr", "0.1"),
        ("warmup", None),
        ("warmup", ABSENT),
        ("momentum", 2),
        ("milestones", 5),
        ("schedule", []),
        ("ema", {}),
        ("ema", None),  # but there are averages
        ("patience", -1),
        ("unknown", 1),
    ],
)
def test_settings_that_cannot_be(run: Saved, name: str, value: Any) -> None:
    out, header, arrays = run
    change(header["settings"], name, value)
    check_refused(out, header, arrays, "ema_updates" if (name, value) == ("ema", None) else name)


@pytest.mark.parametrize("kind", ["model", "momentum", "ema"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.astype(np.float64), "must be float32, got float64"),
        (lambda a: a.astype(np.int32), "must be float32, got int32"),
        (lambda a: a[:1], "must have the shape of"),
        (lambda a: a.reshape(-1, 1, 2), "must have the shape of"),
        (lambda a: np.full_like(a, np.nan), "is not finite"),
        (lambda a: np.full_like(a, -np.inf), "is not finite"),
    ],
    ids=["float64", "int32", "shorter", "another shape", "nan", "infinite"],
)
def test_array_of_wrong_dtype_shape_or_values(run: Saved, kind: str, damage: Any, message: str) -> None:
    out, header, arrays = run
    arrays[f"{kind}.first.weight"] = damage(arrays[f"{kind}.first.weight"])
    check_refused(out, header, arrays, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("extra", "unknown array 'extra'"),
        ("other.first.weight", "unknown array 'other.first.weight'"),
        ("momentum.third.weight", "unknown array"),
        ("ema.third.weight", "unknown array"),
        ("model.third.weight", "no average of 'third.weight'"),
        ("momentum.norm.running_mean", "momentum.norm.running_mean is the momentum of a buffer"),
    ],
)
def test_array_that_no_run_writes(run: Saved, name: str, message: str) -> None:
    out, header, arrays = run
    check_refused(out, header, {**arrays, name: arrays["model.norm.running_mean"]}, message)


def test_average_that_is_missing(run: Saved) -> None:
    out, header, arrays = run
    del arrays["ema.first.bias"]
    check_refused(out, header, arrays, "no average of 'first.bias'")


@pytest.mark.parametrize("arguments", [None, [], {"depth": 18, "unknown": 1}, {"depth": "18"}])
def test_arguments_of_a_factory_that_cannot_be(run: Saved, arguments: Any) -> None:
    out, header, arrays = run
    check_refused(out, {**header, "arguments": arguments}, arrays, "is damaged")


# ------------------------------------------------------------------ checksum


def parts_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def joined(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def without_momentum(content: bytes) -> bytes:
    header, data = parts_of(content)
    begin, end = header.pop(next(n for n in header if n.startswith("momentum.")))["data_offsets"]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [n - (end - begin) for n in entry["data_offsets"]]
    return joined(header, data[:begin] + data[end:])


def swapped(content: bytes) -> bytes:
    header, data = parts_of(content)
    a, b = "model.first.weight", "momentum.first.weight"
    header[a], header[b] = header[b], header[a]
    return joined(header, data)


def edited(content: bytes, **values: Any) -> bytes:
    header, data = parts_of(content)
    header["__metadata__"] |= values
    return joined({**header, "__metadata__": {n: v for n, v in header["__metadata__"].items() if v is not None}}, data)


def flipped(content: bytes, rng: random.Random, whole: bool) -> bytes:
    changed = bytearray(content)
    limit = len(content) if whole else 8 + int.from_bytes(content[:8], "little")
    changed[rng.randrange(limit)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zeroed(content: bytes, rng: random.Random) -> bytes:
    """A block that a crash has not written."""
    begin = rng.randrange(0, len(content), 512)
    return content[:begin] + bytes(len(content[begin : begin + 512])) + content[begin + 512 :]


def damages(content: bytes) -> Iterator[bytes]:
    rng = random.Random(0)
    for _ in range(25):
        yield flipped(content, rng, whole=True)
        yield flipped(content, rng, whole=False)
        yield content[: rng.randrange(len(content))]
        yield zeroed(content, rng)
    yield content + b"0"
    yield without_momentum(content)
    yield swapped(content)
    yield edited(content, sha256=None)[:-1]
    yield edited(content, sha256="0" * 64)
    yield edited(content, sha256="x")
    yield edited(content, sha257=parts_of(content)[0]["__metadata__"]["sha256"], sha256=None)
    seconds = json.dumps(json.loads(parts_of(content)[0]["__metadata__"]["state"]) | {"seconds": 1.0})
    yield edited(content, state=seconds)


def test_damaged_checkpoint_never_resumes(run: Saved) -> None:
    """Flipped bits, cut ends, blocks of zeros, swapped and missing arrays, edited headers: one sentence each."""
    out, _, _ = run
    (path,) = find_checkpoints(out)
    content = path.read_bytes()
    for damage in damages(content):
        if damage == content:
            continue
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=path.name) as caught:
            train(out, model=Toy(3), resume=True).run()
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    assert train(out, model=Toy(3), resume=True).run().step == 4


def test_message_names_the_checkpoint_before(tmp_path: Path) -> None:
    out = tmp_path / "run"
    toy_trainer(out, toy_settings(4, save_every=2, keep_last=2)).run()
    newest, older = find_checkpoints(out)
    newest.write_bytes(swapped(newest.read_bytes()))
    with pytest.raises(ValueError, match=f"by its checksum\\): delete it to continue from {older.name}."):
        toy_trainer(out, toy_settings(4), resume=True)
    newest.unlink()
    assert toy_trainer(out, toy_settings(4), resume=True).run().step == 4


def test_checkpoint_of_an_earlier_version_without_a_checksum_is_resumed_with_a_note(
    run: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _, _ = run
    (path,) = find_checkpoints(out)
    path.write_bytes(edited(path.read_bytes(), sha256=None))
    assert train(out, model=Toy(3), resume=True, progress=True).run().step == 4
    assert f"{path.name} is of an earlier version without a checksum: not verified" in capsys.readouterr().err
