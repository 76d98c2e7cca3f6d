"""`data` and `recipes`: the data on disk, recipes for it, and the shipped recipes and presets."""

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from linknet_fastai.cli.options import CacheDirOption, DataOption, JsonOption, RecipeArgument, typer_command
from linknet_fastai.config.settings import Settings
from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UsageError


@typer_command
def recipes(
    show: Annotated[str | None, "Print the TOML file of a recipe or preset.", "NAME"] = None,
    copy: Annotated[tuple[str, Path] | None, "Copy a shipped recipe, to start your own from.", "NAME FILE"] = None,
    source: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--from",
            metavar="PATH FILE",
            help="Write the recipe FILE, with label maps where there are none, for the export of a label tool or a "
            "folder of images and label maps.",
        ),
    ] = None,
    unlabeled: Annotated[
        Literal["void", "background"] | None,
        typer.Option(
            "--unlabelled",
            "--unlabeled",
            metavar="void|background",
            help="With --from: whether pixels without a label are ignored, or a class.",
        ),
    ] = None,
    dry_run: Annotated[bool, "With --from: only show what was found; write nothing."] = False,
) -> None:
    """List the shipped recipes and presets, print one, copy one to edit, or write one for your own data."""
    from linknet_fastai.cli.terminal import console, show_table
    from linknet_fastai.config.presets import load_preset, preset_folder, preset_names
    from linknet_fastai.config.recipe import copy_recipe, load_recipe, recipe_names
    from linknet_fastai.config.toml_files import find_shipped, read_source, recipe_folder
    from linknet_fastai.core.text import printable

    if source:
        _recipe_from(*source, unlabeled, dry_run)
    elif unlabeled or dry_run:
        raise UsageError(f"{'--unlabelled' if unlabeled else '--dry-run'} belongs to --from PATH FILE")
    elif show:
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
            origin = "downloaded, or --data DIR" if recipe.fetch else "--data DIR"
            origin = "drawn" if recipe.drawn_scenes else origin
            rows.append((recipe.name, len(recipe.classes), ", ".join(sizes), origin))
        show_table(("recipe", "classes", "trains at", "data"), rows)
        console.print()
        presets = [(preset.name, preset.title) for preset in map(load_preset, preset_names())]
        show_table(("preset", "what it is"), presets, words=2)


def _recipe_from(path: Path, file: Path, unlabeled: Literal["void", "background"] | None, dry_run: bool) -> None:
    """Look at an export of a label tool, show what was found, and write the recipe."""
    from rich.prompt import Prompt

    from linknet_fastai.cli.tables import show_proposal
    from linknet_fastai.cli.terminal import console, errors, progress_bar
    from linknet_fastai.labeling.look import check_new, propose, write_proposal

    if file.suffix != ".toml":
        raise UsageError(
            f"--from: {file}: a recipe is a .toml file; --from PATH FILE names the export and the recipe"
        )
    if not dry_run:
        check_new(file)

    with ExitStack() as bar:
        progress = bar.enter_context(progress_bar())

        def ask(question: str) -> Literal["void", "background"]:
            bar.close()  # or it would draw over the question
            answer = Prompt.ask(question, console=errors, choices=["void", "background"])
            return "void" if answer == "void" else "background"

        can_ask = errors.is_terminal and sys.stdin.isatty()
        proposal = propose(path, file.stem, unlabeled, ask if can_ask else None, progress)
    show_proposal(proposal)
    if dry_run:
        console.print("\nnothing was written (--dry-run)")
        return
    with progress_bar() as progress:
        picture = write_proposal(proposal, file, progress)
    console.print(f"\nwritten: {file}; check the classes in the picture: {picture}")
    command = shlex.join(["linknet-fastai", "data", str(file), "--data", str(proposal.folder)])
    console.print(f"next: {command}")


@typer_command
def data(
    recipe: RecipeArgument,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        "File for the picture of a batch, or the page of --suspects.",
        "FILE",
        "RECIPE-batch.png, RECIPE-suspects.html",
    ] = None,
    cache_dir: CacheDirOption = None,
    json: JsonOption = None,
    clear_cache: Annotated[bool, "Only delete the recipe's decoded frames."] = False,
    suspects: Annotated[
        Path | None,
        "Only show labels that a model confidently contradicts, which may be wrong. MODEL is a run, a model file, or "
        "the folder of fit --folds, whose models judge the frames that they were not trained on.",
        "MODEL",
    ] = None,
) -> None:
    """Check what is on disk: counts, sizes, classes, what splits share, damaged files, a picture of a batch."""
    from linknet_fastai.cli.tables import show_inspection
    from linknet_fastai.cli.terminal import console, progress_bar, show_or_print_json
    from linknet_fastai.data.open import open_dataset

    if suspects and (clear_cache or cache_dir):
        option = "--clear-cache" if clear_cache else "--cache-dir"
        raise UsageError(f"{option}: --suspects uses no decoded frames; leave out one of them")
    if clear_cache:
        from linknet_fastai.config.recipe import load_recipe
        from linknet_fastai.data.cache import clear_caches
        from linknet_fastai.data.fetch import clear_old_scenes

        loaded = load_recipe(recipe)
        freed = clear_caches(loaded.name, cache_dir) + (clear_old_scenes() if loaded.drawn_scenes else 0)
        console.print(f"{freed / 2**20:.1f} MiB of decoded frames of {loaded.name} deleted")
        return
    if suspects:
        from linknet_fastai.cli.suspects_table import show_suspects
        from linknet_fastai.training.suspects import find_suspects

        with progress_bar() as progress:
            found = find_suspects(recipe, data, suspects, out, progress)
        show_or_print_json(lambda: show_suspects(found), found.as_json(), json)
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
