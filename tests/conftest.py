"""Small data trees on disk, and a cache of the tests' own; nothing here reaches the network or the user's folders."""

import os

# Read when their libraries are imported, so before any fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small only wait for a second thread

import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from linknet_fastai.cli import main as cli
from linknet_fastai.cli.terminal import console
from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.data import street
from linknet_fastai.engines.engine import Engine
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import save_model
from linknet_fastai.training import fit as training
from linknet_fastai.training.finish import record_result
from linknet_fastai.training.run_record import FitResult

WIDTH, HEIGHT = 64, 48
CAMVID_SEEN = {"train": "0001TP_006690", "val": "0016E5_07959", "test": "0001TP_008550"}  # a published frame of each

# CamVid's raw labels in the order of the fastai archive's codes.txt, with their colors in the Cambridge original
# and their class (an index into SegNet's order; 11 is void).
CAMVID_CODES: dict[str, tuple[tuple[int, int, int], int]] = {
    "Animal": ((64, 128, 64), 11),
    "Archway": ((192, 0, 128), 11),
    "Bicyclist": ((0, 128, 192), 10),
    "Bridge": ((0, 128, 64), 11),
    "Building": ((128, 0, 0), 1),
    "Car": ((64, 0, 128), 8),
    "CartLuggagePram": ((64, 0, 192), 11),
    "Child": ((192, 128, 64), 11),
    "Column_Pole": ((192, 192, 128), 2),
    "Fence": ((64, 64, 128), 7),
    "LaneMkgsDriv": ((128, 0, 192), 3),
    "LaneMkgsNonDriv": ((192, 0, 64), 3),
    "Misc_Text": ((128, 128, 64), 6),
    "MotorcycleScooter": ((192, 0, 192), 10),
    "OtherMoving": ((128, 64, 64), 11),
    "ParkingBlock": ((64, 192, 128), 4),
    "Pedestrian": ((64, 64, 0), 9),
    "Road": ((128, 64, 128), 3),
    "RoadShoulder": ((128, 128, 192), 3),
    "Sidewalk": ((0, 0, 192), 4),
    "SignSymbol": ((192, 128, 128), 6),
    "Sky": ((128, 128, 128), 0),
    "SUVPickupTruck": ((64, 128, 192), 8),
    "TrafficCone": ((0, 0, 64), 11),
    "TrafficLight": ((0, 64, 64), 6),
    "Train": ((192, 64, 128), 8),
    "Tree": ((128, 128, 0), 5),
    "Truck_Bus": ((192, 128, 192), 8),
    "Tunnel": ((64, 0, 64), 1),
    "VegetationMisc": ((192, 192, 0), 5),
    "Void": ((0, 0, 0), 11),
    "Wall": ((64, 192, 0), 1),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of this test session: surveys and fastai's downloads go there, not to the user's home."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("FASTAI_HOME", str(folder / "fastai"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="session")
def camvid_codes() -> dict[str, tuple[tuple[int, int, int], int]]:
    """CamVid's raw labels in the order of codes.txt: color, and class in SegNet's order (11 is void)."""
    return CAMVID_CODES


@pytest.fixture(scope="session")
def codes_map() -> np.ndarray:
    """A map of CamVid's 32 raw codes, HxW, in blocks; every code occurs."""
    blocks = np.random.default_rng(0).permutation(48) % len(CAMVID_CODES)
    return np.kron(blocks.reshape(6, 8), np.ones((8, 8), int)).astype(np.uint8)


@pytest.fixture(scope="session")
def camvid_classes(codes_map: np.ndarray) -> np.ndarray:
    """What `codes_map` is in the 11 classes, void as 255."""
    classes = np.array([class_id for _, class_id in CAMVID_CODES.values()], np.uint8)[codes_map]
    return np.where(classes == 11, 255, classes).astype(np.uint8)


def save(array: np.ndarray, file: Path) -> Path:
    """Write an array as an image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
    return file


def photo(seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """Noise in the shape of a frame, HxWx3 uint8."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def png(array: np.ndarray) -> bytes:
    """An array as the bytes of a PNG."""
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def save_array() -> Callable[[np.ndarray, Path], Path]:
    """Writes an array as an image, folders included, and returns the file."""
    return save


@pytest.fixture
def segnet_tree(tmp_path: Path, camvid_classes: np.ndarray) -> Path:
    """CamVid as SegNet has it: train/, trainannot/, val/, valannot/; two frames each, no test split."""
    folder = tmp_path / "segnet"
    labels = np.where(camvid_classes == 255, 11, camvid_classes).astype(np.uint8)
    for split in ("train", "val"):
        for stem in (CAMVID_SEEN[split], f"extra_{split}"):
            save(photo(), folder / split / f"{stem}.png")
            save(labels, folder / f"{split}annot" / f"{stem}.png")
    return folder


@pytest.fixture(scope="session")
def fastai_tree(tmp_path_factory: pytest.TempPathFactory, codes_map: np.ndarray) -> Path:
    """CamVid as fastai's archive has it, all 701 frames of the published split; read only."""
    folder = tmp_path_factory.mktemp("fastai") / "camvid"
    frame, label = png(photo()), png(codes_map)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for split in load_recipe("camvid").splits.values():
        for stem in split.stems:
            (folder / "images" / f"{stem}.png").write_bytes(frame)
            (folder / "labels" / f"{stem}_P.png").write_bytes(label)
    (folder / "codes.txt").write_text("\n".join(CAMVID_CODES), encoding="utf-8")
    (folder / "valid.txt").write_text("0016E5_07959.png\n", encoding="utf-8")
    return folder


@pytest.fixture
def kaggle_tree(tmp_path: Path, codes_map: np.ndarray) -> Path:
    """CamVid as on Kaggle, label maps in color: one published frame of each split, in another split's folder."""
    folder = tmp_path / "kaggle"
    colors = np.array([color for color, _ in CAMVID_CODES.values()], np.uint8)
    for stem, split in zip(CAMVID_SEEN.values(), ("val", "test", "train"), strict=True):
        save(photo(), folder / split / f"{stem}.png")
        save(colors[codes_map], folder / f"{split}_labels" / f"{stem}_L.png")
    return folder


@pytest.fixture
def cambridge_tree(tmp_path: Path, codes_map: np.ndarray) -> Path:
    """CamVid as Cambridge publishes it, label maps in color: one published frame of each split."""
    folder = tmp_path / "cambridge"
    colors = np.array([color for color, _ in CAMVID_CODES.values()], np.uint8)
    for stem in CAMVID_SEEN.values():
        save(photo(), folder / "701_StillsRaw_full" / f"{stem}.png")
        save(colors[codes_map], folder / "LabeledApproved_full" / f"{stem}_L.png")
    return folder


@pytest.fixture
def cityscapes_tree(tmp_path: Path) -> Path:
    """Cityscapes: two cities to train on, one to validate on; every label id from 0 to 33, and 255, occurs."""
    folder = tmp_path / "cityscapes"
    ids = np.array([*range(34), 255], np.uint8)[np.arange(WIDTH * HEIGHT) % 35].reshape(HEIGHT, WIDTH)
    for split, city in (("train", "aachen"), ("train", "bremen"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        save(photo(), folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        save(ids, folder / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png")
        save(ids // 2, folder / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png")
    return folder


@pytest.fixture(scope="session")
def street_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Drawn street scenes of 96x72: 8 to train on, 3 to validate on, 2 to test on; nothing may write into it."""
    folder = tmp_path_factory.mktemp("street") / "street"
    street.write_scenes(folder, splits={"train": 8, "val": 3, "test": 2}, size=(96, 72))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    yield folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def state_of(epochs: int) -> dict[str, Any]:
    """The content of a checkpoint after so many epochs, of a network with one weight."""
    return {
        "model": {"weight": torch.ones(2)},
        "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "rows": [{"epoch": epoch, "miou": 0.5, "seconds": 1.0} for epoch in range(1, epochs + 1)],
        "classes": ["road"],
        "smooth_loss": (1, torch.tensor(0.5)),
        "scaler": None,
        "torch_rng": torch.get_rng_state(),
        "seconds": 0.0,
    }


OWN_RECIPE = """\
name = "own"
title = "Three classes of one's own"
source = "painted by hand"

[[classes]]
id = 10
name = "ground"
color = [200, 0, 0]

[[classes]]
id = 20
name = "wall"
color = [0, 200, 0]

[[classes]]
id = 30
name = "air"
color = [0, 0, 200]

[void]
id = 99

[[layouts]]
name = "flat"
images = "frames/{stem}.png"
labels = "masks/{stem}.png"

[splits]
train = { fraction = 0.45 }
val = { fraction = 0.55 }

[training]
size = "64x48"
bs = 2
pretrained = false
"""


@pytest.fixture
def own_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a user's recipe and returns its file; pairs of texts are replaced in it, each must be there."""

    def write(*replacements: tuple[str, str], file: str = "recipes/own.toml") -> Path:
        text = OWN_RECIPE
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def own_tree(tmp_path: Path) -> Path:
    """Ten frames for `own_recipe`: frames/f0.png to f9.png, masks with ids 10, 20, 30 and void 99."""
    folder = tmp_path / "own"
    for number in range(10):
        ids = np.random.default_rng(number).choice([10, 20, 30, 99], (6, 8)).astype(np.uint8)
        save(photo(number), folder / "frames" / f"f{number}.png")
        save(np.kron(ids, np.ones((8, 8), np.uint8)), folder / "masks" / f"f{number}.png")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    (folder := tmp_path / "here").mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line in this process, in a folder of its own; gives the exit status."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["linknet-fastai", *map(str, arguments)])
        monkeypatch.setattr(console, "quiet", False)  # as it is in a new process
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code

    return run


class Drawn(Engine):
    """Gives the red of a frame as its channels, and the green as the confidence."""

    name = "drawn"
    has_confidence = True

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.ascontiguousarray(pixels[..., 0])

    def channels_and_confidence(self, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return self.channels(pixels, size), np.ascontiguousarray(pixels[..., 1])


def result_alone(dataset: object, settings: object, result: FitResult, progress: object) -> None:
    """Ends a run without the scores, pictures and report of its best weights."""
    record_result(result, torch.device("cpu"))


@pytest.fixture
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end with their result alone, which takes a tenth of the time."""
    monkeypatch.setattr(training, "finish_run", result_alone)


@pytest.fixture(scope="session")
def traced_once() -> Iterator[None]:
    """Traces a network once, which takes seconds, however often it is exported."""
    from linknet_fastai.export import onnx_graph  # needs optional packages

    trace, traced = onnx_graph._network_graph, {}

    def network_graph(model: LinkNet) -> Any:
        weights = tuple(hash(value.numpy().tobytes()) for value in model.state_dict().values())
        if weights not in traced:
            traced[weights] = trace(model)
        graph = type(traced[weights])()
        graph.CopyFrom(traced[weights])
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "_network_graph", network_graph)
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model for the classes of `street`."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("run") / "model.safetensors"
    card = ModelCard.of(load_recipe("street"), (64, 48), encoder="test_resnet")
    save_model(LinkNet(11, "test_resnet", pretrained=False), card, file)
    return file
