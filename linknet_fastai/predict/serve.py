"""The page of `serve` and its server, which predicts what is opened on the page and keeps nothing of it.

The page sends a file, or a frame of the camera, as POST predict?name=NAME. The answer is lines of JSON: for a clip
one after each frame; at the end one with the figures, and in `parts` how many bytes follow it, or with an `error`.
"""

import io
import json
import os
import re
import shutil
import signal
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from socketserver import TCPServer
from tempfile import TemporaryDirectory
from threading import BoundedSemaphore, Event, Lock, Thread
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.engines.engine import NATIVE, Engine
from linknet_fastai.predict.kinds import is_video
from linknet_fastai.predict.page import INFO, page_files, page_info
from linknet_fastai.predict.uploads import CLIP_FPS, CountingEngine, Limits, check_clip, predict_image

CONNECTIONS = 64  # at once; more are closed
TIMEOUT = 30  # seconds without a byte after which a connection is closed
PATIENCE = 2  # seconds that a clip waits for another one, which may be that of a visitor who has just left
ENDING = 10  # seconds to wait for what is being predicted when the page is closed
QUALITY = 92  # of JPEGs
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; media-src blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
Answer = tuple[dict[str, Any], list[bytes]]  # the last line, and the bytes after it


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, CONNECTIONS
    allow_reuse_address = os.name == "posix"  # elsewhere that would share a port in use

    def __init__(self, engine: Engine, host: str, port: int, limits: Limits, folder: Path) -> None:
        self.engine, self.host, self.limits, self.folder = engine, host.lower(), limits, folder
        self.closed, self.one_clip, self.connections = Event(), Lock(), BoundedSemaphore(CONNECTIONS)
        self.predictions = engine.frames_at_once + 1  # one of them may be a clip
        self.predicting = BoundedSemaphore(self.predictions)
        self.address_family = AF_INET6 if ":" in host else AF_INET
        size = None if engine.size == NATIVE else engine.size
        shown_limits = {"bytes": limits.mebibytes << 20, "text": str(limits)}
        info = page_info("server", engine.card) | {"size": size, "by": str(engine), "limits": shown_limits}
        self.files = page_files("server") | {INFO: json.dumps(info).encode()}
        super().__init__((host, port), _Visit)
        address, port = self.server_address[:2]
        self.is_local = _is_loopback(str(address))
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer would ask for the name of this machine, which may take long

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.connections.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # visitors leave at any time

    def close(self) -> None:
        """End what is being predicted, and listen no longer."""
        self.closed.set()
        self.shutdown()
        self.server_close()
        for _ in range(self.predictions):
            self.predicting.acquire(timeout=ENDING)


class _Visit(BaseHTTPRequestHandler):
    """One request; methods and attributes are those of the base class."""

    server: _Server
    timeout = TIMEOUT
    error_message_format, error_content_type = "%(explain)s\n", "text/plain; charset=utf-8"

    def version_string(self) -> str:
        return "linknet-fastai"

    def log_message(self, *_: Any) -> None:
        pass

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def parse_request(self) -> bool:
        """Also refuse requests of other pages, which a browser sends on behalf of its user."""
        if not super().parse_request():
            return False
        host, origin = self.headers.get("Host", "").lower(), self.headers.get("Origin")
        name = re.sub(r":\d*$", "", host).strip("[]")
        if self.server.is_local and name != self.server.host and not _is_loopback(name):  # a name may point anywhere
            why = f"open {self.server.address}: by other names only a page of --host 0.0.0.0 is served"
            self.send_error(403, explain=why)
        elif origin is not None and origin.lower().partition("://")[2] != host:
            self.send_error(403, explain="another page has sent this request")
        else:
            return True
        return False

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].removeprefix("/") or "index.html"
        if (content := self.server.files.get(name)) is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", f"{TYPES[Path(name).suffix]}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        path, _, query = self.path.partition("?")
        length, limits = self.headers.get("Content-Length", ""), self.server.limits
        if path != "/predict":
            self.send_error(404)
        elif not re.fullmatch("[0-9]{1,18}", length):
            self.send_error(411)
        elif int(length) > limits.mebibytes << 20:
            self.send_error(413, explain=f"the file is too large. {limits}")
        else:
            asked = dict(parse_qsl(query, keep_blank_values=True))
            name = asked.get("name", "")[:200]
            # Of the name only an ending is used on this machine, by which some formats are known.
            ending = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
            with TemporaryDirectory(dir=self.server.folder) as folder:
                file = Path(folder, "dropped" + (ending[0] if ending else ""))
                if self._receive(file, int(length)):
                    self._answer(file, name or file.name, asked)

    def _receive(self, file: Path, left: int) -> bool:
        """Write the body of a request to a file; whether it came completely."""
        with file.open("wb") as opened:
            while left and (part := self.rfile.read(min(left, 1 << 16))):
                opened.write(part)
                left -= len(part)
        return not left

    def _answer(self, file: Path, name: str, asked: dict[str, str]) -> None:
        def without_paths(text: str) -> str:
            return text.replace(str(file), name).replace(f"{file.parent}{os.sep}", "")

        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        parts: list[bytes] = []
        try:
            line, parts = self._predict_clip(file, asked) if is_video(file) else self._predict_picture(file, asked)
            line |= {"note": without_paths(line["note"]), "parts": [len(part) for part in parts]}
        except UserError as error:
            line = {"error": without_paths(str(error))}
        except Exception:  # its message may name a file of this machine
            line = {"error": f"{name}: cannot be predicted here: linknet-fastai predict shows the reason"}
        self._send_line(line)
        for part in parts:
            shutil.copyfileobj(io.BytesIO(part), self.wfile)  # in pieces: the timeout is for each

    def _send_line(self, line: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(line).encode() + b"\n")

    def _predict_picture(self, file: Path, asked: dict[str, str]) -> Answer:
        with self.server.predicting:
            counting = CountingEngine(self.server.engine, self.server.closed)
            image, channels, size = predict_image(counting, file, self.server.limits)
            content = io.BytesIO()
            if asked.get("mask") != "only":
                image.save(content, "JPEG", quality=QUALITY)
        line = {"size": size, "shown": image.size, "milliseconds": counting.milliseconds, "note": ""}
        return line, [content.getvalue(), channels.tobytes()]

    def _predict_clip(self, file: Path, asked: dict[str, str]) -> Answer:
        from linknet_fastai.predict.video import predict_video  # needs an extra

        server, limits = self.server, self.server.limits
        counting = CountingEngine(server.engine, server.closed, round(limits.seconds * CLIP_FPS) + 1)
        opacity = min(max(float(asked.get("opacity", 0.5)), 0), 1)
        shown = [int(number) for number in asked["shown"].split(",") if number] if "shown" in asked else None
        if not server.one_clip.acquire(timeout=PATIENCE):
            raise UserError(f"{file}: another clip is being predicted; drop it again when that is done")
        try:
            with server.predicting:
                check_clip(file, limits)
                result = predict_video(
                    counting,
                    file,
                    target := file.with_name("overlay.mp4"),
                    opacity,
                    CLIP_FPS,
                    # To a visitor who has left this fails, which ends the clip.
                    lambda _, done, total: self._send_line({"done": done, "total": total}),
                    shown,
                )
        finally:
            server.one_clip.release()
        left_out = f"{result.dropped} frames above {CLIP_FPS} a second are left out. " if result.dropped else ""
        line = {
            "frames": result.frames,
            "milliseconds": counting.milliseconds,
            "fps": result.frames / result.seconds,
            "shares": counting.shares.tolist(),
            "note": left_out + result.problem,
        }
        return line, [target.read_bytes()]


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@contextmanager
def served(engine: Engine, host: str, port: int, limits: Limits, open_browser: bool = False) -> Iterator[str]:
    """Serve the page during a `with` block. Uploads are stored in a temporary folder until they are predicted.

    Args:
        engine: the model.
        host: the address to listen on. On one of this machine alone, requests by other names are refused.
        port: the port to listen on; 0 for any that is free.
        limits: limits of uploads.
        open_browser: whether to open the page in the browser.

    Yields:
        The URL of the page.

    Raises:
        UsageError: the address or port is not available.

    Example:
        ::

            with served(engine, "127.0.0.1", 7860, Limits(64, 25, 30)) as address:
                input(f"{address}: press Enter to close it")
    """
    engine(Image.new("RGB", engine.card.size))  # initialization, which is not counted as time in the network
    with TemporaryDirectory(prefix="linknet-fastai-", ignore_cleanup_errors=True) as folder:
        try:
            server = _Server(engine, host, port, limits, Path(folder))
        except OSError:
            raise UsageError(
                f"--port: cannot listen on port {port} of {host}: the port is in use, or this machine does not have "
                "the address; choose another --port or --host"
            ) from None
        Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            if open_browser:
                webbrowser.open(server.address)
            yield server.address
        finally:
            server.close()


def serve(served_page: AbstractContextManager[str], on_start: Callable[[str], None] = print) -> None:
    """Serve the page until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        served_page: the page, see `served`.
        on_start: called with the URL of the page.

    Raises:
        UsageError: the address or port is not available.

    Example:
        ::

            engine = open_engine(Path("runs/camvid"))
            serve(served(engine, "127.0.0.1", 7860, Limits(64, 25, 30), open_browser=True))
    """
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C, so that the folder is deleted
    with suppress(KeyboardInterrupt), served_page as address:
        on_start(address)
        while True:  # on Windows Ctrl-C does not interrupt waiting for a lock
            time.sleep(1)
