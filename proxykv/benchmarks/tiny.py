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
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from proxykv.benchmarks.contract import Example, Question, Task
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
QUESTION = "Question :"
KINDS = ("code", "phone", "price")
NUMBERS = tuple(f"{i:02d}" for i in range(100))
KEYS = tuple(
    head + tail
    for head in ("Ba", "De", "Fi", "Go", "Ku", "La", "Me", "Ni", "Po", "Ru")
    for tail in ("do", "ki", "lu", "ma", "ne", "pa", "ri", "so", "ta", "vu")
)
VARIABLES = tuple(f"v{i:02d}" for i in range(48))
# The words of KVzip's two replay requests, so that they are part of the language.
REQUEST = ("Repeat", "the", "part", "of", "previous", "context", "exactly", "starting", "with")
_FILLER_TEXT = """
    able acid after again air alarm amber angle apple april arch arrow ash autumn away axis
    baker bamboo band bank basin beach bean bear bell below bench berry birch bird blanket blue
    boat bold bone book border bottle bowl branch brave bread breeze brick bridge bright brook
    brown brush bucket butter button cabin cable calm camel candle canvas carpet castle cedar
    chain chalk cherry circle clay clean cliff clock cloud coast cold copper coral corner cotton
    cradle crane cricket crisp cross crown crystal curtain daisy dance dawn deep deer delta
    desert distant door dove draw dream drift drum dry dusk eagle early earth east echo edge
    empty engine evening fabric falcon family farm feather fence fern field finger fire fish
    flag flame flat float floor flour flower flute fog forest fork fountain fox fresh frost
    fruit garden gate gentle giant ginger glass glove gold grain grape grass gravel green grey
    guitar hammer harbor harvest hat hawk hazel heavy hill hollow honey horse hotel hour house
    ice island ivory jacket jar jungle kettle kitchen kite ladder lake lamp lantern lark late
    leaf lemon letter light lily linen lion little long lunar maple marble market meadow melon
    metal middle milk mill mirror mist moon morning moss motor mountain narrow needle nest night
    north oak ocean olive onion orange orchard otter oven owl paint palace paper parrot peach
    pebble pepper piano pine planet plum pocket pond poppy potter quiet rabbit rain raven ribbon
    river robin rocket
"""
FILLER = tuple(_FILLER_TEXT.split())
VOCABULARY = (
    PAD, EOS, UNK, ".", ",", ":", "Question", "codes", "set", *KINDS, *REQUEST, *NUMBERS, *KEYS,
    *VARIABLES, *FILLER,
)  # fmt: skip

_SENTENCE = (5, 9)  # words of a filler sentence, full stop included
_LEAST = 4  # the shortest sentence that may be left over at the end
_CHAIN_ODDS = (0.85, 0.10, 0.05)


def _successors() -> dict[str, tuple[str, ...]]:
    """What may follow each filler word: a permutation per odds, so all words are equally common."""
    rng = random.Random("tiny language")
    columns = [rng.sample(FILLER, len(FILLER)) for _ in _CHAIN_ODDS]
    return dict(zip(FILLER, zip(*columns, strict=True), strict=True))


_NEXT = _successors()


def make_tokenizer() -> Tokenizer:
    """The language's word-level tokenizer: nothing added on encode, line breaks encode to nothing.

    Decoding joins words with spaces.
    """
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token=UNK))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in (PAD, EOS, UNK)]
    )
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Write the files from which transformers loads the tokenizer: no chat template, no BOS."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    files.write_json(folder / "tokenizer_config.json", settings)


@dataclass(frozen=True)
class Facts:
    """What a context says, and what may be asked about it.

    Attributes:
        groups: groups of statements; each group keeps its order in the context.
        questions: pairs of question and answer.
        asked: how many of the questions an evaluation asks, from the first on. None if it asks a
            random choice of them.
    """

    groups: tuple[tuple[str, ...], ...]
    questions: tuple[tuple[str, str], ...]
    asked: int | None = None


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
    """Facts of one task, their number growing with the context's length in tokens.

    `names` hands out keys and variables; share it to mix the facts of several tasks.
    """
    return TASKS[task].facts(length, rng, names or Names(rng))


class Names:
    """Keys and variables in random order, none twice."""

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
    return Facts(tuple(groups), (*last, *middle), asked=len(last))


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
    """Filler with the statements of `groups` at random places, `length` words in all.

    Raises ConfigError if the statements leave no room for filler.
    """
    room = length - sum(len(s.split()) for group in groups for s in group)
    if room < _LEAST:
        raise ConfigError(f"tiny: {length} tokens cannot hold the facts; use lengths of 64 or more")
    # Shuffled tickets, one per statement: each group's statements take its tickets in order.
    tickets = [i for i, group in enumerate(groups) for _ in group]
    rng.shuffle(tickets)
    statements = [iter(group) for group in groups]
    pieces = [next(statements[i]) for i in tickets]
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
    """`contexts` examples of `task`; context i has exactly `lengths[i % len(lengths)]` tokens.

    The splits "train" and "eval" draw from different random streams.
    Raises ConfigError for an unknown task or split, a tokenizer of another language, or a length
    too short for the task's facts.
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
    if facts.asked is not None:
        return list(facts.questions[: facts.asked])
    return rng.sample(facts.questions, min(TASKS[task].questions, len(facts.questions)))


def grade(task: str, prediction: str, question: Question) -> dict[str, float]:
    """The row's scores."""
    return {"score": score(task, prediction, question.references)}


def score(task: str, prediction: str, references: Sequence[str]) -> float:
    """Share of the reference's parts that the prediction contains, best over references.

    As RULER's `string_match_all`. Parts are the comma-separated values of multivalue (in any
    order), the words of a vt chain, and the whole value otherwise; parts match whole words only.
    """
    said = f" {' '.join(prediction.split())} "
    return max(_share(said, TASKS[task].parts(reference)) for reference in references)


def _share(said: str, parts: list[str]) -> float:
    return sum(f" {part} " in said for part in parts) / len(parts)
