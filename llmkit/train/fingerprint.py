"""What a result depends on beside its inputs: the machine, the library, the number of threads and ranks.

Equal inputs give equal bits only where the fingerprints are equal; where they differ, `differences` says why.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmkit.data.mixture import composition

if TYPE_CHECKING:
    from llmkit.train.run import Run

PACKAGES = ("llmkit", "numpy", "tokenizers")


def fingerprint(run: Run) -> dict[str, Any]:
    """Plain JSON values; two runs with equal ones are equal bit for bit."""
    on_gpu = run.device.type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(run.device) if on_gpu else platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "world": run.parallel.world,
        "precision": run.precision.name,
        "micro_batch": run.micro_batch,
        "deterministic": not on_gpu or torch.are_deterministic_algorithms_enabled(),
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Why a resumed run need not equal the uninterrupted one; empty when it must.

    >>> differences({"threads": 1}, {"threads": 2})
    ['threads was 1 and is 2']
    """
    reasons = [
        f"{k} was {then.get(k)} and is {now.get(k)}" for k in sorted(then | now) if then.get(k) != now.get(k)
    ]
    if not now.get("deterministic", True):
        reasons.append("deterministic algorithms are off (torch.use_deterministic_algorithms)")
    return reasons


def facts(run: Run) -> dict[str, Any]:
    """Everything that is needed to do the run again: the content of run.json."""
    order = run.loader.state()
    return {
        "config": run.config.to_dict(),
        "seed": run.config.seed,
        "data": {
            "name": run.dataset.name,
            "path": str(run.dataset.path),
            "digest": run.dataset.digest,
            "tokenizer_digest": run.dataset.tokenizer_digest,
            "order": {key: order[key] for key in ("split", "seed", "batch", "context")},
            "skip": run.loader.skip.to_json(),
            **composition(run.dataset),
        },
        "git_commit": git_commit(),
        "packages": {name: version(name) for name in PACKAGES}
        | {"torch": torch.__version__, "python": platform.python_version()},  # its build, as in 2.13.0+cu130
        "hardware": hardware(),
        "precision": {
            "name": run.precision.name,
            "emulated": run.precision.emulated,
            "why": run.precision.why,
        },
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "fingerprint": fingerprint(run),
    }


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(), "gpus": gpus}


def git_commit() -> str:
    """Commit of the checkout llmkit runs from, with `+changes` if files differ from it; `` outside a
    checkout."""
    here = Path(__file__).parent
    ask = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
