"""Fills in pages from the code when mkdocs builds the site: the table of settings, where public names are defined.

mkdocs.yml names this file under `hooks`, and `Examples` as an extension of griffe, the reader of docstrings. `python
tools/docs_hooks.py` prints the table of settings.
"""

import re
import textwrap
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import griffe
import typer
from pydantic.fields import FieldInfo

import linknet_fastai
from linknet_fastai.cli.main import app
from linknet_fastai.config.presets import load_preset, preset_names
from linknet_fastai.config.settings import SHOWN_DEFAULTS, Settings, group_of

DEFAULT_PRESET = "best"
# Where the type tells too little about the values.
VALUES = {
    "preset": "name, or path of a TOML file",
    "lr": "number > 0, or `auto`",
    "encoder": "name of a timm model",
    "train_on": "split, or path of a list",
    "validate_on": "split, or path of a list",
}
TYPES = {"int": "whole number", "float": "number", "str": "text", "Path": "path", "bool": "true, false"}


def on_page_markdown(markdown: str, page: Any, **context: Any) -> str:
    """Fill in what a page takes from the code; mkdocs calls this for each page.

    Raises:
        ValueError: the reference lacks a public name.
    """
    if page.file.src_path == "reference.md":
        named = re.findall(r"^::: linknet_fastai\.(\w+)$", markdown, re.MULTILINE)
        if missing := set(linknet_fastai.__all__) - {"__version__", *named}:
            raise ValueError(f"docs/reference.md lacks {', '.join(sorted(missing))}")
        return re.sub(r"^(::: )linknet_fastai\.(\w+)$", _with_definition, markdown, flags=re.MULTILINE)
    return markdown.replace("<!-- settings table -->", settings_table())


def _with_definition(match: re.Match) -> str:
    """Name the module that defines a public name: the package imports its names when they are first used."""
    defined = getattr(linknet_fastai, match[2])
    return f"{match[1]}{defined.__module__}.{defined.__qualname__}"


class Examples(griffe.Extension):
    """Shows `Example:` as code, with and without `>>>`; griffe knows `Examples:` alone."""

    def on_object(self, *, obj: griffe.Object, **context: Any) -> None:
        """Rewrite a docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = rewrite_examples(obj.docstring.value)


def rewrite_examples(docstring: str) -> str:
    """A docstring whose `Example:` and `Example::` are a section `Examples:`, the latter with a block of code."""

    def block(match: re.Match) -> str:
        code = textwrap.dedent(match[1]).strip("\n")
        return "Examples:\n" + textwrap.indent(f"```python\n{code}\n```\n", "    ")

    docstring = re.sub(r"^Example:(?::|\n {4}::)\n((?:[ ]{4}.*\n?|\n)+)", block, docstring, flags=re.MULTILINE)
    return re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)


def settings_table() -> str:
    """Every setting as a table in Markdown: name and option, description, values, default, other presets."""
    options = option_names()
    presets = {name: load_preset(name).settings for name in preset_names()}
    defaults = Settings(**presets.pop(DEFAULT_PRESET))
    lines = ["| setting, option | what it does | values | default | in other presets |", f"|{' --- |' * 5}"]
    group = None
    for name, field in Settings.model_fields.items():
        if group_of(name) != group:
            group = group_of(name)
            lines.append(f"| **{group}** |{' |' * 4}")
        default = getattr(defaults, name)
        others = {preset: getattr(Settings(**values), name) for preset, values in presets.items()}
        groups: dict[str, list[str]] = {}
        for preset, value in others.items():
            if value != default:
                groups.setdefault(_shown(value), []).append(f"`{preset}`")
        cells = [
            f"`{name}`<br>{options.get(name, f'`--set {name}=VALUE`')}",
            " ".join((field.description or "").split()),
            VALUES.get(name) or values_of(field),
            SHOWN_DEFAULTS.get(name) or _shown(default),
            "; ".join(f"{value} in {', '.join(names)}" for value, names in groups.items()),
        ]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def option_names() -> dict[str, str]:
    """The options of `fit` by the setting that they set."""
    parameters = typer.main.get_command(app).commands["fit"].params
    return {
        parameter.name: ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        for parameter in parameters
        if parameter.name in Settings.model_fields
    }


def values_of(field: FieldInfo) -> str:
    """Which values a setting takes: a kind with its limits, or the words that are possible."""
    kinds = [kind for kind in _kinds(field.annotation) if kind is not NoneType]
    words = [f"`{word}`" for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if words:
        return ", ".join(words)
    if pattern := next((m.pattern for m in field.metadata if getattr(m, "pattern", None)), None):
        return ", ".join(f"`{word}`" for word in pattern.strip("^$()").replace(r"(:\d+)?", "[:N]").split("|"))
    if kinds and get_origin(kinds[0]) is tuple:
        return "WIDTHxHEIGHT" if get_args(kinds[0]) == (int, int) else "two numbers"
    text = " or ".join(dict.fromkeys(TYPES.get(kind.__name__, kind.__name__) for kind in kinds))
    limits = [
        f"{sign} {getattr(mark, key):,}"
        for mark in field.metadata
        for key, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if getattr(mark, key, None) is not None
    ]
    return f"{text} {', '.join(limits)}".strip()


def _kinds(annotation: Any) -> list[Any]:
    """The members of a union, without their annotations."""
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return _kinds(get_args(annotation)[0]) if get_origin(annotation) is Annotated else [annotation]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{value[0]}x{value[1]}`" if all(isinstance(side, int) for side in value) else f"`{list(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{Path(value) if isinstance(value, Path) else value}`"


if __name__ == "__main__":
    print(settings_table())
