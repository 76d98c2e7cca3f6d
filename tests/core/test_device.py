"""Which device and precision are chosen, and how a CPU's cores are divided."""

import os
from pathlib import Path

import pytest
import torch

from linknet_fastai.core import device
from linknet_fastai.core.errors import UsageError

CPU_INFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPU_INFO.is_file() or "flags\t" not in CPU_INFO.read_text(), reason="needs Linux on x86")
def test_auto_is_bf16_only_if_the_cpu_has_it() -> None:
    flags = next(line for line in CPU_INFO.read_text().splitlines() if line.startswith("flags")).split()
    native = {"amx_tile", "avx512_bf16"} & {*flags}
    assert device.resolve_precision("auto", torch.device("cpu")) == ("bf16" if native else "fp32")


@pytest.mark.gpu
def test_auto_is_fp16_on_gpus_without_bf16() -> None:
    expected = "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    assert device.resolve_precision("auto", torch.device("cuda")) == expected


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(UsageError, match="--precision"):
        device.resolve_precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_computes_products_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    with device.autocast(precision, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_available_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--device: cuda"):
        device.resolve_device("cuda")


def test_deterministic_products_on_cuda_are_prepared_before_cuda_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    device.set_deterministic(False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    try:
        device.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        device.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("cores", "loaders", "threads"), [(8, 2, 6), (2, 2, 1), (1, 4, 1)])
def test_loader_processes_and_computing_threads_have_cores_of_their_own(
    monkeypatch: pytest.MonkeyPatch, cores: int, loaders: int, threads: int
) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: cores)
    before = torch.get_num_threads()
    try:
        device.tune(torch.device("cpu"))
        assert torch.get_num_threads() == min(before, cores), "without loader processes torch's own number stays"
        device.tune(torch.device("cpu"), loaders)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
