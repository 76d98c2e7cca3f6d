"""An archive like that of onnxruntime-web, so that nothing is downloaded: its network sees classes by their red."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_graph, make_model
from PIL import Image

from linknet_fastai.export import web, web_runtime
from linknet_fastai.export.graph import Check
from linknet_fastai.export.web import RUNTIMES

CLASSES = 11
API = """
export const env = { wasm: {} };
export class Tensor {
  constructor(type, data, dims) { Object.assign(this, { type, data, dims }); }
}
async function run({ image, size }, [wanted]) {
  await new Promise((done) => setTimeout(done, MILLISECONDS));
  const [, height, width] = image.dims, [tall, wide] = Array.from(size.data, Number);
  const mask = new Uint8Array(tall * wide);
  for (let y = 0; y < tall; y++) {
    for (let x = 0; x < wide; x++) {
      const from = Math.floor((y * height) / tall) * width + Math.floor((x * width) / wide);
      mask[y * wide + x] = (image.data[3 * from] * 11) >> 8;
    }
  }
  return { [wanted]: { data: mask } };
}
export const InferenceSession = {
  async create(network) {
    const binary = new TextDecoder().decode(env.wasm.wasmBinary);
    if (binary !== "ort-wasm-simd-threaded.wasm") throw new Error("not unpacked");
    if (network.length < 1000) throw new Error("no network");
    return { run };
  },
};
"""


def classes_of(frame: Image.Image, seen: tuple[int, int]) -> np.ndarray:
    """What this network gives for a frame that is resized to `seen`, HxW."""
    red = np.asarray(frame.resize(seen, Image.Resampling.BILINEAR))[..., 0].astype(int)
    rows, columns = (
        np.arange(side) * small // side for side, small in zip(frame.size[::-1], seen[::-1], strict=True)
    )
    return red[rows][:, columns] * CLASSES >> 8


def fake_network(patch: pytest.MonkeyPatch) -> None:
    """Have `export_web` write a network that does nothing: this runtime does not read it."""
    content = make_model(make_graph([], "none", [], [], doc_string=1000 * "-")).SerializeToString()
    patch.setattr(web, "export_graph", lambda model, card, file, frames: file.write_bytes(content))
    patch.setattr(web, "check_graph", lambda *arguments, **options: Check(1, 0, "nothing", "nothing"))


def fake_archive(file: Path, patch: pytest.MonkeyPatch, milliseconds: int = 0) -> Path:
    """Write the archive, and have its digest be the one that is known; a prediction takes so many milliseconds."""
    with tarfile.open(file, "w:gz") as archive:
        for name in {name for names in RUNTIMES.values() for name in names}:
            api = API.replace("MILLISECONDS", str(milliseconds))
            content = (api if name.startswith("ort.wasm") else name).encode()
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    patch.setattr(web_runtime, "SHA512", hashlib.sha512(file.read_bytes()).hexdigest())
    return file
