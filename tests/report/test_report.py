# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from rows_fixture import COLUMNS, cards_of, make_rows, write_run

from proxykv.config.cards import MethodCards
from proxykv.report import tables
from proxykv.report.stats import holm
from proxykv.report.tabulate import write_provenance, write_tables
from proxykv.report.verdict import verdicts
from proxykv.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
LEADERBOARD = (
    "family,benchmark,method,scope,retention,mean,ci_low,ci_high,n_contexts,"
    "recovery,recovery_low,recovery_high,kl,kl_low,kl_high,achieved_retention"
)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    methods = ("kvzip", "proxykv", "snapkv", "random", "prior", "proxykv_shuffled")
    return make_rows(contexts=6, methods=methods, retentions=(0.05, 0.3), tasks=("single", "vt"))


@pytest.fixture(scope="module")
def run_dir(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("results") / "demo"
    nasty = rows.copy()
    nasty.loc[nasty.index[:150], "prediction"] = NASTY
    write_run(run, nasty)
    return run


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    # In a separate process, to see what the report imports.
    code = (
        "import sys; from pathlib import Path; from proxykv.report import build_report;"
        f"run = Path({str(run_dir)!r}); rows = run.glob('rows/*/*/*.parquet');"
        "build_report(rows, run, run / 'report' / 'index.html');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return (run_dir / "report" / "index.html").read_text(encoding="utf-8")


def tiny_rows(scores: dict[tuple[str, float], list[list[float]]]) -> pd.DataFrame:
    """Rows from (method, retention) -> scores by context, of its questions; one task."""
    template = make_rows(tasks=("single",), contexts=1, questions=1, methods=()).iloc[0]
    lines = []
    for (method, rho), contexts in scores.items():
        for i, questions in enumerate(contexts):
            for q, score in enumerate(questions):
                line = template.copy()
                line["method"], line["retention"], line["score"] = method, rho, score
                line["context_id"], line["question"], line["scope"] = f"c{i}", q, "global"
                lines.append(line)
    return pd.DataFrame(lines).reset_index(drop=True)


# --- rows ---------------------------------------------------------------------------------------


def test_schema_accepts_rows_and_lists_their_columns_in_order(rows: pd.DataFrame):
    schema = yaml.safe_load((ROOT / "workflow/schemas/row.schema.yaml").read_text())
    assert list(schema["properties"]) == list(COLUMNS) == list(rows.columns)
    assert sorted(schema["required"]) == sorted(COLUMNS)
    validator = jsonschema.Draft202012Validator(schema)
    row = json.loads(rows.iloc[:1].to_json(orient="records"))[0]
    validator.validate(row)
    for bad in ({"score": 1.2}, {"retention": 0}, {"scope": "token"}, {"surplus": 1}, {"kl": -1}):
        assert not validator.is_valid(row | bad)


def test_seconds_of_kernels_and_of_the_reference_are_not_mixed(rows: pd.DataFrame, tmp_path: Path):
    mixed = rows.copy()
    mixed.loc[0, "kernels"] = "triton (Triton 3.7.1)"
    with pytest.raises(ConfigError, match="mix Triton kernels and the PyTorch reference"):
        tables.read_rows(write_run(tmp_path, mixed))


def test_rows_given_twice_or_of_mixed_protocols_are_refused(rows: pd.DataFrame, tmp_path: Path):
    paths = write_run(tmp_path / "a", pd.concat([rows, rows.iloc[:1]]))
    with pytest.raises(ConfigError, match=r"more than once.*proxykv forget --method full"):
        tables.read_rows(paths)
    mixed = rows.copy()
    mixed.loc[0, "protocol"] = "query_aware"
    with pytest.raises(ConfigError, match="mix"):
        tables.read_rows(write_run(tmp_path / "b", mixed))
    with pytest.raises(ConfigError, match="no rows"):
        tables.read_rows([])


# --- tables -------------------------------------------------------------------------------------


def test_leaderboard_by_hand():
    rows = tiny_rows(
        {
            ("full", 1.0): [[1.0, 1.0], [1.0]],
            ("kvzip", 0.1): [[1.0, 0.0], [1.0]],  # contexts .5 and 1: mean .75
            ("proxykv", 0.1): [[0.0, 0.0], [1.0]],  # contexts 0 and 1: mean .5
        }
    )
    board = tables.leaderboard(rows, cards_of(rows)).set_index("method")
    assert ",".join(tables.leaderboard(rows, cards_of(rows)).columns) == LEADERBOARD
    assert board.loc["kvzip", "mean"] == 0.75
    assert board.loc["proxykv", "mean"] == 0.5
    assert board.loc["proxykv", "recovery"] == pytest.approx(0.5 / 0.75)
    assert board.loc["full", "recovery"] == 1.0
    assert board.loc["proxykv", "n_contexts"] == 2


def test_recovery_uses_shared_contexts_only():
    rows = tiny_rows(
        {("kvzip", 0.1): [[1.0], [0.5]], ("proxykv", 0.1): [[0.5], [0.5], [0.0], [0.0]]}
    )
    board = tables.leaderboard(rows, cards_of(rows)).set_index("method")
    assert board.loc["proxykv", "mean"] == 0.25
    assert board.loc["proxykv", "recovery"] == pytest.approx(0.5 / 0.75)
    pooled = tables.summary(rows, cards_of(rows)).set_index(["pool", "method"])
    assert pooled.loc[("<=0.3", "proxykv"), "recovery"] == pytest.approx(0.5 / 0.75)


def test_pools_average_retentions_within_a_context_and_leave_full_out():
    rows = tiny_rows(
        {
            ("full", 1.0): [[1.0], [1.0]],
            ("kvzip", 0.1): [[0.5], [0.5]],
            ("kvzip", 0.3): [[1.0], [1.0]],
            ("kvzip", 0.5): [[1.0], [0.0]],
        }
    )
    pooled = tables.summary(rows, cards_of(rows))
    assert set(pooled.method) == {"kvzip"}
    assert pooled.set_index("pool").loc["<=0.3", "mean"] == 0.75
    assert pooled.set_index("pool").loc["<1", "mean"] == pytest.approx(2 / 3)


def test_paired_difference_by_hand():
    rows = tiny_rows(
        {("kvzip", 0.1): [[1.0], [1.0], [0.0]], ("proxykv", 0.1): [[0.0], [0.0], [0.0]]}
    )
    table = tables.paired(rows, cards_of(rows))
    score = table[(table.metric == "score") & (table.retention == "<=0.3")].iloc[0]
    assert score.difference == pytest.approx(-2 / 3)
    assert score.p == pytest.approx(4 / 8)  # the context without a difference flips to itself
    assert score.n_contexts == 3
    assert set(table.retention) == {"<=0.3", "0.1"}


def test_holms_correction_covers_the_comparisons_of_one_group(rows: pd.DataFrame):
    pairs = [["proxykv", "prior"], ["prior", "random"], ["snapkv", "random"]]
    groups = [{"group": "more", "pairs": pairs}, {"group": "one", "pairs": pairs[:1]}]
    table = tables.paired(rows, cards_of(rows, comparisons=groups))
    assert list(dict.fromkeys(table.group)) == ["main", "more", "one"]
    main = table[table.group == "main"]
    assert list(dict.fromkeys(main.reference)) == ["kvzip", "snapkv", "prior", "proxykv_shuffled"]
    alone = tables.paired(rows, cards_of(rows))
    pd.testing.assert_frame_equal(main.reset_index(drop=True), alone)
    low = table[(table.retention == "<=0.3") & (table.metric == "score")]
    for name, count in (("main", 4), ("more", 3), ("one", 1)):
        group = low[low.group == name]
        assert len(group) == count
        assert group.p_holm.to_numpy() == pytest.approx(holm(group.p.to_numpy()))
    # A pair is the difference of its two methods, whichever of them is the subject.
    more = low[low.group == "more"].set_index("method").difference
    means = (
        tables.summary(rows, cards_of(rows)).query("pool == '<=0.3'").set_index("method")["mean"]
    )
    assert more["snapkv"] == pytest.approx(means["snapkv"] - means["random"])


def test_a_config_can_replace_the_comparisons_by_role(rows: pd.DataFrame):
    groups = [{"group": "main", "pairs": [["proxykv", "random"]]}]
    table = tables.paired(rows, cards_of(rows, comparisons=groups))
    assert set(zip(table.method, table.reference, strict=True)) == {("proxykv", "random")}


def test_coverage_counts_what_is_missing(rows: pd.DataFrame):
    gone = (rows.method == "prior") & (rows.context_id == "vt-000") & (rows.retention == 0.3)
    without_task = (rows.method == "random") & (rows.task == "vt")
    table = tables.coverage(rows[~gone & ~without_task], cards_of(rows))
    missing = table[table.missing > 0].set_index(["method", "task", "retention"]).missing
    assert missing.to_dict() == {
        ("prior", "vt", 0.3): 1,
        **{("random", "vt", rho): 6 for rho in (0.05, 0.3)},
    }


def test_unknown_kl_and_absent_oracle_give_nan_not_numbers(rows: pd.DataFrame):
    poor = rows[rows.method.isin(["full", "proxykv", "prior"])].assign(kl=np.nan)
    board = tables.leaderboard(poor, cards_of(poor))
    assert board[["kl", "recovery"]].isna().to_numpy().all()
    assert board["mean"].notna().to_numpy().all()


def test_write_tables_gives_the_same_bytes_whatever_the_order(run_dir: Path, tmp_path: Path):
    paths = sorted((run_dir / "rows").glob("*/*/*.parquet"))
    first = write_tables(paths, MethodCards.read(run_dir), tmp_path / "a")
    second = write_tables(paths[::-1], MethodCards.read(run_dir), tmp_path / "b")
    names = [
        "leaderboard",
        "per_task",
        "summary",
        "paired",
        "coverage",
        "quality_cost",
        "premise",
        "by_length",
    ]
    assert {p.name for p in first} == {
        *(f"{name}.csv" for name in names),
        *(f"{name}.tex" for name in names if name != "coverage"),
    }
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert (tmp_path / "a/leaderboard.csv").read_text().splitlines()[0] == LEADERBOARD
    made = [write_provenance(tmp_path / "a", first, some) for some in (paths, paths[::-1])]
    facts = json.loads(made[0].read_text())
    assert facts == json.loads(made[1].read_text())
    leaderboard = hashlib.sha256((tmp_path / "a/leaderboard.csv").read_bytes()).hexdigest()
    assert facts["files_sha256"]["leaderboard.csv"] == leaderboard
    assert facts["families"]["tiny"]["commit"] == ["0123456789abcdef"]
    assert list(facts["rows_sha256"]) == ["tiny/tiny/single.parquet", "tiny/tiny/vt.parquet"]


# --- verdict ------------------------------------------------------------------------------------


def say(rows: pd.DataFrame) -> str:
    cards = cards_of(rows)
    made = {name: table(rows, cards) for name, table in tables.TABLES.items()}
    found = verdicts(made, cards)
    return "\n".join(f"{f.tone}: {f.text}" for findings in found.values() for f in findings)


def bernoulli(chance: float, contexts: int, seed: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return (rng.random((contexts, 1)) < chance).astype(float).tolist()


def test_verdict_calls_a_tie_a_tie_and_doubts_what_a_control_matches():
    same = bernoulli(0.7, 40, seed=0)
    rows = tiny_rows(
        {
            ("full", 1.0): [[1.0]] * 40,
            ("kvzip", 0.1): same,
            ("proxykv", 0.1): same[::-1],
            ("prior", 0.1): same,
            ("proxykv_shuffled", 0.1): [[0.0]] * 40,
        }
    )
    text = say(rows)
    assert "headline: ProxyKV recovers 100.0 % of KVzip's score" in text
    assert "a tie at this sample size" in text and "80 % power" in text
    assert "warning: ProxyKV does not beat “Head prior (control)”" in text
    assert "At ρ = 0.1 no advantage over the static head prior" in text
    assert "does not prove token choice" in text
    assert "good: ProxyKV beats “Shuffled proxy (control)”" in text


def test_verdict_says_what_is_worse_and_what_is_absent():
    rows = tiny_rows({("kvzip", 0.1): [[1.0]] * 30, ("proxykv", 0.1): bernoulli(0.3, 30, seed=1)})
    text = say(rows)
    assert "significantly below KVzip" in text
    assert "warning: Not run: Head prior" in text
    assert "full cache was not run" in text


def test_verdict_survives_poor_runs(rows: pd.DataFrame):
    assert "no ProxyKV rows" in say(rows[rows.method == "kvzip"])
    assert "KVzip was not run" in say(rows[rows.method.isin(["proxykv", "full"])])
    lone = rows[rows.context_id.str.endswith("-000") & (rows.question == 0)]
    text = say(lone.assign(kl=np.nan))
    assert "A single context, so no interval: single, vt." in text
    assert "(no interval)" in text and "undefined" not in text
    zero = rows.assign(score=rows.score.where(rows.method != "kvzip", 0.0))
    assert "Recovery at ρ ≤ 0.3 is undefined" in say(zero)
