"""Wrong solutions of exercise 13, each with the property it must fail by ("" for ERROR), and right ones in
other styles.

    function, key = WRONG["carry_over"]["forgets the moments"]
"""

from __future__ import annotations

import copy
import json
import pickle
import random
from pathlib import Path

import numpy as np

# -------------------------------------------------------------------------------------------- wrong: resume

PLAIN = ("scale", "good_steps", "average", "order", "cursor", "step")
ARRAYS = ("weights", "mean", "square")


def _carry(forget=(), arrays=np.array, after=lambda old, new: None, touch=lambda old: None):
    def carry_over(old, new, path):
        touch(old)
        state = {name: getattr(old, name) for name in PLAIN if name not in forget}
        state |= {name: getattr(old, name).tolist() for name in ARRAYS if name not in forget}
        if "random" not in forget:
            state["random"] = old.random.getstate()
        if "noise" not in forget:
            state["noise"] = old.noise.bit_generator.state
        Path(path).write_text(json.dumps(state))
        state = json.loads(Path(path).read_text())
        for name, value in state.items():
            if name == "random":
                new.random.setstate((value[0], tuple(value[1]), value[2]))
            elif name == "noise":
                new.noise.bit_generator.state = value
            else:
                setattr(new, name, arrays(value) if name in ARRAYS else value)
        after(old, new)

    return carry_over


def _no_file(old, new, path):
    vars(new).update(copy.deepcopy(vars(old)))


def _share(*names):
    return lambda old, new: [setattr(new, name, getattr(old, name)) for name in names]


def _reshuffle(old, new):
    new.order, new.cursor = [], 0


def _reseed(old, new):
    new.noise = np.random.default_rng(old.step)


def _rounded(value):
    return np.array(value).round(6)


WRONG_RESUME = {
    "the weights alone": (_carry(forget=(*PLAIN, "mean", "square", "random", "noise")), "shuffle"),
    "forgets the step": (_carry(forget=("step",)), "step"),
    "one step further": (_carry(after=lambda old, new: setattr(new, "step", old.step + 1)), "step"),
    "forgets the moments": (_carry(forget=("mean", "square")), "moments"),
    "forgets the second moment": (_carry(forget=("square",)), "moments"),
    "forgets the scale": (_carry(forget=("scale", "good_steps")), "scaler"),
    "forgets the good steps": (_carry(forget=("good_steps",)), "scaler"),
    "forgets the average": (_carry(forget=("average",)), "average"),
    "starts the epoch again": (_carry(after=lambda old, new: setattr(new, "cursor", 0)), "place"),
    "starts a new epoch": (_carry(after=_reshuffle), "place"),
    "forgets the order": (_carry(forget=("order",)), ""),
    "forgets the shuffle's generator": (_carry(forget=("random",)), "shuffle"),
    "forgets dropout's generator": (_carry(forget=("noise",)), "dropout"),
    "seeds dropout by the step": (_carry(after=_reseed), "dropout"),
    "writes six digits": (_carry(arrays=_rounded), "weights"),
    "writes float32": (_carry(arrays=lambda value: np.array(value, dtype=np.float32)), "weights"),
    "shares the weights": (_carry(after=_share("weights")), "shared"),
    "shares the order": (_carry(after=_share("order")), "shared"),
    "shares the generator": (_carry(after=_share("random")), "shared"),
    "takes a step to be sure": (
        _carry(touch=lambda old: copy.deepcopy(old).random.random() and old.random.random()),
        "shuffle",
    ),
    "uses no file": (_no_file, "file"),
    "lists for arrays": (_carry(arrays=list), ""),
    "writes arrays as they are": (
        lambda old, new, path: Path(path).write_text(json.dumps({"weights": old.weights})),
        "",
    ),
}


def _drains(old, new, path):
    _carry()(old, new, path)
    old.noise.random()


WRONG_RESUME["draws from the old one"] = (_drains, "old")

# ------------------------------------------------------------------------------------------- wrong: the log


def _lines(log):
    return log.splitlines(keepends=True)


def _step(line):
    try:
        return json.loads(line)["step"]
    except ValueError:
        return None


def _cut(keep, stop=True):
    def cut_log(log, step):
        kept = ""
        for line in _lines(log):
            if not keep(line, step):
                if stop:
                    break
                continue
            kept += line
        return kept

    return cut_log


def _whole(line):
    return line.endswith("\n") and _step(line) is not None


def _again(log, step):
    found = [json.loads(line) for line in _lines(log) if _whole(line)]
    return "".join(json.dumps(record) + "\n" for record in found if record["step"] < step)


WRONG_CUT = {
    "keeps the checkpoint's step": (_cut(lambda line, s: _whole(line) and _step(line) <= s), "cut"),
    "cuts a step too many": (_cut(lambda line, s: _whole(line) and _step(line) < s - 1), "kept"),
    "keeps a whole line without newline": (
        _cut(lambda line, s: (_step(line) if _step(line) is not None else s) < s),
        "torn",
    ),
    "keeps torn lines": (_cut(lambda line, s: _step(line) is None or _step(line) < s), "torn"),
    "drops the last line always": (
        lambda log, s: "".join(_lines(_cut(lambda x, t: _whole(x) and _step(x) < t)(log, s))[:-1]),
        "kept",
    ),
    "goes on after the first": (_cut(lambda line, s: _whole(line) and _step(line) < s, stop=False), "bytes"),
    "the first `step` lines": (lambda log, s: "".join(x for x in _lines(log)[:s] if _whole(x)), "cut"),
    "writes the lines again": (_again, "bytes"),
    "compares as text": (_cut(lambda line, s: _whole(line) and str(_step(line)) < str(s)), "kept"),
    "without newlines": (
        lambda log, s: _cut(lambda x, t: _whole(x) and _step(x) < t)(log, s).replace("\n", ""),
        "torn",
    ),
    "without the last newline": (
        lambda log, s: _cut(lambda x, t: _whole(x) and _step(x) < t)(log, s).rstrip("\n"),
        "torn",
    ),
    "cuts nothing": (_cut(lambda line, s: _whole(line)), "cut"),
    "a list of lines": (lambda log, s: [x for x in _lines(log) if _whole(x) and _step(x) < s], "form"),
    "crashes on a torn line": (
        lambda log, s: "".join(x for x in _lines(log) if json.loads(x)["step"] < s),
        "",
    ),
}

WRONG = {"carry_over": WRONG_RESUME, "cut_log": WRONG_CUT}

# ----------------------------------------------------------------------------------- right, in other styles


def carry_pickled(old, new, path):
    with open(path, "wb") as file:
        pickle.dump(vars(old), file)
    with open(path, "rb") as file:
        vars(new).update(pickle.load(file))


def carry_by_kind(old, new, path):
    kinds = {np.ndarray: np.ndarray.tolist, random.Random: random.Random.getstate}
    kinds[np.random.Generator] = lambda generator: generator.bit_generator.state
    state = {name: kinds.get(type(value), lambda same: same)(value) for name, value in vars(old).items()}
    Path(path).write_text(json.dumps(state))
    for name, value in json.loads(Path(path).read_text()).items():
        before = getattr(new, name)
        if isinstance(before, np.ndarray):
            before[:] = value
        elif isinstance(before, random.Random):
            before.setstate(tuple(tuple(part) if isinstance(part, list) else part for part in value))
        elif isinstance(before, np.random.Generator):
            before.bit_generator.state = value
        else:
            setattr(new, name, value)


def cut_by_position(log, step):
    place = 0
    while (end := log.find("\n", place)) >= 0:
        found = _step(log[place:end])
        if found is None or found >= step:
            break
        place = end + 1
    return log[:place]


def cut_by_split(log, step):
    *lines, _ = log.split("\n")
    kept = next((n for n, line in enumerate(lines) if _step(line) is None or _step(line) >= step), len(lines))
    return "".join(f"{line}\n" for line in lines[:kept])


RIGHT = {
    "carry_over": [carry_pickled, carry_by_kind, _carry()],
    "cut_log": [cut_by_position, cut_by_split, _cut(lambda line, s: _whole(line) and _step(line) < s)],
}
