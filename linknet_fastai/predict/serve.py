"""The local web page of `serve`, made with Gradio: drop an image or a video, see its classes. No upload is kept."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event, Lock
from typing import Any

from fastcore.xtras import modified_env
from PIL import Image

from linknet_fastai.core.errors import UsageError, UserError, import_optional
from linknet_fastai.core.parallel import usable_cores
from linknet_fastai.engines.engine import NATIVE, Engine
from linknet_fastai.predict import gradio_private
from linknet_fastai.predict.kinds import VIDEO_SUFFIXES, is_video
from linknet_fastai.predict.overlay import color_mask, overlay
from linknet_fastai.predict.uploads import CLIP_FPS, CountingEngine, LastImage, Limits, check_clip, predict_image
from linknet_fastai.predict.video import predict_video

gr = import_optional("gradio", "demo")

MAX_SESSIONS, MAX_WAITING = 16, 32  # of more sessions the one that was inactive longest is deleted
PROGRESS = gr.Progress()
SWITCHED_OFF = ("share", "run_history", "enable_monitoring", "ssr_mode", "pwa", "mcp_server")
DELETE_CACHE = (60, 1800)  # how often files are deleted, and how old they are then, in seconds
Answer = tuple[str, dict[Any, Any]]  # a message, and the new values of components


def page(engine: Engine, limits: Limits, folder: Path, closed: Event) -> Any:
    """Build the page.

    Args:
        engine: the model.
        limits: limits of uploads.
        folder: where overlay videos are stored until they are deleted, see `DELETE_CACHE`.
        closed: when set, the video that is being predicted ends with an error.

    Returns:
        gradio.Blocks, not yet launched.
    """
    card, one_video = engine.card, Lock()
    most_frames = round(limits.seconds * CLIP_FPS) + 1

    def show(dropped: str, opacity: float, shown: list[int], progress: Any = PROGRESS) -> dict[Any, Any]:
        file, counting = Path(dropped), CountingEngine(engine, closed, most_frames)
        values: dict[Any, Any] = {}
        choices: Sequence[Any] = card.class_names
        try:
            if is_video(file):
                line, values = show_clip(file, counting, opacity, shown, progress)
            else:
                line, values = show_image(file, counting, opacity, shown)
            choices = [(f"{n} {share:.1%}", n) for n, share in zip(card.class_names, counting.shares, strict=True)]
        except UserError as error:
            line = "error: " + str(error).replace(f"{file.parent}{os.sep}", "")  # without the path on this machine
        finally:
            file.unlink(missing_ok=True)
        visible = {picture_side: film not in values, mask_side: film not in values, film_side: film in values}
        return {
            **dict.fromkeys((drop, memory, picture, mask, film)),  # those without a new value are emptied
            **values,
            message: _status(line),
            classes: gr.update(choices=choices),
            **{side: gr.update(visible=is_visible) for side, is_visible in visible.items()},
        }

    def show_image(file: Path, counting: CountingEngine, opacity: float, shown: list[int]) -> Answer:
        last, (width, height) = predict_image(counting, file, limits)
        line = f"{file.name}, {width}x{height}: {counting.milliseconds:.1f} ms in the network"
        class_map = Image.fromarray(color_mask(last.channels, card))
        return line, {memory: last, picture: draw(last, opacity, shown), mask: class_map}

    def show_clip(file: Path, counting: CountingEngine, opacity: float, shown: list[int], progress: Any) -> Answer:
        def report(_: str, done: int, total: int) -> None:
            progress((done, total), "predicting", unit="frames")

        if not one_video.acquire(blocking=False):
            raise UserError(f"{file}: another clip is being predicted; drop it again when that is done")
        try:
            check_clip(file, limits)
            target = Path(mkdtemp(dir=folder)) / f"{file.stem}-overlay.mp4"
            result = predict_video(counting, file, target, opacity, CLIP_FPS, report, shown)
        finally:
            one_video.release()
        dropped = f" ({result.dropped} above {CLIP_FPS} a second left out)" if result.dropped else ""
        problem = f" {result.problem}." if result.problem else ""
        line = (
            f"{file.name}, {result.frames} frames{dropped}: {counting.milliseconds:.1f} ms a frame in the network, "
            f"{result.frames / result.seconds:.1f} frames a second in all. Opacity and classes are those of when it "
            f"was dropped.{problem}"
        )
        return line, {film: target}

    def draw(last: LastImage | None, opacity: float, shown: list[int]) -> Image.Image | None:
        return overlay(last.image, last.channels, card, opacity, shown) if last else None

    with gr.Blocks(title=f"LinkNet on {card.recipe}", analytics_enabled=False, delete_cache=DELETE_CACHE) as blocks:
        size = "each frame's own size" if engine.size == NATIVE else "{}x{}".format(*engine.size)
        gr.Markdown(f"# LinkNet on {card.recipe}\n{len(card.classes)} classes, by {engine} at {size}")
        memory = gr.State()
        with gr.Row():
            with gr.Column(min_width=320):
                drop = gr.File(label="Image or clip", file_types=["image", "video", *VIDEO_SUFFIXES], height=160)
                message = gr.HTML(_status(str(limits)))
                opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity", buttons=[])
            with gr.Column(scale=2, min_width=320) as picture_side:
                picture = _picture("Overlay", "the image under the colors of its classes", "JPEG", quality=92)
            with gr.Column(scale=2, min_width=320, visible=False) as film_side:
                film = gr.Video(label="Overlay", interactive=False, autoplay=True, loop=True, buttons=["download"])
        with gr.Row():
            with gr.Column(min_width=320):
                classes = gr.CheckboxGroup(
                    card.class_names,
                    type="index",
                    value=card.class_names,
                    label="Classes and their shares",
                    elem_id="classes",
                    show_select_all=True,
                )
            with gr.Column(scale=2, min_width=320) as mask_side:
                mask = _picture("Class map", "the class of each pixel, in colors", "PNG", compress_level=1)
        gradio_private.accept_uploads_only(drop)
        drop.upload(
            show,
            [drop, opacity, classes],
            [drop, message, classes, memory, picture, mask, film, picture_side, mask_side, film_side],
            concurrency_limit=engine.frames_at_once + 1,  # one of them may be a video
            show_progress_on=[picture, film],
            api_visibility="undocumented",
        )
        gr.on(
            [opacity.input, classes.input],
            draw,
            [memory, opacity, classes],
            picture,
            concurrency_limit=usable_cores(),
            show_progress="hidden",
            trigger_mode="always_last",
            api_visibility="undocumented",
        )
    return blocks.queue(max_size=MAX_WAITING)


def _status(line: str) -> str:
    return f"<p role='status'>{escape(line)}</p>"


def _picture(label: str, alternative: str, kind: str, **options: Any) -> Any:
    """A gradio.Image whose value is sent inside the page, see `keep_inside_page`."""
    name = label.lower().replace(" ", "-")
    buttons = ["download", "fullscreen"]
    picture = gr.Image(label=label, alt_text=alternative, elem_id=name, interactive=False, buttons=buttons)
    gradio_private.keep_inside_page(picture, name, kind, **options)
    return picture


@contextmanager
def served(engine: Engine, host: str, port: int, limits: Limits, open_browser: bool = False) -> Iterator[str]:
    """Serve the page during a `with` block. Uploads are stored in a temporary folder, which is deleted at the end.

    Args:
        engine: the model.
        host: the address to listen on.
        port: the port to listen on.
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
    closed = Event()
    engine(Image.new("RGB", engine.card.size))  # initialization, which is not counted as time in the network
    with (
        TemporaryDirectory(prefix="linknet-fastai-", ignore_cleanup_errors=True) as folder,
        modified_env(GRADIO_TEMP_DIR=folder, no_proxy="*"),  # Gradio checks its own page by a request
    ):
        gradio_private.set_temporary_folder(folder)
        blocks = page(engine, limits, Path(folder), closed)
        try:
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                inbrowser=open_browser,
                max_file_size=limits.mebibytes << 20,
                state_session_capacity=MAX_SESSIONS,
                css=gradio_private.style(engine.card),
                app_kwargs=gradio_private.APP_OPTIONS,
                footer_links=[],
                prevent_thread_lock=True,
                quiet=True,
                **dict.fromkeys(SWITCHED_OFF, False),
            )
        except OSError:
            raise UsageError(
                f"--port: cannot listen on port {port} of {host}: the port is in use, or this machine does not have "
                "the address; choose another --port or --host"
            ) from None
        try:
            yield address
        finally:
            closed.set()
            blocks.close(verbose=False)


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
