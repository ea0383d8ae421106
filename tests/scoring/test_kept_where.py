"""What is recorded of a kept set: shares by layer and head, along the context, of the oracle."""

from __future__ import annotations

import torch

from proxykv.scoring.rows import POSITIONS, kept_where


def test_shares_of_heads_positions_and_the_oracles_pairs():
    keep = torch.zeros(2, 1, 2 * POSITIONS, dtype=torch.bool)
    keep[0, 0, :POSITIONS] = True  # layer 0 keeps the first half, layer 1 the first token
    keep[1, 0, 0] = True
    oracle = torch.zeros_like(keep)
    oracle[0, 0, : 2 * POSITIONS : 2] = True
    found = kept_where(keep, oracle)
    assert found["heads"] == [[0.5], [0.025]]
    assert found["positions"] == [0.75, *[0.5] * (POSITIONS // 2 - 1), *[0.0] * (POSITIONS // 2)]
    assert found["overlap"] == [0.5, None]  # the oracle keeps nothing of layer 1


def test_a_short_context_has_fewer_parts_and_without_oracle_there_is_no_overlap():
    found = kept_where(torch.ones(1, 2, 3, dtype=torch.bool), None)
    assert found == {"heads": [[1.0, 1.0]], "positions": [1.0, 1.0, 1.0]}
