"""From a recipe to fastai DataLoaders."""

import math
import operator
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from fastai.data.block import DataBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter, Normalize, Transform
from fastai.torch_core import default_device
from fastai.vision.core import PILImage, PILMask, TensorImage, TensorMask, imagenet_stats
from fastai.vision.data import ImageBlock, MaskBlock
from fastcore.basics import chunked
from fastcore.foundation import L
from PIL import Image

from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.recipe import Recipe
from linknet_fastai.config.settings import Settings, format_size, parse_size
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import open_image
from linknet_fastai.core.parallel import Progress, process_count, usable_cores
from linknet_fastai.data.augmentation import AugmentBatch, ResizeFrame, ResizeImage
from linknet_fastai.data.cache import CachedFrame, cached_frames
from linknet_fastai.data.dataset import Dataset, Frame, open_dataset
from linknet_fastai.data.survey import Survey, survey


class ReproducibleDL(TfmdDL):
    """A fastai DataLoader whose order and augmentation follow from (seed, epoch, index) alone.

    So an epoch can be replayed after an interruption, whatever the number of workers.
    """

    def __init__(self, dataset, seed: int = 0, **kwargs) -> None:
        self.seed, self.epoch = seed, 0
        super().__init__(dataset, **kwargs)

    def new(self, dataset=None, cls=None, **kwargs) -> TfmdDL:
        """A loader like this one, with the same seed."""
        made = super().new(dataset, cls, **({"seed": self.seed} | kwargs))
        # With an augmentation of its own: two loops then take no frame's generator from each other.
        made.after_batch = copy(made.after_batch)
        made.after_batch.fs = L(copy(f) if isinstance(f, AugmentBatch) else f for f in made.after_batch.fs)
        return made

    def shuffle_fn(self, idxs: list[int]) -> list[int]:
        """The order of this epoch."""
        return self._rng("order").sample(idxs, len(idxs))

    def before_iter(self) -> None:
        """Forget generators that an earlier epoch left: fastai's `show_batch(unique=True)` asks for no order."""
        super().before_iter()
        self._set_generators(None)

    def get_idxs(self) -> list[int]:
        """The order of this epoch; the generators of its augmentation are laid ready in that order."""
        self.order = super().get_idxs()
        self.prepare_generators(self.order)
        return self.order

    def wif(self) -> None:
        """Have a loader process leave Ctrl-C and SIGTERM to the one that trains, which comes to an orderly end.

        Both may come to the whole group of processes: from the terminal, from SLURM, torchrun or `timeout`.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def prepare_generators(self, names: Sequence[int | str]) -> None:
        """Lay a generator ready for each frame of an epoch's augmentation, in the order that they come in."""
        self._set_generators([self._rng(name) for name in batch] for batch in chunked(names, self.bs))

    def _set_generators(self, generators: Iterator[list[random.Random]] | None) -> None:
        if self.split_idx == 0:
            for transform in self.after_batch.fs:
                if isinstance(transform, AugmentBatch):
                    transform.generators = generators

    def _pre_show_batch(self, b: tuple, max_n: int = 9) -> tuple:
        """Show labels at the size of their images: fastai draws both into one picture, pixel for pixel."""
        images, *labels = b
        size = images.shape[-2:]
        shown = [F.interpolate(y[:, None].float(), size)[:, 0].to(y.dtype).as_subclass(type(y)) for y in labels]
        return super()._pre_show_batch((images, *shown), max_n)

    def _rng(self, part: int | str | None) -> random.Random:
        return random.Random(f"{self.seed} {self.epoch} {part}")  # a text is hashed by SHA-512: no near seeds


class FrameImage(Transform):
    """Gives the image of a frame to a `DataBlock`; anything else (a path, an array) is an image itself.

    So `learn.predict` takes what fastai users give it.
    """

    # fastai's `test_dl` asks for them, and a learner takes them along: no Path, which each Python has elsewhere.
    input_types = (Frame, os.PathLike, str, bytes, np.ndarray, torch.Tensor, Image.Image)

    def encodes(self, item):  # typed, fastai would dispatch on it
        """A PILImage in RGB; of a cached frame the 3xHxW uint8 tensor."""
        if isinstance(item, CachedFrame):
            return TensorImage(item.cache.image(item.position))
        source = item.image if isinstance(item, Frame) else item
        return PILImage(open_image(Path(source))) if isinstance(source, str | Path) else PILImage.create(source)


class FrameLabels(Transform):
    """Gives the label map of a frame to a `DataBlock`."""

    def __init__(self, read_label: Callable[[Path], np.ndarray]) -> None:
        self.read_label = read_label

    def encodes(self, frame):  # typed, fastai would dispatch on it
        """A PILMask of channels, HxW uint8, 255 for void; of a cached frame a tensor of the same."""
        if isinstance(frame, CachedFrame):
            return TensorMask(frame.cache.labels(frame.position))
        return PILMask(Image.fromarray(self.read_label(frame.label)))


def segmentation_block(
    class_names: list[str],
    read_label: Callable[[Path], np.ndarray],
    size: tuple[int, int],
    n_train: int,
    augment: AugmentBatch | None = None,
) -> DataBlock:
    """The DataBlock for a list of frames, of which the first `n_train` train and the others validate.

    Args:
        class_names: in the order of the network's channels.
        read_label: gives the HxW uint8 channels of a frame's `label`, 255 for void.
        size: (width, height) that frames are brought to.
        n_train: how many of the items are for training.
        augment: what happens to a training batch; by default `AugmentBatch(size)`.
    """
    blocks = (ImageBlock(), MaskBlock(codes=class_names))
    # The getters open images and masks. fastai's own openers can be pickled by value alone: an exported learner
    # would carry their bytecode and path, and load in this version of Python only.
    for block in blocks:
        block.type_tfms = L()
    return DataBlock(
        blocks=blocks,
        get_x=FrameImage(),
        get_y=FrameLabels(read_label),
        splitter=lambda frames: IndexSplitter(range(n_train, len(frames)))(frames),
        item_tfms=[ResizeFrame(size), ResizeImage(size)],
        batch_tfms=[augment or AugmentBatch(size), Normalize.from_stats(*imagenet_stats)],
        dl_type=ReproducibleDL,
    )


def segmentation_dls(
    recipe: str | Path | Recipe,
    path: str | Path | None = None,
    *,
    size: tuple[int, int] | str | None = None,
    bs: int | None = None,
    workers: int | None = None,
    seed: int | None = None,
    train_on: str | None = None,
    validate_on: str | None = None,
    crop: tuple[int, int] | str | None = None,
    cache: bool | None = None,
    cache_dir: str | Path | None = None,
    preset: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> DataLoaders:
    """Build the DataLoaders of a recipe, once every frame was checked.

    Training frames are augmented, on the device, and come at `size` or `crop`; validation frames are resized to
    `size`, their label maps are not. Images are Bx3xHxW floats, normalised with ImageNet's statistics; labels are
    BxHxW integers, 255 void.

    Args:
        recipe: the name of a shipped recipe, the path of a TOML file, or a `Recipe`.
        path: the data folder; None fetches or draws the data where the recipe says how.
        size: (width, height) or "480x360" that the network sees; by default the recipe's for the layout found.
        bs: frames a batch, by default the recipe's; where several processes train, of each.
        workers: loader processes, by default `default_workers()`.
        seed: order and augmentation follow from it, the epoch and the frame.
        train_on: a split, or a file with a stem a line.
        validate_on: likewise.
        crop: (width, height) that training cuts out of the frames at `size`, by default all of it.
        cache: whether frames are decoded once, into files that are mapped into memory, which is the default.
        cache_dir: where those files lie, by default in the user's cache folder.
        preset: training settings by name, or a TOML file of them; of these the loaders take the augmentation.
        device: where batches go, by default fastai's default device.
        progress: told how far the check and the drawing are.

    Returns:
        DataLoaders with, beside fastai's own, `recipe`, `size` (width, height), `settings` (the resolved `Settings`)
        and `class_pixels` (C counts over the training label maps), which `linknet_learner` reads.

    Raises:
        UsageError, UserError: a wrong argument; missing, damaged or unfitting files, named.
    """
    dataset = open_dataset(recipe, path, progress)
    said = {
        "size": size,
        "bs": bs,
        "workers": workers,
        "seed": seed,
        "train_on": train_on,
        "validate_on": validate_on,
        "crop": crop,
        "cache": cache,
        "cache_dir": cache_dir,
        "preset": None if preset is None else str(preset),
    }
    settings, _ = settings_for(dataset.recipe, dataset.layout, said, "argument")
    return dls_from_settings(dataset, settings, device, progress)


def dls_from_settings(
    dataset: Dataset,
    settings: Settings,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> DataLoaders:
    """Build DataLoaders from resolved settings; see `segmentation_dls`."""
    if settings.crop and not all(map(operator.le, settings.crop, settings.size)):
        raise UsageError(
            f"--crop: {format_size(settings.crop)} is larger than the frames, {format_size(settings.size)}; "
            "name a larger --size"
        )
    train, valid = dataset.frames(settings.train_on), dataset.frames(settings.validate_on)
    if settings.cache:
        where = (settings.cache_dir, progress)
        trained, train = cached_frames(dataset, train, settings.train_on, settings.size, True, *where)
        validated, valid = cached_frames(dataset, valid, settings.validate_on, settings.size, False, *where)
    else:
        trained, validated = survey(dataset, train, progress), survey(dataset, valid, progress)
        trained.raise_problems()
        validated.raise_problems()
    augment = AugmentBatch(
        settings.crop or settings.size, settings.scale, settings.color, settings.flip, settings.relight
    )
    block = segmentation_block(dataset.recipe.class_names, dataset.read_label, settings.size, len(train), augment)
    dls = block.dataloaders(
        [*train, *valid],
        path=".",
        bs=min(settings.bs, math.ceil(len(train) / process_count())),
        val_bs=_validation_bs(settings, validated),
        num_workers=default_workers(settings.cache, device) if settings.workers is None else settings.workers,
        seed=settings.seed,
        device=device,
    )
    dls.recipe, dls.size, dls.settings = dataset.recipe, settings.size, settings
    dls.class_pixels = torch.tensor(trained.class_pixels)
    return dls


def _validation_bs(settings: Settings, validated: Survey) -> int:
    """Frames a validation batch: label maps keep their own sizes, and only maps of one size stack to a batch.

    Logits are brought to that size; there are no more of them than in a training batch, however large it is.
    """
    if len(validated.sizes) > 1:
        return 1
    (label_size,) = map(parse_size, validated.sizes)
    largest = max(math.prod(settings.size), math.prod(label_size))
    return max(1, min(settings.bs, settings.bs * math.prod(settings.crop or settings.size) // largest))


def default_workers(cached: bool, device: str | torch.device | None = None) -> int:
    """How many loader processes there are by default.

    None where frames lie decoded. Else one for every two cores, at most 8, where a GPU computes. On a CPU they would
    take the network's cores: one for every four, and none below that, where a loader process and two threads of the
    network that wait for each other make a step longer than decoding does.
    """
    if cached:
        return 0
    on_cpu = torch.device(device or default_device()).type == "cpu"
    return min(usable_cores() // (4 if on_cpu else 2), 8)
