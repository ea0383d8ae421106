"""A row that differs from its prediction, its data or the plan is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from finished_run import edit

from proxykv.cli import main
from proxykv.config.run import Run
from proxykv.report.tabulate import write_provenance
from proxykv.runs.audit import Audit, audit
from proxykv.runtime.journal import Journal
from proxykv.steps.grade import grade

RUN = Path("results/demo")
SINGLE = Path("tiny/tiny/single@0.parquet")
MULTIKEY = Path("tiny/tiny/multikey.parquet")
pytestmark = pytest.mark.usefixtures("finished_here")

Change = Callable[[pd.DataFrame], pd.DataFrame | None]


def found(*parts: str) -> Audit:
    """An audit with a finding that has all these parts."""
    result = audit(RUN)
    assert any(all(part in line for part in parts) for line in result.findings), result.findings
    return result


def put(column: str, value: object) -> Change:
    """Set a column of the fourth row."""

    def change(rows: pd.DataFrame) -> None:
        rows[column] = [value if i == 3 else v for i, v in enumerate(rows[column])]

    return change


def test_a_clean_run_has_no_finding(capsys: pytest.CaptureFixture[str]) -> None:
    clean = audit(RUN, finished=False)
    rows = sum(len(pd.read_parquet(path)) for path in (RUN / "rows").rglob("*.parquet"))
    assert clean.findings == [] and clean.rows == clean.scores == rows > 300
    with pytest.raises(SystemExit):
        main(["audit", str(RUN)])
    missing, _ = capsys.readouterr().out.splitlines()
    assert missing == f"{RUN / 'report' / 'index.html'}: missing; run `proxykv report`"


def test_answers_that_the_journals_do_not_hold_are_named() -> None:

    def key(rows: pd.DataFrame) -> None:
        rows["prompt_hash"], rows["method_digest"] = rows.question.astype(str), rows.method

    for kind in ("rows", "predictions"):
        edit(RUN / kind / SINGLE, key)
    answers = pq.read_table(RUN / "predictions" / SINGLE).drop_columns(["operations"]).to_pylist()
    journal = Journal((RUN / "predictions" / SINGLE).with_suffix(".journal.jsonl"))
    journal.append([answers[0] | {"prediction": "an earlier answer"}])
    journal.append([*answers, answers[0] | {"method_digest": "of other code"}])
    assert not any(f"predictions/{SINGLE}, " in line for line in audit(RUN).findings)
    journal.rewrite([answers[0] | {"prediction": "another"}, *answers[2:]])
    found(f"predictions/{SINGLE}, single-0 question 0, full at 1, prediction: ", "d another")
    found(f"predictions/{SINGLE}, single-0 question 0, ", "no journal holds this answer")


def test_a_finding_is_a_line_and_the_exit_status_is_not_zero(
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(RUN / "rows" / SINGLE, put("score", 0.25))
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(RUN)])
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("single@0.parquet, single-0 question 0" in line for line in lines)
    assert lines[-1].startswith("audited: ")


def test_a_benchmark_that_grades_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxykv.benchmarks.tiny.score", lambda *given: 0.5)
    (job,) = (job for job in Run.read(RUN / "config.json").jobs() if job.task == "multikey")
    grade(job)
    found("multikey-0 question 0", ", score: published 0.5, recomputed")


@pytest.mark.parametrize("kind", ["rows", "predictions"])
def test_a_prediction_that_changed_in_one_file_is_named(kind: str) -> None:
    edit(RUN / kind / SINGLE, put("prediction", "something else"))
    found("single-0 question 0", "prediction", "something else")


def test_a_prediction_that_changed_in_both_files_has_another_score() -> None:
    for kind in ("rows", "predictions"):
        edit(RUN / kind / SINGLE, put("prediction", "a1 b1 something else"))
    lines = found("single-0 question 0", ", score: published").findings
    assert not any("prediction" in line for line in lines)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", 0.25, "score: published 0.25, recomputed"),
        ("score_fixed", 0.25, "score_fixed: published 0.25, recomputed None"),
        ("references", ["other"], "references: published ['other'], recomputed ['a"),
        ("kl", float("inf"), "kl is inf"),
        ("decode_seconds", float("inf"), "row.decode_seconds: inf is not a finite number"),
        ("operations", float("nan"), "row 4: operations is null"),
        ("kl", -1.0, "kl is -1.0"),
        ("nll", -1.0, "nll is -1.0"),
        ("nll", None, "of NLL (None) and KL"),
        ("kl", None, "KL is known for some methods of this question only"),
        ("achieved_retention", 0.2, "bytes are not a retention of 0.2"),
        ("kv_bytes", 1, "1 of 51200 bytes"),
        ("task", "vt", "task is 'vt', not 'single'"),
        ("protocol", "query_aware", "protocol is 'query_aware'"),
        ("seed", 7, "seed is 7, not 0"),
        ("scope", "head", "kvzip has several scopes: ['global', 'head']"),
        ("method", None, "row 4: method is null"),
        ("retention", 0.4, "kvzip at 0.4: the config does not plan this row"),
        ("method", "other", "other at 0.5: the config does not plan this row"),
        ("context_id", "other", "other question 0, kvzip at 0.5: has no prediction"),
        ("question", 9, "single-0 question 0, kvzip at 0.5: missing"),
    ],
)
def test_a_column_that_cannot_be_is_named(column: str, value: object, message: str) -> None:
    for kind in ("rows", "predictions") if column in ("kl", "nll") else ("rows",):
        edit(RUN / kind / SINGLE, put(column, value))
    found(message)


def test_questions_of_one_context_share_a_kept_set() -> None:
    # The first context has several questions; their rows differ in nothing but the question.
    rows = pd.read_parquet(RUN / "rows" / MULTIKEY)
    question_counts = rows.groupby("context_id").question.nunique()
    context = question_counts.index[question_counts > 1][0]
    last = rows[rows.context_id == context].index[-1]
    for kind in ("rows", "predictions"):
        edit(RUN / kind / MULTIKEY, lambda rows: _set(rows, last, "kept_digest", "other"))
    found(f"{context} question", "kept other pairs than for the first question")


def _set(rows: pd.DataFrame, index: int, column: str, value: object) -> None:
    rows.loc[index, column] = value


def test_an_achieved_retention_far_from_the_requested_one_is_named() -> None:
    for kind in ("rows", "predictions"):
        edit(RUN / kind / SINGLE, put("achieved_retention", 0.4))
        edit(RUN / kind / SINGLE, put("kv_bytes", int(0.4 * 51200)))
    found("kvzip at 0.5", "achieved retention is 0.4, requested 0.5")


@pytest.mark.parametrize("kind", ["rows", "predictions"])
def test_what_is_missing_or_there_twice_is_named(kind: str) -> None:
    edit(RUN / kind / SINGLE, lambda rows: rows.drop(index=3))
    found(f"{kind}/{SINGLE}, single-0 question 0, kvzip at 0.5: missing")
    edit(RUN / kind / MULTIKEY, lambda rows: pd.concat([rows, rows.iloc[[5]]]))
    found(f"{kind}/{MULTIKEY}, multikey-0 question 0", "occurs 2 times")
    if kind == "predictions":
        found("single-0 question 0, kvzip at 0.5: has no prediction")


@pytest.mark.parametrize("kind", ["rows", "predictions"])
def test_files_that_are_gone_cut_or_lack_a_column_are_named(kind: str) -> None:
    path = RUN / kind / SINGLE
    edit(path, lambda rows: rows.drop(columns=["nll"]))
    found(str(path), "lacks the columns nll")
    path.write_bytes(path.read_bytes()[:-9])
    found(str(path), "damaged")
    path.unlink()
    found(str(path), "missing")


def test_scores_without_their_data_are_a_finding_that_says_what_to_do() -> None:
    complete = audit(RUN)
    for path in Path("cache").rglob("tiny-single-*.jsonl"):
        path.unlink()
    edit(RUN / "rows" / SINGLE, put("kl", 9.0))
    part = found("single@0.parquet: scores cannot be recomputed without cache/data", "prepare --c")
    assert 0 < part.scores < complete.scores and part.rows == complete.rows
    found("single-0 question 0, kvzip at 0.5, kl: published 9.0")


def test_rows_that_changed_after_the_tables_are_named() -> None:
    edit(RUN / "rows" / MULTIKEY, put("decode_seconds", 9.0))
    found(str(RUN / "rows" / MULTIKEY), "changed after the tables were made")
    facts = RUN / "tables" / "provenance.json"
    stored = json.loads(facts.read_text())
    del stored["rows_sha256"]["tiny/tiny/single@0.parquet"]
    facts.write_text(json.dumps(stored))
    found(str(RUN / "rows" / SINGLE), "changed after the tables were made")
    facts.unlink()
    found("provenance.json: missing")


def test_a_table_or_a_figure_that_changed_or_is_gone_is_named() -> None:
    """Also an end of an interval that another bootstrap may have found."""
    table = RUN / "tables" / "leaderboard.csv"
    lines = pd.read_csv(table, dtype=str)
    lines.loc[0, "ci_low"] = f"{0.999 * float(lines.loc[0, 'ci_low']):.6g}"
    lines.to_csv(table, index=False)
    found(f"{table}: changed after the tables were made; run `proxykv tabulate`")
    figure = RUN / "figures" / "training.svg"
    figure.write_text("<svg/>")
    rows = sorted((RUN / "rows").rglob("*.parquet"))
    write_provenance(figure.parent, [figure], rows)
    assert not any("figures" in line for line in audit(RUN).findings)
    figure.write_text("<svg></svg>")
    found(f"{figure}: changed after the figures were made; run `proxykv plot`")
    figure.unlink()
    found(f"{figure}: missing; run `proxykv plot`")
    edit(RUN / "rows" / SINGLE, put("decode_seconds", 1.0))
    found(str(RUN / "rows" / SINGLE), "changed after the figures were made")


def test_nothing_checked_is_a_finding() -> None:
    shutil.rmtree(RUN / "rows")
    lines = found("audit: no rows were checked").findings
    assert {"audit: no scores were checked", "audit: no cells were checked"} < set(lines)
    assert not any("tables/" in line for line in lines)  # each line of each table would be one


def test_a_folder_without_a_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "results/other"]) == 2
    assert "results/other/config.json: no such file" in capsys.readouterr().err


def cut(path: Path) -> Callable[[], int]:
    return lambda: path.write_bytes(path.read_bytes()[:60])


def contents(path: Path, content: bytes) -> Callable[[], int]:
    return lambda: path.write_bytes(content)


DATA = "tiny-multikey-*.jsonl"
CARD = RUN / "mappers" / "tiny" / "proxykv" / "card.json"
DAMAGED: dict[str, tuple[Callable[[], object], str]] = {
    "table of bytes": (
        contents(RUN / "tables" / "paired.csv", b"\xff\xfe\0"),
        "paired.csv: damaged",
    ),
    "table of one endless cell": (
        contents(RUN / "tables" / "leaderboard.csv", b"a" * 200_000),
        "leaderboard.csv: damaged (field larger",
    ),
    "scores as texts": (
        lambda: edit(RUN / "rows" / MULTIKEY, lambda r: r.assign(score=r.score.astype(str))),
        f"{MULTIKEY}: values of another type in the columns score",
    ),
    "contexts as lists": (
        lambda: edit(RUN / "rows" / MULTIKEY, lambda r: r.assign(context_id=[[1]] * len(r))),
        f"{MULTIKEY}: values of another type in the columns context_id",
    ),
    "answers as numbers": (
        lambda: edit(RUN / "predictions" / MULTIKEY, lambda r: r.assign(prediction=3)),
        f"predictions/{MULTIKEY}: values of another type in the columns prediction",
    ),
    "cut provenance": (cut(RUN / "tables" / "provenance.json"), "provenance.json: not JSON"),
    "provenance as a list": (
        contents(RUN / "tables" / "provenance.json", b"[]"),
        "provenance.json: not a JSON object",
    ),
    "provenance without sums": (
        contents(RUN / "tables" / "provenance.json", b'{"rows_sha256": []}'),
        "provenance.json: has no rows_sha256",
    ),
    "provenance of foreign files": (
        contents(
            RUN / "tables" / "provenance.json",
            b'{"rows_sha256": {"../../../config.json": ""}, "efficiency_sha256": {}}',
        ),
        "made of rows/../../../config.json, which the config does not plan",
    ),
    "cut data": (
        lambda: [cut(path)() for path in Path("cache").rglob(DATA)],
        "damaged (JSONDecodeError",
    ),
    "data of another encoding": (
        lambda: [contents(p, "x".encode("utf-16"))() for p in Path("cache").rglob(DATA)],
        "damaged (UnicodeDecodeError",
    ),
    "cut card of a fit": (cut(CARD), f"{CARD}: not JSON"),
    "fidelity as a text": (contents(CARD, b'{"metrics": {"mse": ""}}'), "no numbers as `metrics`"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_a_finding(name: str) -> None:
    damage, line = DAMAGED[name]
    damage()
    found(line)


CONFIG, CARDS = RUN / "config.json", RUN / "methods.json"


@pytest.mark.parametrize(
    ("path", "content", "line"),
    [
        (CONFIG, b"[]", "config.json: not JSON; give the run's"),
        (CONFIG, b"[" * 100_000, "config.json: not JSON; give the run's"),
        (CONFIG, b"{}", "config.json: 'run' is a required property"),
        (CARDS, b"[]", "methods.json: not a JSON object"),
        (CARDS, b'{"cards": ', "methods.json: not JSON"),
        (CARDS, b"{}", "methods.json: no cards of methods"),
        (CARDS, b'{"cards": {"full": null}}', "methods.json: no cards of methods"),
    ],
)
def test_a_damaged_config_or_card_is_one_line(
    path: Path, content: bytes, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_bytes(content)
    assert main(["audit", str(RUN)]) == 2
    assert line in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"families": 3}, ".families: 3 is not of type 'array'"),
        ({"families": ["../tiny"]}, ".families[0]: '../tiny' is not allowed"),
        ({"families": ["gone"]}, "no file config/families/gone.yaml"),
        ({"benchmarks": ["tiny"]}, ".benchmarks[0]: 'tiny' is not of type 'object'"),
    ],
)
def test_a_config_of_another_form_is_one_line(
    entry: dict[str, object], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    CONFIG.write_text(json.dumps(json.loads(CONFIG.read_text()) | entry))
    assert main(["audit", str(RUN)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told


def test_configs_of_earlier_versions_are_audited() -> None:
    CONFIG.write_text(json.dumps(json.loads(CONFIG.read_text()) | {"former": 1, "limit": 0}))
    assert audit(RUN).rows > 0
