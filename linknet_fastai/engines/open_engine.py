"""Opens a model with the engine that is asked for, or the fastest installed one for its file."""

import os
import shlex
from importlib.util import find_spec
from pathlib import Path

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.parallel import usable_cores
from linknet_fastai.engines.engine import Engine

ENGINES_OF = {".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",)}  # fastest first
MOST_AT_ONCE = 8  # each frame in the network holds its features in memory


def open_engine(
    model: Path,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    size: tuple[int, int] | str | None = None,
    trust_pickle: bool = False,
    frames: int | None = None,
    tta: bool = False,
) -> Engine:
    """Open a model to predict with.

    On a CPU several frames are computed at once, with few threads each: that is faster than one frame with all.
    For torch this sets the number of threads of the whole process.

    Args:
        model: a run folder, a `.safetensors`, a `.pkl`, an `.onnx` or an OpenVINO `.xml`.
        engine: "torch", "onnxruntime", "openvino", or "auto": the fastest that is installed for this file.
        precision: see the engines; auto is bf16 where engine and hardware have it.
        device: for torch; the others run on the CPU.
        size: (width, height) that the network sees; None is the model's training size, "native" each frame's own.
        trust_pickle: whether a `.pkl` may be loaded.
        frames: how many frames are to come; there is no more at once. None is many.
        tta: average over flips and scales, in torch alone: the graphs of the others end in classes.

    Raises:
        UsageError: an engine, device or precision that does not go with this file.
        UserError: the file is missing, damaged or not ours, or the engine is not installed.
    """
    cores = usable_cores()
    at_once = max(1, min(cores, MOST_AT_ONCE, frames or MOST_AT_ONCE))
    kind = model.suffix.lower() if not os.path.isdir(model) else ""
    if kind not in ENGINES_OF:
        if engine not in ("auto", "torch"):
            raise UsageError(
                f"--engine: {engine} runs exported files; first: linknet-fastai export {shlex.quote(str(model))} "
                f"--format {'openvino' if engine == 'openvino' else 'onnx'}"
            )
        return _open_torch(model, precision, device, size, trust_pickle, at_once, tta)
    if tta:
        raise UsageError(f"--tta: {model.name} gives classes alone; it takes the run folder or .safetensors")
    engine = _engine_for(model, ENGINES_OF[kind], engine)
    if device not in (None, "auto", "cpu"):
        raise UsageError(f"--device: {engine} runs on the CPU here; {device} takes the run folder or .safetensors")
    if not os.path.isfile(model):
        raise UserError(f"{model}: no such model")
    if engine == "openvino":
        from linknet_fastai.engines.openvino_engine import OpenVinoPredictor

        return OpenVinoPredictor(model, precision, size, at_once)
    from linknet_fastai.engines.onnx_engine import OnnxPredictor

    return OnnxPredictor(model, precision, size, at_once, max(1, cores // at_once))


def _engine_for(model: Path, able: tuple[str, ...], engine: str) -> str:
    if engine == "auto":
        return next((name for name in able if find_spec(name)), able[-1])
    if engine not in able:
        raise UsageError(f"--engine: {engine} does not run {model.suffix} files; {' and '.join(able)} do")
    return engine


def _open_torch(
    model: Path,
    precision: str,
    device: str | None,
    size: tuple[int, int] | str | None,
    trust_pickle: bool,
    at_once: int,
    tta: bool,
) -> Engine:
    import torch

    from linknet_fastai.core.device import resolve_device
    from linknet_fastai.engines.torch_engine import Predictor
    from linknet_fastai.model.save_load import load_model

    if resolve_device(device or "auto").type != "cpu":
        at_once = 1
    else:
        torch.set_num_threads(max(1, usable_cores() // at_once))
    return Predictor(*load_model(model, trust_pickle), device or "auto", precision, size, at_once, tta)
