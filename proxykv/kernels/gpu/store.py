"""New keys and values into their slots, in Triton."""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from proxykv.kernels.layout import Place, Slots, width


@triton.jit(do_not_specialize=["new", "rows"])
def _store_kernel(
    NEW_KEYS, NEW_VALUES, TABLE, INDEX, rows, new, heads,
    k_row, k_head, k_new, v_row, v_head, v_new, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One new key and value into their slot, behind the tokens that INDEX counts."""
    at = tl.program_id(0)
    i = at % new
    head = (at // new) % heads
    row = (at // (new * heads)).to(tl.int64)
    room = tl.load(TABLE + 7)
    slot = tl.load(INDEX) + i
    d = tl.arange(0, WIDTH)
    k = tl.load(NEW_KEYS + row * k_row + head * k_head + i * k_new + d, mask=d < D)
    v = tl.load(NEW_VALUES + row * v_row + head * v_head + i * v_new + d, mask=d < D)
    to = ((row * heads + head) * room + slot) * D + d
    fits = (d < D) & (slot < room)  # full slots drop tokens rather than writing elsewhere
    tl.store(tl.multiple_of(tl.load(TABLE + 4).to(NEW_KEYS.dtype), 16) + to, k, mask=fits)
    tl.store(tl.multiple_of(tl.load(TABLE + 5).to(NEW_VALUES.dtype), 16) + to, v, mask=fits)


def write(keys: Tensor, values: Tensor, slots: Slots, place: Place) -> None:
    """Write new tokens' keys and values into their slots, at the index on the device.

    Args:
        keys: keys of the new tokens, after RoPE [row, kv_head, new, dim].
        values: their values.
        slots: not used: the table of `place` has their addresses.
        place: where the new tokens go in the slots.
    """
    rows, heads, new, dim = keys.shape
    table, _ = place.found()
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(keys):
        _store_kernel[(rows * heads * new,)](
            keys, values, table, place.index, rows, new, heads,
            *keys.stride()[:3], *values.stride()[:3], D=dim, WIDTH=width(dim), num_warps=1,
        )  # fmt: skip
