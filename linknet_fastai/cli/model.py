"""`evaluate` and `serve`: commands that run a trained model; `predict` is in a file of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from linknet_fastai.cli.options import RECIPE, DataOption, JsonOption, ModelArgument, engine_options
from linknet_fastai.core.errors import UsageError
from linknet_fastai.model.card import TEMPERATURES

if TYPE_CHECKING:
    from linknet_fastai.runs.folder import RunFile


@engine_options
def evaluate(
    open_engine: Callable[..., Any],
    model: ModelArgument,
    recipe: Annotated[str | None, RECIPE] = None,
    split: Annotated[str, "Split, group:NAME or a file with a frame per line; joined by +.", "SPLIT"] = "val",
    data: DataOption = None,
    tta: Annotated[bool, "Average over flips and three scales: six times slower, torch only."] = False,
    temperature: Annotated[
        float | None,
        "Of the confidence, 1 for the bare softmax; torch only.",
        "X",
        "the model's own",
        {"min": TEMPERATURES[0], "max": TEMPERATURES[1]},
    ] = None,
    protocol: Annotated[
        Literal["confusion", "course"],
        "confusion, or course: also the course project's per-image Dice, with void scored.",
        "NAME",
    ] = "confusion",
    map: Annotated[
        list[str] | None,
        "A class of the model that the recipe calls otherwise; can be given several times.",
        "MODELCLASS=RECIPECLASS",
    ] = None,
    json: JsonOption = None,
    all: Annotated[bool, "Show precision and F1 of each class too."] = False,
    boundary: Annotated[bool, "Also score the borders of classes: boundary IoU, within 2% of the diagonal."] = False,
    by: Annotated[Literal["group"] | None, "Score each of the recipe's groups too.", "group"] = None,
    picture: Annotated[Path | None, "Draw the confusion matrix as a PNG.", "FILE"] = None,
) -> None:
    """Score a model on a split: class IoU and class accuracy from one confusion matrix, and its confidence.

    For a run, RECIPE and --data are by default those that it was trained on. With another RECIPE the classes of the
    same name are scored. --json RUN/evaluation-SPLIT.json makes the scores those of the run, which `report` and
    `compare` show.
    """
    from linknet_fastai.cli.tables import show_evaluation
    from linknet_fastai.cli.terminal import progress_bar, show_note, show_or_print_json
    from linknet_fastai.data.open import open_dataset
    from linknet_fastai.runs.folder import RUN_FILE
    from linknet_fastai.runs.frame_counts import write_frame_counts
    from linknet_fastai.scoring import evaluate as evaluation
    from linknet_fastai.scoring.boundary import BOUNDARY_SHARE

    renamed = {}
    for text in map or ():
        name, equals, target = text.partition("=")
        if not equals:
            raise UsageError(f"--map: {text!r} is not MODELCLASS=RECIPECLASS, as in --map Tree=vegetation")
        renamed[name.strip()] = target.strip()
    run = _run_of(model)
    opened = open_engine(model, tta=tta, temperature=temperature)
    if run and not recipe:
        recipe, data = run.run["recipe"], data or Path(run.run["data"])
    elif recipe is None:
        raise UsageError(
            f"RECIPE is missing: evaluate {model} RECIPE, as in {opened.card.recipe}, which the model was trained on"
        )
    with progress_bar() as progress:
        dataset = open_dataset(recipe, data, progress)
        if by and not dataset.recipe.group:
            raise UsageError(f"--by group: {recipe} does not say what a group is; add group = ... to the recipe")
        share = BOUNDARY_SHARE if boundary else None
        result = evaluation.evaluate(opened, dataset, split, progress, protocol == "course", renamed, share)
    trained_on = [run.settings.get("train_on", "train") if run else "train"]
    if dataset.recipe.name != opened.card.recipe:
        trained_on = []  # what another recipe calls train, the model has not seen
    for note in [*dataset.notes(split, *trained_on), *result.data_notes, *filter(None, [result.note])]:
        show_note(note)
    scored, known = len(result.class_names), len(dataset.recipe.classes)
    title = f"{model} on {recipe} {split}" + f", {scored} of its {known} classes" * (scored < known)
    show_or_print_json(lambda: show_evaluation(result, title, all, bool(by)), result.as_json(bool(by)), json)
    rows, columns = result.scores.counts.shape
    own_classes = result.class_names == opened.card.class_names and rows == columns
    if own_classes and json and json.match("evaluation*.json") and (json.parent / RUN_FILE).is_file():
        write_frame_counts(result.frame_counts, json.with_suffix(".npz"))
    if picture:
        from linknet_fastai.runs.charts import confusion_matrix, save_figure

        save_figure(confusion_matrix(result.scores.counts, result.class_names), picture)


@engine_options
def serve(
    open_engine: Callable[..., Any],
    model: ModelArgument,
    host: Annotated[str, "Address to listen on; anyone who can reach it can use the page."] = "127.0.0.1",
    port: Annotated[int, "Port to listen on.", "N", None, {"min": 1, "max": 65535}] = 7860,
    max_mib: Annotated[int, "Largest file, in MiB.", "N", None, {"min": 1}] = 64,
    max_megapixels: Annotated[float, "Largest frame, in million pixels.", "N", None, {"min": 0.001}] = 25,
    max_seconds: Annotated[float, "Longest clip, in seconds.", "N", None, {"min": 0.1}] = 30,
    open: Annotated[bool, "Open the page in the browser."] = False,
) -> None:
    """Serve a page that predicts pictures, clips and the camera; nothing is kept."""
    from linknet_fastai.cli.terminal import console
    from linknet_fastai.predict import serve as page
    from linknet_fastai.predict.uploads import Limits

    # One person drops one frame at a time: all cores work on one, and the time that is shown is the machine's.
    opened = open_engine(model, frames=1)
    limits = Limits(max_mib, max_megapixels, max_seconds)
    served_page = page.served(opened, host, port, limits, open)
    page.serve(served_page, lambda address: console.print(f"{address} (Ctrl-C ends it)"))


def _run_of(model: Path) -> "RunFile | None":
    """The run that a model belongs to; None if there is no run.toml with it."""
    from linknet_fastai.runs.folder import RUN_FILE, read_run

    if not model.exists():  # a model by name
        return None
    folder = model if model.is_dir() else model.parent
    return read_run(folder) if (folder / RUN_FILE).is_file() else None
