"""LinkNet on fastai: real-time semantic segmentation of street scenes."""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "ForegroundIoU": "scoring.metrics",
    "LinkNet": "model.linknet",
    "Predictor": "engines.torch_engine",
    "SegmentationLoss": "learner.loss",
    "class_weights": "learner.loss",
    "evaluate": "scoring.evaluate",
    "linknet_learner": "learner.learner",
    "load_model": "model.save_load",
    "load_recipe": "config.recipe",
    "open_dataset": "data.dataset",
    "segmentation_dls": "data.loaders",
    "segmentation_metrics": "scoring.metrics",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Import on first use: `linknet-fastai --help` does not wait for torch and fastai."""
    if name in _HOMES:
        return getattr(import_module(f"linknet_fastai.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
