"""The pages as a person meets them, in headless Chromium: those of `serve` and `export`, and the report of a run."""

import base64
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from fake_onnxruntime_web import classes_of, fake_archive, fake_network
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from test_serve import photo
from test_uploads import CARD, ROAD, Quarters
from test_video import write_clip

from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.export.web import export_web
from linknet_fastai.predict.frames import is_own_video
from linknet_fastai.predict.serve import served
from linknet_fastai.predict.uploads import Limits
from linknet_fastai.training import fit as training

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking " + (
    "--disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
)
WIDE, NARROW = 1280, 390
LOOKS = [(WIDE, "light"), (NARROW, "dark")]
Open = Callable[..., Page]

expect.set_options(timeout=30_000)  # on a busy machine an answer takes its time
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a page; whatever it asks for elsewhere fails the test at its end."""
    contexts, own, asked = [], ["data:", "blob:"], []

    def visit(address: str, width: int = WIDE, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        context.on("request", lambda request: asked.append(request.url))
        contexts.append(context)
        own.append(address)
        page = context.new_page()
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert len(asked) >= len(contexts)
    assert [url for url in asked if not url.startswith(tuple(own))] == []


@pytest.fixture(scope="module")
def engine() -> Quarters:
    return Quarters()


@pytest.fixture(scope="module")
def address(engine: Quarters) -> Iterator[str]:
    with served(engine, "127.0.0.1", 0, Limits(1, 25, 30)) as address:
        yield address


@pytest.fixture(scope="module")
def report(street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a run's report."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = {
        "size": "64x48",
        "bs": 4,
        "workers": 0,
        "epochs": 1,
        "seed": 1,
        "device": "cpu",
        "encoder": "test_resnet",
    }
    training.fit("street", street_data, small, folder)
    return (folder / "report.html").as_uri()


def drop(page: Page, file: Path) -> None:
    """Drop a file as a mouse would."""
    content = base64.b64encode(file.read_bytes()).decode()
    dragged = page.evaluate_handle(
        """([name, content]) => {
            const dragged = new DataTransfer();
            dragged.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name));
            return dragged;
        }""",
        [file.name, content],
    )
    page.locator("#stage").dispatch_event("drop", {"dataTransfer": dragged})


def drawn(page: Page) -> np.ndarray:
    """The pixels of the picture on the page, HxWx3."""
    source = page.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    content = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def expect_drawn(page: Page, color: tuple[int, int, int]) -> None:
    """Wait until the picture is of one color."""
    deadline = time.monotonic() + 30
    while not (drawn(page) == color).all():
        assert time.monotonic() < deadline
        page.wait_for_timeout(100)


def state(page: Page) -> Locator:
    return page.locator("p[role=status]")


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    return photo(tmp_path / "frame.png")


@pytest.fixture
def looked_at(visit: Open, address: str, frame: Path) -> Page:
    """The page with an image dropped."""
    page = visit(address)
    expect(state(page)).to_have_text(str(Limits(1, 25, 30)))
    drop(page, frame)
    expect(state(page)).to_have_text(re.compile(r"frame\.png, 80x60: \d+\.\d ms in the network"))
    return page


def test_a_dropped_image_shows_overlay_legend_and_shares_and_is_predicted_once(
    looked_at: Page, frame: Path, engine: Quarters
) -> None:
    assert "11 classes, by quarters in fp32 at 64x48." in looked_at.locator("p.lead").inner_text()
    expect(looked_at.get_by_label("network sees")).to_be_hidden()  # a choice of the exported page
    for entry, share in zip(CARD.classes, ("25.0%", "0.0%", "0.0%", "75.0%"), strict=False):
        item = looked_at.locator("#classes li", has_text=re.compile(f"^{entry.name}{share}$"))
        expect(item.get_by_role("checkbox")).to_be_checked()
        assert item.locator("i").evaluate("e => getComputedStyle(e).backgroundColor") == f"rgb{entry.color}"
    calls, original = engine.calls, np.asarray(Image.open(frame)).astype(int)
    looked_at.get_by_label("opacity").fill("100")
    before = drawn(looked_at)
    assert before.shape == (60, 80, 3)
    assert (before[:, 20:] == CARD.classes[ROAD].color).all()
    looked_at.get_by_label(re.compile("^Road")).uncheck()
    without = drawn(looked_at)
    assert np.abs(without[:, 20:] - original[:, 20:]).mean() < 5  # JPEG
    assert (without[:, :20] == before[:, :20]).all()
    looked_at.get_by_label(re.compile("^Road")).check()
    assert (drawn(looked_at) == before).all()
    looked_at.get_by_label("opacity").fill("0")
    assert np.abs(drawn(looked_at) - original).mean() < 5
    assert engine.calls == calls


def test_errors_are_readable_lines_and_what_no_browser_reads_is_predicted(looked_at: Page, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no image")
    drop(looked_at, tmp_path / "x.png")
    expect(state(looked_at)).to_contain_text("error: x.png: cannot read this image (none of BMP")
    assert "\n" not in state(looked_at).inner_text()
    (tmp_path / "big.png").write_bytes(bytes((1 << 20) + 1))
    drop(looked_at, tmp_path / "big.png")
    expect(state(looked_at)).to_have_text(f"error: big.png is too large. {Limits(1, 25, 30)}")
    deep = np.full((30, 40), 0xABCD, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    drop(looked_at, tmp_path / "deep.tif")
    expect(state(looked_at)).to_contain_text("deep.tif, 40x30: ")
    looked_at.get_by_role("button", name="hide all").click()
    assert np.abs(drawn(looked_at) - 0xAB).max() <= 1
    assert "Traceback" not in looked_at.content()


def test_a_dropped_clip_plays_and_is_saved_and_an_image_takes_its_place(
    looked_at: Page, frame: Path, tmp_path: Path
) -> None:
    drop(looked_at, write_clip(tmp_path / "clip.mp4", [np.full((48, 64, 3), 100, np.uint8)] * 5))
    film = looked_at.locator("#film")
    expect(film).to_be_visible()
    expect(state(looked_at)).to_contain_text("clip.mp4, 5 frames: ")
    film.evaluate("film => new Promise(done => (film.ontimeupdate = () => film.currentTime > 0 && done()))")
    assert film.evaluate("film => [film.videoWidth, film.videoHeight, film.error]") == [64, 48, None]
    expect(looked_at.locator("li", has_text="Road75.0%")).to_be_visible()
    expect(looked_at.locator("canvas")).to_be_hidden()
    with looked_at.expect_download() as download:
        looked_at.get_by_role("button", name="Save the overlay").click()
    assert download.value.suggested_filename == "clip-overlay.mp4"
    assert is_own_video(Path(download.value.path()))
    drop(looked_at, frame)
    expect(looked_at.locator("canvas")).to_be_visible()
    expect(film).to_be_hidden()
    with looked_at.expect_download() as download:
        looked_at.get_by_role("button", name="Save the overlay").click()
    assert download.value.suggested_filename == "frame-overlay.png"
    assert Image.open(download.value.path()).size == (80, 60)


def test_the_camera_is_predicted_frame_by_frame_until_it_is_stopped(looked_at: Page, engine: Quarters) -> None:
    looked_at.get_by_role("button", name="Use the camera").click()
    expect(looked_at.locator("#fps")).to_have_text(re.compile(r"\d\.\d"))
    expect(state(looked_at)).to_have_text(re.compile(r"camera, \d+x\d+"))
    looked_at.get_by_role("button", name="Stop the camera").click()
    expect(looked_at.get_by_role("button", name="Pause")).to_be_hidden()
    looked_at.get_by_label("opacity").fill("100")
    assert (drawn(looked_at)[:, -80:] == CARD.classes[ROAD].color).all()


def test_the_camera_is_drawn_right_where_the_network_sees_more_than_the_page_shows(visit: Open) -> None:
    class Large(Quarters):
        def __init__(self) -> None:
            super().__init__()
            self.card = self.card.model_copy(update={"size": (2048, 1024)})
            self.size = self.card.size

    with served(Large(), "127.0.0.1", 0, Limits(1, 25, 30)) as address:
        page = visit(address)
        page.get_by_label("opacity").fill("100")
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#fps")).to_have_text(re.compile(r"\d\.\d"))
        pixels = drawn(page)
        page.get_by_role("button", name="Stop the camera").click()
    quarter = pixels.shape[1] // 4
    assert (pixels[:, : quarter - 2] == CARD.classes[0].color).all()
    assert (pixels[:, quarter + 2 :] == CARD.classes[ROAD].color).all()


def test_a_camera_that_is_gone_is_reported(looked_at: Page) -> None:
    looked_at.get_by_role("button", name="Use the camera").click()
    expect(looked_at.locator("#fps")).to_have_text(re.compile(r"\d\.\d"))
    # As a browser does where it is unplugged; stop() of a script fires nothing.
    looked_at.evaluate(
        "document.querySelector('video:not(#film)').srcObject.getVideoTracks()[0].dispatchEvent(new Event('ended'))"
    )
    expect(state(looked_at)).to_have_text("error: the camera has ended")
    expect(looked_at.get_by_role("button", name="Use the camera")).to_be_visible()
    expect(looked_at.get_by_role("button", name="Pause")).to_be_hidden()


def check_readable(page: Page, scheme: str, *texts: str) -> None:
    """No sideways scrolling; each text has the contrast that WCAG requires; a dark page is dark."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for text in texts:
        ink, paper = page.locator(text).first.evaluate(
            """element => {
                const ink = getComputedStyle(element).color;
                const opaque = e => !/, 0\\)$|transparent/.test(getComputedStyle(e).backgroundColor);
                while (element.parentElement && !opaque(element)) element = element.parentElement;
                return [ink, getComputedStyle(element).backgroundColor];
            }"""
        )
        lights = sorted(map(luminance, (ink, paper)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5, (text, ink, paper)
        assert (luminance(paper) < 0.1) == (scheme == "dark"), (text, paper)


def luminance(color: str) -> float:
    """The relative luminance of a color as a browser writes it, as WCAG defines it."""
    shares = np.array([float(value) for value in re.findall(r"[\d.]+", color)[:3]]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_page_is_readable(visit: Open, address: str, frame: Path, width: int, scheme: str) -> None:
    page = visit(address, width, scheme)
    expect(page.locator("#file")).to_be_enabled()
    drop(page, frame)
    expect(page.locator("canvas")).to_be_visible()
    check_readable(page, scheme, "h1", "p.lead", "p[role=status]", "li span", "li b", ".figure span", "#camera")


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_report_is_readable_and_asks_for_nothing(visit: Open, report: str, width: int, scheme: str) -> None:
    page = visit(report, width, scheme)
    check_readable(page, scheme, "h1", "p.lead", ".figure span", "figcaption")
    other = {"light": "dark", "dark": "light"}[scheme]
    expect(page.locator(f".chart.{scheme} svg").first).to_be_visible()
    expect(page.locator(f".chart.{other} svg").first).to_be_hidden()
    for picture in page.locator("img").all():
        assert picture.evaluate("picture => picture.complete && picture.naturalWidth > 0")


def test_the_slider_of_a_report_changes_its_masks(visit: Open, report: str) -> None:
    page = visit(report)
    page.locator("#opacity").fill("10")
    assert float(page.locator("img.mask").first.evaluate("mask => getComputedStyle(mask).opacity")) == 0.1


@pytest.fixture
def web_page(
    request: pytest.FixtureRequest, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """The address and the folder of what `export --format web` writes; the parameter is a prediction's milliseconds.

    With a runtime that needs no WebAssembly, or the real one if $ONNXRUNTIME_WEB is the file that npm has.
    """
    real = os.environ.get("ONNXRUNTIME_WEB")
    archive = Path(real) if real else fake_archive(tmp_path / "npm.tgz", monkeypatch, getattr(request, "param", 0))
    if not real:
        fake_network(monkeypatch)
    folder = export_web(model, tmp_path / "page", runtime=archive).folder
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *arguments: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()


@pytest.mark.skipif("ONNXRUNTIME_WEB" in os.environ, reason="needs a network whose classes are known")
@pytest.mark.parametrize("web_page", [600], indirect=True)
def test_a_paused_clip_shows_the_frame_that_it_was_moved_to_last(
    visit: Open, web_page: tuple[str, Path], tmp_path: Path
) -> None:
    page = visit(web_page[0])
    expect(state(page)).to_have_text("Ready")
    page.get_by_label("opacity").fill("100")
    dark, light = (np.full((48, 64, 3), level, np.uint8) for level in (5, 250))
    page.locator("#file").set_input_files(write_clip(tmp_path / "clip.mp4", [dark] * 20 + [light] * 20))
    expect(page.locator("#fps")).to_have_text(re.compile(r"\d\.\d"))
    page.get_by_role("button", name="Pause").click()
    move = "(seek, to) => { seek.value = to; seek.dispatchEvent(new Event('input')); }"
    seek = page.locator("#seek")
    for first, then, channel in ((0.1, 0.9, CARD.classes[10]), (0.9, 0.1, CARD.classes[0])):
        seek.evaluate(move, first)
        page.wait_for_timeout(300)  # its prediction runs
        seek.evaluate(move, then)
        expect_drawn(page, channel.color)


def test_an_exported_page_predicts_in_the_browser(
    visit: Open, web_page: tuple[str, Path], model: Path, tmp_path: Path
) -> None:
    address, folder = web_page
    page = visit(address, NARROW, "dark")
    expect(state(page)).to_have_text("Ready")
    assert "11 classes, in fp32 on WebAssembly, 1 thread" in page.locator("p.lead").inner_text()
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8))
    frame.save(tmp_path / "frame.png")
    page.get_by_label("opacity").fill("100")
    drop(page, tmp_path / "frame.png")
    expect(state(page)).to_contain_text(re.compile(r"frame\.png, 131x97: \d+\.\d ms in the network"))

    if os.environ.get("ONNXRUNTIME_WEB"):
        channels = open_engine(model, "torch", "fp32", "cpu").predict_channels(frame)
    else:
        channels = classes_of(frame, CARD.size)
    colors = np.array([entry.color for entry in CARD.classes])
    assert (drawn(page) == colors[channels]).all(-1).mean() >= 0.999
    shares = np.bincount(channels.ravel(), minlength=11) / channels.size
    for entry, share in zip(CARD.classes, shares, strict=True):
        given = page.locator("li", has_text=re.compile(f"^{entry.name}")).locator("b").inner_text()
        assert float(given.rstrip("%")) == pytest.approx(100 * share, abs=0.15)
    page.get_by_label(re.compile("^Road")).uncheck()
    road = channels == ROAD
    assert (drawn(page) == np.where(road[..., None], np.asarray(frame), colors[channels])).all(-1).mean() >= 0.999
    page.get_by_role("button", name="hide all").click()
    assert (drawn(page) == np.asarray(frame)).all()
    check_readable(page, "dark", "h1", "p.lead", "p[role=status]", "li span", "li b", ".figure span", "#camera")

    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#fps")).to_have_text(re.compile(r"\d\.\d"))
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    page.locator("#file").set_input_files(
        write_clip(tmp_path / "clip.mp4", [np.full((48, 64, 3), 100, np.uint8)] * 5)
    )
    expect(state(page)).to_have_text("clip.mp4, 64x48")
    expect(page.locator("#fps")).to_have_text(re.compile(r"\d\.\d"))
    (tmp_path / "x.png").write_text("no image")
    page.locator("#file").set_input_files(tmp_path / "x.png")
    expect(state(page)).to_have_text("error: x.png: this browser reads it neither as a picture nor as a clip")

    from_disk = visit((folder / "index.html").as_uri().removesuffix("index.html"))
    from_disk.goto((folder / "index.html").as_uri())
    expect(from_disk.locator("#empty")).to_contain_text("python -m http.server")
