"""`export` and `benchmark`: a model as a file for other programs, and its speed."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from linknet_fastai.cli.options import DeviceOption, JsonOption, parse_size_option, typer_command
from linknet_fastai.config.settings import parse_device
from linknet_fastai.core.errors import UsageError
from linknet_fastai.engines.formats import FORMATS, FormatName


@typer_command
def export(
    run: Annotated[Path, "Run folder or .safetensors.", "RUN"],
    format: Annotated[FormatName | None, f"{', '.join(FORMATS)}.", "NAME", "list the formats, write nothing"] = None,
    out: Annotated[Path | None, "File to write.", "FILE", "RUN/export.SUFFIX or export-int8.xml"] = None,
    int8: Annotated[bool, "Quantize to int8: openvino only, needs --calibrate."] = False,
    calibrate: Annotated[Path | None, "Folder of frames that decide the scales, at most 60.", "DIR"] = None,
    check: Annotated[
        Path | None,
        "Folder of frames to compare with torch on, at most 10.",
        "DIR",
        "that of --calibrate, or drawn scenes",
    ] = None,
) -> None:
    """Export a run's best weights as one file. Without --format: list the formats, and write nothing."""
    from linknet_fastai.cli.terminal import console, working

    if format is None:
        if out or int8 or calibrate or check:
            raise UsageError("--format: is missing; `export RUN` alone lists the formats")
        from linknet_fastai.cli.tables import show_formats

        show_formats()
        return
    with working("exporting"):
        from linknet_fastai.export.export import export_run

        written = export_run(run, format, out, int8, calibrate, check)
    console.print(f"{written.file} ({written.mebibytes:.1f} MiB)")
    if result := written.check:
        console.print(
            f"{result.engine} agrees with torch in fp32 on {result.agreement:.3%} of the pixels\n"
            f"of {result.frames} frames ({result.source})"
        )


@typer_command
def benchmark(
    model: Annotated[
        Path | None, "Run folder or .safetensors.", "[MODEL]", "an untrained network of each decoder"
    ] = None,
    size: Annotated[list[str] | None, "Size of frames; can be given several times.", "WxH"] = None,
    device: DeviceOption = None,
    json: JsonOption = None,
) -> None:
    """Measure speed, multiply-adds and memory on this machine, with every engine that is installed."""
    from linknet_fastai.cli.tables import show_speeds
    from linknet_fastai.cli.terminal import progress_bar, show_or_print_json
    from linknet_fastai.export import benchmark as speed

    sizes = [parse_size_option(text) for text in size] if size else speed.SIZES
    with progress_bar() as progress:
        speeds = speed.benchmark(model, sizes, parse_device(device or "auto"), progress)
    show_or_print_json(lambda: show_speeds(speeds), [asdict(speed) for speed in speeds], json)
