"""Clips, numbered frames and cameras in, overlay videos out: a frame at a time, memory flat over any length."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

from PIL import Image

from linknet_fastai.core.errors import UserError, import_optional, reason
from linknet_fastai.core.files import atomic_write
from linknet_fastai.core.images import open_image
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.engines.engine import Engine, frame_threads
from linknet_fastai.predict.inputs import Source
from linknet_fastai.predict.overlay import overlay
from linknet_fastai.predict.sound import Sound

av = import_optional("av", "video")

FRAME_RATE = 25  # of numbered frames, unless said
# FFmpeg's format, its name of a camera, its options: Apple's have no 29.97 frames a second, which is its default.
CAMERAS: dict[str, tuple[str, str, dict[str, str]]] = {
    "linux": ("v4l2", "/dev/video{}", {}),
    "darwin": ("avfoundation", "{}", {"framerate": "30"}),
}
# What clips are read by. FFmpeg's other formats include playlists, which name further files and addresses to read.
CLIP_FORMATS = "avi,gif,matroska,mov,mpeg,mpegts,mpegvideo"
CLOCK = Fraction(1, 90_000)  # of the videos written: MPEG's own, in which every usual frame rate is whole


@dataclass(frozen=True)
class VideoResult:
    """What became of a video.

    Attributes:
        file: the overlay video.
        frames: how many frames it has.
        dropped: how many frames were left out to keep to a frame rate, or up with a camera.
        broken: how many frames could not be read.
        stopped: whether Ctrl-C ended it.
        seconds: what it took.
    """

    file: Path
    frames: int
    dropped: int
    broken: int
    stopped: bool
    seconds: float

    def __str__(self) -> str:
        told = [f"{self.frames} frames, {self.frames / self.seconds:.1f} a second"]
        told += [f"{self.dropped} dropped"] * (self.dropped > 0) + [f"{self.broken} broken"] * (self.broken > 0)
        return ", ".join(told) + f": {self.file}"


def predict_video(
    engine: Engine,
    source: Source,
    file: Path,
    opacity: float = 0.5,
    fps: float | None = None,
    progress: Progress | None = None,
    shown: Collection[int] | None = None,
) -> VideoResult:
    """Write an MP4 of a video with the predicted classes laid over it, whole or not at all.

    Every frame keeps its time, counted from where the source begins, and the sound is kept: copied, or as AAC where
    players would not find it in an MP4.
    A frame that cannot be read is left out. Ctrl-C ends the video with what it has.

    Args:
        engine: the model.
        source: a video file, a camera's number, or images, see `Clip`.
        file: the MP4 to write.
        opacity: of the colors, 0 to 1.
        fps: frames a second: of images the rate (25 if left out), of a clip or a camera the most; others are dropped.
        progress: told how far it is.
        shown: the channels that are colored; None is all.

    Raises:
        UserError: the source cannot be opened or has no frame, or the file cannot be written.
    """
    begin = time.perf_counter()
    counted: Counter[str] = Counter()
    wanted = Fraction(fps).limit_denominator(1001) if fps else None  # as FFmpeg has rates: of 32-bit integers
    with _opened(source, wanted or Fraction(FRAME_RATE), counted) as (frames, expected, sound):
        if wanted and isinstance(source, Path | int):
            frames = _at_most(frames, wanted, counted)
        for first in frames:
            if image := _loaded(first):
                break
            counted["broken"] += 1
        else:
            raise UserError(f"{_named(source)}: no frame of it can be read")
        first = replace(first, load=image.copy)  # decoded already
        begun = first.time if isinstance(source, int) else Fraction(0)  # some cameras tell the machine's time
        width, height = (side + side % 2 for side in image.size)  # H.264 takes even sides

        def predict(frame: _Frame) -> Any:
            if (image := _loaded(frame)) is None:
                return None
            drawn = overlay(image, engine.predict_channels(image), engine.card, opacity, shown)
            if drawn.size != (width, height):
                drawn = drawn.resize((width, height))
            coded = av.VideoFrame.from_image(drawn).reformat(format="yuv420p", dst_colorspace="itu709")
            coded.time_base, coded.pts = CLOCK, round((frame.time - begun) / CLOCK)
            return coded

        with (
            _ffmpeg_in_one_line(f"{_named(source)}: cannot be made into {file}"),
            atomic_write(file) as beside,
            av.open(str(beside.absolute()), "w", format="mp4") as output,
        ):
            rate = min(1 / first.lasts, wanted or 1000)  # says how long the last frame lasts
            video = output.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
            video.width, video.height, video.pix_fmt, video.codec_context.time_base = width, height, "yuv420p", CLOCK
            video.codec_context.colorspace = av.video.reformatter.Colorspace.ITU709
            sound.begin(output)
            stopped, latest = False, -1
            try:
                for coded in map_in_threads(predict, chain([first], frames), frame_threads(engine)):
                    if coded is None:
                        counted["broken"] += 1
                    else:
                        latest = coded.pts = max(coded.pts, latest + 1)  # time runs back where a file is damaged
                        output.mux(video.encode(coded))
                        counted["frames"] += 1
                    if progress:
                        progress(f"predicting {file.name}", done := counted["frames"], max(done, expected))
            except KeyboardInterrupt:
                if not counted["frames"]:
                    raise
                stopped = True
            output.mux(video.encode(None))
            sound.end()
    seconds = time.perf_counter() - begin
    return VideoResult(file, counted["frames"], counted["dropped"], counted["broken"], stopped, seconds)


@contextmanager
def _ffmpeg_in_one_line(what: str) -> Iterator[None]:
    """Say what FFmpeg refuses; not all of its errors are an OSError, which `atomic_write` tells."""
    try:
        yield
    except av.FFmpegError as error:
        raise UserError(f"{what} ({reason(error)})") from error


@dataclass(frozen=True)
class _Frame:
    """When and how long a frame is shown, in seconds, and what reads it."""

    time: Fraction
    lasts: Fraction
    load: Callable[[], Image.Image]


def _loaded(frame: _Frame) -> Image.Image | None:
    try:
        return frame.load()
    except (UserError, av.FFmpegError):
        return None


def _at_most(frames: Iterable[_Frame], fps: Fraction, counted: Counter[str]) -> Iterator[_Frame]:
    """The first frame of each of the `fps` parts of a second."""
    last = None
    for frame in frames:
        if (part := int(frame.time * fps)) == last:
            counted["dropped"] += 1
        else:
            last = part
            yield frame


@contextmanager
def _opened(source: Source, rate: Fraction, counted: Counter[str]) -> Iterator[tuple[Iterator[_Frame], int, Sound]]:
    """Open a source; give its frames, about how many there are (0 where nobody knows), and its sound."""
    if isinstance(source, Sequence):
        lasts = 1 / rate
        frames = (_Frame(place * lasts, lasts, partial(open_image, file)) for place, file in enumerate(source))
        yield frames, len(source), Sound()
        return
    if isinstance(source, Path):
        container = open_container(_named(source), str(source.absolute()))  # 12:30.mp4 would be a protocol's name
    else:
        if sys.platform not in CAMERAS:
            raise UserError(f"camera {source}: cameras are read on Linux and macOS alone; predict a clip of it")
        form, name, options = CAMERAS[sys.platform]
        container = open_container(_named(source), name.format(source), form, options)
    with container:
        if not container.streams.video:
            raise UserError(f"{_named(source)}: there is no video in it")
        video = container.streams.video[0]
        if isinstance(source, int):
            # The reader must have left the container before it closes, also where Ctrl-C ends it.
            sound = Sound()
            with closing(_newest(_decoded(container, video, sound, Fraction(0), counted), counted)) as frames:
                yield frames, 0, sound
            return
        start = max(Fraction(container.start_time or 0, av.time_base), Fraction(0))
        sound = Sound(container.streams.audio, start)
        seconds = container.duration * 1e-6 if container.duration else 0
        expected = video.frames or round(seconds * (video.average_rate or 0))
        yield _decoded(container, video, sound, start, counted), expected, sound


def open_container(name: str, file: str, form: str | None = None, options: dict[str, str] | None = None) -> Any:
    """Open what PyAV reads.

    Args:
        name: for the message.
        file: an absolute path, or a device of the format.
        form: FFmpeg's name of the format; None is to look, among `CLIP_FORMATS`.
        options: FFmpeg's for the format.

    Raises:
        UserError: it cannot be opened.
    """
    options = options if form else {"format_whitelist": CLIP_FORMATS}
    try:
        return av.open(file, format=form, options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be opened as a video ({reason(error)})") from None


def _named(source: Source) -> str:
    if isinstance(source, Sequence):
        return str(source[0].parent)
    return f"camera {source}" if isinstance(source, int) else str(source)


def _decoded(container: Any, video: Any, sound: Sound, start: Fraction, counted: Counter[str]) -> Iterator[_Frame]:
    """The frames of a video, their times counted from `start`; packets of sound go to `sound` on the way.

    What is broken is counted and passed by.
    """
    packets = container.demux(video, *sound.streams)
    usual = 1 / Fraction(video.average_rate or FRAME_RATE)
    upcoming = start  # when a frame is shown that does not say
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the rest of the file cannot be told apart
            counted["broken"] += 1
            return
        if packet is None:
            return
        if packet.stream.type == "audio":
            sound.take(packet)
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError:
            counted["broken"] += 1
            continue
        for frame in frames:
            moment = upcoming if frame.pts is None else Fraction(frame.pts * frame.time_base)
            lasts = Fraction(frame.duration * frame.time_base) if frame.duration else usual
            upcoming = moment + lasts
            yield _Frame(moment - start, lasts, partial(_upright, frame))


def _upright(frame: Any) -> Image.Image:
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _newest(frames: Iterator[_Frame], counted: Counter[str]) -> Iterator[_Frame]:
    """What a camera shows now: a thread keeps reading, and who comes late finds the newest frame alone."""
    waiting: Queue[_Frame | None] = Queue(maxsize=1)
    done = Event()

    def read() -> None:
        for frame in frames:
            if done.is_set():
                return
            with suppress(Empty):
                waiting.get_nowait()
                counted["dropped"] += 1
            waiting.put(frame)
        waiting.put(None)

    reader = Thread(target=read, daemon=True)
    reader.start()
    try:
        while (frame := waiting.get()) is not None:
            yield frame
    finally:
        done.set()
        with suppress(Empty):
            waiting.get_nowait()  # makes room for what the reader still puts
        reader.join()
