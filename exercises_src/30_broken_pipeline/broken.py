"""What an exercise with broken code is made of: versions of its source, and its three kinds of task.

The one idea: a version is source text whose first line says what it is. It arrives in the inputs, the driver
runs it, and the judge reads the first line; the learner's function sees only the functions in it.

    MENDED = swapped(SICK, {"loss.backward()": "(loss / n).backward()"})
    test_task("test_step", 6, "...", versions, hints)
"""

from __future__ import annotations

import inspect
import random
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmkit.grade.exercise import Answer, Case, Property, Task

KINDS = ("This fault alone", "Mended", "Sibling")  # how the first line of a version begins


def handed_over(folder: Path, contains: str) -> str:
    """The code cell of `text.py` in which `contains` stands, after the imports of the first code cell."""
    cells = (folder / "text.py").read_text(encoding="utf-8").split("\n# %%")
    first, found = (next(c for c in cells if x in c and "[markdown]" not in c) for x in ("import ", contains))
    imports = [x for x in first.splitlines() if x.startswith(("import ", "from ")) and "llmkit" not in x]
    return "\n".join([*imports, found])


def swapped(code: str, edits: dict[str, str]) -> str:
    """The code with whole lines replaced, each by lines of its own indentation.

    Raises:
        ValueError: a line that does not stand there exactly once.
    """
    lines = code.splitlines()
    for old, new in edits.items():
        places = [i for i, line in enumerate(lines) if line.strip() == old]
        if len(places) != 1:
            raise ValueError(f"{old!r} stands in the code {len(places)} times")
        lines[places[0]] = textwrap.indent(new, lines[places[0]].removesuffix(lines[places[0]].lstrip()))
    return "\n".join(lines) + "\n"


def titled(kind: str, about: str, code: str) -> str:
    """A version; `check` shows the first hundred characters of a long text, so the title fills them."""
    return f"# {kind}{': ' if about else ''}{about}".ljust(101) + f"\n{code}"


# ---------------------------------------------------------------------------------------------------- 1. name


def modes_task(lines: int, failures: list[str], faults: dict[str, str], names: list[str], hints) -> Task:
    """Name the faulty functions. `names` are all functions there are: the order in which answers are sent."""

    def drive(function, sent):
        found = function()
        if not isinstance(found, dict):
            return found
        return {name: found[name] for name in [*(n for n in sent if n in found), *(set(found) - set(sent))]}

    def judge(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
        found = got.value
        if not isinstance(found, dict) or len(found) != 4 or not set(found) <= set(names):
            return "form"
        if not all(isinstance(mode, str) and mode in failures for mode in found.values()):
            return "form"
        right = sum(faults.get(name) == mode for name, mode in found.items())
        return "" if right == 4 else f"{right} right"

    def hidden(rng: random.Random) -> list[Case]:
        return [Case(sent=rng.sample(names, len(names))) for _ in range(2)]

    asks = "what does its docstring promise, and which call would show that it is not kept?"
    return Task(
        name="modes",
        lines=lines,
        reference=lambda sent: Answer(value="four names of functions, each with its failure mode"),
        judge=judge,
        drive=drive,
        properties={
            "form": Property(
                "four entries: function of the code -> failure mode from FAILURES, word for word",
                "which four functions break their docstring?",
            ),
            **{f"{n} right": Property(f"all four entries are right ({n} of 4 are)", asks) for n in range(4)},
        },
        public=(Case(sent=names),),
        hidden=hidden,
        hints=hints,
    )


# ---------------------------------------------------------------------------------------------------- 2. mend


def drive_patch(function, code, probe, args):
    """Apply the patch to the code, run the probe on it."""
    import types

    patch, lines = function(), code.splitlines()
    if patch is None:
        return None
    if not isinstance(patch, dict) or not all(isinstance(x, str) for pair in patch.items() for x in pair):
        return {"refused": "form"}
    if len(patch) > 4 or any(len(new.strip().splitlines()) > 2 for new in patch.values()):
        return {"refused": "size"}
    for old, new in patch.items():
        places = [i for i, line in enumerate(lines) if line.strip() == old.strip() and old.strip()]
        if len(places) != 1:
            return {"refused": "line", "line": old}
        before = lines[places[0]]
        indent = before[: len(before) - len(before.lstrip())]
        lines[places[0]] = "\n".join(indent + line.strip() for line in new.strip().splitlines())
    patched, asked = types.ModuleType("patched"), {}
    exec("\n".join(lines), vars(patched))
    exec(probe, asked)
    return asked["probe"](patched, **args)


def probe_text(probe: Callable[..., Any], about: str) -> str:
    """Source of a function `probe(p, **args)`, which knows no answer, titled by what it looks at."""
    source = textwrap.dedent(inspect.getsource(probe)).replace(f"def {probe.__name__}(", "def probe(", 1)
    return titled("Probe", about, source)


def fixes_task(
    lines: int,
    says: dict[str, Property],
    reference: Callable[..., Any],
    agrees: Callable[[str, dict[str, Any], Any, Any], bool],
    public: tuple[Case, ...],
    hidden: Callable[[random.Random], list[Case]],
    hints,
) -> Task:
    """Mend the code by a patch. The title of the probe that fails is the key of its property.

    Args:
        reference: (about, args) -> what the probe finds on mended code, computed without it.
        agrees: (about, args, found, wanted) -> whether that is right.
    """

    def about(probe: str) -> str:
        return probe.splitlines()[0].removeprefix("# Probe: ").rstrip()

    def judge(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
        found = got.value
        if found is None:
            return "form"
        if isinstance(found, dict) and found.get("refused") in ("form", "size", "line"):
            return found["refused"]
        key = about(inputs["probe"])
        return "" if agrees(key, inputs["args"], found, want.value) else key

    return Task(
        name="fixes",
        lines=lines,
        reference=lambda code, probe, args: Answer(value=reference(about(probe), args)),
        judge=judge,
        drive=drive_patch,
        properties={
            "form": Property("a patch is a dict of text to text", "what is a line, what stands for it?"),
            "size": Property(
                "at most four lines are replaced, each by at most two",
                "which single line makes the docstring untrue?",
            ),
            "line": Property(
                "a key is one whole line that occurs exactly once in the code handed over",
                "have you copied the whole line, with all its brackets?",
            ),
            **says,
        },
        public=public,
        hidden=hidden,
        hints=hints,
    )


# ---------------------------------------------------------------------------------------------------- 3. test


def drive_test(function, code, seed):
    """None when the test passes, else the name of what it raised."""
    import random
    import types

    import torch

    p = types.ModuleType("p")
    exec(code, vars(p))
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        function(p)
    except Exception as error:
        return f"the test raised {type(error).__name__}"


def test_task(name: str, lines: int, promise: str, versions: list[str], more: list[str], hints) -> Task:
    """Write a test. `versions` are public (fault alone, mended, siblings, a style), `more` hidden."""

    def kind(code: str) -> str:
        return next(kind for kind in KINDS if code.startswith(f"# {kind}"))

    def judge(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
        passed = got.value is None
        return "" if passed == (want.value is None) else kind(inputs["code"])

    def hidden(rng: random.Random) -> list[Case]:
        cases = [Case(code=code, seed=rng.randrange(10**6)) for code in [*versions, *more]]
        rng.shuffle(cases)
        return cases

    return Task(
        name=name,
        lines=lines,
        reference=lambda code, seed: Answer(value=None if kind(code) == "Mended" else "the test fails"),
        judge=judge,
        drive=drive_test,
        properties={
            "This fault alone": Property(
                "the test fails on the fault that was handed over", f"which call shows that {promise}?"
            ),
            "Mended": Property(
                "the test passes on mended code, in whatever style and at whatever seed",
                "does your test ask for more than the docstring does?",
            ),
            "Sibling": Property(
                "the test fails when the same docstring is broken in another way",
                f"does the test ask for all of it, namely that {promise}?",
            ),
        },
        public=tuple(Case(code=code, seed=0) for code in versions),
        hidden=hidden,
        hints=hints,
        apart=True,
    )
