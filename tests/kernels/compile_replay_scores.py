"""Compile every launch of a replay's kernels, at full size; a line and an error for a bad one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from compiling import SHARED, compiling

from proxykv.kernels.gpu.replay_scores import attend_and_score
from proxykv.kernels.replay import Plus, ReplayKeyValues

PREFIX, CHUNK, TOTAL = 5, 2000, 6005


class Launch(NamedTuple):
    """A replay in the middle of a context; descriptors address aligned tensors only."""

    dtype: torch.dtype
    dim: int
    plus: bool
    scores_only: bool
    aligned: bool = True


LAUNCHES = [
    Launch(torch.bfloat16, 128, False, False),
    Launch(torch.bfloat16, 128, True, True),
    Launch(torch.bfloat16, 64, False, False),
    Launch(torch.float16, 80, False, False),
    Launch(torch.bfloat16, 96, True, False),
    Launch(torch.bfloat16, 128, False, False, aligned=False),
    Launch(torch.float32, 128, True, False),
    Launch(torch.float32, 64, False, False),
    Launch(torch.float32, 80, False, True),
]


def launch(case: Launch, heads: int = 8, group: int = 4) -> None:
    first = 0 if case.aligned else 1
    context = torch.empty(heads * TOTAL * case.dim + 1, dtype=case.dtype)[first:]
    context = context[: heads * TOTAL * case.dim].view(heads, TOTAL, case.dim)
    replay, query = (
        torch.empty(CHUNK, count, case.dim, dtype=case.dtype).transpose(0, 1)
        for count in (heads, heads * group)
    )
    layer = ReplayKeyValues(context, context, replay, replay, PREFIX, slice(2005, 2005 + CHUNK))
    plus = Plus(torch.ones(CHUNK), torch.ones(heads, group, CHUNK)) if case.plus else None
    attend_and_score(query, layer, case.dim**-0.5, plus, case.scores_only)


def problems(capability: int) -> Iterator[str]:
    with compiling(capability) as found:
        for case in LAUNCHES:
            before = len(found)
            launch(case)
            for kernel in found[before:]:
                print(capability, case, kernel, flush=True)
                if kernel.spilled or kernel.shared > SHARED[capability]:
                    yield f"sm_{capability}, {case}: {kernel}"


if __name__ == "__main__":
    sys.exit("\n".join([*problems(90), *problems(80)]) or 0)
