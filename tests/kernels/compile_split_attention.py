"""Compile every launch of the split attention, at full size; a line and an error for a bad one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple
from unittest import mock

import torch
from compiling import SHARED, compiling

from proxykv.kernels import layout
from proxykv.kernels.gpu import split_attention, store

HOPPER_PROCESSORS = 132


class Launch(NamedTuple):
    """One new token, or a question of 40; `rows` share a context with bits, or one is ragged."""

    dtype: torch.dtype
    dim: int
    rows: int
    new: int


LAUNCHES = [
    *(Launch(torch.bfloat16, 128, rows, new) for rows, new in product((1, 150), (1, 40))),
    Launch(torch.bfloat16, 80, 10, 1),
    Launch(torch.bfloat16, 96, 1, 1),
    Launch(torch.float16, 64, 1, 1),
    Launch(torch.float32, 128, 10, 1),
    Launch(torch.float32, 64, 10, 40),
    Launch(torch.float32, 80, 1, 1),
]


def launch(
    case: Launch, shared: int, heads: int = 8, group: int = 4, keys: int = 4000, room: int = 300
) -> None:
    masked = case.rows > 1
    flat = torch.empty(heads * keys, case.dim, dtype=case.dtype)
    bits = torch.zeros(-(-case.rows // 32), heads * keys, dtype=torch.int32) if masked else None
    entries = layout.Entries(flat, flat, [keys] * heads, bits)
    room_tensor = torch.empty(case.rows, heads, room, case.dim, dtype=case.dtype)
    valid = torch.ones(case.rows, room, dtype=torch.int8) if masked else None
    slots = layout.Slots(room_tensor, room_tensor, valid)
    with mock.patch.multiple(
        layout,
        multiprocessors=lambda device: HOPPER_PROCESSORS,
        shared_memory=lambda device: shared,
    ):
        table = layout.LayerTable([(entries, slots)])
        place = layout.Place(3, torch.tensor([3]), table=table)
        query, new = (
            torch.empty(case.rows, case.new, count, case.dim, dtype=case.dtype).transpose(1, 2)
            for count in (group * heads, heads)
        )
        store.write(new, new, slots, place)
        split_attention.attention(query, entries, slots, place, case.dim**-0.5)


def problems(capability: int, launches: Sequence[Launch] = LAUNCHES) -> Iterator[str]:
    with compiling(capability) as found:
        for case in launches:
            before = len(found)
            launch(case, SHARED[capability])
            for kernel in found[before:]:
                print(capability, case, kernel, flush=True)
                if kernel.spilled or kernel.shared > SHARED[capability]:
                    yield f"sm_{capability}, {case}: {kernel}"


if __name__ == "__main__":
    found = [*problems(90), *problems(80), *problems(86, LAUNCHES[:4])]
    sys.exit("\n".join(found) or 0)
