"""Exercise 15, a watchdog: a thread with an injected clock, and the policy that answers its alarms.

The driver plays a script of events; its clock shows the time of the event that was read last, so that nothing
here waits and nothing depends on the machine's speed.
"""

from __future__ import annotations

import math
import random
from typing import Any

from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# -------------------------------------------------------------------------------------------- 1. the thread


def drive_watch(function, script, slow_s, hang_s, alarm_fails):
    """Play the script; the alarms, in which thread they came, and whether the thread ended."""
    import threading

    state = {"now": 0.0, "place": 0, "late": 0, "own": True}
    alarms, here = [], threading.get_ident()

    def next_event():
        state["own"] = state["own"] and threading.get_ident() != here
        if state["place"] >= len(script):
            state["late"] += 1
            if state["late"] > 5:
                raise SystemExit
            return ("stop",)
        state["now"], *event = script[state["place"]]
        state["place"] += 1
        return tuple(event)

    def alarm(kind, step):
        state["own"] = state["own"] and threading.get_ident() != here
        alarms.append([kind, step])
        if alarm_fails:
            raise RuntimeError("the pager is down")

    before, threading.excepthook = threading.excepthook, lambda problem: None
    try:
        thread = function(next_event, lambda: state["now"], alarm, slow_s, hang_s)
        if isinstance(thread, threading.Thread) and thread.ident is not None:
            thread.join(5.0)
    finally:
        threading.excepthook = before
    if thread is None and not state["place"]:
        return None
    if not isinstance(thread, threading.Thread):
        return "no thread"
    ended = not thread.is_alive() and state["late"] <= 1
    found = {"alarms": alarms, "own thread": state["own"], "started": thread.ident is not None}
    return found | {"daemon": thread.daemon, "ended": ended, "read": state["place"]}


def watch(script: list, slow_s: float, hang_s: float, alarm_fails: bool) -> Answer:
    alarms, last, step, told, read = [], 0.0, -1, False, 0
    for now, kind, *more in script:
        read += 1
        if kind == "stop":
            break
        if kind == "beat":
            step, loss = more
            alarms += [["nan", step]] if not math.isfinite(loss) else []
            alarms += [["slow", step]] if now - last > slow_s else []
            last, told = now, False
        elif now - last > hang_s and not told:
            alarms.append(["hang", step])
            told = True
    facts = {"alarms": alarms, "own thread": True, "started": True}
    return Answer(value=facts | {"daemon": True, "ended": True, "read": read})


def judge_watch(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not isinstance(found, dict) or not found["started"]:
        return "form"
    if not found["own thread"]:
        return "own"
    if not found["daemon"]:
        return "daemon"
    if inputs["alarm_fails"] and (found["read"] < right["read"] or not found["ended"]):
        return "survives"
    for kind in ("nan", "slow"):
        if [a for a in found["alarms"] if a[0] == kind] != [a for a in right["alarms"] if a[0] == kind]:
            return kind
    mine, true = ([a for a in each["alarms"] if a[0] == "hang"] for each in (found, right))
    if mine != true:
        return "once" if len(mine) > len(true) else "again" if mine and len(true) > len(mine) else "hang"
    if found["alarms"] != right["alarms"]:
        return "order"
    return "" if found["ended"] and found["read"] == right["read"] else "ends"


def script_of(rng: random.Random, n: int) -> list:
    now, step, script = 0.0, rng.randint(0, 500), []
    for _ in range(n):
        for _ in range(rng.choice([0, 0, 1, 3, 5])):
            now += rng.uniform(0.5, 6)
            script.append([now, "tick"])
        now += rng.uniform(0.1, 2)
        script.append(
            [now, "beat", step, rng.choice([2.0, 3.0, 1.5, rng.choice([math.nan, math.inf, -math.inf])])]
        )
        step += 1
    hung = [[now + 30 + i, "tick"] for i in range(3)]
    return [
        *script,
        *hung,
        [now + 40, "beat", step, math.nan],
        [now + 80, "tick"],
        [now + 81, "tick"],
        [now + 81, "stop"],
        [now + 99, "tick"],
    ]


def hidden_watch(rng: random.Random) -> list[Case]:
    cases = [
        Case(
            script=script_of(rng, rng.randint(4, 12)),
            slow_s=rng.uniform(3, 5),
            hang_s=rng.uniform(7, 12),
            alarm_fails=i % 2 == 1,
        )
        for i in range(6)
    ]
    start = [
        [20.0, "tick"],
        [21.0, "tick"],
        [22.0 + rng.random(), "beat", 0, 3.0],
        [60.0, "stop"],
        [99.0, "tick"],
    ]
    return [*cases, Case(script=start, slow_s=5.0, hang_s=10.0, alarm_fails=False)]


def played(*script: list, alarm_fails: bool = False) -> Case:
    return Case(script=[*map(list, script)], slow_s=5.0, hang_s=10.0, alarm_fails=alarm_fails)


B0, STOP = (1.0, "beat", 0, 3.0), (99.0, "stop")

WATCH = Task(
    name="watch",
    lines=22,
    reference=watch,
    judge=judge_watch,
    drive=drive_watch,
    properties={
        "form": Property("the function returns the thread, started", "what will the caller join at the end?"),
        "own": Property(
            "events are read and alarms raised in the watchdog's own thread",
            "who would tell of a hang of the training thread?",
        ),
        "daemon": Property("the thread is a daemon", "may a watchdog keep a finished process alive?"),
        "nan": Property(
            "a beat whose loss is not finite is a `nan` alarm with its step", "is only NaN itself bad?"
        ),
        "slow": Property(
            "a beat more than slow_s after the one before is a `slow` alarm with its step",
            "from when to when does a step last, and what of the first?",
        ),
        "hang": Property(
            "a tick more than hang_s after the last beat is a `hang` alarm with the last step, -1 before any",
            "which clock do you read, and when?",
        ),
        "once": Property("one hang is one alarm", "how often does a pager ring if a hang lasts an hour?"),
        "again": Property(
            "the next hang, after a beat, is an alarm again", "what does a beat say about the hang before it?"
        ),
        "order": Property("nan comes before slow at one beat", "which of the two is worse?"),
        "survives": Property(
            "an alarm that raises does not end the watchdog", "what watches the run when the pager is down?"
        ),
        "ends": Property("at `stop` the thread ends and reads no further event", "what leaves the loop?"),
    },
    public=(
        played(B0, STOP),
        played(B0, (2.0, "beat", 1, math.nan), STOP),
        played((1.0, "beat", 0, math.inf), STOP),
        played(B0, (7.0, "beat", 1, 3.0), STOP),
        played((6.0, "beat", 0, 3.0), STOP),
        played(B0, (12.0, "tick"), STOP),
        played((11.0, "tick"), STOP),
        played(B0, (12.0, "tick"), (13.0, "tick"), STOP),
        played(B0, (10.0, "tick"), STOP),
        played(B0, (12.0, "tick"), (13.0, "beat", 1, 3.0), (24.0, "tick"), STOP),
        played(B0, (9.0, "beat", 1, math.nan), STOP),
        played(B0, (2.0, "beat", 1, math.nan), (13.0, "tick"), STOP, alarm_fails=True),
        played(B0, STOP, (120.0, "tick")),
    ),
    hidden=hidden_watch,
    hints=(
        (
            "A function that loops over events, and a thread that runs it. Remember the time of the "
            "last beat, its step, and whether this hang is told."
        ),
        (
            "`thread = threading.Thread(target=loop, daemon=True)`, `thread.start()`, `return thread`; "
            "`nonlocal` or local variables inside `loop`."
        ),
        (
            "Wrap the call: `def tell(kind, step): with contextlib.suppress(Exception): alarm(kind, "
            "step)`; a "
            "beat sets `told = False`."
        ),
    ),
)

# -------------------------------------------------------------------------------------------- 2. the policy


def decide(alarms: list, window: int, limit: int) -> Answer:
    if not alarms or alarms[-1][0] == "slow":
        return Answer(value="continue")
    kind, step = alarms[-1]
    if kind == "hang":
        return Answer(value="restart")
    recent = sum(k == "nan" and step - window < s <= step for k, s in alarms)
    return Answer(value="stop" if recent >= limit else "rollback")


def judge_decide(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    if got.value not in ("continue", "restart", "rollback", "stop"):
        return "form"
    if got.value == want.value:
        return ""
    kind = inputs["alarms"][-1][0] if inputs["alarms"] else "none"
    return {"none": "quiet", "slow": "quiet", "hang": "restart"}.get(
        kind, "limit" if want.value == "stop" else "rollback"
    )


def alarms_of(rng: random.Random, n: int, last: str) -> list:
    steps = sorted(rng.sample(range(300), n))
    return [[rng.choice(["nan", "slow", "nan", "hang"]), step] for step in steps[:-1]] + [[last, steps[-1]]]


def hidden_decide(rng: random.Random) -> list[Case]:
    cases = [
        Case(
            alarms=alarms_of(rng, rng.randint(2, 9), last),
            window=rng.randint(20, 120),
            limit=rng.randint(2, 4),
        )
        for last in ("nan", "nan", "slow", "hang", "nan")
    ]
    start, window = rng.randint(0, 99), rng.randint(5, 50)
    for far in (window - 1, window):  # the first of three just within the window, and just outside
        near = [["nan", start], ["slow", start], ["nan", start + 1], ["nan", start + far]]
        cases.append(Case(alarms=near, window=window, limit=3))
    again = [
        ["nan", start + 40],
        ["nan", start],
        ["hang", start],
        ["nan", start + 1],
    ]  # a rollback in between
    many = [["nan", start], *[["hang", start + i] for i in range(4)], ["slow", start + 5]]
    return [
        *cases,
        Case(alarms=[], window=window, limit=1),
        Case(alarms=again, window=20, limit=3),
        Case(alarms=[*many, ["nan", start + 6]], window=50, limit=3),
        Case(alarms=[["nan", start]] * 4, window=9, limit=1 + rng.randint(2, 3)),
        Case(alarms=many, window=50, limit=1),
    ]


def asked(text: str, window: int = 10, limit: int = 2) -> Case:
    return Case(
        alarms=[[word.split(":")[0], int(word.split(":")[1])] for word in text.split()],
        window=window,
        limit=limit,
    )


DECIDE = Task(
    name="decide",
    lines=7,
    reference=decide,
    judge=judge_decide,
    properties={
        "form": Property(
            "the answer is continue, restart, rollback or stop", "which four words does the supervisor know?"
        ),
        "quiet": Property("no alarm, or a slow step at last: continue", "is a slow step wrong?"),
        "restart": Property("a hang at last: restart", "does a hung process read a checkpoint?"),
        "rollback": Property(
            "a NaN at last, and fewer than `limit` in the window: rollback",
            "which NaN alarms count: of which kind, in which steps?",
        ),
        "limit": Property(
            "the `limit`-th NaN among the last `window` steps: stop",
            "what will the run do after the next rollback?",
        ),
    },
    public=(
        asked(""),
        asked("slow:3"),
        asked("hang:3"),
        asked("nan:3"),
        asked("nan:3 nan:4"),
        asked("nan:3 slow:4"),
        asked("nan:3 hang:4"),
        asked("nan:3 nan:13"),
        asked("nan:4 nan:13"),
        asked("slow:3 hang:3 nan:4"),
        asked("nan:9 nan:3", limit=2),
        asked("nan:1 nan:2 nan:3", limit=4),
        asked("nan:3 nan:3 slow:4 hang:5 slow:6"),
    ),
    hidden=hidden_decide,
    hints=(
        "The last alarm decides. Only for a NaN do the earlier ones matter.",
        "Count the `nan` alarms whose step is in (step - window, step], the last one included.",
        (
            '`recent = sum(k == "nan" and step - window < s <= step for k, s in alarms)`; `recent >= '
            'limit` is "stop".'
        ),
    ),
)

EXERCISE = Exercise(
    name="15_watchdog",
    version=1,
    title="A watchdog",
    minutes=40,
    round="system design",
    difficulty=3,
    rows=("S8",),
    tasks=(WATCH, DECIDE),
    predictions={
        "latest alarm": Prediction(
            answer=32.0,
            because="a tick can come just before the 30 s are over, and the next one is 2 s later.",
        )
    },
    hides=("rescue",),
)
