"""Finding a model's weights in what a checkpoint holds: which of its dicts, and behind which prefix of their names.

Training programs nest weights in dicts, lists, objects and whole modules, and wrap models in others, whose names become
prefixes. The names of the models that this package knows are looked for behind any prefix. Where several sets of
weights are found, one is chosen by this rule: averaged weights (``ema``, ``teacher``, …) before others, then the usual
name (``model``, ``state_dict``, …), then the one that stands first in the file.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .numpy_pickles import NumpyArray
from .pickles import PickledObject, PickledStr, SafeGlobal, StandIn
from .stored_arrays import CheckpointError, Span, StoredArray, printable
from .torch_files import Tensor

__all__ = ["StateDict", "described", "find_state_dict"]

_MAX_CONTAINERS = 20_000  # that are looked into
_MAX_DEPTH = 8  # of nested containers above the weights
_MAX_MODULE_DEPTH = 50
_MAX_LIST = 100  # longer lists hold numbers

# The usual names of weights in a checkpoint, the most usual first.
_USUAL = (
    "model",
    "state_dict",
    "model_state",
    "model_state_dict",
    "blobs",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "detector",
)
_AVERAGED = re.compile(r"ema|teacher|swa|avg|averaged?", re.IGNORECASE)
_OPTIMIZER = re.compile(r"optim|optimizer|optimizers|momentum|moments?|grads?|gradients?", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Za-z][a-z]*")
# Modules that wrap another one, at any place of a model, without changing what it computes.
_WRAPPING = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Entries that models have, those of one model in each line; detectors come before the ResNets in them.
_ENTRIES = (
    ("roi_heads.box_predictor.cls_score.weight",),
    ("fc1.weight", "cls_score.weight"),
    ("cls_score_w", "conv1_w"),
    ("backbone.body.conv1.weight",),
    ("backbone.bottom_up.stem.conv1.weight",),
    ("stem.conv1.weight", "res2.0.conv1.weight"),
    ("stem.0.weight", "layer1.0.conv1.conv.weight"),
    ("conv1_w", "res2_0_branch2a_w"),
    ("conv1.weight", "layer1.0.conv1.weight"),
)
_NUM_DETECTORS = 3
_KINDS = {
    dict: "a dict",
    list: "a list",
    tuple: "a tuple",
    PickledStr: "a string",
    Span: "a string",
    int: "a number",
    float: "a number",
    bool: "a bool",
}


@dataclass(frozen=True)
class StateDict:
    """A model's weights in a checkpoint.

    Attributes
    ----------
    entries : dict of str to object
        By their names without the prefix.
    place : str
        Where they stand and what prefix they had, in words; empty if they are all that the file holds.
    others : tuple of str
        The places of other weights that would do as well.
    left_out : tuple of str
        Names of entries without the prefix.
    """

    entries: dict[str, Any]
    place: str
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """Weights behind a prefix; ``rank`` is the place of their model in the table of entries."""

    rank: int
    path: tuple[str, ...]
    prefix: str
    names: dict[str, str]  # the entries' names, perhaps without wrapping modules, and as they stand
    entries: Mapping[Any, Any]

    @property
    def preference(self) -> tuple[bool, int]:
        """Return what the rule compares; the smallest comes first."""
        parts = [*self.path, *self.prefix.split(".")]
        averaged = self.has_word(_AVERAGED)
        usual = [_USUAL.index(part) for part in parts if part in _USUAL]
        return not averaged, usual[0] if usual else len(_USUAL) * bool(self.path or self.prefix)

    def has_word(self, pattern: re.Pattern[str]) -> bool:
        """Return whether a word of path or prefix matches: ``stateEMA`` and ``state_ema`` have the word ema."""
        return any(pattern.fullmatch(w) for part in (*self.path, self.prefix) for w in _WORD.findall(part))

    def weights(self) -> dict[str, Any]:
        """Return the entries without prefix and wrapping modules."""
        start = len(self.prefix)
        own = {name[start:]: self.entries[key] for name, key in self.names.items() if name.startswith(self.prefix)}
        unwrapped = {_WRAPPING.sub("", name): value for name, value in own.items()}
        return unwrapped if len(unwrapped) == len(own) else own

    @property
    def place(self) -> str:
        """Return the place in words."""
        path = ".".join(map(printable, self.path))
        return " ".join(([path] if path else []) + ([f"(prefix {printable(self.prefix)})"] if self.prefix else []))


def find_state_dict(content: object) -> StateDict:
    """Find the weights of a model in what a pickle, or the header of a safetensors file, holds.

    Parameters
    ----------
    content : object
        As the readers of this package return it, or a dict of arrays.

    Raises
    ------
    CheckpointError
        If it holds no arrays.
    """
    found = [(path, entries) for path, entries in _mappings(content) if any(map(_is_array, entries.values()))]
    if not found:
        raise CheckpointError(_no_arrays(content))
    known = [candidate for path, entries in found for candidate in _candidates(path, entries)]
    if not known:
        return _unknown(found)
    rank = min(c.rank for c in known)
    known = [c for c in known if c.rank == rank or (c.rank < _NUM_DETECTORS and rank < _NUM_DETECTORS)]
    # The state of an optimizer has the names of the weights too.
    known = [c for c in known if not c.has_word(_OPTIMIZER)] or known
    known.sort(key=lambda candidate: candidate.preference)  # stable: else as in the file
    chosen, *others = known
    left_out = tuple(name for name in chosen.names if not name.startswith(chosen.prefix))
    return StateDict(
        chosen.weights(), chosen.place, tuple(c.place or "the outermost entries" for c in others), left_out
    )


def _is_array(value: object) -> bool:
    """Return whether a value is an array, or should be one."""
    return isinstance(value, StoredArray | NumpyArray | Tensor | np.ndarray) or (
        isinstance(value, PickledObject) and bool(value.problem)
    )


def described(value: object) -> str:
    """Return in words what stands where an array should."""
    if isinstance(value, StandIn | SafeGlobal):
        return printable(value.name)
    return _KINDS.get(type(value), "None")


def _no_arrays(content: object) -> str:
    found = [(path, name, v) for path, inner in _mappings(content) for name, v in inner.items()]
    names = [(".".join([*path, name]), v) for path, name, v in found if isinstance(name, str)]
    if not names:
        return "holds no arrays" if isinstance(content, dict) else "does not hold a dict of arrays"
    name, value = names[-1]  # of the innermost dict
    return f"holds no arrays: {printable(name)} is {described(value)}"


def _candidates(path: tuple[str, ...], entries: Mapping[Any, Any]) -> list[_Candidate]:
    """Return the weights of known models among the entries, one for each prefix."""
    own = {name: name for name in entries if isinstance(name, str)}
    unwrapped = {_WRAPPING.sub("", name): name for name in own}
    for names in (own, unwrapped) if len(unwrapped) == len(own) else (own,):
        for rank, (first, *more) in enumerate(_ENTRIES):
            prefixes = [name.removesuffix(first) for name in names if name.endswith(first)]
            prefixes = [p for p in prefixes if p[-1:] in ("", ".") and all(p + other in names for other in more)]
            if prefixes:
                return [_Candidate(rank, path, prefix, names, entries) for prefix in prefixes]
    return []


def _unknown(found: list[tuple[tuple[str, ...], Mapping[Any, Any]]]) -> StateDict:
    """Return the weights of a model that is not known: by their usual name, else the outermost ones."""
    plain = [_Candidate(0, path, "", {}, entries) for path, entries in found]
    usual = [c for c in plain if c.path and c.path[-1] in _USUAL]
    chosen = min(usual or plain[:1], key=lambda candidate: candidate.preference)
    if not all(isinstance(name, str) for name in chosen.entries):
        raise CheckpointError("has arrays whose names are not short strings")
    entries = dict(chosen.entries)
    if all(name.startswith("module.") for name in entries):
        entries = {name.removeprefix("module."): value for name, value in entries.items()}
    return StateDict(entries, chosen.place)


# ------------------------------------------------------------------ looking into containers


def _mappings(content: object) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield the mappings in an object and where they stand, the outermost first; each object is looked into once."""
    waiting: deque[tuple[tuple[str, ...], object]] = deque([((), content)])
    seen = {id(content)}
    for _ in range(_MAX_CONTAINERS):
        if not waiting:
            return
        path, value = waiting.popleft()
        mapping = _mapping(value)
        if mapping is not None:
            yield path, mapping
        elif not isinstance(value, list | tuple) or len(value) > _MAX_LIST:
            continue
        inner = mapping.items() if mapping is not None else enumerate(value)  # type: ignore[arg-type]
        for name, child in inner if len(path) < _MAX_DEPTH else ():
            if isinstance(child, dict | list | tuple | StandIn) and id(child) not in seen:
                seen.add(id(child))
                waiting.append(((*path, str(name) if isinstance(name, str | int) else "?"), child))


def _mapping(value: object) -> Mapping[Any, Any] | None:
    """Return a dict, or what an object has as items or attributes; None if it has neither."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, StandIn):
        return None
    attributes = _attributes(value)
    if "_modules" in attributes or "_parameters" in attributes:
        return _of_module(value)
    passed = next((argument for argument in value.arguments[:4] if isinstance(argument, dict)), {})
    return value.entries or passed or attributes or None


def _attributes(value: object) -> Mapping[Any, Any]:
    state = value.state if isinstance(value, StandIn) else None
    if isinstance(state, tuple):  # attributes, and those that have slots
        state = next((part for part in state[:2] if isinstance(part, dict)), None)
    return state if isinstance(state, dict) else {}


def _of_module(module: StandIn) -> dict[Any, Any]:
    """Return the ``state_dict`` of a whole module that was pickled."""
    result: dict[Any, Any] = {}
    waiting: list[tuple[str, object, int]] = [("", module, 0)]
    for _ in range(_MAX_CONTAINERS):
        if not waiting:
            return result
        prefix, value, depth = waiting.pop()
        attributes = _attributes(value)
        for kind in ("_parameters", "_buffers"):
            own = _mapping_of(attributes, kind).items()
            result |= {_joined(prefix, name): array for name, array in own if array is not None}
        children = _mapping_of(attributes, "_modules").items() if depth < _MAX_MODULE_DEPTH else ()
        waiting += [(_joined(prefix, name) + ".", child, depth + 1) for name, child in reversed([*children])]
    raise CheckpointError(f"has a module of more than {_MAX_CONTAINERS} modules, more than any model needs")


def _mapping_of(attributes: Mapping[Any, Any], kind: str) -> Mapping[Any, Any]:
    found = attributes.get(kind)
    return found if isinstance(found, dict) else {}


def _joined(prefix: str, name: object) -> str:
    return prefix + (name if isinstance(name, PickledStr) else "?")
