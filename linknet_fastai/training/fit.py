"""`fit` as a plain function: a recipe and settings in, a run folder out; and its resumption."""

import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastcore.xtras import modified_env

from linknet_fastai.config.presets import settings_for
from linknet_fastai.config.recipe import recipe_names
from linknet_fastai.config.settings import Settings, resolve_settings
from linknet_fastai.core.device import peak_memory_mib, resolve_precision
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.parallel import Progress, process_count
from linknet_fastai.data.dataset import Dataset, open_dataset
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.export.export import export_model
from linknet_fastai.learner.learner import learner_from_settings
from linknet_fastai.learner.process_group import led, part, shared, tell
from linknet_fastai.learner.schedules import fit_schedule
from linknet_fastai.model.save_load import load_model
from linknet_fastai.runs.charts import confusion_matrix, save_figure, training_curves
from linknet_fastai.runs.checkpoint import read_checkpoint
from linknet_fastai.runs.folder import (
    locked,
    read_run,
    refuse_used_folder,
    write_evaluation,
    write_metrics,
    write_result,
    write_run,
)
from linknet_fastai.runs.pictures import save_batch, save_predictions
from linknet_fastai.runs.report import representative_frames, write_report
from linknet_fastai.scoring.evaluate import evaluate
from linknet_fastai.training.loggers import logging_callbacks, require_loggers
from linknet_fastai.training.lr_find import search_lr
from linknet_fastai.training.out_of_memory import told_where_memory_ends
from linknet_fastai.training.run_record import (
    FitResult,
    Observer,
    PassByDone,
    RunRecord,
    check_same_data,
    stop_on_signals,
)

FREE_ON_RESUME = {"device", "workers", "cache", "cache_dir", "checkpoint_minutes"}


@led
def fit(
    recipe: str | Path,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    observer: Observer | None = None,
    log_to: Collection[str] = (),
) -> FitResult:
    """Train on a recipe and keep the run.

    Args:
        recipe: the name of a shipped recipe or the path of a TOML file.
        data: the data folder; None fetches or draws it.
        options: settings by name that go before the recipe's; None as a value says nothing.
        out: the run folder, by default `runs/RECIPE-DATE-TIME` in the current folder.
        observer: told how it goes.
        log_to: those of `LOGGERS` that are told as well.

    Returns:
        The result; not finished where Ctrl-C ended it.

    Raises:
        UsageError, UserError: see `segmentation_dls` and `linknet_learner`; a run folder that is in use.
    """
    require_loggers(log_to)
    progress = observer and observer.progress
    dataset = open_dataset(recipe, data, progress)
    settings, origins = settings_for(dataset.recipe, dataset.layout, options or {})
    settings = _pin_files(settings, dataset)
    folder = out or Path("runs") / f"{dataset.recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    refuse_used_folder(folder)
    learn = learner_from_settings(dataset, settings, progress)
    if settings.lr == "auto":
        with modified_env(WORLD_SIZE="1"):  # the first process searches alone, and fastai takes it for the only one
            search = told_where_memory_ends(partial(search_lr, learn, progress=progress), learn, settings)
        settings = settings.model_copy(update={"lr": search.suggestions["valley"]})
        origins["lr"] = "learning rate finder"
    run = {
        "recipe": _pin_recipe(recipe),
        "data": str(dataset.folder.resolve()),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "device": str(learn.dls.device),
        "precision": resolve_precision(settings.precision, learn.dls.device),
        "processes": process_count(),
        "workers": learn.dls.train.fake_l.num_workers,
        "parameters": sum(weight.numel() for weight in learn.model.parameters()),
        "train_frames": len(learn.dls.train_ds),
        "validation_frames": len(learn.dls.valid_ds),
        "notes": _notes(learn, dataset, settings),
    }
    with locked(folder), logging_callbacks(log_to, folder, settings) as loggers:
        write_run(folder, settings, origins, run)
        images, labels = learn.dls.train.one_batch()
        save_batch(images, labels, learn.card, folder / "batch.png")
        if observer:
            observer.started(learn, settings, origins, {**run, "folder": folder})
        return _train(
            learn, dataset, settings, RunRecord(folder, None, observer, settings.checkpoint_minutes), loggers
        )


@led
def resume(
    folder: Path,
    recipe: str | None = None,
    data: Path | None = None,
    options: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    log_to: Collection[str] = (),
) -> FitResult:
    """Go on with an interrupted run where its last checkpoint was written, in the middle of an epoch too.

    Args:
        folder: the run folder.
        recipe: None, or the run's own.
        data: where the data lies now, if it has moved.
        options: what is in `FREE_ON_RESUME` may differ from the run's; everything else is the run's own.
        observer: told how it goes.
        log_to: those of `LOGGERS` that are told as well.

    Raises:
        UsageError: the run is complete, or an option would make it another run.
        UserError: no run here, damaged checkpoints, another training in the folder, or the data is gone.
    """
    require_loggers(log_to)
    read_run(folder)  # there is one
    with locked(folder):
        return _go_on(folder, recipe, data, options, observer, log_to)


def _go_on(
    folder: Path,
    recipe: str | None,
    data: Path | None,
    options: Mapping[str, Any] | None,
    observer: Observer | None,
    log_to: Collection[str],
) -> FitResult:
    settings, origins, run, _, earlier = read_run(folder)
    if recipe is not None and _pin_recipe(recipe) != run["recipe"]:
        raise UsageError(f"--resume: {folder} trains on {run['recipe']}, not on {recipe}; leave RECIPE out")
    said = {name: value for name, value in (options or {}).items() if value is not None}
    if fixed := set(said) - FREE_ON_RESUME:
        raise UsageError(
            f"--{min(fixed).replace('_', '-')}: --resume goes on with the run's own settings; leave it out"
        )
    settings, _ = resolve_settings(("run", settings.model_dump()), ("command line", said))
    progress = observer and observer.progress
    dataset = open_dataset(run["recipe"], data or Path(run["data"]), progress)
    checkpoint, damaged = read_checkpoint(folder)
    if checkpoint and checkpoint["classes"] != dataset.recipe.class_names:
        raise UserError(f"--resume: {run['recipe']} has other classes now than when {folder} was started")
    if checkpoint and checkpoint["epochs_done"] >= settings.epochs:
        if earlier.get("finished"):
            raise UsageError(f"--resume: {folder} is complete, all {settings.epochs} epochs are done")
        return _finish(dataset, settings, FitResult(folder, checkpoint["rows"]), progress)
    learn = learner_from_settings(dataset, _without_weights(settings) if checkpoint else settings, progress)
    if checkpoint:
        check_same_data(learn, checkpoint, folder)
    if observer:
        run["notes"] = damaged + _notes(learn, dataset, settings)
        run["train_frames"], run["validation_frames"] = len(learn.dls.train_ds), len(learn.dls.valid_ds)
        if (before := run.get("processes", 1)) != process_count():
            run["notes"].append(f"begun with {before} process(es), goes on with {process_count()}: other batches")
        observer.started(learn, settings, origins, {**run, "processes": process_count(), "folder": folder})
    if checkpoint:
        _restore(learn, checkpoint)
    with logging_callbacks(log_to, folder, settings) as loggers:
        record = RunRecord(folder, checkpoint, observer, settings.checkpoint_minutes)
        return _train(learn, dataset, settings, record, loggers)


def _pin_recipe(recipe: str | Path) -> str:
    """The name of a shipped recipe, or the absolute path of a file: a run is resumed from any folder."""
    return str(recipe) if str(recipe) in recipe_names() else str(Path(recipe).resolve())


def _pin_files(settings: Settings, dataset: Dataset) -> Settings:
    """Settings whose lists of frames and weights are absolute paths, for the same reason."""
    files: dict[str, Any] = {
        name: str(Path(selection).resolve())
        for name in ("train_on", "validate_on")
        if (selection := getattr(settings, name)) not in dataset.recipe.splits and os.path.isfile(selection)
    }
    for name in ("init_from", "encoder_weights", "cache_dir"):
        if path := getattr(settings, name):
            files[name] = path.resolve()
    return settings.model_copy(update=files)


def _notes(learn: Learner, dataset: Dataset, settings: Settings) -> list[str]:
    """What a user should know of this run: frames that are not the published ones, a wish that could not be met."""
    splits = dict.fromkeys((settings.train_on, settings.validate_on))
    return [note for split in splits if (note := dataset.published_split_note(split))] + learn.notes


def _without_weights(settings: Settings) -> Settings:
    """Settings of a network that gets its weights from elsewhere."""
    return settings.model_copy(update={"pretrained": False, "encoder_weights": None, "init_from": None})


def _restore(learn: Learner, checkpoint: Mapping[str, Any]) -> None:
    learn.model.load_state_dict(checkpoint["model"])
    learn.model.to(learn.dls.device)
    learn.create_opt()
    learn.opt.load_state_dict(checkpoint["optimizer"])


def _train(
    learn: Learner, dataset: Dataset, settings: Settings, record: RunRecord, loggers: Sequence[Callback]
) -> FitResult:
    start = (record.start_epoch, record.start_batch)
    tell(partial(_follow, dataset, settings, record.folder.resolve(), start))
    _train_epochs(learn, settings, record, loggers)
    part()
    result = FitResult(record.folder, record.rows, finished=not record.stopped)
    if record.stopped:  # whoever ended it wants to go: what takes time is made when it is resumed
        if result.rows:
            _write_result(result, learn.dls.device)
        return result
    return _finish(dataset, settings, result, record.observer and record.observer.progress)


def _follow(dataset: Dataset, settings: Settings, folder: Path, start: tuple[int, int]) -> FitResult:
    """Train beside the first process, which gives the weights, writes and speaks.

    Raises:
        UserError: the data or the checkpoint are not to be had in this process.
    """
    learn = learner_from_settings(dataset, _without_weights(settings))
    checkpoint = read_checkpoint(folder)[0] if any(start) else None
    if checkpoint:
        _restore(learn, checkpoint)
    record = RunRecord(folder, checkpoint)
    if (record.start_epoch, record.start_batch) != start:
        raise UserError(f"--resume: {folder} is not the run that the first process sees; all machines must share it")
    _train_epochs(learn, settings, record)
    part()
    return FitResult(folder, record.rows)


def _train_epochs(learn: Learner, settings: Settings, record: RunRecord, loggers: Sequence[Callback] = ()) -> None:
    encoder_lr = settings.encoder_lr if settings.encoder_is_trained else 1
    callbacks = [record, PassByDone(), *loggers]

    def train() -> None:
        with shared(learn), stop_on_signals() as record.stop:
            fit_schedule(
                learn, settings.schedule, settings.epochs, settings.lr, record.start_epoch, callbacks, encoder_lr
            )

    told_where_memory_ends(train, learn, settings)


def _finish(dataset: Dataset, settings: Settings, result: FitResult, progress: Progress | None = None) -> FitResult:
    """Write what is made of the best weights: scores, pictures, the exported learner, the result, the report."""
    folder = result.folder
    write_metrics(folder, result.rows)  # a run may have been ended between its last checkpoint and this
    model, card = load_model(folder)
    export_model(model, card, folder / "export.pkl")  # first: it needs no data
    save_figure(training_curves(result.rows), folder / "curves.png")
    predictor = Predictor(model, card, settings.device, settings.precision)
    scored = evaluate(predictor, dataset, settings.validate_on, progress)
    write_evaluation(folder, scored.as_json())
    save_figure(confusion_matrix(scored.counts, scored.class_names), folder / "confusion.png")
    shown = representative_frames(scored.frame_mious, dataset, settings.validate_on, predictor)
    if shown:
        save_predictions(shown, card, folder / "predictions.png")
    _write_result(result, predictor.device)
    write_report(folder, shown, card)
    return result


def _write_result(result: FitResult, device: torch.device) -> None:
    last = result.rows[-1]
    write_result(
        result.folder,
        {
            "epochs_done": last["epoch"],
            "finished": result.finished,
            "best_epoch": result.best["epoch"],
            "best_miou": result.best["miou"],
            "last_miou": last["miou"],
            "seconds": sum(row["seconds"] for row in result.rows),
            "peak_memory_mib": peak_memory_mib(device),
        },
    )
