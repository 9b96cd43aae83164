"""Wrong solutions of exercise 09, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["accumulate"]["mean of means"]
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

IGNORE = -100


def _counted(labels):
    return int((labels != IGNORE).sum())


def _accumulate(
    zero=lambda model: model.zero_grad(),
    each=lambda model: None,
    skip=lambda labels: _counted(labels) == 0,
    weight=lambda batches, labels: 1 / max(sum(_counted(one) for _, one in batches), 1),
    reduction="sum",
    result=lambda parts: sum(parts),
):
    """The right accumulation, one part replaced."""

    def accumulate(model, batches):
        zero(model)
        parts = []
        for x, labels in batches:
            if skip(labels):
                continue
            each(model)
            part = cross_entropy(model(x), labels, reduction=reduction) * weight(batches, labels)
            part.backward()
            parts.append(part.item())
        return result(parts)

    return accumulate


_right = _accumulate()


def _concatenated(model, batches):
    model.zero_grad()
    x, labels = (torch.cat(list(part)) for part in zip(*batches, strict=True))
    if not _counted(labels):
        return 0.0
    loss = cross_entropy(model(x), labels)
    loss.backward()
    return loss.item()


def _one_backward(model, batches):
    model.zero_grad()
    tokens = sum(_counted(labels) for _, labels in batches)
    parts = [cross_entropy(model(x), y, reduction="sum") / tokens for x, y in batches if _counted(y)]
    if parts:
        sum(parts).backward()
    return float(sum(parts))


def _divides(model, batches):
    scale = 1 / sum(_counted(labels) for _, labels in batches)
    return _accumulate(weight=lambda b, y: scale)(model, batches)


def _zeroes_first(model):
    next(model.parameters()).grad = None


WRONG_ACCUMULATE = {
    "does not zero": (_accumulate(zero=lambda model: None), "stale"),
    "zeroes the first parameter alone": (_accumulate(zero=_zeroes_first), "stale"),
    "zeroes where there are tokens": (
        lambda model, batches: _right(model, batches) if any(_counted(y) for _, y in batches) else 0.0,
        "stale",
    ),
    "zeroes in the loop": (_accumulate(each=lambda model: model.zero_grad()), "all"),
    "mean of means": (
        _accumulate(weight=lambda batches, labels: 1 / len(batches), reduction="mean"),
        "tokens",
    ),
    "sum of means": (_accumulate(weight=lambda batches, labels: 1, reduction="mean"), "tokens"),
    "sum of losses": (_accumulate(weight=lambda batches, labels: 1), "tokens"),
    "divides by the tokens so far": (
        _accumulate(weight=lambda batches, labels: 1 / _counted(labels)),
        "tokens",
    ),
    "divides by tokens and micro-batches": (
        _accumulate(weight=lambda b, y: 1 / len(b) / sum(_counted(one) for _, one in b)),
        "tokens",
    ),
    "counts ignored labels": (
        _accumulate(weight=lambda batches, labels: 1 / sum(len(one) for _, one in batches)),
        "ignored",
    ),
    "mean over an empty micro-batch": (
        _accumulate(
            skip=lambda labels: False,
            reduction="mean",
            weight=lambda b, y: _counted(y) / max(sum(_counted(one) for _, one in b), 1),
        ),
        "empty",
    ),
    "the last loss": (_accumulate(result=lambda parts: parts[-1] if parts else 0.0), "loss"),
    "the mean of the parts": (_accumulate(result=lambda p: sum(p) / max(len(p), 1)), "loss"),
    "nan without tokens": (_accumulate(result=lambda p: sum(p) if p else float("nan")), "empty"),
    "one batch of all": (_concatenated, "apart"),
    "one backward pass at the end": (_one_backward, "apart"),
    "no loss": (_accumulate(result=lambda parts: None), "form"),
    "a list of losses": (_accumulate(result=lambda parts: parts), "form"),
    "divides by no tokens": (_divides, ""),
}


def _clip(model, norm):
    torch.nn.utils.clip_grad_norm_(model.parameters(), norm)


def _clip_each(model, norm):
    for parameter in model.parameters():
        if parameter.grad is not None:
            torch.nn.utils.clip_grad_norm_([parameter], norm)


def _clip_values(model, norm):
    torch.nn.utils.clip_grad_value_(model.parameters(), norm)


def _clip_always(model, norm):
    total = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None))
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(norm / (total + 1e-12))


def _train(
    accumulate=_right, clip=_clip, step=lambda o, m: o.step(), loss=lambda model, b, loss: loss, skip=True
):
    def train_step(model, optimizer, batches, max_norm):
        found = accumulate(model, batches)
        if not skip or any(_counted(labels) for _, labels in batches):
            clip(model, max_norm)
            step(optimizer, model)
        return loss(model, batches, found)

    return train_step


def _clip_in_loop(model, optimizer, batches, max_norm):
    def accumulate(model, batches):
        model.zero_grad()
        tokens, loss = sum(_counted(labels) for _, labels in batches), 0.0
        for x, labels in batches:
            if _counted(labels):
                part = cross_entropy(model(x), labels, reduction="sum") / tokens
                part.backward()
                _clip(model, max_norm)
                loss += part.item()
        return loss

    return _train(accumulate)(model, optimizer, batches, max_norm)


def _step_per_batch(model, optimizer, batches, max_norm):
    return sum(_train()(model, optimizer, [batch], max_norm) for batch in batches)


def _by_hand(optimizer, model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(optimizer.param_groups[0]["lr"] * parameter.grad)


def _decays(optimizer, model):
    optimizer.step()
    with torch.no_grad():
        next(model.parameters()).mul_(0.99)


def _after(model, batches, loss):
    return _right(model, batches)


def _zero_after(model, optimizer, batches, max_norm):
    loss = _train(_accumulate(zero=lambda model: None))(model, optimizer, batches, max_norm)
    optimizer.zero_grad()
    return loss


WRONG_STEP = {
    "no clipping": (_train(clip=lambda model, norm: None), "clip"),
    "clips to a hundredth": (_train(clip=lambda model, norm: _clip(model, norm / 100)), "clip"),
    "stretches short gradients": (_train(clip=_clip_always), "clip"),
    "clips each parameter": (_train(clip=_clip_each), "gradient"),
    "clips each number": (_train(clip=_clip_values), "gradient"),
    "clips in the loop": (_clip_in_loop, "gradient"),
    "clips after the step": (
        _train(clip=lambda m, n: None, step=lambda o, m: (o.step(), _clip(m, 0.1))),
        "clip",
    ),
    "does not zero": (_train(_accumulate(zero=lambda model: None)), "gradient"),
    "zeroes after the step": (_zero_after, "gradient"),
    "zeroes before the step": (_train(step=lambda o, m: (o.zero_grad(), o.step())), "gradient"),
    "mean of means": (_train(_accumulate(weight=lambda b, y: 1 / len(b), reduction="mean")), "gradient"),
    "a step per micro-batch": (_step_per_batch, "once"),
    "two steps": (_train(step=lambda o, m: (o.step(), o.step())), "once"),
    "forgets the step": (_train(step=lambda o, m: None), "once"),
    "steps by hand, without momentum": (_train(step=_by_hand), "once"),
    "steps without tokens": (_train(skip=False), "skip"),
    "decays the weights besides": (_train(step=_decays), "step"),
    "the loss after the step": (_train(loss=_after), "loss"),
    "the sum of losses": (
        _train(loss=lambda m, b, loss: loss * sum(_counted(y) for _, y in b)),
        "loss",
    ),
    "returns nothing": (_train(loss=lambda m, b, loss: None), "form"),
}
WRONG = {"accumulate": WRONG_ACCUMULATE, "train_step": WRONG_STEP}

# ----------------------------------------------------------------------------------- right, in other styles


def divides_gradients(model, batches):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    loss, tokens = torch.zeros(()), 0
    for x, labels in batches:
        part = cross_entropy(model(x), labels, reduction="sum")
        part.backward()
        loss, tokens = loss + part.detach(), tokens + _counted(labels)
    for parameter in model.parameters():
        if parameter.grad is not None and tokens:
            parameter.grad /= tokens
    return loss / max(tokens, 1)


def log_softmax(model, batches):
    for parameter in model.parameters():
        parameter.grad = None
    tokens, loss = sum(_counted(labels) for _, labels in batches), 0.0
    for x, labels in batches:
        kept = labels != IGNORE
        if kept.any():
            part = -model(x)[kept].log_softmax(-1).gather(1, labels[kept, None]).sum() / tokens
            part.backward()
            loss += part.item()
    return loss


def weighted_means(model, batches):
    return _accumulate(
        reduction="mean", weight=lambda b, y: _counted(y) / sum(_counted(one) for _, one in b)
    )(model, batches)


def clip_by_hand(model, norm):
    held = [p.grad for p in model.parameters() if p.grad is not None]
    total = torch.sqrt(sum(grad.square().sum() for grad in held))
    if total > norm:
        for grad in held:
            grad *= norm / total


RIGHT = {
    "accumulate": [divides_gradients, log_softmax, weighted_means],
    "train_step": [
        _train(divides_gradients, clip_by_hand),
        _train(log_softmax),
        _train(weighted_means, clip_by_hand),
    ],
}
