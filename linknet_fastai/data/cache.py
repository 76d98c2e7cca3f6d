"""Frames decoded once: images and label maps in files that are mapped into memory, built when first needed."""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, BinaryIO, Self

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from linknet_fastai.config.settings import format_size
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import MAX_LIST_BYTES, read_text
from linknet_fastai.core.images import MAX_PIXELS, opened_image, resize_image, resize_labels
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import Dataset, Frame
from linknet_fastai.data.fetch import cache_folder
from linknet_fastai.data.survey import Survey, count_frames, fingerprint

INDEX, IMAGES, LABELS = "index.json", "images.bin", "labels.bin"


Side = Annotated[int, Field(ge=1, le=MAX_PIXELS)]


class Index(BaseModel):
    """What the index of a cache says: the size of its images, that of each label map, and what a look found."""

    size: tuple[Side, Side]
    label_shapes: list[tuple[Side, Side]] = Field(min_length=1)
    survey: Survey

    @model_validator(mode="after")
    def _check_areas(self) -> Self:
        if max(rows * columns for rows, columns in (self.size, *self.label_shapes)) > MAX_PIXELS:
            raise ValueError("more pixels than an image may have")
        return self


class FrameCache:
    """The decoded frames of one folder; what is in memory is what was read last, as the system sees fit.

    Args:
        folder: what `cached_frames` has built.

    Raises:
        OSError, ValueError: there is no whole cache in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = Index.model_validate_json(read_text(folder / INDEX, MAX_LIST_BYTES))
        self.survey, (width, height) = index.survey, index.size
        self.label_shapes = index.label_shapes
        ends = np.cumsum([rows * columns for rows, columns in self.label_shapes])
        # Fails where a file is shorter than it should be.
        self._images = np.memmap(folder / IMAGES, np.uint8, "r", shape=(len(ends), 3, height, width))
        self._labels = np.split(np.memmap(folder / LABELS, np.uint8, "r", shape=(int(ends[-1]),)), ends[:-1])

    def image(self, position: int) -> Tensor:
        """The image of a frame, 3xHxW uint8 RGB."""
        return torch.from_numpy(np.array(self._images[position]))

    def labels(self, position: int) -> Tensor:
        """The label map of a frame, HxW uint8 channels, 255 for void."""
        return torch.from_numpy(np.array(self._labels[position])).view(self.label_shapes[position])

    def __reduce__(self) -> tuple:
        return FrameCache, (self.folder,)  # a loader process maps the files itself


@dataclass(frozen=True)
class CachedFrame(Frame):
    """A frame that lies decoded in a cache."""

    cache: FrameCache
    position: int


def cached_frames(
    dataset: Dataset,
    frames: Sequence[Frame],
    selection: str,
    size: tuple[int, int],
    training: bool,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Survey, list[CachedFrame]]:
    """The frames of a split out of the cache, which is built first where it is not there or a file has changed.

    Args:
        dataset: the data.
        frames: what `dataset.frames(selection)` has found.
        selection: a split or a list of frames; another list of frames has another cache.
        size: (width, height) of the images.
        training: whether label maps are brought to that size as well; else they keep their own.
        folder: where caches lie, by default in `linknet_fastai.data.dataset.cache_folder`.
        progress: told how far the building is.

    Returns:
        What a look at every frame found, and the frames.

    Raises:
        UserError: a frame is damaged, or the cache cannot be written.
    """
    home = recipe_caches(dataset.recipe.name, folder)
    slot = [str(dataset.folder.resolve()), selection, format_size(size), training]
    slot_name = sha256(json.dumps(slot).encode()).hexdigest()[:12]
    target = home / f"{slot_name}-{fingerprint(dataset, frames)}"
    cache = _open(target)
    if cache is None:
        try:
            home.mkdir(parents=True, exist_ok=True)
            # Two runs that start at once: the second waits and finds what the first has built.
            with _locked(home / f"{slot_name}.lock", progress):
                cache = _open(target) or _build(dataset, frames, size, training, target, progress)
                for stale in set(home.glob(f"{slot_name}-*")) - {target}:
                    shutil.rmtree(stale, ignore_errors=True)
        except OSError as error:
            raise UserError(
                f"{home}: the cache of decoded frames cannot be written ({reason(error)}); "
                "name another folder with --cache-dir, or do without with --no-cache"
            ) from None
    return cache.survey, [CachedFrame(**vars(frame), cache=cache, position=i) for i, frame in enumerate(frames)]


def recipe_caches(recipe_name: str, folder: Path | None = None) -> Path:
    """The folder that holds the caches of a recipe."""
    return (folder or cache_folder()) / "frames" / re.sub(r"[^\w-]", "_", recipe_name)


def clear_caches(recipe_name: str, folder: Path | None = None) -> int:
    """Delete the caches of a recipe.

    Returns:
        How many bytes that freed.

    Raises:
        UserError: another run is building one, or files cannot be deleted.
    """
    home, freed = recipe_caches(recipe_name, folder), 0
    for file in home.glob("*.lock"):  # the lock files stay: another run may be about to take one
        try:
            with FileLock(file, timeout=0):
                for cache in home.glob(f"{file.stem}-*"):
                    freed += sum(path.stat().st_size for path in cache.iterdir())
                    shutil.rmtree(cache)
        except Timeout:
            raise UserError(f"{home}: another run builds this cache right now; clear it when that is done") from None
        except OSError as error:
            raise UserError(f"{home}: cannot be cleared ({reason(error)})") from None
    return freed


def _open(folder: Path) -> FrameCache | None:
    try:
        return FrameCache(folder)
    except (OSError, ValueError):
        return None


def _locked(file: Path, progress: Progress | None) -> FileLock:
    lock = FileLock(file)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        what = "waiting for another run that builds the cache"
        if progress:
            progress(what, 0, 1)
        held = lock.acquire()
        if progress:
            progress(what, 1, 1)
        return held


def _build(
    dataset: Dataset,
    frames: Sequence[Frame],
    size: tuple[int, int],
    training: bool,
    target: Path,
    progress: Progress | None,
) -> FrameCache:
    """Decode all frames into a folder beside, which gets its name when it is whole."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed; the lock says nobody writes there
    if shutil.disk_usage(target.parent).free < len(frames) * _frame_bytes(frames[0], size, training):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # known now, not after minutes
    partial.mkdir()
    try:
        with (partial / IMAGES).open("wb") as images, (partial / LABELS).open("wb") as labels:
            found, shapes = _write_frames(dataset, frames, size, training, images, labels, progress)
        found.raise_problems()
        index = Index(size=size, label_shapes=shapes, survey=found)
        (partial / INDEX).write_text(index.model_dump_json(), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # a damaged one
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return FrameCache(target)


def _frame_bytes(frame: Frame, size: tuple[int, int], training: bool) -> int:
    """What a frame like this one takes: three bytes a pixel, and one for each of its label map at the size kept."""
    label_size = size
    if not training:
        with suppress(UserError), opened_image(frame.label, "label map") as image:  # damaged, it is told when decoded
            label_size = image.size
    return 3 * math.prod(size) + math.prod(label_size)


def _write_frames(
    dataset: Dataset,
    frames: Sequence[Frame],
    size: tuple[int, int],
    training: bool,
    images: BinaryIO,
    labels: BinaryIO,
    progress: Progress | None,
) -> tuple[Survey, list[tuple[int, int]]]:
    def prepare(image: Image.Image, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        planes = np.asarray(resize_image(image, size)).transpose(2, 0, 1)
        return np.ascontiguousarray(planes), resize_labels(channels, size) if training else channels

    shapes: list[tuple[int, int]] = []

    def keep(prepared: tuple[np.ndarray, np.ndarray]) -> None:
        image, channels = prepared
        images.write(image)
        labels.write(np.ascontiguousarray(channels))
        shapes.append(channels.shape)

    return count_frames(dataset, frames, "decoding frames", progress, prepare, keep), shapes
