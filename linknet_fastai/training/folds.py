"""`fit --folds`: a training for each group or number of groups that is left out, in one folder."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from linknet_fastai.config.layers import current_names
from linknet_fastai.config.presets import preset_names, settings_for
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.files import write_text
from linknet_fastai.core.parallel import Progress, is_first, process_count, processes_here
from linknet_fastai.data.dataset import Dataset, frames_by_unit
from linknet_fastai.data.match import Frame
from linknet_fastai.data.open import open_dataset
from linknet_fastai.learner.process_group import each_alone, end_together, from_rank_0, join_processes, own_share
from linknet_fastai.model.named import no_such_model
from linknet_fastai.runs.folder import RUN_FILE, locked, new_folder, read_run
from linknet_fastai.runs.folds import FOLDS_FILE, Fold, Folds, read_folds
from linknet_fastai.runs.folds_report import report_folds
from linknet_fastai.runs.metrics import best_row, read_metrics
from linknet_fastai.training.fit import fit, options_to_resume, pin_files, pin_recipe, resume
from linknet_fastai.training.run_record import Observer

LISTS = "lists"


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

    Under `torchrun` every process trains folds of its own, one after the other.

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
    observer = observer or Observer()
    given = {name: value for name, value in (options or {}).items() if value is not None}
    if "validate_on" in given:
        raise UsageError("--validate-on: --folds validates on the frames that are left out; leave it out")
    _join_on_one_machine()
    folder, plan = from_rank_0(lambda: _cut(recipe, data, given, number, out, observer.progress))
    return _train(folder, plan, None, {}, observer, log_to)


def resume_folds(
    folder: Path,
    recipe: str | None = None,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    log_to: Collection[str] = (),
) -> FoldsResult:
    """Continue the trainings of `fit_folds`: finished folds are kept, an interrupted one resumes, others follow.

    Args:
        folder: the folder of all folds.
        recipe: None, or the folds' own.
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
    _join_on_one_machine()
    plan = from_rank_0(lambda: read_folds(folder))
    given = options_to_resume(folder, plan.recipe, recipe, options)
    return _train(folder.resolve(), plan, data, given, observer or Observer(), log_to)


def _join_on_one_machine() -> None:
    if process_count() > processes_here():
        raise UsageError("--folds: processes on several machines have no common folder; start them on one machine")
    join_processes()


def _cut(
    recipe: str | Path,
    data: Path | None,
    given: Mapping[str, Any],
    number: int | None,
    out: Path | None,
    progress: Progress | None,
) -> tuple[Path, Folds]:
    """Cut the folds, and write their lists and folds.json into a new folder."""
    dataset = open_dataset(recipe, data, progress)
    settings, _ = settings_for(dataset.recipe, dataset.layout, given)
    settings = pin_files(settings, dataset)
    for model in (settings.init_from, settings.teacher):
        if model is not None and not os.path.exists(model):
            raise no_such_model(model)
    pinned = settings.model_dump(mode="json")
    options = {name: pinned[name] for name in current_names(given) if name != "train_on"}
    if (preset := options.get("preset", "")) not in preset_names() and os.path.isfile(preset):
        options["preset"] = str(Path(preset).resolve())
    cut = cut_folds(dataset.frames(settings.train_on), number)
    folder = new_folder(out, f"{dataset.recipe.name}-folds").resolve()  # runs name their lists of frames by it
    plan = Folds(
        recipe=pin_recipe(recipe),
        data=str(dataset.folder.resolve()),
        options=options,
        folds=[_write_lists(folder, dataset, name, cut) for name in cut],
    )
    _write(folder, plan)
    return folder, plan


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
    """Train the folds that are not finished, each in one of the processes."""
    with locked(folder) if is_first() else nullcontext():
        unfinished = from_rank_0(lambda: [fold for fold in plan.folds if not _is_finished(folder / fold.name)])
        finished = True
        for fold in own_share(unfinished):
            observer.fold_started(plan.folds.index(fold) + 1, len(plan.folds), fold.name)
            with each_alone():
                finished = _train_fold(folder, plan, fold.name, data, options, observer, log_to)
            if not finished:
                break
            if is_first():
                _write(folder, _with_scores(folder, plan))
        finished = end_together(finished)
        plan = _with_scores(folder, plan)
        if is_first():
            _write(folder, plan)
            if finished:
                report_folds(folder)
    return FoldsResult(folder, plan, finished)


def _is_finished(run: Path) -> bool:
    return (run / RUN_FILE).is_file() and bool(read_run(run).result.get("finished"))


def _train_fold(
    folder: Path,
    plan: Folds,
    name: str,
    data: Path | None,
    options: Mapping[str, Any],
    observer: Observer,
    log_to: Collection[str],
) -> bool:
    """Train a fold, or continue with it; whether it ran to its end."""
    run, lists = folder / name, folder / LISTS
    if (run / RUN_FILE).is_file():
        return resume(run, None, data, options, observer, log_to).finished
    selections = {"train_on": str(lists / f"{name}-train.txt"), "validate_on": str(lists / f"{name}-validate.txt")}
    settings = plan.options | dict(options) | selections
    return fit(plan.recipe, data or Path(plan.data), settings, run, observer, log_to).finished


def _with_scores(folder: Path, plan: Folds) -> Folds:
    """The plan with the scores of the folds that are finished, and of all together if all are."""
    folds = []
    for fold in plan.folds:
        if _is_finished(run := folder / fold.name):
            rows = read_metrics(run)
            fold = fold.model_copy(update={"last_miou": rows[-1]["miou"], "best_miou": best_row(rows)["miou"]})
        folds.append(fold)
    mious = {fold.name: fold.last_miou for fold in folds if fold.last_miou is not None}
    if len(mious) < len(folds):
        return plan.model_copy(update={"folds": folds})
    over_all = {"mean": fmean(mious.values()), "spread": stdev(mious.values())}
    return plan.model_copy(update={"folds": folds, **over_all, "worst": min(mious, key=mious.__getitem__)})


def _write(folder: Path, plan: Folds) -> None:
    write_text(folder / FOLDS_FILE, json.dumps(plan.model_dump(mode="json"), indent=2) + "\n")
