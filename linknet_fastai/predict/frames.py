"""Reads the frames of videos, cameras, streams and numbered images, with their times. Predicts and writes nothing."""

import errno
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import groupby
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError, import_optional, reason
from linknet_fastai.core.images import SOFTWARE, open_image
from linknet_fastai.predict.inputs import Source, source_name
from linknet_fastai.predict.kinds import CLIP_FORMATS, is_video
from linknet_fastai.predict.sound import Sound
from linknet_fastai.predict.streams import OPTIONS, TIMEOUT, Stream

av = import_optional("av", "video")

FRAME_RATE = 25  # frames per second of numbered images, by default
# FFmpeg's input format, its name for a camera, its options: its default on macOS, 29.97 frames per second, is a rate
# that Apple's cameras do not have.
CAMERAS: dict[str, tuple[str, str, dict[str, str]]] = {
    "linux": ("v4l2", "/dev/video{}", {}),
    "darwin": ("avfoundation", "{}", {"framerate": "30"}),
}
# How a frame is turned upright, by the upper left of its display matrix.
TURNS = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Frame:
    """When and how long a frame is shown, in seconds, a function that reads it, and width / height of its pixels."""

    time: Fraction
    duration: Fraction
    load: Callable[[], Image.Image]
    pixel_aspect: Fraction = Fraction(1)

    def image(self) -> Image.Image | None:
        """Read the frame, None if it is broken."""
        try:
            return self.load()
        except (UserError, av.FFmpegError):
            return None


@dataclass
class Reading:
    """A source that is being read. What is counted is complete when the last frame was taken.

    Attributes:
        frames: the frames, in order.
        expected: about how many frames there are, 0 if unknown.
        sound: the sound, filled while frames are taken.
        length: how long the source is by its own header, in seconds, 0 if unknown.
        read: how much of that was read, in seconds.
        dropped: how many frames were left out to keep to a frame rate, or to keep up with a camera.
        broken: how many frames could not be read.
        damaged: the times, in seconds, of frames that were read with errors; decoders notice most of them.
        ended_by: the error that ended the reading, if one did.
        live: whether the frames come from a camera, or from a stream without an end, as they are taken.
    """

    frames: Iterator[Frame] = field(default_factory=lambda: iter(()))
    expected: int = 0
    sound: Sound = field(default_factory=Sound)
    length: Fraction = Fraction(0)
    read: Fraction = Fraction(0)
    dropped: int = 0
    broken: int = 0
    damaged: set[Fraction] = field(default_factory=set)
    ended_by: str = ""
    live: bool = False

    def limit_rate(self, fps: Fraction) -> None:
        """Divide each second into `fps` intervals and keep the first frame of each.

        Example:
            >>> frames = [Frame(Fraction(n, 10), Fraction(1, 10), Image.Image) for n in range(10)]
            >>> reading = Reading(iter(frames))
            >>> reading.limit_rate(Fraction(4))
            >>> [float(frame.time) for frame in reading.frames], reading.dropped
            ([0.0, 0.3, 0.5, 0.8], 6)
        """

        def limited(frames: Iterator[Frame]) -> Iterator[Frame]:
            for _, interval in groupby(frames, lambda frame: int(frame.time * fps)):
                yield next(interval)
                self.dropped += sum(1 for _ in interval)  # noqa: B031 - the frames after the first

        self.frames = limited(self.frames)

    def problem(self, source: Source) -> str:
        """One line about what is missing or damaged; empty if nothing is. Single live frames do not count."""
        closed, ended_by = "the connection was closed", self.ended_by
        if isinstance(source, Stream) and ended_by == os.strerror(errno.EIO):
            ended_by = closed
        if isinstance(source, Stream) and self.live:
            return f"{source}: broke off after {float(self.read):.1f} s ({ended_by or closed})"
        parts = []
        if not self.live:
            if self.length - self.read > 0.5:  # headers are rounded, and the last frame of some files has no length
                parts.append(f"{float(self.read):.1f} s of {float(self.length):.1f} s were read")
            if self.broken:
                parts.append(f"unreadable frames: {self.broken}")
            if self.damaged:
                parts.append(
                    f"frames with errors: {len(self.damaged)}, the first at {float(min(self.damaged)):.1f} s"
                )
        if ended_by:
            parts.append(f"reading ended with: {ended_by}")
        return f"{source_name(source)}: damaged or incomplete ({'; '.join(parts)})" if parts else ""


@contextmanager
def open_frames(source: Source, rate: Fraction) -> Iterator[Reading]:
    """Open a source for reading; it is closed at the end of the `with` block.

    Args:
        source: a video file, the number of a camera, a stream, or images, see `Clip`.
        rate: frames per second of images.

    Raises:
        UserError: the source cannot be opened, or has no video stream.
    """
    if isinstance(source, Sequence):
        images = (Frame(number / rate, 1 / rate, partial(open_image, file)) for number, file in enumerate(source))
        yield Reading(images, len(source))
        return
    with open_container(source) as container:
        if not container.streams.video:
            raise UserError(f"{source_name(source)}: there is no video stream in it")
        video = container.streams.video[0]
        reading = Reading(live=isinstance(source, int) or (isinstance(source, Stream) and _has_no_end(container)))
        if reading.live:
            # The reading thread has to end before the container is closed, also after Ctrl-C.
            with closing(_newest(_decoded(container, video, None, reading), reading)) as reading.frames:
                yield reading
            return
        start = max(Fraction(container.start_time or 0, av.time_base), Fraction(0))
        reading.sound = Sound(container.streams.audio, start)
        length = Fraction((video.duration or 0) * (video.time_base or 0))
        # Of all streams, and of some formats from 0 instead of the start.
        seconds = Fraction(container.duration or 0, av.time_base)
        reading.length = length or max(seconds - start, Fraction(0))
        if container.format.name == "avi":  # estimated by the size of the file, also of one that was cut off
            reading.length = max(reading.length, Fraction(video.frames / (video.average_rate or FRAME_RATE)))
        reading.expected = video.frames or round(seconds * (video.average_rate or 0))
        reading.frames = _decoded(container, video, start, reading)
        yield reading


def open_container(source: Path | int | Stream) -> Any:
    """Open a video file, in one of `CLIP_FORMATS`, a camera or a stream with PyAV.

    Args:
        source: a file, the number of a camera, or a stream.

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
    elif isinstance(source, Stream):
        open_source = partial(av.open, source.address, options=OPTIONS, timeout=TIMEOUT)
    else:
        # Absolute: FFmpeg would take the 12 in 12:30.mp4 for a protocol.
        open_source = partial(av.open, str(source.absolute()), options={"format_whitelist": CLIP_FORMATS})
    try:
        return open_source(metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        why = _why(error)
        if isinstance(error, av.InvalidDataError) and is_video(Path(str(source))):
            why = "damaged, or cut off before its index was written"
        elif getattr(error, "errno", None) == errno.EINVAL:
            why = f"none of FFmpeg's formats {CLIP_FORMATS}"
        raise UserError(f"{source_name(source)}: cannot be opened as a video ({why})") from None


def _has_no_end(container: Any) -> bool:
    """Whether a stream is sent as it is taken: it states no duration, and is no file either, whose size is known."""
    return not container.duration and (container.size <= 0 or container.format.name == "hls")


def _why(error: Exception) -> str:
    """Why FFmpeg cannot read: without the address, which its full message has, and which may contain a password."""
    return f"no data for {TIMEOUT} s" if isinstance(error, av.error.ExitError) else reason(error)


def is_own_video(file: Path) -> bool:
    """Whether `predict_video` wrote the file and no other program has written it since."""
    with suppress(UserError), open_container(file) as container:
        return container.metadata.get("comment") == SOFTWARE[1]
    return False


def _decoded(container: Any, video: Any, start: Fraction | None, reading: Reading) -> Iterator[Frame]:
    """The frames of a video, their times relative to `start`; audio packets are collected in `reading.sound`.

    Broken frames are counted and skipped. Of what comes live the first frame is the start, and there is no sound;
    where its format has no times, they are those of the arrival.
    """
    usual_duration = 1 / Fraction(video.average_rate or FRAME_RATE)
    next_time = start or Fraction(0)  # of a frame without a time of its own
    aspect = Fraction(video.sample_aspect_ratio or 1)
    timed = not (reading.live and container.format.flags & av.format.Flags.no_timestamps.value)
    try:
        streams = (video,) if reading.live else (video, *container.streams.audio)
        for packet in _waiting(container, streams) if reading.live else container.demux(*streams):
            if packet.stream.type == "audio":
                reading.sound.packets.append(packet)
                if packet.pts is not None and not video.duration:  # the length is that of all streams
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base - start
                    reading.read = max(reading.read, Fraction(end))
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:
                reading.broken += 1
                continue
            if packet.is_corrupt and packet.pts is not None and start is not None:
                reading.damaged.add(packet.pts * packet.time_base - start)
            for frame in frames:
                if timed:
                    shown_at = next_time if frame.pts is None else Fraction(frame.pts * frame.time_base)
                else:
                    shown_at = Fraction(time.monotonic())
                start = shown_at if start is None else start
                duration = Fraction(frame.duration * frame.time_base) if frame.duration else usual_duration
                next_time = shown_at + duration
                reading.read = max(reading.read, next_time - start)
                if frame.is_corrupt:
                    reading.damaged.add(shown_at - start)
                matrix = _display_matrix(frame)
                shown_aspect = aspect if matrix[0] else 1 / aspect  # of a frame that is turned by 90 degrees
                yield Frame(shown_at - start, duration, partial(_upright, frame, matrix), shown_aspect)
    except av.FFmpegError as error:  # no further packet can be found in the file, or the camera is gone
        reading.ended_by = _why(error)


def _waiting(container: Any, streams: Sequence[Any]) -> Iterator[Any]:
    """The packets of a camera or stream; macOS reports an error where there is no new frame yet."""
    latest = time.monotonic()
    while True:
        try:
            for packet in container.demux(*streams):
                latest = time.monotonic()
                yield packet
            return
        except av.error.BlockingIOError:
            if time.monotonic() - latest > TIMEOUT:
                raise
            time.sleep(0.005)


def _display_matrix(frame: Any) -> tuple[int, ...]:
    """How a frame is turned and mirrored to be shown, see `TURNS`: to a*x + c*y, b*x + d*y."""
    try:
        matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32)[[0, 1, 3, 4]] / 65536
    except KeyError:
        return 1, 0, 0, 1
    except ValueError:  # PyAV does not know the kind of other data of this frame, such as EXIF
        turn = math.radians(frame.rotation)
        matrix = np.array([math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)])
    return tuple(matrix.round().astype(int).tolist())


def _upright(frame: Any, matrix: tuple[int, ...]) -> Image.Image:
    """A decoded frame as an image, turned and mirrored as its metadata say."""
    image = frame.to_image()
    if matrix not in TURNS:  # another angle
        return image.rotate(frame.rotation, expand=True)
    turn = TURNS[matrix]
    return image if turn is None else image.transpose(turn)


def _newest(frames: Iterator[Frame], reading: Reading) -> Generator[Frame, None, None]:
    """The newest frame of a camera: a thread reads all the time, and replaces a frame that is still waiting."""
    waiting: Queue[Frame | None] = Queue(maxsize=1)
    done = Event()

    def read() -> None:
        try:
            for frame in frames:
                if done.is_set():
                    return
                with suppress(Empty):
                    waiting.get_nowait()
                    reading.dropped += 1
                waiting.put(frame)
        except Exception as error:  # whatever ends the thread: the caller would wait for the next frame for ever
            reading.ended_by = reason(error)
        if not done.is_set():
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
