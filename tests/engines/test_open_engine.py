"""Exported files give torch's class maps in every engine, without torch; what does not go together is one line."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.parallel import map_in_threads
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.street import draw_scene
from linknet_fastai.engines import formats
from linknet_fastai.engines.engine import NATIVE, Engine
from linknet_fastai.engines.onnx_engine import without_confidence
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.export import graph as graph_export
from linknet_fastai.export.export import export_run
from linknet_fastai.model.card import METADATA_KEY, ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model, save_model
from linknet_fastai.scoring.evaluate import evaluate

SIZE = (96, 72)
EXPORTED = [("onnx", "onnxruntime"), ("onnx", "openvino"), ("openvino", "openvino")]


pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained run whose batch norms have seen frames, so that folding them changes every weight."""
    torch.manual_seed(0)
    model = LinkNet(11, "test_resnet", pretrained=False).train()
    frames = np.stack([draw_scene(seed, SIZE)[0] for seed in range(4)])
    with torch.no_grad():
        for _ in range(3):
            model(torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1)
    folder = tmp_path_factory.mktemp("secret-place") / "run"
    card = ModelCard.of(load_recipe("street"), SIZE, encoder="test_resnet", temperature=0.05)
    save_model(model, card, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def files(run: Path, traced_once: None) -> dict[str, Path]:
    """The run's exported files, by format."""
    return {name: export_run(run, name).file for name in dict(EXPORTED)}


@pytest.fixture(scope="module")
def exact(run: Path) -> Predictor:
    return Predictor(*load_model(run), "cpu", "fp32", NATIVE)


@pytest.mark.parametrize(("file_format", "name"), EXPORTED)
@pytest.mark.parametrize("size", [(96, 72), (131, 97), (64, 161)])
def test_an_exported_file_in_fp32_gives_torchs_class_maps_at_any_size(
    files: dict[str, Path], exact: Predictor, file_format: str, name: str, size: tuple[int, int]
) -> None:
    engine = open_engine(files[file_format], name, "fp32", size=NATIVE)
    for seed in range(3):
        frame = draw_scene(seed, size)[0]
        mask = engine(frame)
        assert (mask.shape, mask.dtype) == (size[::-1], np.uint8)
        assert (mask == exact(frame)).mean() >= 0.999


@pytest.mark.parametrize(("file_format", "name"), EXPORTED)
def test_logits_are_resampled_to_the_frames_size_in_the_graph(
    run: Path, files: dict[str, Path], file_format: str, name: str
) -> None:
    torch_engine = Predictor(*load_model(run), "cpu", "fp32")
    engine = open_engine(files[file_format], name, "fp32")
    assert engine.size == SIZE
    for size in ((96, 72), (201, 133), (50, 40), (300, 40), (77, 200), (64, 64)):  # more than are compiled apart
        frame = draw_scene(1, size)[0]
        mask = engine(frame)
        assert mask.shape == size[::-1]
        assert (mask == torch_engine(frame)).mean() >= 0.998  # edges move by a rounding


@pytest.mark.parametrize(("file_format", "name"), EXPORTED)
def test_every_engine_keeps_the_aspect_ratio_for_a_model_that_pads_frames(
    run: Path, files: dict[str, Path], file_format: str, name: str
) -> None:
    engines = open_engine(files[file_format], name, "fp32"), open_engine(run, "torch", "fp32", "cpu")
    for size, seen in (((201, 60), (96, 33)), ((60, 80), (54, 72))):
        frame, masks = draw_scene(1, size)[0], []
        for engine in engines:
            engine.card = engine.card.model_copy(update={"fit": "pad"})
            assert engine.seen(frame).shape == (*seen[::-1], 3)
            masks.append(engine(frame))
        assert masks[0].shape == size[::-1]
        assert (masks[0] == masks[1]).mean() >= 0.998


@pytest.mark.parametrize(("file_format", "name"), EXPORTED)
@pytest.mark.parametrize("size", [(96, 72), (131, 97)])
def test_every_engine_gives_torchs_confidence_in_fp32(
    files: dict[str, Path], exact: Predictor, file_format: str, name: str, size: tuple[int, int]
) -> None:
    engine = open_engine(files[file_format], name, "fp32", size=NATIVE)
    for seed in range(2):
        frame = draw_scene(seed, size)[0]
        channels, confidence = engine.predict_with_confidence(frame)
        assert (confidence.shape, confidence.dtype) == (size[::-1], np.uint8)
        expected = exact.predict_with_confidence(frame)[1]
        assert expected.max() - expected.min() > 20
        assert np.abs(confidence.astype(int) - expected).max() <= 1
        assert np.array_equal(channels, engine.predict_channels(frame))


def test_a_confidence_that_nobody_asks_for_is_not_computed(files: dict[str, Path]) -> None:
    frame = draw_scene(0, SIZE)[0]
    engine = open_engine(files["onnx"], "onnxruntime")
    engine(frame)
    assert [node.name for node in engine._session.get_outputs()] == ["mask"]
    whole, *_ = without_confidence(files["onnx"].read_bytes())
    assert not {"Exp", "ReduceMax"} & {node.op_type for node in onnx.load_from_string(whole).graph.node}
    engine = open_engine(files["openvino"])
    engine(frame)
    ((compiled, _),) = engine._compiled.values()
    assert not any("confidence/" in node.get_friendly_name() for node in compiled.get_runtime_model().get_ops())
    assert len(compiled.outputs) == 1


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_file_of_an_earlier_version_predicts_and_its_confidence_needs_a_new_export(
    files: dict[str, Path], tmp_path: Path, street_data: Path, name: str
) -> None:
    (file := tmp_path / "old.onnx").write_bytes(without_confidence(files["onnx"].read_bytes())[0])
    engine, frame = open_engine(file, name, "fp32"), draw_scene(0, SIZE)[0]
    assert np.array_equal(engine(frame), open_engine(files["onnx"], name, "fp32")(frame))
    with pytest.raises(UserError, match="export it again with linknet-fastai export"):
        engine.predict_with_confidence(frame)
    scores = evaluate(engine, open_dataset("street", street_data), "val").as_json()
    assert "ece" not in scores
    assert scores["miou"] >= 0


@pytest.mark.parametrize(
    "encoder",
    ["test_convnext", "test_byobnet"],
    ids=["pads its input", "has values named as ours might be"],  # squeeze and excite takes a `mean`
)
def test_the_pixelshuffle_decoder_and_other_encoders_are_exported_too(tmp_path: Path, encoder: str) -> None:
    torch.manual_seed(0)
    model = LinkNet(3, encoder, "pixelshuffle", pretrained=False)
    classes = [{"id": i, "name": f"c{i}", "color": (i, i, i)} for i in range(3)]
    made = {"encoder": encoder, "decoder": "pixelshuffle"}
    card = ModelCard(recipe="own", classes=classes, void={"id": 9}, size=(96, 64), **made)
    save_model(model, card, tmp_path / "model.safetensors")
    engine = open_engine(export_run(tmp_path, "onnx").file, precision="fp32", size=NATIVE)
    frame = draw_scene(0, (131, 97))[0]
    expected = Predictor(model, card, "cpu", "fp32", NATIVE)(frame)
    assert (engine(frame) == expected).mean() >= 0.999


@pytest.mark.parametrize(("file_format", "name"), EXPORTED)
def test_the_card_travels_in_the_file(run: Path, files: dict[str, Path], file_format: str, name: str) -> None:
    assert open_engine(files[file_format], name).card == load_model(run)[1]


def test_exported_files_hold_no_path_of_the_machine(run: Path, files: dict[str, Path]) -> None:
    contents = [path.read_bytes() for path in (*files.values(), files["openvino"].with_suffix(".bin"))]
    for text in ("secret-place", str(Path.home()) + "/", os.getcwd(), "site-packages", 'File "'):
        assert not any(text.encode() in content for content in contents), text
    names = {path.name for path in run.iterdir()}
    assert names == {"model.safetensors", "export.bin", *(file.name for file in files.values())}


def test_auto_takes_the_fastest_engine_that_is_installed(
    run: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_engine(run, device="cpu").name == "torch"
    assert open_engine(files["onnx"]).name == "openvino"
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "openvino" else object())
    assert open_engine(files["onnx"]).name == "onnxruntime"


@pytest.mark.parametrize(
    ("file_format", "options", "expected"),
    [
        (None, {"engine": "openvino"}, r"--engine: openvino .*linknet-fastai export .*--format openvino"),
        (None, {"engine": "onnxruntime"}, r"--engine: onnxruntime .*--format onnx"),
        ("openvino", {"engine": "onnxruntime"}, r"--engine: onnxruntime does not run \.xml"),
        ("onnx", {"engine": "torch"}, r"--engine: torch does not run \.onnx"),
        ("onnx", {"engine": "openvino", "device": "cuda"}, "--device: openvino runs on the CPU"),
        ("onnx", {"device": "mps"}, "--device: onnxruntime runs on cpu, cuda, .*, not on mps"),
        ("onnx", {"engine": "onnxruntime", "precision": "bf16"}, "--precision: onnxruntime computes in fp32 only"),
        ("openvino", {"precision": "fp16"}, "--precision: openvino computes in fp32 or bf16"),
        ("onnx", {"temperature": 1.0}, r"--temperature: export\.onnx contains its own"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(
    run: Path, files: dict[str, Path], file_format: str | None, options: dict, expected: str
) -> None:
    with pytest.raises(UsageError, match=expected) as caught:
        open_engine(files[file_format] if file_format else run, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda:1", [("CUDAExecutionProvider", {"device_id": "1"})]),
        ("tensorrt", [("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {})]),
        ("directml", [("DmlExecutionProvider", {})]),
        ("coreml", [("CoreMLExecutionProvider", {})]),
    ],
)
def test_onnxruntime_runs_on_the_device_that_is_asked_for_or_not_at_all(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, device: str, expected: list
) -> None:
    with pytest.raises(UsageError, match=rf"--device: the onnxruntime .* has no {expected[0][0]}, only .*CPU"):
        open_engine(files["onnx"], device=device)
    # This machine has none of them: the providers' names alone are tested.
    asked, real = [], onnxruntime.InferenceSession

    def session(content: bytes, options: object, providers: list) -> SimpleNamespace:
        asked.append(providers)
        on_cpu = real(content, options, providers=["CPUExecutionProvider"])
        return SimpleNamespace(
            get_providers=lambda: started, **{name: getattr(on_cpu, name) for name in ("get_modelmeta", "get_inputs")}
        )

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [name for name, _ in expected])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    started = [expected[0][0], "CPUExecutionProvider"]
    engine = open_engine(files["onnx"], device=device)
    assert asked == [[*expected, ("CPUExecutionProvider", {})]]
    assert (str(engine), engine.frames_at_once) == (f"onnxruntime on {device} in fp32", 1)
    started = ["CPUExecutionProvider"]  # as where a library of CUDA is missing
    with pytest.raises(UserError, match=f"--device: {expected[0][0]} does not start on this machine"):
        open_engine(files["onnx"], device=device)


@pytest.mark.parametrize(("module", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_an_engine_that_is_not_installed_is_one_line_with_its_mend(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'linknet-fastai\[{extra}\]'"):
        open_engine(files["onnx"], module)


def test_a_package_that_export_lacks_is_one_line_with_its_mend(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install 'linknet-fastai\[openvino\]'"):
        export_run(run, "openvino", tmp_path / "model.xml")
    assert list(tmp_path.iterdir()) == []


# Files of others


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("content", [b"", b"no graph", b"<net/>"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, suffix: str, content: bytes) -> None:
    (file := tmp_path / f"model{suffix}").write_bytes(content)
    for name in formats.format_of(suffix).engines:
        with pytest.raises(UserError) as caught:
            open_engine(file, name)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_xml_without_its_weights_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (file := tmp_path / "model.xml").write_bytes(files["openvino"].read_bytes())
    with pytest.raises(UserError, match=r"model\.xml"):
        open_engine(file)(draw_scene(0, SIZE)[0])


BAD_CARDS = ["{", "[]", "3", "null", '{"recipe": "x"}', "[" * 100_000, '{"classes": ' + " " * (1 << 20) + "}", None]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("text", BAD_CARDS, ids=range(len(BAD_CARDS)))
def test_metadata_that_are_no_card_are_refused(tmp_path: Path, name: str, text: str | None) -> None:
    file = tiny_graph(tmp_path / "model.onnx", text, 1)
    with pytest.raises(UserError, match=r"model\.onnx: (its )?metadata") as caught:
        open_engine(file, name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_classes_that_the_card_does_not_name_are_refused(run: Path, tmp_path: Path, name: str) -> None:
    card = load_model(run)[1].model_dump_json()
    frame = Image.new("RGB", SIZE)
    assert open_engine(tiny_graph(tmp_path / "good.onnx", card, 10), name)(frame).max() == 10
    with pytest.raises(UserError, match=r"bad\.onnx: .*classes beyond the 11"):
        open_engine(tiny_graph(tmp_path / "bad.onnx", card, 11), name)(frame)


def tiny_graph(file: Path, card: str | None, value: int) -> Path:
    """A graph with our inputs that gives one value everywhere, with any text for a card."""
    nodes = [
        helper.make_node("Shape", ["image"], ["sides"], start=0, end=3),
        helper.make_node("Mul", ["sides", "zero"], ["none"]),
        helper.make_node("ReduceSum", ["none"], ["nothing"], keepdims=1),
        helper.make_node("Concat", ["one", "size"], ["wanted"], axis=0),
        helper.make_node("Add", ["nothing", "value"], ["number"]),
        helper.make_node("Expand", ["number", "wanted"], ["map"]),
        helper.make_node("Cast", ["map"], ["mask"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], [number])
        for name, number in (("zero", 0), ("one", 1), ("value", value))
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W", 3]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, [1, "h", "w"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        helper.set_model_props(model, {METADATA_KEY: card})
    onnx.save(model, file)
    return file


# int8


def test_int8_is_written_checked_and_said(run: Path, street_data: Path, tmp_path: Path) -> None:
    written = export_run(run, "openvino", tmp_path / "small", int8=True, calibrate=street_data / "train")
    assert written.file == tmp_path / "small.xml"
    assert (written.check.engine, written.check.frames) == ("openvino in int8", 10)
    assert 0.5 < written.check.agreement <= 1
    assert written.mebibytes < 15
    engine = open_engine(written.file)
    assert (engine.precision, engine.card) == ("int8", load_model(run)[1])
    with pytest.raises(UsageError, match=r"--precision: .*is int8"):
        open_engine(written.file, precision="fp32")
    assert str(tmp_path).encode() not in written.file.read_bytes()
    confidence = engine.predict_with_confidence(frame := draw_scene(0, SIZE)[0])[1].astype(int)
    assert np.abs(confidence - Predictor(*load_model(run), "cpu").predict_with_confidence(frame)[1]).mean() < 12


@pytest.mark.parametrize(
    ("file_format", "options", "expected"),
    [
        ("safetensors", {"int8": True, "calibrate": Path()}, "--int8: goes with --format onnx, openvino or web"),
        ("onnx", {"int8": True}, "--int8 and --calibrate DIR need each other"),
        ("openvino", {"int8": True}, "--int8 and --calibrate DIR need each other"),
        ("openvino", {"calibrate": Path()}, "--int8 and --calibrate DIR need each other"),
        ("pkl", {"check": Path()}, "--check: compares"),
        ("onnx", {"check": Path("gone")}, "gone: no such folder of images"),
    ],
)
def test_options_of_export_that_do_not_go_together_are_refused(
    run: Path, tmp_path: Path, file_format: str, options: dict, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        export_run(run, file_format, tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_give_what_torch_gives_is_an_error(
    run: Path, street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Engine):
        name = "wrong"

        def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
            return np.full(size, 10, np.uint8)

    model, card = load_model(run)
    monkeypatch.setattr(graph_export, "open_engine", lambda *arguments, **options: Wrong(card, "fp32"))
    with pytest.raises(UserError, match=r"wrong\.onnx: not written; the graph agrees with torch on only "):
        graph_export.check_graph(model, card, tmp_path / "wrong.onnx", street_data / "val")
    (earlier := tmp_path / "earlier.onnx").write_bytes(b"a good one")
    with pytest.raises(UserError, match=r"earlier\.onnx: not written"):
        export_run(run, "onnx", earlier)
    assert [earlier] == list(tmp_path.iterdir())
    assert earlier.read_bytes() == b"a good one"


# Without torch


@pytest.mark.parametrize(
    ("file_format", "name"), [pair for pair in EXPORTED if formats.ENGINES[pair[1]].package != "torch"]
)
def test_predict_and_evaluate_of_exported_files_import_neither_torch_nor_fastai(
    files: dict[str, Path], street_data: Path, tmp_path: Path, file_format: str, name: str
) -> None:
    code = """
import sys
from linknet_fastai.cli import main as cli
_, model, frames, data, engine = sys.argv
predict, evaluate = ["predict", model, frames, "--out", "out"], ["evaluate", model, "street", "--data", data]
for arguments in (predict, evaluate):
    sys.argv = ["linknet-fastai", *arguments, "--engine", engine]
    try:
        cli.main()
    except SystemExit as left:
        assert left.code == 0, left.code
heavy = {"torch", "fastai", "timm", "torchvision", "pandas", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code, files[file_format], street_data / "val/images", street_data, name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"3 of 3 frames predicted by {name} in " in done.stdout
    assert len(list((tmp_path / "out/masks").iterdir())) == 3


def test_evaluate_and_the_engine_agree_to_the_pixel(files: dict[str, Path], street_data: Path) -> None:
    engine = open_engine(files["openvino"], precision="fp32")
    dataset = open_dataset("street", street_data)
    scores = evaluate(engine, dataset, "val").scores
    right = total = 0
    for frame in dataset.frames("val"):
        labels = dataset.read_label(frame.label)
        mask = engine(Image.open(frame.image).convert("RGB"))
        right += int((mask == labels)[labels != 255].sum())
        total += int((labels != 255).sum())
    assert scores.pixel_accuracy == right / total


def test_frames_computed_at_once_give_what_they_give_alone(files: dict[str, Path]) -> None:
    engine = open_engine(files["openvino"], precision="fp32")
    frames = [draw_scene(seed, (96 + 16 * (seed % 3), 72))[0] for seed in range(9)]
    alone = [engine(frame) for frame in frames]
    together = list(map_in_threads(engine, frames, 4))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_openvino_is_told_its_precision(files: dict[str, Path]) -> None:
    core = openvino.Core()
    native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert open_engine(files["openvino"]).precision == ("bf16" if native else "fp32")
    assert open_engine(files["openvino"], precision="fp32").precision == "fp32"
