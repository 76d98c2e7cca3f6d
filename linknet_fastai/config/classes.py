"""Classes and void, as recipes and model cards describe them."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from linknet_fastai.core.text import Name

VOID_LABEL = "void"
MAX_CLASSES = 254  # label maps are uint8 internally: 255 is void and 254 "not in the mapping"

Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Labels = Annotated[tuple[Name, ...], Field(max_length=65536)]


class Checked(BaseModel):
    """Base of the tables of a recipe: frozen, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassEntry(Checked):
    """A class.

    Args:
        id: its value in predicted masks.
        name: unique among the classes.
        color: (red, green, blue) in overlays and pictures.
        labels: the names of the raw labels that belong to the class, besides its own name.
    """

    id: Byte
    name: Name
    color: Color
    labels: Labels = ()

    @property
    def css_color(self) -> str:
        """The color as CSS, as in "#ff0000"."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)


class VoidEntry(Checked):
    """Void, which is ignored in loss, weights and scores.

    Args:
        id: its value in label maps without a mapping.
        color: (red, green, blue) in pictures.
        labels: the names of the raw labels that belong to void.
    """

    id: Byte = 255
    color: Color = (0, 0, 0)
    labels: Labels = ()


Classes = Annotated[tuple[ClassEntry, ...], Field(min_length=2, max_length=MAX_CLASSES)]


def check_classes(classes: Sequence[ClassEntry], void: VoidEntry) -> None:
    """Raise ValueError if an id, a name or a raw label is used twice among classes and void.

    Example:
        >>> classes = [ClassEntry(id=1, name=name, color=(0, 0, 0)) for name in ("road", "wall")]
        >>> check_classes(classes, VoidEntry())
        Traceback (most recent call last):
            ...
        ValueError: classes: id 1 is used twice
    """
    entries: list[ClassEntry | VoidEntry] = [*classes, void]
    uses: dict[str, list[Any]] = {
        "id": [entry.id for entry in entries],
        "name": [entry.name for entry in classes],
        "raw label": [label for entry in entries for label in entry.labels],
    }
    for what, values in uses.items():
        if repeated := [value for value, count in Counter(values).items() if count > 1]:
            default = what == "id" and repeated == [void.id] and "id" not in void.model_fields_set
            hint = "; it is the id of void by default: write [void] id = another value" if default else ""
            raise ValueError(f"classes: {what} {min(repeated)!r} is used twice{hint}")
