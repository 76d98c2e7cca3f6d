"""A run's model as a file in one of the formats of `linknet_fastai.engines.formats`."""

import os
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.files import atomic_write, check_own
from linknet_fastai.data.dataset import Frame
from linknet_fastai.data.loaders import segmentation_block
from linknet_fastai.engines.formats import FORMATS
from linknet_fastai.export.graph import Check, check_graph, export_graph
from linknet_fastai.learner.learner import wrap_model
from linknet_fastai.learner.loss import SegmentationLoss
from linknet_fastai.model.card import METADATA_KEY, ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.named import folder_for
from linknet_fastai.model.save_load import load_model, save_model
from linknet_fastai.predict.inputs import find_images


def export_model(model: LinkNet, card: ModelCard, file: Path, calibration: Path | None = None) -> None:
    """Write a model as `file`, in the format of its suffix: `.pkl`, `.safetensors`, `.onnx` or `.xml`.

    Args:
        model: the network.
        card: its card.
        file: the file to write.
        calibration: a folder of frames to quantize an `.onnx` or `.xml` to int8 with.

    Raises:
        UserError: an optional package is not installed, or the file cannot be written.

    Example::

        model, card = load_model("runs/street")
        export_model(model, card, Path("street.onnx"))
    """
    if file.suffix == ".pkl":
        _export_pickle(model, card, file)
    elif file.suffix == ".safetensors":
        save_model(model, card, file)
    else:
        export_graph(model, card, file, calibration)


@dataclass(frozen=True)
class Export:
    """A file that was written, and how it compares with torch if that was checked."""

    file: Path
    check: Check | None

    @property
    def mebibytes(self) -> float:
        """The size on disk in MiB, including the `.bin` of an `.xml`."""
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
    """Export a run's best weights; formats that run outside of torch are compared with torch.

    Args:
        run: a run folder or a `.safetensors`.
        file_format: a name in `linknet_fastai.engines.formats.FORMATS`.
        out: the file to write, by default `export.SUFFIX` in `folder_for` the model, `export-int8.SUFFIX` for int8.
        int8: whether to quantize, "onnx" and "openvino" only.
        calibrate: the folder of frames to quantize with.
        check: the folder of frames to compare on; by default those of `calibrate`, otherwise drawn street scenes.

    Raises:
        UsageError: options that exclude each other, or a file that the user did not name would be overwritten.
        UserError: something is missing or cannot be written, or the file's class maps are not those of torch.

    Example::

        print(export_run(Path("runs/street"), "onnx").file)
    """
    suffix, checked = FORMATS[file_format].suffix, "torch" not in FORMATS[file_format].engines
    if int8 and not checked:
        raise UsageError(f"--int8: goes with --format onnx, openvino or web, not with {file_format}")
    check_int8(int8, calibrate)
    if out is not None and not out.name:
        raise UsageError(f"--out: {out} is a folder; name a file")
    if check and not checked:
        raise UsageError(f"--check: compares other engines with torch; a {file_format} runs in torch itself")
    for folder in filter(None, (calibrate, check)):
        find_images(folder)  # raises before the work starts
    model, card = load_model(run)
    file = out or folder_for(run) / f"export{'-int8' if int8 else ''}{suffix}"
    file = file if file.suffix == suffix else file.with_name(f"{file.name}{suffix}")
    if file != out:
        check_own(file, _is_own)
    if suffix == ".xml" and not file.exists():  # without it, a .bin is not of ours
        check_own(file.with_suffix(".bin"), _is_own)
    if not checked:
        export_model(model, card, file)
        return Export(file, None)
    # Checked in a temporary folder: a file that fails the check replaces no good one.
    with TemporaryDirectory() as temporary:
        export_model(model, card, written := Path(temporary) / file.name, calibrate)
        result = check_graph(model, card, written, check or calibrate, "auto" if int8 else "fp32")
        # The weights first: an `.xml` never exists without its `.bin`.
        for part in (written.with_suffix(".bin"), written):
            if part.is_file():
                with atomic_write(file.with_name(part.name)) as partial:
                    shutil.copyfile(part, partial)
    return Export(file, result)


def check_int8(int8: bool, calibrate: Path | None) -> None:
    """Raise UsageError unless both are given, or none."""
    if int8 != (calibrate is not None):
        raise UsageError("--int8 and --calibrate DIR need each other: the frames decide the scale of every layer")


def check_own_folder(folder: Path, marked: str) -> None:
    """Raise UsageError unless a folder is missing, empty, or one that an export wrote.

    Args:
        folder: the folder to be written.
        marked: the name of a file in it that contains `METADATA_KEY`.
    """
    if not os.path.isdir(folder):
        if os.path.exists(folder):
            raise UsageError(f"--out: {folder} is a file; this export writes a folder")
        return
    file = folder / marked
    if any(folder.iterdir()) and not (file.is_file() and METADATA_KEY in file.read_text(errors="replace")):
        raise UsageError(f"--out: {folder} has files that no export wrote; name a new folder")


def _is_own(file: Path) -> bool:
    """Whether this package wrote a file: in every format but a `.bin` there are names of its own."""
    return file.is_file() and METADATA_KEY.encode() in file.read_bytes()


def _export_pickle(model: LinkNet, card: ModelCard, file: Path) -> None:
    """Write a fastai Learner that `load_learner` reads wherever this package is installed.

    A new learner is built on blank frames, so that nothing of the training (data, paths, callbacks with open files)
    is pickled with it.
    """
    width, height = card.size
    image: Any = np.zeros((height, width, 3), np.uint8)  # in the place of a path: fastai opens arrays too
    blank = Frame(image, image[..., 0], "blank")
    block = segmentation_block(card.class_names, np.asarray, card.size, n_train=1, fit=card.fit)
    dls = block.dataloaders([blank, blank], bs=1, num_workers=0, device=torch.device("cpu"))
    settings = Settings(optimizer="adamw")
    learn = wrap_model(dls, deepcopy(model).cpu().eval(), card, settings, loss_func=SegmentationLoss())
    # An absolute name, because `learn.path` would be prepended, and is pickled.
    with atomic_write(file) as partial:
        learn.export(partial.absolute())
