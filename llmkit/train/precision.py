"""Mixed precision: real autocast on a GPU, an emulation of it on a CPU.

CPU autocast keeps other operations in half precision than CUDA's does, and its fp16 products take ten times
fp32's time on a processor without fp16 instructions (benchmarks/precision.py). So on a CPU the tensors stay
fp32 and their *values* are rounded as a GPU would:

    matrix products          operands rounded to half, accumulated in fp32, the result rounded to half
    norms, softmax, losses   computed in fp32, not rounded
    everything else          rounded when every operand is half

Half is sticky: a tensor that CUDA would hold in fp16 carries a mark, and an operation on marked tensors only
gives a marked one. Values above 65504 become inf and values below 2^-25 become 0, in forward and in backward.

    with precision.forward():
        losses = model(x, y)

What the emulation does not show: memory (storage stays fp32) and speed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# CUDA's autocast policy, from ATen/autocast_mode.h of torch 2.13 (AT_FORALL_LOWER_PRECISION_FP,
# AT_FORALL_FP32, AT_FORALL_FP32_SET_OPT_DTYPE, AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE); operations of
# recurrent and vision models left out. A test holds these sets against the header of the installed torch.
LOWER = frozenset(
    """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d prelu addmm addmv addr matmul
    einsum mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot
    scaled_dot_product_attention""".split()
)
FLOAT32 = frozenset(
    """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus layer_norm
    native_layer_norm rms_norm group_norm frobenius_norm nuclear_norm cosine_similarity poisson_nll_loss
    cosine_embedding_loss nll_loss hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss
    margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss
    binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp prod softmax log_softmax cumprod cumsum
    linalg_vector_norm linalg_matrix_norm sum norm""".split()
)
COMPOSED = frozenset({"cross_entropy", "normalize", "softmin"})  # Python functions made of FLOAT32 operations

# Operations that move values and compute none: the mark goes along, rounding again would only cost time.
MOVES = frozenset(
    """view reshape transpose permute unflatten flatten chunk split unbind squeeze unsqueeze expand contiguous
    clone detach __getitem__ narrow select stack cat movedim swapaxes t mT T repeat_interleave masked_fill
    view_as""".split()
)
CASTS = frozenset({"float", "double", "to", "type"})
_ALIASES = {
    "__matmul__": "matmul",
    "__rmatmul__": "matmul",
    "vector_norm": "linalg_vector_norm",
    "__pow__": "pow",
}


class _Round(torch.autograd.Function):
    """x -> x rounded to `dtype`, held in x's own dtype; the gradient is rounded on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = dtype
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype).to(grad.dtype), None


def is_half(x: object) -> bool:
    """Whether CUDA would hold this tensor in half precision."""
    return isinstance(x, Tensor) and (
        x.dtype in (torch.float16, torch.bfloat16) or hasattr(x, "emulated_dtype")
    )


class EmulatedAutocast(TorchFunctionMode):
    """CUDA's autocast on a CPU: fp32 storage, rounded values.

    Cost at `laptop()`: benchmarks/precision.py.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        name = _ALIASES.get(name, name)
        if name in LOWER:
            out = func(*(self.half(a) for a in args), **{k: self.half(v) for k, v in kwargs.items()})
            return self.half(out)
        out = func(*args, **kwargs)
        if (
            name in CASTS
        ):  # fp32 storage makes a cast to fp32 return its argument, mark and all: take an unmarked view
            return out.view_as(out) if hasattr(out, "emulated_dtype") else out
        if name in FLOAT32 or name in COMPOSED:
            return out
        if isinstance(out, (Tensor, tuple, list)) and self.all_half(args):
            return self.mark(out) if name in MOVES or name == "__get__" else self.half(out)
        return out

    def half(self, x: Any) -> Any:
        """Round a floating tensor and mark it; leave anything else alone."""
        if isinstance(x, (tuple, list)):
            return type(x)([self.half(item) for item in x])
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        if hasattr(x, "emulated_dtype"):
            return x
        return self.mark(_Round.apply(x, self.dtype))

    def mark(self, x: Any) -> Any:
        for tensor in x if isinstance(x, (tuple, list)) else (x,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                tensor.emulated_dtype = self.dtype
        return x

    def all_half(self, args: tuple) -> bool:
        """Type promotion: half only if every floating tensor among the operands is; Python numbers do not
        count."""
        tensors = [a for arg in args for a in (arg if isinstance(arg, (tuple, list)) else (arg,))]
        floating = [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
        return bool(floating) and all(hasattr(t, "emulated_dtype") for t in floating)


class Precision:
    """How the forward and backward pass of a run are computed.

    Attributes:
        name: `fp32`, `bf16` or `fp16`.
        emulated: True where a CPU stands in for a GPU's half precision.
        why: one phrase for the run's header.
    """

    def __init__(self, name: str, device: torch.device):
        self.name, self.dtype, self.device = name, DTYPES[name], device
        self.emulated = name != "fp32" and device.type == "cpu"
        self.why = (
            "emulated on a CPU"
            if self.emulated
            else f"autocast on {device.type}"
            if name != "fp32"
            else "exact"
        )

    def forward(self) -> AbstractContextManager:
        if self.name == "fp32":
            return nullcontext()
        if self.emulated:
            return EmulatedAutocast(self.dtype)
        return torch.autocast(self.device.type, dtype=self.dtype)


def recompute_contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    """For `torch.utils.checkpoint`: a block is recomputed in backward as it was computed in forward.

    Autocast sees to that itself; a function mode is not active while autograd runs, so it is entered again.
    """
    mode = _get_current_function_mode()
    return nullcontext(), mode if isinstance(mode, EmulatedAutocast) else nullcontext()
