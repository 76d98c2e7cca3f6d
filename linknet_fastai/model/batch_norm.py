"""Batch norm folded into the convolutions before it: the same network with fewer operations, for prediction."""

from copy import deepcopy

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PROBE_SIZE = (64, 96)  # any encoder takes multiples of 32


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every batch norm that normalises a convolution's output into that convolution.

    Which convolution feeds which batch norm is seen by running a small image, not guessed from the order of the
    modules. Where an encoder goes ways that this does not see, and the folded network gives other logits, the
    network is left as it was.

    Args:
        network: takes Bx3xHxW fp32 images; it stays as it is.

    Returns:
        A copy of the network in evaluation mode.
    """
    plain = deepcopy(network).eval()
    if not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules()):
        return plain
    folded = deepcopy(plain)
    probe = torch.linspace(-2, 2, 3 * PROBE_SIZE[0] * PROBE_SIZE[1]).view(1, 3, *PROBE_SIZE)
    for device in {parameter.device for parameter in plain.parameters()}:
        probe = probe.to(device)
    with torch.no_grad():
        for convolution, norm in _fed_by_convolutions(folded, probe):
            _fold(folded, convolution, norm)
        expected, given = plain(probe), folded(probe)
    close = torch.allclose(given, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return folded if close else plain


def _fed_by_convolutions(network: nn.Module, probe: Tensor) -> list[tuple[str, str]]:
    """The names of all pairs of a convolution and the batch norm that takes its output, as it is."""
    made: list[tuple[str, Tensor]] = []  # holds the tensors: the identity of one that is gone may be another's
    pairs: list[tuple[str, str]] = []

    def after_convolution(name: str) -> object:
        return lambda module, inputs, output: made.append((name, output))

    def before_norm(name: str) -> object:
        def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
            pairs.extend((convolution, name) for convolution, output in made if output is inputs[0])

        return look

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            hooks.append(module.register_forward_hook(after_convolution(name)))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d):
            hooks.append(module.register_forward_pre_hook(before_norm(name)))
    network(probe)
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    before, after = network.get_submodule(convolution), network.get_submodule(norm)
    fused = fuse_conv_bn_eval(before, after, transpose=isinstance(before, nn.ConvTranspose2d))
    network.set_submodule(convolution, fused)
    # timm's batch norm brings its activation along, which stays.
    rest = nn.Sequential(after.drop, after.act) if isinstance(after, BatchNormAct2d) else nn.Identity()
    network.set_submodule(norm, rest)
