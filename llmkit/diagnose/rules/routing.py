"""Routers of a mixture of experts: they collapse (LK315), prefer an expert (LK316), or have no room (LK317).

Read from what the recorder counts at every step. The balance loss, not the loads, tells the sick from the
young: in its first tens of steps a healthy router is so undecided that small differences of its even
probabilities send most tokens to one expert (tiny(): 3.8 of 4 possible), and the balance loss stays at 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import Opinion, fact, finding, needs
from llmkit.diagnose.signals import median
from llmkit.diagnose.timeline import Step
from llmkit.diagnose.words import number, percent
from llmkit.records import Evidence

SPAN = 8  # steps whose median counts
UNEVEN = 0.1  # of what the balance loss can rise by, E / k - 1, but at least of 3: see `uneven`
JUMP, STAYS = 0.3, 4  # in one step; healthy runs up to 0.07; steps after which it is no accident of one batch
LOST = 0.05  # share of choices


def routed(rule: Callable[[Chart, list[Step]], Opinion]) -> Callable[[Chart], Opinion]:
    """For rules about routers: a dense model has none."""
    judge = needs("router_balance")(rule)

    @functools.wraps(rule)
    def dense_or(chart: Chart) -> Opinion:
        model = chart.config.get("model") or {}
        if model and not model.get("experts"):
            return Opinion(ruled_out="the model has no routers")
        return judge(chart)

    return dense_or


def _balances(steps: list[Step]) -> list[float]:
    return [step.record.stats["router_balance"] for step in steps]


def uneven(chart: Chart) -> float:
    """The balance loss that says so, between 1 (even) and E / k (the same k experts for all tokens).

    A young router is the more uneven the more there is to choose from. In 40 healthy runs of tiny(lr=3e-3)
    with 4 to 16 experts the median of SPAN steps was at most 1.18 where E / k is up to 8 (limit: 1.3 to 1.7)
    and 1.31 where it is 16 (2.5); a single step of another run reached 2.0 there.
    """
    model = chart.config.get("model") or {}
    most = model["experts"] / model.get("top_k", 1) if model.get("experts") else 1.0
    return 1 + UNEVEN * max(3.0, most - 1)


def _jump(chart: Chart, values: list[float]) -> int | None:
    """Where the balance loss rises in one step and stays; at the first step it should be 1."""
    for n in range(len(values) - STAYS + 1):
        before = max(values[max(0, n - SPAN) : n], default=1.0)
        if min(values[n : n + STAYS]) > max(uneven(chart), before + JUMP):
            return n
    return None


def _seen(step: Step) -> Evidence:
    s = step.record.stats
    return fact(
        f"at step {step.number} the balance loss is {number(s['router_balance'])} (1: even), the fullest "
        f"expert of layer {s['router_layer']:.0f} has {number(s['router_load_max'])} times an even share, "
        f"{percent(s['router_unused'])} of the experts have no token", step.number,
    )  # fmt: skip


@routed
def router_collapse(chart: Chart, steps: list[Step]) -> Opinion:
    """LK315: router collapse.

    What it sees: the balance loss, without its weight, rises over tens of steps, with no jump, by a tenth of
    what it can (8 experts, 2 a token: from 1, which is even, past 1.3 of 4).
    Why it hurts: the few experts that all tokens visit are all that is trained; the others are paid for in
    memory and never learn, and a router that has stopped trying them cannot find out what they could do.
    Looks like: nothing in the loss, which falls as a smaller model's does; loads that spread apart.
    Confirm: go on from a checkpoint with ten times the weight of the balance loss: it falls towards 1.
    Fix: make sure that the balance loss reaches backward, with its sign and its weight (0.01 in Switch), in
    every layer; go back to a checkpoint from before, for experts that starved stay behind.
    Confused with: LK316 expert imbalance (rises in one step), a router's first tens of steps (loads are
    uneven, the balance loss stays near 1).
    """
    values = _balances(steps)
    jump = _jump(chart, values)
    for n in range(SPAN, len(values) if jump is None else jump):
        if median(values[n - SPAN : n]) > uneven(chart):
            last = steps[n - 1]
            says = f"the routers' balance loss has risen to {number(values[n - 1])} by step {last.number}"
            return finding(
                router_collapse, says, last.number, "balance loss", (_seen(steps[0]), _seen(last)),
                probe="go-on-with-more-balance", confidence="likely",
                command="vary(run.config, model__balance_loss=0.1)",
            )  # fmt: skip
    return Opinion(ruled_out=f"the balance loss did not creep up: at most {number(max(values))}")


@routed
def expert_imbalance(chart: Chart, steps: list[Step]) -> Opinion:
    """LK316: expert imbalance.

    What it sees: the balance loss, without its weight, jumps by 0.3 or more in one step, to where LK315
    would see it.
    Why it hurts: the preferred expert is the slowest of every step (or drops what it has no room for), and
    learns from tokens that are not its own.
    Looks like: a small step in the loss; with experts on several devices, one that all others wait for.
    Confirm: the mean of each router's logits per expert, before and after the step: one has moved alone.
    Fix: look at what is added to the scores (a bias for balancing, noise, a mask), and at what changed in the
    data at that step; the balance loss undoes it slowly.
    Confused with: LK315 router collapse (rises over tens of steps), a new source of data (loads move, and so
    does the loss), padding, whose equal tokens all choose alike.
    """
    values = _balances(steps)
    if (n := _jump(chart, values)) is None:
        return Opinion(ruled_out=f"the balance loss never jumped: at most {number(max(values))}")
    before = f", in the steps before at most {number(max(values[max(0, n - SPAN) : n]))}" if n else ""
    says = f"the routers' balance loss is {number(values[n])} at step {steps[n].number}{before}"
    seen = (_seen(steps[max(0, n - 1)]), _seen(steps[n]))
    return finding(
        expert_imbalance, says, steps[n].number, "router scores", seen, probe="logits-per-expert",
        command="llmkit.observe.Routing", confidence="likely",
    )  # fmt: skip


@routed
def dropped_tokens(chart: Chart, steps: list[Step]) -> Opinion:
    """LK317: dropped tokens.

    What it sees: experts with room for less than an even share of the tokens, and tokens that are dropped.
    Why it hurts: a dropped token passes the layer untouched: the layer is not applied and does not learn, and
    which token is dropped depends on the others of its batch.
    Looks like: a loss that is a little higher; an evaluation that changes with its batch size.
    Confirm: go on from the same checkpoint without a capacity: the loss falls within tens of steps.
    Fix: a capacity factor of 1.25 to 2, or dropless; it counts choices, so top_k belongs into it.
    Confused with: LK315 router collapse and LK316 expert imbalance (with room for all, uneven routers drop).
    """
    shares = [(s, s.record.stats["router_dropped"], s.record.stats.get("router_room", 1.0)) for s in steps]
    for step, dropped, room in shares:
        if dropped > LOST and room < 1 - LOST:
            says = f"{percent(dropped)} of the choices are dropped at step {step.number}"
            why = f"an expert has room for {number(room)} times an even share"
            told = (chart.config.get("model") or {}).get("capacity_factor")
            asked = (
                f"configured was {'room for all' if told is None else f'a capacity factor of {number(told)}'}"
            )
            return finding(
                dropped_tokens, f"{says}: {why}", step.number, "capacity factor",
                (fact(says, step.number), fact(f"{why}; {asked}", step.number)), probe="go-on-dropless",
                command="vary(run.config, model__capacity_factor=None)",
            )  # fmt: skip
    most = max(dropped for _, dropped, _ in shares)
    return Opinion(
        ruled_out=f"at most {percent(most)} of the choices were dropped, with room for even shares"
    )
