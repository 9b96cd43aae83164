"""Invariants of a run, checked on one batch: what a healthy run cannot fail, and no curve shows.

    for name, found in probe(run).items():
        print(name, found)          # update {'frozen': [], 'beta2': 0.95, 'eps': 1e-08, ...}

Many faults of numerics and of the optimizer leave the loss where it was. A probe asks one part of the run a
question whose answer is known, between two steps, and puts back weights, gradients, moments, modes and random
state. It reports what it found as an event of kind `probe` and judges nothing: `diagnose` orders probes by
name and reads the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.errors import ConfigError, LLMKitError, closest

RATE, SMALL = 1e-3, 1e-3  # learning rate and gradient of the question that `update` asks


@contextmanager
def undisturbed(run: Any) -> Iterator[None]:
    """Whatever is done to the model and the optimizer inside the `with` is undone after it.

    Cost: a copy of the parameters.
    """
    parameters, optimizer = list(run.model.parameters()), run.optimizer
    weights = [(p, p.detach().clone(), p.grad) for p in parameters]
    modes = [(module, module.training) for module in run.model.modules()]
    groups, state = [dict(group) for group in optimizer.param_groups], dict(optimizer.state)
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for p, weight, grad in weights:
                    p.copy_(weight)
                    p.grad = grad
            for module, training in modes:
                module.training = training
            for group, kept in zip(optimizer.param_groups, groups, strict=True):
                group.update(kept)
            optimizer.state.clear()
            optimizer.state.update(state)


def served(run: Any, rows: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets (b, T) int64 and weights (b, T) float32 of the batch of the present step."""
    batch = run.loader.batch(run.step)
    return tuple(torch.from_numpy(part[:rows]).to(run.device) for part in (batch.x, batch.y, batch.weight))


def gradient(run: Any) -> dict[str, Any]:
    """Is the gradient that the optimizer would get that of the mean loss over the batch's targets?

    The run's own way (its zero_grad, micro-batches, loss scale and unscaling) against one backward pass in
    plain fp32, without dropout.

    Returns:
        `ratio` of the norms, 1 when all is well; `cosine` between them; `left`: norm of what zero_grad left,
        over that of the gradient; `micro_batches`; `scale`: the loss scale.
    """
    x, y, weight = served(run)
    nn.Module.train(run.model, False)
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    mean = (run.model(x, y) * weight).sum() / weight.sum()
    plain = torch.autograd.grad(mean, parameters)
    for p, grad in zip(parameters, plain, strict=True):
        p.grad = grad.clone() if p.grad is None else p.grad  # something to clear

    run.optimizer.zero_grad(set_to_none=True)
    left = _norm([p.grad for p in parameters if p.grad is not None])
    size = run.micro_batch or len(x)
    for part in zip(x.split(size), y.split(size), weight.split(size), strict=True):
        with run.precision.forward():
            losses = run.model(part[0], part[1])
        run.scaler.scale((losses * part[2]).sum() / run.positions).backward()
    run.scaler.unscale_(run.named_grads(), correction=run.positions / weight.sum().item())
    mine = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    found, expected = _norm(mine), _norm(plain)
    product = sum(torch.dot(a.flatten(), b.flatten()).item() for a, b in zip(mine, plain, strict=True))
    return {
        "ratio": found / expected, "cosine": product / (found * expected), "left": left / expected,
        "micro_batches": -(-len(x) // size), "scale": run.scaler.current,
    }  # fmt: skip


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(torch.linalg.vector_norm(t.float()).item() ** 2 for t in tensors) ** 0.5


@torch.no_grad()
def update(run: Any) -> dict[str, Any]:
    """Is the update AdamW's, with the settings that were asked for, for every tensor?

    A known answer. Weights (0, 1, 0 ...), gradients (c, 0, 0 ...), no moments yet: the first weight moves to
    -lr c / (c + eps), the second decays to 1 - lr decay, and the moments become (1 - beta1) c and
    (1 - beta2) c^2 (Kingma and Ba, arXiv 1412.6980, algorithm 1, at t = 1).

    Returns:
        `frozen`: tensors that did not move; `rounded`: tensors whose new weights are bf16 numbers, which the
        answer is not. Of the others the largest `beta1`, `beta2`, `eps`, `decay` of matrices and
        `vector_decay` of norms and biases; `eps` only with standard bias correction and eps outside the root.
    """
    optimizer = run.optimizer
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["lr"] = RATE
    for p in run.model.parameters():
        p.zero_().view(-1)[1:2] = 1
        p.grad = torch.zeros_like(p)
        p.grad.view(-1)[0] = SMALL
    optimizer.step()

    found: dict[str, Any] = {"frozen": [], "rounded": []}
    choices = run.config.bias_correction, run.config.eps_place
    for name, p in run.model.named_parameters():
        moved, shrunk = -p.view(-1)[0].item(), 1 - p.view(-1)[-1 if p.numel() < 2 else 1].item()
        if p.view(-1)[0] == 0:
            found["frozen"].append(name)
        elif torch.equal(p, p.bfloat16().to(p.dtype)):
            found["rounded"].append(name)
        else:
            numbers = {"vector_decay" if p.dim() < 2 else "decay": shrunk / RATE}
            state = optimizer.state.get(p, {})
            for beta, moment, power in (("beta1", "exp_avg", 1), ("beta2", "exp_avg_sq", 2)):
                if moment in state:
                    numbers[beta] = 1 - state[moment].view(-1)[0].item() / SMALL**power
            if "beta2" in numbers and choices == ("standard", "outside"):
                numbers["eps"] = SMALL * (RATE / moved - 1)
            found |= {key: max(value, found.get(key, value)) for key, value in numbers.items()}
    return found


@torch.no_grad()
def evaluation(run: Any) -> dict[str, Any]:
    """Do two evaluations of the same sequences agree? Returns `spread`: the largest difference, nats."""
    x, y, _ = served(run, rows=2)
    run.model.eval()
    first, second = run.model(x, y), run.model(x, y)
    return {"spread": (first - second).abs().max().item()}


@torch.no_grad()
def head(run: Any) -> dict[str, Any]:
    """Does the head give logits, and does it follow the embedding that it is tied to?

    Returns:
        `probabilities`: its outputs are positive and add up to 1. `follows`: they change with the embedding;
        null where the head is not tied.
    """
    embedding = run.model.embed.weight
    hidden = torch.ones(1, embedding.shape[1], device=run.device)
    out = run.model.head(hidden)
    embedding[0] += 1
    changed = not torch.equal(out, run.model.head(hidden))
    sums = bool(((out.sum(-1) - 1).abs() < 1e-3).all())
    return {
        "probabilities": sums and bool((out >= 0).all()),
        "follows": changed if run.config.model.tied else None,
    }


def moments(run: Any) -> dict[str, Any]:
    """How many updates do AdamW's moments remember? Returns `updates`, the most of any tensor."""
    counts = [float(state["step"]) for state in run.optimizer.state.values() if "step" in state]
    return {"updates": int(max(counts, default=0))}


PROBES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gradient": gradient, "update": update, "evaluation": evaluation, "head": head, "moments": moments,
}  # fmt: skip


def probe(run: Any, names: Iterable[str] = tuple(PROBES)) -> dict[str, dict[str, Any]]:
    """Ask `run`, between two steps; the answers are also told as events of kind `probe`.

    Under several ranks each asks its own replica.

    Returns:
        Name -> what was found; nothing under the name of a probe that could not be made: its event says why.

    Raises:
        ConfigError: no probe has that name.
    """
    answers: dict[str, dict[str, Any]] = {}
    for name in names:
        if name not in PROBES:
            raise ConfigError(f"unknown probe `{name}`", remedy=closest(name, PROBES))
        try:
            with undisturbed(run):
                answers[name] = PROBES[name](run)
        except (LLMKitError, RuntimeError, AttributeError) as error:
            run.tell("probe", f"probe `{name}` could not be made: {error}".splitlines()[0], probe=name)
        else:
            said = ", ".join(f"{key} {_words(value)}" for key, value in answers[name].items())
            run.tell("probe", f"probe `{name}`: {said}", probe=name, **answers[name])
    return answers


def _words(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} tensors"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
