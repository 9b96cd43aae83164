"""What is live: every storage once, by weak reference, in whole allocator blocks, by category.

The one idea: a tensor's memory is its storage, views share it, and it is free the moment the last reference
goes. A weak reference with a callback sees exactly that moment, so the ledger never has to search.

    ledger = Ledger()
    ledger.add(tensor.untyped_storage(), "activations")
    ledger.live, ledger.by_category["activations"]
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch

from llmkit.memory.sizes import rounded

CATEGORIES = ("parameters", "gradients", "optimizer state", "activations", "temporaries", "inputs")


class Block(weakref.ref):
    """One live storage. Weak, so that counting memory never keeps it."""

    __slots__ = ("key", "size", "category", "owner", "serial", "nbytes", "place")


class Ledger:
    """Bytes live now and at the peak, by category.

    A storage's category can become known late: a gradient is a temporary until `p.grad` points at it, an
    Adam moment until the step has filled `optimizer.state`. A block that is renamed and was born before the
    peak was live at the peak (it still is), so the peak's table is corrected with it.

    Args:
        device: count only storages on this kind of device, e.g. "cuda"; "" counts all.
    """

    def __init__(self, device: str = ""):
        self._device = device
        self.blocks: dict[
            int, Block
        ] = {}  # StorageImpl address -> block; addresses are reused, after the callback
        self.live = 0  # bytes
        self.by_category = dict.fromkeys(CATEGORIES, 0)
        self.peak = 0  # bytes
        self.peak_by_category = dict(self.by_category)
        self.tell: Callable[[Block, bool], None] | None = None  # a listener: a block, and whether it was born
        self._peak_serial = 0
        self.serial = 0  # of the youngest block

    def add(self, storage: torch.UntypedStorage, category: str, owner: str = "") -> bool:
        """Count one new storage; True when that made a new peak. About a microsecond."""
        nbytes = storage.nbytes()
        size = rounded(nbytes)
        if size == 0 or (self._device and storage.device.type != self._device):
            return False  # CUDA allocates nothing for an empty tensor
        block = Block(storage, self._freed)
        self.serial += 1
        block.key, block.size, block.category, block.nbytes = storage._cdata, size, category, nbytes
        block.owner, block.serial = owner, self.serial
        self.blocks[block.key] = block
        self.live += size
        self.by_category[category] += size
        if self.tell is not None:
            self.tell(block, True)
        if self.live <= self.peak:
            return False
        self.peak, self._peak_serial = self.live, self.serial
        self.peak_by_category = self.by_category.copy()
        return True

    def _freed(self, block: Block) -> None:
        if self.blocks.pop(block.key, None) is not None:
            self.live -= block.size
            self.by_category[block.category] -= block.size
            if self.tell is not None:
                self.tell(block, False)

    def name(self, tensor: torch.Tensor | None, category: str, owner: str = "") -> None:
        """Say what a tensor's storage is, counting it if it was unknown."""
        if tensor is None or tensor.layout is not torch.strided:
            return
        local = getattr(tensor, "_local_tensor", tensor)  # a DTensor's share of this rank
        storage = local.untyped_storage()
        block = self.blocks.get(storage._cdata)
        if block is None:
            self.add(storage, category, owner)
            return
        block.owner = owner or block.owner
        if block.category == category:
            return
        self.by_category[block.category] -= block.size
        self.by_category[category] += block.size
        if block.serial <= self._peak_serial:
            self.peak_by_category[block.category] -= block.size
            self.peak_by_category[category] += block.size
        block.category = category

    def owner(self, values: Iterable[object]) -> str:
        """The module of the first parameter, gradient, state or temporary made of them among arguments."""
        for value in values:
            if isinstance(value, tuple | list):
                found = self.owner(value)
                if found:
                    return found
            elif isinstance(value, torch.Tensor) and value.layout is torch.strided:
                block = self.blocks.get(value.untyped_storage()._cdata)
                if block is not None and block.owner and block.category != "activations":
                    return block.owner
        return ""

    def forget_peak(self) -> None:
        """The peak from now on."""
        self.peak, self._peak_serial = self.live, self.serial
        self.peak_by_category = self.by_category.copy()

    def close(self) -> None:
        """Drop the weak references; the totals stay readable."""
        self.blocks.clear()
