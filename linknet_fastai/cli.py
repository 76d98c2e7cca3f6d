"""The command line: reads arguments, calls one function, shows what it gives. No logic lives here."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from linknet_fastai import __version__
from linknet_fastai.errors import UsageError, UserError
from linknet_fastai.settings import ClassWeights, Decoder, Optimizer, Precision, Schedule, parse_size

# Commands import what they call: torch and fastai take seconds, and --help answers at once.

app = typer.Typer(
    name="linknet-fastai",
    help="Train, measure and ship LinkNet, the real-time street-scene segmentation network, with fastai.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Data set recipes: camvid, camvid32, cityscapes, cityscapes34, street, or the path of a TOML file.",
)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or the path of a TOML file.")
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run folder, a .safetensors, or a .pkl with --trust-pickle.")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder. Left out: fetched or drawn, where the recipe says how."),
]
SizeOption = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="What the network sees, as in 480x360.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", show_default="auto")
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", help="auto is bf16 where the hardware has it.", show_default="auto"),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-pickle", help="Load a .pkl although it can run any code it holds.")
]
BsOption = Annotated[int | None, typer.Option("--bs", help="Frames a batch.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Weights, order and augmentation follow from it.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", help="Loader processes; 0 is none.")]
DecoderOption = Annotated[
    Decoder | None,
    typer.Option("--decoder", help="Upsampling by full or by sub-pixel convolution.", show_default="deconv"),
]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", help="A timm model, as in resnet34.", show_default="resnet18")
]
PretrainedOption = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--no-pretrained", help="Start the encoder from timm's ImageNet weights, or from none."
    ),
]
EncoderWeightsOption = Annotated[
    Path | None, typer.Option("--encoder-weights", help="A local checkpoint of the timm model to start from.")
]
InitFromOption = Annotated[
    Path | None,
    typer.Option("--init-from", help="A run or .safetensors to start from; the head only if classes agree."),
]
ClassWeightsOption = Annotated[
    ClassWeights | None,
    typer.Option("--class-weights", help="log is 1/ln(1.02 + share), median median frequency.", show_default="log"),
]
OptimizerOption = Annotated[
    Optimizer | None, typer.Option("--optimizer", help="torch's own, with torch's defaults.", show_default="adamw")
]
TrainOnOption = Annotated[
    str | None,
    typer.Option("--train-on", help="A split, or a file with a frame's stem a line.", show_default="train"),
]
ValidateOnOption = Annotated[str | None, typer.Option("--validate-on", help="Likewise.", show_default="val")]


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
    epochs: Annotated[int | None, typer.Option("--epochs", help="How long to train.")] = None,
    size: SizeOption = None,
    bs: BsOption = None,
    lr: Annotated[
        str | None, typer.Option("--lr", help="The highest learning rate, or auto: the finder's valley.")
    ] = None,
    decoder: DecoderOption = None,
    encoder: EncoderOption = None,
    pretrained: PretrainedOption = None,
    encoder_weights: EncoderWeightsOption = None,
    init_from: InitFromOption = None,
    class_weights: ClassWeightsOption = None,
    optimizer: OptimizerOption = None,
    schedule: Annotated[
        Schedule | None,
        typer.Option("--schedule", help="step divides by ten at 1/2 and 3/4.", show_default="one-cycle"),
    ] = None,
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
    options = {
        "epochs": epochs,
        "size": size,
        "bs": bs,
        "lr": lr,
        "decoder": decoder,
        "encoder": encoder,
        "pretrained": pretrained,
        "encoder_weights": encoder_weights,
        "init_from": init_from,
        "class_weights": class_weights,
        "optimizer": optimizer,
        "schedule": schedule,
        "precision": precision,
        "device": device,
        "seed": seed,
        "workers": workers,
        "train_on": train_on,
        "validate_on": validate_on,
    }
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
    options = {
        "size": size,
        "bs": bs,
        "decoder": decoder,
        "encoder": encoder,
        "pretrained": pretrained,
        "encoder_weights": encoder_weights,
        "init_from": init_from,
        "class_weights": class_weights,
        "optimizer": optimizer,
        "precision": precision,
        "device": device,
        "seed": seed,
        "workers": workers,
        "train_on": train_on,
    }
    from linknet_fastai import training
    from linknet_fastai.terminal import console, progress_bar, show_table, table

    with progress_bar() as progress:
        found, folder = training.find_lr(recipe, data, options, out, steps, progress)
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
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH|native", help="What the network sees.", show_default="the training size"),
    ] = None,
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
    from linknet_fastai.survey import write_text
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
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH|native", help="What the network sees.", show_default="the training size"),
    ] = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Write masks of class ids, at each frame's own size, and overlays."""
    from linknet_fastai import prediction
    from linknet_fastai.terminal import console, progress_bar, show_error, show_lines

    jobs = prediction.collect_jobs(inputs)
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
        _show(error.format_message() or str(error))
        return error.exit_code
    if isinstance(error, typer.Abort):
        _show("stopped")
        return 130
    _show(f"{type(error).__name__}: {error} (this is no message of ours; --debug shows where it comes from)")
    return 1


def _show(message: str) -> None:
    from linknet_fastai.terminal import show_error

    show_error(message)
