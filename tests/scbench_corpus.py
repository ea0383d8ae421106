"""A small SCBench in its published layouts, out of text that packages ship.

Written from the data set's card: a configuration `scbench_<task>` with one split, and records
`id`, `context`, `multi_turns[{input, answer}]` with a few more fields for some tasks.
"""

from __future__ import annotations

import ast
import inspect
import json
import random
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

import pyarrow as pa
from docutils.languages import zh_cn as labels
from docutils.parsers.rst.languages import zh_cn as directives
from pyarrow import parquet

Record = dict[str, Any]
TURNS = 6  # one more than are asked by default


def write_jsonl(folder: Path) -> None:
    """data/scbench_<task>.jsonl, one record a line."""
    (folder / "data").mkdir(parents=True)
    for task, records in corpus().items():
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / "data" / f"scbench_{task}.jsonl").write_text("".join(lines), "utf-8")


def write_parquet(folder: Path) -> None:
    """scbench_<task>/test-00000-of-00001.parquet, as the hub lays configurations out."""
    for task, records in corpus().items():
        (folder / f"scbench_{task}").mkdir(parents=True)
        path = folder / f"scbench_{task}" / "test-00000-of-00001.parquet"
        parquet.write_table(pa.Table.from_pylist(records), path)


def corpus() -> dict[str, list[Record]]:
    """Two records of every task."""
    rng = random.Random(0)
    return {task: [make(i, rng) for i in range(2)] for task, make in _MAKERS.items()}


def _kv(i: int, rng: random.Random) -> Record:
    pairs = {f"{rng.getrandbits(64):x}": f"{rng.getrandbits(64):x}" for _ in range(20)}
    turns = [
        {
            "answer": value,
            "input": f'Key: "{key}"\nThe value associated with the specified key is: ',
        }
        for key, value in list(pairs.items())[:TURNS]
    ]
    return {"id": i, "context": "JSON data:\n" + json.dumps(pairs), "multi_turns": turns}


def _prefix_suffix(i: int, rng: random.Random) -> Record:
    del i  # this configuration has no ids
    words = [f"{rng.getrandbits(96):024x}" for _ in range(20)]
    turns = [
        {"answer": word, "input": f"Which string starts with {word[:4]} and ends with {word[-4:]}?"}
        for word in words[:TURNS]
    ]
    return {"context": "Strings: " + " ".join(words), "multi_turns": turns}


def _vt(i: int, rng: random.Random) -> Record:
    chains = {rng.randrange(10**4, 10**5): rng.sample("ABCDEFGHIJKLMNOP", 3) for _ in range(TURNS)}
    lines = [
        f"VAR {a} = {value} VAR {b} = VAR {a} VAR {c} = VAR {b}"
        for value, (a, b, c) in chains.items()
    ]
    turns = [
        {"answer": names, "input": f"Find all variables that are assigned the value {value}."}
        for value, names in chains.items()
    ]
    return {"id": i, "context": _prose(i) + "\n".join(lines), "multi_turns": turns}


def _functions(module: ModuleType) -> dict[str, str]:
    source = inspect.getsource(module)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_source_segment(source, node) or "" for node in found}


def _repoqa(i: int, rng: random.Random) -> Record:
    module = (shlex, textwrap)[i]
    turns = [
        {"input": f"Function description: {name} number {rng.randrange(9)}.", "name": name}
        | {"answer": function}
        for name, function in list(_functions(module).items())[:TURNS]
    ]
    repo = f"python/{module.__name__}"
    context = inspect.getsource(module)
    return {"id": i, "context": context, "lang": "python", "repo": repo, "multi_turns": turns}


def _repoqa_and_kv(i: int, rng: random.Random) -> Record:
    functions, pairs = _repoqa(i, rng), _kv(i, rng)
    turns = []
    for function, pair in zip(functions["multi_turns"], pairs["multi_turns"], strict=True):
        turns.append({**function, "task": "scbench_repoqa"})
        turns.append({**pair, "name": None, "task": "scbench_kv"})
    context = functions["context"] + "\n" + pairs["context"]
    return {**functions, "context": context, "multi_turns": turns}


def _prose(i: int) -> str:
    return topics[sorted(topics, key=lambda name: len(topics[name]))[40 + i]]


def _sentences(text: str) -> Iterator[str]:
    yield from (" ".join(part.split()) for part in text.split(".") if len(part.split()) > 3)


def _qa_eng(i: int, rng: random.Random) -> Record:
    sentences = rng.choices(list(_sentences(_prose(i))), k=TURNS)
    turns = [{"answer": s.split()[-1], "input": f"How does it end: {s[:20]}?"} for s in sentences]
    return {"context": _prose(i), "multi_turns": turns, "id": i}


def _qa_chn(i: int, rng: random.Random) -> Record:
    words = (directives.directives, labels.bibliographic_fields)[i]
    chosen = rng.choices([word for word in words if not word.isascii()], k=TURNS)
    turns = [{"answer": word, "input": f"“{words[word]}”用中文怎么说？"} for word in chosen]
    return {"context": "。".join(words) + "。", "multi_turns": turns, "id": i}


def _choice_eng(i: int, rng: random.Random) -> Record:
    turns = []
    for turn in _qa_eng(i, rng)["multi_turns"]:
        options = [turn["answer"], "An apple", "none of these", "all of these"]
        turns.append({**turn, "options": rng.sample(options, 4)})
    return {"context": _prose(i), "multi_turns": turns, "id": i}


def _many_shot(i: int, rng: random.Random) -> Record:
    def shot(sentence: str) -> tuple[str, str]:
        last, *others = rng.sample(["left", "right", "up", sentence.rsplit(maxsplit=1)[-1]], 4)
        options = "\n".join(f"({a}) {b}" for a, b in zip("ABCD", (last, *others), strict=True))
        right = "ABCD"[(last, *others).index(sentence.rsplit(maxsplit=1)[-1])]
        return f"Q: The last word of: {sentence}\nOptions:\n{options}\nA: ", right

    shots = [shot(s) for s in rng.choices(list(_sentences(_prose(i))), k=TURNS + 4)]
    context = "\n\n".join(f"{question}({right})" for question, right in shots[TURNS:])
    turns = [{"answer": right, "input": question} for question, right in shots[:TURNS]]
    return {"context": context, "multi_turns": turns, "id": i, "task": "last_word"}


def _mf(i: int, rng: random.Random) -> Record:
    numbers = [rng.randrange(-99, 100) for _ in range(60)]
    facts = {
        "largest number": max(numbers),
        "smallest number": min(numbers),
        "second number": numbers[1],
        "first number": numbers[0],
        "last number": numbers[-1],
        "median": sorted(numbers)[30],
    }
    turns = [
        {"answer": answer, "input": f"You should answer with a number. The {what} of the list is:"}
        for what, answer in facts.items()
    ]
    return {"id": i, "context": numbers, "multi_turns": turns}


def _summary(i: int, rng: random.Random) -> Record:
    names = rng.sample(["one", "two", "three", "four", "five", "six"], TURNS)
    turns = [
        {"answer": next(_sentences(_prose(i + k))), "input": f"Please summarize document {name}."}
        for k, name in enumerate(names)
    ]
    return {"id": i, "context": _prose(i) + _prose(i + 1), "multi_turns": turns}


def _summary_with_needles(i: int, rng: random.Random) -> Record:
    record = _summary(i, rng)
    turns = []
    for turn in record["multi_turns"]:
        key = str(rng.randrange(10**4, 10**5))
        turns.append({**turn, "task": "scbench_summary"})
        turns.append({"answer": key, "input": "What is the pass key?", "task": "scbench_passkey"})
        record["context"] += f"\nThe pass key is {key}. Remember it."
    return {**record, "multi_turns": turns}


_MAKERS = {
    "kv": _kv,
    "prefix_suffix": _prefix_suffix,
    "vt": _vt,
    "repoqa": _repoqa,
    "qa_eng": _qa_eng,
    "qa_chn": _qa_chn,
    "choice_eng": _choice_eng,
    "many_shot": _many_shot,
    "summary": _summary,
    "mf": _mf,
    "summary_with_needles": _summary_with_needles,
    "repoqa_and_kv": _repoqa_and_kv,
}
