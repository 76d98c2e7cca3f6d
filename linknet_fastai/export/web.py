"""Write a run's network as a web page that predicts in the browser; the page itself is in `predict/page.py`."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from linknet_fastai.core.files import atomic_write
from linknet_fastai.engines.onnx_engine import without_confidence
from linknet_fastai.export.export import check_int8, check_own_folder
from linknet_fastai.export.graph import Check, check_graph, export_graph
from linknet_fastai.export.web_runtime import runtime_files
from linknet_fastai.model.card import METADATA_KEY
from linknet_fastai.model.named import folder_for
from linknet_fastai.model.save_load import load_model
from linknet_fastai.predict.inputs import find_images
from linknet_fastai.predict.page import INFO, page_files, page_info

FOLDER, NETWORK = "export-web", "model.onnx.gz"
# Of onnxruntime-web, by what it runs on: its interface, and the script and WebAssembly that the interface loads.
RUNTIMES = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": (
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
}


@dataclass(frozen=True)
class WebExport:
    """A folder that was written.

    Attributes:
        folder: the folder, for a web server.
        check: how its network compares with torch.
        mebibytes: of all files, in MiB.
        loaded: what of it a browser loads on WebAssembly, in MiB.
    """

    folder: Path
    check: Check
    mebibytes: float
    loaded: float


def export_web(
    run: Path,
    out: Path | None = None,
    int8: bool = False,
    calibrate: Path | None = None,
    check: Path | None = None,
    runtime: Path | None = None,
) -> WebExport:
    """Export a run's best weights as a folder for any web server: a page that predicts in the browser.

    A network in floats runs on WebGPU where the browser has it, one in int8 always on WebAssembly.

    Args:
        run: a run folder or a `.safetensors`.
        out: the folder to write, by default `export-web` in the folder of the model.
        int8: whether to quantize.
        calibrate: the folder of frames to quantize with.
        check: a folder of frames to compare with torch on; by default those of `calibrate`, otherwise drawn scenes.
        runtime: the archive of onnxruntime-web; by default it is downloaded into the user's cache folder.

    Raises:
        UsageError: the folder has files that no export wrote, or one of `int8` and `calibrate` is missing.
        UserError: a package is not installed, the download failed, a file cannot be written, or the network's class
            maps are not torch's.

    Example::

        export_web(Path("runs/camvid"), int8=True, calibrate=Path("CamVid/val"))
    """
    check_int8(int8, calibrate)
    for frames in filter(None, (calibrate, check)):
        find_images(frames)  # raises before the work starts
    folder = out or folder_for(run) / FOLDER
    check_own_folder(folder, INFO)
    names = ["wasm"] if int8 else ["wasm", "webgpu"]
    package = runtime_files([file for name in names for file in RUNTIMES[name]], runtime)
    model, card = load_model(run)
    with TemporaryDirectory() as temporary:
        export_graph(model, card, file := Path(temporary) / "model.onnx", calibrate)
        precision = "auto" if int8 else "fp32"
        result = check_graph(model, card, file, check or calibrate, precision, engine="onnxruntime")
        network = without_confidence(file.read_bytes())[0]
    files = {NETWORK: gzip.compress(network, mtime=0)} | page_files("browser")
    runtimes = {name: _runtime_paths(name) for name in names}
    for name, paths in runtimes.items():
        for path, source in zip(paths.values(), RUNTIMES[name], strict=True):
            content = package[source]
            files[path] = gzip.compress(content, mtime=0) if path.endswith(".gz") else content
    info = page_info("browser", card) | {
        "written_by": METADATA_KEY,
        "precision": "int8" if int8 else "fp32",
        "model": NETWORK,
        "runtimes": runtimes,
        "bytes": {name: len(content) for name, content in files.items()},
    }
    # First: by it a folder is known as one that an export wrote.
    files = {INFO: json.dumps(info, indent=1, ensure_ascii=False).encode(), **files}
    for name, content in files.items():
        with atomic_write(folder / name) as partial:
            partial.write_bytes(content)
    for name in RUNTIMES.keys() - runtimes.keys():  # of an earlier export in floats
        for path in _runtime_paths(name).values():
            (folder / path).unlink(missing_ok=True)
    mebibytes = {name: len(content) / 2**20 for name, content in files.items()}
    loaded = sum(size for name, size in mebibytes.items() if not name.startswith("runtime/webgpu"))
    return WebExport(folder, result, sum(mebibytes.values()), loaded)


def _runtime_paths(name: str) -> dict[str, str]:
    """Where the files of a runtime are written.

    As .js, which every server sends as a script, and as .gz, because few servers compress WebAssembly.
    """
    return {"api": f"runtime/{name}.js", "glue": f"runtime/{name}-glue.js", "binary": f"runtime/{name}.wasm.gz"}
