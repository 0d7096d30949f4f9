from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

cfg = get_cfg()
cfg.merge_from_file('detectron2_class_agnostic.yaml')
cfg.MODEL.WEIGHTS = 'detectron2_class_agnostic.pkl'
cfg.MODEL.DEVICE = "cpu"  # or "cuda"
predictor = DefaultPredictor(cfg)  # of images in BGR
