"""`predict`: masks and overlays, shapes for label tools, videos and ROS bags."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from linknet_fastai.cli.options import ModelArgument, engine_options
from linknet_fastai.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from linknet_fastai.engines.engine import Engine
    from linknet_fastai.predict.inputs import Bag, Clip


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
    from linknet_fastai.predict import inputs as sources
    from linknet_fastai.predict.annotations import annotate_images, annotation_jobs, annotations_of
    from linknet_fastai.predict.images import predict_images
    from linknet_fastai.predict.order import check_order_file, write_order
    from linknet_fastai.predict.overlay import legend
    from linknet_fastai.predict.streams import find_streams
    from linknet_fastai.scoring.cityscapes import label_ids_of_channels, official_file_name

    official = format == "cityscapes"
    shapes = format if format != "recipe" and format != "cityscapes" else None
    only = masks_only or format != "recipe"  # no overlays
    streams, paths = find_streams(inputs, allow_network)
    bags, others = sources.collect_bags(paths, out)
    clips, images = sources.collect_clips([*streams, *others], out, video)
    if note := sources.note_of_unread(others, out):
        show_note(note)
    chosen = f"--format {format}" if format != "recipe" else "--masks-only"
    for_shapes = "goes with --format coco, labelme, cvat or label-studio"
    no_masks = f"{chosen} writes no masks; leave out one of them"
    script_only = f"{chosen} writes what the official script reads; leave out one of them"
    extract = "extract its frames first, as in ffmpeg -i clip.mp4{} frames/%06d.png"
    _refuse(
        ("--tolerance", tolerance is not None and not shapes, for_shapes),
        ("--min-pixels", min_pixels is not None and not shapes, for_shapes),
        (chosen, bags and format != "recipe", "is for images; predict a ROS bag without it"),
        ("--topic", topic and not bags, "no INPUT is a ROS bag"),
        (chosen, clips and only, f"a video has only an overlay; for masks {extract.format('')}"),
        ("--opacity", opacity is not None and only, f"{chosen} writes no overlays; leave out one of them"),
        ("--palette", palette and official, script_only),
        ("--confidence", confidence and official, script_only),
        ("--below", below is not None and official, script_only),
        ("--masks-only", masks_only and shapes, no_masks),
        ("--confidence", confidence and shapes, no_masks),
        ("--palette", palette and shapes, no_masks),
        ("--palette", palette and not images, "no INPUT is an image; a video and a ROS bag have no masks in files"),
        (
            "--confidence",
            confidence and clips,
            "a video has only an overlay; --below leaves its uncertain pixels uncolored",
        ),
        (
            "--order",
            order and (clips or bags),
            f"{[*clips, *bags, ''][0]} is no image; {extract.format(' -vf fps=1')}",
        ),
        ("--fps", fps and not clips, "no INPUT is a video; --video makes one of a folder's images"),
    )
    opacity = 0.5 if opacity is None else opacity
    jobs = []
    if images and shapes:
        jobs = annotation_jobs(images, out, shapes)
    elif images:
        jobs = sources.collect_jobs(images, out, official_file_name if official else sources.mask_name)
    has_legend = bool(clips) or not only
    if has_legend:
        check_own(out / sources.LEGEND, is_own_png)
    order_file = check_order_file(out) if order else None
    uncertainties: dict[Path, float] | None = {} if order else None
    engine = open_engine(model, frames=None if clips or bags else len(jobs))
    if confidence or below is not None or order:
        engine.require_confidence()
    # The official script reads every PNG with a frame's name in its folder, overlays too.
    label_ids = label_ids_of_channels(engine.card.class_names) if official else None
    with progress_bar() as progress:
        if shapes:
            allowed = 1 if tolerance is None else tolerance
            failures = annotate_images(
                engine, jobs, out, shapes, allowed, min_pixels or 20, below, progress, uncertainties
            )
        else:
            failures = predict_images(
                engine, jobs, out, only, progress, label_ids, opacity, confidence, below, palette, uncertainties
            )
    if jobs:
        where = annotations_of(out, shapes) if shapes else out
        console.print(f"{len(jobs) - len(failures)} of {len(jobs)} frames predicted by {engine}: {where}")
    if order_file and uncertainties:
        write_order(order_file, uncertainties)
        console.print(f"to label next: {order_file}")
    if has_legend:
        save_image(legend(engine.card), out / sources.LEGEND)
    failures += _predict_bags(engine, bags, out, topic or (), not masks_only, opacity, below)
    problems, stopped = _predict_clips(engine, clips, out, opacity, fps, below)
    failures += problems
    show_lines(failures, show_error)
    if stopped or failures:
        raise typer.Exit(130 if stopped else 1)


def _refuse(*conflicts: tuple[str, object, str]) -> None:
    """Raise UsageError for the first option of which the condition holds: (option, condition, why)."""
    for option, wrong, why in conflicts:
        if wrong:
            raise UsageError(f"{option}: {why}")


def _predict_bags(
    engine: "Engine",
    bags: Sequence["Bag"],
    out: Path,
    topics: Sequence[str],
    overlays: bool,
    opacity: float,
    below: float | None,
) -> list[str]:
    """Predict ROS bags, and show each result; the problems in lines."""
    from linknet_fastai.cli.terminal import console, progress_bar

    failures: list[str] = []
    without_topic: list[UsageError] = []
    for bag in bags:
        from linknet_fastai.predict.bags import predict_bag  # needs the extra `ros`

        try:
            with progress_bar() as progress:
                target = out / "bags" / bag.target
                written = predict_bag(engine, bag.source, target, topics, overlays, opacity, below, progress)
        except UserError as error:
            failures.append(str(error))
            if isinstance(error, UsageError):
                without_topic.append(error)
            continue
        console.print(f"{written} (by {engine})")
        failures += written.problems
    if without_topic and len(without_topic) == len(bags):
        raise without_topic[0]
    return failures


def _predict_clips(
    engine: "Engine", clips: Iterable["Clip"], out: Path, opacity: float, fps: float | None, below: float | None
) -> tuple[list[str], bool]:
    """Predict videos, and show each result; the problems in lines, and whether a person has stopped a video.

    Ctrl-C is the regular end of what comes live: the next one follows.
    """
    from linknet_fastai.cli.terminal import console, progress_bar
    from linknet_fastai.predict.streams import Stream

    failures: list[str] = []
    for clip in clips:
        from linknet_fastai.predict.video import predict_video  # needs the extra `video`

        try:
            with progress_bar() as progress:
                target = out / "overlays" / clip.target
                result = predict_video(engine, clip.source, target, opacity, fps, progress, below=below)
        except UserError as error:
            failures.append(str(error))
            continue
        except KeyboardInterrupt:  # before the first frame was done
            failures.append(f"{clip}: stopped before its first frame")
            if not isinstance(clip.source, int | Stream):
                return failures, True
            continue
        console.print(f"{result} (by {engine})")
        if result.problem:
            failures.append(result.problem)
        if result.stopped and not result.live:
            return failures, True
    return failures, False
