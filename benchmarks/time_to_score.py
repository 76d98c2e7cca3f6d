"""Minutes of training to a class IoU on val: ours, smp's Linknet, fastai's unet_learner, ultralytics' YOLO.

    python benchmarks/time_to_score.py CAMVID --json results/benchmarks/time_to_score.json

CAMVID is the data in the SegNet layout. Each contestant trains from scratch on the 367 training frames at 480x360,
one after the other, in a process of its own, and is scored on the 101 val frames after every epoch. The clock runs
from the start of the process to that score: imports, our cache and the validations included. A contestant ends at
the highest target or at its limit, and its schedule ends there too, so that nobody is measured in the middle of
one. Contestants that the JSON file has already are not measured again: the benchmark can be run in parts.

ultralytics (AGPL-3.0, `pip install ultralytics`) is not in the extra `benchmarks`; without it, it is left out.
"""

import json
import math
import multiprocessing
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import contest
import typer

TARGETS = (0.5, 0.6, 0.65)
SIZE, PADDED, BATCH = (480, 360), (480, 384), 8
OUR_EPOCHS = 20
Report = Callable[[float], None]  # called with the class IoU after each epoch; raises Finished at the highest target


class Finished(Exception):  # noqa: N818 - it is none
    """The highest target is reached."""


class Setting(NamedTuple):
    """Where the data and temporary files are, how long a contestant may train, and the score that ends it earlier."""

    camvid: Path
    folder: Path
    minutes: float
    enough: float = TARGETS[-1]

    def names(self, split: str) -> list[str]:
        """The file names of the frames of a split."""
        return sorted(path.name for path in (self.camvid / split).glob("*.png"))


def ours(setting: Setting, report: Report) -> None:
    """`linknet-fastai fit camvid --no-pretrained --epochs 20`."""
    train_ours(setting, report, OUR_EPOCHS)


def train_ours(setting: Setting, report: Report, epochs: int, **given: Any) -> tuple[Any, float]:
    """Train as `linknet-fastai fit camvid --no-pretrained` does, by the same functions.

    Args:
        setting: the data, and the folder of the cache.
        report: called after each epoch.
        epochs: how many.
        given: other settings by name.

    Returns:
        The learner, and the seconds of its epochs.
    """
    from fastai.callback.core import Callback

    from linknet_fastai.config.presets import settings_for
    from linknet_fastai.data.open import open_dataset
    from linknet_fastai.learner.learner import learner_from_settings
    from linknet_fastai.learner.schedules import fit_schedule

    class ReportScore(Callback):
        """Reports the mIoU of each epoch."""

        order = 60  # after the recorder

        def after_epoch(self) -> None:
            """Report."""
            report(self.recorder.values[-1][self.recorder.metric_names.index("miou") - 1])

    dataset = open_dataset("camvid", setting.camvid)
    given |= {"pretrained": False, "size": SIZE, "epochs": epochs, "cache_dir": setting.folder}
    settings, _ = settings_for(dataset.recipe, dataset.layout, given)
    learn = learner_from_settings(dataset, settings)
    begin = time.perf_counter()
    fit_schedule(learn, cbs=[ReportScore()])
    return learn, time.perf_counter() - begin


def smp_documented(setting: Setting, report: Report) -> Any:
    """smp's Linknet as its CamVid example trains it: fp32, Dice loss, Adam at 2e-4 falling to 1e-5 by a cosine."""
    from peers import segmentation_loss
    from torch.optim import Adam
    from torch.optim.lr_scheduler import CosineAnnealingLR

    return _torch_loop(
        setting,
        report,
        segmentation_loss("dice"),
        lambda parameters: Adam(parameters, 2e-4),
        lambda optimizer, steps: CosineAnnealingLR(optimizer, steps, eta_min=1e-5),
        tuned=False,
    )


def smp_tuned(setting: Setting, report: Report) -> Any:
    """The same network tuned by hand: bf16, channels_last, cross-entropy, fused AdamW with one cycle up to 2e-3."""
    from peers import segmentation_loss
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import OneCycleLR

    return _torch_loop(
        setting,
        report,
        segmentation_loss("cross-entropy"),
        lambda parameters: AdamW(parameters, fused=True),
        lambda optimizer, steps: OneCycleLR(optimizer, 2e-3, steps),
        tuned=True,
    )


def _torch_loop(
    setting: Setting, report: Report, loss: Callable, optimize: Callable, schedule: Callable, tuned: bool
) -> Any:
    import torch
    from peers import CamVidFrames, smp_linknet
    from torch.utils.data import DataLoader

    frames = CamVidFrames(setting.camvid, setting.names("train"), PADDED)
    loader = DataLoader(frames, BATCH, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = smp_linknet().to(memory_format=layout)
    optimizer = optimize(model.parameters())

    def logits(images):
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            return model(images.contiguous(memory_format=layout))

    # The first epoch, at the first rate, tells how many fit into the time; the schedule covers those.
    scheduler, left, begin = None, 1, time.perf_counter()
    while left > 0:
        model.train()
        for images, labels in loader:
            loss(logits(images).float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if scheduler:
                scheduler.step()
        model.eval()
        report(_class_iou(setting, logits))
        left -= 1
        if scheduler is None:
            seconds = time.perf_counter() - begin
            left = math.floor(setting.minutes * 60 / seconds) - 1
            scheduler = schedule(optimizer, max(left, 1) * len(loader))
    return model


def _class_iou(setting: Setting, logits: Callable) -> float:
    """The class IoU over val of a network that wants normalised images with sides of multiples of 32."""
    from peers import MEAN, STD, pad_to_32
    from torchvision.transforms.functional import normalize

    def predict(images):
        padded = pad_to_32(normalize(images, MEAN, STD))
        return logits(padded)[..., : images.shape[-2], : images.shape[-1]].argmax(1)

    return class_iou(setting, "val", predict)


def class_iou(setting: Setting, split: str, predict: Callable) -> float:
    """The class IoU over a split's frames of `predict`, which takes 1x3xHxW floats of 0 to 1 to 1xHxW classes."""
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    from linknet_fastai.scoring.scores import Scores, count_pixels

    counts = np.zeros((11, 11), np.int64)
    with torch.inference_mode():
        for name in setting.names(split):
            image = to_tensor(Image.open(setting.camvid / split / name).convert("RGB"))
            labels = np.array(Image.open(setting.camvid / f"{split}annot" / name))
            predicted = predict(image[None])[0].numpy().astype(np.uint8)
            counts += count_pixels(predicted, np.where(labels == 11, 255, labels), 11)
    return Scores(counts).miou


def unet(setting: Setting, report: Report) -> None:
    """fastai's unet_learner(resnet18) with aug_transforms and one cycle, as its documentation trains on CamVid."""
    from fastai.callback.core import Callback
    from fastai.losses import CrossEntropyLossFlat
    from fastai.torch_core import default_device
    from fastai.vision.all import resnet18, unet_learner
    from peers import fastai_camvid

    class ReportScore(Callback):
        """Reports the class IoU of each epoch."""

        def after_epoch(self) -> None:
            """Report."""
            model = self.learn.model.eval()
            report(_class_iou(setting, lambda images: model(images.to(default_device()))[:, :11]))

    dls = fastai_camvid(setting.camvid, setting.names("train"), SIZE, BATCH)
    loss = CrossEntropyLossFlat(axis=1, ignore_index=11)
    learn = unet_learner(dls, resnet18, pretrained=False, n_out=12, loss_func=loss)
    with learn.no_bar():
        learn.fit_one_cycle(max(1, round(setting.minutes / UNET_MINUTES)), cbs=ReportScore())


UNET_MINUTES = 23  # an epoch on two cores, see train_speed.py


def yolo(setting: Setting, report: Report) -> Path:
    """ultralytics' `yolo semantic train model=yolo26n-sem.yaml imgsz=480 batch=8 pretrained=False`, on the CPU.

    The score is its own, of its averaged weights: the mean class IoU over val at 480 pixels. Returns the file of
    the last ones.
    """
    import yaml
    from PIL import Image
    from ultralytics import YOLO

    from linknet_fastai.config.recipe import load_recipe

    folder = setting.folder / "yolo"
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "masks" / split).mkdir(parents=True)
        for name in setting.names(split):
            (folder / "images" / split / name).symlink_to(setting.camvid / split / name)
            labels = Image.open(setting.camvid / f"{split}annot" / name)
            labels.point([*range(11), *[255] * 245]).save(folder / "masks" / split / name)
    names = dict(enumerate(load_recipe("camvid").class_names))
    table = {"path": str(folder), "train": "images/train", "val": "images/val", "masks_dir": "masks", "names": names}
    (folder / "camvid.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    model = YOLO("yolo26n-sem.yaml")
    reported = set()

    def report_score(trainer) -> None:
        if trainer.epoch not in reported:  # its last evaluation, of its best weights, belongs to no epoch
            reported.add(trainer.epoch)
            report(float(trainer.metrics["metrics/mIoU"]))

    model.add_callback("on_fit_epoch_end", report_score)  # follows each validation, which is of the averaged weights
    model.train(
        data=str(folder / "camvid.yaml"),
        imgsz=SIZE[0],
        batch=BATCH,
        device="cpu",
        pretrained=False,
        time=setting.minutes / 60,
        project=str(setting.folder),
        plots=False,
        exist_ok=True,
    )
    return model.trainer.last


class Entry(NamedTuple):
    """A contestant and the minutes that it may take at most."""

    train: Callable[[Setting, Report], Any]
    minutes: float


CONTESTANTS = {
    "linknet-fastai": Entry(ours, 60),
    "smp Linknet, documented": Entry(smp_documented, 60),
    "smp Linknet, tuned by hand": Entry(smp_tuned, 60),
    "fastai unet_learner": Entry(unet, 40),
    "ultralytics yolo26n-sem": Entry(yolo, 60),
}


def measure(entry: Entry, setting: Setting) -> list[tuple[float, float]]:
    """Train a contestant in a process of its own, for `entry.minutes` at most: (minutes, class IoU) of each epoch."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(entry.train, setting, sender, time.time()))
    process.start()
    sender.close()
    curve: list[tuple[float, float]] = []
    deadline = time.time() + entry.minutes * 60
    try:
        while receiver.poll(max(0, deadline - time.time())):
            match receiver.recv():
                case str(error):
                    raise SystemExit(error)
                case point:
                    curve.append(point)
                    print(f"{point[0]:6.1f} minutes  class IoU {point[1]:.3f}", flush=True)
    except EOFError:  # it has finished
        pass
    process.terminate()
    process.join()
    return curve


def _train(train: Callable[[Setting, Report], Any], setting: Setting, pipe: Connection, begin: float) -> None:
    def report(class_iou: float) -> None:
        pipe.send((round((time.time() - begin) / 60, 2), round(class_iou, 4)))
        if class_iou >= setting.enough:
            raise Finished("the highest target is reached")  # fastai needs an argument

    multiprocessing.set_start_method(None, force=True)  # the platform's own for loader processes, as in any script
    try:
        train(setting, report)
    except Finished:
        pass
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        raise


def draw(curves: dict[str, list[tuple[float, float]]], file: Path) -> None:
    """Draw the class IoU of each contestant over time."""
    from matplotlib.figure import Figure

    figure = Figure((7.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(*zip((0.0, 0.0), *curve, strict=True), marker="o", markersize=3, label=name)
    for target in TARGETS:
        axes.axhline(target, color="gray", linewidth=0.5, linestyle="--")
    axes.set(xlabel="minutes on two cores, from the start", ylabel="class IoU on CamVid's val", xlim=0, ylim=0)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


def main(
    camvid: Annotated[Path, typer.Argument(help="CamVid in the SegNet layout.")],
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go; those in it are kept.")],
    chart: Annotated[Path | None, typer.Option(help="Where the chart goes.")] = None,
    only: Annotated[str, typer.Option(help="Measure only those whose name contains this.")] = "",
    minutes: Annotated[float | None, typer.Option(help="A shorter limit, for a try.")] = None,
) -> None:
    """Train the contestants that have no figures yet."""
    content = json.loads(json_file.read_text(encoding="utf-8")) if json_file.exists() else {"curves": {}}
    for name, entry in CONTESTANTS.items():
        if name in content["curves"] or only not in name or (entry.train is yolo and not find_spec("ultralytics")):
            continue
        print(name, flush=True)
        with TemporaryDirectory() as folder:
            limited = entry._replace(minutes=min(minutes or math.inf, entry.minutes))
            content["curves"][name] = measure(limited, Setting(camvid.resolve(), Path(folder), limited.minutes))
        content["machine"], content["minutes"] = contest.machine(), {n: e.minutes for n, e in CONTESTANTS.items()}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if chart:
        draw(content["curves"], chart)


if __name__ == "__main__":
    typer.run(main)
