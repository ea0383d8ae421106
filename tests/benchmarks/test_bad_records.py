"""Records that are not as published are refused while data are made: file, record, field."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ruler_corpus
import scbench_corpus
from records_fixture import RECORD, refused
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from proxykv.benchmarks import contract, longbench
from proxykv.benchmarks.examples import read_jsonl, write_jsonl
from proxykv.benchmarks.records import read_records
from proxykv.runtime.errors import ConfigError

LABELLED = {**RECORD, "answers": ["Food"], "all_classes": ["Food", "Date"]}


@pytest.fixture(scope="module")
def offered() -> dict[str, Any]:
    """What a run offers a benchmark; the tokenizer takes words for tokens."""
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    return {"tokenizer": tokenizer, "seed": 0, "split": "eval", "max_context": 10**6}


LONGBENCH = {
    "a text for the answers": (
        "qasper",
        {"answers": "pear"},
        "answers: expected a list of 1 or more (each a text that is not empty), found 'pear'",
    ),
    "no answer": ("qasper", {"answers": []}, "answers: expected a list of 1 or more"),
    "an empty answer": ("qasper", {"answers": [""]}, "answers[0]: expected a text that is not"),
    "a number for an answer": (
        "qasper",
        {"answers": ["pear", 7]},
        "answers[1]: expected a text that is not empty, found 7",
    ),
    "null for the answers": ("qasper", {"answers": None}, "answers: expected a list of 1 or more"),
    "no context": ("qasper", {"context": ""}, "context: expected a text that is not empty"),
    "a blank context": ("qasper", {"context": " \n"}, "context: expected a text that is not empty"),
    "a blank answer": ("qasper", {"answers": ["\t "]}, "answers[0]: expected a text that is not"),
    "a blank label": ("trec", {"all_classes": ["Food", " "]}, "all_classes[1]: expected a text"),
    "a blank id": ("qasper", {"_id": " "}, "_id: expected a text that is not empty, found ' '"),
    "a list for the context": ("qasper", {"context": ["a"]}, "context: expected a text"),
    "null for the question": ("qasper", {"input": None}, "input: expected a text, found None"),
    "a number for the id": ("qasper", {"_id": 7}, "_id: expected a text that is not empty, found"),
    "a text for the classes": ("qasper", {"all_classes": "Food"}, "all_classes: expected a list"),
    "no classes where a task classifies": (
        "trec",
        {"all_classes": None},
        "all_classes: expected a list of 1 or more (each a text that is not empty), found None",
    ),
    "no class": ("lsht", {"all_classes": []}, "all_classes: expected a list of 1 or more"),
    "an answer that is no class": (
        "trec",
        {"answers": ["Pear"]},
        "answers: expected one of the record's `all_classes`, found 'Pear'",
    ),
    "a count in words": ("passage_count", {"answers": ["seven"]}, "expected a text like '7'"),
    "a paragraph without its name": (
        "passage_retrieval_en",
        {"answers": ["7"]},
        "answers[0]: expected a text like 'Paragraph 7', found '7'",
    ),
    "a Chinese one": ("passage_retrieval_zh", {"answers": ["Paragraph 7"]}, "like '段落7'"),
    "half of a surrogate pair": ("qasper", {"context": "a\ud800b"}, "context: expected text, foun"),
    "a length in words": (
        "qasper",
        {"length": "long"},
        "length: expected a number of words, or nu",
    ),
    "half a word": (
        "qasper",
        {"length": 7.5},
        "length: expected a number of words, or null, found",
    ),
    "a number for the language": ("qasper", {"language": 1}, "language: expected a text, or null"),
    "another half": ("qasper", {"answers": ["\udfff"]}, "answers[0]: expected text, found half of"),
}


@pytest.mark.parametrize("fault", LONGBENCH)
def test_longbench(fault: str, tmp_path: Path, offered: dict[str, Any]) -> None:
    task, changes, message = LONGBENCH[fault]
    base = LABELLED if longbench.TASKS[task].classifies else {**RECORD}
    base["answers"] = {
        "passage_count": ["7"],
        "passage_retrieval_en": ["Paragraph 7"],
        "passage_retrieval_zh": ["段落7"],
    }.get(task, base["answers"])
    lines = [json.dumps(base | {"_id": "q1"}), json.dumps(base | changes)]
    path = tmp_path / f"{task}.jsonl"
    options = {"source": {"path": str(tmp_path)}}

    def make() -> Any:
        return contract.make("longbench", task, offered=offered, options=options)

    path.write_text("\n".join(lines), "utf-8")
    line = refused(make)
    assert message in line
    assert f"{task}.jsonl, record 2" in line
    assert "_id" in changes or "(_id 'q7'): " in line
    path.write_text(lines[0], "utf-8")
    assert len(make()) == 1


@pytest.mark.parametrize("field", RECORD)
def test_a_missing_field_is_named(field: str, tmp_path: Path, offered: dict[str, Any]) -> None:
    record = {name: value for name, value in RECORD.items() if name != field}
    (tmp_path / "qasper.jsonl").write_text(json.dumps(record), "utf-8")
    options = {"source": {"path": str(tmp_path)}}
    line = refused(lambda: contract.make("longbench", "qasper", offered=offered, options=options))
    assert f"{field}: expected a" in line
    assert "found no such field; there are " in line


def test_an_id_that_comes_twice_is_refused_and_both_records_are_named(tmp_path: Path) -> None:
    def read() -> Any:
        return read_records({"path": str(tmp_path)}, "qa", unique=["_id"])

    records = [{"_id": name} for name in ("q1", "q7", "q2", "q7")]
    (tmp_path / "qa.json").write_text(json.dumps(records), "utf-8")
    line = refused(read)
    assert "qa.json, record 4 (_id 'q7'): the same _id as" in line
    assert "qa.json, record 2 (_id 'q7'); correct one" in line
    (tmp_path / "qa.json").unlink()
    (tmp_path / "qa").mkdir()
    for i in range(2):  # in two shards of one table
        path = tmp_path / "qa" / f"test-{i:05d}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist([{"_id": "q7"}]), path)
    line = refused(read)
    assert "00001-of-00002.parquet, record 1" in line
    assert "00000-of-00002.parquet, record 1" in line


@pytest.mark.parametrize("twin", ["cafe\u0301", "caf\u00e9 ", "\ufeffcaf\u00e9"], ids=ascii)
def test_ids_that_look_alike_are_the_same(twin: str, tmp_path: Path) -> None:
    (tmp_path / "qa.json").write_text(json.dumps([{"_id": "caf\u00e9"}, {"_id": twin}]), "utf-8")
    line = refused(lambda: read_records({"path": str(tmp_path)}, "qa", unique=["_id"]))
    assert "qa.json, record 2" in line
    assert "the same _id as" in line


def test_a_name_with_a_line_break_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\n%s{x}").mkdir()
    (tmp_path / "a\n%s{x}" / "qa.jsonl").write_text("{", "utf-8")
    line = refused(lambda: read_records({"path": str(tmp_path)}, "qa"))
    assert r"a\n%s{x}/qa.jsonl, line 1: not JSON" in line


def test_records_without_an_id_are_not_compared(tmp_path: Path) -> None:
    records = [{"text": "same"}, {"text": "same"}, {"text": "same", "_id": None}]
    (tmp_path / "qa.json").write_text(json.dumps(records), "utf-8")
    assert read_records({"path": str(tmp_path)}, "qa", unique=["_id"]) == records
    line = refused(lambda: read_records({"path": str(tmp_path)}, "qa", unique=["text"]))
    assert "record 2 (text 'same'): the same text as" in line


TWICE: dict[str, tuple[str, str, str, dict[str, Any], str]] = {
    "LongBench": ("longbench", "qasper", "qasper", RECORD, "_id"),
    "SCBench": (
        *("scbench", "kv", "scbench_kv"),
        {"id": 3, "context": "C", "multi_turns": [{"input": "What?", "answer": "a"}]},
        "id",
    ),
    "SQuAD": (
        *("ruler", "qa_1", "squad"),
        {"id": "s", "title": "T", "context": "C", "question": "Q?", "answers": {"text": ["a"]}},
        "id",
    ),
    "HotpotQA": (
        *("ruler", "qa_2", "hotpotqa"),
        {"_id": "h", "question": "Q?", "answer": "a", "context": [["T", ["a."]]]},
        "_id",
    ),
    "RULER's ready samples": (
        *("ruler", "vt", "1024"),
        {
            **{"task": "vt", "context": "C", "question": "Q?", "answer_prefix": "A:"},
            **{"answer": ["a"], "max_new_tokens": 3},
        },
        "task and context and question",
    ),
}
"""Benchmark, task, table, a record of it and what no two records share."""


@pytest.mark.parametrize("case", TWICE)
def test_no_benchmark_takes_a_record_twice(
    case: str, tmp_path: Path, offered: dict[str, Any]
) -> None:
    benchmark, task, table, record, same = TWICE[case]
    path = tmp_path / f"{table}.jsonl"
    path.write_text(2 * f"{json.dumps(record)}\n", "utf-8")
    source = {"path": str(path)}
    options: dict[str, Any] = {"source": source}
    if benchmark == "ruler":
        named = {"sources": {table: source}, "samples": {"path": str(tmp_path)}}
        key = "samples" if table == "1024" else "sources"
        options = {"lengths": [1024], "contexts": 1, key: named[key]}
    line = refused(lambda: contract.make(benchmark, task, offered=offered, options=options))
    assert f"{path.name}, record 2" in line
    assert f": the same {same} as " in line


TURN = {"input": "What?", "answer": "a"}
SCBENCH = {
    "no turns": ("kv", {"multi_turns": []}, "multi_turns: expected a list of 1 or more"),
    "an answer of another type": (
        "kv",
        {"multi_turns": [TURN, {"input": "What?", "answer": ["a"]}]},
        "multi_turns[1].answer: expected a text that is not empty, found ['a']",
    ),
    "a turn without an answer": (
        "summary",
        {"multi_turns": [{"input": "What?"}]},
        "multi_turns[0].answer: expected a text that is not empty, found no such field",
    ),
    "variables in a text": ("vt", {"multi_turns": [TURN]}, "answer: expected a list of 1 or more"),
    "three options": (
        "choice_eng",
        {"multi_turns": [TURN | {"options": ["a", "b", "c"]}]},
        "multi_turns[0].options: expected a list of 4 (each a text that is not empty)",
    ),
    "an answer that is no option": (
        "choice_eng",
        {"multi_turns": [TURN | {"options": ["b", "c", "d", "e"]}]},
        "multi_turns[0].answer: expected one of the record's `options`, found 'a'",
    ),
    "a number in a text": (
        "mf",
        {"multi_turns": [{"input": "The median is:", "answer": "7"}]},
        "multi_turns[0].answer: expected a number, found '7'",
    ),
    "a question for no quantity": (
        "mf",
        {"multi_turns": [{"input": "Which?", "answer": 7}]},
        "multi_turns[0].input: expected a text that says `The <quantity> is`, found 'Which?'",
    ),
    "a text for numbers": ("mf", {"context": "1, 2"}, "context: expected a list of 1 or more"),
    "a language without a grammar": ("repoqa", {"lang": "cobol"}, "lang: expected one of python"),
    "no repository": ("repoqa", {"repo": None}, "repo: expected a text that is not empty"),
    "a kind that the task does not mix": (
        "summary_with_needles",
        {"multi_turns": [TURN | {"task": "scbench_kv"}]},
        "multi_turns[0].task: expected one of scbench_summary, scbench_passkey, found 'scbench_kv'",
    ),
    "no kind": (
        "repoqa_and_kv",
        {"multi_turns": [TURN]},
        "multi_turns[0].task: expected one of scbench_repoqa, scbench_kv, found no such field",
    ),
    "a function without a name": (
        "repoqa_and_kv",
        {"multi_turns": [TURN | {"task": "scbench_repoqa", "name": None}]},
        "multi_turns[0].name: expected a text that is not empty, found None",
    ),
}


@pytest.mark.parametrize("fault", SCBENCH)
def test_scbench(fault: str, tmp_path: Path, offered: dict[str, Any]) -> None:
    task, changes, message = SCBENCH[fault]
    first, second = scbench_corpus.corpus()[task]
    path = tmp_path / f"scbench_{task}.jsonl"
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second | changes)}\n", "utf-8")
    options = {"source": {"path": str(tmp_path)}}
    line = refused(lambda: contract.make("scbench", task, offered=offered, options=options))
    identity = f" (id {second['id']})" if "id" in second else ""
    assert f"scbench_{task}.jsonl, record 2{identity}: " in line
    assert message in line


ANSWERED = {"question": "What?", "answers": [{"text": "a"}]}
PARAGRAPH = {"context": "A text.", "qas": [ANSWERED]}
RULER = {
    "squad": (
        "qa_1",
        {"data": [{"paragraphs": [PARAGRAPH | {"qas": [ANSWERED | {"answers": "a"}]}]}]},
        "data[0].paragraphs[0].qas[0].answers: expected a list (each an object), found 'a'",
    ),
    "squad's table": (
        "qa_1",
        {"title": "T", "context": "C", "question": "Q", "answers": {"text": "a"}},
        "answers.text: expected a list (each a text that is not empty), found 'a'",
    ),
    "hotpotqa": (
        "qa_2",
        {"question": "Q", "answer": "a", "context": {"title": ["T"], "sentences": [["S"]]}},
        "context: expected a list of 1 or more (each [title, sentences])",
    ),
    "essays": ("niah_single_2", {"text": ["A."]}, "text: expected a text that is not empty"),
    "a text for a truth": (
        "qa_1",
        {"data": [{"paragraphs": [PARAGRAPH | {"qas": [ANSWERED | {"is_impossible": "no"}]}]}]},
        "data[0].paragraphs[0].qas[0].is_impossible: expected true or false, found 'no'",
    ),
    "words": ("cwe", ["a", "b"], "record 1: record: expected one object {number: word}"),
}


@pytest.mark.parametrize("fault", RULER)
def test_ruler(fault: str, tmp_path: Path, offered: dict[str, Any]) -> None:
    task, record, message = RULER[fault]
    name = {"qa_1": "squad", "qa_2": "hotpotqa", "niah_single_2": "essays", "cwe": "words"}[task]
    path = tmp_path / "any.json"
    path.write_text(json.dumps(record), "utf-8")
    options = {"lengths": [900], "contexts": 1, "sources": {name: {"path": str(path)}}}
    line = refused(lambda: contract.make("ruler", task, offered=offered, options=options))
    assert "any.json, record 1" in line
    assert message in line


def test_ready_samples(tmp_path: Path, offered: dict[str, Any]) -> None:
    record = ruler_corpus.ready_record("vt", 0) | {"answer": "A, B"}
    (tmp_path / "4096.jsonl").write_text(json.dumps(record, default=list), "utf-8")
    options = {"lengths": [4096], "contexts": 1, "samples": {"path": str(tmp_path)}}
    line = refused(lambda: contract.make("ruler", "vt", offered=offered, options=options))
    assert "4096.jsonl, record 1: answer: expected a list of 1 or more" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_new_tokens": 30.0},
            "record 2: max_new_tokens: expected a number of tokens, found 3",
        ),
        (
            {"max_new_tokens": True},
            "record 2: max_new_tokens: expected a number of tokens, found T",
        ),
        ({"answer": ["13", "17"]}, "ruler-niah_multivalue-4096-0001: its context does not hold"),
    ],
)
def test_one_of_the_ready_samples(
    changes: dict[str, Any], message: str, tmp_path: Path, offered: dict[str, Any]
) -> None:
    task = "niah_multivalue"
    first, second = (ruler_corpus.ready_record(task, number) for number in range(2))
    lines = [json.dumps(first), json.dumps(second | changes)]
    (tmp_path / "4096.jsonl").write_text("\n".join(lines), "utf-8")
    options = {"lengths": [4096], "contexts": 2, "samples": {"path": str(tmp_path)}}
    assert message in refused(
        lambda: contract.make("ruler", task, offered=offered, options=options)
    )


def test_numbers_of_a_parquet_are_finite(tmp_path: Path, offered: dict[str, Any]) -> None:
    """JSON has no NaN; a column of Parquet may."""
    turn = {"input": "The median is:", "answer": 7.0}
    options = {"source": {"path": str(tmp_path)}}

    def make(numbers: list[float], answer: float) -> Any:
        record = {"context": numbers, "multi_turns": [turn | {"answer": answer}]}
        pq.write_table(pa.Table.from_pylist([record]), tmp_path / "scbench_mf.parquet")
        return contract.make("scbench", "mf", offered=offered, options=options)

    assert "context[1]: expected a number, found nan" in refused(lambda: make([1, math.nan], 7))
    assert "answer: expected a number, found inf" in refused(lambda: make([1, 2], math.inf))
    assert len(make([1, 2], 7)) == 1


@pytest.mark.parametrize("value", [b"\xff", date(2024, 1, 1), math.nan, {"a": [b"\xff"]}], ids=str)
def test_further_columns_of_a_parquet_may_hold_anything(
    value: Any, tmp_path: Path, offered: dict[str, Any]
) -> None:
    record = {"context": "C", "multi_turns": [TURN | {"extra": value}], "extra": value}
    path = tmp_path / "scbench_kv.parquet"
    pq.write_table(pa.Table.from_pylist([record]), path)
    options = {"source": {"path": str(tmp_path)}}
    (example,) = contract.make("scbench", "kv", offered=offered, options=options)
    write_jsonl(tmp_path / "made.jsonl", [example])
    assert read_jsonl(tmp_path / "made.jsonl") == [example]
    assert example.questions[0].meta == TURN


VALUES = (None, True, -1, 1.5, 10**30, "", " ", "a", "\0", "{", "\ud800", [], [None], {}, {"a": 1})
READY = ruler_corpus.ready_record("niah_multivalue", 0)
SQUAD_ROW = {"title": "T", "context": "C", "question": "Q?", "answers": {"text": ["C"]}}
TABLES: dict[str, tuple[str, str, str, Any]] = {
    "a text": ("longbench", "qasper", "source", RECORD),
    "a class": ("longbench", "trec", "source", LABELLED),
    "turns": ("scbench", "kv", "source", {"context": "C", "multi_turns": [TURN]}),
    "options": (
        *("scbench", "choice_eng", "source"),
        {"context": "C", "multi_turns": [TURN | {"options": ["a", "b", "c", "d"]}]},
    ),
    "numbers": (
        *("scbench", "mf", "source"),
        {"context": [1, 2], "multi_turns": [{"input": "The median is:", "answer": 7}]},
    ),
    "mixed turns": (
        *("scbench", "summary_with_needles", "source"),
        {"context": "C", "multi_turns": [TURN | {"task": "scbench_passkey"}]},
    ),
    "ready samples": ("ruler", "niah_multivalue", "samples", READY),
    "questions": ("ruler", "qa_1", "squad", SQUAD_ROW),
    "nested questions": ("ruler", "qa_1", "squad", {"data": [{"paragraphs": [PARAGRAPH]}]}),
    "documents": (
        *("ruler", "qa_2", "hotpotqa"),
        {"question": "Q?", "answer": "a", "context": [["T", ["One."]]]},
    ),
}
"""Benchmark, task, its option for the table, and a good record."""


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value is in a record: the record's own place, then those in it."""
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    return [at, *(place for key, part in inside for place in places(part, (*at, key)))]


def changed(record: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    copy = record.copy()
    copy[at[0]] = changed(record[at[0]], at[1:], value)
    return copy


@pytest.mark.parametrize("table", TABLES)
def test_any_value_at_any_place_is_taken_or_refused_in_one_line(
    table: str, tmp_path: Path, offered: dict[str, Any]
) -> None:
    benchmark, task, option, record = TABLES[table]
    path = tmp_path / ("4096.jsonl" if option == "samples" else "any.jsonl")
    named: dict[str, Any] = {"path": str(path)}
    options = {option: named} if option in ("source", "samples") else {"sources": {option: named}}
    if benchmark == "ruler":
        options |= {"lengths": [4096 if option == "samples" else 200], "contexts": 1}
    taken = 0
    for place in places(record):
        for value in VALUES:
            path.write_text(json.dumps(changed(record, place, value)), "utf-8")
            try:
                made = contract.make(benchmark, task, offered=offered, options=options)
            except ConfigError as error:
                assert "\n" not in str(error)
                continue
            write_jsonl(tmp_path / "made.jsonl", made)
            assert read_jsonl(tmp_path / "made.jsonl") == made
            taken += 1
    assert taken


def test_ids_of_any_type_are_compared(tmp_path: Path) -> None:
    days = [date(2026, 1, 1), date(2026, 1, 1)]
    pq.write_table(pa.table({"id": days}), tmp_path / "t.parquet")
    line = refused(lambda: read_records({"path": str(tmp_path)}, "t", unique=["id"]))
    assert "record 2 (id datetime.date(2026, 1, 1)): the same id as" in line


def test_each_task_of_scbench_refuses_an_id_that_occurs_twice(
    tmp_path: Path, offered: dict[str, Any]
) -> None:
    for task, records in scbench_corpus.corpus().items():
        lines = [json.dumps({**record, "id": 7}) + "\n" for record in records]
        (tmp_path / f"scbench_{task}.jsonl").write_text("".join(lines), "utf-8")
        options = {"source": {"path": str(tmp_path)}}
        line = refused(
            lambda task=task, options=options: contract.make(
                "scbench", task, offered=offered, options=options
            )
        )
        assert f"scbench_{task}.jsonl, record 2 (id 7): the same id as source " in line
