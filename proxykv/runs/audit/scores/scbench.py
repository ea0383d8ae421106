"""SCBench's scores a second time, each the authors' and the one without plain mistakes."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from proxykv.benchmarks.examples import Question
from proxykv.benchmarks.scbench import repoqa
from proxykv.runs.audit.scores.functions import first_function
from proxykv.runs.audit.scores.matching import MARKS, bleu, f1, in_word, path, shared

Turn = Mapping[str, Any]
Both = tuple[float, float]

MIXED = ("summary_with_needles", "repoqa_and_kv")
LETTERS = "ABCD"


def scores(task: str, text: str, question: Question) -> dict[str, float]:
    """Score an answer.

    Args:
        task: name of the task.
        text: the model's answer.
        question: the question; `meta` is the turn of the record.

    Returns:
        `score` and `score_fixed`.
    """
    official, fixed = KINDS[_kind(task, question)](text, question.meta)
    return {"score": float(official), "score_fixed": float(fixed)}


def language(task: str, question: Question) -> str | None:
    """The language of the function that a question asks for; None if it asks for something else.

    Args:
        task: name of the task.
        question: the question.
    """
    return question.meta["lang"] if _kind(task, question) == "repoqa" else None


def _kind(task: str, question: Question) -> str:
    return question.meta["task"].removeprefix("scbench_") if task in MIXED else task


def _contained(text: str, turn: Turn) -> Both:
    found = text.find(turn["answer"]) >= 0
    return found, found


def _many_found(text: str, turn: Turn) -> Both:
    found = [text.lower().find(answer.lower()) >= 0 for answer in turn["answer"]]
    share = round(found.count(True) / len(found), 2)
    return share, share


def _in_any_case(text: str, turn: Turn) -> Both:
    found = text.strip().upper().find(turn["answer"].upper()) >= 0
    return found, found


def _characters(text: str, turn: Turn) -> Both:
    def plain(each: str) -> list[str]:
        return [c for c in each.lower() if c not in MARKS and not c.isspace()]

    found, answer = plain(text), turn["answer"]
    return max((f1(found, plain(c)) for c in answer), default=0.0), f1(found, plain(answer))


def _summary(text: str, turn: Turn) -> Both:
    """ROUGE-Lsum: of every line of the answer the words on a path through any line of the text."""
    right, found = ([_ascii(line) for line in each.split("\n")] for each in (turn["answer"], text))
    words = [word for line in found for word in line]
    unions = [{i for other in found for i in path(line, other, first=False)[0]} for line in right]
    joined = [line[i] for line, union in zip(right, unions, strict=True) for i in sorted(union)]
    hits = shared(joined, words)
    score = 2 * hits / (len(words) + sum(map(len, right))) if hits else 0.0
    return score, score


def _ascii(text: str) -> list[str]:
    known = string.ascii_lowercase + string.digits
    return "".join(c if c in known else " " for c in text.lower()).split()


def _passkey(text: str, turn: Turn) -> Both:
    numbers = "".join(c if c in string.digits else " " for c in text).split()
    found = bool(numbers) and numbers[0] == turn["answer"]
    return found, found


def _number(text: str, turn: Turn) -> Both:
    start = next((i for i, c in enumerate(text) if c.isdecimal()), None)
    if start is None:
        return 0.0, 0.0
    end = _end_of_digits(text, start)
    if text[end : end + 1] == "." and text[end + 1 : end + 2].isdecimal():
        end = _end_of_digits(text, end + 1)
    value, answer = float(text[start:end]), turn["answer"]
    signed = -value if start and text[start - 1] in "-−" else value
    first, second = (int(v) if isinstance(answer, int) else v for v in (value, signed))
    return first == answer, second == answer


def _end_of_digits(text: str, start: int) -> int:
    return next((i for i in range(start, len(text)) if not text[i].isdecimal()), len(text))


def _function(text: str, turn: Turn) -> Both:
    written = first_function(text, turn["lang"])
    if written is None:
        written = repoqa.first_function(text, turn["lang"])
    words = written.split() or [""]
    ranked = [(bleu(words, n["needle"].split() or [""]), n["name"]) for n in turn["needles"]]
    best = max((value for value, _ in ranked), default=0.0)
    closest = next((name for value, name in ranked if value == best and value > 0), None)
    passed = closest == turn["name"] and best >= 0.8
    return passed, passed


def _choice(text: str, turn: Turn) -> Both:
    options = dict(zip(LETTERS, turn["options"], strict=True))
    right = next(letter for letter in LETTERS if options[letter] == turn["answer"])
    return _authors_choice(text.strip(), (turn["answer"], right)), _named(text, options) == right


def _authors_choice(text: str, right: tuple[str, str]) -> bool:
    if not text or text[0] in LETTERS:
        return text[:1] in right and bool(text)
    if text in right:
        return True
    blanks = "".join(" " if c in "\n\"'.,?!{}" else c for c in text)
    while "  " in blanks:
        blanks = blanks.replace("  ", " ")
    for cue in ("answer is:", "answer:", "answer is", "option is"):
        if (place := blanks.find(cue)) >= 0:
            rest = blanks[place + len(cue) + 1 :]
            return any(rest[: len(each)] == each for each in right)
    pieces = [word for word in blanks.split() if LETTERS.find(word) >= 0]
    return bool(pieces) and pieces[0] in right


def _shot(text: str, turn: Turn) -> Both:
    letters = text.strip().upper()
    official = any(c in letters for c in map(str.upper, turn["answer"]))
    options: dict[str, str] = {}
    for line in turn["input"].split("\n"):
        bare = line.lstrip(" ")
        if bare[:1] == "(" and bare[2:3] == ")" and bare[1] in string.ascii_uppercase and bare[3:]:
            options[bare[1]] = bare[3:].lstrip(" ") or " "
    right = turn["answer"].strip("() ")
    if right in options:
        return official, _named(text, options) == right
    return official, bool(_places(text, turn["answer"]))


def _named(text: str, options: Mapping[str, str]) -> str | None:
    """The option in the first brackets; otherwise the one named first, the longer if two begin."""
    for i, c in enumerate(text):
        if c in options and text[i - 1 : i] == "(" and text[i + 1 : i + 2] == ")":
            return c
    named = []
    for letter, option in options.items():
        words = option.strip(" .")
        named += [(i, -len(words), letter) for i in _places(text, words)[:1]]
        bare = [i for i in _places(text, letter, exact=True) if not _goes_on(text[i + 1 :])]
        named += [(i, -1, letter) for i in bare[:1]]
    return min(named)[2] if named else None


def _places(text: str, words: str, exact: bool = False) -> list[int]:
    """Where these words stand, not as a part of longer ones."""
    size = len(words)
    found = []
    for i in range(len(text) - size + 1):
        part = text[i : i + size]
        same = part == words or (
            not exact and all(a.lower() == b.lower() for a, b in zip(part, words, strict=True))
        )
        if same and not in_word(text[i - 1 : i] if i else "") and not in_word(text[i + size :][:1]):
            found.append(i)
    return found


def _goes_on(rest: str) -> bool:
    """Whether a letter goes on as a word (`A's`) or is followed by one (`A man`)."""
    if rest[:1] in ("-", "'", "’"):
        return in_word(rest[1:2])
    after = rest.lstrip(" \t")
    return after != rest and in_word(after[:1])


KINDS = {
    "kv": _contained,
    "prefix_suffix": _contained,
    "vt": _many_found,
    "repoqa": _function,
    "qa_eng": _in_any_case,
    "qa_chn": _characters,
    "choice_eng": _choice,
    "many_shot": _shot,
    "summary": _summary,
    "passkey": _passkey,
    "mf": _number,
}
