"""Training: the trainer, and its parts for a loop of your own."""

from .adamw import AdamW
from .callbacks import Callback, MLflowCallback, WandbCallback
from .curves import draw_curves
from .divergence import DivergenceError
from .ema import EMA
from .gradients import GradientMean, clip_gradients
from .groups import Group, GroupError, init_group
from .interruption import Interrupted
from .log import read_log
from .ray_train import ray_ring
from .schedules import Schedule
from .settings import TrainerSettings
from .sgd import SGD, decay_groups
from .step_batches import BatchSource
from .trainer import Trainer, TrainResult
from .validation_losses import validation_losses

__all__ = [
    "EMA",
    "SGD",
    "AdamW",
    "BatchSource",
    "Callback",
    "DivergenceError",
    "GradientMean",
    "Group",
    "GroupError",
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
    "init_group",
    "ray_ring",
    "read_log",
    "validation_losses",
]
