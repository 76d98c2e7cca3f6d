"""Recipes: a data set described by one TOML file, read and checked into a frozen `Recipe`. No data is read here."""

import re
from pathlib import Path
from typing import Any, Literal, Self
from unicodedata import normalize

from pydantic import Field, ValidationError, model_validator

from linknet_fastai.config.classes import VOID_LABEL, Checked, Classes, VoidEntry, check_classes
from linknet_fastai.config.groups import Group
from linknet_fastai.config.layers import check_training_table
from linknet_fastai.config.layouts import FIELD, Layout, Split, check_below
from linknet_fastai.config.parts import MOST_PARTS, Part, joined_table
from linknet_fastai.config.selection import GROUP, selection_parts
from linknet_fastai.config.toml_files import find_shipped, read_source, read_toml, recipe_folder, toml_names
from linknet_fastai.core.errors import UsageError, explain
from linknet_fastai.core.files import MAX_LIST_BYTES, write_text
from linknet_fastai.core.images import IMAGE_SUFFIXES
from linknet_fastai.core.text import Line, Name

# In a line of a list: the first column, if it is the path of an image.
LISTED_IMAGE = re.compile(rf"(.+?)(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})(?=[\s,;]|$)", re.IGNORECASE)

OF_THE_FILES = ("fetch", "group", "official_scores", "leave_out")  # keys that other files need not fit


class Recipe(Checked):
    """A data set: its classes, how it is stored on disk, its splits, and default settings to train on it.

    Args:
        name: short name, which run folders and messages use.
        title: the name for people.
        source: where the data comes from; shown if it is missing.
        fetch: what is used if no data folder is given: "street-240" is 240 drawn scenes to train on, any other name
            is one of fastai's `URLs`.
        classes: the classes, in the order of the network's channels.
        void: id and color of void, and the raw labels that belong to it.
        official_scores: the benchmark whose own scores `evaluate` reports in addition.
        group: what belongs together, as the frames of a drive: a field of the images' pattern, or a part of the stem.
        layouts: the layouts in which the data set is recognized.
        splits: by name, as in train, val and test.
        leave_out: frames that no split has, named as in a list of frames; in a file also the path of such a list,
            below the recipe's folder.
        map: the class for a class of models that were trained on other data, or of parts, where the names differ.
        parts: the recipes that this one joins, see `linknet_fastai.config.parts`.
        training: settings of a training by name.
    """

    name: Name
    title: Line
    source: Line
    fetch: Name | None = None
    classes: Classes
    void: VoidEntry = VoidEntry()
    official_scores: Literal["cityscapes"] | None = None
    group: Group | None = None
    layouts: tuple[Layout, ...] = Field(min_length=1, max_length=32)
    splits: dict[Name, Split] = Field(min_length=1, max_length=64)
    leave_out: tuple[str, ...] = ()
    map: dict[Name, Name] = Field(default_factory=dict, max_length=65536)
    parts: tuple[Part, ...] = Field(default=(), max_length=MOST_PARTS)
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        check_classes(self.classes, self.void)
        known = self.channel_of_label
        for channel, entry in enumerate(self.classes):
            if known[entry.name] != channel or entry.name in self.void.labels:
                raise ValueError(f"classes: {entry.name!r} is the name of a class and a raw label of another")
            if entry.name == VOID_LABEL:
                raise ValueError(f"classes: {VOID_LABEL!r} cannot be the name of a class")
        for number, layout in enumerate(self.layouts):
            for label in layout.values.values() if layout.values else layout.colors or ():
                if label not in known:
                    raise ValueError(f"layouts[{number}]: {label!r} is neither a class nor in the labels of a class")
            if isinstance(self.group, str) and self.group not in set(FIELD.findall(layout.images)) - {"split"}:
                raise ValueError(
                    f"group: {{{self.group}}} is not a field of layouts[{number}].images, {layout.images!r}"
                )
            for name, split in self.splits.items():
                if not (layout.by_folder or split.list or split.data_list or split.fraction or split.group):
                    raise ValueError(f"splits.{name}: layout {layout.name!r} needs a list, a fraction or a group")
                if split.group and not self.group:
                    raise ValueError(f"splits.{name}.group: the recipe does not say what a group is (group = ...)")
        if strange := set(self.map.values()) - set(self.class_names):
            raise ValueError(f"map: {min(strange)!r} is no class")
        if sum(split.fraction or 0 for split in self.splits.values()) > 1 + 1e-9:
            raise ValueError("splits: the fractions add up to more than 1")
        try:
            check_training_table(self.training)
            for setting in ("train_on", "validate_on"):
                if (given := self.training.get(setting)) is None:
                    continue
                parts = [part for part in selection_parts(given, self.splits) if part not in self.splits]
                if unknown := [
                    part
                    for part in parts
                    if not (self.group and part.startswith(GROUP)) and not (self.parts and ":" in part)
                ]:
                    raise ValueError(f"{setting}: {unknown[0]!r} is not a split of this recipe")
        except ValueError as error:
            raise ValueError(f"training: {error}") from None
        return self

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the network's channels."""
        return [entry.name for entry in self.classes]

    def class_for(self, name: str) -> str | None:
        """The class for a class of other data: that of `map`, or the one of its name, case apart; else None."""
        by_name = {own.casefold(): own for own in reversed(self.class_names)}
        return self.map.get(name) or by_name.get(name.casefold())

    @property
    def drawn_scenes(self) -> int | None:
        """The number of street scenes to train on that the program draws; None if it draws nothing."""
        drawn = re.fullmatch(r"street-([1-9]\d{0,3})", self.fetch or "")
        return int(drawn[1]) if drawn else None

    @property
    def channel_of_label(self) -> dict[str, int | None]:
        """The network's channel of each raw label and class name; None for void."""
        channels: dict[str, int | None] = dict.fromkeys((VOID_LABEL, *self.void.labels))
        for channel, entry in enumerate(self.classes):
            channels |= dict.fromkeys((entry.name, *entry.labels), channel)
        return channels


def recipe_names() -> list[str]:
    """The names of the shipped recipes.

    Example:
        >>> "camvid" in recipe_names()
        True
    """
    return toml_names(recipe_folder())


def copy_recipe(name: str, file: Path) -> list[Path]:
    """Copy a shipped recipe and its lists of frames, as the start of a new recipe.

    Args:
        name: the shipped recipe.
        file: the .toml file to write. The lists are written below its folder, where the copy finds them.

    Returns:
        The files written.

    Raises:
        UsageError: there is no such recipe, or a file exists already.
        UserError: a file cannot be written.

    Example:
        ::

            copy_recipe("camvid", Path("mine.toml"))
    """
    if file.suffix != ".toml":
        raise UsageError(f"--copy: {file}: a recipe is a .toml file")
    source = find_shipped(name, recipe_folder(), "recipe")
    lists = [split.list for split in load_recipe(name).splits.values() if split.list]
    copies = {source.parent / part: file.parent / part for part in lists} | {source: file}
    for copy in copies.values():
        if copy.exists():
            raise UsageError(f"--copy: {copy} exists already; name another file, or delete it")
    for original, copy in copies.items():  # the recipe last, so that it never exists without its lists
        write_text(copy, read_source(original, "recipe or list of frames", MAX_LIST_BYTES))
    return list(copies.values())


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: the name of a shipped recipe, or the path of a TOML file. A recipe with `base = "NAME"` inherits
            all keys that it does not set itself; its `layouts` may name layouts of its base. With layouts of its own
            it does not inherit what the files of its base need: `fetch`, `group`, `official_scores`, `leave_out`.
            A recipe with `parts = ["NAME", ...]` joins others, see `linknet_fastai.config.parts.joined_table`.

    Raises:
        UsageError: the file is missing, not TOML, or does not fit the schema; the message names file and key.

    Example:
        >>> recipe = load_recipe("camvid")
        >>> len(recipe.classes), len(recipe.splits["train"].stems)
        (11, 367)
    """
    file = find_shipped(name_or_path, recipe_folder(), "recipe")
    try:
        table = _read_with_base(file)
        if "parts" in table:
            table = _with_parts(table, file)
        splits = table.get("splits")
        for split in splits.values() if isinstance(splits, dict) else ():
            if isinstance(split, dict) and "stems" not in split and isinstance(split.get("list"), str):
                check_below(split["list"], "list", "the recipe's folder")
                split["stems"] = read_stems(file.parent / split["list"])
        if isinstance(listed := table.get("leave_out"), str):
            check_below(listed, "leave_out", "the recipe's folder")
            table["leave_out"] = read_stems(file.parent / listed)
        recipe = Recipe(**table)
        located = tuple(layout.with_recipe_in(file.parent) for layout in recipe.layouts)
        return recipe.model_copy(update={"layouts": located})
    except ValidationError as error:
        raise UsageError(f"{file}: {explain(error)}") from None
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None


def read_stems(file: Path) -> list[str]:
    """Read a list of frames: one frame in each line; empty lines are skipped.

    A line is a stem, or the name or path of an image, also with backslashes, after which further columns may follow,
    as the path of the label map.

    Returns:
        The frames without the ending of an image and in Unicode's form NFC, each once: stems or paths.

    Raises:
        UsageError: the file cannot be read.

    Example:
        ::

            read_stems(Path("data_recipes/camvid/val.txt"))  # ["0016E5_07959", ...]
    """
    stems: dict[str, None] = {}
    for line in re.split(r"[\r\n]+", read_source(file, "list of frames", MAX_LIST_BYTES)):
        # Byte order marks: inside of a file that was joined of several.
        name = normalize("NFC", line).replace("\ufeff", "").replace("\\", "/").strip()
        image = LISTED_IMAGE.match(name)
        stems[image[1] if image else name] = None
    return [stem for stem in stems if stem]


def _with_parts(table: dict[str, Any], file: Path) -> dict[str, Any]:
    """The table of a recipe that joins others, in which paths of recipes are absolute."""
    if not isinstance(given := table["parts"], list) or not 2 <= len(given) <= MOST_PARTS:
        raise ValueError(f'parts: a list of 2 to {MOST_PARTS} recipes, as in ["street", "camvid"]')
    parts, recipes = [], []
    for number, entry in enumerate(given):
        try:
            part = Part.model_validate({"recipe": entry} if isinstance(entry, str) else entry)
        except ValidationError as error:
            raise ValueError(f"parts[{number}]: {explain(error)}") from None
        own = part.recipe.endswith(".toml") and part.recipe not in recipe_names()
        where = str((file.parent / part.recipe).resolve()) if own else part.recipe
        found = find_shipped(where, recipe_folder(), "recipe")
        if "parts" in read_toml(found, recipe_folder(), "recipe")[0]:  # before it is loaded: it may be this file
            raise ValueError(f"parts[{number}]: {part.recipe} has parts itself; name these")
        parts.append(part.model_copy(update={"recipe": where}))
        recipes.append(load_recipe(where))
    return joined_table(table, recipes) | {"parts": parts}


def _read_with_base(file: Path) -> dict[str, Any]:
    table, base_name = read_toml(file, recipe_folder(), "recipe")
    if base_name is not None and "parts" in table:
        raise UsageError(f"{file}: base: a recipe with parts has the classes and files of these; leave base out")
    base = {} if base_name is None else load_recipe(base_name).model_dump(exclude_unset=True)
    layouts = {layout["name"]: layout for layout in base.get("layouts", ())}
    if isinstance(named := table.get("layouts"), list):
        for number, layout in enumerate(named):
            if isinstance(layout, str) and base_name and layout not in layouts:
                raise UsageError(f"{file}: layouts[{number}]: {base_name!r} has no layout {layout!r}")
        if own := {number: layout for number, layout in enumerate(named) if isinstance(layout, dict)}:
            base = {key: value for key, value in base.items() if key not in OF_THE_FILES}
        table["layouts"] = [layouts.get(layout, layout) if isinstance(layout, str) else layout for layout in named]
        layouts |= {layout["name"]: layout for layout in own.values() if isinstance(layout.get("name"), str)}
        for number, layout in own.items():
            for key in ("values", "colors"):
                if isinstance(name := layout.get(key), str):
                    layout[key] = layouts.get(name, {}).get(key)
                    if not isinstance(layout[key], dict):
                        raise UsageError(f"{file}: layouts[{number}].{key}: no layout {name!r} that has {key}")
    if "classes" in table:
        base.pop("map", None)
    if isinstance(training := table.get("training"), dict):
        table["training"] = base.get("training", {}) | training
    return base | table
