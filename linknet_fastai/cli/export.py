"""`export` and `benchmark`: a model as a file for other programs, and its speed."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from linknet_fastai.cli.options import DeviceOption, JsonOption, parse_size_option, typer_command
from linknet_fastai.config.settings import parse_device
from linknet_fastai.core.errors import UsageError
from linknet_fastai.engines.formats import FORMATS, FormatName

if TYPE_CHECKING:
    from linknet_fastai.export.graph import Check

NETWORK = {"rich_help_panel": "For --interface network"}


@typer_command
def export(
    run: Annotated[Path, "Run folder or .safetensors.", "RUN"],
    format: Annotated[
        Literal[FormatName, "web"] | None,
        f"{', '.join(FORMATS)}; web: a folder with a page that predicts in the browser.",
        "NAME",
        "list the formats, write nothing",
    ] = None,
    out: Annotated[
        Path | None, "File or folder to write.", "PATH", "RUN/export.SUFFIX, export-int8.SUFFIX, export-web"
    ] = None,
    int8: Annotated[bool, "Quantize to int8: onnx, openvino and web, needs --calibrate."] = False,
    calibrate: Annotated[Path | None, "Folder of frames that decide the scales, at most 60.", "DIR"] = None,
    check: Annotated[
        Path | None,
        "Folder of frames to compare with torch on, at most 10.",
        "DIR",
        "that of --calibrate, or drawn scenes",
    ] = None,
    runtime: Annotated[
        Path | None, "onnxruntime-web as npm has it, for web.", "FILE.tgz", "downloaded once, 33 MB"
    ] = None,
    interface: Annotated[
        Literal["frame", "network"],
        "frame: any frame to its class map, for this program and ONNX Runtime; network: a folder with a static graph "
        "and files for Triton, TensorRT, DeepStream and Isaac ROS.",
        "NAME",
    ] = "frame",
    size: Annotated[str | None, "Size of the graph's input and outputs.", "WxH", "the training size", NETWORK] = None,
    input: Annotated[
        Literal["float32", "uint8", "normalized"] | None,
        "float32 or uint8 pixels from 0 to 255, or normalized by the caller.",
        "NAME",
        "float32",
        NETWORK,
    ] = None,
    output: Annotated[
        Literal["int32", "int64", "probabilities", "logits"] | None,
        "Classes as int32 or int64, or scores; DeepStream needs probabilities.",
        "NAME",
        "int32",
        NETWORK,
    ] = None,
    confidence: Annotated[bool, "Second output: the probability of the class.", None, None, NETWORK] = False,
    half: Annotated[bool, "Compute in fp16.", None, None, NETWORK] = False,
) -> None:
    """Export a run's best weights as a file, or a folder. Without --format: list the formats, and write nothing."""
    from linknet_fastai.cli.terminal import console, working

    given = {"size": size, "input": input, "output": output, "confidence": confidence, "half": half}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value}
    if format is None:
        if out or int8 or calibrate or check or runtime or chosen or interface != "frame":
            raise UsageError("--format: is missing; `export RUN` alone lists the formats")
        from linknet_fastai.cli.tables import show_formats

        show_formats()
        return
    if runtime and format != "web":
        raise UsageError("--runtime: goes with --format web")
    if interface == "network":
        if format != "onnx" or int8 or calibrate:
            raise UsageError("--interface network: goes with --format onnx, without --int8 and --calibrate")
        chosen["size"] = parse_size_option(size) if size else None
        with working("exporting"):
            from linknet_fastai.export.network import export_network

            written, files = export_network(run, out, check=check, **chosen)
        console.print(f"{written.file} ({written.mebibytes:.1f} MiB), with {', '.join(file.name for file in files)}")
        _show_check(written.check)
        return
    if chosen:
        raise UsageError(f"--{min(chosen)}: goes with --interface network")
    if format == "web":
        with working("exporting"):
            from linknet_fastai.export.web import export_web

            page = export_web(run, out, int8, calibrate, check, runtime)
        console.print(
            f"{page.folder} ({page.mebibytes:.1f} MiB; on WebAssembly a browser loads {page.loaded:.1f} MiB)"
        )
        _show_check(page.check)
        console.print(f"to try it: python -m http.server --directory {shlex.quote(str(page.folder))}")
        console.print("and open http://localhost:8000")
        return
    with working("exporting"):
        from linknet_fastai.export.export import export_run

        written = export_run(run, format, out, int8, calibrate, check)
    console.print(f"{written.file} ({written.mebibytes:.1f} MiB)")
    _show_check(written.check)


def _show_check(result: "Check | None") -> None:
    from linknet_fastai.cli.terminal import console

    if result:
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
