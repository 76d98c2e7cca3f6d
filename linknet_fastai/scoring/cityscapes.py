"""The files of Cityscapes as its official scripts define them: table of labels, truth, names of predictions.

Scores are in `cityscapes_scores`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.images import opened_image
from linknet_fastai.core.samples import read_samples


class Label(NamedTuple):
    """A row of the official table of labels (cityscapesscripts/helpers/labels.py)."""

    id: int  # the value in `*_labelIds.png`; -1 does not occur there, some tools store it as 255
    name: str
    train_id: int
    category: str
    category_id: int
    has_instances: bool
    ignore_in_eval: bool
    color: tuple[int, int, int]


LABELS = (
    Label(0, "unlabeled", 255, "void", 0, False, True, (0, 0, 0)),
    Label(1, "ego vehicle", 255, "void", 0, False, True, (0, 0, 0)),
    Label(2, "rectification border", 255, "void", 0, False, True, (0, 0, 0)),
    Label(3, "out of roi", 255, "void", 0, False, True, (0, 0, 0)),
    Label(4, "static", 255, "void", 0, False, True, (0, 0, 0)),
    Label(5, "dynamic", 255, "void", 0, False, True, (111, 74, 0)),
    Label(6, "ground", 255, "void", 0, False, True, (81, 0, 81)),
    Label(7, "road", 0, "flat", 1, False, False, (128, 64, 128)),
    Label(8, "sidewalk", 1, "flat", 1, False, False, (244, 35, 232)),
    Label(9, "parking", 255, "flat", 1, False, True, (250, 170, 160)),
    Label(10, "rail track", 255, "flat", 1, False, True, (230, 150, 140)),
    Label(11, "building", 2, "construction", 2, False, False, (70, 70, 70)),
    Label(12, "wall", 3, "construction", 2, False, False, (102, 102, 156)),
    Label(13, "fence", 4, "construction", 2, False, False, (190, 153, 153)),
    Label(14, "guard rail", 255, "construction", 2, False, True, (180, 165, 180)),
    Label(15, "bridge", 255, "construction", 2, False, True, (150, 100, 100)),
    Label(16, "tunnel", 255, "construction", 2, False, True, (150, 120, 90)),
    Label(17, "pole", 5, "object", 3, False, False, (153, 153, 153)),
    Label(18, "polegroup", 255, "object", 3, False, True, (153, 153, 153)),
    Label(19, "traffic light", 6, "object", 3, False, False, (250, 170, 30)),
    Label(20, "traffic sign", 7, "object", 3, False, False, (220, 220, 0)),
    Label(21, "vegetation", 8, "nature", 4, False, False, (107, 142, 35)),
    Label(22, "terrain", 9, "nature", 4, False, False, (152, 251, 152)),
    Label(23, "sky", 10, "sky", 5, False, False, (70, 130, 180)),
    Label(24, "person", 11, "human", 6, True, False, (220, 20, 60)),
    Label(25, "rider", 12, "human", 6, True, False, (255, 0, 0)),
    Label(26, "car", 13, "vehicle", 7, True, False, (0, 0, 142)),
    Label(27, "truck", 14, "vehicle", 7, True, False, (0, 0, 70)),
    Label(28, "bus", 15, "vehicle", 7, True, False, (0, 60, 100)),
    Label(29, "caravan", 255, "vehicle", 7, True, True, (0, 0, 90)),
    Label(30, "trailer", 255, "vehicle", 7, True, True, (0, 0, 110)),
    Label(31, "train", 16, "vehicle", 7, True, False, (0, 80, 100)),
    Label(32, "motorcycle", 17, "vehicle", 7, True, False, (0, 0, 230)),
    Label(33, "bicycle", 18, "vehicle", 7, True, False, (119, 11, 32)),
    Label(-1, "license plate", -1, "vehicle", 7, False, True, (0, 0, 142)),
)

DRAWN_LABELS = LABELS[:34]  # those that label maps contain; label `id` is DRAWN_LABELS[id]
LABEL_IDS = {label.name: label.id for label in DRAWN_LABELS}

_FILE_NAME = re.compile(r"(?P<frame>[^_]+_\d{6}_\d{6})(_.*)?")


def label_ids_of_channels(class_names: Sequence[str]) -> np.ndarray:
    """The official label id of each channel of a network, by the names of its classes.

    Args:
        class_names: official names of labels in the order of the channels, such as those of the recipes
            `cityscapes` (19) and `cityscapes34` (34).

    Returns:
        C uint8 from 0 to 33; `ids[channels]` turns an HxW map of channels into one of label ids.

    Raises:
        UsageError: a class is not in the official table, or does not occur in label maps.

    Example:
        >>> label_ids_of_channels(["road", "car"]).tolist()
        [7, 26]
    """
    if foreign := [name for name in class_names if name not in LABEL_IDS]:
        raise UsageError(f"class {foreign[0]!r} is not a Cityscapes label: this model cannot write label ids")
    return np.array([LABEL_IDS[name] for name in class_names], np.uint8)


def official_file_name(image: Path) -> str:
    """The file name by which the official script and server find the prediction of a frame.

    The script searches its results folder and all subfolders for exactly one `CITY_123456_123456*.png`: one channel
    of 8 bits with label ids (not train ids) at the size of the frame, 2048x1024 for all of Cityscapes. With `_pred_`
    in the name it also distinguishes predictions from truth if both are listed on its command line.

    Args:
        image: a frame, such as `aachen_000000_000019_leftImg8bit.png`.

    Raises:
        UserError: the name does not start with city, sequence and frame number; a city has no underscore.

    Example:
        >>> official_file_name(Path("aachen_000000_000019_leftImg8bit.png"))
        'aachen_000000_000019_pred_labelIds.png'
    """
    match = _FILE_NAME.fullmatch(image.stem)
    if match is None:
        raise UserError(
            f"{image}: not a Cityscapes name; expected CITY_SEQUENCE_FRAME_leftImg8bit.png, six digits each"
        )
    return f"{match['frame']}_pred_labelIds.png"


def read_truth(label_file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the ground truth of a frame.

    Args:
        label_file: a `*_gtFine_labelIds.png`; the `*_gtFine_instanceIds.png` is expected in the same folder.

    Returns:
        HxW uint8 label ids, and HxW int32 instance ids, None if there is no such file.

    Raises:
        UserError: a file cannot be read or is not a single channel of ids (of 8 bits for label ids).
    """
    # Only in the file's name: the official script also replaces it in the names of folders.
    instance_file = label_file.with_name(label_file.name.replace("labelIds", "instanceIds"))
    labels = _read_ids(label_file, 8)
    if instance_file == label_file or not os.path.isfile(instance_file):
        return labels, None
    return labels, _read_ids(instance_file, 16).astype(np.int32)


def _read_ids(file: Path, bits: int) -> np.ndarray:
    with opened_image(file, "these ids") as image:
        ids = read_samples(file, image)
        if ids.max(initial=0) >> bits:
            raise ValueError(f"ids of more than {bits} bits")
        return ids.astype(np.uint8 if bits == 8 else np.int32)
