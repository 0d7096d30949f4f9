"""Checkpoint formats: the bytes of a file as arrays that are read on demand."""

from .checkpoint_file import Checkpoint, open_checkpoint
from .pickle_writing import write_numpy_pickle, write_torch_zip
from .run_checkpoints import CHECKSUM, RUN_CHECKPOINT, RUN_RESULTS, UNSET_CHECKSUM, checksum_problem
from .safetensors_files import SAFETENSORS_DTYPES, write_safetensors
from .shards import file_in_folder
from .state_dicts import find_state_dict

__all__ = [
    "CHECKSUM",
    "RUN_CHECKPOINT",
    "RUN_RESULTS",
    "SAFETENSORS_DTYPES",
    "UNSET_CHECKSUM",
    "Checkpoint",
    "checksum_problem",
    "file_in_folder",
    "find_state_dict",
    "open_checkpoint",
    "write_numpy_pickle",
    "write_safetensors",
    "write_torch_zip",
]
