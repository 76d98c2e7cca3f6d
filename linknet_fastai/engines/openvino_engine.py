"""The engine that runs an exported `.xml` or `.onnx` in OpenVINO. Imports no torch."""

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from linknet_fastai.core.errors import UsageError, UserError, import_optional, reason
from linknet_fastai.engines.engine import (
    CONFIDENCE,
    IMAGE,
    MASK,
    RESAMPLED,
    SIZE,
    Engine,
    InputSize,
    check_interface,
    checked_confidence,
    checked_mask,
)
from linknet_fastai.model.card import METADATA_KEY, parse_card

MOST_COMPILED = 4  # further sizes share one graph that takes any size


class OpenVinoPredictor(Engine):
    """Predicts with OpenVINO on the CPU. Called, it returns class ids, see `Engine`.

    A graph is compiled for each frame size, which runs faster than one that takes any size. Compiling takes a tenth
    of a second, so after `MOST_COMPILED` sizes one graph is compiled for all others.

    Args:
        file: an `.xml` or an `.onnx` that `export` wrote.
        precision: "auto", "fp32" or "bf16"; auto is bf16 where the CPU supports it.
        size: (width, height) of what the network sees; None is the model's training size, "native" each frame's own.
        frames_at_once: how many frames are computed at the same time.

    Raises:
        UsageError: another precision, or fp32 with an int8 file.
        UserError: OpenVINO is not installed, or the file is damaged or not ours.

    Example::

        mask = OpenVinoPredictor(Path("runs/street/export.xml"))("frame.png")
    """

    name = "openvino"

    def __init__(self, file: Path, precision: str = "auto", size: InputSize = None, frames_at_once: int = 1) -> None:
        openvino = import_optional("openvino", "openvino")
        self._core = openvino.Core()
        if precision == "fp16":
            raise UsageError("--precision: openvino computes in fp32 or bf16 on a CPU, not in fp16")
        try:
            self._graph = self._core.read_model(file)
            text = _metadata(self._graph, METADATA_KEY)
            inputs = [name for node in self._graph.inputs for name in node.names]
            outputs = [name for node in self._graph.outputs for name in node.names]
        except Exception as error:  # mostly RuntimeError
            raise UserError(f"{file}: damaged, or not an OpenVINO file ({reason(error)})") from None
        card = parse_card(text, file)
        self.has_confidence = check_interface(inputs, outputs, file)
        int8 = any(node.get_type_name() == "FakeQuantize" for node in self._graph.get_ops())
        if int8 and precision == "fp32":
            raise UsageError(f"--precision: {file} is int8; export it without --int8 to compute in fp32")
        if precision == "auto":
            precision = "bf16" if "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
        self._options = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],  # its default is bf16
            "NUM_STREAMS": str(frames_at_once),
        }
        super().__init__(card, "int8" if int8 else precision, size, frames_at_once)
        self.file = file
        self._compiled: dict[tuple, tuple[Any, list[Any]]] = {}  # with the requests that are idle
        self._lock = Lock()

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network; see `Engine.channels`."""
        return self._run([MASK], pixels, size)[0]

    def channels_and_confidence(self, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Run the network; see `Engine.channels_and_confidence`."""
        mask, confidence = self._run([MASK, CONFIDENCE], pixels, size)
        return mask, checked_confidence(confidence, size, self.file)

    def _run(self, outputs: list[str], pixels: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
        """The wanted outputs of the graph; the mask is checked."""
        try:
            with self._lock:
                any_size, compiled, idle = self._compiled_for(outputs, pixels.shape[:2], size)
                request = idle.pop() if idle else compiled.create_infer_request()
            inputs = {IMAGE: pixels[None]} | ({SIZE: np.array(size, np.int64)} if any_size else {})
            results = request.infer(inputs, share_inputs=True)
            mask, *others = [results[name] for name in outputs]
            with self._lock:
                idle.append(request)
        except Exception as error:  # a graph that was not exported here can fail in any way
            raise UserError(f"{self.file}: fails ({reason(error)})") from None
        return [checked_mask(mask, size, self.card, self.file), *others]

    def _compiled_for(
        self, outputs: list[str], seen: tuple[int, int], size: tuple[int, int]
    ) -> tuple[bool, Any, list[Any]]:
        """Whether the graph for these sizes, each (height, width), takes any size; the graph, compiled if needed."""
        key: tuple = (*outputs, *seen, *size)
        if any_size := key not in self._compiled and len(self._compiled) >= MOST_COMPILED:
            key = (*outputs,)
        if key not in self._compiled:
            graph = _with_outputs(self._graph, outputs)
            graph = graph if any_size else _for_sizes(graph, seen, size)
            self._compiled[key] = self._core.compile_model(graph, "CPU", self._options), []
        return any_size, *self._compiled[key]


def _with_outputs(graph: Any, outputs: list[str]) -> Any:
    """A copy of a graph that computes no other outputs."""
    graph = graph.clone()
    for result in graph.results:
        if not result.output(0).names & {*outputs}:
            graph.remove_result(result)
    return graph


def _for_sizes(graph: Any, seen: tuple[int, int], size: tuple[int, int]) -> Any:
    """A graph for frames of one size, without the input `size`; the graph itself is changed."""
    from openvino import opset13 as operations

    parameter = graph.input(SIZE).get_node()
    constant = operations.constant(np.array(size, np.int64)).output(0)
    for target in parameter.output(0).get_target_inputs():
        target.replace_source_output(constant)
    graph.remove_parameter(parameter)
    graph.reshape({IMAGE: [1, *seen, 3]})
    if seen == size:  # nothing to resize, but OpenVINO would compute it
        for node in graph.get_ops():
            if node.get_friendly_name() == RESAMPLED:
                for target in node.output(0).get_target_inputs():
                    target.replace_source_output(node.input_value(0))
    return graph


def _metadata(graph: Any, key: str) -> str | None:
    """A text in the rt_info of an `.xml`; OpenVINO stores the metadata of an `.onnx` under "framework"."""
    for path in ([key], ["framework", key]):
        if graph.has_rt_info(path):
            return str(graph.get_rt_info(path).astype(str))
    return None
