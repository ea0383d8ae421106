# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from rows_fixture import COLUMNS, cards_of, make_rows, write_run

from proxykv.config import catalog
from proxykv.config.cards import MethodCards, method_cards
from proxykv.report import build_report, plots, tables
from proxykv.report.stats import holm
from proxykv.report.tabulate import write_tables
from proxykv.report.verdict import verdicts
from proxykv.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
LEADERBOARD = (
    "family,benchmark,method,scope,retention,mean,ci_low,ci_high,n_contexts,"
    "recovery,recovery_low,recovery_high,kl,kl_low,kl_high"
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
    # In a process of its own, to see what the report imports.
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
    whole = (rows.method == "random") & (rows.task == "vt")
    table = tables.coverage(rows[~gone & ~whole], cards_of(rows))
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
    names = {"leaderboard.csv", "per_task.csv", "summary.csv", "paired.csv", "coverage.csv"}
    assert {p.name for p in first} == names | {"provenance.json"}
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert (tmp_path / "a/leaderboard.csv").read_text().splitlines()[0] == LEADERBOARD
    facts = json.loads((tmp_path / "a/provenance.json").read_text())
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


# --- plots --------------------------------------------------------------------------------------


def test_every_plot_is_found_described_and_drawn_reproducibly(rows: pd.DataFrame, run_dir: Path):
    assert set(plots.names()) == {
        "accuracy_retention", "accuracy_per_task", "kl_retention", "pareto", "training",
        "ablation", "transfer",
    }  # fmt: skip
    for name in plots.names():
        title, caption = plots.describe(name)
        assert title and not title.endswith(".") and len(caption) > 60
    figures = [plots.draw("training", rows, cards_of(rows), run_dir) for _ in range(2)]
    first, second = (plots.render(figure, ".svg") for figure in figures if figure)
    assert first == second and b"<svg" in first


def test_draw_figures_writes_svg_and_png(run_dir: Path, tmp_path: Path):
    paths = (run_dir / "rows").glob("*/*/*.parquet")
    written = plots.draw_figures(paths, run_dir, tmp_path, only=["pareto"])
    assert [p.name for p in written] == ["pareto.svg", "pareto.png"]
    assert all(p.stat().st_size > 1000 for p in written)


def test_plots_without_anything_to_show_give_none(rows: pd.DataFrame, tmp_path: Path):
    assert plots.draw("training", rows, cards_of(rows), tmp_path) is None
    assert plots.draw("kl_retention", rows.assign(kl=np.nan), cards_of(rows), tmp_path) is None


def test_unknown_plot_is_a_user_error():
    with pytest.raises(ConfigError, match="no plot 'acuracy'"):
        plots.load("acuracy")


def test_no_two_methods_share_a_colour_or_a_marker():
    shipped = [m for m in catalog.variants() if not m.endswith(":")]
    derived = [{"id": f"ablation_{i}", "base": "proxykv"} for i in range(8)]
    cards = method_cards({"methods": [*shipped, *derived]})
    many = plots.looks(cards, cards.cards)
    assert len(many) == len(shipped) + 8
    assert len({look.color.lower() for look in many.values()}) == len(many)
    assert len({look.marker for look in many.values()}) == len(many)


# --- report -------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects what a browser would load, and checks that tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_loads_nothing(page: str):
    parser = _Page()
    parser.feed(page)
    assert not parser.open
    assert len(parser.ids) == len(set(parser.ids))
    assert all(load.startswith(("#", "data:")) for load in parser.loads)
    assert "@import" not in page and "url(" not in page and "fetch(" not in page


def test_answers_of_a_model_cannot_become_markup(page: str):
    assert NASTY not in page and "<img src=x" not in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data
    texts = {a["text"] for e in json.loads(data[1])["examples"] for a in e["answers"]}
    assert NASTY in texts


def test_heads_of_rows_and_columns_are_marked_as_such(page: str):
    assert set(re.findall(r"<th\b[^>]*?\bscope=(\S+?)[\s>]", page)) == {'"row"', '"col"'}
    assert re.search(r"<th scope=.row.[^<]*</th>", page)


def test_page_holds_verdict_tables_figures_and_provenance(page: str):
    for text in (
        "ProxyKV recovers", "95 % CI", "Head prior (control)", "What the words mean", "Mappers",
        "0123456789abcdef", "torch 2.13.0, transformers 5.2.0", "context results are there",
    ):  # fmt: skip
        assert text in page
    drawn = [name for name in plots.names() if not name.startswith(("ablation", "transfer"))]
    assert page.count("data:image/svg+xml;base64,") == len(drawn)


def test_report_of_two_families_without_mapper_or_oracle(tmp_path: Path):
    rows = make_rows(
        families=("a", "b"), tasks=("single",), contexts=1, methods=("proxykv",), retentions=(0.1,)
    )
    paths = write_run(tmp_path / "run", rows.assign(kl=np.nan), mapper=False)
    build_report(paths, tmp_path / "run", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "KVzip was not run" in text and "a · tiny" in text and "b · tiny" in text


def test_a_mended_metric_is_told_beside_the_official_one(rows: pd.DataFrame, tmp_path: Path):
    assert tables.per_task(rows, cards_of(rows)).fixed.isna().all()
    mended = rows.assign(score_fixed=np.where(rows.task == "vt", 1.0, np.nan))
    table = tables.per_task(mended, cards_of(mended)).set_index("task")
    assert (table.fixed["vt"] == 1).all()
    assert table.fixed["single"].isna().all()
    pages = []
    for name, some in (("plain", rows), ("mended", mended)):
        paths = write_run(tmp_path / name, some, mapper=False)
        build_report(paths, tmp_path / name, tmp_path / f"{name}.html")
        pages.append((tmp_path / f"{name}.html").read_text("utf-8"))
    assert [page.count("mended metric") > 0 for page in pages] == [False, True]
