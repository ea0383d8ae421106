"""LongBench as its authors run it, on records in its own on-disk format."""

from __future__ import annotations

import hashlib
import json
import os
import pydoc_data.topics
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pandas as pd
import pytest
from answers import graded
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.decoders import ByteLevel

from proxykv.benchmarks import longbench
from proxykv.benchmarks.examples import Example, read_jsonl, write_jsonl
from proxykv.benchmarks.longbench.subsets import TASKS as SUBSETS
from proxykv.benchmarks.longbench.truncation import cut_middle
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError
from proxykv.steps.generate import generate
from proxykv.steps.grade import grade
from proxykv.steps.prepare import prepare

CHINESE = "合同约定借款人应当按期归还本金并支付利息，逾期的部分另行计算。法院认为证据充分。"
UNASKED = ("gov_report", "multi_news", "vcsum", "passage_count", "lcc")
TOPICS = sorted(pydoc_data.topics.topics)
LABELS = ["Food", "Fast food", "Date"]
ANSWERS = {
    "passage_count": "7",
    "passage_retrieval_en": "Paragraph 7",
    "passage_retrieval_zh": "段落7",
    "trec": "Fast food",
    "lsht": "Fast food",
    "lcc": "    return value",
    "repobench-p": "    return value",
}


def record(task: str, number: int) -> dict[str, Any]:
    """A record with the fields of the published format, out of Python's documentation."""
    chinese = task.endswith("_zh") or task in ("dureader", "vcsum", "lsht")
    prose = pydoc_data.topics.topics[TOPICS[number]][: 600 + 50 * number]
    context = CHINESE * (12 + number) if chinese else textwrap.dedent(prose)
    return {
        "input": f"Which {{braces}} number {number}?" if task not in UNASKED else "",
        "context": f"Text {number}: {context}\u2028end",
        "answers": [ANSWERS.get(task, "the answer"), "another"][: 1 if task in ANSWERS else 2],
        "length": len(context),
        "dataset": task,
        "language": "zh" if chinese else "en",
        "all_classes": LABELS if task in ("trec", "lsht") else None,
        "_id": f"{task}{number:04d}",
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The official archive: data/<subset>.jsonl, and LongBench-E's files."""
    folder = tmp_path_factory.mktemp("longbench")
    with ZipFile(folder / "data.zip", "w") as archive:
        for task in longbench.TASKS:
            lines = [json.dumps(record(task, i), ensure_ascii=False) for i in range(3)]
            archive.writestr(f"data/{task}.jsonl", "\n".join(lines) + "\n")
            archive.writestr(f"data/{task}_e.jsonl", '{"of": "another benchmark"}\n')
    return {"path": str(folder)}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A token a byte after a BOS, as byte-level tokenizers have it; text is normalized."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0} | {byte: i for i, byte in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<s>"])
    single = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.post_processor = single  # type: ignore[assignment]
    return tokenizer


def build(task: str, tokenizer: Tokenizer, source: Any, **options: Any) -> list[Example]:
    settings = {"split": "eval", "max_context": 32768, **options}
    return longbench.build(task, tokenizer=tokenizer, source=source, **settings)


def test_subsets_are_the_official_ones() -> None:
    assert longbench.TASKS is SUBSETS
    assert len(SUBSETS) == 21
    assert sorted(subset.language for subset in SUBSETS.values()) == ["en"] * 16 + ["zh"] * 5
    # SHA-256 of the values of the official dataset2prompt.json, in the order of their names.
    templates = json.dumps([SUBSETS[task].template for task in sorted(SUBSETS)], ensure_ascii=False)
    assert hashlib.sha256(templates.encode()).hexdigest() == (
        "cbddc0497f49ca528f46a177fa208928be06432ec6113dc019ca417633c2bb49"
    )
    limits = {
        32: "hotpotqa 2wikimqa musique triviaqa passage_count passage_retrieval_en "
        "passage_retrieval_zh",
        64: "multifieldqa_en multifieldqa_zh trec lsht lcc repobench-p",
        128: "narrativeqa qasper dureader samsum",
        512: "gov_report qmsum multi_news vcsum",
    }
    assert {t: s.max_new_tokens for t, s in SUBSETS.items()} == {
        task: limit for limit, tasks in limits.items() for task in tasks.split()
    }


PROMPTS = {
    "trec": (
        "Please determine the type of the question below. Here are some examples of questions.\n\n"
        "{context}",
        "\n{input}",
    ),
    "multifieldqa_zh": (
        "阅读以下文字并用中文简短回答：\n\n{context}",
        "\n\n现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n"
        "问题：{input}\n回答：",
    ),
    "lcc": ("Please complete the code given below. \n{context}", "Next line of code:\n"),
    "vcsum": (
        "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n{context}",
        "\n\n会议总结：",
    ),
}


@pytest.mark.parametrize("task", PROMPTS)
def test_context_and_question_are_the_prompts_two_parts(
    task: str, tokenizer: Tokenizer, source: Any
) -> None:
    examples = build(task, tokenizer, source)
    assert [example.id for example in examples] == [f"{task}-{task}{i:04d}" for i in range(3)]
    for number, example in enumerate(examples):
        before, after = PROMPTS[task]
        listed = record(task, number)
        assert example.context == before.replace("{context}", listed["context"])
        (question,) = example.questions
        assert question.text == after.replace("{input}", listed["input"])


@pytest.mark.parametrize("task", longbench.TASKS)
def test_no_context_knows_its_question(task: str, tokenizer: Tokenizer, source: Any) -> None:
    for number, example in enumerate(build(task, tokenizer, source)):
        listed = record(task, number)
        (question,) = example.questions
        assert listed["context"] in example.context
        assert listed["context"] not in question.text
        assert listed["input"] in question.text
        assert not listed["input"] or listed["input"] not in example.context
        assert question.references == tuple(listed["answers"])
        assert example.meta == {"truncated": False}


def test_what_goes_without_a_template_or_stops_at_a_line(tokenizer: Tokenizer, source: Any) -> None:
    first = {task: build(task, tokenizer, source)[0] for task in longbench.TASKS}
    plain = {task for task, example in first.items() if not example.chat}
    assert plain == {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    stops = {task: e.questions[0].stop for task, e in first.items() if e.questions[0].stop}
    assert stops == {"samsum": ("\n",)}
    labelled = {task for task, e in first.items() if e.questions[0].meta}
    assert labelled == {"trec", "lsht"}
    assert first["trec"].questions[0].meta == {"all_classes": LABELS}


def test_samples_are_chosen_by_number_and_length(tokenizer: Tokenizer, source: Any) -> None:
    every = build("trec", tokenizer, source)
    assert build("trec", tokenizer, source, contexts=2) == every[:2]
    lengths = [len(tokenizer.encode(e.context, add_special_tokens=False)) for e in every]
    longest = sorted(lengths)[1]
    expected = [e for e, length in zip(every, lengths, strict=True) if length <= longest]
    assert len(expected) == 2
    assert build("trec", tokenizer, source, longest=longest) == expected
    with pytest.raises(ConfigError, match="no sample with a context of at most 5 tokens"):
        build("trec", tokenizer, source, longest=5)


def test_a_long_prompt_loses_its_middle(tokenizer: Tokenizer, source: Any) -> None:
    (untruncated,) = build("narrativeqa", tokenizer, source, contexts=1)
    # 100 tokens less than the prompt and its BOS have, and those of answer and template.
    room = len((untruncated.context + untruncated.questions[0].text).encode()) + 1 - 100
    (cut,) = build("narrativeqa", tokenizer, source, contexts=1, max_context=room + 128 + 64)
    assert cut.meta == {"truncated": True}
    assert cut.questions == untruncated.questions
    half = room // 2
    prompt = (untruncated.context + untruncated.questions[0].text).encode()
    both = prompt[: half - 1] + prompt[-half:]  # the BOS is of the first half
    assert cut.context + cut.questions[0].text == both.decode()
    (fits,) = build("narrativeqa", tokenizer, source, contexts=1, max_context=room + 292)
    assert fits == untruncated


@pytest.mark.parametrize(
    ("context", "question", "limit", "expected"),
    [
        ("abcdefgh", "QR", 11, ("abcdefgh", "QR", False)),
        ("abcdefgh", "QR", 10, ("abcdfgh", "QR", True)),
        ("abcdefgh", "QR", 9, ("abcgh", "QR", True)),
        # A cut inside a character of three bytes; a separate accent in what follows.
        ("ab是cdefgh", "e\u0301", 10, ("ab\ufffdfgh", "e\u0301", True)),
        # A question longer than half of what fits, after a long and after a short context.
        ("abcdefgh", "QRSTUVWX", 10, ("abcd", "TUVWX", True)),
        ("ab", "QRSTUVWX", 10, ("ab", "QRTUVWX", True)),
    ],
)
def test_where_prompts_are_cut(
    context: str, question: str, limit: int, expected: Any, tokenizer: Tokenizer
) -> None:
    assert cut_middle(tokenizer, context, question, limit) == expected


def test_mistaken_uses_are_one_line(tokenizer: Tokenizer, source: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training split"):
        build("qasper", tokenizer, source, split="train")
    (tmp_path / "qasper.jsonl").write_text('{"input": "", "context": "", "_id": "1"}\n')
    with pytest.raises(
        ConfigError, match=r"qasper.jsonl, record 1 \(_id '1'\): answers: expected a list"
    ):
        build("qasper", tokenizer, {"path": str(tmp_path)})


def test_every_subset_runs_to_its_rows(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One context each on the tiny model: from the official archive to graded rows."""
    (tmp_path / "models").symlink_to(catalog.ROOT / "models")
    monkeypatch.chdir(tmp_path)
    dataset = {"benchmark": "longbench", "tasks": list(longbench.TASKS), "contexts": 1}
    run = Run(
        {
            "run": "plumbing",
            "families": ["tiny"],
            "retentions": [0.5, 1.0],
            "methods": ["full", "snapkv"],
            "benchmarks": [{**dataset, "options": {"source": source}}],
        }
    )
    for job in run.jobs():
        prepare(run, job.dataset)
        (example,) = read_jsonl(job.dataset.path)
        short = tuple(replace(question, max_new_tokens=3) for question in example.questions)
        write_jsonl(job.dataset.path, [replace(example, questions=short)])
        generate(run, job)
        rows = pd.read_parquet(grade(job))
        assert rows["method"].tolist() == ["full", "snapkv"]
        assert rows["context_id"].unique().tolist() == [f"{job.task}-{job.task}0000"]
        assert rows["truncated"].tolist() == [False, False]
        # What the model wrote is scored against the record that it was asked about.
        listed = record(job.task, 0)
        for row in rows.to_dict("records"):
            assert list(row["references"]) == listed["answers"]
            given = (
                job.task,
                row["prediction"],
                listed["answers"],
                listed["all_classes"],
            )
            assert row["score"] == longbench.score(*given)
        # The last answer is right, and none of the prompt's other words is.
        rows = graded(job, listed["answers"][-1], "?")
        assert rows["score"].tolist() == [pytest.approx(1.0), 0.0]


@pytest.mark.skipif("PROXYKV_DATA" not in os.environ, reason="PROXYKV_DATA names no real samples")
@pytest.mark.parametrize("task", longbench.TASKS)
def test_real_samples_build(task: str, tokenizer: Tokenizer) -> None:
    for example in build(task, tokenizer, {"path": "$PROXYKV_DATA/longbench_sample"}, contexts=1):
        (question,) = example.questions
        assert len(example.context) > 1000
        best = longbench.grade(task, question.references[0], question)["score"]
        assert best == pytest.approx(1.0, abs=0.01)
