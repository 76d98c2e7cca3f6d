"""The engine that runs an exported `.onnx` in ONNX Runtime. Imports no torch."""

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from linknet_fastai.core.errors import UsageError, UserError, import_optional, reason
from linknet_fastai.core.parallel import usable_cores
from linknet_fastai.engines.engine import (
    CONFIDENCE,
    IMAGE,
    MASK,
    SIZE,
    Engine,
    InputSize,
    check_interface,
    checked_confidence,
    checked_mask,
)
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
        self._runtime = import_optional("onnxruntime", "onnx")
        self._options = self._runtime.SessionOptions()
        self._options.intra_op_num_threads = max(1, usable_cores() // frames_at_once)
        self._options.log_severity_level = 4  # no log lines among those of the command
        try:
            content, outputs = _without_confidence(file.read_bytes())
            self._session = self._open(content)
        except Exception as error:  # a dozen types, all its own
            raise UserError(f"{file}: damaged, or not an ONNX file ({reason(error)})") from None
        card = parse_card(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), file)
        self.has_confidence = check_interface([node.name for node in self._session.get_inputs()], outputs, file)
        super().__init__(card, "fp32", size, frames_at_once)
        self.file = file
        self._opening = Lock()

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network; see `Engine.channels`."""
        (mask,) = self._run([MASK], pixels, size)
        return checked_mask(mask, size, self.card, self.file)

    def channels_and_confidence(self, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Run the network; see `Engine.channels_and_confidence`."""
        with self._opening:
            if len(self._session.get_outputs()) == 1:
                self._session = self._open(self.file.read_bytes())
        mask, confidence = self._run([MASK, CONFIDENCE], pixels, size)
        return checked_mask(mask, size, self.card, self.file), checked_confidence(confidence, size, self.file)

    def _open(self, content: bytes) -> Any:
        return self._runtime.InferenceSession(content, self._options, providers=["CPUExecutionProvider"])

    def _run(self, outputs: list[str], pixels: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
        try:
            return self._session.run(outputs, {IMAGE: pixels[None], SIZE: np.array(size, np.int64)})
        except Exception as error:  # a graph that was not exported here can fail in any way
            raise UserError(f"{self.file}: fails ({reason(error)})") from None


def _without_confidence(content: bytes) -> tuple[bytes, list[str]]:
    """A model file without the output `confidence`, and the names of all its outputs.

    ONNX Runtime computes every node of a graph, also those of an output that is not fetched. Removed with protobuf,
    which ONNX Runtime brings along, because the package onnx is not needed to predict. The messages name only the
    fields that are read here, of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; protobuf keeps the others.
    """
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    text, message = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_MESSAGE
    one, many = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
    fields: dict[str, list[tuple[Any, ...]]] = {
        "Node": [("name", 3, one, text, None)],
        "Value": [("name", 1, one, text, None)],
        "Graph": [("node", 1, many, message, "Node"), ("output", 12, many, message, "Value")],
        "Model": [("graph", 7, one, message, "Graph")],
    }
    schema = FileDescriptorProto(name="outputs.proto")
    for kind, of_kind in fields.items():
        described = schema.message_type.add(name=kind)
        for name, number, label, type_, type_name in of_kind:
            described.field.add(name=name, number=number, label=label, type=type_, type_name=type_name)
    pool = DescriptorPool()
    pool.Add(schema)
    model: Any = GetMessageClass(pool.FindMessageTypeByName("Model")).FromString(content)
    outputs = [value.name for value in model.graph.output]
    if CONFIDENCE not in outputs:
        return content, outputs
    for values in (model.graph.node, model.graph.output):
        for index in reversed(range(len(values))):
            if values[index].name.split("/")[0] == CONFIDENCE:
                del values[index]
    return model.SerializeToString(), outputs
