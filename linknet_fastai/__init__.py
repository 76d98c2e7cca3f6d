"""LinkNet on fastai: real-time semantic segmentation of street scenes."""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "ForegroundIoU": "metrics",
    "LinkNet": "model",
    "Predictor": "torch_engine",
    "SegmentationLoss": "loss",
    "class_weights": "loss",
    "evaluate": "evaluation",
    "linknet_learner": "learner",
    "load_model": "model_file",
    "load_recipe": "recipe",
    "open_dataset": "dataset",
    "segmentation_dls": "data",
    "segmentation_metrics": "metrics",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Import on first use: `linknet-fastai --help` does not wait for torch and fastai."""
    if name in _HOMES:
        return getattr(import_module(f"linknet_fastai.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
