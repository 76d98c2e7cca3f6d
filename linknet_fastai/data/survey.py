"""A look at every frame before training: damage is named, sizes and pixels of each class are counted."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL
from PIL import Image
from pydantic import TypeAdapter

from linknet_fastai.config.settings import format_size
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import read_text, write_text
from linknet_fastai.core.images import VOID, open_image
from linknet_fastai.core.parallel import Progress, map_in_threads, usable_cores
from linknet_fastai.data.dataset import Dataset, Frame, size_mismatch
from linknet_fastai.data.fetch import cache_folder
from linknet_fastai.data.labels import LabelReader

FORMAT = 2  # of what is made of files and kept: one more where other code makes other pixels or counts of them


@dataclass(frozen=True)
class Survey:
    """What a look at some frames found.

    Attributes:
        frames: how many were looked at.
        sizes: how many frames have which size, by "WIDTHxHEIGHT".
        class_pixels: pixels of each class over all label maps.
        void_pixels: pixels that are void.
        problems: a line for each damaged frame, naming the file.
    """

    frames: int
    sizes: dict[str, int]
    class_pixels: list[int]
    void_pixels: int
    problems: list[str]

    def raise_problems(self) -> None:
        """Raise UserError for the first problem, if there is one, and count the others."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more problems)" if len(self.problems) > 1 else ""
            raise UserError(self.problems[0] + more)


SURVEY = TypeAdapter(Survey)  # checks one that was read


def survey(dataset: Dataset, frames: Sequence[Frame], progress: Progress | None = None) -> Survey:
    """Read all images and label maps once; a clean result is cached under the fingerprint of recipe and files."""
    file = cache_folder() / "surveys" / f"{fingerprint(dataset, frames)}.json"
    try:
        return SURVEY.validate_json(read_text(file), strict=True)
    except (OSError, ValueError):
        pass  # not there, or not what we wrote: look again
    result = count_frames(dataset, frames, "checking frames", progress)
    if not result.problems:
        with suppress(UserError):  # a cache that cannot be written costs time, nothing else
            write_text(file, json.dumps(asdict(result)))
    return result


def count_frames(
    dataset: Dataset,
    frames: Sequence[Frame],
    what: str,
    progress: Progress | None = None,
    prepare: Callable[[Image.Image, np.ndarray], Any] | None = None,
    keep: Callable[[Any], None] | None = None,
) -> Survey:
    """Read all images and label maps, in threads.

    Args:
        dataset: the data.
        frames: which to read.
        what: what `progress` is told that is done.
        progress: told how far it is.
        prepare: makes something of each sound frame (its RGB image, its HxW uint8 channels), in the threads.
        keep: is given what `prepare` made, one after the other in the order of the frames.
    """
    read_label, n_classes = dataset.read_label, len(dataset.recipe.classes)
    sizes: Counter[str] = Counter()
    pixels, problems = np.zeros(256, np.int64), []
    looks = map_in_threads(lambda frame: _look(frame, read_label, prepare), frames, usable_cores())
    for done, (size, counts, problem, prepared) in enumerate(looks, 1):
        if problem:
            problems.append(problem)
        else:
            sizes[size] += 1
            pixels += counts
            if keep and not problems:
                keep(prepared)
        if progress:
            progress(what, done, len(frames))
    return Survey(
        frames=len(frames),
        sizes=dict(sizes),
        class_pixels=pixels[:n_classes].tolist(),
        void_pixels=int(pixels[VOID]),
        problems=problems,
    )


def _look(
    frame: Frame, read_label: LabelReader, prepare: Callable[[Image.Image, np.ndarray], Any] | None
) -> tuple[str, np.ndarray, str | None, Any]:
    """The size of one frame, its pixels a class (256 counts), what is wrong with it, and what is made of it."""
    nothing = np.zeros(256, np.int64)
    try:
        image = open_image(frame.image)
        labels = read_label(frame.label)
    except UserError as error:
        return "", nothing, str(error), None
    if labels.shape[::-1] != image.size:
        return "", nothing, size_mismatch(frame, labels.shape[::-1], image.size), None
    counts = np.bincount(labels.ravel(), minlength=256)
    return format_size(image.size), counts, None, prepare and prepare(image, labels)


def fingerprint(dataset: Dataset, frames: Sequence[Frame]) -> str:
    """Changes with the recipe's mapping, any file's path, size or time of change, and with what decodes them."""
    reader = dataset.read_label
    mapping = [len(dataset.recipe.classes), reader.in_color, sorted(reader.raw.items())]
    digest = hashlib.sha256(json.dumps([FORMAT, PIL.__version__, *mapping]).encode())
    for frame in frames:
        for path in (frame.image, frame.label):
            try:
                stat = path.stat()
            except OSError as error:  # a link to nothing, or gone meanwhile
                raise UserError(f"{path}: cannot be read ({reason(error)})") from None
            digest.update(os.fsencode(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return digest.hexdigest()[:32]
