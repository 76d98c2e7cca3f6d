"""The classes that a model and a recipe both know, by name: what a model can be scored on with the data of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from linknet_fastai.config.recipe import Recipe
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.images import VOID
from linknet_fastai.core.text import did_you_mean


@dataclass(frozen=True, eq=False)
class SharedClasses:
    """The K classes that are scored, in the recipe's order, and where the channels of both belong among them.

    Attributes:
        names: the recipe's names of the classes.
        of_model: 256 uint8, the class of each channel of the model: 0 to K-1, or K if the recipe does not know it.
        of_recipe: 256 uint8, the class of each channel of the recipe, or 255, void, if the model does not know it.
        not_scored: the recipe's classes that the model does not know.
        unknown: the model's classes that the recipe does not know; their pixels are no class, so they are errors.
    """

    names: list[str]
    of_model: np.ndarray
    of_recipe: np.ndarray
    not_scored: list[str]
    unknown: list[str]

    def notes(self, model: str, recipe: str) -> list[str]:
        """What is left out of the scores, in lines.

        Args:
            model: the recipe that the model was trained on.
            recipe: the recipe that it is scored on.
        """
        left_out = {
            f"not scored, as the model does not know them: {', '.join(self.not_scored)}": self.not_scored,
            f"errors wherever the model of {model} predicts them, as {recipe} does not know them: "
            + ", ".join(self.unknown): self.unknown,
        }
        return [note for note, names in left_out.items() if names]


def shared_classes(
    model_names: Sequence[str], recipe: Recipe, renamed: Mapping[str, str] | None = None
) -> SharedClasses | None:
    """Find the classes that a model and a recipe both know.

    Args:
        model_names: the model's classes, in the order of its channels.
        recipe: the recipe to score the model with.
        renamed: the recipe's class for a class of the model, before the recipe's own `map` and equal names (case
            apart); several classes may have one.

    Returns:
        None if the model has the recipe's classes, in its order, and nothing is renamed.

    Raises:
        UsageError: a name in `renamed` is not known, or there is no shared class.

    Example:
        >>> from linknet_fastai.config.recipe import load_recipe
        >>> shared_classes(["Sky", "Tree", "Road"], load_recipe("cityscapes"), {"Tree": "vegetation"}).names
        ['road', 'vegetation', 'sky']
    """
    if list(model_names) == recipe.class_names and not renamed:
        return None
    for what, given, known in (
        ("the model", [*(renamed or {})], model_names),
        (recipe.name, [*(renamed or {}).values()], recipe.class_names),
    ):
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known)
                raise UsageError(f"--map: {name!r} is no class of {what} ({', '.join(known)}){hint}")
    targets = [(renamed or {}).get(name) or recipe.class_for(name) for name in model_names]
    names = [name for name in recipe.class_names if name in targets]
    if not names:
        raise UsageError(
            f"the model and {recipe.name} share no class by name: say which are the same with --map "
            f"MODELCLASS=RECIPECLASS (model: {', '.join(model_names)}; recipe: {', '.join(recipe.class_names)})"
        )
    of_model, of_recipe = np.full(256, len(names), np.uint8), np.full(256, VOID, np.uint8)
    for channel, target in enumerate(targets):
        if target is not None:
            of_model[channel] = names.index(target)
    for place, name in enumerate(names):
        of_recipe[recipe.class_names.index(name)] = place
    return SharedClasses(
        names,
        of_model,
        of_recipe,
        [name for name in recipe.class_names if name not in targets],
        [name for name, target in zip(model_names, targets, strict=True) if target is None],
    )
