"""From DataLoaders to a fastai Learner that trains LinkNet."""

import inspect
from collections.abc import Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import fastai.callback.schedule  # adds fit_one_cycle, fine_tune and lr_find to Learner
import fastai.vision.learner  # noqa: F401 - registers show_results for images and masks
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Metric
from fastai.optimizer import OptimWrapper
from fastai.torch_core import set_seed
from fastcore.basics import noop
from torch import Tensor, nn

from linknet_fastai.config.layers import resolve_settings
from linknet_fastai.config.settings import RENAMED, Settings
from linknet_fastai.core.device import autocast, resolve_device, resolve_precision, set_deterministic
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.fastai_private import ForwardLearner
from linknet_fastai.core.parallel import Progress, process_count
from linknet_fastai.core.text import did_you_mean
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.loaders import dls_from_settings, set_normalization
from linknet_fastai.learner.callbacks import (
    AccumulateGradients,
    DevicePrecision,
    EpochSeed,
    ScoreAtLabelSize,
    SkipVoidBatches,
    torch_optimizer,
)
from linknet_fastai.learner.distillation import SoftTargets
from linknet_fastai.learner.loss import LabeledLoss, SegmentationLoss, SmoothLoss, class_weights
from linknet_fastai.learner.optimizers import OPTIMIZERS
from linknet_fastai.learner.process_group import check_shareable
from linknet_fastai.model.card import ModelCard, Normalization
from linknet_fastai.model.encoder import encoder_normalization
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import initialize_from
from linknet_fastai.scoring.metrics import segmentation_metrics

# Settings that `segmentation_dls` has applied when a learner is built: a preset brings some of them.
OF_LOADERS: tuple[str, ...] = (
    "preset",
    "size",
    "fit",
    "crop",
    "bs",
    "flip",
    "scale",
    "color",
    "relight",
    "device",
    "seed",
)
OF_LOADERS += ("workers", "cache", "cache_dir", "train_on", "validate_on")


class LinkNetLearner(ForwardLearner):
    """A fastai Learner that runs its network in mixed precision on any device; built by `linknet_learner`.

    Attributes:
        card: the `ModelCard` of the network.
        settings: the resolved `Settings`; not pickled.
        precision: "auto", "fp32", "bf16" or "fp16".
    """

    card: ModelCard
    settings: Settings
    precision = "auto"
    path: Path

    def forward_pass(self) -> Tensor:
        """Return the logits of the current batch, BxCxHxW.

        The network alone runs in autocast, as torch recommends; loss, scores, backward pass and optimizer do not.
        Logits are float32, but for LinkNet's own training loss, which converts them itself: a copy of them in
        float32 would only cost time.
        """
        device = self.xb[0].device
        with autocast(resolve_precision(self.precision, device), device):
            logits = self.model(*(x.contiguous(memory_format=torch.channels_last) for x in self.xb))
        converted_by_loss = self.training and isinstance(self.loss_func, SegmentationLoss)
        return logits if converted_by_loss else logits.float()

    def optimizer_step(self) -> None:
        """Take a step; with the loss scaled for fp16, the scaler takes it, unless gradients have overflowed."""
        if scaler := self.device_precision.scaler:
            scaler.step(torch_optimizer(self))
            scaler.update()
        else:
            self.opt.step()

    def to_distributed(self, sync_bn: bool = True, **kwargs: Any) -> Learner:
        """Add our `SharedTraining` where fastai's method, which `distrib_ctx` calls, adds its own callback."""
        from linknet_fastai.learner.distributed import SharedTraining  # the one part that needs accelerate

        return self.add_cb(SharedTraining(sync_bn, cpu=torch.device(self.dls.device).type == "cpu", **kwargs))

    def __getstate__(self) -> dict:
        """As fastai's, without paths, whose class another system or Python cannot load."""
        dls = copy(self.dls)
        dls.path = str(dls.path)
        state = super().__getstate__() | {"path": str(self.path), "dls": dls}
        # fastcore 1.8 stores the constructor's arguments a second time, in an attribute with a dunder name.
        return {name: value for name, value in state.items() if name != "settings" and not name.startswith("__")}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.path, self.dls.path = Path(self.path), Path(self.dls.path)


def linknet_learner(
    dls: DataLoaders,
    *,
    metrics: Sequence[Metric] | None = None,
    cbs: Sequence[Callback] = (),
    path: str | Path = ".",
    **kwargs: Any,
) -> LinkNetLearner:
    """Build a fastai Learner that trains LinkNet on `dls`.

    Every setting of `fit` can be given by name. Those that are not given, or None, follow `dls.settings`: the recipe
    and the preset that the loaders were built with.

    - Network, loss, optimizer and precision are chosen here: `encoder`, `width`, `decoder`, `pretrained`,
      `encoder_weights`, `init_from`, `class_weights`, `optimizer`, `lr` (the learner's default rate), `weight_decay`,
      `accumulate`, `precision`, `compile`, `deterministic`, `teacher`, `teacher_share`, `teacher_temperature`.
    - `epochs`, `schedule` and `encoder_lr` are used by `fit_schedule(learn)`.
    - `checkpoint_minutes` is used by the command `fit` alone.

    The learner has two parameter groups, the encoder and the rest. `learn.freeze()` trains the rest alone;
    `learn.fine_tune(20, 5e-3, lr_mult=10)` does so for an epoch and then trains everything, the encoder at a tenth of
    the rate. `learn.fit_one_cycle(20, slice(5e-4, 5e-3))` gives the encoder a rate of 5e-4 from the start, as does
    `encoder_lr=0.1` with `fit_schedule`.

    Args:
        dls: the result of `segmentation_dls`.
        metrics: by default mIoU, mean accuracy and pixel accuracy.
        cbs: further callbacks.
        path: where the learner saves and exports; the current folder, never the data folder.
        kwargs: settings by name, and arguments of fastai's `Learner`, such as `loss_func` or `opt_func`, which
            replace what is chosen here.

    The learner sets the normalization of `dls` to that of the weights it starts from, as fastai's `vision_learner`.

    Returns:
        A Learner that also has `card`, the `ModelCard` of its network, and `settings`, the resolved `Settings`.

    Raises:
        UsageError: a name that is neither a setting nor an argument of `Learner`, an invalid value, or another value
            than the loaders' for a setting that `segmentation_dls` has applied.
        UserError: weights that are not available or do not fit.

    Example:
        In a notebook::

            dls = segmentation_dls("camvid")
            learn = linknet_learner(dls, encoder="resnet34", optimizer="adamw", lr=1e-3)
            learn.fit_one_cycle(20)
    """
    given = {name: kwargs.pop(name) for name in [*kwargs] if name in {*Settings.model_fields, *RENAMED}}
    _check_names(kwargs)
    settings, _ = resolve_settings(("loaders", dls.settings.model_dump()), ("argument", given))
    for name in OF_LOADERS:
        if getattr(settings, name) != getattr(dls.settings, name):
            raise UsageError(f"{name}: the DataLoaders were built with another value; give it to segmentation_dls")
    return _build(dls, settings, None, metrics=metrics, cbs=cbs, path=path, **kwargs)


def _build(
    dls: DataLoaders,
    settings: Settings,
    normalization: Normalization | None,
    cbs: Sequence[Callback] = (),
    **kwargs: Any,
) -> LinkNetLearner:
    """The learner of `linknet_learner`; with a normalization, that of a network whose weights are loaded later."""
    resolve_precision(settings.precision, torch.device(dls.device))  # raises before weights are loaded
    if settings.deterministic:
        set_deterministic(True)
    network: dict[str, Any] = settings.model_dump(include={"fit", "encoder", "decoder", "width"})
    init_from, weights = settings.init_from, settings.encoder_weights
    pretrained = settings.pretrained and init_from is None
    if normalization:
        init_from, weights, pretrained = None, None, False
    elif settings.encoder_is_trained:
        normalization = encoder_normalization(settings.encoder)
    if normalization:
        network["mean"], network["std"] = normalization
    card = ModelCard.of(dls.recipe, dls.size, **network)
    model = LinkNet(len(card.classes), settings.encoder, settings.decoder, pretrained, weights, settings.width)
    if init_from is not None:
        card = initialize_from(model, card, init_from)
    set_normalization(dls, card.mean, card.std)
    if settings.compile:
        model.compile()
    if settings.lr != "auto":
        kwargs["lr"] = settings.lr
    if settings.accumulate > 1 or process_count() > 1:
        cbs = [*cbs, AccumulateGradients(settings.accumulate)]
    if settings.teacher is not None:
        cbs = [*cbs, SoftTargets(settings.teacher, card, settings.teacher_share, settings.teacher_temperature)]
    kwargs.setdefault("loss_func", SegmentationLoss(class_weights(dls.class_pixels, settings.class_weights)))
    return wrap_model(dls, model, card, settings, cbs=cbs, **kwargs)


def _check_names(kwargs: dict[str, Any]) -> None:
    """Raise UsageError if there is a name that fastai's Learner does not take."""
    known = [*inspect.signature(Learner).parameters][2:]  # without dls and model
    for name in kwargs:
        if name not in known:
            hint = did_you_mean(name, [*Settings.model_fields, *known])
            raise UsageError(f"{name}: neither a setting of fit nor an argument of fastai's Learner{hint}")


def wrap_model(
    dls: DataLoaders,
    model: LinkNet,
    card: ModelCard,
    settings: Settings,
    metrics: Sequence[Metric] | None = None,
    cbs: Sequence[Callback] = (),
    **kwargs: Any,
) -> LinkNetLearner:
    """Put a network into a Learner with the optimizer and callbacks that it needs; see `linknet_learner`.

    Args:
        dls: DataLoaders whose labels are 255 where they are void.
        model: the network.
        card: its card, which becomes the learner's `card`.
        settings: of which `optimizer`, `weight_decay` and `precision` are used here.
        metrics: see `linknet_learner`.
        cbs: further callbacks.
        kwargs: further arguments of fastai's `Learner`.

    Example:
        Around DataLoaders of one's own::

            learn = wrap_model(dls, model, card, Settings(optimizer="sgd"), loss_func=SegmentationLoss())
    """
    decay = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
    chosen = {
        "opt_func": partial(OptimWrapper, opt=OPTIMIZERS[settings.optimizer], **decay),
        "splitter": encoder_and_rest,
        # torch's RMSprop has no momentum by default, which a schedule would turn on.
        "moms": (0.0, 0.0, 0.0) if settings.optimizer == "rmsprop" else (0.95, 0.85, 0.95),
        "metrics": segmentation_metrics(model.n_classes) if metrics is None else metrics,
        "cbs": [SkipVoidBatches(), DevicePrecision(), ScoreAtLabelSize(), EpochSeed(), *cbs],
        "path": ".",
    }
    learn = LinkNetLearner(dls, model, **(chosen | kwargs))
    if recorder := getattr(learn, "recorder", None):
        recorder.loss = LabeledLoss()
    learn.card, learn.settings, learn.precision = card, settings, settings.precision
    return learn


def learner_from_settings(
    dataset: Dataset,
    settings: Settings,
    progress: Progress | None = None,
    normalization: Normalization | None = None,
) -> LinkNetLearner:
    """Build the learner of a run: seeded, without output of its own.

    Args:
        dataset: the data set.
        settings: the resolved settings.
        progress: is called with the progress of reading the data.
        normalization: mean and standard deviation of the images of a run whose weights come from a checkpoint or from
            rank 0; those that the settings start from are not loaded then. None loads them.

    Raises:
        UsageError, UserError: see `segmentation_dls` and `linknet_learner`; a device that is not available or that
            several processes cannot share.
    """
    set_seed(settings.seed)
    set_deterministic(settings.deterministic)  # before CUDA is used
    device = resolve_device(settings.device)
    check_shareable(device)
    learn = _build(dls_from_settings(dataset, settings, device, progress), settings, normalization)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    learn.recorder.smooth_loss = SmoothLoss()
    return learn


def encoder_and_rest(model: LinkNet) -> list[list[nn.Parameter]]:
    """Return two parameter groups, so that `learn.freeze()` trains decoder and head alone."""
    return [list(model.encoder.parameters()), [*model.blocks.parameters(), *model.head.parameters()]]
