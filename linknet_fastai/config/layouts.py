"""How a data set is stored, as a recipe describes it: layouts of files, and splits of frames."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Literal, Self
from unicodedata import normalize

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from linknet_fastai.config.classes import Checked, Color
from linknet_fastai.config.size import Size
from linknet_fastai.core.text import Line, Name

FIELD = re.compile(r"\{([a-z_]\w*)\}", re.ASCII | re.IGNORECASE)
# Without `./` and in one Unicode form: paths of files are compared with it.
Pattern = Annotated[Line, AfterValidator(lambda path: normalize("NFC", str(PurePosixPath(path))))]
MAX_WILDCARDS = 4  # in one part of a path: each more can make a name take 255 times as long to match


class Split(Checked):
    """The frames of a split: a folder, a list of stems, a fraction of all frames, or groups of frames.

    A layout with `{split}` in its image pattern uses the folder, any other layout a list or the fraction. Groups
    are taken from the folders of all splits.

    Args:
        folder: by default the split's own name.
        list: path of a list of frames, below the recipe's folder.
        data_list: path of a list of frames, below the data folder.
        fraction: of all frames, from 0 to 1, or of all groups if the recipe has a `group`; see `divide`.
        group: the names of groups.
        frames: the number of frames of the published split, if there is no list.
        stems: the content of the list, see `read_stems`; filled in when the recipe is loaded.
    """

    folder: Pattern | None = None
    list: Line | None = None
    data_list: Pattern | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    group: tuple[Line, ...] = ()
    frames: int | None = Field(default=None, ge=1)
    stems: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_folder(self) -> Self:
        for key, path in (("folder", self.folder), ("data_list", self.data_list)):
            if path is not None:
                check_below(path, key, "the data folder")
        if self.list and self.data_list:
            raise ValueError("list and data_list exclude each other")
        if self.group and (self.folder or self.list or self.data_list or self.fraction):
            raise ValueError("group: leave out folder, list and fraction, or the group")
        return self


def check_below(path: str, key: str, folder: str) -> None:
    """Raise ValueError for a path that may be outside of the folder, on any operating system.

    Example:
        >>> check_below("../val.txt", "list", "the recipe's folder")
        Traceback (most recent call last):
            ...
        ValueError: list: '../val.txt' must be inside the recipe's folder
    """
    if "\\" in path:
        raise ValueError(f"{key}: write {path[:200]!r} with / in place of \\")
    if PureWindowsPath(path).anchor or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{key}: {path[:200]!r} must be inside {folder}")


class Layout(Checked):
    """How a data set is stored on disk, and what the values or colors in its label maps mean.

    `images` and `labels` are paths below the data folder with fields in braces. A field matches any text without a
    slash, as `*` does; `{stem}` is the frame's name, `{split}` the split's folder.

    Args:
        name: as messages and other recipes name the layout.
        images: pattern of the images.
        labels: pattern of the label maps, with fields of `images`.
        labels_in: "recipe" if `labels` is below the folder of the recipe's file, where `recipes --from` writes label
            maps, instead of the data folder.
        size: (width, height) to train at, unless another is given.
        values: the raw label of each value in the label maps. Without `values` and `colors` the values are class ids.
        colors: the color of each raw label in the label maps.
        channel: which channel of label maps in color has the values.

    In a file, `values` and `colors` may be the name of a layout, of this recipe or its base, that has them.
    """

    name: Name
    images: Pattern
    labels: Pattern
    labels_in: Literal["data", "recipe"] = "data"
    size: Size | None = None
    values: dict[Annotated[int, Field(ge=0, le=65535)], Name] | None = None
    colors: dict[Name, Color] | None = Field(default=None, max_length=65536)
    channel: Literal["red", "green", "blue"] | None = None
    _recipe_folder: Path = PrivateAttr(Path())

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        for key, pattern in (("images", self.images), ("labels", self.labels)):
            check_below(pattern, key, "the data folder")
            if "{stem}" not in pattern:
                raise ValueError(f"{key}: {pattern!r} has no {{stem}}")
            _check_wildcards(pattern, key)
        if self.images == self.labels and self.labels_in == "data":
            raise ValueError(f"images and labels are both {self.images!r}; they must be different files")
        if "*" in self.labels:
            raise ValueError(f"labels: {self.labels!r} must name one file for each frame, without '*'")
        if unknown := set(FIELD.findall(self.labels)) - set(FIELD.findall(self.images)):
            raise ValueError(f"labels: {{{unknown.pop()}}} is not a field of images {self.images!r}")
        if self.values and self.colors:
            raise ValueError("values and colors exclude each other")
        if self.channel and self.colors:
            raise ValueError("channel and colors exclude each other")
        if self.colors and len(set(self.colors.values())) < len(self.colors):
            raise ValueError("colors: two raw labels share a color")
        return self

    @property
    def by_folder(self) -> bool:
        """Whether the folder of a frame determines its split."""
        return "split" in FIELD.findall(self.images)

    def label_folder(self, data: Path) -> Path:
        """The folder that `labels` is relative to.

        Args:
            data: the data folder.
        """
        return self._recipe_folder if self.labels_in == "recipe" else data

    def with_recipe_in(self, folder: Path) -> Self:
        """The layout of a recipe whose file is in a folder."""
        if self.labels_in == "data":
            return self
        located = self.model_copy()
        located._recipe_folder = folder  # noqa: SLF001
        return located


def _check_wildcards(pattern: str, key: str) -> None:
    """Raise ValueError for a pattern that is invalid, or could take forever to match."""
    where = f"{key}: {pattern!r}"
    if re.search(r"[{}]", FIELD.sub("", pattern)):
        raise ValueError(f"{where}: a field is a name in braces, as in {{stem}}")
    plain = FIELD.sub("*", pattern)
    if "**" in plain:
        raise ValueError(f"{where}: fields and '*' need something between them; each is one folder or name")
    if max(part.count("*") for part in plain.split("/")) > MAX_WILDCARDS:
        raise ValueError(f"{where}: more than {MAX_WILDCARDS} fields and '*' in one folder's or file's name")
