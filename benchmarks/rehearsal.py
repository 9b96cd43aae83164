"""How long a rehearsal takes, and what each remedy saves and costs on a model that really trains.

python benchmarks/rehearsal.py sizes                # 7B, 13B, 70B: CPU seconds, host memory
python benchmarks/rehearsal.py remedies --rounds 5  # laptop(): peak saved against time lost; rehearsed at 7B
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import torch

from llmkit.memory import measure, show_size
from llmkit.memory.rehearsal import attention_memory, rehearse
from llmkit.memory.remedies import peak_at_depth
from llmkit.train import RunConfig, build, laptop, named, train, vary

REMEDIES = {
    "as it is": {},
    "micro-batch of 2": {"micro_batch": 2},
    "checkpointing: selective": {"model__checkpointing": "selective"},
    "checkpointing: full": {"model__checkpointing": "full"},
    "loss in chunks": {"model__loss_chunk": 256},
    "4 times fewer key/value heads": {"model__kv_heads": "quarter"},
    "window of a quarter": {"model__window": "quarter"},
}


def sizes() -> None:
    for name in ("gpt-7b", "gpt-13b", "llama2-70b"):
        config = named(name, batch=1, micro_batch=None, precision="bf16", model__context=2048)
        start = time.process_time()
        found = rehearse(vary(config, model__checkpointing="selective"))
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = time.process_time() - start
        print(f"{name:12} {show_size(found.peak.bytes):>12}  {seconds:5.1f} s of CPU  host {show_size(host)}")


def changed(config, change: dict):
    heads, context = config.model.heads, config.model.context
    quarter = {"model__kv_heads": heads // 4, "model__window": context // 4}
    return vary(
        config, **{key: quarter[key] if value == "quarter" else value for key, value in change.items()}
    )


def remedies(rounds: int, steps: int = 2) -> None:
    """Interleaved rounds, CPU time of a step relative to the first of the round; the median."""
    small = laptop(data="generated", model__vocab_size=512, threads=1, save_every=0, steps=10_000)
    runs = {name: build(changed(small, change)) for name, change in REMEDIES.items()}
    going = {name: train(run) for name, run in runs.items()}
    ratios: dict[str, list[float]] = {name: [] for name in REMEDIES}
    for _ in range(rounds):
        base = None
        for name, records in going.items():
            start = time.process_time()
            for _ in range(steps):
                next(records)
            spent = time.process_time() - start
            base = base or spent
            ratios[name].append(spent / base)
    large = named("gpt-7b", batch=8, micro_batch=None, precision="bf16")
    whole = {"laptop": measure(runs["as it is"], steps=2).bytes, "7B": peak_at_depth(large)[0]}
    attention = {"laptop": attention_memory(small, "cpu"), "7B": attention_memory(large)}
    for name, change in REMEDIES.items():
        here, there = measure(runs[name], steps=2).bytes, peak_at_depth(changed(large, change))[0]
        kept = attention_memory(changed(small, change), "cpu"), attention_memory(changed(large, change))
        print(
            f"{name:30} time {statistics.median(ratios[name]) - 1:+5.0%}  peak laptop() "
            f"{here / whole['laptop'] - 1:+5.0%}  7B, 8 x 2,048: {there / whole['7B'] - 1:+5.0%}  attention "
            f"{kept[0] / attention['laptop'] - 1:+5.0%}, 7B {kept[1] / attention['7B'] - 1:+5.0%}",
            flush=True,
        )
    half_precision(runs["as it is"].model, small, rounds)
    single = peak_at_depth(vary(large, precision="fp32"))[0]
    print(f"{'bf16 instead of fp32':30} 7B, 8 x 2,048: {whole['7B'] / single - 1:+5.0%}")


def half_precision(model: torch.nn.Module, config: RunConfig, rounds: int) -> None:
    """PyTorch's own CPU autocast, with tensors that are stored in bf16: what `precision="bf16"` emulates here
    is not, so its peak would be that of fp32."""
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randint(0, config.model.vocab_size, (config.batch, config.model.context))

    def step(half: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(x, x).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(half=False)  # the moments
    peaks = {half: measure(lambda half=half: step(half), model, optimizer).bytes for half in (False, True)}
    ratios = []
    for _ in range(rounds):
        spent = {}
        for half in (False, True):
            start = time.process_time()
            step(half)
            spent[half] = time.process_time() - start
        ratios.append(spent[True] / spent[False])
    print(
        f"{'bf16, PyTorch autocast':30} time {statistics.median(ratios) - 1:+5.0%}  peak laptop() "
        f"{peaks[True] / peaks[False] - 1:+5.0%}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("sizes", "remedies"))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    sizes() if given.what == "sizes" else remedies(given.rounds)
