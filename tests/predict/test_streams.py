"""Streams: read with a password that no message and no file repeats; one that breaks off ends with its reason."""

import base64
import io
import re
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from linknet_fastai.core.errors import UserError
from linknet_fastai.engines.engine import Engine
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict import frames as reading
from linknet_fastai.predict.streams import Stream
from linknet_fastai.predict.video import predict_video

USER = "us%40er:se%2Fcr%3Fet"  # us@er, se/cr?et
AUTHORIZATION = f"Basic {base64.b64encode(b'us@er:se/cr?et').decode()}"
SECRETS = ("us%40er", "us@er", "se%2Fcr", "se/cr", "key=", AUTHORIZATION.split()[1])
Command = Callable[..., int]


class Light(Engine):
    """Calls bright pixels light."""

    name = "light"

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return (pixels.mean(2) > 128).astype(np.uint8)


@pytest.fixture
def engine() -> Engine:
    classes = [{"id": i, "name": f"c{i}", "color": (i, i, i)} for i in range(2)]
    return Light(ModelCard(recipe="light", classes=classes, void={"id": 9}, size=(64, 48)), "fp32", "native")


def picture(number: int) -> np.ndarray:
    return np.full((48, 64, 3), 10 * number, np.uint8)


def clip(frames: int, container: str = "mp4") -> bytes:
    """A clip at 10 frames a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


def jpeg(number: int) -> bytes:
    Image.fromarray(picture(number)).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()


class Camera(BaseHTTPRequestHandler):
    """Sends the files of `files`; at other paths, as cameras do, JPEGs, ten a second, and then breaks off."""

    files: dict[str, bytes]

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.headers["Authorization"] != AUTHORIZATION:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        name = self.path.partition("?")[0]
        self.send_response(200)
        if name in self.files:
            self.send_header("Content-Length", str(len(self.files[name])))
            self.end_headers()
            self.wfile.write(self.files[name])
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for number in range(6):
            content = jpeg(number)
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            self.wfile.write(head.encode() + content + b"\r\n")
            time.sleep(0.2)
        if name == "/silent":
            time.sleep(2)


@pytest.fixture
def served() -> Iterator[Callable[[str], str]]:
    """Gives the address of a path on a server, with user, password and a key."""
    Camera.files = {"/a.mp4": clip(5)}
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield lambda path: f"http://{USER}@127.0.0.1:{server.server_port}{path}?key=1"
        server.shutdown()


def times_of(file: Path) -> list[float]:
    with av.open(str(file)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def assert_no_secret(printed: str, out: Path) -> None:
    texts = [printed, *(str(path) for path in out.rglob("*"))]
    texts += [path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file()]
    assert not [secret for secret in SECRETS if any(secret in text for text in texts)]


def test_a_video_on_a_server_is_predicted_by_its_address(
    command: Command, served: Callable, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("predict", model, served("/a.mp4"), "--allow-network", "--out", out) == 0
    printed = "".join(capfd.readouterr())
    assert "5 frames" in printed
    (file,) = (out / "overlays").iterdir()
    assert (file.name[:9], file.suffix) == ("127.0.0.1", ".mp4")
    assert times_of(file) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert_no_secret(printed, out)


def test_a_stream_that_breaks_off_ends_with_its_reason_and_a_video_of_what_came_before(
    command: Command, served: Callable, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("predict", model, served("/live"), "--allow-network", "--out", out) == 1
    printed = "".join(capfd.readouterr())
    assert re.search(r"/live: broke off after \d+\.\d s", printed)
    assert "(the connection was closed)" in printed
    (file,) = (out / "overlays").iterdir()
    times = times_of(file)
    assert len(times) >= 2
    assert times[-1] / (len(times) - 1) > 0.06  # at the times at which they came, not at 25 frames a second
    assert_no_secret(printed, out)


def test_a_stream_from_which_nothing_comes_any_more_has_broken_off(
    engine: Engine, served: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "TIMEOUT", 0.5)
    result = predict_video(engine, Stream(served("/silent")), tmp_path / "a.mp4")
    assert result.live
    assert result.frames == len(times_of(tmp_path / "a.mp4")) >= 2
    assert result.problem.endswith("(no data for 0.5 s)")


def test_ctrl_c_is_the_regular_end_of_a_stream(engine: Engine, served: Callable, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    result = predict_video(engine, Stream(served("/live")), tmp_path / "a.mp4", progress=stop)
    assert (result.stopped, result.live, result.problem, result.frames) == (True, True, "", 1)


@pytest.mark.parametrize(
    ("address", "options", "status", "message"),
    [
        ("{server}", [], 2, "/a.mp4: no connection is opened without --allow-network"),
        ("ftp://us@er:se/cr?et@host/a.mp4", ["--allow-network"], 2, "ftp://host/a.mp4: no stream that is read"),
        (f"rtsp://{USER}@127.0.0.1:9/live", ["--allow-network"], 1, "rtsp://127.0.0.1:9/live: cannot be opened"),
        ("http://us%40er:wrong@{host}/a.mp4?key=1", ["--allow-network"], 1, "401 Unauthorized"),
    ],
)
def test_why_a_stream_is_not_read_is_one_line_without_its_password(
    command: Command,
    served: Callable,
    model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    address: str,
    options: list[str],
    status: int,
    message: str,
) -> None:
    server = served("/a.mp4")
    address = address.format(server=server, host=server.partition("@")[2].partition("/")[0])
    assert command("predict", model, address, "--out", tmp_path / "out", *options) == status
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert_no_secret(error, tmp_path / "out")


@pytest.mark.parametrize(
    "address", ["http://u:p@h/a?k=p", "http://u:p/w@h/a", "http://u:p?w@h/a", "http://u:p@w#@h/a#p"]
)
def test_a_name_begins_after_whatever_is_in_the_password(address: str) -> None:
    assert str(Stream(address)) == "http://h/a"
    assert Stream(address).file_name == "h-a.mp4"


def test_a_playlist_reads_no_file_of_this_machine(served: Callable, tmp_path: Path) -> None:
    (tmp_path / "own.ts").write_bytes(clip(5, "mpegts"))
    for name, segment in (("own", f"file://{tmp_path}/own.ts"), ("theirs", "a.ts")):
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\n{segment}\n#EXT-X-ENDLIST\n"
        Camera.files |= {f"/{name}.m3u8": playlist.encode(), "/a.ts": clip(5, "mpegts")}
    with reading.open_frames(Stream(served("/theirs.m3u8")), Fraction(25)) as theirs:
        assert len([frame.image() for frame in theirs.frames]) == 5
    with pytest.raises(UserError, match=r"own\.m3u8"), reading.open_frames(Stream(served("/own.m3u8")), Fraction(25)):
        pytest.fail("it was opened")


class Rtsp(socketserver.StreamRequestHandler):
    """A camera of 40 frames in H.264, 50 a second, over TCP (RFC 2326, 10.12; RFC 6184, 5.6)."""

    SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"

    def handle(self) -> None:
        while method := self.rfile.readline().split(b" ")[0]:
            headers = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            status, more, body = "200 OK", "", ""
            if method != b"OPTIONS" and headers.get("authorization") != AUTHORIZATION:
                status, more = "401 Unauthorized", 'WWW-Authenticate: Basic realm="camera"\r\n'
            elif method == b"DESCRIBE":
                body = self.SDP
                more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == b"SETUP":
                more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            self.wfile.write(f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\n{more}\r\n{body}".encode())
            if method == b"PLAY":
                self.play()
                return

    def play(self) -> None:
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 50)
        encoder.options = {"tune": "zerolatency", "g": "1"}
        sent = 0
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(picture(number % 20), format="rgb24")
            frame.pts = number
            (packet,) = encoder.encode(frame)
            units = [unit for unit in bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
            for unit in units:
                last = 0x80 if unit is units[-1] else 0
                rtp = struct.pack(">BBHII", 0x80, 96 | last, sent, 1800 * number + 50_000, 1) + unit
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(rtp)) + rtp)
                sent += 1
            time.sleep(0.02)


def test_an_rtsp_camera_is_read(engine: Engine, tmp_path: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Rtsp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stream = Stream(f"rtsp://{USER}@127.0.0.1:{server.server_address[1]}/live")
        result = predict_video(engine, stream, tmp_path / "a.mp4")
        server.shutdown()
    assert result.live
    assert result.problem.startswith(f"{stream}: broke off after 0.")
    assert result.frames + result.dropped >= 38
    assert times_of(tmp_path / "a.mp4")[0] == 0
