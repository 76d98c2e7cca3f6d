"""The page of `serve`, without a browser: its limits, its answers, who may ask, and that no upload is kept."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from tempfile import gettempdir
from threading import Event, Thread
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image
from test_uploads import CARD, LIMITS, ROAD, Quarters
from test_video import read_clip, write_clip

from linknet_fastai.predict import serve as serving
from linknet_fastai.predict.serve import served
from linknet_fastai.predict.uploads import Limits

Command = Callable[..., int]
Answer = tuple[list[dict], list[bytes]]


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
        with served(engine, "127.0.0.1", 0, Limits(1, 0.012, 1)) as address:
            yield address
        assert [*temporary.iterdir()] == []


def photo(file: Path, size: tuple[int, int] = (80, 60)) -> Path:
    """Writes an image that JPEG keeps nearly as it is."""
    Image.linear_gradient("L").resize(size).convert("RGB").save(file)
    return file


def clip(file: Path, frames: int = 5) -> Path:
    return write_clip(file, [np.full((48, 64, 3), 100, np.uint8)] * frames)


def ask(address: str, path: str = "", content: bytes | None = None, **headers: str) -> HTTPResponse:
    """The answer to a request, of which the content can still be read."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET" if content is None else "POST", f"/{path}", content, headers)
    return connection.getresponse()


def drop(address: str, file: Path, **query: object) -> Answer:
    """Send a file as the page does: the lines of the answer, and the bytes after them."""
    answer = ask(address, f"predict?{urlencode({'name': file.name, **query})}", file.read_bytes())
    assert answer.status == 200
    lines = [json.loads(answer.readline())]
    while not {"parts", "error"} & lines[-1].keys():
        lines.append(json.loads(answer.readline()))
    parts = [answer.read(count) for count in lines[-1].get("parts", [])]
    assert answer.read() == b""
    return lines, parts


def files_in(folder: Path) -> list[bytes]:
    """What is in the files below a folder, of those that hold anything."""
    return [content for file in folder.rglob("*") if file.is_file() and (content := file.read_bytes())]


def test_a_picture_is_answered_with_itself_its_mask_and_milliseconds(
    address: str, temporary: Path, tmp_path: Path
) -> None:
    (line,), (picture, mask) = drop(address, frame := photo(tmp_path / "frame.png"))
    assert (line["size"], line["shown"]) == ([80, 60], [80, 60])
    assert line["milliseconds"] > 0
    shown = np.asarray(Image.open(io.BytesIO(picture))).astype(int)
    assert np.abs(shown - np.asarray(Image.open(frame))).mean() < 5  # JPEG
    channels = np.frombuffer(mask, np.uint8).reshape(60, 80)
    assert (channels[:, :20] == 0).all()
    assert (channels[:, 20:] == ROAD).all()
    _, (picture, again) = drop(address, frame, mask="only")  # as of a frame of the camera
    assert (picture, again) == (b"", mask)
    assert files_in(temporary) == []


@pytest.mark.parametrize("name", ["clip.mp4", "clip.MTS"])
def test_a_clip_is_answered_with_a_film_and_the_shares_of_all_its_frames(
    address: str, temporary: Path, tmp_path: Path, name: str
) -> None:
    (*steps, line), (film,) = drop(address, clip(tmp_path / name), opacity=1, shown=ROAD)
    assert [step["done"] for step in steps] == [1, 2, 3, 4, 5, 5]
    assert (line["frames"], line["shares"][ROAD], line["note"]) == (5, 0.75, "")
    assert line["milliseconds"] > 0
    assert line["fps"] > 0
    (tmp_path / "film.mp4").write_bytes(film)
    pixels = read_clip(tmp_path / "film.mp4")[0][0].astype(int)
    assert np.abs(pixels[8:40, 24:56] - CARD.classes[ROAD].color).max() < 12
    assert np.abs(pixels[8:40, 2:12] - 100).max() < 12  # of a class that was switched off
    assert files_in(temporary) == []


def test_frames_above_the_rate_and_a_damaged_clip_are_noted_without_paths(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CLIP_FPS", 5)
    file = write_clip(tmp_path / "clip.mkv", [*np.random.default_rng(0).integers(0, 256, (10, 48, 64, 3), np.uint8)])
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 4 // 10])
    note = drop(address, file)[0][-1]["note"]
    assert re.match(
        r"\d frames above 5 a second are left out\. clip\.mkv: damaged or incomplete \(0\.\d s of 1\.0 s", note
    )


def test_a_second_clip_is_refused_while_one_is_predicted(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0.01)
    started, resume, answers = Event(), Event(), []
    engine = Quarters()
    with temporary_folder(temporary), served(engine, "127.0.0.1", 0, LIMITS) as address:
        engine.work = lambda: started.set() or resume.wait(60)
        first = Thread(target=lambda: answers.append(drop(address, clip(tmp_path / "one.mp4"))))
        first.start()
        try:
            assert started.wait(60)
            error = drop(address, clip(tmp_path / "two.mp4"))[0][-1]["error"]
        finally:
            resume.set()
        first.join(60)
    assert error == "two.mp4: another clip is being predicted; drop it again when that is done"
    assert answers[0][0][-1]["frames"] == 5


def test_a_clip_ends_when_its_visitor_leaves(tmp_path: Path, temporary: Path) -> None:
    engine = Quarters()
    with temporary_folder(temporary), served(engine, "127.0.0.1", 0, LIMITS) as address:
        engine.calls, engine.work = 0, lambda: time.sleep(0.02)
        answer = ask(address, "predict?name=long.mp4", clip(tmp_path / "long.mp4", 100).read_bytes())
        answer.readline()
        answer.close()
        assert drop(address, clip(tmp_path / "next.mp4"))[0][-1]["frames"] == 5  # it waited for the other to end
        assert 6 < engine.calls < 100


def test_a_clip_ends_when_the_page_is_closed(tmp_path: Path) -> None:
    engine = Quarters()
    (temporary := tmp_path / "temporary").mkdir()
    with temporary_folder(temporary):
        with served(engine, "127.0.0.1", 0, LIMITS) as address:
            engine.calls, engine.work = 0, lambda: time.sleep(0.02)
            answer = ask(address, "predict?name=long.mp4", clip(tmp_path / "long.mp4", 100).read_bytes())
            answer.readline()
        assert answer.readlines()[-1] == b'{"error": "the page was closed"}\n'
        assert engine.calls < 100
        assert [*temporary.iterdir()] == []
    with pytest.raises(ConnectionRefusedError):
        ask(address)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.png", b"no image", "x.png: cannot read this image (none of "),
        ("../x.mp4", b"no clip", "../x.mp4: cannot be opened as a video ("),
        ("x.png", (200, 100), "x.png: cannot read this image (200x100 is more than 0.012 million pixels)"),
    ],
)
def test_what_cannot_be_predicted_is_one_line_without_paths(
    address: str, temporary: Path, tmp_path: Path, name: str, content: bytes | tuple[int, int], line: str
) -> None:
    file = tmp_path / "x"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file = photo(tmp_path / name, content)
    (answer,), _ = drop(address, file, name=name)
    assert answer["error"].startswith(line)
    assert "\n" not in answer["error"]
    assert str(temporary) not in answer["error"]
    assert files_in(temporary) == []


def test_an_error_of_the_program_is_one_line_without_its_message(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (answer,), _ = drop(address, clip(tmp_path / "clip.mp4"), opacity="much")
    assert answer["error"] == "clip.mp4: cannot be predicted here: linknet-fastai predict shows the reason"
    assert capfd.readouterr() == ("", "")


def test_a_file_of_too_many_bytes_is_refused_before_it_comes(address: str) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as visitor:
        visitor.sendall(b"POST /predict HTTP/1.0\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n")
        answer = visitor.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.0 413 ")
    assert answer.endswith(b"\r\n\r\nthe file is too large. " + str(Limits(1, 0.012, 1)).encode() + b"\n")
    with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as visitor:
        visitor.sendall(b"POST /predict HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert visitor.makefile("rb").read().startswith(b"HTTP/1.0 411 ")


@pytest.mark.parametrize("path", ["worker.js", "../serve.py", "%2e%2e/serve.py", "/etc/passwd", "http://a.b/page.js"])
def test_only_the_files_of_the_page_are_sent(address: str, path: str) -> None:
    assert ask(address, path).status == 404
    assert ask(address, path, b"0").status == 404


def test_the_page_names_no_path_and_nothing_elsewhere(address: str, temporary: Path) -> None:
    texts = {}
    for name in ("", "model.json", "page.js", "server.js", "sources.js", "overlay.js", "style.css", "disk.js"):
        answer = ask(address, name)
        assert (answer.status, answer.headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        texts[name] = answer.read().decode()
        assert not set(re.findall(r"https?://[^\s\"']+", texts[name])) - {"http://localhost:8000"}
        for path in (temporary, Path.cwd(), Path(sys.prefix), Path.home()):
            assert f"{path}/" not in texts[name]
    info = json.loads(texts["model.json"])
    assert (info["engine"], info["by"], info["size"]) == ("server", "quarters in fp32", [64, 48])
    assert info["classes"][ROAD] == {"name": "Road", "color": list(CARD.classes[ROAD].color)}


def test_requests_of_other_pages_and_by_other_names_are_refused(
    address: str, temporary: Path, tmp_path: Path
) -> None:
    content, host = photo(tmp_path / "frame.png").read_bytes(), urlsplit(address).netloc
    for headers in ({"Origin": "https://elsewhere.org"}, {"Origin": "null"}, {"Host": "rebound.org:7860"}):
        answer = ask(address, "predict?name=frame.png", content, **headers)
        assert (answer.status, answer.read().count(b"\n")) == (403, 1)
    for headers in ({"Origin": f"http://{host}"}, {"Host": "localhost:80"}, {"Host": "[::1]"}):
        assert ask(address, "predict?name=frame.png", content, **headers).status == 200
    with temporary_folder(temporary), served(Quarters(), "0.0.0.0", 0, LIMITS) as everywhere:
        assert ask(everywhere, Host="robot.local").status == 200


def test_visitors_who_send_nothing_block_no_other_and_are_closed(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS", 2)
    monkeypatch.setattr(serving._Visit, "timeout", 0.5)
    with temporary_folder(temporary), served(Quarters(), "127.0.0.1", 0, LIMITS) as address:
        port = urlsplit(address).port
        with socket.create_connection(("127.0.0.1", port)) as silent:
            assert ask(address).status == 200
            silent.sendall(b"POST /predict HTTP/1.0\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
            assert silent.recv(9) == b""
    assert capfd.readouterr() == ("", "")


def test_more_connections_than_there_is_room_for_are_closed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS", 1)
    with temporary_folder(temporary), served(Quarters(), "127.0.0.1", 0, LIMITS) as address:
        port = urlsplit(address).port
        with (
            socket.create_connection(("127.0.0.1", port)),
            socket.create_connection(("127.0.0.1", port)) as second,
        ):
            assert second.recv(9) == b""
        for _ in range(100):
            try:
                assert ask(address).status == 200
                return
            except ConnectionError:  # the first one's place is not yet free
                time.sleep(0.02)
    raise AssertionError("the place of a connection that was closed is never free")


def test_serving_connects_to_no_other_machine_and_opens_the_browser(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, opened = set(), []
    monkeypatch.setattr("webbrowser.open", opened.append)
    for name in ("getaddrinfo", "gethostbyaddr", "getfqdn"):
        real = getattr(socket, name)
        monkeypatch.setattr(
            socket, name, lambda host="", *more, real=real, **options: asked.add(host) or real(host, *more, **options)
        )
    with temporary_folder(temporary), served(Quarters(), "127.0.0.1", 0, LIMITS, open_browser=True) as address:
        assert ask(address).status == 200
    assert opened == [address]
    assert asked <= {"127.0.0.1"}


def test_the_command_serves_until_sigterm_and_leaves_no_folder(model: Path, tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "linknet_fastai", "serve", str(model), "--port", str(port)],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        with socket.create_connection(("127.0.0.1", port)) as visitor:
            visitor.sendall(
                b"POST /predict HTTP/1.0\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n" + bytes(70_000)
            )
            while not files_in(temporary):
                time.sleep(0.05)
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


def test_a_clip_without_its_extra_is_one_line_that_names_it(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = clip(tmp_path / "clip.mp4")
    for module in ("video", "frames"):
        monkeypatch.delitem(sys.modules, f"linknet_fastai.predict.{module}")
    monkeypatch.setitem(sys.modules, "av", None)
    (answer,), _ = drop(address, file)
    assert "pip install 'linknet-fastai[video]'" in answer["error"]
    assert "mask" not in answer
