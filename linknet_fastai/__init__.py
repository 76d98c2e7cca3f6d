"""LinkNet on fastai: real-time semantic segmentation of street scenes."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors, which do not see `__getattr__`; a test compares it with _HOMES
    from linknet_fastai.config.recipe import load_recipe as load_recipe
    from linknet_fastai.data.loaders import segmentation_dls as segmentation_dls
    from linknet_fastai.data.open import open_dataset as open_dataset
    from linknet_fastai.engines.torch_engine import Predictor as Predictor
    from linknet_fastai.learner.learner import linknet_learner as linknet_learner
    from linknet_fastai.learner.loss import SegmentationLoss as SegmentationLoss
    from linknet_fastai.learner.loss import class_weights as class_weights
    from linknet_fastai.model.linknet import LinkNet as LinkNet
    from linknet_fastai.model.save_load import load_model as load_model
    from linknet_fastai.scoring.evaluate import evaluate as evaluate
    from linknet_fastai.scoring.metrics import ForegroundIoU as ForegroundIoU
    from linknet_fastai.scoring.metrics import segmentation_metrics as segmentation_metrics

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
    "open_dataset": "data.open",
    "segmentation_dls": "data.loaders",
    "segmentation_metrics": "scoring.metrics",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `linknet-fastai --help` does not wait for torch and fastai."""
    if name in _HOMES:
        return getattr(import_module(f"linknet_fastai.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
