"""Two computations of every score agree, on answers that are right, nearly right, and odd."""

from __future__ import annotations

import contextlib
import inspect
import random
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

import pytest
from scbench_corpus import corpus

from proxykv.benchmarks import contract, needles, ruler, tiny
from proxykv.benchmarks.examples import Question
from proxykv.benchmarks.longbench import subsets
from proxykv.benchmarks.scbench import repoqa
from proxykv.benchmarks.scbench.tasks import TASKS as SCBENCH
from proxykv.runs.audit import Audit
from proxykv.runs.audit.scores import borrowed, functions, second_scores
from tests.parity.authors.predictions import predictions, words

COUNT = 30
LABELS = ("Food", "Fast food", "Fast", "Animal", "An", "Other")


def questions(benchmark: str, task: str, rng: random.Random) -> Iterator[Question]:
    """Questions of a task with made-up answers."""
    if benchmark == "scbench":
        for record in corpus()[task]:
            turns = [{**turn} for turn in record["multi_turns"]]
            needed = [{"name": t["name"], "needle": t["answer"]} for t in turns if "name" in t]
            for turn in turns:
                meta = {"lang": record.get("lang"), "needles": needed, **turn}
                answer = turn["answer"]
                listed = answer if isinstance(answer, list) else [str(answer)]
                yield Question("", tuple(listed), 1, meta=meta)
        return
    for _ in range(6):
        answers = tuple(words(rng) for _ in range(rng.randrange(1, 4)))
        meta = {"outputs": [words(rng, 3) for _ in range(3)]}
        if task in ("passage_retrieval_en", "passage_retrieval_zh"):
            mark = "Paragraph " if task.endswith("en") else "段落"
            answers = tuple(f"{mark}{rng.randrange(30)}" for _ in answers)
        elif task == "passage_count":
            answers = ("12",)
        elif task in ("trec", "lsht"):
            answers = (rng.choice(LABELS),)
            meta = {"all_classes": rng.sample(LABELS, len(LABELS))}
        elif benchmark == "needles":
            answers = tuple(a + rng.choice((", ", " = ", " is ")) + a for a in answers)
        elif task == "multivalue":
            answers = tuple(f"{a} , {a}" for a in answers)
        yield Question("", answers, 1, meta=meta)


TASKS = [
    *(("longbench", task) for task in subsets.TASKS),
    *(("scbench", task) for task in SCBENCH),
    *(("ruler", task) for task in ruler.TASKS),
    *(("needles", task) for task in needles.TASKS),
    *(("tiny", task) for task in tiny.TASKS),
]


@pytest.mark.parametrize(("benchmark", "task"), TASKS)
def test_both_computations_agree(benchmark: str, task: str) -> None:
    rng = random.Random(task)
    grade = contract.load(benchmark).grade
    positive = 0
    for question in questions(benchmark, task, rng):
        answers = [*question.references, *question.meta.get("outputs", ())]
        answers += [*question.meta.get("all_classes", ()), *question.meta.get("options", ())]
        few = 4 if "repoqa" in task else COUNT  # each is parsed
        for text in (*predictions(answers, rng, few), *answers):
            first = grade(task, text, question)
            second = second_scores(benchmark, task, text, question)
            assert second == pytest.approx(first, abs=1e-9), (text, question)
            positive += first["score"] > 0
    assert positive > 5


@pytest.mark.parametrize("module", [shlex, textwrap, contextlib], ids=lambda m: m.__name__)
def test_both_find_the_same_function(module: ModuleType) -> None:
    lines, rng = inspect.getsource(module).splitlines(), random.Random(0)
    found = 0
    for _ in range(60):
        start = rng.randrange(len(lines))
        code = textwrap.dedent("\n".join(lines[start : start + rng.randrange(2, 60)]))
        text = f"Here:\n```{rng.choice(('python', '', 'py'))}\n{code}\n```\nand ```more```"
        second = functions.first_function(text, "python")
        if second is not None:
            found += 1
            assert repoqa.first_function(text, "python").split() == second.split(), text
    assert found


def test_scores_that_rest_on_the_benchmark_s_own_code_are_named() -> None:
    code = "```\n{}\n```".format
    cases = {
        ("python", code("def f():\n    pass")): "",
        ("python", code("def f(:")): "parsed by RepoQA's parser of python again",
        ("python", "no code"): "parsed by RepoQA's parser of python again",
        ("rust", code("fn f() {}")): "parsed by RepoQA's parser of rust again",
    }
    for (lang, text), shared in cases.items():
        question = Question("", ("",), 1, meta={"lang": lang, "task": "scbench_repoqa"})
        assert borrowed("scbench", "repoqa", text, question) == shared
        assert borrowed("scbench", "repoqa_and_kv", text, question) == shared
    other = Question("", ("",), 1, meta={"task": "scbench_kv"})
    assert borrowed("scbench", "repoqa_and_kv", "no code", other) == ""
    assert borrowed("tiny", "single", "no code", other) == ""
    assert borrowed("my_benchmark", "single", "", other) == "graded by my_benchmark again"
    audit = Audit(scores=9, borrowed=Counter({"graded by my_benchmark again": 4}))
    assert "9 scores" in audit.summary
    assert "; 4 of the scores only graded by my_benchmark again" in audit.summary


@pytest.mark.parametrize("task", ["gov_report", "vcsum"])
@pytest.mark.parametrize("words_of_both", [988, 989, 990, 991])
def test_long_sentences_count_zero_from_the_same_length_on(task: str, words_of_both: int) -> None:
    half = words_of_both // 2
    answer = " ".join(["same", *(f"a{i}" for i in range(half))])
    text = " ".join(["same", *(f"b{i}" for i in range(words_of_both - half))])
    question = Question("", (answer,), 1)
    first = contract.load("longbench").grade(task, text, question)
    second = second_scores("longbench", task, text, question)
    assert second == pytest.approx(first, abs=1e-9)
    assert first["score_fixed"] > 0
