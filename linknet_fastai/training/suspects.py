"""`data --suspects`: the labels of a recipe, each judged by a model, where possible one that never saw it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.files import check_own
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import Dataset, EmptySplitError, Frame
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.engine import Engine
from linknet_fastai.engines.open_engine import open_engine
from linknet_fastai.model.named import find_model
from linknet_fastai.runs.folder import RUN_FILE, read_run
from linknet_fastai.runs.folds import FOLDS_FILE, read_folds
from linknet_fastai.runs.suspects_page import is_own_page, suspect_parts, write_suspects_page
from linknet_fastai.scoring.suspects import (
    Evidence,
    Suspect,
    collect_evidence,
    contradicted_pixels,
    judge_frames,
    rank_suspects,
    table_of,
)
from linknet_fastai.training.folds import LISTS

MOST_SHOWN = 40  # on the page


@dataclass(frozen=True)
class Judge:
    """A model, and the frames whose labels it judges."""

    model: Path
    frames: list[Frame]

    def open(self, dataset: Dataset) -> Engine:
        """Open the model.

        Raises:
            UsageError: its classes are not the recipe's.
            UserError: it cannot be opened, or gives no confidence.
        """
        engine = open_engine(self.model, frames=len(self.frames))
        if engine.card.class_names != dataset.recipe.class_names:
            raise UsageError(
                f"--suspects: {self.model} has other classes than {dataset.recipe.name}; give a model that was "
                "trained on this recipe"
            )
        engine.require_confidence()
        return engine


@dataclass(frozen=True)
class SuspectsResult:
    """What `find_suspects` found.

    Attributes:
        dataset: the data.
        model: what judged it.
        suspects: all suspects, the most suspect first.
        frames: how many frames were judged.
        page: the page with pictures of the first ones.
        notes: what to know about the models, in lines.
    """

    dataset: Dataset
    model: Path
    suspects: list[Suspect]
    frames: int
    page: Path
    notes: list[str]

    def row(self, suspect: Suspect) -> dict[str, Any]:
        """A suspect as plain values."""
        names = self.dataset.recipe.class_names
        return {
            "frame": self.dataset.relative_path(suspect.frame),
            "label_map": str(suspect.frame.label),
            "label": names[suspect.label],
            "predicted": names[suspect.predicted],
            "pixels": suspect.pixels,
            "share": suspect.share,
            "confidence": suspect.confidence,
            "score": suspect.score,
        }

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values, the most suspect first."""
        return {
            "recipe": self.dataset.recipe.name,
            "model": str(self.model),
            "frames": self.frames,
            "notes": self.notes,
            "suspects": [self.row(suspect) for suspect in self.suspects],
        }


def data_of(model: Path) -> Path | None:
    """The data folder that a run, or the folds in a folder, were trained on; None for a model file on its own."""
    if (model / FOLDS_FILE).is_file():
        return Path(read_folds(model).data)
    if (model / RUN_FILE).is_file():
        return Path(read_run(model).run["data"])
    return None


def find_judges(dataset: Dataset, model: Path) -> tuple[list[Judge], list[str]]:
    """Who judges which frames, and what to know about it, in lines.

    Of folds each judges the frames that it was not trained on. Any other model judges all frames of all splits.

    Args:
        dataset: the data.
        model: a run, a model file, or the folder of `fit --folds`.

    Raises:
        UsageError: the folds are of other data.
        UserError: a fold is not trained, or the folder has no frames.
    """
    if (model / FOLDS_FILE).is_file():
        folds = read_folds(model).folds
        if waiting := [fold.name for fold in folds if fold.last_miou is None]:
            raise UserError(
                f"--suspects: {model}: fold {waiting[0]} is not trained to its end; fit --resume {model} continues it"
            )
        lists = (model / LISTS / f"{fold.name}-validate.txt" for fold in folds)
        judged = {fold.name: dataset.frames(str(file)) for fold, file in zip(folds, lists, strict=True)}
        splits = _frames_of_splits(dataset, UserError)  # one that is not used may be here in part
        others = {*chain.from_iterable(splits.values())} - {*chain.from_iterable(judged.values())}
        every = "+".join(splits)
        note = f"{len(others)} frames are in no fold and are not judged; fit --folds --train-on {every} has them too"
        return [Judge(model / name, frames) for name, frames in judged.items()], [note] * bool(others)
    frames = dict.fromkeys(chain.from_iterable(_frames_of_splits(dataset, EmptySplitError).values()))
    if not frames:
        raise UserError(f"{dataset.folder}: no frame of {dataset.recipe.name} has a label map")
    notes = []
    if (model / RUN_FILE).is_file():
        trained = set()
        with suppress(UserError):  # the run's list of frames, or its data, may be gone
            trained = frames.keys() & {*dataset.frames(read_run(model).settings.get("train_on", "train"))}
        if trained:
            notes.append(
                f"{model} was trained on {len(trained)} of the {len(frames)} frames and may have learned their wrong "
                "labels; the models of fit --folds judge frames that they never saw"
            )
    return [Judge(model, [*frames])], notes


def _frames_of_splits(dataset: Dataset, ignored: type[UserError]) -> dict[str, list[Frame]]:
    """The frames of each split, without splits for which the error is raised."""
    frames = {}
    for split in dataset.recipe.splits:
        with suppress(ignored):
            frames[split] = dataset.frames(split)
    return frames


def find_suspects(
    recipe: str, data: Path | None, model: Path, page: Path | None = None, progress: Progress | None = None
) -> SuspectsResult:
    """Find labels that a model confidently contradicts, and write a page with pictures of the first ones.

    Args:
        recipe: the name or path of a recipe.
        data: the data folder; None is the one that the model was trained on.
        model: a run, a model file, or the folder of `fit --folds`.
        page: the file to write, by default RECIPE-suspects.html.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UsageError: the model has other classes, or its folds are of other data.
        UserError: data or model are missing or damaged, or the page cannot be written.

    Example:
        ::

            found = find_suspects("camvid", None, Path("runs/drives"))
            print(found.suspects[0].frame, found.suspects[0].label, found.page)
    """
    if not (model := find_model(model)).exists():
        raise UserError(f"--suspects: {model}: no such run, model file or folder of folds")
    dataset = open_dataset(recipe, data or data_of(model), progress)
    if page is None:
        check_own(page := Path(f"{dataset.recipe.name}-suspects.html"), is_own_page)
    judges, notes = find_judges(dataset, model)
    found = [
        each for judge in judges for each in collect_evidence(judge.open(dataset), dataset, judge.frames, progress)
    ]
    n_classes = len(dataset.recipe.classes)
    result = SuspectsResult(dataset, model, rank_suspects(found, n_classes), len(found), page, notes)
    _write_page(result, judges, found, table_of(found, n_classes))
    return result


def _write_page(
    result: SuspectsResult, judges: Sequence[Judge], evidence: Sequence[Evidence], total: np.ndarray
) -> None:
    """Predict the frames of the first suspects again, as all predictions may not fit into memory, and show them."""
    shown: dict[Suspect, dict[str, str]] = {suspect: {} for suspect in result.suspects[:MOST_SHOWN]}
    own = {each.frame: each for each in evidence}
    for judge in judges:
        frames = [frame for frame in judge.frames if any(suspect.frame == frame for suspect in shown)]
        engine = judge.open(result.dataset)
        for judged in judge_frames(engine, result.dataset, frames):
            others = total - table_of([own[judged.frame]], len(total))
            for suspect in shown:
                if suspect.frame == judged.frame:
                    mask = contradicted_pixels(judged, suspect.label, others)
                    shown[suspect] = suspect_parts(result.row(suspect), judged, mask, engine.card)
    write_suspects_page(
        result.page, [*shown.values()], len(result.suspects), result.frames, result.model, engine.card
    )
