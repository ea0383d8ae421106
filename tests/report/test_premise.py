"""Is the proxy's mask as good as the target's own? All three answers, from rows and in words."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from checkout import Checkout
from rows_fixture import cards_of, make_rows

from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.report import tables
from proxykv.report.tables.premise import judged
from proxykv.report.verdict import verdicts

CONTEXTS = 20
LENGTHS = (32768, 174080)


def rows_with(gaps: dict[int, float], spread: float) -> pd.DataFrame:
    """Rows in which KVzip scores so many points more than ProxyKV on contexts of each length."""
    rows = make_rows(contexts=CONTEXTS, methods=("kvzip", "proxykv"), retentions=(0.1, 0.3, 0.5))
    number = rows.context_id.str.extract(r"(\d+)$", expand=False).astype(int)
    rows["context_tokens"] = np.where(number % 2 == 0, *LENGTHS) - number
    gap = np.where(number % 2 == 0, gaps[LENGTHS[0]], gaps[LENGTHS[1]])
    noise = spread * np.where(number // 2 % 2 == 0, 1, -1)
    own = rows.method == "kvzip"
    rows["score"] = 0.5 + own * (gap + noise) / 100
    # Beyond the low retentions everything is otherwise: it must not be read.
    return rows.assign(score=rows.score.where(rows.retention != 0.5, own * 1.0))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    cards = replace(cards_of(rows), comparisons={"premise": (("kvzip", "proxykv"),)})
    return tables.premise(rows, cards)


def test_each_length_has_its_outcome() -> None:
    found = table(rows_with({LENGTHS[0]: 1.0, LENGTHS[1]: 6.0}, spread=2.0))
    assert list(found.outcome) == ["upheld", "falsified"]
    assert list(found.points) == pytest.approx([1.0, 6.0], abs=1.0)
    assert list(found.n_contexts) == [4 * CONTEXTS / 2] * 2  # four tasks
    assert found.tokens.between(32700, 32768).iloc[0]
    assert found.n_needed.isna().all()


def test_the_low_retentions_count_alike_up_to_the_last_of_them() -> None:
    rows = rows_with({LENGTHS[0]: 4.0, LENGTHS[1]: 8.0}, spread=0.5)
    alike = rows.assign(score=rows.score.where(rows.retention != 0.3, 0.5))
    assert list(table(alike).points) == pytest.approx([2.0, 4.0], abs=0.3)


def test_an_interval_that_ends_at_the_margin_is_undecided() -> None:
    ids = [f"vt-{i}" for i in range(4)]
    gaps = pd.DataFrame({"task": "vt", "context_id": ids, "gap": [3.0, 3.0, 3.0, 0.0]})
    found = judged(gaps)
    assert (found["ci_high"], found["outcome"]) == (3.0, "undecided")


def test_every_comparison_is_tested_at_each_length() -> None:
    rows = rows_with({LENGTHS[0]: 0.0, LENGTHS[1]: -4.0}, spread=0.5)
    cards = replace(cards_of(rows), comparisons={"main": (("kvzip", "proxykv"),)})
    found = tables.by_length(rows, cards)
    assert list(found.tokens) == list(table(rows).tokens)
    assert list(found.difference) == pytest.approx([0.0, -0.04], abs=0.01)
    assert (found.p_holm >= found.p).all()
    assert [p < 0.05 for p in found.p_holm] == [False, True]
    assert list(found.n_contexts) == [4 * CONTEXTS / 2] * 2
    same = rows.assign(context_tokens=4000)  # nothing to tell apart
    assert tables.by_length(same, cards).empty


def test_an_interval_around_the_margin_decides_nothing_and_says_what_would() -> None:
    rows = rows_with({LENGTHS[0]: 2.0, LENGTHS[1]: 4.0}, spread=20.0)
    for line in table(rows).itertuples():
        assert line.outcome == "undecided"
        assert line.ci_low < 3 < line.ci_high
        # With so many contexts the interval, which shrinks with their root, leaves the margin out.
        half = (line.ci_high - line.ci_low) / 2 * (line.n_contexts / line.n_needed) ** 0.5
        assert half < abs(line.points - 3) < 1.5 * half
        assert line.n_needed > line.n_contexts


def test_contexts_that_all_differ_alike_decide_nothing() -> None:
    """As where the full cache and every method score nothing."""
    rows = rows_with(dict.fromkeys(LENGTHS, 0.0), 0.0).assign(score=0.0)
    cards = replace(cards_of(rows), comparisons={"premise": (("kvzip", "proxykv"),)})
    found = table(rows)
    assert list(found.outcome) == ["undecided"] * 2
    assert found.n_needed.isna().all()
    made = {name: table(rows, cards) for name, table in tables.TABLES.items()}
    (findings,) = verdicts(made, cards).values()
    assert findings[0].tone == "tie"
    assert findings[0].text.endswith(
        "all contexts differ alike, which says nothing about their spread."
    )


@pytest.mark.parametrize(
    ("points", "spread", "tone", "said"),
    [
        (6.0, 2.0, "bad", "The premise is falsified: KVzip scores +6.0 points"),
        (1.0, 2.0, "good", "The premise is upheld: KVzip scores +1.0 points"),
        (2.0, 20.0, "tie", "The premise is undecided: KVzip scores +2.0 points"),
    ],
)
def test_the_verdict_begins_with_it(points: float, spread: float, tone: str, said: str) -> None:
    rows = rows_with(dict.fromkeys(LENGTHS, points), spread)
    cards = replace(cards_of(rows), comparisons={"premise": (("kvzip", "proxykv"),)})
    made = {name: table(rows, cards) for name, table in tables.TABLES.items()}
    (findings,) = verdicts(made, cards).values()
    for length, finding in zip(made["premise"].tokens, findings, strict=False):
        assert finding.tone == tone
        assert finding.text.startswith(said)
        assert f"against ProxyKV at about {length:,} tokens and ρ ≤ 0.3" in finding.text
    decided = {"falsified": "more than 3.", "upheld": "less than 3."}
    end = decided.get(said.split()[3].rstrip(":"), "would decide at this mean and spread.")
    assert findings[0].text.endswith(end)


def test_runs_that_do_not_ask_get_no_answer() -> None:
    rows = rows_with(dict.fromkeys(LENGTHS, 6.0), 2.0)
    assert tables.premise(rows, cards_of(rows)).empty


def test_the_preset_on_the_embedded_models_is_planned(tmp_path: Path) -> None:
    """The same jobs at 8k tokens, as far as the embedded models were trained to see."""
    preset = yaml.safe_load((catalog.ROOT / "config" / "falsification.yaml").read_text("utf-8"))
    tiny = {"benchmark": "tiny", "tasks": ["single", "vt"], "contexts": 2, "lengths": [8000]}
    corpus = [{**tiny, "contexts": 4, "lengths": [512]}]
    made = preset | {"families": ["tiny"], "benchmarks": [tiny], "corpus": corpus}
    made |= {"score_shards": 1, "training": {"steps": 2, "val_contexts": 1}}
    assert Run(made).cards.comparisons["premise"] == (("kvzip", "proxykv"),)
    planned = Checkout(tmp_path, made).snakemake("-n")
    assert "generate" in planned and "fit" in planned
