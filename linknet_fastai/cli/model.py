"""`evaluate`, `predict`, `serve`, `export` and `benchmark`: what is done with a trained model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from linknet_fastai.cli.options import (
    DataOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    RecipeArgument,
    SeenSizeOption,
    TrustOption,
    parse_size_option,
)
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.engines.formats import FORMATS, FormatName


def evaluate(
    model: ModelArgument,
    recipe: RecipeArgument,
    split: Annotated[str, typer.Option("--split", help="A split, or a file with a frame's stem a line.")] = "val",
    data: DataOption = None,
    size: SeenSizeOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over flips and three scales: six times the work, torch alone.")
    ] = False,
    protocol: Annotated[
        Literal["confusion", "course"],
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="confusion, or course: the course project's per-image Dice, void scored, as well.",
        ),
    ] = "confusion",
    json_file: JsonOption = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw the confusion matrix into a PNG.")
    ] = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Score a model over a split: class IoU and class accuracy from one confusion matrix."""
    from linknet_fastai.cli.tables import show_evaluation
    from linknet_fastai.cli.terminal import progress_bar, show_note, show_or_print_json
    from linknet_fastai.data.dataset import open_dataset
    from linknet_fastai.scoring import evaluate as evaluation

    opened = _open_engine(model, engine, precision, device, size, trust_pickle, tta=tta)
    with progress_bar() as progress:
        dataset = open_dataset(recipe, data, progress)
        result = evaluation.evaluate(opened, dataset, split, progress, protocol == "course")
    for note in filter(None, (dataset.note(split), result.note)):
        show_note(note)
    show_or_print_json(lambda: show_evaluation(result, f"{model} on {recipe} {split}"), result.as_json(), json_file)
    if picture:
        from linknet_fastai.runs.charts import confusion_matrix, save_figure

        save_figure(confusion_matrix(result.counts, result.class_names), picture)


def predict(
    model: ModelArgument,
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Images, videos, folders of them, the number of a camera."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where masks/ and overlays/ go.")],
    masks_only: Annotated[bool, typer.Option("--masks-only", help="Write no overlays.")] = False,
    opacity: Annotated[
        float | None,
        typer.Option(
            "--opacity",
            metavar="0..1",
            min=0,
            max=1,
            help="Of the colors in overlays; borders have twice that.",
            show_default="0.5",
        ),
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Make a folder's numbered images the frames of one overlay video.")
    ] = False,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="N",
            min=0.01,
            max=1000,
            help="Frames a second: at most so many of a video or camera, the others are dropped; exactly so many for "
            "--video.",
            show_default="the video's own, 25 for --video",
        ),
    ] = None,
    mask_format: Annotated[
        Literal["recipe", "cityscapes"],
        typer.Option(
            "--format",
            metavar="NAME",
            help="recipe: the recipe's class ids; cityscapes: official label ids and names, masks alone, as the "
            "official script and server take them.",
        ),
    ] = "recipe",
    size: SeenSizeOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Write masks of class ids, at each frame's own size, and overlays; of videos overlays alone."""
    from linknet_fastai.cli.terminal import console, progress_bar, show_error, show_lines
    from linknet_fastai.core.images import save_image
    from linknet_fastai.predict import images as prediction
    from linknet_fastai.predict.inputs import collect_clips
    from linknet_fastai.predict.overlay import legend
    from linknet_fastai.scoring.cityscapes import label_ids_of_channels, official_file_name

    official = mask_format == "cityscapes"
    clips, image_inputs = collect_clips(inputs, out, video)
    if masks_only or official:
        option = "--format cityscapes" if official else "--masks-only"
        if clips:
            raise UsageError(
                f"{option}: videos get overlays alone; for masks take the frames out first, as in "
                "ffmpeg -i clip.mp4 frames/%06d.png"
            )
        if opacity is not None:
            raise UsageError(f"--opacity: {option} writes no overlays; leave one of them out")
    if fps and not clips:
        raise UsageError("--fps: there is no video to predict; --video makes one of a folder's images")
    opacity = 0.5 if opacity is None else opacity
    jobs = []
    if image_inputs:
        jobs = prediction.collect_jobs(image_inputs, out, official_file_name if official else prediction.mask_name)
    opened = _open_engine(model, engine, precision, device, size, trust_pickle, None if clips else len(jobs))
    # The official script takes every PNG below its folder with a frame's name: overlays would be in its way.
    label_ids = label_ids_of_channels(opened.card.class_names) if official else None
    with progress_bar() as progress:
        failures = prediction.predict_images(opened, jobs, out, masks_only or official, progress, label_ids, opacity)
    if jobs:
        console.print(f"{len(jobs) - len(failures)} of {len(jobs)} frames predicted by {opened}: {out}")
    if clips or not (masks_only or official):
        save_image(legend(opened.card), out / prediction.LEGEND)
    for clip in clips:
        from linknet_fastai.predict.video import predict_video

        try:
            with progress_bar() as progress:
                result = predict_video(opened, clip.source, out / "overlays" / clip.target, opacity, fps, progress)
        except UserError as error:
            failures.append(str(error))
            continue
        console.print(f"{result} (by {opened})")
        if result.stopped:  # which is how a camera's video ends
            raise typer.Exit(0 if isinstance(clip.source, int) else 130)
    show_lines(failures, show_error)
    if failures:
        raise typer.Exit(1)


def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; whoever reaches another one may use the page.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="The port to listen on.")] = 7860,
    most_mebibytes: Annotated[
        int, typer.Option("--max-mib", metavar="N", min=1, help="The most MiB of a file.")
    ] = 64,
    most_megapixels: Annotated[
        float, typer.Option("--max-megapixels", metavar="N", min=0.001, help="The most million pixels of a frame.")
    ] = 25,
    most_seconds: Annotated[
        float, typer.Option("--max-seconds", metavar="N", min=0.1, help="The most seconds of a clip.")
    ] = 30,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    size: SeenSizeOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Show a page to drop images and clips on; nothing that is dropped is kept."""
    from linknet_fastai.cli.terminal import console
    from linknet_fastai.predict import serve as page
    from linknet_fastai.predict.uploads import Limits

    # A person drops one at a time: all cores are at one frame, and its milliseconds are the machine's.
    opened = _open_engine(model, engine, precision, device, size, trust_pickle, frames=1)
    limits = Limits(most_mebibytes, most_megapixels, most_seconds)
    page.serve(opened, host, port, limits, open_browser, lambda address: console.print(f"{address} (Ctrl-C ends it)"))


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a .safetensors.")],
    file_format: Annotated[
        FormatName,
        typer.Option(
            "--format",
            metavar="NAME",
            help="; ".join(f"{entry.name}: {entry.purpose}" for entry in FORMATS.values()) + ".",
        ),
    ] = "pkl",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", show_default="RUN/export.SUFFIX, export-int8.xml for int8")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise, for openvino; takes --calibrate.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", metavar="DIR", help="Up to 60 of these frames decide the scales.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="DIR",
            help="Compare with torch on up to 10 of these frames.",
            show_default="those of --calibrate, else drawn scenes",
        ),
    ] = None,
) -> None:
    """Export a run's best weights as one file."""
    from linknet_fastai.cli.terminal import console, working

    with working("exporting"):
        from linknet_fastai.export.export import export_run

        written = export_run(run, file_format, out, int8, calibrate, check)
    console.print(f"{written.file} ({written.mebibytes:.1f} MiB)")
    if result := written.check:
        console.print(
            f"{result.engine} in {result.precision} gives the class of torch in fp32 on {result.agreement:.3%} of "
            f"the pixels of {result.frames} frames ({result.source})"
        )


def _open_engine(
    model: Path,
    engine: str,
    precision: str | None,
    device: str | None,
    size: str | None,
    trust_pickle: bool,
    frames: int | None = None,
    tta: bool = False,
) -> Any:
    from linknet_fastai.engines.engine import NATIVE
    from linknet_fastai.engines.open_engine import open_engine

    seen = size if size in (None, NATIVE) else parse_size_option(size)
    return open_engine(model, engine, precision or "auto", device, seen, trust_pickle, frames, tta)


def benchmark(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A run folder or a .safetensors.",
            show_default="untrained networks with either decoder",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="WxH", help="A size of frames; may be given several times."),
    ] = None,
    device: DeviceOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure speed, multiply-adds and memory on this machine, by every engine that is installed."""
    from linknet_fastai.cli.tables import show_speeds
    from linknet_fastai.cli.terminal import progress_bar, show_or_print_json
    from linknet_fastai.export import benchmark as speed

    sizes = [parse_size_option(text) for text in size] if size else speed.SIZES
    with progress_bar() as progress:
        speeds = speed.benchmark(model, sizes, device or "auto", progress)
    show_or_print_json(lambda: show_speeds(speeds), [asdict(speed) for speed in speeds], json_file)
