import torch
from torch.nn import Conv2d
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

body = ResNet(Bottleneck, [3, 4, 6, 3], norm_layer=FrozenBatchNorm2d)
body.inplanes = 8  # channels of the stem, where torchvision's own ResNets have 64
body.conv1 = Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
body.bn1 = FrozenBatchNorm2d(8)
body.layer1 = body._make_layer(Bottleneck, 8, 3)
body.layer2 = body._make_layer(Bottleneck, 16, 4, stride=2)
body.layer3 = body._make_layer(Bottleneck, 32, 6, stride=2)
body.layer4 = body._make_layer(Bottleneck, 64, 3, stride=2)
layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
backbone = BackboneWithFPN(body, layers, [32, 64, 128, 256], 24, norm_layer=FrozenBatchNorm2d)
model = MaskRCNN(
    backbone,
    rpn_head=RPNHead(24, 3, conv_depth=2),
    box_head=FastRCNNConvFCHead((24, 7, 7), [24, 24, 24, 24], [32], norm_layer=FrozenBatchNorm2d),
    mask_head=MaskRCNNHeads(24, [16, 16, 16, 16], 1, norm_layer=FrozenBatchNorm2d),
    box_predictor=FastRCNNPredictor(32, 3),
    mask_predictor=MaskRCNNPredictor(16, 16, 3),
    min_size=192,
    max_size=320,
)
model.load_state_dict(torch.load('torchvision_v2.pth', weights_only=True))
model.eval()
