"""Needles in real prose and code: facts hidden in published text, several questions a context.

Tasks, after RULER (arXiv 2404.06654), three questions per context:
  single      three needles of three kinds, one question about each;
  multikey    eight needles of one kind that differ in their key, three of them asked for;
  multivalue  three needles of each of three kinds, one key per kind; all its values are asked for;
  vt          three chains of variable assignments with one hop; each is to be followed from its
              last variable back to the number (RULER asks for all variables of a number, in chains
              of four hops, which models of one billion parameters hardly ever get right).

The splits share nothing: needle and question templates, the words that keys are made of, and
source files (see `proxykv.benchmarks.sources`) are disjoint between "train" and "eval".
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from tokenizers import Tokenizer

from proxykv.benchmarks import sources as text_sources
from proxykv.benchmarks.contract import Example, Question, Task
from proxykv.benchmarks.haystack import Haystacks, fill
from proxykv.benchmarks.needle_forms import ADJECTIVES, CHAINS, FORMS, NOUNS, WORDS, Form

QUESTIONS = 3
KEYS = 8
HOPS = 1  # the questions in `needle_forms.CHAINS` say so too
PART = re.compile(", | = | is ")


@dataclass(frozen=True, kw_only=True)
class NeedleTask(Task):
    """A task: how its facts are made.

    Attributes:
        facts: makes the facts of a context: (task, split, style, random numbers).
        forms: key of the task's needle forms in `needle_forms.FORMS`; a chain needs none.
        values: values of a key.
        given: number of the answer's first parts that the question gives; they do not count.
    """

    facts: Callable[[NeedleTask, str, str, random.Random], list[Fact]]
    forms: str = ""
    values: int = 1
    given: int = 0


@dataclass(frozen=True)
class Fact:
    """Needles in a fixed order, and the question about them.

    Attributes:
        needles: the needles.
        question: empty for a distractor, which no question is about.
        answer: the answer to the question.
    """

    needles: tuple[str, ...]
    question: str = ""
    answer: str = ""


def build(
    task: str,
    *,
    tokenizer: Tokenizer,
    contexts: int,
    lengths: Sequence[int],
    seed: int,
    split: str,
    sources: Sequence[Mapping[str, Any]],
    downloads: str = "cache/sources",
) -> list[Example]:
    """Make contexts with `QUESTIONS` questions each, alternately of prose and of code.

    A context depends on the other arguments and its index, not on `contexts`. The reference of a
    question is its answer as a model would write it: several values are joined by ", " in the order
    of the context, a chain reads "b = a = 12345".

    Args:
        task: a key of `TASKS`.
        tokenizer: measures contexts.
        contexts: how many.
        lengths: of contexts in tokens, taken in turn. The style changes after each round.
        seed: of everything random.
        split: "train" or "eval".
        sources: where text comes from (see `proxykv.benchmarks.sources.load`).
        downloads: folder of downloaded sources.

    Returns:
        The contexts with their questions.

    Raises:
        ConfigError: if a source cannot be read or holds too little text, or a length is too short.
    """
    documents = text_sources.load(sources, split, downloads)
    row, key = TASKS[task], f"{seed}/needles/{task}/{split}"
    haystacks = Haystacks(documents, tokenizer, random.Random(key))
    examples = []
    for i in range(contexts):
        rng = random.Random(f"{key}/{i}")
        length = lengths[i % len(lengths)]
        style = haystacks.styles[i // len(lengths) % len(haystacks.styles)]
        haystack = haystacks.draw(style, i, length, rng)
        facts = row.facts(row, split, style, rng)
        context = fill(haystack, _interleaved(facts, rng), tokenizer, length, rng)
        questions = tuple(
            Question(f"\n\n{fact.question}", (fact.answer,), row.max_new_tokens)
            for fact in facts
            if fact.question
        )
        meta = {"split": split, "style": style, "length": length, "documents": list(haystack.names)}
        examples.append(Example(f"needles-{split}-{task}-{i:04d}", task, context, questions, meta))
    return examples


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """Score an answer.

    Args:
        task: name of the task.
        prediction: the model's answer.
        question: the question, with its references.
    """
    return {"score": score(task, prediction, question.references)}


def score(task: str, prediction: str, references: Sequence[str]) -> float:
    """Score an answer by RULER's `string_match_all` (arXiv 2404.06654).

    Args:
        task: a key of `TASKS`.
        prediction: what the model wrote.
        references: accepted answers; the best one counts. Their parts are separated by ", ", in
            "vt" by " = " or " is ". The first part of "vt" does not count: the question gives it.

    Returns:
        Share of a reference's parts that the prediction contains. Case and order do not matter.
    """
    answer = prediction.lower()
    parts = [PART.split(reference.lower())[TASKS[task].given :] for reference in references]
    return max(sum(part in answer for part in those) / len(those) for those in parts)


def _kinds(task: NeedleTask, split: str, style: str, rng: random.Random) -> list[Fact]:
    forms = rng.sample(FORMS[split][task.forms], QUESTIONS)
    keys = _keys(split, QUESTIONS, rng)
    pairs = zip(forms, keys, strict=True)
    return [_fact(form, key, split, style, task.values, rng) for form, key in pairs]


def _many_keys(task: NeedleTask, split: str, style: str, rng: random.Random) -> list[Fact]:
    form = rng.choice(FORMS[split][task.forms])
    facts = [_fact(form, key, split, style, task.values, rng) for key in _keys(split, KEYS, rng)]
    return facts[:QUESTIONS] + [Fact(fact.needles) for fact in facts[QUESTIONS:]]


def _chains(task: NeedleTask, split: str, style: str, rng: random.Random) -> list[Fact]:
    chain, facts = CHAINS[split], []
    unused = iter(rng.sample(NOUNS[split].split(), QUESTIONS * (HOPS + 1)))
    for number in _numbers(5, QUESTIONS, rng):
        names = list(islice(unused, HOPS + 1))
        needles = [chain.first[style].format(key=names[0], value=number)]
        needles += [chain.next[style].format(key=b, value=a) for a, b in pairwise(names)]
        question = chain.question.format(last=names[-1])
        facts.append(Fact(tuple(needles), question, chain.joint.join([*names[::-1], number])))
    return facts


TASKS = {
    "single": NeedleTask(questions=3, max_new_tokens=24, shortest=60, facts=_kinds, forms="single"),
    "multikey": NeedleTask(
        questions=3, max_new_tokens=24, shortest=96, facts=_many_keys, forms="multikey"
    ),
    "multivalue": NeedleTask(
        questions=3, max_new_tokens=32, shortest=128, facts=_kinds, forms="multivalue", values=3
    ),
    "vt": NeedleTask(questions=3, max_new_tokens=32, shortest=48, facts=_chains, given=1),
}


def _fact(form: Form, key: str, split: str, style: str, count: int, rng: random.Random) -> Fact:
    words = rng.sample(WORDS[split].split(), count)
    values = _numbers(form.digits, count, rng) if form.digits else words
    template = form.code if style == "code" else form.prose
    name = key.replace(" ", "_").upper()
    return Fact(
        tuple(template.format(key=key, value=value, name=name) for value in values),
        form.question.format(key=key, count=count),
        ", ".join(values),
    )


def _keys(split: str, count: int, rng: random.Random) -> list[str]:
    """Pairs of words, all different."""
    adjectives, nouns = (rng.sample(p[split].split(), count) for p in (ADJECTIVES, NOUNS))
    return [f"{a} {n}" for a, n in zip(adjectives, nouns, strict=True)]


def _numbers(digits: int, count: int, rng: random.Random) -> list[str]:
    return [str(n) for n in rng.sample(range(10 ** (digits - 1), 10**digits), count)]


def _interleaved(facts: Sequence[Fact], rng: random.Random) -> list[str]:
    """All needles in random order, in which those of one fact keep their order."""
    order = [fact for fact in facts for _ in fact.needles]
    rng.shuffle(order)
    needles: dict[int, Iterator[str]] = {id(fact): iter(fact.needles) for fact in facts}
    return [next(needles[id(fact)]) for fact in order]
