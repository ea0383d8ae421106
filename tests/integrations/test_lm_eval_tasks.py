"""Every task of a benchmark is a task of lm-eval, without a file in the repository."""

from __future__ import annotations

from pathlib import Path

import yaml
from lm_eval.tasks import TaskManager

from proxykv.config.benchmarks import tasks
from proxykv.integrations.documents import write_task_files


def test_every_task_that_asks_is_found_by_lm_eval(tmp_path: Path) -> None:
    write_task_files(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    expected = {
        f"{benchmark}_{task}"
        for benchmark, rows in tasks().items()
        for task, row in rows.items()
        if row.questions
    }
    assert set(manager.all_subtasks) == expected
    assert {"longbench_repobench-p", "scbench_kv", "ruler_vt", "tiny_single"} <= expected
    assert set(manager.all_tags) == {"longbench", "needles", "ruler", "scbench", "tiny"}


def test_limits_and_stops_are_those_of_the_task(tmp_path: Path) -> None:
    write_task_files(tmp_path)
    names = ("longbench_samsum", "scbench_repoqa_and_kv", "ruler_vt")
    contents = [yaml.safe_load((tmp_path / f"{name}.yaml").read_text("utf-8")) for name in names]
    settings = {content["task"]: content["generation_kwargs"] for content in contents}
    assert settings == {
        "longbench_samsum": {"do_sample": False, "until": ["\n"], "max_gen_toks": 128},
        # The longer of the two kinds of answers of a mixed task.
        "scbench_repoqa_and_kv": {"do_sample": False, "until": [], "max_gen_toks": 1024},
        "ruler_vt": {"do_sample": False, "until": [], "max_gen_toks": 30},
    }
