"""Parts of the corpus: what a method is fitted on, what is held out, and the table of fidelity."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from method_fixture import PREFIX
from safetensors.torch import save_file

from proxykv.cli import main
from proxykv.config import catalog, paths
from proxykv.config.run import Run
from proxykv.mapper.corpus import contexts, fitted_on
from proxykv.mapper.fidelity import rank_correlation
from proxykv.mapper.layer_inputs import inputs_file, sample_inputs
from proxykv.model.prefill import Prefill
from proxykv.report import plots
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext, build
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.steps.extract import extract, extract_inputs
from proxykv.steps.fidelity.transfer import COLUMNS, fidelity_table
from proxykv.steps.fit import fit
from proxykv.steps.prepare import prepare
from proxykv.steps.screen import screen

TINY = {"benchmark": "tiny", "lengths": [64, 96]}
CONFIG: dict[str, Any] = {
    "run": "r",
    "families": ["tiny"],
    "retentions": [0.1, 1.0],
    "methods": [
        *("full", "prior", "kvzip_iam", "surrogate", "proxykv"),
        {"id": "proxykv_single", "base": "proxykv", "corpus": ["single"]},
        {"id": "proxykv_single_head", "base": "proxykv_single", "scope": "head"},
        {"id": "prior_96", "base": "prior", "lengths": [96]},
    ],
    "benchmarks": [{**TINY, "tasks": ["single"], "contexts": 1}],
    "corpus": [
        {**TINY, "tasks": ["single"], "contexts": 7, "held_out": 3},
        {**TINY, "tasks": ["vt"], "part": "others", "contexts": 4, "held_out": 2},
    ],
    "training": {"steps": 2, "val_contexts": 1},
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose methods are fitted; nothing is decoded."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "models").symlink_to(catalog.ROOT / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = Run(CONFIG)
        run.write()
        for split in ("train", "eval"):
            for dataset in run.datasets("tiny", split):
                prepare(run, dataset)
        extract(run, "tiny", 0)
        extract_inputs(run, "tiny", 0)
        screen(run, "tiny")
        for fitted_id in run.fitted_ids:
            fit(run, "tiny", fitted_id)
        yield run


def names(run: Run, **properties: Any) -> set[str]:
    found = contexts(run, "tiny")
    return {c.name for c in found if all(getattr(c, k) == v for k, v in properties.items())}


def test_the_corpus_has_parts_lengths_and_contexts_that_nothing_is_fitted_on(fitted: Run) -> None:
    assert len(names(fitted, part="single")) == 7 and len(names(fitted, part="others")) == 4
    assert len(names(fitted, length=64)) == 6 and len(names(fitted, length=96)) == 5
    held_out = names(fitted, held_out=True)
    assert len(held_out) == 5
    assert fitted_on(fitted, "tiny", fitted.methods["proxykv"]) == names(fitted, held_out=False)
    single = names(fitted, held_out=False, part="single")
    assert fitted_on(fitted, "tiny", fitted.methods["proxykv_single"]) == single
    assert fitted_on(fitted, "tiny", fitted.methods["prior_96"]) == names(
        fitted, held_out=False, length=96
    )


def test_a_part_or_a_length_is_fitted_again_and_another_scope_is_not(fitted: Run) -> None:
    folders = {a: paths.fitted_dir(fitted, "tiny", a) for a in fitted.fitted_ids}
    learnt = ("prior", "kvzip_iam", "surrogate", "proxykv", "proxykv_single", "prior_96")
    assert tuple(folders) == learnt
    cards = {a: json.loads((folder / "card.json").read_text()) for a, folder in folders.items()}
    # Neither trained on nor used to choose a step.
    trained_on = {a: {*cards[a]["train_contexts"], *cards[a]["val_contexts"]} for a in learnt[2:5]}
    assert trained_on["proxykv"] == trained_on["surrogate"] == names(fitted, held_out=False)
    assert trained_on["proxykv_single"] == names(fitted, held_out=False, part="single")
    assert cards["prior"]["contexts"] == 6 and cards["prior_96"]["contexts"] == 3


def test_every_fitted_method_is_tested_on_every_part_and_length(fitted: Run) -> None:
    table = fidelity_table(fitted)
    assert list(table.columns) == COLUMNS
    assert set(table.method) == set(fitted.fitted_ids)
    one = table[(table.metric == "head_overlap") & (table.retention == 0.1)]
    counts = one[one.method == "proxykv_single"].set_index(["part", "length"]).n_contexts
    assert counts.to_dict() == {
        ("single", "all"): 3, ("others", "all"): 2, ("single", "64"): 2, ("single", "96"): 1,
        ("others", "64"): 1, ("others", "96"): 1,
    }  # fmt: skip
    labels = one.groupby("method")[["fitted_on", "fitted_lengths"]].first()
    assert labels.loc["proxykv_single"].tolist() == ["single", "all"]
    assert labels.loc["prior_96"].tolist() == ["all", "96"]
    metrics = set(table.metric)
    assert metrics == {"mass", "global_overlap", "allocation", "head_overlap", "rank_correlation"}
    pooled = one[one.length == "all"]
    assert (pooled.ci_low <= pooled["mean"]).all() and (pooled["mean"] <= pooled.ci_high).all()
    assert one[one.n_contexts == 1].ci_low.isna().all()


def test_the_step_writes_the_table_and_a_heat_map_without_any_rows(
    fitted: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = pd.DataFrame()
    assert plots.draw("transfer", nothing, fitted.cards, fitted.dir) is None
    assert main(["transfer", "--config", str(fitted.dir / "config.json")]) == 0
    assert (fitted.dir / "figures" / "transfer.svg").stat().st_size
    figure = plots.draw("transfer", nothing, fitted.cards, fitted.dir)
    assert figure is not None
    by_part, by_length = figure.axes
    lines = [label.get_text() for label in by_part.get_yticklabels()]
    assert lines == [
        *("prior", "kvzip_iam", "surrogate", "proxykv"),
        *("proxykv_single (single)", "prior_96 (96)"),
    ]
    assert [label.get_text() for label in by_part.get_xticklabels()] == ["single", "others"]
    assert {label.get_text() for label in by_length.get_xticklabels()} == {"64", "96"}


def test_a_corpus_that_holds_nothing_out_is_refused(fitted: Run) -> None:
    plain = [{k: v for k, v in part.items() if k != "held_out"} for part in CONFIG["corpus"]]
    with pytest.raises(ConfigError, match="no context is held out of it"):
        fidelity_table(Run(CONFIG | {"corpus": plain}))


def test_a_part_of_which_nothing_is_left_is_refused(fitted: Run) -> None:
    corpus = [CONFIG["corpus"][0], CONFIG["corpus"][1] | {"held_out": 4}]
    methods = ["full", "surrogate", {"id": "prior_others", "base": "prior", "corpus": ["others"]}]
    with pytest.raises(ConfigError, match="no context is left to fit 'prior_others' on"):
        fit(Run(CONFIG | {"corpus": corpus, "methods": methods}), "tiny", "prior_others")


@pytest.mark.parametrize(
    "method_id",
    ["proxykv", "kvzip_iam", "kvzip_iam_rescaled", "surrogate", "surrogate_embedding"],
)
def test_stored_scores_are_predicted_as_a_context_is_scored(
    method_id: str, method_context: MethodContext, prefilled: Prefill, tmp_path: Path
) -> None:
    method = method_context.methods[method_id]
    target = score_replays(prefilled, replays(prefilled.model, prefilled.context))
    path = tmp_path / "context.safetensors"
    proxy = method_context.proxy.scores(prefilled, prefilled.input_ids)
    save_file({"target": target.contiguous(), "proxy": proxy.contiguous()}, path)
    inputs = sample_inputs(prefilled.model, prefilled.input_ids, PREFIX, path.name)
    save_file(inputs, inputs_file(path))
    fitting = importlib.import_module(catalog.module_of(method.base)[0])
    predict = fitting.predictor(method_context.fitted[str(method.fitted_id)], method.params)
    predicted, true = predict(path)
    assert torch.equal(true, target)
    scores = build(method, method_context).score(prefilled)
    # Inputs are stored in half precision, and the first tokens have no prefix before them there.
    torch.testing.assert_close(predicted[..., 8:], scores[..., 8:], atol=0.05, rtol=0.05)


def test_rank_correlation_is_spearmans_mean_over_heads() -> None:
    target = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]]])
    assert rank_correlation(target**3, target) == pytest.approx(1)
    assert rank_correlation(target.flip(1), target) == pytest.approx(-1)
    half = target.clone()
    half[0, 0] = 0.5  # a head that tells nothing
    assert rank_correlation(half, target) == pytest.approx(0.5)
    tied = torch.tensor([[[1.0, 1.0, 2.0, 2.0]]])
    assert rank_correlation(tied, target[:, :1]) == pytest.approx(2 / 5**0.5)
