"""AdamW written out, so that each choice that `torch.optim.AdamW` makes has a name, a place and a source.

    optimizer = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), bias_correction="delayed")

Update t = 1, 2, ... of a weight w with gradient g:

    w *= 1 - lr weight_decay                        decoupled decay: Loshchilov and Hutter, arXiv 1711.05101
    m += (1 - beta1) (g - m)                        Adam: Kingma and Ba, arXiv 1412.6980
    v  = beta2 v + (1 - beta2) g^2
    w -= lr / c1  *  m / (sqrt(v) / sqrt(c2) + eps)

m and v start at 0 and are too small at first; c1 and c2 correct that. Together they make a learning-rate
schedule of their own, sqrt(c2) / c1 (Laing and Orvieto, arXiv 2511.20516), which is what this file lets one
choose.

With its defaults this is `torch.optim.AdamW(fused=False)` to the last bit of weights and moments, in fp32 on
a CPU, `foreach` or not. `fused=True`, which a run uses by default, has the same moments to the last bit and
rounds some weights the other way, a few in ten thousand an update.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.Optimizer):
    """State per parameter as torch's: `step`, `exp_avg` (m), `exp_avg_sq` (v); checkpoints are exchangeable.

    Args:
        lr, betas, eps, weight_decay: as in torch; the loop sets `lr` before every step.
        bias_correction: `standard`: c1 = 1 - beta1^t, c2 = 1 - beta2^t (Kingma and Ba, section 3). `none`:
            c1 = c2 = 1; the first step is larger by (1 - beta1) / sqrt(1 - beta2), 3.2 at (0.9, 0.999) and
            0.45 at (0.9, 0.95), so that whether it helps depends on the betas. `delayed`: c1 = 1 alone, so
            that steps grow over the first 1 / (1 - beta1) of them (AdamD: St John, arXiv 2110.10828).
            `rectified`: standard, times `rectification`, and without the denominator where that is 0 (RAdam:
            Liu et al., arXiv 1908.03265).
        beta2_schedule: `constant`, or `power`: beta2 = 1 - t^-0.8 (Adafactor: Shazeer and Stern, arXiv
            1804.04235, section 7.2). It begins at 0, so v needs no correction and `betas[1]` is not used.
        eps_place: `outside` the root: sqrt(v) + eps, torch's; or `inside`: sqrt(v + eps), optax's `eps_root`.
            The same 1e-8 is a floor of 1e-8 outside and of 1e-4 inside.
        update_clip: d of StableAdamW: the step of a tensor is divided by max(1, `surprise` / d); the decay is
            not, as in its authors' code (Wortsman et al., arXiv 2304.13013, with d = 1). None: off. On a GPU
            it waits for the device once per parameter.
    """

    def __init__(
        self, params: Any, *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, bias_correction: str = "standard", beta2_schedule: str = "constant",
        eps_place: str = "outside", update_clip: float | None = None,
    ):  # fmt: skip
        plain = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        chosen = {
            "bias_correction": bias_correction,
            "beta2_schedule": beta2_schedule,
            "eps_place": eps_place,
        }
        super().__init__(params, plain | chosen | {"update_clip": update_clip})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        if not (state := self.state[p]):
            zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            state.update(step=torch.tensor(0.0), **zeros)
        state["step"] += 1
        t, m, v = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]
        beta1, lr, eps, correction = group["betas"][0], group["lr"], group["eps"], group["bias_correction"]
        beta2, seen = second_moment(group, t)
        c1 = 1 - beta1**t if correction in ("standard", "rectified") else 1.0
        c2 = 1.0 if correction == "none" else seen

        p.mul_(1 - lr * group["weight_decay"])
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        size = lr / c1
        if correction == "rectified":
            size *= (factor := rectification(beta2, t)) or 1.0
            if not factor:
                p.add_(m, alpha=-size)  # v has seen too little to divide by: momentum alone
                return
        if group["update_clip"] is not None:
            size /= max(1.0, surprise(g, v, seen, eps).item() / group["update_clip"])
        inside = group["eps_place"] == "inside"
        denominator = (v / c2).add_(eps).sqrt_() if inside else (v.sqrt() / c2**0.5).add_(eps)
        p.addcdiv_(m, denominator, value=-size)


def second_moment(group: dict[str, Any], t: float) -> tuple[float, float]:
    """(beta2 of update t, share of v that is gradients and not the zero it began with)."""
    if group["beta2_schedule"] == "power":
        return 1 - t**-0.8, 1.0
    beta2 = group["betas"][1]
    return beta2, 1 - beta2**t


def rectification(beta2: float, t: float) -> float:
    """RAdam's r_t: from 0 to 1 as the gradients behind v grow in number; 0 below rho_t = 5, torch's limit."""
    most = 2 / (1 - beta2) - 1
    rho = most - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= 5:
        return 0.0
    return ((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)) ** 0.5


def surprise(g: Tensor, v: Tensor, seen: float, eps: float) -> Tensor:
    """StableAdamW's RMS_t, 0-dim: root mean square of g / sqrt(v / seen). About 1 when v is up to date, more
    when gradients grew faster than v follows, at most sqrt(1 / (1 - beta2)) in the long run."""
    return (g.square() / (v / seen).clamp_(min=eps**2)).mean().sqrt()
