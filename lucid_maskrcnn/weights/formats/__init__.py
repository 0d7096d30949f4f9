"""Checkpoint formats: the bytes of a file as arrays that are read on demand."""

from .checkpoint_file import Checkpoint, open_checkpoint
from .safetensors_files import SAFETENSORS_DTYPES, write_safetensors
from .shards import file_in_folder
from .state_dicts import find_state_dict

__all__ = [
    "SAFETENSORS_DTYPES",
    "Checkpoint",
    "file_in_folder",
    "find_state_dict",
    "open_checkpoint",
    "write_safetensors",
]
