"""Settings of several origins: layers that are merged, tables of recipes and presets, and runs of other versions."""

import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from linknet_fastai.config.settings import PATHS, RENAMED, Settings, option_of
from linknet_fastai.core.errors import UsageError, explain, explain_details

# What versions that did not have a setting did, so that their runs can be compared with those of today.
BEFORE = {
    "fit": "squish",
    "width": 1.0,
    "accumulate": 1,
    "compile": False,
    "deterministic": False,
    "encoder_lr": 1.0,
    "teacher_share": 0.5,
    "teacher_temperature": 1.0,
    "relight": 0.0,
}


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their current names; an old name is reported by a FutureWarning."""
    for old in RENAMED.keys() & values.keys():
        warnings.warn(f"the setting {old!r} is now called {RENAMED[old]!r}", FutureWarning, stacklevel=2)
    return {RENAMED.get(name, name): value for name, value in values.items()}


def settings_of_a_run(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What this version can read of the settings that an older or newer one wrote.

    Args:
        values: settings by name.

    Returns:
        The valid ones under their current names, as in TOML, with what a version without a setting did if that is
        known; and what is wrong with each of the others, by name.

    Example:
        >>> settings_of_a_run({"bs": 4, "ema": 0.9})[1]
        {'ema': "unknown key 'ema'"}
    """
    valid = BEFORE | {RENAMED.get(name, name): value for name, value in values.items()}
    wrong: dict[str, str] = {}
    while True:
        try:
            settings = Settings.model_validate(valid)
            return settings.model_dump(mode="json", include={*valid}, exclude_none=True), wrong
        except ValidationError as error:
            for details in error.errors():
                name = str(details["loc"][0])
                wrong.setdefault(name, explain_details(details))
                valid.pop(name, None)


def check_training_table(table: Mapping[str, Any]) -> None:
    """Check the settings of a recipe or preset.

    Raises:
        ValueError: an unknown setting, an invalid value, or a path: files of one machine are given on its command
            line, and a recipe or preset may come from anywhere.
    """
    if named := [name for name in PATHS if name in table]:
        raise ValueError(f"{named[0]}: a path cannot be set in a file; use {option_of(named[0])}")
    try:
        Settings(**current_names(table))
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def resolve_settings(*layers: tuple[str, Mapping[str, Any]]) -> tuple[Settings, dict[str, str]]:
    """Merge layers of settings over the defaults.

    Args:
        layers: pairs of an origin ("recipe", "command line") and its settings by name, in ascending precedence.
            None means not given.

    Returns:
        The checked settings, and the origin of each by name ("default" if no layer has it).

    Raises:
        UsageError: a value is invalid; the message names option and origin.

    Example:
        >>> settings, origins = resolve_settings(("recipe", {"bs": 4, "lr": 0.1}), ("command line", {"lr": 0.2}))
        >>> settings.lr, settings.bs, settings.seed
        (0.2, 4, 0)
        >>> origins["lr"], origins["bs"], origins["seed"]
        ('command line', 'recipe', 'default')
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, layer in layers:
        given = {name: value for name, value in current_names(layer).items() if value is not None}
        values |= given
        origins |= dict.fromkeys(given, origin)
    try:
        return Settings(**values), origins
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise UsageError(f"{option_of(name)} (from the {origins.get(name, 'settings')}): {explain(error)}") from None
