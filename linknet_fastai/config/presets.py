"""Presets (named training settings, each a TOML file), and the precedence of settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from linknet_fastai.config.layers import check_training_table, resolve_settings
from linknet_fastai.config.layouts import Layout
from linknet_fastai.config.recipe import Recipe
from linknet_fastai.config.settings import Settings
from linknet_fastai.config.toml_files import find_shipped, read_toml, recipe_folder, toml_names
from linknet_fastai.core.errors import UsageError, explain
from linknet_fastai.core.text import Line


@dataclass(frozen=True)
class Preset:
    """Training settings under a name, with a title of one line."""

    name: str
    title: str
    settings: dict[str, Any]


def preset_folder() -> Path:
    """The folder of the shipped presets."""
    return recipe_folder() / "presets"


def preset_names() -> list[str]:
    """The names of the shipped presets."""
    return toml_names(preset_folder())


def load_preset(name_or_path: str | Path) -> Preset:
    """Read and check a preset.

    Args:
        name_or_path: the name of a shipped preset, or the path of a TOML file. A file with `base = "NAME"` adds
            its settings to those of that shipped preset.

    Raises:
        UsageError: the file is missing or is not TOML, or has an unknown setting or an invalid value.

    Example:
        >>> load_preset("paper").settings["optimizer"]
        'rmsprop'
    """
    file = find_shipped(name_or_path, preset_folder(), "preset")
    table, base = read_toml(file, preset_folder(), "preset")
    title = table.pop("title", file.stem)
    if base is not None:
        table = load_preset(base).settings | table
    try:
        title = TypeAdapter(Line).validate_python(title)
        if "preset" in table:
            raise ValueError("unknown key 'preset'; to build on another preset use `base`")
        check_training_table(table)
    except ValidationError as error:
        raise UsageError(f"{file}: title: {explain(error)}") from None
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    return Preset(file.stem, title, table)


def settings_for(
    recipe: Recipe, layout: Layout, options: Mapping[str, Any], origin: str = "command line"
) -> tuple[Settings, dict[str, str]]:
    """Resolve the settings of a training.

    The precedence is: options, the preset that they name, the recipe, the defaults of `Settings`. A preset that the
    recipe names ranks below the recipe's own values, and is not read if the options name another.

    Args:
        recipe: the recipe with its training settings.
        layout: the layout of the data, which may have its own size.
        options: settings by name; None means not given.
        origin: where the options come from.

    Returns:
        The settings, and the origin of each by name.

    Raises:
        UsageError: a value is invalid, or there is no such preset.

    Example:
        >>> from linknet_fastai.config.recipe import load_recipe
        >>> recipe = load_recipe("street")
        >>> settings, origins = settings_for(recipe, recipe.layouts[0], {"preset": "paper", "epochs": 3})
        >>> settings.epochs, settings.optimizer, settings.size, settings.decoder
        (3, 'rmsprop', (320, 240), 'deconv')
        >>> origins["epochs"], origins["optimizer"], origins["size"], origins["seed"]
        ('command line', 'preset paper', 'recipe', 'default')
    """
    layers = [("recipe", recipe.training), ("recipe's layout", {"size": layout.size})]
    named = options.get("preset")
    if name := named or recipe.training.get("preset"):
        preset = load_preset(name)
        layers.insert(2 if named else 0, (f"preset {preset.name}", preset.settings))
    return resolve_settings(*layers, (origin, options))
