"""A recipe that joins others: the tables that follow from its parts, as if they were one data set."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from linknet_fastai.config.classes import Checked, ClassEntry
from linknet_fastai.core.text import Line

if TYPE_CHECKING:
    from linknet_fastai.config.recipe import Recipe

OF_EACH_PART = ("layouts", "splits", "fetch", "group", "official_scores", "leave_out")
MOST_PARTS, VOID_ID = 32, 255
# What the joined recipe has in place of its parts' layouts; no file is looked for by it.
LAYOUT = {"name": "parts", "images": "{split}/{part}/{stem}", "labels": "{split}/{part}/{stem}/labels"}


class Part(Checked):
    """A recipe that another one joins.

    Args:
        recipe: the name of a shipped recipe, or the path of a TOML file; in a file it is relative to that file.
        data: its data folder, relative to the data folder of the whole; by default the recipe's name, and what the
            recipe downloads or draws where that folder does not exist.
    """

    recipe: Line
    data: Line | None = None


def joined_table(table: Mapping[str, Any], parts: "Sequence[Recipe]") -> dict[str, Any]:
    """The table of a recipe with `parts`, completed by what its parts have.

    Unless it lists classes itself, it has those of all parts. Classes of one name (case apart), or of one name in
    `map`, are one class, whose color and id are those of the first part that has it; an id that is taken is replaced
    by the lowest that is free.

    Args:
        table: the file's table.
        parts: the recipes that it joins.

    Raises:
        ValueError: two parts have one name, or the table has a key that each part has itself.
    """
    if own := [key for key in OF_EACH_PART if key in table]:
        raise ValueError(f"{own[0]}: each of the parts has its own; leave it out")
    names = [part.name for part in parts]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"parts: two are called {repeated[0]!r}; copy the recipe and give the copy another name")
    joined: dict[str, Any] = {
        "title": " + ".join(names),
        "source": "; ".join(f"{part.name}: {part.source}" for part in parts)[:1000],
        "classes": _joined_classes(parts, table.get("map")),
        "void": {"id": VOID_ID},
        "layouts": [LAYOUT],
        "splits": {name: {} for part in parts for name in part.splits},
    }
    if any(part.group for part in parts):
        joined["group"] = {"stem": ".*"}  # there are groups; each part says itself which
    return {**joined, **table}


def _joined_classes(parts: "Sequence[Recipe]", renamed: Any) -> list[ClassEntry]:
    by_name: dict[str, ClassEntry] = {}
    for entry in (entry for part in parts for entry in part.classes):
        name = renamed.get(entry.name, entry.name) if isinstance(renamed, dict) else entry.name
        by_name.setdefault(str(name).casefold(), entry.model_copy(update={"name": name, "labels": ()}))
    taken, joined = {VOID_ID}, []
    for entry in by_name.values():
        free = entry.id if entry.id not in taken else next((i for i in range(256) if i not in taken), entry.id)
        taken.add(free)
        joined.append(entry.model_copy(update={"id": free}))
    return joined
