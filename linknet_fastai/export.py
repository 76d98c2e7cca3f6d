"""A run's model as a file for others: a fastai Learner in a `.pkl`, or a `.safetensors`."""

from pathlib import Path

import numpy as np
import torch

from linknet_fastai.data import segmentation_block
from linknet_fastai.dataset import Frame
from linknet_fastai.files import written_whole
from linknet_fastai.learner import wrap_model
from linknet_fastai.model import LinkNet
from linknet_fastai.model_card import ModelCard
from linknet_fastai.model_file import load_model, save_model


def export_model(model: LinkNet, card: ModelCard, file: Path) -> None:
    """Write a model as `file`, in the format of its suffix: `.pkl` or `.safetensors`."""
    if file.suffix == ".pkl":
        _export_pickle(model, card, file)
    else:
        save_model(model, card, file)


def export_run(run: Path, file_format: str, out: Path | None = None) -> Path:
    """Export a run's best weights.

    Args:
        run: a run folder or a `.safetensors`.
        file_format: "pkl" or "safetensors".
        out: the file to write, by default `export.FORMAT` beside the model.

    Returns:
        The file written.
    """
    model, card = load_model(run)
    file = out or (run if run.is_dir() else run.parent) / f"export.{file_format}"
    file = file if file.suffix == f".{file_format}" else file.with_name(f"{file.name}.{file_format}")
    export_model(model, card, file)
    return file


def _export_pickle(model: LinkNet, card: ModelCard, file: Path) -> None:
    """Write a fastai Learner that `load_learner` reads wherever this package is installed.

    It is built anew around blank frames, so that nothing of the training (data, paths, callbacks with open
    files) can travel along.
    """
    width, height = card.size
    blank = Frame(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8), "blank")
    block = segmentation_block(card.class_names, np.asarray, card.size, n_train=1)
    dls = block.dataloaders([blank, blank], bs=1, num_workers=0, device=torch.device("cpu"))
    learn = wrap_model(dls, model.cpu().eval(), card, path=".")
    # An absolute name goes past `learn.path`, which travels in the pickle.
    with written_whole(file) as partial:
        learn.export(partial.absolute())
