"""`fit`, its run folder, its interruption and resumption, `evaluate` and `predict` on the result."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partialmethod
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import state_of
from PIL import Image

from linknet_fastai.config.recipe import load_recipe
from linknet_fastai.config.settings import Settings
from linknet_fastai.core.errors import UsageError, UserError
from linknet_fastai.data.open import open_dataset
from linknet_fastai.engines.torch_engine import Predictor
from linknet_fastai.model.card import IMAGENET_MEAN, IMAGENET_STD, ModelCard
from linknet_fastai.model.linknet import LinkNet
from linknet_fastai.model.save_load import load_model, save_model
from linknet_fastai.predict.images import predict_images
from linknet_fastai.predict.inputs import collect_jobs
from linknet_fastai.runs.checkpoint import read_checkpoint, write_checkpoint
from linknet_fastai.runs.folder import locked
from linknet_fastai.scoring.evaluate import evaluate
from linknet_fastai.training import fit as training
from linknet_fastai.training import run_record
from linknet_fastai.training.errors import is_out_of_memory
from linknet_fastai.training.lr_find import find_lr
from linknet_fastai.training.run_record import normalization_of

SMALL = {"size": "64x48", "bs": 4, "workers": 0, "epochs": 3, "seed": 1, "device": "cpu", "encoder": "test_resnet"}


def read_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(street_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    training.fit("street", street_data, SMALL, folder)
    return folder


def test_the_run_folder_is_complete(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "run.toml",
        "metrics.csv",
        "checkpoints",
        "model.safetensors",
        "export.pkl",
        "batch.png",
        "curves.png",
        "predictions.png",
        "confusion.png",
        "evaluation-val.json",
        "evaluation-val.npz",
        "report.html",
    }
    for picture in run.glob("*.png"):
        assert Image.open(picture).size[0] > 400


def test_the_temperature_is_fitted_once_the_weights_are_final(run, street_data, tmp_path):
    card = load_model(run)[1]
    assert card.temperature != 1
    assert load_model(run / "export.pkl", trust_pickle=True)[1] == card
    scores = json.loads((run / "evaluation-val.json").read_text())
    assert scores["temperature"] == card.temperature
    # Killed while it wrote its scores, a run gets the same temperature when it is resumed.
    shutil.copytree(run, again := tmp_path / "again")
    text = (again / "run.toml").read_text()
    (again / "run.toml").write_text(text.replace("finished = true", "finished = false"))
    training.resume(again)
    assert load_model(again)[1] == card


def test_run_toml_has_every_setting_and_its_origin(run):
    tables = tomllib.loads((run / "run.toml").read_text())
    assert tables["settings"]["size"] == "64x48"
    assert tables["origins"]["size"] == "command line"
    assert tables["origins"]["pretrained"] == "recipe"
    assert tables["origins"]["lr"] == "default"
    assert tables["origins"]["decoder"] == "default"
    assert tables["versions"]["torch"] == version("torch")
    assert tables["run"]["precision"] in ("fp32", "bf16")
    assert tables["run"]["recipe"] == "street"
    assert tables["result"]["epochs_done"] == 3


def test_metrics_have_a_row_an_epoch_with_every_class(run):
    rows = read_rows(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == [
        "epoch",
        "train_loss",
        "valid_loss",
        "miou",
        "mean_accuracy",
        "pixel_accuracy",
        *(f"iou_{entry.name}" for entry in load_model(run)[1].classes),
        "lr",
        "seconds",
    ]


def test_the_kept_model_is_the_best_epochs_and_evaluate_repeats_its_score(run, street_data):
    rows = read_rows(run)
    best = max(float(row["miou"]) for row in rows)
    model, card = load_model(run)
    result = evaluate(Predictor(model, card, "cpu"), open_dataset("street", street_data))
    # Batches of four against single frames: bf16 rounds a few pixels the other way.
    assert result.scores.miou == pytest.approx(best, abs=5e-3)
    assert result.frames == 3
    values = json.loads(json.dumps(result.as_json()))
    assert values["miou"] == result.scores.miou
    assert [entry["name"] for entry in values["classes"]] == card.class_names


def test_the_weights_that_are_kept_are_those_of_the_epoch_with_the_best_score(
    street_data, tmp_path, monkeypatch, short_end
):
    mious, weights = iter((0.3, 0.5, 0.4)), []
    row = run_record.RunRecord._row
    monkeypatch.setattr(run_record.RunRecord, "_row", lambda self: row(self) | {"miou": next(mious)})

    class Notes(run_record.Observer):
        def epoch_ended(self, row: run_record.Row) -> None:
            weights.append((tmp_path / "run/model.safetensors").read_bytes())

    training.fit("street", street_data, SMALL, tmp_path / "run", Notes())
    assert weights[0] != weights[1] == weights[2]


def test_evaluate_agrees_with_a_count_over_the_masks_that_predict_writes(run, street_data, tmp_path):
    predictor = Predictor(*load_model(run), device="cpu")
    result = evaluate(predictor, open_dataset("street", street_data))
    jobs = collect_jobs([street_data / "val" / "images"], tmp_path)
    assert predict_images(predictor, jobs, tmp_path) == []
    hit, union = np.zeros(11), np.zeros(11)
    for mask_file in sorted((tmp_path / "masks").glob("*.png")):
        mask = np.asarray(Image.open(mask_file))
        truth = np.asarray(Image.open(street_data / "val" / "labels" / mask_file.name))
        counted = truth != 11
        for c in range(11):
            hit[c] += ((mask == c) & (truth == c) & counted).sum()
            union[c] += (((mask == c) | (truth == c)) & counted).sum()
    with np.errstate(invalid="ignore"):
        assert result.scores.miou == pytest.approx(np.nanmean(hit / union), abs=1e-9)
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 3


@pytest.mark.usefixtures("short_end")
def test_the_same_seed_trains_the_same(run, street_data, tmp_path):
    training.fit("street", street_data, SMALL, tmp_path / "again")
    for ours, theirs in zip(read_rows(run), read_rows(tmp_path / "again"), strict=True):
        assert float(ours["valid_loss"]) == pytest.approx(float(theirs["valid_loss"]), rel=1e-3)


class At:
    """An observer that does something after a batch of an epoch (both from 1), of training or of validation."""

    progress = None

    def __init__(self, epoch: int, batch: int, does: Callable[[], None], training: bool = True) -> None:
        self.place, self.does = (epoch, batch, training), does

    def started(self, *arguments) -> None:
        pass

    def stepped(self, epoch, done, total, loss, lr, training) -> None:
        if (epoch, done, training) == self.place:
            self.does()

    def epoch_ended(self, row) -> None:
        pass


def crash() -> None:
    raise OSError("as if the power had failed")


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the network in the last checkpoint of a run."""
    return read_checkpoint(folder)[0]["model"]


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.usefixtures("short_end")
@pytest.mark.parametrize("schedule", ["one-cycle", "flat-cos", "cosine", "constant", "step"])
def test_a_run_resumed_in_an_epoch_and_after_one_is_the_whole_one(street_data, tmp_path, schedule):
    options = {**SMALL, "epochs": 4, "schedule": schedule}
    training.fit("street", street_data, options, tmp_path / "whole")
    assert not training.fit("street", street_data, options, tmp_path / "run", At(2, 1, send(signal.SIGINT))).finished
    with pytest.raises(OSError, match="power"):
        training.resume(tmp_path / "run", observer=At(4, 1, crash))
    assert [row["epoch"] for row in read_rows(tmp_path / "run")] == ["1", "2", "3"]
    training.resume(tmp_path / "run")
    whole, resumed = ([{**row, "seconds": ""} for row in read_rows(tmp_path / name)] for name in ("whole", "run"))
    assert [row["epoch"] for row in whole] == ["1", "2", "3", "4"]
    assert resumed == whole
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


@pytest.mark.usefixtures("short_end")
def test_a_run_stopped_in_validation_is_resumed_as_the_whole_one(street_data, tmp_path):
    training.fit("street", street_data, SMALL, tmp_path / "whole")
    stop = At(2, 1, send(signal.SIGINT), training=False)
    assert not training.fit("street", street_data, SMALL, tmp_path / "run", stop).finished
    assert [row["epoch"] for row in read_rows(tmp_path / "run")] == ["1"]
    training.resume(tmp_path / "run")
    whole, resumed = ([{**row, "seconds": ""} for row in read_rows(tmp_path / name)] for name in ("whole", "run"))
    assert resumed == whole


@pytest.mark.usefixtures("short_end")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_checkpoint_within_an_epoch_is_resumed_with_the_next_batch(street_data, tmp_path, accumulate):
    options = {**SMALL, "bs": 2, "epochs": 2, "accumulate": accumulate, "checkpoint_minutes": 1e-9}
    whole = training.fit("street", street_data, options, tmp_path / "whole")
    with pytest.raises(OSError, match="power"):
        training.fit("street", street_data, options, tmp_path / "run", At(2, 4, crash))
    state, _ = read_checkpoint(tmp_path / "run")
    assert (state["epochs_done"], state["batches_done"]) == (
        1,
        3 if accumulate == 1 else 2,
    )  # no gradients were pending
    seen = []
    observer = At(2, 4, lambda: None)
    observer.stepped = lambda epoch, done, total, loss, lr, training: seen.append((epoch, done)) if training else None
    resumed = training.resume(tmp_path / "run", observer=observer)
    assert seen == [(2, 4)] if accumulate == 1 else [(2, 3), (2, 4)]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert [row["train_loss"] for row in resumed.rows] == [row["train_loss"] for row in whole.rows]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "auto"])
def test_a_gpu_trains_compiled_and_resumes(street_data, tmp_path, precision):
    options = {**SMALL, "device": "cuda", "precision": precision, "compile": True}
    training.fit("street", street_data, options, tmp_path / "whole")
    assert not training.fit("street", street_data, options, tmp_path / "run", At(2, 2, send(signal.SIGINT))).finished
    assert len(training.resume(tmp_path / "run").rows) == 3
    described = tomllib.loads((tmp_path / "run" / "run.toml").read_text())["run"]
    assert (described["device"], described["notes"]) == ("cuda:0", [])
    # In fp16 the scale of the loss, and the steps since it last changed, continue as in an uninterrupted run.
    whole, resumed = (read_checkpoint(tmp_path / name)[0]["scaler"] for name in ("whole", "run"))
    assert whole == resumed


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_host_never_waits_for_a_gpu_within_an_epoch(street_data, tmp_path, optimizer):
    class Strict(At):
        """Turns every wait after the first epoch, in which cuDNN chooses its algorithms, into an error."""

        def stepped(self, epoch: int, done: int, total: int, loss: float, lr: float, training: bool) -> None:
            inside = training and epoch > 1 and done < total
            torch.cuda.set_sync_debug_mode("error" if inside else "default")

    options = {**SMALL, "device": "cuda", "precision": "bf16", "optimizer": optimizer, "bs": 2}
    try:
        assert training.fit("street", street_data, options, tmp_path / "run", Strict(9, 9, crash)).finished
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_gpu_trains_the_same_bits_twice_with_deterministic(street_data, tmp_path):
    options = {**SMALL, "device": "cuda", "deterministic": True}
    for name in ("first", "second"):
        training.fit("street", street_data, options, tmp_path / name)
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))


def test_where_torch_compile_fails_the_option_is_to_be_left_out(street_data, tmp_path, monkeypatch):
    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    with pytest.raises(UserError, match=r"^--compile: torch\.compile fails here \(.+\); leave it out$"):
        training.fit("street", street_data, SMALL | {"compile": True}, tmp_path / "run")


@pytest.mark.usefixtures("short_end")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_after_the_batch_and_it_is_resumed_from_there(run, street_data, tmp_path, number):
    before = signal.getsignal(signal.SIGTERM)
    result = training.fit("street", street_data, SMALL, tmp_path / "run", At(3, 1, send(number)))
    assert not result.finished
    assert len(result.rows) == 2
    assert tomllib.loads((tmp_path / "run" / "run.toml").read_text())["result"]["finished"] is False
    assert (tmp_path / "run" / "model.safetensors").is_file()
    state, _ = read_checkpoint(tmp_path / "run")
    assert (state["epochs_done"], state["batches_done"]) == (2, 1)
    assert training.resume(tmp_path / "run").finished
    assert same(weights(run), weights(tmp_path / "run"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_ends_at_once(street_data, tmp_path):
    def twice() -> None:
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt):
        training.fit("street", street_data, SMALL, tmp_path / "run", At(2, 1, twice))
    assert read_checkpoint(tmp_path / "run")[0]["epochs_done"] == 1


def test_a_loss_that_is_not_finite_ends_the_run_and_names_step_and_frames(street_data, tmp_path, monkeypatch):
    options = {**SMALL, "optimizer": "sgd", "lr": 1e6, "epochs": 9, "checkpoint_minutes": 1e-9}
    messages = []
    for ahead in (False, True):  # a GPU is a step ahead of what is read
        monkeypatch.setattr(run_record, "runs_ahead", lambda device, ahead=ahead: ahead)
        run = tmp_path / str(ahead)
        with pytest.raises(
            UserError, match=r"the loss is (nan|inf) at step \d+ \(epoch \d, batch \d: [\w, ]+\)"
        ) as caught:
            training.fit("street", street_data, options, run)
        messages.append(str(caught.value).replace(str(run), "run"))
        state, _ = read_checkpoint(run)
        assert state is None or all(weight.isfinite().all() for weight in state["model"].values())
    stems = {file.stem for file in (street_data / "train" / "images").iterdir()}
    assert len(set(re.search(r"batch \d: ([\w, ]+)", messages[0])[1].split(", ")) & stems) == SMALL["bs"]
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 1024 bytes.",  # on Windows
        "MPS backend out of memory (MPS allocated: 1 GB, other allocations: 0 bytes)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_an_error_of_any_device_for_lack_of_memory_is_recognized(message):
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from linknet_fastai.training.fit import fit

class Limit:
    "Leaves the process 150 MB more than it has when the training starts."
    progress = None
    def started(self, *arguments):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
    def stepped(self, *arguments): ...
    def epoch_ended(self, row): ...

options = {"size": "320x240", "bs": 8, "workers": 0, "epochs": 1, "device": "cpu", "precision": "fp32"}
fit("street", Path(sys.argv[1]), options | {"accumulate": 2}, Path(sys.argv[2]), Limit())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_when_memory_runs_out_options_that_need_half_of_it_are_named(street_data, tmp_path):
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(street_data), str(tmp_path / "run")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert "UserError: memory ran out with --bs 8 at 320x240; try --bs 4 --accumulate 4" in ran.stderr


@pytest.mark.parametrize(("bs", "advice"), [(8, "--bs 4 --accumulate 2"), (3, "--bs 2"), (2, "a smaller --size, or")])
@pytest.mark.parametrize("in_training", [True, False])
def test_when_memory_runs_out_options_are_named(street_data, tmp_path, monkeypatch, in_training, bs, advice):
    forward = LinkNet.forward

    def small_memory(self, images: torch.Tensor) -> torch.Tensor:
        if self.training == in_training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(LinkNet, "forward", small_memory)
    options = {**SMALL, "bs": bs, "epochs": 1}
    with pytest.raises(UserError, match=f"with --bs {bs} at 64x48; try {advice}"):
        training.fit("street", street_data, options, tmp_path / "run")
    if in_training:
        with pytest.raises(UserError, match=f"try {advice}"):
            find_lr("street", street_data, options, tmp_path / "lr", steps=20)


def test_two_trainings_do_not_share_a_folder(run, tmp_path):
    with (
        locked(tmp_path / "new"),
        pytest.raises(UserError, match="another fit that is running"),
        locked(tmp_path / "new"),
    ):
        pytest.fail("two are in it")
    assert not (tmp_path / "new").exists()  # it was empty
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    with locked(copy), pytest.raises(UserError, match="locked by another fit"):
        training.resume(copy)


def test_where_an_open_file_cannot_be_deleted_a_run_ends_like_any_other(tmp_path, monkeypatch):
    """As on Windows."""

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "in use", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    with locked(tmp_path / "run"):
        pass
    with pytest.raises(KeyError, match="own"), locked(tmp_path / "run"):
        raise KeyError("own")


def test_sigkill_in_the_middle_of_an_epoch_loses_no_epoch_that_ended(street_data, tmp_path):
    options = ["--size", "64x48", "--bs", "4", "--epochs", "40", "--workers", "0", "--device", "cpu"]
    options += ["--encoder", "test_resnet", "--data", str(street_data)]
    command = [sys.executable, "-m", "linknet_fastai", "fit", "street", *options]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "run")], stdout=subprocess.DEVNULL)
    deadline, checkpoints = time.monotonic() + 600, tmp_path / "run" / "checkpoints"
    while time.monotonic() < deadline and process.poll() is None and not list(checkpoints.glob("epoch-*.pt")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = read_checkpoint(tmp_path / "run")[0]["epochs_done"]
    assert done >= 1
    # metrics.csv is written after the checkpoint: after the first epoch it may not be there yet
    rows = read_rows(tmp_path / "run") if (tmp_path / "run" / "metrics.csv").exists() else []
    assert len(rows) in (done, done - 1)
    result = training.resume(tmp_path / "run", observer=At(done + 2, 1, send(signal.SIGINT)))
    assert [row["epoch"] for row in result.rows] == list(range(1, done + 2))


def test_resume_reports_an_error_for_what_would_be_another_run(run, tmp_path):
    with pytest.raises(UsageError, match="complete"):
        training.resume(run)
    with pytest.raises(UsageError, match=r"--lr"):
        training.resume(run, options={"lr": "0.1"})
    with pytest.raises(UsageError, match="street"):
        training.resume(run, "camvid")
    with pytest.raises(UserError, match=r"run\.toml"):
        training.resume(tmp_path)


def test_a_run_whose_end_was_cut_off_is_brought_to_its_end(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for name in ("export.pkl", "predictions.png"):
        (copy / name).unlink()
    text = (copy / "run.toml").read_text()
    (copy / "run.toml").write_text(text[: text.index("[result]")])
    assert [row["epoch"] for row in training.resume(copy).rows] == [1, 2, 3]
    assert (copy / "export.pkl").is_file()
    with pytest.raises(UsageError, match="complete"):
        training.resume(copy)


def test_a_run_is_not_resumed_when_the_classes_of_its_recipe_have_changed(street_data, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "street"\nname = "mine"\n')
    training.fit(recipe, street_data, {**SMALL, "epochs": 2}, tmp_path / "run", At(2, 1, send(signal.SIGINT)))
    classes = "".join(
        f'[[classes]]\nid = {entry.id}\nname = "{entry.name}"\ncolor = [0, 0, 0]\n'
        for entry in reversed(load_model(tmp_path / "run")[1].classes)
    )
    recipe.write_text(f'base = "street"\nname = "mine"\n{classes}')
    with pytest.raises(UserError, match="other classes"):
        training.resume(tmp_path / "run")


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path):
    assert read_checkpoint(tmp_path) == (None, [])
    for epoch in (1, 2):
        write_checkpoint(tmp_path, epoch, 0, state_of(epoch))
    older, newer = sorted((tmp_path / "checkpoints").iterdir())
    content = bytearray(newer.read_bytes())
    content[len(content) // 2] ^= 1  # one bit, where torch would not notice
    newer.write_bytes(content)
    state, damaged = read_checkpoint(tmp_path)
    assert [row["epoch"] for row in state["rows"]] == [1]
    assert [line.split(":")[0] for line in damaged] == [str(newer)]
    older.write_bytes(older.read_bytes()[:100])
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        read_checkpoint(tmp_path)


def test_a_run_is_not_resumed_with_other_data(street_data, tmp_path):
    data = Path(shutil.copytree(street_data, tmp_path / "street"))
    training.fit("street", data, {**SMALL, "epochs": 2}, tmp_path / "run", At(2, 1, send(signal.SIGINT)))
    label = next((data / "train" / "labels").iterdir())
    Image.fromarray(np.zeros((72, 96), np.uint8)).save(label)
    with pytest.raises(UserError, match="the classes' pixels are"):
        training.resume(tmp_path / "run")
    label.unlink()
    (data / "train" / "images" / label.name).unlink()
    with pytest.raises(UserError, match="the frames to train on are 7 now and were 8"):
        training.resume(tmp_path / "run")


def test_a_resumed_run_normalizes_images_as_the_weights_expect_that_it_started_from(street_data, tmp_path):
    half = (0.5, 0.5, 0.5)
    card = ModelCard.of(load_recipe("street"), (64, 48), encoder="test_resnet", mean=half, std=half)
    save_model(LinkNet(11, "test_resnet", pretrained=False), card, tmp_path / "start.safetensors")
    options = {**SMALL, "init_from": tmp_path / "start.safetensors"}
    whole = training.fit("street", street_data, options, tmp_path / "whole")
    training.fit("street", street_data, options, tmp_path / "run", At(2, 1, send(signal.SIGINT)))
    resumed = training.resume(tmp_path / "run")
    assert load_model(tmp_path / "run")[1].mean == half
    assert [row["miou"] for row in resumed.rows] == [row["miou"] for row in whole.rows]


def test_options_that_a_resumed_run_may_change_are_shown_with_their_source(street_data, tmp_path, command, capfd):
    options = {name: value for name, value in SMALL.items() if name != "workers"}
    training.fit("street", street_data, options, tmp_path / "run", At(2, 1, send(signal.SIGINT)))
    assert command("fit", "--resume", tmp_path / "run", "--workers", "0") == 0
    assert re.search(r"workers +0 +command line", capfd.readouterr().out)


def test_a_downloaded_model_is_named_by_its_link_whose_target_has_no_ending(street_data, tmp_path):
    (tmp_path / "blob").touch()
    (link := tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    settings = training.pin_files(Settings(init_from=link, teacher=link), open_dataset("street", street_data))
    assert (settings.init_from, settings.teacher) == (link, link)


def test_a_checkpoint_of_an_earlier_version_has_imagenets_normalization():
    assert normalization_of({"data": {"the frames to train on": 8}}) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_row_that_was_not_written_comes_with_the_end_of_the_run(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    whole = (copy / "metrics.csv").read_text()
    (copy / "metrics.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    text = (copy / "run.toml").read_text()
    (copy / "run.toml").write_text(text[: text.index("[result]")])
    training.resume(copy)
    assert (copy / "metrics.csv").read_text() == whole


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    folder, synced = tmp_path / "checkpoints", []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append((os.fstat(number).st_ino, sorted(folder.glob("epoch-*"))))
    )
    write_checkpoint(tmp_path, 1, 0, state_of(1))
    (file,) = folder.iterdir()
    assert file.name.startswith("epoch-000001")
    assert synced == [(file.stat().st_ino, []), (folder.stat().st_ino, [file])]


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for epoch, batch in ((1, 0), (1, 20), (1, 100), (2, 0)):
        write_checkpoint(tmp_path, epoch, batch, state_of(epoch))
    kept = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["epoch-000001-batch-00000100", "epoch-000002-batch-00000000"]
    assert read_checkpoint(tmp_path)[0]["epochs_done"] == 2


def test_a_folder_in_use_is_refused_before_anything_is_written(street_data, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        training.fit("street", street_data, SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_lr_find_leaves_plot_and_points(street_data, tmp_path):
    found, folder = find_lr("street", street_data, SMALL, tmp_path / "lr", steps=20)
    assert set(found.suggestions) == {"valley", "steep", "minimum"}
    assert (folder / "lr-find.png").is_file()
    with (folder / "lr-find.csv").open() as file:
        points = list(csv.DictReader(file))
    assert len(points) == len(found.points) > 5
    assert sorted(path.name for path in folder.iterdir()) == ["lr-find.csv", "lr-find.png"]


def test_the_learning_rate_finder_needs_no_frames_to_validate_on(street_data, tmp_path):
    data = Path(shutil.copytree(street_data, tmp_path / "street"))
    shutil.rmtree(data / "val")
    found, _ = find_lr("street", data, SMALL, tmp_path / "lr", steps=20)
    assert set(found.suggestions) == {"valley", "steep", "minimum"}


@pytest.mark.usefixtures("short_end")
def test_lr_auto_trains_at_the_valley(street_data, tmp_path):
    training.fit("street", street_data, {**SMALL, "epochs": 1, "lr": "auto"}, tmp_path / "run")
    tables = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert 1e-7 < tables["settings"]["lr"] < 10
    assert tables["origins"]["lr"] == "learning rate finder"


def test_a_user_trains_on_lists_joined_with_splits_named_from_any_folder(street_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.txt").write_text("train_0000\ntrain_0001\ntrain_0002\ntrain_0003\n")
    (tmp_path / "validation.txt").write_text("train_0004\nval_0000.png\n")
    options = {
        **SMALL,
        "epochs": 1,
        "train_on": "some.txt+test",
        "validate_on": str(tmp_path / "validation.txt"),
    }
    result = training.fit("street", street_data, options, tmp_path / "run")
    assert len(result.rows) == 1
    tables = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert tables["settings"]["train_on"] == f"{tmp_path / 'some.txt'}+test"
    assert tables["run"]["train_frames"] == 4 + 2
    assert (tmp_path / "run" / "evaluation-validation.json").is_file()


@pytest.mark.usefixtures("short_end")
@pytest.mark.parametrize(("start", "share"), [({}, 1), ({"init_from": "run"}, 0.25)])
def test_only_an_encoder_that_is_trained_already_has_a_rate_of_its_own(run, street_data, tmp_path, start, share):
    start = dict.fromkeys(start, run)
    training.fit("street", street_data, SMALL | {"epochs": 1, "encoder_lr": 0.25} | start, tmp_path / "next")
    groups = read_checkpoint(tmp_path / "next")[0]["optimizer"]["param_groups"]
    assert groups[0]["lr"] == pytest.approx(share * groups[1]["lr"])
