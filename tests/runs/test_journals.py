"""A run's rows as one file: the next checkout goes on, and never with rows that are not its own."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from proxykv.cli import main
from proxykv.config import catalog
from proxykv.config.jobs import Job
from proxykv.config.run import Run
from proxykv.runs.journals import export_journals, import_journals
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.steps.generate import generate
from proxykv.steps.prepare import prepare

CONFIG: dict[str, Any] = {
    "run": "packed",
    "families": ["tiny"],
    "retentions": [0.2, 1.0],
    "methods": ["full", "kvzip", "snapkv"],
    "benchmarks": [
        {"benchmark": "tiny", "tasks": ["single", "vt"], "contexts": 2, "lengths": [64]}
    ],
}
PACKED = Path("rows.jsonl.gz")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a run of which each task's first context is answered."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        Path("models").symlink_to(catalog.ROOT / "models")
        torch.set_num_threads(1)
        for job in Run(CONFIG | {"limit": 1}).jobs():
            prepare(Run(CONFIG), job.dataset)
            generate(Run(CONFIG), job)
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run(CONFIG)


def entries(run: Run) -> dict[str, list[dict[str, Any]]]:
    return {job.task: Journal(job.journal).read() for job in run.jobs()}


def wipe(run: Run) -> None:
    for job in run.jobs():
        job.journal.unlink()
        job.file("predictions").unlink()


def edited(rows: list[Any]) -> Path:
    path = Path("edited.jsonl.gz")
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def unpacked() -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(PACKED.read_bytes()).splitlines()]


def answered(run: Run, job: Job, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Contexts that a job answers now, out of all that it has."""
    caplog.clear()
    with caplog.at_level("INFO"):
        generate(run, job)
    return [m.split()[2] for m in caplog.messages if m.endswith(" answered")]


def test_a_wiped_run_goes_on_where_it_was(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    before = entries(run)
    count = sum(map(len, before.values()))
    assert export_journals(run, PACKED) == count > 0
    wipe(run)
    assert import_journals(run, PACKED) == count
    assert entries(run) == before
    assert import_journals(run, PACKED) == 0
    assert entries(run) == before
    finished = Run(CONFIG | {"limit": 1})
    assert [answered(finished, job, caplog) for job in finished.jobs()] == [[], []]
    again = {job.task: answered(run, job, caplog) for job in run.jobs()}
    first = {task: {row["context_id"] for row in rows} for task, rows in before.items()}
    assert all(len(found) == 1 and not first[task] & set(found) for task, found in again.items())


def test_rows_of_other_code_are_not_used(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    export_journals(run, PACKED)
    wipe(run)
    others = [row | {"method_digest": "0" * 12, "prediction": "forged"} for row in unpacked()]
    assert import_journals(run, edited(others)) == len(others)
    (job, _) = Run(CONFIG | {"limit": 1}).jobs()
    assert answered(run, job, caplog) == sorted({row["context_id"] for row in others[:1]})


def test_answers_may_hold_every_separator_of_lines(run: Run) -> None:
    rows = [{**row, "prediction": "a\u2028b\u2029c\x85d\x0be"} for row in entries(run)["single"]]
    Journal(run.jobs()[0].journal).rewrite(rows)
    assert export_journals(run, PACKED) >= len(rows)
    wipe(run)
    import_journals(run, PACKED)
    assert entries(run)["single"] == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_digest": "0" * 12}, r"row 1: made with another target \(0{12}\)"),
        ({"proxy_digest": "0" * 12}, r"row 1: made with another proxy \(0{12}\)"),
        ({"task": "../../elsewhere"}, "row 1: run 'packed' has no job 'tiny tiny ../../elsewhere'"),
        ({"benchmark": "ruler"}, "row 1: run 'packed' has no job 'tiny ruler single'"),
        ({"score": 1.0}, "row 1: unknown key 'score'"),
        ({"nll": "low"}, "row 1.nll: 'low' is not of type"),
        ({"retention": 2}, "row 1.retention: 2 is greater than"),
        ({"nll": float("nan")}, "row 1.nll: nan is not a finite number"),
        ({"kl": float("inf")}, "row 1.kl: inf is not a finite number"),
        ({"decode_seconds": float("nan")}, "row 1.decode_seconds: nan is not a finite number"),
        ({"prediction": "\ud800"}, "row 1: a text is no Unicode"),
    ],
)
def test_a_row_that_is_not_the_runs_is_refused(
    run: Run, changes: dict[str, Any], message: str
) -> None:
    before = entries(run)
    export_journals(run, PACKED)
    first, *rest = unpacked()
    with pytest.raises(ConfigError, match=message):
        import_journals(run, edited([first | changes, *rest]))
    assert entries(run) == before


def test_a_damaged_file_is_refused(run: Run) -> None:
    export_journals(run, PACKED)
    whole = PACKED.read_bytes()
    for content in (b"", whole[:-20], b"PK" + whole, gzip.compress(b"{"), gzip.compress(b"\xff")):
        PACKED.write_bytes(content)
        if content:
            with pytest.raises(ConfigError, match="damaged, or no exported journal"):
                import_journals(run, PACKED)
    for empty in (b"", gzip.compress(b"")):
        PACKED.write_bytes(empty)
        with pytest.raises(ConfigError, match="no rows"):
            import_journals(run, PACKED)
    with pytest.raises(ConfigError, match="row 1: 7 is not of type 'object'"):
        import_journals(run, edited([7]))
    with pytest.raises(ConfigError, match="gone: no such file"):
        import_journals(run, Path("gone"))


def test_what_is_there_is_not_overwritten(run: Run) -> None:
    export_journals(run, PACKED)
    for name in (PACKED, Path("rows.txt")):
        with pytest.raises(ConfigError, match="give the name of a new file"):
            export_journals(run, name)
    wipe(run)
    with pytest.raises(ConfigError, match="no rows yet"):
        export_journals(run, Path("none.jsonl.gz"))


def test_a_running_job_is_left_alone(run: Run) -> None:
    export_journals(run, PACKED)
    with Journal(run.jobs()[0].journal).lock.held(), pytest.raises(ConfigError, match=r"\.lock"):
        import_journals(run, PACKED)


def test_both_commands_say_how_many_rows(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.json").write_text(json.dumps(run.config), "utf-8")
    assert main(["export", "config.json", str(PACKED)]) == 0
    assert main(["import", "config.json", str(PACKED)]) == 0
    count = sum(map(len, entries(run).values()))
    assert capsys.readouterr().out == f"{PACKED}: {count} rows\n0 rows added\n"
