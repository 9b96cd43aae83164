"""Exercise 16, the first non-finite: hooks that name the culprit and leave no trace.

The kernel builds the models; the references know from the list of steps which one is first.
"""

from __future__ import annotations

import random
from typing import Any

from llmkit.grade.exercise import Answer, Case, Exercise, Prediction, Property, Task

BAD = ("log", "some", "overflow", "second")


def drive_trace(function, order, modules, grads):
    """Build the model, ask, and look for traces: hooks, gradients, a changed input, a second pass."""
    import torch

    class Step(torch.nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.kind, self.weight = kind, torch.nn.Parameter(torch.tensor(0.9))

        def forward(self, x):
            if self.kind == "raises":
                raise RuntimeError("shapes do not fit")
            if self.kind == "log":
                return (x - x.abs() - 1).log()
            if self.kind == "some":
                return torch.where(torch.arange(len(x)) == 1, float("nan"), x * self.weight)
            if self.kind == "overflow":
                return x * self.weight * 1e30 * 1e30
            if self.kind == "second":
                return x * self.weight, torch.full((2, 1), float("inf"))
            if self.kind == "clean":
                return torch.nan_to_num(x) * self.weight
            if self.kind == "root":
                return (x - x).sqrt() + x * self.weight
            return (x * self.weight, x.detach()) if self.kind == "pair" else x * self.weight

    class Model(torch.nn.Module):
        passes = 0

        def forward(self, x):
            self.passes += 1
            for name in order:
                x = self.get_submodule(name)(x)
                x = x[0] if isinstance(x, tuple) else x
            return x

    model = Model()
    for name, kind in modules:
        *path, last = name.split(".")
        place = model
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        place.add_module(last, Step(kind))
    for parameter in model.parameters() if grads else ():
        parameter.grad = torch.ones(())
    x, raised = torch.linspace(0.5, 1.5, 4), ""
    try:
        found = function(model, x)
    except RuntimeError as error:
        found, raised = "", str(error)
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )
    if found is None and model.passes == 0:
        return None
    left = [None if p.grad is None else float(p.grad) for p in model.parameters()]
    same = x.requires_grad is False and x.grad is None and x.tolist() == torch.linspace(0.5, 1.5, 4).tolist()
    return {
        "found": found,
        "raised": raised,
        "hooks": hooks,
        "passes": model.passes,
        "grads": left,
        "x": same,
    }


def answer(found: str | None, raised: bool, modules: list, grads: bool) -> Answer:
    left = [1.0 if grads else None] * len(modules)
    text = "shapes do not fit" if raised else ""
    return Answer(value={"found": found, "raised": text, "hooks": 0, "passes": 1, "grads": left, "x": True})


def first_in_forward(order: list[str], modules: list[list[str]], grads: bool) -> Answer:
    kinds = dict(modules)
    raised = any(kinds[name] == "raises" for name in order)
    found = next((name for name in order if kinds[name] in BAD), None)
    return answer("" if raised else found, raised, modules, grads)


def first_in_backward(order: list[str], modules: list[list[str]], grads: bool) -> Answer:
    kinds = dict(modules)
    raised = any(kinds[name] == "raises" for name in order)
    found = next((name for name in reversed(order) if kinds[name] == "root"), None)
    return answer("" if raised else found, raised, modules, grads)


def judge_trace(inputs: dict[str, Any], got: Answer, want: Answer) -> str:
    found, right = got.value, want.value
    if not isinstance(found, dict) or not (found["found"] is None or isinstance(found["found"], str)):
        return "form"
    if found["raised"] != right["raised"]:
        return "error"
    if found["hooks"] and right["raised"]:
        return "unhooked"
    if found["found"] != right["found"]:
        names = [name for name, _ in inputs["modules"]]
        if found["found"] is not None and found["found"] not in names:
            return "leaf"
        if right["found"] is None:
            return "quiet"
        return "seen" if found["found"] is None else "first"
    if found["passes"] != 1:
        return "once"
    if found["hooks"]:
        return "hooks"
    return "" if found["x"] and found["grads"] == right["grads"] else "trace"


def named(rng: random.Random, n: int) -> list[str]:
    pool = [f"blocks.{i}.{part}" for i in range(3) for part in ("norm", "mlp", "attn")] + ["embed", "head"]
    return rng.sample(pool, n)


def hidden(rng: random.Random, bad: tuple[str, ...], fine: tuple[str, ...]) -> list[Case]:
    def case(kinds: list[str], order: list[int] | None = None, grads: bool = False) -> Case:
        names = named(rng, len(kinds))
        order = order or list(range(len(kinds)))
        modules = [list(pair) for pair in zip(names, kinds, strict=True)]
        return Case(order=[names[place] for place in order], modules=modules, grads=grads)

    cases = [case([rng.choice(fine) for _ in range(5)])]
    for kind in bad:
        kinds = [rng.choice(fine) for _ in range(6)]
        places = sorted(rng.sample(range(1, 5), 2))
        kinds[places[0]] = kinds[places[1]] = kind
        order = list(range(6))
        rng.shuffle(order)
        cases.append(case(kinds, order, grads=rng.random() < 0.5))
        cases.append(case([fine[0], kind, "clean" if "clean" in fine else fine[0], fine[0]], grads=True))
    return [*cases, case([fine[0], "raises", fine[0]]), case([fine[0]] * 4)]


def properties(output: str, order: str) -> dict[str, Property]:
    return {
        "form": Property("the answer is a module's name, or None", "what would you print in the report?"),
        "seen": Property(
            f"a module is bad when one number of its {output} is not finite, infinity included",
            f"which {output}s do you look at, and is one bad number enough?",
        ),
        "first": Property(
            f"of several bad modules it is the first in {order}", "which one made the others bad?"
        ),
        "leaf": Property(
            "only leaves count, by their names in named_modules()", "does a container compute anything?"
        ),
        "quiet": Property(f"None when every {output} is finite", "is a large number a bad one?"),
        "error": Property(
            "an error of the model goes on to the caller", "who else should hear of a wrong shape?"
        ),
        "unhooked": Property(
            "after an error no hook is left either", "which statement runs whatever happens?"
        ),
        "once": Property("the model runs once", "what would dropout do in a second pass?"),
        "hooks": Property("afterwards no hook is left", "what does `register_...` give back?"),
        "trace": Property(
            "afterwards x and every .grad are as before", "would the next optimizer step notice you?"
        ),
    }


def public(*rows: tuple[str, str], more: tuple[Case, ...] = ()) -> tuple[Case, ...]:
    """(runs, kinds): the modules are registered in alphabetical order, so `b a` runs against it."""
    cases = []
    for runs, kinds in rows:
        kind = dict(zip(runs.split(), kinds.split(), strict=True))
        cases.append(Case(order=runs.split(), modules=[[n, kind[n]] for n in sorted(kind)], grads=False))
    return (*cases, *more)


GRADS = Case(order=["a", "b"], modules=[["a", "fine"], ["b", "fine"]], grads=True)

FORWARD = Task(
    name="first_nonfinite",
    lines=19,
    reference=first_in_forward,
    judge=judge_trace,
    drive=drive_trace,
    properties={
        name: held
        for name, held in properties("output", "the order of execution").items()
        if name != "trace"
    },
    public=public(
        ("a", "fine"), ("a b c", "fine log fine"), ("a b", "fine overflow"), ("a b", "fine some"),
        ("b a", "log overflow"), ("m.a m.b m.c", "fine some clean"), ("a b", "pair second"),
        ("a b", "fine raises"), ("a b", "some raises"),
    ),
    hidden=lambda rng: hidden(rng, BAD, ("fine", "pair", "clean", "root")),
    hints=(
        "A hook on each leaf notes the module's name when its output is bad; the first note is the answer.",
        "`register_forward_hook(hook)` returns a handle; `try: ... finally: handle.remove()` for each.",
        "`hook(module, inputs, output)`: `tensors = output if isinstance(output, tuple) else (output,)`.",
    ),
)  # fmt: skip

BACKWARD = Task(
    name="first_bad_gradient",
    lines=19,
    reference=first_in_backward,
    judge=judge_trace,
    drive=drive_trace,
    properties=properties("gradient", "the order of the backward pass"),
    public=public(
        ("a", "fine"), ("a b c", "fine root fine"), ("a b c", "root root fine"),
        ("c a b", "root root fine"), ("m.a m.b", "root fine"), ("a b", "fine raises"), more=(GRADS,),
    ),
    hidden=lambda rng: hidden(rng, ("root", "root"), ("fine", "clean")),
    hints=(
        "As before, with `register_full_backward_hook`; the first note is the first in the backward pass.",
        "`start = x.clone().requires_grad_()`, so that the first module's input has a gradient at all.",
        "`torch.autograd.grad(model(start).sum(), start)` runs the backward pass and fills no `.grad`.",
    ),
)  # fmt: skip

EXERCISE = Exercise(
    name="16_first_nonfinite",
    version=1,
    title="The first non-finite",
    minutes=30,
    round="deep dive",
    difficulty=2,
    rows=("S5", "S6"),
    tasks=(FORWARD, BACKWARD),
    predictions={
        "nan gradients": Prediction(
            answer=4.0,
            because=(
                "the root hands on 1 / 0 = infinity; x - x sends it twice, once as +infinity and once as "
                "-infinity, and their sum is NaN: in every element."
            ),
        )
    },
    hides=("observe", "diagnose"),
    shortcuts=("detect_anomaly", "set_detect_anomaly"),
)
