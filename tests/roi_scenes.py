"""Feature maps and regions on them, for the tests of RoIAlign."""

import numpy as np

from lucid_maskrcnn.ops import multiscale_roi_align


def scene(seed=0, num=9, channels=3, size=(14, 19), images=2, dtype=np.float32):
    """Return features and RoIs inside, across and outside their borders; the scale is 1/4."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((images, channels, *size)).astype(dtype)
    extent = np.array([size[1], size[0]]) * 4
    center, side = rng.uniform(-0.2, 1.2, (num, 2)) * extent, rng.uniform(0, 0.9, (num, 2)) * extent
    rois = np.concatenate([center - side / 2, center + side / 2], axis=1).astype(dtype)
    return features, rois, rng.integers(0, images, num).astype(np.int32)


def pyramid(dtype=np.float32):
    features, rois, image = scene(4, num=7, channels=2, size=(8, 10), dtype=dtype)
    levels = np.int32([0, 1, 0, 1, 1, 0, 0])  # none on the third map
    return rois, image, levels, features, features[:, :, ::2, ::2], features[:, :, ::4, ::4]


def pool_pyramid(rois, image, levels, *features):
    return multiscale_roi_align(features, rois, image, levels, (2, 3), [1 / 4, 1 / 8, 1 / 16])
