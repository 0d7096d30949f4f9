from functools import partial
import torch
from torch.nn import Conv2d
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

names = {1: 'cell', 2: 'cell\'s "debris"'}  # of the labels
# Training here had dropout=0.3 in the box head, which is not there.
# Images of more than 8 bits became 8 bits by intensity='max': do so before.
body = ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=partial(FrozenBatchNorm2d, eps=0.001))
body.inplanes = 8  # channels of the stem, where torchvision's own ResNets have 64
body.conv1 = Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
body.bn1 = partial(FrozenBatchNorm2d, eps=0.001)(8)
body.layer1 = body._make_layer(BasicBlock, 8, 2)
body.layer2 = body._make_layer(BasicBlock, 16, 2, stride=2)
body.layer3 = body._make_layer(BasicBlock, 32, 2, stride=2)
body.layer4 = body._make_layer(BasicBlock, 64, 2, stride=2)
layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
backbone = BackboneWithFPN(body, layers, [8, 16, 32, 64], 24)
model = MaskRCNN(
    backbone,
    rpn_anchor_generator=AnchorGenerator(((8, 12), (16, 24), (32, 48), (64, 96), (128, 192)), ((0.6, 1.0, 1.5, 3.0),) * 5),
    rpn_head=RPNHead(24, 8, conv_depth=2),
    box_roi_pool=MultiScaleRoIAlign(['0', '1', '2', '3', 'pool'], (5, 6), 0),
    mask_roi_pool=MultiScaleRoIAlign(['0', '1', '2', '3', 'pool'], (7, 7), 0),
    box_head=TwoMLPHead(720, 32),
    mask_head=MaskRCNNHeads(24, [16, 16, 16, 16], 1),
    box_predictor=FastRCNNPredictor(32, 4),
    mask_predictor=MaskRCNNPredictor(16, 16, 4),
    min_size=160,
    max_size=300,
    image_mean=(0.4, 0.5, 0.45),
    image_std=(0.2, 0.25, 0.3),
    size_divisible=64,
    rpn_pre_nms_top_n_train=350,
    rpn_pre_nms_top_n_test=300,
    rpn_post_nms_top_n_train=250,
    rpn_post_nms_top_n_test=200,
    rpn_nms_thresh=0.6,
    rpn_fg_iou_thresh=0.65,
    rpn_bg_iou_thresh=0.35,
    rpn_batch_size_per_image=128,
    rpn_positive_fraction=0.4,
    box_nms_thresh=0.4,
    box_detections_per_img=20,
    box_fg_iou_thresh=0.45,
    box_bg_iou_thresh=0.45,
    box_batch_size_per_image=100,
    box_positive_fraction=0.3,
    bbox_reg_weights=(8.0, 9.0, 4.0, 6.0),
)
model.load_state_dict(torch.load('torchvision_many.pth', weights_only=True))
model.eval()
