"""A training in several processes: the frames of each, the scores of one process, one error that ends all."""

import json
import multiprocessing
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import pytest
import torch
from fastai.data.core import DataLoaders, TfmdDL
from one_of_several import run_command
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.core.errors import UsageError
from linknet_fastai.core.parallel import usable_cores
from linknet_fastai.data.loaders import segmentation_dls
from linknet_fastai.learner import process_group as processes
from linknet_fastai.learner.distributed import SharedDL
from linknet_fastai.model.card import ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model, save_model
from linknet_fastai.runs.metrics import read_metrics
from linknet_fastai.scoring.metrics import ConfusionMatrix

HALF = (0.5, 0.5, 0.5)
FIT = "--encoder test_resnet --size 64x48 --bs 2 --epochs 2 --seed 3 --device cpu --precision fp32"
FIT += " --workers 0 --accumulate 2"


@pytest.fixture
def dls(street_data: Path) -> DataLoaders:
    """8 frames to train on, 3 to validate on, in batches of 2."""
    return segmentation_dls("street", street_data, size="64x48", bs=2, workers=0, preset="paper", device="cpu")


@pytest.fixture
def share() -> Callable[..., list[SharedDL]]:
    """Gives the loaders of all ranks, in this process: each takes the order from its own loader."""
    return lambda dl, count: [SharedDL(dl, rank=rank, world_size=count) for rank in range(count)]


# The frames of each rank


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_processes_take_the_order_apart_and_the_first_frames_fill_the_last_part(dls, share, count):
    dls.train.epoch = 4
    order = dls.train.get_idxs()
    parts = [loader.get_idxs() for loader in share(dls.train, count)]
    taken = [i for part in parts for i in part]
    assert taken[:8] == order
    assert taken[8:] == order[: len(taken) - 8]
    assert len({len(part) for part in parts}) == 1
    assert len(taken) - 8 < count


@pytest.mark.parametrize(("n", "bs", "count"), [(12, 4, 2), (9, 4, 2), (367, 8, 2), (10, 4, 3), (8, 2, 2)])
@pytest.mark.parametrize("drop_last", [True, False])
def test_the_length_is_the_number_of_batches_that_come(share, n, bs, count, drop_last):
    whole = TfmdDL(torch.arange(n), bs=bs, drop_last=drop_last, num_workers=0)
    for loader in share(whole, count):
        assert len(loader) == len(list(loader))


def test_frames_that_make_no_whole_batch_in_each_process_make_a_smaller_one(street_data, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert segmentation_dls("street", street_data, size="64x48", bs=8, device="cpu").train.bs == 3


def test_an_epoch_is_passed_on_to_the_loader_inside(dls, share):
    first, second = share(dls.train, 2)
    first.epoch = 3
    later = first.get_idxs() + second.get_idxs()
    first.epoch = 0
    assert later != first.get_idxs() + second.get_idxs()


def test_a_frame_is_augmented_as_in_one_process_and_otherwise_where_it_comes_twice(street_data, share):
    # No frame takes light from another of its batch, so that each follows from seed, epoch and frame alone.
    dls = segmentation_dls("street", street_data, size="64x48", bs=3, workers=0, device="cpu", preset="course")
    dls.train.drop_last = False
    order = dls.train.get_idxs()
    alone = dict(zip(order, torch.cat([images for images, _ in dls.train]), strict=True))
    *_, last = share(dls.train, 3)  # 8 frames and the first again: three parts of three
    images = torch.cat([images for images, _ in last])
    assert torch.equal(images[0], alone[order[6]])
    assert torch.equal(images[1], alone[order[7]])
    assert not torch.equal(images[2], alone[order[0]])


@pytest.mark.parametrize("count", [2, 4, 5])
def test_a_frame_that_is_validated_twice_counts_once(dls, share, count):
    def counted(loaders: list[TfmdDL]) -> torch.Tensor:
        matrix = ConfusionMatrix(11)
        for loader in loaders:
            for _, labels in loader:
                truth = labels.as_subclass(torch.Tensor)
                matrix.update(torch.zeros_like(truth), truth)
        return matrix.counts

    assert torch.equal(counted(share(dls.valid, count)), counted([dls.valid]))


def test_a_mean_over_batches_is_that_over_all_frames(dls, share, monkeypatch):
    """Of three frames in two processes: the first has two, the other one, and one again."""
    losses = torch.tensor([3.0, 5.0, 10.0])
    loaders = share(dls.valid, 2)
    for loader in loaders:
        loader.bs = loader.dl.bs = 2
        list(loader)
    assert [loader.real_frames for loader in loaders] == [2, 1]
    sums = {2: losses[:2].mean() * 2, 1: losses[2] * 1}
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.copy_(sum(sums.values())))
    for loader, own in zip(loaders, (losses[:2].mean(), losses[2]), strict=True):
        total, count = loader.to_detach(own) * loader.in_batch, loader.in_batch  # as fastai's AvgLoss does
        assert total / count == losses.mean()


# What a process may use


def test_processes_share_the_cores_of_their_machine(monkeypatch):
    cores = usable_cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert usable_cores() == max(1, cores // 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert usable_cores() == 1


def test_a_device_that_processes_cannot_share_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    processes.check_shareable(torch.device("cpu"))
    with pytest.raises(UsageError, match="mps"):
        processes.check_shareable(torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"2 processes .* 1 CUDA GPU"):
        processes.check_shareable(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    processes.check_shareable(torch.device("cuda:1"))
    with pytest.raises(UsageError, match="cuda:0"):
        processes.check_shareable(torch.device("cuda:0"))


# The real command in two processes


FRESH = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def launch(arguments: str, folder: Path, **environment: str) -> SimpleNamespace:
    """Run the command in two processes, which leave their weights in `folder`.

    The launcher is torchrun's own. The processes start as copies of one that has imported torch already.
    """
    folder.mkdir(exist_ok=True)
    if FRESH == "forkserver":
        multiprocessing.set_forkserver_preload(["linknet_fastai.training.fit"])
    logs = DefaultLogsSpecs(mkdtemp(dir=folder), redirects=Std.ALL)
    at = {"run_id": folder.name, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(1, 1, 2, **at, max_restarts=0, start_method=FRESH, logs_specs=logs, monitor_interval=0.1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        elastic_launch(config, run_command)(arguments.split(), {"WEIGHTS": str(folder)} | environment)
        code = 0
    except ChildFailedError:
        code = 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    stdout, stderr = (
        "".join(file.read_text() for file in Path(logs.root_log_dir).rglob(f"{name}.log"))
        for name in ("stdout", "stderr")
    )
    return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)


def errors_of(done: SimpleNamespace) -> list[str]:
    """The error lines of the command, not torchrun's."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose images are not normalized with ImageNet's statistics."""
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("start") / "start.safetensors"
    card = ModelCard.of(load_recipe("street"), (96, 72), encoder="test_resnet", mean=HALF, std=HALF)
    save_model(LinkNet(11, "test_resnet", pretrained=False), card, file)
    return file


@pytest.fixture(scope="module")
def run(street_data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimpleNamespace]:
    """A run in two processes, with the weights of both; and what it printed."""
    folder = tmp_path_factory.mktemp("several")
    arguments = f"fit street --data {street_data} {FIT} --init-from {start} --out {folder / 'run'}"
    done = launch(arguments, folder / "weights")
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def same_weights(folder: Path, other: Path | None = None) -> bool:
    first = torch.load(folder / "0.pt")
    second = torch.load(folder / "1.pt" if other is None else other / "0.pt")
    return all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_end_with_the_same_network_though_one_had_a_batch_of_void(run):
    assert same_weights(run[0].with_name("weights"))


def test_every_process_normalizes_images_as_the_weights_expect_that_rank_0_has_loaded(run):
    for rank in (0, 1):
        saved = torch.load(run[0].parent / "weights" / f"{rank}.pt")
        assert [saved[f"mean {loader}"].flatten().tolist() for loader in (0, 1)] == [[*HALF], [*HALF]]
    assert load_model(run[0])[1].mean == HALF


def test_the_scores_are_those_of_one_process(run):
    tables = tomllib.loads((run[0] / "run.toml").read_text())
    assert tables["run"]["processes"] == 2
    # The first process alone has scored the best weights at the end, frame by frame.
    scores = json.loads((run[0] / "evaluation-val.json").read_text())
    assert tables["result"]["best_miou"] == pytest.approx(scores["miou"], abs=1e-3)


def test_rank_0_alone_prints_and_writes(run):
    folder, done = run
    assert done.stdout.count("run folder") == 1
    assert [line.split()[0] for line in done.stdout.splitlines() if "/2 " in line] == ["1/2", "2/2"]
    assert errors_of(done) == []
    assert [row["epoch"] for row in read_metrics(folder)] == [1, 2]
    assert not list(folder.rglob(".*"))  # what was being written


def test_an_error_on_one_rank_ends_all_with_one_line(street_data, tmp_path):
    done = launch(f"fit street --data {street_data} {FIT} --out {tmp_path / 'run'}", tmp_path, FAILING="1")
    assert done.returncode != 0
    assert errors_of(done) == ["error: rank 1: the disk is gone"]


def test_an_error_on_all_ranks_is_reported_by_rank_0(street_data, tmp_path):
    done = launch(f"fit street --data {street_data} {FIT} --crop 640x480 --out {tmp_path / 'run'}", tmp_path)
    assert done.returncode != 0
    (line,) = errors_of(done)
    assert line.startswith("error: --crop: 640x480 is larger than the frames")
    assert not (tmp_path / "run").exists()


def test_a_signal_to_one_rank_stops_all_after_the_same_batch_and_the_run_is_resumed(
    run, start, street_data, tmp_path
):
    arguments = f"fit street --data {street_data} {FIT} --init-from {start} --out {tmp_path / 'run'}"
    done = launch(arguments, tmp_path, STOPPED="1")
    assert done.returncode != 0
    assert errors_of(done) == []
    assert done.stdout.count("stopped after epoch 1") == 1
    done = launch(f"fit --resume {tmp_path / 'run'}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == [1, 2]
    assert same_weights(tmp_path)
    assert same_weights(tmp_path, run[0].with_name("weights"))


def test_commands_that_do_not_train_are_for_one_process(run, monkeypatch, capsys):
    from linknet_fastai.cli import main as cli

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["linknet-fastai", "report", str(run[0])])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "report runs in one process" in capsys.readouterr().err
