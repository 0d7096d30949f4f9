"""Store an exported model in int8.

    python quantize.py nuclei.onnx folder_of_images nuclei_int8.onnx

Static quantization by ONNX Runtime: the images of the folder, some dozens that look like those to come, say which
values each layer takes. Of more than 64 every second, third, … is taken, as each costs time and memory. Convolutions
and linear layers of the network are quantized, and nothing else: the arithmetic of boxes, sizes and masks stays exact.
Needs numpy, Pillow, onnx and onnxruntime, and predict.py beside it.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from predict import read_image

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
MOST = 64  # images: more do not change the ranges, and ONNX Runtime keeps what it saw of each
KEPT = ("rpn/level", "cls_score", "bbox_pred", "mask_predictor")  # outputs: what they round becomes a box or a score


class Images(CalibrationDataReader):
    """The images of a folder, one after the other."""

    def __init__(self, folder: str, metadata: dict[str, str]) -> None:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            sys.exit(f"There are no images in the folder {folder!r}: it takes some dozens, like those to come.")
        self.paths = paths[:: -(-len(paths) // MOST)]
        self.metadata, self.done = metadata, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs of the next run, None after the last."""
        if self.done == len(self.paths):
            return None
        path = self.paths[self.done]
        self.done += 1
        print(f"{self.done} of {len(self.paths)}: {path.name}", file=sys.stderr)
        return {"image": read_image(str(path), self.metadata)}


def quantize(source: str, folder: str, target: str, prepared: str) -> None:
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    quantize_static(
        prepared,
        target,
        Images(folder, metadata),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm"],
        nodes_to_exclude=[name for name in layers if name.startswith(KEPT)],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python quantize.py MODEL.onnx FOLDER OUT.onnx")
    source, folder, target = sys.argv[1:]
    onnxruntime.set_default_logger_severity(3)  # errors only: that network_size may be left out is a warning otherwise
    try:
        quantize(source, folder, target, f"{target}.prepared")
    finally:
        Path(f"{target}.prepared").unlink(missing_ok=True)
    before, after = (Path(path).stat().st_size / 1e6 for path in (source, target))
    print(f"{target}: {after:.1f} MB, {source} has {before:.1f} MB")
