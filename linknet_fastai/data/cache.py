"""The cache of decoded frames: images and label maps in files that are mapped into memory, built on first use."""

import errno
import json
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import torch
from fastcore.basics import noop
from PIL import Image
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from linknet_fastai.config.selection import pin_selection
from linknet_fastai.config.size import Fit, Size, fitted_size, format_size
from linknet_fastai.core.errors import UserError, reason
from linknet_fastai.core.files import MAX_LIST_BYTES, file_lock, read_text
from linknet_fastai.core.images import MAX_PIXELS, opened_image, resize_image, resize_labels
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import Dataset, Frame
from linknet_fastai.data.survey import Survey, check_frames, fingerprint, recipe_caches

INDEX, IMAGES, LABELS = "index.json", "images.bin", "labels.bin"
Side = Annotated[int, Field(ge=1, le=MAX_PIXELS)]


class Index(BaseModel):
    """The index file of a cache.

    Attributes:
        size: (width, height) of the images.
        fit: how images of another shape fit this size, see `fitted_size`.
        label_shapes: (rows, columns) of each label map.
        survey: what the check of the frames found.
    """

    size: tuple[Side, Side]
    fit: Fit = "squish"
    label_shapes: list[tuple[Side, Side]] = Field(min_length=1)
    survey: Survey

    @model_validator(mode="after")
    def _check_areas(self) -> Self:
        if max(rows * columns for rows, columns in (self.size, *self.label_shapes)) > MAX_PIXELS:
            raise ValueError("more pixels than an image may have")
        return self


class FrameCache:
    """The decoded frames in one folder, read through memory maps: the system decides what stays in memory.

    Args:
        folder: a folder that `cached_frames` has built.

    Attributes:
        folder: the same.
        survey: what the check of the frames found.
        label_shapes: (rows, columns) of each label map.

    Raises:
        OSError, ValueError: the folder has no complete cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = Index.model_validate_json(read_text(folder / INDEX, MAX_LIST_BYTES))
        self.survey, self.label_shapes = index.survey, index.label_shapes
        # A label map has the aspect ratio of its image; one that was resized with it has its size.
        sizes = [fitted_size((columns, rows), index.size, index.fit) for rows, columns in self.label_shapes]
        self._images = _parts(folder / IMAGES, [(3, height, width) for width, height in sizes])
        self._labels = _parts(folder / LABELS, self.label_shapes)

    def image(self, position: int) -> Tensor:
        """The image at a position in the list of frames, 3xHxW uint8 RGB."""
        return torch.from_numpy(np.array(self._images[position]))

    def labels(self, position: int) -> Tensor:
        """The label map at a position in the list of frames, HxW uint8 channels, 255 for void."""
        return torch.from_numpy(np.array(self._labels[position]))

    def __reduce__(self) -> tuple:
        return FrameCache, (self.folder,)  # a loader process opens the files itself


def _parts(file: Path, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """The arrays of bytes that are one after the other in a file; raises ValueError if it is shorter."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    content = np.memmap(file, np.uint8, "r", shape=(int(ends[-1]),))
    return [part.reshape(shape) for part, shape in zip(np.split(content, ends[:-1]), shapes, strict=True)]


@dataclass(frozen=True, kw_only=True)
class CachedFrame(Frame):
    """A frame that is stored in a cache.

    Attributes:
        cache: the cache.
        position: where in the cache it is.
    """

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
    fit: Fit = "squish",
) -> tuple[Survey, list[CachedFrame]]:
    """The frames of a split from the cache, which is built first if it does not exist or a file has changed.

    Args:
        dataset: the data.
        frames: what `dataset.frames(selection)` returned.
        selection: a split, or the path of a list of frames. Each has its own cache.
        size: (width, height) of the images.
        training: whether label maps are resized to `size` as well; otherwise they keep their own size.
        folder: where caches are stored, by default in `linknet_fastai.core.files.cache_folder`.
        progress: called with what is being done, how many are done and of how many.
        fit: how images of another shape fit `size`, see `fitted_size`.

    Returns:
        What the check of every frame found, and the frames.

    Raises:
        UserError: a frame is damaged, or the cache cannot be written.

    Example:
        ::

            found, frames = cached_frames(dataset, dataset.frames("train"), "train", (480, 360), training=True)
            frames[0].cache.image(frames[0].position)  # 3x360x480 uint8
    """
    home = recipe_caches(dataset.recipe.name, folder)
    named = pin_selection(selection, dataset.selectable)
    slot = [
        str(dataset.folder.resolve()),
        dataset.origin,
        named,
        format_size(size),
        training,
        *([fit] if fit != "squish" else []),
    ]
    slot_name = sha256(json.dumps(slot).encode()).hexdigest()[:12]
    target = home / f"{slot_name}-{fingerprint(dataset, frames)}"
    cache = _open(target)
    if cache is None:
        try:
            home.mkdir(parents=True, exist_ok=True)
            # Of two runs that start at the same time, the second waits and uses what the first has built.
            report = partial(progress or noop, "waiting for another run that is building the cache")
            with file_lock(home / f"{slot_name}.lock", report) as locked:
                staging = target.with_name(f"{target.name}.{'' if locked else os.getpid()}partial")
                cache = _open(target) or _build(dataset, frames, size, fit, training, target, staging, progress)
                for stale in set(home.glob(f"{slot_name}-*")) - {target} if locked else ():
                    shutil.rmtree(stale, ignore_errors=True)
        except OSError as error:
            raise UserError(
                f"{home}: the cache of decoded frames cannot be written ({reason(error)}); "
                "choose another folder with --cache-dir, or turn the cache off with --no-cache"
            ) from None
    return cache.survey, [CachedFrame(**vars(frame), cache=cache, position=i) for i, frame in enumerate(frames)]


def clear_caches(recipe_name: str, folder: Path | None = None) -> int:
    """Delete the caches of a recipe: decoded frames and surveys.

    Args:
        recipe_name: the recipe's `name`.
        folder: where caches are stored, see `cached_frames`.

    Returns:
        How many bytes were freed.

    Raises:
        UserError: another run is building a cache, or files cannot be deleted.

    Example:
        ::

            clear_caches("camvid")
    """
    home, surveys = (recipe_caches(recipe_name, folder, kind) for kind in ("frames", "surveys"))
    stored = [
        *surveys.glob("*.json"),
        *surveys.parent.glob("*.json"),
    ]  # earlier versions had one folder for all recipes
    freed = 0
    try:
        for file in stored:
            freed += file.stat().st_size
            file.unlink()
    except OSError as error:
        raise UserError(f"{file}: cannot be deleted ({reason(error)})") from None
    for file in home.glob("*.lock"):  # they are not deleted: another run may be about to acquire one
        try:
            with file_lock(file, partial(_refuse_to_clear, home)):
                for cache in home.glob(f"{file.stem}-*"):
                    freed += sum(path.stat().st_size for path in cache.iterdir())
                    shutil.rmtree(cache)
        except OSError as error:
            raise UserError(f"{home}: cannot be cleared ({reason(error)})") from None
    return freed


def _open(folder: Path) -> FrameCache | None:
    with suppress(OSError, ValueError):  # it does not exist, or is damaged
        return FrameCache(folder)
    return None


def _refuse_to_clear(home: Path, done: int, total: int) -> None:
    raise UserError(f"{home}: another run is building this cache; try again after it is built")


def _build(
    dataset: Dataset,
    frames: Sequence[Frame],
    size: Size,
    fit: Fit,
    training: bool,
    target: Path,
    staging: Path,
    progress: Progress | None,
) -> FrameCache:
    """Decode all frames into the temporary folder `staging`, which is renamed to `target` when it is complete."""
    shutil.rmtree(staging, ignore_errors=True)  # of a killed run: the lock excludes others
    if shutil.disk_usage(target.parent).free < len(frames) * _frame_bytes(frames[0], size, training):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # reported at once, not after minutes
    staging.mkdir()
    label_shapes: list[tuple[int, int]] = []

    def convert(image: Image.Image, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = fitted_size(image.size, size, fit)
        planes = np.asarray(resize_image(image, seen)).transpose(2, 0, 1)
        kept = resize_labels(channels, seen) if training else channels
        return np.ascontiguousarray(planes), np.ascontiguousarray(kept)

    try:
        with (staging / IMAGES).open("wb") as images, (staging / LABELS).open("wb") as labels:

            def store(converted: tuple[np.ndarray, np.ndarray]) -> None:
                image, channels = converted
                images.write(image.data)
                labels.write(channels.data)
                label_shapes.append(channels.shape)

            found = check_frames(dataset, frames, "decoding frames", progress, convert, store)
        found.raise_problems()
        index = Index(size=size, fit=fit, label_shapes=label_shapes, survey=found)
        (staging / INDEX).write_text(index.model_dump_json(), encoding="utf-8")
        if not _open(target):  # without a lock, another run may have built it by now
            shutil.rmtree(target, ignore_errors=True)  # a damaged one
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return FrameCache(target)


def _frame_bytes(frame: Frame, size: Size, training: bool) -> int:
    """The size of a frame in a cache in bytes: three for each pixel of the image, one for each of the label map."""
    label_size = size
    if not training:
        with suppress(UserError), opened_image(frame.label, "label map") as image:  # damage is reported later
            label_size = image.size
    return 3 * math.prod(size) + math.prod(label_size)
