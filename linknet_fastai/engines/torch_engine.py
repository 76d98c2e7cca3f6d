"""The engine that runs a network in torch, on any device: run folders, `.safetensors` and `.pkl`."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linknet_fastai.config.size import SMALLEST_SIDE
from linknet_fastai.core.device import DTYPES, resolve_device, resolve_precision, tune
from linknet_fastai.engines.engine import NATIVE, Engine, InputSize
from linknet_fastai.model.batch_norm import fold_batch_norms
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import resample_logits

TTA_SCALES = (0.75, 1.0, 1.25)
LOGITS_AT_ONCE = 12 << 21  # values resized at the same time: 12 classes at 2048x1024


class Predictor(Engine):
    """Predicts images in torch. Called, it returns the recipe's class ids; `predict_channels` the network's channels.

    Batch norm is folded into the convolutions in fp32; then the weights are cast once to the dtype that the network
    computes in, which is a quarter faster than autocast and as exact: convolutions sum in fp32 either way.

    Args:
        model: the network; it is copied and not changed.
        card: the model's card.
        device: see `linknet_fastai.core.device.resolve_device`.
        precision: see `linknet_fastai.core.device.resolve_precision`.
        size: (width, height) of what the network sees; None is the model's training size, "native" each frame's own.
        frames_at_once: how many threads may run the network at the same time.
        tta: test-time augmentation: the network sees each frame at `TTA_SCALES` and mirrored, and the mean of the
            softmaxes decides. Six times as slow; neither speed nor scores are those of plain LinkNet.

    Raises:
        UserError: the device or precision is not available.

    Example::

        model, card = load_model("runs/street")
        predictor = Predictor(model, card)
        mask = predictor("frame.png")  # or a PIL image, or an array; HxW uint8 of class ids
        Image.fromarray(mask).save("mask.png")
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        card: ModelCard,
        device: str = "auto",
        precision: str = "auto",
        size: InputSize = None,
        frames_at_once: int = 1,
        tta: bool = False,
    ) -> None:
        self.device = resolve_device(device)
        super().__init__(card, resolve_precision(precision, self.device), size, frames_at_once)
        # On a CPU, without a backward pass, keeping freed memory gains nothing. On a GPU, cuDNN measures its
        # algorithms at every size that is new: where each frame has its own, it would measure all the time.
        if self.device.type == "cuda" and self.size != NATIVE:
            tune(self.device)
        self.tta = tta
        self._dtype = DTYPES.get(self.precision, torch.float32)
        self.model = fold_batch_norms(model).to(self.device, self._dtype).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(card.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(card.std, device=self.device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def channels(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Run the network; see `Engine.channels`."""
        # HxWx3 is channels_last in memory already. Copied, because PIL's own memory is read-only.
        batch = torch.from_numpy(pixels.copy()).to(self.device).permute(2, 0, 1)[None]
        # The same operations as fastai's IntToFloatTensor and Normalize, so that both give the same bits.
        batch = (batch.float().div_(255.0) - self._mean) / self._std
        logits = self._averaged(batch, size) if self.tta else self.model(batch.to(self._dtype))
        return best_classes(logits, size)[0].to(torch.uint8).cpu().numpy()

    def __str__(self) -> str:
        return f"{super().__str__()}, flips and scales averaged" if self.tta else super().__str__()

    def _averaged(self, batch: Tensor, size: tuple[int, int]) -> Tensor:
        """The sum of the softmaxes, BxCxheightxwidth fp32, over scales and flips."""
        total = torch.zeros((), device=self.device)
        for scale in TTA_SCALES:
            seen = tuple(max(round(side * scale), SMALLEST_SIDE) for side in batch.shape[-2:])
            scaled = F.interpolate(batch, seen, mode="bilinear", antialias=True) if scale != 1 else batch
            for mirrored in (False, True):
                image = scaled.flip(-1) if mirrored else scaled
                logits = self.model(image.to(self._dtype, memory_format=torch.channels_last))
                scores = resample_logits(logits.float(), size).softmax(1)
                total = total + (scores.flip(-1) if mirrored else scores)
        return total


def best_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of each pixel at another size: logits resized bilinearly, then the argmax.

    Resizes a few classes at a time: all logits of a Cityscapes model at 2048x1024 take up to 285 MB, for each frame
    that is computed at the same time.

    Args:
        logits: BxCxHxW floats.
        size: (height, width) of the class map.

    Returns:
        Bxheightxwidth int64; of equal logits the first class.

    Example:
        >>> best_classes(torch.tensor([[[[0.1]], [[0.9]]]]), (1, 2)).tolist()
        [[[1, 1]]]
    """
    # `max` returns the same indices as `argmax`, on a CPU two to twenty times as fast.
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits.max(1).indices
    at_once = max(1, min(12, LOGITS_AT_ONCE // math.prod(size)))
    best, classes = resample_logits(logits[:, :at_once].float(), size).max(1)
    for first in range(at_once, logits.shape[1], at_once):
        part = resample_logits(logits[:, first : first + at_once].float(), size).max(1)
        larger = part.values > best
        best = torch.where(larger, part.values, best)
        classes = torch.where(larger, part.indices + first, classes)
    return classes
