"""`evaluate`, `predict` and `serve`: the commands that run a trained model."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from linknet_fastai.cli.options import RECIPE, DataOption, JsonOption, ModelArgument, engine_options
from linknet_fastai.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from linknet_fastai.runs.folder import RunFile


@engine_options
def evaluate(
    open_engine: Callable[..., Any],
    model: ModelArgument,
    recipe: Annotated[str | None, RECIPE] = None,
    split: Annotated[str, "Split, or a file with the stem of a frame per line.", "SPLIT"] = "val",
    data: DataOption = None,
    tta: Annotated[bool, "Average over flips and three scales: six times slower, torch only."] = False,
    protocol: Annotated[
        Literal["confusion", "course"],
        "confusion, or course: also the course project's per-image Dice, with void scored.",
        "NAME",
    ] = "confusion",
    json: JsonOption = None,
    picture: Annotated[Path | None, "Draw the confusion matrix as a PNG.", "FILE"] = None,
) -> None:
    """Score a model on a split: class IoU and class accuracy from one confusion matrix.

    For a run, RECIPE and --data are by default those that it was trained on.
    """
    from linknet_fastai.cli.tables import show_evaluation
    from linknet_fastai.cli.terminal import progress_bar, show_note, show_or_print_json
    from linknet_fastai.data.dataset import open_dataset
    from linknet_fastai.scoring import evaluate as evaluation

    run = None if recipe else _run_of(model)
    train_on = "train"
    opened = open_engine(model, tta=tta)
    if run:
        recipe, data = run.run["recipe"], data or Path(run.run["data"])
        train_on = run.settings.get("train_on", train_on)
    elif recipe is None:
        raise UsageError(
            f"RECIPE is missing: evaluate {model} RECIPE, as in {opened.card.recipe}, which the model was trained on"
        )
    with progress_bar() as progress:
        dataset = open_dataset(recipe, data, progress)
        result = evaluation.evaluate(opened, dataset, split, progress, protocol == "course")
    for note in [*dataset.notes(split, train_on), *result.data_notes, *filter(None, [result.note])]:
        show_note(note)
    show_or_print_json(lambda: show_evaluation(result, f"{model} on {recipe} {split}"), result.as_json(), json)
    if picture:
        from linknet_fastai.runs.charts import confusion_matrix, save_figure

        save_figure(confusion_matrix(result.scores.counts, result.class_names), picture)


@engine_options
def predict(
    open_engine: Callable[..., Any],
    model: ModelArgument,
    inputs: Annotated[list[Path], "Images, videos, folders of them, or the number of a camera.", "INPUT..."],
    out: Annotated[
        Path,
        "Folder for masks/ and overlays/. An earlier prediction in it is replaced, other files are not.",
        "DIR",
    ] = Path("predicted"),
    masks_only: Annotated[bool, "Write no overlays."] = False,
    opacity: Annotated[
        float | None,
        "Opacity of the colors in overlays; borders have twice that.",
        "0..1",
        "0.5",
        {"min": 0, "max": 1},
    ] = None,
    video: Annotated[bool, "Make one overlay video of a folder's numbered images."] = False,
    fps: Annotated[
        float | None,
        "Frames per second: the most of a video or camera, the others are dropped; with --video the exact number.",
        "N",
        "the video's own, 25 for --video",
        {"min": 0.01, "max": 1000},
    ] = None,
    format: Annotated[
        Literal["recipe", "cityscapes"],
        "recipe: the recipe's class ids; cityscapes: only masks, with the label ids and names that the official "
        "script and server expect.",
        "NAME",
    ] = "recipe",
) -> None:
    """Write masks of class ids, at each frame's own size, and overlays; of a video only the overlay."""
    from linknet_fastai.cli.terminal import console, progress_bar, show_error, show_lines, show_note
    from linknet_fastai.core.files import check_own
    from linknet_fastai.core.images import is_own_png, save_image
    from linknet_fastai.predict.images import predict_images
    from linknet_fastai.predict.inputs import LEGEND, collect_clips, collect_jobs, mask_name, note_of_unread
    from linknet_fastai.predict.overlay import legend
    from linknet_fastai.scoring.cityscapes import label_ids_of_channels, official_file_name

    official = format == "cityscapes"
    clips, image_inputs = collect_clips(inputs, out, video)
    if note := note_of_unread(inputs, out):
        show_note(note)
    if masks_only or official:
        option = "--format cityscapes" if official else "--masks-only"
        if clips:
            raise UsageError(
                f"{option}: a video has only an overlay; for masks extract its frames first, as in "
                "ffmpeg -i clip.mp4 frames/%06d.png"
            )
        if opacity is not None:
            raise UsageError(f"--opacity: {option} writes no overlays; leave out one of them")
    if fps and not clips:
        raise UsageError("--fps: no INPUT is a video; --video makes one of a folder's images")
    opacity = 0.5 if opacity is None else opacity
    jobs = []
    if image_inputs:
        jobs = collect_jobs(image_inputs, out, official_file_name if official else mask_name)
    has_legend = bool(clips) or not (masks_only or official)
    if has_legend:
        check_own(out / LEGEND, is_own_png)
    opened = open_engine(model, frames=None if clips else len(jobs))
    # The official script reads every PNG with a frame's name in its folder, overlays too.
    label_ids = label_ids_of_channels(opened.card.class_names) if official else None
    with progress_bar() as progress:
        failures = predict_images(opened, jobs, out, masks_only or official, progress, label_ids, opacity)
    if jobs:
        console.print(f"{len(jobs) - len(failures)} of {len(jobs)} frames predicted by {opened}: {out}")
    if has_legend:
        save_image(legend(opened.card), out / LEGEND)
    for clip in clips:
        from linknet_fastai.predict.video import predict_video

        try:
            with progress_bar() as progress:
                result = predict_video(opened, clip.source, out / "overlays" / clip.target, opacity, fps, progress)
        except UserError as error:
            failures.append(str(error))
            continue
        console.print(f"{result} (by {opened})")
        if result.problem:
            failures.append(result.problem)
        if result.stopped:  # Ctrl-C, the regular end of a camera's video
            raise typer.Exit(0 if isinstance(clip.source, int) else 130)
    show_lines(failures, show_error)
    if failures:
        raise typer.Exit(1)


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
    """Serve a page that predicts images and clips dropped on it; nothing is kept."""
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
