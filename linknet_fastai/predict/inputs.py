"""What there is to predict: images and videos among files and folders, and where their masks and overlays go.

Opens none of them.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.images import IMAGE_SUFFIXES, is_own_png

LEGEND = "legend.png"
WRITTEN = ("masks", "overlays")  # the folders that a prediction writes into
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


@dataclass(frozen=True)
class Job:
    """An image to predict, and where its mask and overlay go, relative to `masks/` and `overlays/`."""

    image: Path
    target: Path


def mask_name(image: Path) -> str:
    """The name of the mask of an image: its own, as a PNG."""
    return f"{image.stem}.png"


def collect_jobs(inputs: Sequence[Path], out: Path, name_of: Callable[[Path], str] = mask_name) -> list[Job]:
    """Find the images behind files and folders; the sub-folders of a folder are mirrored.

    Args:
        inputs: images and folders of images.
        out: the folder to predict into.
        name_of: gives the name of an image's mask.

    What an earlier prediction left in `out` is no input, also where `out` lies inside a folder of images.

    Raises:
        UsageError: nothing to do, two inputs that would write one file, or one that is there and no prediction.
        UserError: an input is missing, or cannot be looked into.
    """
    jobs: dict[Path, Job] = {}
    for source in inputs:
        if os.path.isdir(source):
            images = images_in(source, out)
            found = [Job(path, path.relative_to(source).with_name(name_of(path))) for path in images]
        elif os.path.isfile(source):
            found = [Job(source, Path(name_of(source)))]
        else:
            raise UserError(f"{source}: no such file or folder")
        for job in found:
            if job.target in jobs:
                raise UsageError(
                    f"{jobs[job.target].image} and {job.image} would both write {job.target}; predict them apart"
                )
            jobs[job.target] = job
    if not jobs:
        raise _no_images(*inputs)
    for file in (out / folder / target for target in jobs for folder in WRITTEN):
        if os.path.lexists(file) and not is_own_png(file):
            raise UsageError(f"{file}: is there already and was not predicted; it would be lost: take another --out")
    return list(jobs.values())


def find_images(folder: Path, out: Path | None = None) -> list[Path]:
    """All images in a folder and its sub-folders, in the order of their names, but for those predicted into `out`.

    Raises:
        UserError: there is no such folder.
        UsageError: there are no images in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of images")
    if images := images_in(folder, out):
        return images
    raise _no_images(folder)


def images_in(folder: Path, out: Path | None = None) -> list[Path]:
    """All files in a folder and its sub-folders that are named like an image, see `files_in`.

    What cannot be read is said when it is read.
    """
    return files_in(folder, IMAGE_SUFFIXES, out)


def files_in(folder: Path, suffixes: Collection[str], out: Path | None = None) -> list[Path]:
    """All files with such a suffix in a folder and its sub-folders, in the order of their names; links are followed.

    Args:
        folder: where to look.
        suffixes: in small letters, as in ".png".
        out: what an earlier prediction into this folder has written is left out.

    Raises:
        UserError: a folder cannot be looked into.
    """
    found = sorted(path for path in _walk(folder) if path.suffix.lower() in suffixes)
    return found if out is None else _not_written(found, out)


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder. A link to a folder is followed once, and not where it leads back up."""

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f"{error.filename}: cannot be looked into ({reason(error)})") from None

    followed = {os.path.realpath(folder)}
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        yield from (Path(here, name) for name in files)
        for name in list(folders):
            if os.path.islink(link := os.path.join(here, name)):
                target = os.path.realpath(link)
                if target in followed or Path(target) in Path(os.path.realpath(here)).parents:
                    folders.remove(name)
                followed.add(target)


def _not_written(paths: Iterable[Path], out: Path) -> list[Path]:
    """Those files that lie where no prediction into `out` writes."""
    base = out.resolve()
    folders = {(base / name).resolve() for name in WRITTEN}
    homes = ((path, path.parent.resolve()) for path in paths)  # not the file itself: it may be a link to nowhere
    return [
        path
        for path, home in homes
        if not (folders & {home, *home.parents} or (path.name == LEGEND and home == base))
    ]


def _no_images(*inputs: Path) -> UsageError:
    return UsageError(f"{', '.join(map(str, inputs))}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
