"""Draws small synthetic street scenes with CamVid's 11 classes, each from nothing but a seed: for the first
minute with the program, for tests and for demonstrations. Knows nothing of recipes or tensors.
"""

from linknet_fastai.data.street.canvas import CLASSES, VOID
from linknet_fastai.data.street.scenes import SIZE, SPLITS, draw_scene, scene_seed, write_scenes

__all__ = ["CLASSES", "SIZE", "SPLITS", "VOID", "draw_scene", "scene_seed", "write_scenes"]
