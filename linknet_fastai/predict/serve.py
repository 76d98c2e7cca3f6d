"""The local web page of `serve`, made with Gradio: drop an image or a video, see its classes. No upload is kept."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.gradio_private import (
    accept_uploads_only,
    keep_inside_page,
    refuse_other_requests,
    set_temporary_folder,
    style,
)
from linknet_fastai.predict.inputs import VIDEO_SUFFIXES
from linknet_fastai.predict.overlay import color_mask, overlay
from linknet_fastai.predict.uploads import CLIP_FPS, CountingEngine, LastImage, Limits, predict_clip, predict_image

gr, fastapi = import_optional("gradio", "demo"), import_optional("fastapi", "demo")

MAX_SESSIONS, MAX_WAITING = 16, 32  # of more sessions the one that was inactive longest is deleted
PROGRESS = gr.Progress()
DELETE_CACHE = (60, 1800)  # how often files are deleted, and how old they are then, in seconds


def legend(card: ModelCard, shares: Iterable[float] | None = None) -> list[tuple[str, str]]:
    """The choices of the legend: a label, the name of a class with its share if given, and the name.

    Args:
        card: the model's card.
        shares: the share of each class in all pixels, 0 to 1.

    Example:
        ::

            legend(card, [0.25, 0.75])  # [("road 25.0%", "road"), ("sky 75.0%", "sky")]
    """
    names = card.class_names
    if shares is None:
        return [(name, name) for name in names]
    return [(f"{name} {share:.1%}", name) for name, share in zip(names, shares, strict=True)]


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

    def show(dropped: str, opacity: float, shown: list[str], progress: Any = PROGRESS) -> dict[Any, Any]:
        file = Path(dropped)
        try:
            if file.suffix.lower() in VIDEO_SUFFIXES:
                return show_clip(file, opacity, shown, progress)
            counting = CountingEngine(engine, closed)
            last, size = predict_image(counting, file, limits)
        except UserError as error:
            line = str(error).replace(f"{file.parent}{os.sep}", "")  # without the path on this machine
            return answer(f"error: {line}")
        finally:
            file.unlink(missing_ok=True)
        return answer(
            f"{file.name}, {size[0]}x{size[1]}: {counting.milliseconds:.1f} ms in the network",
            counting,
            {
                memory: last,
                picture: draw(last, opacity, shown),
                mask: Image.fromarray(color_mask(last.channels, card)),
            },
        )

    def show_clip(file: Path, opacity: float, shown: list[str], progress: Any) -> dict[Any, Any]:
        if not one_video.acquire(blocking=False):
            raise UserError(f"{file}: another clip is being predicted; drop it again when that is done")
        try:
            counting = CountingEngine(engine, closed, round(limits.seconds * CLIP_FPS) + 1)
            target = Path(mkdtemp(dir=folder)) / f"{file.stem}-overlay.mp4"
            result = predict_clip(
                counting,
                file,
                target,
                limits,
                opacity,
                channels_of(shown),
                lambda _, done, total: progress((done, total), "predicting", unit="frames"),
            )
        finally:
            one_video.release()
        dropped = f" ({result.dropped} above {CLIP_FPS} a second left out)" if result.dropped else ""
        return answer(
            f"{file.name}, {result.frames} frames{dropped}: {counting.milliseconds:.1f} ms a frame in the network, "
            f"{result.frames / result.seconds:.1f} frames a second in all. Opacity and classes are those of when it "
            "was dropped.",
            counting,
            {film: target},
        )

    def answer(
        line: str, counting: CountingEngine | None = None, values: dict[Any, Any] | None = None
    ) -> dict[Any, Any]:
        """The new values of all components: a message, the shares of classes, and `values`; the others are empty."""
        values = values or {}
        of_clip = film in values
        return (
            dict.fromkeys((drop, memory, picture, mask, film))
            | values
            | {
                message: _status(line),
                classes: gr.update(choices=legend(card, counting.shares if counting else None)),
                picture_side: gr.update(visible=not of_clip),
                mask_side: gr.update(visible=not of_clip),
                film_side: gr.update(visible=of_clip),
            }
        )

    def draw(last: LastImage | None, opacity: float, shown: list[str]) -> Image.Image | None:
        return overlay(last.image, last.channels, card, opacity, channels_of(shown)) if last else None

    def channels_of(names: list[str]) -> list[int]:
        return [channel for channel, name in enumerate(card.class_names) if name in names]

    with gr.Blocks(title=f"LinkNet on {card.recipe}", analytics_enabled=False, delete_cache=DELETE_CACHE) as blocks:
        size = "each frame's own size" if engine.size == NATIVE else "{}x{}".format(*engine.size)
        gr.Markdown(f"# LinkNet on {card.recipe}\n{len(card.classes)} classes, by {engine} at {size}")
        memory = gr.State()
        with gr.Row():
            with gr.Column(min_width=320):
                drop = gr.File(label="Image or clip", file_types=["image", "video"], height=160)
                message = gr.HTML(_status(str(limits)))
                opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity", buttons=[])
            with gr.Column(scale=2, min_width=320) as picture_side:
                picture = _picture("Overlay", "the image under the colors of its classes", "JPEG", quality=92)
            with gr.Column(scale=2, min_width=320, visible=False) as film_side:
                film = gr.Video(label="Overlay", interactive=False, autoplay=True, loop=True, buttons=["download"])
        with gr.Row():
            with gr.Column(min_width=320):
                classes = gr.CheckboxGroup(
                    legend(card),
                    value=card.class_names,
                    label="Classes and their shares",
                    elem_id="classes",
                    show_select_all=True,
                )
            with gr.Column(scale=2, min_width=320) as mask_side:
                mask = _picture("Class map", "the class of each pixel, in colors", "PNG", compress_level=1)
        accept_uploads_only(drop)
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
    picture = gr.Image(
        label=label,
        alt_text=alternative,
        elem_id=name,
        interactive=False,
        buttons=["download", "fullscreen"],
    )
    keep_inside_page(picture, name, kind, **options)
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
        set_temporary_folder(folder)
        blocks = page(engine, limits, Path(folder), closed)
        try:
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                inbrowser=open_browser,
                max_file_size=limits.mebibytes << 20,
                state_session_capacity=MAX_SESSIONS,
                css=style(engine.card),
                app_kwargs={
                    "dependencies": [fastapi.Depends(refuse_other_requests)],
                    "docs_url": None,
                    "redoc_url": None,
                },
                footer_links=[],
                prevent_thread_lock=True,
                quiet=True,
                **dict.fromkeys(
                    ("share", "run_history", "enable_monitoring", "ssr_mode", "pwa", "mcp_server"), False
                ),
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


def serve(
    engine: Engine,
    host: str,
    port: int,
    limits: Limits,
    open_browser: bool = False,
    on_start: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        engine: the model.
        host: the address to listen on.
        port: the port to listen on.
        limits: limits of uploads.
        open_browser: whether to open the page in the browser.
        on_start: called with the URL of the page.

    Raises:
        UsageError: the address or port is not available.

    Example:
        ::

            serve(open_engine(Path("runs/camvid")), "127.0.0.1", 7860, Limits(64, 25, 30), open_browser=True)
    """
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C, so that the folder is deleted
    with suppress(KeyboardInterrupt), served(engine, host, port, limits, open_browser) as address:
        on_start(address)
        while True:  # on Windows Ctrl-C does not interrupt waiting for a lock
            time.sleep(1)
