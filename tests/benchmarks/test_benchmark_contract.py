"""A benchmark is one file, a task is one row; what breaks the contract is found without a model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ruler_corpus
import yaml
from checkout import copy_project
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from proxykv.benchmarks import contract
from proxykv.benchmarks.examples import read_jsonl
from proxykv.config import catalog
from proxykv.config.benchmarks import Task, contract_problems, tasks
from proxykv.runtime.errors import ConfigError

GUIDE = (catalog.ROOT / "docs" / "how-to" / "extend.md").read_text("utf-8")
EXAMPLE, ENTRY = re.findall(r"```(?:python|yaml)\n(.*?)```", GUIDE, flags=re.DOTALL)[:2]
CONFIG = {
    "run": "guide",
    "families": ["tiny"],
    "retentions": [0.5, 1.0],
    "methods": ["full", "snapkv"],
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with the guide's benchmark in its folder."""
    root = copy_project(tmp_path_factory.mktemp("project"))
    (root / "proxykv" / "benchmarks" / "recall.py").write_text(EXAMPLE, "utf-8")
    return root


def python(checkout: Path, *arguments: str) -> tuple[int, str]:
    """Run a module in the checkout: its exit status, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def check(checkout: Path, **changes: Any) -> tuple[int, str]:
    path = checkout / "guide.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **yaml.safe_load(ENTRY), **changes}), "utf-8")
    return python(checkout, "proxykv", "check", str(path))


def test_the_guides_benchmark_runs_to_its_rows(checkout: Path) -> None:
    status, output = check(checkout)
    assert status == 0, output
    assert "2 jobs" in output
    code = (
        "import json, sys, yaml\n"
        "from pathlib import Path\n"
        "from proxykv.config.run import Run\n"
        "from proxykv.steps.prepare import prepare\n"
        "from proxykv.steps.generate import generate\n"
        "from proxykv.steps.grade import grade\n"
        "run = Run(yaml.safe_load(Path('guide.yaml').read_text()))\n"
        "for job in run.jobs():\n"
        "    prepare(run, job.dataset)\n"
        "    generate(run, job)\n"
        "    print('rows', job.task, job.dataset.path, grade(job))\n"
    )
    (checkout / "drive.py").write_text(code, "utf-8")
    status, output = python(checkout, "drive")
    assert status == 0, output
    found = [line.split()[1:] for line in output.splitlines() if line.startswith("rows ")]
    assert [task for task, *_ in found] == ["forward", "backward"]
    for _, data, rows in found:
        examples = read_jsonl(checkout / data)
        expected = {e.id: [q.references for q in e.questions] for e in examples}
        assert len(expected) == 4
        graded = pd.read_parquet(checkout / rows)
        assert len(graded) == 4 * 2 * 2
        for row in graded.to_dict("records"):
            assert tuple(row["references"]) == expected[row["context_id"]][row["question"]]
            right = row["references"][0] in row["prediction"].split()
            assert row["score"] == float(right)


BROKEN = {
    "no grade": ("def grade(", "def score(", "defines no function grade(task, prediction"),
    "another grade": (
        "grade(task, prediction, question)",
        "grade(task, prediction, references)",
        "grade(task, prediction, references) must take (task, prediction, question)",
    ),
    "no build": ("def build(", "def make(", "defines no function build(task, …)"),
    "tasks as names": (
        'TASKS = {\n    "forward": Task(max_new_tokens=4, questions=2),\n'
        '    "backward": Task(max_new_tokens=4, questions=2),\n}',
        'TASKS = ("forward", "backward")',
        "TASKS must be a dict that is written out",
    ),
    "a row without its number": (
        "Task(max_new_tokens=4, questions=2)",
        "Task(questions=2)",
        "TASKS['forward'] must be a call with the keyword max_new_tokens=",
    ),
    "no tasks": ("TASKS = {", "ROWS = {", "defines no TASKS, so it is no benchmark"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_check_names_what_breaks_the_contract(fault: str, checkout: Path) -> None:
    old, new, message = BROKEN[fault]
    assert old in EXAMPLE
    path = checkout / "proxykv" / "benchmarks" / "recall.py"
    path.write_text(EXAMPLE.replace(old, new), "utf-8")
    try:
        status, output = check(checkout)
    finally:
        path.write_text(EXAMPLE, "utf-8")
    assert status == 2
    (line,) = output.strip().splitlines()
    assert line.startswith("config.benchmarks[0]: proxykv.benchmarks.recall: ")
    assert message in line


ROWS = {
    "tiny.py": ('    "vt": TinyTask(', '    "twin": TinyTask(max_new_tokens=3, facts=_single, '
                "parts=_one_part),\n"),
    "needles.py": ('    "vt": NeedleTask(', '    "twin": NeedleTask(max_new_tokens=24, '
                   'facts=_kinds, forms="single"),\n'),
    "text.py": ('    "code": Task(', '    "twin": Task(max_new_tokens=0, questions=0),\n'),
    "longbench/subsets.py": (
        '    "qasper": Subset(',
        '    "twin": Subset(group="g", metric=metrics.qa_f1, max_new_tokens=8, '
        'template="{context} Q: {input}"),\n',
    ),
    "ruler/tasks.py": (
        '    "vt": RulerTask(',
        '    "twin": RulerTask(max_new_tokens=16, contexts=2, maker=_needles("noise")),\n',
    ),
    "scbench/tasks.py": (
        '    "vt": ScbenchTask(',
        '    "twin": ScbenchTask(max_new_tokens=16, kind=CONTAINED),\n',
    ),
}  # fmt: skip
DRIVE = """
import json
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from pathlib import Path
from proxykv.benchmarks import contract, tiny, tiny_language
from proxykv.config.benchmarks import tasks

Path("records").mkdir(exist_ok=True)
record = {"context": "C c", "input": "I", "answers": ["pear"], "all_classes": None, "_id": "x"}
Path("records/twin.jsonl").write_text(json.dumps(record))
turns = {"context": "C c", "multi_turns": [{"input": "I", "answer": "a"}]}
Path("records/scbench_twin.jsonl").write_text(json.dumps(turns))
words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
words.pre_tokenizer = Whitespace()
offered = {"tokenizer": words, "seed": 1, "split": "eval", "max_context": 5000}
texts = {"sources": [{"kind": "stdlib", "files": "pydoc_data/topics.py"}]}
options = {
    "needles": {"contexts": 1, "lengths": [300], **texts},
    "longbench": {"source": {"path": "records"}},
    "scbench": {"source": {"path": "records"}},
    "ruler": {"lengths": [400]},
}
for name, given in options.items():
    (example, *_) = contract.make(name, "twin", offered=offered, options=given)
    question = example.questions[0]
    right = question.references[0]
    graded = contract.load(name).grade("twin", right, question)["score"]
    print(name, graded, contract.load(name).grade("twin", "?", question)["score"])
offered["tokenizer"] = tiny_language.make_tokenizer()
sizes = {"contexts": 1, "lengths": [64]}
(example,) = contract.make("tiny", "twin", offered=offered, options=sizes)
right = example.questions[0].references
print("tiny", tiny.score("twin", right[0], right))
print("text", tasks()["text"]["twin"].questions)
"""


def test_a_task_is_one_row(checkout: Path, tmp_path: Path) -> None:
    root = copy_project(tmp_path)
    for name, (before, row) in ROWS.items():
        path = root / "proxykv" / "benchmarks" / name
        text = path.read_text("utf-8")
        assert before in text
        path.write_text(text.replace(before, row + before), "utf-8")
    (root / "drive.py").write_text(DRIVE, "utf-8")
    status, output = python(root, "drive")
    assert status == 0, output
    assert output.splitlines()[-6:] == [
        "needles 1.0 0.0",
        "longbench 1.0 0.0",
        "scbench 1.0 0.0",
        "ruler 1.0 0.0",
        "tiny 1.0",
        "text 0",
    ]
    entries = [
        {"benchmark": "tiny", "tasks": ["twin"], "contexts": 1, "lengths": [64]},
        {"benchmark": "ruler", "tasks": ["twin"], "contexts": 1, "lengths": [400]},
    ]
    status, output = check(root, benchmarks=entries)
    assert status == 0, output


def test_every_benchmark_of_the_checkout_satisfies_the_contract() -> None:
    assert set(tasks()) == {"longbench", "needles", "ruler", "scbench", "text", "tiny"}
    for name in tasks():
        assert list(contract_problems(name)) == []
        benchmark = contract.load(name)
        assert list(benchmark.TASKS) == list(tasks()[name])
        for task, read in tasks()[name].items():
            row = benchmark.TASKS[task]
            assert isinstance(row, Task)
            # What is read from the source is what the row is.
            for field in vars(read):
                assert getattr(row, field) == getattr(read, field), (name, task, field)


MADE = """
from proxykv.benchmarks.contract import Example, Question, Task

TASKS = {"one": Task(max_new_tokens=1)}


def build(task):
    return [Example(i, task, "text", (Question("q", ("a",), 1),)) for i in IDS]


def grade(task, prediction, question):
    return {"score": SCORE}
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"IDS": '["q1", "q7", "q7"]'}, "examples 2 and 3 have the same id 'q7'"),
        ({"IDS": "[]"}, "made no example"),
        ({'("a",)': "()"}, "example q1, question 1: `references` must be a tuple"),
        ({'("a",)': '"pear"'}, "example q1, question 1: `references` must be a tuple"),
        ({'("a",)': '("",)'}, "reference '' must be a text that is not empty"),
        ({'("a",)': '("\\n",)'}, "reference '\\n' must be a text that is not empty"),
        ({'"text"': '" \\n"'}, "example q1 has an empty context, of which nothing can be pruned"),
        ({"SCORE": "2.0"}, "`grade` gave {'score': 2.0}; give"),
        ({"SCORE": "float('nan')"}, "`grade` gave {'score': nan}; give"),
        ({"SCORE": "question.meta['labels']"}, "cannot be graded (KeyError: 'labels')"),
        ({'"score": SCORE': '"score": 1, "f1": 1'}, "`grade` gave {'score': 1, 'f1': 1}; give"),
        ({'"score": SCORE': '"score": 1, "score_fixed": 2'}, "'score_fixed': 2}; give `score`"),
        ({'{"score": SCORE}': "{}"}, "cannot be graded (KeyError: 'score')"),
    ],
)
def test_what_a_benchmark_makes_is_checked(
    changes: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MADE
    for old, new in {
        **changes,
        "IDS": changes.get("IDS", '["q1"]'),
        "SCORE": changes.get("SCORE", "1.0"),
    }.items():
        text = text.replace(old, new)
    name = f"made_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text, "utf-8")
    import proxykv.benchmarks

    monkeypatch.setattr(proxykv.benchmarks, "__path__", [str(tmp_path)])
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        contract.make(name, "one", offered={"tokenizer": Tokenizer}, options={})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tiny", "ruler"])
def test_nothing_shorter_than_the_shortest_can_be_made(name: str, tmp_path: Path) -> None:
    """By a tokenizer of words, which no tokenizer of pieces undercuts."""
    words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    options = {"sources": ruler_corpus.write_all(tmp_path)} if name == "ruler" else {}
    offered = {"tokenizer": words, "seed": 0, "split": "eval"}
    for task, row in tasks()[name].items():
        given = {"contexts": 2, "lengths": [row.shortest - 1], **options}
        with pytest.raises(ConfigError):
            contract.make(name, task, offered=offered, options=given)
        if name == "tiny":
            contract.make(name, task, offered=offered, options=given | {"lengths": [row.shortest]})
