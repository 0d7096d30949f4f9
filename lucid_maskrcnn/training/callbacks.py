"""What is called during a run: the protocol, and callbacks for Weights & Biases and MLflow.

A run's own log, ``log.jsonl``, has the same numbers. The ids of a run on a tracking server are kept in its folder, so
that a resumed run continues there too.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import validators
from ..atomic import write_json
from ..call_answers import answers_wrong_calls
from ..json_text import read_json
from ..validators import instance, optional, shown, text

if TYPE_CHECKING:
    from .trainer import TrainResult

__all__ = ["Callback", "MLflowCallback", "WandbCallback", "check_callbacks", "end_callbacks"]

_METHODS = ("on_step", "on_evaluation", "on_end")
_NOT_IN_MLFLOW = re.compile(r"[^\w\-. /]")  # "AP_0.5:0.95" and "segm/AP@100" have what its servers may refuse


class Callback:
    """Base class of what a :class:`Trainer` calls in the process that trains; each method does nothing here.

    An exception in ``on_step`` or ``on_evaluation`` stops the run with a checkpoint of that step, from which it can be
    resumed; the method is not called for that step again. All callbacks' ``on_end`` are called in any case.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Be told of a step of the optimizer.

        Parameters
        ----------
        step : int
            Counted from 1.
        metrics : mapping of str to float
            ``"lr"``, the losses, ``"norm"`` of the gradients and ``"images_per_s"``.
        """

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Be told of an evaluation.

        Parameters
        ----------
        step : int
            Of the weights; 0 for those that a fine-tuning run started from.
        metrics : mapping of str to float
            What ``evaluate`` returned; a value may be NaN.
        """

    def on_end(self, result: TrainResult | None) -> None:
        """Be told that :meth:`Trainer.run` ends.

        Parameters
        ----------
        result : TrainResult or None
            None if it was interrupted or stopped by an error.
        """


def check_callbacks(callbacks: Any) -> list[Callback]:
    """Return callbacks as a list.

    Raises
    ------
    TypeError
        If they are no list or tuple of objects with the three methods, or one is a class.
    """
    if not isinstance(callbacks, (list, tuple)):
        one = all(callable(getattr(callbacks, method, None)) for method in _METHODS)
        raise TypeError(
            f"callbacks must be a list of callbacks, got {shown(callbacks)}{': put it in a list' if one else ''}."
        )
    for i, callback in enumerate(callbacks):
        missing = [method for method in _METHODS if not callable(getattr(callback, method, None))]
        if isinstance(callback, type) or missing:
            given = f"the class {callback.__name__}" if isinstance(callback, type) else shown(callback)
            remedy = "make an instance of it" if isinstance(callback, type) else "derive it from training.Callback"
            raise TypeError(f"callbacks[{i}] must have the methods {', '.join(_METHODS)}, got {given}: {remedy}.")
    return list(callbacks)


def end_callbacks(callbacks: Sequence[Callback], result: TrainResult | None) -> list[Exception]:
    """Call ``on_end`` of all callbacks, and return what they raised."""
    errors: list[Exception] = []
    for callback in callbacks:
        try:
            callback.on_end(result)
        except Exception as error:
            errors.append(error)
    return errors


@answers_wrong_calls
class WandbCallback(Callback):
    """Sends a run to Weights & Biases: ``pip install wandb``.

    Nothing is sent before the first step or evaluation. ``WANDB_MODE=offline`` or ``mode="offline"`` writes files that
    ``wandb sync`` sends later.

    Parameters
    ----------
    project : str
        Name of the project.
    folder : str or Path
        Of the run: wandb's files go there, into ``wandb/``, and ``wandb.json`` keeps the run's id.
    name : str, optional
        Of the run, by default that of the folder.
    config : mapping, optional
        Settings to show beside the run.
    mode : {"online", "offline", "disabled"}, optional
        By default what ``WANDB_MODE`` says, else online.

    Raises
    ------
    ImportError
        If wandb is not installed.
    TypeError, ValueError
        If an argument is not as above.
    """

    def __init__(
        self,
        project: str,
        *,
        folder: str | Path,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        mode: str | None = None,
    ) -> None:
        self.project, self.folder = text("project", project), validators.path("folder", folder)
        self.name, self.config = optional(text)("name", name) or self.folder.resolve().name, _config(config)
        self.mode = None if mode is None else validators.choice("mode", mode, ("online", "offline", "disabled"))
        self._wandb = _import_wandb()
        self._run: Any = None

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        self._send(step, {f"train/{name}": value for name, value in metrics.items()})

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of an evaluation."""
        self._send(step, metrics)

    def on_end(self, result: TrainResult | None) -> None:
        """End the run, as failed if it has no result; what is left to send is sent."""
        if self._run is not None:
            if result is not None and result.best is not None:
                self._run.summary["best"] = result.best
            self._run.finish(exit_code=1 if result is None else 0)
            self._run = None

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        if self._run is None:  # only now: the processes of a run are forked before its first step
            self._run = self._begun()
        if step >= self._run.step:  # a resumed run repeats the steps after its checkpoint
            self._run.log(dict(values), step=step)

    def _begun(self) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.folder / "wandb.json"
        known = _kept_id(kept)
        run = self._wandb.init(
            project=self.project,
            name=self.name,
            config=self.config,
            dir=str(self.folder),
            mode=self.mode,
            id=known,
            resume=None if known is None else "allow",
        )
        if known is None:
            write_json(kept, {"id": run.id})
        return run


@answers_wrong_calls
class MLflowCallback(Callback):
    """Sends a run to MLflow: ``pip install mlflow``, or ``mlflow-skinny``, which is enough.

    Parameters
    ----------
    experiment : str
        Name of the experiment, which is made if there is none.
    folder : str or Path
        Of the run: ``mlflow.json`` keeps the run's id there.
    name : str, optional
        Of the run, by default that of the folder.
    config : mapping, optional
        Settings to show beside the run, as its parameters.
    tracking_uri : str, optional
        Server or folder, by default what ``MLFLOW_TRACKING_URI`` says, else MLflow's own default.

    Raises
    ------
    ImportError
        If mlflow is not installed.
    TypeError, ValueError
        If an argument is not as above.

    Notes
    -----
    MLflow does not take all characters in names of metrics: the colon of ``"AP_0.5:0.95"`` becomes a hyphen, and so do
    others that it does not take.
    """

    def __init__(
        self,
        experiment: str,
        *,
        folder: str | Path,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        self.experiment, self.folder = text("experiment", experiment), validators.path("folder", folder)
        self.name, self.config = optional(text)("name", name) or self.folder.resolve().name, _config(config)
        self.tracking_uri = optional(text)("tracking_uri", tracking_uri)
        self._mlflow = _import_mlflow()
        self._client: Any = None
        self._run_id = ""

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        self._send(step, {f"train/{name}": value for name, value in metrics.items()})

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of an evaluation; those that are NaN are left out."""
        self._send(step, metrics)

    def on_end(self, result: TrainResult | None) -> None:
        """End the run, as killed if it has no result."""
        if self._client is not None:
            if result is not None and result.best is not None:
                self._client.log_metric(self._run_id, "best", result.best, step=result.step)
            self._client.set_terminated(self._run_id, "KILLED" if result is None else "FINISHED")
            self._client = None

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        if self._client is None:
            self._begin()
        metric, now = self._mlflow.entities.Metric, int(1000 * time.time())
        metrics = [
            metric(_NOT_IN_MLFLOW.sub("-", name), float(value), now, step)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(metrics), 1000):  # the most of a call
            self._client.log_batch(self._run_id, metrics=metrics[start : start + 1000])

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.folder / "mlflow.json"
        known = _kept_id(kept)
        client = self._mlflow.tracking.MlflowClient(self.tracking_uri)
        if known is None:
            experiment = client.get_experiment_by_name(self.experiment)
            owner = client.create_experiment(self.experiment) if experiment is None else experiment.experiment_id
            known = client.create_run(owner, run_name=self.name).info.run_id
            for key, value in self.config.items():
                client.log_param(known, _NOT_IN_MLFLOW.sub("-", key), value)
            write_json(kept, {"id": known})
        else:
            client.set_terminated(known, "RUNNING")
        self._client, self._run_id = client, known


def _config(config: Any) -> dict[str, Any]:
    return {} if config is None else {str(k): v for k, v in instance("config", config, Mapping, "a mapping").items()}


def _kept_id(path: Path) -> str | None:
    """Return the id in a file that an earlier part of the run wrote, None if there is none."""
    if not path.is_file():
        return None
    content = read_json(path)
    known = content.get("id") if isinstance(content, Mapping) else None
    if not isinstance(known, str) or not known:
        raise ValueError(f"{str(path)!r} has no id of a run: delete it to begin a new one there.")
    return known


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ImportError("WandbCallback needs wandb: pip install wandb.") from error
    if not hasattr(wandb, "init"):  # a folder of that name, which wandb itself makes, can be imported, too
        raise ImportError("WandbCallback needs wandb: pip install wandb.")
    return wandb


def _import_mlflow() -> Any:
    try:
        import mlflow
        import mlflow.entities
        import mlflow.tracking
    except ImportError as error:
        raise ImportError("MLflowCallback needs MLflow: pip install mlflow-skinny.") from error
    return mlflow
