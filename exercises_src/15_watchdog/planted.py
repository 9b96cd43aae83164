"""Wrong solutions of exercise 15, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["watch"]["tells a hang at every tick"]
"""

from __future__ import annotations

import contextlib
import math
import threading


def _watch(
    bad=lambda loss: not math.isfinite(loss),
    slow=lambda took, limit: took > limit,
    first=lambda clock: clock(),
    hang=lambda since, limit: since > limit,
    told=lambda flag: flag,
    rearm=False,
    nan_first=True,
    guard=Exception,
    stop=lambda event: event[0] == "stop",
    beat_on_tick=False,
    daemon=True,
    start=True,
    here=False,
    result=lambda thread: thread,
    begin=-1,
    step_of_hang=lambda step: step,
):
    """The right watchdog, one part replaced."""

    def watch(next_event, clock, alarm, slow_s, hang_s):
        def tell(kind, step):
            with contextlib.suppress(guard):
                alarm(kind, step)

        def loop():
            last, step, known = first(clock), begin, False
            while not stop(event := next_event()):
                now = clock()
                if event[0] == "beat":
                    _, step, loss = event
                    checks = [("nan", bad(loss)), ("slow", last is not None and slow(now - last, slow_s))]
                    for kind, holds in checks if nan_first else checks[::-1]:
                        if holds:
                            tell(kind, step)
                    last, known = now, known if rearm else False
                elif event[0] == "tick":
                    if last is not None and hang(now - last, hang_s) and not told(known):
                        tell("hang", step_of_hang(step))
                        known = True
                    last = now if beat_on_tick else last

        thread = threading.Thread(target=loop, daemon=daemon)
        if here:
            loop()
        if start:
            thread.start()
        return result(thread)

    return watch


class _Nothing(BaseException):
    pass


WRONG_WATCH = {
    "only NaN is bad": (_watch(bad=math.isnan), "nan"),
    "never bad": (_watch(bad=lambda loss: False), "nan"),
    "compares with NaN": (_watch(bad=lambda loss: loss == math.nan or math.isinf(loss)), "nan"),
    "a hang's limit for slow": (_watch(slow=lambda took, limit: took > 2 * limit), "slow"),
    "the first step is never slow": (_watch(first=lambda clock: None), "slow"),
    "every step is slow": (_watch(slow=lambda took, limit: True), "slow"),
    "a tick counts as a beat": (_watch(beat_on_tick=True), "slow"),
    "no hang at all": (_watch(hang=lambda since, limit: False), "hang"),
    "half the limit": (_watch(hang=lambda since, limit: since > limit / 2), "once"),
    "tells a hang at every tick": (_watch(told=lambda flag: False), "once"),
    "tells one hang alone": (_watch(rearm=True), "again"),
    "the step after": (_watch(step_of_hang=lambda step: step + 1), "hang"),
    "step 0 before any": (_watch(begin=0), "hang"),
    "slow before nan": (_watch(nan_first=False), "order"),
    "an alarm that raises ends it": (_watch(guard=_Nothing), "survives"),
    "no daemon": (_watch(daemon=False), "daemon"),
    "in the caller's thread": (_watch(here=True), "own"),
    "not started": (_watch(start=False), "form"),
    "returns nothing": (_watch(result=lambda thread: None), "form"),
    "does not stop": (_watch(stop=lambda event: False), "ends"),
    "takes the clock's value": (lambda next_event, clock, alarm, slow_s, hang_s: clock.now, ""),
}


def _decide(
    slow="continue",
    hang="restart",
    nan="rollback",
    none="continue",
    counts=lambda alarms, step, window: sum(k == "nan" and step - window < s <= step for k, s in alarms),
    over=lambda recent, limit: recent >= limit,
    last=lambda alarms: alarms[-1],
):
    def decide(alarms, window, limit):
        if not alarms:
            return none
        kind, step = last(alarms)
        if kind != "nan":
            return slow if kind == "slow" else hang
        return "stop" if over(counts(alarms, step, window), limit) else nan

    return decide


def _worst(alarms):
    rank = {"slow": 0, "nan": 1, "hang": 2}
    return max(alarms, key=lambda alarm: rank[alarm[0]])


WRONG_DECIDE = {
    "rolls back a slow run": (_decide(slow="rollback"), "quiet"),
    "restarts a slow run": (_decide(slow="restart"), "quiet"),
    "rolls back a hang": (_decide(hang="rollback"), "restart"),
    "waits for a hang to end": (_decide(hang="continue"), "restart"),
    "stops at the first NaN": (_decide(nan="stop"), "rollback"),
    "goes on after a NaN": (_decide(nan="continue"), "rollback"),
    "never stops": (_decide(over=lambda recent, limit: False), "limit"),
    "stops one late": (_decide(over=lambda recent, limit: recent > limit), "limit"),
    "stops one early": (_decide(over=lambda recent, limit: recent >= limit - 1), "rollback"),
    "counts all NaN": (_decide(counts=lambda a, step, window: sum(k == "nan" for k, _ in a)), "rollback"),
    "counts all alarms": (
        _decide(counts=lambda a, step, window: sum(step - window < s <= step for _, s in a)),
        "rollback",
    ),
    "a window one longer": (
        _decide(counts=lambda a, step, w: sum(k == "nan" and step - w <= s <= step for k, s in a)),
        "rollback",
    ),
    "a window one shorter": (
        _decide(counts=lambda a, step, w: sum(k == "nan" and step - w + 1 < s <= step for k, s in a)),
        "limit",
    ),
    "later steps too": (
        _decide(counts=lambda a, step, w: sum(k == "nan" and s > step - w for k, s in a)),
        "rollback",
    ),
    "the worst alarm decides": (_decide(last=_worst), "limit"),
    "the first alarm decides": (_decide(last=lambda alarms: alarms[0]), "limit"),
    "None without alarms": (_decide(none=None), "form"),
    "a flag": (lambda *a: _decide()(*a) == "stop", "form"),
    "the last of none": (
        lambda alarms, window, limit: _decide()([alarms[-1], *alarms][1:], window, limit),
        "",
    ),
}
WRONG = {"watch": WRONG_WATCH, "decide": WRONG_DECIDE}

# ----------------------------------------------------------------------------------- right, in other styles


class Watcher(threading.Thread):
    def __init__(self, *how):
        super().__init__(daemon=True)
        self.next_event, self.clock, self.alarm, self.slow_s, self.hang_s = how
        self.last, self.seen, self.hung = self.clock(), -1, False

    def tell(self, kind):
        try:
            self.alarm(kind, self.seen)
        except Exception:
            self.failed = True

    def run(self):
        for event in iter(self.next_event, ("stop",)):
            passed = self.clock() - self.last
            if event[0] == "beat":
                self.seen = event[1]
                if event[2] - event[2] != 0:
                    self.tell("nan")
                if passed > self.slow_s:
                    self.tell("slow")
                self.last, self.hung = self.clock(), False
            elif passed > self.hang_s and not self.hung:
                self.hung = True
                self.tell("hang")


def by_class(*how):
    watcher = Watcher(*how)
    watcher.start()
    return watcher


def by_dict(next_event, clock, alarm, slow_s, hang_s):
    state = {"at": clock(), "step": -1, "told": set()}

    def kinds(event):
        gone = clock() - state["at"]
        if event[0] == "tick":
            return ["hang"] if gone > hang_s and state["at"] not in state["told"] else []
        state["step"] = event[1]
        return ["nan"] * (not math.isfinite(event[2])) + ["slow"] * (gone > slow_s)

    def loop():
        while True:
            event = next_event()
            if event[0] == "stop":
                return
            for kind in kinds(event):
                with contextlib.suppress(Exception):
                    alarm(kind, state["step"])
                state["told"] |= {state["at"]} if kind == "hang" else set()
            state["at"] = clock() if event[0] == "beat" else state["at"]

    thread = threading.Thread(target=loop)
    thread.daemon = True
    thread.start()
    return thread


def decide_by_match(alarms, window, limit):
    match alarms[-1:]:
        case [["nan", step]]:
            steps = [s for kind, s in alarms if kind == "nan" and s in range(step - window + 1, step + 1)]
            return "rollback" if len(steps) < limit else "stop"
        case [["hang", _]]:
            return "restart"
    return "continue"


def decide_by_table(alarms, window, limit):
    kind, step = alarms[-1] if alarms else ("slow", 0)
    recent = len([s for k, s in alarms if k == "nan" and 0 <= step - s < window])
    return {"slow": "continue", "hang": "restart", "nan": ("rollback", "stop")[recent >= limit]}[kind]


RIGHT = {"watch": [_watch(), by_class, by_dict], "decide": [_decide(), decide_by_match, decide_by_table]}
