"""Overlay videos of video files, cameras, streams and images, frame by frame, in constant memory."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from linknet_fastai.core.errors import UserError, import_optional, reason
from linknet_fastai.core.files import atomic_write
from linknet_fastai.core.images import SOFTWARE
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.engines.engine import Engine, frame_threads
from linknet_fastai.predict.frames import FRAME_RATE, Frame, open_frames
from linknet_fastai.predict.images import without_uncertain
from linknet_fastai.predict.inputs import Source, source_name
from linknet_fastai.predict.overlay import overlay

av = import_optional("av", "video")

X264_OPTIONS = {"preset": "veryfast", "crf": "20"}
TIME_BASE = Fraction(1, 90_000)  # seconds, of written videos: MPEG's own, a multiple of every usual frame rate


@dataclass(frozen=True)
class VideoResult:
    """The outcome of `predict_video`.

    Attributes:
        file: the overlay video.
        frames: how many frames it has.
        dropped: how many frames were left out to keep to a frame rate, or to keep up with a camera.
        broken: how many frames could not be read.
        stopped: whether Ctrl-C ended it.
        seconds: how long it took.
        sound_left_out: the codecs of audio streams that could not be copied into an MP4.
        problem: one line about what of the source is missing or damaged; empty if nothing is.
        live: whether the source has no end of its own, as that of a camera.
    """

    file: Path
    frames: int
    dropped: int
    broken: int
    stopped: bool
    seconds: float
    sound_left_out: Sequence[str] = ()
    problem: str = ""
    live: bool = False

    def __str__(self) -> str:
        text = f"{self.frames} frames, {self.frames / self.seconds:.1f} a second"
        if self.dropped:
            text += f", {self.dropped} dropped"
        if self.broken:
            text += f", {self.broken} broken"
        if self.sound_left_out:
            text += f", without its {'/'.join(self.sound_left_out)} sound, which cannot be copied into an MP4"
        return f"{text}: {self.file}"


def predict_video(
    engine: Engine,
    source: Source,
    file: Path,
    opacity: float = 0.5,
    fps: float | None = None,
    progress: Progress | None = None,
    shown: Collection[int] | None = None,
    below: float | None = None,
) -> VideoResult:
    """Write an MP4 of a video with the predicted classes drawn over it, complete or not at all.

    Every frame keeps its time relative to the start of the source and the shape of its pixels, and is turned as the
    source says. The sound is copied if its codec fits in an MP4. A frame that cannot be read is left out. Ctrl-C ends
    the video after the frames that are done.

    Args:
        engine: the model.
        source: a video file, the number of a camera, a stream, or images, see `Clip`.
        file: the MP4 to write.
        opacity: opacity of the colors, 0 to 1.
        fps: frames per second. For images the frame rate (25 by default); for all others the maximum,
            frames above it are dropped.
        progress: called with what is done, the number of the source's frames done and the number expected, 0 if that
            is unknown.
        shown: the channels that are drawn; all by default.
        below: pixels with a lower confidence than this, 0 to 1, are not colored; None colors all.

    Raises:
        UserError: the source cannot be opened or has no frame, or the file cannot be written.

    Example:
        A video file, at most 10 frames per second::

            engine = open_engine(Path("runs/camvid"))
            result = predict_video(engine, Path("drive.mp4"), Path("overlay.mp4"), fps=10)
            print(result.frames, result.dropped)
    """
    started = time.perf_counter()
    if below is not None:
        engine.require_confidence()
    wanted = Fraction(fps).limit_denominator(1001) if fps else None  # FFmpeg's rates are fractions of 32-bit integers
    with open_frames(source, wanted or Fraction(FRAME_RATE)) as reading:
        if wanted:
            reading.limit_rate(wanted)
        for first in reading.frames:
            if image := first.image():
                break
            reading.broken += 1
        else:
            why = f" ({reading.ended_by})" if reading.ended_by else ""
            raise UserError(f"{source_name(source)}: none of its frames can be read{why}")
        zero = first.time if reading.live else Fraction(0)  # frames before it may have been dropped
        width, height = (side + side % 2 for side in image.size)  # H.264 needs even sides

        def predict(frame: Frame) -> Any:
            if (image := frame.image()) is None:
                return None
            if below is None:
                channels = engine.predict_channels(image)
            else:
                channels = without_uncertain(*engine.predict_with_confidence(image), below)
            drawn = overlay(image, channels, engine.card, opacity, shown)
            resized = drawn.resize((width, height))
            converted = av.VideoFrame.from_image(resized).reformat(format="yuv420p", dst_colorspace="itu709")
            converted.time_base, converted.pts = TIME_BASE, round((frame.time - zero) / TIME_BASE)
            return converted

        with (
            _ffmpeg_errors_as_user_errors(f"{source_name(source)}: cannot be converted to {file}"),
            atomic_write(file) as partial_file,
            av.open(str(partial_file.absolute()), "w", format="mp4") as output,
        ):
            rate = min(1 / first.duration, wanted or 1000)  # FFmpeg takes the duration of the last frame from it
            video = output.add_stream("libx264", rate, X264_OPTIONS, width=width, height=height, pix_fmt="yuv420p")
            video.codec_context.time_base = TIME_BASE
            video.codec_context.colorspace = av.video.reformatter.Colorspace.ITU709
            video.codec_context.sample_aspect_ratio = first.pixel_aspect.limit_denominator(1000)
            output.metadata["comment"] = SOFTWARE[1]  # for `is_own_video`
            reading.sound.add_to(output)
            what, done, latest = f"predicting {file.name}", 0, -1
            stopped = False

            def frames() -> Iterator[Frame]:
                """Those before Ctrl-C: where it stops the wait for the next one, they are still predicted."""
                nonlocal stopped
                try:
                    yield from chain([first], reading.frames)
                except KeyboardInterrupt:
                    stopped = True

            try:
                for drawn in map_in_threads(predict, frames(), frame_threads(engine)):
                    if drawn is None:
                        reading.broken += 1
                    else:
                        latest = drawn.pts = max(drawn.pts, latest + 1)  # in damaged files times may decrease
                        output.mux(video.encode(drawn))
                        done += 1
                    reading.sound.write()
                    taken = done + reading.dropped + reading.broken
                    if progress:
                        progress(what, taken, reading.expected and max(taken, reading.expected))
                if progress:
                    progress(what, taken, taken)
            except KeyboardInterrupt:  # not while waiting for a frame
                stopped = True
            if stopped and not done:
                raise KeyboardInterrupt
            output.mux(video.encode(None))
            reading.sound.write()
    seconds, left_out = time.perf_counter() - started, reading.sound.left_out
    problem = "" if stopped else reading.problem(source)
    return VideoResult(file, done, reading.dropped, reading.broken, stopped, seconds, left_out, problem, reading.live)


@contextmanager
def _ffmpeg_errors_as_user_errors(message: str) -> Iterator[None]:
    """Convert FFmpeg's errors; `atomic_write` converts only those of them that are an OSError."""
    try:
        yield
    except av.FFmpegError as error:
        raise UserError(f"{message} ({reason(error)})") from error
