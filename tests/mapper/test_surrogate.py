"""The surrogate: learns from the inputs of the target's layers and reads the prefill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from method_fixture import PAIR, PREFIX, fill
from random_models import random_ids
from safetensors.torch import load_file, save_file

from baselines import surrogate
from baselines.surrogate import Surrogate
from proxykv.config import catalog, paths
from proxykv.config.run import Run
from proxykv.mapper import layer_inputs
from proxykv.mapper.fidelity import fidelity
from proxykv.mapper.fitted import load_fitted
from proxykv.mapper.layer_inputs import inputs_file, load_inputs, sample_inputs
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.hidden_states import scoring_layers
from proxykv.steps.extract import extract, extract_inputs
from proxykv.steps.fit import fit
from proxykv.steps.generate import generate
from proxykv.steps.prepare import prepare
from proxykv.steps.screen import screen

KINDS: dict[str, dict[str, Any]] = {
    "surrogate": {"inputs": "hidden"},
    "surrogate_embedding": {"inputs": "embedding", "kernel": 3},
}
QUICK = {"steps": 120, "lr": 1e-2, "warmup": 5, "val_contexts": 2, "eval_every": 120}


def planted(model: Model, ids: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """Inputs of a context, and scores [layer, 2, token] that are linear in each layer's."""
    stored = sample_inputs(model, ids, PREFIX, name)
    hidden = stored["hidden"].float()
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(len(hidden), 2, hidden.shape[-1], generator=generator)
    logits = lines @ hidden.mT / hidden.std() / hidden.shape[-1] ** 0.5
    return stored | {"target": logits.sigmoid()}


@pytest.fixture(scope="module")
def files(target: Model, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("planted")
    files = [folder / f"{i}.safetensors" for i in range(12)]
    for i, path in enumerate(files):
        stored = planted(target, random_ids(PREFIX + 96, seed=i), path.name)
        save_file({"target": stored.pop("target")}, path)
        save_file(stored, inputs_file(path))
    return files


@pytest.fixture(scope="module")
def fitted(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fitted")
    for name, params in KINDS.items():
        surrogate.fit(files, folder / name, {**QUICK, **params}, PAIR)
    return {name: folder / name for name in KINDS}


def test_scores_that_the_inputs_decide_are_learnt_and_not_from_tokens_alone(
    fitted: dict[str, Path], method_context: MethodContext, target: Model
) -> None:
    ids = random_ids(PREFIX + 96, seed=99)
    true = planted(target, ids, "unseen")["target"]
    overlap = {}
    for name, folder in fitted.items():
        scores = Surrogate(method_context, folder).score(prefill(target, ids, PREFIX))
        overlap[name] = [
            fidelity(scores[layer, None], true[layer, None])["head_overlap@0.2"]
            for layer in range(len(true))
        ]
    assert min(overlap["surrogate"]) > 0.75
    # What enters the first layer is the embedding; what enters the last depends on the context.
    assert overlap["surrogate_embedding"][0] > 0.75
    assert overlap["surrogate_embedding"][-1] < overlap["surrogate"][-1] - 0.2


def test_the_card_is_like_a_mappers(fitted: dict[str, Path], files: list[Path]) -> None:
    for name, params in KINDS.items():
        _, card = load_fitted(fitted[name], PAIR)
        assert {"mass@0.1", "head_overlap@0.2", "allocation@0.3"} <= card["metrics"].keys()
        assert len(card["val_contexts"]) == 2
        assert card["training"]["signal"] == params["inputs"]


@pytest.mark.parametrize("name", KINDS)
def test_each_heads_scores_are_spread_as_its_true_ones(
    name: str, fitted: dict[str, Path], files: list[Path]
) -> None:
    """Also where a regression would stay near the mean, because the inputs do not decide them."""
    pairs = [surrogate.predictor(fitted[name], {})(path) for path in files]
    scores, true = (torch.cat(parts, dim=-1).flatten(0, 1) for parts in zip(*pairs, strict=True))
    spread = scores.std(dim=-1) / true.logit().std(dim=-1)
    assert ((spread > 0.8) & (spread < 1.25)).all(), spread


def test_the_same_seed_gives_the_same_weights(files: list[Path], tmp_path: Path) -> None:
    digests = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(digests))
        surrogate.fit(files, out, {**QUICK, "steps": 4, "seed": seed}, PAIR)
        digests.append(load_fitted(out)[1]["weights_sha256"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("width", [0, 8])
def test_linear_and_wider_networks_load_as_they_were_fitted(
    width: int, files: list[Path], method_context: MethodContext, prefilled: Prefill, tmp_path: Path
) -> None:
    surrogate.fit(files, tmp_path / "out", {**QUICK, "steps": 2, "width": width}, PAIR)
    scorer = Surrogate(method_context, tmp_path / "out")
    assert scorer.net.config.width == width
    assert tuple(scorer.score(prefilled).shape) == prefilled.shape


def test_tokens_alone_score_the_same_wherever_they_stand(
    fitted: dict[str, Path], method_context: MethodContext, target: Model
) -> None:
    """The same stretch behind different beginnings: only its first token has other neighbours."""
    stretch = random_ids(40, seed=7)
    contexts = [torch.cat([random_ids(PREFIX + 20, seed=s), stretch]) for s in (1, 2)]
    same = {}
    for name, folder in fitted.items():
        scorer = Surrogate(method_context, folder)
        one, other = (scorer.score(prefill(target, ids, PREFIX))[..., 21:] for ids in contexts)
        same[name] = [torch.allclose(a, b, atol=1e-4) for a, b in zip(one, other, strict=True)]
    assert same == {"surrogate_embedding": [True] * 3, "surrogate": [True, False, False]}


@pytest.mark.parametrize("name", KINDS)
def test_watching_the_prefill_gives_the_same_scores_and_is_charged(
    name: str,
    fitted: dict[str, Path],
    method_context: MethodContext,
    target: Model,
    contexts: list[str],
) -> None:
    scorer = Surrogate(method_context, fitted[name])
    again = scorer.score(fill(target, contexts[6]))
    with scoring_layers(target, {scorer.key: scorer.score_layer}) as layers:
        complete = fill(target, contexts[6])
    ledger = method_context.ledger
    prefilled = layers.settle(complete, ledger)
    scores, seconds = ledger.timed(prefilled, lambda: scorer.score(prefilled))
    assert torch.equal(scores, again)
    assert seconds >= layers.seconds[scorer.key] > 0
    assert prefilled.seconds == pytest.approx(complete.seconds - layers.seconds[scorer.key])


def test_a_sample_is_bounded_in_bytes_and_decided_by_its_name(
    target: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_ids(PREFIX + 90, seed=3)
    complete = sample_inputs(target, ids, PREFIX, "a")
    assert complete["hidden"].shape == (3, 90, 64) and complete["embedding"].shape == (1, 90, 64)
    monkeypatch.setattr(
        layer_inputs, "MAX_BYTES", {"hidden": 2 * 3 * 64 * 10, "embedding": 2 * 64 * 30}
    )
    one, same, other = (sample_inputs(target, ids, PREFIX, name) for name in "aab")
    assert one["hidden"].shape == (3, 10, 64) and one["embedding"].shape == (1, 30, 64)
    for kind in ("hidden", "embedding"):
        tokens = one[f"{kind}_tokens"]
        assert torch.equal(tokens, same[f"{kind}_tokens"])
        assert not torch.equal(tokens, other[f"{kind}_tokens"])
        assert torch.equal(one[kind], complete[kind][:, tokens])
    assert (one["embedding_tokens"].diff() == 1).all()  # neighbours, for the convolution


def test_inputs_are_read_with_the_scores_of_their_tokens(
    target: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        layer_inputs, "MAX_BYTES", {"hidden": 2 * 3 * 64 * 10, "embedding": 2 * 64 * 30}
    )
    path = tmp_path / "a.safetensors"
    scores = torch.rand(3, 2, 90)
    save_file({"target": scores}, path)
    with pytest.raises(ConfigError, match="inputs of the target's layers are not stored"):
        load_inputs(path)
    stored = sample_inputs(target, random_ids(PREFIX + 90, seed=3), PREFIX, "a")
    save_file(stored, inputs_file(path))
    inputs, target_scores = load_inputs(path, "hidden")
    assert torch.equal(target_scores, scores[..., stored["hidden_tokens"]])
    assert torch.equal(inputs, stored["hidden"].float())
    draws = torch.Generator().manual_seed(1)
    inputs, target_scores = load_inputs(path, "embedding", crop=12, generator=draws)
    windows = (
        stored["embedding"].float().unfold(1, 12, 1).movedim(-1, 2)
    )  # [1, start, token, width]
    (start,) = [i for i in range(windows.shape[1]) if torch.equal(inputs, windows[:, i])]
    assert start > 0
    assert torch.equal(target_scores, scores[..., stored["embedding_tokens"][start : start + 12]])


def test_an_even_kernel_is_refused(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kernel 4 is even; choose an odd number"):
        surrogate.fit(files, tmp_path, {**QUICK, "kernel": 4}, PAIR)


def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    if not (tmp_path / "models").exists():
        (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    monkeypatch.chdir(tmp_path)
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 3, "lengths": [96]}
    config = {
        "run": "r",
        "families": ["tiny"],
        "retentions": [0.3, 1.0],
        "methods": ["full", "surrogate"],
        "benchmarks": [{**dataset, "contexts": 2}],
        "corpus": [dataset],
        "training": {"steps": 2, "val_contexts": 1},
    }
    return Run(config | changes)


def test_a_run_stores_inputs_fits_and_scores_without_another_prefill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, monkeypatch)
    (job,) = run.jobs()
    for dataset in (job.dataset, *run.datasets("tiny", "train")):
        prepare(run, dataset)
    # Another run has the scores already: they do not change, and inputs are added.
    other = make_run(tmp_path, monkeypatch, run="other", methods=["full", "prior"])
    extract(other, "tiny", 0)
    (folder,) = (tmp_path / "cache" / "scores").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert len(before) == 3
    assert paths.score_lists(run, "tiny") == paths.score_lists(other, "tiny")
    extract_inputs(run, "tiny", 0)
    stored = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert stored.keys() == before.keys() | {inputs_file(path) for path in before}
    extract_inputs(run, "tiny", 0)
    assert {path: path.stat().st_mtime_ns for path in stored} == stored | before
    assert load_file(inputs_file(next(iter(before))))["hidden"].dtype == torch.float16

    screen(run, "tiny")
    fit(run, "tiny", "surrogate")
    again = "scores_of_another_prefill"
    monkeypatch.setattr(surrogate, again, lambda *_: pytest.fail("prefilled again"))
    for protocol in ("query_agnostic", "query_aware"):
        run = make_run(tmp_path, monkeypatch, protocol=protocol)
        rows = pd.read_parquet(generate(run, job)).query("method == 'surrogate'")
        assert len(rows) and (rows.prefill_seconds > 0).all() and (rows.score_seconds > 0).all()
