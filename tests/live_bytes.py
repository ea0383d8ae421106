"""Bytes of the tensors that exist while something runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations make and that still exist, and their peak."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """`known`: tensors whose views do not count."""
        super().__init__()
        self.known = {StorageWeakRef(t.untyped_storage()) for t in known}
        self.live: dict[StorageWeakRef, int] = {}
        self.peak = 0

    @property
    def held(self) -> int:
        """Bytes that exist now."""
        return sum(count for ref, count in self.live.items() if not ref.expired())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.live[StorageWeakRef(storage)] = storage.nbytes()
        self.live = {
            ref: count
            for ref, count in self.live.items()
            if ref not in self.known and not ref.expired()
        }
        self.peak = max(self.peak, sum(self.live.values()))
        return out
