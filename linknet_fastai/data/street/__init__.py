"""Draws small synthetic street scenes with CamVid's 11 classes, each from a seed alone.

They serve for a first try of the program, for tests and for demonstrations. Recipes and tensors are not known here.
"""

from linknet_fastai.data.street.canvas import CLASSES, VOID
from linknet_fastai.data.street.scenes import SIZE, SPLITS, draw_scene, scene_seed, write_scenes

__all__ = ["CLASSES", "SIZE", "SPLITS", "VOID", "draw_scene", "scene_seed", "write_scenes"]
