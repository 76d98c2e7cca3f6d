"""What a static graph takes and gives, and the files that other programs want beside it, filled in.

Texts only, from a card and an interface; nothing is read or written here.
"""

import json
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Literal

import numpy as np

from linknet_fastai.config.size import format_size
from linknet_fastai.core.text import printable
from linknet_fastai.engines.engine import CONFIDENCE
from linknet_fastai.model.card import METADATA_KEY, ModelCard

MODEL = "1/model.onnx"  # version 1 under the name that Triton looks for
PREPROCESS = "preprocess.json"
# All that there may be
FILES = ("config.pbtxt", "labels.txt", PREPROCESS, "example.cpp", "nvinfer.txt", "isaac_ros.yaml")
WRITTEN_BY = f"# Written by the command export of {METADATA_KEY}"
TRITON_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "int64": "TYPE_INT64"}
OPSET = 18
INPUT = "image"
InputKind = Literal["float32", "uint8", "normalized"]
OutputKind = Literal["int32", "int64", "probabilities", "logits"]


@dataclass(frozen=True)
class Interface:
    """What goes into a static graph and what comes out.

    Attributes:
        size: (width, height) of the input and of the outputs.
        input: "float32" and "uint8" are RGB values from 0 to 255; "normalized" is float32 from which the caller has
            subtracted the mean of the card, and which it has divided by its standard deviation.
        output: "int32" and "int64" are the network's channel of each pixel, 1xHxWx1; "probabilities" float32,
            1xHxWxC; "logits" float32, 1xCxHxW.
        confidence: whether there is a second output, 1xHxWx1 float32: the probability of the best class.
        half: whether the network computes in fp16; inputs and outputs stay as they are.
    """

    size: tuple[int, int]
    input: InputKind = "float32"
    output: OutputKind = "int32"
    confidence: bool = False
    half: bool = False

    @property
    def output_name(self) -> str:
        """The name of the first output: classes, probabilities or logits."""
        return "classes" if self.output.startswith("int") else self.output

    def classes(self, first: np.ndarray) -> np.ndarray:
        """The network's channel of each pixel, HxW, from the first output of the graph."""
        if self.output == "logits":
            return first[0].argmax(0)
        return first[0].argmax(-1) if self.output == "probabilities" else first[0, ..., 0]

    def output_shapes(self, n_classes: int) -> dict[str, tuple[int, ...]]:
        """The shape of each output by name, in the order of the graph."""
        width, height = self.size
        shapes: dict[str, tuple[int, ...]] = {
            "classes": (1, height, width, 1),
            "logits": (1, n_classes, height, width),
        }
        shapes |= {"probabilities": (1, height, width, n_classes), CONFIDENCE: (1, height, width, 1)}
        return {name: shapes[name] for name in (self.output_name, *([CONFIDENCE] if self.confidence else []))}


def contract_files(card: ModelCard, interface: Interface) -> dict[str, str]:
    """The text of each file by its path in the folder; only those of programs that can use this interface.

    Args:
        card: the model's card.
        interface: what goes into its graph and comes out.

    Returns:
        Always `config.pbtxt`, `labels.txt`, `preprocess.json` and `example.cpp`; `nvinfer.txt` for float32 pixels to
        probabilities, which is all that Gst-nvinfer supports; `isaac_ros.yaml` unless the input is uint8 or the
        output logits.

    Example:
        >>> from linknet_fastai.config.recipe import load_recipe
        >>> card = ModelCard.of(load_recipe("street"), (480, 360))
        >>> list(contract_files(card, Interface((480, 360))))
        ['config.pbtxt', 'labels.txt', 'preprocess.json', 'example.cpp', 'isaac_ros.yaml']
    """
    files = {
        "config.pbtxt": _triton(card, interface),
        "labels.txt": "".join(f"{printable(name)}\n" for name in card.class_names),
        PREPROCESS: json.dumps(_preprocess(card, interface), indent=2, ensure_ascii=False) + "\n",
        "example.cpp": _example(card, interface),
    }
    if (interface.input, interface.output) == ("float32", "probabilities"):
        files["nvinfer.txt"] = _nvinfer(card, interface)
    if interface.input != "uint8" and interface.output != "logits":
        files["isaac_ros.yaml"] = _isaac_ros(card, interface)
    return files


def _triton(card: ModelCard, interface: Interface) -> str:
    """A ModelConfig; docs/user_guide/model_configuration.md of github.com/triton-inference-server/server.

    Without a name: then it is that of the folder. The batch is part of the shapes, so `max_batch_size` is 0.
    """

    def tensor(name: str, kind: str, shape: tuple[int, ...]) -> str:
        return f'  {{ name: "{name}" data_type: {TRITON_TYPES[kind]} dims: [ {", ".join(map(str, shape))} ] }}'

    width, height = interface.size
    pixels = "uint8" if interface.input == "uint8" else "float32"
    first = interface.output if interface.output.startswith("int") else "float32"
    outputs = [
        tensor(name, "float32" if name == CONFIDENCE else first, shape)
        for name, shape in interface.output_shapes(len(card.classes)).items()
    ]
    lines = [
        f"{WRITTEN_BY}; this folder is a model of a model repository.",
        'platform: "onnxruntime_onnx"',
        "max_batch_size: 0",
        "input [",
        tensor(INPUT, pixels, (1, 3, height, width)),
        "]",
        "output [",
        ",\n".join(outputs),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _nvinfer(card: ModelCard, interface: Interface) -> str:
    """A configuration of Gst-nvinfer: the page DS_plugin_gst-nvinfer of docs.nvidia.com/metropolis/deepstream.

    It computes net-scale-factor * (pixel - offset), one factor for all channels: normalization is in the graph.
    """
    width, height = interface.size
    colors = [f"# {channel} {printable(e.name)} {e.css_color}" for channel, e in enumerate(card.classes)]
    lines = [
        f"{WRITTEN_BY}, for the element nvinfer of DeepStream.",
        "# The class map is in NvDsInferSegmentationMeta. The classes and their colors (nvsegvisual has its own):",
        *colors,
        "[property]",
        "gpu-id=0",
        f"onnx-file={MODEL}",
        "labelfile-path=labels.txt",
        "batch-size=1",
        f"infer-dims=3;{height};{width}",
        "# 0: RGB",
        "model-color-format=0",
        "net-scale-factor=1.0",
        "offsets=0;0;0",
        *(["# Frames of another shape are padded at the right and bottom, with black"] if card.fit == "pad" else []),
        f"maintain-aspect-ratio={int(card.fit == 'pad')}",
        "# 0: FP32, 2: FP16",
        f"network-mode={2 if interface.half else 0}",
        "# 2: segmentation; its output is 1xHxWxC",
        "network-type=2",
        "segmentation-output-order=1",
        f"num-detected-classes={len(card.classes)}",
        f"output-blob-names={interface.output_name}",
        "# Pixels whose probability is lower have the class -1",
        "segmentation-threshold=0.0",
        "gie-unique-id=1",
    ]
    return "\n".join(lines) + "\n"


def _isaac_ros(card: ModelCard, interface: Interface) -> str:
    """Parameters of the nodes of Isaac ROS, as they declare them.

    dnn_image_encoder_node.cpp, tensor_rt_node.cpp and triton_node.cpp of
    github.com/NVIDIA-ISAAC-ROS/isaac_ros_dnn_inference, unet_decoder_node.cpp of isaac_ros_image_segmentation there,
    release 4.4. The encoder scales pixels to 0 to 1, subtracts the mean and divides by the standard deviation.
    """
    width, height = interface.size
    mean, std = (card.mean, card.std) if interface.input == "normalized" else ((0.0,) * 3, (1 / 255,) * 3)
    palette = ", ".join(f"0x{entry.css_color[1:].upper()}" for entry in card.classes)
    bindings = [
        "    input_tensor_names: ['input_tensor']",
        f"    input_binding_names: ['{INPUT}']",
        "    input_tensor_formats: ['nitros_tensor_list_nchw_rgb_f32']",
        "    output_tensor_names: ['output_tensor']",
        f"    output_binding_names: ['{interface.output_name}']",
        "    output_tensor_formats: ['nitros_tensor_list_nhwc_rgb_f32']",
    ]
    squished = "# The encoder squishes frames of another shape: pad them before it, as preprocess.json says."
    lines = [
        f"{WRITTEN_BY}, for Isaac ROS: load the encoder, one of the two inference nodes, and the decoder.",
        *([squished] if card.fit == "pad" else []),
        "/**/dnn_image_encoder_node:",
        "  ros__parameters:",
        "    input_encoding: rgb8",
        f"    network_image_width: {width}",
        f"    network_image_height: {height}",
        f"    image_mean: {list(mean)}",
        f"    image_stddev: {list(std)}",
        "    enable_padding: false",
        "    tensor_name: input_tensor",
        "/**/tensor_rt_node:",
        "  ros__parameters:",
        f"    model_file_path: {MODEL}  # make it absolute: it is relative to this file",
        "    engine_file_path: /tmp/linknet.plan",
        f"    enable_fp16: {str(interface.half).lower()}",
        *bindings,
        "/**/triton_node:",
        "  ros__parameters:",
        "    model_name: linknet  # the name of the folder with config.pbtxt",
        "    model_repository_paths: ['/models']  # the folder above it",
        "    max_batch_size: 0",
        *bindings,
        "/**/unet_decoder_node:",
        "  ros__parameters:",
        f"    network_output_type: {'argmax' if interface.output_name == 'classes' else 'softmax'}",
        "    color_segmentation_mask_encoding: rgb8",
        f"    mask_width: {width}",
        f"    mask_height: {height}",
        f"    color_palette: [{palette}]",
    ]
    return "\n".join(lines) + "\n"


def _example(card: ModelCard, interface: Interface) -> str:
    """A program in C++ that runs the graph; https://onnxruntime.ai/docs/api/c/ describes what it calls."""
    width, height = interface.size
    pixel, constants = "pixels[3 * i + c]", ""
    if interface.input == "normalized":
        pixel = f"({pixel} / 255.0f - kMean[c]) / kStd[c]"
        mean, std = (", ".join(f"{value!r}f" for value in values) for values in (card.mean, card.std))
        constants = f"constexpr float kMean[] = {{{mean}}}, kStd[] = {{{std}}};\n"
    score = {"logits": "{} * kWidth * kHeight + i", "probabilities": "i * kClasses + {}"}.get(interface.output)
    search = ""
    if score:
        larger = f"values[{score.format('c')}] > values[{score.format('best')}]"
        search = f"    for (int64_t c = 1; c < kClasses; c++)\n      if ({larger}) best = c;\n"
    template = resources.files("linknet_fastai.export").joinpath("templates/example.cpp").read_text("utf-8")
    scale = f"scale={width}:{height}"
    if card.fit == "pad":
        scale += f":force_original_aspect_ratio=decrease,pad={width}:{height}:0:0:0x{bytes(card.padding).hex()}"
    return Template(template).substitute(
        scale=scale,
        width=width,
        height=height,
        model=MODEL,
        n_classes=len(card.classes),
        ids=", ".join(str(entry.id) for entry in card.classes),
        constants=constants,
        input_type="uint8_t" if interface.input == "uint8" else "float",
        pixel=pixel,
        input=INPUT,
        output=interface.output_name,
        output_type={"int32": "int32_t", "int64": "int64_t"}.get(interface.output, "float"),
        first="0" if score else "values[i]",
        search=search,
    )


def _preprocess(card: ModelCard, interface: Interface) -> dict[str, object]:
    """What a frame needs before the graph, and what its outputs mean, in words and numbers."""
    width, height = interface.size
    size = f"{format_size(interface.size)}, width x height"
    resizing = (
        f"resize it to {size}, bilinearly with antialiasing; the aspect ratio is not kept and nothing is padded"
    )
    if card.fit == "pad":
        resizing = (
            f"resize it, bilinearly with antialiasing, to the largest size with its aspect ratio inside {size}; fill "
            f"the rest, at the right and bottom, with the color {list(card.padding)}, and cut it off the outputs"
        )
    steps = ["decode the frame to 8-bit RGB, upright", resizing]
    if interface.input == "normalized":
        steps.append("divide by 255, subtract mean, divide by std, for each channel")
    else:
        steps.append(f"keep the values from 0 to 255, as {interface.input}: the graph normalizes them itself")
    steps.append(f"reorder height x width x 3 to 1 x 3 x {height} x {width}")
    meanings = {
        "classes": f"{interface.output}: the channel of each pixel, an index into classes",
        "probabilities": "float32: the probability of each channel, calibrated by the temperature; they sum to 1",
        "logits": "float32: the scores of each channel, of any sign; the largest is the class",
        CONFIDENCE: "float32, 0 to 1: the probability of the class, calibrated by the temperature",
    }
    return {
        "written_by": METADATA_KEY,
        "model": MODEL,
        "opset": OPSET,
        "computes_in": "float16" if interface.half else "float32",
        "steps": steps,
        "input": {
            "name": INPUT,
            "type": "uint8" if interface.input == "uint8" else "float32",
            "shape": [1, 3, height, width],
            "layout": "NCHW",
            "channels": "RGB",
            "normalized_by": "caller" if interface.input == "normalized" else "graph",
            "mean": list(card.mean),
            "std": list(card.std),
        },
        "outputs": [
            {"name": name, "shape": list(shape), "meaning": meanings[name]}
            for name, shape in interface.output_shapes(len(card.classes)).items()
        ],
        "temperature": card.temperature,
        "classes": [
            {"channel": channel, "id": entry.id, "name": entry.name, "color": entry.css_color}
            for channel, entry in enumerate(card.classes)
        ],
        "void": {"id": card.void.id},
    }
