"""Post-training quantization of a frame graph to int8: what each layer computes for some frames decides its scale."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from linknet_fastai.config.size import fitted_size
from linknet_fastai.core.errors import import_optional
from linknet_fastai.core.images import open_image, resize_image
from linknet_fastai.engines.engine import IMAGE, SIZE
from linknet_fastai.model.card import ModelCard

# The layers with weights and what is computed in int8 between them; the rest of the graph stays in floats.
QUANTIZED = ["Conv", "ConvTranspose", "MaxPool", "Relu"]


def graph_inputs(path: Path, card: ModelCard) -> dict[str, np.ndarray]:
    """What a frame graph takes for an image file."""
    frame = open_image(path)
    size = fitted_size(frame.size, card.size, card.fit)
    return {IMAGE: np.asarray(resize_image(frame, size))[None], SIZE: np.array(size[::-1], np.int64)}


def quantize_openvino(graph: Any, images: Sequence[Path], card: ModelCard) -> Any:
    """Quantize an openvino.Model.

    Args:
        graph: the model.
        images: the frames that decide the scales.
        card: the card of the network.

    Raises:
        UserError: NNCF is not installed, or a frame cannot be read.
    """
    nncf = import_optional("nncf", "int8")
    frames = nncf.Dataset(images, lambda path: graph_inputs(path, card))
    with contextlib.redirect_stdout(sys.stderr):  # its progress bar
        return nncf.quantize(graph, frames, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images))


def quantize_onnx(graph: onnx.ModelProto, images: Sequence[Path], card: ModelCard) -> onnx.ModelProto:
    """Quantize an ONNX graph: pairs of QuantizeLinear and DequantizeLinear, weights in int8 with a scale per channel.

    Args:
        graph: the graph; it is not changed.
        images: the frames that decide the scales.
        card: the card of the network.

    Raises:
        UserError: ONNX Runtime is not installed, or a frame cannot be read.

    Example::

        quantized = quantize_onnx(onnx_graph(model, card), find_images(Path("CamVid/val")), card)
    """
    quantization = import_optional("onnxruntime.quantization", "onnx")

    class Frames(quantization.CalibrationDataReader):  # type: ignore[name-defined]  # the package is optional
        def __init__(self) -> None:
            self.frames: Iterator[Path] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            path = next(self.frames, None)
            return graph_inputs(path, card) if path else None

    logging.disable(logging.WARNING)  # of steps before that the exporter already did
    try:
        with TemporaryDirectory() as folder:
            given, file = Path(folder) / "given.onnx", Path(folder) / "int8.onnx"
            onnx.save(graph, given)  # a graph in memory would be changed
            quantization.quantize_static(
                given,
                file,
                Frames(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            return onnx.load(file)
    finally:
        logging.disable(logging.NOTSET)
