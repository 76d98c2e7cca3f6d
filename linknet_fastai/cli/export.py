"""`export` and `benchmark`: a model as a file for other programs, and its speed."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from linknet_fastai.cli.options import DeviceOption, JsonOption, parse_size_option
from linknet_fastai.config.settings import parse_device
from linknet_fastai.core.errors import UsageError
from linknet_fastai.engines.formats import FORMATS, FormatName


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or .safetensors.")],
    file_format: Annotated[
        FormatName | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help=f"{', '.join(FORMATS)}.",
            show_default="list the formats, write nothing",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="File to write.", show_default="RUN/export.SUFFIX or export-int8.xml"
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to int8: openvino only, needs --calibrate.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="DIR", help="Folder of frames that decide the scales, at most 60."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="DIR",
            help="Folder of frames to compare with torch on, at most 10.",
            show_default="that of --calibrate, or drawn scenes",
        ),
    ] = None,
) -> None:
    """Export a run's best weights as one file. Without --format: list the formats, and write nothing."""
    from linknet_fastai.cli.terminal import console, working

    if file_format is None:
        if out or int8 or calibrate or check:
            raise UsageError("--format: is missing; `export RUN` alone lists the formats")
        from linknet_fastai.cli.tables import show_formats

        show_formats()
        return
    with working("exporting"):
        from linknet_fastai.export.export import export_run

        written = export_run(run, file_format, out, int8, calibrate, check)
    console.print(f"{written.file} ({written.mebibytes:.1f} MiB)")
    if result := written.check:
        console.print(
            f"{result.engine} in {result.precision} agrees with torch in fp32 on {result.agreement:.3%} of the "
            f"pixels of {result.frames} frames ({result.source})"
        )


def benchmark(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Run folder or .safetensors.",
            show_default="an untrained network of each decoder",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="WxH", help="Size of frames; can be given several times."),
    ] = None,
    device: DeviceOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure speed, multiply-adds and memory on this machine, with every engine that is installed."""
    from linknet_fastai.cli.tables import show_speeds
    from linknet_fastai.cli.terminal import progress_bar, show_or_print_json
    from linknet_fastai.export import benchmark as speed

    sizes = [parse_size_option(text) for text in size] if size else speed.SIZES
    with progress_bar() as progress:
        speeds = speed.benchmark(model, sizes, parse_device(device or "auto"), progress)
    show_or_print_json(lambda: show_speeds(speeds), [asdict(speed) for speed in speeds], json_file)
