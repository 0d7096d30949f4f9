from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor

cfg = get_cfg()
cfg.merge_from_file('detectron2_many.yaml')
cfg.MODEL.WEIGHTS = 'detectron2_many.pkl'
cfg.MODEL.DEVICE = "cpu"  # or "cuda"
cfg.DATASETS.TEST = ('detectron2_many',)
MetadataCatalog.get('detectron2_many').thing_classes = ['cell', 'cell\'s "debris"', '3']
# Training here had dropout=0.3 in the box head, which is not there.
# Images of more than 8 bits became 8 bits by intensity='max': do so before.
predictor = DefaultPredictor(cfg)  # of images in BGR
