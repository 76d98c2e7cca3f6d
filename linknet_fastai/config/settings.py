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


def _parse_lr(value: Any) -> float | str:
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if value == "auto" or 0 < rate < math.inf:
        return value if value == "auto" else rate
    raise ValueError(f"{reprlib.repr(value)} is no learning rate: a number above 0, or auto")


LearningRate = Annotated[float | str, BeforeValidator(_parse_lr)]
Text = Annotated[str, Field(max_length=4096)]  # a name or a path
Scale = Annotated[float, Field(ge=0.1, le=10)]


class Settings(BaseModel):
    """Everything a training can be told, with the built-in defaults; checked when made, then frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: Text = "best"
    epochs: int = Field(default=50, ge=1, le=MOST_EPOCHS)
    size: Size = (480, 360)
    crop: Size | None = None
    bs: int = Field(default=8, ge=2, le=4096)
    accumulate: int = Field(default=1, ge=1, le=4096)
    lr: LearningRate = 2e-3
    decoder: Decoder = "deconv"
    encoder: Text = "resnet18"
    pretrained: bool = True
    encoder_weights: Path | None = None
    init_from: Path | None = None
    class_weights: ClassWeights = "log"
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "one-cycle"
    weight_decay: float | None = Field(default=None, ge=0, le=10)
    encoder_lr: float = Field(default=1, gt=0, le=1)  # of the learning rate, for an encoder that is trained already
    flip: bool = True
    scale: tuple[Scale, Scale] = (0.75, 1.75)
    color: float = Field(default=0.3, ge=0, lt=1)
    relight: float = Field(default=0, ge=0, le=1)
    precision: Precision = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    seed: int = Field(default=0, ge=0, lt=2**32)
    compile: bool = False
    deterministic: bool = False
    checkpoint_minutes: float = Field(default=10, gt=0)  # between two checkpoints within an epoch
    workers: int | None = Field(default=None, ge=0, le=256)
    cache: bool = True
    cache_dir: Path | None = None
    train_on: Text = "train"
    validate_on: Text = "val"

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
