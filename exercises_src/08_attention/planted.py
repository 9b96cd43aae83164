"""Wrong solutions of exercise 08, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["attention"]["divides by d"]
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

# ------------------------------------------------------------------------------------------ wrong: attention


def _visible(q, k, shift=0):
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril(k.shape[-2] - q.shape[-2] + shift)


def _attention(
    scale=lambda q, k, v: math.sqrt(q.shape[-1]),
    visible=_visible,
    fill=-math.inf,
    softmax=lambda scores: torch.softmax(scores, -1),
    wide=lambda x: x.float(),
    after=lambda weights, mask: weights,
    back=lambda x: x,
):
    """Attention with one part replaced."""

    def attention(q, k, v):
        scores = wide(q) @ wide(k).transpose(-2, -1) / scale(q, k, v)
        mask = visible(q, k)
        weights = after(softmax(scores.masked_fill(~mask, fill)), mask)
        return (back(weights) @ wide(v)).to(q.dtype)

    return attention


def _all(q, k):
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool)


def _top_left(q, k):
    return _all(q, k).tril()


def _itself(q, k):
    return _visible(q, k) & ~_visible(q, k, -1)


def _naive(scores):
    weights = scores.exp()
    return weights / weights.sum(-1, keepdim=True)


def _masked_late(q, k, v):
    weights = torch.softmax(q.float() @ k.float().transpose(-2, -1) / math.sqrt(q.shape[-1]), -1)
    return ((weights * _visible(q, k)) @ v.float()).to(q.dtype)


def _library(q, k, v):
    out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
    return out.to(q.dtype)


def _average(q, k, v):
    weights = _visible(q, k).float()
    out = weights / weights.sum(-1, keepdim=True) @ v.float()
    return out.to(q.dtype) + 0 * (q.sum() + k.sum())


def _transposed(q, k, v):
    return _right(q, k, v).transpose(-2, -1)


def _square(q, k, v):
    mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
    scores = q.float() @ k.float().transpose(-2, -1) / math.sqrt(q.shape[-1])
    return (torch.softmax(scores.masked_fill(~mask, -math.inf), -1) @ v.float()).to(q.dtype)


def _rounded_scores(q, k, v):
    """Softmax in float32, but of scores that were rounded to bfloat16."""
    scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(q.shape[-1])
    return (torch.softmax(scores.masked_fill(~_visible(q, k), -math.inf), -1) @ v.float()).to(q.dtype)


_right = _attention()

WRONG_ATTENTION = {
    "misses 1/sqrt(d)": (_attention(scale=lambda q, k, v: 1.0), "scale"),
    "divides by d": (_attention(scale=lambda q, k, v: q.shape[-1]), "value"),
    "takes the root of the keys": (_attention(scale=lambda q, k, v: math.sqrt(k.shape[-2])), "value"),
    "takes the root of v's length": (_attention(scale=lambda q, k, v: math.sqrt(v.shape[-1])), "scale"),
    "multiplies by the root": (_attention(scale=lambda q, k, v: q.shape[-1] ** -0.5), "value"),
    "attends only to itself": (_attention(visible=_itself), "past"),
    "averages the past": (_average, "past"),
    "sees everything": (_attention(visible=_all), "mask"),
    "sees one key too many": (_attention(visible=lambda q, k: _visible(q, k, 1)), "mask"),
    "sees one key too few": (_attention(visible=lambda q, k: _visible(q, k, -1)), "finite"),
    "sees the future only": (_attention(visible=lambda q, k: ~_visible(q, k, -1)), "past"),
    "masks with 0": (_attention(fill=0.0), "mask"),
    "masks with -1e4": (_attention(fill=-1e4), "mask"),
    "masks after softmax": (_masked_late, "sum"),
    "forgets the cached keys": (_attention(visible=_top_left), "offset"),
    "trusts is_causal": (_library, "offset"),
    "normalises over the queries": (_attention(softmax=lambda s: torch.softmax(s, -2)), "axis"),
    "exponentiates the scores": (_attention(softmax=_naive), "finite"),
    "computes in bfloat16": (_attention(wide=lambda x: x), "fp32"),
    "rounds the scores": (_rounded_scores, "fp32"),
    "returns float32": (lambda q, k, v: _right(q.float(), k.float(), v.float()), "dtype"),
    "detaches the weights": (_attention(back=lambda x: x.detach()), "gradient"),
    "detaches the keys": (lambda q, k, v: _right(q, k.detach(), v), "gradient"),
    "detaches the output": (lambda q, k, v: _right(q, k, v).detach(), "gradient"),
    "detaches the softmax's sum": (
        _attention(softmax=lambda s: (s - torch.logsumexp(s, -1, keepdim=True).detach()).exp()),
        "gradient",
    ),
    "transposes the output": (_transposed, "form"),
    "returns the weights": (lambda q, k, v: _right(q, k, torch.eye(k.shape[-2], dtype=v.dtype)), "form"),
    "returns a list": (lambda q, k, v: _right(q, k, v).tolist(), "form"),
    "makes a square mask": (_square, ""),
}

# ---------------------------------------------------------------------------------- wrong: grouped attention


def _grouped(share=lambda x, n: x.repeat_interleave(n, dim=1), attention=_right, v_share=None):
    def grouped_attention(q, k, v):
        n = q.shape[1] // k.shape[1]
        return attention(q, share(k, n), (v_share or share)(v, n))

    return grouped_attention


def _split_heads(q, k, v):
    """Takes heads as (within the group, group): the right sharing for another layout."""
    groups, n = k.shape[1], q.shape[1] // k.shape[1]
    split = q.reshape(q.shape[0], n, groups, *q.shape[2:])
    return _right(split, k[:, None].expand(-1, n, -1, -1, -1), v[:, None].expand(-1, n, -1, -1, -1)).flatten(
        1, 2
    )


def _averaged_queries(q, k, v):
    """Averages the queries of a group: one output per group."""
    groups, n = k.shape[1], q.shape[1] // k.shape[1]
    mean = q.reshape(q.shape[0], groups, n, *q.shape[2:]).mean(2)
    return _right(mean, k, v).repeat_interleave(n, dim=1)


class _MeanGradient(torch.autograd.Function):
    """Copies heads and gives back the mean of the copies' gradients, not their sum."""

    @staticmethod
    def forward(context, x, n):
        context.n = n
        return x.repeat_interleave(n, dim=1)

    @staticmethod
    def backward(context, grad):
        return grad.reshape(len(grad), -1, context.n, *grad.shape[2:]).mean(2), None


def _first_copy_alone(x, n):
    """Only the first query head of a group sends its gradient back."""
    copies = [x, *(x.detach() for _ in range(n - 1))]
    return torch.stack(copies, dim=2).flatten(1, 2)


WRONG_GROUPED = {
    "tiles the heads": (_grouped(lambda x, n: x.repeat(1, n, 1, 1)), "group"),
    "tiles the values only": (_grouped(v_share=lambda x, n: x.repeat(1, n, 1, 1)), "group"),
    "takes the first head for all": (
        _grouped(lambda x, n: x[:, :1].expand(-1, n * x.shape[1], -1, -1)),
        "group",
    ),
    "takes the mean head for all": (
        _grouped(lambda x, n: x.mean(1, keepdim=True).expand(-1, n * x.shape[1], -1, -1)),
        "attention",
    ),
    "turns the groups round": (_grouped(lambda x, n: x.flip(1).repeat_interleave(n, dim=1)), "attention"),
    "splits the heads the other way": (_split_heads, "group"),
    "averages the queries of a group": (_averaged_queries, "group"),
    "misses 1/sqrt(d)": (_grouped(attention=_attention(scale=lambda q, k, v: 1.0)), "attention"),
    "sees everything": (_grouped(attention=_attention(visible=_all)), "attention"),
    "forgets the cached keys": (_grouped(attention=_attention(visible=_top_left)), "attention"),
    "gives back the mean gradient": (_grouped(_MeanGradient.apply), "gradient"),
    "gives back one head's gradient": (_grouped(_first_copy_alone), "gradient"),
    "detaches the copies": (_grouped(lambda x, n: x.detach().repeat_interleave(n, dim=1)), "gradient"),
    "puts heads behind queries": (lambda q, k, v: _grouped()(q, k, v).transpose(1, 2), "form"),
    "concatenates the heads": (lambda q, k, v: _grouped()(q, k, v).transpose(1, 2).flatten(2), "form"),
    "returns the groups' mean": (
        lambda q, k, v: _grouped()(q, k, v).unflatten(1, (k.shape[1], -1)).mean(2),
        "form",
    ),
    "does not share": (lambda q, k, v: _right(q[:, : k.shape[1]], k, v), "form"),
    "trusts broadcasting": (lambda q, k, v: _right(q, k, v) if k.shape[1] > 1 else _grouped()(q, k, v), ""),
}

WRONG = {"attention": WRONG_ATTENTION, "grouped_attention": WRONG_GROUPED}

# ---------------------------------------------------------------------------------- right ones, other styles


def attention_library(q, k, v):
    """The library's, with the mask that its `is_causal` does not make."""
    out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=_visible(q, k))
    return out.type_as(q)


def attention_einsum(q, k, v):
    t, s, d = q.shape[-2], k.shape[-2], q.shape[-1]
    scores = torch.einsum("...td,...sd->...ts", q.float() * d**-0.5, k.float())
    later = torch.arange(s)[None, :] > torch.arange(s - t, s)[:, None]
    scores = scores + torch.zeros(t, s).masked_fill(later, float("-inf"))
    weights = (scores - scores.amax(-1, keepdim=True).detach()).exp()
    return torch.einsum("...ts,...se->...te", weights / weights.sum(-1, keepdim=True), v.float()).to(q.dtype)


def attention_by_query(q, k, v):
    """One query at a time, over the keys that it sees; in float64."""
    rows, offset = [], k.shape[-2] - q.shape[-2]
    for i in range(q.shape[-2]):
        seen = slice(0, offset + i + 1)
        scores = (k[..., seen, :].double() * q[..., i : i + 1, :].double()).sum(-1) / q.shape[-1] ** 0.5
        rows.append((torch.softmax(scores, -1)[..., None] * v[..., seen, :].double()).sum(-2))
    return torch.stack(rows, dim=-2).to(q.dtype)


def grouped_view(q, k, v):
    """Splits the query heads into groups; keys are never copied."""
    split = q.unflatten(1, (k.shape[1], -1))
    return _right(split, k[:, :, None], v[:, :, None]).flatten(1, 2)


def grouped_index(q, k, v):
    of = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    return attention_einsum(q, k[:, of], v[:, of])


def grouped_library(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_visible(q, k), enable_gqa=True)


RIGHT = {
    "attention": [attention_library, attention_einsum, attention_by_query],
    "grouped_attention": [grouped_view, grouped_index, grouped_library],
}
