"""Which tensors CUDA would make, made on a CPU: its autocast table with real dtypes, and its attention.

The one idea: what a tensor costs is decided by its dtype and shape alone, and both are decided above the
kernels, in Python's reach.

    with AsCuda(torch.bfloat16):
        losses = model(x, y)        # products in bf16, norms and losses in fp32, a bf16 copy of every weight
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmkit.errors import ConfigError
from llmkit.train.precision import _ALIASES, COMPOSED, FLOAT32, LOWER, EmulatedAutocast


class AsCuda(EmulatedAutocast):
    """`torch.autocast("cuda", dtype)` for tensors that are not there.

    As autocast does, it casts a weight once and keeps the copy until the outermost `with` is left. A kind of
    EmulatedAutocast, so that checkpointed blocks enter it again when they are recomputed.

    Args:
        dtype: of matrix products; None: no autocast.
        kernels: of attention. `cuda`: as CUDA's dispatcher would choose it; `plain`: products with all the
            scores, as before there were fused ones; `cpu`: as this processor's does.
    """

    def __init__(self, dtype: torch.dtype | None, kernels: str = "cuda"):
        super().__init__(dtype)
        self.kernels, self.depth = kernels, 0
        self.refuse: Callable[[str], Exception] = RuntimeError  # of what leaves PyTorch
        self.copies: dict[nn.Parameter, Tensor] = {}

    def __enter__(self) -> AsCuda:
        self.depth += 1
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.depth -= 1
        if not self.depth:
            self.copies.clear()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        name = _ALIASES.get(name, name)
        if name in ("numpy", "__array__", "tolist"):
            raise self.refuse(name)
        if self.dtype is not None and (name in LOWER or name in FLOAT32 or name in COMPOSED):
            dtype = self.dtype if name in LOWER else torch.float32
            args = tuple(self.cast(a, dtype) for a in args)
            kwargs = {key: self.cast(value, dtype) for key, value in kwargs.items()}
        elif name in LOWER:
            one_dtype(name, args)
        if name == "scaled_dot_product_attention" and self.kernels == "cuda":
            return attention(*args, **kwargs)
        with sdpa_kernel(SDPBackend.MATH) if self.kernels == "plain" else nullcontext():
            return func(*args, **kwargs)

    def cast(self, value: Any, dtype: torch.dtype) -> Any:
        """Floating tensors in `dtype`, anything else as it is."""
        if isinstance(value, tuple | list):
            return type(value)(self.cast(one, dtype) for one in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if dtype == torch.float32 or not isinstance(value, nn.Parameter):
            return value.to(dtype)
        if value not in self.copies:
            self.copies[value] = value.to(dtype)
        return self.copies[value]


def one_dtype(name: str, args: tuple) -> None:
    """Fake kernels multiply what real ones refuse. Raises ConfigError."""
    kinds = {str(a.dtype)[6:] for a in args if isinstance(a, Tensor) and a.is_floating_point()}
    if len(kinds) > 1:
        raise ConfigError(
            f"`{name}` was given {' and '.join(sorted(kinds))}, which PyTorch does not multiply",
            expected="one dtype, where there is no autocast",
            remedy="use autocast (`bf16`), or let a norm that computes in float32 answer in its input's",
        )


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """The kernel that CUDA would take (ATen/native/transformers/cuda/sdp_utils.cpp): flash for half precision
    without a mask; memory-efficient otherwise, unless queries are grouped; else plain products, T x T scores
    and all. q: (B, H, T, D); k, v: (B, K, T, D). Buffers inside a kernel are not seen."""
    options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if q.dtype in (torch.float16, torch.bfloat16) and attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, **options)[0]
    if q.shape[1] == k.shape[1]:
        bias = None if attn_mask is None else attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, **options)[0]
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, attn_mask, enable_gqa=enable_gqa, **options)
