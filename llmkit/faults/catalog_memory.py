"""The faults of memory that show late, for the catalogue. No torch here."""

from __future__ import annotations

from llmkit.faults.base import AT, EVER, FaultSpec, Parameter

WHERE = "llmkit.faults.memory_growth:"
KEPT = "a budget or a device says when memory is gone"

LATE_MEMORY: dict[str, FaultSpec] = {
    "graph-kept": FaultSpec(name="graph-kept", door="memory", emulated=False, code="LK202",
        parameters=(AT, EVER), factory=f"{WHERE}GraphKept",
        symptom="memory rises by a forward pass at every step; the job dies hours later at an ordinary batch",
        wild="`total_loss += loss` beside `backward(retain_graph=True)` (PyTorch's FAQ on memory)",
        truth=f"real: the graphs are kept; {KEPT}",
        harm="tiny(): 5.3 MiB a step"),
    "growing-list": FaultSpec(name="growing-list", door="memory", emulated=False, code="LK203",
        parameters=(AT, EVER), factory=f"{WHERE}GrowingList",
        symptom="memory rises by one tensor at every step",
        wild="predictions, losses or batches in a list for a metric at the end of the epoch",
        truth=f"real: the logits of every step are kept; {KEPT}",
        harm="tiny(): 1 MiB a step"),
    "long-sequence": FaultSpec(name="long-sequence", door="data", emulated=False, code="LK204",
        parameters=(AT, EVER), factory=f"{WHERE}LongSequence",
        symptom="the peak jumps with the tokens of a batch, and the step dies if that is too much",
        wild="a batch of so many sequences instead of so many tokens, the longest one late in the data",
        truth="real: windows of twice the length are trained on",
        harm="tiny() with rotary positions: the peak rises from 9.6 to 17.7 MiB"),
    "varying-lengths": FaultSpec(name="varying-lengths", door="data", emulated=False, code="LK205",
        parameters=(AT, EVER), factory=f"{WHERE}VaryingLengths",
        symptom="reserved memory rises while allocated does not",
        wild="batches padded to their longest sequence; out of memory with gigabytes reserved, unallocated",
        truth="real: shorter batches are trained on; on a CPU the allocator that they fragment is emulated",
        harm="tiny(), 128 times as large, 40 steps: half of what is reserved was never in use"),
    "evaluation-kept": FaultSpec(name="evaluation-kept", door="memory", emulated=False, code="LK206",
        parameters=(AT, EVER, Parameter(name="every", default=5, kind=int, says="steps between evaluations")),
        factory=f"{WHERE}EvaluationKept",
        symptom="memory rises in stairs, one for each evaluation",
        wild="an evaluation without `no_grad` whose losses are kept for their mean",
        truth=f"real: the evaluations are the fault's own, their graphs are kept; {KEPT}",
        harm="tiny(): 5.3 MiB an evaluation"),
    "second-state": FaultSpec(name="second-state", door="memory", emulated=False, code="LK207",
        parameters=(AT, EVER), factory=f"{WHERE}SecondState",
        symptom="memory rises once, by the optimizer's state, and stays; a restarted job no longer fits",
        wild="a checkpoint loaded onto the device and not deleted after `load_state_dict`",
        truth="real: a copy of the state is kept; no process is restarted",
        harm="8 bytes a parameter for AdamW in fp32; tiny(): 1 MiB"),
    "big-vocabulary": FaultSpec(name="big-vocabulary", door="module", emulated=False, code="LK208",
        parameters=(AT, EVER, Parameter(name="factor", default=8, kind=int, says="times the vocabulary")),
        factory=f"{WHERE}BigVocabulary",
        symptom="the peak is at the loss, and the blocks are a small part of it",
        wild="a vocabulary of 128,000 and more at a long context: the logits outgrow the model",
        truth="real: logits that large are computed; the tokens that are added are never the answer",
        harm="tiny(): the peak rises from 9 to 30 MiB"),
}  # fmt: skip
