"""A memory budget around any PyTorch code: it raises `torch.OutOfMemoryError` where a GPU of that size would.

The one idea: a dispatch mode sees every operation, so the storages alive after it can be counted; the first
one that does not fit is refused with PyTorch's own words, and with what those words leave out: which module,
in which phase, and what was live.

    with budget("24 MiB", run):
        list(train(run))
"""

from __future__ import annotations

import math
import weakref
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmkit.errors import ConfigError
from llmkit.memory.facts import OutOfMemory, Peak, out_of_memory
from llmkit.memory.ledger import Ledger
from llmkit.memory.places import Places
from llmkit.memory.sizes import parse_size, rounded, show_size

BORN = {"forward": "activations", "backward": "temporaries", "optimizer": "temporaries"}


def budget(
    limit: int | str,
    run_or_model: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    as_stored: bool = False,
) -> Budget:
    """A context manager in which no more than `limit` bytes of tensors can be live.

    On a CPU the limit is emulated: storages are counted in blocks of 512 bytes as the CUDA caching allocator
    takes them, the model's parameters, gradients and optimizer state included. On CUDA the same call caps the
    process with `torch.cuda.set_per_process_memory_fraction`, the allocator refuses for itself, and its error
    is annotated. Recover outside the `except` block: inside it the traceback still holds the tensors of the
    step that died.

    Not seen: workspaces inside kernels, fragmentation, collectives, sparse tensors, storages resized in place
    (FSDP), and tensors made before that are neither the model's nor passed to it by position. A dispatch mode
    belongs to the thread that entered it: code in another thread is neither counted nor stopped, and a module
    that runs there brings a warning.

    Args:
        limit: bytes, a size such as `"24 MiB"` or `"1.5 GB"`, or a card such as `"H100-SXM"`.
        run_or_model: a Run, a module, or nothing (models and optimizers are then counted when first used).
        optimizer: whose state is counted from the start; a Run brings its own.
        as_stored: count a precision that is emulated on this CPU as it is stored here, in fp32.

    Returns:
        The Budget; `.live` while it is open, `.peak` always.

    Raises:
        ConfigError: not a size or card; not a run or module; an emulated precision without `as_stored`;
            less than the parameters of the model.
        torch.OutOfMemoryError: inside, at the operation that would exceed the limit; its `.llmkit` is an
            OutOfMemory.
    """
    model, optimizer = parts_of(run_or_model, optimizer, as_stored)
    size = parse_size(limit)
    held = sum(  # of a DTensor this rank's share
        getattr(p, "_local_tensor", p).nbytes for p in (model.parameters() if model is not None else ())
    )
    if held > size:
        raise ConfigError(
            f"a budget of {show_size(size)} for a model whose parameters are {show_size(held)}",
            expected="room for a step beside them", remedy="a larger budget or a smaller model",
        )  # fmt: skip
    return Budget(size, model, optimizer)


def parts_of(run_or_model: Any, optimizer: Any, as_stored: bool) -> tuple[Any, Any]:
    """Model and optimizer of what `budget` was given. Raises ConfigError as `budget` does."""
    if run_or_model is None or isinstance(run_or_model, torch.nn.Module):
        return run_or_model, optimizer
    if not isinstance(getattr(run_or_model, "model", None), torch.nn.Module):
        raise ConfigError(
            f"found {type(run_or_model).__name__}, which has no memory to watch",
            expected="a run or a torch.nn.Module",
        )
    precision = getattr(run_or_model, "precision", None)
    if precision is not None and precision.emulated and not as_stored:
        raise ConfigError(
            f"precision `{precision.name}` is emulated on this CPU: its tensors are stored in fp32",
            expected="a run whose tensors have the size that is asked about",
            remedy='train with precision="fp32", or count what is stored here with `as_stored=True`',
        )
    return run_or_model.model, optimizer or run_or_model.optimizer


class Budget(TorchDispatchMode):
    """What `budget` returns. `limit` may be changed while it is open. Some 5 microseconds an operation."""

    def __init__(self, limit: float, model: torch.nn.Module | None, optimizer: torch.optim.Optimizer | None):
        super().__init__()
        self.limit = limit
        self._given = model, optimizer
        self._allocates: dict[Any, bool] = {}  # operator -> makes a new storage
        parameter = next(model.parameters(), None) if model is not None else None
        self.device = parameter.device if parameter is not None else torch.get_default_device()
        self._real = self.device.type == "cuda"
        self._start()

    def _start(self) -> None:
        self._ledger = Ledger("cuda" if self._real else "")
        self._places = Places(self._seen_model, self._root, self._phase, self._seen_optimizer)
        self._models: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()  # the budget keeps nothing alive
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._peak_place = "", "forward"
        self._by_phase = dict.fromkeys(BORN, 0)

    @property
    def live(self) -> int:
        """Bytes live now."""
        return self._ledger.live

    @property
    def reserved(self) -> int:
        """Bytes that the allocator holds, free blocks included; 0 where none is modelled."""
        return torch.cuda.memory_reserved(self.device) if self._real else 0

    @property
    def phase(self) -> str:
        """ "forward", "backward" or "optimizer"."""
        return self._places.phase

    def fits(self, size: int, args: tuple) -> bool:
        """Whether an operation on `args` may have `size` bytes more. A subclass may be stricter."""
        return self._ledger.live + size <= self.limit

    def owner_of(self, args: tuple) -> str:
        """The module whose parameter, gradient or state is among an operation's arguments, or ""."""
        return self._ledger.owner(args)

    @property
    def peak(self) -> Peak:
        """The peak since this was entered."""
        self._sort()
        (module, phase), ledger = self._peak_place, self._ledger
        size = torch.cuda.max_memory_allocated(self.device) if self._real else ledger.peak
        return Peak(
            bytes=size,
            by_category=ledger.peak_by_category.copy(),
            module=module,
            phase=phase,
            by_phase=self._by_phase.copy(),
        )

    # --------------------------------------------------------------------------------------------- in and out

    def __enter__(self) -> Budget:
        self._start()
        model, optimizer = self._given
        if model is not None:
            self._seen_model(model)
        if optimizer is not None:
            self._seen_optimizer(optimizer)
            self._sort()
        with ExitStack() as stack:
            stack.enter_context(self._places.watching())
            if self._real:
                self._cap(stack)
            super().__enter__()
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._undo.close()
        self._sort()
        self._models.clear()
        self._optimizers.clear()
        self._ledger.close()

    def _cap(self, stack: ExitStack) -> None:
        """The allocator's own limit. It caps what the process reserves, cached blocks included."""
        torch.cuda.reset_peak_memory_stats(self.device)
        if self.limit < math.inf:
            torch.cuda.empty_cache()
            before = torch.cuda.get_per_process_memory_fraction(self.device)
            stack.callback(torch.cuda.set_per_process_memory_fraction, before, self.device)
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / total), self.device)

    # -------------------------------------------------------------------------------------- every operation

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        try:
            out = func(*args, **(kwargs or {}))
        except torch.OutOfMemoryError as error:
            if self._real and not hasattr(error, "llmkit"):
                error.llmkit = self._explain(0, args)
            raise
        allocates = self._allocates.get(func)
        if allocates is None:
            allocates = self._allocates[func] = _allocates(func)
        if allocates:
            refused = self._count(out, args)
            if refused:
                facts = self._explain(refused, args)
                del out  # a refused allocation was never made; the traceback must not keep it
                raise out_of_memory(facts)
        return out

    def _count(self, out: Any, args: tuple) -> int:
        """Count the new storages of an operation's result; the size of the first that does not fit, or 0."""
        ledger, places = self._ledger, self._places
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in ledger.blocks:
                continue
            places.update()
            size = rounded(storage.nbytes())
            if not self._real and not self.fits(size, args):
                return size
            phase = places.phase
            owner = places.stack[-1] if places.stack else ledger.owner(args) if phase == "optimizer" else ""
            if ledger.add(storage, BORN[phase], owner):
                self._peak_place = places.module(), phase
            if ledger.live > self._by_phase[phase]:
                self._by_phase[phase] = ledger.live
        return 0

    # ------------------------------------------------------------------------------------------ what is what

    def _root(self, module: torch.nn.Module, args: tuple) -> None:
        """The outermost module is about to run: arguments made outside any module are its inputs."""
        for value in args:
            if isinstance(value, torch.Tensor):
                block = self._ledger.blocks.get(value.untyped_storage()._cdata)
                if block is None or (block.category in BORN.values() and not block.owner):
                    self._ledger.name(value, "inputs")

    def _phase(self, phase: str) -> None:
        if phase != "backward":
            self._sort()  # into the optimizer: gradients are whole; out of it: its state is made

    def _seen_model(self, model: torch.nn.Module) -> None:
        self._places.adopt(model)
        self._models.add(model)
        self._sort()

    def _seen_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizers.add(optimizer)

    def _sort(self) -> None:
        """Name the storages that only their holder can name. About a millisecond for a hundred parameters."""
        ledger, owners = self._ledger, self._places.owners
        for model in self._models:
            for parameter in model.parameters():
                ledger.name(parameter, "parameters", owners.get(parameter, ""))
                ledger.name(parameter.grad, "gradients", owners.get(parameter, ""))
            for buffer in model.buffers():
                ledger.name(buffer, "parameters")
        for optimizer in self._optimizers:
            for parameter, state in optimizer.state.items():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        ledger.name(value, "optimizer state", owners.get(parameter, ""))

    # --------------------------------------------------------------------------------------------- refusing

    def _explain(self, requested: int, args: tuple) -> OutOfMemory:
        self._places.update()
        self._sort()
        module = self._places.module()
        if not module and self._places.phase == "optimizer":
            module = self.owner_of(args)
        return OutOfMemory(
            module=module,
            phase=self._places.phase,
            requested_bytes=requested,
            live_bytes=torch.cuda.memory_allocated(self.device) if self._real else self._ledger.live,
            limit_bytes=self.limit if self.limit < math.inf else 0,
            by_category={category: size for category, size in self._ledger.by_category.items() if size},
            emulated=not self._real,
            reserved_bytes=self.reserved,
        )


def _allocates(func: Any) -> bool:
    """Whether an operator can return a storage of its own: views and in-place operators cannot."""
    return any(value.alias_info is None for value in func._schema.returns)
