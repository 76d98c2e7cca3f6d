"""Which videos there are among the inputs of a prediction. Opens none: that is `video`, which needs PyAV."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linknet_fastai.core.errors import UsageError
from linknet_fastai.predict.images import files_in, find_images, images_in

VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

Source = Path | int | Sequence[Path]  # a video file, a camera's number, or the images that are its frames, in order


@dataclass(frozen=True)
class Clip:
    """A video to predict, and where its overlay video goes, relative to `overlays/`.

    Attributes:
        source: a video file, a camera's number, or the images that are its frames, in order.
    """

    source: Source
    target: Path


def collect_clips(inputs: Sequence[Path], out: Path, as_video: bool = False) -> tuple[list[Clip], list[Path]]:
    """Tell videos from images.

    Args:
        inputs: files, folders, and numbers of cameras.
        out: the folder to predict into: what an earlier prediction left there is no input.
        as_video: whether the images of a folder are a video's frames, in the order of the numbers in their names.

    Returns:
        The videos, and the inputs that hold images, for `collect_jobs`.

    Raises:
        UsageError: no folder with images that should be frames, or two videos that would write one file.
        UserError: a folder cannot be looked into.
    """
    clips, images = [], []
    for source in inputs:
        if os.path.isdir(source):
            videos = files_in(source, VIDEO_SUFFIXES, out)
            clips += [Clip(path, path.relative_to(source).with_suffix(".mp4")) for path in videos]
            if as_video:
                frames = sorted(find_images(source, out), key=_by_number)
                clips.append(Clip(frames, Path(f"{source.resolve().name}.mp4")))
            elif not videos or images_in(source, out):
                images.append(source)
        elif source.suffix.lower() in VIDEO_SUFFIXES and os.path.isfile(source):
            clips.append(Clip(source, Path(f"{source.stem}.mp4")))
        elif str(source).isdecimal() and not os.path.exists(source):
            clips.append(Clip(int(str(source)), Path(f"camera-{source}.mp4")))
        else:
            images.append(source)
    if as_video and not any(isinstance(clip.source, Sequence) for clip in clips):
        raise UsageError("--video: makes one video of the images of a folder; name the folder")
    targets = Counter(clip.target for clip in clips)
    if twice := [target for target, number in targets.items() if number > 1]:
        raise UsageError(f"two videos would both write {twice[0]}; predict them apart")
    return clips, images


def _by_number(file: Path) -> list[Any]:
    """frame2 before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(file))]
