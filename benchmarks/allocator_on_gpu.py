"""Is the allocator's arithmetic CUDA's? The same trace in the model and on a device, byte for byte.

    python benchmarks/allocator_on_gpu.py [--config tiny] [--scale 64] [--settings expandable_segments:True]

A trace of two steps is recorded on the CPU, then played into both: a tensor of as many bytes on the device for
each birth, `del` for each death. After every event `torch.cuda.memory_allocated` and `memory_reserved` must be
what the model says. Exit code 1 and the first difference where they are not, 3 without a CUDA device.
"""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--scale", type=int, default=64)
    parser.add_argument("--settings", default="")
    options = parser.parse_args()
    os.environ["PYTORCH_ALLOC_CONF"] = options.settings  # read once, when CUDA starts

    import torch

    if not torch.cuda.is_available():
        print("needs a CUDA device: nothing was compared", file=sys.stderr)
        return 3

    from llmkit.memory import CachingAllocator, record, replay
    from llmkit.train import build, named

    torch.cuda.init()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    trace = record(build(named(options.config, steps=4, device="cpu")))
    model, held = CachingAllocator(options.settings), {}
    for number in replay(trace, model, options.scale):
        event = trace.events[number]
        if event < 0:
            del held[~event]
        else:
            size = trace.allocations[event].nbytes * options.scale
            held[event] = torch.empty(size, dtype=torch.uint8, device="cuda")
        found = torch.cuda.memory_allocated() - before[0], torch.cuda.memory_reserved() - before[1]
        if found != (model.allocated, model.reserved):
            print(f"event {number}: device {found}, model {(model.allocated, model.reserved)}")
            return 1
    print(f"{len(trace.events)} events, equal to the byte; {model.reserved:,} bytes reserved in the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
