"""The tiny language: 512 words, one token each, and four retrieval tasks after RULER.

A context is filler with facts mixed in. Filler follows a low-entropy bigram chain, so that, as in
real text, copying most words needs little attention while facts cannot be guessed:

    code Bado 47 83 .               a fact (also `phone` and `price`)
    set v03 12 34 . set v17 v03 .   a chain of variables

A question repeats the head of a fact and the model continues with its value and `</s>`:

    Question : code Bado            -> 47 83            single, multikey
    Question : codes Bado           -> 47 83 , 10 22    multivalue (every value of the key)
    Question : set v17              -> v03 12 34        vt (the chain down to its value)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from proxykv.benchmarks.contract import Example, Question, Task
from proxykv.benchmarks.tiny_language import FILLER, KEYS, KINDS, NUMBERS, QUESTION, VARIABLES
from proxykv.runtime.errors import ConfigError

_SENTENCE = (5, 9)  # words of a filler sentence, full stop included
_LEAST = 4  # the shortest sentence that may be left over at the end
_CHAIN_ODDS = (0.85, 0.10, 0.05)


def _successors() -> dict[str, tuple[str, ...]]:
    """What may follow each filler word: a permutation per odds, so all words are equally common."""
    rng = random.Random("tiny language")
    columns = [rng.sample(FILLER, len(FILLER)) for _ in _CHAIN_ODDS]
    return dict(zip(FILLER, zip(*columns, strict=True), strict=True))


_NEXT = _successors()


@dataclass(frozen=True)
class Facts:
    """The statements of a context and the questions about them.

    Attributes:
        groups: groups of statements; each group keeps its order in the context.
        questions: pairs of question and answer.
        evaluated: number of questions that an evaluation asks, from the first on; None for a random
            choice.
    """

    groups: tuple[tuple[str, ...], ...]
    questions: tuple[tuple[str, str], ...]
    evaluated: int | None = None


@dataclass(frozen=True, kw_only=True)
class TinyTask(Task):
    """A task: how its facts are made, and the parts into which a reference is split.

    Attributes:
        facts: makes the facts of a context of a length.
        parts: splits a reference into what a prediction must contain.
    """

    facts: Callable[[int, random.Random, Names], Facts]
    parts: Callable[[str], list[str]]


def make_facts(task: str, length: int, rng: random.Random, names: Names | None = None) -> Facts:
    """Make the facts of a context; their number grows with its length.

    Args:
        task: a key of `TASKS`.
        length: of the context in tokens.
        rng: everything random comes from it.
        names: gives out keys and variables; share it to mix the facts of several tasks.
    """
    return TASKS[task].facts(length, rng, names or Names(rng))


class Names:
    """Keys and variables in random order, all different."""

    def __init__(self, rng: random.Random) -> None:
        """Shuffle both lists with `rng`."""
        self.keys: Iterator[str] = iter(rng.sample(KEYS, len(KEYS)))
        self.variables: Iterator[str] = iter(rng.sample(VARIABLES, len(VARIABLES)))


def _value(rng: random.Random) -> str:
    return f"{rng.choice(NUMBERS)} {rng.choice(NUMBERS)}"


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def _keyed(facts: Iterable[tuple[str, str, str]]) -> Facts:
    facts = list(facts)
    return Facts(
        tuple((f"{kind} {key} {value} .",) for kind, key, value in facts),
        tuple((f"{QUESTION} {kind} {key}", value) for kind, key, value in facts),
    )


def _single(length: int, rng: random.Random, names: Names) -> Facts:
    del length  # one fact of each kind, as RULER's single needle
    return _keyed((kind, next(names.keys), _value(rng)) for kind in KINDS)


def _multikey(length: int, rng: random.Random, names: Names) -> Facts:
    count = _clamp(length // 32, 3, 16)
    return _keyed((KINDS[0], next(names.keys), _value(rng)) for _ in range(count))


def _multivalue(length: int, rng: random.Random, names: Names) -> Facts:
    decoys = _keyed(
        (KINDS[0], next(names.keys), _value(rng)) for _ in range(_clamp(length // 64, 1, 6))
    )
    groups, questions = list(decoys.groups), []
    for _ in range(_clamp(length // 48, 1, 3)):
        key, values = next(names.keys), (_value(rng), _value(rng))
        groups.append(tuple(f"{KINDS[0]} {key} {value} ." for value in values))
        questions.append((f"{QUESTION} codes {key}", " , ".join(values)))
    return Facts(tuple(groups), tuple(questions))


def _vt(length: int, rng: random.Random, names: Names) -> Facts:
    groups, last, middle = [], [], []
    for _ in range(_clamp(length // 40, 1, 3)):
        a, b, c = (next(names.variables) for _ in range(3))
        value = _value(rng)
        groups.append((f"set {a} {value} .", f"set {b} {a} .", f"set {c} {b} ."))
        last.append((f"{QUESTION} set {c}", f"{b} {a} {value}"))
        middle.append((f"{QUESTION} set {b}", f"{a} {value}"))
    return Facts(tuple(groups), (*last, *middle), evaluated=len(last))


def _one_part(reference: str) -> list[str]:
    return [reference]


def _values(reference: str) -> list[str]:
    return reference.split(" , ")


TASKS = {
    "single": TinyTask(questions=3, max_new_tokens=3, shortest=19, facts=_single, parts=_one_part),
    "multikey": TinyTask(
        questions=4, max_new_tokens=3, shortest=19, facts=_multikey, parts=_one_part
    ),
    "multivalue": TinyTask(
        questions=3, max_new_tokens=6, shortest=19, facts=_multivalue, parts=_values
    ),
    "vt": TinyTask(questions=3, max_new_tokens=3, shortest=17, facts=_vt, parts=str.split),
}


def make_context(length: int, groups: Sequence[Sequence[str]], rng: random.Random) -> str:
    """Put statements at random places of filler.

    Args:
        length: words of the context.
        groups: groups of statements; each group keeps its order.
        rng: everything random comes from it.

    Returns:
        The context.

    Raises:
        ConfigError: if the statements leave no room for filler.
    """
    room = length - sum(len(s.split()) for group in groups for s in group)
    if room < _LEAST:
        raise ConfigError(f"tiny: {length} tokens cannot hold the facts; use lengths of 64 or more")
    # The number of a statement's group, in random order; each group's statements keep their order.
    order = [i for i, group in enumerate(groups) for _ in group]
    rng.shuffle(order)
    statements = [iter(group) for group in groups]
    pieces = [next(statements[i]) for i in order]
    filler = list(_sentences(room, rng))
    places = sorted(rng.choices(range(len(filler) + 1), k=len(pieces)), reverse=True)
    for place, piece in zip(places, reversed(pieces), strict=True):
        filler.insert(place, piece)
    return " ".join(filler)


def _sentences(room: int, rng: random.Random) -> Iterator[str]:
    """Filler sentences of exactly `room` words together."""
    low, high = _SENTENCE
    while room:
        size = room if room <= high else rng.randint(low, min(high, room - _LEAST))
        word = rng.choice(FILLER)
        words = [word]
        while len(words) < size - 1:
            word = rng.choices(_NEXT[word], _CHAIN_ODDS)[0]
            words.append(word)
        yield " ".join([*words, "."])
        room -= size


def build(
    task: str,
    *,
    tokenizer: Tokenizer,
    contexts: int,
    lengths: Sequence[int],
    seed: int,
    split: str,
) -> list[Example]:
    """Make contexts with their questions.

    Args:
        task: a key of `TASKS`.
        tokenizer: that of models/tiny.
        contexts: how many.
        lengths: of contexts in tokens, taken in turn; a context has exactly so many.
        seed: of everything random.
        split: "train" or "eval", which draw from different random streams.

    Returns:
        The contexts with their questions.

    Raises:
        ConfigError: for an unknown task or split, a tokenizer of another language, or a length too
            short for the task's facts.
    """
    if task not in TASKS:
        raise ConfigError(f"tiny: no task {task!r}; choose from {', '.join(TASKS)}")
    if split not in ("train", "eval"):
        raise ConfigError(f"tiny: no split {split!r}; choose train or eval")
    examples = []
    for i in range(contexts):
        length = lengths[i % len(lengths)]
        rng = random.Random(f"tiny {split} {task} {seed} {i}")
        facts = make_facts(task, length, rng)
        context = make_context(length, facts.groups, rng)
        if (found := _tokens(tokenizer, context)) != length:
            raise ConfigError(
                f"tiny: the tokenizer makes {found} tokens of {length} words; "
                "use the tokenizer of models/tiny"
            )
        questions = tuple(
            Question(question, (answer,), len(answer.split()) + 1)
            for question, answer in _ask(task, facts, rng)
        )
        identity = f"tiny-{task}-{split}-{seed}-{i:05d}"
        examples.append(Example(identity, task, context, questions, {"tokens": length}))
    return examples


def _tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def _ask(task: str, facts: Facts, rng: random.Random) -> list[tuple[str, str]]:
    """The questions to ask: those that the facts name, or a random choice."""
    if facts.evaluated is not None:
        return list(facts.questions[: facts.evaluated])
    return rng.sample(facts.questions, min(TASKS[task].questions, len(facts.questions)))


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """Score an answer.

    Args:
        task: name of the task.
        prediction: the model's answer.
        question: the question, with its references.
    """
    return {"score": score(task, prediction, question.references)}


def score(task: str, prediction: str, references: Sequence[str]) -> float:
    """Score an answer by RULER's `string_match_all` (arXiv 2404.06654), on whole words.

    Args:
        task: a key of `TASKS`.
        prediction: what the model wrote.
        references: accepted answers; the best one counts. Parts of a reference are the
            comma-separated values of multivalue (in any order), the words of a vt chain, and
            otherwise the whole value.

    Returns:
        Share of a reference's parts that the prediction contains.
    """
    answer = f" {' '.join(prediction.split())} "
    return max(_share(answer, TASKS[task].parts(reference)) for reference in references)


def _share(answer: str, parts: list[str]) -> float:
    return sum(f" {part} " in answer for part in parts) / len(parts)
