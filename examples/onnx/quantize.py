"""Store an exported model in int8.

    python quantize.py nuclei.onnx folder_of_images nuclei_int8.onnx

Static quantization by ONNX Runtime: the images of the folder, some dozens that look like those to come, say which
values each layer takes. Convolutions and linear layers of the network are quantized, and nothing else: the arithmetic
of boxes, sizes and masks stays exact. Needs numpy, Pillow, onnx and onnxruntime.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
KEPT = ("rpn/level", "cls_score", "bbox_pred", "mask_predictor")  # outputs: what they round becomes a box or a score


class Images(CalibrationDataReader):
    """The images of a folder, one after the other."""

    def __init__(self, folder: str) -> None:
        self.paths = iter(sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs of the next run, None after the last."""
        path = next(self.paths, None)
        return None if path is None else {"image": np.array(Image.open(path).convert("RGB"))}


def quantize(source: str, folder: str, target: str, prepared: str) -> None:
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    quantize_static(
        prepared,
        target,
        Images(folder),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm"],
        nodes_to_exclude=[name for name in layers if name.startswith(KEPT)],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


if __name__ == "__main__":
    source, folder, target = sys.argv[1:]
    try:
        quantize(source, folder, target, f"{target}.prepared")
    finally:
        Path(f"{target}.prepared").unlink(missing_ok=True)
    before, after = (Path(path).stat().st_size / 1e6 for path in (source, target))
    print(f"{target}: {after:.1f} MB, {source} has {before:.1f} MB")
