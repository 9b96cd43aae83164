"""Facts: what a run leaves behind, as frozen dataclasses, and as lines of JSON.

No torch here: a log mailed from a cluster can be read on any machine. The folder these lines live in is
`llmkit.folder`.

    line = to_json(StepRecord(step=0, loss=8.3, grad_norm=1.2, lr=1e-4))
    record = from_json(StepRecord, line)
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llmkit.errors import RecordError

# ---------------------------------------------------------------------------------------------- the facts


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One optimizer step: what went in and what came out, a pure function of the inputs."""

    step: int  # 0-based optimizer step; the record of step s was made with the weights before update s
    loss: float  # mean over target tokens of the global batch, nats
    grad_norm: float  # global L2 norm, unscaled, always *before* clipping
    lr: float  # learning rate used by this step
    loss_scale: float = 1.0  # scale the backward pass of this step was run with
    tokens: int = 0  # target tokens with weight > 0, over micro-batches and ranks
    clipped: bool = False  # grad_norm exceeded the clip value
    skipped: bool = False  # no update was made; weights and moments are untouched bit for bit
    nonfinite: str = ""  # "", "loss" (forward) or "grad" (backward): the first place it shows
    sequence_losses: tuple[float, ...] = ()  # mean loss of each sequence of this rank, nats
    documents: tuple[tuple[int, ...], ...] = ()  # ids of the documents in each of those sequences
    samples: tuple[int, ...] = ()  # data-set window index of each of those sequences
    served: str = ""  # digest of inputs, targets and weights, over micro-batches and ranks; "": not taken
    stats: dict[str, float] = field(default_factory=dict)  # what observers add, e.g. "update_ratio_median"


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Wall clock and memory of one step: never equal twice, so never in steps.jsonl. Seconds and bytes."""

    step: int
    data_s: float = 0.0  # waiting for the batch
    forward_s: float = 0.0
    backward_s: float = 0.0
    optimizer_s: float = 0.0  # unscale, clip, update
    total_s: float = 0.0  # step start to step end, observers included
    tokens_per_s: float = 0.0
    memory_bytes: int = 0  # CUDA: peak allocated since the last step; CPU: resident set size
    at: float = 0.0  # Unix time at the end of the step


@dataclass(frozen=True, kw_only=True)
class Detail:
    """Per-layer detail of one step, kept in a ring of 64 and written out on an alarm."""

    step: int
    tensors: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # parameter -> grad_norm, weight_norm, update_ratio
    modules: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # module -> rms, absmax, entropy, score_max


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened. `data` holds plain JSON values, documented per kind in docs/run-folder.md."""

    kind: str  # e.g. "scale", "skip", "nonfinite", "oom", "alarm", "checkpoint", "rescue", "data", "end"
    step: int
    says: str = ""  # one sentence for people
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One fact quoted from the run folder."""

    says: str  # "loss at step 17 is 9.41; the 16 steps before it had median 4.02"
    step: int | None = None
    source: str = ""  # file it was read from, e.g. "steps.jsonl"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run that would prove or refute a finding, with the outcome predicted before it is run."""

    name: str  # name of a probe or replay, ordered by the doctor and run by somebody else
    says: str
    predicts: str
    command: str = ""  # what to type


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The run is sick: what, where, since when, how we know, how to be sure, what to do."""

    code: str  # LK1xx numeric, LK2xx memory, LK3xx optimization, LK4xx data, LK5xx throughput
    title: str  # "NaN made inside a module"
    says: str  # one sentence naming module, step, document or quantity
    step: int  # first step at which it shows
    cause: str = ""  # the culprit alone: "blocks.1.mlp", "document 1017"
    evidence: tuple[Evidence, ...] = ()
    confirm: Experiment | None = None
    fix: str = ""
    also_seen_with: tuple[str, ...] = ()  # what it is commonly confused with
    confidence: str = "likely"  # "certain" (recorded), "likely" (inferred), "possible" (probe needed)


@dataclass(frozen=True, kw_only=True)
class RuledOut:
    """A cause that was considered and the fact that speaks against it."""

    code: str
    title: str
    because: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Findings, most certain and earliest first; what was ruled out; what could not be judged and why."""

    findings: tuple[Finding, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()
    not_judged: tuple[RuledOut, ...] = ()
    steps: int = 0

    @property
    def healthy(self) -> bool:
        return not self.findings


# ------------------------------------------------------------------------------------------- JSON, in and out

Record = TypeVar("Record")


def to_json(record: object) -> str:
    """One line of strict JSON. Non-finite floats become the strings "NaN", "Infinity", "-Infinity"."""
    plain = dataclasses.asdict(record) if dataclasses.is_dataclass(record) else record
    return json.dumps(_pack(plain), allow_nan=False, separators=(",", ":"))


def _pack(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): _pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item) for item in value]
    return value


_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _unpack(value: Any) -> Any:
    if isinstance(value, str):
        return _NONFINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _unpack(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_unpack(item) for item in value)
    return value


def from_json(kind: type[Record], line: str) -> Record:
    """The record of a line. Unknown keys are ignored: a newer writer does not break an older reader.

    Raises:
        RecordError: not JSON, not an object, or a required field is missing.
    """
    try:
        plain = json.loads(line)
    except ValueError as error:
        raise RecordError(f"not a JSON line: {line[:60]!r}", expected="one JSON object a line") from error
    if not isinstance(plain, dict):
        raise RecordError(f"not a JSON object: {line[:60]!r}", expected="one JSON object a line")
    names = {f.name for f in dataclasses.fields(kind)}
    try:
        return kind(**{key: _unpack(value) for key, value in plain.items() if key in names})
    except TypeError as error:
        raise RecordError(
            f"{kind.__name__} cannot be read: {error}", expected="docs/run-folder.md"
        ) from error


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """Every whole line of a log. A torn last line (the writer was killed) is dropped; a torn one before it is
    an error.

    Raises:
        RecordError: a line that is not the last cannot be read; names file and line.
    """
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines = text.split("\n")
    lines.pop()  # after the last newline: empty, or torn
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(from_json(kind, line))
        except RecordError as error:
            raise RecordError(
                f"{path}, line {number}: {error.found}", expected=error.expected, line=number
            ) from error
    return records


def summary(records: Iterable[StepRecord]) -> str:
    """One line about a run: `loss 4.17 -> 2.31 in 60 steps, 0 skipped`."""
    records = list(records)
    if not records:
        return "no steps"
    skipped = sum(r.skipped for r in records)
    return f"loss {records[0].loss:.2f} -> {records[-1].loss:.2f} in {len(records)} steps, {skipped} skipped"
