"""Models by name: a path comes first, then a name of this package, then Hugging Face; a recipe is never a model."""

import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UserError
from linknet_fastai.data.street import VOID, draw_scene, scene_seed
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.model import named
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.named import find_model, model_folder, model_names, no_such_model
from linknet_fastai.model.save_load import load_model, save_model


@pytest.fixture
def shipped(tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the name street-n, in half precision, as one of this package; the working folder is empty."""
    torch.manual_seed(0)
    folder = tmp_path / "models"
    card = ModelCard.of(load_recipe("street"), (64, 48), encoder="test_resnet")
    save_model(LinkNet(11, "test_resnet", pretrained=False).half(), card, folder / "street-n.safetensors")
    (folder / "street-n.md").write_text("Drawn by a test.\n")
    monkeypatch.setattr(named, "model_folder", lambda: folder)
    return folder / "street-n.safetensors"


def test_a_name_is_a_model_of_this_package_unless_there_is_such_a_path(shipped: Path) -> None:
    assert find_model("street-n") == shipped
    model, card = load_model("street-n")
    assert card.recipe == "street"
    assert next(model.parameters()).dtype == torch.float32
    assert open_engine(Path("street-n")).card == card
    shutil.copyfile(shipped, "street-n")
    assert find_model("street-n") == Path("street-n")


def test_a_recipe_is_no_model_and_a_similar_name_is_suggested(shipped: Path) -> None:
    assert find_model("street") == Path("street")
    with pytest.raises(UserError, match=r"^street: no such model; street is a recipe: `fit street` trains a model$"):
        load_model("street")
    with pytest.raises(UserError, match=r"^street-m: no such model; did you mean 'street-n'"):
        open_engine(Path("street-m"))
    assert str(no_such_model("/x/y")) == "/x/y: no such model"


def test_the_models_of_this_package_are_listed_and_described(shipped: Path, command, capsys) -> None:
    assert command("models") == 0
    assert ["street-n", "street", "11", "64x48"] in [
        line.split()[:4] for line in capsys.readouterr().out.splitlines()
    ]
    assert command("models", "--show", "street-n") == 0
    assert capsys.readouterr().out == "Drawn by a test.\n"
    assert command("models", "--show", "street-x") == 2


def test_a_model_on_hugging_face_is_downloaded_once(shipped: Path, tmp_path: Path) -> None:
    content, requests = shipped.read_bytes(), []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append((self.command, self.path))
            known = self.path == "/someone/streets/resolve/main/model.safetensors"
            self.send_response(200 if known else 404)
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("ETag", '"abc"')
            self.send_header("Content-Length", str(len(content) if known else 0))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    code = "import sys; from linknet_fastai.model.named import find_model; print(find_model(sys.argv[1]))"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    def find(name: str, **more: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-W", "ignore", "-c", code, name]
        return subprocess.run(arguments, env=environment | more, capture_output=True, text=True, check=False)

    try:
        found = find("hf://someone/streets")
        assert Path(found.stdout.strip()).read_bytes() == content, found.stderr
        missing = find("hf://someone/nothing")
    finally:
        server.shutdown()
        server.server_close()
    again = find("hf://someone/streets", HF_HUB_OFFLINE="1")  # without a network
    assert again.stdout == found.stdout
    assert requests.count(("GET", "/someone/streets/resolve/main/model.safetensors")) == 1
    for failed in (missing, find("hf://someone/else", HF_HUB_OFFLINE="1")):
        assert "model.safetensors cannot be downloaded" in failed.stderr.splitlines()[-1]


def test_the_models_of_this_package_are_complete_and_segment_drawn_streets() -> None:
    files = [model_folder() / f"{name}.safetensors" for name in model_names()]
    assert [file.stem for file in files] == ["camvid-m", "camvid-n"]
    assert sum(file.stat().st_size for file in files) <= 32e6
    for file in files:
        assert file.with_suffix(".md").read_text(encoding="utf-8").startswith(f"# {file.stem}\n")
    frame, labels = draw_scene(scene_seed("val", 0))
    for name in model_names():
        same = open_engine(Path(name), precision="fp32").predict_channels(frame) == labels
        assert same[labels != VOID].mean() > 0.5, name
