"""What RULER is made of, as it is published, written out of Python's documentation."""

from __future__ import annotations

import json
import pydoc_data.topics
import random
import re
from pathlib import Path
from typing import Any

import pandas as pd

TOPICS = pydoc_data.topics.topics
READY_LENGTH = 4096


def write_all(root: Path) -> dict[str, dict[str, str]]:
    """Write a corpus for every task to an empty folder; the `sources` that name them."""
    write_essays(root)
    write_squad(root / "dev-v2.0.json")
    write_hotpotqa(root / "hotpot_dev_distractor_v1.json", needed=3)
    at_root = {"path": str(root)}
    return {"essays": at_root, "squad": {"path": str(root / "dev-v2.0.json")}, "hotpotqa": at_root}


def paragraphs() -> dict[str, list[str]]:
    """Paragraphs of running text by their topic, three at least."""
    found = {}
    for topic in sorted(TOPICS):
        texts = [" ".join(block.split()) for block in re.split(r"\n\s*\n", TOPICS[topic])]
        texts = [text for text in texts if 30 <= len(text.split()) <= 60 and text.endswith(".")]
        if len(texts := list(dict.fromkeys(texts))) >= 3:
            found[topic] = texts
    return found


def write_essays(folder: Path) -> None:
    """A Parquet table with a text per row, as baber/paul_graham_essays on the hub."""
    texts = ["\n\n".join(texts) for texts in paragraphs().values()]
    pd.DataFrame({"text": texts}).to_parquet(folder / "essays.parquet")


def question_of(text: str) -> tuple[str, str]:
    """A question that a paragraph answers, and the answer in the paragraph's own words."""
    words = text.split()
    return f"What follows {' '.join(words[3:7])!r}?", " ".join(words[7:9])


def write_squad(path: Path) -> None:
    """SQuAD 2.0's JSON: articles, their paragraphs, questions with and without an answer."""
    articles = []
    for topic, texts in paragraphs().items():
        entries = []
        for number, text in enumerate(texts):
            question, answer = question_of(text)
            place = {"text": answer, "answer_start": text.index(answer)}
            name = f"{topic}-{number}"
            unanswerable = {
                "plausible_answers": [place],
                "question": f"Who is not in {name}?",
                "id": f"{name}-no",
                "answers": [],
                "is_impossible": True,
            }
            answerable = {
                "question": question,
                "id": f"{name}-yes",
                "answers": [place, place, {"text": answer.upper(), "answer_start": 0}],
                "is_impossible": False,
            }
            entries.append({"qas": [unanswerable, answerable], "context": text})
        articles.append({"title": topic, "paragraphs": entries})
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))


def write_squad_table(folder: Path) -> None:
    """The same with a question per row, as rajpurkar/squad_v2 on the hub."""
    rows = []
    for topic, texts in paragraphs().items():
        for number, text in enumerate(texts):
            question, answer = question_of(text)
            places = [text.index(answer)] * 2 + [0]
            asks = {
                "no": (f"Who is not in {topic}?", {"text": [], "answer_start": []}),
                "yes": (
                    question,
                    {"text": [answer, answer, answer.upper()], "answer_start": places},
                ),
            }
            for which, (query, answers) in asks.items():
                rows.append(
                    {
                        "id": f"{topic}-{number}-{which}",
                        "title": topic,
                        "context": text,
                        "question": query,
                        "answers": answers,
                    }
                )
    (folder / "squad_v2").mkdir()
    for split in ("train", "validation"):
        shard = folder / "squad_v2" / f"{split}-00000-of-00001.parquet"
        pd.DataFrame(rows if split == "validation" else rows[:1]).to_parquet(shard)


def write_hotpotqa(path: Path, needed: int) -> None:
    """HotpotQA's distractor JSON, with `needed` paragraphs for each question (ten, really)."""
    pool = [(f"{t} {i}", text) for t, ts in paragraphs().items() for i, text in enumerate(ts)]
    records = []
    for number in range(12):
        picked = random.Random(number).sample(pool, needed)
        title, text = picked[0]
        question, answer = question_of(text)
        context = [[name, re.findall(r"[^.]*\.+|[^.]+", prose)] for name, prose in picked]
        records.append(
            {
                "_id": f"{number:024x}",
                "answer": answer,
                "question": f"{title}: {question}",
                "supporting_facts": [[title, 0], [picked[1][0], 0]],
                "context": context,
                "type": "bridge",
                "level": "hard",
            }
        )
    path.write_text(json.dumps(records))


def write_words(path: Path, count: int) -> None:
    """RULER's english_words.json: words by their numbers."""
    path.write_text(json.dumps({str(i): f"word{i:05d}" for i in range(count)}))


def ready_record(task: str, number: int) -> dict[str, Any]:
    """A sample as simonjegou/ruler has it: the answer's prefix follows the question's space."""
    question = f"Question: what is {number} of {task}? "
    return {
        "context": f"Text {number}: 11, 12 and 13 of {task}.\n",
        "question": question,
        "answer_prefix": "Answer: of course",
        "answer": ["13", "11"],
        "task": task,
        "max_new_tokens": 30,
    }


def write_ready(folder: Path, tasks: tuple[str, ...]) -> None:
    """simonjegou/ruler: a folder for each length, one table of all tasks in it."""
    (folder / str(READY_LENGTH)).mkdir()
    records = [ready_record(task, number) for task in tasks for number in range(2)]
    file = folder / str(READY_LENGTH) / "test-00000-of-00001.parquet"
    pd.DataFrame(records).to_parquet(file)
