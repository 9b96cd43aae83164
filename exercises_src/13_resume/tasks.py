"""Exercise 13, exact resume: the state that a step reads, through a file; the log cut back to it.

The trainer stands in text.py alone, where the learner reads it; its source travels to the kernel as an input.
"""

from __future__ import annotations

import json
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

from llmkit.grade.compare import agree
from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

# ----------------------------------------------------------------------------------------- 1. carry it over


@cache
def trainer() -> str:
    """The cell of text.py that is tagged `trainer`."""
    text = Path(__file__).with_name("text.py").read_text(encoding="utf-8")
    cell = re.search(r'^# %% tags=\["trainer"\]\n(.*?)^# %%', text, flags=re.DOTALL | re.MULTILINE)[1]
    return "import random\n\nimport numpy as np\n\n" + cell.strip() + "\n"


def drive_resume(function, trainer, seeds, before, after):
    """Train, carry over, look at both, train both on."""
    import os
    import random
    import tempfile

    import numpy

    names = {}
    exec(compile(trainer, "<trainer>", "exec"), names)
    old, new = (names["Trainer"](seed) for seed in seeds)
    for _ in range(before):
        old.train_step()

    def look(one):
        return {
            "step": one.step,
            "weights": one.weights.tolist(),
            "moments": [one.mean.tolist(), one.square.tolist()],
            "scaler": [one.scale, one.good_steps],
            "average": one.average,
            "place": [one.order, one.cursor],
            "shuffle": one.random.getstate()[1][-3:],
            "dropout": one.noise.bit_generator.state["state"]["state"] % 10**9,
        }

    def own(one):
        return [
            value for value in vars(one).values() if isinstance(value, (list, numpy.ndarray, random.Random))
        ]

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "state.json")
        function(old, new, path)
        if not os.path.exists(path):
            return None
    found = {"new": look(new), "shared": any(a is b for a in own(old) for b in own(new))}
    losses = [new.train_step() for _ in range(after)]
    return found | {
        "losses": losses,
        "weights": new.weights.tolist(),
        "old": [old.train_step() for _ in range(after)],
    }


def carry_over(trainer: str, seeds: list[int], before: int, after: int) -> Answer:
    import copy

    def carry(old, new, path):
        Path(path).write_text("{}")
        vars(new).update(copy.deepcopy(vars(old)))

    return Answer(value=drive_resume(carry, trainer, seeds, before, after))


def judge_resume(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not isinstance(found, dict):
        return "file"
    for name in ("step", "weights", "moments", "scaler", "average", "place", "shuffle", "dropout"):
        if not agree(found["new"][name], right["new"][name], 1e-12, 1e-15):
            return name
    if found["shared"]:
        return "shared"
    if not agree(found["old"], right["old"], 1e-9, 1e-12):
        return "old"
    return "" if agree(found["losses"], right["losses"], 1e-9, 1e-12) else "shared"


def hidden_resume(rng: random.Random) -> list[Case]:
    places = [0, 12, rng.randint(1, 11), rng.randint(13, 40)]
    return [
        Case(trainer=trainer(), seeds=rng.sample(range(2**31), 2), before=before, after=rng.randint(14, 20))
        for before in places
    ]


RESUME = Task(
    name="carry_over",
    lines=19,
    reference=carry_over,
    judge=judge_resume,
    drive=drive_resume,
    properties={
        "file": Property("the state passes through the file at `path`", "what would be left after a kill?"),
        "step": Property("the step goes on counting", "which rates depend on the number of the step?"),
        "weights": Property("the weights are those of `old`", "is it an array again, of the same numbers?"),
        "moments": Property("both moments of Adam are carried over", "what are they at a fresh start?"),
        "scaler": Property(
            "the scaler's scale and its good steps are carried over",
            "when will the scale be doubled next?",
        ),
        "average": Property(
            "the detector's running average is carried over", "what would it call a spike next?"
        ),
        "place": Property(
            "the order of this epoch and the place in it are carried over",
            "which rows of this epoch have been read?",
        ),
        "shuffle": Property(
            "the generator of the next epochs' orders stands where it stood",
            "in which order would the epoch after this one come?",
        ),
        "dropout": Property(
            "the generator of dropout stands where it stood", "which mask would be drawn next?"
        ),
        "old": Property("`old` is left as it was", "would it still go on as if nobody had looked?"),
        "shared": Property(
            "`new` shares no list, array or generator with `old`",
            "what happens to `old` when `new` takes a step?",
        ),
    },
    public=(
        Case(trainer=trainer(), seeds=[1, 2], before=0, after=3),
        Case(trainer=trainer(), seeds=[1, 2], before=1, after=14),
        Case(trainer=trainer(), seeds=[1, 2], before=20, after=14),
    ),
    hidden=hidden_resume,
    hints=(
        "Go through `__init__`: each attribute that `train_step` or `update` changes or draws from is state.",
        "Six plain values, three arrays, two generators; `.tolist()` and `np.array(...)` for arrays.",
        "`new.random.setstate((version, tuple(numbers), gauss))`; `new.noise.bit_generator.state = ...`.",
    ),
)

# -------------------------------------------------------------------------------------- 2. cut the log back


def cut(log: str, step: int) -> Answer:
    kept = ""
    for line in re.findall(r"[^\n]*\n", log):
        try:
            if json.loads(line)["step"] >= step:
                break
        except ValueError:
            break
        kept += line
    return Answer(value=kept)


def judge_cut(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, log = got.value, inputs["log"]
    if not isinstance(found, str):
        return "form"
    if found == want.value:
        return ""
    if not log.startswith(found):
        return "bytes"
    if found and not found.endswith("\n"):
        return "torn"
    return "cut" if len(found) > len(want.value) else "kept"


def hidden_cut(rng: random.Random) -> list[Case]:
    def line(step: int) -> str:
        loss = round(rng.uniform(1, 9), 4)
        return rng.choice([f'{{"step": {step}, "loss": {loss}}}', f'{{"loss":{loss},"step":{step}}}']) + "\n"

    cases = []
    for ending in ("", '{"step": 9', '{"step": 31, "loss": 2.5}', "\x00\x00"):
        end = rng.randint(20, 30)
        log = "".join(line(step) for step in range(end)) + ending
        cases.append(Case(log=log, step=rng.randint(9, 19)))
        cases.append(Case(log=log, step=end + 40))
    twice = "".join(line(step) for step in (*range(12), *range(7, 15)))  # resumed once, and not cut back
    return [
        *cases,
        Case(log=twice, step=9),
        Case(log=twice, step=12),
        Case(log=twice, step=0),
        Case(log="", step=3),
    ]


CUT = Task(
    name="cut_log",
    lines=6,
    reference=cut,
    judge=judge_cut,
    properties={
        "form": Property("the answer is the text of the log", "what do you write back to the file?"),
        "bytes": Property(
            "kept lines stay byte for byte, from the start",
            "does a line read and written again look the same?",
        ),
        "torn": Property(
            "a last line without its newline is torn and goes", "can more of the line have been meant?"
        ),
        "cut": Property(
            "from the first line at or beyond the checkpoint's step, all is cut off",
            "which steps will be logged again?",
        ),
        "kept": Property("all lines before that are kept", "is step 9 below step 10, also as text?"),
    },
    public=(
        Case(log='{"step": 0}\n', step=5),
        Case(log='{"step": 0}\n{"step": 1}\n', step=1),
        Case(log='{"step": 0}\n{"st', step=5),
        Case(log='{"step": 0}\n{"step": 1}', step=5),
        Case(log='{"loss":2.50,  "step": 9}\n{"step": 10}\n', step=10),
        Case(log='{"step": 0}\n{"step": 1}\n{"step": 0}\n', step=1),
    ),
    hidden=hidden_cut,
    hints=(
        "Walk through the lines with their newlines and stop at the first that must not stay.",
        "`log.splitlines(keepends=True)` keeps the newlines; a torn line does not end with one.",
        "Stop if `not line.endswith('\\n')` or `json.loads(line)['step'] >= step`; else keep the line.",
    ),
)

EXERCISE = Exercise(
    name="13_resume",
    version=1,
    title="Exact resume",
    minutes=35,
    round="coding",
    difficulty=3,
    rows=("S14", "S7"),
    tasks=(RESUME, CUT),
    predictions={
        "first update": Prediction(
            answer=1.0,
            because=(
                "the mean is a tenth of the gradient and the root of the square a tenth of its size, and at "
                "step 1,000 neither is corrected: 0.1 / 0.1 = 1. With changing gradients it is not, and with "
                "beta2 = 0.999 it is 0.1 / 0.0316 = 3.2 times: the run jumps at every resume."
            ),
        )
    },
    hides=("train", "lab", "rescue"),
)
