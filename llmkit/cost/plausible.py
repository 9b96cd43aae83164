"""What is wrong with a published or claimed number, said from the number itself.

    flags({"parameters": 125e6, "tokens": 300e9, "hours": 192, "gpu": "A100-SXM-80"})
    # ['impossible: 105 % MFU ...']

Tables are misprinted, count recomputation as if the model needed it, take a sparse peak, or are about
something else than pre-training. A flag is a doubt with its arithmetic; whoever reads it decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmkit.cost.incident import gpu
from llmkit.cost.prior import active_of, run_mfu

NEAR = 0.04  # relative; what rounding in print explains
USUAL = (0.14, 0.70)  # MFU of whole runs that were published: 14 to 53 %
AGAINST = {2.0: "a sparse peak", 0.5: "half the peak", 4 / 3: "hardware FLOPs, recomputation included"}


def flags(row: Mapping[str, Any]) -> list[str]:
    """Doubts about a run.

    Args:
        row: field names of `published/runs`: parameters, active, tokens, hours, gpu, total_flops, tflops, mfu
            (percent) ... What is absent is not asked about.
    """
    found, row = [], dict(row)
    if {"parameters", "tokens", "hours", "gpu"} <= set(row):
        found += _utilisation(row)
    if {"parameters", "tokens", "total_flops"} <= set(row):
        counted = row["total_flops"] / (6 * active_of(row) * row["tokens"])
        if abs(counted / (4 / 3) - 1) <= NEAR:
            found.append(f"{row['total_flops']:.3g} FLOPs are 8 N D: recomputation counted as the model's")
    if {"mfu", "tflops", "gpu"} <= set(row):
        found += _peak(row)
    if row.get("recompute") == "full" and "tflops" in row and "mfu" not in row:
        found.append("TFLOP/s of the hardware, recomputation included: HFU, not MFU")
    return found


def _utilisation(row: dict[str, Any]) -> list[str]:
    share = run_mfu(row)
    if share > 1:
        return [f"impossible: {share:.0%} MFU from its own parameters, tokens and hours"]
    ceiling = gpu(row["gpu"]).matmul_tflops * 1e12 / gpu(row["gpu"]).peak()
    if ceiling and share > ceiling:
        return [f"impossible: {share:.0%} MFU, and a plain product reaches {ceiling:.0%} on {row['gpu']}"]
    if share > USUAL[1]:
        return [f"doubtful: {share:.0%} MFU over a whole run"]
    if share < USUAL[0]:
        return [f"not a 6 N D run: {share:.0%} MFU (distilled, pruned, or hours of more than training)"]
    return []


def _peak(row: dict[str, Any]) -> list[str]:
    """TFLOP/s over MFU gives the peak that was meant."""
    meant = row["tflops"] / (row["mfu"] / 100) / (gpu(row["gpu"]).peak() / 1e12)
    return [
        f"its MFU is against {what}: {row['tflops']} TFLOP/s are {row['mfu']} %"
        for ratio, what in AGAINST.items()
        if abs(meant / ratio - 1) <= NEAR
    ]


def misprints(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Printed percentages that are not their count over the sum (rows of `published/interruptions`)."""
    rows = [r for r in rows if r["category"] != "all"]
    whole, found = sum(r["count"] for r in rows), []
    for r in rows:
        share = 100 * r["count"] / whole
        if "printed_pct" in r and abs(share - r["printed_pct"]) > 0.1:
            right = f"{r['count']}/{whole} is {share:.1f} %"
            found.append(f"{r['component']}: {r['printed_pct']} % is printed, {right}")
    return found
