"""Batch norms folded into the convolutions before them: the same network with fewer operations, for prediction."""

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PROBE_SIZE = (64, 96)  # multiples of 32, which every encoder accepts


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every batch norm that normalizes the output of a convolution into that convolution.

    Which convolution feeds which batch norm is observed while a small image runs, not guessed from the order of the
    modules. If the folded network returns other logits, because its encoder does more than can be observed this way,
    the network is returned unfolded.

    Args:
        network: takes Bx3xHxW fp32 images; it is not changed.

    Returns:
        A copy of the network in evaluation mode.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> fold_batch_norms(network)[1]
        Identity()
    """
    plain = deepcopy(network).eval()
    if not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules()):
        return plain
    folded = deepcopy(plain)
    probe = torch.linspace(-2, 2, 3 * PROBE_SIZE[0] * PROBE_SIZE[1]).view(1, 3, *PROBE_SIZE)
    probe = probe.to(next(plain.parameters()).device)
    with torch.no_grad():
        for convolution, norm in _fed_by_convolutions(deepcopy(plain), probe):
            _fold(folded, convolution, norm)
        expected, actual = plain(probe), folded(probe)
    close = torch.allclose(actual, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return folded if close else plain


def _fed_by_convolutions(network: nn.Module, probe: Tensor) -> list[tuple[str, str]]:
    """The names of all pairs of a convolution and the batch norm whose input is the convolution's output.

    The hooks that observe them stay in `network`.
    """
    outputs: list[tuple[str, Tensor]] = []  # keeps the tensors alive: a new one could get the identity of a freed one
    pairs: list[tuple[str, str]] = []

    def after_convolution(name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        outputs.append((name, output))

    def before_norm(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        pairs.extend((convolution, name) for convolution, output in outputs if output is inputs[0])

    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(partial(after_convolution, name))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d):
            module.register_forward_pre_hook(partial(before_norm, name))
    network(probe)
    return pairs


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    before: Any = network.get_submodule(convolution)
    after: Any = network.get_submodule(norm)
    fused = fuse_conv_bn_eval(before, after, transpose=isinstance(before, nn.ConvTranspose2d))
    network.set_submodule(convolution, fused)
    # timm's batch norm contains its activation, which remains.
    rest = nn.Sequential(after.drop, after.act) if isinstance(after, BatchNormAct2d) else nn.Identity()
    network.set_submodule(norm, rest)
