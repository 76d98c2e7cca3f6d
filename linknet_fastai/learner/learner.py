"""From DataLoaders to a fastai Learner that trains LinkNet; optimizers by name."""

from collections.abc import Sequence
from copy import copy, deepcopy
from functools import partial
from pathlib import Path

import fastai.callback.schedule  # gives every Learner fit_one_cycle and lr_find
import fastai.vision.learner  # noqa: F401 - teaches show_results images and masks
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner, Metric
from fastai.optimizer import OptimWrapper
from fastai.torch_core import apply, set_seed
from fastcore.basics import noop
from torch import nn

from linknet_fastai.config.settings import Settings, resolve_settings
from linknet_fastai.core.device import autocast, resolve_device, resolve_precision
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.loaders import dls_from_settings
from linknet_fastai.learner import loss
from linknet_fastai.learner.callbacks import (
    AccumulateGradients,
    DevicePrecision,
    EpochSeed,
    ScoreAtLabelSize,
    SkipVoidBatches,
)
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.learner.optimizers import OPTIMIZERS
from linknet_fastai.learner.process_group import check_shareable
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import initialize_from
from linknet_fastai.scoring.metrics import segmentation_metrics


class LinkNetLearner(Learner):
    """A fastai Learner that validates in inference mode, where fastai has `no_grad`, and always leaves autocast."""

    def _do_epoch_validate(self, ds_idx: int = 1, dl: DataLoader | None = None) -> None:
        with torch.inference_mode():
            super()._do_epoch_validate(ds_idx, dl)

    def __getstate__(self) -> dict:
        """As fastai's, but for the paths, whose class another system or Python cannot load."""
        dls = copy(self.dls)
        dls.path = str(dls.path)
        state = super().__getstate__() | {"path": str(self.path), "dls": dls}
        state.pop("__stored_args__", None)  # fastcore 1.8 keeps the path there a second time
        return state

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.path, self.dls.path = Path(self.path), Path(self.dls.path)

    def get_preds(self, *args, **kwargs) -> list:
        """As fastai's; what comes out may be changed in place, as tensors of the inference mode may not."""
        return apply(lambda part: part if part is None else part.clone(), super().get_preds(*args, **kwargs))

    def to_distributed(self, sync_bn: bool = True, **kwargs) -> Learner:
        """As fastai's, which `distrib_ctx` calls, with our callback in the place of fastai's."""
        from linknet_fastai.learner.distributed import SharedTraining  # accelerate is needed for this alone

        return self.add_cb(SharedTraining(sync_bn, cpu=torch.device(self.dls.device).type == "cpu", **kwargs))

    def one_batch(self, i: int, b: tuple) -> None:
        """As fastai's; an error or Ctrl-C within the network leaves no autocast behind."""
        try:
            super().one_batch(i, b)
        finally:
            for callback in self.cbs:
                if isinstance(callback, DevicePrecision):
                    callback.leave()


def linknet_learner(
    dls: DataLoaders,
    *,
    encoder: str | None = None,
    decoder: str | None = None,
    pretrained: bool | None = None,
    encoder_weights: str | Path | None = None,
    init_from: str | Path | None = None,
    class_weights: str | None = None,
    optimizer: str | None = None,
    weight_decay: float | None = None,
    precision: str | None = None,
    lr: float | None = None,
    metrics: Sequence[Metric] | None = None,
    cbs: Sequence[Callback] = (),
    path: str | Path = ".",
    **kwargs,
) -> Learner:
    """Build a fastai Learner that trains LinkNet on `dls`.

    What is None follows `dls.settings`: the recipe and the preset that the loaders were built with.

    Args:
        dls: what `segmentation_dls` gives.
        encoder: see `LinkNet`, as are `decoder`, `pretrained` and `encoder_weights`.
        init_from: a run folder or `.safetensors` to start from instead.
        class_weights: "log", "sqrt", "median" or "none", see `linknet_fastai.learner.loss.class_weights`.
        optimizer: "muon", ours, or "adamw", "adam", "rmsprop" or "sgd", each torch's own.
        weight_decay: the optimizer's.
        precision: "auto", "fp32", "bf16" or "fp16", see `linknet_fastai.core.device.resolve_precision`.
        lr: the learner's default learning rate.
        metrics: by default mIoU, mean accuracy and pixel accuracy.
        cbs: further callbacks.
        path: where the learner saves and exports; the current folder, never the data folder.
        kwargs: further arguments of `Learner`; they go before what is chosen here.

    Returns:
        A Learner with, beside fastai's own, `card`: the `ModelCard` of its model.

    Raises:
        UsageError, UserError: a wrong argument, weights that cannot be had or do not fit.
    """
    said = {
        "encoder": encoder,
        "decoder": decoder,
        "pretrained": pretrained,
        "encoder_weights": encoder_weights,
        "init_from": init_from,
        "class_weights": class_weights,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "precision": precision,
        "lr": lr,
    }
    settings, _ = resolve_settings(("loaders", dls.settings.model_dump()), ("argument", said))
    n_classes = len(dls.recipe.classes)
    resolve_precision(settings.precision, torch.device(dls.device))
    model = LinkNet(
        n_classes,
        settings.encoder,
        settings.decoder,
        settings.pretrained and settings.init_from is None,
        settings.encoder_weights,
    )
    card = ModelCard.of(dls.recipe, dls.size, encoder=settings.encoder, decoder=settings.decoder)
    if settings.init_from is not None:
        initialize_from(model, card, settings.init_from)
    loss_func = SegmentationLoss(loss.class_weights(dls.class_pixels, settings.class_weights))
    if settings.lr != "auto":
        kwargs["lr"] = settings.lr
    if settings.accumulate > 1:
        cbs = [*cbs, AccumulateGradients(settings.accumulate, dls.train.bs)]
    return wrap_model(
        dls,
        model,
        card,
        kwargs.pop("loss_func", loss_func),
        settings.optimizer,
        settings.weight_decay,
        settings.precision,
        metrics=metrics,
        cbs=cbs,
        path=path,
        **kwargs,
    )


def wrap_model(
    dls: DataLoaders,
    model: LinkNet,
    card: ModelCard,
    loss_func: SegmentationLoss,
    optimizer: str = "adamw",
    weight_decay: float | None = None,
    precision: str = "auto",
    *,
    metrics: Sequence[Metric] | None = None,
    cbs: Sequence[Callback] = (),
    **kwargs,
) -> Learner:
    """Put a network into a Learner with the callbacks that it needs; see `linknet_learner`.

    Args:
        dls: DataLoaders whose labels hold 255 for void.
        model: the network.
        card: its card, which the learner carries as `card`.
        loss_func: the loss.
        optimizer: a name in `OPTIMIZERS`.
        weight_decay: the optimizer's; None is its own default.
        precision: see `linknet_learner`, as are `metrics`, `cbs` and `kwargs`.
    """
    opt = OPTIMIZERS[optimizer]
    chosen = {
        "opt_func": partial(
            OptimWrapper, opt=opt if weight_decay is None else partial(opt, weight_decay=weight_decay)
        ),
        "splitter": encoder_and_rest,
        # Momentum cycles only where there is one: torch's RMSprop has none unless told.
        "moms": (0.0, 0.0, 0.0) if optimizer == "rmsprop" else (0.95, 0.85, 0.95),
    }
    learn = LinkNetLearner(
        dls,
        model,
        loss_func,
        metrics=list(metrics) if metrics is not None else segmentation_metrics(model.n_classes),
        cbs=[
            SkipVoidBatches(),
            DevicePrecision(precision),
            ScoreAtLabelSize(),
            EpochSeed(),
            *cbs,
        ],
        **(chosen | kwargs),
    )
    learn.card = card
    return learn


def learner_from_settings(dataset: Dataset, settings: Settings, progress: Progress | None = None) -> Learner:
    """The learner of a run: seeded, quiet, saving nowhere by itself; `notes` are lines that its user should read."""
    set_seed(settings.seed)
    # Where an operation has no form that gives the same bits every time, torch says so and takes the one it has.
    torch.use_deterministic_algorithms(settings.deterministic, warn_only=True)
    device = resolve_device(settings.device)
    check_shareable(device)
    dls = dls_from_settings(dataset, settings, device, progress)
    learn = linknet_learner(dls)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    learn.notes = []
    if settings.compile and (why_not := compile_network(learn, settings.crop or settings.size)):
        learn.notes.append(f"--compile: trains without, torch.compile does not work here ({why_not})")
    return learn


def compile_network(learn: Learner, size: tuple[int, int]) -> str | None:
    """Have torch.compile speed a learner's network up, in place, where that works.

    A batch of blank frames goes forward and back through it, so that a failure shows here and no training breaks off;
    the network is as before then.

    Args:
        learn: the learner.
        size: (width, height) of its training batches.

    Returns:
        None, or why the network stays as it is.
    """
    model, device = learn.model, learn.dls.device
    before = deepcopy(model.state_dict())
    images = torch.zeros(learn.dls.train.bs, 3, *reversed(size), device=device)
    model.to(device, memory_format=torch.channels_last)  # fastai moves it when a training begins, later than this
    model.compile()
    try:
        with autocast(resolve_precision(learn.device_precision.precision, device), device):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        logits.float().mean().backward()
    except Exception as error:  # no compiler, no Triton, an old Python: torch raises a dozen kinds
        model._compiled_call_impl = None  # what `compile` has set
        return str(error).strip().split("\n")[0] or type(error).__name__
    finally:
        model.load_state_dict(before)
        model.zero_grad()
    return None


def encoder_and_rest(model: LinkNet) -> list[list[nn.Parameter]]:
    """Two parameter groups, so that `learn.freeze()` trains decoder and head alone."""
    return [list(model.encoder.parameters()), [*model.blocks.parameters(), *model.head.parameters()]]
