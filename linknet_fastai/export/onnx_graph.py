"""A network as an ONNX graph from the uint8 frame to the class map. No files are read or written here."""

import contextlib
import io
import logging
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info, set_model_props

from linknet_fastai.engines.engine import CONFIDENCE, IMAGE, MASK, RESAMPLED, SIZE
from linknet_fastai.model.batch_norm import fold_batch_norms
from linknet_fastai.model.card import METADATA_KEY, ModelCard
from linknet_fastai.model.linknet import LinkNet

OPSET = 18
# At this height and width the network's forward pass executes all its pads and crops, so the graph contains them;
# at sizes that need none of them they do nothing.
TRACED_SIZE = (65, 97)


def onnx_graph(model: LinkNet, card: ModelCard) -> onnx.ModelProto:
    """Turn a network into a graph that needs no pre- or postprocessing.

    The inputs are `image`, 1xHxWx3 uint8, RGB, of any size, and `size`, two int64: height and width of the output.
    The outputs are `mask`, 1xheightxwidth uint8: the network's channel of each pixel; and `confidence`, of the same
    shape and type: its probability times 255. Normalization, the bilinear resizing of the logits, the argmax and the
    temperature are part of the graph. The card is stored in the metadata.

    Args:
        model: the network; it is not changed.
        card: its card.

    Example::

        onnx.save(onnx_graph(*load_model("runs/street")), "street.onnx")
    """
    graph = _network_graph(model)
    network = graph.graph
    (pixels,), (logits,) = network.input, network.output
    nodes = [*_normalization(card, pixels.name), *network.node, *_class_map(logits.name), *_confidence()]
    constants: dict[str, np.ndarray] = {
        "byte_range": np.array(255, np.float32),
        "mean": np.array(card.mean, np.float32),
        "std": np.array(card.std, np.float32),
        "batch_and_classes": np.array([1, len(card.classes)], np.int64),
        "temperature": np.array(card.temperature, np.float32),
        "axis_of_classes": np.array([1], np.int64),
    }
    network.initializer.extend(numpy_helper.from_array(value, _ours(name)) for name, value in constants.items())
    image = make_tensor_value_info(IMAGE, TensorProto.UINT8, [1, "H", "W", 3])
    size = make_tensor_value_info(SIZE, TensorProto.INT64, [2])
    outputs = [make_tensor_value_info(name, TensorProto.UINT8, [1, "height", "width"]) for name in (MASK, CONFIDENCE)]
    exported = make_model(
        make_graph(nodes, "linknet", [image, size], outputs, network.initializer),
        opset_imports=[make_opsetid("", OPSET)],
        ir_version=graph.ir_version,
        producer_name="linknet-fastai",
    )
    set_model_props(exported, {METADATA_KEY: card.model_dump_json()})
    onnx.checker.check_model(exported)
    return exported


def _network_graph(model: LinkNet) -> onnx.ModelProto:
    """The bare network, 1x3xHxW floats to logits, batch norm folded, no source paths from the exporter."""
    pixels = torch.zeros(1, 3, *TRACED_SIZE)
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    network = fold_batch_norms(model).cpu()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its progress
        program = torch.onnx.export(network, (pixels,), dynamo=True, dynamic_shapes=(sides,), opset_version=OPSET)
    assert program is not None  # it is None only for a file
    graph = program.model_proto
    for node in graph.graph.node:
        node.ClearField("metadata_props")  # stack traces: paths and lines of the machine that exported
        node.ClearField("doc_string")
    return graph


def _normalization(card: ModelCard, pixels: str) -> list[onnx.NodeProto]:
    """The same operations as in the torch engine, in the same order, so that both networks see the same input."""
    return [
        make_node("Cast", [IMAGE], [_ours("bytes")], to=TensorProto.FLOAT),
        make_node("Div", [_ours("bytes"), _ours("byte_range")], [_ours("fractions")]),
        make_node("Sub", [_ours("fractions"), _ours("mean")], [_ours("centered")]),
        make_node("Div", [_ours("centered"), _ours("std")], [_ours("normalized")]),
        make_node("Transpose", [_ours("normalized")], [pixels], perm=[0, 3, 1, 2]),
    ]


def _class_map(logits: str) -> list[onnx.NodeProto]:
    return [
        make_node("Concat", [_ours("batch_and_classes"), SIZE], [_ours("sizes")], axis=0),
        make_node(
            "Resize",
            [logits, "", "", _ours("sizes")],
            [RESAMPLED],
            name=RESAMPLED,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        # Along the last axis: OpenVINO computes in this layout, and is many times slower along the second.
        make_node("Transpose", [RESAMPLED], [_ours("scores_of_pixels")], perm=[0, 2, 3, 1]),
        make_node("ArgMax", [_ours("scores_of_pixels")], [_ours("channels")], axis=3, keepdims=0),
        make_node("Cast", [_ours("channels")], [MASK], to=TensorProto.UINT8),
    ]


def _confidence() -> list[onnx.NodeProto]:
    """255 / sum(exp((logits - highest) / temperature)), which is the softmax of the highest logit times 255.

    As few passes over all classes as possible: ONNX Runtime and OpenVINO take twice the time for a Softmax here.
    """

    def node(operation: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return make_node(operation, inputs, [output], name=f"{CONFIDENCE}/{operation}", **attributes)

    return [
        node("ReduceMax", [RESAMPLED, _ours("axis_of_classes")], _ours("highest"), keepdims=1),
        node("Sub", [RESAMPLED, _ours("highest")], _ours("below_highest")),
        make_node(
            "Div", [_ours("below_highest"), _ours("temperature")], [_ours("exponents")], name=f"{CONFIDENCE}/Scale"
        ),
        node("Exp", [_ours("exponents")], _ours("exponentials")),
        node("ReduceSum", [_ours("exponentials"), _ours("axis_of_classes")], _ours("total"), keepdims=0),
        node("Div", [_ours("byte_range"), _ours("total")], _ours("probability")),
        node("Round", [_ours("probability")], _ours("rounded")),
        node("Cast", [_ours("rounded")], CONFIDENCE, to=TensorProto.UINT8),
    ]


def _ours(name: str) -> str:
    """A name that the exporter gives to no value: its names are those of operations, such as `mean`."""
    return f"linknet/{name}"
