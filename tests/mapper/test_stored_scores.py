"""Stored scores: what is read together belongs together; what a mapper starts with."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from proxykv.mapper.layer_inputs import inputs_file, load_inputs
from proxykv.mapper.stored_scores import (
    calibrate_quantiles,
    initial_mapper,
    load_scores,
    signal_file,
)
from proxykv.runtime.errors import ConfigError

SETTINGS = {"variant": "linear"}


def numbered(heads: int, tokens: int) -> torch.Tensor:
    """Scores [1, heads, tokens] that tell which head and token they belong to."""
    token = torch.arange(tokens) / 1024
    return (token + torch.arange(heads)[:, None] / 4)[None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "a.safetensors"
    stored = {"target": numbered(3, 200), "proxy": numbered(2, 200)}
    save_file(stored, file)
    save_file({"proxy": 1 - stored["proxy"]}, signal_file(file, "prefill"))
    return file


@pytest.mark.parametrize("signal", ["kvzip", "prefill"])
def test_proxy_and_target_are_read_of_the_same_tokens(path: Path, signal: str) -> None:
    draws, firsts = torch.Generator().manual_seed(0), set()
    for _ in range(40):
        proxy, target = load_scores(path, signal, crop=30, generator=draws)
        assert proxy.shape == (1, 2, 30) and target.shape == (1, 3, 30)
        tokens = target[0, 0]
        assert torch.allclose(tokens.diff(), torch.tensor(1 / 1024))
        expected = proxy if signal == "kvzip" else 1 - proxy
        assert torch.allclose(expected[0, 0], tokens) and torch.allclose(target[0, 2], tokens + 0.5)
        firsts.add(round(tokens[0].item() * 1024))
    assert len(firsts) > 20 and min(firsts) >= 0 and max(firsts) <= 170


def test_every_window_can_be_drawn(path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    first = [
        round(load_scores(path, crop=198, generator=draws)[1][0, 0, 0].item() * 1024)
        for _ in range(60)
    ]
    assert set(first) == {0, 1, 2}


def test_a_short_context_is_read_whole_and_draws_nothing(path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    before = draws.get_state()
    assert load_scores(path, crop=200, generator=draws)[1].shape == (1, 3, 200)
    assert torch.equal(draws.get_state(), before)


def test_inputs_and_target_are_read_of_the_same_tokens(path: Path) -> None:
    tokens = torch.tensor([3, 10, 11, 40, 77, 90, 150, 199])
    stored = (tokens / 1024).reshape(1, -1, 1).half()
    save_file({"hidden": stored, "hidden_tokens": tokens}, inputs_file(path))
    draws = torch.Generator().manual_seed(0)
    for _ in range(10):
        inputs, target = load_inputs(path, "hidden", crop=3, generator=draws)
        assert inputs.shape == (1, 3, 1) and target.shape == (1, 3, 3)
        assert torch.allclose(inputs[0, :, 0], target[0, 0], atol=1e-4)


def test_a_mapper_starts_with_the_statistics_of_all_training_tokens(tmp_path: Path) -> None:
    """By plain loops over contexts of different lengths, so that every token counts once."""
    draws, files = torch.Generator().manual_seed(1), []
    contexts = []
    for index, tokens in enumerate((7, 30)):
        contexts.append((torch.rand(1, 2, tokens, generator=draws) / (index + 1),) * 2)
        files.append(tmp_path / f"{index}.safetensors")
        save_file({"proxy": contexts[-1][0], "target": contexts[-1][1].clone()}, files[-1])
    mapper = initial_mapper(files, SETTINGS)
    for head in range(2):
        scores = [s for proxy, _ in contexts for s in proxy[0, head].tolist()]
        features = [math.log(s + 1e-4) - math.log(1 - s + 1e-4) for s in scores]
        mean = sum(features) / len(features)
        variance = sum((x - mean) ** 2 for x in features) / len(features)
        clamped = [min(max(s, 1e-3), 1 - 1e-3) for s in scores]
        logit = sum(math.log(s / (1 - s)) for s in clamped) / len(scores)
        assert mapper.get_buffer("mean")[head].item() == pytest.approx(mean, rel=1e-4)
        assert mapper.get_buffer("std")[head].item() == pytest.approx(variance**0.5, rel=1e-4)
        assert mapper.bias[head].item() == pytest.approx(logit, rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 2, 9), (1, 3, 9)])
def test_contexts_of_two_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_file({"proxy": torch.rand(1, 2, 9), "target": torch.rand(1, 2, 9)}, files[0])
    save_file({"proxy": torch.rand(shape), "target": torch.rand(1, 2, 9)}, files[1])
    with pytest.raises(ConfigError, match=r"b\.safetensors: scores of another pair's shape"):
        initial_mapper(files, SETTINGS)


def test_calibration_pairs_each_head_with_its_own_scores(tmp_path: Path) -> None:
    """Contexts of 400 and 1200 tokens: of the longer, every third token counts."""
    draws, files = torch.Generator().manual_seed(1), []
    for index, tokens in enumerate((400, 1200)):
        target = torch.rand(1, 2, tokens, generator=draws)
        target[:, 1] = target[:, 1] / 10
        files.append(tmp_path / f"{index}.safetensors")
        save_file({"proxy": torch.rand(1, 2, tokens, generator=draws), "target": target}, files[-1])
    mapper = initial_mapper(files, SETTINGS).eval()
    torch.nn.init.normal_(mapper.get_parameter("map.weight"))
    calibrate_quantiles(mapper, files, load_scores, "kvzip", torch.device("cpu"))
    true = torch.cat([load_scores(files[0])[1], load_scores(files[1])[1][..., ::3]], dim=-1)
    expected = true.logit(eps=1e-6).flatten(0, 1)
    pieces = [mapper.score(load_scores(path)[0]) for path in files]
    found = torch.cat([pieces[0], pieces[1][..., ::3]], dim=-1).flatten(0, 1)
    levels = torch.linspace(0.1, 0.9, 9)
    assert torch.allclose(found.quantile(levels, -1), expected.quantile(levels, -1), atol=0.1)
