"""The GPT: pre-norm blocks, every option a learner will be asked about, nothing else.

B batch, T time (positions), C width, H query heads, K key/value heads, D head dimension, V vocabulary.

    model = GPT(tiny().model, generator=torch.Generator().manual_seed(0))
    token_losses = model(x, y)      # (B, T) nats
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.train.config import ModelConfig
from llmkit.train.moe import Experts, Router
from llmkit.train.recompute import recomputed


class RMSNorm(nn.Module):
    """x / rms(x), times a learned gain (arXiv 1910.07467). Computed in fp32 as LayerNorm is under
    autocast."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def make_norm(cfg: ModelConfig, width: int) -> nn.Module:
    return nn.LayerNorm(width, bias=cfg.bias) if cfg.norm == "layernorm" else RMSNorm(width)


def rotate(x: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary positions (arXiv 2104.09864): pairs of dimensions turned by an angle that grows with position.

    x: (B, heads, T, D). Scores then depend on the distance between positions only.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)  # (D/2,)
    angle = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * frequency  # (T, D/2)
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), dim=-1).to(
        x.dtype
    )


def windowed(q: Tensor, k: Tensor, v: Tensor, window: int, **options: Any) -> Tensor:
    """Sliding-window attention (Longformer, arXiv 2004.05150): position t sees t - window + 1 to t.

    q: (B, H, T, D); k, v: (B, K, T, D); returns (B, H, T, D). One fused call for each `window` queries and
    the at most 2 window - 1 keys that they see: T x 2 window scores instead of T x T, and no mask of T x T.
    """
    places = torch.arange(1 - window, window, device=q.device)
    distance = places[window - 1 :, None] - places  # (window, 2 window - 1), of queries 0.. and keys
    unseen = torch.zeros(distance.shape, dtype=q.dtype, device=q.device)
    unseen.masked_fill_((distance < 0) | (distance >= window), -math.inf)
    pieces = []
    for start in range(0, q.shape[-2], window):
        first, stop = max(0, start - window + 1), min(start + window, q.shape[-2])
        mask = unseen[: stop - start, first - start + window - 1 : stop - start + window - 1]
        keys, values = k[..., first:stop, :], v[..., first:stop, :]
        piece = F.scaled_dot_product_attention(q[..., start:stop, :], keys, values, attn_mask=mask, **options)
        pieces.append(piece)
    return torch.cat(pieces, dim=-2)


class Attention(nn.Module):
    """Causal self-attention. K < H shares each key/value head among H/K query heads (grouped-query); `window`
    limits how far back a position sees."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.qkv = nn.Linear(cfg.width, (cfg.heads + 2 * cfg.n_kv_heads) * cfg.head_dim, bias=cfg.bias)
        self.out = nn.Linear(cfg.width, cfg.width, bias=cfg.bias)
        if cfg.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(cfg.head_dim), RMSNorm(cfg.head_dim)

    def heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, (H + 2K) D) -> q (B, H, T, D), k and v (B, K, T, D), as they enter the product."""
        cfg = self.cfg
        qkv = qkv.unflatten(-1, (-1, cfg.head_dim)).transpose(1, 2)  # (B, H + 2K, T, D)
        q, k, v = qkv.split((cfg.heads, cfg.n_kv_heads, cfg.n_kv_heads), dim=1)
        if cfg.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if cfg.position == "rotary":
            q, k = rotate(q), rotate(k)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.qkv(x))
        cfg, rate = self.cfg, self.cfg.dropout if self.training else 0.0
        options = {"dropout_p": rate, "enable_gqa": cfg.heads != cfg.n_kv_heads}
        if cfg.window is not None and cfg.window < q.shape[-2]:
            y = windowed(q, k, v, cfg.window, **options)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, C)


class MLP(nn.Module):
    """GELU: down(gelu(up(x))). SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.up = nn.Linear(cfg.width, cfg.hidden, bias=cfg.bias)
        self.gate = nn.Linear(cfg.width, cfg.hidden, bias=cfg.bias) if cfg.activation == "swiglu" else None
        self.down = nn.Linear(cfg.hidden, cfg.width, bias=cfg.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.norm1, self.attention = make_norm(cfg, cfg.width), Attention(cfg)
        self.norm2, self.mlp = make_norm(cfg, cfg.width), MLP(cfg)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class MoEBlock(Block):
    """A block whose MLP is a mixture of experts (train/moe.py); gives the router's penalty beside x."""

    def __init__(self, cfg: ModelConfig):
        super().__init__(cfg)
        self.router, self.mlp = Router(cfg), Experts(cfg)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.dropout(self.attention(self.norm1(x)))
        h = self.norm2(x)
        route = self.router(h)
        return x + self.dropout(self.mlp(h, route)), route.penalty


class GPT(nn.Module):
    """Token ids in, one loss per target out.

    Contract:
        x: (B, T) int64, 0 <= x < V, T <= context
        y: (B, T) int64, the token after each x
        returns: (B, T) float32, cross-entropy of each target in nats; at initialisation about ln V
        raises: IndexError for a token id outside the vocabulary

    Args:
        generator: draws the initial weights; the global generator is not touched. None leaves them
        uninitialised
            (shape-only models on the meta device).
    """

    def __init__(self, cfg: ModelConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.cfg = cfg
        with torch.device("meta"):  # nothing is drawn or allocated twice
            self.embed = nn.Embedding(cfg.vocab_size, cfg.width)
            self.position = nn.Embedding(cfg.context, cfg.width) if cfg.position == "learned" else None
            self.dropout = nn.Dropout(cfg.dropout)
            kind = MoEBlock if cfg.experts else Block
            self.blocks = nn.ModuleList(kind(cfg) for _ in range(cfg.layers))
            self.norm = make_norm(cfg, cfg.width)
            self.head = nn.Linear(cfg.width, cfg.vocab_size, bias=False)
        if generator is not None:
            self.to_empty(device="cpu")
            self.initialise(generator)
        if cfg.tied:
            self.head.weight = self.embed.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal(0, init_std); matrices that write to the residual stream over sqrt(2 layers) (GPT-2)."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif p.dim() == 1:
                p.fill_(1.0)
            else:
                writes_residual = name.endswith(("attention.out.weight", "mlp.down.weight", "mlp.down"))
                scale = math.sqrt(2 * self.cfg.layers) if writes_residual else 1.0
                p.normal_(0.0, self.cfg.init_std / scale, generator=generator)

    def hidden(self, x: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, C), normalised, ready for the head."""
        return self.trunk(x)[0]

    def trunk(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """`hidden`, and the sum of the routers' penalties; None without routers."""
        h = self.embed(x)
        if self.position is not None:
            h = h + self.position.weight[: x.shape[1]]
        h, penalties = self.dropout(h), []
        for block in self.blocks:
            h = recomputed(block, h, policy=self.cfg.checkpointing)
            if self.cfg.experts:
                h, penalty = h
                penalties.append(penalty)
        return self.norm(h), sum(penalties) if penalties else None

    def logits(self, x: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, V)."""
        return self.head(self.hidden(x))

    def losses(self, h: Tensor, y: Tensor) -> Tensor:
        """(..., C) of `hidden` and (...) targets -> (positions,) nats. Logits, (positions, V), live here."""
        return F.cross_entropy(self.head(h).flatten(0, -2), y.flatten(), reduction="none")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        (h, penalty), chunk = self.trunk(x), self.cfg.loss_chunk
        if chunk is None:
            losses = self.losses(h, y)
        else:
            pieces = zip(h.flatten(0, 1).split(chunk), y.flatten().split(chunk), strict=True)
            losses = torch.cat([recomputed(self.losses, *piece, policy="full") for piece in pieces])
        # the penalty's gradient without its value, on every target alike: what weighs and scales the losses
        # (accumulation, ranks, loss scale) weighs and scales it too, and a loss remains a cross-entropy
        return (losses if penalty is None else losses + (penalty - penalty.detach())).view(y.shape)
