"""The sound of a video: its packets are copied into the overlay video. Nothing is decoded or encoded."""

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

from linknet_fastai.core.errors import import_optional

av = import_optional("av", "video")

# An explicit list: FFmpeg reports that an MP4 takes 16-bit PCM as well, and fails when the file is written.
COPIED = {"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus", "vorbis"}


class Sound:
    """Audio packets on their way from one container to another.

    The reader of the source appends to `packets`, `write` copies what has come since.

    Args:
        streams: the audio streams of the source.
        start: the time in the source, in seconds, that is 0 in the output.

    Attributes:
        streams: those that can be copied.
        left_out: the names of the other streams' codecs.
        packets: of all streams, what is not written yet.
    """

    def __init__(self, streams: Sequence[Any] = (), start: Fraction = Fraction(0)) -> None:
        named = [(stream, _codec_of(stream)) for stream in streams]
        self.streams = [stream for stream, codec in named if codec in COPIED]
        self.left_out = [codec for _, codec in named if codec not in COPIED]
        self.packets: list[Any] = []
        self._start = start

    def add_to(self, output: Any) -> None:
        """Add the streams to an output that has written nothing yet."""
        self._output = output
        self._copies = {stream.index: output.add_stream_from_template(stream) for stream in self.streams}

    def write(self) -> None:
        """Copy the packets that were read since the last call; damaged ones are left out."""
        for packet in self.packets:
            # The packets of streams that are left out, and the empty one at the end of a stream.
            if packet.stream.index not in self._copies or packet.dts is None:
                continue
            late = round(self._start / packet.time_base)
            packet.dts -= late
            if packet.pts is not None:
                packet.pts -= late
            packet.stream = self._copies[packet.stream.index]
            # FFmpeg refuses a packet that is earlier than the one before it, as in damaged files. A full disk is
            # reported by the packets of the video.
            with suppress(av.FFmpegError):
                self._output.mux(packet)
        self.packets.clear()


def _codec_of(stream: Any) -> str:
    """The codec of a stream, whichever decoder reads it: "mp3", not "mp3float"."""
    return stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
