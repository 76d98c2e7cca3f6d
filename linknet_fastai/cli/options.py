"""The arguments and options that commands share, as typer reads them; what is left out is None."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from linknet_fastai.config.settings import (
    RENAMED,
    ClassWeights,
    Decoder,
    Optimizer,
    Precision,
    Schedule,
    Settings,
    parse_size,
)
from linknet_fastai.core.errors import UsageError
from linknet_fastai.engines.formats import ENGINES, EngineName


def _recipe_names() -> list[str]:
    from linknet_fastai.config.recipe import recipe_names

    return recipe_names()


def _preset_names() -> list[str]:
    from linknet_fastai.config.presets import preset_names

    return preset_names()


# What the options of a training are listed under in --help.
DATA, NETWORK, TRAINING, MACHINE = "Data", "Network", "Training", "Machine"

RECIPE = typer.Argument(
    metavar="RECIPE", help="A shipped recipe's name, or the path of a TOML file.", autocompletion=_recipe_names
)
RecipeArgument = Annotated[str, RECIPE]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run folder, .safetensors, .onnx, OpenVINO .xml, or .pkl with --trust-pickle."
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Training settings by name, see `linknet-fastai recipes`, or the path of a TOML file.",
        show_default="best, behind the recipe's own",
        autocompletion=_preset_names,
        rich_help_panel=TRAINING,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting, as in flip=false; may be given several times.",
        rich_help_panel=TRAINING,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="The data folder. Left out: fetched or drawn, where the recipe says how.", rich_help_panel=DATA
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", help="What the network sees, as in 480x360.", rich_help_panel=DATA),
]
CropOption = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="WxH",
        help="What training cuts out of a frame at --size.",
        show_default="all of it",
        rich_help_panel=DATA,
    ),
]
AccumulateOption = Annotated[
    int | None,
    typer.Option(
        "--accumulate", help="Take a step every so many batches.", show_default="1", rich_help_panel=TRAINING
    ),
]
CompileOption = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Have torch.compile speed the network up.", rich_help_panel=MACHINE),
]
DeterministicOption = Annotated[
    bool | None,
    typer.Option(
        "--deterministic",
        help="The same bits every time, also where a GPU is slower for it.",
        rich_help_panel=MACHINE,
    ),
]
CacheOption = Annotated[
    bool | None,
    typer.Option(
        "--cache/--no-cache",
        help="Decode frames once, into files that training maps into memory.",
        rich_help_panel=DATA,
    ),
]
CacheDirOption = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        help="Where decoded frames lie.",
        show_default="linknet-fastai in the user's cache",
        rich_help_panel=DATA,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", show_default="auto", rich_help_panel=MACHINE),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="fp32, bf16 or fp16; auto is bf16 where the hardware has it.",
        show_default="auto",
        rich_help_panel=MACHINE,
    ),
]
EngineOption = Annotated[
    Literal["auto", EngineName],
    typer.Option(
        "--engine",
        metavar="NAME",
        help=f"{', '.join(ENGINES)}, or auto: the fastest that is installed for this file.",
        rich_help_panel=MACHINE,
    ),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-pickle", help="Load a .pkl although it can run any code it holds.")
]
BsOption = Annotated[
    int | None,
    typer.Option("--bs", help="Frames a batch; where several processes train, of each.", rich_help_panel=TRAINING),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="Weights, order and augmentation follow from it.", rich_help_panel=MACHINE),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Loader processes; 0 is none.", rich_help_panel=MACHINE)
]
DecoderOption = Annotated[
    Decoder | None,
    typer.Option(
        "--decoder",
        metavar="NAME",
        help="deconv or pixelshuffle: upsampling by full or sub-pixel convolution.",
        rich_help_panel=NETWORK,
    ),
]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="A timm model, as in resnet34.", show_default="resnet18", rich_help_panel=NETWORK),
]
PretrainedOption = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--no-pretrained",
        help="Start the encoder from timm's ImageNet weights, or from none.",
        rich_help_panel=NETWORK,
    ),
]
EncoderWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--encoder-weights", help="A local checkpoint of the timm model to start from.", rich_help_panel=NETWORK
    ),
]
InitFromOption = Annotated[
    Path | None,
    typer.Option(
        "--init-from",
        help="A run or .safetensors to start from; the head only if classes agree.",
        rich_help_panel=NETWORK,
    ),
]
ClassWeightsOption = Annotated[
    ClassWeights | None,
    typer.Option(
        "--class-weights",
        metavar="NAME",
        help="log is 1/ln(1.02 + share), sqrt its root, median median frequency; or none.",
        rich_help_panel=TRAINING,
    ),
]
OptimizerOption = Annotated[
    Optimizer | None,
    typer.Option(
        "--optimizer",
        metavar="NAME",
        help="muon, or torch's own adamw, adam, rmsprop or sgd; one-cycle moves momentum.",
        rich_help_panel=TRAINING,
    ),
]
TrainOnOption = Annotated[
    str | None,
    typer.Option(
        "--train-on",
        help="A split, or a file with a frame's stem a line.",
        show_default="train",
        rich_help_panel=DATA,
    ),
]
ValidateOnOption = Annotated[
    str | None, typer.Option("--validate-on", help="Likewise.", show_default="val", rich_help_panel=DATA)
]
ScheduleOption = Annotated[
    Schedule | None,
    typer.Option(
        "--schedule",
        metavar="NAME",
        help="one-cycle, flat-cos, cosine, constant, or step: a tenth after 1/2 and 3/4.",
        rich_help_panel=TRAINING,
    ),
]
EpochsOption = Annotated[int | None, typer.Option("--epochs", help="How long to train.", rich_help_panel=TRAINING)]
LrOption = Annotated[
    str | None,
    typer.Option("--lr", help="The highest learning rate, or auto: the finder's valley.", rich_help_panel=TRAINING),
]
SeenSizeOption = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH|native", help="What the network sees.", show_default="the training size"),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures for programs; - is stdout.")
]


def parse_size_option(text: str) -> tuple[int, int]:
    """Turn what `--size` was given into (width, height); raise UsageError where it is no size."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None


def parse_assignments(texts: list[str]) -> dict[str, Any]:
    """Turn what `--set` was given, NAME=VALUE with values as in TOML, into settings by name.

    Raises:
        UsageError: a text is no assignment, or its name no setting.
    """
    said: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set {text}: write NAME=VALUE, as in flip=false")
        if name not in Settings.model_fields and name not in RENAMED:
            near = get_close_matches(name, Settings.model_fields, n=1)
            raise UsageError(f"--set {text}: no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        try:
            said[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            said[name] = value.strip()  # a word without quotes
    return said
