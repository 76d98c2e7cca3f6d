"""Data that the program gets by itself: downloaded by fastai, or drawn."""

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

from linknet_fastai.config.recipe import Recipe
from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.files import cache_folder
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data import street


def fetch(recipe: Recipe, progress: Progress | None = None) -> Path:
    """Download or draw a recipe's data.

    Args:
        recipe: the recipe, whose `fetch` is "street-240" for 240 drawn scenes to train on, or the name of a data set
            of fastai's, as in "CAMVID".
        progress: called with what is being done, how many are done and of how many.

    Returns:
        The data folder.

    Raises:
        UsageError: the recipe has no `fetch`.
        UserError: the download failed, or the scenes cannot be written.

    Example:
        ::

            folder = fetch(load_recipe("camvid"))
    """
    if recipe.fetch is None:
        raise UsageError(f"--data: {recipe.name} cannot be downloaded; {recipe.source}")
    if recipe.drawn_scenes:
        return draw_street(recipe.drawn_scenes, progress)
    from fastai.data.external import URLs, untar_data  # imports most of fastai, and is needed here only

    if not isinstance(getattr(URLs, recipe.fetch, None), str):
        raise UsageError(f"{recipe.name}: fetch: fastai has no data set {recipe.fetch!r}")
    try:
        return Path(untar_data(getattr(URLs, recipe.fetch)))
    except Exception as error:  # network, disk and archive errors of several libraries
        raise UserError(
            f"--data: {recipe.name} could not be downloaded ({type(error).__name__}: {error}); "
            f"download it yourself and give its folder: {recipe.source}"
        ) from error


def draw_street(scenes: int, progress: Progress | None = None) -> Path:
    """Draw street scenes, so many to train on, into the cache folder if they are not there; returns their folder."""
    folder = cache_folder() / f"{_drawn_by_this_version()}-{scenes}"
    if not os.path.isdir(folder):
        on_progress = partial(progress, "drawing street scenes") if progress else None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            street.write_scenes(folder, street.SPLITS | {"train": scenes}, on_progress=on_progress)
        except OSError as error:
            raise UserError(
                f"{folder}: the street scenes cannot be drawn there ({reason(error)}); set XDG_CACHE_HOME to another "
                "folder"
            ) from error
    return folder


def clear_old_scenes() -> int:
    """Delete the street scenes that other versions of this package have drawn; returns how many bytes were freed."""
    freed = 0
    for folder in set(cache_folder().glob("street-*")) - set(cache_folder().glob(f"{_drawn_by_this_version()}-*")):
        freed += sum(file.stat().st_size for file in folder.rglob("*.png"))
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def _drawn_by_this_version() -> str:
    # The name depends on the source of the drawing, so that scenes of another version are not used.
    sources = sorted(Path(street.__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    return f"street-{version}"
