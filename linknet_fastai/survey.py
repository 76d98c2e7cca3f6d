"""A look at every frame before training: damage is named, sizes and pixels of each class are counted."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np

from linknet_fastai.dataset import Dataset, Frame, Progress, cache_folder, size_mismatch
from linknet_fastai.errors import UserError
from linknet_fastai.files import write_text
from linknet_fastai.image_files import LabelReader, open_image
from linknet_fastai.recipe import VOID
from linknet_fastai.settings import format_size


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


def survey(dataset: Dataset, frames: Sequence[Frame], progress: Progress | None = None) -> Survey:
    """Read all images and label maps once; a clean result is cached under the fingerprint of recipe and files."""
    file = cache_folder() / "surveys" / f"{_fingerprint(dataset, frames)}.json"
    try:
        return Survey(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass  # not there, or not what we wrote: look again
    read_label, n_classes = dataset.read_label, len(dataset.recipe.classes)
    sizes: Counter[str] = Counter()
    pixels, problems = np.zeros(256, np.int64), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = pool.map(lambda frame: _look(frame, read_label), frames)
        for done, (size, counts, problem) in enumerate(looks, 1):
            if problem:
                problems.append(problem)
            else:
                sizes[size] += 1
                pixels += counts
            if progress:
                progress("checking frames", done, len(frames))
    result = Survey(
        frames=len(frames),
        sizes=dict(sizes),
        class_pixels=pixels[:n_classes].tolist(),
        void_pixels=int(pixels[VOID]),
        problems=problems,
    )
    if not problems:
        with suppress(UserError):  # a cache that cannot be written costs time, nothing else
            write_text(file, json.dumps(asdict(result)))
    return result


def _look(frame: Frame, read_label: LabelReader) -> tuple[str, np.ndarray, str | None]:
    """The size of one frame, its pixels a class (256 counts), and what is wrong with it."""
    nothing = np.zeros(256, np.int64)
    try:
        size = open_image(frame.image).size
        labels = read_label(frame.label)
    except UserError as error:
        return "", nothing, str(error)
    if labels.shape[::-1] != size:
        return "", nothing, size_mismatch(frame, labels.shape[::-1], size)
    return format_size(size), np.bincount(labels.ravel(), minlength=256), None


def _fingerprint(dataset: Dataset, frames: Sequence[Frame]) -> str:
    """Changes with the recipe's mapping, and with any file's path, size or time of change."""
    digest = hashlib.sha256(
        json.dumps([dataset.layout.model_dump(mode="json"), dataset.recipe.model_dump(mode="json")]).encode()
    )
    for frame in frames:
        for path in (frame.image, frame.label):
            stat = path.stat()
            digest.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]
