"""The watch at the borders of modules, for one replayed forward and backward pass.

The one idea: an autograd node belongs to the module in which it was made, and that is known by walking the
graph at every border: the nodes that lead to a tensor on its way into a submodule and have no owner yet are
the parent's, those that lead to a module's output are its own. So backward needs no hook on a tensor and no
copy of one.

    forward = Forward(model)
    with forward.watching():
        losses = model(x, y)
    forward.sighting        # the first non-finite tensor, or None
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmkit.observe.base import aside

LOSS = "loss"


@dataclass
class Sighting:
    """The first non-finite tensor of a pass."""

    module: str
    type: str
    phase: str
    kind: str
    share: float
    input_absmax: float
    bad: Tensor | None  # bool, where it is not finite; None: a parameter's, which has no rows
    inputs_finite: bool = True
    parameter: str = ""

    def rows(self, sequences: int, length: int) -> tuple[int, ...]:
        """Rows of the micro-batch with a non-finite element; none unless it is (b, ...) or (b*T, ...)."""
        if self.bad is None or not self.bad.dim() or self.bad.shape[0] not in (sequences, sequences * length):
            return ()
        return tuple(self.bad.reshape(sequences, -1).any(dim=1).nonzero()[:, 0].tolist())


@dataclass
class Frame:
    """A module whose forward is running."""

    module: nn.Module
    largest: float  # finite |value| among its inputs and what its submodules handed back


def floats(value: Any) -> list[Tensor]:
    """The floating-point tensors in arguments or outputs, however nested."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in floats(item)]


def is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def absmax(tensors: list[Tensor]) -> float:
    """Largest finite |value|; 0 when there is none."""
    sizes = [tensor.abs().nan_to_num(0.0, posinf=0.0).max().item() for tensor in tensors if tensor.numel()]
    return max(sizes, default=0.0)


def look_at(tensor: Tensor) -> tuple[Tensor, str, float]:
    """(where it is not finite, "inf" if any element is infinite else "nan", share of such elements)."""
    bad = ~torch.isfinite(tensor)
    return bad, "inf" if bool(torch.isinf(tensor).any()) else "nan", bad.float().mean().item()


def is_leaf(node: Any) -> bool:
    """Whether a node is a parameter's AccumulateGrad: it ends the graph and belongs to no place in it."""
    return hasattr(node, "variable")


class Forward:
    """Borders crossed in forward order; who owns which node of the graph.

    Attributes:
        sighting: the first non-finite tensor, or None.
        owners: autograd node -> (module name, class name).
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.names = {module: name or type(model).__name__ for name, module in model.named_modules()}
        self.stack: list[Frame] = []
        self.ran: set[nn.Module] = set()
        self.owners: dict[Any, tuple[str, str]] = {}
        self.sighting: Sighting | None = None
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every module, the last to run there. Off before backward, which may run a module again."""
        handles = []
        for module in self.model.modules():
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensors = floats((args, kwargs))
        if self.stack:
            parent = self.stack[-1]
            self._look(tensors, parent, self.label(parent.module))
        with aside(self.device):
            self.stack.append(Frame(module, absmax(tensors)))
        self.ran.add(module)

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        tensors, frame = floats(output), self.stack.pop()
        self._look(tensors, frame, self.label(module) if self.stack else (LOSS, LOSS))
        if self.stack:
            with aside(self.device):
                self.stack[-1].largest = max(self.stack[-1].largest, absmax(tensors))

    def claim_loss(self, loss: Tensor) -> None:
        """The end of the forward pass: what is left of the graph belongs to the loss."""
        self._look([loss], Frame(self.model, 0.0), (LOSS, LOSS))

    def label(self, module: nn.Module) -> tuple[str, str]:
        return self.names[module], type(module).__name__

    def _look(self, tensors: list[Tensor], frame: Frame, label: tuple[str, str]) -> None:
        for tensor in tensors:
            self._claim(tensor, label)
        if self.sighting is not None:
            return
        with aside(self.device):
            bad = next((tensor.detach() for tensor in tensors if not is_finite(tensor)), None)
            if bad is None:
                return
            where, kind, share = look_at(bad)
            label, parameter = self._corrupt(frame.module) or (label, "")
        self.sighting = Sighting(
            module=label[0], type=label[1], phase="forward", kind=kind, share=share, bad=where,
            input_absmax=frame.largest, inputs_finite=not parameter, parameter=parameter,
        )  # fmt: skip

    def _corrupt(self, running: nn.Module) -> tuple[tuple[str, str], str] | None:
        """(label, parameter) of a non-finite weight of the running module, or of one that it only reads."""
        names = {p: name for name, p in self.model.named_parameters()}
        for module in running.modules():
            if module is running or module not in self.ran:
                for p in module.parameters(recurse=False):
                    if not is_finite(p.detach()):
                        return self.label(module), names[p]
        return None

    def _claim(self, tensor: Tensor, label: tuple[str, str]) -> None:
        todo = [tensor.grad_fn]
        while todo:
            node = todo.pop()
            if node is None or node in self.owners or is_leaf(node):
                continue
            self.owners[node] = label
            todo.extend(following for following, _ in node.next_functions)


class Backward:
    """Gradients looked at as they leave each node, in the order in which backward runs.

    Attributes:
        sighting: the first node that gave a non-finite gradient, with the first parameter that one reached.
    """

    def __init__(self, model: nn.Module, forward: Forward):
        self.forward, self.sighting = forward, None
        self.names = {p: name for name, p in model.named_parameters()}
        self.homes: dict[nn.Parameter, tuple[str, str]] = {}
        for module in model.modules():
            for p in module.parameters(recurse=False):
                self.homes.setdefault(p, forward.label(module))  # a tied one lives where it has its name

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for node, label in list(self.forward.owners.items()):
            handles.append(node.register_hook(self._node_hook(node, label)))
        leaves = {n for node in self.forward.owners for n, _ in node.next_functions if is_leaf(n)}
        handles += [leaf.register_hook(self._leaf_hook(leaf.variable)) for leaf in leaves]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _node_hook(self, node: Any, label: tuple[str, str]) -> Any:
        def look(outgoing: tuple, incoming: tuple) -> None:
            if self.sighting is not None:
                return
            with aside(self.forward.device):
                following = [None] * len(incoming) + [after for after, _ in node.next_functions]
                # incoming first: a tensor hook may have spoilt what the node before gave
                for gradient, after in zip((*incoming, *outgoing), following, strict=False):
                    if gradient is not None and gradient.is_floating_point() and not is_finite(gradient):
                        of_weight = gradient.dim() <= 2 and self._leads_to_parameter(after, label)
                        self._found(label, gradient, incoming, has_rows=not of_weight)
                        return

        return look

    def _leaf_hook(self, parameter: nn.Parameter) -> Any:
        def look(outgoing: tuple, incoming: tuple) -> None:
            if parameter not in self.names or (self.sighting is not None and self.sighting.parameter):
                return
            with aside(self.forward.device):
                bad = next((g for g in floats(incoming) if not is_finite(g)), None)
                if bad is None:
                    return
                if self.sighting is None:  # a hook on the parameter made it
                    self._found(self.homes[parameter], bad, incoming, has_rows=False)
                self.sighting.parameter = self.names[parameter]

        return look

    def _found(self, label: tuple[str, str], gradient: Tensor, incoming: tuple, *, has_rows: bool) -> None:
        where, kind, share = look_at(gradient)
        self.sighting = Sighting(
            module=label[0], type=label[1], phase="backward", kind=kind, share=share,
            input_absmax=absmax(floats(incoming)), bad=where if has_rows else None,
        )  # fmt: skip

    def _leads_to_parameter(self, node: Any, label: tuple[str, str]) -> bool:
        """Whether a gradient goes to a weight of this module: a transposition, a rounding, the leaf."""
        while node is not None and self.forward.owners.get(node) == label and len(node.next_functions) == 1:
            node = node.next_functions[0][0]
        return is_leaf(node)
