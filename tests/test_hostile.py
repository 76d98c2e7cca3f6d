"""Files made to harm: what each gets, by real functions and commands. None runs code, hangs, or ends the others."""

import json
import os
import pickle
import struct
import subprocess
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photo, png, save
from PIL import Image
from safetensors.torch import save_file

from linknet_fastai.config.presets import load_preset
from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.images import open_image
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.engine import Engine
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model import save_load as model_file
from linknet_fastai.model.card import METADATA_KEY, ModelCard
from linknet_fastai.model.save_load import load_model
from linknet_fastai.predict.images import predict_images
from linknet_fastai.predict.inputs import collect_jobs
from linknet_fastai.runs.charts import class_bars, confusion_matrix, save_figure, svg
from linknet_fastai.runs.compare import summarize
from linknet_fastai.runs.folder import write_run
from linknet_fastai.runs.metrics import COLUMNS, write_metrics

Command = Callable[..., int]
OwnRecipe = Callable[..., Path]


def card(**changes: object) -> str:
    """A model card as JSON, with some of its keys changed."""
    return json.dumps(ModelCard.of(load_recipe("street"), (64, 48)).model_dump(mode="json") | changes)


ORIGINS = dict.fromkeys(Settings.model_fields, "default")
ROW = {"epoch": 1, **dict.fromkeys(COLUMNS[1:], 0.5)}  # of metrics.csv


class Blank(Engine):
    """Sees the first class everywhere; of frames of one size it can make nothing."""

    name = "blank"

    def __init__(self, failing: tuple[int, int] | None = None, error: type[Exception] = MemoryError) -> None:
        super().__init__(ModelCard(**json.loads(card())), "fp32", "native", frames_at_once=2)
        self.failing, self.error = failing, error

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if size[::-1] == self.failing:
            raise self.error("not here")
        return np.zeros(size, np.uint8)


# Pickles: each writes a file when it is loaded, wherever it is stored and whatever its name


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that is there once a trap was unpickled."""
    return tmp_path / "sprung"


def bare(trap: Trap, file: Path) -> None:
    file.write_bytes(pickle.dumps(trap))


def zipped(trap: Trap, file: Path) -> None:
    torch.save({"state_dict": trap, "model": trap, "epochs_done": 1}, file)


def legacy(trap: Trap, file: Path) -> None:
    torch.save({"state_dict": trap}, file, _use_new_zipfile_serialization=False)


def as_array(trap: Trap, file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, np.array([trap], object), allow_pickle=True)


KINDS = [bare, zipped, legacy, as_array]
NAMES = ["export.pkl", "model.safetensors", "model.onnx", "model.xml", "model.pth", "model.npz"]
FIT = "fit street --data {street} --size 64x48 --workers 0 --device cpu --no-cache --no-pretrained"
USES = [
    "predict {file} {street}/val/images --out out",
    "evaluate {file} street --data {street}",
    "export {file} --format safetensors",
    "benchmark {file}",
    f"{FIT} --init-from {{file}}",
]


def test_the_trap_springs_where_it_is_loaded(sprung: Path, tmp_path: Path) -> None:
    for kind in KINDS[:3]:
        kind(Trap(sprung), file := tmp_path / "file")
        torch.load(file, weights_only=False) if kind is not bare else pickle.loads(file.read_bytes())
        assert sprung.exists()
        sprung.unlink()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_pickle_is_loaded_under_any_name(kind: Callable, name: str, sprung: Path, tmp_path: Path) -> None:
    kind(Trap(sprung), file := tmp_path / name)
    with pytest.raises(UserError) as caught:
        open_engine(file)
    assert str(file) in str(caught.value)
    if name == "model.onnx":
        with pytest.raises(UserError, match="not an ONNX file"):
            open_engine(file, "onnxruntime")
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["export.pkl", "model.safetensors"])
@pytest.mark.parametrize("use", USES, ids=lambda use: use.split()[0])
def test_no_command_loads_a_pickle(
    use: str,
    name: str,
    sprung: Path,
    tmp_path: Path,
    street_data: Path,
    command: Command,
    capsys: pytest.CaptureFixture,
) -> None:
    bare(Trap(sprung), file := tmp_path / name)
    assert command(*use.format(file=file, street=street_data).split()) in (1, 2)
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert ("runs any code in it" if name == "export.pkl" else "not a safetensors file") in errors
    assert not sprung.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.npz"])
def test_no_encoder_weights_are_unpickled(
    kind: Callable, name: str, sprung: Path, tmp_path: Path, street_data: Path, command: Command, capsys
) -> None:
    kind(Trap(sprung), file := tmp_path / name)
    assert command(*FIT.format(street=street_data).split(), "--encoder-weights", file) == 1
    assert (
        f"--encoder-weights: {file} has no weights that can be read without running code" in capsys.readouterr().err
    )
    assert not sprung.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", ["report {run}", "export {run} --format pkl", "fit --resume {run}", "compare {run}"])
def test_no_file_of_a_run_is_unpickled(
    kind: Callable, use: str, sprung: Path, tmp_path: Path, street_data: Path, command: Command, capsys
) -> None:
    run = tmp_path / "run"
    record = {"recipe": "street", "data": str(street_data), "started": "today"}
    write_run(run, Settings(pretrained=False, size=(64, 48), cache=False, workers=0), ORIGINS, record)
    write_metrics(run, [ROW])
    (run / "checkpoints").mkdir()
    for name in ("model.safetensors", "export.pkl", "checkpoints/unnamed.pt"):
        kind(Trap(sprung), run / name)
    unnamed = run / "checkpoints/unnamed.pt"  # with the right digest in its name it is opened
    digest = sha256(unnamed.read_bytes()).hexdigest()[:16]
    unnamed.rename(unnamed.with_name(f"epoch-000001-batch-00000000-{digest}.pt"))
    status = command(*use.format(run=run).split())
    errors = capsys.readouterr().err
    assert status == (0 if use.startswith("compare") else 1), errors  # compare reads only numbers
    assert "Traceback" not in errors
    assert not sprung.exists()


# Models


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (card(size="1000000x1000000"), "size: '1000000x1000000': a side must be between"),
        (card(size="16384x16384"), "size: '16384x16384': more than 32 Mi pixels"),
        (card(size=[10**30, 2]), "size"),
        (card(std=[0, 1, 1]), "std"),
        (card(mean=[float("nan")] * 3), "mean"),
        (
            card(recipe="\x1b]0;pwned\x07"),
            "recipe: '\\\\x1b]0;pwned\\\\x07' contains an unprintable character",
        ),
        (card(encoder="x" * 65), "encoder"),
        (card(encoder="hf-hub:someone/thing"), "encoder"),
        (card(encoder="local-dir:."), "local-dir:"),
        (card(classes=[{"id": i % 256, "name": f"c{i}", "color": [0, 0, 0]} for i in range(1000)]), "classes"),
        (card(classes=[{"id": 1, "name": name, "color": [0, 0, 0]} for name in "ab"]), "id 1 is used twice"),
        ('{"size":' * 100_000, "nested too deeply"),
        (card() + " " * (1 << 20), "not a model card"),
        ("9" * 10_000, "not a model card"),
    ],
    ids=range(14),
)
def test_metadata_beyond_all_measure_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, file := tmp_path / "m.safetensors", metadata={METADATA_KEY: text})
    with pytest.raises(UserError, match=expected.replace("[", r"\[").replace("]", r"\]")) as caught:
        load_model(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_a_network_of_billions_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "LinkNet", lambda *_, **__: pytest.fail("made it"))
    text = card(encoder="regnety_2560")  # 1.3 thousand million weights
    save_file({"weight": torch.zeros(3)}, file := tmp_path / "m.safetensors", metadata={METADATA_KEY: text})
    with pytest.raises(UserError, match=r"weights and metadata do not fit \(encoder regnety_2560"):
        load_model(file)


def onnx_file(file: Path, make: Callable, inputs: int = 2) -> Path:
    """An ONNX file with our card and interface, and a graph that `make` gives as nodes and constants."""
    import onnx
    from onnx import TensorProto, helper

    nodes, constants = make(helper, TensorProto)
    given = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "H", "W", 3]),
        helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
    ][:inputs]
    gives = [helper.make_tensor_value_info("mask", TensorProto.UINT8, None)]
    graph = helper.make_graph(nodes, "hostile", given, gives, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: card()})
    file.write_bytes(model.SerializeToString())
    assert onnx.load_from_string(file.read_bytes()).graph.name == "hostile"
    return file


def reading(location: str) -> Callable:
    """A graph that gives bytes of another file."""

    def make(helper, types) -> tuple[list, list]:
        stolen = helper.make_tensor("stolen", types.UINT8, [1, 2, 2], bytes(4), raw=True)
        stolen.ClearField("raw_data")
        stolen.data_location = types.EXTERNAL
        entry = stolen.external_data.add()
        entry.key, entry.value = "location", location
        return [helper.make_node("Identity", ["stolen"], ["mask"])], [stolen]

    return make


def vast(helper, types) -> tuple[list, list]:
    """A graph that makes a thousand million million bytes of nothing."""
    zero = helper.make_tensor("zero", types.UINT8, [1], [0])
    nodes = [
        helper.make_node("Mul", ["size", "many"], ["sides"]),
        helper.make_node("ConstantOfShape", ["sides"], ["mask"], value=zero),
    ]
    return nodes, [helper.make_tensor("many", types.INT64, [2], [10**7, 10**7])]


ENGINES = ["onnxruntime", "openvino"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", ["../secret", "{folder}/secret", "/dev/zero"])
def test_a_graph_takes_no_weights_from_outside_its_folder(place: str, engine: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"1234")
    (tmp_path / "models").mkdir()
    file = onnx_file(tmp_path / "models/model.onnx", reading(place.format(folder=tmp_path)))
    with pytest.raises(UserError, match=r"model\.onnx"):
        open_engine(file, engine)(Image.new("RGB", (2, 2)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_of_absurd_shapes_is_one_line(engine: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.onnx: fails"):
        open_engine(onnx_file(tmp_path / "model.onnx", vast), engine)(Image.new("RGB", (64, 48)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_that_takes_something_else_is_refused_when_it_is_opened(engine: str, tmp_path: Path) -> None:
    file = onnx_file(
        tmp_path / "model.onnx", lambda helper, _: ([helper.make_node("Identity", ["image"], ["mask"])], []), inputs=1
    )
    with pytest.raises(UserError, match="the inputs and outputs of its graph"):
        open_engine(file, engine)


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;" version="11"><layers/></net>',
        '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa">'
        + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
        + ']><net name="&i;" version="11"><layers/><edges/></net>',
        '<net xmlns:xi="http://www.w3.org/2001/XInclude" version="11"><xi:include href="/etc/passwd"/></net>',
        "<net>" + "<a>" * 100_000,
    ],
    ids=["entity", "billion laughs", "include", "deep"],
)
def test_an_xml_that_reaches_out_is_refused(text: str, tmp_path: Path) -> None:
    (file := tmp_path / "model.xml").write_text(text)
    file.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.xml") as caught:
        open_engine(file)
    assert "root:" not in str(caught.value)


# Recipes, presets, run folders

NAME, IMAGES, LABELS = 'name = "own"', 'images = "frames/{stem}.png"', 'labels = "masks/{stem}.png"'
TRAIN, BS = "train = { fraction = 0.45 }", "bs = 2"
RECIPES = [
    (NAME, 'name = "\\u001b[2Jown"', "contains an unprintable character"),
    (NAME, 'name = "\\u202enwo"', "contains an unprintable character"),
    (NAME, f'name = "{"a" * 65}"', "name: String should have at most 64"),
    (NAME, 'name = ".."', "is not a valid name"),
    ("painted by hand", "\\u001b]8;;http://evil\\u0007here", "source: "),
    (IMAGES, 'images = "**/{stem}.png"', "need something between them"),
    (IMAGES, 'images = "{city}{stem}.png"', "need something between them"),
    (IMAGES, 'images = "{a}_{b}_{c}_{d}_{stem}.png"', "more than 4 fields"),
    (IMAGES, 'images = "C:/Windows/{stem}.png"', "must be inside the data folder"),
    (IMAGES, 'images = "frames\\u0000/{stem}.png"', "contains an unprintable character"),
    (LABELS, 'labels = "{stem:>999999999}/{stem}.png"', "a field is a name in braces"),
    (LABELS, 'labels = "{stem.__class__}/{stem}.png"', "a field is a name in braces"),
    (LABELS, 'labels = "{0}/{stem}.png"', "a field is a name in braces"),
    (IMAGES, 'images = "{stem/{stem}.png"', "a field is a name in braces"),
    (TRAIN, 'train = { list = "/dev/zero" }', "must be inside the recipe's folder"),
    (TRAIN, 'train = { list = "../../secret.txt" }', "must be inside the recipe's folder"),
    (TRAIN, 'train = { list = "pipe" }', "not a regular file"),
    (TRAIN, 'train = { list = "folder" }', "not a regular file"),
    (TRAIN, '".." = { fraction = 0.45 }', "is not a valid name"),
    (TRAIN, "a" * 10_000 + " = { fraction = 0.45 }", "at most 64 characters"),
    (BS, 'cache_dir = "/etc"', "cache_dir: a path cannot be set in a file; use --cache-dir"),
    (BS, 'init_from = "model.pkl"', "init_from: a path cannot be set in a file"),
    (BS, 'teacher = "model.pkl"', "teacher: a path cannot be set in a file; use --teacher"),
    (BS, 'encoder_weights = "~/.ssh/id_rsa"', "encoder_weights: a path cannot be set in a file"),
    (BS, 'train_on = "/etc/passwd"', "is not a split of this recipe"),
    (BS, "lr = 1" + "0" * 400, "is not a learning rate"),
    (BS, "epochs = 0x" + "f" * 5000, "epochs"),
    (BS, "size.a" + ".a" * 250_000 + " = 1", "nested too deeply"),
    (BS, "x = " + "[" * 100_000, "nested too deeply"),
    (BS, "x = " + "9" * 10_000, "cannot read this recipe"),
    (NAME, "base" + """."\\\"" .''""" * 50_000 + " = 1", "nested too deeply"),
]


@pytest.mark.parametrize(("old", "new", "expected"), RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_that_would_do_harm_is_refused(own_recipe: OwnRecipe, old: str, new: str, expected: str) -> None:
    file = own_recipe((old, new))
    os.mkfifo(file.parent / "pipe")
    (file.parent / "folder").mkdir()
    with pytest.raises(UsageError) as caught:
        load_recipe(file)
    assert expected in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_list_with_a_name_as_long_as_a_book_is_told_in_a_line(own_recipe: OwnRecipe, own_tree: Path) -> None:
    (file := own_tree / "list.txt").write_text("9" * 100_000)
    with pytest.raises(UsageError, match="no frame '999") as caught:
        open_dataset(own_recipe(), own_tree).frames(str(file))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text", ['cache_dir = "/etc"', 'title = "\\u001b[2J"', "title = 3", "title" + ".a" * 5000 + "=1"]
)
def test_a_preset_that_would_do_harm_is_refused(text: str, tmp_path: Path) -> None:
    (file := tmp_path / "mine.toml").write_text(text + "\n")
    with pytest.raises(UsageError, match=r"mine\.toml"):
        load_preset(file)


def test_a_recipe_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with (file := tmp_path / "big.toml").open("wb") as opened:
        opened.truncate(1 << 30)  # takes no room on the disk
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load_recipe(file)


def test_a_recipe_with_a_hundred_thousand_labels_is_checked_at_once(own_recipe: OwnRecipe) -> None:
    labels = ",".join(f'"l{number}"' for number in range(60_000))
    wall = 'name = "wall"\n'
    assert len(load_recipe(own_recipe((wall, f"{wall}labels = [{labels}]\n"))).classes[1].labels) == 60_000


def test_what_stands_in_a_pattern_but_fields_and_stars_is_taken_literally(
    own_recipe: OwnRecipe, tmp_path: Path
) -> None:
    for number in range(3):
        save(photo(number), tmp_path / f"data/fr[am]es?/f{number}.png")
        save(np.full((48, 64), 10, np.uint8), tmp_path / f"data/masks/f{number}.png")
    dataset = open_dataset(own_recipe((IMAGES, 'images = "fr[am]es?/{stem}.png"')), tmp_path / "data")
    assert [frame.stem for split in ("train", "val") for frame in dataset.frames(split)] != []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.toml", "settings = 3"),
        ("run.toml", "[settings]\n[origins]\n[versions]\n[run]\nrecipe = 3\ndata = ''\nstarted = ''"),
        ("run.toml", "[settings]\n[origins]\n[versions]\n[run]\ndata = ''\nstarted = ''"),
        ("run.toml", "[settings]\nlr = 1" + "0" * 400),
        ("metrics.csv", "epoch,miou,seconds\ninf,0,0\n"),
        (
            "metrics.csv",
            "" + ",".join(COLUMNS) + "\n1,0,0,0,0,0,0,0,9\n",
        ),
        (
            "metrics.csv",
            "" + ",".join(COLUMNS) + "\n1e400,0,0,0,0,0,0,0\n",
        ),
        ("evaluation-val.json", "[" * 100_000),
        ("evaluation-val.json", '{"split": "val", "miou": "high"}'),
        ("evaluation-val.json", '{"split": "val", "miou": 1, "confusion": [[1]]}'),
        ("evaluation-val.json", '{"split": "val", "miou": 1, "classes": [{"name": "\\ud800", "iou": 1}]}'),
    ],
)
def test_a_file_of_a_run_that_does_not_fit_is_named(name: str, content: str, tmp_path: Path) -> None:
    write_run(tmp_path, Settings(), ORIGINS, {"recipe": "street", "data": "", "started": ""})
    write_metrics(tmp_path, [ROW])
    assert summarize(tmp_path).best["miou"] == 0.5
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        summarize(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="not a regular file"):
        summarize(tmp_path)


# Images


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header has that size, and which has no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(pwned) print\n%%EOF\n"
IN_VAIN = {
    "zero bytes": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("no image"),
    "truncated": lambda file: file.write_bytes(png(photo())[:-60]),
    "decompression bomb": lambda file: file.write_bytes(png_header(60_000, 60_000)),
    "below Pillow's limit": lambda file: file.write_bytes(png_header(10_000, 9_500)),
    "PostScript": lambda file: file.write_bytes(EPS),
    "32 bits": lambda file: Image.fromarray(np.ones((8, 8), np.float32)).save(file, "TIFF"),
    "dangling link": lambda file: file.symlink_to("nowhere"),
    "link to itself": lambda file: file.symlink_to(file.name),
    "pipe": os.mkfifo,
    "device": lambda file: file.symlink_to("/dev/zero"),
    "random device": lambda file: file.symlink_to("/dev/random"),
}


@pytest.mark.parametrize("kind", IN_VAIN)
def test_a_file_that_is_no_image_is_one_line_and_the_others_are_done(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("Ghostscript was run"))
    for name in ("a.png", "c.png"):
        save(photo(), tmp_path / "in" / name)
    IN_VAIN[kind](tmp_path / "in/b.png")
    (failure,) = predict_images(Blank(), collect_jobs([tmp_path / "in"], tmp_path / "out"), tmp_path / "out")
    assert failure.startswith(f"{tmp_path}/in/b.png: cannot read this image (")
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["a.png", "c.png"]


def animated(file: Path, kind: str) -> None:
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    first.save(file, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind: str, tmp_path: Path) -> None:
    animated(tmp_path / "frame.png", kind)
    assert np.asarray(open_image(tmp_path / "frame.png"))[3, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_lose_their_lower_8_and_are_not_clipped(kind: str, tmp_path: Path) -> None:
    grey = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xFEFF, 0xFF00, 0xFFFF]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "frame.png", kind)
    assert np.asarray(open_image(tmp_path / "frame.png"))[..., 1].tolist() == [[0, 0, 1, 127], [128, 254, 255, 255]]


def test_a_palette_with_transparency_gives_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (8, 6), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "frame.png", transparency=b"\x00\x80")
    assert np.asarray(open_image(tmp_path / "frame.png"))[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(("mode", "pixel"), [("1", 255), ("L", 200), ("LA", 200)])
def test_grey_is_grey_in_all_channels(mode: str, pixel: int, tmp_path: Path) -> None:
    Image.new("L", (8, 6), 200).convert(mode, dither=Image.Dither.NONE).save(tmp_path / "frame.png")
    assert np.asarray(open_image(tmp_path / "frame.png"))[0, 0].tolist() == [pixel] * 3


NAMES_OF_FRAMES = [b"two\nlines.png", b"\x1b]0;pwned\x07.png", b"\xff\xfe.png", b"[red]x.png", b"$\\frac$.png"]


@pytest.mark.parametrize("name", [*NAMES_OF_FRAMES, b"a" * 251 + b".png"])
def test_a_frame_of_any_name_is_predicted(name: bytes, tmp_path: Path) -> None:
    save(photo(), tmp_path / "in" / os.fsdecode(name))
    assert predict_images(Blank(), collect_jobs([tmp_path / "in"], tmp_path / "out"), tmp_path / "out") == []
    assert os.listdir(os.fsencode(tmp_path / "out/masks")) == [name]


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_a_network_takes_frames_of_absurd_sizes(size: tuple[int, int], model: Path) -> None:
    for seen in (None, "native"):
        assert Predictor(*load_model(model), "cpu", "fp32", seen)(Image.new("RGB", size)).shape == size[::-1]


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, ZeroDivisionError])
def test_an_engine_that_fails_at_one_frame_does_the_others(error: type[Exception], tmp_path: Path) -> None:
    for number, size in enumerate([(8, 6), (1, 99), (8, 6)]):
        save(photo(number, size), tmp_path / f"in/{number}.png")
    out = tmp_path / "out"
    failures = predict_images(Blank((1, 99), error), collect_jobs([tmp_path / "in"], out), out)
    assert failures == [f"{tmp_path}/in/1.png: blank fails at 1x99 (not here)"]
    assert sorted(path.stem for path in (out / "masks").iterdir()) == ["0", "2"]


def test_a_frame_that_vanishes_is_one_line(tmp_path: Path) -> None:
    for name in "abc":
        save(photo(), tmp_path / f"in/{name}.png")
    jobs = collect_jobs([tmp_path / "in"], tmp_path / "out")
    (tmp_path / "in/b.png").unlink()
    assert predict_images(Blank(), jobs, tmp_path / "out") == [
        f"{tmp_path}/in/b.png: cannot read this image (No such file or directory)"
    ]


def test_a_frame_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    save(photo(), tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", refuse)  # the tests may run as root, whom no file refuses
    failures = predict_images(Blank(), collect_jobs([tmp_path / "a.png"], tmp_path / "out"), tmp_path / "out")
    assert failures == [f"{tmp_path}/a.png: cannot read this image (Permission denied)"]


def test_a_mask_that_cannot_be_written_ends_none_of_the_others(tmp_path: Path) -> None:
    for name in "abc":
        save(photo(), tmp_path / f"in/{name}.png")
    jobs = collect_jobs([tmp_path / "in"], tmp_path / "out")
    (tmp_path / "out/masks/b.png").mkdir(parents=True)  # comes in between: what is there before is refused
    (failure,) = predict_images(Blank(), jobs, tmp_path / "out")
    assert failure.startswith(f"{tmp_path}/out/masks/b.png: cannot be written")
    assert len(list((tmp_path / "out/overlays").iterdir())) == 2


def test_a_full_disk_ends_a_prediction_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    save(photo(), tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        predict_images(Blank(), collect_jobs([tmp_path / "a.png"], tmp_path / "out"), tmp_path / "out")


def test_predict_lists_what_failed_without_obeying_it(
    tmp_path: Path, model: Path, command: Command, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "in"
    save(photo(), folder / "good.png")
    for name in NAMES_OF_FRAMES:
        (folder / os.fsdecode(name)).write_bytes(b"")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    assert command("predict", model, folder, "--out", "out[/]") == 1
    out, err = capsys.readouterr()
    assert "1 of 7 frames predicted by torch" in out
    assert "out[/]" in out
    lines = err.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("error: ") and line.isprintable() for line in lines)


def test_a_survey_names_links_to_nothing_and_pipes(
    tmp_path: Path, own_recipe: OwnRecipe, own_tree: Path, command, capsys
):
    (own_tree / "frames/f0.png").unlink()
    (own_tree / "frames/f0.png").symlink_to("nowhere.png")
    assert command("data", own_recipe(), "--data", own_tree) == 1
    assert "f0.png: cannot be read (No such file or directory)" in capsys.readouterr().err


def test_a_disk_behind_a_link_in_the_data_folder_is_used(
    tmp_path: Path, street_data: Path, command: Command, model: Path
) -> None:
    (data := tmp_path / "data").mkdir()
    for split in ("train", "val", "test"):
        (data / split).symlink_to(street_data / split)
    assert command("evaluate", model, "street", "--data", data) == 0


def test_names_are_drawn_letter_by_letter_and_are_no_formulas(tmp_path: Path) -> None:
    names = ["$\\nosuch$", "a$b$c", "\udcff", "[b]"]
    for figure in (class_bars(dict.fromkeys(names, 0.5)), confusion_matrix(np.ones((4, 4), int), names)):
        save_figure(figure, tmp_path / "chart.png")
    assert "$\\nosuch$" in svg(lambda: class_bars(dict.fromkeys(names, 0.5)))
