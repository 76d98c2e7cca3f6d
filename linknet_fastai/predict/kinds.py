"""What a file is: a video, an image, or one that is not read. Looks at its ending and its first bytes."""

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from linknet_fastai.core.files import check_regular
from linknet_fastai.core.images import IMAGE_SUFFIXES, RAW_SUFFIXES

# The video formats that are read, by FFmpeg's names, and how their files begin (of MJPEG as a JPEG does). FFmpeg's
# other formats include playlists, which name further files and addresses to read.
_STARTS = {
    "asf": rb"0&\xb2u\x8ef\xcf\x11",
    "avi": rb"RIFF....AVI",
    "dv": rb"\x1f\x07\0",
    "flv": rb"FLV\x01",
    "gif": rb"GIF8",
    "h264": rb"\0{2,3}\x01[\x09\x27\x47\x67]",
    "hevc": rb"\0{2,3}\x01[\x40\x46]\x01",
    "ivf": rb"DKIF",
    "m4v": rb"\0\0\x01\xb0",
    "matroska": rb"\x1aE\xdf\xa3",
    "mjpeg": None,
    # "ftyp" is also how HEIC, AVIF, camera raws of Canon and sound begin.
    "mov": rb"....(?:ftyp(?!avi|crx|he[iv]|mif|msf|M4[AB])|moov|mdat|wide|free|skip|pnot)",
    "mpeg": rb"\0\0\x01\xba",
    "mpegts": rb".{0,191}?(?:(?:G.{187}){3}G|(?:G.{191}){3}G)",
    "mpegvideo": rb"\0\0\x01\xb3",
    "mxf": rb"\x06\x0e\x2b\x34",
    "ogg": rb"OggS",
    "yuv4mpegpipe": rb"YUV4MPEG2 ",
}
CLIP_FORMATS = ",".join(_STARTS)
_VIDEO_START = re.compile(b"|".join(filter(None, _STARTS.values())), re.DOTALL)
_IMAGE_START = re.compile(
    rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|\0\0\0\x0cjP|\xff\x4f\xff\x51|II\*\0|MM\0\*", re.DOTALL
)
_START_BYTES = 1024

# Of a video in a folder; one that is named may have any ending. Without lrv and lrf: small copies that cameras write,
# with the stem of the video itself.
_VIDEO = """264 265 3g2 3gp asf avc avi divx dv f4v flv gif h264 h265 hevc ivf m1v m2t m2ts m2v m4v mjpeg mjpg mkv mov
    mp4 mpe mpeg mpg mts mxf ogm ogv qt ts vob webm wmv y4m"""
_OTHER = "avif braw dds exr hdr heic heif hif jxl psd r3d rmvb tga"
_SOUND = "m4b mka oga ogg opus wma"


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


VIDEO_SUFFIXES, _SOUND_SUFFIXES = _suffixes(_VIDEO), _suffixes(_SOUND)
_OTHER_SUFFIXES = _suffixes(_OTHER) | RAW_SUFFIXES
BAG_SUFFIXES = (".mcap", ".db3", ".bag")
_ALSO_CODE = (".mts", ".ts")  # TypeScript


def is_bag(path: Path) -> bool:
    """Whether a path is a ROS bag: a file by its ending, or a folder of rosbag2.

    Example:
        >>> is_bag(Path("no/such/drive.mcap"))
        False
    """
    if path.is_dir():
        return _start_of(path / "metadata.yaml").startswith(b"rosbag2_bagfile_information")
    return path.suffix in BAG_SUFFIXES and path.is_file()


def is_video(file: Path) -> bool:
    """Whether a file is a video that FFmpeg is asked to read, also one without a usual ending.

    A file with the ending of a video that begins like none is a damaged video, unless it is an image or code. A GIF
    is a video whatever its name.

    Example:
        >>> is_video(Path("gone.mp4")), is_video(Path("gone.png"))
        (True, False)
    """
    suffix, start = file.suffix.lower(), _start_of(file)
    if _VIDEO_START.match(start) or suffix in (".mjpeg", ".mjpg"):
        return True
    is_code = suffix in _ALSO_CODE and b"\0" not in start
    return suffix in VIDEO_SUFFIXES and not is_code and not _IMAGE_START.match(start)


def unread(files: Iterable[Path]) -> str | None:
    """Count the files that are images or videos and have not the ending of one that is read in a folder.

    Args:
        files: all files of a folder.

    Returns:
        "2 files are not read: .heic (2); ...", None if there are none.

    Example:
        >>> unread([Path("a.heic"), Path("b.HEIC"), Path("notes.txt")])
        '2 files are not read: .heic (2); convert or rename them to .png, .jpg or .mp4'
    """
    counts: Counter[str] = Counter()
    for file in files:
        suffix = file.suffix.lower()
        if suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES or suffix in _SOUND_SUFFIXES:
            continue
        start = b"" if suffix in _OTHER_SUFFIXES else _start_of(file)
        if suffix in _OTHER_SUFFIXES or _VIDEO_START.match(start) or _IMAGE_START.match(start):
            counts[suffix or "no ending"] += 1
    if not counts:
        return None
    kinds = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(counts.items()))
    files_are = "1 file is" if counts.total() == 1 else f"{counts.total()} files are"
    return f"{files_are} not read: {kinds}; convert or rename them to .png, .jpg or .mp4"


def _start_of(file: Path) -> bytes:
    with suppress(OSError):
        check_regular(file)  # a pipe may have no end
        with file.open("rb") as opened:
            return opened.read(_START_BYTES)
    return b""
