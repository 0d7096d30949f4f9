"""The training loop."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lucid
import numpy as np
from lucid.nn import Module

from ..config import ImageConfig
from ..weights import save_weights
from .checkpoints import check_folder, checkpoint_path, find_checkpoints, prune, remove_leftovers
from .console import Console
from .curves import draw_curves
from .divergence import DivergenceError, first_bad, save_batches
from .ema import EMA
from .gradients import GradientMean, clip_gradients
from .interruption import Interrupted, Interruption
from .log import RunLog
from .reporting import Report
from .settings import LR_PER_IMAGE, TrainerSettings
from .sgd import SGD, decay_groups
from .state import RunState, changes, describe, load_state, save_state, taken_over
from .tensorboard import EventLog, is_installed
from .workers import WorkerPool, check_processes

__all__ = ["BatchSource", "TrainResult", "Trainer"]

_ENDLESS = 2**40  # steps: of a run limited by time

type Part = tuple[int, dict[str, float]]  # of a step: the images of a batch and its losses


class BatchSource(Protocol):
    """What a trainer needs of a loader: ``lucid_maskrcnn.data.Loader`` is one."""

    batch_size: int

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the batches ``start`` to ``stop - 1``, the same at every call.

        Each has ``images`` and ``targets``, as :meth:`MaskRCNN.get_loss` takes them, and ``image_ids``.
        """


@dataclass(frozen=True)
class TrainResult:
    """What has become of a run.

    Attributes
    ----------
    step, seconds : int, float
        Its length.
    metrics : dict of str to float
        Of the last evaluation; empty if there was none.
    weights : Path
        The file of the weights at the end.
    best_weights : Path, optional
        The file of the weights with the highest ``keep_best``.
    best : float, optional
        That figure.
    """

    step: int
    seconds: float
    metrics: dict[str, float]
    weights: Path
    best_weights: Path | None
    best: float | None


class Trainer:
    """Trains a model, and loses nothing on the way.

    The folder ``out`` gets ``log.jsonl`` (a line for each step and each evaluation), checkpoints,
    ``weights.safetensors`` at the end and ``best.safetensors`` if asked for, ``curves.png`` if matplotlib
    is installed and event files if TensorBoard is. On cpu a run of given steps gives the same weights on
    every repetition, bit for bit, in one go or resumed.

    Parameters
    ----------
    model : MaskRCNN
        Or any module with such a ``get_loss``. Parameters with ``requires_grad=False`` stay as they are.
    loader : BatchSource
        Such as :class:`lucid_maskrcnn.data.Loader`.
    out : str or Path
        Folder of the run, created if need be.
    settings : TrainerSettings
        What is done.
    image_config : ImageConfig, optional
        How images are resized and normalised in training, by default as in prediction; see ``get_loss``.
    evaluate : callable, optional
        Takes the model and returns metrics by name, like ``{"segm/AP": 0.31}``.
    resume : bool or "auto"
        True goes on from the newest checkpoint in ``out``, False begins, "auto" does what is possible.
    allow_changes : bool
        Whether a resumed run may have other settings than it began with; they are named. Otherwise only its
        length may grow, and what concerns checkpoints and evaluations may change.
    progress : bool
        Whether to show a progress bar, or in a file lines, on stderr.
    tensorboard : bool, optional
        Whether to write event files; by default if TensorBoard is installed.

    Raises
    ------
    ValueError
        If an argument contradicts another, or ``out`` holds another run, or none to resume.
    """

    def __init__(
        self,
        model: Module,
        loader: BatchSource,
        *,
        out: str | Path,
        settings: TrainerSettings,
        image_config: ImageConfig | None = None,
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
        resume: bool | str = False,
        allow_changes: bool = False,
        progress: bool = True,
        tensorboard: bool | None = None,
    ) -> None:
        self.model, self.loader, self.out = model, loader, Path(out)
        self.image_config = image_config
        self.evaluate, self.resume = evaluate, resume
        self._shown = progress
        self._tensorboard = is_installed() if tensorboard is None else tensorboard
        if self._tensorboard and not is_installed():
            raise ValueError("tensorboard=True needs TensorBoard: pip install tensorboard.")
        if evaluate is None and (settings.keep_best or settings.eval_every):
            raise ValueError("keep_best and eval_every need evaluate, a function of the model.")

        checkpoint = check_folder(self.out, resume)
        if checkpoint:
            settings = taken_over(settings, checkpoint)
        images = loader.batch_size * settings.accumulate
        self._notes = [] if settings.lr else [f"learning rate {LR_PER_IMAGE * images:g}: {LR_PER_IMAGE:g} × {images}"]
        self.settings = settings.completed(images)
        check_processes(self.settings.processes, model)
        if checkpoint:
            self._notes += changes(checkpoint, self._description(), allowed=allow_changes)

        trained = [p for p in model.parameters() if p.requires_grad]
        decay = self.settings.weight_decay
        groups = trained if self.settings.decay_norms else decay_groups(trained, decay)
        self.optimizer = SGD(groups, self.settings.lr or 0.0, self.settings.momentum, decay)
        self.ema: EMA | None = None
        self.workers: WorkerPool | None = None
        self._own: Iterator[Sequence[Any]] | None = None  # in a worker: what is left of its shards
        self.state = RunState()
        self._saved: tuple[int, int] | None = None  # the step of the last checkpoint, and of its last evaluation

    # -------------------------------------------------------------- the loop

    def run(self) -> TrainResult:
        """Train to the end, and write the weights.

        Returns
        -------
        TrainResult
            The model has the weights of its file then, and is in evaluation mode.

        Raises
        ------
        Interrupted
            On Ctrl-C (SIGINT) or SIGTERM, after the step at hand and with a checkpoint. It is a
            ``KeyboardInterrupt``, which ends a script with code 130. A second Ctrl-C ends it at once.
        DivergenceError
            If a loss, the gradients or the weights are not finite. The last checkpoint is from before, and
            the batch is in ``diverged-<step>.npz``.
        ValueError
            If ``out`` is in use by another run, or a target is not as it must be.
        OSError
            If a file cannot be written, or one of several processes is lost (a ``ChildProcessError``).
        """
        with ExitStack() as stack:
            self._begin(stack)
            interruption = stack.enter_context(Interruption())
            batches = self._batches(stack)
            while True:
                finished = self._is_finished()
                if self._evaluation_is_due(finished):
                    self._evaluate(interruption)
                    finished = self._is_finished()
                if finished:
                    break
                self._step(batches)
                if interruption.requested or self.state.step % self.settings.save_every == 0:
                    self._save()
                if interruption.requested:
                    raise self._interrupted()
            return self._finish()

    def _step(self, batches: Iterator[Sequence[Any]]) -> None:
        """Take one step of the optimiser."""
        settings, state, begun = self.settings, self.state, time.perf_counter()
        group = self._next(batches)
        progress = self._progress()
        self._freeze_bn_when_due(progress)
        lr = self._set_rate(settings.rates.factor(state.step, progress))
        parts = self._gradients(group)
        losses = {name: math.fsum(part[name] for _, part in parts) / len(parts) for name in parts[0][1]}
        norm = clip_gradients(self.optimizer.params, settings.max_grad_norm or math.inf)
        if not math.isfinite(norm):
            self._require_finite({"the norm of the gradients": norm}, self._with_those_of_helpers(group))
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model)
        state.step += 1
        speed = sum(images for images, _ in parts) / (time.perf_counter() - begun)
        metrics = {"lr": lr, **losses, "norm": norm, "images_per_s": round(speed, 3)}
        with self._writing():
            self._report.step(state.step, self._seconds(), metrics, self._done())

    def _gradients(self, group: Sequence[Any]) -> list[Part]:
        """Leave the mean gradient of all batches of this step in the parameters, of which ``group`` are our shard."""
        mean = GradientMean(self.optimizer.params)
        if self.workers is None:
            parts = self._backward(group, 0, mean)
        else:
            self.workers.begin(self.state.step, self.state.bn_frozen)
            with self.workers.limit_threads():
                parts = self._backward(group, 0, mean)
            parts += self.workers.finish(mean)
        mean.assign_mean()
        return parts

    def _backward(self, group: Sequence[Any], place: int, mean: GradientMean) -> list[Part]:
        """Give ``mean`` the gradients of some batches, the first of which is number ``place`` of this step."""
        parts = []
        self.optimizer.zero_grad()
        for number, batch in enumerate(group, self.state.step * self.settings.accumulate + place):
            lucid.random.seed(self.settings.seed + number)  # the samplers draw from it: a resumed run draws the same
            losses = self._losses(batch)
            parts.append((len(batch.images), {name: float(loss.item()) for name, loss in losses.items()}))
            self._require_finite(parts[-1][1], [batch])
            losses["total_loss"].backward()
            mean.accumulate()
        return parts

    def _work(self, number: int, step: int, bn_frozen: bool, mean: GradientMean) -> list[Part]:
        """Compute the shard of worker ``number`` in a step: this runs in its process."""
        self.state.step, self.state.bn_frozen = step, bn_frozen
        self._set_mode()
        if self._own is None:
            self._own = self._shard_batches(number, step)
        return self._backward(self._complete(next(self._own), number), self._shard(number)[0], mean)

    # -------------------------------------------------------------- parts of a step

    def _losses(self, batch: Any) -> Any:
        try:
            sized = {} if self.image_config is None else {"image_config": self.image_config}
            return self.model.get_loss(batch.images, batch.targets, **sized)
        except ValueError as error:
            raise ValueError(f"Step {self.state.step + 1}, images {list(batch.image_ids)}: {error}") from error

    def _batches(self, stack: ExitStack) -> Iterator[Sequence[Any]]:
        """Yield the batches of each step that is left."""
        count, last = self.settings.accumulate, self.settings.steps or _ENDLESS
        if self.workers is not None:
            shard = self._shard_batches(0, self.state.step)
            stack.callback(shard.close)
            return shard
        single = self.loader.iterate(self.state.step * count, last * count)
        stack.callback(getattr(single, "close", lambda: None))  # ends a generator's threads
        return itertools.batched(single, count)

    def _shard_batches(self, number: int, start: int) -> Generator[Sequence[Any]]:
        """Yield the batches that a process computes of each step, loaded by a thread during the step before."""
        own, last = self._shard(number), self.settings.steps or _ENDLESS
        with ThreadPoolExecutor(1, thread_name_prefix="lucid_maskrcnn_shard") as pool:
            ahead = pool.submit(self._load, start, *own)
            for step in range(start, last):
                group = ahead.result()
                if step + 1 < last:
                    ahead = pool.submit(self._load, step + 1, *own)
                yield group

    def _load(self, step: int, first: int, stop: int) -> tuple[Any, ...]:
        """Return the batches ``first`` to ``stop - 1`` of a step."""
        count = self.settings.accumulate
        return tuple(self.loader.iterate(step * count + first, step * count + stop))

    def _shard(self, number: int) -> tuple[int, int]:
        """Return which batches of a step a process computes, 0 being this one: the first, and the one behind."""
        count, processes = self.settings.accumulate, self.settings.processes
        return count * number // processes, count * (number + 1) // processes

    def _with_those_of_helpers(self, group: Sequence[Any]) -> Sequence[Any]:
        return group if self.workers is None else self._load(self.state.step, 0, self.settings.accumulate)

    def _next(self, batches: Iterator[Sequence[Any]]) -> Sequence[Any]:
        return self._complete(next(batches, ()), 0)

    def _complete(self, group: Sequence[Any], number: int) -> Sequence[Any]:
        """Return the batches of a process's shard if all are there."""
        first, stop = self._shard(number)
        if len(group) < stop - first:
            raise ValueError(
                f"The loader has no batches for step {self.state.step + 1}: iterate(start, stop) must yield "
                "stop - start of them."
            )
        return group

    def _freeze_bn_when_due(self, progress: float) -> None:
        """Put the model into the mode of this part of the run."""
        bn_frozen = self.settings.freeze_bn_after is not None and progress >= self.settings.freeze_bn_after
        if bn_frozen and not self.state.bn_frozen and self.settings.ema is not None:
            self.ema = EMA(self.model, self.settings.ema)  # what was averaged so far are weights of another kind
        self.state.bn_frozen = bn_frozen
        self._set_mode()

    def _set_mode(self) -> None:
        self.model.train()
        for module in self.model.modules() if self.state.bn_frozen else ():
            if hasattr(module, "running_mean"):
                module.eval()

    def _set_rate(self, factor: float) -> float:
        lr = (self.settings.lr or 0.0) * factor
        for group in self.optimizer.groups:
            group["lr"] = lr
        return lr

    def _require_finite(self, values: Mapping[str, float], group: Sequence[Any]) -> None:
        """Stop over a number that is none, before anything of its step is kept."""
        term = first_bad(values)
        if term is None:
            return
        ids = [i for batch in group for i in batch.image_ids]
        aside = self.out / f"diverged-{self.state.step + 1:08}.npz"
        kept = f", kept in {aside.name}"
        try:
            save_batches(aside, group)
        except OSError:  # the disk is full: that is the lesser trouble
            kept = ""
        raise self._diverged(f"{term} is {values[term]} for the images {ids}{kept}", term, ids)

    def _diverged(self, what: str, term: str, ids: Sequence[Any]) -> DivergenceError:
        found, step = find_checkpoints(self.out), self.state.step + 1
        last = f"the last checkpoint is {found[0].name}" if found else "there is no checkpoint yet"
        remedy = f"try a lower learning rate than {self.settings.lr:g}"
        return DivergenceError(f"Step {step}: {what}; {last}; {remedy}.", step, term, ids)

    # -------------------------------------------------------------- evaluation

    def _evaluation_is_due(self, finished: bool) -> bool:
        step, every = self.state.step, self.settings.eval_every
        if self.evaluate is None or step in (0, self.state.evaluated):
            return False
        return finished or (every is not None and step % every == 0)

    def _evaluate(self, interruption: Interruption) -> None:
        assert self.evaluate is not None
        self._save()  # it takes long, and is code of others
        self.model.eval()
        try:
            with self._kept_weights(), interruption.at_once():
                metrics = {name: float(value) for name, value in self.evaluate(self.model).items()}
        except KeyboardInterrupt:
            if interruption.requested:
                raise self._interrupted() from None
            raise
        self._note_best(metrics)
        self.state.evaluated, self.state.metrics = self.state.step, metrics
        with self._writing():
            self._report.evaluation(self.state.step, self._seconds(), metrics)
        self._save()

    def _note_best(self, metrics: Mapping[str, float]) -> None:
        name, state = self.settings.keep_best, self.state
        if name is None:
            return
        if name not in metrics:
            raise ValueError(f"keep_best is {name!r}, but the evaluation gives {', '.join(metrics) or 'nothing'}.")
        if not metrics[name] > (-math.inf if state.best is None else state.best):  # it may be no number
            state.stale += 1
            return
        state.best, state.best_step, state.stale = metrics[name], state.step, 0
        with self._kept_weights():
            self._write_weights("best.safetensors", metrics)

    def _kept_weights(self) -> AbstractContextManager[None]:
        """Let the model have the weights that are evaluated and kept: the averages, if there are any."""
        return self.ema.applied(self.model) if self.ema else nullcontext()

    # -------------------------------------------------------------- length

    def _progress(self) -> float:
        """Return the fraction of the run that is done."""
        if self.settings.steps is not None:
            return self.state.step / self.settings.steps
        return min(1.0, self._seconds() / (60 * (self.settings.minutes or 1)))  # half a cosine would rise again

    def _done(self) -> float:
        """Return what the progress bar counts."""
        return self._seconds() if self.settings.steps is None else self.state.step

    def _is_finished(self) -> bool:
        patience = self.settings.patience
        return self._progress() >= 1 or (patience is not None and self.state.stale >= patience)

    def _seconds(self) -> float:
        return time.perf_counter() - self._clock

    # -------------------------------------------------------------- beginning and end

    def _begin(self, stack: ExitStack) -> None:
        """Take the folder, and the state that is in it."""
        settings = self.settings
        self.out.mkdir(parents=True, exist_ok=True)
        if settings.processes > 1:  # before the log is open: a worker that outlives us must not keep its lock
            self.workers = WorkerPool(self.model, self.optimizer.params, settings.processes - 1, self._work)
            stack.callback(self.workers.close)
        log = RunLog(self.out / "log.jsonl")
        stack.callback(log.close)
        checkpoint = check_folder(self.out, self.resume)
        remove_leftovers(self.out)
        if settings.ema is not None:
            self.ema = EMA(self.model, settings.ema)
        if checkpoint:
            self.state = load_state(checkpoint, self.model, self.optimizer, self.ema)
            self._saved = self.state.step, self.state.evaluated
        log.truncate(self.state.step)
        self._clock = time.perf_counter() - self.state.seconds
        limit, unit = (settings.steps, "steps") if settings.steps else (60 * (settings.minutes or 0), "s")
        console = Console(limit, unit, self._done(), shown=self._shown)
        stack.callback(console.close)
        events = EventLog(self.out, self.state.step) if self._tensorboard else None
        if events:
            stack.callback(events.close)
        self._report = Report(log, console, events)
        for note in [*([f"resumed from {checkpoint.name}"] if checkpoint else []), *self._notes]:
            self._report.say(note)

    def _finish(self) -> TrainResult:
        """Leave the weights and the curves."""
        state = self.state
        self._save()
        if self.ema:
            self.ema.apply(self.model)
        self.model.eval()
        weights = self._write_weights("weights.safetensors", state.metrics)
        try:
            with self._writing():
                draw_curves(self.out / "log.jsonl", self.out / "curves.png")
        except (ImportError, ValueError) as error:  # there is no matplotlib, or was no time for a step
            self._report.say(f"no curves.png: {error}")
        best = self.out / "best.safetensors" if state.best_step else None
        return TrainResult(state.step, self._seconds(), state.metrics, weights, best, state.best)

    def _interrupted(self) -> Interrupted:
        where = f"with a checkpoint in {str(self.out)!r}"
        return Interrupted(f"Stopped after step {self.state.step}, {where}; resume=True goes on from it.")

    # -------------------------------------------------------------- files

    def _save(self) -> None:
        """Write a checkpoint, unless there is one of just this, and after it delete those that are one too many."""
        if self._saved == (self.state.step, self.state.evaluated):
            return
        self.state.seconds = self._seconds()
        numbers = {**self._description(), "state": dataclasses.asdict(self.state)}
        path = checkpoint_path(self.out, self.state.step)
        with self._writing():
            self._report.sync()
            save_state(path, self.model, self.optimizer, self.ema, numbers, self._inspect)
            prune(self.out, self.settings.keep_last)
        self._saved = self.state.step, self.state.evaluated

    def _inspect(self, name: str, array: np.ndarray) -> None:
        if not np.isfinite(array).all():
            raise self._diverged(f"{name} is not finite any more", name, [])

    def _description(self) -> dict[str, Any]:
        return describe(self.settings, self.loader, self.model, self.image_config)

    def _write_weights(self, name: str, metrics: Mapping[str, float]) -> Path:
        known = {name: value for name, value in metrics.items() if math.isfinite(value)}
        with self._writing():
            save_weights(
                self.model,
                self.out / name,
                metadata={"steps": str(self.state.step), "metrics": json.dumps(known)},
            )
        return self.out / name

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make one sentence of what the disk says."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"Cannot write into {str(self.out)!r}: {error.strerror or error}. The files there are whole; resume "
                "once there is room."
            ) from error
