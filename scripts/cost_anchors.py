"""Every published number that this calculator can predict, beside its prediction.

    for anchor in anchors(): print(anchor.area, anchor.row, anchor.error)

A prediction never uses the number it is compared with: GPU-hours leave the family out, decoding is fitted to
one model and asked about others, scaling out is calibrated on the smallest cluster alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmkit.cost.activations import activations, stage_activations
from llmkit.cost.decode import decode_latency, prefill_latency
from llmkit.cost.flops import training_flops
from llmkit.cost.incident import gpu
from llmkit.cost.job import Job, job_of, published_shapes, shape_named
from llmkit.cost.memory import kv_cache, stage_parameters, states
from llmkit.cost.params import SHAPE_FIELDS, parameters
from llmkit.cost.prior import active_of, run_flops, run_ratios, run_utilisation
from llmkit.cost.quantity import Quantity
from llmkit.cost.run import goodput, gpu_hours
from llmkit.cost.step import calibrated, step_time
from llmkit.cost.tables import table
from llmkit.errors import ConfigError

GIB = 2**30
# int4: 32 weights share a scale and a zero in bf16 (pytorch-labs/gpt-fast, quantize.py)
WEIGHT_BYTES = {"bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4-g32": 0.625}
PLAN = ("batch", "gpus", "gpu", "precision", "tp", "pp", "interleave", "zero", "micro_batch", "recompute")
GPT = {"vocab_size": 51_200, "position": "learned", "bias": True}  # of Korthikanti's and Megatron's models
SERVED = {"Llama-2-7B": "llama2-7b", "Llama-2-70B": "llama2-70b", "FasterTransformer 13B": "gpt3-13b"}


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One published number and what is predicted for it."""

    area: str
    row: str
    predicted: float
    published: float
    unit: str
    convention: str
    low: float | None = None
    high: float | None = None
    family: str = ""

    @property
    def error(self) -> float:
        """Relative; of percentages the difference in points."""
        return self.predicted - self.published if self.unit == "%" else self.predicted / self.published - 1

    @property
    def covered(self) -> bool | None:
        """Whether the interval holds the published number; None where the prediction is arithmetic."""
        return None if self.low is None or self.high is None else self.low <= self.published <= self.high


@cache
def anchors() -> tuple[Anchor, ...]:
    """All of them, area by area."""
    areas = (
        _parameters, _utilisation, _days, _states, _reserved, _activations, _shares, _hours, _held_out,
        _hours_of_a_step, _steps, _scaling_out, _recompute, _mixture, _decode, _prefill, _kv,
    )  # fmt: skip
    return tuple(anchor for area in areas for anchor in area())


def published_job(row: Mapping[str, Any], **changes: Any) -> Job:
    """The job of a published row with its plan. These trainers stored the attention scores."""
    plan = {name: row[name] for name in PLAN if name in row}
    return job_of({"tokens": 1e12, "flash": False, "dropout": True} | plan | {"model": row["id"]} | changes)


def leave_family_out(row: dict[str, Any], *families: str) -> Quantity:
    """GPU-hours of a run from everything published but some families."""
    reached = run_utilisation(row["gpu"], active_of(row), families)
    ideal = run_flops(row) / gpu(row["gpu"]).peak() / 3600
    hours = Quantity(name="GPU-hours", value=ideal / float(reached), unit="GPU-hours", terms=(reached,))
    return hours.between(ideal / reached.interval[1], ideal / reached.interval[0])


def _runs(kind: str, *needs: str) -> list[dict[str, Any]]:
    return [r for r in table("published/runs") if r["kind"] == kind and set(needs) <= set(r)]


def _parameters() -> Iterator[Anchor]:
    says, seen = "embedding counted; the published count is rounded to one to three digits", set()
    for name, row in published_shapes().items():
        if row["shape"] == "published" and (row["parameters"], row["layers"]) not in seen:
            seen.add((row["parameters"], row["layers"]))
            yield _anchor("parameters", name, float(parameters(row)), row["parameters"], "", says)


def _utilisation() -> Iterator[Anchor]:
    says = "6 N + 12 layers H D T a token (attention not causal), dense 16-bit peak; the error is in points"
    steps = [r | {"parameters": r["params"]} for r in table("published/steps") if r["precision"] == "bf16"]
    for row in (*steps, *_runs("throughput", "mfu", "vocab_size")):
        rate = row.get("tokens_per_s")
        if rate is None and {"step_s", "batch"} <= set(row):
            rate = row["batch"] * row["context"] / row["step_s"] / row["gpus"]
        if rate:
            share = rate * run_flops(row | {"tokens": 1}) / gpu(row["gpu"]).peak()
            yield _anchor("MFU from measured throughput", row["id"], 100 * share, row["mfu"], "%", says)


def _days() -> Iterator[Anchor]:
    says = "hardware FLOPs with full recomputation / (GPUs x measured TFLOP/s)"
    for row in _runs("projected", "days", "tflops"):
        flops = float(training_flops(row, recompute=True)) * row["tokens"]
        predicted = flops / (row["gpus"] * row["tflops"] * 1e12) / 86_400
        yield _anchor("days from measured TFLOP/s", row["id"], predicted, row["days"], "days", says)


def _memory(what: str) -> list[dict[str, Any]]:
    rows = (r for r in table("published/memory") if what in r["quantity"])
    return [GPT | r | {"tokens": 1e12, "gpu": "A100-SXM-80"} for r in rows]


def _states() -> Iterator[Anchor]:
    says = "18 B a parameter; the figure counts the layers' matrices alone, without the embedding"
    for row in _memory("params+grads"):
        held = 12 * row["layers"] * row["width"] ** 2 / row["tp"] / row["pp"]
        job = _korthikanti(row)
        predicted = sum(map(float, states(job, held))) / GIB
        yield _anchor("memory of states", row["id"], predicted, row["published"], "GiB", says)
    for row in (r for r in table("published/memory") if r["id"] == "nanogpt-ckpt"):
        yield _anchor("memory of states", row["id"], 12.0 * row["params"], row["published"], "B", says)


def _reserved() -> Iterator[Anchor]:
    says = (
        "torchtitan prints the most that the allocator reserved (max_reserved_gib in torchtitan/metrics.py), "
        "fragmentation and all; what is predicted is the share of the states that leaves each card"
    )
    small, large = (_fsdp(ranks) for ranks in (8, 128))
    peaks = {row["id"]: row.get("peak_gib") for row in table("published/runs")}
    for kind in ("fsdp", "compile", "compile-fp8"):
        drop = peaks[f"torchtitan-8b-8g-{kind}"] - peaks[f"torchtitan-8b-128g-{kind}"]
        row = f"torchtitan 8B, 8 to 128 GPUs, {kind}"
        yield _anchor("drop of reserved memory", row, (small - large) / GIB, drop, "GiB", says)


def _fsdp(ranks: int) -> float:
    """Torchtitan: fp32 parameters, gradients and moments, all sharded: 16 B."""
    job = job_of({"model": "llama3-8b", "tokens": 1e12, "gpus": ranks, "gpu": "H100-SXM", "batch": 2 * ranks,
                  "micro_batch": 2, "zero": 3, "gradient_bytes": 2})  # fmt: skip
    weights, gradients, optimizer = states(job, stage_parameters(job)[0])
    return float(weights) + float(gradients) + float(optimizer)


def _korthikanti(row: Mapping[str, Any]) -> Job:
    plan = {name: row[name] for name in ("tp", "pp", "micro_batch", "interleave") if name in row}
    return job_of({"model": dict(row), "tokens": 1e12, "gpu": "A100-SXM-80", "gpus": row["tp"] * row["pp"],
                   "batch": row["micro_batch"] * 4 * row["pp"], "zero": 0} | plan)  # fmt: skip


POLICY = {
    "TP+SP+selective": {"sequence_parallel": True, "recompute": "selective"}, "TP, no recompute": {},
    "TP+SP": {"sequence_parallel": True}, "TP+selective": {"recompute": "selective"},
    "full recompute": {"recompute": "full"},
}  # fmt: skip


def _activations() -> Iterator[Anchor]:
    says = "Korthikanti's figure 1, itself the closed form: consistency, not measurement"
    for row in _memory("activation GiB, "):
        kept = stage_activations(
            row, pp=row["pp"], micro_batches=4 * row["pp"], interleave=row.get("interleave", 1),
            batch=row["micro_batch"], tp=row["tp"], flash=False, dropout=True,
            **POLICY[row["quantity"].removeprefix("activation GiB, ")],
        )[0]  # fmt: skip
        yield _anchor("memory of activations", row["id"], float(kept) / GIB, row["published"], "GiB", says)


def _shares() -> Iterator[Anchor]:
    says = "percent of what tensor parallelism alone keeps; the error is in points"
    for row in _memory("activation % of TP baseline"):
        plan = {"batch": 1, "tp": row["tp"], "flash": False, "dropout": True}
        kept = activations(row, **plan, **POLICY[row["quantity"].rpartition(": ")[2]])
        predicted = 100 * float(kept) / float(activations(row, **plan))
        yield _anchor("activations of a policy", row["id"], predicted, row["published"], "%", says)


def _hours() -> Iterator[Anchor]:
    says = "prior of published runs, stops included; nothing of the run or its family used"
    for row, _ in run_ratios():
        found = leave_family_out(row, row["family"])
        yield _anchor("GPU-hours, family left out", row["id"], found, row["hours"], "h", says, row["family"])


def _held_out() -> Iterator[Anchor]:
    says = "looked up after the prior was fixed"
    for row in _runs("held_out", "hours", "parameters", "tokens"):
        found = leave_family_out(row)
        yield _anchor("GPU-hours, held-out runs", row["id"], found, row["hours"], "h", says, row["family"])


def _hours_of_a_step() -> Iterator[Anchor]:
    says = "hours at the published MFU of a step, divided by the goodput of failures and checkpoints"
    for row in _runs("full_run", "hours", "mfu", "tokens", "vocab_size"):
        hours = run_flops(row) / gpu(row["gpu"]).peak() / 3600 / (row["mfu"] / 100)
        up = goodput(published_job(row, batch=row["gpus"], tokens=row["tokens"]))
        found = Quantity(name="GPU-hours", value=hours / float(up), unit="h").between(
            hours, hours / up.interval[0]
        )
        yield _anchor("GPU-hours from a step's MFU", row["id"], found, row["hours"], "h", says, row["family"])


def _steps() -> Iterator[Anchor]:
    says = (
        "from the plan; other trainers than the prior's, and what was added for them was chosen on these rows"
    )
    for row in _runs("throughput", "batch"):
        try:
            job = published_job(row)
        except ConfigError:
            continue  # context parallelism and the like
        if "tokens_per_s" in row:
            published = job.step_tokens / (row["tokens_per_s"] * job.gpus)
        elif "step_s" in row:
            published = row["step_s"]
        else:
            each = training_flops(job.model, recompute=row.get("recompute") == "full")
            published = float(each) * job.step_tokens / (row["tflops"] * 1e12 * job.gpus)
        area = "time of a step, fp8" if job.precision == "fp8" else "time of a step"
        yield _anchor(area, row["id"], step_time(job), published, "s", says, row["family"])
    for row in (r for r in table("published/steps") if r["precision"] == "fp8"):
        plan = {name: row[name] for name in PLAN if name in row} | {"zero": 3, "tokens": 1e12}
        job = job_of(plan | {"model": {name: row[name] for name in SHAPE_FIELDS if name in row}})
        published = job.step_tokens / (row["tokens_per_s"] * job.gpus)
        yield _anchor("time of a step, fp8", row["id"], step_time(job), published, "s", says, "llm-foundry")


def _scaling_out() -> Iterator[Anchor]:
    says = "fixed batch, calibrated on the smallest cluster; ZeRO 3 of 2021 taken to gather 12 times a layer"
    for family in ("zero3-174.6b", "zero3-529.6b", "ptd-174.6b", "ptd-529.6b"):
        rows = [r for r in _runs("projected", "days") if family in r["id"]]
        early = {"messages": 12, "overlap": 0.5} if "zero3" in family else {}
        jobs = [published_job(r, tokens=r["tokens"], **early) for r in rows]
        first = calibrated(jobs[0], [rows[0]["days"] * 86_400 / jobs[0].steps])
        for row, job in zip(rows[1:], jobs[1:], strict=True):
            step = step_time(job_of(job, efficiency=first.efficiency))
            predicted = float(step) * job.steps / 86_400
            yield _anchor("scaling out", row["id"], predicted, row["days"], "days", says)


def _recompute() -> Iterator[Anchor]:
    says = "FLOPs of full against selective recomputation; the error is in points"
    rows = {r["id"]: r for r in _runs("throughput", "step_s") if r["family"] == "korthikanti22"}
    for name, row in rows.items():
        if name.endswith("-full"):
            other = rows[name.removesuffix("full") + "selective+sp"]
            each = training_flops(row, recompute=False)
            again = float(each["forward"]["attention scores"])
            saved = (float(each) + again) / float(training_flops(row, recompute=True)) - 1
            measured = other["step_s"] / row["step_s"] - 1
            yield _anchor(
                "time change by selective recomputation", other["id"], 100 * saved, 100 * measured, "%", says
            )


def _mixture() -> Iterator[Anchor]:
    says = "GPU-hours of DeepSeek-V2 against DeepSeek 67B for 1T tokens; 6 N active alone says -68.7 %"
    dense, sparse = (
        next(r for r in _runs("full_run") if r["id"] == name) for name in ("deepseek-67b", "deepseek-v2-236b")
    )
    plan = {"gpus": 1024, "batch": 8192, "tokens": 1e12, "zero": 1, "flash": True, "dropout": False}
    a, b = published_job(dense, **plan), published_job(sparse, **plan, micro_batch=1)
    low, middle, high = (
        100 * (float(gpu_hours(job_of(b, mixture_share=share))) / float(gpu_hours(a)) - 1)
        for share in (1.0, b.mixture_share, 0.7)
    )
    change = Quantity(name="change", value=middle, unit="%").between(low, high)
    measured = 100 * (sparse["hours"] / dense["hours"] - 1)
    yield _anchor("dense to mixture", sparse["id"], change, measured, "%", says)


def _decode() -> Iterator[Anchor]:
    says = "bandwidth share and time a layer fitted to 7B bf16, unpacking to 7B int8; all others are asked"
    for row in table("published/decode"):
        if row["metric"].startswith("decode"):
            size, context = WEIGHT_BYTES[row["weights"]], row["prompt"] + 1
            found = decode_latency(
                shape_named(SERVED[row["model"]]),
                row["gpu"],
                tp=row["tp"],
                context=context,
                weight_bytes=size,
            )
            area = "decoding, 16 bits" if size == 2 else "decoding, quantised weights"
            area += ", fitted" * row.get("kind", "").startswith("fit")
            yield _anchor(area, row["id"], found, row["ms"], "ms", says)


def _prefill() -> Iterator[Anchor]:
    says = "causal attention; the share of the peak is an assumption"
    for row in table("published/decode"):
        if row["metric"].startswith("prefill"):
            found = prefill_latency(
                shape_named(SERVED[row["model"]]), row["gpu"], prompt=row["prompt"], tp=row["tp"]
            )
            yield _anchor("reading the prompt", row["id"], found, row["ms"], "ms", says)


def _kv() -> Iterator[Anchor]:
    for row in table("published/decode"):
        if "kv_bytes" in row:
            size = 1 if "int8" in row["model"] else 2
            shape = {"vocab_size": 1, "context": 1, "width": 1, "heads": row["kv_heads"], **row}
            found = kv_cache(shape, batch=1, context=1, number_bytes=size)
            yield _anchor(
                "KV cache of a token", row["id"], float(found), row["kv_bytes"], "B", "2 K D x layers x bytes"
            )


def _anchor(
    area: str, row: str, found: float | Quantity, published: float, unit: str, says: str, family: str = ""
) -> Anchor:
    low, high = (found.low, found.high) if isinstance(found, Quantity) else (None, None)
    return Anchor(area=area, row=row, predicted=float(found), published=published, unit=unit, convention=says,
                  low=low, high=high, family=family)  # fmt: skip
