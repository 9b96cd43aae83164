"""Running out of memory, as an event: the exception's own account, or else the device's.

except torch.OutOfMemoryError as error:
    event = oom_event(run, error)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from llmkit.records import Event


def oom_event(run: Any, error: torch.OutOfMemoryError) -> Event:
    """What ran out, where and with what live.

    A memory budget knows all of it (`error.llmkit`). A GPU's own error says nothing in data, so live and
    limit are asked of the device, after the fact, and the rest is empty.
    """
    facts = getattr(error, "llmkit", None)
    if facts is not None:
        data = dataclasses.asdict(facts)
    else:
        cuda = run.device.type == "cuda"
        data = {
            "module": "", "phase": "", "requested_bytes": 0,
            "live_bytes": torch.cuda.max_memory_allocated(run.device) if cuda else 0,
            "limit_bytes": torch.cuda.get_device_properties(run.device).total_memory if cuda else 0,
            "by_category": {}, "emulated": False,
        }  # fmt: skip
    data["micro_batch"] = run.micro_batch or (len(run.batch.x) if run.batch is not None else 0)
    data["tokens"] = run.batch.x.numel() if run.batch is not None else 0
    where = f"in `{data['module']}` ({data['phase']})" if data["module"] else data["phase"]
    emulated = " (emulated)" if data["emulated"] else ""
    says = f"out of memory {where}".rstrip() + f" with {data['micro_batch']} sequences at once{emulated}"
    return Event(kind="oom", step=run.step, says=says, data=data)
