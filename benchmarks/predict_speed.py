"""Prediction speed: our engines and smp's Linknet in torch, frame by frame and over a folder of files.

    python benchmarks/predict_speed.py RUN CAMVID --json results/benchmarks/predict_speed.json

RUN is a run folder of camvid, CAMVID its data in the SegNet layout. Frame by frame: a 640x360 frame as bytes in, its
class map out. Files: the val frames from PNG to mask PNG, start-up left out. smp gets 640x384 and 480x384, the
nearest sizes it takes. The mIoU of each engine on val is listed with its speed, to show what int8 and bf16 cost.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import contest
import numpy as np
import typer
from PIL import Image

SIZE = (640, 360)
FRAMES_A_ROUND = 20


class Setting(NamedTuple):
    """The run, its exported files, the val frames, and where masks go."""

    run: Path
    folder: Path
    val: Path

    def file(self, kind: str) -> Path:
        """The model file of an engine."""
        return self.run if kind == "torch" else self.folder / kind


def _frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def _each_frame(predict: Callable[[np.ndarray], np.ndarray]) -> Callable[[], float]:
    frame = _frame()

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(FRAMES_A_ROUND):
            predict(frame)
        return (time.perf_counter() - start) / FRAMES_A_ROUND * 1e3

    return measure


def ours_frame(setting: Setting, kind: str, engine: str, precision: str) -> Callable[[], float]:
    """An engine of ours, a frame at a time."""
    from linknet_fastai.engines.open_engine import open_engine

    opened = open_engine(setting.file(kind), engine, precision, size=SIZE, frames=1)
    return _each_frame(lambda frame: opened.channels(frame, SIZE[::-1]))


def smp_predictor(tuned: bool) -> Callable[[np.ndarray], np.ndarray]:
    """smp's Linknet as one would write it: normalise, pad, argmax; tuned by hand it is bf16 and channels_last."""
    import torch
    from peers import MEAN, STD, pad_to_32, smp_linknet

    model = smp_linknet().eval()
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (MEAN, STD))
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = model.to(memory_format=layout)

    @torch.inference_mode()
    def predict(frame: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        batch = pad_to_32((image - mean) / std).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            logits = model(batch)
        return logits.argmax(1)[0, : frame.shape[0], : frame.shape[1]].to(torch.uint8).numpy()

    return predict


def smp_frame(setting: Setting, tuned: bool) -> Callable[[], float]:
    """smp's Linknet, a frame at a time."""
    return _each_frame(smp_predictor(tuned))


def ours_files(setting: Setting, kind: str, precision: str) -> Callable[[], float]:
    """`predict --masks-only` over the val frames, without the start of the program."""
    from linknet_fastai.engines.open_engine import open_engine
    from linknet_fastai.predict.images import predict_images
    from linknet_fastai.predict.inputs import collect_jobs

    out = setting.folder / f"masks-{kind}-{precision}"
    jobs = collect_jobs([setting.val], out)
    opened = open_engine(setting.file(kind), precision=precision)

    def measure() -> float:
        start = time.perf_counter()
        predict_images(opened, jobs, out, masks_only=True)
        return (time.perf_counter() - start) / len(jobs) * 1e3

    return measure


def smp_files(setting: Setting) -> Callable[[], float]:
    """A plain script: PIL, smp's Linknet in fp32, PIL."""
    predict, out = smp_predictor(tuned=False), setting.folder / "masks-smp"
    out.mkdir(exist_ok=True)
    files = sorted(setting.val.glob("*.png"))

    def measure() -> float:
        start = time.perf_counter()
        for file in files:
            mask = predict(np.array(Image.open(file).convert("RGB")))
            Image.fromarray(mask).save(out / file.name)
        return (time.perf_counter() - start) / len(files) * 1e3

    return measure


OURS = "linknet-fastai, torch"
ENGINES = {
    OURS: ("torch", "torch", "auto"),
    "linknet-fastai, torch fp32": ("torch", "torch", "fp32"),
    "linknet-fastai, onnxruntime fp32": ("model.onnx", "onnxruntime", "fp32"),
    "linknet-fastai, openvino fp32": ("model.xml", "openvino", "fp32"),
    "linknet-fastai, openvino": ("model.xml", "openvino", "auto"),
    "linknet-fastai, openvino int8": ("int8.xml", "openvino", "auto"),
}


def _export(run: Path, folder: Path, train: Path) -> None:
    from linknet_fastai.export.export import export_run

    export_run(run, "onnx", folder / "model.onnx", check=train)
    export_run(run, "openvino", folder / "model.xml", check=train)
    export_run(run, "openvino", folder / "int8.xml", int8=True, calibrate=train)


def _scores(setting: Setting, camvid: Path) -> dict[str, float]:
    """The mIoU on val of each engine, at the run's own size."""
    from linknet_fastai.data.open import open_dataset
    from linknet_fastai.engines.open_engine import open_engine
    from linknet_fastai.scoring.evaluate import evaluate

    scores = {}
    for name, (kind, engine, precision) in ENGINES.items():
        opened = open_engine(setting.file(kind), engine, precision)
        scores[name] = evaluate(opened, open_dataset("camvid", camvid), "val").scores.miou
        print(f"mIoU on val {scores[name]:.4f}: {name} ({opened.precision})", flush=True)
    return scores


def main(
    run: Annotated[Path, typer.Argument(help="A run folder of camvid.")],
    camvid: Annotated[Path, typer.Argument(help="CamVid in the SegNet layout.")],
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Predict in turns and print how many times as long as ours each takes."""
    with TemporaryDirectory() as name:
        setting = Setting(run.resolve(), Path(name), (camvid / "val").resolve())
        _export(setting.run, setting.folder, camvid / "train")
        frames = {name: partial(ours_frame, kind=k, engine=e, precision=p) for name, (k, e, p) in ENGINES.items()}
        frames["smp Linknet, torch fp32"] = partial(smp_frame, tuned=False)
        frames["smp Linknet, torch bf16"] = partial(smp_frame, tuned=True)
        files = {OURS: partial(ours_files, kind="torch", precision="auto")}
        files["linknet-fastai, openvino"] = partial(ours_files, kind="model.xml", precision="auto")
        files["linknet-fastai, openvino int8"] = partial(ours_files, kind="int8.xml", precision="auto")
        files["smp Linknet, torch fp32 and PIL"] = smp_files
        by_frame = contest.run(frames, setting, rounds)
        by_file = contest.run(files, setting, rounds)
        scores = _scores(setting, camvid)
    title = f"{SIZE[0]}x{SIZE[1]}, bytes in, class map out"
    contests = [
        contest.report(title, by_frame, OURS, "a frame"),
        contest.report("the val frames, PNG in, mask PNG out", by_file, OURS, "a frame"),
    ]
    contest.save(json, contests, run=run.name, miou_on_val=scores)


if __name__ == "__main__":
    typer.run(main)
