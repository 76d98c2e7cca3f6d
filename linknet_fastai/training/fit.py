"""`fit` as a plain function: a recipe and settings in, a run folder out; and the resumption of a run.

Under `torchrun` every rank runs these functions; rank 0 alone writes files and reports progress.
"""

import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback
from fastai.learner import Learner
from fastcore.xtras import modified_env

from linknet_fastai.config.layers import resolve_settings
from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.recipe import recipe_names
from linknet_fastai.config.selection import pin_selection
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.device import resolve_precision
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.fastai_private import number_of_workers
from linknet_fastai.core.parallel import Progress, is_first, process_count
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.open import open_dataset
from linknet_fastai.learner.learner import learner_from_settings
from linknet_fastai.learner.process_group import from_rank_0, join_processes, rank_0_first, training_together
from linknet_fastai.learner.schedules import fit_schedule
from linknet_fastai.model.named import find_model
from linknet_fastai.runs.checkpoint import read_checkpoint, restore_learner
from linknet_fastai.runs.folder import RUN_FILE, RunFile, locked, new_folder, read_run, write_run
from linknet_fastai.runs.pictures import save_batch
from linknet_fastai.training.errors import explain_errors
from linknet_fastai.training.finish import finish_run, record_result
from linknet_fastai.training.interrupt import stop_on_signals
from linknet_fastai.training.loggers import logging_callbacks, require_loggers
from linknet_fastai.training.lr_find import search_lr
from linknet_fastai.training.run_record import (
    FitResult,
    Observer,
    RunRecord,
    SkipDoneBatches,
    check_same_data,
    normalization_of,
)

FREE_ON_RESUME = {"device", "workers", "cache", "cache_dir", "checkpoint_minutes"}
ALWAYS_SET = Settings().model_dump(exclude_none=True).keys()  # TOML has no null


def fit(
    recipe: str | Path,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    observer: Observer | None = None,
    log_to: Collection[str] = (),
) -> FitResult:
    """Train on a recipe and keep the run in a folder.

    Args:
        recipe: the name of a shipped recipe or the path of a TOML file.
        data: the data folder; None downloads or draws the data.
        options: settings by name, which take precedence over the recipe's; a value of None is ignored.
        out: the run folder, by default `runs/RECIPE-DATE-TIME` in the current folder.
        observer: receives the events of the training, on rank 0.
        log_to: names in `LOGGERS`, which receive them as well.

    Returns:
        The result; not finished where Ctrl-C or SIGTERM stopped the training.

    Raises:
        UsageError: see `segmentation_dls` and `linknet_learner`; the run folder is not empty.
        UserError: see there; a file cannot be written, or the loss is no longer finite.

    Example::

        result = fit("camvid", options={"epochs": 50, "size": "480x360"}, out=Path("runs/first"))
        print(result.best["miou"])
    """
    join_processes()
    observer, log_to = _of_rank_0(observer, log_to)
    progress = observer.progress
    with rank_0_first():
        dataset = open_dataset(recipe, data, progress)
    settings, origins = settings_for(dataset.recipe, dataset.layout, options or {})
    settings = pin_files(settings, dataset)
    folder = from_rank_0(lambda: new_folder(out, dataset.recipe.name))
    learn = _learner(dataset, settings, progress)
    if settings.lr == "auto":
        lr = from_rank_0(lambda: _search(learn, progress))
        settings = learn.settings = settings.model_copy(update={"lr": lr})
        origins["lr"] = "learning rate finder"
    with _locked_by_rank_0(folder), logging_callbacks(log_to, folder, settings) as loggers:
        if is_first():
            run = _describe(recipe, dataset, learn)
            write_run(folder, settings, origins, run)
            images, labels = learn.dls.train.one_batch()
            save_batch(images, labels, learn.card, folder / "batch.png")
            observer.started(learn, settings, origins, {**run, "folder": folder})
        return _train(learn, dataset, RunRecord(folder, None, observer), loggers)


def resume(
    folder: Path,
    recipe: str | None = None,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    log_to: Collection[str] = (),
) -> FitResult:
    """Resume an interrupted run from its last checkpoint, in the middle of an epoch too.

    Args:
        folder: the run folder.
        recipe: None, or the run's own.
        data: the data folder, if it has moved.
        options: the settings in `FREE_ON_RESUME` may differ from the run's; all others are the run's own.
        observer: receives the events of the training, on rank 0.
        log_to: names in `LOGGERS`, which receive them as well.

    Raises:
        UsageError: the run is complete, or an option would make it another run.
        UserError: there is no run in the folder, another training uses it, its checkpoints are damaged, or the data
            have changed or are missing.

    Example::

        result = resume(Path("runs/first"))
    """
    join_processes()
    observer, log_to = _of_rank_0(observer, log_to)
    saved = from_rank_0(lambda: read_run(folder))
    with _locked_by_rank_0(folder):
        settings, origins = _resumed_settings(folder, saved, recipe, options)
        with rank_0_first():
            dataset = open_dataset(saved.run["recipe"], data or Path(saved.run["data"]), observer.progress)
        checkpoint, damaged = from_rank_0(lambda: read_checkpoint(folder))
        if checkpoint and checkpoint["classes"] != dataset.recipe.class_names:
            raise UserError(f"--resume: {saved.run['recipe']} has other classes now than when {folder} was started")
        if checkpoint and checkpoint["epochs_done"] >= settings.epochs:
            if saved.result.get("finished"):
                raise UsageError(f"--resume: {folder} is complete, all {settings.epochs} epochs are done")
            result = FitResult(folder, checkpoint["rows"])
            if is_first():
                finish_run(dataset, settings, result, observer.progress)
            return result
        learn = _learner(dataset, settings, observer.progress, checkpoint)
        if checkpoint:
            restore_learner(learn, checkpoint, folder)
            check_same_data(learn, checkpoint, folder)
        run = _describe(saved.run["recipe"], dataset, learn)
        run["notes"] = damaged + run["notes"]
        if (before := saved.run.get("processes", 1)) != (now := run["processes"]):
            run["notes"].append(f"started with {before} process(es), resumed with {now}: other batches")
        observer.started(learn, settings, origins, {**run, "folder": folder})
        with logging_callbacks(log_to, folder, settings) as loggers:
            return _train(learn, dataset, RunRecord(folder, checkpoint, observer), loggers)


def _of_rank_0(observer: Observer | None, log_to: Collection[str]) -> tuple[Observer, Collection[str]]:
    """Observer and loggers of this rank; raises UserError where a logger is not installed."""
    require_loggers(log_to)
    return (observer or Observer(), log_to) if is_first() else (Observer(), ())


def _locked_by_rank_0(folder: Path) -> AbstractContextManager[None]:
    return locked(folder) if is_first() else nullcontext()


def pin_recipe(recipe: str | Path) -> str:
    """The name of a shipped recipe, or the absolute path of a file: a run is resumed from any folder."""
    return str(recipe) if str(recipe) in recipe_names() else str(Path(recipe).resolve())


def pin_files(settings: Settings, dataset: Dataset) -> Settings:
    """Settings whose lists of frames and weights are absolute paths, for the same reason."""
    files: dict[str, Any] = {
        name: pin_selection(getattr(settings, name), dataset.selectable) for name in ("train_on", "validate_on")
    }
    for name in ("init_from", "encoder_weights", "teacher", "cache_dir"):
        if path := getattr(settings, name):
            found = find_model(path) if name in ("init_from", "teacher") else path
            # The name is kept: a model that was downloaded is a link to a file without an ending.
            files[name] = found.resolve() if os.path.isdir(found) else found.parent.resolve() / found.name
    return settings.model_copy(update=files)


def options_to_resume(
    folder: Path, of_run: str, recipe: str | None, options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The options that were given; raises UsageError for another recipe than `of_run`, or for one that is fixed."""
    if recipe is not None and pin_recipe(recipe) != of_run:
        raise UsageError(f"--resume: {folder} trains on {of_run}, not on {recipe}; leave RECIPE out")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    if fixed := given.keys() - FREE_ON_RESUME:
        raise UsageError(f"--{min(fixed).replace('_', '-')}: --resume uses the run's own settings; leave it out")
    return given


def _resumed_settings(
    folder: Path, saved: RunFile, recipe: str | None, options: Mapping[str, Any] | None
) -> tuple[Settings, dict[str, str]]:
    """The run's settings with the options that may change, and their origins; raises UsageError for any other."""
    given = options_to_resume(folder, saved.run["recipe"], recipe, options)
    lacking = {name: f"{name} is missing" for name in ALWAYS_SET - saved.settings.keys()} | saved.left_out
    if obstacles := [lacking[name] for name in sorted(lacking.keys() - FREE_ON_RESUME)]:
        version = saved.versions.get("linknet-fastai", "unknown")
        raise UserError(
            f"--resume: {folder / RUN_FILE}: {', '.join(obstacles[:5])}; it was written by linknet-fastai {version}: "
            f"resume with that version, or start a new training with --init-from {folder}"
        )
    settings, origins = resolve_settings(("run", saved.settings), ("command line", given))
    return settings, {name: saved.origins[name] if origin == "run" else origin for name, origin in origins.items()}


def _learner(
    dataset: Dataset, settings: Settings, progress: Progress | None, checkpoint: Mapping[str, Any] | None = None
) -> Learner:
    """The learner of a run, as at its start or as at a checkpoint; rank 0 alone loads weights to start from."""
    normalization = normalization_of(checkpoint) if checkpoint else None
    if is_first():
        learn = learner_from_settings(dataset, settings, progress, normalization)
    normalization = from_rank_0(lambda: (learn.card.mean, learn.card.std))
    return learn if is_first() else learner_from_settings(dataset, settings, progress, normalization)


def _search(learn: Learner, progress: Progress | None) -> float:
    """The learning rate that fastai's finder suggests."""
    with modified_env(WORLD_SIZE="1"), explain_errors(learn):  # fastai does not expect other ranks
        return search_lr(learn, progress=progress).suggestions["valley"]


def _describe(recipe: str | Path, dataset: Dataset, learn: Learner) -> dict[str, Any]:
    """The table `run` of run.toml."""
    settings = learn.settings
    return {
        "recipe": pin_recipe(recipe),
        "recipe_name": dataset.recipe.name,
        "data": str(dataset.folder.resolve()),
        **({"parts": dataset.places} if dataset.recipe.parts else {}),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "device": str(learn.dls.device),
        "precision": resolve_precision(settings.precision, learn.dls.device),
        "processes": process_count(),
        "workers": number_of_workers(learn.dls.train),
        "parameters": sum(weight.numel() for weight in learn.model.parameters()),
        "train_frames": len(learn.dls.train_ds),
        "validation_frames": len(learn.dls.valid_ds),
        "notes": list(learn.dls.notes),
    }


def _train(learn: Learner, dataset: Dataset, record: RunRecord, loggers: Sequence[Callback]) -> FitResult:
    with explain_errors(learn), training_together(learn), stop_on_signals() as record.stop:
        fit_schedule(learn, start_epoch=record.start_epoch, cbs=[record, SkipDoneBatches(), *loggers])
    result = FitResult(record.folder, record.rows, finished=not record.stopped)
    if is_first() and result.finished:
        finish_run(dataset, learn.settings, result, record.observer.progress)
    elif is_first() and result.rows:  # pictures and scores, which take time, are made after a resumption
        record_result(result, learn.dls.device)
    return result
