"""The private names of torch that the package uses still exist and return what is expected."""

import inspect

import pytest
import torch


@pytest.mark.parametrize("name", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_torch_still_has_the_private_name(name: str) -> None:
    function = getattr(torch.cpu, name, None)
    assert function is not None, f"torch {torch.__version__} has no torch.cpu.{name}: change core/torch_private.py"
    assert not inspect.signature(function).parameters, f"torch.cpu.{name} takes arguments now"
    assert type(function()) is bool, f"torch.cpu.{name} returns {type(function())}, not a bool"
