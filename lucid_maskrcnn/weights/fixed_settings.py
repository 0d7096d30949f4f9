"""Settings that another library has no argument for: there they have one value, which a model must share to be built.

Settings are called as in ``model.config``: ``"image.scale"``, ``"backbone.width"``, ``"pool_size"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from ..config import Conventions, ModelConfig, anchor_levels
from ..validators import shown

__all__ = ["check_fixed_settings", "fixed_by", "has_several_sizes", "remarks"]


_PARTS = ("image", "backbone", "", "rpn", "heads")  # in the order of the flow of data


def fixed_by(conventions: Conventions, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of settings under a library's conventions."""
    return {name: attrgetter(name)(conventions) for name in names}


def has_several_sizes(config: ModelConfig) -> bool:
    """Whether a feature map has anchors of several sizes, so that their order makes a difference."""
    return any(len(level) > 1 for level in anchor_levels(config.anchor_sizes, per_level=config.use_fpn))


def check_fixed_settings(config: ModelConfig | None, library: str, fixed: Mapping[str, Any]) -> ModelConfig:
    """Refuse a model that a library cannot have, and return its configuration.

    Parameters
    ----------
    config : ModelConfig or None
        None if the weights come without one.
    library : str
        Its name.
    fixed : mapping of str to value
        The settings that the library has no argument for, and what they are there.

    Raises
    ------
    ValueError
        If a setting has another value, which the message names, there is no configuration, or it is of a backbone that
        is no ResNet-FPN of this package.
    """
    if config is None:
        raise ValueError(
            f"to={library!r} needs the model's configuration, which these weights come without: load them into the "
            "model and save it with save_weights()."
        )
    if config.backbone is None:
        raise ValueError(
            f"to={library!r} needs a ResNet-FPN backbone of this package: this model has one of its own, which "
            f"{library} does not know."
        )
    in_order = sorted(fixed, key=lambda name: _PARTS.index(name.rpartition(".")[0]))
    found = {name: attrgetter(name)(config) for name in in_order}
    others = [f"{n}={shown(v)} ({shown(fixed[n])} there)" for n, v in found.items() if v != fixed[n]]
    if others:
        raise ValueError(
            f"to={library!r} cannot express this model, as {library} has no setting for {', '.join(others)}."
        )
    return config


def remarks(config: ModelConfig) -> Iterator[str]:
    """Yield comments on settings that other libraries do not have and that detections do not depend on."""
    if config.dropout:
        yield f"# Training here had dropout={config.dropout:g} in the box head, which is not there."
    if config.image.intensity is not None:
        yield f"# Images of more than 8 bits became 8 bits by intensity={config.image.intensity!r}: do so before."
