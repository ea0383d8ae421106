"""Parts of a run that machines made are united, and nothing is mixed silently."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from finished_run import CONFIG, edit, tabulate

from proxykv.cli import main
from proxykv.config import paths
from proxykv.config.run import Run
from proxykv.runs.audit import audit
from proxykv.runs.merge import merge
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.runtime.lock import Lock
from proxykv.runtime.parquet import read_parquet

KEY = ["task", "context_id", "question", "method", "retention"]


@pytest.fixture
def whole(finished_here: Path) -> Path:
    return finished_here


def part(whole: Path, name: str, keep: Callable[[pd.DataFrame], pd.Series], **config: Any) -> Path:
    """A part of the run: the rows to keep; its config is the whole run's with these changes."""
    folder = Path("results") / name
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("tables", "report"))
    for path in [*folder.glob("predictions/*/*/*.parquet"), *folder.glob("rows/*/*/*.parquet")]:
        rows = read_parquet(path)
        if len(kept := rows[keep(rows)]):
            kept.to_parquet(path)
            Journal(path.with_suffix(".journal.jsonl")).append([{"method": m} for m in kept.method])
        else:
            path.unlink()
    stored = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**stored, "run": name, **config}))
    return folder


def rows_of(folder: Path) -> pd.DataFrame:
    found = [read_parquet(path) for path in folder.glob("rows/*/*/*.parquet")]
    return pd.concat(found).sort_values(KEY).reset_index(drop=True)


def by_task(whole: Path) -> tuple[Path, Path]:
    return (
        part(whole, "a", lambda rows: rows.task == "single"),
        part(whole, "b", lambda rows: rows.task == "multikey"),
    )


def test_parts_of_disjoint_tasks_make_the_whole_run(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = by_task(whole)
    assert main(["merge", str(a), str(b), "--output", "results/both"]) == 0
    assert "proxykv report --config results/both/config.json" in capsys.readouterr().out
    both = Path("results/both")
    pd.testing.assert_frame_equal(rows_of(both), rows_of(whole))
    run = Run.read(both / "config.json")
    assert run.config == {**Run(CONFIG).config, "run": "both"}
    tabulate(run)
    for journal in both.rglob("*.journal.jsonl"):
        journal.unlink()  # made up above
    assert audit(both, finished=False).findings == []


def test_parts_of_disjoint_methods_are_united_row_by_row(whole: Path) -> None:
    few, rest = ["full", "kvzip", "proxykv"], ["full", *CONFIG["methods"][3:]]
    ids = [m if isinstance(m, str) else m["id"] for m in rest]
    a = part(whole, "a", lambda rows: rows.method.isin(few), methods=few, comparisons=[])
    b = part(whole, "b", lambda rows: rows.method.isin(ids), methods=rest, comparisons=[])
    run = Run.read(merge([a, b], Path("results/both")))
    pd.testing.assert_frame_equal(rows_of(run.dir), rows_of(whole))
    assert list(run.methods) == list(Run(CONFIG).methods)
    job = run.job("tiny", "tiny", "multikey")
    parts = [folder / job.journal.relative_to(run.dir) for folder in (a, b)]
    assert Journal(job.journal).read() == [row for path in parts for row in Journal(path).read()]
    assert paths.fitted_dir(run, "tiny", "linear").is_dir()


def test_kept_sets_and_texts_of_contexts_are_carried(whole: Path) -> None:
    a, b = by_task(whole)
    here = Path("predictions/tiny/tiny")
    stored = {
        "single.kept.jsonl": [[{"method": "kvzip"}], []],
        "single.contexts.jsonl": [[{"depths": [0.5]}], []],
        "multikey.kept.jsonl": [[{"method": "kvzip"}], [{"method": "random"}]],
    }
    for name, parts in stored.items():
        for folder, lines in zip((a, b), parts, strict=True):
            (folder / here / name).unlink(missing_ok=True)
            if lines:
                Journal(folder / here / name).append(lines)
    both = merge([a, b], Path("results/both")).parent
    for name, parts in stored.items():
        assert Journal(both / here / name).read() == [line for lines in parts for line in lines]


def change_config(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}))


def change_rows(column: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.glob("rows/*/*/*.parquet"):
            edit(path, lambda rows: rows.assign(**{column: value}))

    return change


def other_weights(folder: Path) -> None:
    for name, text in (("a", "1"), ("b", "2")):
        weights = Path("results", name, "mappers", "tiny", "linear", "weights.safetensors")
        weights.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda b: change_config(b, seed=7), "config.seed differs"),
        (lambda b: change_config(b, retentions=[0.1, 1.0]), "config.retentions differs"),
        (
            lambda b: change_config(b, methods=["full", {"id": "kvzip", "base": "kvzip"}]),
            "method kvzip has other settings",
        ),
        (
            lambda b: change_config(
                b, benchmarks=[{**CONFIG["benchmarks"][0], "contexts": 99, "tasks": ["single"]}]
            ),
            "task single has other settings",
        ),
        (change_rows("code_hash", "other"), "code_hash is .* and other"),
        (change_rows("versions", "torch 9"), "versions is .* and torch 9"),
        (change_rows("target_digest", "other"), "target_digest of tiny is .* and other"),
        (change_rows("device", "cuda: H100"), "device of tiny is cpu and cuda: H100"),
        (change_rows("method_digest", "x"), "method_digest of tiny full is .* and x"),
        (other_weights, "weights.safetensors differ, and both parts made it"),
        (change_rows("kl", float("inf")), "row 0.kl: inf is not a finite number"),
        (change_rows("operations", float("nan")), "row 0.operations: nan is not a finite number"),
        (lambda b: shutil.rmtree(b / "rows"), "no rows"),
    ],
)
def test_what_differs_is_refused_and_leaves_nothing(
    whole: Path, spoil: Callable[[Path], None], why: str
) -> None:
    a, b = by_task(whole)
    spoil(b)
    with pytest.raises(ConfigError, match=why) as refused:
        merge([a, b], Path("results/both"))
    assert "\n" not in str(refused.value)
    assert {path.name for path in Path("results").iterdir()} == {"demo", "a", "b"}


def test_what_a_link_leads_to_is_not_copied(whole: Path) -> None:
    a, b = by_task(whole)
    Path("secret").write_text("mine", "utf-8")
    (b / "mappers" / "key").symlink_to(Path("secret").resolve())
    with pytest.raises(ConfigError, match=r"b/mappers/key: a link out of the run"):
        merge([a, b], Path("results/both"))
    assert not Path("results/both").exists()


def test_two_answers_to_one_question_are_refused(whole: Path) -> None:
    a = part(whole, "a", lambda rows: rows.task == "multikey")
    b = part(whole, "b", lambda rows: rows.task == "multikey")
    edit(b / "rows/tiny/tiny/multikey.parquet", lambda rows: rows.assign(prediction="other"))
    with pytest.raises(ConfigError, match=r"prediction of \S+ at retention \S+ differs for multi"):
        merge([a, b], Path("results/both"))


def test_neither_a_running_part_nor_an_existing_folder_is_touched(whole: Path) -> None:
    a, b = by_task(whole)
    with pytest.raises(ConfigError, match="demo exists; give the name of a new folder"):
        merge([a, b], whole)
    with pytest.raises(ConfigError, match=r"x/y is inside .*/a; give the name of a new folder"):
        merge([a, b], a / "x" / "y")
    with pytest.raises(ConfigError, match="two or more different parts"):
        merge([a, a], Path("results/both"))
    with Lock(b / "workflow.lock").held(), pytest.raises(ConfigError, match=r"b: snakemake runs"):
        merge([a, b], Path("results/both"))
