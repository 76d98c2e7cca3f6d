"""Write a run's network as a folder for other programs: a static ONNX graph and the files they want beside it."""

from pathlib import Path
from typing import Any

import numpy as np

from linknet_fastai.core.errors import UserError, import_optional
from linknet_fastai.core.files import atomic_write, write_text
from linknet_fastai.core.images import resize_image
from linknet_fastai.engines.formats import FORMATS
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.export.contracts import FILES, INPUT, MODEL, PREPROCESS, Interface, contract_files
from linknet_fastai.export.export import Export, check_own_folder
from linknet_fastai.export.graph import MIN_AGREEMENT, Check, check_frames
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.named import folder_for
from linknet_fastai.model.save_load import load_model
from linknet_fastai.predict.inputs import find_images

FOLDER = "export-network"


def export_network(
    run: Path,
    out: Path | None = None,
    size: tuple[int, int] | None = None,
    check: Path | None = None,
    **interface: Any,
) -> tuple[Export, list[Path]]:
    """Export a run's best weights as a static graph with the files for Triton, DeepStream and Isaac ROS.

    The graph is compared with torch before anything is written.

    Args:
        run: a run folder or a `.safetensors`.
        out: the folder to write, by default `export-network` in the folder of the model.
        size: (width, height) of the graph's input and outputs; by default the training size.
        check: a folder of frames to compare on; by default drawn street scenes.
        interface: the other fields of `linknet_fastai.export.contracts.Interface`.

    Returns:
        The graph, and the files beside it.

    Raises:
        UsageError: the folder has files that no export wrote.
        UserError: a package is not installed, a file cannot be written, or the graph's class maps are not torch's.

    Example::

        written, files = export_network(Path("runs/street"), output="probabilities")
    """
    for package in FORMATS["onnx"].packages:
        import_optional(package, FORMATS["onnx"].extra)
    from linknet_fastai.export.network_graph import network_graph  # needs the optional packages itself

    if check:
        find_images(check)  # raises before the work starts
    folder = out or folder_for(run) / FOLDER
    check_own_folder(folder, PREPROCESS)
    model, card = load_model(run)
    chosen = Interface(size or card.size, **interface)
    content = network_graph(model, card, chosen).SerializeToString()
    result = _check(model, card, chosen, content, check)
    texts = contract_files(card, chosen)
    (folder / MODEL).unlink(missing_ok=True)  # written last, so that none is beside texts that describe another one
    for name in sorted(texts, key=PREPROCESS.__ne__):  # it first: by it a folder is known as one that an export wrote
        write_text(folder / name, texts[name])
    for name in FILES:  # those of an earlier interface that this one does not have
        if name not in texts:
            (folder / name).unlink(missing_ok=True)
    with atomic_write(folder / MODEL) as partial:
        partial.write_bytes(content)
    return Export(folder / MODEL, result), [folder / name for name in texts]


def _check(model: LinkNet, card: ModelCard, interface: Interface, content: bytes, folder: Path | None) -> Check:
    """Compare the graph in ONNX Runtime with torch in fp32, as `check_graph` does for frames."""
    runtime = import_optional("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    torch_engine = Predictor(model, card, "cpu", "fp32", interface.size)
    frames, source = check_frames(folder, interface.size)
    same, certain = [], []
    for frame in frames:
        seen = np.asarray(resize_image(frame, interface.size))
        pixels = seen.transpose(2, 0, 1)[None]
        if interface.input != "uint8":
            pixels = pixels.astype(np.float32)
        if interface.input == "normalized":
            mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (card.mean, card.std))
            pixels = (pixels / np.float32(255) - mean) / std
        first, *others = session.run(None, {INPUT: pixels})
        expected, confidence = torch_engine.channels_and_confidence(seen, seen.shape[:2])
        same.append(interface.classes(first) == expected)
        certain += [np.abs(255 * other[0, ..., 0] - confidence) <= 1.5 for other in others]
    agreement = float(np.mean(same))
    worst = min(agreement, float(np.mean(certain or [True])))
    if not interface.half and worst < MIN_AGREEMENT:
        raise UserError(
            f"--interface network: not written; the graph agrees with torch on only {worst:.2%} of the pixels of "
            f"{source}. Please report this with the encoder's name"
        )
    return Check(agreement, len(frames), source, f"onnxruntime in {'fp16' if interface.half else 'fp32'}")
