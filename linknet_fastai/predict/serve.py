"""A page on one's own machine: drop an image or a clip, see its classes. Nothing that is dropped is kept.

The page is Gradio's, which comes with the extra `demo`.
"""

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
from linknet_fastai.core.images import data_url
from linknet_fastai.core.parallel import usable_cores
from linknet_fastai.engines.engine import NATIVE, Engine
from linknet_fastai.model.card import ModelCard
from linknet_fastai.predict.inputs import VIDEO_SUFFIXES
from linknet_fastai.predict.overlay import color_mask, overlay
from linknet_fastai.predict.uploads import CLIP_FPS, Limits, Seen, Tally, predict_clip, predict_image

gr, fastapi = import_optional("gradio", "demo"), import_optional("fastapi", "demo")

MOST_SESSIONS, MOST_WAITING = 16, 32  # of more sessions the one that rested longest is forgotten
PROGRESS = gr.Progress()
CLEANING = (60, 1800)  # every so many seconds files that are so many seconds old go


async def _uploaded(path: str) -> str:
    """In the place of Gradio's own way to a file, which also fetches what a request names by a URL, of any size."""
    if not Path(path).is_file():
        raise gr.Error("this file is no longer here: drop it again", print_exception=False)
    return path


def legend(card: ModelCard, shares: Iterable[float] | None = None) -> list[tuple[str, str]]:
    """The classes as choices: what is shown, the name with its share where there is one, and the name."""
    names = card.class_names
    if shares is None:
        return [(name, name) for name in names]
    return [(f"{name} {share:.1%}", name) for name, share in zip(names, shares, strict=True)]


def style(card: ModelCard) -> str:
    """What is ours in the page's looks: each class of the legend has its color, small pictures are enlarged."""
    group = "#classes [data-testid='checkbox-group']"
    swatch = (
        "content: ''; display: inline-block; width: 1em; height: 1em; margin-right: .5em; vertical-align: -.1em; "
        "border-radius: .25em; box-shadow: 0 0 0 1px #8888"
    )
    rules = {
        group: "display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr))",
        f"{group} span::before": swatch,
        ".image-frame": "width: 100%",
        ".image-frame img": "width: 100%; object-fit: contain",
        ":not(.fullscreen) > .image-container .image-frame img": "max-height: 55vh",  # the legend is in sight below
        "#class-map img": "image-rendering: pixelated",
    }
    for place, entry in enumerate(card.classes, 1):
        rules[f"{group} label:nth-of-type({place}) span::before"] = f"background: {entry.css_color}"
    return "\n".join(f"{where} {{ {looks} }}" for where, looks in rules.items())


def page(engine: Engine, limits: Limits, folder: Path, ended: Event) -> Any:
    """Build the page.

    Args:
        engine: the model.
        limits: what may be dropped.
        folder: where overlay videos lie until the next cleaning.
        ended: ends a clip in work when set.

    Returns:
        gradio.Blocks, not yet launched.
    """
    card, a_clip = engine.card, Lock()

    def show(dropped: str, opacity: float, shown: list[str], progress: Any = PROGRESS) -> dict[Any, Any]:
        file = Path(dropped)
        try:
            if file.suffix.lower() in VIDEO_SUFFIXES:
                return show_clip(file, opacity, shown, progress)
            tally = Tally(engine, ended)
            seen, size = predict_image(tally, file, limits)
        except UserError as error:
            line = str(error).replace(f"{file.parent}{os.sep}", "")  # no path of this machine
            return answer(f"error: {line}")
        finally:
            file.unlink(missing_ok=True)
        return answer(
            f"{file.name}, {size[0]}x{size[1]}: {tally.milliseconds:.1f} ms in the network",
            tally,
            {
                memory: seen,
                picture: draw(seen, opacity, shown),
                mask: Image.fromarray(color_mask(seen.channels, card)),
            },
        )

    def show_clip(file: Path, opacity: float, shown: list[str], progress: Any) -> dict[Any, Any]:
        if not a_clip.acquire(blocking=False):
            raise UserError(f"{file}: another clip is in work; drop it again when that is done")
        try:
            tally = Tally(engine, ended, round(limits.seconds * CLIP_FPS) + 1)
            target = Path(mkdtemp(dir=folder)) / f"{file.stem}-overlay.mp4"
            result = predict_clip(
                tally,
                file,
                target,
                limits,
                opacity,
                channels_of(shown),
                lambda _, done, total: progress((done, total), "predicting", unit="frames"),
            )
        finally:
            a_clip.release()
        dropped = f" ({result.dropped} above {CLIP_FPS} a second left out)" if result.dropped else ""
        return answer(
            f"{file.name}, {result.frames} frames{dropped}: {tally.milliseconds:.1f} ms a frame in the network, "
            f"{result.frames / result.seconds:.1f} frames a second in all. Opacity and classes are those of when it "
            "was dropped.",
            tally,
            {film: target},
        )

    def answer(line: str, tally: Tally | None = None, more: dict[Any, Any] | None = None) -> dict[Any, Any]:
        """What the page shows from now on: a line, shares where there are any, and `more` alone."""
        cleared = dict.fromkeys((drop, memory, picture, mask, film))
        of_clip = film in (more or {})
        return (
            cleared
            | (more or {})
            | {
                message: _status(line),
                classes: gr.update(choices=legend(card, tally and tally.shares)),
                picture_side: gr.update(visible=not of_clip),
                mask_side: gr.update(visible=not of_clip),
                film_side: gr.update(visible=of_clip),
            }
        )

    def draw(seen: Seen | None, opacity: float, shown: list[str]) -> Image.Image | None:
        return overlay(seen.image, seen.channels, card, opacity, channels_of(shown)) if seen else None

    def channels_of(names: list[str]) -> list[int]:
        return [channel for channel, name in enumerate(card.class_names) if name in names]

    with gr.Blocks(title=f"LinkNet on {card.recipe}", analytics_enabled=False, delete_cache=CLEANING) as blocks:
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
        # Of this one alone, not by a class of ours: Gradio writes a .pyi beside the source of a component's class.
        drop.async_move_resource_to_block_cache = _uploaded
        drop.upload(
            show,
            [drop, opacity, classes],
            [drop, message, classes, memory, picture, mask, film, picture_side, mask_side, film_side],
            concurrency_limit=engine.frames_at_once + 1,  # one of them may be a clip
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
    return blocks.queue(max_size=MOST_WAITING)


def _status(line: str) -> str:
    return f"<p role='status'>{escape(line)}</p>"


def _picture(label: str, alternative: str, kind: str, **options: Any) -> Any:
    """An image that goes into the page itself, where Gradio's own writes a file for it; options as `data_url` has."""
    name = label.lower().replace(" ", "-")
    picture = gr.Image(
        label=label,
        alt_text=alternative,
        elem_id=name,
        interactive=False,
        buttons=["download", "fullscreen"],
    )

    def inside_page(value: Image.Image | None) -> Any:
        if value is None:
            return None
        return gr.data_classes.ImageData(
            url=data_url(value, kind, **options),
            orig_name=f"{name}.{kind.lower()}",  # when it is downloaded
        )

    picture.postprocess = inside_page
    return picture


@contextmanager
def served(engine: Engine, host: str, port: int, limits: Limits, open_browser: bool = False) -> Iterator[str]:
    """Serve the page; gives its address. What was uploaded lies in a temporary folder, which is gone at the end.

    Raises:
        UsageError: nothing can listen there.
    """
    ended = Event()
    engine(Image.new("RGB", engine.card.size))  # what the first frame sets up is no time of the network
    with (
        TemporaryDirectory(prefix="linknet-fastai-", ignore_cleanup_errors=True) as folder,
        modified_env(GRADIO_TEMP_DIR=folder, no_proxy="*"),  # Gradio asks its own page whether it is there
    ):
        gr.routes.DEFAULT_TEMP_DIR = folder  # which was settled when Gradio was imported
        blocks = page(engine, limits, Path(folder), ended)
        try:
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                inbrowser=open_browser,
                max_file_size=limits.mebibytes << 20,
                state_session_capacity=MOST_SESSIONS,
                css=style(engine.card),
                app_kwargs={"dependencies": [fastapi.Depends(_of_this_page)], "docs_url": None, "redoc_url": None},
                footer_links=[],
                prevent_thread_lock=True,
                quiet=True,
                **dict.fromkeys(
                    ("share", "run_history", "enable_monitoring", "ssr_mode", "pwa", "mcp_server"), False
                ),
            )
        except OSError:
            raise UsageError(
                f"--port: nothing can listen on port {port} of {host}: it is taken, or that is no address of this "
                "machine; name another --port or --host"
            ) from None
        try:
            yield address
        finally:
            ended.set()
            blocks.close(verbose=False)


def serve(
    engine: Engine,
    host: str,
    port: int,
    limits: Limits,
    open_browser: bool = False,
    told: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C, or until the process is told to end.

    Args:
        engine: the model.
        host: the address to listen on.
        port: the port to listen on.
        limits: what may be dropped.
        open_browser: whether to open the page in the browser.
        told: is given the page's address.
    """
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: the folder goes then too
    with suppress(KeyboardInterrupt), served(engine, host, port, limits, open_browser) as address:
        told(address)
        while True:  # on Windows Ctrl-C does not end the wait for a lock
            time.sleep(1)


def _of_this_page(request: fastapi.Request) -> None:
    """Refuse what Gradio serves besides: to fetch a file from elsewhere, to take recordings of any size."""
    if "://" in request.url.path or "recording" in request.url.path:
        raise fastapi.HTTPException(403)
