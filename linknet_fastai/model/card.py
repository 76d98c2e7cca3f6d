"""The card of a model file, which describes the model. Imports no torch: exported models predict without it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from linknet_fastai.config.classes import Classes, VoidEntry, check_classes
from linknet_fastai.config.recipe import Recipe
from linknet_fastai.config.settings import Decoder, Width
from linknet_fastai.config.size import Fit, Size
from linknet_fastai.core.errors import UserError, explain, reason
from linknet_fastai.core.files import parse_json
from linknet_fastai.core.text import Line, Name

METADATA_KEY = "linknet_fastai"
MAX_METADATA = 1 << 20  # characters; 254 classes take a tenth of that
# fastai's `imagenet_stats`, which cannot be imported without torch; a test checks that they are equal.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Normalization: TypeAlias = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of three channels
Mean = Annotated[float, Field(ge=-1, le=2)]  # of a channel whose values range from 0 to 1
Std = Annotated[float, Field(ge=1e-3, le=10)]
TEMPERATURES = (0.05, 20.0)  # beyond them every confidence is 0 or 1, or all classes are as likely
Temperature = Annotated[float, Field(ge=TEMPERATURES[0], le=TEMPERATURES[1])]


class ModelCard(BaseModel):
    """The description in a model file: enough to predict without recipe and data.

    Args:
        recipe: name of the recipe that the model was trained with.
        classes: the classes, in the order of the network's channels.
        void: id and color of void.
        size: (width, height) of the training.
        fit: how frames of another shape fit this size, see `linknet_fastai.config.size.fitted_size`.
        encoder: name of the timm model.
        decoder: name of the decoder, see `linknet_fastai.model.linknet.LinkNet`.
        width: factor of the numbers of channels, see there.
        mean: of the three input channels, whose values range from 0 to 1 before normalization.
        std: their standard deviation.
        temperature: what logits are divided by before a softmax gives the confidence, fitted on the validation frames
            at the end of a training; 1 in the files of earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recipe: Name
    classes: Classes
    void: VoidEntry
    size: Size
    fit: Fit = "squish"
    encoder: Line = "resnet18"
    decoder: Decoder = "deconv"
    width: Width = 1.0
    mean: tuple[Mean, Mean, Mean] = IMAGENET_MEAN
    std: tuple[Std, Std, Std] = IMAGENET_STD
    temperature: Temperature = 1.0

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        check_classes(self.classes, self.void)
        return self

    @classmethod
    def of(cls, recipe: Recipe, size: tuple[int, int], **network: Any) -> Self:
        """The card of a model.

        Args:
            recipe: the recipe that the model is trained with.
            size: (width, height) of the training.
            network: `fit`, `encoder`, `decoder`, `width`, `mean` and `std`, if they are not the defaults.

        Example:
            >>> from linknet_fastai.config.recipe import load_recipe
            >>> ModelCard.of(load_recipe("camvid"), (480, 360)).class_names[:3]
            ['Sky', 'Building', 'Pole']
        """
        return cls(recipe=recipe.name, classes=recipe.classes, void=recipe.void, size=size, **network)

    @property
    def padding(self) -> tuple[int, ...]:
        """The color (red, green, blue) beside frames that are padded: their mean, which is 0 after normalization."""
        return tuple(min(max(round(255 * channel), 0), 255) for channel in self.mean)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the network's channels."""
        return [entry.name for entry in self.classes]


def parse_card(text: str | None, file: Path) -> ModelCard:
    """Parse the card in the metadata of a model file.

    Args:
        text: the card as JSON; None if the file has none.
        file: the model file, which messages name.

    Raises:
        UserError: the card is missing or invalid.

    Example:
        >>> from linknet_fastai.config.recipe import load_recipe
        >>> card = ModelCard.of(load_recipe("street"), (480, 360))
        >>> parse_card(card.model_dump_json(), Path("model.onnx")) == card
        True
    """
    if text is None:
        raise UserError(f"{file}: its metadata has no {METADATA_KEY!r}; it was not written by linknet-fastai")
    if len(text) > MAX_METADATA:
        raise UserError(f"{file}: metadata: not a model card ({len(text)} characters)")
    try:
        return check_card(parse_json(text), file)
    except ValueError as error:
        raise UserError(f"{file}: metadata: not a model card ({reason(error)})") from None


def check_card(values: Any, file: Path) -> ModelCard:
    """Check the values of a card that another version may have written.

    Args:
        values: the values by name.
        file: the model file, which messages name.

    Raises:
        UserError: a value is missing, invalid or unknown.
    """
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        newer = error.errors()[0]["type"] == "extra_forbidden"  # what it means for a prediction is not known here
        hint = "; a newer linknet-fastai wrote this file: update to read it" if newer else ""
        raise UserError(f"{file}: metadata: {explain(error)}{hint}") from None
