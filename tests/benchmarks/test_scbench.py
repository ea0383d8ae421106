"""SCBench: prompts cut at the context, both modes, truncation, and every task end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scbench_corpus
from answers import graded
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from proxykv.benchmarks import scbench
from proxykv.benchmarks.examples import Example, read_jsonl, write_jsonl
from proxykv.benchmarks.records import read_records
from proxykv.benchmarks.scbench import prompts
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError
from proxykv.steps.generate import generate
from proxykv.steps.grade import grade
from proxykv.steps.prepare import prepare

CORPUS = scbench_corpus.corpus()
CODE = (
    "Based on the function description and code context, please retrieve and repeat the exact "
    "described function from the code context in a code block wrapped by ```:\n\n"
)
LOOK_UP = "Extract the value corresponding to the specified key in the JSON object below.\n\n"
OPTIONS = "\nA. w\nB. x\nC. y\nD. z\n\nThe the correct answer is"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scbench")
    scbench_corpus.write_jsonl(root)
    return root


@pytest.fixture(scope="module")
def build(folder: Path) -> Callable[..., list[Example]]:
    """`build` on the corpus, with a tokenizer of words that are all unknown."""
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]

    def built(task: str, **options: Any) -> list[Example]:
        settings = {"max_context": 10**6, "source": {"path": str(folder)}, **options}
        return scbench.build(task, tokenizer=tokenizer, **settings)

    return built


def turns(*inputs: str, **more: Any) -> list[dict[str, Any]]:
    return [{"input": text, "answer": "x", **more} for text in inputs]


# task: (turns, text up to the context's end, questions, questions of a conversation)
ASKED = turns("Q1", "Q2")
PLAIN = ("CONTEXT", ["Q1", "Q2"], ["\n\nQ1", "Q2"])
EXPECTED = {
    "kv": (ASKED, LOOK_UP + "CONTEXT", *PLAIN[1:]),
    "prefix_suffix": (ASKED, *PLAIN),
    "vt": (ASKED, *PLAIN),
    "repoqa": (ASKED, CODE + "CONTEXT", *PLAIN[1:]),
    "qa_eng": (
        ASKED,
        "Read the book and answer the question. Be very concise in your answer.\n\nCONTEXT",
        ["Question: Q1\nAnswer:", "Question: Q2\nAnswer:"],
        ["\n\nQuestion: Q1\nAnswer:", "Question: Q2\nAnswer:"],
    ),
    "qa_chn": (
        ASKED,
        "阅读以下书籍然后回答问题。\n\nCONTEXT",
        ["问题：Q1\n答案：", "问题：Q2\n答案："],
        ["\n\n问题：Q1\n答案：", "问题：Q2\n答案："],
    ),
    "choice_eng": (
        turns("Q1", "Q2", options=["w", "x", "y", "z"]),
        "Read the book and answer the question.\n\nCONTEXT",
        ["Question: Q1" + OPTIONS, "Question: Q2" + OPTIONS],
        ["\n\nQuestion: Q1" + OPTIONS, "Question: Q2" + OPTIONS],
    ),
    "many_shot": (ASKED, *PLAIN),
    "summary": (ASKED, *PLAIN),
    "summary_with_needles": (turns("Q1", "Q2", task="scbench_passkey"), *PLAIN),
    "repoqa_and_kv": (turns("Q1", "Q2", task="scbench_kv"), *PLAIN),
    # The first question stands before the context.
    "mf": (
        turns("Be brief. The largest number is:", "The median is:"),
        "Be brief. The largest number is:\n\nCONTEXT",
        [
            "What is the largest number?\n\nBe brief. The largest number is:",
            "What is the median?\n\nThe median is:",
        ],
        ["\n\nBe brief. The largest number is:", "What is the median?\n\nThe median is:"],
    ),
}


@pytest.mark.parametrize("task", scbench.TASKS)
def test_prompts_by_hand(task: str) -> None:
    listed, context, alone, talk = EXPECTED[task]
    record = {"context": "CONTEXT", "multi_turns": listed}
    assert prompts.context(task, record, "multi_request", official=True) == context
    assert [prompts.question(task, listed, i, "multi_request") for i in range(2)] == alone
    assert [prompts.question(task, listed, i, "multi_turn") for i in range(2)] == talk
    if task == "mf":
        context = "What is the largest number?\n\nCONTEXT"
    assert prompts.context(task, record, "multi_turn", official=True) == context
    # By default no context holds a question.
    agnostic = "CONTEXT" if task == "mf" else context
    for mode in prompts.MODES:
        assert prompts.context(task, record, mode) == agnostic


def test_questions_of_a_conversation_about_numbers_name_the_last_quantity() -> None:
    listed = turns("The largest number is:", "The mean is:", "The median is:")
    texts = [prompts.question("mf", listed, i, "multi_turn") for i in range(3)]
    assert texts[1:] == [
        "What is the median?\n\nThe mean is:",
        "What is the median?\n\nThe median is:",
    ]


@pytest.mark.parametrize("mode", prompts.MODES)
@pytest.mark.parametrize("task", scbench.TASKS)
def test_contexts_and_questions_are_apart(
    task: str, mode: str, build: Callable[..., list[Example]]
) -> None:
    examples = build(task, mode=mode)
    assert len({example.id for example in examples}) == len(examples) == 2
    for example, record in zip(examples, CORPUS[task], strict=True):
        assert example.context.endswith(str(record["context"]))
        assert not example.meta["truncated"]
        assert len(example.questions) == 5
        listed = record["multi_turns"][:5]
        for i, (question, turn) in enumerate(zip(example.questions, listed, strict=True)):
            assert turn["input"] in question.text
            assert turn["input"] not in example.context
            assert str(record["context"]) not in question.text
            earlier = example.questions[:i] if mode == "multi_turn" else ()
            assert [text for text, _ in question.history] == [q.text for q in earlier]
            for (_, answered), before in zip(question.history, listed, strict=False):
                assert answered.endswith(str(before["answer"]))


def test_answers_have_the_published_lengths(build: Callable[..., list[Example]]) -> None:
    found = {task: {q.max_new_tokens for q in build(task)[0].questions} for task in scbench.TASKS}
    assert found == {
        **{task: {150} for task in ("kv", "prefix_suffix")},
        **{task: {40} for task in ("qa_eng", "qa_chn", "choice_eng")},
        **{"vt": {30}, "repoqa": {1024}, "many_shot": {10}, "summary": {200}, "mf": {5}},
        **{"summary_with_needles": {800, 15}, "repoqa_and_kv": {1024, 80}},
    }


def test_summaries_of_a_conversation_begin_as_the_authors_make_them(
    build: Callable[..., list[Example]],
) -> None:
    questions = build("summary", mode="multi_turn")[0].questions
    assert [question.answer_start for question in questions] == ["", *["This paper"] * 4]
    starts = [answer.startswith("This paper") for _, answer in questions[-1].history]
    assert starts == [False, True, True, True]
    assert {question.answer_start for question in build("summary")[0].questions} == {""}


@pytest.mark.parametrize("task", ["repoqa", "repoqa_and_kv"])
def test_needles_are_the_functions_asked_for_in_the_repository(
    task: str, build: Callable[..., list[Example]]
) -> None:
    (example,) = build(task, contexts=1, max_turns=3)
    listed = [turn for turn in CORPUS[task][0]["multi_turns"][:3] if turn.get("name")]
    needles = [{"name": turn["name"], "needle": turn["answer"]} for turn in listed]
    for question in example.questions:
        if "name" in question.meta:
            assert question.meta["needles"] == needles
            right = f"Here it is:\n{question.references[0]}\nDone."
            assert scbench.grade(task, right, question) == {"score": 1.0, "score_fixed": 1.0}
        else:
            assert "needles" not in question.meta


@pytest.mark.parametrize("task", [task for task in scbench.TASKS if task != "qa_chn"])
def test_references_are_right(task: str, build: Callable[..., list[Example]]) -> None:
    """Of qa_chn the authors' metric takes single characters for answers."""
    for example in build(task):
        for question in example.questions:
            found = scbench.grade(task, question.references[0], question)
            negative = task == "mf" and question.meta["answer"] < 0
            assert found["score"] == pytest.approx(0.0 if negative else 1.0)
            assert found["score_fixed"] == pytest.approx(1.0)


def test_long_contexts_lose_their_middle(build: Callable[..., list[Example]]) -> None:
    untruncated = build("vt")[0].context.split()
    most = 100
    cut = build("vt", max_context=most + 5 * 30 + 1000)[0]
    assert cut.meta["truncated"]
    assert cut.context.split() == untruncated[:50] + untruncated[-50:]
    assert len(cut.questions) == 5
    with pytest.raises(ConfigError, match="1150 tokens for questions and answers"):
        build("vt", max_context=1151)


def test_parquet_and_jsonl_hold_the_same(
    folder: Path, tmp_path: Path, build: Callable[..., list[Example]]
) -> None:
    scbench_corpus.write_parquet(tmp_path)
    for task in scbench.TASKS:
        assert build(task, source={"path": str(tmp_path)}) == build(task)
    stored = read_records({"path": str(tmp_path)}, "scbench_mf")
    assert stored == CORPUS["mf"]


def test_examples_survive_their_file(build: Callable[..., list[Example]], tmp_path: Path) -> None:
    examples = [example for task in scbench.TASKS for example in build(task, mode="multi_turn")]
    write_jsonl(tmp_path / "x.jsonl", examples)
    assert read_jsonl(tmp_path / "x.jsonl") == examples


def test_mistakes_are_one_line(build: Callable[..., list[Example]]) -> None:
    with pytest.raises(ConfigError, match="no mode 'chat'; choose from multi_request, multi_turn"):
        build("kv", mode="chat")
    with pytest.raises(ConfigError, match="no task 'kw'; choose from kv, "):
        build("kw")
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        build("kv", source={"path": "nowhere"})


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder that has the tiny family's weights."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "models").symlink_to(catalog.ROOT / "models")
    return root


def meta_of(task: str, turns: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """A turn of the corpus with what RepoQA's metric needs of the other contexts."""
    named = [turn for record in CORPUS[task] for turn in record["multi_turns"] if turn.get("name")]
    needles = [{"name": turn["name"], "needle": turn["answer"]} for turn in named]
    return {**turns[number], "lang": "python", "needles": needles}


@pytest.mark.parametrize("mode", prompts.MODES)
@pytest.mark.parametrize("task", scbench.TASKS)
def test_end_to_end(
    task: str, mode: str, folder: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One context through data, generation and grading, with contexts and answers made short."""
    monkeypatch.chdir(checkout)
    run = Run(
        {
            "run": mode,
            "families": ["tiny"],
            "methods": ["full", "random"],
            "retentions": [0.5, 1.0],
            "benchmarks": [
                {
                    "benchmark": "scbench",
                    "tasks": [task],
                    "contexts": 1,
                    "options": {"source": {"path": str(folder)}, "mode": mode, "max_turns": 2},
                }
            ],
        }
    )
    (job,) = run.jobs()
    prepare(run, job.dataset)
    (example,) = read_jsonl(job.dataset.path)
    questions = tuple(replace(question, max_new_tokens=2) for question in example.questions)
    short = replace(example, context=example.context[-300:], questions=questions)
    write_jsonl(job.dataset.path, [short])
    generate(run, job)
    rows = pd.read_parquet(grade(job))
    assert len(rows) == 4
    assert set(rows["method"]) == {"full", "random"}
    turns = CORPUS[task][0]["multi_turns"][:2]
    for row in rows.to_dict("records"):
        turn = meta_of(task, turns, row["question"])
        predicted = row["prediction"]
        assert row["score"] == scbench.score(task, predicted, turn, "official")
        assert row["score_fixed"] == scbench.score(task, predicted, turn, "fixed")
    # Each question's own reference is right, and a word that answers none is wrong.
    answered = graded(job, lambda question: question.references[0], "?!")
    full = answered["method"] == "full"
    assert answered[full]["score_fixed"].tolist() == [pytest.approx(1.0)] * 2
    assert answered[~full]["score_fixed"].tolist() == [0.0] * 2
    assert answered[~full]["score"].tolist() == [0.0] * 2
    assert rows["question_tokens"].is_monotonic_increasing or mode == "multi_request"
