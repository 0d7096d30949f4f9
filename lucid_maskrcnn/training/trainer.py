"""The training loop."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lucid.nn import Module
from threadpoolctl import ThreadpoolController

from ..atomic import remove_leftovers
from ..call_answers import answers_wrong_calls
from ..config import ImageConfig
from ..models import MaskRCNN
from ..models.losses import check_loss_weights, class_weight_row
from ..reprs import brief, described, fields_repr
from ..user_warnings import warn_user
from ..validators import flag, instance, nearest, optional, path, positive_int, shown
from ..weights import save_weights
from .adamw import AdamW
from .batch_gradients import BatchGradients
from .batch_sheet import MOST_IMAGES, draw_batches
from .callbacks import Callback, check_callbacks, end_callbacks
from .checkpoints import check_folder, check_resume, checkpoint_path, prune
from .console import Console
from .curves import draw_curves
from .divergence import DivergenceError, DivergenceGuard
from .ema import EMA
from .gradients import clip_gradients
from .groups import Group, SingleGroup
from .handshake import check_group, check_same_weights, on_main, shake_hands, threads_per_rank
from .interruption import Interrupted, Interruption
from .log import RunLog, is_better
from .optimizer import Optimizer
from .reporting import NoReport, Report
from .run_state import RunState
from .settings import TrainerSettings
from .sgd import SGD, decay_groups
from .shared_steps import StepResult
from .state import changes, chosen, describe, describe_data, load_state, save_state, taken_over
from .state_sharing import share_state
from .step_batches import BatchSource, StepBatches
from .tensorboard import EventLog, is_installed
from .workers import check_processes, start_workers

__all__ = ["TrainResult", "Trainer"]

_ENDLESS = 2**40  # steps: of a run limited by time


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes
    ----------
    step, seconds : int, float
        Length of the run.
    metrics : dict of str to float
        Of the last evaluation; empty if there was none.
    metrics_before : dict of str to float
        Of the weights that the run started from; empty if they were not evaluated.
    weights : Path
        File of the weights at the end.
    best_weights : Path, optional
        File of the weights with the highest ``keep_best``.
    best : float, optional
        The highest value of ``keep_best``; the lowest, if that is a loss.
    stopped_early : bool
        Whether ``patience`` ended the run before its length.
    best_step : int
        Step of ``best``; 0 if there is none, or it is that of the weights that the run started from.
    """

    __repr__ = fields_repr

    step: int
    seconds: float
    metrics: dict[str, float]
    weights: Path
    best_weights: Path | None
    best: float | None
    metrics_before: dict[str, float] = dataclasses.field(default_factory=dict)
    stopped_early: bool = False
    best_step: int = 0


@answers_wrong_calls
class Trainer:
    """Trains a model; a run that was stopped or killed can be resumed.

    The folder ``out`` gets ``log.jsonl`` (a line for each step and each evaluation), checkpoints,
    ``weights.safetensors`` at the end and ``best.safetensors`` if ``keep_best`` is set, ``batches.png`` with the first
    images as they are augmented and their targets, ``curves.png`` if matplotlib is installed and event files if
    TensorBoard is. On cpu a run of given steps gives the same weights on every repetition, bit for bit, in one go or
    resumed.

    Parameters
    ----------
    model : MaskRCNN
        Or any module with such a ``get_loss``. Parameters with ``requires_grad=False`` stay as they are.
    loader : BatchSource
        Such as :class:`lucid_maskrcnn.data.Loader`.
    out : str or Path
        Folder of the run, created if needed.
    settings : TrainerSettings
        Length of the run, optimizer, and what is kept.
    image_config : ImageConfig, optional
        How images are resized and normalized in training, by default as in prediction; see ``get_loss``.
    evaluate : callable, optional
        Takes the model and returns metrics by name, such as ``{"segm/AP": 0.31}``. If it has an attribute
        ``metric_names``, ``keep_best`` is checked before the run. A model that started from weights of a detector is
        evaluated before the first step, too: a run that does not lead beyond them says so at its end, and
        ``best.safetensors`` has them.
    resume : bool or "auto"
        True continues from the newest checkpoint in ``out``, False starts a new run, "auto" continues if there is a
        checkpoint.
    allow_changes : bool
        Whether a resumed run may have other settings than it began with; they are named. Otherwise only its
        length may grow, and settings of checkpoints and evaluations may change.
    progress : bool
        Whether to show a progress bar, on stderr or in a notebook, or lines if stderr is a file.
    tensorboard : bool, optional
        Whether to write event files; by default if TensorBoard is installed.
    callbacks : sequence of Callback
        What is called after each step, after each evaluation and at the end, such as :class:`WandbCallback` and
        :class:`MLflowCallback`. An exception of theirs stops the run with a checkpoint, as one of ``evaluate`` does.
    group : Group, optional
        The processes that train together, as :func:`init_group` returns it: each of them makes this trainer with the
        same model, loader and settings, and computes its share of the ``accumulate`` batches of each step. On cpu the
        weights are those of one process, bit for bit, if batch norm is frozen and BLAS has as many threads. Rank 0
        alone reads and writes ``out``, evaluates, reports and calls the callbacks. How many ranks there are may change
        when a run is resumed.

    Attributes
    ----------
    settings : TrainerSettings
        With the defaults of the learning rate and the warm-up filled in.
    state : RunState
        Step, time, and metrics so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above or contradicts another, or ``out`` holds another run, or none to resume; if
        another rank of the group has another model, other data, settings or versions.
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
        callbacks: Sequence[Callback] = (),
        group: Group | None = None,
    ) -> None:
        _check_model(model)
        _check_loader(loader)
        instance("settings", settings, TrainerSettings, "TrainerSettings, such as TrainerSettings(steps=1000)")
        _check_evaluation(evaluate, settings)
        self._loss_options = _loss_options(model, settings)
        self.group = SingleGroup() if group is None else check_group("group", group)
        self.model, self.loader, self.out = model, loader, path("out", out)
        self._fine_tuning: bool = getattr(model, "pretrained", False)
        self._data = describe_data(loader)
        self.image_config = optional(_image_config)("image_config", image_config)
        self.evaluate, self.resume = evaluate, check_resume(resume)
        self._show_progress = flag("progress", progress)
        self._tensorboard = _with_tensorboard(tensorboard)
        self.callbacks = check_callbacks(callbacks) if self._is_main else ()
        self._notes: list[str] = []
        more = {"evaluate": evaluate is not None, "fine-tuning": self._fine_tuning}
        shake_hands(self.group, {**self._description(settings), **more}, model)
        _check_size(self.group, settings)
        self.settings = self._completed(settings, allow_changes=flag("allow_changes", allow_changes))
        self._lr_schedule = self.settings.lr_schedule
        self.optimizer = self._make_optimizer()
        self.ema: EMA | None = None
        self.state = RunState()
        self._saved: tuple[int, int] | None = None  # the step of the last checkpoint, and of its last evaluation

    @described
    def __repr__(self) -> str:
        settings = self.settings
        length = f"{settings.steps} steps" if settings.steps else f"{settings.minutes} minutes"
        optimizer = f"{settings.optimizer}, lr={settings.lr:g}, {settings.schedule}"
        evaluation = f"every {settings.eval_every} steps" if settings.eval_every else "at the end"
        evaluation = evaluation if self.evaluate is not None else "none"
        lines = [
            f"model      {type(self.model).__name__} on {self.model.device}",
            f"data       {brief(self.loader, longest=100)}",
            f"length     {length}, {self.state.step} steps done",
            f"optimizer  {optimizer}, warm-up of {settings.warmup} steps",
            f"evaluation {evaluation}",
            f"out        {str(self.out)!r}",
        ]
        return "\n  ".join(["Trainer(", *lines]) + "\n)"

    @property
    def _is_main(self) -> bool:
        """Whether this rank reads and writes the folder, evaluates and reports."""
        return self.group.rank == 0

    # -------------------------------------------------------------- the loop

    def run(self) -> TrainResult:
        """Train to the end, and write the weights.

        Returns
        -------
        TrainResult
            Afterwards the model has the weights of the file, and is in evaluation mode.

        Raises
        ------
        Interrupted
            On Ctrl-C (SIGINT) or SIGTERM, after the current step and with a checkpoint. It is a
            ``KeyboardInterrupt``, which ends a script with code 130. A second Ctrl-C ends it at once.
        DivergenceError
            If a loss, the gradients or the weights are not finite. The last checkpoint is from before, and
            the batch is in ``diverged-<step>.npz``.
        TypeError, ValueError
            If ``out`` is in use by another run, its checkpoint is damaged, or a batch or the losses are not as they
            must be.
        OSError
            If a file cannot be written, or one of several processes has ended (a ``ChildProcessError``).
        GroupError
            If another rank of the group has ended, does not answer, or has stopped. There is a checkpoint of the last
            step, if this is rank 0.
        Exception
            What the data set raises, or an evaluation. There is a checkpoint of the last step then.
        """
        try:
            result = self._run()
            self.group.barrier()  # the files are written
        except BaseException as error:
            for other in end_callbacks(self.callbacks, None):
                error.add_note(f"A callback's on_end raised {type(other).__name__}: {other}")
            raise
        raised = end_callbacks(self.callbacks, result)
        if raised:
            raise raised[0]
        return result

    def _run(self) -> TrainResult:
        with ExitStack() as stack:
            self._begin(stack)
            interruption = stack.enter_context(Interruption())
            if self._is_main:
                self._draw_batches()
            if self.evaluate is not None and self._fine_tuning and self.state.step == 0:
                self._evaluate(interruption)
            while True:
                self._agree_on_time()
                finished = self._is_finished()
                if self._evaluation_is_due(finished):
                    self._evaluate(interruption)
                    finished = self._is_finished()  # by patience
                if finished:
                    break
                interrupted = self._step(interruption)
                if interrupted or self.state.step % self.settings.save_every == 0:
                    check_same_weights(self.group, self.model, self.state.step)
                    self._save()
                if interrupted:
                    raise self._interrupted()
            return self._finish()

    def _step(self, interruption: Interruption) -> bool:
        """Take one step of the optimizer, and return whether the run is to stop."""
        settings, state, start = self.settings, self.state, time.perf_counter()
        progress = self._progress()
        self._freeze_bn_when_due(progress)
        lr = self._set_lr(progress)
        computed = self._computed(interruption)  # and the mean gradients
        batch_losses = computed.losses
        if all(p.grad is None for p in self.optimizer.params):
            raise ValueError(
                f"Step {state.step + 1}: no parameter has a gradient, so that nothing would be learned: gradients are "
                "off (lucid.no_grad), or the total_loss of get_loss does not depend on the model."
            )
        norm = clip_gradients(self.optimizer.params, settings.max_grad_norm or math.inf)
        if not math.isfinite(norm):
            self._guard.check_values(state.step, {"the norm of the gradients": norm}, self._batches.load(state.step))
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model)
        state.step += 1
        num_images = sum(n for n, _ in batch_losses)
        losses = {
            name: math.fsum(values[name] for _, values in batch_losses) / len(batch_losses)
            for name in batch_losses[0][1]
        }
        speed = round(num_images / (time.perf_counter() - start), 3)
        metrics = {"lr": lr, **losses, "norm": norm, "images_per_s": speed}
        with self._file_errors():
            self._report.step(state.step, self._seconds(), metrics, self._done())
        with self._saved_if_it_raises():
            for callback in self.callbacks:
                callback.on_step(state.step, dict(metrics))
        return interruption.requested if self.group.size == 1 else computed.interrupted

    def _computed(self, interruption: Interruption) -> StepResult:
        """Compute the losses and gradients of a step; an error of the data leaves a checkpoint of the steps before."""
        with self._saved_if_it_raises():
            return self._workers.compute(
                self.state.step, bn_frozen=self.state.bn_frozen, interrupted=interruption.requested
            )

    @contextmanager
    def _saved_if_it_raises(self) -> Iterator[None]:
        """Write a checkpoint of the steps so far if the user's data or callbacks raise an error."""
        try:
            yield
        except (DivergenceError, Interrupted):
            raise
        except Exception:
            step = self.state.step
            if step and self._is_main:
                with suppress(OSError):  # the error that is raised is the one that stopped the run
                    self._save()
                    self._report.say(f"stopped after step {step}, with a checkpoint: resume continues from it")
            raise

    def _freeze_bn_when_due(self, progress: float) -> None:
        freeze_after = self.settings.freeze_bn_after
        frozen = freeze_after is not None and progress >= freeze_after
        if frozen and not self.state.bn_frozen and self.settings.ema is not None:
            self.ema = EMA(self.model, self.settings.ema)  # the weights so far belong to other statistics
        self.state.bn_frozen = frozen

    def _set_lr(self, progress: float) -> float:
        lr = (self.settings.lr or 0.0) * self._lr_schedule.factor(self.state.step, progress)
        for group in self.optimizer.groups:
            group["lr"] = lr
        return lr

    # -------------------------------------------------------------- evaluation

    def _evaluation_is_due(self, finished: bool) -> bool:
        step, every = self.state.step, self.settings.eval_every
        if self.evaluate is None or step in (0, self.state.evaluated):
            return False
        return finished or (every is not None and step % every == 0)

    def _evaluate(self, interruption: Interruption) -> None:
        assert self.evaluate is not None
        self._save()  # an evaluation takes long, and is the user's code
        self.model.eval()
        try:
            metrics = on_main(self.group, lambda: self._evaluated(interruption))
        except KeyboardInterrupt:
            if interruption.requested or not self._is_main:
                raise self._interrupted() from None
            raise
        if self.state.step == 0:
            self.state.metrics_before = metrics
        self._keep_best(metrics)
        self.state.evaluated, self.state.metrics = self.state.step, metrics
        with self._file_errors():
            self._report.evaluation(self.state.step, self._seconds(), metrics)
        self._save()
        with self._saved_if_it_raises():
            for callback in self.callbacks:
                callback.on_evaluation(self.state.step, dict(metrics))

    def _evaluated(self, interruption: Interruption) -> dict[str, float]:
        assert self.evaluate is not None
        with self._kept_weights(), interruption.at_once():
            return _checked_metrics(self.evaluate(self.model))

    def _keep_best(self, metrics: Mapping[str, float]) -> None:
        name, state = self.settings.keep_best, self.state
        if name is None:
            return
        _check_metric(name, metrics)
        if not (not math.isnan(metrics[name]) if state.best is None else is_better(name, metrics[name], state.best)):
            state.stale += 1  # also if it is NaN
            return
        state.best, state.best_step, state.stale = metrics[name], state.step, 0
        with self._kept_weights():
            self._write_weights("best.safetensors", metrics)

    def _kept_weights(self) -> AbstractContextManager[None]:
        """Give the model the weights that are evaluated and kept: the averages, if there are any."""
        return self.ema.applied(self.model) if self.ema else nullcontext()

    # -------------------------------------------------------------- length

    def _agree_on_time(self) -> None:
        """Have all ranks go by the clock of rank 0, where a run is limited by time."""
        if self.group.size > 1 and self.settings.steps is None:
            self._agreed_seconds = float(self.group.broadcast([np.array([self._seconds()])])[0][0])

    def _progress(self) -> float:
        """Return the fraction of the run that is done."""
        if self.settings.steps is not None:
            return self.state.step / self.settings.steps
        seconds = self._seconds() if self.group.size == 1 else self._agreed_seconds
        return min(1.0, seconds / (60 * (self.settings.minutes or 1)))  # beyond 1 a cosine would rise again

    def _done(self) -> float:
        """Return what the progress bar counts."""
        return self._seconds() if self.settings.steps is None else self.state.step

    def _is_finished(self) -> bool:
        return self._progress() >= 1 or self._patience_is_out()

    def _patience_is_out(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.stale >= patience

    def _seconds(self) -> float:
        return time.perf_counter() - self._clock

    # -------------------------------------------------------------- start and end

    def _completed(self, settings: TrainerSettings, *, allow_changes: bool) -> TrainerSettings:
        """Return the settings of this run, with defaults filled in and compared with those of the run to resume."""
        settings = dataclasses.replace(settings, **on_main(self.group, lambda: self._taken_over(settings)))
        images = self.loader.batch_size * settings.accumulate
        completed = settings.completed(images, fine_tuning=self._fine_tuning)
        if settings.lr is None:
            why = " (fine-tuning)" if self._fine_tuning else ""
            lr = completed.lr or 0.0
            how = "of AdamW" if settings.optimizer == "adamw" else f"{lr / images:g} × {images}"
            self._notes.append(f"learning rate {lr:g}: {how}{why}")
        check_processes(completed.processes, self.model, self.group)
        self._notes += on_main(self.group, lambda: self._changes(completed, allowed=allow_changes))
        return completed

    def _taken_over(self, settings: TrainerSettings) -> dict[str, Any]:
        """Return the settings that a run to resume has chosen."""
        checkpoint = check_folder(self.out, self.resume)
        return chosen(taken_over(settings, checkpoint) if checkpoint else settings)

    def _changes(self, settings: TrainerSettings, *, allowed: bool) -> list[str]:
        checkpoint = check_folder(self.out, self.resume)
        return changes(checkpoint, self._description(settings), allowed=allowed) if checkpoint else []

    def _make_optimizer(self) -> Optimizer:
        settings = self.settings
        decay, lr = settings.weight_decay or 0.0, settings.lr or 0.0
        # A module that is used twice lists its parameters twice.
        trained = list({id(p): p for p in self.model.parameters() if p.requires_grad}.values())
        groups = trained if settings.decay_norms else decay_groups(trained, decay)
        if settings.optimizer == "adamw":
            return AdamW(groups, lr, settings.betas, weight_decay=decay)
        return SGD(groups, lr, settings.momentum, decay)

    def _begin(self, stack: ExitStack) -> None:
        """Open the files of the run, and continue from its checkpoint if there is one."""
        threads = threads_per_rank(self.group)
        if threads is not None:
            stack.enter_context(ThreadpoolController().limit(limits=threads, user_api="blas"))
        if self._is_main:
            self.out.mkdir(parents=True, exist_ok=True)
        # Before the log is open: a worker that outlives this process must not hold its lock.
        self._start_workers(stack)
        if self.settings.ema is not None:
            self.ema = EMA(self.model, self.settings.ema)
        self._report: Report | NoReport = NoReport()
        on_main(self.group, lambda: self._open_folder(stack))
        self.state = share_state(self.group, self.state, self.model, self.optimizer, self.ema)
        self._clock = time.perf_counter() - self.state.seconds

    def _open_folder(self, stack: ExitStack) -> None:
        log = RunLog(self.out / "log.jsonl")
        stack.callback(log.close)
        checkpoint = check_folder(self.out, self.resume)
        if checkpoint:
            self.state = load_state(checkpoint, self.model, self.optimizer, self.ema)
            self._saved = self.state.step, self.state.evaluated
        log.truncate(self.state.step)  # only now: nothing is changed if the checkpoint is damaged
        remove_leftovers(self.out)
        self._clock = time.perf_counter() - self.state.seconds
        self._report = self._open_report(log, stack)
        for note in [*([f"resumed from {checkpoint.name}"] if checkpoint else []), *self._notes]:
            self._report.say(note)

    def _start_workers(self, stack: ExitStack) -> None:
        settings = self.settings
        self._guard = DivergenceGuard(self.out if self._is_main else None, settings.lr or 0.0)
        size = max(settings.processes, self.group.size)
        self._batches = StepBatches(self.loader, settings.accumulate, size, settings.steps or _ENDLESS)
        gradients = BatchGradients(
            self.model,
            self.optimizer.params,
            self._guard,
            seed=settings.seed,
            accumulate=settings.accumulate,
            loss_options=self._loss_options | ({"image_config": self.image_config} if self.image_config else {}),
        )
        self._workers = start_workers(gradients, self._batches, settings.processes, self.group)
        stack.callback(self._workers.close)

    def _open_report(self, log: RunLog, stack: ExitStack) -> Report:
        steps, minutes = self.settings.steps, self.settings.minutes
        limit, unit = (steps, "steps") if steps else (60 * (minutes or 0), "s")
        console = Console(limit, unit, self._done(), shown=self._show_progress)
        stack.callback(console.close)
        events = EventLog(self.out, self.state.step) if self._tensorboard else None
        if events:
            stack.callback(events.close)
        return Report(log, console, events)

    def _draw_batches(self) -> None:
        """Draw the first images of a new run as they are trained on; one that is resumed has its picture."""
        if self.state.step:
            return
        try:
            with self._file_errors():
                batches = self._batches.load(0, 0, min(self.settings.accumulate, MOST_IMAGES))
                draw_batches(batches, self.out / "batches.png", categories=getattr(self.model, "categories", None))
        except Exception as error:  # data that cannot be loaded stops the first step, whose message says more
            self._report.say(f"no batches.png: {error}")

    def _finish(self) -> TrainResult:
        """Write the weights and the curves."""
        state = self.state
        check_same_weights(self.group, self.model, state.step)
        self._save()
        stopped_early = self._patience_is_out() and self._progress() < 1
        if stopped_early:
            with self._file_errors():
                self._report.early_stop(state.step, self._seconds(), self._early_stop())
        if self.ema:
            self.ema.apply(self.model)
        self.model.eval()
        weights = self._write_weights("weights.safetensors", state.metrics)
        if self._is_main:
            self._draw_curves()
            self._warn_if_worse()
        best = None if state.best is None else self.out / "best.safetensors"
        return TrainResult(
            step=state.step,
            seconds=self._seconds(),
            metrics=state.metrics,
            weights=weights,
            best_weights=best,
            best=state.best,
            metrics_before=state.metrics_before,
            stopped_early=stopped_early,
            best_step=state.best_step,
        )

    def _draw_curves(self) -> None:
        try:
            with self._file_errors():
                draw_curves(self.out / "log.jsonl", self.out / "curves.png")
        except (ImportError, ValueError) as error:  # matplotlib is not installed, or the run had no step
            self._report.say(f"no curves.png: {error}")

    def _early_stop(self) -> dict[str, Any]:
        """Return what the log says of a run that ``patience`` ended."""
        settings, state = self.settings, self.state
        return {
            "keep_best": settings.keep_best,
            "patience": settings.patience,
            "best": state.best,
            "best_step": state.best_step,
            "steps": settings.steps,
        }

    def _warn_if_worse(self) -> None:
        """Warn if the run ends below the weights that it started from."""
        name, state = self.settings.keep_best, self.state
        before, after = (metrics.get(name or "", math.nan) for metrics in (state.metrics_before, state.metrics))
        if not math.isnan(after) and is_better(name or "", before, after):
            warn_user(
                f"{name} is {after:.3f} at the end and was {before:.3f} before the run, on the images to evaluate on: "
                f"use best.safetensors, whose {state.best:.3f} is of step {state.best_step}."
            )

    def _interrupted(self) -> Interrupted:
        where = f"with a checkpoint in {str(self.out)!r}"
        return Interrupted(f"Stopped after step {self.state.step}, {where}; resume=True continues from it.")

    # -------------------------------------------------------------- files

    def _save(self) -> None:
        """Write a checkpoint, unless there is one of this state, and then delete the oldest ones."""
        if not self._is_main or self._saved == (self.state.step, self.state.evaluated):
            return
        self.state.seconds = self._seconds()
        header = {**self._description(self.settings), "state": dataclasses.asdict(self.state)}
        target = checkpoint_path(self.out, self.state.step)
        with self._file_errors():
            self._report.sync()
            save_state(target, self.model, self.optimizer, self.ema, header, self._inspect)
            prune(self.out, self.settings.keep_last)
        self._saved = self.state.step, self.state.evaluated

    def _inspect(self, name: str, array: np.ndarray) -> None:
        self._guard.check_array(self.state.step, name, array)

    def _description(self, settings: TrainerSettings) -> dict[str, Any]:
        return describe(settings, self._data, self.model, self.image_config)

    def _write_weights(self, name: str, metrics: Mapping[str, float]) -> Path:
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if not self._is_main:
            return self.out / name
        with self._file_errors():
            save_weights(
                self.model,
                self.out / name,
                metadata={"steps": str(self.state.step), "metrics": json.dumps(finite)},
            )
        return self.out / name

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """Say where a file could not be written and what to do."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"Cannot write into {str(self.out)!r}: {error.strerror or error}. The files there are complete; resume "
                "once there is room."
            ) from error


# ------------------------------------------------------------------ arguments


def _check_model(model: Any) -> None:
    instance("model", model, Module, "a module with get_loss, such as a MaskRCNN")
    if not callable(getattr(model, "get_loss", None)):
        raise TypeError(f"model must have get_loss(images, targets), as MaskRCNN has, got {type(model).__name__}.")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model must have at least one parameter with requires_grad=True, got none: nothing to train.")
    dtype = getattr(model, "dtype", "float32")
    if dtype in ("float16", "bfloat16"):
        raise ValueError(f"model must be in float32 to be trained, got one in {dtype}: call model.float() first.")


def _loss_options(model: Any, settings: TrainerSettings) -> dict[str, Any]:
    """Return the keywords of ``get_loss`` that are set, checked before the run."""
    options = {n: getattr(settings, n) for n in ("loss_weights", "class_weights") if getattr(settings, n) is not None}
    taken = inspect.signature(model.get_loss).parameters
    for name in options:
        if name not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            raise TypeError(f"{name} needs a model whose get_loss takes it, as MaskRCNN's, got {type(model).__name__}.")
    if isinstance(model, MaskRCNN):
        check_loss_weights("loss_weights", settings.loss_weights)
        class_weight_row("class_weights", settings.class_weights, model.categories, model.num_classes)
    return options


def _check_size(group: Group, settings: TrainerSettings) -> None:
    if group.size > settings.accumulate:
        raise ValueError(
            f"accumulate must be at least {group.size}, the number of ranks, got {settings.accumulate}: each of them "
            "computes at least one batch of a step."
        )


def _image_config(name: str, value: Any) -> ImageConfig:
    return instance(name, value, ImageConfig, "an ImageConfig")


def _check_loader(loader: Any) -> None:
    if not callable(getattr(loader, "iterate", None)) or not hasattr(loader, "batch_size"):
        remedy = ": wrap the data set in lucid_maskrcnn.data.Loader" if hasattr(loader, "__getitem__") else ""
        raise TypeError(
            f"loader must have batch_size and iterate(start, stop), as lucid_maskrcnn.data.Loader has, got "
            f"{type(loader).__name__}{remedy}."
        )
    positive_int("loader.batch_size", loader.batch_size)


def _check_evaluation(evaluate: Any, settings: TrainerSettings) -> None:
    if evaluate is None:
        if settings.keep_best or settings.eval_every:
            raise ValueError("keep_best and eval_every need evaluate, a function of the model.")
        return
    if not callable(evaluate) or isinstance(evaluate, type):
        raise TypeError(
            f"evaluate must be a function of the model that returns metrics by name, got {shown(evaluate)}."
        )
    names = getattr(evaluate, "metric_names", None)
    if settings.keep_best is not None and names is not None:
        _check_metric(settings.keep_best, names)


def _check_metric(name: str, known: Collection[str]) -> None:
    if name not in known:
        near = nearest(name, known)
        hint = f"; did you mean {near!r}?" if near else f": it gives {', '.join(known) or 'none'}."
        raise ValueError(f"keep_best must be a metric of the evaluation, got {name!r}{hint}")


def _checked_metrics(metrics: Any) -> dict[str, float]:
    """Return what ``evaluate`` returned as floats; they may be NaN."""
    if not isinstance(metrics, Mapping):
        remedy = ": return its metrics" if hasattr(metrics, "metrics") else ""
        raise TypeError(f"evaluate must return a mapping of names to numbers, got {type(metrics).__name__}{remedy}.")
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (TypeError, ValueError) as error:
        raise TypeError(f"evaluate must return a mapping of names to numbers, got {shown(dict(metrics))}.") from error


def _with_tensorboard(wanted: bool | None) -> bool:
    wanted = optional(flag)("tensorboard", wanted)
    if wanted and not is_installed():
        raise ValueError("tensorboard=True needs TensorBoard: pip install tensorboard.")
    return is_installed() if wanted is None else wanted
