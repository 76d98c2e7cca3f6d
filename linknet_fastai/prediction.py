"""From a model file and images to masks and overlays. What the network sees and what comes out is decided here."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from linknet_fastai.callbacks import resample_logits
from linknet_fastai.dataset import Progress
from linknet_fastai.device import autocast, resolve_device, resolve_precision
from linknet_fastai.errors import UsageError, UserError
from linknet_fastai.files import written_whole
from linknet_fastai.image_files import open_image, resize_image
from linknet_fastai.model import LinkNet
from linknet_fastai.model_card import ModelCard
from linknet_fastai.recipe import VOID

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
NATIVE = "native"


class Predictor:
    """Predicts one frame at a time, as `evaluate`, `predict` and the pictures of a run all do.

    Args:
        model: the network; it is moved to `device`.
        card: the model's card.
        device: see `resolve_device`.
        precision: see `linknet_fastai.device.resolve_precision`.
        size: (width, height) that the network sees; None is the model's training size, "native" each frame's own.
    """

    def __init__(
        self,
        model: LinkNet,
        card: ModelCard,
        device: str = "auto",
        precision: str = "auto",
        size: tuple[int, int] | str | None = None,
    ) -> None:
        self.card, self.device = card, resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.size = card.size if size is None else size
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()
        self._mean = torch.tensor(card.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(card.std, device=self.device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> np.ndarray:
        """Predict a frame.

        Args:
            image: an RGB frame.

        Returns:
            HxW uint8 at the frame's own size: the network's channel of each pixel.
        """
        seen = image if self.size == NATIVE else resize_image(image, self.size)
        pixels = torch.from_numpy(np.array(seen)).to(self.device).permute(2, 0, 1)[None]
        # The very operations of fastai's IntToFloatTensor and Normalize, so that both give the same bits.
        batch = (pixels.float().div_(255.0) - self._mean) / self._std
        with autocast(self.precision, self.device):
            logits = self.model(batch.contiguous(memory_format=torch.channels_last))
        return _classes(resample_logits(logits.float(), image.size[::-1]))


def _classes(logits: Tensor) -> np.ndarray:
    return logits.argmax(1)[0].to(torch.uint8).cpu().numpy()


def id_mask(channels: np.ndarray, card: ModelCard) -> np.ndarray:
    """Turn channels (HxW uint8, 255 for void) into the recipe's class ids (HxW uint8)."""
    ids = np.full(256, card.void.id, np.uint8)
    ids[: len(card.classes)] = [entry.id for entry in card.classes]
    return ids[channels]


def colour_mask(channels: np.ndarray, card: ModelCard) -> np.ndarray:
    """Turn channels (HxW uint8, 255 for void) into the recipe's colours (HxWx3 uint8)."""
    colours = np.full((256, 3), card.void.color, np.uint8)
    colours[: len(card.classes)] = [entry.color for entry in card.classes]
    return colours[channels]


def overlay(image: Image.Image, channels: np.ndarray, card: ModelCard, opacity: float = 0.5) -> Image.Image:
    """Lay the classes' colours over an RGB frame of the same size; void stays clear."""
    coloured = Image.blend(image, Image.fromarray(colour_mask(channels, card)), opacity)
    clear = Image.fromarray((channels == VOID).astype(np.uint8) * 255)
    return Image.composite(image, coloured, clear)


@dataclass(frozen=True)
class Job:
    """An image to predict, and where its mask and overlay go, relative to `masks/` and `overlays/`."""

    image: Path
    target: Path


def collect_jobs(inputs: Sequence[Path], out: Path) -> list[Job]:
    """Find the images behind files and folders; the sub-folders of a folder are mirrored.

    What an earlier prediction left in `out` is no input, also where `out` lies inside a folder of images.

    Raises:
        UsageError: nothing to do, or two inputs that would write one file.
        UserError: an input is missing.
    """
    jobs: dict[Path, Job] = {}
    written = {(out / name).resolve() for name in ("masks", "overlays")}
    for source in inputs:
        if source.is_dir():
            files = (path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
            images = sorted(path for path in files if not written & {*path.resolve().parents})
            found = [Job(path, path.relative_to(source).with_suffix(".png")) for path in images]
        elif source.is_file():
            found = [Job(source, Path(source.stem + ".png"))]
        else:
            raise UserError(f"{source}: no such file or folder")
        for job in found:
            if job.target in jobs:
                raise UsageError(
                    f"{jobs[job.target].image} and {job.image} would both write {job.target}; predict them apart"
                )
            jobs[job.target] = job
    if not jobs:
        raise UsageError(f"{', '.join(map(str, inputs))}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return list(jobs.values())


def predict_images(
    predictor: Predictor,
    jobs: Sequence[Job],
    out: Path,
    masks_only: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write `out/masks/STEM.png` and `out/overlays/STEM.png` for each job.

    A mask has one channel, the recipe's class ids, at the frame's own size. Reading and writing overlap with the
    network.

    Returns:
        A line for each image that could not be read; the others are done.
    """
    failures, pending = [], []
    with ThreadPoolExecutor(2) as pool:
        images = _read_ahead(pool, [job.image for job in jobs])
        for done, (job, image) in enumerate(zip(jobs, images, strict=True), 1):
            try:
                frame = image()
            except UserError as error:
                failures.append(str(error))
            else:
                channels = predictor(frame)
                pending.append(pool.submit(_write, frame, channels, predictor.card, out, job.target, masks_only))
            if len(pending) > 4:
                pending.pop(0).result()
            if progress:
                progress("predicting", done, len(jobs))
        for write in pending:
            write.result()
    return failures


def _read_ahead(pool: ThreadPoolExecutor, paths: Sequence[Path], ahead: int = 3) -> Iterable[Callable]:
    """Yield, for each path, a function that waits for its image; a few are read in advance."""
    waiting = [pool.submit(open_image, path) for path in paths[:ahead]]
    for place in range(len(paths)):
        yield waiting.pop(0).result
        if place + ahead < len(paths):
            waiting.append(pool.submit(open_image, paths[place + ahead]))


def _write(
    frame: Image.Image, channels: np.ndarray, card: ModelCard, out: Path, target: Path, masks_only: bool
) -> None:
    save_image(Image.fromarray(id_mask(channels, card)), out / "masks" / target)
    if not masks_only:
        save_image(overlay(frame, channels, card), out / "overlays" / target)


def save_image(image: Image.Image, file: Path) -> None:
    """Write a PNG, whole or not at all."""
    with written_whole(file) as partial:
        image.save(partial, format="PNG", compress_level=1)
