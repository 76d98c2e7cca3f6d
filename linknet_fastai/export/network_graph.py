"""A network as a static ONNX graph for other programs: Triton, TensorRT, DeepStream, Isaac ROS. Writes no files.

What they ask of a graph, and where they say so:

- One size, no computed shapes, no integer arithmetic, opset 18: TensorRT compiles it (docs/operators.md of
  github.com/onnx/onnx-tensorrt; uint8 inputs since TensorRT 8.5, which "must directly feed into a cast",
  github.com/NVIDIA/TensorRT/issues/3985).
- Classes as 1xHxWx1 int32 or int64, or probabilities as 1xHxWxC float32: what the decoder of isaac_ros_unet reads
  (segmentation_postprocessor.cpp of github.com/NVIDIA-ISAAC-ROS/isaac_ros_image_segmentation; NHWC alone, and of
  logits only those above 0).
- Probabilities: DeepStream's Gst-nvinfer takes the largest value above `segmentation-threshold` and above -1
  (fillSegmentationOutput in nvdsinfer_context_impl_output_parsing.cpp), so logits would leave pixels without a class.
"""

import contextlib
import io
import logging

import onnx
import torch
from onnx.helper import set_model_props
from torch import Tensor, nn

from linknet_fastai.export.contracts import INPUT, OPSET, Interface
from linknet_fastai.model.batch_norm import fold_batch_norms
from linknet_fastai.model.card import METADATA_KEY, ModelCard
from linknet_fastai.model.linknet import LinkNet


class _Deployed(nn.Module):
    """A network with what an interface has before and after it."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: LinkNet, card: ModelCard, interface: Interface) -> None:
        super().__init__()
        self.network = fold_batch_norms(model).cpu()
        if interface.half:
            self.network = self.network.half()
        self.interface, self.temperature = interface, card.temperature
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.interface.input != "normalized":
            image = (image.float() / 255 - self.mean) / self.std
        logits = self.network(image.half() if self.interface.half else image).float()
        outputs = [self._first(logits)]
        if self.interface.confidence:
            highest = logits.amax(1, keepdim=True)
            outputs.append((1 / ((logits - highest) / self.temperature).exp().sum(1)).unsqueeze(-1))
        return tuple(outputs)

    def _first(self, logits: Tensor) -> Tensor:
        if self.interface.output == "logits":
            return logits
        if self.interface.output == "probabilities":
            return (logits / self.temperature).softmax(1).permute(0, 2, 3, 1)
        classes = logits.argmax(1).unsqueeze(-1)
        return classes.to(torch.int32) if self.interface.output == "int32" else classes


def network_graph(model: LinkNet, card: ModelCard, interface: Interface) -> onnx.ModelProto:
    """Turn a network into a static graph.

    The input is `image`, 1x3xHxW; see `Interface` for its type and for the outputs. Every value in the graph has a
    static shape, which the checker of onnx confirms. The card is stored in the metadata.

    Args:
        model: the network; it is not changed.
        card: its card.
        interface: what goes in and comes out.

    Example::

        graph = network_graph(*load_model("runs/street"), Interface((480, 360), output="probabilities"))
        onnx.save(graph, "model.onnx")
    """
    width, height = interface.size
    pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8 if interface.input == "uint8" else torch.float32)
    deployed = _Deployed(model, card, interface).eval()
    names = [*interface.output_shapes(len(card.classes))]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its progress
        program = torch.onnx.export(
            deployed, (pixels,), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=names
        )
    assert program is not None  # it is None only for a file
    graph = program.model_proto
    for node in graph.graph.node:
        node.ClearField("metadata_props")  # stack traces: paths and lines of the machine that exported
        node.ClearField("doc_string")
    graph.producer_name = "linknet-fastai"
    graph.graph.name = "linknet"
    set_model_props(graph, {METADATA_KEY: card.model_dump_json()})
    onnx.checker.check_model(graph, full_check=True)
    return graph
