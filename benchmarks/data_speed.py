"""Speed of the data loaders: ours with and without its cache, plain torch, fastai's own.

    python benchmarks/data_speed.py CAMVID --json results/benchmarks/data_speed.json

A unit is an epoch over a fixed list of frames, batches of 8 at 480x360, decoded, augmented and normalized, without
a network. The first epoch of each, which builds our cache, is not counted.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import contest
import typer
from train_speed import BATCH, SIZE, Setting

FRAMES = 192


def ours(setting: Setting) -> Callable[[], float]:
    """Ours as `fit` uses it: decoded once, augmented by the batch."""
    return _ours(setting, cache=True)


def ours_uncached(setting: Setting) -> Callable[[], float]:
    """Ours with --no-cache and its loader process."""
    return _ours(setting, cache=False)


def _ours(setting: Setting, cache: bool) -> Callable[[], float]:
    from linknet_fastai import segmentation_dls

    train = setting.list_frames("train", FRAMES)
    dls = segmentation_dls("camvid", setting.camvid, bs=BATCH, train_on=train, cache=cache, cache_dir=setting.cache)
    return lambda: _epoch(dls.train)


def plain_torch(setting: Setting) -> Callable[[], float]:
    """The loader of the smp and course contestants of train_speed.py: PIL in one loader process."""
    from peers import CamVidFrames
    from torch.utils.data import DataLoader

    frames = CamVidFrames(setting.camvid, setting.names(FRAMES), SIZE)
    loader = DataLoader(frames, BATCH, shuffle=True, num_workers=1, persistent_workers=True, drop_last=True)
    return lambda: _epoch(loader)


def fastai_own(setting: Setting) -> Callable[[], float]:
    """fastai's SegmentationDataLoaders with aug_transforms."""
    from peers import fastai_camvid

    dls = fastai_camvid(setting.camvid, setting.names(FRAMES), SIZE, BATCH)
    return lambda: _epoch(dls.train)


def _epoch(loader: Iterable) -> float:
    start = time.perf_counter()
    count = sum(len(images) for images, _ in loader)
    return (time.perf_counter() - start) / count * 1e3


CONTESTANTS = {
    "linknet-fastai": ours,
    "linknet-fastai --no-cache": ours_uncached,
    "plain torch": plain_torch,
    "fastai": fastai_own,
}


def main(
    camvid: Annotated[Path, typer.Argument(help="CamVid in the SegNet layout.")],
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Read in turns and print how many times as long as ours each loader takes."""
    with TemporaryDirectory() as cache:
        results = contest.run(CONTESTANTS, Setting(camvid.resolve(), Path(cache)), rounds)
    title = f"training batches of {BATCH} at {SIZE[0]}x{SIZE[1]}, no network"
    contest.save(json, [contest.report(title, results, "linknet-fastai", "an image")], frames=FRAMES)


if __name__ == "__main__":
    typer.run(main)
