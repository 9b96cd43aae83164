"""Exercise 14, a spike detector: median and MAD of a causal window, NaN, warm-up, and silence on slow drift.

The judge names a fault by running the same detector with that fault. 1.4826 makes the MAD of normal noise its
standard deviation: Rousseeuw and Croux, doi 10.1080/01621459.1993.10476408.
"""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

from llmkit.grade.compare import number
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task


def detect(
    losses: list, window: int, threshold: float, warmup: int, floor: float, fault: str = ""
) -> list[int]:
    """Places of the alarms; with `fault`, of a detector that has it."""
    seen, found = [], []
    for place, loss in enumerate(losses):
        finite = math.isfinite(loss)
        past = seen if fault == "recent" else seen[-window:]
        past = [*past, loss][-window:] if fault == "causal" and finite else past
        if not finite:
            found.append(place)
        elif len(past) >= (1 if fault == "warmup" else warmup):
            centre = statistics.fmean(past) if fault == "robust" else statistics.median(past)
            away = [abs(one - centre) for one in past]
            scale = statistics.pstdev(past) if fault == "robust" else statistics.median(away)
            scale *= 1.0 if fault in ("scale", "robust") else 1.4826
            scale = max(scale, 0.0 if fault == "floor" else floor)
            distance = abs(loss - centre) if fault == "down" else loss - centre
            if distance > threshold * scale:
                found.append(place)
        if finite or fault == "clean":
            seen.append(loss if finite else 0.0)
    return found


def spikes(losses: list, window: int, threshold: float, warmup: int, floor: float) -> Answer:
    return Answer(value=detect(losses, window, threshold, warmup, floor))


FAULTS = {name: name for name in ("down", "warmup", "causal", "robust", "floor", "recent", "clean")}
FAULTS |= {"scale": "robust"}  # one property: centre and spread


def judge_spikes(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    found = [number(one) for one in found] if isinstance(found, list) else found  # NumPy's integers too
    if not isinstance(found, list) or any(type(one) is not int for one in found):
        return "form"
    if found == right:
        return ""
    bad = {place for place, loss in enumerate(inputs["losses"]) if not math.isfinite(loss)}
    if bad - set(found):
        return "nonfinite"
    fits = {FAULTS[fault] for fault in FAULTS if found == detect(**inputs, fault=fault)}
    if len(fits) == 1:
        return fits.pop()
    return "extra" if set(found) - set(right) else "missed"


def curve(rng: random.Random, n: int, noise: float, slope: float = 0.0, start: float = 3.0) -> list[float]:
    return [start + slope * i + rng.gauss(0, noise) for i in range(n)]


def hidden(rng: random.Random) -> list[Case]:
    cases = []
    for slope, bad in ((0.0, 0), (-0.01, 2), (0.012, 0), (0.004, 3)):
        losses = curve(rng, rng.randint(70, 100), 0.03, slope)
        for place in rng.sample(range(25, 65), 3):
            losses[place] += rng.choice([0.5, 1.0, 4.0, -1.0, 0.3, 0.12, 0.14])
        for place in rng.sample(range(2, 60), bad):
            losses[place] = rng.choice([math.nan, math.inf, -math.inf])
        cases.append(
            Case(
                losses=losses,
                window=rng.randint(9, 20),
                threshold=rng.choice([4.0, 5.0, 6.0]),
                warmup=rng.randint(4, 9),
                floor=0.001,
            )
        )
    flat = [2.0] * 12 + [2.0 + rng.uniform(0.001, 0.009), 2.0, 2.0 + rng.uniform(0.2, 1), 2.0, 1.0]
    cases.append(Case(losses=flat, window=8, threshold=5.0, warmup=4, floor=0.01))
    start = [9.0, 4.0, rng.uniform(20, 30), 4.0, 3.9, math.nan, *curve(rng, 30, 0.05, start=4.0), 40.0, 5.5]
    cases.append(Case(losses=start, window=10, threshold=6.0, warmup=7, floor=0.001))
    pair = [
        *curve(rng, 20, 0.05),
        30.0,
        6.0,
        30.0,
        *curve(rng, 6, 0.05),
        5.0,
        math.nan,
        3.0,
        5.0,
        *[math.nan] * 6,
        3.0,
        6.0,
    ]
    cases.append(Case(losses=pair, window=12, threshold=5.0, warmup=6, floor=0.001))
    first = [*curve(rng, 5, 0.05), math.nan, 9.0, 3.0, 9.0, *curve(rng, 20, 0.05)]
    cases.append(Case(losses=first, window=9, threshold=6.0, warmup=5, floor=0.001))
    step = [*curve(rng, 40, 0.05, start=1.0), *curve(rng, 20, 0.05, start=6.0), 9.0]
    cases.append(Case(losses=step, window=9, threshold=5.0, warmup=5, floor=0.001))
    return cases


def case(
    *losses: float, window: int = 5, threshold: float = 5.0, warmup: int = 3, floor: float = 0.01
) -> Case:
    return Case(losses=list(losses), window=window, threshold=threshold, warmup=warmup, floor=floor)


NOISY = (3.0, 3.1, 2.9, 3.0, 3.2)
SPIKES = Task(
    name="spikes",
    lines=12,
    reference=spikes,
    judge=judge_spikes,
    properties={
        "form": Property("the answer is a list of places, as whole numbers", "what does the caller look up?"),
        "nonfinite": Property(
            "NaN and infinities are alarms, at every step", "is NaN > 5 true? May the warm-up hide a NaN?"
        ),
        "warmup": Property(
            "no finite loss is judged by fewer than `warmup` others", "what is the spread of one number?"
        ),
        "down": Property("a fall is no spike", "would you stop a run for a loss that is too good?"),
        "causal": Property(
            "the window ends before the loss that is judged", "does the loss take part in its own judgement?"
        ),
        "robust": Property(
            "the centre is the median of the window, the spread 1.4826 times its MAD",
            "what does one spike in the window do to a mean and to a standard deviation?",
        ),
        "floor": Property("the spread is at least `floor`", "what is the MAD of a window of equal numbers?"),
        "recent": Property(
            "only the last `window` finite losses count",
            "what does a median over the whole run do when the loss drifts?",
        ),
        "clean": Property(
            "a NaN or an infinity takes no place in the window",
            "what is the median of a window with NaN in it?",
        ),
        "extra": Property(
            "there is an alarm only above centre + threshold * spread",
            "which of your alarms is not above it?",
        ),
        "missed": Property(
            "every loss above centre + threshold * spread is an alarm", "which alarm is missing?"
        ),
    },
    public=(
        case(3.0, 3.0),
        case(math.nan),
        case(3.0, 3.1, 2.9, 9.0),
        case(3.0, 9.0, 3.1),
        case(*NOISY, 1.0),
        case(3.0, math.inf, 3.1, -math.inf, 2.9),
        case(*NOISY, 3.6),
        case(*NOISY, 3.8),
        case(3.0, 3.0, 3.0, 3.04, 3.0, 3.06),
        case(*NOISY, 9.0, 3.1, 9.0),
        case(1.0, 1.1, 1.0, 1.2, 2.0, 2.1, 3.0, 3.1, 4.0, 4.1, 5.0, 5.1, threshold=3.0),
        case(3.0, 3.1, 2.9, math.nan, math.nan, math.nan, 3.1),
        case(*NOISY, 9.0, 9.1, 9.0, 9.2, 9.1, 9.0, 12.0),
        case(3.0, 3.1, 2.9, 3.0, 9.0, window=9, warmup=5),
        case(3.0, 3.1, 2.9, 3.0, math.nan, 9.0, window=9, warmup=5),
    ),
    hidden=hidden,
    hints=(
        "Keep a list of the finite losses so far. Judge first, then append.",
        "`past = finite[-window:]`; `statistics.median` of it, then of the distances from that median.",
        (
            "`spread = max(1.4826 * mad, floor)`, alarm if `loss - centre > threshold * spread`; "
            "`math.isfinite` comes before all of it."
        ),
    ),
)

EXERCISE = Exercise(
    name="14_spikes",
    version=1,
    title="A robust spike detector",
    minutes=25,
    round="coding",
    difficulty=2,
    rows=("S6",),
    tasks=(SPIKES,),
    predictions={
        "largest score": Prediction(
            answer=9 / math.sqrt(10),
            because=(
                "with n numbers the outlier pulls the mean by 1/n of its height and the standard deviation "
                "by more: "
                "the score is (n - 1) / sqrt(n), however high it is. A threshold of 3 would never be reached."
            ),
        )
    },
    hides=("rescue", "diagnose"),
)
