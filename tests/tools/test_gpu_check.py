"""The check for GPUs: every part of it runs on the CPU, and what fails or takes too long does not stop the rest."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from linknet_fastai.core.device import Reading
from linknet_fastai.learner import callbacks
from linknet_fastai.training import run_record
from linknet_fastai.training.run_record import Observer, RunRecord

TOOLS = Path(__file__).parents[2] / "tools"


def script(name: str) -> ModuleType:
    """A script as a module; `tools` is not a package."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parts() -> ModuleType:
    return script("gpu_parts")


@pytest.fixture(autouse=True)
def unfinished(parts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without pictures and report, which the tests of `fit` look at."""
    monkeypatch.setattr(parts.training, "finish_run", lambda *_: None)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def test_a_run_is_trained(parts: ModuleType, work: Path) -> None:
    records = [*parts.fit(parts.scale_of("cpu"), work)]
    assert [record["precision"] for record in records] == ["bf16"]
    assert all(record["img/s"] > 0 and 0 <= record["best mIoU"] <= 1 for record in records)


def test_a_second_run_and_a_resumed_one_are_compared(parts: ModuleType, work: Path) -> None:
    records = [*parts.deterministic(parts.scale_of("cpu"), work)]
    assert [(record["compared"], record["same bits"]) for record in records] == [
        ("second run", True),
        ("resumed run", True),
    ]
    folders = [work / "deterministic" / name for name in ("first", "resumed")]
    assert parts.same_weights(*folders)
    assert not parts.same_weights(work / "fit" / "0", folders[0])


def test_a_step_is_taken_apart(parts: ModuleType, work: Path) -> None:
    records = [*parts.step(parts.scale_of("cpu"), work)]
    assert {record["optimizer"] for record in records} == {"muon", "adamw"}
    assert any("convolution" in record.get("op", "") for record in records)


def test_contestants_train_and_the_lack_of_one_is_noted(parts: ModuleType, work: Path, monkeypatch) -> None:
    monkeypatch.setattr("gpu_speed.find_spec", lambda name: None)
    records = [*parts.train(parts.scale_of("cpu"), work)]
    assert [record["network"] for record in records if record.get("img/s", 0) > 0] == [
        "ours",
        "ours, AdamW",
        "bare loop",
    ]
    assert [record["error"].split()[0] for record in records if "error" in record] == [
        "segmentation_models_pytorch"
    ] * 2


def test_numbers_that_are_read_on_the_host_are_counted(parts: ModuleType) -> None:
    with parts.HostReads() as reads:
        torch.ones(2).sum().item()
        bool(torch.ones(2).all())
        torch.ones(2) + 1
    assert reads.counts == {"aten._local_scalar_dense": 2}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_training_step_reads_nothing_that_a_gpu_would_have_to_finish_first(
    parts: ModuleType, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    for module in (callbacks, run_record):
        monkeypatch.setattr(module, "runs_ahead", lambda device: True)
    arrived = []

    def read(reading: Reading) -> float:
        arrived.append(reading)
        return Reading.read(reading)

    class Counted(Reading):
        pass

    Counted.read = read
    for module in (callbacks, run_record):
        monkeypatch.setattr(module, "Reading", Counted)
    learn = parts.street_learner(parts.scale_of("cpu"), work, (64, 48), 4, optimizer=optimizer)
    waits = parts.host_waits(learn, 5, [RunRecord(tmp_path, None, Observer())])
    assert waits["steps"] == 10
    assert len(arrived) == 20, "of each step: whether its labels are all void, and its loss"
    own = 5  # fastai's: the loss of an epoch, for its log
    assert waits == {"steps": 10, "aten._local_scalar_dense": 20 + own}


def test_what_fails_or_takes_too_long_does_not_stop_the_rest(tmp_path: Path) -> None:
    check = script("gpu_check")
    records = tmp_path / "records"
    write = f"open({str(records)!r}, 'w').write('{{\"a\": 1}}\\n'); print('seen'); "

    def run(code: str, seconds: float = 30) -> dict:
        return check.run_part([sys.executable, "-c", write + code], tmp_path / "log", records, seconds)

    results = {
        "good": run("pass"),
        "bad": run("raise OSError('gone')"),
        "slow": run("import time; time.sleep(60)", 1),
    }
    assert [result["status"] for result in results.values()] == ["done", "failed", "out of time"]
    assert all(result["records"] == [{"a": 1}] for result in results.values())
    assert results["slow"]["seconds"] < 30
    text = check.summary(results)
    assert "bad: failed" in text
    assert "OSError: gone" in text


def test_the_script_writes_its_results_and_measures_prediction_alone_and_in_batches(tmp_path: Path) -> None:
    arguments = ["bash", TOOLS / "gpu_check.sh", tmp_path, "--device", "cpu", "--only", "predict"]
    subprocess.run(arguments, check=True, env={**os.environ, "PYTHON": sys.executable})
    results = json.loads((tmp_path / "gpu_check.json").read_text())
    assert results["parts"]["predict"]["status"] == "done"
    records = results["parts"]["predict"]["records"]
    assert [(record["batch"], record["as"]) for record in records] == [(1, "predict"), (1, "eager"), (8, "eager")]
    assert all(record["fps"] == pytest.approx(record["batch"] / record["ms"] * 1e3) for record in records)
    assert "predict: done" in (tmp_path / "summary.txt").read_text()
