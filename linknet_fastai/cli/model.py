"""`evaluate`, `predict` and `serve`: the commands that run a trained model."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from linknet_fastai.cli.options import RECIPE, DataOption, JsonOption, ModelArgument, engine_options
from linknet_fastai.core.errors import UsageError, UserError
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
    own_classes = result.class_names == opened.card.class_names
    if own_classes and json and json.match("evaluation*.json") and (json.parent / RUN_FILE).is_file():
        write_frame_counts(result.frame_counts, json.with_suffix(".npz"))
    if picture:
        from linknet_fastai.runs.charts import confusion_matrix, save_figure

        save_figure(confusion_matrix(result.scores.counts, result.class_names), picture)


@engine_options
def predict(
    open_engine: Callable[..., Any],
    model: ModelArgument,
    inputs: Annotated[
        list[str],
        "Images, videos, folders of them, ROS bags, the number of a camera, or the address of a stream.",
        "INPUT...",
    ],
    out: Annotated[
        Path,
        "Folder for masks/, overlays/, shapes or bags/. An earlier prediction is replaced, other files are not.",
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
    confidence: Annotated[
        bool, "Write confidence/ too: the probability of the predicted class, 255 is certain. A bag always has it."
    ] = False,
    below: Annotated[
        float | None,
        "Make pixels void whose confidence is lower, as in .6.",
        "0..1",
        "none",
        {"min": 0, "max": 1},
    ] = None,
    topic: Annotated[
        list[str] | None, "Topic of a ROS bag; can be given several times.", "TOPIC", "all of images"
    ] = None,
    video: Annotated[bool, "Make one overlay video of a folder's numbered images."] = False,
    fps: Annotated[
        float | None,
        "Frames per second: the most of a video or camera, the others are dropped; with --video the exact number.",
        "N",
        "the video's own, 25 for --video",
        {"min": 0.01, "max": 1000},
    ] = None,
    allow_network: Annotated[bool, "Open streams by their addresses: rtsp://, http:// and https://."] = False,
    palette: Annotated[bool, "Give masks a palette of the classes' colors, for viewing; the values stay."] = False,
    format: Annotated[
        Literal["recipe", "cityscapes", "coco", "labelme", "cvat", "label-studio"],
        "recipe: the recipe's class ids; cityscapes: only masks, with the label ids and names that the official "
        "script and server expect; coco, labelme, cvat, label-studio: only shapes, to import there and correct.",
        "NAME",
    ] = "recipe",
    tolerance: Annotated[
        float | None,
        "How far polygons for a label tool may be from the border of a class, in pixels.",
        "PIXELS",
        "1",
        {"min": 0, "max": 100},
    ] = None,
    min_pixels: Annotated[
        int | None, "Leave out smaller pieces, and fill smaller holes, for a label tool.", "N", "20", {"min": 1}
    ] = None,
    order: Annotated[
        Literal["uncertain"] | None,
        "Also write label-next.csv, the images that a person should label next: the least certain first, and those "
        "close to one before it in a video later.",
        "uncertain",
    ] = None,
) -> None:
    """Write masks of class ids, at each frame's own size, and overlays; a video gives a video, a ROS bag a bag."""
    from linknet_fastai.cli.terminal import console, progress_bar, show_error, show_lines, show_note
    from linknet_fastai.core.files import check_own
    from linknet_fastai.core.images import is_own_png, save_image
    from linknet_fastai.predict.annotations import annotate_images, annotation_jobs, annotations_of
    from linknet_fastai.predict.images import predict_images
    from linknet_fastai.predict.inputs import (
        LEGEND,
        collect_bags,
        collect_clips,
        collect_jobs,
        mask_name,
        note_of_unread,
    )
    from linknet_fastai.predict.order import check_order_file, write_order
    from linknet_fastai.predict.overlay import legend
    from linknet_fastai.predict.streams import find_streams
    from linknet_fastai.scoring.cityscapes import label_ids_of_channels, official_file_name

    official = format == "cityscapes"
    shapes = format if format != "recipe" and format != "cityscapes" else None
    for option, given in (("--tolerance", tolerance), ("--min-pixels", min_pixels)):
        if given is not None and not shapes:
            raise UsageError(f"{option}: goes with --format coco, labelme, cvat or label-studio")
    streams, paths = find_streams(inputs, allow_network)
    bags, others = collect_bags(paths, out)
    if bags and format != "recipe":
        raise UsageError(f"--format {format}: is for images; predict a ROS bag without it")
    if topic and not bags:
        raise UsageError("--topic: no INPUT is a ROS bag")
    clips, image_inputs = collect_clips([*streams, *others], out, video)
    if note := note_of_unread(others, out):
        show_note(note)
    only = masks_only or official or shapes is not None  # no overlays
    if only:
        option = "--masks-only" if format == "recipe" else f"--format {format}"
        if clips:
            raise UsageError(
                f"{option}: a video has only an overlay; for masks extract its frames first, as in "
                "ffmpeg -i clip.mp4 frames/%06d.png"
            )
        if opacity is not None:
            raise UsageError(f"--opacity: {option} writes no overlays; leave out one of them")
    if official and (confidence or below is not None or palette):
        option = "--palette" if palette else "--confidence" if confidence else "--below"
        raise UsageError(
            f"{option}: --format cityscapes writes what the official script reads; leave out one of them"
        )
    if shapes and (masks_only or confidence or palette):
        option = "--masks-only" if masks_only else "--confidence" if confidence else "--palette"
        raise UsageError(f"{option}: --format {format} writes no masks; leave out one of them")
    if confidence and clips:
        raise UsageError("--confidence: a video has only an overlay; --below leaves its uncertain pixels uncolored")
    if order and (clips or bags):
        raise UsageError(
            f"--order: {(clips or bags)[0]} is no image; extract its frames first, as in "
            "ffmpeg -i clip.mp4 -vf fps=1 frames/%06d.png"
        )
    if fps and not clips:
        raise UsageError("--fps: no INPUT is a video; --video makes one of a folder's images")
    opacity = 0.5 if opacity is None else opacity
    jobs = []
    if image_inputs and shapes:
        jobs = annotation_jobs(image_inputs, out, shapes)
    elif image_inputs:
        jobs = collect_jobs(image_inputs, out, official_file_name if official else mask_name)
    has_legend = bool(clips) or not only
    if has_legend:
        check_own(out / LEGEND, is_own_png)
    order_file = check_order_file(out) if order else None
    uncertainties: dict[Path, float] | None = {} if order else None
    opened = open_engine(model, frames=None if clips or bags else len(jobs))
    if confidence or below is not None or order:
        opened.require_confidence()
    # The official script reads every PNG with a frame's name in its folder, overlays too.
    label_ids = label_ids_of_channels(opened.card.class_names) if official else None
    with progress_bar() as progress:
        if shapes:
            allowed = 1 if tolerance is None else tolerance
            failures = annotate_images(
                opened, jobs, out, shapes, allowed, min_pixels or 20, below, progress, uncertainties
            )
        else:
            failures = predict_images(
                opened, jobs, out, only, progress, label_ids, opacity, confidence, below, palette, uncertainties
            )
    if jobs:
        where = annotations_of(out, shapes) if shapes else out
        console.print(f"{len(jobs) - len(failures)} of {len(jobs)} frames predicted by {opened}: {where}")
    if order_file and uncertainties:
        write_order(order_file, uncertainties)
        console.print(f"to label next: {order_file}")
    if has_legend:
        save_image(legend(opened.card), out / LEGEND)
    for bag in bags:
        from linknet_fastai.predict.bags import predict_bag

        try:
            with progress_bar() as progress:
                target = out / "bags" / bag.target
                written = predict_bag(
                    opened, bag.source, target, topic or (), not masks_only, opacity, below, progress
                )
        except UsageError:
            raise
        except UserError as error:
            failures.append(str(error))
            continue
        console.print(f"{written} (by {opened})")
        failures += written.problems
    for clip in clips:
        from linknet_fastai.predict.video import predict_video

        try:
            with progress_bar() as progress:
                target = out / "overlays" / clip.target
                result = predict_video(opened, clip.source, target, opacity, fps, progress, below=below)
        except UserError as error:
            failures.append(str(error))
            continue
        console.print(f"{result} (by {opened})")
        if result.problem:
            failures.append(result.problem)
        if result.stopped:  # Ctrl-C, the regular end of what comes live
            raise typer.Exit(0 if result.live else 130)
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
