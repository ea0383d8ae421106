"""Every press of kvpress does what docs/reference/presses.md says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from method_fixture import model, needs_kvpress

from baselines._press import folder_digest, kvpress_package
from baselines.kvpress import KVPress
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "presses.md"
LINES = {
    name: (settings.strip("`"), runs)
    for name, settings, runs, _ in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("| ") and "`{" in line
    )
}

pytestmark = needs_kvpress


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model with a folder: some presses load the tokenizer from there."""
    made, folder = model(seed=0, num_hidden_layers=3), tmp_path_factory.mktemp("model")
    made.tokenizer.save_pretrained(folder)
    made.net.config.save_pretrained(folder)
    made.net.config.name_or_path = str(folder)
    return made


@pytest.fixture(scope="module")
def alone() -> MethodContext:
    """What a press needs: nothing is fitted, and there is no proxy."""
    ledger = Ledger()
    return MethodContext({}, Proxy(lambda: model(seed=1), ledger), {}, {}, 0, ledger)


@pytest.fixture(scope="module")
def context(stored: Model) -> Prefill:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, stored.net.config.vocab_size, (96,), generator=generator)
    return prefill(stored, ids, 0)


@pytest.fixture(scope="module")
def weights(stored: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the names that presses give them on the hub."""
    kvpress_package()
    from kvpress.presses import (  # pyright: ignore[reportMissingImports]
        expected_attention_with_stats,
        kvzap_press,
        qfilter_press,
    )

    folder, config = tmp_path_factory.mktemp("weights"), stored.net.config
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    torch.manual_seed(0)
    kvzap = kvzap_press.KVzapConfig(
        input_dim=config.hidden_size, output_dim=heads, n_modules=layers, hidden_dim=8
    )
    kvzap_press.KVzapModel(kvzap).save_pretrained(folder / "nvidia/KVzap-mlp-Random")
    filters = qfilter_press.QFilters(layers, heads, config.head_dim)
    filters.save_pretrained(folder / "nthngdy/Random_qfilt")
    stats = expected_attention_with_stats.ExpectedAttentionStats(
        layers, config.num_attention_heads, config.head_dim, "kmfoda/booksum", "org/Random",
        num_samples=100, sample_seq_len=1000, n_sink=4,
    )  # fmt: skip
    stats.save_pretrained(folder / stats.stats_id())
    return folder


def params_of(settings: str, weights: Path) -> Mapping[str, Any]:
    digest = folder_digest(weights)
    filled = settings.replace("FOLDER", str(weights)).replace("SHA256", digest)
    return yaml.safe_load(filled).get("params", {})


def test_the_page_lists_every_press() -> None:
    kvpress = kvpress_package()
    published = [getattr(kvpress, name) for name in kvpress.__all__]
    presses = {kind.__name__ for kind in published if issubclass(kind, kvpress.BasePress)}
    assert set(LINES) == presses


@pytest.mark.parametrize("name", LINES)
def test_a_press(name: str, alone: MethodContext, context: Prefill, weights: Path) -> None:
    settings, runs = LINES[name]

    def run() -> torch.Tensor:
        scorer = KVPress(alone, name=name, **params_of(settings, weights))
        custom = "scope: custom" in settings
        return scorer.keep(context, 0.3) if custom else scorer.score(context)

    outcome, _, message = runs.partition(": ")
    if outcome == "no":
        with pytest.raises(ConfigError, match=message) as refused:
            run()
        assert "\n" not in str(refused.value)
        return
    found = run()
    assert found.shape == context.shape
    if outcome == "kept set":
        assert found.dtype == torch.bool
        assert 0.05 < found.float().mean() < 0.95
    else:
        assert outcome == "scores"
        assert torch.isfinite(found).all()
        assert len(found.unique()) > 10


def test_a_threshold_decides_what_is_kept(alone: MethodContext, context: Prefill) -> None:
    norm: dict[str, Any] = {"name": "KnormPress"}
    scores = KVPress(alone, **norm).score(context)
    between = [scores.quantile(share).item() for share in (0.3, 0.8)]
    at: list[Any] = [
        {"retention": r, "threshold": t} for r, t in zip((0.7, 0.2), between, strict=True)
    ]
    dms = KVPress(alone, "DMSPress", at=at, press=norm, sliding_window_size=8)
    for entry in at:
        expected = scores >= entry["threshold"]
        expected[..., -8:] = True
        assert torch.equal(dms.keep(context, entry["retention"]), expected)
    with pytest.raises(ConfigError, match=r"`at` has no entry of retention 0\.5"):
        dms.keep(context, 0.5)


def test_weights_are_pinned(alone: MethodContext, weights: Path, tmp_path: Path) -> None:
    about: Any = {"folder": str(weights), "model": "org/Random"}
    with pytest.raises(ConfigError, match=f"has the digest {folder_digest(weights)}, not 'ab'"):
        KVPress(alone, "QFilterPress", press_files=about | {"sha256": "ab"})
    with pytest.raises(ConfigError, match="no folder"):
        gone: Any = {"folder": str(tmp_path / "gone"), "model": "org/Random", "sha256": "ab"}
        KVPress(alone, "QFilterPress", press_files=gone)
    with pytest.raises(ConfigError, match="sha256 missing"):
        KVPress(alone, "QFilterPress", press_files=about)


def test_gradients_leave_the_model_as_it_was(alone: MethodContext, context: Prefill) -> None:
    before = [p.requires_grad for p in context.model.net.parameters()]
    KVPress(alone, "KVgradPress").keep(context, 0.3)
    assert [p.requires_grad for p in context.model.net.parameters()] == before
    assert all(p.grad is None for p in context.model.net.parameters())
