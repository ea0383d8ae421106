"""NLL and KL along a reference: in tiles, what whole distributions give."""

from __future__ import annotations

import pytest
import torch
from live_bytes import LiveBytes
from torch import Tensor, nn

from proxykv.kernels import likelihood
from proxykv.kernels.likelihood import TILE_COPIES, likelihoods, tile_bytes

WIDTH, VOCABULARY = 16, 50


def whole(head: nn.Linear, hidden: Tensor, reference: Tensor, full: Tensor) -> list[list[float]]:
    """Each row's NLL and KL from all logits, in float64."""
    weight = head.weight.double()
    log_full = (full[:-1].double() @ weight.mT).log_softmax(dim=-1)
    found = []
    for row in hidden.double():
        log_p = (row[:-1] @ weight.mT).log_softmax(dim=-1)
        nll = nn.functional.nll_loss(log_p, reference)
        kl = nn.functional.kl_div(log_p, log_full, log_target=True, reduction="batchmean")
        found.append([nll.item(), kl.item()])
    return found


@pytest.mark.parametrize("rows_at_a_time", [{"cpu": 1}, {}])
@pytest.mark.parametrize("tile", [1, 3 * VOCABULARY, 9 * VOCABULARY, 1 << 20])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (4, 7), (13, 2)])
@pytest.mark.parametrize("stored", [False, True])
def test_tiles_give_what_whole_distributions_give(
    rows: int,
    tokens: int,
    tile: int,
    rows_at_a_time: dict[str, int],
    stored: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(likelihood, "TILE_ELEMENTS", tile)
    monkeypatch.setattr(likelihood, "ROWS", rows_at_a_time)
    generator = torch.Generator().manual_seed(rows)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    hidden = torch.randn(rows, tokens + 1, WIDTH, generator=generator)
    reference = torch.randint(VOCABULARY, (tokens,), generator=generator)
    full = torch.randn(tokens + 1, WIDTH, generator=generator) if stored else None
    made: list[int] = []

    def logits(states: Tensor) -> Tensor:
        made.append(states.numel() // WIDTH * VOCABULARY)
        return head(states)

    found = likelihoods(logits, reference, hidden, VOCABULARY, full)
    expected = whole(head, hidden, reference, hidden[0] if full is None else full)
    assert torch.stack(found, dim=1).tolist() == [pytest.approx(row, abs=1e-5) for row in expected]
    assert max(made) <= max(tile, 2 * VOCABULARY)
    if full is None:
        assert found.kl[0] == 0


@pytest.mark.parametrize("rows_at_a_time", [{"cpu": 1}, {}])
@pytest.mark.parametrize("stored", [False, True])
def test_memory_is_that_of_a_few_tiles(
    stored: bool, rows_at_a_time: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows and tokens there are; distributions of all would take 26 MB."""
    rows, tokens, vocabulary = 40, 160, 1000
    monkeypatch.setattr(likelihood, "TILE_ELEMENTS", 20 * vocabulary)
    monkeypatch.setattr(likelihood, "ROWS", rows_at_a_time)
    head = nn.Linear(WIDTH, vocabulary, bias=False).requires_grad_(False)
    hidden = torch.randn(rows, tokens + 1, WIDTH)
    reference = torch.randint(vocabulary, (tokens,))
    full = hidden[0] + 0.1 if stored else None
    with LiveBytes([head.weight, hidden, reference, *([] if full is None else [full])]) as mode:
        likelihoods(head, reference, hidden, vocabulary, full)
    tile = tile_bytes(tokens, vocabulary, hidden.device)
    found = 2 * 4 * rows * tokens  # NLL and KL of each token
    assert 2 * tile < mode.peak - found <= TILE_COPIES * tile
