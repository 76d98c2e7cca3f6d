"""Data that is downloaded by fastai or drawn by this program, and the cache folder."""

import hashlib
import os
from pathlib import Path

from fastcore.xdg import xdg_cache_home

from linknet_fastai.config.recipe import Recipe
from linknet_fastai.core.errors import UsageError, UserError, reason
from linknet_fastai.core.parallel import Progress
from linknet_fastai.data import street


def cache_folder() -> Path:
    """Where this program keeps what it can make again: `linknet-fastai` in the user's cache folder."""
    return Path(xdg_cache_home()) / "linknet-fastai"


def fetch(recipe: Recipe, progress: Progress | None = None) -> Path:
    """Download or draw a recipe's data, where the recipe says how.

    Returns:
        The data folder.

    Raises:
        UsageError: the recipe cannot be fetched.
        UserError: the download failed, or the scenes cannot be written.
    """
    if recipe.fetch is None:
        raise UsageError(f"--data: {recipe.name} cannot be fetched; {recipe.source}")
    if recipe.fetch == "street":
        return draw_street(progress)
    from fastai.data.external import URLs, untar_data  # imports most of fastai; needed in this case alone

    if not isinstance(getattr(URLs, recipe.fetch, None), str):
        raise UsageError(f"{recipe.name}: fetch: fastai knows no data set {recipe.fetch!r}")
    try:
        return Path(untar_data(getattr(URLs, recipe.fetch)))
    except Exception as error:  # network, disk and archive errors of several libraries
        raise UserError(
            f"--data: {recipe.name} could not be downloaded ({type(error).__name__}: {error}); "
            f"get it by hand and name its folder: {recipe.source}"
        ) from error


def draw_street(progress: Progress | None = None) -> Path:
    """Draw the street scenes into the cache folder, unless they are there; returns their folder."""
    # The drawing's own source is part of the name: scenes of an older version are never taken for these.
    sources = sorted(Path(street.__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    folder = cache_folder() / f"street-{version}"
    if not os.path.isdir(folder):
        drawn = progress and (lambda done, total: progress("drawing street scenes", done, total))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            street.write_scenes(folder, on_progress=drawn)
        except OSError as error:
            raise UserError(
                f"{folder}: the street scenes cannot be drawn there ({reason(error)}); XDG_CACHE_HOME=DIR has them "
                "drawn elsewhere"
            ) from error
    return folder
