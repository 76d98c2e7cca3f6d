"""The engine that runs an exported `.onnx` in onnxruntime. Imports no torch."""

from pathlib import Path

import numpy as np

from linknet_fastai.core.errors import UsageError, UserError, import_optional, reason
from linknet_fastai.engines.engine import IMAGE, SIZE, Engine, check_interface, checked_mask
from linknet_fastai.model.card import METADATA_KEY, parse_card


class OnnxPredictor(Engine):
    """Predicts with onnxruntime on the CPU, in fp32.

    Args:
        file: an `.onnx` that `export` wrote.
        precision: "auto" or "fp32".
        size: (width, height) that the network sees; None is the model's training size, "native" each frame's own.
        frames_at_once: how many frames are computed at a time.
        threads: how many threads compute a frame.

    Raises:
        UsageError: another precision.
        UserError: onnxruntime is not installed, or the file is damaged or not ours.
    """

    name = "onnxruntime"

    def __init__(
        self,
        file: Path,
        precision: str = "auto",
        size: tuple[int, int] | str | None = None,
        frames_at_once: int = 1,
        threads: int = 1,
    ) -> None:
        if precision not in ("auto", "fp32"):
            raise UsageError(
                f"--precision: onnxruntime computes in fp32 alone; for {precision} take --engine openvino"
            )
        onnxruntime = import_optional("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its own log would add lines to ours
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a dozen kinds, all of its own making
            raise UserError(f"{file}: damaged, or no ONNX file ({reason(error)})") from None
        card = parse_card(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), file)
        inputs = [node.name for node in self._session.get_inputs()]
        check_interface(inputs, len(self._session.get_outputs()), file)
        super().__init__(card, "fp32", size, frames_at_once)
        self.file = file

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network; see `Engine.channels`."""
        try:
            (mask,) = self._session.run(None, {IMAGE: pixels[None], SIZE: np.array(size, np.int64)})
        except Exception as error:  # a graph of another's making may ask for anything
            raise UserError(f"{self.file}: fails ({reason(error)})") from None
        return checked_mask(mask, size, self.card, self.file)
