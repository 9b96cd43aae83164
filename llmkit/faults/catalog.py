"""Every fault there is, as one literal table. No torch here.

for spec in FAULTS.values():
    print(spec.name, spec.symptom)
"""

from __future__ import annotations

from llmkit.errors import FaultError, closest
from llmkit.faults.base import AT, EVER, ONE, Fault, FaultSpec, Parameter
from llmkit.faults.catalog_memory import LATE_MEMORY
from llmkit.faults.catalog_optimizer import NUMERICS_AND_OPTIMIZER

SHARE = Parameter(name="share", default=0.5, kind=float, says="of what is served that goes wrong")
SOURCE = Parameter(name="source", default=None, kind=str, says="its name (none: the second largest)")
SHARD = Parameter(
    name="shard", default=None, kind=int, says="of the training split (none: the one served first at `at`)"
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
        symptom="one repeated token: loss and gradient norm jump on one step, in one sequence, and are back",
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
    "corrupt-shard": FaultSpec(name="corrupt-shard", door="data", emulated=False, code="LK402",
        parameters=(AT, EVER, SHARD), factory="llmkit.faults.data_tokens:CorruptShard",
        symptom="the sequences of one shard stay at the loss of guessing, the others learn",
        wild="a shard read with the wrong dtype, or still compressed or encrypted",
        truth="real: the model is trained on these ids; files keep their hashes, as of a wrong writer",
        harm="tiny(lr=3e-3), 100 steps: loss +0.4 nats, one shard of four; +3.0, all"),
    "unshuffled-order": FaultSpec(name="unshuffled-order", door="data", emulated=False, code="LK403",
        parameters=(AT, EVER), factory="llmkit.faults.data_order:UnshuffledOrder",
        symptom="the loss wanders with the order of the corpus; steps resemble their neighbours",
        wild="documents shuffled but not sequences (SmolLM3), a permutation that is too weak (Marin 32B)",
        truth="real: windows are served as they lie on disk",
        harm="tiny(lr=3e-3), 100 steps: validation +0.1 to +0.2 nats"),
    "shifted-labels": FaultSpec(name="shifted-labels", door="data", emulated=False, code="LK404",
        parameters=(AT, EVER), factory="llmkit.faults.data_tokens:ShiftedLabels",
        symptom="the loss falls to almost nothing within tens of steps, and samples repeat one token",
        wild="labels copied from the inputs and shifted by nobody, an off-by-one in a collator",
        truth="real: the model is trained on these targets",
        harm="tiny(lr=3e-3), 100 steps: loss -2.5 to -2.8 nats, validation +0.8 to +3.1"),
    "double-shift": FaultSpec(name="double-shift", door="data", emulated=False, code="LK405",
        parameters=(AT, EVER), factory="llmkit.faults.data_tokens:DoubleShift",
        symptom="a run that looks healthy and slow: the loss has a higher floor",
        wild="labels shifted by the collator and again by the model (transformers #47394, #37830)",
        truth="real: the model is trained on these targets",
        harm="tiny(lr=3e-3), 100 steps: loss +0.2 to +1.1 nats, validation +0.1 to +1.8"),
    "tokenizer-swap": FaultSpec(name="tokenizer-swap", door="data", emulated=False, code="LK406",
        parameters=(AT, EVER), factory="llmkit.faults.data_tokens:TokenizerSwap",
        symptom="the loss jumps above that of guessing, in every sequence, and falls again slowly",
        wild="a resume or a new shard with a tokenizer of the same size and other ids",
        truth="real: the model is trained on these ids; text is cut as before, as by a reordered vocabulary",
        harm="tiny(lr=3e-3): loss +2.4 to +3.2 nats at once, +0.4 to +1.4 after 100 steps"),
    "pads-not-masked": FaultSpec(name="pads-not-masked", door="data", emulated=False, code="LK407",
        parameters=(AT, EVER, SHARE), factory="llmkit.faults.data_tokens:PadsNotMasked",
        symptom="the loss is far too low, in proportion to the share of pads; in validation it is not",
        wild="padding whose label is the end token's id and not the one that the loss ignores",
        truth="real: pads count as targets; the loader packs, so sequences are cut to make room for them",
        harm="tiny(lr=3e-3), 100 steps: loss -1.4 to -2.2 nats, validation +0.3 to +0.4"),
    "val-leak": FaultSpec(name="val-leak", door="data", emulated=False, code="LK408",
        parameters=(AT, EVER, SHARE), factory="llmkit.faults.data_tokens:ValLeak",
        symptom="none in the training loss; the validation loss is lower than it should be",
        wild="a split by window and not by document, a benchmark in a crawl (GSM8K in Marin's data)",
        truth="real: the model is trained on validation text, recorded under the ids of what it replaced",
        harm="tiny(lr=3e-3), 100 steps: validation -0.03 to -0.19 nats, which is the harm: it lies"),
    "source-missing": FaultSpec(name="source-missing", door="data", emulated=False, code="LK409",
        parameters=(AT, EVER, SOURCE), factory="llmkit.faults.data_order:SourceMissing",
        symptom="the level of the loss shifts a little; text of the missing source is not learned",
        wild="a glob that matches nothing, a source with weight 0, a stream that ended and was not restarted",
        truth="real: no window with a target of the source is served",
        harm="tiny(lr=3e-3), 100 steps, docstrings without networkx: loss -0.05 nats, validation +0.003"),
    "truncated-shard": FaultSpec(name="truncated-shard", door="file", emulated=False, code="LK410",
        parameters=(AT, EVER, SHARD), factory="llmkit.faults.data_files:TruncatedShard",
        symptom="the run dies at the first window beyond the end of the file",
        wild="a full disk, an upload or a copy that broke off",
        truth="real: a copy of the data set is cut short after it was opened; the original is not touched",
        harm="the run stops at that step, and again after every restart"),
    "flipped-byte": FaultSpec(name="flipped-byte", door="file", emulated=False, code="LK411",
        parameters=(AT, EVER, SHARD), factory="llmkit.faults.data_files:FlippedByte",
        symptom="none: one token of the corpus is another one",
        wild="a bad sector, a bad memory cell on the way to the disk, a faulty network card",
        truth="real: one bit of a copy of the data set is changed after it was opened",
        harm="none that shows: tiny(lr=3e-3), 100 steps: loss and validation +0.000 nats"),
    "duplicate-shard": FaultSpec(name="duplicate-shard", door="file", emulated=False, code="LK412",
        parameters=(AT, EVER, SHARD), factory="llmkit.faults.data_files:DuplicateShard",
        symptom="none in the first epoch: part of the text is seen twice, part never",
        wild="a copy to the wrong name, two workers that wrote the same part",
        truth="real: in a copy of the data set one shard's file holds another's tokens",
        harm="tiny(lr=3e-3), 100 steps, one shard of four: validation -0.02 nats, noise"),
    **LATE_MEMORY,
    **NUMERICS_AND_OPTIMIZER,
}  # fmt: skip


def apply(name: str, run: object, **where: object) -> Fault:
    """The fault of that name for this run, to be entered with `with`.

    Raises:
        FaultError: no such fault or parameter, or it does not apply to this run; the remedy says what does.
    """
    if name not in FAULTS:
        raise FaultError(f"unknown fault `{name}`", remedy=closest(name, FAULTS))
    return FAULTS[name](run, **where)
