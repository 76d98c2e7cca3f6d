"""Writes CamVid in the layout of Cityscapes, to run Cityscapes' training and official evaluation on real frames.

    python tools/camvid_as_cityscapes.py CAMVID OUT
    linknet-fastai fit cityscapes --data OUT --size 480x360

The 11 classes become label ids; each connected component of a class with instances is an instance, and components of
a few pixels are groups. Scores on such a tree are neither Cityscapes' nor CamVid's. Needs SciPy, which fastai brings.
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from linknet_fastai.core.errors import UserError
from linknet_fastai.core.files import atomic_write
from linknet_fastai.core.images import open_image
from linknet_fastai.data.dataset import Dataset, Frame
from linknet_fastai.data.open import open_dataset
from linknet_fastai.scoring.cityscapes import LABELS

LABEL_OF_CLASS = {
    "Sky": "sky",
    "Building": "building",
    "Pole": "pole",
    "Road": "road",
    "Pavement": "sidewalk",
    "Tree": "vegetation",
    "SignSymbol": "traffic sign",
    "Fence": "fence",
    "Car": "car",
    "Pedestrian": "person",
    "Bicyclist": "rider",  # CamVid has one class for bicycle and rider
}
SMALLEST_INSTANCE = 20  # pixels; smaller components are remains of an occluded object
MOST_INSTANCES = 1000  # label id * 1000 + n has no room for more
TOUCHING = np.ones((3, 3), int)  # pixels that meet at a corner belong together


def label_and_instance_ids(channels: np.ndarray, class_names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Turn CamVid's classes into Cityscapes' two label maps of a frame.

    Args:
        channels: HxW uint8, indices into `class_names`, 255 for void.
        class_names: CamVid's 11 classes.

    Returns:
        HxW uint8 label ids, void as 0 (unlabeled), and HxW uint16 instance ids: label id * 1000 + n for each
        connected component of a class with instances, from the largest down, the plain label id elsewhere.
    """
    labels = {label.name: label for label in LABELS}
    label_ids = np.zeros(channels.shape, np.uint8)
    for channel, name in enumerate(class_names):
        label_ids[channels == channel] = labels[LABEL_OF_CLASS[name]].id
    instance_ids = label_ids.astype(np.uint16)
    for label in LABELS:
        if label.has_instances:
            components, _ = ndimage.label(label_ids == label.id, structure=TOUCHING)
            sizes = np.bincount(components.ravel())[1:]
            largest_first = np.argsort(-sizes, kind="stable")[:MOST_INSTANCES]
            for number, component in enumerate(largest_first):
                if sizes[component] >= SMALLEST_INSTANCE:
                    instance_ids[components == component + 1] = label.id * 1000 + number
    return label_ids, instance_ids


def cityscapes_stem(camvid_stem: str) -> str:
    """The frame's name in Cityscapes' form, CITY_SEQUENCE_FRAME, with the drive as the city.

    Raises:
        UserError: the name is not that of a CamVid frame, such as 0001TP_006690 or Seq05VD_f00000.
    """
    match = re.fullmatch(r"([^_]+)_f?(\d{1,6})", camvid_stem)
    if match is None:
        raise UserError(f"{camvid_stem}: not the name of a CamVid frame (DRIVE_NUMBER)")
    return f"{match[1]}_000000_{int(match[2]):06}"


def write_frame(dataset: Dataset, frame: Frame, split: str, out: Path) -> None:
    """Write the image, the label ids and the instance ids of a frame in Cityscapes' layout below `out`."""
    stem = cityscapes_stem(frame.stem)
    city = stem.split("_")[0]
    label_ids, instance_ids = label_and_instance_ids(dataset.read_label(frame.label), dataset.recipe.class_names)
    truth = out / "gtFine" / split / city
    for image, file in (
        (open_image(frame.image), out / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"),
        (Image.fromarray(label_ids), truth / f"{stem}_gtFine_labelIds.png"),
        (Image.fromarray(instance_ids), truth / f"{stem}_gtFine_instanceIds.png"),
    ):
        with atomic_write(file) as partial:
            image.save(partial, format="PNG")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write the tree."""
    parser = argparse.ArgumentParser(description="Write CamVid in the layout of Cityscapes.")
    parser.add_argument("camvid", type=Path, help="a CamVid folder, in any layout that the recipe camvid reads")
    parser.add_argument("out", type=Path, help="where the tree goes: a new or empty folder")
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], choices=["train", "val", "test"], help="default: train val"
    )
    options = parser.parse_args(arguments)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        parser.error(f"{options.out} is not empty; name a new folder")
    try:
        dataset = open_dataset("camvid", options.camvid)
        for split in options.splits:
            frames = dataset.frames(split)
            for frame in frames:
                write_frame(dataset, frame, split, options.out)
            print(f"{split}: {len(frames)} frames")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
