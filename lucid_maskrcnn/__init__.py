"""Mask R-CNN for the Lucid framework."""

from . import ops as ops
