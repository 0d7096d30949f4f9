import torch
from torch.nn import Conv2d
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

body = ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=FrozenBatchNorm2d)
body.inplanes = 8  # channels of the stem, where torchvision's own ResNets have 64
body.conv1 = Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
body.bn1 = FrozenBatchNorm2d(8)
body.layer1 = body._make_layer(BasicBlock, 8, 2)
body.layer2 = body._make_layer(BasicBlock, 16, 2, stride=2)
body.layer3 = body._make_layer(BasicBlock, 32, 2, stride=2)
body.layer4 = body._make_layer(BasicBlock, 64, 2, stride=2)
layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
backbone = BackboneWithFPN(body, layers, [8, 16, 32, 64], 24)
model = MaskRCNN(
    backbone,
    box_head=TwoMLPHead(1176, 32),
    mask_head=MaskRCNNHeads(24, [16, 16, 16, 16], 1),
    box_predictor=FastRCNNPredictor(32, 4),
    mask_predictor=MaskRCNNPredictor(16, 16, 4),
    min_size=192,
    max_size=320,
)
model.load_state_dict(torch.load('torchvision_plain.pth', weights_only=True))
model.eval()
