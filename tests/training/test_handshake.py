"""What the ranks of a group compare and share before the first step."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import Any

import lucid
import numpy as np
import pytest
from thread_groups import ThreadGroup, in_threads
from tiny_runs import Squares, Toy, set_grad, toy_settings, toy_trainer

from lucid_maskrcnn.training import EMA, SGD, DivergenceError, Trainer
from lucid_maskrcnn.training.groups import SingleGroup, exchange, share
from lucid_maskrcnn.training.handshake import check_same_weights, on_main, threads_per_rank
from lucid_maskrcnn.training.run_state import RunState
from lucid_maskrcnn.training.shared_errors import error_from_message, message_of_error
from lucid_maskrcnn.training.state_sharing import share_state


def test_messages_of_any_length_reach_all() -> None:
    messages = [b"", bytes(range(256)) * 9, b"\x00\xff"]
    assert in_threads(3, lambda group: exchange(group, messages[group.rank])) == [messages] * 3
    assert in_threads(2, lambda group: share(group, b"of 0" if group.rank == 0 else None)) == [b"of 0"] * 2
    assert share(SingleGroup(), b"own") == b"own"


def trainers(out: Path, *changes: dict[str, Any]) -> list[Any]:
    """Make a trainer on each rank, with changes of its own."""
    models = [change.pop("model", None) or Toy() for change in changes]  # Lucid's generator is one for all threads

    def make(group: ThreadGroup) -> Trainer:
        return toy_trainer(out, group=group, model=models[group.rank], **changes[group.rank])

    return in_threads(len(changes), make)


def test_equal_ranks_shake_hands(tmp_path: Path) -> None:
    made = trainers(tmp_path, {}, {})
    assert [type(trainer) for trainer in made] == [Trainer] * 2
    assert made[0].settings == made[1].settings


class Named(Squares):
    """With a data set."""

    def __init__(self, *ids: int) -> None:
        super().__init__(2, side=8)
        self.dataset = _Dataset(list(ids))


@dataclasses.dataclass
class _Dataset:
    image_ids: list[int]

    def __len__(self) -> int:
        return len(self.image_ids)


def fine_tuned() -> Toy:
    model = Toy()
    model.pretrained = True
    return model


def frozen() -> Toy:
    model = Toy()
    model.first.bias.requires_grad = False
    return model


def double() -> Toy:
    model = Toy()
    model.first.bias.data = model.first.bias.data.astype(np.float64)
    return model


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"settings": toy_settings(lr=0.1)}, "settings.lr is 0.1 and 0.05 there"),
        ({"settings": toy_settings(seed=3)}, "settings.seed is 3 and 0 there"),
        ({"settings": toy_settings(accumulate=3)}, "settings.accumulate is 3 and 2 there"),
        ({"settings": toy_settings(41)}, "settings.steps is 41 and 40 there"),
        ({"loader": Squares(3, side=8)}, "data.batch_size is 3 and 2 there"),
        ({"loader": Squares(2, seed=1, side=8)}, "data.seed is 1 and 0 there"),
        ({"loader": Named(1, 2)}, "data.images is 2 and absent there"),
        (
            {"model": Toy(side=4)},
            "model.hidden.weight is '(16, 48) float32 trained' and '(16, 192) float32 trained' there",
        ),
        ({"model": Toy(norm=False)}, "model.norm.running_mean is absent and '(192,) float32' there"),
        ({"model": frozen()}, "model.first.bias is '(2,) float32' and '(2,) float32 trained' there"),
        ({"model": double()}, "model.first.bias is '(2,) float64 trained' and '(2,) float32 trained' there"),
        ({"model": fine_tuned()}, "fine-tuning is True and False there"),
        ({"evaluate": lambda _: {"score": 1.0}}, "evaluate is True and False there"),
    ],
)
def test_what_differs_is_refused_on_all_ranks(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    found = trainers(tmp_path, {}, change)
    assert [type(error) for error in found] == [ValueError] * 2
    here = socket.gethostname()
    assert {str(error).partition(": ")[0] for error in found} == {f"Rank 1 on {here} differs from rank 0 on {here}"}
    assert all(problem in str(error) and "All ranks must train the same." in str(error) for error in found)
    assert not list(tmp_path.iterdir())


def test_other_images_of_the_same_number_are_refused(tmp_path: Path) -> None:
    found = trainers(tmp_path, {"loader": Named(1, 2)}, {"loader": Named(1, 3)})
    assert all("data.image_ids is " in str(error) for error in found)


def test_other_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["2.9.0", "2.9.1"])
    monkeypatch.setattr(
        "lucid_maskrcnn.training.handshake._versions", lambda: {"lucid-dl": next(answers), "numpy": np.__version__}
    )
    found = trainers(tmp_path, {}, {})
    assert all("lucid-dl is '2.9." in str(error) for error in found)


def test_another_number_of_blas_threads_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([[1], [2]])
    monkeypatch.setattr("lucid_maskrcnn.training.handshake._blas_threads", lambda: next(answers))
    with pytest.warns(UserWarning, match=r"The ranks have different values of BLAS threads \(\[[12]\], \[[12]\]\)"):
        trainers(tmp_path, {}, {})


def test_rank_0_alone_looks_at_the_folder(tmp_path: Path) -> None:
    toy_trainer(tmp_path, toy_settings(2)).run()
    found = trainers(tmp_path, {}, {})
    assert [type(error) for error in found] == [ValueError] * 2
    assert all("holds a run already" in str(error) for error in found)


# ------------------------------------------------------------------ sharing


def test_the_state_of_rank_0_becomes_that_of_all() -> None:
    def build(group: ThreadGroup) -> Any:
        return states[group.rank]

    def make(rank: int) -> Any:
        lucid.random.seed(rank)
        model = Toy(seed=rank)
        optimizer, ema = SGD(list(model.parameters()), 0.1, 0.9), EMA(model)
        if rank == 0:
            for p in list(model.parameters())[:3]:
                set_grad(p, np.ones(p.shape))
            optimizer.step()
            ema.update(model)
        return model, optimizer, ema, RunState(step=7 * (1 - rank), seconds=1.5)

    states = [make(rank) for rank in range(2)]

    def share_it(group: ThreadGroup) -> RunState:
        model, optimizer, ema, state = build(group)
        return share_state(group, state, model, optimizer, ema)

    assert in_threads(2, share_it) == [RunState(step=7, seconds=1.5)] * 2
    (model, optimizer, ema, _), (other, other_optimizer, other_ema, _) = states
    for (name, a), b in zip(
        model.state_dict(keep_vars=True).items(), other.state_dict(keep_vars=True).values(), strict=True
    ):
        np.testing.assert_array_equal(a.data, b.data, err_msg=name)
    for a, b in zip(optimizer.slots["momentum"], other_optimizer.slots["momentum"], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert optimizer.counts == other_optimizer.counts
    assert ema.updates == other_ema.updates == 1
    for name, average in ema.averages.items():
        np.testing.assert_array_equal(average, other_ema.averages[name])


def test_what_rank_0_returns_or_raises_is_everywhere() -> None:
    def ten(group: ThreadGroup) -> Any:
        return on_main(group, lambda: {"n": 10 + group.rank})

    def wrong(group: ThreadGroup) -> Any:
        def fail() -> None:
            raise FileNotFoundError(2, "No such file", "somewhere")

        return on_main(group, fail)

    assert in_threads(3, ten) == [{"n": 10}] * 3
    found = in_threads(2, wrong)
    assert [type(error) for error in found] == [FileNotFoundError] * 2
    assert found[1].filename == "somewhere"


def test_weights_that_have_parted_are_found() -> None:
    models = [Toy(), Toy()]
    assert in_threads(2, lambda group: check_same_weights(group, models[group.rank], 3)) == [None, None]
    models[1].first.bias.data[0] += np.float32(1e-7)
    found = in_threads(2, lambda group: check_same_weights(group, models[group.rank], 3))
    assert all("Step 3: the weights of rank 1 are no longer those of rank 0" in str(error) for error in found)


def test_ranks_of_a_machine_share_its_cores() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert threads_per_rank(SingleGroup()) is None
    assert in_threads(2, threads_per_rank) == [max(1, cores // 2)] * 2


class _OwnError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("a"), ValueError, "a"),
        (KeyError("a"), KeyError, ""),
        (OSError(28, "No space left on device", "x"), OSError, "[Errno 28] No space left on device: 'x'"),
        (_OwnError("a"), RuntimeError, "_OwnError: a"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), RuntimeError, "UnicodeDecodeError: 'utf-8' codec"),
        (DivergenceError("m", 3, "t", [1, "b"]), DivergenceError, "m"),
    ],
)
def test_errors_travel_as_text(error: Exception, kind: type, text: str) -> None:
    found = error_from_message(json.loads(json.dumps(message_of_error(error))))
    assert type(found) is kind
    assert str(found).startswith(text)
    if isinstance(found, DivergenceError):
        assert (found.step, found.term, found.image_ids) == (3, "t", [1, "b"])
