"""Which images, videos and ROS bags to predict, and where masks and overlays are written. Decodes none of them."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.files import check_own, is_system_file
from linknet_fastai.core.images import IMAGE_SUFFIXES, is_own_png
from linknet_fastai.predict.kinds import VIDEO_SUFFIXES, is_bag, is_video, unread
from linknet_fastai.predict.streams import Stream

LEGEND = "legend.png"
WRITTEN = ("masks", "overlays", "confidence")  # the folders that a prediction writes into

# A video file, the number of a camera, a stream, or images that are frames, in order.
Source = Path | int | Stream | Sequence[Path]


@dataclass(frozen=True)
class Job:
    """An image to predict, and where its mask and overlay go, relative to `masks/` and `overlays/`."""

    image: Path
    target: Path

    def __str__(self) -> str:
        return str(self.image)


@dataclass(frozen=True)
class Bag:
    """A ROS bag to predict, and where the bag of its predictions goes, relative to `bags/`."""

    source: Path
    target: Path

    def __str__(self) -> str:
        return str(self.source)


@dataclass(frozen=True)
class Clip:
    """A video to predict, and where its overlay video goes, relative to `overlays/`.

    Attributes:
        source: a video file, the number of a camera, a stream, or the images that are its frames, in order.
    """

    source: Source
    target: Path

    def __str__(self) -> str:
        return source_name(self.source)


def source_name(source: Source) -> str:
    """What messages call a video.

    Example:
        >>> source_name(0), source_name([Path("drive/1.png"), Path("drive/2.png")])
        ('camera 0', 'drive')
    """
    if isinstance(source, Sequence):
        return str(source[0].parent)
    return f"camera {source}" if isinstance(source, int) else str(source)


def mask_name(image: Path) -> str:
    """The file name of an image's mask.

    Example:
        >>> mask_name(Path("drive/0001.jpg"))
        '0001.png'
    """
    return f"{image.stem}.png"


def collect_bags(inputs: Sequence[Path], out: Path) -> tuple[list[Bag], list[Path]]:
    """Separate ROS bags from other inputs.

    Args:
        inputs: files, folders, and numbers of cameras.
        out: the folder to predict into.

    Returns:
        The bags, and the other inputs, for `collect_clips`.

    Raises:
        UsageError: two bags have the same target, or what would be overwritten is one of the bags, or was not written
            by a prediction.

    Example:
        >>> collect_bags([Path("frame.png")], Path("out"))[0]
        []
    """
    paths = [path for path in inputs if is_bag(path)]
    bags = [Bag(path, Path(path.resolve().name if path.is_dir() else path.stem)) for path in paths]
    _check_targets(bags)
    for bag in bags:
        from linknet_fastai.predict.bags import is_own_bag  # needs an optional package

        target = out / "bags" / bag.target
        if target.resolve() in (bag.source.resolve(), bag.source.resolve().parent):
            raise UsageError(f"{bag}: would be overwritten; choose another --out")
        check_own(target, is_own_bag)
    return bags, [path for path in inputs if path not in paths]


def collect_clips(
    inputs: Sequence[Path | Stream], out: Path, as_video: bool = False
) -> tuple[list[Clip], list[Path]]:
    """Separate videos from images.

    Args:
        inputs: files, folders, numbers of cameras, and streams.
        out: the folder to predict into. What an earlier prediction wrote there is not used as input.
        as_video: whether the images of a folder are the frames of a video, ordered by the numbers in their names.

    Returns:
        The videos, and the inputs with images, for `collect_jobs`.

    Raises:
        UsageError: `as_video` without a folder of images, two videos with the same target, or a file that no
            prediction wrote would be overwritten.
        UserError: a folder cannot be read.

    Example:
        >>> clips, images = collect_clips([Path("0"), Path("frame.png")], Path("out"))
        >>> str(clips[0]), clips[0].target.name, images[0].name
        ('camera 0', 'camera-0.mp4', 'frame.png')
    """
    clips, images = [], []
    for path in inputs:
        if isinstance(path, Stream):
            clips.append(Clip(path, Path(path.file_name)))
        elif os.path.isdir(path):
            videos = list(filter(is_video, files_in(path, out, VIDEO_SUFFIXES)))
            clips += [Clip(video, video.relative_to(path).with_suffix(".mp4")) for video in videos]
            if as_video:
                frames = sorted(find_images(path, out), key=natural_order)
                clips.append(Clip(frames, Path(f"{path.resolve().name}.mp4")))
            elif not videos or files_in(path, out):
                images.append(path)
        elif os.path.isfile(path) and is_video(path):
            clips.append(Clip(path, Path(f"{path.stem}.mp4")))
        elif str(path).isdecimal() and not os.path.exists(path):
            clips.append(Clip(int(str(path)), Path(f"camera-{path}.mp4")))
        else:
            images.append(path)
    if as_video and not any(isinstance(clip.source, Sequence) for clip in clips):
        raise UsageError("--video: makes one video of the images of a folder; name the folder")
    _check_targets(clips)
    for clip in clips:
        from linknet_fastai.predict.frames import is_own_video  # needs an optional package

        check_own(out / "overlays" / clip.target, is_own_video)
    return clips, images


def collect_jobs(
    inputs: Sequence[Path],
    out: Path,
    name_of: Callable[[Path], str] = mask_name,
    written: Sequence[str] = WRITTEN,
) -> list[Job]:
    """Find the images in files and folders. The subfolders of a folder are mirrored.

    Args:
        inputs: images and folders of images.
        out: the folder to predict into. What an earlier prediction wrote there is not used as input, also if `out` is
            inside a folder of images.
        name_of: gives the file name of an image's mask.
        written: the folders below `out` for which the targets are checked.

    Raises:
        UsageError: there are no images, two of them have the same target, or a file that no prediction wrote would be
            overwritten.
        UserError: an input is missing, or a folder cannot be read.

    Example:
        ::

            jobs = collect_jobs([Path("drive")], out=Path("predicted"))
            predict_images(engine, jobs, Path("predicted"))
    """
    jobs = []
    for path in inputs:
        if os.path.isdir(path):
            jobs += [Job(image, image.relative_to(path).with_name(name_of(image))) for image in files_in(path, out)]
        elif os.path.isfile(path):
            jobs.append(Job(path, Path(name_of(path))))
        else:
            raise UserError(f"{path}: no such file or folder")
    if not jobs:
        raise _no_images(*inputs)
    _check_targets(jobs)
    for file in (out / folder / job.target for job in jobs for folder in written):
        check_own(file, is_own_png)
    return jobs


def note_of_unread(inputs: Iterable[Path], out: Path) -> str | None:
    """What in the folders of the inputs could be an image or a video and is not read, None if there is nothing.

    Example:
        ::

            print(note_of_unread([Path("drive")], Path("out")))  # 2 files are not read: .heic (2); convert them ...
    """
    return unread(file for path in inputs if os.path.isdir(path) for file in files_in(path, out, None))


def _check_targets(outputs: Iterable[Job | Clip | Bag]) -> None:
    """Raise UsageError if two inputs would be written to the same file."""
    known: dict[Path, Job | Clip | Bag] = {}
    for output in outputs:
        if (other := known.setdefault(output.target, output)) is not output:
            raise UsageError(f"{other} and {output} would both write {output.target}; predict them separately")


def natural_order(file: Path) -> list[int | str]:
    """A sort key that puts frame2 before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(file))]


def find_images(folder: Path, out: Path | None = None) -> list[Path]:
    """All images in a folder and its subfolders, sorted by name.

    Args:
        folder: where to look.
        out: the folder of a prediction, whose masks and overlays are left out.

    Raises:
        UserError: there is no such folder, or it cannot be read.
        UsageError: there are no images in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of images")
    if images := files_in(folder, out):
        return images
    raise _no_images(folder)


def files_in(folder: Path, out: Path | None = None, suffixes: Collection[str] | None = IMAGE_SUFFIXES) -> list[Path]:
    """All files with one of the suffixes in a folder and its subfolders, sorted by name.

    What a system leaves behind, such as `._0001.png`, is left out, see `is_system_file`. So is, of images and videos,
    what a prediction into any other folder wrote, which is known by a tag in the file.
    A link to a folder is followed once, and never to a folder that contains it.

    Args:
        folder: where to look.
        out: the folder of a prediction, whose masks, overlays and legend are left out.
        suffixes: in lower case, as in ".png"; by default those of images, None for all.

    Raises:
        UserError: a folder cannot be read.
    """

    def fail(error: OSError) -> NoReturn:
        raise UserError(f"{error.filename}: this folder cannot be read ({reason(error)})") from None

    written = {(out / name).resolve() for name in WRITTEN} if out else set()
    written_legend = out.resolve() / LEGEND if out else None
    found = []
    followed = {folder.resolve()}
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        resolved = Path(parent).resolve()
        if not written & {resolved, *resolved.parents}:
            found += [Path(parent, name) for name in names if resolved / name != written_legend]
        for name in list(folders):
            if os.path.islink(link := os.path.join(parent, name)):
                target = Path(link).resolve()
                if target in followed or target in resolved.parents:
                    folders.remove(name)
                followed.add(target)
    wanted = [file for file in found if suffixes is None or file.suffix.lower() in suffixes]
    kept = (file for file in wanted if not is_system_file(file.relative_to(folder)))
    return sorted(file for file in kept if suffixes is None or not _is_written(file, folder))


def _is_written(file: Path, folder: Path) -> bool:
    """Whether a prediction wrote an image or video below a folder; only one in such a place is opened."""
    path = file.relative_to(folder)
    if path.name != LEGEND and {*WRITTEN}.isdisjoint(path.parts[:-1]):
        return False
    if path.suffix == ".mp4":
        from linknet_fastai.predict.frames import is_own_video  # needs an optional package

        return is_own_video(file)
    return path.suffix == ".png" and is_own_png(file)


def _no_images(*inputs: Path) -> UsageError:
    return UsageError(f"{', '.join(map(str, inputs))}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
