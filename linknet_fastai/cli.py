"""The command line: reads arguments, calls one function, shows what it gives. No logic lives here."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from linknet_fastai import __version__
from linknet_fastai.errors import UsageError, UserError
from linknet_fastai.options import (
    BsOption,
    ClassWeightsOption,
    DataOption,
    DecoderOption,
    DeviceOption,
    EncoderOption,
    EncoderWeightsOption,
    EpochsOption,
    InitFromOption,
    LrOption,
    ModelArgument,
    OptimizerOption,
    PrecisionOption,
    PretrainedOption,
    RecipeArgument,
    ScheduleOption,
    SeedOption,
    SeenSizeOption,
    SizeOption,
    TrainOnOption,
    TrustOption,
    ValidateOnOption,
    WorkersOption,
)
from linknet_fastai.settings import Settings, parse_size

# Commands import what they call: torch and fastai take seconds, and --help answers at once.

app = typer.Typer(
    name="linknet-fastai",
    help="Train, measure and ship LinkNet, the real-time street-scene segmentation network, with fastai.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Data set recipes: camvid, camvid32, cityscapes, cityscapes34, street, or the path of a TOML file.",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error, and warnings.")] = False,
) -> None:
    """Options before the command."""
    if version:
        print(f"linknet-fastai {__version__}")
        raise typer.Exit


@app.command()
def fit(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or the path of a TOML file."),
    ] = None,
    data: DataOption = None,
    epochs: EpochsOption = None,
    size: SizeOption = None,
    bs: BsOption = None,
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
    workers: WorkersOption = None,
    train_on: TrainOnOption = None,
    validate_on: ValidateOnOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run folder.", show_default="runs/RECIPE-DATE-TIME")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with an interrupted run.")
    ] = None,
) -> None:
    """Train LinkNet on a recipe and keep the run in a folder."""
    options = _said(locals())
    if resume is None and recipe is None:
        raise UsageError("RECIPE is missing: fit RECIPE, or fit --resume RUN")
    if resume is not None and out is not None:
        raise UsageError("--out: --resume goes on in the run's own folder; leave it out")

    from linknet_fastai import training
    from linknet_fastai.terminal import TrainingDisplay, console

    with TrainingDisplay() as display:
        if resume is not None:
            result = training.resume(resume, recipe, data, options, display)
        else:
            result = training.fit(recipe, data, options, out, display)
    if not result.rows:
        console.print(
            f"\nstopped before the first epoch ended; go on with: linknet-fastai fit --resume {result.folder}"
        )
        raise typer.Exit(130)
    best, last = result.best, result.rows[-1]
    console.print(f"\nbest mIoU {best['miou']:.4f} at epoch {best['epoch']}, last {last['miou']:.4f}")
    console.print(f"predictions {result.folder / 'predictions.png'}")
    console.print(f"run         {result.folder}")
    if not result.finished:
        console.print(f"stopped after epoch {last['epoch']}; go on with: linknet-fastai fit --resume {result.folder}")
        raise typer.Exit(130)


@app.command("lr-find")
def lr_find(
    recipe: RecipeArgument,
    data: DataOption = None,
    size: SizeOption = None,
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
    train_on: TrainOnOption = None,
    steps: Annotated[int, typer.Option("--steps", min=20, max=10_000, help="How many batches to try.")] = 100,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where plot and points go.", show_default="runs/RECIPE-lr-find-DATE-TIME"),
    ] = None,
) -> None:
    """Look for a learning rate with fastai's finder."""
    options = _said(locals())
    from linknet_fastai.lr_search import find_lr
    from linknet_fastai.terminal import console, progress_bar, show_table, table

    with progress_bar() as progress:
        found, folder = find_lr(recipe, data, options, out, steps, progress)
    shown = table("suggestion", "learning rate")
    for name, rate in found.suggestions.items():
        shown.add_row(name, f"{rate:.2e}")
    show_table(shown)
    console.print(f"plot {folder / 'lr-find.png'}, points {folder / 'lr-find.csv'}")
    console.print(f"train with: linknet-fastai fit {recipe} --lr {found.suggestions['valley']:.2g}")


@app.command()
def evaluate(
    model: ModelArgument,
    recipe: RecipeArgument,
    split: Annotated[str, typer.Option("--split", help="A split, or a file with a frame's stem a line.")] = "val",
    data: DataOption = None,
    size: SeenSizeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the scores for programs; - is stdout."),
    ] = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Score a model over a split: class IoU and class accuracy from one confusion matrix."""
    from linknet_fastai import evaluation
    from linknet_fastai.dataset import open_dataset
    from linknet_fastai.files import write_text
    from linknet_fastai.terminal import progress_bar, show_evaluation, show_note

    predictor = _predictor(model, trust_pickle, device, precision, size)
    with progress_bar() as progress:
        dataset = open_dataset(recipe, data, progress)
        result = evaluation.evaluate(predictor, dataset, split, progress)
    if note := dataset.note(split):
        show_note(note)
    text = json.dumps(result.as_json(), indent=2)
    if json_file == Path("-"):
        print(text)
        return
    show_evaluation(result, f"{model} on {recipe} {split}")
    if json_file:
        write_text(json_file, text + "\n")


@app.command()
def predict(
    model: ModelArgument,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images and folders of images.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where masks/ and overlays/ go.")],
    masks_only: Annotated[bool, typer.Option("--masks-only", help="Write no overlays.")] = False,
    size: SeenSizeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Write masks of class ids, at each frame's own size, and overlays."""
    from linknet_fastai import prediction
    from linknet_fastai.terminal import console, progress_bar, show_error, show_lines

    jobs = prediction.collect_jobs(inputs, out)
    predictor = _predictor(model, trust_pickle, device, precision, size)
    with progress_bar() as progress:
        failures = prediction.predict_images(predictor, jobs, out, masks_only, progress)
    console.print(f"{len(jobs) - len(failures)} of {len(jobs)} frames predicted: {out}")
    show_lines(failures, show_error)
    if failures:
        raise typer.Exit(1)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a .safetensors.")],
    file_format: Annotated[
        Literal["pkl", "safetensors"],
        typer.Option("--format", help="A fastai Learner for load_learner, or weights that can run no code."),
    ] = "pkl",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", show_default="RUN/export.FORMAT")] = None,
) -> None:
    """Export a run's best weights as one file."""
    from linknet_fastai.export import export_run
    from linknet_fastai.terminal import console

    file = export_run(run, file_format, out)
    console.print(f"{file} ({file.stat().st_size / 2**20:.1f} MiB)")


@app.command("data")
def data_command(
    recipe: RecipeArgument,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The picture of a batch.", show_default="RECIPE-batch.png"),
    ] = None,
) -> None:
    """Check what is on disk: counts, sizes, class shares and weights, damaged files, a picture of a batch."""
    from linknet_fastai.dataset import open_dataset
    from linknet_fastai.inspection import inspect_data
    from linknet_fastai.terminal import progress_bar, show_inspection

    with progress_bar() as progress:
        dataset = open_dataset(recipe, data, progress)
        result = inspect_data(dataset, out or Path(f"{dataset.recipe.name}-batch.png"), progress)
    show_inspection(result, dataset)
    if result.problems or not result.surveys:
        raise typer.Exit(1)


def _said(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's arguments that are settings of a training."""
    return {name: value for name, value in arguments.items() if name in Settings.model_fields}


def _predictor(model: Path, trust_pickle: bool, device: str | None, precision: str | None, size: str | None) -> Any:
    from linknet_fastai.model_file import load_model
    from linknet_fastai.prediction import NATIVE, Predictor

    try:
        seen = size if size in (None, NATIVE) else parse_size(size)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    return Predictor(*load_model(model, trust_pickle), device or "auto", precision or "auto", seen)


def main() -> None:
    """Run the command line: an error is one line on stderr; 2 for a wrong argument or recipe, 1 for the rest."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # taken at any place
    if not debug:
        warnings.simplefilter("ignore")  # the libraries' advice to their developers
        logging.disable()  # what timm logs of a failed load, our own line says
    try:
        code = app(arguments, prog_name="linknet-fastai", standalone_mode=False)
    except Exception as error:
        if debug:
            raise
        code = _report(error)
    except KeyboardInterrupt:
        _show("stopped")
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Show an error as one line; its exit status."""
    if isinstance(error, UserError):
        _show(str(error))
        return error.exit_code
    if isinstance(error, typer.TyperException):
        if message := error.format_message():  # without one it was the help that was shown
            _show(message)
        return error.exit_code
    if isinstance(error, typer.Abort):
        _show("stopped")
        return 130
    _show(f"{type(error).__name__}: {error} (this is no message of ours; --debug shows where it comes from)")
    return 1


def _show(message: str) -> None:
    from linknet_fastai.terminal import show_error

    show_error(message)
