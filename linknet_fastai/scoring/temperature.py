"""The temperature of a model: one number that makes its confidence as high as its accuracy."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from linknet_fastai.core.images import open_image
from linknet_fastai.core.parallel import Progress, map_in_threads
from linknet_fastai.data.dataset import Dataset, Frame
from linknet_fastai.engines.engine import frame_threads
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import TEMPERATURES
from linknet_fastai.model.linknet import resample_logits

MOST_FRAMES, PIXELS_PER_FRAME = 100, 1000  # neighboring pixels and video frames tell little more


def fit_temperature(predictor: Predictor, dataset: Dataset, split: str, progress: Progress | None = None) -> float:
    """The temperature at which the cross-entropy of the labels is lowest (Guo et al., 2017).

    Computed from a sample of pixels of up to `MOST_FRAMES` frames, evenly spaced; the same for the same weights.

    Args:
        predictor: the model.
        dataset: the data set.
        split: a split that the model was not trained on.
        progress: called with the progress.

    Returns:
        A number from `TEMPERATURES`, with three decimals; 1 if all pixels are void.

    Raises:
        UserError: a frame cannot be read.

    Example::

        temperature = fit_temperature(predictor, open_dataset("street"), "val")
        card = card.model_copy(update={"temperature": temperature})
    """
    frames = dataset.frames(split)
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).astype(int).tolist()

    def sampled(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return _sample(predictor, dataset, frames[index], index)

    logits, labels = [], []
    for done, (of_frame, truth) in enumerate(map_in_threads(sampled, chosen, frame_threads(predictor)), 1):
        logits.append(of_frame)
        labels.append(truth)
        if progress:
            progress("fitting the temperature", done, len(chosen))
    all_logits, all_labels = torch.cat(logits), torch.cat(labels)
    if not len(all_labels):
        return 1.0

    def cross_entropy(log_temperature: float) -> float:
        return F.cross_entropy(all_logits / np.exp(log_temperature), all_labels).item()

    found = minimize_scalar(cross_entropy, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(found.x)), 3)


@torch.inference_mode()
def _sample(predictor: Predictor, dataset: Dataset, frame: Frame, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (NxC) and classes (N) of random pixels of a frame that are not void, at the size of its label map."""
    image = open_image(frame.image)
    labels = dataset.read_label.of_frame(frame, image.size)
    scored = np.flatnonzero(labels != 255)
    pixels = np.random.default_rng(seed).choice(scored, min(PIXELS_PER_FRAME, len(scored)), replace=False)
    with predictor.free_slots:
        logits = resample_logits(predictor.logits(predictor.seen(image)).float(), labels.shape)
        chosen = logits[0].flatten(1)[:, torch.from_numpy(pixels).to(logits.device)].T.cpu()
    return chosen, torch.from_numpy(labels.ravel()[pixels]).long()
