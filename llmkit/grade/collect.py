"""Runs in the learner's kernel: call the learner's function on each input and send the answers back as JSON.

The one idea: nothing in here knows a right answer. This file, `check.py` and `__init__.py` are the only part
of `llmkit.grade` that exists inside the sandbox.

    llmkit_collect.send("update")      # the last cells of a graded notebook, one per task
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import Any

MIME = "application/vnd.llmkit.answers"  # carries text: only the strict reader outside the kernel parses it
MAX_VALUES = 20_000  # numbers in one tensor of an answer
MAX_TEXT = 20_000  # characters of one text, a source file included
MAX_DEPTH = 8  # lists and dicts within lists and dicts


@dataclass(frozen=True)
class Tensor:
    """A tensor as plain numbers, row-major: what travels, and what the reference works on without torch."""

    values: tuple[float | int | bool, ...]
    shape: tuple[int, ...]
    dtype: str = "float32"


def nested(flat: list, shape: tuple[int, ...]) -> Any:
    """Row-major numbers as lists within lists; the number itself for shape ()."""
    if not shape:
        return flat[0] if flat else []
    if len(shape) == 1:
        return flat
    step = len(flat) // shape[0] if shape[0] else 0
    return [nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


# ------------------------------------------------------------------------------------ values to JSON and back


def pack(value: Any, depth: int = 0) -> Any:
    """Plain JSON for numbers, strings, lists, tuples, dicts and tensors; `{"type": name}` for anything else.

    Subclasses lose their class here: an `int` whose `__eq__` always says yes arrives as the number it holds.
    """
    if value is None or type(value) is bool:
        return value
    if isinstance(value, int):
        return int.__int__(value) if abs(int.__int__(value)) < 2**63 else {"type": "int of more than 64 bits"}
    if isinstance(value, float):
        return _pack_float(float.__float__(value))
    if isinstance(value, str):
        return str.__str__(value)[:MAX_TEXT]
    if isinstance(value, (list, tuple)) and depth < MAX_DEPTH:
        return [pack(item, depth + 1) for item in value]
    if isinstance(value, dict) and depth < MAX_DEPTH:
        return {"dict": [[pack(key, depth + 1), pack(item, depth + 1)] for key, item in dict.items(value)]}
    if isinstance(value, Tensor):
        return _pack_tensor(value.values, value.shape, value.dtype)
    return _pack_array(value)


def _pack_float(value: float) -> Any:
    return value if math.isfinite(value) else {"float": repr(value)}


def _pack_tensor(values, shape, dtype: str) -> Any:
    return {"tensor": [pack(v) for v in values], "shape": [int(n) for n in shape], "dtype": str(dtype)}


def _pack_array(value: Any) -> Any:
    """torch and numpy, if the learner imported them; they are never imported for a learner who did not."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if value.numel() > MAX_VALUES:
            return {"type": f"Tensor of {value.numel()} values"}
        dtype = str(value.dtype).removeprefix("torch.")
        return _pack_tensor(
            value.double().flatten().tolist() if value.is_floating_point() else value.flatten().tolist(),
            value.shape,
            dtype,
        )
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)) and value.size <= MAX_VALUES:
        return _pack_tensor(value.ravel().tolist(), value.shape, value.dtype.name)
    return {"type": type(value).__name__[:80]}


def unpack(wire: Any, torch: Any = None) -> Any:
    """The value of `pack`'s JSON; tensors as torch tensors when `torch` is given, else as `Tensor`.

    Raises:
        KeyError, TypeError, ValueError: not something `pack` writes.
    """
    if isinstance(wire, list):
        return [unpack(item, torch) for item in wire]
    if not isinstance(wire, dict):
        return wire
    if "float" in wire:
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[wire["float"]]
    if "type" in wire:
        return Other(str(wire["type"]))
    if "dict" in wire:  # in order, keys as they were: text, numbers, None
        return {_key(unpack(key, torch)): unpack(item, torch) for key, item in wire["dict"]}
    values, shape, dtype = (
        [unpack(v) for v in wire["tensor"]],
        tuple(map(int, wire["shape"])),
        str(wire["dtype"]),
    )
    if len(values) != math.prod(shape) or not all(isinstance(v, (bool, int, float)) for v in values):
        raise ValueError("a tensor whose numbers do not fill its shape")
    if torch is None:
        return Tensor(tuple(values), shape, dtype)
    return torch.tensor(values, dtype=getattr(torch, dtype)).reshape(shape)


def _key(key: Any) -> Any:
    return repr(key) if isinstance(key, (list, dict, Tensor, Other)) else key


@dataclass(frozen=True)
class Other:
    """An answer that has no plain form: only the name of its type arrives."""

    type: str

    def __repr__(self) -> str:
        return f"an object of type {self.type}"


# ----------------------------------------------------------------------------------------- asking the learner


def answer(function: Any, inputs: dict[str, Any], watch: list[str], drive: Any = None) -> dict[str, Any]:
    """What `function` returns for these packed inputs, and what became of the arguments named in `watch`.

    Returns:
        {"value": packed, "args": {name: packed}} or {"error": "TypeError: ..."}.
    """
    torch = None
    if '"tensor"' in json.dumps(inputs):
        import torch  # only for tasks about tensors; `prepare` has imported it already
    values = {name: unpack(wire, torch) for name, wire in inputs.items()}
    try:
        value = drive(function, **values) if drive else function(*values.values())
        return {"value": pack(value), "args": {name: pack(values[name]) for name in watch}}
    except (Exception, SystemExit) as error:  # the learner's error is an answer too
        return {"error": _said(error)}


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except Exception:  # its `__str__` is the learner's too
        return f"{type(error).__name__}, an error that cannot be printed"


def driver(source: str) -> Any:
    """The one function in `source`, `drive(function, **inputs)`: for tasks that are more than one call."""
    if not source:
        return None
    namespace: dict[str, Any] = {"__builtins__": __builtins__}
    exec(compile(source, "<drive>", "exec"), namespace)
    return next(value for name, value in namespace.items() if name != "__builtins__")


def prepare(tasks: list[str]) -> None:
    """Import torch (1 to 2 s) before the clock of the tasks that need it runs, if they are there at all."""
    from IPython import get_ipython

    if any(callable(get_ipython().user_ns.get(task)) for task in tasks):
        import torch  # noqa: F401


def send(task: str) -> None:
    """Display one bundle of answers: the nonce of this run, the task, an answer per case."""
    from IPython import get_ipython
    from IPython.display import publish_display_data

    names = get_ipython().user_ns
    job = json.loads(names["llmkit_inputs"])[task]
    bundle: dict[str, Any] = {"nonce": names["llmkit_nonce"], "task": task}
    function = names.get(task)
    if not callable(function):
        bundle["missing"] = True
    else:
        drive = driver(job["drive"])
        bundle["answers"] = [answer(function, case, job["watch"], drive) for case in job["cases"]]
    publish_display_data({MIME: json.dumps(bundle, allow_nan=False)})
