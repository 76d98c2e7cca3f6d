"""The folder with a page for the browser: its network, its runtime, without a connection; and the network in int8."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import onnxruntime
import pytest
import torch
from fake_onnxruntime_web import fake_archive

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.data.street import draw_scene
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.export import onnx_graph, web, web_runtime
from linknet_fastai.export.export import export_run
from linknet_fastai.export.web import RUNTIMES, export_web
from linknet_fastai.export.web_runtime import runtime_files
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model, save_model

SIZE = (96, 72)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("secret-place") / "run"
    card = ModelCard.of(load_recipe("street"), SIZE, encoder="test_resnet")
    save_model(LinkNet(11, "test_resnet", pretrained=False), card, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", autouse=True)
def traced_once(run: Path) -> Iterator[None]:
    """Has torch trace the network once for the whole file, which takes longer than all else here."""
    graph = onnx_graph.onnx_graph(*load_model(run))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "onnx_graph", lambda *_: graph)
        yield


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield fake_archive(tmp_path_factory.mktemp("npm") / "onnxruntime-web.tgz", patch)


@pytest.fixture(scope="module")
def folder(run: Path, archive: Path) -> Path:
    """The page of a network in floats."""
    return export_web(run, runtime=archive).folder


@pytest.fixture(scope="module")
def small(run: Path, street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in int8, with its scales from drawn scenes."""
    file = tmp_path_factory.mktemp("small") / "small.onnx"
    written = export_run(run, "onnx", file, int8=True, calibrate=street_data / "train")
    assert (written.file, written.check.engine, written.check.frames) == (file, "openvino in int8", 10)
    assert written.check.agreement > 0.9
    return file


def info_of(folder: Path) -> dict:
    return json.loads((folder / "model.json").read_text())


def test_the_folder_has_the_network_and_what_the_page_shows_of_it(run: Path, folder: Path) -> None:
    info, card = info_of(folder), load_model(run)[1]
    assert (folder, info["size"], info["precision"]) == (run / "export-web", [96, 72], "fp32")
    assert [(entry["name"], tuple(entry["color"])) for entry in info["classes"]] == [
        (entry.name, entry.color) for entry in card.classes
    ]
    session = onnxruntime.InferenceSession(gzip.decompress((folder / info["model"]).read_bytes()))
    assert [output.name for output in session.get_outputs()] == ["mask"]
    frame = draw_scene(0, SIZE)[0]
    (mask,) = session.run(None, {"image": np.asarray(frame)[None], "size": np.array(SIZE[::-1], np.int64)})
    assert (mask[0] == Predictor(*load_model(run), "cpu", "fp32").predict_channels(frame)).mean() >= 0.999


def test_the_runtimes_are_those_of_the_package_and_the_large_files_are_compressed(folder: Path) -> None:
    info = info_of(folder)
    assert list(info["runtimes"]) == ["wasm", "webgpu"]
    for name, paths in info["runtimes"].items():
        written = gzip.decompress((folder / paths["binary"]).read_bytes()).decode()
        assert written == RUNTIMES[name][2]
        assert (folder / paths["glue"]).read_text() == RUNTIMES[name][1]
    on_disk = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    assert {name: path.stat().st_size for name, path in on_disk.items() if name != "model.json"} == info["bytes"]
    assert "Copyright (c) Microsoft Corporation" in on_disk["runtime/LICENSE.txt"].read_text()


def test_the_page_names_files_beside_it_only_and_nothing_of_this_machine(folder: Path) -> None:
    texts = {path: path.read_text() for path in folder.glob("*.*") if path.suffix != ".gz"}
    assert len(texts) == 10
    for path, text in texts.items():
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://localhost:8000"}, path
        assert "secret-place" not in text
        for name in re.findall(r'(?:src|href)="([\w./]+)"|from "\./([\w.]+)"|new URL\("([\w.]+)"', text):
            assert (folder / "".join(name)).is_file(), name
    assert b"secret-place" not in gzip.decompress((folder / "model.onnx.gz").read_bytes())


def test_an_int8_page_takes_the_place_of_one_in_floats_and_has_no_webgpu(
    run: Path,
    folder: Path,
    small: Path,
    archive: Path,
    street_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "page"))
    monkeypatch.setattr(web, "export_graph", lambda model, card, file, frames: shutil.copy(small, file))
    written = export_web(run, out, True, street_data / "train", runtime=archive)
    assert (written.check.engine, written.check.source) == ("onnxruntime in int8", str(street_data / "train"))
    info = info_of(out)
    assert (list(info["runtimes"]), info["precision"]) == (["wasm"], "int8")
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == {*info["bytes"], "model.json"}
    assert info["bytes"]["model.onnx.gz"] < 0.5 * info_of(folder)["bytes"]["model.onnx.gz"]
    assert (
        written.mebibytes == written.loaded == pytest.approx(sum(p.stat().st_size for p in out.rglob("*.*")) / 2**20)
    )


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_onnx_in_int8_predicts_in_every_engine_and_has_the_card(run: Path, small: Path, name: str) -> None:
    engine, frame = open_engine(small, name), draw_scene(0, SIZE)[0]
    assert (engine.precision, engine.card) == ("int8", load_model(run)[1])
    expected, certain = Predictor(*load_model(run), "cpu", "fp32").predict_with_confidence(frame)
    channels, confidence = engine.predict_with_confidence(frame)
    assert (channels == expected).mean() > 0.9
    assert np.abs(confidence.astype(int) - certain).mean() < 12
    with pytest.raises(UsageError, match=r"--precision: .*is int8; export it without --int8"):
        open_engine(small, name, precision="fp32")
    assert b"secret-place" not in small.read_bytes()


def test_a_folder_with_files_of_the_user_is_left_alone(run: Path, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UsageError, match=r"--out: .* has files that no export wrote; name a new folder"):
        export_web(run, tmp_path, runtime=archive)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_the_runtime_is_downloaded_once_and_again_if_the_file_is_damaged(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []

    def download(url: str, file: Path, **options: object) -> None:
        downloads.append(url)
        shutil.copy(archive, file)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(web_runtime, "urlsave", download)
    name = "ort-wasm-simd-threaded.wasm"
    assert [runtime_files([name]) for _ in range(2)] == [{name: name.encode()}] * 2
    assert downloads == [web_runtime.URL]
    (cached,) = (tmp_path / "linknet-fastai").iterdir()
    cached.write_bytes(b"damaged")
    assert runtime_files([name]) == {name: name.encode()}
    assert len(downloads) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            r"onnxruntime-web cannot be downloaded \(.*no route.*\): get https://registry\.npmjs\..* --runtime",
        ),
        (b"another file", r"https://registry\.npmjs\.org/.*\.tgz: its SHA-512 is not the one that is known here"),
    ],
    ids=["without a network", "another file"],
)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    def download(url: str, file: Path, **options: object) -> None:
        if content is None:
            raise URLError("no route to host")
        file.write_bytes(content)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(web_runtime, "urlsave", download)
    with pytest.raises(UserError, match=message) as caught:
        runtime_files(["ort.wasm.min.mjs"])
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "linknet-fastai").iterdir()) == []


def test_an_archive_that_is_another_one_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "onnxruntime-web-9.tgz").write_bytes(b"another version")
    with pytest.raises(UserError, match=r"--runtime: .*onnxruntime-web-9\.tgz is not https://"):
        runtime_files(["ort.wasm.min.mjs"], file)
    with pytest.raises(UserError, match=r"gone\.tgz: cannot be read"):
        runtime_files(["ort.wasm.min.mjs"], tmp_path / "gone.tgz")
