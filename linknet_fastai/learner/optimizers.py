"""Optimizers by name: torch's own, and Muon for convolutions."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from linknet_fastai.core.device import resolve_precision

# The first polynomials of Polar Express (Amsel, Persson, Musco and Gower, 2025): each brings the singular values of a
# matrix nearer to 1. Three of them train as well here as the five of Muon's own.
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
UPDATE_SIZE = 0.2  # the root mean square of an update at a learning rate of 1, as AdamW's (Liu et al., 2025)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for convolution weights, AdamW for everything else.

    The momentum of a convolution's weight is a matrix, its first dimension (output channels; input channels of a full
    convolution) by everything else. Its singular values are all brought near to 1 before it is taken off the weight:
    directions that seldom occur in the gradient, such as those of rare classes, are learned as quickly as the others.

    Args:
        params: as for every optimizer of torch.
        lr: the learning rate. Updates are as large as AdamW's, and so rates are as for AdamW.
        betas: the decay of the momentum, and for AdamW that of the squared gradient.
        eps: for AdamW.
        weight_decay: decoupled, of convolution weights.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take a step; returns what `closure` gives, where there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    if weight.ndim == 4:
                        self._step_convolution(weight, group)
                    else:
                        self._step_adam(weight, group)
        return loss

    def _step_convolution(self, weight: Tensor, group: dict) -> None:
        state, lr, decay = self.state[weight], group["lr"], group["betas"][0]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(weight.grad, 1 - decay)
        ahead = weight.grad.lerp(momentum, decay)  # as Nesterov looks ahead
        matrix = ahead.contiguous().flatten(1)
        step = lr * UPDATE_SIZE * max(matrix.shape) ** 0.5
        weight.mul_(1 - lr * group["weight_decay"])
        weight.sub_(orthogonalize(matrix).view(weight.shape), alpha=step)

    def _step_adam(self, weight: Tensor, group: dict) -> None:
        state, (mean_decay, square_decay) = self.state[weight], group["betas"]
        if not state:
            state["steps"] = 0
            state["momentum"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["steps"] += 1
        state["momentum"].lerp_(weight.grad, 1 - mean_decay)
        state["square"].lerp_(weight.grad.square(), 1 - square_decay)
        mean = state["momentum"] / (1 - mean_decay ** state["steps"])
        root = (state["square"] / (1 - square_decay ** state["steps"])).sqrt_()
        weight.sub_(mean / (root + group["eps"]), alpha=group["lr"])


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near to 1, and leave its singular vectors.

    Args:
        matrix: MxN floats.

    Returns:
        MxN in the same type; singular values above 1/134 of the matrix's Frobenius norm come to lie between 0.18 and
        1.87, smaller ones grow up to 134 times. All zeros stay so.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # Products in bf16 sum in fp32, and are several times as quick where the hardware has it, elsewhere slower.
    quick = torch.bfloat16 if resolve_precision("auto", matrix.device) == "bf16" else torch.float32
    x = (wide / (1.01 * wide.norm() + 1e-7)).to(quick)
    for linear, cubic, quintic in POLYNOMIALS:
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return (x if matrix.shape[0] <= matrix.shape[1] else x.T).to(matrix.dtype)


# Our Muon, and torch's own optimizers with torch's own defaults: fastai's Adam is AdamW with another epsilon, its SGD
# and RMSProp have no momentum. Weight decay is 0.01 for AdamW and Muon and 0 for the others, as in torch; sgd gets
# the momentum of 0.9 that the word means in this field. Fused: one pass over the weights a step.
OPTIMIZERS: dict[str, Callable] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "rmsprop": torch.optim.RMSprop,
    "sgd": partial(torch.optim.SGD, momentum=0.9, fused=True),
    "muon": Muon,
}
