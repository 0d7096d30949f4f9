"""Draw objects on an image: detections, or the annotations of a data set. Needs Pillow and NumPy only.

Lines and letters are sized by image and objects, captions cover neither objects nor each other, and colors stand out
from the image: five hundred nuclei stay as readable as three people in a photograph.
"""

from lucid_maskrcnn.visualization.colors import color_of
from lucid_maskrcnn.visualization.outlines import draw_masks
from lucid_maskrcnn.visualization.pictures import class_colors, draw_detections, draw_target, viewing_scale

__all__ = ["class_colors", "color_of", "draw_detections", "draw_masks", "draw_target", "viewing_scale"]
