"""What a model file says of itself. Imports no torch: exported models predict without it."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from linknet_fastai.errors import UsageError
from linknet_fastai.recipe import MOST_CLASSES, ClassEntry, Recipe, VoidEntry
from linknet_fastai.settings import Decoder, Size

METADATA_KEY = "linknet_fastai"
# fastai's `imagenet_stats`, which cannot be had without importing torch; a test holds them equal.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ModelCard(BaseModel):
    """What a model file says of itself: enough to predict without recipe and data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    classes: tuple[ClassEntry, ...] = Field(min_length=2, max_length=MOST_CLASSES)
    void: VoidEntry
    size: Size
    encoder: str = "resnet18"
    decoder: Decoder = "deconv"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

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
