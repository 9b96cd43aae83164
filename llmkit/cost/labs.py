"""Labs to turn knobs in: each is a list of knobs and a plain function from their values to a screen.

    lab = LABS["scaling"]
    print(as_text(lab.screen(lab.start() | {"gpus": 1024})))

`llmkit.show.cost_lab` draws these screens in JupyterLab; every number on them is here as text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmkit.cost.decide import Limits, Verdict, compare, verdicts, within
from llmkit.cost.decode import PREFILL, decode_latency, prefill_latency, reading
from llmkit.cost.incident import gpu
from llmkit.cost.job import Job, job_of, published_shapes
from llmkit.cost.memory import serving_memory, training_memory
from llmkit.cost.params import parameters
from llmkit.cost.quantity import Quantity, amount
from llmkit.cost.run import days, gpu_hours, run_cost
from llmkit.cost.scaling import compute_optimal
from llmkit.cost.step import bottleneck, mfu, step_time
from llmkit.errors import ConfigError, closest

MODELS = ("gpt3-2.7b", "llama3-8b", "gpt3-13b", "llama3-70b")
MACHINES = ("A100-SXM-80", "H100-SXM", "H200-SXM", "B200-SXM")
STEP_TOKENS = 4_194_304  # of a step, as near as whole sequences allow
DENSE = {
    "vocab_size": 32_000, "context": 4096, "layers": 32, "width": 4096, "heads": 32, "kv_heads": 8,
    "mlp_hidden": 14_336, "activation": "swiglu", "norm": "rmsnorm", "position": "rotary", "tied": False,
}  # fmt: skip
LIMITS = Limits(gpu_hours=12_000, token_ms=150, first_token_ms=800)


@dataclass(frozen=True)
class Knob:
    """One choice: what it is called, the values it can have, and the one it starts at."""

    name: str
    label: str
    values: tuple[Any, ...]
    start: Any


@dataclass(frozen=True)
class Screen:
    """What is seen: bars are (name, value, as printed), lights (name, answer, as printed)."""

    headline: str
    bars: tuple[tuple[str, float, str], ...]
    lights: tuple[tuple[str, str, str], ...]
    facts: tuple[tuple[str, str], ...]
    plot: dict[str, Any] | None = None  # lines and dots in the unit square, and the words at its axes


@dataclass(frozen=True)
class Lab:
    """A set of knobs and what they do."""

    title: str
    knobs: tuple[Knob, ...]
    draw: Callable[..., Screen]

    def start(self) -> dict[str, Any]:
        return {knob.name: knob.start for knob in self.knobs}

    def screen(self, setting: dict[str, Any]) -> Screen:
        """The screen of a setting; a plan that cannot be is said there, with its remedy.

        Raises:
            ConfigError: a knob that does not exist, or a value that it does not have.
        """
        for name, value in setting.items():
            knob = next((knob for knob in self.knobs if knob.name == name), None)
            if knob is None:
                raise ConfigError(f"no knob `{name}`", remedy=closest(name, self.start()))
            if value not in knob.values:
                raise ConfigError(f"{name} is {value!r}", expected=", ".join(map(str, knob.values)))
        try:
            return self.draw(**(self.start() | setting))
        except ConfigError as error:
            return Screen(str(error).replace("\n ", ";"), (), (), ())


def as_text(screen: Screen) -> str:
    """The same screen as lines of text."""
    lines = [screen.headline]
    lines += [f"  {name}: {says}" for name, _, says in screen.bars]
    lines += [f"  [{answer}] {name}: {says}" for name, answer, says in screen.lights]
    return "\n".join([*lines, *(f"  {name}: {says}" for name, says in screen.facts)])


def scaling(model: str, machine: str, tokens: str, gpus: int, zero: int, tp: int, price: float) -> Screen:
    """Days, dollars, verdicts and the part of a step that dominates."""
    job = _job(model, machine, tokens, gpus, zero=zero, tp=tp, dollars_per_gpu_hour=price)
    step = step_time(job)
    size, data = compute_optimal(6 * float(parameters(job.model)) * job.tokens)
    return Screen(
        f"{model} on {gpus:,} {machine}: {days(job)}, {run_cost(job)}; a step is mostly {bottleneck(step)}",
        tuple((term.name, float(term), f"{term} ({float(term) / float(step):.0%})") for term in step.terms),
        _lights(verdicts(job, Limits(gpu_hours=LIMITS.gpu_hours))),
        (
            ("step", _range(step)), ("MFU of a step", f"{float(mfu(job, float(step))):.0%}"),
            ("GPU-hours", _range(gpu_hours(job))), ("days", _range(days(job))),
            ("dollars", _range(run_cost(job))),
            ("the same FLOPs at their best", f"{size} on {data}"),
        ),
    )  # fmt: skip


def mixture(experts: int, top_k: int, hidden: int, share: float, gpus: int) -> Screen:
    """Dense 7B against a mixture: memory pays for all experts, a token for those it visits."""
    plan = {"tokens": 3e11, "gpus": gpus, "gpu": "H100-SXM", "batch": 1024, "zero": 2}
    shape = DENSE | {"experts": experts, "top_k": top_k, "expert_hidden": hidden}
    a = job_of(plan, model=DENSE, name="dense")
    b = job_of(plan, model=shape, name="mixture", mixture_share=share)
    found = compare(a, b, LIMITS)
    change = float(run_cost(b)) / float(run_cost(a)) - 1
    bars = [
        (f"{q.name}, {name}", float(q) / float(found.a.quantities[index]), str(q))
        for index in (0, 1, 3, 5)
        for name, q in (("dense", found.a.quantities[index]), ("mixture", found.b.quantities[index]))
    ]
    return Screen(
        f"the mixture costs {change:+.1%}; its FLOPs alone say {found.naive:+.1%}",
        tuple(bars), _lights(found.b.verdicts),
        (("saved a run", _range(found.saved)), *(("turns if", says) for says in found.flips)),
    )  # fmt: skip


def checkpointing(model: str, gpus: int, plain: int, recomputed: int, spent: int) -> Screen:
    """What full recomputation costs in FLOPs, frees in memory and lets the micro-batch grow to."""
    a = _job(model, "H100-SXM", "300B", gpus, zero=3, micro_batch=plain)
    b = _job(model, "H100-SXM", "300B", gpus, zero=3, micro_batch=recomputed, recompute="full")
    found = compare(a, b, change_dollars=spent)
    pairs = (("kept", a), ("recomputed", b))
    memory = [max(training_memory(job), key=float) for _, job in pairs]
    bars = [(f"memory, {name}", float(q), str(q)) for (name, _), q in zip(pairs, memory, strict=True)]
    lights = _lights([
        within(f"memory, {name}", q, job.hardware.memory_gb * 1e9)
        for (name, job), q in zip(pairs, memory, strict=True)
    ])  # fmt: skip
    earned = "never" if found.break_even_runs is None else f"after {found.break_even_runs:.1f} runs"
    return Screen(
        f"recomputation saves {found.saved} a run; its FLOPs alone say {found.naive:+.0%} of cost",
        tuple(bars), lights,
        (("saved a run", _range(found.saved)), ("the change is earned", earned),
         *((f"step, {name}", _range(step_time(job))) for name, job in pairs)),
    )  # fmt: skip


def serving(model: str, machine: str, batch: int, context: int, tp: int) -> Screen:
    """Latency against its limits, and where on the roofline decoding works."""
    shape, hw = published_shapes()[model], gpu(machine)
    token = decode_latency(shape, machine, batch=batch, context=context, tp=tp)
    first = prefill_latency(shape, machine, prompt=context, batch=batch, tp=tp)
    memory = serving_memory(shape, batch=batch, context=context, tp=tp)
    rate = batch / float(token) * 1e3
    lights = _lights((
        within("token", token, LIMITS.token_ms), within("first token", first, LIMITS.first_token_ms),
        within("memory", memory, hw.memory_gb * 1e9),
    ))  # fmt: skip
    read_ms = float(token["weights"]) + float(token["keys and values"])
    flops = float(token["products"]) / 1e3 * tp * hw.peak() * PREFILL[1]
    moved = read_ms / 1e3 * tp * hw.hbm_gbs * 1e9 * reading()[0]
    dollars = hw.dollars_typical * tp / 3600 / rate * 1e6
    return Screen(
        f"{model} on {tp} {machine}: {token} a token, {rate:,.0f} tokens/s, ${dollars:.2f} a million tokens",
        tuple((term.name, float(term), str(term)) for term in token.terms), lights,
        (("FLOPs a byte", f"{flops / moved:.3g}; the roof bends at {hw.peak() / hw.hbm_gbs / 1e9:.0f}"),
         ("bound by", "arithmetic" if float(token["products"]) > read_ms else "memory")),
        roofline(flops / moved, flops / (float(token) / 1e3) / tp, hw.peak(), hw.hbm_gbs * 1e9),
    )  # fmt: skip


def roofline(intensity: float, reached: float, peak: float, bandwidth: float) -> dict[str, Any]:
    """The roof and the point that works below it, in the unit square: decades from 0.1 to 10^4 FLOPs a byte,
    and four decades below the peak."""

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log10(x) + 1) / 5, (math.log10(y / peak) + 4) / 4.4
        return round(min(1.0, max(0.0, across)), 4), round(min(1.0, max(0.0, up)), 4)

    knee = peak / bandwidth
    roof = [place(x, min(peak, x * bandwidth)) for x in (0.1, knee, 1e4)]
    return {"lines": [roof], "dots": [place(intensity, reached)], "x": "FLOPs a byte, 0.1 to 10,000",
            "y": "FLOP/s of a GPU, peak at the top"}  # fmt: skip


def _job(model: str, machine: str, tokens: str, gpus: int, **plan: Any) -> Job:
    """A job whose step has about four million tokens, in whole micro-batches of every rank."""
    ranks, micro = gpus // plan.get("tp", 1), plan.get("micro_batch", 1)
    each = published_shapes()[model]["context"] * max(1, ranks) * micro
    batch = max(1, round(STEP_TOKENS / each)) * max(1, ranks) * micro
    return job_of({"model": model, "gpu": machine, "tokens": tokens, "gpus": gpus, "batch": batch, **plan})


def _lights(found: Sequence[Verdict]) -> tuple[tuple[str, str, str], ...]:
    return tuple((v.name, v.answer, f"{_range(v.found)} of {replace(v.found, value=v.limit)}") for v in found)


def _range(q: Quantity) -> str:
    return str(q) if q.low is None else f"{q} ({amount(q.interval[0])} to {amount(q.interval[1])})"


_MODEL = Knob("model", "model", MODELS, "llama3-8b")
_MACHINE = Knob("machine", "accelerator", MACHINES, "H100-SXM")
_GPUS = Knob("gpus", "GPUs", (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096), 64)
LABS = {
    "scaling": Lab("From a model to days and dollars", (
        _MODEL, _MACHINE, Knob("tokens", "tokens", ("10B", "30B", "100B", "300B", "1T", "3T", "10T"), "300B"),
        _GPUS, Knob("zero", "ZeRO stage", (0, 1, 2, 3), 3), Knob("tp", "tensor parallel", (1, 2, 4, 8), 1),
        Knob("price", "$ a GPU-hour", (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0), 3.0),
    ), scaling),
    "mixture": Lab("Dense or mixture of experts", (
        Knob("experts", "experts a layer", (2, 4, 8, 16, 32, 64), 8),
        Knob("top_k", "visited by a token", (1, 2, 4, 8), 2),
        Knob("hidden", "hidden width of one", (1024, 2048, 3584, 4800, 7168, 14_336), 4800),
        Knob("share", "utilisation of dense", (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), 0.9),
        Knob("gpus", "GPUs", (32, 64, 128, 256), 64),
    ), mixture),
    "checkpointing": Lab("What recomputation earns", (
        Knob("model", "model", MODELS, "gpt3-13b"), Knob("gpus", "GPUs", (8, 16, 32, 64, 128, 256), 64),
        Knob("plain", "micro-batch, kept", (1, 2, 4, 8), 2),
        Knob("recomputed", "micro-batch, recomputed", (1, 2, 4, 8, 16), 16),
        Knob("spent", "$ of the change", (0, 2000, 5000, 10_000, 50_000), 5000),
    ), checkpointing),
    "serving": Lab("Latency on the roofline", (
        _MODEL, _MACHINE, Knob("batch", "sequences at once", (1, 2, 4, 8, 16, 32, 64, 128, 256), 1),
        Knob("context", "tokens of context", (512, 1024, 2048, 4096, 8192, 16_384), 2048),
        Knob("tp", "GPUs", (1, 2, 4, 8), 1),
    ), serving),
}  # fmt: skip
