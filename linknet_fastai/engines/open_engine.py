"""Open a model with the requested engine, or with the fastest installed engine for its file."""

import os
import shlex
from pathlib import Path

from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.parallel import usable_cores
from linknet_fastai.engines.engine import Engine, InputSize
from linknet_fastai.engines.formats import ENGINES, format_of
from linknet_fastai.model.named import find_model, no_such_model

MOST_AT_ONCE = 8  # each frame in the network keeps its features in memory


def open_engine(
    model: Path,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    size: InputSize = None,
    trust_pickle: bool = False,
    frames: int | None = None,
    tta: bool = False,
    temperature: float | None = None,
) -> Engine:
    """Open a model to predict with.

    On a CPU several frames are computed at the same time with few threads each, which is faster than one frame with
    all threads. For torch this sets the number of threads of the whole process.

    Args:
        model: a run folder, or a file in one of the formats of `linknet_fastai.engines.formats`; or what `find_model`
            finds by name.
        engine: an engine's name, or "auto" for the fastest that is installed for this file.
        precision: see the engines; "auto" is bf16 where engine and hardware support it.
        device: for torch, and for onnxruntime, see `OnnxPredictor`; openvino runs on the CPU.
        size: (width, height) of what the network sees; None is the model's training size, "native" each frame's own.
        trust_pickle: whether a `.pkl` may be loaded.
        frames: how many frames will be predicted, if known: no more are computed at the same time.
        tta: average over flips and scales; torch only, because exported graphs return classes and not scores.
        temperature: of the confidence, in place of the model's own; torch only: exported graphs contain theirs.

    Raises:
        UsageError: an engine, device or precision that this file does not support.
        UserError: the file is missing, damaged or not ours, or the engine is not installed.

    Example::

        engine = open_engine(Path("runs/street/export.onnx"))
        mask = engine("frame.png")
    """
    model = find_model(model)
    at_once = max(1, min(usable_cores(), MOST_AT_ONCE, frames or MOST_AT_ONCE))
    on_cpu = device in (None, "auto", "cpu")
    name = _engine_name(model, engine, on_cpu)
    if name == "torch":
        import torch

        from linknet_fastai.core.device import resolve_device
        from linknet_fastai.model.save_load import load_model

        if resolve_device(device or "auto").type != "cpu":
            at_once = 1
        else:
            torch.set_num_threads(max(1, usable_cores() // at_once))
        network, card = load_model(model, trust_pickle)
        if temperature is not None:
            card = card.model_copy(update={"temperature": temperature})
        return ENGINES[name].load()(network, card, device or "auto", precision, size, at_once, tta)
    if tta:
        raise UsageError(f"--tta: {model.name} returns classes only; give the run folder or .safetensors")
    if temperature is not None:
        raise UsageError(f"--temperature: {model.name} contains its own; give the run folder or .safetensors")
    if not on_cpu and name != "onnxruntime":
        raise UsageError(f"--device: {name} runs on the CPU here; for {device} give the run folder or .safetensors")
    if not os.path.isfile(model):
        raise no_such_model(model)
    if on_cpu:
        return ENGINES[name].load()(model, precision, size, at_once)
    return ENGINES[name].load()(model, precision, size, 1, device)


def _engine_name(model: Path, engine: str, on_cpu: bool) -> str:
    """The name of the engine that runs a model; a folder and an unknown suffix are torch's."""
    file_format = None if os.path.isdir(model) else format_of(model.suffix)
    able = file_format.engines if file_format else ("torch",)
    if engine == "auto" and not on_cpu and "onnxruntime" in able:
        return "onnxruntime"  # runs on other devices too
    if engine == "auto":
        return next((name for name in able if ENGINES[name].is_installed), able[-1])
    if engine in able:
        return engine
    if engine not in ENGINES:
        raise UsageError(f"--engine: there is no {engine!r}; use {', '.join(ENGINES)} or auto")
    if able == ("torch",):
        raise UsageError(
            f"--engine: {engine} runs exported files; first: linknet-fastai export {shlex.quote(str(model))} "
            f"--format {ENGINES[engine].format}"
        )
    raise UsageError(f"--engine: {engine} does not run {model.suffix} files; use {' or '.join(able)}")
