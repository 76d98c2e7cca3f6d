"""What users reported of run folders of other versions, of disks, locks, containers and terminals."""

import errno
import fcntl
import io
import math
import os
import resource
import sys
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli_w
import torch
from conftest import state_of
from fastai.optimizer import OptimWrapper
from safetensors.torch import save_file
from torch import nn

from linknet_fastai.cli.terminal import console
from linknet_fastai.cli.training_display import TrainingDisplay
from linknet_fastai.config.settings import Settings
from linknet_fastai.core import device, parallel
from linknet_fastai.core.errors import Note, UserError
from linknet_fastai.core.files import atomic_write, write_text
from linknet_fastai.data.cache import cached_frames
from linknet_fastai.data.open import open_dataset
from linknet_fastai.model.card import METADATA_KEY
from linknet_fastai.model.save_load import load_model, save_model
from linknet_fastai.runs.checkpoint import read_checkpoint, restore_learner, write_checkpoint
from linknet_fastai.runs.compare import differing_settings, spreads, summarize
from linknet_fastai.runs.folder import locked, new_folder
from linknet_fastai.runs.metrics import COLUMNS, read_metrics, write_metrics
from linknet_fastai.training import fit as training
from linknet_fastai.training.data_check import inspect_data
from linknet_fastai.training.run_record import FitResult

Command = Callable[..., int]
ROW = {"epoch": 1, **dict.fromkeys(COLUMNS[1:], 0.5)}  # of metrics.csv
CPU = torch.device("cpu")


def write_folder(folder: Path, **changes: object) -> Path:
    """A run folder whose run.toml has these settings beside the others; None takes one out."""
    settings = Settings(size=(64, 48), epochs=1)
    values = settings.model_dump(mode="json", exclude_none=True) | changes
    tables = {
        "run": {"recipe": "street", "data": "", "started": ""},
        "settings": {name: value for name, value in values.items() if value is not None},
        "origins": {},
        "versions": {"linknet-fastai": "0.9.9"},
    }
    write_text(folder / "run.toml", tomli_w.dumps(tables))
    write_metrics(folder, [ROW])
    return folder


# Files of other versions


def test_compare_leaves_out_settings_that_this_version_does_not_know_and_says_so(tmp_path: Path) -> None:
    ours = write_folder(tmp_path / "ours")
    newer = write_folder(tmp_path / "newer", ema=0.9, schedule="trapezoid", class_weights=None, seed=1)
    with pytest.warns(Note, match=r"newer/run\.toml: settings of another version are left out: ") as caught:
        runs = [summarize(ours), summarize(newer)]
    assert [{*str(note.message).rpartition(": ")[2].split(", ")} for note in caught] == [{"ema", "schedule"}]
    assert differing_settings(runs) == {
        "class_weights": ["sqrt", None],
        "schedule": ["one-cycle", None],
        "seed": [0, 1],
    }
    assert spreads(runs) == []  # they differ in more than the seed, which cannot be compared


def test_a_run_from_before_a_setting_has_what_its_version_did_and_not_the_default_of_today(tmp_path: Path) -> None:
    runs = [
        summarize(write_folder(tmp_path / "today")),
        summarize(write_folder(tmp_path / "before", relight=None, encoder_lr=None, color=None, colour=0.1)),
    ]
    assert differing_settings(runs) == {"color": [0.3, 0.1], "relight": [0.7, 0.0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema": 0.9}, "unknown key 'ema'"),
        ({"schedule": "trapezoid"}, "schedule: Input should be"),
        ({"color": None}, "color is missing"),
    ],
)
def test_resume_names_the_setting_that_it_cannot_train_with(changes: dict, message: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", device="tpu", **changes)  # the device may be another one
    with pytest.raises(UserError) as caught:
        training.resume(folder)
    assert f"{folder}/run.toml: {message}" in str(caught.value)
    assert "written by linknet-fastai 0.9.9: resume with that version, or start a new" in str(caught.value)
    assert "device" not in str(caught.value)


def test_columns_that_a_newer_version_added_to_metrics_csv_are_left_out(tmp_path: Path) -> None:
    write_metrics(tmp_path, [ROW])
    head, row = (tmp_path / "metrics.csv").read_text().splitlines()
    (tmp_path / "metrics.csv").write_text(f"{head},remark,iou_road\n{row},good,0.25\n")
    assert read_metrics(tmp_path) == [{**ROW, "iou_road": 0.25}]


def test_a_model_of_a_newer_version_names_what_to_do(model: Path, tmp_path: Path) -> None:
    _, card = load_model(model)
    text = card.model_dump_json().replace("{", '{"letterbox": true, ', 1)
    save_file({"weight": torch.zeros(1)}, tmp_path / "m.safetensors", {METADATA_KEY: text})
    with pytest.raises(UserError, match=r"m\.safetensors: metadata: unknown key 'letterbox'.*update to read it"):
        load_model(tmp_path / "m.safetensors")


def write_state(folder: Path, epochs: int, state: object) -> Path:
    """A checkpoint of any content, with the right digest in its name."""
    torch.save(state, content := io.BytesIO())
    digest = sha256(content.getvalue()).hexdigest()[:16]
    (file := folder / "checkpoints" / f"epoch-{epochs:06d}-batch-{0:08d}-{digest}.pt").parent.mkdir(exist_ok=True)
    file.write_bytes(content.getvalue())
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch_rng": None}, "torch_rng"),
        ({"torch_rng": torch.zeros(8, dtype=torch.uint8)}, "torch_rng: not the state of a random generator"),
        ({"model": [torch.ones(2)]}, "model: "),
        ({"rows": [{"epoch": 1.0}] * 2}, r"rows\[0\]: no miou"),
        ({"rows": []}, "2 epochs, but 0 rows"),
        ({"epochs_done": "2"}, "epochs_done: "),
    ],
)
def test_a_checkpoint_of_other_content_is_reported_and_the_one_before_is_used(
    changes: dict, message: str, tmp_path: Path
) -> None:
    whole = {"epochs_done": 2, "batches_done": 0, **state_of(2)} | changes
    odd = write_state(tmp_path, 2, whole)
    with pytest.raises(UserError, match=f"not a checkpoint of this version .{message}.*start a new run"):
        read_checkpoint(tmp_path)
    write_checkpoint(tmp_path, 1, 0, state_of(1))
    state, (note,) = read_checkpoint(tmp_path)
    assert state is not None
    assert state["epochs_done"] == 1
    assert note.startswith(f"{odd}: not a checkpoint of this version (")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"weight": torch.ones(3, 3)}}, "size mismatch for weight"),
        ({"settings": {"optimizer": "adamw"}}, "optimizer is muon, and was adamw"),
        ({"optimizer": {"state": {0: {"momentum": torch.ones(5)}}}}, "its state has other shapes"),
        ({"optimizer": {"state": {}}}, "param_groups"),
    ],
)
def test_a_checkpoint_of_another_network_or_optimizer_is_one_line(
    changes: dict, message: str, tmp_path: Path
) -> None:
    learn = SimpleNamespace(model=nn.Linear(2, 1, bias=False), settings=Settings(), dls=SimpleNamespace(device=CPU))

    def create_opt() -> None:
        learn.opt = OptimWrapper(learn.model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)

    learn.create_opt = create_opt
    create_opt()
    learn.model.weight.grad = torch.ones(1, 2)
    learn.opt.step()
    state = {
        "model": learn.model.state_dict(),
        "optimizer": learn.opt.state_dict(),
        "settings": {"optimizer": "muon"},
    }
    restore_learner(learn, state, tmp_path)
    groups = state["optimizer"]["param_groups"]
    if "optimizer" in changes and message != "param_groups":
        changes = {"optimizer": {**changes["optimizer"], "param_groups": groups}}
    with pytest.raises(
        UserError, match=f"{tmp_path}: the checkpoint does not fit .*{message}.*--init-from {tmp_path}"
    ):
        restore_learner(learn, state | changes, tmp_path)


# File systems


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_trains_without_one_and_says_so(
    number: int, tmp_path: Path, street_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(Note, match=f"run: the file system cannot lock files .{os.strerror(number)}."):  # noqa: SIM117
        with locked(tmp_path / "run"):
            (tmp_path / "run" / "own.txt").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["own.txt"]
    dataset = open_dataset("street", street_data)
    frames = dataset.frames("val")
    with pytest.warns(Note, match="cannot lock files"):
        _, cached = cached_frames(dataset, frames, "val", (64, 48), True, tmp_path / "cache")
    assert cached[0].cache.image(2).shape == (3, 48, 64)
    (cache,) = (tmp_path / "cache" / "frames" / "street").glob("*/index.json")
    assert cache.parent.suffix != ".partial"


def test_the_lock_file_of_a_killed_process_does_not_block_the_next_try(tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    (folder / ".lock").touch()
    assert new_folder(folder, "street") == folder
    with warnings.catch_warnings(), locked(folder):
        warnings.simplefilter("error")
    assert not folder.exists()


def test_what_a_library_says_of_a_full_disk_is_said_as_the_system_says_it(tmp_path: Path) -> None:
    (file := tmp_path / "weights.pt").write_text("as before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError) as caught, atomic_write(file) as partial:
            torch.save({"weight": torch.zeros(1 << 18)}, partial)  # raises RuntimeError: unexpected pos
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == f"{file}: cannot be written ({os.strerror(errno.EFBIG)})"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["as before"]
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(UserError, match=f"{os.strerror(number)}.; free some space"), atomic_write(file):
            raise OSError(number, os.strerror(number))


def test_fit_names_the_command_that_continues_after_the_disk_was_full(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    def fit(recipe: str, data: None, options: dict, out: None, observer: TrainingDisplay, log_to: list) -> None:
        observer.folder = tmp_path / "a run"
        write_text(Path("/dev/null/model.safetensors"), "")

    monkeypatch.setattr(training, "fit", fit)
    assert command("fit", "street") == 1
    assert f"; then continue with: linknet-fastai fit --resume '{tmp_path}/a run'\n" in capsys.readouterr().err


def test_every_file_is_readable_by_those_whom_the_umask_allows(model: Path, tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        save_model(*load_model(model), tmp_path / "new" / "model.safetensors")
        write_checkpoint(tmp_path / "new", 1, 0, state_of(1))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("**/*.*")} == {0o664}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o775


def test_data_shows_what_it_found_where_its_picture_cannot_be_written(street_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = inspect_data(open_dataset("street", street_data), tmp_path / "file" / "batch.png")
    assert [split.frames for split in found.surveys.values()] == [8, 3, 2]
    assert found.picture is None
    assert [problem.partition(": ")[2] for problem in found.problems] == ["cannot be written (File exists)"]


# Containers


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # cgroup v2, in a container
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/jobs/7\n", {"jobs/cpu.max": "300000 100000\n", "jobs/7/cpu.max": "max 100000\n"}, 3),  # of a parent
        (
            "12:cpuset:/docker/1f\n4:cpu,cpuacct:/docker/1f\n0::/docker/1f\n",  # v1: the host's path
            {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("4:cpu,cpuacct:/\n", {}, 64),
        (None, {}, 64),  # no Linux
    ],
)
def test_a_container_uses_the_cores_that_its_quota_allows(
    own: str | None, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(parallel, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(parallel, "GROUPS", tmp_path / "groups")
    if own:
        (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (file := tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert parallel.usable_cores() == cores


def test_torch_has_no_more_threads_than_the_quota_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(8)
        device.tune(CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_sandbox_that_does_not_count_the_peak_of_memory_is_measured_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status").write_text("VmSize: 100 kB\nVmRSS: 50 kB\n")  # as in gVisor
    monkeypatch.setattr(device, "STATUS", tmp_path / "status")
    assert 50 < (device.peak_memory_mib(CPU) or math.nan) < 1 << 20


# Terminals


def test_a_terminal_without_utf_8_shows_names_as_escapes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "Straße 柱")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown := io.BytesIO(), "ascii"))
    assert command("compare", folder) == 0
    sys.stdout.flush()
    assert b"Stra\\xdfe \\u67f1" in shown.getvalue()


def test_the_lines_of_fit_and_evaluate_fit_into_80_columns(
    command: Command, model: Path, street_data: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "quiet", False)
    assert command("evaluate", model, "street", "--data", street_data, "--split", "val") == 0
    run = {
        "recipe": "camvid",
        "data": "CamVid",
        "folder": Path("runs/camvid"),
        "parameters": 11_530_000,
        "processes": 8,
    }
    frames = {"train_frames": 10_000, "validation_frames": 10_000, "notes": []}
    loader = type("Loader", (list,), {"bs": 8})([0])
    dls = SimpleNamespace(train=loader, valid=loader, device=torch.device("cuda:0"))
    learn = SimpleNamespace(dls=dls, card=SimpleNamespace(recipe="camvid", classes=[0] * 11))
    settings = Settings(precision="bf16")
    with TrainingDisplay() as display:
        display.started(learn, settings, dict.fromkeys(Settings.model_fields, "default"), run | frames)  # type: ignore
    lines = capsys.readouterr().out.splitlines()
    assert any("10000 frames to train on" in line for line in lines)
    assert max(map(len, lines)) <= 80, max(lines, key=len)


def test_fit_names_no_picture_that_was_not_written(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "fit", lambda *_: FitResult(tmp_path, [ROW]))
    assert command("fit", "street") == 0
    assert "predictions" not in capsys.readouterr().out
    (tmp_path / "predictions.png").touch()
    assert command("fit", "street") == 0
    assert f"predictions {tmp_path}/predictions.png" in capsys.readouterr().out
