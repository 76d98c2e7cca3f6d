"""The settings of a training: defaults, descriptions and checks."""

import math
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from linknet_fastai.config.size import Fit, Size

# Settings that few people change: `--set`, presets and recipes set them, there is no option.
WITHOUT_OPTION = frozenset(
    {
        *("weight_decay", "encoder_lr", "teacher_share", "teacher_temperature"),
        *("flip", "scale", "color", "relight", "checkpoint_minutes"),
    }
)
MOST_EPOCHS = 100_000
# Files of one machine, given on the command line alone.
PATHS = ("cache_dir", "encoder_weights", "init_from", "teacher")
RENAMED = {"colour": "color"}  # old names of settings, which are still read

Decoder = Literal["deconv", "pixelshuffle"]
ClassWeights = Literal["log", "sqrt", "median", "none"]
Optimizer = Literal["muon", "adamw", "adam", "rmsprop", "sgd"]
Schedule = Literal["one-cycle", "flat-cos", "cosine", "constant", "step"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

# Shown by `--help` and the documentation beside a description. The fields of `Settings` are sorted by group.
FIRST_OF_GROUP = {
    "size": "Data",
    "decoder": "Network",
    "preset": "Training",
    "flip": "Augmentation",
    "precision": "Machine",
}
SHOWN_DEFAULTS = {  # where the value itself would mislead; a default of None is shown by this alone
    "size": "from the recipe, or 480x360",
    "crop": "the whole frame",
    "cache_dir": "in the user's cache folder",
    "epochs": "from the recipe, or 50",
    "weight_decay": "the optimizer's own",
    "workers": "0 with --cache, else by cores",
}


def _parse_lr(value: Any) -> float | str:
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if value == "auto" or 0 < rate < math.inf:
        return value if value == "auto" else rate
    raise ValueError(f"{reprlib.repr(value)} is not a learning rate: use a number above 0, or auto")


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
Width = Annotated[float, Field(ge=0.125, le=4)]


class Settings(BaseModel):
    """Every setting of a training with its default: checked when created, then frozen.

    This is the one description of a setting: the options of `fit` and `lr-find`, their help and the table in the
    documentation are generated from it. The fields are sorted by the group that they are listed under.

    Example:
        >>> Settings(size="480x360", bs=4).size
        (480, 360)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    size: Size = (480, 360)
    """Size that frames are resized to, in pixels, as in 480x360."""
    fit: Fit = "squish"
    """Frames of another shape than --size: squish them, or pad to keep their aspect ratio."""
    crop: Size | None = None
    """Size of random crops to train on, at most --size."""
    cache: bool = True
    """Decode frames once, into memory-mapped files."""
    cache_dir: Path | None = None
    """Folder for decoded frames."""
    train_on: Text = "train"
    """Split, group:NAME, or a file with a frame per line; several joined by +; trainval is train+val."""
    validate_on: Text = "val"
    """What to validate on, in the same form."""

    decoder: Decoder = "deconv"
    """Upsampling: deconv (transposed) or pixelshuffle (sub-pixel convolutions)."""
    encoder: Text = "resnet18"
    """timm model to use as the encoder, as in resnet34."""
    width: Width = 1.0
    """Factor of all numbers of channels, for a ResNet, 0.125 to 4."""
    pretrained: bool = True
    """Start the encoder from timm's pretrained weights."""
    encoder_weights: Path | None = None
    """Local checkpoint of the timm model to start from."""
    init_from: Path | None = None
    """Run folder or .safetensors to start from; the head only if the classes agree."""

    preset: Text = "best"
    """Named settings (see `linknet-fastai recipes`) or a TOML file."""
    epochs: int = Field(50, ge=1, le=MOST_EPOCHS)
    """Number of epochs."""
    bs: int = Field(8, ge=2, le=4096)
    """Batch size in frames, of each process."""
    accumulate: int = Field(1, ge=1, le=4096)
    """Batches whose gradients are summed for one step."""
    lr: LearningRate = 5e-3
    """Highest learning rate, or auto (the finder's valley)."""
    class_weights: ClassWeights = "sqrt"
    """Class weights: log is 1/ln(1.02 + share of pixels), sqrt its root, median is median frequency, or none."""
    optimizer: Optimizer = "muon"
    """Optimizer: muon, or PyTorch's adamw, adam, rmsprop or sgd."""
    schedule: Schedule = "one-cycle"
    """Learning rate: one-cycle, flat-cos, cosine, constant, or step (a tenth after 1/2 and 3/4)."""
    weight_decay: float | None = Field(None, ge=0, le=10)
    """Weight decay, 0 to 10."""
    encoder_lr: float = Field(1.0, gt=0, le=1)
    """Learning rate of an encoder that is trained already, as a fraction of --lr."""
    teacher: Path | None = None
    """Run folder or .safetensors of a larger model with the same classes, to learn from beside the labels."""
    teacher_share: float = Field(0.5, ge=0, le=100)
    """What the distance from the teacher counts beside the loss of the labels, 0 to 100."""
    teacher_temperature: float = Field(1.0, ge=0.1, le=100)
    """Temperature that softens the predictions of teacher and network, 0.1 to 100."""

    flip: bool = True
    """Mirror half of the frames."""
    scale: tuple[Scale, Scale] = (0.75, 1.75)
    """Smallest and largest random zoom, 0.1 to 10."""
    color: float = Field(0.3, ge=0, lt=1)
    """Largest relative change of brightness, contrast and saturation, 0 to 1."""
    relight: float = Field(0.7, ge=0, le=1)
    """Probability that a frame takes on the colors of another frame of its batch, 0 to 1."""

    precision: Precision = "auto"
    """Precision: fp32, bf16, fp16, or auto, the fastest here."""
    device: Device = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """Device: auto, cpu, mps, cuda, or cuda:N (N alone too)."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of weights, order and augmentation."""
    compile: bool = False
    """Compile the network with torch.compile."""
    deterministic: bool = False
    """Deterministic algorithms, slower on a GPU."""
    checkpoint_minutes: float = Field(10, gt=0)
    """Minutes between two checkpoints within an epoch."""
    workers: int | None = Field(None, ge=0, le=256)
    """Processes that load data; 0 is none."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        """Read run folders of older versions."""
        if not isinstance(values, dict):
            return values
        return {RENAMED.get(name, name): value for name, value in values.items()}

    @field_validator("scale")
    @classmethod
    def _check_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"{list(scale)} does not begin with the smaller zoom")
        return scale

    @field_validator("init_from")
    @classmethod
    def _check_one_origin(cls, run: Path | None, info: ValidationInfo) -> Path | None:
        if run is not None and info.data.get("encoder_weights") is not None:
            raise ValueError("sets the encoder's weights too; leave out --encoder-weights")
        return run

    @property
    def encoder_is_trained(self) -> bool:
        """Whether the encoder starts from trained weights."""
        return self.pretrained or self.encoder_weights is not None or self.init_from is not None


def group_of(name: str) -> str:
    """The heading that a setting is listed under.

    Example:
        >>> group_of("bs")
        'Training'
    """
    names = [*Settings.model_fields]
    return next(FIRST_OF_GROUP[first] for first in names[names.index(name) :: -1] if first in FIRST_OF_GROUP)


def option_of(name: str) -> str:
    """The option that gives a setting on the command line.

    Example:
        >>> option_of("class_weights"), option_of("flip")
        ('--class-weights', '--set flip')
    """
    return f"--set {name}" if name in WITHOUT_OPTION else f"--{name.replace('_', '-')}"
