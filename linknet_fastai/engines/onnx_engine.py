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

# The execution providers of ONNX Runtime by the value of --device, and the package that has them.
PROVIDERS = {
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime on macOS"),
}


class OnnxPredictor(Engine):
    """Predicts with ONNX Runtime, in fp32 or int8. Called, it returns class ids, see `Engine`.

    Args:
        file: an `.onnx` that `export` wrote.
        precision: "auto" or "fp32".
        size: (width, height) of what the network sees; None is the model's training size, "native" each frame's own.
        frames_at_once: how many frames are computed at the same time; the cores are divided among them.
        device: "cpu", or a name in `PROVIDERS`; "cuda:1" and "tensorrt:1" are the second GPU.

    Raises:
        UsageError: another precision, fp32 with an int8 file, or a device that the installed ONNX Runtime does not
            have.
        UserError: the device cannot be used on this machine, ONNX Runtime is not installed, or the file is damaged or
            not ours.

    Example::

        mask = OnnxPredictor(Path("runs/street/export.onnx"))("frame.png")
    """

    name = "onnxruntime"

    def __init__(
        self,
        file: Path,
        precision: str = "auto",
        size: InputSize = None,
        frames_at_once: int = 1,
        device: str = "cpu",
    ) -> None:
        if precision not in ("auto", "fp32"):
            raise UsageError(f"--precision: onnxruntime computes in fp32 only; for {precision} use --engine openvino")
        self._runtime = import_optional("onnxruntime", "onnx")
        self._options = self._runtime.SessionOptions()
        self._options.intra_op_num_threads = max(1, usable_cores() // frames_at_once)
        self._options.log_severity_level = 4  # no log lines among those of the command
        self._providers = self._providers_of(device)
        if device != "cpu":
            self.name = f"{self.name} on {device}"
        try:
            content, outputs, int8 = without_confidence(file.read_bytes())
            self._session = self._open(content)
        except Exception as error:  # a dozen types, all its own
            raise UserError(f"{file}: damaged, or not an ONNX file ({reason(error)})") from None
        if (used := self._session.get_providers()[0]) != (wanted := self._providers[0][0]):
            raise UserError(f"--device: {wanted} does not start on this machine, {used} would be used instead")
        card = parse_card(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), file)
        self.has_confidence = check_interface([node.name for node in self._session.get_inputs()], outputs, file)
        if int8 and precision == "fp32":
            raise UsageError(f"--precision: {file} is int8; export it without --int8 to compute in fp32")
        super().__init__(card, "int8" if int8 else "fp32", size, frames_at_once)
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

    def _providers_of(self, device: str) -> list[tuple[str, dict[str, str]]]:
        """The execution provider of a device, and those that run what it has no kernel for."""
        name, _, number = device.partition(":")
        on_cpu: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
        if name == "cpu":
            return on_cpu
        if name not in PROVIDERS:
            raise UsageError(f"--device: onnxruntime runs on cpu, {', '.join(PROVIDERS)}, not on {device}")
        provider, package = PROVIDERS[name]
        if provider not in (installed := self._runtime.get_available_providers()):
            raise UsageError(
                f"--device: the onnxruntime that is installed has no {provider}, only {', '.join(installed)}; "
                f"{package} has it"
            )
        if name == "directml":  # which its documentation asks for
            self._options.enable_mem_pattern = False
        names = [provider, PROVIDERS["cuda"][0]] if name == "tensorrt" else [provider]
        return [(each, {"device_id": number} if number else {}) for each in names] + on_cpu

    def _open(self, content: bytes) -> Any:
        return self._runtime.InferenceSession(content, self._options, providers=self._providers)

    def _run(self, outputs: list[str], pixels: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
        try:
            return self._session.run(outputs, {IMAGE: pixels[None], SIZE: np.array(size, np.int64)})
        except Exception as error:  # a graph that was not exported here can fail in any way
            raise UserError(f"{self.file}: fails ({reason(error)})") from None


def without_confidence(content: bytes) -> tuple[bytes, list[str], bool]:
    """A model file without the output `confidence`, the names of all its outputs, and whether it is int8.

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
        "Node": [("name", 3, one, text, None), ("op_type", 4, one, text, None)],
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
    int8 = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if CONFIDENCE not in outputs:
        return content, outputs, int8
    for values in (model.graph.node, model.graph.output):
        for index in reversed(range(len(values))):
            if values[index].name.split("/")[0] == CONFIDENCE:
                del values[index]
    return model.SerializeToString(), outputs, int8
