"""A run's model as a file for others: a fastai Learner, safetensors, ONNX or OpenVINO."""

import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.files import atomic_write
from linknet_fastai.data.dataset import Frame
from linknet_fastai.data.loaders import segmentation_block
from linknet_fastai.export.graph import Check, check_graph, export_graph
from linknet_fastai.learner.learner import wrap_model
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model, save_model
from linknet_fastai.predict.inputs import find_images


def export_model(model: LinkNet, card: ModelCard, file: Path, calibration: Path | None = None) -> None:
    """Write a model as `file`, in the format of its suffix: `.pkl`, `.safetensors`, `.onnx` or `.xml`.

    Args:
        model: the network.
        card: its card.
        file: the file to write.
        calibration: a folder of frames to quantise an `.xml` to int8 with.
    """
    if file.suffix == ".pkl":
        _export_pickle(model, card, file)
    elif file.suffix == ".safetensors":
        save_model(model, card, file)
    else:
        export_graph(model, card, file, calibration)


@dataclass(frozen=True)
class Export:
    """A file that was written, and how it compares with torch, where that was checked."""

    file: Path
    check: Check | None

    @property
    def mebibytes(self) -> float:
        """What the file takes on disk, with the `.bin` of an `.xml`."""
        parts = [self.file, self.file.with_suffix(".bin")] if self.file.suffix == ".xml" else [self.file]
        return sum(part.stat().st_size for part in parts) / 2**20


def export_run(
    run: Path,
    file_format: str,
    out: Path | None = None,
    int8: bool = False,
    calibrate: Path | None = None,
    check: Path | None = None,
) -> Export:
    """Export a run's best weights; what runs outside of torch is compared with torch.

    Args:
        run: a run folder or a `.safetensors`.
        file_format: "pkl", "safetensors", "onnx" or "openvino".
        out: the file to write, by default `export.SUFFIX` beside the model, `export-int8.xml` for int8.
        int8: whether to quantise, "openvino" only.
        calibrate: the folder of frames to quantise with.
        check: the folder of frames to compare on; by default those of `calibrate`, else drawn street scenes.

    Raises:
        UsageError: options that do not go together.
        UserError: something is missing, cannot be written, or the file does not give what torch gives.
    """
    if int8 and file_format != "openvino":
        raise UsageError(f"--int8: goes with --format openvino, not with {file_format}")
    if int8 != (calibrate is not None):
        raise UsageError("--int8 and --calibrate DIR go together: the frames decide the scale of every layer")
    if out is not None and not out.name:
        raise UsageError(f"--out: {out} is a folder; name a file")
    checked = file_format in ("onnx", "openvino")
    if check and not checked:
        raise UsageError(f"--check: compares other engines with torch; a {file_format} runs in torch itself")
    for folder in (calibrate, check):
        if folder:
            find_images(folder)  # raises before the work begins
    suffix = ".xml" if file_format == "openvino" else f".{file_format}"
    model, card = load_model(run)
    file = out or (run if run.is_dir() else run.parent) / f"export{'-int8' if int8 else ''}{suffix}"
    file = file if file.suffix == suffix else file.with_name(f"{file.name}{suffix}")
    if not checked:
        export_model(model, card, file)
        return Export(file, None)
    # Checked before it has its name: a file that fails takes no good one's place.
    with TemporaryDirectory() as folder:
        export_model(model, card, made := Path(folder) / file.name, calibrate)
        result = check_graph(model, card, made, check or calibrate)
        # The weights first: an `.xml` is never there without its `.bin`.
        for part in (made.with_suffix(".bin"), made):
            if part.is_file():
                with atomic_write(file.with_name(part.name)) as partial:
                    shutil.copyfile(part, partial)
    return Export(file, result)


def _export_pickle(model: LinkNet, card: ModelCard, file: Path) -> None:
    """Write a fastai Learner that `load_learner` reads wherever this package is installed.

    It is built anew around blank frames, so that nothing of the training (data, paths, callbacks with open
    files) can travel along.
    """
    width, height = card.size
    blank = Frame(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8), "blank")
    block = segmentation_block(card.class_names, np.asarray, card.size, n_train=1)
    dls = block.dataloaders([blank, blank], bs=1, num_workers=0, device=torch.device("cpu"))
    learn = wrap_model(dls, deepcopy(model).cpu().eval(), card, SegmentationLoss(), path=".")
    # An absolute name goes past `learn.path`, which travels in the pickle.
    with atomic_write(file) as partial:
        learn.export(partial.absolute())
