"""`data` and `recipes`: the data on disk, and the shipped recipes and presets."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from linknet_fastai.cli.options import CacheDirOption, DataOption, JsonOption, RecipeArgument, typer_command
from linknet_fastai.config.settings import Settings
from linknet_fastai.config.size import format_size


@typer_command
def recipes(
    show: Annotated[str | None, "Print the TOML file of a recipe or preset.", "NAME"] = None,
    copy: Annotated[tuple[str, Path] | None, "Copy a shipped recipe, to start your own from.", "NAME FILE"] = None,
) -> None:
    """List the shipped recipes and presets, print one, or copy a recipe to edit."""
    from linknet_fastai.cli.terminal import console, show_table
    from linknet_fastai.config.presets import load_preset, preset_folder, preset_names
    from linknet_fastai.config.recipe import copy_recipe, load_recipe, recipe_names
    from linknet_fastai.config.toml_files import find_shipped, read_source, recipe_folder
    from linknet_fastai.core.text import printable

    if show:
        folder = preset_folder() if show in preset_names() else recipe_folder()
        print(printable(read_source(find_shipped(show, folder, "recipe"), "recipe"), keep="\n\t"), end="")
    elif copy:
        written = copy_recipe(*copy)
        check = shlex.join(["linknet-fastai", "data", str(copy[1]), "--data", "DIR"])
        console.print(f"{', '.join(map(str, written))}; check it with: {check}")
    else:
        rows = []
        for recipe in map(load_recipe, recipe_names()):
            default = Settings(**recipe.training).size
            sizes = dict.fromkeys(format_size(layout.size or default) for layout in recipe.layouts)
            origin = {None: "--data DIR", "street": "drawn"}.get(recipe.fetch, "downloaded, or --data DIR")
            rows.append((recipe.name, len(recipe.classes), ", ".join(sizes), origin))
        show_table(("recipe", "classes", "trains at", "data"), rows)
        console.print()
        presets = [(preset.name, preset.title) for preset in map(load_preset, preset_names())]
        show_table(("preset", "what it is"), presets, words=2)


@typer_command
def data(
    recipe: RecipeArgument,
    data: DataOption = None,
    out: Annotated[Path | None, "File for the picture of a batch.", "FILE", "RECIPE-batch.png"] = None,
    cache_dir: CacheDirOption = None,
    json: JsonOption = None,
    clear_cache: Annotated[bool, "Only delete the recipe's decoded frames."] = False,
) -> None:
    """Check what is on disk: counts, sizes, classes, what splits share, damaged files, a picture of a batch."""
    from linknet_fastai.cli.tables import show_inspection
    from linknet_fastai.cli.terminal import console, progress_bar, show_or_print_json
    from linknet_fastai.data.dataset import open_dataset

    if clear_cache:
        from linknet_fastai.config.recipe import load_recipe
        from linknet_fastai.data.cache import clear_caches
        from linknet_fastai.data.fetch import clear_old_scenes

        loaded = load_recipe(recipe)
        freed = clear_caches(loaded.name, cache_dir) + (clear_old_scenes() if loaded.fetch == "street" else 0)
        console.print(f"{freed / 2**20:.1f} MiB of decoded frames of {loaded.name} deleted")
        return
    from linknet_fastai.core.files import check_own
    from linknet_fastai.core.images import is_own_png
    from linknet_fastai.training.data_check import inspect_data

    with progress_bar() as progress:
        dataset = open_dataset(recipe, data, progress)
        if out is None:
            check_own(out := Path(f"{dataset.recipe.name}-batch.png"), is_own_png)
        result = inspect_data(dataset, out, progress, cache_dir)
    show_or_print_json(lambda: show_inspection(result, dataset), result.as_json(), json)
    if result.problems or not result.surveys:
        raise typer.Exit(1)
