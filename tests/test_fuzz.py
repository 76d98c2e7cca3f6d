"""Readers against files that no program wrote: mutations of valid ones, and trees of the wrong kind.

A reader passes if it gives a valid object or raises UserError; any other exception, and a wait of more than
`PATIENCE` seconds, is a fault. Here each reader sees a few examples, the same ones every time. Many more:

    FUZZ_EXAMPLES=10000 nice pytest tests/test_fuzz.py -k recipe

What failed once has a test of its own next to the other tests of the reader or in `test_hostile.py`.
"""

import io
import json
import os
import signal
import struct
import tomllib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from conftest import OWN_RECIPE, photo, save, state_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as safetensors_bytes

from linknet_fastai.cli.tables import show_comparison
from linknet_fastai.config.presets import load_preset, preset_folder
from linknet_fastai.config.recipe import load_recipe, read_stems
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.images import open_image
from linknet_fastai.data.cache import FrameCache, Index
from linknet_fastai.data.labels import LabelReader
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.survey import Survey
from linknet_fastai.model.card import METADATA_KEY, ModelCard, parse_card
from linknet_fastai.model.save_load import load_model
from linknet_fastai.runs import report
from linknet_fastai.runs.checkpoint import read_checkpoint
from linknet_fastai.runs.compare import differing_settings, spreads, summarize, write_table
from linknet_fastai.runs.folder import write_evaluation, write_run
from linknet_fastai.runs.metrics import best_row, write_metrics

pytestmark = pytest.mark.filterwarnings("ignore::linknet_fastai.core.errors.Note")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
PATIENCE = 20  # seconds for one example: a fault is one that would never end
fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def _patience() -> Iterator[None]:
    def lost(*_: object) -> None:
        raise AssertionError(f"no answer within {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, lost)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read(reader: Callable[..., Any], *arguments: object) -> Any:
    """What a reader gives; None where it refuses, in one line."""
    try:
        with _patience():
            return reader(*arguments)
    except UserError as error:
        message = str(error)
    assert message.strip()
    assert len(message) < 2000
    return None


# What is done to valid files

TOKENS = [
    *(
        b"\0",
        b"\x1b[2J",
        b"\xff\xfe",
        b"\r\n",
        b'"',
        b"'",
        b"[",
        b"[" * 3000,
        b"]",
        b"{",
        b"}",
        b"=",
        b".",
        b",",
        b"#",
    ),
    *(
        b"nan",
        b"inf",
        b"-1",
        b"1e999",
        b"9" * 5000,
        b"0x" + b"f" * 5000,
        b"true",
        b"null",
        b"../",
        b"/dev/zero",
        b"**",
    ),
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", "‮\u0085 é".encode()),
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "insert", "double"]),
        st.floats(0, 1),
        st.integers(1, 64),
        st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=5,
)


def edited(content: bytes, edits: list[tuple]) -> bytes:
    """Bytes flipped, overwritten, cut out, put in and repeated."""
    for what, share, length, put in edits:
        place = int(share * len(content))
        before, after = content[:place], content[place:]
        if what == "flip":
            after = bytes(byte ^ length for byte in after[:1]) + after[1:]
        elif what == "set":
            after = put[:8] + after[len(put[:8]) :]
        elif what == "cut":
            after = after[length * 8 if length > 60 else length :]
        elif what == "insert":
            before += put
        else:
            before += after[:length]
        content = before + after
    return content


LETTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = (
    st.integers(-3, 300)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.sampled_from([2**31, 16384, 10**6, 1e308])
)
WORDS = st.sampled_from(
    [
        *(
            "",
            ".",
            "..",
            "../..",
            "/etc",
            "~",
            "C:x",
            "%s",
            "a" * 300,
            "x/" * 300,
            "\x1b[31m",
            "\u202e",
            "$\\frac$",
            "[/red]",
        ),
        *("{stem}", "{split}/{stem}", "*/{stem}", "**/{stem}", "{stem}{stem}", "{stem!r}", "{stem:>99999999}", "{0}"),
        *("camvid", "best", "auto", "none", "1000000x1000000", "480x360", "cuda:99999999999999999999", "resnet50"),
    ]
)
LEAVES = st.none() | st.booleans() | NUMBERS | LETTERS | WORDS
JUNK = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(LETTERS, inner, max_size=4))


def _without_none(value: Any) -> Any:
    """TOML has no None."""
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return "" if value is None else value


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> Any:
    """A tree with a few of its parts replaced, left out, renamed, doubled or buried."""
    tree = {"tree": deepcopy(tree)}
    for _ in range(draw(st.integers(1, 3))):
        outer, key = tree, "tree"
        while isinstance(inner := outer[key], dict | list) and inner and draw(st.integers(0, 3)):
            outer, key = inner, draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner))))
        what = draw(st.sampled_from(["replace", "replace", "delete", "rename", "double", "bury"]))
        if what == "replace" or outer is tree:
            outer[key] = draw(JUNK)
        elif what == "delete":
            del outer[key]
        elif what == "bury":
            for _ in range(draw(st.sampled_from([1, 40]))):
                outer[key] = [outer[key]] if draw(st.booleans()) else {"a": outer[key]}
        elif isinstance(outer, dict):
            outer[draw(LETTERS | WORDS)] = outer.pop(key) if what == "rename" else outer[key]
        else:
            outer += [outer[key]] * draw(st.sampled_from([1, 300]))
    return tree["tree"]


def toml_files(text: str) -> st.SearchStrategy[bytes]:
    """TOML files: with their bytes mutated, and with their trees."""
    trees = mutated(tomllib.loads(text)).filter(lambda tree: isinstance(tree, dict))
    return EDITS.map(lambda edits: edited(text.encode(), edits)) | trees.map(
        lambda tree: tomli_w.dumps(_without_none(tree)).encode()
    )


def json_files(text: str) -> st.SearchStrategy[bytes]:
    """JSON files, likewise."""
    return EDITS.map(lambda edits: edited(text.encode(), edits)) | mutated(json.loads(text)).map(
        lambda tree: json.dumps(tree).encode()
    )


def repaired(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums that they should have: without, no mutation comes past them."""
    whole, place = content[:8], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        body = content[place + 4 : place + 8 + length]
        whole += content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return whole


# Text files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    for number in range(3):
        save(photo(number, (8, 6)), folder / f"data/frames/f{number}.png")
        save(np.full((6, 8), 10, np.uint8), folder / f"data/masks/f{number}.png")
    return folder / "data"


LISTED = OWN_RECIPE.replace("{ fraction = 0.45 }", '{ list = "list.txt" }')
MAPPED = OWN_RECIPE.replace('"masks/{stem}.png"\n', '"masks/{stem}.png"\n[layouts.values]\n0 = "wall"\n1 = "void"\n')


@fuzz
@given(content=st.sampled_from([OWN_RECIPE, LISTED, MAPPED, 'base = "camvid"\nname = "mine"\n']).flatmap(toml_files))
def test_recipe(content: bytes, folder: Path, data: Path) -> None:
    (folder / "list.txt").write_text("f0\nf1\n")
    (folder / "own.toml").write_bytes(content)
    recipe = read(load_recipe, folder / "own.toml")
    dataset = recipe and read(open_dataset, recipe, data)
    for split in recipe.splits if dataset else ():
        for frame in read(dataset.frames, split) or ():
            assert frame.image.is_relative_to(data)
            assert frame.label.resolve().is_relative_to(data)


@fuzz
@given(edits=EDITS)
def test_list_of_frames(edits: list, folder: Path, data: Path) -> None:
    (folder / "own.toml").write_text(OWN_RECIPE)
    (file := folder / "frames.txt").write_bytes(edited(b"f0\nf1.png\nsub/f2.jpg\n", edits))
    read(read_stems, file)
    read(open_dataset(folder / "own.toml", data).frames, str(file))


PRESETS = [file.read_text(encoding="utf-8") for file in sorted(preset_folder().glob("*.toml"))]


@fuzz
@given(content=st.sampled_from([*PRESETS, 'base = "paper"\nlr = 0.1\nsize = "64x48"\n']).flatmap(toml_files))
def test_preset(content: bytes, folder: Path) -> None:
    (folder / "mine.toml").write_bytes(content)
    if preset := read(load_preset, folder / "mine.toml"):
        Settings(**preset.settings)


def card() -> ModelCard:
    return ModelCard.of(load_recipe("camvid"), (480, 360))


@fuzz
@given(content=json_files(card().model_dump_json()))
def test_metadata(content: bytes) -> None:
    found = read(parse_card, content.decode("utf-8", "replace"), Path("model"))
    assert found is None or ModelCard(**json.loads(found.model_dump_json())) == found


WEIGHTS = safetensors_bytes({"weight": torch.zeros(3)}, {"format": "pt", METADATA_KEY: card().model_dump_json()})


@fuzz
@given(edits=EDITS)
def test_safetensors(edits: list, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(edited(WEIGHTS, edits))
    assert read(load_model, folder / "model.safetensors") is None  # these weights are no network's


# Run folders

ROW = dict.fromkeys(("train_loss", "valid_loss", "miou", "mean_accuracy", "pixel_accuracy", "iou_Sky", "lr"), 0.5)
SCORES = {
    "split": "val",
    "miou": 0.5,
    "mean_accuracy": 0.5,
    "size": "64x48",
    "engine": "torch",
    "tta": False,
    "frames": 2,
    "classes": [{"name": name, "iou": 0.5, "accuracy": None, "pixels": 4} for name in ("a", "b")],
    "confusion": [[1, 2], [3, 4]],
    "frame_miou": {"a.png": 0.5, "b.png": None},
}


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    record = {
        "recipe": "camvid",
        "data": "/data",
        "started": "today",
        "command": "fit",
        "parameters": 3,
        "notes": ["a"],
    }
    write_run(folder / "run", Settings(), dict.fromkeys(Settings.model_fields, "default"), record)
    write_metrics(folder / "run", [{"epoch": epoch, **ROW, "seconds": 1.0} for epoch in (1, 2)])
    write_evaluation(folder / "run", SCORES)
    return folder / "run"


@pytest.mark.parametrize("name", ["run.toml", "metrics.csv", "evaluation-val.json"])
def test_run(name: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """What is read out of a run folder is shown, written as a table and as a page: all of it must be fit for that."""
    monkeypatch.setattr(report, "svg", lambda draw, dark: "")  # drawing takes a hundred times as long
    valid = (run / name).read_text(encoding="utf-8")
    kinds = {"run.toml": toml_files, "evaluation-val.json": json_files}
    files = kinds.get(name, lambda text: EDITS.map(lambda edits: edited(text.encode(), edits)))(valid)

    def use(folder: Path) -> None:
        runs = [summarize(folder)] * 2
        show_comparison(runs)
        differing_settings(runs), spreads(runs)
        write_table(runs, folder / "table.csv")
        report.write_report(folder, [], card())

    @fuzz
    @given(content=files)
    def check(content: bytes) -> None:
        (run / name).write_bytes(content)
        read(use, run)
        capsys.readouterr()

    try:
        check()
    finally:
        (run / name).write_text(valid, encoding="utf-8")


SURVEY = Survey(frames=2, sizes={"8x6": 2}, class_pixels=[48, 48], void_pixels=0, problems=[])
INDEX = Index(size=(8, 6), label_shapes=[(6, 8)] * 2, survey=SURVEY)


@fuzz
@given(content=json_files(INDEX.model_dump_json()))
def test_cache(content: bytes, folder: Path) -> None:
    for name, size in (("images.bin", 2 * 3 * 48), ("labels.bin", 2 * 48)):
        (folder / name).write_bytes(bytes(size))
    (folder / "index.json").write_bytes(content)
    try:
        cache = FrameCache(folder)
    except (OSError, ValueError):  # it is then built again
        return
    for position in range(len(cache.label_shapes)):
        assert cache.image(position).ndim == cache.labels(position).ndim + 1 == 3


def checkpoint(tree: Any) -> bytes:
    torch.save(tree, content := io.BytesIO())
    return content.getvalue()


STATE = {"epochs_done": 1, "batches_done": 0, **state_of(1)}


@fuzz
@given(content=EDITS.map(lambda edits: edited(checkpoint(STATE), edits)) | mutated(STATE).map(checkpoint))
def test_checkpoint(content: bytes, folder: Path) -> None:
    (checkpoints := folder / "checkpoints").mkdir(exist_ok=True)
    for old in checkpoints.iterdir():
        old.unlink()
    (checkpoints / f"epoch-00001-{sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    if found := read(read_checkpoint, folder):
        assert best_row(found[0]["rows"]) in found[0]["rows"]


# Images


def image_bytes(image: Image.Image, file_format: str, **options: Any) -> bytes:
    image.save(content := io.BytesIO(), file_format, **options)
    return content.getvalue()


def frames() -> list[bytes]:
    """A frame in each format and mode that is read."""
    frame, deep = (
        Image.fromarray(photo(0, (9, 7))),
        Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 999),
    )
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "street"
    second = frame.transpose(Image.Transpose.ROTATE_180)
    modes = [frame.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    return [
        *(image_bytes(image, "PNG", exif=exif) for image in (*modes, deep)),
        image_bytes(frame, "PNG", save_all=True, append_images=[second]),
        image_bytes(modes[3], "PNG", transparency=0),
        *(image_bytes(image, "JPEG", exif=exif) for image in (frame, modes[1], frame.convert("CMYK"))),
        image_bytes(frame, "JPEG", progressive=True),
        *(image_bytes(image, "BMP") for image in (frame, modes[1], modes[3])),
        *(image_bytes(image, "TIFF") for image in (frame, modes[0], deep, frame.convert("CMYK"), frame.convert("F"))),
        *(image_bytes(frame, "TIFF", compression=how) for how in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
        *(
            image_bytes(frame, "WEBP", save_all=more, append_images=[second] if more else [])
            for more in (False, True)
        ),
        image_bytes(frame, "GIF", save_all=True, append_images=[second]),
        *(image_bytes(image, "PPM") for image in (frame, deep)),
        image_bytes(frame, "JPEG2000"),
    ]


IMAGES = st.tuples(st.sampled_from(frames()), EDITS, st.booleans()).map(
    lambda drawn: (repaired if drawn[2] and drawn[0].startswith(b"\x89PNG") else bytes)(edited(*drawn[:2]))
)


@fuzz
@given(content=IMAGES)
@pytest.mark.filterwarnings("ignore")
def test_image(content: bytes, folder: Path) -> None:
    (folder / "frame.png").write_bytes(content)
    image = read(open_image, folder / "frame.png")
    assert image is None or image.mode == "RGB"


def label_maps() -> list[bytes]:
    ids = Image.fromarray(np.random.default_rng(0).choice([10, 20, 30, 99], (7, 9)).astype(np.uint8))
    palette = ids.copy()
    palette.putpalette(bytes(range(256)) * 3)
    wide = Image.fromarray(np.asarray(ids).astype(np.uint16))
    made = [image_bytes(image, "PNG") for image in (ids, palette, wide, ids.convert("RGB"))]
    return [*made, *(image_bytes(image, kind) for image in (ids, wide) for kind in ("TIFF", "PPM"))]


MAPS = st.tuples(st.sampled_from(label_maps()), EDITS, st.booleans()).map(
    lambda drawn: (repaired if drawn[2] and drawn[0].startswith(b"\x89PNG") else bytes)(edited(*drawn[:2]))
)


@pytest.mark.parametrize("colors", [False, True])
def test_label_map(colors: bool, folder: Path, data: Path) -> None:
    mapping = "colors = { ground = [10, 10, 10], wall = [20, 20, 20], air = [30, 30, 30], void = [99, 99, 99] }\n"
    labels = 'labels = "masks/{stem}.png"\n'
    (folder / "map.toml").write_text(OWN_RECIPE.replace(labels, labels + mapping) if colors else OWN_RECIPE)
    recipe = load_recipe(folder / "map.toml")
    reader = LabelReader(recipe, recipe.layouts[0])

    @fuzz
    @given(content=MAPS)
    def check(content: bytes) -> None:
        (folder / "map.png").write_bytes(content)
        channels = read(reader, folder / "map.png")
        assert channels is None or set(np.unique(channels)) <= {0, 1, 2, 255}

    check()
