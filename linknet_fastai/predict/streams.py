"""Addresses of video streams. Opens no connection."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from linknet_fastai.core.errors import UsageError
from linknet_fastai.predict.kinds import CLIP_FORMATS

SCHEMES = ("rtsp", "http", "https")
# What FFmpeg may read of them. A playlist (HLS) names further addresses, but reaches no file of this machine.
OPTIONS = {
    "format_whitelist": f"{CLIP_FORMATS},hls,mpjpeg,rtsp",
    "protocol_whitelist": "http,https,rtsp,rtp,tcp,tls,udp",
    "rtsp_transport": "tcp",  # of UDP packets some are lost
}
TIMEOUT = 10  # seconds without data after which a stream has broken off


@dataclass(frozen=True)
class Stream:
    """A video stream; what messages and files call it is without what gives access to it.

    Attributes:
        address: its URL. It may contain a user, a password or a key: for FFmpeg alone, never to be shown.

    Example:
        >>> camera = Stream("rtsp://admin:secret@10.0.0.5:554/live.sdp?key=secret")
        >>> str(camera), camera.file_name
        ('rtsp://10.0.0.5:554/live.sdp', '10.0.0.5-554-live.mp4')
        >>> camera
        Stream()
    """

    address: str = field(repr=False)

    def __str__(self) -> str:
        scheme, _, rest = self.address.partition("://")
        # From the last @: a password may contain what usually ends it.
        return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"

    @property
    def file_name(self) -> str:
        """The name of its overlay video."""
        host, slash, path = str(self).partition("://")[2].partition("/")
        name = re.sub(r"[^\w.]+", "-", host + slash + re.sub(r"\.\w{2,4}$", "", path))
        return f"{name.strip('-.')[:100]}.mp4"


def find_streams(inputs: Sequence[str], allow_network: bool) -> tuple[list[Stream], list[Path]]:
    """Separate addresses from files.

    Args:
        inputs: files, folders, numbers of cameras, and addresses.
        allow_network: whether addresses may be opened.

    Returns:
        The streams, and the other inputs.

    Raises:
        UsageError: there is an address, and it may not be opened, or is none of a video stream.

    Example:
        >>> list(map(str, find_streams(["https://example.com/drive.mp4", "drive.mp4"], allow_network=True)[1]))
        ['drive.mp4']
    """
    addresses = [text for text in inputs if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text)]
    streams = [Stream(address) for address in addresses]
    for stream in streams:
        if stream.address.partition("://")[0].lower() not in SCHEMES:
            raise UsageError(f"{stream}: no stream that is read ({', '.join(f'{name}://' for name in SCHEMES)})")
        if not allow_network:
            raise UsageError(f"{stream}: no connection is opened without --allow-network")
    return streams, [Path(text) for text in inputs if text not in addresses]
