"""File formats of weights: any file's bytes to arrays that are read when they are asked for."""

from .checkpoint_file import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
