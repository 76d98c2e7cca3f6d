"""The engine that runs an exported `.onnx` in ONNX Runtime. Imports no torch."""

from pathlib import Path

import numpy as np

from linknet_fastai.core.errors import UsageError, UserError, import_optional, reason
from linknet_fastai.core.parallel import usable_cores
from linknet_fastai.engines.engine import IMAGE, SIZE, Engine, InputSize, check_interface, checked_mask
from linknet_fastai.model.card import METADATA_KEY, parse_card


class OnnxPredictor(Engine):
    """Predicts with ONNX Runtime on the CPU, in fp32. Called, it returns class ids, see `Engine`.

    Args:
        file: an `.onnx` that `export` wrote.
        precision: "auto" or "fp32".
        size: (width, height) of what the network sees; None is the model's training size, "native" each frame's own.
        frames_at_once: how many frames are computed at the same time; the cores are divided among them.

    Raises:
        UsageError: another precision.
        UserError: ONNX Runtime is not installed, or the file is damaged or not ours.

    Example::

        mask = OnnxPredictor(Path("runs/street/export.onnx"))("frame.png")
    """

    name = "onnxruntime"

    def __init__(self, file: Path, precision: str = "auto", size: InputSize = None, frames_at_once: int = 1) -> None:
        if precision not in ("auto", "fp32"):
            raise UsageError(f"--precision: onnxruntime computes in fp32 only; for {precision} use --engine openvino")
        onnxruntime = import_optional("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, usable_cores() // frames_at_once)
        options.log_severity_level = 4  # no log lines among those of the command
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a dozen types, all its own
            raise UserError(f"{file}: damaged, or not an ONNX file ({reason(error)})") from None
        card = parse_card(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), file)
        check_interface([node.name for node in self._session.get_inputs()], len(self._session.get_outputs()), file)
        super().__init__(card, "fp32", size, frames_at_once)
        self.file = file

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network; see `Engine.channels`."""
        try:
            (mask,) = self._session.run(None, {IMAGE: pixels[None], SIZE: np.array(size, np.int64)})
        except Exception as error:  # a graph that was not exported here can fail in any way
            raise UserError(f"{self.file}: fails ({reason(error)})") from None
        return checked_mask(mask, size, self.card, self.file)
