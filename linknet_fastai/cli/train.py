"""`fit` and `lr-find`."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from linknet_fastai.cli.options import RECIPE, DataOption, RecipeArgument, setting_options
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.core.parallel import is_first

MOST_FOLDS = 1000


@setting_options()
def fit(
    options: dict[str, Any],
    recipe: Annotated[str | None, RECIPE] = None,
    data: DataOption = None,
    out: Annotated[Path | None, "Run folder.", "DIR", "runs/RECIPE-DATE-TIME"] = None,
    resume: Annotated[Path | None, "Continue an interrupted run, or the folds in a folder.", "RUN"] = None,
    folds: Annotated[
        str | None, "Train once without each group, or without each of N sets of groups, and score on it.", "group|N"
    ] = None,
    tensorboard: Annotated[bool, "Log to RUN/tensorboard as well."] = False,
    wandb: Annotated[bool, "Log to Weights & Biases as well."] = False,
) -> None:
    """Train LinkNet on a recipe and keep the run in a folder.

    Precedence of settings: option, preset named by --preset, recipe, default.
    """
    if resume is None and recipe is None:
        raise UsageError("RECIPE is missing: fit RECIPE, or fit --resume RUN")
    if resume is not None and out is not None:
        raise UsageError("--out: --resume continues in the run's own folder; leave out --out")
    if resume is not None and folds is not None:
        raise UsageError("--folds: --resume continues with the folds that were cut; leave out --folds")
    if folds not in (None, "group") and not (folds.isdecimal() and 2 <= int(folds) <= MOST_FOLDS):
        raise UsageError(f"--folds: {folds!r} is neither group nor a number from 2 to {MOST_FOLDS}")

    from linknet_fastai.cli.terminal import console, percent
    from linknet_fastai.cli.training_display import TrainingDisplay
    from linknet_fastai.training import fit as training

    log_to = ["tensorboard"] * tensorboard + ["wandb"] * wandb
    if folds is not None or (resume is not None and (resume / "folds.json").is_file()):
        _fit_folds(options, recipe, data, out, resume, folds, log_to)
        return
    try:
        with TrainingDisplay() as display:
            if resume is not None:
                result = training.resume(resume, recipe, data, options, display, log_to)
            else:
                result = training.fit(str(recipe), data, options, out, display, log_to)
    except UserError as error:
        if display.folder and isinstance(error.__cause__, OSError):  # such as a full disk
            raise UserError(f"{error}; then continue with: {_resume_command(display.folder)}") from error
        raise
    if not is_first():
        return
    resume_command = _resume_command(result.folder)
    if not result.rows:
        console.print(f"\nstopped before the first epoch ended; continue with: {resume_command}")
        raise typer.Exit(130)
    best, last = result.best, result.rows[-1]
    console.print(f"\nbest mIoU {percent(best['miou'])} at epoch {best['epoch']}, last {percent(last['miou'])}")
    if not result.finished:
        console.print(f"stopped after epoch {last['epoch']}; continue with: {resume_command}")
        raise typer.Exit(130)
    if (predictions := result.folder / "predictions.png").is_file():  # there is none if no frame has a score
        console.print(f"predictions {predictions}")
    console.print(f"report      {result.folder / 'report.html'}")
    console.print(f"run         {result.folder}")


def _fit_folds(
    options: dict[str, Any],
    recipe: str | None,
    data: Path | None,
    out: Path | None,
    resume: Path | None,
    folds: str | None,
    log_to: list[str],
) -> None:
    """Train the folds, or continue with them, and print their table."""
    from linknet_fastai.cli.tables import show_folds
    from linknet_fastai.cli.terminal import console
    from linknet_fastai.cli.training_display import TrainingDisplay
    from linknet_fastai.training.folds import fit_folds, resume_folds

    with TrainingDisplay() as display:
        if resume is not None:
            result = resume_folds(resume, recipe, data, options, display, log_to)
        else:
            number = int(folds) if folds and folds != "group" else None
            result = fit_folds(str(recipe), data, options, number, out, display, log_to)
    if not result.finished:
        console.print(f"stopped; continue with: {_resume_command(result.folder)}")
        raise typer.Exit(130)
    console.print()
    show_folds(result.folds)
    console.print(f"report      {result.folder / 'report.html'}")
    console.print(f"folds       {result.folder / 'folds.json'}")


def _resume_command(folder: Path) -> str:
    return shlex.join(["linknet-fastai", "fit", "--resume", str(folder)])


# Settings that the search does not depend on, or hardly.
@setting_options(without={"epochs", "accumulate", "schedule", "compile", "deterministic", "validate_on"})
def lr_find(
    options: dict[str, Any],
    recipe: RecipeArgument,
    data: DataOption = None,
    steps: Annotated[int, "Number of batches to try.", "N", None, {"min": 20, "max": 10_000}] = 100,
    out: Annotated[Path | None, "Folder for the plot and its points.", "DIR", "runs/RECIPE-lr-find-DATE-TIME"] = None,
) -> None:
    """Look for a learning rate with fastai's finder."""
    from linknet_fastai.cli.terminal import console, progress_bar, show_table
    from linknet_fastai.training.lr_find import find_lr

    with progress_bar() as progress:
        found, folder = find_lr(recipe, data, options, out, steps, progress)
    rows = [(name, f"{rate:.2e}") for name, rate in found.suggestions.items()]
    show_table(("suggestion", "learning rate"), rows)
    console.print(f"plot {folder / 'lr-find.png'}, points {folder / 'lr-find.csv'}")
    console.print(f"train with: linknet-fastai fit {shlex.quote(str(recipe))} --lr {found.suggestions['valley']:.2g}")
