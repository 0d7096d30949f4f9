"""The ResNet-FPN backbone."""

import lucid
import lucid.nn as nn
import pytest
from lucid import Tensor

from lucid_maskrcnn.models import (
    _ResNetFPNBackbone,
)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.state_dict(keep_vars=True).items() if p.requires_grad}


@pytest.mark.parametrize("layers", range(6))
def test_trainable_layers_are_counted_from_the_top(layers: int) -> None:
    names = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    lucid.random.seed(0)
    backbone = _ResNetFPNBackbone(18, width=4, out_channels=6, trainable_layers=layers)
    learn = {name.split(".")[0] for name in trainable(backbone.body)}
    assert learn == set(names[5 - layers :])
    assert any(name.startswith("inner_blocks") for name in trainable(backbone.fpn))
    live = _ResNetFPNBackbone(18, width=4, out_channels=6, norm="batch", trainable_layers=layers)
    learn = {name.split(".")[0] for name in trainable(live.body)}
    assert learn == set(names[5 - layers :]) | ({"bn1"} if layers == 5 else set())
