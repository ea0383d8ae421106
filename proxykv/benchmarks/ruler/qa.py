"""Question answering: the documents that answer a question, among others of the same data set."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxykv.benchmarks.ruler.sample import Sample
from proxykv.runtime.errors import ConfigError

INSTRUCTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words.\n\n"
)
BEFORE = INSTRUCTION + "The following are given documents.\n\n"
QUESTION = "\n\n" + INSTRUCTION + "Question: {query}"
ANSWER_START = " Answer:"


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question of a data set.

    Attributes:
        query: the question.
        answers: accepted answers.
        needed: documents that answer it.
        near: documents that are added first.
    """

    query: str
    answers: tuple[str, ...]
    needed: tuple[str, ...]
    near: tuple[str, ...] = ()


class DocumentPrompts:
    """Draws prompts, one for each question in the data set's order. Size: documents."""

    def __init__(self, questions: Sequence[AnsweredQuestion], documents: Iterable[str]) -> None:
        """Sort the documents.

        Args:
            questions: in the data set's order.
            documents: all of the data set.

        Raises:
            ConfigError: if there is no question.
        """
        if not questions:
            raise ConfigError("the source holds no question that has an answer; name another one")
        self._questions = questions
        self._documents = sorted(set(documents))
        self.sizes = range(max(len(one.needed) for one in questions), sys.maxsize)

    def draw(self, index: int, size: int, rng: random.Random) -> Sample:
        """See `Maker.draw`."""
        if index >= len(self._questions):
            raise ConfigError(
                f"the source holds {len(self._questions)} questions; set `contexts` to that at most"
            )
        one = self._questions[index]
        chosen = self._chosen(one, size, rng)
        rng.shuffle(chosen)
        numbered = (f"Document {i}:\n{text}" for i, text in enumerate(chosen, start=1))
        context = BEFORE + "\n\n".join(numbered)
        return Sample(context, QUESTION.format(query=one.query), ANSWER_START, one.answers)

    def _chosen(self, one: AnsweredQuestion, size: int, rng: random.Random) -> list[str]:
        if size >= len(self._documents):  # all documents, repeated
            repeats = -(-size // len(self._documents))
            return (self._documents * repeats)[:size]
        others = size - len(one.needed)
        if others <= len(one.near):
            return [*one.needed, *rng.sample(one.near, others)]
        taken = {*one.needed, *one.near}
        far = [text for text in self._documents if text not in taken]
        return [*one.needed, *one.near, *rng.sample(far, size - len(taken))]


def squad(records: Sequence[Mapping[str, Any]]) -> DocumentPrompts:
    """Answerable questions of SQuAD: its own JSON files, or a table with a question per row."""
    articles = [article for one in records if "data" in one for article in one["data"]]
    articles += _articles(one for one in records if "data" not in one)
    questions = []
    for article in articles:
        paragraphs = article["paragraphs"]
        for paragraph in paragraphs:
            text = paragraph["context"]
            near = dict.fromkeys(p["context"] for p in paragraphs if p["context"] != text)
            for question in paragraph["qas"]:
                answers = tuple(answer["text"] for answer in question["answers"])
                if not question.get("is_impossible", False) and answers:
                    questions.append(
                        AnsweredQuestion(question["question"], answers, (text,), tuple(near))
                    )
    return DocumentPrompts(questions, (p["context"] for a in articles for p in a["paragraphs"]))


def _articles(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows (title, context, question, answers) as SQuAD's JSON nests them."""
    nested: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        answers = [{"text": text} for text in row["answers"]["text"]]
        question = {"question": row["question"], "answers": answers}
        nested.setdefault(row["title"], {}).setdefault(row["context"], []).append(question)
    return [
        {"paragraphs": [{"context": text, "qas": qas} for text, qas in paragraphs.items()]}
        for paragraphs in nested.values()
    ]


def hotpotqa(records: Sequence[Mapping[str, Any]]) -> DocumentPrompts:
    """Questions of HotpotQA's distractor set: each needs ten paragraphs, two of which answer it."""
    questions = []
    for record in records:
        needed = tuple(f"{title}\n{''.join(parts)}" for title, parts in record["context"])
        questions.append(AnsweredQuestion(record["question"], (record["answer"],), needed))
    return DocumentPrompts(questions, (text for one in questions for text in one.needed))
