"""`fit` and `lr-find`."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from linknet_fastai.cli.options import (
    RECIPE,
    AccumulateOption,
    BsOption,
    CacheDirOption,
    CacheOption,
    ClassWeightsOption,
    CompileOption,
    CropOption,
    DataOption,
    DecoderOption,
    DeterministicOption,
    DeviceOption,
    EncoderOption,
    EncoderWeightsOption,
    EpochsOption,
    InitFromOption,
    LrOption,
    OptimizerOption,
    PrecisionOption,
    PresetOption,
    PretrainedOption,
    RecipeArgument,
    ScheduleOption,
    SeedOption,
    SetOption,
    SizeOption,
    TrainOnOption,
    ValidateOnOption,
    WorkersOption,
    parse_assignments,
)
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.parallel import is_first


def fit(
    recipe: Annotated[str | None, RECIPE] = None,
    data: DataOption = None,
    preset: PresetOption = None,
    epochs: EpochsOption = None,
    size: SizeOption = None,
    crop: CropOption = None,
    bs: BsOption = None,
    accumulate: AccumulateOption = None,
    lr: LrOption = None,
    decoder: DecoderOption = None,
    encoder: EncoderOption = None,
    pretrained: PretrainedOption = None,
    encoder_weights: EncoderWeightsOption = None,
    init_from: InitFromOption = None,
    class_weights: ClassWeightsOption = None,
    optimizer: OptimizerOption = None,
    schedule: ScheduleOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    compile: CompileOption = None,
    deterministic: DeterministicOption = None,
    workers: WorkersOption = None,
    cache: CacheOption = None,
    cache_dir: CacheDirOption = None,
    train_on: TrainOnOption = None,
    validate_on: ValidateOnOption = None,
    assignments: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run folder.", show_default="runs/RECIPE-DATE-TIME")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with an interrupted run.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log to RUN/tensorboard as well, by fastai's callback.")
    ] = False,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Log to Weights & Biases as well, by fastai's callback.")
    ] = False,
) -> None:
    """Train LinkNet on a recipe and keep the run in a folder."""
    options = _given_options(locals(), assignments)
    if resume is None and recipe is None:
        raise UsageError("RECIPE is missing: fit RECIPE, or fit --resume RUN")
    if resume is not None and out is not None:
        raise UsageError("--out: --resume goes on in the run's own folder; leave it out")

    from linknet_fastai.cli.terminal import console
    from linknet_fastai.cli.training_display import TrainingDisplay
    from linknet_fastai.training import fit as training

    log_to = ["tensorboard"] * tensorboard + ["wandb"] * wandb
    with TrainingDisplay() as display:
        if resume is not None:
            result = training.resume(resume, recipe, data, options, display, log_to)
        else:
            result = training.fit(recipe, data, options, out, display, log_to)
    if not is_first():
        return
    go_on = shlex.join(["linknet-fastai", "fit", "--resume", str(result.folder)])
    if not result.rows:
        console.print(f"\nstopped before the first epoch ended; go on with: {go_on}")
        raise typer.Exit(130)
    best, last = result.best, result.rows[-1]
    console.print(f"\nbest mIoU {best['miou']:.4f} at epoch {best['epoch']}, last {last['miou']:.4f}")
    if not result.finished:
        console.print(f"stopped after epoch {last['epoch']}; go on with: {go_on}")
        raise typer.Exit(130)
    console.print(f"predictions {result.folder / 'predictions.png'}")
    console.print(f"report      {result.folder / 'report.html'}")
    console.print(f"run         {result.folder}")


def lr_find(
    recipe: RecipeArgument,
    data: DataOption = None,
    preset: PresetOption = None,
    size: SizeOption = None,
    crop: CropOption = None,
    bs: BsOption = None,
    decoder: DecoderOption = None,
    encoder: EncoderOption = None,
    pretrained: PretrainedOption = None,
    encoder_weights: EncoderWeightsOption = None,
    init_from: InitFromOption = None,
    class_weights: ClassWeightsOption = None,
    optimizer: OptimizerOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    cache: CacheOption = None,
    cache_dir: CacheDirOption = None,
    train_on: TrainOnOption = None,
    assignments: SetOption = None,
    steps: Annotated[int, typer.Option("--steps", min=20, max=10_000, help="How many batches to try.")] = 100,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where plot and points go.", show_default="runs/RECIPE-lr-find-DATE-TIME"),
    ] = None,
) -> None:
    """Look for a learning rate with fastai's finder."""
    options = _given_options(locals(), assignments)
    from linknet_fastai.cli.terminal import console, progress_bar, show_table, table
    from linknet_fastai.training.lr_find import find_lr

    with progress_bar() as progress:
        found, folder = find_lr(recipe, data, options, out, steps, progress)
    shown = table("suggestion", "learning rate")
    for name, rate in found.suggestions.items():
        shown.add_row(name, f"{rate:.2e}")
    show_table(shown)
    console.print(f"plot {folder / 'lr-find.png'}, points {folder / 'lr-find.csv'}")
    console.print(f"train with: linknet-fastai fit {shlex.quote(str(recipe))} --lr {found.suggestions['valley']:.2g}")


def _given_options(arguments: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """Those of a command's arguments that are settings of a training, and what `--set` says."""
    said = {name: value for name, value in arguments.items() if name in Settings.model_fields}
    assigned = parse_assignments(assignments or [])
    if doubled := {name for name in assigned if said.get(name) is not None}:
        raise UsageError(f"--set {min(doubled)}=...: there is --{min(doubled).replace('_', '-')} already")
    return said | assigned
