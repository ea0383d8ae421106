"""A CUDA graph that a CPU plays: what runs while it is captured runs again when it is replayed.

As CUDA does, it refuses what a graph cannot hold: numbers that the host reads, shapes that depend
on numbers, and copies from the host. Kernels run in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of operations for which the host must wait."""
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
"""Their shapes depend on numbers with a mask as the index only."""
TO_HOST = (Tensor.tolist, Tensor.numpy, Tensor.cpu)
"""On a CPU these are no operations."""
FROM_HOST = (torch.ops.aten.lift_fresh,)
"""What `torch.tensor` calls with numbers of the host."""


class Graph:
    """Work that can be done again."""

    def __init__(self) -> None:
        """Start empty."""
        self.work: list[Callable[[], Any]] = []

    def pool(self) -> Graph:
        """Return something that stands for the graph's memory."""
        return self

    def replay(self) -> None:
        """Do the work again, on the same tensors."""
        for each in self.work:
            each()


class Capturing(TorchDispatchMode):
    """Add operations to a graph; while a kernel is interpreted, they are the interpreter's."""

    def __init__(self, graph: Graph) -> None:
        """Start with the graph as it is."""
        super().__init__()
        self.graph, self.interpreting = graph, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and remember it."""
        kwargs = kwargs or {}
        if self.interpreting:
            return func(*args, **kwargs)
        if _needs_host(func, (args, kwargs)):
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        out = func(*args, **kwargs)
        if func._schema.is_mutable:
            self.graph.work.append(lambda: func(*args, **kwargs))
        else:
            read = {_memory(t) for t in _tensors((args, kwargs))}
            if made := [i for i, t in enumerate(_tensors(out)) if _memory(t) not in read]:
                self.graph.work.append(lambda: _again(func(*args, **kwargs), out, made))
        return out


class HostReads(TorchFunctionMode):
    """Refuse what takes a tensor's numbers to the host without an operation."""

    def __init__(self, capturing: Capturing) -> None:
        """Refuse nothing while a kernel is interpreted."""
        super().__init__()
        self.capturing = capturing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch."""
        if func in TO_HOST and not self.capturing.interpreting:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        return func(*args, **(kwargs or {}))


def _needs_host(func: Any, arguments: Any) -> bool:
    if func.overloadpacket in INDEXING:
        return any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(arguments[0][1]))
    return func.overloadpacket in FROM_HOST or bool(HOST & set(func.tags))


def _again(new: Any, out: Any, made: list[int]) -> None:
    """Put what an operation gives now where it was when it was captured."""
    for i in made:
        _tensors(out)[i].copy_(_tensors(new)[i])


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def play(patch: pytest.MonkeyPatch) -> None:
    """Let `torch.cuda` capture on a CPU.

    Args:
        patch: takes everything back.
    """
    from triton.runtime.interpreter import InterpretedFunction

    interpret: Any = InterpretedFunction.run
    modes: list[Capturing] = []

    @contextmanager
    def capture(graph: Graph, pool: Any, capture_error_mode: str) -> Iterator[None]:
        modes.append(Capturing(graph))
        try:
            with HostReads(modes[-1]), modes[-1]:
                yield
        finally:
            modes.pop()

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        for mode in modes:
            mode.graph.work.append(lambda: interpret(self, *args, **kwargs))
            mode.interpreting = True
        try:
            interpret(self, *args, **kwargs)
        finally:
            for mode in modes:
                mode.interpreting = False

    class Stream:
        def wait_stream(self, other: Stream) -> None:
            """Everything has run already."""

    patch.setattr(InterpretedFunction, "run", launch)
    stand_ins = {"CUDAGraph": Graph, "graph": capture, "Stream": Stream, "current_stream": Stream}
    others = {"stream": lambda _: nullcontext(), "synchronize": lambda: None}
    for name, stand_in in {**stand_ins, **others}.items():
        patch.setattr(torch.cuda, name, stand_in)
