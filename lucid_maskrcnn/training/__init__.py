"""Training: the trainer, and its parts for a loop of your own."""

from .adamw import AdamW
from .callbacks import Callback, MLflowCallback, WandbCallback
from .curves import draw_curves
from .divergence import DivergenceError
from .ema import EMA
from .gradients import GradientMean, clip_gradients
from .interruption import Interrupted
from .log import read_log
from .schedules import Schedule
from .settings import TrainerSettings
from .sgd import SGD, decay_groups
from .trainer import BatchSource, Trainer, TrainResult
from .validation_losses import validation_losses

__all__ = [
    "EMA",
    "SGD",
    "AdamW",
    "BatchSource",
    "Callback",
    "DivergenceError",
    "GradientMean",
    "Interrupted",
    "MLflowCallback",
    "Schedule",
    "TrainResult",
    "Trainer",
    "TrainerSettings",
    "WandbCallback",
    "clip_gradients",
    "decay_groups",
    "draw_curves",
    "read_log",
    "validation_losses",
]
