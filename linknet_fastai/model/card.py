"""What a model file says of itself. Imports no torch: exported models predict without it."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from linknet_fastai.config.recipe import MOST_CLASSES, ClassEntry, Recipe, VoidEntry, check_classes
from linknet_fastai.config.settings import Decoder, Size, explain
from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.files import parse_json
from linknet_fastai.core.text import Line, Name

METADATA_KEY = "linknet_fastai"
LONGEST_METADATA = 1 << 20  # characters; 254 classes take a tenth of that
# fastai's `imagenet_stats`, which cannot be had without importing torch; a test holds them equal.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Level = Annotated[float, Field(ge=-1, le=2)]  # of a channel, where black is 0 and white is 1
Spread = Annotated[float, Field(ge=1e-3, le=10)]


class ModelCard(BaseModel):
    """What a model file says of itself: enough to predict without recipe and data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recipe: Name
    classes: tuple[ClassEntry, ...] = Field(min_length=2, max_length=MOST_CLASSES)
    void: VoidEntry
    size: Size
    encoder: Line = "resnet18"
    decoder: Decoder = "deconv"
    mean: tuple[Level, Level, Level] = IMAGENET_MEAN
    std: tuple[Spread, Spread, Spread] = IMAGENET_STD

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        check_classes(self.classes, self.void)
        return self

    @classmethod
    def of(cls, recipe: Recipe, size: tuple[int, int], **architecture: str) -> Self:
        """The card of a model trained on a recipe at a size; `architecture` is `encoder` and `decoder`."""
        return cls(recipe=recipe.name, classes=recipe.classes, void=recipe.void, size=size, **architecture)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the network's channels."""
        return [entry.name for entry in self.classes]

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise UsageError unless the recipe has this model's classes."""
        if self.class_names != recipe.class_names:
            raise UsageError(
                f"the model has the {len(self.classes)} classes of {self.recipe}, recipe {recipe.name} has "
                f"{len(recipe.classes)} of its own: measure it with the recipe it was trained on"
            )


def parse_card(text: str | None, file: Path) -> ModelCard:
    """Read the card in a model file's metadata.

    Raises:
        UserError: there is none, or it does not fit.
    """
    if text is None:
        raise UserError(f"{file}: its metadata has no {METADATA_KEY!r}; it was not written by linknet-fastai")
    if len(text) > LONGEST_METADATA:
        raise UserError(f"{file}: metadata: {len(text)} characters are no model card")
    try:
        return ModelCard.model_validate(parse_json(text))
    except ValidationError as error:
        raise UserError(f"{file}: metadata: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{file}: metadata: no model card ({reason(error)})") from None
