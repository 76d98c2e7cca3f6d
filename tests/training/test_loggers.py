"""TensorBoard and W&B log what metrics.csv contains, and a logger that cannot start leaves no files."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from linknet_fastai.learner.optimizers import OPTIMIZERS
from linknet_fastai.runs.metrics import read_metrics
from linknet_fastai.training import fit as training
from linknet_fastai.training.loggers import LOGGERS

Command = Callable[..., int]
TINY = ("--encoder", "test_resnet", "--size", "64x48", "--bs", 4, "--epochs", 2, "--workers", 0, "--out", "run")


@pytest.fixture(autouse=True)
def quiet_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B reads its environment once a process."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


def logged(run: Path) -> EventAccumulator:
    """What TensorBoard shows of a run."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def steps(events: EventAccumulator, name: str) -> list[int]:
    return [event.step for event in events.Scalars(name)]


def wandb_ids(run: Path) -> set[str]:
    """The ids in offline-run-TIME-ID, or offline-run-TIME-ID-1 where two began in the same second."""
    return {path.name.split("-")[3] for path in (run / "wandb").glob("offline-run-*")}


@pytest.mark.usefixtures("short_end")
def test_both_loggers_log_the_scores(
    command: Command, here: Path, street_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert command("fit", "street", "--data", street_data, *TINY, "--tensorboard", "--wandb") == 0
    events = logged(here / "run")
    rows = read_metrics(here / "run")
    assert [event.value for event in events.Scalars("miou")] == pytest.approx([row["miou"] for row in rows], abs=1e-5)
    assert {"train_loss", "valid_loss", "lr_0"} <= set(events.Tags()["scalars"])
    (log,) = (here / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    assert all(word in content for word in (b"miou", b"train_loss", b"encoder_lr"))


@pytest.mark.usefixtures("short_end")
@pytest.mark.parametrize("optimizer", sorted({*OPTIMIZERS} - {"muon"}))
def test_tensorboard_takes_every_optimizer(command: Command, here: Path, street_data: Path, optimizer: str) -> None:
    fit = ("fit", "street", "--data", street_data, *TINY, "--epochs", 1, "--optimizer", optimizer)
    assert command(*fit, "--tensorboard") == 0
    assert "lr_0" in logged(here / "run").Tags()["scalars"]


@pytest.mark.usefixtures("short_end")
def test_a_resumed_run_continues_the_same_curves(
    here: Path, street_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")

    class Crash:
        """Ends the training in the middle of its second epoch."""

        progress = staticmethod(lambda *_: None)
        started = epoch_ended = lambda *_: None

        def stepped(self, epoch: int, done: int, *_: object) -> None:
            if (epoch, done) == (2, 3):
                raise OSError("power")

    options = {"encoder": TINY[1], "size": "64x48", "bs": 2, "epochs": 3, "device": "cpu", "workers": 0}
    options["checkpoint_minutes"] = 1e-9
    run = here / "run"
    with pytest.raises(OSError, match="power"):
        training.fit("street", street_data, options, run, Crash(), log_to=LOGGERS)
    (before,) = wandb_ids(run)
    training.resume(run, log_to=LOGGERS)
    events = logged(run)
    whole = steps(events, "lr_0")
    assert sorted(set(whole)) == list(range(1, whole[-1] + 1))
    assert steps(events, "miou") == [whole[-1] // 3, 2 * whole[-1] // 3, whole[-1]]
    losses = [event.value for event in events.Scalars("train_loss")]
    assert min(losses) > 0.3 * max(losses), "no zero of a batch that was skipped"
    assert wandb_ids(run) == {before}


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
