"""The loader keeps the machine waiting (LK501)."""

from __future__ import annotations

from collections.abc import Sequence

from llmkit.diagnose.evidence import Chart
from llmkit.diagnose.opinion import EVENTS, TIMES, Opinion, fact
from llmkit.diagnose.signals import median
from llmkit.diagnose.words import number, percent, plural, seconds
from llmkit.records import Event, Evidence, Experiment, Finding, StepTimes

WARMUP = 3  # steps after a start or a gap: cold caches, first allocations
WAITS = 10.0  # times the usual wait
HOLDS = 0.5  # and at least this share of a usual step
OFTEN, NEAR = (
    3,
    64,
)  # this many stalls within this many steps; fewer are a garbage collection or another process
OUTWEIGHS = 2.0  # what they cost, over the cost of pauses in other phases around them
LONG, LONG_S = (
    5.0,
    0.25,
)  # usual steps and seconds; a stall this long, with no pause like it elsewhere, needs no company
SHARE, FOR = 0.5, 20  # a loader that takes half of the step for 20 steps has been slow from the start
ELSEWHERE = 0.5  # of the wait: what the other phases of a stalled step may have lost too


def stalled_loader(chart: Chart) -> Opinion:
    """LK501: stalled loader.

    What it sees: waiting for the batch takes 10 times its usual time and half a usual step, at least 3 times
    in 64 steps (or once, for 5 steps' time and a quarter of a second), while forward and backward take what
    they always take and pause less. Or: data is half of every step.
    Why it hurts: the accelerators idle; nothing else shows, the loss curve per step is perfect.
    Looks like: tokens per second fall in teeth; the period of the teeth is the prefetch depth or the shard
    length.
    Confirm: the same steps with one batch kept in memory: the step time falls back.
    Fix: prefetch and more loader workers; move the data to a local disk; look for work per sample that grows
    with the step, and for a cache that evicts.
    Confused with: a slow host (every phase slows), garbage collection (rare, any phase), the first steps of a
    run, communication (on several ranks the wait is charged to the collective).
    """
    if not chart.has_times or not chart.times:
        return Opinion(
            not_judged="no times.jsonl: attach `llmkit.observe.Recorder`, which splits a step's seconds"
        )
    times = _settled(chart)
    if len(times) < 8 or not any(t.data_s for t in times):
        missing = (
            "`data_s` is not recorded" if len(times) >= 8 else "fewer than 8 steps after the first were timed"
        )
        return Opinion(
            not_judged=f"{missing}: attach `llmkit.observe.Recorder`, which splits a step's seconds"
        )
    usual_wait, usual_step = median([t.data_s for t in times]), median([_work(t) for t in times])
    stalls = [t for t in times if _stalled(t, usual_wait, usual_step)]
    serious = _serious(stalls, times, usual_step)
    if serious:
        return Opinion(findings=(_finding(chart, serious, usual_wait, usual_step, times),))
    if (always := _always_slow(times)) is not None:
        return Opinion(findings=(always,))
    worst = max(times, key=lambda t: t.data_s)
    share = sum(t.data_s for t in times) / (sum(t.data_s + _work(t) for t in times) or 1.0)
    return Opinion(
        ruled_out=f"waiting for data is {percent(share)} of the time, {seconds(worst.data_s)} at worst (step "
        f"{worst.step}), a usual step takes {seconds(usual_step)}"
    )


def _work(times: StepTimes) -> float:
    """Seconds of a step that are not waiting for data."""
    return times.forward_s + times.backward_s + times.optimizer_s


def _settled(chart: Chart) -> list[StepTimes]:
    """Timed steps without the first ones of the run and of each resumption, whose caches are cold."""
    restarts = {e.step for e in chart.events_of("rescue", "resume", "restart")}
    kept, since, last = [], 0, None
    for times in chart.times:
        fresh = last is None or times.step != last + 1 or times.step in restarts
        since, last = 0 if fresh else since + 1, times.step
        if since >= WARMUP:
            kept.append(times)
    return kept


def _stalled(times: StepTimes, wait: float, step: float) -> bool:
    """The loader held this step up, and nothing else did."""
    lost_elsewhere = _work(times) - step
    return times.data_s > max(WAITS * wait, HOLDS * step) and lost_elsewhere < ELSEWHERE * times.data_s


def _serious(stalls: list[StepTimes], times: Sequence[StepTimes], step: float) -> list[StepTimes]:
    """Stalls that are no coincidence: in company, or longer than a garbage collection.

    A busy host pauses every phase, in proportion to its length; so the loader must have lost twice the time
    of all pauses elsewhere, from 128 steps before to 128 steps after.
    """
    pauses = [(t.step, _work(t) - step) for t in times if _work(t) > (1 + HOLDS) * step]
    company: dict[int, StepTimes] = {}
    for index in range(len(stalls) - OFTEN + 1):
        first, last = stalls[index].step, stalls[index + OFTEN - 1].step
        near = [lost for at, lost in pauses if first - 2 * NEAR <= at <= last + 2 * NEAR]
        waited = [t.data_s for t in stalls if first - 2 * NEAR <= t.step <= last + 2 * NEAR]
        if last - first < NEAR and sum(waited) > OUTWEIGHS * sum(near):
            company |= {t.step: t for t in stalls[index : index + OFTEN]}
    longest = max((lost for _, lost in pauses), default=0.0)
    alone = [t for t in stalls if t.data_s > max(LONG * step, LONG_S, 2 * longest)]
    return sorted(company.values(), key=lambda t: t.step) or alone


def _finding(
    chart: Chart, stalls: list[StepTimes], wait: float, step: float, every: list[StepTimes]
) -> Finding:
    first = stalls[0]
    span = [t for t in every if stalls[0].step <= t.step <= stalls[-1].step]
    lost = sum(t.data_s - wait for t in stalls)
    return Finding(
        code="LK501", title="stalled loader",
        says=f"the loader held up {plural(len(stalls), 'step')}, the first at step {first.step}; "
             "forward and backward took what they always take",
        step=first.step, cause="loader",
        evidence=(
            fact(f"step {first.step} waited {seconds(first.data_s)} for its batch; the usual wait is "
                 f"{seconds(wait)}", first.step, TIMES),
            fact(f"its forward, backward and update took {seconds(_work(first))}; usual is {seconds(step)}",
                 first.step, TIMES),
            fact(f"{plural(len(stalls), 'stall')} in {plural(len(span), 'step')} cost {seconds(lost)}",
                 stalls[-1].step, TIMES),
            *_alarms(chart, stalls),
        ),
        confirm=Experiment(
            name="replay-cached-batch",
            says=f"steps {first.step} to {stalls[-1].step} with one batch kept in memory",
            predicts=f"no step waits more than {seconds(max(10 * wait, 1e-3))}",
            command=f"run.loader.batch({first.step})",
        ),
        fix="prefetch, more loader workers, data on a local disk; look for a cache that evicts and for work "
            "per sample that grows with the step",
        also_seen_with=("a slow host (every phase slows)", "garbage collection (rare, any phase)"),
        confidence="likely" if len(stalls) >= OFTEN else "possible",
    )  # fmt: skip


def _alarms(chart: Chart, stalls: list[StepTimes]) -> tuple[Evidence, ...]:
    steps = {t.step for t in stalls}
    heard: list[Event] = [e for e in chart.events_of("alarm") if e.step in steps]
    return tuple(
        fact(e.says or f"the watchdog raised `{e.data.get('kind')}`", e.step, EVENTS) for e in heard[:1]
    )


def _always_slow(times: list[StepTimes]) -> Finding | None:
    """Data takes half of every step, over the last stretch that is long enough."""
    last = times[-FOR:]
    shares = [t.data_s / ((t.data_s + _work(t)) or 1.0) for t in last]
    if len(last) < FOR or median(shares) < SHARE or not any(_work(t) for t in last):
        return None
    first = next(t for t in times if t.data_s / ((t.data_s + _work(t)) or 1.0) >= SHARE)
    return Finding(
        code="LK501", title="stalled loader",
        says=f"waiting for data takes more of a step than computing, from step {first.step}",
        step=first.step, cause="loader",
        evidence=(
            fact(f"over the last {FOR} steps data is {percent(median(shares))} of a step at the median",
                 last[0].step, TIMES),
            fact(f"data {seconds(median([t.data_s for t in last]))}, forward, backward and update "
                 f"{seconds(median([_work(t) for t in last]))}", last[0].step, TIMES),
        ),
        confirm=Experiment(
            name="replay-cached-batch", says=f"{FOR} steps with one batch kept in memory",
            predicts=f"a step takes {number(1 - median(shares))} of its time",
            command=f"run.loader.batch({first.step})",
        ),
        fix="prefetch while the last step computes, more loader workers, data on a local disk",
        also_seen_with=("a slow host (every phase slows)",),
        confidence="likely",
    )  # fmt: skip
