"""The emulation held against a GPU: whole steps in fp16, and which operations come out in half precision.

    python benchmarks/gpu_precision.py [--config tiny] [--steps 20] [--write docs/measured.md]

Two runs with the same seed, data and loss scale, one under CUDA's autocast and one under the emulation on the CPU,
step by step from the *same* weights: before each step the CPU's weights are copied to the GPU. Compared are the loss,
the gradients (relative L2 distance, and beside it that of the CPU's own fp32), whether the step overflowed, and the
result types of a list of operations. `--write` appends the row to a Markdown table. It needs a CUDA device and ends
with exit code 3 where there is none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from llmkit.data import open_dataset
from llmkit.folder import write_whole
from llmkit.train import build, named, train
from llmkit.train.precision import EmulatedAutocast, is_half

OPERATIONS = {
    "linear": lambda h: F.linear(h, h),
    "matmul": lambda h: h @ h.T,
    "attention": lambda h: F.scaled_dot_product_attention(h[None, None], h[None, None], h[None, None]),
    "gelu": F.gelu,
    "silu": F.silu,
    "add": lambda h: h + h,
    "cat": lambda h: torch.cat((h, h)),
    "softmax": lambda h: h.softmax(-1),
    "layer_norm": lambda h: F.layer_norm(h, h.shape[-1:]),
    "rms_norm": lambda h: F.rms_norm(h, h.shape[-1:]),
    "cross_entropy": lambda h: F.cross_entropy(h, torch.zeros(len(h), dtype=torch.long, device=h.device)),
    "exp": torch.exp,
    "pow": lambda h: h.pow(2),
    "sum": torch.sum,
    "norm": torch.linalg.vector_norm,
}


class Keep:
    """Keeps the unscaled gradients of the last step."""

    def on_backward(self, run):
        self.grads = {name: grad.detach().cpu().clone() for name, grad in run.named_grads()}


def types(device: str) -> dict[str, str]:
    """Operation -> "half" or "fp32" from half operands: CUDA's autocast on a GPU, the emulation on a CPU."""
    x, found = torch.linspace(-1, 1, 256).view(16, 16), {}
    for name, operation in OPERATIONS.items():
        if device == "cpu":
            with EmulatedAutocast(torch.float16) as mode:
                found[name] = "half" if is_half(operation(mode.half(x.clone()))) else "fp32"
        else:
            with torch.autocast(device, dtype=torch.float16):
                found[name] = "half" if is_half(operation(x.to(device).half())) else "fp32"
    return found


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative L2 distance of all gradients together."""
    gap = sum(float((a[name] - b[name]).double().pow(2).sum()) for name in a)
    return (gap / sum(float(a[name].double().pow(2).sum()) for name in a)) ** 0.5


def measure(config: str, steps: int, scale: float, other: str) -> dict:
    """`steps` steps of the emulation, each repeated from the same weights on `other` and in fp32."""
    base = {"steps": steps, "save_every": 0, "loss_scale": scale}
    kinds = {"emulated": ("cpu", "fp16"), "device": (other, "fp16"), "fp32": ("cpu", "fp32")}
    configs = {kind: named(config, device=d, precision=p, **base) for kind, (d, p) in kinds.items()}
    dataset = open_dataset(configs["fp32"].data, vocab_size=configs["fp32"].model.vocab_size)
    runs = {kind: build(cfg, dataset=dataset) for kind, cfg in configs.items()}
    keeps = {kind: Keep() for kind in kinds}
    for kind, run in runs.items():
        run.observers.append(keeps[kind])
    loops, rows = {kind: train(run) for kind, run in runs.items()}, []
    for _ in range(steps):
        for kind in ("device", "fp32"):
            runs[kind].model.load_state_dict(runs["emulated"].model.state_dict())
        runs["device"].scaler.load_state_dict(runs["emulated"].scaler.state_dict())
        records = {kind: next(loop) for kind, loop in loops.items()}
        agree = records["device"].nonfinite == records["emulated"].nonfinite
        row = {"overflow_agrees": agree, "loss_gap": abs(records["device"].loss - records["emulated"].loss)}
        if not any(record.nonfinite for record in records.values()):
            exact = keeps["fp32"].grads
            row |= {kind: distance(exact, keeps[kind].grads) for kind in ("emulated", "device")}
            row["between"] = distance(keeps["device"].grads, keeps["emulated"].grads)
        rows.append(row)
    finite = [row for row in rows if "between" in row]
    middle = {
        key: statistics.median(r[key] for r in finite)
        for key in ("loss_gap", "emulated", "device", "between")
    }
    return {
        "config": config, "steps": steps, "scale": scale, "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if other == "cuda" else other,
        "overflows_agree": sum(row["overflow_agrees"] for row in rows), "finite": len(finite),
        "median": {key: float(f"{value:.3g}") for key, value in middle.items()},
        "types_differ": [name for name, kind in types(other).items() if kind != types("cpu")[name]],
    }  # fmt: skip


def row(found: dict) -> str:
    """One row of docs/measured.md's table."""
    m = found["median"]
    return (
        f"| emulated fp16 against {found['device']}, {found['steps']} steps of `{found['config']}()` from equal "
        f"weights, torch {found['torch']} | `benchmarks/gpu_precision.py` | overflow agrees in "
        f"{found['overflows_agree']} of {found['steps']}; gradients {m['between']:.1e} apart, from fp32 "
        f"{m['emulated']:.1e} emulated and {m['device']:.1e} there; operations of another type: "
        f"{', '.join(found['types_differ']) or 'none'} |"
    )


def write(path: Path, line: str) -> None:
    """Append a row to the last table of a Markdown file."""
    lines = path.read_text().splitlines()
    last = max(number for number, text in enumerate(lines) if text.startswith("|"))
    write_whole(path, "\n".join([*lines[: last + 1], line, *lines[last + 1 :]]) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=2.0**20)
    parser.add_argument(
        "--device", default="cuda", help="cpu compares the emulation with itself: a test of this script"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="append the row to the last table of this file"
    )
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device here; on a machine with one, run this again", file=sys.stderr)
        sys.exit(3)
    answer = measure(chosen.config, chosen.steps, chosen.scale, chosen.device)
    print(json.dumps(answer) if chosen.json else row(answer))
    if chosen.write:
        write(chosen.write, row(answer))
