"""TensorBoard and W&B are told what metrics.csv says, and a logger that cannot start leaves nothing behind."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from linknet_fastai.run_folder import read_metrics

Command = Callable[..., int]
TINY = ("--size", "64x48", "--bs", 4, "--epochs", 2, "--no-pretrained", "--no-cache", "--out", "run")


@pytest.fixture(autouse=True)
def quiet_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B reads its environment once a process."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


def test_both_loggers_are_told_the_scores(
    command: Command, here: Path, street_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert command("fit", "street", "--data", street_data, *TINY, "--tensorboard", "--wandb") == 0
    events = EventAccumulator(str(here / "run" / "tensorboard"))
    events.Reload()
    rows = read_metrics(here / "run")
    assert [event.value for event in events.Scalars("miou")] == pytest.approx([row["miou"] for row in rows], abs=1e-5)
    assert {"train_loss", "valid_loss", "lr_0"} <= set(events.Tags()["scalars"])
    (log,) = (here / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    assert all(word in content for word in (b"miou", b"train_loss", b"encoder_lr"))


def test_a_logger_that_is_not_installed_is_named_before_anything_is_done(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert command("fit", "street", *TINY, "--tensorboard") == 1
    assert "pip install 'linknet-fastai[tensorboard]'" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_wandb_without_a_login_is_one_line_and_no_run_folder(
    command: Command,
    here: Path,
    street_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(here.parent / "home"))  # no login kept there
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert command("fit", "street", "--data", street_data, *TINY, "--wandb") == 1
    assert "--wandb: " in capsys.readouterr().err
    assert list(here.iterdir()) == []
