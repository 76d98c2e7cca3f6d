"""The sound of a video, brought into another: copied where players find it in an MP4, else as AAC."""

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

from linknet_fastai.core.errors import import_optional

av = import_optional("av", "video")

COPIED = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}  # what players expect in an MP4
SAMPLE_RATE = 48_000  # Hz, of sound whose own rate AAC does not have


class Sound:
    """Brings sound from one container into another; what of it is broken, or nobody can decode, is left out.

    Packets that come before `begin` wait for it.

    Args:
        streams: the audio streams of the source.
        start: the time in the source, in seconds, that is 0 in the output.
    """

    def __init__(self, streams: Sequence[Any] = (), start: Fraction = Fraction(0)) -> None:
        self.streams = [stream for stream in streams if stream.codec_context is not None]
        self._start = start
        self._waiting: list[Any] = []
        self._output: Any = None

    def begin(self, output: Any) -> None:
        """Add the streams to an output that has written nothing yet."""
        self._output = output
        self._copied, self._coded, self._latest = {}, {}, {}
        for stream in self.streams:
            if stream.codec_context.name in COPIED:
                self._copied[stream.index] = output.add_stream_from_template(stream)
            else:
                rate = stream.codec_context.sample_rate
                rates = av.Codec("aac", "w").audio_rates
                self._coded[stream.index] = output.add_stream("aac", rate=rate if rate in rates else SAMPLE_RATE)
        for packet in self._waiting:
            self.take(packet)
        self._waiting.clear()

    def take(self, packet: Any) -> None:
        """Write a packet."""
        if self._output is None:
            self._waiting.append(packet)
            return
        index = packet.stream.index
        with suppress(av.FFmpegError):  # a full disk is told by the video's own packets
            if index in self._copied:
                self._copy(packet, self._copied[index])
            else:
                coded = self._coded[index]
                for frame in packet.decode():
                    if frame.pts is not None:
                        frame.pts -= round(self._start / frame.time_base)
                    self._output.mux(coded.encode(frame))

    def _copy(self, packet: Any, copied: Any) -> None:
        # The last packet of a stream is empty; where a file is damaged time runs back, which no MP4 can say.
        if packet.dts is None or packet.dts <= self._latest.get(copied.index, packet.dts - 1):
            return
        self._latest[copied.index] = packet.dts
        late = round(self._start / packet.time_base)
        packet.dts -= late
        if packet.pts is not None:
            packet.pts -= late
        packet.stream = copied
        self._output.mux(packet)

    def end(self) -> None:
        """Write what the encoders still hold."""
        for coded in self._coded.values():
            with suppress(av.FFmpegError):
                self._output.mux(coded.encode(None))
