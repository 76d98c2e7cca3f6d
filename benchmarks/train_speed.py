"""Training speed, end to end from the files on disk: ours, smp's Linknet, unet_learner, the course project's loop.

    python benchmarks/train_speed.py CAMVID --json results/benchmarks/train_speed.json

CAMVID is the data in the SegNet layout (train/, trainannot/, val/, valannot/). A unit is an epoch over a fixed list
of frames, at batch 8, augmentation included; the first epoch of each (which builds our cache) is not counted. smp and
the course project get 480x384, the nearest size that they accept. unet_learner, ten times as slow, gets fewer frames.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import contest
import typer

SIZE, PADDED, BATCH = (480, 360), (480, 384), 8
FRAMES, UNET_FRAMES = 48, 8


class Setting(NamedTuple):
    """Where the data and our cache are."""

    camvid: Path
    cache: Path

    def names(self, count: int = FRAMES) -> list[str]:
        """File names of the frames to train on, spread over the split."""
        names = sorted(path.name for path in (self.camvid / "train").glob("*.png"))
        return names[:: len(names) // count][:count]

    def list_frames(self, name: str, count: int) -> str:
        """Write the list of those frames for `--train-on`; its path."""
        (file := self.cache / f"{name}.txt").write_text("\n".join(Path(name).stem for name in self.names(count)))
        return str(file)


def ours(setting: Setting) -> Callable[[], float]:
    """`linknet-fastai fit camvid --no-pretrained --optimizer adamw`: the same function builds its learner.

    The others step by Adam or AdamW too.
    """
    return _ours(setting, {})


def ours_best(setting: Setting) -> Callable[[], float]:
    """The same with the optimizer of the preset `best`, Muon."""
    return _ours(setting, {"optimizer": None})


def ours_compiled(setting: Setting) -> Callable[[], float]:
    """The same with --compile."""
    return _ours(setting, {"compile": True})


def ours_uncached(setting: Setting) -> Callable[[], float]:
    """The same with --no-cache."""
    return _ours(setting, {"cache": False})


def _ours(setting: Setting, options: dict) -> Callable[[], float]:
    from linknet_fastai.config.presets import settings_for
    from linknet_fastai.data.open import open_dataset
    from linknet_fastai.learner.learner import learner_from_settings

    valid = setting.cache / "valid.txt"
    valid.write_text(next((setting.camvid / "val").glob("*.png")).stem)
    dataset = open_dataset("camvid", setting.camvid)
    given = {"pretrained": False, "size": SIZE, "bs": BATCH, "cache_dir": setting.cache, "optimizer": "adamw"}
    splits = {"train_on": setting.list_frames("train", FRAMES), "validate_on": str(valid)}
    settings, _ = settings_for(dataset.recipe, dataset.layout, given | splits | options)
    learn = learner_from_settings(dataset, settings)
    return lambda: _train_seconds(learn) / FRAMES * 1e3


def _train_seconds(learn) -> float:
    """The training part of an epoch of a fastai learner; the single frame it validates on is left out."""
    from fastai.callback.core import Callback

    start, seconds = 0.0, 0.0

    class Stopwatch(Callback):
        """Times the training part."""

        def before_train(self) -> None:
            """Start."""
            nonlocal start
            start = time.perf_counter()

        def after_train(self) -> None:
            """Stop."""
            nonlocal seconds
            seconds = time.perf_counter() - start

    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3, cbs=Stopwatch())
    return seconds


def bare(setting: Setting) -> Callable[[], float]:
    """The same network and loss in a bare torch loop, with the same tuning, its batches ready in memory."""
    import torch

    from linknet_fastai.core.device import autocast, resolve_precision, tune
    from linknet_fastai.learner.loss import SegmentationLoss
    from linknet_fastai.model.linknet import LinkNet

    device = torch.device("cpu")
    tune(device)
    model = LinkNet(11, pretrained=False).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    loss, precision = SegmentationLoss(torch.ones(11)), resolve_precision("auto", device)
    images = torch.randn(FRAMES, 3, *SIZE[::-1]).contiguous(memory_format=torch.channels_last).split(BATCH)
    labels = torch.randint(0, 11, (FRAMES, *SIZE[::-1])).split(BATCH)

    def epoch() -> float:
        start = time.perf_counter()
        for image, label in zip(images, labels, strict=True):
            with autocast(precision, device):
                logits = model(image)
            loss(logits, label).backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - start) / FRAMES * 1e3

    return epoch


def smp_documented(setting: Setting) -> Callable[[], float]:
    """smp's Linknet as its CamVid example trains it: fp32, Adam, Dice loss."""
    from peers import segmentation_loss, smp_linknet

    return _torch_loop(setting, smp_linknet(), segmentation_loss("dice"), tuned=False)


def smp_tuned(setting: Setting) -> Callable[[], float]:
    """The same network tuned by hand: bf16, channels_last, fused AdamW, cross-entropy."""
    from peers import segmentation_loss, smp_linknet

    return _torch_loop(setting, smp_linknet(), segmentation_loss("cross-entropy"), tuned=True)


def course(setting: Setting) -> Callable[[], float]:
    """The course project's plain torch loop: fp32, Adam, weighted cross-entropy."""
    from peers import CourseLinkNet, segmentation_loss

    return _torch_loop(setting, CourseLinkNet(), segmentation_loss("cross-entropy"), tuned=False)


def _torch_loop(setting: Setting, model, loss: Callable, tuned: bool) -> Callable[[], float]:
    import torch
    from peers import CamVidFrames
    from torch.utils.data import DataLoader

    frames = CamVidFrames(setting.camvid, setting.names(), PADDED)
    loader: Iterable = DataLoader(frames, BATCH, shuffle=True, num_workers=1, persistent_workers=True)
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    optimizer = (
        torch.optim.AdamW(model.parameters(), 1e-3, fused=True) if tuned else torch.optim.Adam(model.parameters())
    )

    def epoch() -> float:
        start = time.perf_counter()
        for image, label in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
                logits = model(image.contiguous(memory_format=layout))
            loss(logits.float(), label).backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - start) / FRAMES * 1e3

    return epoch


def unet(setting: Setting) -> Callable[[], float]:
    """fastai's unet_learner(resnet18) with aug_transforms, as its documentation trains on CamVid."""
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.all import resnet18, unet_learner
    from peers import fastai_camvid

    dls = fastai_camvid(setting.camvid, setting.names(UNET_FRAMES), SIZE, BATCH)
    loss = CrossEntropyLossFlat(axis=1, ignore_index=11)
    learn = unet_learner(dls, resnet18, pretrained=False, n_out=12, loss_func=loss)
    return lambda: _train_seconds(learn) / UNET_FRAMES * 1e3


CONTESTANTS = {
    "linknet-fastai": ours,
    "linknet-fastai, Muon": ours_best,
    "linknet-fastai --compile": ours_compiled,
    "linknet-fastai --no-cache": ours_uncached,
    "bare loop, batches in memory": bare,
    "smp Linknet, documented": smp_documented,
    "smp Linknet, tuned by hand": smp_tuned,
    "course project": course,
    "fastai unet_learner": unet,
}


def main(
    camvid: Annotated[Path, typer.Argument(help="CamVid in the SegNet layout.")],
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    only: Annotated[str, typer.Option(help="Measure only those whose name contains this, and ours.")] = "",
) -> None:
    """Train in turns and print how many times as long as ours each peer takes."""
    chosen = {name: make for name, make in CONTESTANTS.items() if make is ours or only in name}
    with TemporaryDirectory() as cache:
        results = contest.run(chosen, Setting(camvid.resolve(), Path(cache)), rounds)
    title = f"training at {SIZE[0]}x{SIZE[1]}, batch {BATCH}, end to end"
    contest.save(
        json, [contest.report(title, results, "linknet-fastai", "an image")], frames=FRAMES, unet_frames=UNET_FRAMES
    )


if __name__ == "__main__":
    typer.run(main)
