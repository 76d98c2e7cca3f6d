"""Muon: what a step does to a convolution's weight and to everything else, and that it resumes."""

import copy

import pytest
import torch
from torch import nn

from linknet_fastai.learner.optimizers import UPDATE_SIZE, Muon, orthogonalize


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (48, 48)])
def test_singular_values_become_close_to_1_and_vectors_stay(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(0, -1.5, min(shape))  # a condition of 32
    made = orthogonalize(u @ torch.diag(values) @ v)
    found = u.T @ made @ v.T
    assert made.shape == shape
    assert made.dtype == torch.float32
    assert found.diagonal().min() > 0.15
    assert found.diagonal().max() < 2.1
    assert 0.7 < found.diagonal().mean() < 1.6
    assert (found - torch.diag(found.diagonal())).abs().max() < 0.1


def test_zeros_stay_zeros() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 9)), torch.zeros(4, 9))


def one_step(weight: torch.Tensor, gradient: torch.Tensor, **options) -> torch.Tensor:
    """The change of a weight by a first step."""
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    Muon([parameter], **options).step()
    return parameter.detach() - weight


def test_the_size_of_an_update_of_a_convolution_is_that_of_adamw_whatever_the_gradients() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, gradient = (torch.randn(32, 16, 3, 3, generator=generator) for _ in range(2))
    steps = [one_step(weight, gradient * factor, lr=0.1, weight_decay=0) for factor in (1e-4, 1, 1e4)]
    for step in steps:
        assert step.square().mean().sqrt().item() == pytest.approx(0.1 * UPDATE_SIZE, rel=0.3)
        assert (step * gradient).sum() < 0
    assert torch.allclose(steps[0], steps[2], atol=2e-3)


def test_everything_else_is_stepped_as_by_adam_of_torch() -> None:
    generator = torch.Generator().manual_seed(2)
    bias = torch.randn(64, generator=generator)
    ours, theirs = nn.Parameter(bias.clone()), nn.Parameter(bias.clone())
    muon = Muon([ours], lr=0.01, betas=(0.9, 0.99))
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99))
    for _ in range(5):
        gradient = torch.randn(64, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, bias, atol=1e-3)


def test_weights_of_convolutions_decay() -> None:
    weight = torch.ones(8, 8, 1, 1)
    assert torch.allclose(one_step(weight, torch.zeros_like(weight), lr=0.5, weight_decay=0.1), -0.05 * weight)
    assert torch.equal(one_step(torch.ones(8), torch.zeros(8), lr=0.5, weight_decay=0.1), torch.zeros(8))


def test_a_layout_in_memory_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, gradient = (torch.randn(8, 4, 3, 3, generator=generator) for _ in range(2))
    last = {"memory_format": torch.channels_last}
    parameter = nn.Parameter(weight.to(**last))
    parameter.grad = gradient.to(**last)
    Muon([parameter], lr=0.1).step()
    assert torch.equal(parameter.detach() - weight, one_step(weight, gradient, lr=0.1))


def test_a_restored_state_continues_as_without_an_interruption() -> None:
    def network() -> nn.Module:
        torch.manual_seed(4)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def train(model: nn.Module, optimizer: Muon, steps: range) -> None:
        for step in steps:
            images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()

    whole, halves = network(), network()
    train(whole, Muon(whole.parameters()), range(6))
    first = Muon(halves.parameters())
    train(halves, first, range(3))
    second = Muon(halves.parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(halves, second, range(3, 6))
    for ours, theirs in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_step_returns_the_loss_of_its_closure() -> None:
    weight = nn.Parameter(torch.ones(2, 2, 1, 1))

    def closure() -> torch.Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert Muon([weight]).step(closure).item() == 4
