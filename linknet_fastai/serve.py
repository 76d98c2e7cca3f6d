"""A page on one's own machine: drop an image or a clip, see its classes. Nothing that is dropped is kept.

The page is Gradio's, which comes with the extra `demo`.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock
from typing import Any

import numpy as np
from fastcore.xtras import modified_env
from PIL import Image

from linknet_fastai.errors import UsageError, UserError, need
from linknet_fastai.image_files import data_url, open_image, resize_image, resize_labels
from linknet_fastai.model_card import ModelCard
from linknet_fastai.prediction import NATIVE, Engine, colour_mask, overlay
from linknet_fastai.threads import usable_cores

gr, fastapi = need("gradio", "demo"), need("fastapi", "demo")

SHOWN_SIDE = 1600  # the longer side, in pixels, of what a page shows and a session remembers
MOST_SESSIONS, MOST_WAITING = 16, 32  # of more sessions the one that rested longest is forgotten


@dataclass(frozen=True)
class Limits:
    """What may be dropped: the size of a file, the pixels of an image, the length of a clip."""

    mebibytes: int = 64
    megapixels: float = 25
    seconds: float = 30

    def __str__(self) -> str:
        return (
            f"An image of up to {self.megapixels:g} million pixels or a clip of up to {self.seconds:g} seconds, "
            f"up to {self.mebibytes} MiB"
        )


@dataclass(frozen=True, eq=False)
class Seen:
    """What a session remembers of its last image: RGB, and channels (HxW uint8), at the size of the page."""

    image: Image.Image
    channels: np.ndarray


class Tally(Engine):
    """An engine that counts: frames, the pixels of each class, the seconds in the network.

    Args:
        engine: what predicts; its tallies together take no more frames at once than it does.
        ended: when set, no further frame is predicted.
    """

    def __init__(self, engine: Engine, ended: Event) -> None:
        super().__init__(engine.card, engine.precision, engine.size, engine.frames_at_once)
        self._engine, self._free, self._ended, self._lock = engine, engine._free, ended, Lock()
        self.frames, self.seconds, self.pixels = 0, 0.0, np.zeros(len(engine.card.classes), np.int64)

    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network; see `Engine.channels`."""
        if self._ended.is_set():
            raise UserError("the page was closed")
        begin = time.perf_counter()
        channels = self._engine.channels(pixels, size)
        seconds = time.perf_counter() - begin
        with self._lock:
            self.frames += 1
            self.seconds += seconds
            self.pixels += Image.fromarray(channels).histogram()[: len(self.pixels)]
        return channels

    @property
    def shares(self) -> np.ndarray:
        """The share of each class in all pixels of all frames, C floats."""
        return self.pixels / self.pixels.sum()

    def __str__(self) -> str:
        return f"{1000 * self.seconds / self.frames:.1f} ms in the network"


async def _uploaded(path: str) -> str:
    """In the place of Gradio's own way to a file, which also fetches what a request names by a URL, of any size."""
    if not Path(path).is_file():
        raise gr.Error("this file is no longer here: drop it again", print_exception=False)
    return path


def _inside_page(value: Image.Image | None, kind: str, **options: Any) -> Any:
    """In the place of Gradio's own way to show an image, which writes a file for it."""
    return (
        None if value is None else gr.data_classes.ImageData(url=data_url(value, kind, **options), orig_name="image")
    )


def at_page_size(image: Image.Image, channels: np.ndarray) -> Seen:
    """Bring a frame and its channels (HxW uint8) to the size of the page, where they are larger."""
    scale = min(SHOWN_SIDE / max(image.size), 1)
    width, height = (max(round(side * scale), 1) for side in image.size)
    return Seen(resize_image(image, (width, height)), resize_labels(channels, (width, height)))


def legend(card: ModelCard, shares: Iterable[float] | None = None) -> list[tuple[str, str]]:
    """The classes as choices: what is shown, the name with its share where there is one, and the name."""
    names = card.class_names
    if shares is None:
        return [(name, name) for name in names]
    return [(f"{name} {share:.1%}", name) for name, share in zip(names, shares, strict=True)]


def legend_css(card: ModelCard) -> str:
    """What gives each class of the legend its colour, and puts the classes in columns."""
    group = "#classes [data-testid='checkbox-group']"
    columns = "display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr))"
    swatch = (
        "content: ''; display: inline-block; width: 1em; height: 1em; margin-right: .5em; vertical-align: -.1em; "
        "border-radius: .25em; box-shadow: 0 0 0 1px #8888"
    )
    colours = (
        f"{group} label:nth-of-type({place}) span::before {{ background: {entry.css_color} }}"
        for place, entry in enumerate(card.classes, 1)
    )
    return "\n".join((f"{group} {{ {columns} }}", f"{group} span::before {{ {swatch} }}", *colours))


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
    card = engine.card

    def show(dropped: str, opacity: float, shown: list[str]) -> dict[Any, Any]:
        file = Path(dropped)
        try:
            frame = open_image(file, limits.megapixels * 1e6)
            tally = Tally(engine, ended)
            seen = at_page_size(frame, tally(frame))
        except UserError as error:
            line = str(error).replace(f"{file.parent}{os.sep}", "")  # no path of this machine
            return told(f"error: {line}") | {memory: None, picture: None, mask: None}
        finally:
            file.unlink(missing_ok=True)
        width, height = frame.size
        return told(f"{file.name}, {width}x{height}: {tally}", tally.shares) | {
            memory: seen,
            picture: draw(seen, opacity, shown),
            mask: Image.fromarray(colour_mask(seen.channels, card)),
        }

    def told(line: str, shares: np.ndarray | None = None) -> dict[Any, Any]:
        return {drop: None, message: _status(line), classes: gr.update(choices=legend(card, shares))}

    def draw(seen: Seen | None, opacity: float, shown: list[str]) -> Image.Image | None:
        channels = [channel for channel, name in enumerate(card.class_names) if name in shown]
        return overlay(seen.image, seen.channels, card, opacity, channels) if seen else None

    with gr.Blocks(title=f"LinkNet on {card.recipe}", analytics_enabled=False, delete_cache=(60, 3600)) as blocks:
        size = "each frame's own size" if engine.size == NATIVE else "{}x{}".format(*engine.size)
        gr.Markdown(f"# LinkNet on {card.recipe}\n{len(card.classes)} classes, by {engine} at {size}")
        memory = gr.State()
        look = {"interactive": False, "buttons": ["download", "fullscreen"]}
        with gr.Row():
            with gr.Column(min_width=320):
                drop = gr.File(label="Image or clip", file_types=["image", "video"], height=160)
                message = gr.HTML(_status(str(limits)))
                opacity = gr.Slider(0, 1, 0.5, step=0.05, label="Opacity", buttons=[])
            with gr.Column(scale=2, min_width=320):
                picture = gr.Image(
                    label="Overlay", alt_text="the image under the colours of its classes", elem_id="overlay", **look
                )
        with gr.Row():
            with gr.Column(min_width=320):
                classes = gr.CheckboxGroup(
                    legend(card),
                    value=card.class_names,
                    label="Classes and their shares",
                    elem_id="classes",
                    show_select_all=True,
                )
            with gr.Column(scale=2, min_width=320):
                mask = gr.Image(
                    label="Class map", alt_text="the class of each pixel, in colours", elem_id="mask", **look
                )
        # Of these alone, not by classes of ours: Gradio writes a .pyi beside the source of each component's class.
        drop.async_move_resource_to_block_cache = _uploaded
        picture.postprocess = partial(_inside_page, kind="JPEG", quality=92)
        mask.postprocess = partial(_inside_page, kind="PNG", compress_level=1)
        answers = [drop, message, classes, memory, picture, mask]
        drop.upload(
            show,
            [drop, opacity, classes],
            answers,
            concurrency_limit=engine.frames_at_once,
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
        blocks = page(engine, limits, Path(folder), ended)
        try:
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                inbrowser=open_browser,
                max_file_size=limits.mebibytes << 20,
                state_session_capacity=MOST_SESSIONS,
                css=legend_css(engine.card),
                app_kwargs={"dependencies": [fastapi.Depends(_fetch_nothing)], "docs_url": None, "redoc_url": None},
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
        Event().wait()


def _fetch_nothing(request: fastapi.Request) -> None:
    """Refuse a request that has Gradio fetch a file from elsewhere."""
    if "://" in request.url.path:
        raise fastapi.HTTPException(403)
