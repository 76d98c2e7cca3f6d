"""The page of `serve`, without a browser: its limits, its answers, and that no upload is kept."""

import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from test_uploads import CARD, LIMITS, Quarters
from test_video import write_clip

import linknet_fastai
from linknet_fastai.predict.serve import served
from linknet_fastai.predict.uploads import Limits

Command = Callable[..., int]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def engine() -> Quarters:
    return Quarters()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@contextmanager
def temporary_folder(folder: Path) -> Iterator[None]:
    """Has temporary files made in a folder of the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        assert gettempdir() == str(folder)
        yield


@pytest.fixture(scope="module")
def address(engine: Quarters, temporary: Path) -> Iterator[str]:
    """A page that takes files up to 1 MiB and images up to 12 000 pixels."""
    with temporary_folder(temporary):
        with served(engine, "127.0.0.1", free_port(), Limits(1, 0.012, 1)) as address:
            yield address
        assert [*temporary.iterdir()] == []


@pytest.fixture(scope="module")
def opened(address: str) -> Iterator[Client]:
    client = Client(address, verbose=False, download_files=False)
    yield client
    client.close()


@pytest.fixture
def client(opened: Client) -> Client:
    """A visitor who has dropped nothing yet."""
    opened.reset_session()
    return opened


def photo(file: Path, size: tuple[int, int] = (80, 60)) -> Path:
    """Writes an image that JPEG keeps nearly as it is."""
    Image.linear_gradient("L").resize(size).convert("RGB").save(file)
    return file


def drop(client: Client, file: Any, opacity: float = 0.5, shown: list[str] | None = None) -> tuple:
    """Drop a file as the page would; the answers."""
    shown = CARD.class_names if shown is None else shown
    return client.predict(file, opacity, shown, api_name="/show")


def decoded(picture: dict) -> np.ndarray:
    """The pixels of a picture in an answer, HxWx3."""
    content = base64.b64decode(picture["url"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def files_in(folder: Path) -> list[bytes]:
    """What is in the files below a folder, of those that hold anything."""
    return [content for file in folder.rglob("*") if file.is_file() and (content := file.read_bytes())]


def test_an_image_becomes_overlay_class_map_shares_and_milliseconds(client: Client, tmp_path: Path) -> None:
    nothing, status, classes, overlay, class_map, video = drop(client, handle_file(photo(tmp_path / "frame.png")))
    assert nothing is video is None  # free for the next one
    assert "frame.png, 80x60: " in status
    assert "ms in the network" in status
    assert [label for label, _ in classes["choices"]][:4] == ["Sky 25.0%", "Building 0.0%", "Pole 0.0%", "Road 75.0%"]
    assert overlay["url"].startswith("data:image/jpeg")
    pixels = decoded(class_map)
    assert {tuple(pixels[:, :20].reshape(-1, 3)[0]), tuple(pixels[0, 20])} == {
        CARD.classes[0].color,
        CARD.classes[3].color,
    }
    assert len(np.unique(pixels[:, 20:].reshape(-1, 3), axis=0)) == 1


def test_drawing_again_shows_the_selected_classes_and_predicts_nothing(
    client: Client, engine: Quarters, tmp_path: Path
) -> None:
    original = np.asarray(Image.open(photo(tmp_path / "frame.png")).convert("RGB")).astype(int)
    drop(client, handle_file(tmp_path / "frame.png"))
    calls = engine.calls
    clear = decoded(client.predict(0, CARD.class_names, api_name="/draw"))
    assert np.abs(clear - original).mean() < 5  # JPEG
    road = decoded(client.predict(1, ["Road"], api_name="/draw"))
    assert np.abs(road[:, :16] - original[:, :16]).mean() < 5
    assert np.abs(road[:, 24:] - CARD.classes[3].color).max() < 10
    assert engine.calls == calls


def clip(file: Path, seconds: float = 0.5) -> Path:
    return write_clip(file, [np.full((48, 64, 3), 100, np.uint8)] * round(10 * seconds))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.MTS"])
def test_a_clip_becomes_a_video_and_the_shares_of_all_its_frames(
    client: Client, temporary: Path, tmp_path: Path, name: str
) -> None:
    drop(client, handle_file(photo(tmp_path / "frame.png")))
    before = files_in(temporary)
    _, status, classes, overlay, class_map, video = drop(client, handle_file(clip(tmp_path / name)))
    assert re.search(rf"{name}, 5 frames: \d+\.\d ms a frame in the network", status)
    assert classes["choices"][3] == ["Road 75.0%", "Road"]
    assert overlay is class_map is None
    film = httpx.get(video["url"]).content
    assert sorted(files_in(temporary)) == sorted([*before, film])


def test_a_second_clip_waits_for_its_visitor_not_in_a_queue(temporary: Path, tmp_path: Path) -> None:
    started, resume = Event(), Event()
    engine = Quarters()
    with temporary_folder(temporary), served(engine, "127.0.0.1", free_port(), LIMITS) as address:
        engine.work = lambda: started.set() or resume.wait(60)
        client = Client(address, verbose=False, download_files=False)
        try:
            first = client.submit(handle_file(clip(tmp_path / "one.mp4")), 0.5, [], api_name="/show")
            assert started.wait(60)
            assert (
                "error: two.mp4: another clip is being predicted"
                in drop(client, handle_file(clip(tmp_path / "two.mp4")))[1]
            )
        finally:
            resume.set()
        assert "one.mp4, 5 frames" in first.result(60)[1]
        client.close()


def test_a_session_that_has_seen_nothing_draws_nothing(client: Client) -> None:
    assert client.predict(0.5, CARD.class_names, api_name="/draw") is None


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (None, "error: x.png: cannot read this image"),
        ((200, 100), "error: x.png: cannot read this image (200x100 is more than 0.012 million"),
    ],
)
def test_what_is_no_image_or_too_large_is_one_line_and_leaves_nothing_shown(
    client: Client, temporary: Path, tmp_path: Path, size: tuple[int, int] | None, line: str
) -> None:
    file = tmp_path / "x.png"
    if size:
        photo(file, size)
    else:
        file.write_text("no image")
    drop(client, handle_file(photo(tmp_path / "frame.png")))
    answer = drop(client, handle_file(file))
    assert line in answer[1]
    assert answer[3:6] == (None, None, None)
    assert "%" not in str(answer[2])
    assert str(temporary) not in str(answer)
    assert client.predict(0.5, CARD.class_names, api_name="/draw") is None


def test_a_file_of_too_many_bytes_is_refused_while_it_comes(address: str, temporary: Path) -> None:
    answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.png", bytes(1 << 20) + b"!")})
    assert answer.status_code == 413
    assert str(temporary) not in answer.text


def test_no_image_that_was_dropped_or_drawn_is_kept(client: Client, temporary: Path, tmp_path: Path) -> None:
    before = files_in(temporary)
    drop(client, handle_file(photo(tmp_path / "frame.png")))
    client.predict(0.3, ["Road"], api_name="/draw")
    (tmp_path / "x.png").write_text("no image")
    drop(client, handle_file(tmp_path / "x.png"))
    assert files_in(temporary) == before


@pytest.mark.parametrize("path", ["https://pypi.org/frame.png", "http://127.0.0.1:1/frame.png", "{secret}"])
def test_only_what_was_dropped_is_read(address: str, tmp_path: Path, path: str) -> None:
    path = path.format(secret=photo(tmp_path / "secret.png"))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    call = f"{address}gradio_api/call/show"
    posted = httpx.post(call, json={"data": [file, 0.5, []]}).json()
    answer = httpx.get(f"{call}/{posted['event_id']}").text
    assert answer.startswith("event: error")
    assert ("drop it again" in answer) == path.startswith("http")  # it was not even asked for
    assert str(tmp_path) not in answer
    assert httpx.get(f"{address}gradio_api/file={path}").status_code == 403


def test_no_other_way_to_send_files_is_open(address: str) -> None:
    answer = httpx.post(f"{address}gradio_api/process_recording", files={"video": ("a.mp4", b"0")})
    assert answer.status_code == 403


def test_the_page_names_no_path_and_nothing_elsewhere(address: str, temporary: Path) -> None:
    served_text = httpx.get(address).text + httpx.get(f"{address}config").text
    for path in (temporary, Path.cwd(), Path(sys.prefix), Path.home()):
        assert f"{path}/" not in served_text
    assert not re.search(r"""<(script|link)[^>]*(src|href)=["'](https?:)?//""", served_text)


def test_serving_connects_to_no_other_machine(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = set(), socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **options: asked.add(host) or real(host, *more, **options)
    )
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with temporary_folder(temporary), served(Quarters(), "127.0.0.1", free_port(), LIMITS) as address:
        monkeypatch.delenv("http_proxy")
        assert httpx.get(address).status_code == 200
    assert asked <= {"127.0.0.1", b"127.0.0.1"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_the_command_serves_until_sigterm_and_leaves_no_folder(model: Path, tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "linknet_fastai", "serve", str(model), "--port", str(free_port())]
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}  # another page's
    process = subprocess.Popen(
        command,
        env=environment | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        address = re.match(r"http://127\.0\.0\.1:\d+/", line)[0]
        answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.png", b"kept?")})
        assert answer.status_code == 200
        assert files_in(temporary) == [b"kept?"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    assert [*temporary.iterdir()] == []


def test_a_taken_port_is_one_line(command: Command, model: Path, capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command("serve", model, "--port", port) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --port: cannot listen on port {port} of 127.0.0.1")
    assert error.count("\n") == 1


def test_without_gradio_the_error_names_the_extra(
    command: Command, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "linknet_fastai.predict.serve")
    monkeypatch.delattr(linknet_fastai.predict, "serve")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert command("serve", model) == 1
    assert "pip install 'linknet-fastai[demo]'" in capsys.readouterr().err
