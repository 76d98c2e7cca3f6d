"""Recipes, presets, settings: TOML to checked, frozen values."""
