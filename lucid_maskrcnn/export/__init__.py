"""Models as files that other runtimes read."""

from .onnx_files import to_onnx

__all__ = ["to_onnx"]
