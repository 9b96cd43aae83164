"""Wrong solutions of exercise 14, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["spikes"]["mean and standard deviation"]
"""

from __future__ import annotations

import math
import statistics
from bisect import insort

import numpy as np


def _mad(past, centre):
    return 1.4826 * statistics.median(abs(one - centre) for one in past)


def _spikes(
    centre=statistics.median,
    spread=_mad,
    past=lambda seen, window, loss: seen[-window:],
    enough=lambda past, warmup: len(past) >= warmup,
    bad=lambda loss: not math.isfinite(loss),
    alarm=lambda bad, past, warmup: True,
    least=lambda spread, floor: max(spread, floor),
    over=lambda loss, centre: loss - centre,
    keep=lambda loss, bad, spike: not bad,
    result=lambda found, losses: found,
    strict=True,
):
    """The right detector, one part replaced."""

    def spikes(losses, window, threshold, warmup, floor):
        seen, found = [], []
        for place, loss in enumerate(losses):
            before, is_bad, spike = past(seen, window, loss), bad(loss), False
            if is_bad:
                spike = alarm(is_bad, before, warmup)
            elif enough(before, warmup):
                middle = centre(before)
                limit = threshold * least(spread(before, middle), floor)
                distance = over(loss, middle)
                spike = distance > limit if strict else distance > limit / 2
            if spike:
                found.append(place)
            if keep(loss, is_bad, spike):
                seen.append(loss)
        return result(found, losses)

    return spikes


def _deviation(past, centre):
    return statistics.pstdev(past)


def _absolute(loss, centre):
    return abs(loss - centre)


WRONG_SPIKES = {
    "misses NaN": (_spikes(bad=math.isinf, keep=lambda loss, bad, spike: math.isfinite(loss)), "nonfinite"),
    "misses infinities": (
        _spikes(
            bad=math.isnan,
            over=lambda loss, c: loss - c if math.isfinite(loss) else 0.0,
            keep=lambda x, *_: math.isfinite(x),
        ),
        "nonfinite",
    ),
    "NaN in the warm-up is none": (
        _spikes(alarm=lambda bad, past, warmup: len(past) >= warmup),
        "nonfinite",
    ),
    "no warm-up": (_spikes(enough=lambda past, warmup: len(past) >= 1), "warmup"),
    "warm-up one longer": (_spikes(enough=lambda past, warmup: len(past) > warmup), "missed"),
    "warm-up until the window is full": (
        lambda losses, window, threshold, warmup, floor: _spikes()(losses, window, threshold, window, floor),
        "missed",
    ),
    "falls too": (_spikes(over=_absolute), "down"),
    "falls alone": (_spikes(over=lambda loss, centre: centre - loss), "missed"),
    "judges itself": (
        _spikes(
            past=lambda seen, window, loss: [*seen, loss][-window:] if math.isfinite(loss) else seen[-window:]
        ),
        "causal",
    ),
    "mean and standard deviation": (_spikes(statistics.fmean, _deviation), "robust"),
    "median and standard deviation": (_spikes(spread=_deviation), "robust"),
    "without 1.4826": (_spikes(spread=lambda past, c: _mad(past, c) / 1.4826), "robust"),
    "without a floor": (_spikes(least=lambda spread, floor: spread), "floor"),
    "half the threshold": (_spikes(strict=False), "extra"),
    "the whole past": (_spikes(past=lambda seen, window, loss: seen), "recent"),
    "the first window": (_spikes(past=lambda seen, window, loss: seen[:window]), "extra"),
    "keeps spikes out of the window": (_spikes(keep=lambda loss, bad, spike: not spike), "extra"),
    "zero for NaN": (
        lambda losses, *how: [
            place
            for place, loss in enumerate(losses)
            if not math.isfinite(loss)
            or place in _spikes()([x if math.isfinite(x) else 0.0 for x in losses], *how)
        ],
        "clean",
    ),
    "a list of flags": (
        _spikes(result=lambda found, losses: [i in found for i in range(len(losses))]),
        "form",
    ),
    "a count": (_spikes(result=lambda found, losses: len(found)), "form"),
    "median of nothing": (_spikes(enough=lambda past, warmup: True), ""),
}
WRONG = {"spikes": WRONG_SPIKES}

# ----------------------------------------------------------------------------------- right, in other styles


def with_numpy(losses, window, threshold, warmup, floor):
    losses = np.array(losses, dtype=float)
    good = np.isfinite(losses)
    found = set(np.flatnonzero(~good))
    for place in np.flatnonzero(good):
        past = losses[:place][good[:place]][-window:]
        if past.size >= warmup:
            centre = np.median(past)
            spread = max(1.4826 * np.median(np.abs(past - centre)), floor)
            if losses[place] > centre + threshold * spread:
                found.add(place)
    return sorted(found)


def with_sorted_window(losses, window, threshold, warmup, floor):
    def middle(ordered):
        half = len(ordered) // 2
        return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2

    queue, ordered, found = [], [], []
    for place, loss in enumerate(losses):
        if loss != loss or loss in (math.inf, -math.inf):
            found.append(place)
            continue
        if len(queue) >= warmup:
            centre = middle(ordered)
            mad = middle(sorted(abs(one - centre) for one in ordered))
            if (loss - centre) / max(floor, mad * 1.4826) > threshold:
                found.append(place)
        queue.append(loss)
        insort(ordered, loss)
        if len(queue) > window:
            ordered.remove(queue.pop(0))
    return found


RIGHT = {"spikes": [_spikes(), with_numpy, with_sorted_window]}
