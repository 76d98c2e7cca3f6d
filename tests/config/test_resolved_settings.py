"""The settings that every preset and recipe resolve to, as they were before the defaults became those of `best`."""

import json
from pathlib import Path

import pytest

from linknet_fastai.config.presets import preset_names, settings_for
from linknet_fastai.config.recipe import load_recipe

SNAPSHOT = json.loads((Path(__file__).parent / "resolved_settings.json").read_text(encoding="utf-8"))


def resolved(preset: str, recipe: str, layout: str) -> dict[str, object]:
    """The settings of a training; the preset "none" is no option at all."""
    loaded = load_recipe(recipe)
    (found,) = (entry for entry in loaded.layouts if entry.name == layout)
    settings, _ = settings_for(loaded, found, {} if preset == "none" else {"preset": preset})
    return settings.model_dump(mode="json")


@pytest.mark.parametrize("case", SNAPSHOT)
def test_a_preset_with_a_recipe_resolves_to_the_same_settings_as_ever(case: str) -> None:
    settings = resolved(*case.split())
    assert {name: settings[name] for name in SNAPSHOT[case]} == SNAPSHOT[case]


def test_the_snapshot_has_every_preset_and_layout_of_the_recipes_of_then() -> None:
    recipes = {case.split()[1] for case in SNAPSHOT}
    layouts = [(name, layout.name) for name in recipes for layout in load_recipe(name).layouts]
    expected = {f"{preset} {name} {layout}" for preset in ("none", *preset_names()) for name, layout in layouts}
    assert set(SNAPSHOT) == expected
