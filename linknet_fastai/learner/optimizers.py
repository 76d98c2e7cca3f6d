"""Optimizers by name: torch's own, and Muon for convolutions."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from linknet_fastai.core.device import resolve_precision

# The first three polynomials of Polar Express (Amsel, Persson, Musco and Gower, 2025): each brings the singular
# values of a matrix closer to 1. They trained LinkNet as well as the five iterations of the original Muon.
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
# timm.optim.Muon (timm 1.0.31), given the same polynomials, iterates over the whole matrix, as this one did before: a
# step of LinkNet took 411 ms of CPU time with timm's and 432 with this one, which takes 235 now. timm's also always
# computes in bf16: without hardware for it a step took 14.8 s.
LARGEST_IN_FP32 = 128  # rows of a matrix; smaller ones are as fast in fp32 as in bf16
UPDATE_SIZE = 0.2  # root mean square of an update at a learning rate of 1, the same as AdamW's (Liu et al., 2025)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for convolution weights, AdamW for everything else.

    The momentum of a convolution's weight is treated as a matrix, its first dimension (output channels; input
    channels of a transposed convolution) by all others. The singular values of the matrix are brought close to 1
    before it is subtracted from the weight: directions that are rare in the gradient, such as those of rare classes,
    are learned as quickly as the others.

    Args:
        params: parameters or parameter groups, as for every optimizer of torch.
        lr: the learning rate. Updates are as large as AdamW's, so the same learning rates apply.
        betas: the decay of the momentum, and that of AdamW's squared gradient.
        eps: AdamW's.
        weight_decay: decoupled, of convolution weights only.

    Example:
        >>> model = torch.nn.Conv2d(3, 8, 3)
        >>> optimizer = Muon(model.parameters(), lr=2e-3)
        >>> model(torch.ones(1, 3, 8, 8)).mean().backward()
        >>> optimizer.step()
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
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: computes the loss and its gradients again, as for every optimizer of torch.

        Returns:
            The loss that `closure` returns, or None.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    step = self._step_convolution if weight.ndim == 4 else self._step_adam
                    step(weight, weight.grad, group)
        return loss

    def _step_convolution(self, weight: Tensor, gradient: Tensor, group: dict) -> None:
        state, lr, decay = self.state[weight], group["lr"], group["betas"][0]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(gradient, 1 - decay)
        lookahead = gradient.lerp(momentum, decay)  # Nesterov's momentum
        rows = lookahead.permute(0, 2, 3, 1)  # no copy in channels_last, which LinkNet is trained in
        matrix = rows.flatten(1)
        step = lr * UPDATE_SIZE * max(matrix.shape) ** 0.5
        weight.mul_(1 - lr * group["weight_decay"])
        weight.sub_(orthogonalize(matrix).view(rows.shape).permute(0, 3, 1, 2), alpha=step)

    def _step_adam(self, weight: Tensor, gradient: Tensor, group: dict) -> None:
        state, (mean_decay, square_decay) = self.state[weight], group["betas"]
        if not state:
            state["steps"] = 0
            state["momentum"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["steps"] += 1
        state["momentum"].lerp_(gradient, 1 - mean_decay)
        state["square"].lerp_(gradient.square(), 1 - square_decay)
        mean = state["momentum"] / (1 - mean_decay ** state["steps"])
        root = (state["square"] / (1 - square_decay ** state["steps"])).sqrt_()
        weight.sub_(mean / (root + group["eps"]), alpha=group["lr"])


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix close to 1, and keep its singular vectors.

    Args:
        matrix: MxN, any float type.

    Returns:
        MxN in the same type. Singular values above 1/134 of the matrix's Frobenius norm become 0.18 to 1.87; smaller
        ones grow by a factor of up to 134. Zeros stay zeros.

    Example:
        >>> values = torch.linalg.svdvals(orthogonalize(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]])))
        >>> bool((values > 0.18).all() and (values < 1.87).all())
        True
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # bf16 products accumulate in fp32. They are several times faster on hardware with bf16, and slower elsewhere.
    bf16 = resolve_precision("auto", matrix.device) == "bf16" and len(wide) > LARGEST_IN_FP32
    x = (wide / (1.01 * wide.norm() + 1e-7)).to(torch.bfloat16 if bf16 else torch.float32)
    # A polynomial of x x^T times x has the singular values of x, each put through the polynomial. So only the square
    # x x^T, which has far fewer elements, goes through the iterations, and x is multiplied once, by their product.
    gram, product = x @ x.T, None
    for linear, cubic, quintic in POLYNOMIALS:
        factor = torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic)
        factor.diagonal().add_(linear)
        gram = factor @ gram @ factor
        product = factor if product is None else factor @ product
    x = product @ x
    return (x if matrix.shape[0] <= matrix.shape[1] else x.T).to(matrix.dtype)


# Our Muon, and torch's own optimizers with torch's defaults: fastai's Adam is AdamW with another epsilon, and its SGD
# and RMSProp have no momentum. Weight decay is 0.01 for AdamW and Muon and 0 for the others, as in torch. SGD gets
# a momentum of 0.9, which this field takes for granted. `fused` updates all weights in one pass.
OPTIMIZERS: dict[str, Callable] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "rmsprop": torch.optim.RMSprop,
    "sgd": partial(torch.optim.SGD, momentum=0.9, fused=True),
    "muon": Muon,
}
