"""Where the program is: which module, and whether in forward, backward or the optimizer.

The one idea: autograd numbers its nodes in the order in which forward made them. Noting the number at every
module border is enough to name the module of any node that backward runs later, without a hook in backward.

    places = Places(on_call=..., on_phase=...)
    with places.watching():
        ...                     # places.phase, places.module()
"""

from __future__ import annotations

import bisect
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer
from torch.utils.weak import WeakIdKeyDictionary

NO_GRAPH = -1  # torch._C._current_graph_task_id() outside backward


class Places:
    """The module stack of the running forward pass, and the phase of the step.

    Args:
        on_model: called with a module that was not known, before its forward; it should `adopt` it.
        on_root: called with the outermost module and its positional arguments, before its forward.
        on_phase: called with the phase that begins.
        on_optimizer: called with an optimizer before its step.
    """

    def __init__(self, on_model: Callable, on_root: Callable, on_phase: Callable, on_optimizer: Callable):
        self.phase = "forward"
        self.names = weakref.WeakKeyDictionary()  # module -> its name
        self.owners = WeakIdKeyDictionary()  # parameter -> the name of its module
        self.stack: list[str] = []
        self._on_model, self._on_root = on_model, on_root
        self._on_phase, self._on_optimizer = on_phase, on_optimizer
        self._starts: list[int] = []  # autograd sequence numbers, rising ...
        self._modules: list[str] = []  # ... and the module that makes the nodes from there on

    def adopt(self, model: torch.nn.Module) -> None:
        """Learn the names of a model's modules; the model itself goes by its class name."""
        for name, module in model.named_modules():
            self.names.setdefault(module, name or type(model).__name__)
            for parameter in module.parameters(recurse=False):
                self.owners.setdefault(parameter, self.names[module])

    def module(self) -> str:
        """The innermost running module; in backward the one whose forward made the node; "" outside."""
        if self.stack:  # also in backward, when a checkpointed block is being recomputed
            return self.stack[-1]
        node = torch._C._current_autograd_node() if self.in_backward() else None
        if node is None:
            return ""
        if hasattr(node, "variable"):  # a parameter's AccumulateGrad: it has no place in the forward order
            return self.owners.get(node.variable, "")
        place = bisect.bisect_right(self._starts, node._sequence_nr()) - 1
        return self._modules[place] if place >= 0 else ""

    @staticmethod
    def in_backward() -> bool:
        return torch._C._current_graph_task_id() != NO_GRAPH

    def update(self) -> None:
        """Follow the phase from what is running now. Called for every operation that allocates."""
        if torch._C._current_graph_task_id() != NO_GRAPH:
            if self.phase != "backward":
                self.enter("backward")
        elif self.phase == "backward" and not self.stack:
            self.enter(
                "optimizer"
            )  # unscaling and clipping belong to it: no module runs, gradients are whole

    def enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            self._on_phase(phase)

    # ------------------------------------------------------------------------------------------------- hooks

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Four process-wide hooks. A module that runs in another thread, which has no dispatch mode, is
        warned of and passed over."""
        self._thread = threading.get_ident()
        handles = (
            torch_module.register_module_forward_pre_hook(self._before),
            torch_module.register_module_forward_hook(
                self._after, always_call=True
            ),  # also when forward raises
            torch_optimizer.register_optimizer_step_pre_hook(self._before_update),
            torch_optimizer.register_optimizer_step_post_hook(self._after_update),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.stack.clear()
            self._forget_graph()

    def _before(self, module: torch.nn.Module, args: tuple) -> None:
        if not torch._C._len_torch_dispatch_stack():
            if threading.get_ident() != self._thread:
                warnings.warn("a memory budget does not count what runs in another thread", stacklevel=2)
            return
        if module not in self.names:
            self._on_model(module)
        if not self.stack and not self.in_backward():
            self.enter("forward")
            self._on_root(module, args)
        self.stack.append(self.names[module])
        self._mark()

    def _after(self, module: torch.nn.Module, args: tuple, output: object) -> None:
        if self.stack and torch._C._len_torch_dispatch_stack():
            self.stack.pop()
            self._mark()

    def _mark(self) -> None:
        if torch.is_grad_enabled():  # without it no node is made
            number = torch.autograd._get_sequence_nr()
            if (
                not self._starts or number >= self._starts[-1]
            ):  # each thread counts for itself; keep it sorted
                self._starts.append(number)
                self._modules.append(self.stack[-1] if self.stack else "")

    def _before_update(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if torch._C._len_torch_dispatch_stack():
            self._on_optimizer(optimizer)
            self.enter("optimizer")

    def _after_update(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if torch._C._len_torch_dispatch_stack():
            self.enter("forward")
            self._forget_graph()

    def _forget_graph(self) -> None:
        self._starts.clear()
        self._modules.clear()
