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
    has_confidence = True

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
        return _as_bytes(best_classes(self._scores(pixels, size), size))

    @torch.inference_mode()
    def channels_and_confidence(self, pixels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Run the network; see `Engine.channels_and_confidence`.

        With `tta` the probabilities are those of the mean softmax, raised to the power 1/temperature.
        """
        scores = self._scores(pixels, size)
        if self.tta:  # the classes from the sum itself: two sums may have the same logarithm
            _, confidence = classes_and_confidence(scores.log(), size, self.card.temperature)
            return _as_bytes(best_classes(scores, size)), _as_bytes(confidence)
        classes, confidence = classes_and_confidence(scores, size, self.card.temperature)
        return _as_bytes(classes), _as_bytes(confidence)

    @torch.inference_mode()
    def logits(self, pixels: np.ndarray) -> Tensor:
        """Run the network alone.

        Args:
            pixels: HxWx3 uint8, RGB, at the size that the network sees.

        Returns:
            1xCxHxW floats, in the dtype that the network computes in.
        """
        return self.model(self._normalized(pixels).to(self._dtype))

    def _scores(self, pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Logits at the size that the network sees; with `tta` the sum of the softmaxes at the result's size."""
        return self._averaged(self._normalized(pixels), size) if self.tta else self.logits(pixels)

    def _normalized(self, pixels: np.ndarray) -> Tensor:
        # HxWx3 is channels_last in memory already. Copied, because PIL's own memory is read-only.
        batch = torch.from_numpy(pixels.copy()).to(self.device).permute(2, 0, 1)[None]
        # The same operations as fastai's IntToFloatTensor and Normalize, so that both give the same bits.
        return (batch.float().div_(255.0) - self._mean) / self._std

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
    at_once = _classes_at_once(size)
    best, classes = resample_logits(logits[:, :at_once].float(), size).max(1)
    for first in range(at_once, logits.shape[1], at_once):
        part = resample_logits(logits[:, first : first + at_once].float(), size).max(1)
        larger = part.values > best
        best = torch.where(larger, part.values, best)
        classes = torch.where(larger, part.indices + first, classes)
    return classes


def classes_and_confidence(logits: Tensor, size: tuple[int, int], temperature: float) -> tuple[Tensor, Tensor]:
    """The class of each pixel at another size, as `best_classes`, and its probability.

    The softmax is computed as its sum grows, a few classes at a time, for the same reason.

    Args:
        logits: BxCxHxW floats.
        size: (height, width) of the class map.
        temperature: what logits are divided by before the softmax.

    Returns:
        Bxheightxwidth int64, and Bxheightxwidth float: the probability times 255, rounded.

    Example:
        >>> classes, confidence = classes_and_confidence(torch.tensor([[[[0.0]], [[1.0]]]]), (1, 2), 0.5)
        >>> classes.tolist(), confidence.tolist()  # 255 / (1 + exp(-1 / 0.5))
        ([[[1, 1]]], [[[225.0, 225.0]]])
    """
    at_once = _classes_at_once(size)
    best, classes, total = torch.tensor(-math.inf), torch.tensor(0), torch.tensor(0.0)
    for first in range(0, logits.shape[1], at_once):
        part = resample_logits(logits[:, first : first + at_once].float(), size)
        highest, indices = part.max(1)
        classes = torch.where(highest > best, indices + first, classes) if first else indices
        new_best = torch.maximum(best, highest) if first else highest
        exponents = part.sub(new_best.unsqueeze(1)).div_(temperature)
        sums = exponents.exp_().sum(1)
        total = total * ((best - new_best) / temperature).exp() + sums if first else sums
        best = new_best
    return classes, (255 / total).round()


def _classes_at_once(size: tuple[int, int]) -> int:
    return max(1, min(12, LOGITS_AT_ONCE // math.prod(size)))


def _as_bytes(values: Tensor) -> np.ndarray:
    """1xHxW values from 0 to 255 as HxW uint8 in main memory."""
    return values[0].to(torch.uint8).cpu().numpy()
