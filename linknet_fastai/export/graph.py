"""Write a model as an ONNX or OpenVINO file, optionally in int8, and compare the file with torch.

The graph itself is built in `onnx_graph`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from linknet_fastai.core.errors import UserError, import_optional
from linknet_fastai.core.files import atomic_write
from linknet_fastai.core.images import open_image
from linknet_fastai.data.street import draw_scene
from linknet_fastai.engines.formats import FORMATS
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import METADATA_KEY, ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.predict.inputs import find_images

CALIBRATION_FRAMES, CHECK_FRAMES = 60, 10
MIN_AGREEMENT = 0.999  # of pixels, for a file in fp32


@dataclass(frozen=True)
class Check:
    """How an exported file's class maps compare with those of torch in fp32.

    Attributes:
        agreement: the share of pixels with the same class, from 0 to 1.
        frames: how many frames were compared.
        source: where the frames come from.
        engine: what ran the file, and in which precision.
    """

    agreement: float
    frames: int
    source: str
    engine: str


def export_graph(model: LinkNet, card: ModelCard, file: Path, calibration: Path | None = None) -> None:
    """Write a model as `file`: an `.onnx`, or an OpenVINO `.xml` and its `.bin`.

    Args:
        model: the network.
        card: its card, stored in the file's metadata.
        file: the file to write.
        calibration: a folder of frames to quantize to int8 with.

    Raises:
        UserError: a package is not installed, the frames cannot be read, or the file cannot be written.
    """
    file_format = FORMATS["openvino" if file.suffix == ".xml" else "onnx"]
    for package in file_format.packages:
        import_optional(package, file_format.extra)
    frames = sample(find_images(calibration), CALIBRATION_FRAMES) if calibration else []
    if frames:
        import_optional(*(("nncf", "int8") if file.suffix == ".xml" else ("onnxruntime", "onnx")))
    from linknet_fastai.export.int8 import quantize_onnx, quantize_openvino  # need the optional packages themselves
    from linknet_fastai.export.onnx_graph import onnx_graph

    content = onnx_graph(model, card)
    if file.suffix == ".onnx":
        content = quantize_onnx(content, frames, card) if frames else content
        with atomic_write(file) as partial:
            partial.write_bytes(content.SerializeToString())
        return
    openvino = import_optional("openvino", "openvino")
    graph = openvino.Core().read_model(content.SerializeToString())
    if frames:
        graph = quantize_openvino(graph, frames, card)
    graph.set_rt_info(card.model_dump_json(), [METADATA_KEY])
    # The weights are renamed first: an `.xml` never exists without its `.bin`.
    with atomic_write(file) as description, atomic_write(file.with_suffix(".bin")) as weights:
        openvino.serialize(graph, str(description), str(weights))


def check_graph(
    model: LinkNet,
    card: ModelCard,
    file: Path,
    folder: Path | None = None,
    precision: str = "fp32",
    engine: str = "auto",
) -> Check:
    """Compare an exported file with torch in fp32, frame by frame.

    Args:
        model: the network that was exported.
        card: its card.
        file: the exported file.
        folder: a folder of frames; None draws street scenes at the training size.
        precision: what the file's engine computes in; "auto" for an int8 file.
        engine: what runs the file.

    Raises:
        UserError: the class maps or the confidence of a file in fp32 are not those of torch.
    """
    frames, source = check_frames(folder, card.size)
    opened = open_engine(file, engine, precision, frames=1)
    torch_engine = Predictor(model, card, "cpu", "fp32")
    same, certain = [], []
    for frame in frames:
        expected, confidence = torch_engine.predict_with_confidence(frame)
        if opened.has_confidence:
            channels, given = opened.predict_with_confidence(frame)
            certain.append(np.abs(given.astype(int) - confidence) <= 1)
        else:
            channels = opened.predict_channels(frame)
        same.append(channels == expected)
    agreement = float(np.concatenate(same, axis=None).mean())
    worst = min(agreement, float(np.concatenate(certain, axis=None).mean()) if certain else 1.0)
    if opened.precision == "fp32" and worst < MIN_AGREEMENT:
        raise UserError(
            f"{file.name}: not written; the graph agrees with torch on only {worst:.2%} of the pixels of "
            f"{source}. Please report this with the encoder's name"
        )
    return Check(agreement, len(frames), source, str(opened))


def check_frames(folder: Path | None, size: tuple[int, int]) -> tuple[list[Image.Image], str]:
    """The frames that an exported file is compared with torch on, and where they come from.

    Args:
        folder: a folder of frames; None draws street scenes.
        size: (width, height) of drawn scenes.

    Example:
        >>> frames, source = check_frames(None, (96, 72))
        >>> len(frames), source
        (10, 'drawn street scenes')
    """
    if folder:
        return [open_image(path) for path in sample(find_images(folder), CHECK_FRAMES)], str(folder)
    return [draw_scene(seed, size)[0] for seed in range(CHECK_FRAMES)], "drawn street scenes"


def sample(paths: Sequence[Path], most: int) -> list[Path]:
    """Up to `most` of the paths, evenly spaced.

    Example:
        >>> [path.name for path in sample([Path("a"), Path("b"), Path("c")], 2)]
        ['a', 'c']
    """
    return [paths[int(index)] for index in np.linspace(0, len(paths) - 1, min(most, len(paths)))]
