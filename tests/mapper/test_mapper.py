"""The mapper: shapes, exact blocks, rank-safe scores, and its folder."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from proxykv.mapper.calibration import LEVELS
from proxykv.mapper.fitted import save_fitted
from proxykv.mapper.hybrid import build_mapper, load_mapper, save_mapper
from proxykv.mapper.stages import MapperConfig
from proxykv.runtime.errors import ConfigError

SMALL = MapperConfig(
    proxy_layers=2,
    proxy_heads=3,
    layers=4,
    heads=2,
    conv_channels=8,
    kernel=5,
    time_width=12,
    time_dilations=(1, 3),
    width=8,
    attention_heads=2,
)
PARTS = [{}, {"conv": False}, {"time": False}, {"head": False}, {"variant": "linear"}]
CARD = {"family": "toy", "target_hash": "t", "proxy_hash": "p", "vocab_hash": "v"}


def toy_mapper(**changes: Any) -> Any:
    torch.manual_seed(0)
    mapper = build_mapper(replace(SMALL, **changes))
    for parameter in mapper.parameters():  # also those that start at zero
        torch.nn.init.normal_(parameter, std=0.5)
    return mapper.eval()


def proxy_scores(n: int) -> torch.Tensor:
    return torch.rand(2, 3, n, generator=torch.Generator().manual_seed(1)) ** 4


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("n", [1, 40])
def test_shape_and_gradient_of_every_parameter(part: dict[str, Any], n: int) -> None:
    mapper = toy_mapper(**part)
    logits = mapper(proxy_scores(n))
    assert logits.shape == (4, 2, n)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mapper.parameters())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("block", [1, 7, 16, 64])
def test_blocks_equal_the_whole(part: dict[str, Any], block: int) -> None:
    mapper, proxy = toy_mapper(**part), proxy_scores(50)
    complete = mapper(proxy).detach()
    assert torch.allclose(mapper.score(proxy, block=block), complete, atol=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_halo_is_the_receptive_field(part: dict[str, Any]) -> None:
    mapper, proxy, at = toy_mapper(**part), proxy_scores(61), 30
    changed = proxy.clone()
    changed[..., at] = 1 - changed[..., at]
    moved = (mapper(proxy) != mapper(changed)).any(0).any(0).nonzero().flatten()
    reach = max(abs(int(i) - at) for i in moved)
    assert reach == mapper.halo == {"conv": 4, "time": 4, "variant": 0}.get(next(iter(part), ""), 8)


def test_logits_of_the_linear_mapper_by_plain_loops() -> None:
    """log(S + ε) − log(1 − S + ε), less its mean, over its deviation; weights, then a bias."""
    mapper, proxy, draws = toy_mapper(variant="linear"), proxy_scores(5), random.Random(3)
    mean, std = ([draws.uniform(0.5, 2) for _ in range(6)] for _ in range(2))
    bias = [draws.uniform(-3, 3) for _ in range(8)]
    mapper.set_statistics(*map(torch.tensor, (mean, std, bias)))
    weights = mapper.map.weight.tolist()
    features = [
        [math.log(s + 1e-4) - math.log(1 - s + 1e-4) for s in head]
        for layer in proxy.tolist()
        for head in layer
    ]
    found = mapper(proxy).flatten(0, 1).tolist()
    for target in range(8):
        for token in range(5):
            expected = bias[target] + sum(
                weights[target][p] * (features[p][token] - mean[p]) / std[p] for p in range(6)
            )
            assert found[target][token] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_proxy_heads_that_never_differ_are_not_blown_up() -> None:
    mapper = toy_mapper()
    mapper.set_statistics(torch.zeros(6), torch.zeros(6), torch.zeros(8))
    assert (mapper.get_buffer("std") == 1e-3).all()


def test_extreme_scores_give_finite_ranked_logits() -> None:
    mapper = toy_mapper()
    for proxy in (torch.zeros(2, 3, 20), torch.ones(2, 3, 20)):
        assert mapper.score(proxy).isfinite().all()
    with torch.no_grad():
        mapper.bias.fill_(40.0)  # σ is 1.0 in float32 for all of them
    scores = mapper.score(proxy_scores(30)).flatten()
    assert (scores.sigmoid() == 1).all() and len(scores.unique()) > 200


def test_matching_gives_each_head_its_true_distribution_and_leaves_the_order_in_it() -> None:
    mapper, scores = toy_mapper(), proxy_scores(LEVELS)
    before = mapper.score(scores).flatten(0, 1)
    true = torch.randn(8, LEVELS, generator=torch.Generator().manual_seed(2)).sort().values * 3
    mapper.calibration.learn(before, true)
    after = mapper.score(scores).flatten(0, 1)
    assert (after.sort().values - true).abs().mean() < 0.02 * (
        before.sort().values - true
    ).abs().mean()
    assert torch.equal(after.argsort(), before.argsort())
    # Also where the true scores cannot tell tokens apart, and beyond the highest logit.
    mapper.calibration.learn(before, torch.zeros_like(true))
    tied = mapper.score(scores).flatten(0, 1)
    assert torch.equal(tied.argsort(), before.argsort())
    assert (mapper.calibration(before + 100) > tied.amax()).all()


def test_wrong_input_is_refused() -> None:
    mapper = toy_mapper()
    with pytest.raises(ValueError, match="expected"):
        mapper.score(torch.rand(3, 2, 5))
    with pytest.raises(ValueError, match="finite"):
        mapper.score(torch.full((2, 3, 5), torch.nan))


@pytest.mark.parametrize(
    "change", [{"variant": "cubic"}, {"kernel": 4}, {"width": 9}, {"attention_heads": 3}]
)
def test_impossible_configs_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="mapper: "):
        replace(SMALL, **change)


@pytest.mark.parametrize("part", PARTS)
def test_save_and_load(tmp_path: Path, part: dict[str, Any]) -> None:
    mapper, proxy = toy_mapper(**part), proxy_scores(20)
    written = save_mapper(tmp_path / "m", mapper, CARD)
    loaded, card = load_mapper(tmp_path / "m", expected=CARD)
    assert card == json.loads(json.dumps(written)) and loaded.config == mapper.config
    assert torch.equal(loaded.score(proxy), mapper.score(proxy))
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "card.json",
        "weights.safetensors",
    ]


@pytest.mark.parametrize("key", ["target_hash", "proxy_hash", "vocab_hash"])
def test_another_pairs_mapper_is_refused(tmp_path: Path, key: str) -> None:
    save_mapper(tmp_path, toy_mapper(), CARD)
    with pytest.raises(ConfigError, match=f"fitted for {key}") as error:
        load_mapper(tmp_path, expected={**CARD, key: "other"})
    assert "\n" not in str(error.value)


def test_missing_or_mixed_folders_are_refused(tmp_path: Path) -> None:
    for lacks in ("card.json", "weights.safetensors"):
        save_mapper(tmp_path / lacks, toy_mapper(), CARD)
        (tmp_path / lacks / lacks).unlink()
        with pytest.raises(ConfigError, match="nothing fitted here"):
            load_mapper(tmp_path / lacks)
    save_mapper(tmp_path / "a", toy_mapper(), CARD)
    save_mapper(tmp_path / "b", toy_mapper(time=False), CARD)
    (tmp_path / "a" / "card.json").replace(tmp_path / "b" / "card.json")
    with pytest.raises(ConfigError, match="do not belong together"):
        load_mapper(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bias: bias.fill_(float("nan")), "bias holds float32 that are not finite"),
        (lambda bias: bias.index_fill(0, torch.tensor(1), torch.inf), "bias holds float32 that"),
        (lambda bias: bias.to(torch.int8), "bias holds int8 that are not finite float32"),
        (lambda bias: bias.half(), "bias holds float16 that are not finite float32"),
        (lambda bias: bias.to(torch.complex64), "bias holds complex64 that"),
        (lambda bias: bias.long(), "its tensors are not those of its card"),
        (lambda bias: bias[:-1], "its tensors are not those of its card"),
    ],
)
def test_tensors_that_are_no_numbers_are_refused(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    """Though the card has their digest: mappers come from the hub, too."""
    mapper = toy_mapper()
    card = {**CARD, "mapper": asdict(mapper.config)}
    state = mapper.state_dict()
    save_fitted(tmp_path, {**state, "bias": change(state["bias"].clone())}, card)
    with pytest.raises(ConfigError, match=f"{tmp_path}.*{message}") as refused:
        load_mapper(tmp_path)
    assert "\n" not in str(refused.value)


class Sizes(TorchDispatchMode):
    """Notes the shape of every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(t.shape) for t in tree_leaves(made) if isinstance(t, torch.Tensor)}
        return made


@pytest.mark.parametrize("part", PARTS)
def test_memory_beyond_input_and_output_does_not_grow_with_the_context(
    part: dict[str, Any],
) -> None:
    mapper = toy_mapper(**part)
    work = {}
    for n in (331, 1327):
        with Sizes() as sizes:
            mapper.score(proxy_scores(n), block=32)
        # Scores in, scores out, and whether those are finite: all have the context's length.
        complete = {shape for shape in sizes.shapes if n in shape}
        assert complete <= {(2, 3, n), (4, 2, n)}
        work[n] = max(math.prod(shape) for shape in sizes.shapes - complete)
    assert work[331] == work[1327]
