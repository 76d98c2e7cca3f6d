"""`fit --folds`: a training for each group or number of groups that is left out, in one folder."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.settings import Text, explain
from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.files import MAX_LIST_BYTES, parse_json, read_text, write_text
from linknet_fastai.core.parallel import process_count
from linknet_fastai.core.text import Name
from linknet_fastai.data.dataset import Dataset, frames_by_unit, open_dataset
from linknet_fastai.data.match import Frame
from linknet_fastai.runs.folder import RUN_FILE, best_row, locked, new_folder, read_metrics, read_run
from linknet_fastai.training.fit import fit, pin_recipe, resume
from linknet_fastai.training.run_record import Observer

FOLDS_FILE, LISTS = "folds.json", "lists"
Share = Annotated[float, Field(ge=0, le=1)]


class Fold(BaseModel, frozen=True):
    """A fold: what is left out of a training, and the scores on it.

    Attributes:
        name: of its run folder.
        groups: the groups that are left out, or in a recipe without groups none.
        train_frames: how many frames are trained on.
        frames: how many are left out, and scored.
        last_miou: the mIoU after the last epoch; None while the run is not finished.
        best_miou: the mIoU of the best epoch, which was chosen on these frames.
    """

    name: Name
    groups: list[Text]
    train_frames: int
    frames: int
    last_miou: Share | None = None
    best_miou: Share | None = None


class Folds(BaseModel):
    """The content of folds.json: how the folds were cut, how they are trained, and the result.

    Attributes:
        recipe: the name of a shipped recipe, or a file.
        data: the data folder.
        options: the settings that were given.
        folds: the folds in the order of training.
        mean: the mean of `last_miou`, once all folds are done.
        spread: its standard deviation over the folds.
        worst: the name of the fold with the lowest.
    """

    recipe: Text
    data: Text
    options: dict[str, Any]
    folds: list[Fold] = Field(min_length=2)
    mean: float | None = None
    spread: float | None = None
    worst: str | None = None


@dataclass(frozen=True)
class FoldsResult:
    """The folder of all folds, what folds.json contains, and whether all trainings ran to their end."""

    folder: Path
    folds: Folds
    finished: bool


def cut_folds(frames: Sequence[Frame], number: int | None = None) -> dict[str, list[Frame]]:
    """Divide frames into folds that cut no group.

    Args:
        frames: the frames.
        number: how many folds; None makes one of each group.

    Returns:
        The frames of each fold by its name, which is the group's with one fold for each, in the order of the names.

    Raises:
        UsageError: there are too few groups, or frames without one where each group is a fold.

    Example:
        ::

            folds = cut_folds(open_dataset("camvid", "CamVid").frames("train"))
            {name: len(frames) for name, frames in folds.items()}  # {"0001TP": 62, "0006R0": 101, "0016E5": 204}
    """
    units = frames_by_unit(frames)
    groups = [unit for unit in units if isinstance(unit, str)]
    if number is None:
        if lone := len(units) - len(groups):
            raise UsageError(f"--folds: {lone} frames belong to no group of the recipe; give a number of folds")
        folds = {re.sub(r"[^\w.+-]", "_", group): units[group] for group in sorted(groups)}
        if len(folds) < len(groups):
            raise UsageError("--folds: two groups have the same name as a folder; give a number of folds")
    else:
        folds = {f"fold-{index}": [] for index in range(1, number + 1)}

        def order(unit: str | Frame) -> tuple[int, bytes]:  # the largest first; the same on every machine
            name = unit if isinstance(unit, str) else unit.stem
            return -len(units[unit]), hashlib.sha256(os.fsencode(name)).digest()

        for unit in sorted(units, key=order):
            min(folds.values(), key=len).extend(units[unit])
    if len(folds) < 2 or not all(folds.values()):
        raise UsageError(f"--folds: {len(units)} groups of frames to train on are too few; see --train-on")
    return folds


def fit_folds(
    recipe: str | Path,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    number: int | None = None,
    out: Path | None = None,
    observer: Observer | None = None,
    log_to: Collection[str] = (),
) -> FoldsResult:
    """Train once for each fold of the frames to train on: on the others, validated on the fold.

    Args:
        recipe: see `fit`.
        data: see `fit`.
        options: see `fit`; the folds are cut from `train_on`.
        number: how many folds; None makes one of each group.
        out: the folder, by default `runs/RECIPE-folds-DATE-TIME`.
        observer: receives the events of each training.
        log_to: see `fit`.

    Raises:
        UsageError: see `cut_folds` and `fit`.
        UserError: see `fit`.

    Example::

        result = fit_folds("camvid", Path("CamVid"), {"epochs": 60}, out=Path("runs/drives"))
        print(result.folds.mean, result.folds.worst)
    """
    _require_one_process()
    observer = observer or Observer()
    given = {name: value for name, value in (options or {}).items() if value is not None}
    if "validate_on" in given:
        raise UsageError("--validate-on: --folds validates on the frames that are left out; leave it out")
    dataset = open_dataset(recipe, data, observer.progress)
    settings, _ = settings_for(dataset.recipe, dataset.layout, given)
    cut = cut_folds(dataset.frames(settings.train_on), number)
    folder = new_folder(out, f"{dataset.recipe.name}-folds").resolve()  # runs name their lists of frames by it
    plain = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in given.items()}
    plan = Folds(
        recipe=pin_recipe(recipe),
        data=str(dataset.folder.resolve()),
        options={name: value for name, value in plain.items() if name != "train_on"},
        folds=[_write_lists(folder, dataset, name, cut) for name in cut],
    )
    _write(folder, plan)
    return _train(folder, plan, None, {}, observer, log_to)


def resume_folds(
    folder: Path,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    log_to: Collection[str] = (),
) -> FoldsResult:
    """Continue the trainings of `fit_folds`: finished folds are kept, an interrupted one resumes, others follow.

    Args:
        folder: the folder of all folds.
        data: the data folder, if it has moved.
        options: settings that `resume` lets differ.
        observer: receives the events of each training.
        log_to: see `fit`.

    Raises:
        UsageError: see `resume`.
        UserError: folds.json is missing or damaged; see `resume`.

    Example::

        result = resume_folds(Path("runs/drives"))
    """
    _require_one_process()
    given = {name: value for name, value in (options or {}).items() if value is not None}
    return _train(folder.resolve(), read_folds(folder), data, given, observer or Observer(), log_to)


def read_folds(folder: Path) -> Folds:
    """Read folds.json.

    Raises:
        UserError: it is missing or damaged.

    Example::

        {fold.name: fold.last_miou for fold in read_folds(Path("runs/drives")).folds}
    """
    file = folder / FOLDS_FILE
    try:
        return Folds.model_validate(parse_json(read_text(file, MAX_LIST_BYTES)))
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None


def _require_one_process() -> None:
    if process_count() > 1:
        raise UsageError("--folds: trains one fold after the other in one process; start it without torchrun")


def _write_lists(folder: Path, dataset: Dataset, name: str, cut: Mapping[str, Sequence[Frame]]) -> Fold:
    """Write the lists of the frames that a fold trains and validates on."""
    train = [frame for other, frames in cut.items() if other != name for frame in frames]
    for kind, frames in (("train", train), ("validate", cut[name])):
        lines = "".join(f"{dataset.relative_path(frame)}\n" for frame in frames)
        write_text(folder / LISTS / f"{name}-{kind}.txt", lines)
    groups = sorted({frame.group for frame in cut[name] if frame.group is not None})
    return Fold(name=name, groups=groups, train_frames=len(train), frames=len(cut[name]))


def _train(
    folder: Path,
    plan: Folds,
    data: Path | None,
    options: Mapping[str, Any],
    observer: Observer,
    log_to: Collection[str],
) -> FoldsResult:
    """Train the folds that are not finished."""
    with locked(folder):
        for place, fold in enumerate(plan.folds):
            run, lists = folder / fold.name, folder / LISTS
            started = (run / RUN_FILE).is_file()
            if not (started and read_run(run).result.get("finished")):
                observer.fold_started(place + 1, len(plan.folds), fold.name)
                if started:
                    result = resume(run, None, data, options, observer, log_to)
                else:
                    selections = {
                        "train_on": str(lists / f"{fold.name}-train.txt"),
                        "validate_on": str(lists / f"{fold.name}-validate.txt"),
                    }
                    settings = plan.options | dict(options) | selections
                    result = fit(plan.recipe, data or Path(plan.data), settings, run, observer, log_to)
                if not result.finished:
                    return FoldsResult(folder, plan, finished=False)
            rows = read_metrics(run)
            scores = {"last_miou": rows[-1]["miou"], "best_miou": best_row(rows)["miou"]}
            plan.folds[place] = fold.model_copy(update=scores)
            _write(folder, plan)
        mious = {fold.name: fold.last_miou or 0.0 for fold in plan.folds}
        plan.mean, plan.spread = fmean(mious.values()), stdev(mious.values())
        plan.worst = min(mious, key=mious.__getitem__)
        _write(folder, plan)
    return FoldsResult(folder, plan, finished=True)


def _write(folder: Path, plan: Folds) -> None:
    write_text(folder / FOLDS_FILE, json.dumps(plan.model_dump(mode="json"), indent=2) + "\n")
