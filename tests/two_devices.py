"""Two devices on one CPU: what meets in an operation must be on the same one.

Tensors of the second device are wrappers around CPU memory, which say that they are on `cpu:1`. As
between real devices, only copies may read one device and write another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

FIRST, SECOND = torch.device("cpu"), torch.device("cpu:1")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(Tensor):
    """A tensor of the second device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        """Show the shape of `inner` and another device."""
        with torch.inference_mode(False):  # a view of it may be read in another mode
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=SECOND,
            )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse operations on tensors of two devices; compute the others."""
        # PyTorch makes the mask of a causal attention inside, on the queries' device.
        attention = func is torch.ops.aten.scaled_dot_product_attention.default
        places, kwargs = devices(args[:3] if attention else (args, kwargs)), kwargs or {}
        if len(places) > 1 and func not in COPIES:
            raise RuntimeError(f"{func} meets tensors of {len(places)} devices")
        to = args[0].device if func in COPIES[1:] else kwargs.get("device") or SECOND
        known = {id(t.inner): t for t in tree_leaves((args, kwargs)) if isinstance(t, Elsewhere)}
        inner: Any = tree_map_only(Elsewhere, lambda t: t.inner, (args, kwargs))
        values, named = tree_map_only(torch.device, lambda _: FIRST, inner)
        with torch.inference_mode(False), torch.no_grad():
            out = func(*values, **named)
        if to == FIRST:
            return out
        return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else cls(t), out)


class TwoDevices(TorchFunctionMode):
    """While it is active, tensors can be made on `cpu:1` and moved there."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Wrap what is asked for on the second device."""
        kwargs = kwargs or {}
        if kwargs.get("device") == SECOND:
            return Elsewhere(func(*args, **{**kwargs, "device": FIRST}))
        if func is Tensor.to and SECOND in args[1:] and not isinstance(args[0], Elsewhere):
            with torch.inference_mode(False), torch.no_grad():
                return Elsewhere(args[0].clone())
        if func.__name__ == "_has_compatible_shallow_copy_type":
            # A parameter that was moved is a new tensor.
            return type(args[0]) is type(args[1])
        return func(*args, **kwargs)


def devices(values: Any) -> set[torch.device]:
    """Devices of the tensors in nested arguments; numbers may be anywhere."""
    found = [t for t in tree_leaves(values) if isinstance(t, Tensor)]
    return {t.device for t in found if t.dim() or isinstance(t, Elsewhere)}
