"""The command line: reads arguments, calls one function, shows what it gives. No logic lives here."""

import json
import logging
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from linknet_fastai import __version__
from linknet_fastai.errors import UsageError, UserError
from linknet_fastai.options import (
    AccumulateOption,
    BsOption,
    CacheDirOption,
    CacheOption,
    ClassWeightsOption,
    CompileOption,
    CropOption,
    DataOption,
    DecoderOption,
    DeviceOption,
    EncoderOption,
    EncoderWeightsOption,
    EngineOption,
    EpochsOption,
    InitFromOption,
    JsonOption,
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
    workers: WorkersOption = None,
    cache: CacheOption = None,
    cache_dir: CacheDirOption = None,
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
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    json_file: JsonOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Score a model over a split: class IoU and class accuracy from one confusion matrix."""
    from linknet_fastai import evaluation
    from linknet_fastai.dataset import open_dataset
    from linknet_fastai.terminal import progress_bar, show_evaluation, show_note

    opened = _open_engine(model, engine, precision, device, size, trust_pickle)
    with progress_bar() as progress:
        dataset = open_dataset(recipe, data, progress)
        result = evaluation.evaluate(opened, dataset, split, progress)
    if note := dataset.note(split):
        show_note(note)
    if _write_json(result.as_json(), json_file):
        show_evaluation(result, f"{model} on {recipe} {split}")


@app.command()
def predict(
    model: ModelArgument,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Images and folders of images.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where masks/ and overlays/ go.")],
    masks_only: Annotated[bool, typer.Option("--masks-only", help="Write no overlays.")] = False,
    size: SeenSizeOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Write masks of class ids, at each frame's own size, and overlays."""
    from linknet_fastai import prediction
    from linknet_fastai.terminal import console, progress_bar, show_error, show_lines

    jobs = prediction.collect_jobs(inputs, out)
    opened = _open_engine(model, engine, precision, device, size, trust_pickle, len(jobs))
    with progress_bar() as progress:
        failures = prediction.predict_images(opened, jobs, out, masks_only, progress)
    console.print(f"{len(jobs) - len(failures)} of {len(jobs)} frames predicted by {opened}: {out}")
    show_lines(failures, show_error)
    if failures:
        raise typer.Exit(1)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a .safetensors.")],
    file_format: Annotated[
        Literal["pkl", "safetensors", "onnx", "openvino"],
        typer.Option(
            "--format",
            help="pkl: a fastai Learner for load_learner; safetensors: weights that can run no code; onnx and "
            "openvino (.xml and .bin): from the frame to the class map, without torch.",
        ),
    ] = "pkl",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", show_default="RUN/export.SUFFIX")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise, for openvino; takes --calibrate.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", metavar="DIR", help="Up to 60 of these frames decide the scales.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="DIR",
            help="Compare with torch on up to 10 of these frames.",
            show_default="those of --calibrate, else drawn scenes",
        ),
    ] = None,
) -> None:
    """Export a run's best weights as one file."""
    from linknet_fastai.export import export_run
    from linknet_fastai.terminal import console

    written = export_run(run, file_format, out, int8, calibrate, check)
    console.print(f"{written.file} ({written.mebibytes:.1f} MiB)")
    if result := written.check:
        console.print(
            f"{result.engine} in {result.precision} gives the class of torch in fp32 on {result.agreement:.3%} of "
            f"the pixels of {result.frames} frames ({result.source})"
        )


@app.command("benchmark")
def benchmark_command(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A run folder or a .safetensors.",
            show_default="untrained networks with either decoder",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="WxH", help="A size of frames; may be given several times."),
    ] = None,
    device: DeviceOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure speed, multiply-adds and memory on this machine, by every engine that is installed."""
    from linknet_fastai.benchmark import SIZES, benchmark
    from linknet_fastai.terminal import progress_bar, show_speeds

    sizes = [_size(text) for text in size] if size else SIZES
    with progress_bar() as progress:
        speeds = benchmark(model, sizes, device or "auto", progress)
    if _write_json([asdict(speed) for speed in speeds], json_file):
        show_speeds(speeds)


@app.command("data")
def data_command(
    recipe: RecipeArgument,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The picture of a batch.", show_default="RECIPE-batch.png"),
    ] = None,
    cache_dir: CacheDirOption = None,
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Delete the recipe's decoded frames, and do nothing else.")
    ] = False,
) -> None:
    """Check what is on disk: counts, sizes, class shares and weights, damaged files, a picture of a batch."""
    from linknet_fastai.dataset import open_dataset
    from linknet_fastai.terminal import console, progress_bar, show_inspection

    if clear_cache:
        from linknet_fastai.cache import clear_caches
        from linknet_fastai.recipe import load_recipe

        name = load_recipe(recipe).name
        console.print(f"{clear_caches(name, cache_dir) / 2**20:.1f} MiB of decoded frames of {name} deleted")
        return
    from linknet_fastai.inspection import inspect_data

    with progress_bar() as progress:
        dataset = open_dataset(recipe, data, progress)
        result = inspect_data(dataset, out or Path(f"{dataset.recipe.name}-batch.png"), progress)
    show_inspection(result, dataset)
    if result.problems or not result.surveys:
        raise typer.Exit(1)


def _write_json(content: Any, file: Path | None) -> bool:
    """Write figures for programs, where a file is named; whether stdout is still free for people."""
    if file == Path("-"):
        print(json.dumps(content, indent=2))
        return False
    if file:
        from linknet_fastai.files import write_text

        write_text(file, json.dumps(content, indent=2) + "\n")
    return True


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None


def _said(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's arguments that are settings of a training."""
    return {name: value for name, value in arguments.items() if name in Settings.model_fields}


def _open_engine(
    model: Path,
    engine: str,
    precision: str | None,
    device: str | None,
    size: str | None,
    trust_pickle: bool,
    frames: int | None = None,
) -> Any:
    from linknet_fastai.engines import open_engine
    from linknet_fastai.prediction import NATIVE

    seen = size if size in (None, NATIVE) else _size(size)
    return open_engine(model, engine, precision or "auto", device, seen, trust_pickle, frames)


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
