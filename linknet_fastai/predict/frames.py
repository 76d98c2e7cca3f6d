"""Reads the frames of video files, cameras and numbered images, with their times. Predicts and writes nothing."""

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import groupby
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

from PIL import Image

from linknet_fastai.core.errors import UserError, import_optional, reason
from linknet_fastai.core.images import open_image
from linknet_fastai.predict.inputs import Source, source_name
from linknet_fastai.predict.sound import Sound

av = import_optional("av", "video")

FRAME_RATE = 25  # frames per second of numbered images, by default
# FFmpeg's input format, its name for a camera, its options: its default on macOS, 29.97 frames per second, is a rate
# that Apple's cameras do not have.
CAMERAS: dict[str, tuple[str, str, dict[str, str]]] = {
    "linux": ("v4l2", "/dev/video{}", {}),
    "darwin": ("avfoundation", "{}", {"framerate": "30"}),
}
# The only formats that are read. FFmpeg's others include playlists, which name further files and addresses to read.
CLIP_FORMATS = "avi,gif,matroska,mov,mpeg,mpegts,mpegvideo"


@dataclass(frozen=True)
class Frame:
    """When and how long a frame is shown, in seconds, and a function that reads it."""

    time: Fraction
    duration: Fraction
    load: Callable[[], Image.Image]

    def image(self) -> Image.Image | None:
        """Read the frame, None if it is broken."""
        try:
            return self.load()
        except (UserError, av.FFmpegError):
            return None


def limit_rate(frames: Iterable[Frame], fps: Fraction, counted: Counter[str]) -> Iterator[Frame]:
    """Divide each second into `fps` intervals and keep the first frame of each; count the others as "dropped".

    Example:
        >>> frames = [Frame(Fraction(n, 10), Fraction(1, 10), Image.Image) for n in range(10)]
        >>> dropped = Counter()
        >>> [float(frame.time) for frame in limit_rate(frames, Fraction(4), dropped)], dropped["dropped"]
        ([0.0, 0.3, 0.5, 0.8], 6)
    """
    for _, interval in groupby(frames, lambda frame: int(frame.time * fps)):
        yield next(interval)
        counted["dropped"] += sum(1 for _ in interval)  # noqa: B031 - the frames after the first


@contextmanager
def open_frames(
    source: Source, rate: Fraction, counted: Counter[str]
) -> Iterator[tuple[Iterator[Frame], int, Sound]]:
    """Open a source for reading; it is closed at the end of the `with` block.

    Args:
        source: a video file, the number of a camera, or images, see `Clip`.
        rate: frames per second of images.
        counted: counts the frames that are "broken", and those "dropped" to keep up with a camera.

    Yields:
        The frames, about how many there are (0 if unknown), and the sound, which is filled while frames are read.

    Raises:
        UserError: the source cannot be opened, or has no video stream.
    """
    if isinstance(source, Sequence):
        images = (Frame(number / rate, 1 / rate, partial(open_image, file)) for number, file in enumerate(source))
        yield images, len(source), Sound()
        return
    with open_container(source) as container:
        if not container.streams.video:
            raise UserError(f"{source_name(source)}: there is no video stream in it")
        video = container.streams.video[0]
        if isinstance(source, int):
            # The reading thread has to end before the container is closed, also after Ctrl-C.
            sound = Sound()
            with closing(_newest(_decoded(container, video, sound, Fraction(0), counted), counted)) as frames:
                yield frames, 0, sound
            return
        start = max(Fraction(container.start_time or 0, av.time_base), Fraction(0))
        sound = Sound(container.streams.audio, start)
        seconds = container.duration * 1e-6 if container.duration else 0
        expected = video.frames or round(seconds * (video.average_rate or 0))
        yield _decoded(container, video, sound, start, counted), expected, sound


def open_container(source: Path | int) -> Any:
    """Open a video file, in one of `CLIP_FORMATS`, or a camera with PyAV.

    Args:
        source: a file, or the number of a camera.

    Returns:
        av.container.InputContainer, to be closed by the caller.

    Raises:
        UserError: it cannot be opened.
    """
    if isinstance(source, int):
        if sys.platform not in CAMERAS:
            raise UserError(
                f"camera {source}: cameras are read only on Linux and macOS; record a video file and predict that"
            )
        camera_format, name, options = CAMERAS[sys.platform]
        open_source = partial(av.open, name.format(source), format=camera_format, options=options)
    else:
        # Absolute: FFmpeg would take the 12 in 12:30.mp4 for a protocol.
        open_source = partial(av.open, str(source.absolute()), options={"format_whitelist": CLIP_FORMATS})
    try:
        return open_source(metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{source_name(source)}: cannot be opened as a video ({reason(error)})") from None


def _decoded(container: Any, video: Any, sound: Sound, start: Fraction, counted: Counter[str]) -> Iterator[Frame]:
    """The frames of a video, their times relative to `start`; audio packets are collected in `sound`.

    Broken frames are counted and skipped.
    """
    usual_duration = 1 / Fraction(video.average_rate or FRAME_RATE)
    next_time = start  # of a frame without a time of its own
    try:
        for packet in container.demux(video, *sound.streams):
            if packet.stream.type == "audio":
                sound.packets.append(packet)
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:
                counted["broken"] += 1
                continue
            for frame in frames:
                shown_at = next_time if frame.pts is None else Fraction(frame.pts * frame.time_base)
                duration = Fraction(frame.duration * frame.time_base) if frame.duration else usual_duration
                next_time = shown_at + duration
                yield Frame(shown_at - start, duration, partial(_upright, frame))
    except av.FFmpegError:  # no further packet can be found in the file
        counted["broken"] += 1


def _upright(frame: Any) -> Image.Image:
    """A decoded frame as an image, rotated as its metadata say."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _newest(frames: Iterator[Frame], counted: Counter[str]) -> Generator[Frame, None, None]:
    """The newest frame of a camera: a thread reads all the time, and replaces a frame that is still waiting."""
    waiting: Queue[Frame | None] = Queue(maxsize=1)
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
            waiting.get_nowait()  # so that the thread's last put() does not block
        reader.join()
