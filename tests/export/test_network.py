"""A static graph and the files beside it are what Triton, TensorRT, DeepStream and Isaac ROS say they take."""

import configparser
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from onnx import TensorProto
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.files import atomic_write
from linknet_fastai.data.street import draw_scene
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.export import network, network_graph
from linknet_fastai.export.contracts import Interface
from linknet_fastai.export.network import export_network
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model, save_model

WIDTH, HEIGHT = 97, 65  # odd, so that the decoder crops
INTERFACES: dict[str, dict[str, Any]] = {
    "classes": {"confidence": True},
    "probabilities": {"output": "probabilities"},
    "half": {"input": "uint8", "output": "int64", "half": True, "confidence": True},
    "logits": {"input": "normalized", "output": "logits"},
}
# What this network needs of docs/operators.md of onnx-tensorrt; not Shape, Gather, Concat and Resize, with which
# sizes are computed.
TENSORRT = {
    *(
        "Add",
        "ArgMax",
        "AveragePool",
        "Cast",
        "Conv",
        "ConvTranspose",
        "Div",
        "Exp",
        "MaxPool",
        "Mul",
        "ReduceMax",
        "ReduceSum",
    ),
    *("Reciprocal", "Relu", "Reshape", "Slice", "Softmax", "Sub", "Transpose", "Unsqueeze"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("secret-place") / "run"
    card = ModelCard.of(load_recipe("street"), (96, 72), encoder="test_resnet", temperature=0.05)
    save_model(LinkNet(11, "test_resnet", pretrained=False), card, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=list(INTERFACES))
def exported(
    run: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Interface]:
    folder = tmp_path_factory.mktemp("models") / "linknet"
    written, files = export_network(run, folder, (WIDTH, HEIGHT), **INTERFACES[request.param])
    assert written.file == folder / "1/model.onnx"
    assert {file for file in folder.iterdir() if file.is_file()} == {*files}
    assert written.check.agreement >= (0.98 if request.param == "half" else 0.999)
    return folder, Interface((WIDTH, HEIGHT), **INTERFACES[request.param])


def outputs_for(folder: Path, frame: np.ndarray) -> dict[str, np.ndarray]:
    """Run a graph as its preprocess.json says, from nothing else."""
    told = json.loads((folder / "preprocess.json").read_text())
    values = frame.transpose(2, 0, 1)[None].astype(told["input"]["type"])
    if told["input"]["normalized_by"] == "caller":
        mean, std = (np.float32(told["input"][name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
        values = (values / 255 - mean) / std
    session = onnxruntime.InferenceSession(folder / told["model"], providers=["CPUExecutionProvider"])
    names = [output["name"] for output in told["outputs"]]
    return dict(
        zip(names, session.run(names, {told["input"]["name"]: values.astype(told["input"]["type"])}), strict=True)
    )


def test_its_classes_and_confidence_are_torchs(run: Path, exported: tuple[Path, Interface]) -> None:
    folder, interface = exported
    engine = Predictor(*load_model(run), "cpu", "fp32", (WIDTH, HEIGHT))
    for seed in range(3):
        frame = np.asarray(draw_scene(seed, (WIDTH, HEIGHT))[0])
        channels, confidence = engine.predict_with_confidence(frame)
        results = outputs_for(folder, frame)
        first = next(iter(results.values()))
        assert (interface.classes(first) == channels).mean() >= (0.98 if interface.half else 0.999)
        if interface.confidence:
            assert np.abs(255 * results["confidence"][0, ..., 0] - confidence).mean() < (4 if interface.half else 0.3)
        if interface.output == "probabilities":
            assert np.allclose(first.sum(-1), 1, atol=1e-5)
            assert np.abs(255 * first.max(-1)[0] - confidence).max() < 1.01


def test_tensorrt_can_compile_it(exported: tuple[Path, Interface]) -> None:
    folder, interface = exported
    model = onnx.load(folder / "1/model.onnx")
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    kinds = {
        value.name: value.type.tensor_type for value in [*inferred.input, *inferred.value_info, *inferred.output]
    }
    kinds_of_constants = {value.name: value.data_type for value in inferred.initializer}
    for node in inferred.node:
        assert node.op_type in TENSORRT
        for name in node.output:  # every shape is known and static
            sides = kinds[name].shape.dim
            assert sides, name
            assert all(side.dim_value > 0 for side in sides), name
        if node.op_type not in ("Cast", "ArgMax", "Unsqueeze", "Reshape", "Slice", "ReduceMax", "ReduceSum"):
            given = {kinds[n].elem_type if n in kinds else kinds_of_constants[n] for n in node.input}
            assert given <= {TensorProto.FLOAT, TensorProto.FLOAT16}, node.op_type
    if interface.input == "uint8":  # such inputs "must directly feed into a cast"
        assert {node.op_type for node in inferred.node if "image" in node.input} == {"Cast"}
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]


def test_tritons_own_protobuf_reads_its_configuration(exported: tuple[Path, Interface]) -> None:
    model_config = pytest.importorskip("tritonclient.grpc").model_config_pb2
    from google.protobuf import text_format

    folder, _ = exported
    read = text_format.Parse((folder / "config.pbtxt").read_text(), model_config.ModelConfig())
    assert (read.platform, read.max_batch_size, read.name) == ("onnxruntime_onnx", 0, "")
    session = onnxruntime.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8"}
    types |= {"tensor(int32)": "TYPE_INT32", "tensor(int64)": "TYPE_INT64"}
    for configured, actual in ((read.input, session.get_inputs()), (read.output, session.get_outputs())):
        found = [(each.name, model_config.DataType.Name(each.data_type), [*each.dims]) for each in configured]
        assert found == [(node.name, types[node.type], node.shape) for node in actual]


def test_isaac_ros_decoder_can_read_what_its_parameters_name(exported: tuple[Path, Interface]) -> None:
    folder, interface = exported
    file = folder / "isaac_ros.yaml"
    if interface.input == "uint8" or interface.output == "logits":
        assert not file.exists()  # the encoder gives float32, the decoder takes scores above 0 alone
        return
    nodes = {
        name.removeprefix("/**/"): node["ros__parameters"] for name, node in yaml.safe_load(file.read_text()).items()
    }
    session = onnxruntime.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
    encoder, decoder = nodes["dnn_image_encoder_node"], nodes["unet_decoder_node"]
    assert (encoder["network_image_width"], encoder["network_image_height"]) == (WIDTH, HEIGHT)
    for name in ("tensor_rt_node", "triton_node"):
        assert nodes[name]["input_binding_names"] == [session.get_inputs()[0].name]
        assert nodes[name]["input_tensor_names"] == [encoder["tensor_name"]]
        assert nodes[name]["output_binding_names"] == [session.get_outputs()[0].name]
    # It reads NHWC: one channel of int32 or int64 for argmax, one of float32 for each class for softmax.
    shape, kind = session.get_outputs()[0].shape, session.get_outputs()[0].type
    expected = {
        "argmax": ([1, HEIGHT, WIDTH, 1], "tensor(int32)"),
        "softmax": ([1, HEIGHT, WIDTH, 11], "tensor(float)"),
    }
    assert (shape, kind) == expected[decoder["network_output_type"]]
    assert decoder["color_palette"][0] == 0x808080  # Sky
    assert len(decoder["color_palette"]) == 11
    # The encoder's (x / 255 - mean) / std gives back the values from 0 to 255.
    pixel = (100 / 255 - encoder["image_mean"][0]) / encoder["image_stddev"][0]
    assert pixel == pytest.approx(100)


def test_deepstream_gets_probabilities_and_their_place(exported: tuple[Path, Interface]) -> None:
    folder, interface = exported
    labels = (folder / "labels.txt").read_text().splitlines()
    assert labels == load_recipe("street").class_names
    if interface.output != "probabilities":
        assert not (folder / "nvinfer.txt").exists()
        return
    parser = configparser.ConfigParser()
    parser.read(folder / "nvinfer.txt")
    told = parser["property"]
    session = onnxruntime.InferenceSession(folder / told["onnx-file"], providers=["CPUExecutionProvider"])
    assert told["output-blob-names"] == session.get_outputs()[0].name
    assert told["infer-dims"] == f"3;{HEIGHT};{WIDTH}"
    assert session.get_inputs()[0].shape == [1, 3, HEIGHT, WIDTH]
    # 1 is NHWC, whose last side is the number of classes.
    assert (told["network-type"], told["segmentation-output-order"]) == ("2", "1")
    assert int(told["num-detected-classes"]) == session.get_outputs()[0].shape[-1] == len(labels)
    frame = np.asarray(draw_scene(0, (WIDTH, HEIGHT))[0])
    given = float(told["net-scale-factor"]) * (
        frame.astype(np.float32) - [float(v) for v in told["offsets"].split(";")]
    )
    assert np.array_equal(given, frame)  # as in preprocess.json
    # fillSegmentationOutput: the largest above -1 and above the threshold; every pixel has one.
    scores = outputs_for(folder, frame)["probabilities"]
    assert (scores.max(-1) > float(told["segmentation-threshold"])).all()


def test_nothing_of_the_machine_is_in_it(exported: tuple[Path, Interface]) -> None:
    folder, _ = exported
    for file in (path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for text in ("secret-place", str(folder.parent), "site-packages", 'File "'):
            assert text.encode() not in content, (file, text)
    with pytest.raises(UserError, match="export --interface frame"):
        open_engine(folder / "1/model.onnx")


def test_a_folder_is_replaced_whole_and_only_if_an_export_wrote_it(
    run: Path, exported: tuple[Path, Interface], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, interface = exported
    if interface.output != "int32":
        return
    monkeypatch.setattr(network_graph, "network_graph", lambda *arguments: onnx.load(folder / "1/model.onnx"))
    (tmp_path / "preprocess.json").write_text('{"written_by": "linknet_fastai"}')
    (tmp_path / "nvinfer.txt").write_text("of an earlier interface")
    _, files = export_network(run, tmp_path, (WIDTH, HEIGHT), confidence=True)
    assert {file for file in tmp_path.iterdir() if file.is_file()} == {*files}
    with monkeypatch.context() as full_disk:
        full_disk.setattr(
            network, "atomic_write", lambda file: atomic_write(file.parent.parent / "labels.txt" / "no")
        )
        with pytest.raises(UserError, match="cannot be written"):
            export_network(run, tmp_path, (WIDTH, HEIGHT), confidence=True)
    assert not (tmp_path / "1/model.onnx").exists()  # no graph beside texts that describe another one
    export_network(run, tmp_path, (WIDTH, HEIGHT), confidence=True)
    assert (tmp_path / "1/model.onnx").is_file()
    (foreign := tmp_path / "mine").mkdir()
    (foreign / "config.pbtxt").write_text("mine")
    with pytest.raises(UsageError, match=r"--out: .*mine has files that no export wrote"):
        export_network(run, foreign)
    assert [file.name for file in foreign.iterdir()] == ["config.pbtxt"]
    monkeypatch.setattr(Interface, "classes", lambda self, first: np.full(first.shape[1:3], 10))
    with pytest.raises(UserError, match="not written; the graph agrees with torch on only"):
        export_network(run, tmp_path / "wrong", (WIDTH, HEIGHT), confidence=True)
    assert not (tmp_path / "wrong").exists()


def test_the_example_in_cpp_gives_torchs_mask(run: Path, exported: tuple[Path, Interface], tmp_path: Path) -> None:
    folder, interface = exported
    text = (folder / "example.cpp").read_text()
    assert len(text.splitlines()) <= 66
    assert f"kWidth = {WIDTH}, kHeight = {HEIGHT}, kClasses = 11" in text
    assert f'outputs[] = {{"{interface.output_name}"}}' in text
    assert "$" not in text
    # No package registry has the headers: include/ and lib/ of a release of ONNX Runtime, where there is one.
    if not (runtime := os.environ.get("ONNXRUNTIME_DIR")):
        pytest.skip("ONNXRUNTIME_DIR is not set: the example is not compiled")
    options = [
        "-std=c++17",
        "-Wall",
        "-Werror",
        f"-I{runtime}/include",
        f"-L{runtime}/lib",
        f"-Wl,-rpath,{runtime}/lib",
    ]
    subprocess.run(["g++", folder / "example.cpp", *options, "-lonnxruntime", "-o", tmp_path / "example"], check=True)
    frame = draw_scene(1, (WIDTH, HEIGHT))[0]
    frame.save(tmp_path / "frame.ppm")
    arguments = [tmp_path / "example", folder / "1/model.onnx", tmp_path / "frame.ppm", tmp_path / "mask.pgm"]
    subprocess.run(arguments, check=True)
    expected = Predictor(*load_model(run), "cpu", "fp32", (WIDTH, HEIGHT))(frame)
    assert (np.asarray(Image.open(tmp_path / "mask.pgm")) == expected).mean() >= (0.98 if interface.half else 0.999)
    assert subprocess.run([*arguments[:2], folder / "labels.txt", arguments[3]], capture_output=True).returncode == 1
