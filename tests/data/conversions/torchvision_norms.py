import torch
from torch.nn import BatchNorm2d, Conv2d
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

body = ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=BatchNorm2d)
body.inplanes = 8  # channels of the stem, where torchvision's own ResNets have 64
body.conv1 = Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
body.bn1 = BatchNorm2d(8)
body.layer1 = body._make_layer(BasicBlock, 8, 2)
body.layer2 = body._make_layer(BasicBlock, 16, 2, stride=2)
body.layer3 = body._make_layer(BasicBlock, 32, 2, stride=2)
body.layer4 = body._make_layer(BasicBlock, 64, 2, stride=2)
layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
backbone = BackboneWithFPN(body, layers, [8, 16, 32, 64], 24, norm_layer=BatchNorm2d)
model = MaskRCNN(
    backbone,
    box_roi_pool=MultiScaleRoIAlign(['0', '1', '2'], (7, 7), 2),
    mask_roi_pool=MultiScaleRoIAlign(['0', '1', '2'], (14, 14), 2),
    box_head=FastRCNNConvFCHead((24, 7, 7), [24, 24, 24, 24], [32], norm_layer=BatchNorm2d),
    mask_head=MaskRCNNHeads(24, [16, 16, 16, 16], 1, norm_layer=BatchNorm2d),
    box_predictor=FastRCNNPredictor(32, 3),
    mask_predictor=MaskRCNNPredictor(16, 16, 3),
    min_size=192,
    max_size=320,
)
model.load_state_dict(torch.load('torchvision_norms.pth', weights_only=True))
model.eval()
