"""Protects the emulation of CUDA's half precision: which operations round, how values round, where gradients
round.

pytest tests/train/test_precision.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llmkit.train import GPT, ModelConfig, tiny
from llmkit.train.precision import FLOAT32, LOWER, EmulatedAutocast, is_half

HEADER = Path(torch.__file__).parent / "include/ATen/autocast_mode.h"
LEFT_OUT = re.compile(
    r"^_?(convolution|conv_tbc|thnn|lstm|gru|rnn|upsample|scaled_dot_product_flash|nll_loss2d)"
)


def header_list(name):
    text = HEADER.read_text()
    body = text[text.index(f"#define {name}(_)") :]
    body = body[: body.index("\n\n")]
    names = re.findall(r"_\((?:ADD_NS\()?(\w+)", body.split("\n", 1)[1])
    return {n.lstrip("_") if n.startswith("_upsample") else n for n in names}


@pytest.mark.skipif(not HEADER.exists(), reason="this torch ships no headers")
@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="the lists are those of torch 2.13")
def test_the_lists_are_those_of_cudas_autocast_header():
    lower = {n for n in header_list("AT_FORALL_LOWER_PRECISION_FP") if not LEFT_OUT.match(n)}
    float32 = {
        n
        for macro in (
            "AT_FORALL_FP32",
            "AT_FORALL_FP32_SET_OPT_DTYPE",
            "AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE",
        )
        for n in header_list(macro)
        if not LEFT_OUT.match(n)
    }
    assert set(LOWER) == lower
    assert set(FLOAT32) == float32


def emulate(function, *args, dtype=torch.float16):
    with EmulatedAutocast(dtype):
        return function(*args)


A = torch.linspace(-2, 2, 24).view(4, 6)
W = torch.linspace(-1, 1, 30).view(5, 6)

TABLE = [  # operation, and whether CUDA's autocast gives half for it: from half operands, from fp32 operands
    (lambda x: F.linear(x, W), True, True),
    (lambda x: x @ x.T, True, True),
    (lambda x: torch.bmm(x[None], x.T[None]), True, True),
    (lambda x: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]), True, True),
    (lambda x: F.gelu(x), True, False),
    (lambda x: x * 3, True, False),
    (lambda x: x + A, False, False),  # half + fp32 promotes
    (lambda x: x.view(6, 4).transpose(0, 1), True, False),
    (lambda x: torch.cat((x, x)), True, False),
    (lambda x: F.softmax(x, -1), False, False),
    (lambda x: F.log_softmax(x, -1), False, False),
    (lambda x: F.layer_norm(x, (6,)), False, False),
    (lambda x: F.rms_norm(x, (6,)), False, False),
    (lambda x: x.exp(), False, False),
    (lambda x: x.pow(2), False, False),
    (lambda x: x**2, False, False),
    (lambda x: x.sum(), False, False),
    (lambda x: x.cumsum(0), False, False),
    (lambda x: torch.linalg.vector_norm(x), False, False),
    (lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.long)), False, False),
    (lambda x: F.mse_loss(x, A), False, False),
    (lambda x: x.float(), False, False),
]


@pytest.mark.parametrize("row", range(len(TABLE)))
@pytest.mark.parametrize("operand", ["half", "fp32"])
def test_result_dtype_is_cudas(row, operand):
    function, from_half, from_fp32 = TABLE[row]
    with EmulatedAutocast(torch.float16) as mode:
        x = mode.half(A.clone()) if operand == "half" else A.clone()
        out = function(x)
    assert is_half(out) == (from_half if operand == "half" else from_fp32)
    if is_half(out):
        assert torch.equal(out.half().float(), out)  # and the values really are fp16 values


def test_values_round_as_fp16_does():
    eye = torch.eye(6)
    values = torch.tensor([65504.0, 65519.0, 65520.0, 2.0**-24, 2.0**-25, 1 + 2.0**-11])
    expected = torch.tensor([65504.0, 65504.0, float("inf"), 2.0**-24, 0.0, 1.0])
    got = emulate(lambda x: F.linear(x, eye).nan_to_num(nan=-1.0, posinf=float("inf")), values.diag())
    assert torch.equal(got.diag(), expected)


def test_products_accumulate_in_fp32():
    """1 + 2048 x 2^-11 is 2; accumulated in fp16 every addend would vanish."""
    x, w = torch.ones(1, 2049), torch.full((1, 2049), 2.0**-11)
    w[0, 0] = 1.0
    assert emulate(F.linear, x, w).item() == 2.0


@pytest.mark.parametrize("operation", ["linear", "matmul", "gelu", "attention"])
def test_forward_and_gradients_agree_with_native_cpu_fp16(operation):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 16, generator=generator)
    w = torch.randn(24, 16, generator=generator)

    def compute(x, w):
        if operation == "linear":
            return F.linear(x, w)
        if operation == "matmul":
            return x @ x.transpose(-1, -2)
        if operation == "gelu":
            return F.gelu(x)
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    native_x, native_w = x.half().requires_grad_(), w.half().requires_grad_()
    native = compute(native_x, native_w)
    native.float().pow(2).sum().backward()
    emulated_x, emulated_w = x.half().float().requires_grad_(), w.half().float().requires_grad_()
    with EmulatedAutocast(torch.float16) as mode:
        emulated = mode.half(compute(mode.half(emulated_x), mode.half(emulated_w)))
        emulated.pow(2).sum().backward()
    torch.testing.assert_close(emulated, native.float(), rtol=2e-3, atol=2e-3)  # two fp16 roundings
    torch.testing.assert_close(emulated_x.grad, native_x.grad.float(), rtol=5e-3, atol=2e-2)


def test_a_gradient_above_65504_becomes_infinite_on_its_way_back():
    x = torch.ones(1, 1, requires_grad=True)
    with EmulatedAutocast(torch.float16):
        loss = F.linear(x, torch.ones(1, 1)).float().sum() * 70_000.0
        loss.backward()
    assert torch.isinf(x.grad).all()


@pytest.mark.parametrize("policy", ["selective", "full"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_recomputed_blocks_round_the_same_way(tiny_run, precision, policy):
    from llmkit.train import train

    shape = {"steps": 4, "precision": precision, "model__dropout": 0.1, "model__window": 24}
    plain = list(train(tiny_run(**shape)))
    recomputed = list(train(tiny_run(**shape, model__checkpointing=policy)))
    assert [r.grad_norm for r in plain] == [r.grad_norm for r in recomputed]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_loss_in_chunks_rounds_the_same_way(tiny_run, precision):
    """Forward to the bit; backward sums the head's gradient in another order."""
    from llmkit.train import train

    whole, pieces = (
        list(train(tiny_run(steps=2, precision=precision, model__loss_chunk=chunk))) for chunk in (None, 96)
    )
    assert whole[0].sequence_losses == pytest.approx(pieces[0].sequence_losses, abs=1e-6)
    assert [r.grad_norm for r in whole] == pytest.approx([r.grad_norm for r in pieces], rel=1e-3)


def test_the_residual_stream_stays_fp32_and_the_head_gives_half():
    model = GPT(tiny().model, generator=torch.Generator().manual_seed(0))
    seen = {}
    for name in ("embed", "blocks.0", "blocks.0.mlp.up", "blocks.0.norm1", "head"):
        model.get_submodule(name).register_forward_hook(
            lambda m, a, out, n=name: seen.update({n: is_half(out)})
        )
    with EmulatedAutocast(torch.float16):
        model(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long))
    assert seen == {
        "embed": False, "blocks.0.norm1": False, "blocks.0.mlp.up": True, "blocks.0": False, "head": True,
    }  # fmt: skip


def test_fp32_is_exactly_the_plain_model(tiny_run):
    run = tiny_run()
    with run.precision.forward():
        from torch.overrides import _get_current_function_mode

        assert _get_current_function_mode() is None
    assert (run.precision.emulated, run.precision.why) == (False, "exact")
    assert ModelConfig().dropout == 0.0


OPERATIONS = {  # of docs/precision.md
    "linear": lambda h: F.linear(h, h),
    "matmul": lambda h: h @ h.T,
    "scaled_dot_product_attention": lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None]),
    "gelu": F.gelu,
    "silu": F.silu,
    "add": lambda h: torch.add(h, h),
    "mul": lambda h: torch.mul(h, h),
    "cat": lambda h: torch.cat((h, h)),
    "softmax": lambda h: torch.softmax(h, -1),
    "log_softmax": lambda h: torch.log_softmax(h, -1),
    "layer_norm": lambda h: F.layer_norm(h, h.shape[-1:]),
    "rms_norm": lambda h: F.rms_norm(h, h.shape[-1:]),
    "exp": torch.exp,
    "pow": lambda h: torch.pow(h, 2),
    "sum": torch.sum,
    "cumsum": lambda h: torch.cumsum(h, 0),
    "linalg_vector_norm": torch.linalg.vector_norm,
    "nll_loss": lambda h: F.nll_loss(h, torch.zeros(len(h), dtype=torch.long)),
    "mse_loss": lambda h: F.mse_loss(h, h),
}


def parity_row(name, operation):
    """Types from fp16 operands: by CUDA's lists, by our emulation, by the CPU's own autocast."""
    cuda = "fp32" if name in FLOAT32 else "fp16"  # in LOWER, or in no list: the operands' type
    with EmulatedAutocast(torch.float16) as mode:
        ours = "fp16" if is_half(operation(mode.half(torch.rand(6, 6)))) else "fp32"
    with torch.autocast("cpu", dtype=torch.float16):
        cpu = "fp16" if operation(torch.rand(6, 6).half()).dtype == torch.float16 else "fp32"
    return f"| `{name}` | {cuda} | {ours} | {cpu} |"


def test_the_parity_table_of_the_docs_is_computed_and_ours_is_cudas():
    rows = [parity_row(name, operation) for name, operation in OPERATIONS.items()]
    page = (Path(__file__).parents[2] / "docs/precision.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows
    for row in rows:
        cuda, ours = row.split(" | ")[1:3]
        assert cuda == ours, row
    assert any(row.endswith("fp32 | fp32 | fp16 |") for row in rows)  # the reason for emulating
