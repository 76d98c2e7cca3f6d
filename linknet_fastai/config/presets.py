"""Presets: named training settings, each a TOML file with a title and what it sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from linknet_fastai.config.recipe import Layout, Recipe
from linknet_fastai.config.settings import Settings, check_training_table, explain, resolve_settings
from linknet_fastai.config.toml_files import find_shipped, read_toml, recipe_folder, toml_names
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.text import Line


@dataclass(frozen=True)
class Preset:
    """Settings of a training by name, and in a line what they are."""

    name: str
    title: str
    settings: dict[str, Any]


def preset_folder() -> Path:
    """The folder of the shipped presets, below that of the recipes."""
    return recipe_folder() / "presets"


def preset_names() -> list[str]:
    """The names of the shipped presets."""
    return toml_names(preset_folder())


def load_preset(name_or_path: str | Path) -> Preset:
    """Read and check a preset.

    Args:
        name_or_path: the name of a shipped preset, or the path of a TOML file. A file with `base = "NAME"` takes
            over from that shipped preset what it does not say itself.

    Raises:
        UsageError: the file is missing, is no TOML, or holds what is no setting; it is named.
    """
    file = find_shipped(name_or_path, preset_folder(), "preset")
    table = read_toml(file, "preset")
    title, base = table.pop("title", file.stem), table.pop("base", None)
    if base is not None:
        if base not in preset_names() or file.samefile(preset_folder() / f"{base}.toml"):
            raise UsageError(f"{file}: base: {str(base)[:50]!r} is no shipped preset ({', '.join(preset_names())})")
        table = load_preset(base).settings | table
    try:
        title = TypeAdapter(Line).validate_python(title)
        if "preset" in table:
            raise ValueError("unknown key 'preset'; a preset stands on another by `base`")
        check_training_table(table)
    except ValidationError as error:
        raise UsageError(f"{file}: title: {explain(error)}") from None
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    return Preset(file.stem, title, table)


def settings_for(
    recipe: Recipe, layout: Layout, said: Mapping[str, Any], origin: str = "command line"
) -> tuple[Settings, dict[str, str]]:
    """Settle the settings of a training: what is said, then the preset that is said, the recipe, the default preset.

    Args:
        recipe: the recipe, which brings its own.
        layout: the layout of the data, which may bring a size.
        said: settings by name; None as a value says nothing.
        origin: who says them.

    Returns:
        The settings, and the origin of each by name.

    Raises:
        UsageError: a value does not fit, or there is no such preset.
    """
    of_recipe = [("recipe", recipe.training), ("recipe's layout", {"size": layout.size})]
    name = said.get("preset")
    preset = load_preset(name or recipe.training.get("preset") or Settings().preset)
    layer = (f"preset {preset.name}", preset.settings)
    return resolve_settings(*([*of_recipe, layer] if name else [layer, *of_recipe]), (origin, said))
