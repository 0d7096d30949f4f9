"""Lucid tensor operators of Mask R-CNN, on cpu (NumPy) and gpu (MLX)."""
