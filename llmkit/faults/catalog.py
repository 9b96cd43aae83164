"""Every fault there is, as one literal table. No torch here.

for spec in FAULTS.values():
    print(spec.name, spec.symptom)
"""

from __future__ import annotations

from llmkit.errors import FaultError, closest
from llmkit.faults.base import Fault, FaultSpec, Parameter

AT = Parameter(name="at", default=None, kind=int, says="first step that goes wrong (none: the next one)")
ONE = Parameter(
    name="until", default=None, kind=float, says="first step that is well again (none: one step only)"
)
EVER = Parameter(
    name="until", default=None, kind=float, says="first step that is well again (none: it stays)"
)

FAULTS: dict[str, FaultSpec] = {
    "nan-division": FaultSpec(
        name="nan-division",
        door="module",
        symptom="loss and gradient norm are NaN from one step to the next, with nothing before it",
        wild="a mean over an empty mask, a fully masked attention row, a variance of 0 without an epsilon",
        emulated=False,
        truth="real: the division is computed in the module's forward, on any device and in any precision",
        code="LK101",
        harm="one step lost if the loop skips it, every weight if it does not",
        parameters=(
            AT,
            ONE,
            Parameter(
                name="module", default=None, kind=str, says="path of the module (none: the middle MLP)"
            ),
            Parameter(name="row", default=0, kind=int, says="sequence of each micro-batch it hits; -1: all"),
            Parameter(
                name="documents",
                default=None,
                kind=str,
                says="ids it hits instead, such as 3,14; it then stays",
            ),
        ),
        factory="llmkit.faults.numeric:NanDivision",
    ),
    "fp16-overflow": FaultSpec(
        name="fp16-overflow",
        door="module",
        symptom="loss is NaN, and lowering the loss scale does not help",
        wild="activations and weights that grow until a product passes 65504 (GLM-130B, OPT-175B)",
        emulated=True,
        truth="emulated on a CPU, where fp16 is rounded fp32; on a GPU the overflow is the hardware's own",
        code="LK102",
        harm="one step lost and the loss scale halved, for each step it lasts",
        parameters=(
            AT,
            ONE,
            Parameter(
                name="module",
                default=None,
                kind=str,
                says="its last linear layer overflows (none: middle MLP)",
            ),
            Parameter(name="excess", default=2.0, kind=float, says="largest result, as a multiple of 65504"),
        ),
        factory="llmkit.faults.numeric:Fp16Overflow",
    ),
    "poisoned-document": FaultSpec(
        name="poisoned-document",
        door="data",
        symptom="loss and gradient norm jump on the same step, in one sequence, and are back on the next",
        wild="pages of one repeated character in web text (a million backslashes in OSCAR)",
        emulated=False,
        truth="real: the model is trained on these tokens; the shards on disk are not touched",
        code="LK401",
        harm="tiny(lr=3e-3) from step 60: loss +0.2 to +0.5, gradient norm x3, on the steps that serve it",
        parameters=(
            AT,
            EVER,
            Parameter(
                name="document", default=None, kind=int, says="its id (none: one that fills a window at `at`)"
            ),
            Parameter(
                name="token",
                default=None,
                kind=int,
                says="the id it repeats (none: the last of the vocabulary)",
            ),
        ),
        factory="llmkit.faults.data:PoisonedDocument",
    ),
    "lr-glitch": FaultSpec(
        name="lr-glitch",
        door="schedule",
        symptom="one step after the learning rate the loss jumps, in all sequences, and comes back slowly",
        wild="a schedule restarted or not restored on resume, a unit slip in a sweep",
        emulated=False,
        truth="real: the optimizer steps with this learning rate",
        code="LK301",
        harm="tiny(lr=3e-3), from step 60: loss +0.9 to +2.6 a step later, 6 to 23 steps until it is back",
        parameters=(
            AT,
            ONE,
            Parameter(
                name="factor", default=30.0, kind=float, says="multiple of the schedule's learning rate"
            ),
        ),
        factory="llmkit.faults.optimizer:LrGlitch",
    ),
    "oom": FaultSpec(
        name="oom",
        door="memory",
        symptom="the run dies with torch.OutOfMemoryError",
        wild="a longer batch, a larger vocabulary, a neighbour on the same card",
        emulated=True,
        truth="emulated on a CPU: tensors are counted as stored, a limit is enforced; real on a GPU",
        code="LK201",
        harm="the run stops at that step; nothing of it is kept",
        parameters=(
            AT,
            Parameter(
                name="until",
                default=None,
                kind=float,
                says="first step that fits (none: it stays; optimizer: one)",
            ),
            Parameter(
                name="phase",
                default="forward",
                kind=str,
                says="where it dies: forward, backward or optimizer",
            ),
            Parameter(
                name="limit",
                default=None,
                kind=str,
                says='bytes or a size such as "24 MiB", instead of `phase`',
            ),
        ),
        factory="llmkit.faults.memory:Oom",
    ),
    "stalled-loader": FaultSpec(
        name="stalled-loader",
        door="data",
        symptom="throughput falls while forward and backward take as long as before",
        wild="an evicted cache, a slow disk, an index rebuilt on the way (SmolLM3)",
        emulated=False,
        truth="real: the loop waits for its batch, on the run's clock",
        code="LK501",
        harm="`seconds` for each step it lasts",
        parameters=(
            AT,
            ONE,
            Parameter(name="seconds", default=0.5, kind=float, says="how late each batch is"),
        ),
        factory="llmkit.faults.data:StalledLoader",
    ),
}


def apply(name: str, run: object, **where: object) -> Fault:
    """The fault of that name for this run, to be entered with `with`.

    Raises:
        FaultError: no such fault or parameter, or it does not apply to this run; the remedy says what does.
    """
    if name not in FAULTS:
        raise FaultError(f"unknown fault `{name}`", remedy=closest(name, FAULTS))
    return FAULTS[name](run, **where)
