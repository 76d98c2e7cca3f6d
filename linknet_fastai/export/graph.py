"""A model as an ONNX or OpenVINO file, in int8 where asked, checked against torch. What is in the graph is
`onnx_graph`'s job.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError, import_optional
from linknet_fastai.core.files import atomic_write
from linknet_fastai.core.images import open_image, resize_image
from linknet_fastai.data.street import draw_scene
from linknet_fastai.engines.engine import IMAGE, SIZE
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import METADATA_KEY, ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.predict.inputs import find_images

CALIBRATION_FRAMES, CHECK_FRAMES = 60, 10
LEAST_AGREEMENT = 0.999  # of pixels, for a file in fp32


@dataclass(frozen=True)
class Check:
    """How an exported file's class maps compare with those of torch in fp32.

    Attributes:
        agreement: the share of pixels that agree, from 0 to 1.
        frames: over how many frames.
        source: where they come from.
        engine: what ran the file.
        precision: what it computed in.
    """

    agreement: float
    frames: int
    source: str
    engine: str
    precision: str


def export_graph(model: LinkNet, card: ModelCard, file: Path, calibration: Path | None = None) -> None:
    """Write a model as `file`: an `.onnx`, or an OpenVINO `.xml` with its `.bin` beside it.

    Args:
        model: the network.
        card: its card; it travels in the file's metadata.
        file: the file to write.
        calibration: a folder of frames to quantise to int8 with; an `.xml` only.

    Raises:
        UserError: a package is not installed, the frames cannot be read, or the file cannot be written.
    """
    extra = "openvino" if file.suffix == ".xml" else "onnx"
    for package in ("onnx", "onnxscript"):
        import_optional(package, extra)
    from linknet_fastai.export.onnx_graph import onnx_graph  # needs the optional packages itself

    if file.suffix == ".onnx":
        content = onnx_graph(model, card).SerializeToString()
        with atomic_write(file) as partial:
            partial.write_bytes(content)
        return
    openvino = import_optional("openvino", "openvino")
    nncf = import_optional("nncf", "int8") if calibration else None
    graph = openvino.Core().read_model(onnx_graph(model, card).SerializeToString())
    if calibration:
        graph = _quantized(nncf, graph, card, sample(find_images(calibration), CALIBRATION_FRAMES))
    graph.set_rt_info(card.model_dump_json(), [METADATA_KEY])
    # The weights are renamed first: an `.xml` is never there without its `.bin`.
    with atomic_write(file) as description, atomic_write(file.with_suffix(".bin")) as weights:
        openvino.serialize(graph, str(description), str(weights))


def _quantized(nncf: Any, graph: Any, card: ModelCard, images: Sequence[Path]) -> Any:
    """Post-training quantisation: what each layer gives for these frames decides its scale."""

    def seen(path: Path) -> dict[str, np.ndarray]:
        pixels = np.asarray(resize_image(open_image(path), card.size))[None]
        return {IMAGE: pixels, SIZE: np.array(card.size[::-1], np.int64)}

    frames = nncf.Dataset(images, seen)
    with contextlib.redirect_stdout(sys.stderr):  # where its progress bar belongs
        return nncf.quantize(graph, frames, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images))


def check_graph(model: LinkNet, card: ModelCard, file: Path, folder: Path | None = None) -> Check:
    """Compare an exported file with torch in fp32, frame by frame.

    Args:
        model: the network that was exported.
        card: its card.
        file: the exported file.
        folder: a folder of frames; None draws street scenes at the training size.

    Raises:
        UserError: a file in fp32 does not give torch's class maps.
    """
    frames: Sequence[Image.Image]
    if folder is None:
        frames = [draw_scene(seed, card.size)[0] for seed in range(CHECK_FRAMES)]
        source = "drawn street scenes"
    else:
        frames, source = [open_image(path) for path in sample(find_images(folder), CHECK_FRAMES)], str(folder)
    engine = _exact_engine(file)
    torch_engine = Predictor(model, card, "cpu", "fp32")
    same = [engine(frame) == torch_engine(frame) for frame in frames]
    agreement = sum(int(part.sum()) for part in same) / sum(part.size for part in same)
    check = Check(agreement, len(frames), source, engine.name, engine.precision)
    if check.precision == "fp32" and agreement < LEAST_AGREEMENT:
        raise UserError(
            f"{file.name}: not written; the graph gives torch's class on {agreement:.2%} of the pixels of {source} "
            "only. Please report this with the encoder's name"
        )
    return check


def _exact_engine(file: Path) -> Any:
    """The engine of a file, in fp32 if the file is."""
    try:
        return open_engine(file, precision="fp32", frames=1)
    except UserError:
        return open_engine(file, frames=1)


def sample(paths: Sequence[Path], most: int) -> list[Path]:
    """Up to so many of the paths, evenly."""
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, min(most, len(paths)))]
