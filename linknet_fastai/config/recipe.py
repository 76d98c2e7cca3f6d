"""Recipes: a data set as one TOML file, read and checked into a frozen `Recipe`. No data is touched here."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from linknet_fastai.config.settings import Size, check_training_table, explain
from linknet_fastai.config.toml_files import find_shipped, read_source, read_toml, recipe_folder, toml_names
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.files import LARGEST_LIST, write_text
from linknet_fastai.core.images import IMAGE_SUFFIXES
from linknet_fastai.core.text import Line, Name

VOID_LABEL = "void"
FIELD = re.compile(r"\{([a-z_]\w*)\}", re.ASCII | re.IGNORECASE)
MOST_WILDCARDS = 4  # in one part of a path: each more can make a name take 255 times as long to match
MOST_CLASSES = 254  # label maps are uint8 inside: 255 is void and 254 "not in the mapping"

Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Labels = Annotated[tuple[Name, ...], Field(max_length=65536)]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassEntry(_Checked):
    """A class: something with a score. `labels` are the names of the raw labels that count as it."""

    id: Byte
    name: Name
    color: Color
    labels: Labels = ()

    @property
    def css_color(self) -> str:
        """The color as a page writes it."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)


class VoidEntry(_Checked):
    """The label that counts nowhere; `labels` are the names of the raw labels that count as void."""

    id: Byte = 255
    color: Color = (0, 0, 0)
    labels: Labels = ()


def check_classes(classes: Sequence[ClassEntry], void: VoidEntry) -> None:
    """Raise ValueError where an id, a name or a raw label stands twice among some classes and void."""
    for what, values in (
        ("id", [entry.id for entry in (*classes, void)]),
        ("name", [entry.name for entry in classes]),
        ("raw label", [label for entry in (*classes, void) for label in entry.labels]),
    ):
        if doubled := [value for value, count in Counter(values).items() if count > 1]:
            raise ValueError(f"classes: {what} {min(doubled)!r} stands twice")


class Split(_Checked):
    """Which frames form a split: a folder, a list of stems, or a fraction of all frames.

    A layout with `{split}` in its image pattern takes the folder (by default of the split's own name), any
    other layout the list or the fraction.
    """

    folder: Line | None = None
    list: Line | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    frames: int | None = Field(default=None, ge=1)  # how many the published split has, where no list says it
    stems: tuple[str, ...] = ()  # what stands in the list file; filled in when the recipe is read

    @model_validator(mode="after")
    def _check_folder(self) -> Self:
        if self.folder is not None:
            _check_below(self.folder, "folder", "the data folder")
        return self


def _check_below(path: str, key: str, folder: str) -> None:
    """Raise ValueError for a path that may leave a folder, on any system."""
    if PureWindowsPath(path).anchor or ".." in PurePosixPath(path).parts or "\\" in path:
        raise ValueError(f"{key}: {path[:200]!r} must lie below {folder}")


class Layout(_Checked):
    """How a data set lies on disk, and what the values or colors in its label maps mean.

    `images` and `labels` are paths below the data folder with fields in braces; each field stands for any text
    without a slash, as `*` does; `{stem}` is the frame's name, `{split}` the split's folder. Without `values` and
    `colors` the raw values are the class ids.
    """

    name: Name
    images: Line
    labels: Line
    size: Size | None = None
    values: dict[Annotated[int, Field(ge=0, le=65535)], Name] | None = None
    colors: dict[Name, Color] | None = Field(default=None, max_length=65536)

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        for key, pattern in (("images", self.images), ("labels", self.labels)):
            _check_below(pattern, key, "the data folder")
            if "{stem}" not in pattern:
                raise ValueError(f"{key}: {pattern!r} has no {{stem}}")
            _check_wildcards(pattern, key)
        fields = set(FIELD.findall(self.images))
        if "*" in self.labels:
            raise ValueError(f"labels: {self.labels!r} must name one file for each frame, without '*'")
        if unknown := set(FIELD.findall(self.labels)) - fields:
            raise ValueError(f"labels: {{{unknown.pop()}}} is no field of images {self.images!r}")
        if self.values and self.colors:
            raise ValueError("values and colors exclude each other")
        if self.colors and len(set(self.colors.values())) < len(self.colors):
            raise ValueError("colors: two raw labels share a color")
        return self

    @property
    def by_folder(self) -> bool:
        """Whether a frame's split follows from its folder."""
        return "split" in FIELD.findall(self.images)


def _check_wildcards(pattern: str, key: str) -> None:
    """Raise ValueError for a pattern that means nothing, or could take for ever to match."""
    if re.search(r"[{}]", FIELD.sub("", pattern)):
        raise ValueError(f"{key}: {pattern!r}: a field is a name in braces, as in {{stem}}")
    plain = FIELD.sub("*", pattern)
    if "**" in plain:
        raise ValueError(
            f"{key}: {pattern!r}: fields and '*' need something between them; each is one folder or name"
        )
    if max(part.count("*") for part in plain.split("/")) > MOST_WILDCARDS:
        raise ValueError(
            f"{key}: {pattern!r}: more than {MOST_WILDCARDS} fields and '*' in one folder's or file's name"
        )


class Recipe(_Checked):
    """A data set: its classes, what void is, how it lies on disk, its splits, and the defaults to train on it."""

    name: Name
    title: Line
    source: Line  # where the data comes from, said when it is missing
    fetch: Name | None = None  # without a folder: "street" is drawn, any other name is one of fastai's `URLs`
    classes: tuple[ClassEntry, ...] = Field(min_length=2, max_length=MOST_CLASSES)
    void: VoidEntry = VoidEntry()
    official_scores: Literal["cityscapes"] | None = None  # the benchmark whose own scores `evaluate` gives as well
    layouts: tuple[Layout, ...] = Field(min_length=1, max_length=32)
    splits: dict[Name, Split] = Field(min_length=1, max_length=64)
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
            for label in (layout.values or {}).values() if layout.values else layout.colors or ():
                if label not in known:
                    raise ValueError(f"layouts[{number}]: {label!r} is no class and stands in no class's labels")
            for name, split in self.splits.items():
                if not (layout.by_folder or split.list or split.fraction):
                    raise ValueError(f"splits.{name}: layout {layout.name!r} needs a list or a fraction")
        if sum(split.fraction or 0 for split in self.splits.values()) > 1 + 1e-9:
            raise ValueError("splits: the fractions add up to more than 1")
        try:
            check_training_table(self.training)
            for name in ("train_on", "validate_on"):
                if (split := self.training.get(name, None)) is not None and split not in self.splits:
                    raise ValueError(f"{name}: {split!r} is no split of this recipe")
        except ValueError as error:
            raise ValueError(f"training: {error}") from None
        return self

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the network's channels."""
        return [entry.name for entry in self.classes]

    @property
    def channel_of_label(self) -> dict[str, int | None]:
        """The network's channel for each name a raw label may have; None is void."""
        channels: dict[str, int | None] = dict.fromkeys((VOID_LABEL, *self.void.labels))
        for channel, entry in enumerate(self.classes):
            channels |= dict.fromkeys((entry.name, *entry.labels), channel)
        return channels


def recipe_names() -> list[str]:
    """The names of the shipped recipes."""
    return toml_names(recipe_folder())


def find_recipe(name_or_path: str | Path) -> Path:
    """The TOML file behind a shipped recipe's name or a path.

    Raises:
        UsageError: there is neither such a recipe nor such a file.
    """
    return find_shipped(name_or_path, recipe_folder(), "recipe")


def copy_recipe(name: str, file: Path) -> list[Path]:
    """Start a recipe of one's own with a shipped one: its TOML file, and the lists of frames that it names.

    Args:
        name: the shipped recipe.
        file: the .toml file to write; lists come to lie below its folder, where it looks for them.

    Returns:
        The files written.

    Raises:
        UsageError: there is no such recipe, or a file is there already.
        UserError: a file cannot be written.
    """
    if file.suffix != ".toml":
        raise UsageError(f"--copy: {file}: a recipe is a .toml file")
    source = find_recipe(name)
    lists = [split.list for split in load_recipe(name).splits.values() if split.list]
    copies = {source.parent / part: file.parent / part for part in lists} | {source: file}
    for copy in copies.values():
        if copy.exists():
            raise UsageError(f"--copy: {copy} is there already; name another file, or delete it")
    for original, copy in copies.items():  # the recipe last: it is never there without its lists
        write_text(copy, read_source(original, "recipe or list of frames", LARGEST_LIST))
    return list(copies.values())


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: the name of a shipped recipe, or the path of a TOML file. A recipe with `base = "NAME"`
            takes over what it does not say itself; its `layouts` may name layouts of its base.

    Raises:
        UsageError: the file is missing, is no TOML, or does not fit the schema; key and file are named.
    """
    file = find_recipe(name_or_path)
    try:
        table = _read_with_base(file)
        splits = table.get("splits")
        for split in splits.values() if isinstance(splits, dict) else ():
            if isinstance(split, dict) and "stems" not in split and isinstance(split.get("list"), str):
                _check_below(split["list"], "list", "the recipe's folder")
                split["stems"] = read_stems(file.parent / split["list"])
        return Recipe(**table)
    except ValidationError as error:
        raise UsageError(f"{file}: {explain(error)}") from None
    except ValueError as error:
        raise UsageError(f"{file}: splits: {error}") from None


def read_stems(file: Path) -> list[str]:
    """Read a split list: one frame a line, as a stem or a file name."""
    names = [line.strip() for line in read_source(file, "list of frames", LARGEST_LIST).split("\n")]
    return [PurePosixPath(n).stem if n.lower().endswith(IMAGE_SUFFIXES) else n for n in names if n]


def _read_with_base(file: Path) -> dict[str, Any]:
    table = read_toml(file, "recipe")
    if (base_name := table.pop("base", None)) is None:
        return table
    if base_name not in recipe_names() or file.samefile(recipe_folder() / f"{base_name}.toml"):
        raise UsageError(f"{file}: base: {str(base_name)[:50]!r} is no shipped recipe ({', '.join(recipe_names())})")
    base = load_recipe(base_name).model_dump(exclude_unset=True)
    layouts = {layout["name"]: layout for layout in base["layouts"]}
    if isinstance(named := table.get("layouts"), list):
        for place, layout in enumerate(named):
            if isinstance(layout, str) and layout not in layouts:
                raise UsageError(f"{file}: layouts[{place}]: {base_name!r} has no layout {layout!r}")
        table["layouts"] = [layouts[layout] if isinstance(layout, str) else layout for layout in named]
    if isinstance(training := table.get("training"), dict):
        table["training"] = base.get("training", {}) | training
    return base | table
