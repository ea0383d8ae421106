"""Ablations: which methods are variants, and which differences count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rows_fixture import make_rows, write_run

from proxykv.config.cards import MethodCards, method_cards
from proxykv.report import plots
from proxykv.report.ablations import COLUMNS, ablations, variants, write_ablations
from proxykv.report.plots.training import read_logs
from proxykv.report.tables.columns import LOW

WEIGHTS = {"bin": 10, "mse": 20}


def variant(name: str, **params: Any) -> dict[str, Any]:
    return {"id": name, "base": "proxykv", "params": params}


CONFIG = {
    "training": {"weights": WEIGHTS},
    "methods": [
        "full",
        "kvzip",
        variant("mse", weights={"mse": 20}),
        "proxykv",
        variant("proxykv_seed1", seed=1),
        variant("linear", mapper={"variant": "linear"}),
        variant("bin20", weights={"bin": 20, "mse": 20}),
        variant("mse_seed1", weights={"mse": 20}, seed=1),
        {"id": "proxykv_layer", "base": "proxykv", "scope": "layer"},  # no other mapper
    ],
}
# Score and KL at every retention: two seeds of the reference .02 apart.
LEVELS = {
    "proxykv": 0.6,
    "proxykv_seed1": 0.62,
    "mse": 0.5,
    "mse_seed1": 0.51,
    "linear": 0.602,
    "bin20": 0.7,
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run in which a method's score differs from another's by the same amount everywhere."""
    one = make_rows(methods=("proxykv",), retentions=(0.1, 0.5), contexts=4)
    base = one[one.method == "proxykv"].copy()
    noise = np.random.default_rng(0).normal(0, 0.05, len(base))
    frames = [
        base.assign(method=name, score=level + noise, kl=2 - level + noise)
        for name, level in LEVELS.items()
    ]
    rows = pd.concat([one[one.method == "full"], *frames])
    write_run(tmp_path, pd.DataFrame(rows), mapper=False)
    configure(tmp_path, CONFIG)
    for name, level in LEVELS.items():
        folder = tmp_path / "mappers" / "tiny" / name
        folder.mkdir(parents=True)
        metrics = {"head_overlap@0.1": level, "global_overlap@0.1": 0.7}
        (folder / "card.json").write_text(json.dumps({"metrics": metrics}))
        (folder / "log.jsonl").write_text('{"step": 1, "split": "train", "total": 1.0}\n')
    return tmp_path


def configure(run_dir: Path, config: dict[str, Any]) -> None:
    (run_dir / "config.json").write_text(json.dumps(config))
    method_cards(config).write(run_dir)


def rows_of(run_dir: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in files(run_dir)])


def files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "rows").glob("*/*/*.parquet"))


def test_variants_are_grouped_by_what_differs_besides_the_seed() -> None:
    found = [(v.id, v.group, v.methods) for v in variants(CONFIG, "proxykv")]
    assert found == [
        ("proxykv", "reference", ("proxykv", "proxykv_seed1")),
        ("mse", "loss", ("mse", "mse_seed1")),
        ("linear", "mapper", ("linear",)),
        ("bin20", "weights", ("bin20",)),
    ]


def test_another_corpus_is_no_seed_and_the_default_loss_is_the_reference() -> None:
    weights = {"bin": 10, "mse": 20, "fine": 1, "cos": 1}
    methods = [
        "proxykv",
        {"id": "code", "base": "proxykv", "corpus": ["code"]},
        {"id": "short", "base": "proxykv", "lengths": [400]},
        {"id": "paper", "base": "proxykv", "params": {"weights": {**weights, "global": 1}}},
        {"id": "bin5", "base": "proxykv", "params": {"weights": {**weights, "bin": 5}}},
    ]
    found = [(v.group, v.methods) for v in variants({"methods": methods}, "proxykv")]
    assert found == [("reference", ("proxykv",)), ("loss", ("paper",)), ("weights", ("bin5",))]


@pytest.mark.parametrize("methods", [["full", "proxykv"], ["full", CONFIG["methods"][2]]])
def test_a_run_without_variants_has_no_table(run_dir: Path, methods: list[Any]) -> None:
    configure(run_dir, {**CONFIG, "methods": methods})
    assert ablations(rows_of(run_dir), MethodCards.read(run_dir), run_dir).empty
    assert write_ablations(files(run_dir), run_dir) == []


def test_differences_below_the_seed_spread_are_none(run_dir: Path) -> None:
    table = ablations(rows_of(run_dir), MethodCards.read(run_dir), run_dir)
    assert list(table.columns) == COLUMNS
    low = table[(table.metric == "score") & (table.retention == LOW)].set_index("variant")
    assert low.seed_spread.tolist() == pytest.approx([0.02] * 4)
    assert low.difference.to_dict() == pytest.approx(
        {"proxykv": 0.0, "mse": 0.505 - 0.61, "linear": -0.008, "bin20": 0.09}
    )
    assert low.verdict.to_dict() == {
        "proxykv": "none", "mse": "worse", "linear": "none", "bin20": "better",
    }  # fmt: skip
    kl = table[(table.metric == "kl") & (table.retention == LOW)].set_index("variant")
    assert kl.verdict.to_dict() == low.verdict.to_dict()  # KL falls where the score rises
    head = table[table.metric == "head_overlap"].set_index("variant")
    assert head.verdict.to_dict() == low.verdict.to_dict() and head.ci_low.isna().all()


def test_table_and_figures_are_written(run_dir: Path) -> None:
    path, latex = write_ablations(files(run_dir), run_dir)
    table = ablations(rows_of(run_dir), MethodCards.read(run_dir), run_dir)
    assert len(pd.read_csv(path)) == len(table) and latex.suffix == ".tex"
    assert set(read_logs(run_dir)) == {"tiny · proxykv"}  # variants would be dozens
    figure = plots.draw("ablation", rows_of(run_dir), MethodCards.read(run_dir), run_dir)
    assert figure is not None
    drawn = {axis.get_title("left").rpartition(" · ")[2] for axis in figure.axes}
    kinds = ("terms of the loss", "weights of the loss", "parts of the mapper")
    assert drawn == {f"{kind}: {metric}" for kind in kinds for metric in ("score", "kl")}
