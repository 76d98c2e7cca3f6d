"""Speed against accuracy: milliseconds a frame and class IoU after 20 minutes of training from scratch.

    python benchmarks/pareto.py CAMVID --json results/benchmarks/pareto.json --speed --chart docs/pareto.png

CAMVID is the data in the SegNet layout. LinkNet at three widths (n .25, s .5, m 1), n with m as its teacher too,
smp's Linknet tuned by hand and ultralytics' yolo26n-sem are each trained once, as in time_to_score.py: at 480x360,
on two of CamVid's three training drives. The weights of the last epoch are scored on val, which is close to these
frames, and on the third drive (0006R0), a street that the network has not seen. With --speed, each network then
predicts frames of 640x360 and 1280x720 by the faster of OpenVINO and torch, both in bf16: pixels from 0 to 1 in,
classes out; normalizing, and padding where a network needs multiples of 32, are in it. Contestants that the JSON
file has are not trained again: the benchmark can be run in parts.

ultralytics (AGPL-3.0, `pip install ultralytics`) is not in the extra `benchmarks`; without it, it is left out.
"""

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import contest
import typer
from time_to_score import Entry, Report, Setting, class_iou, measure, smp_tuned, train_ours, yolo

MINUTES, DRIVE = 20.0, "0006R0"
WIDTHS = {"n": 0.25, "s": 0.5, "m": 1.0}
FRAMES, ENGINES = ((640, 360), (1280, 720)), ("openvino", "torch")
SECONDS_TO_BEGIN, SHARE = 20, 0.95  # of ours: imports and building it twice; room for epochs that take longer
MINUTES_TO_END = 4  # for the last epoch and what a contestant does after it


def train_linknet(setting: Setting, report: Report, file: Path, width: str, teacher: Path | None = None) -> None:
    """`linknet-fastai fit camvid --no-pretrained --width WIDTH [--teacher M]` with the epochs that fit into the time.

    One epoch is trained to measure how many these are; it counts as well.
    """
    from linknet_fastai.model.save_load import save_model

    begin = time.perf_counter()
    given = {"width": WIDTHS[width]} | ({"teacher": teacher} if teacher else {})
    _, seconds = train_ours(setting, report, 1, **given)
    left = setting.minutes * 60 - (time.perf_counter() - begin) - SECONDS_TO_BEGIN
    learn, _ = train_ours(setting, report, max(1, int(SHARE * left / seconds)), **given)
    save_model(learn.model, learn.card, file)


def train_smp(setting: Setting, report: Report, file: Path) -> None:
    """smp's Linknet, tuned by hand."""
    import torch

    torch.save(smp_tuned(setting, report).state_dict(), file)


def train_yolo(setting: Setting, report: Report, file: Path) -> None:
    """ultralytics' own training."""
    shutil.copyfile(yolo(setting, report), file)


def contestants(models: Path) -> dict[str, Callable[..., None]]:
    """What trains each; `models` has the teacher, which is trained first."""
    teacher = model_file(models, "LinkNet m")
    return {
        "LinkNet m": partial(train_linknet, width="m"),
        "LinkNet n": partial(train_linknet, width="n"),
        "ultralytics yolo26n-sem": train_yolo,
        "smp Linknet, tuned by hand": train_smp,
        "LinkNet n, taught by m": partial(train_linknet, width="n", teacher=teacher),
        "LinkNet s": partial(train_linknet, width="s"),
    }


def model_file(models: Path, name: str) -> Path:
    """Where a contestant's trained network is."""
    return models / f"{name}{'.safetensors' if name.startswith('LinkNet') else '.pt'}"


def two_drives(camvid: Path, folder: Path) -> Path:
    """CamVid with links to its files, whose `train` is without a drive, which is the split of its name."""
    for kind in ("", "annot"):
        for split in ("train", DRIVE):
            (folder / f"{split}{kind}").mkdir(parents=True)
        (folder / f"val{kind}").symlink_to(camvid / f"val{kind}")
        for file in (camvid / f"train{kind}").glob("*.png"):
            split = DRIVE if file.name.startswith(DRIVE) else "train"
            (folder / f"{split}{kind}" / file.name).symlink_to(file)
    return folder


# Networks


def predictor(name: str, file: Path | None = None) -> Any:
    """A contestant's network, trained if there is a file: Bx3xHxW floats of 0 to 1 to BxHxW uint8 classes."""
    import torch
    from peers import MEAN, STD, pad_to_32, smp_linknet
    from torchvision.transforms.functional import normalize

    from linknet_fastai.model.linknet import LinkNet
    from linknet_fastai.model.save_load import load_model

    mean, std, prepare = MEAN, STD, pad_to_32
    if name.startswith("LinkNet"):
        prepare = torch.nn.Identity()
        model = load_model(file)[0] if file else LinkNet(11, pretrained=False, width=WIDTHS[name[8]])
    elif name.startswith("smp"):
        model = smp_linknet()
        if file:
            model.load_state_dict(torch.load(file))
    else:
        from ultralytics import YOLO
        from ultralytics.nn.tasks import SemanticSegmentationModel

        mean, std = (0, 0, 0), (1, 1, 1)
        model = YOLO(file).model.float() if file else SemanticSegmentationModel("yolo26n-sem.yaml", nc=11)
        model.fuse()
        for module in model.modules():
            if hasattr(module, "export"):
                module.export = True  # as in its own exports: logits of the frame's size alone

    class Predictor(torch.nn.Module):
        """Pixels to classes."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Predict."""
            logits = self.model(prepare(normalize(images, mean, std)))
            return logits[..., : images.shape[-2], : images.shape[-1]].argmax(1).to(torch.uint8)

    return Predictor()


# Speed


def network_of(name: str) -> str:
    """The network of a contestant: without how it was trained."""
    return name.partition(",")[0]


def predicts(size: tuple[int, int], network: str, engine: str) -> Callable[[], float]:
    """Prepare a network on an engine for frames of (width, height); the result takes the time of one in ms."""
    import openvino
    import torch

    width, height = size
    images = torch.rand(1, 3, height, width)
    model = predictor(network)
    if engine == "openvino":
        converted = openvino.convert_model(model, example_input=images, input=[*images.shape])
        options = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
        request = openvino.Core().compile_model(converted, "CPU", options).create_infer_request()
        predict: Callable[[], Any] = partial(request.infer, [images.numpy()])
    else:
        model = model.to(memory_format=torch.channels_last)
        batch = images.contiguous(memory_format=torch.channels_last)

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
    """The ms a frame of each network and size, by the faster of its engines; all networks in turns."""
    found: dict[str, dict[str, Any]] = {network_of(name): {} for name in names}
    for size in FRAMES:
        pairs = [(name, engine) for name in found for engine in ENGINES]
        in_turns = {f"{name}, {engine}": partial(predicts, network=name, engine=engine) for name, engine in pairs}
        results = contest.run(in_turns, size, rounds)
        for name in found:
            by_engine = {one: round(results[f"{name}, {one}"]["ms"], 2) for one in ENGINES}
            engine = min(by_engine, key=by_engine.__getitem__)
            found[name]["{}x{}".format(*size)] = {"engine": engine, "ms": by_engine[engine], "by_engine": by_engine}
    return found


def mean_times(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The mean ms a frame over several runs of `times`, by network and size."""
    first = runs[0]["networks"]
    return {
        name: {
            size: round(statistics.mean(run["networks"][name][size]["ms"] for run in runs), 1) for size in first[name]
        }
        for name in first
    }


def draw(content: dict[str, Any], file: Path) -> None:
    """Draw class IoU over milliseconds: val and the drive left out."""
    from matplotlib.figure import Figure

    figure = Figure((9, 4), layout="constrained")
    titles = {"val": "val, close to training frames", DRIVE: f"a drive left out ({DRIVE})"}
    for axes, (split, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for name, scores in content["class_iou"].items():
            x, y = content["ms"][network_of(name)]["640x360"], scores[split]
            axes.plot(x, y, "oC0" if name.startswith("LinkNet") else "sC1")
            # Not over the next network's point, and below the network's other row.
            offset = (7, -3) if name == "LinkNet n" else (5, -12 if "taught" in name else 5)
            shown = name.removeprefix("ultralytics ")
            axes.annotate(shown, (x, y), offset, textcoords="offset points", fontsize=8)
        axes.margins(0.6, 0.15)  # room for the names
        axes.set(title=title, xlabel="ms a frame at 640x360, two cores", ylabel="class IoU", xlim=(0, None))
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


def main(
    camvid: Annotated[Path, typer.Argument(help="CamVid in the SegNet layout.")],
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go; those in it are kept.")],
    models: Annotated[Path, typer.Option(help="Where the trained networks go; LinkNet m is the teacher.")] = Path(
        "pareto-models"
    ),
    chart: Annotated[Path | None, typer.Option(help="Where the chart goes.")] = None,
    only: Annotated[str, typer.Option(help="Train only those whose name contains this.")] = "",
    minutes: Annotated[float, typer.Option(help="Of training, less for a try.")] = MINUTES,
    speed: Annotated[bool, typer.Option(help="Measure the times, on a quiet machine; each run is kept.")] = False,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Train the contestants that have no figures yet; with --speed measure their times, with --chart draw both."""
    empty: dict[str, Any] = {"curves": {}, "class_iou": {}, "times": []}
    content = json.loads(json_file.read_text(encoding="utf-8")) if json_file.exists() else empty
    models = models.resolve()
    models.mkdir(parents=True, exist_ok=True)
    entered = contestants(models)
    if not find_spec("ultralytics"):
        del entered["ultralytics yolo26n-sem"]

    def save() -> None:
        content["machine"], content["minutes"] = contest.machine(), minutes
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    for name, train in entered.items():
        if name in content["curves"] or only not in name:
            continue
        print(name, flush=True)
        file = model_file(models, name)
        with TemporaryDirectory() as folder:
            setting = Setting(two_drives(camvid.resolve(), Path(folder) / "data"), Path(folder), minutes, math.inf)
            # Each ends by itself, in time.
            content["curves"][name] = measure(Entry(partial(train, file=file), minutes + MINUTES_TO_END), setting)
            scores = {split: class_iou(setting, split, predictor(name, file)) for split in ("val", DRIVE)}
        content["class_iou"][name] = {split: round(score, 4) for split, score in scores.items()}
        print(name, content["class_iou"][name], flush=True)
        save()
    if speed:
        content["times"].append({"date": contest.machine()["date"], "networks": times([*entered], rounds)})
        content["ms"] = mean_times(content["times"])
        save()
    if chart and content["times"]:
        draw(content, chart)


if __name__ == "__main__":
    typer.run(main)
