"""Two small tables: the formats of model files, and the engines that run them. Imports no torch.

`open_engine`, `--engine`, `--format`, `benchmark` and messages read these. A new engine is a file with a subclass of
`Engine`, a row here, and the writer of its format in `linknet_fastai.export.export`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from linknet_fastai.engines.engine import Engine

EngineName = Literal["torch", "onnxruntime", "openvino"]
FormatName = Literal["pkl", "safetensors", "onnx", "openvino"]


@dataclass(frozen=True)
class EngineInfo:
    """An engine and where it is.

    Attributes:
        name: its name for `--engine`.
        location: "module:class" in this package, imported when the engine is opened. The class is called with
            (file, precision, size, frames_at_once), onnxruntime's also with a device; torch's takes a network instead
            of a file.
        package: the package that it runs networks with.
        format: the name of the format to export a run to for this engine.
    """

    name: EngineName
    location: str
    package: str
    format: FormatName

    @property
    def is_installed(self) -> bool:
        """Whether its package can be imported."""
        return find_spec(self.package) is not None

    def load(self) -> "Callable[..., Engine]":
        """Import its class; this may import torch."""
        module, name = self.location.split(":")
        return getattr(import_module(f"linknet_fastai.engines.{module}"), name)


@dataclass(frozen=True)
class Format:
    """A format that a model is exported to.

    Attributes:
        name: its name for `--format`.
        suffix: of its files.
        purpose: what it is for, in a few words.
        engines: the names of the engines that run it, fastest first.
        packages: optional packages that writing it needs.
        extra: the extra of this package that installs them.
    """

    name: FormatName
    suffix: str
    purpose: str
    engines: tuple[EngineName, ...]
    packages: tuple[str, ...] = ()
    extra: str = ""

    @property
    def missing_extra(self) -> str | None:
        """The extra to install before this format can be written, None if nothing is missing."""
        return None if all(map(find_spec, self.packages)) else self.extra


_ENGINES = (
    EngineInfo("torch", "torch_engine:Predictor", "torch", "safetensors"),
    EngineInfo("onnxruntime", "onnx_engine:OnnxPredictor", "onnxruntime", "onnx"),
    EngineInfo("openvino", "openvino_engine:OpenVinoPredictor", "openvino", "openvino"),
)
_ONNX, _OPENVINO = ("onnx", "onnxscript"), ("onnx", "onnxscript", "openvino")  # packages that write these
_FORMATS = (
    Format("pkl", ".pkl", "a fastai Learner for load_learner", ("torch",)),
    Format("safetensors", ".safetensors", "weights that can run no code", ("torch",)),
    Format("onnx", ".onnx", "the whole prediction without torch", ("openvino", "onnxruntime"), _ONNX, "onnx"),
    Format("openvino", ".xml", "the same, .xml and .bin, fastest on a CPU", ("openvino",), _OPENVINO, "openvino"),
)
ENGINES: dict[str, EngineInfo] = {entry.name: entry for entry in _ENGINES}
FORMATS: dict[str, Format] = {entry.name: entry for entry in _FORMATS}


def format_of(suffix: str) -> Format | None:
    """The format of files with a suffix, None if there is none.

    Example:
        >>> format_of(".XML").name
        'openvino'
    """
    return next((entry for entry in FORMATS.values() if entry.suffix == suffix.lower()), None)
