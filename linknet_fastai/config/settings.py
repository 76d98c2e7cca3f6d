"""The settings of a training, their checks and their order of precedence."""

import math
import re
import reprlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from linknet_fastai.core.errors import UsageError

# What presets and `fit --set` alone change: few people ever do.
WITHOUT_OPTION = frozenset({"weight_decay", "encoder_lr", "flip", "scale", "color", "relight", "checkpoint_minutes"})
SMALLEST_SIDE = 33
LARGEST_SIDE = 16384
MOST_PIXELS = 1 << 25
MOST_EPOCHS = 100_000
# Files of this machine are named on the command line: a recipe or preset may come from another, or from anybody.
PATHS = ("cache_dir", "encoder_weights", "init_from")
RENAMED = {"colour": "color"}  # names that older versions used, which are still read


def parse_size(text: Any) -> tuple[int, int]:
    """Turn "480x360" into (480, 360), a size in pixels as (width, height)."""
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(side, int) for side in text):
        width, height = text
    elif isinstance(text, str) and (match := re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)):
        width, height = int(match[1]), int(match[2])
    else:
        raise ValueError(f"{reprlib.repr(text)} is no size: write WIDTHxHEIGHT, as in 480x360")
    if not (min(width, height) >= SMALLEST_SIDE and max(width, height) <= LARGEST_SIDE):
        raise ValueError(
            f"{reprlib.repr(text)}: each side must lie between {SMALLEST_SIDE} and {LARGEST_SIDE} pixels"
        )
    if width * height > MOST_PIXELS:
        raise ValueError(f"{text!r}: more than {MOST_PIXELS >> 20} Mi pixels, the frames of 8K video")
    return width, height


def format_size(size: tuple[int, int]) -> str:
    """Turn (480, 360) into "480x360"."""
    return f"{size[0]}x{size[1]}"


Size = Annotated[tuple[int, int], BeforeValidator(parse_size), PlainSerializer(format_size)]
Decoder = Literal["deconv", "pixelshuffle"]
ClassWeights = Literal["log", "sqrt", "median", "none"]
Optimizer = Literal["muon", "adamw", "adam", "rmsprop", "sgd"]
Schedule = Literal["one-cycle", "flat-cos", "cosine", "constant", "step"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Group = Literal["Data", "Network", "Training", "Augmentation", "Machine"]


def _parse_lr(value: Any) -> float | str:
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if value == "auto" or 0 < rate < math.inf:
        return value if value == "auto" else rate
    raise ValueError(f"{reprlib.repr(value)} is no learning rate: a number above 0, or auto")


def parse_device(device: Any) -> Any:
    """Turn the number of a GPU, as other programs take it, into the name of a torch device.

    Example:
        >>> parse_device("0")
        'cuda:0'
        >>> parse_device("cpu")
        'cpu'
    """
    return f"cuda:{device}" if re.fullmatch(r"\d{1,3}", str(device)) else device


Device = Annotated[str, BeforeValidator(parse_device)]
LearningRate = Annotated[float | str, BeforeValidator(_parse_lr)]
Text = Annotated[str, Field(max_length=4096)]  # a name or a path
Scale = Annotated[float, Field(ge=0.1, le=10)]


def _setting(
    default: Any, group: Group, description: str, metavar: str | None = None, shown: str | None = None, **checks: Any
) -> Any:
    """A field of `Settings`, with what `--help` and the table of settings in the documentation show of it.

    Args:
        default: the value where no option, preset or recipe sets one.
        group: the heading that it is listed under.
        description: one line in plain words, with unit and range.
        metavar: what stands for its value in `--help`.
        shown: the default in words, where the value itself would mislead.
        checks: limits, as in `Field`.
    """
    return Field(
        default=default,
        description=description,
        json_schema_extra={"group": group, "metavar": metavar, "shown": shown},
        **checks,
    )


class Settings(BaseModel):
    """Every setting of a training with its default: checked when created, then frozen.

    This is the one description of a setting: the options of `fit` and `lr-find`, their help and the table in the
    documentation are generated from it. The fields are sorted by the group that they are listed under.

    Example:
        >>> Settings(size="480x360", bs=4).size
        (480, 360)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: Size = _setting(
        (480, 360),
        "Data",
        "Size that frames are resized to, in pixels, as in 480x360.",
        "WxH",
        "from the recipe, or 480x360",
    )
    crop: Size | None = _setting(
        None, "Data", "Size of the random crops to train on, at most --size.", "WxH", "the whole frame"
    )
    cache: bool = _setting(True, "Data", "Decode every frame once and keep it in a memory-mapped file.")
    cache_dir: Path | None = _setting(
        None, "Data", "Folder for decoded frames.", "DIR", "linknet-fastai in the user's cache folder"
    )
    train_on: Text = _setting(
        "train", "Data", "Split to train on, or a text file with the stem of one frame per line.", "SPLIT"
    )
    validate_on: Text = _setting("val", "Data", "Split to validate on, or such a file.", "SPLIT")

    decoder: Decoder = _setting(
        "deconv", "Network", "Upsampling: deconv (transposed) or pixelshuffle (sub-pixel convolutions).", "NAME"
    )
    encoder: Text = _setting("resnet18", "Network", "timm model to use as the encoder, as in resnet34.", "NAME")
    pretrained: bool = _setting(True, "Network", "Start the encoder from timm's pretrained weights.")
    encoder_weights: Path | None = _setting(
        None, "Network", "Local checkpoint of the timm model to start the encoder from.", "FILE", "none"
    )
    init_from: Path | None = _setting(
        None,
        "Network",
        "Run folder or .safetensors to start from; its head is used only if the classes are the same.",
        "MODEL",
        "none",
    )

    preset: Text = _setting(
        "best", "Training", "Named training settings (see `linknet-fastai recipes`), or a TOML file.", "NAME"
    )
    epochs: int = _setting(50, "Training", "Number of epochs.", "N", "from the recipe, or 50", ge=1, le=MOST_EPOCHS)
    bs: int = _setting(8, "Training", "Batch size in frames, of each process.", "N", ge=2, le=4096)
    accumulate: int = _setting(
        1, "Training", "Number of batches whose gradients are added up for one step.", "N", ge=1, le=4096
    )
    lr: LearningRate = _setting(
        2e-3, "Training", "Highest learning rate, or auto: what the finder suggests (valley).", "RATE"
    )
    class_weights: ClassWeights = _setting(
        "log",
        "Training",
        "Weight of a class with share p of the pixels: log is 1/ln(1.02 + p), sqrt its root, median is median "
        "frequency, or none.",
        "NAME",
    )
    optimizer: Optimizer = _setting("adamw", "Training", "muon, or PyTorch's adamw, adam, rmsprop or sgd.", "NAME")
    schedule: Schedule = _setting(
        "one-cycle",
        "Training",
        "Learning rate: one-cycle, flat-cos, cosine, constant, or step (a tenth after 1/2 and 3/4).",
        "NAME",
    )
    weight_decay: float | None = _setting(
        None, "Training", "Weight decay, 0 to 10.", "X", "the optimizer's own", ge=0, le=10
    )
    encoder_lr: float = _setting(
        1, "Training", "Learning rate of a pretrained encoder, as a fraction of --lr.", "X", gt=0, le=1
    )

    flip: bool = _setting(True, "Augmentation", "Mirror half of the frames.")
    scale: tuple[Scale, Scale] = _setting(
        (0.75, 1.75), "Augmentation", "Smallest and largest random zoom, 0.1 to 10.", "[X, X]"
    )
    color: float = _setting(
        0.3,
        "Augmentation",
        "Largest relative change of brightness, contrast and saturation, 0 to 1.",
        "X",
        ge=0,
        lt=1,
    )
    relight: float = _setting(
        0,
        "Augmentation",
        "Probability that a frame takes on the colors of another frame of its batch, 0 to 1.",
        "X",
        ge=0,
        le=1,
    )

    precision: Precision = _setting(
        "auto", "Machine", "fp32, bf16 or fp16; auto is the fastest that the hardware supports.", "NAME"
    )
    device: Device = _setting(
        "auto",
        "Machine",
        "auto, cpu, cuda, cuda:N (or just N) or mps.",
        "NAME",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
    )
    seed: int = _setting(
        0, "Machine", "Seed of the weights, the order of frames and the augmentation.", "N", ge=0, lt=2**32
    )
    compile: bool = _setting(False, "Machine", "Compile the network with torch.compile.")
    deterministic: bool = _setting(False, "Machine", "Use deterministic algorithms, which may be slower on a GPU.")
    checkpoint_minutes: float = _setting(10, "Machine", "Minutes between two checkpoints within an epoch.", "X", gt=0)
    workers: int | None = _setting(
        None,
        "Machine",
        "Number of processes that load data; 0 loads in the training process.",
        "N",
        "0 with --cache, otherwise by cores",
        ge=0,
        le=256,
    )

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        """Read what an older version wrote into a run folder."""
        return (
            {RENAMED.get(name, name): value for name, value in values.items()} if isinstance(values, dict) else values
        )

    @field_validator("scale")
    @classmethod
    def _check_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"{list(scale)} does not begin with the smaller one")
        return scale

    @field_validator("init_from")
    @classmethod
    def _check_one_origin(cls, run: Path | None, info: ValidationInfo) -> Path | None:
        if run is not None and info.data.get("encoder_weights") is not None:
            raise ValueError("brings the encoder's weights too; leave --encoder-weights out")
        return run

    @property
    def encoder_is_trained(self) -> bool:
        """Whether the encoder does not start from scratch."""
        return self.pretrained or self.encoder_weights is not None or self.init_from is not None


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their current names; one that has an older name is reported by a FutureWarning."""
    for old in RENAMED.keys() & values.keys():
        warnings.warn(f"the setting {old!r} is called {RENAMED[old]!r} now", FutureWarning, stacklevel=2)
    return {RENAMED.get(name, name): value for name, value in values.items()}


def explain(error: ValidationError) -> str:
    """Say the first thing that pydantic found wrong in one line: where it stands and what is off."""
    first = error.errors()[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")[:200]
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    message = first["msg"].removeprefix("Value error, ")[:500]
    return f"{where}: {message}" if where else message


def check_training_table(table: Mapping[str, Any]) -> None:
    """Raise ValueError unless a recipe's or preset's table holds known settings with values that fit, and no path."""
    if named := [name for name in PATHS if name in table]:
        raise ValueError(f"{named[0]}: a file names no paths of a machine; --{named[0].replace('_', '-')} does")
    try:
        Settings(**current_names(table))
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def resolve_settings(*layers: tuple[str, Mapping[str, Any]]) -> tuple[Settings, dict[str, str]]:
    """Lay settings over the built-in defaults.

    Args:
        layers: pairs of an origin ("recipe", "command line") and what it says, the weakest first.
            A value of None says nothing.

    Returns:
        The checked settings, and the origin of each by name ("default" where no layer names it).

    Raises:
        UsageError: a value does not fit; the message names the option.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, layer in layers:
        said = {name: value for name, value in current_names(layer).items() if value is not None}
        values |= said
        origins |= dict.fromkeys(said, origin)
    try:
        return Settings(**values), origins
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        option = f"--set {name}" if name in WITHOUT_OPTION else f"--{name.replace('_', '-')}"
        raise UsageError(f"{option} (from the {origins.get(name, 'settings')}): {explain(error)}") from None
