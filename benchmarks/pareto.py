"""Speed against accuracy: milliseconds a frame and class IoU after 20 minutes of training from scratch.

    python benchmarks/pareto.py CAMVID --json results/benchmarks/pareto.json --chart docs/pareto.png

CAMVID is the data in the SegNet layout. LinkNet at three widths (n .25, s .5, m 1), n and s with m as their teacher
too, smp's Linknet tuned by hand and ultralytics' yolo26n-sem are each trained twice at 480x360, as in
time_to_score.py: on the training frames, scored on val; and on two of their three drives, scored on the third
(0016E5), which is closer to what a network does on a street that it has not seen. Then each network predicts frames
of 640x360 and 1280x720 (smp and yolo the next multiples of 32) with the faster of OpenVINO and torch in bf16: pixels
as floats in, class map out. Trainings that the JSON file has are not repeated: the benchmark can be run in parts, for
hours. Times are measured with --speed.

ultralytics (AGPL-3.0, `pip install ultralytics`) is not in the extra `benchmarks`; without it, it is left out.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import contest
import typer
from time_to_score import Entry, Report, Setting, measure, smp_tuned, train_ours, yolo

MINUTES, DRIVE = 20.0, "0016E5"
WIDTHS = {"n": 0.25, "s": 0.5, "m": 1.0}
FRAMES = ((640, 360), (1280, 720))
SECONDS_TO_BEGIN, SHARE = 20, 0.95  # of ours: imports and building it twice; room for epochs that take longer


class Place(NamedTuple):
    """What is scored, the frames of it, and where models go; `teacher` is there from its own turn on."""

    split: str
    models: Path

    @property
    def teacher(self) -> Path:
        """The largest network, trained on the same frames."""
        return self.models / f"m-{self.split}.safetensors"


def ours(setting: Setting, report: Report, width: str, place: Place, taught: bool) -> None:
    """`linknet-fastai fit camvid --no-pretrained --width WIDTH [--teacher M]` with the epochs that fit into the time.

    One epoch is trained to measure how many these are; it counts as well.
    """
    from linknet_fastai.model.save_load import save_model

    begin = time.perf_counter()
    given = {"width": WIDTHS[width]} | ({"teacher": place.teacher} if taught else {})
    _, seconds = train_ours(setting, report, 1, **given)
    left = setting.minutes * 60 - (time.perf_counter() - begin) - SECONDS_TO_BEGIN
    learn, _ = train_ours(setting, report, max(1, int(SHARE * left / seconds)), **given)
    name = f"{width}{'-taught' if taught else ''}-{place.split}"
    save_model(learn.model, learn.card, place.models / f"{name}.safetensors")


CONTESTANTS: dict[str, Callable[[Place], Callable[[Setting, Report], None]]] = {
    "LinkNet m": lambda place: partial(ours, width="m", place=place, taught=False),
    "LinkNet s": lambda place: partial(ours, width="s", place=place, taught=False),
    "LinkNet n": lambda place: partial(ours, width="n", place=place, taught=False),
    "LinkNet s, taught by m": lambda place: partial(ours, width="s", place=place, taught=True),
    "LinkNet n, taught by m": lambda place: partial(ours, width="n", place=place, taught=True),
    "smp Linknet, tuned by hand": lambda place: smp_tuned,
    "ultralytics yolo26n-sem": lambda place: yolo,
}


def without_drive(camvid: Path, folder: Path) -> Path:
    """CamVid whose val is a drive of its training frames, and whose train are the other two; links to the files."""
    for split, is_in in {"train": False, "val": True}.items():
        for kind in ("", "annot"):
            (folder / f"{split}{kind}").mkdir(parents=True)
            for file in (camvid / f"train{kind}").glob("*.png"):
                if file.name.startswith(DRIVE) == is_in:
                    (folder / f"{split}{kind}" / file.name).symlink_to(file)
    return folder


# Speed


class Timing(NamedTuple):
    """A network, and the (width, height) of the frames that it predicts."""

    network: str
    size: tuple[int, int]


def network_of(name: str) -> str:
    """The network of a contestant: without how it was trained."""
    return name.partition(",")[0]


def network(name: str) -> Any:
    """The network of a contestant, untrained: Bx3xHxW floats to logits."""
    if name.startswith("LinkNet"):
        from linknet_fastai.model.linknet import LinkNet

        return LinkNet(11, pretrained=False, width=WIDTHS[name[8]])
    if name.startswith("smp"):
        from peers import smp_linknet

        return smp_linknet()
    from ultralytics import YOLO

    model = YOLO("yolo26n-sem.yaml").model
    model.fuse()
    for module in model.modules():
        if hasattr(module, "export"):
            module.export = True  # as in its own exports: logits alone
    return model


def predicts(timing: Timing, engine: str) -> Callable[[], float]:
    """Prepare a network on an engine; the result takes the time of a frame in ms."""
    import numpy as np
    import openvino
    import torch
    from torch import nn

    class ToClasses(nn.Module):
        """Logits to the class of each pixel."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network(timing.network).eval()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """BxHxW uint8."""
            return self.network(images).argmax(1).to(torch.uint8)

    width, height = timing.size
    if not timing.network.startswith("LinkNet"):
        height += -height % 32
    images = np.random.default_rng(0).random((1, 3, height, width), np.float32)
    model = ToClasses()
    if engine == "openvino":
        converted = openvino.convert_model(model, example_input=torch.from_numpy(images), input=[*images.shape])
        options = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
        request = openvino.Core().compile_model(converted, "CPU", options).create_infer_request()
        predict: Callable[[], Any] = partial(request.infer, [images])
    else:
        model = model.to(memory_format=torch.channels_last)
        batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

        @torch.inference_mode()
        def predict() -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return model(batch).numpy()

    def take() -> float:
        begin = time.perf_counter()
        for _ in range(10):
            predict()
        return (time.perf_counter() - begin) * 100

    return take


def times(names: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """The ms a frame of each network and size, by the faster of its engines."""
    found: dict[str, dict[str, Any]] = {network_of(name): {} for name in names}
    for name in found:
        for size in FRAMES:
            contestants = {engine: partial(predicts, engine=engine) for engine in ("openvino", "torch")}
            results = contest.run(contestants, Timing(name, size), rounds)
            engine = min(results, key=lambda one: results[one]["ms"])
            by_engine = {one: round(result["ms"], 2) for one, result in results.items()}
            found[name]["{}x{}".format(*size)] = {"engine": engine, "ms": by_engine[engine], "by_engine": by_engine}
    return found


def draw(content: dict[str, Any], file: Path) -> None:
    """Draw class IoU over milliseconds: val and the drive left out."""
    from matplotlib.figure import Figure

    figure = Figure((9, 4), layout="constrained")
    titles = {"val": "val, close to training frames", DRIVE: f"a drive left out ({DRIVE})"}
    for axes, (split, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for name, scores in content["class_iou"].items():
            if split not in scores or network_of(name) not in content["times"]:
                continue  # measured in another part
            x, y = content["times"][network_of(name)]["640x360"]["ms"], scores[split]
            axes.plot(x, y, "oC0" if name.startswith("LinkNet") else "sC1")
            axes.annotate(name.removeprefix("ultralytics "), (x, y), (5, 4), textcoords="offset points", fontsize=8)
        axes.margins(0.4, 0.25)  # room for the names
        axes.set(title=title, xlabel="ms a frame at 640x360, two cores", ylabel="class IoU", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


def main(
    camvid: Annotated[Path, typer.Argument(help="CamVid in the SegNet layout.")],
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go; those in it are kept.")],
    models: Annotated[Path, typer.Option(help="Where our trained models go; m is the teacher.")] = Path(
        "pareto-models"
    ),
    chart: Annotated[Path | None, typer.Option(help="Where the chart goes.")] = None,
    only: Annotated[str, typer.Option(help="Train only those whose name contains this.")] = "",
    minutes: Annotated[float, typer.Option(help="Of training, less for a try.")] = MINUTES,
    speed: Annotated[bool, typer.Option(help="Measure the times, on a quiet machine.")] = False,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Train the contestants that have no figures yet; with --speed measure their times, with --chart draw both."""
    empty: dict[str, Any] = {"curves": {}, "class_iou": {}, "times": {}}
    content = json.loads(json_file.read_text(encoding="utf-8")) if json_file.exists() else empty
    names = [name for name in CONTESTANTS if "yolo" not in name or find_spec("ultralytics")]

    def save() -> None:
        content["machine"], content["minutes"] = contest.machine(), minutes
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    models.mkdir(parents=True, exist_ok=True)
    for split in ("val", DRIVE):
        for name in names:
            curves = content["curves"].setdefault(name, {})
            if split in curves or only not in name:
                continue
            print(name, split, flush=True)
            with TemporaryDirectory() as folder:
                data = camvid.resolve() if split == "val" else without_drive(camvid.resolve(), Path(folder) / "data")
                setting = Setting(data, Path(folder), minutes, enough=1.0)
                entry = Entry(CONTESTANTS[name](Place(split, models.resolve())), minutes)
                # Ours ends by itself, in time; what is still training at the limit is stopped.
                curves[split] = measure(entry, setting)
            content["class_iou"].setdefault(name, {})[split] = curves[split][-1][1] if curves[split] else 0.0
            save()
    if speed:
        content["times"] = times(names, rounds)
        save()
    if chart and content["times"]:
        draw(content, chart)


if __name__ == "__main__":
    typer.run(main)
