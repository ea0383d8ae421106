"""SCBench's metrics: the authors', and those with the authors' plain mistakes corrected.

A metric takes a prediction and its turn (an entry of `multi_turns`) and gives a score in [0, 1].
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from proxykv.benchmarks.scbench import repoqa

Turn = Mapping[str, Any]
Metric = Callable[[str, Turn], float]

OPTIONS = "ABCD"
"""Letters of the options of a choice."""

_CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏."
)
_PUNCTUATION = frozenset(string.punctuation + _CHINESE_PUNCTUATION)
_ANSWER_CUES = ("answer is:", "answer:", "answer is", "option is")


def contains(prediction: str, turn: Turn) -> float:
    """Whether the answer is in the prediction.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    return float(turn["answer"] in prediction)


def share_found(prediction: str, turn: Turn) -> float:
    """Share of the answers that are in the prediction in any case, rounded to two decimals.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answers.
    """
    text = prediction.lower()
    found = [answer.lower() in text for answer in turn["answer"]]
    return round(sum(found) / len(found), 2)


def answer_found(prediction: str, turn: Turn) -> float:
    """Whether the answer is in the prediction, in any case.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    return _any_found(prediction, [turn["answer"]])


def answer_character_found(prediction: str, turn: Turn) -> float:
    """Whether one character of the answer is in the prediction: the authors' reading of a text.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    return _any_found(prediction, turn["answer"])


def _any_found(prediction: str, answers: Iterable[str]) -> float:
    text = prediction.strip().upper()
    return float(any(answer.upper() in text for answer in answers))


def whole_answer_f1(prediction: str, turn: Turn) -> float:
    """F1 of the characters other than punctuation and white space.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    return _character_f1(prediction, [turn["answer"]])


def answer_character_f1(prediction: str, turn: Turn) -> float:
    """F1 as `whole_answer_f1`, with the best single character of the answer.

    The authors' code reads the answer's text as a list of characters.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    return _character_f1(prediction, turn["answer"])


def _character_f1(prediction: str, answers: Iterable[str]) -> float:
    predicted = Counter(_characters(prediction))
    return max((_f1(predicted, Counter(_characters(answer))) for answer in answers), default=0.0)


def _characters(text: str) -> str:
    return "".join("".join(c for c in text.lower() if c not in _PUNCTUATION).split())


def _f1(predicted: Counter[str], expected: Counter[str]) -> float:
    common = (predicted & expected).total()
    if not common:
        return 0.0
    precision, recall = common / predicted.total(), common / expected.total()
    return 2 * precision * recall / (precision + recall)


def rouge_lsum(prediction: str, turn: Turn) -> float:
    """F of ROUGE-Lsum, lines as sentences, without stemming.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 (slow)

    score = RougeScorer(["rougeLsum"]).score(turn["answer"], prediction)
    return score["rougeLsum"].fmeasure


def first_integer(prediction: str, turn: Turn) -> float:
    """Whether the first digits in the prediction are the answer.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    found = re.search("[0-9]+", prediction)
    return float(found is not None and found[0] == turn["answer"])


def first_number(prediction: str, turn: Turn) -> float:
    """Whether the first number in the prediction is the answer, cut to an integer if that is.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    return _is_number(re.search(r"\d+\.\d+|\d+", prediction), turn["answer"])


def first_signed_number(prediction: str, turn: Turn) -> float:
    """As `first_number`, with the number's sign.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with its right answer.
    """
    number = re.search(r"(?<!\d)-?(?:\d+\.\d+|\d+)", prediction.replace("−", "-"))
    return _is_number(number, turn["answer"])


def _is_number(found: re.Match[str] | None, answer: float) -> float:
    return float(found is not None and type(answer)(float(found[0])) == answer)


def function_match(prediction: str, turn: Turn) -> float:
    """Whether the function was repeated: see `repoqa.passes`.

    Args:
        prediction: the model's answer.
        turn: the turn of the record: `name` of the function, `lang` and `needles`.
    """
    return float(repoqa.passes(prediction, turn["name"], turn["lang"], turn["needles"]))


def choice(prediction: str, turn: Turn) -> float:
    """The authors' reading of a choice among A to D.

    A prediction that starts with one of these letters chose it, even as part of a word. Otherwise
    the right answer's letter or text must be the whole prediction or follow a cue such as `answer
    is`; without a cue, the first word that is a piece of `ABCD` is the choice.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with `options` and the right answer.
    """
    right = (turn["answer"], letter(turn))
    text = prediction.strip()
    if not text:
        return 0.0
    if text[0] in OPTIONS:
        return float(text[0] in right)
    if text in right:
        return 1.0
    words = re.sub(r"[\n\"'.,?!{}]", " ", text)
    words = re.sub(" +", " ", words)
    for cue in _ANSWER_CUES:
        _, found, rest = words.partition(cue)
        if found:
            return float(rest[1:].startswith(right))
    chosen = next((word for word in words.split() if word in OPTIONS), None)
    return float(chosen in right)


def named_choice(prediction: str, turn: Turn) -> float:
    """Whether the right option is the first that the prediction names, by letter or by text.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, with `options` and the right answer.
    """
    options = dict(zip(OPTIONS, turn["options"], strict=True))
    return float(_named(prediction, options) == letter(turn))


def named_shot(prediction: str, turn: Turn) -> float:
    """As `named_choice`, with the options of a many-shot question: its lines `(A) text`.

    Without such lines the answer must be in the prediction, as a whole word.

    Args:
        prediction: the model's answer.
        turn: the turn of the record, whose `input` lists the options.
    """
    options = dict(re.findall(r"^ *\(([A-Z])\) *(.+)$", turn["input"], re.MULTILINE))
    right = turn["answer"].strip("() ")
    if right not in options:
        return float(_find_words(turn["answer"], prediction) is not None)
    return float(_named(prediction, options) == right)


def _named(prediction: str, options: Mapping[str, str]) -> str | None:
    """Letter of the option that is named first, the longer one if two begin there.

    A letter in brackets has priority. A bare letter that continues as a word (`A's`) or is
    followed by one (`A man`) is no option.
    """
    if found := re.search(rf"\(([{''.join(options)}])\)", prediction):
        return found[1]
    named = []
    for name, text in options.items():
        bare = re.search(rf"\b{name}\b(?![-'’]\w|[ \t]+\w)", prediction)
        for found in (bare, _find_words(text.strip(" ."), prediction)):
            if found:
                named.append((found.start(), -len(found[0]), name))
    return min(named)[2] if named else None


def _find_words(text: str, prediction: str) -> re.Match[str] | None:
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", prediction, re.IGNORECASE)


def letter(turn: Turn) -> str:
    """Letter of the right option."""
    return OPTIONS[list(turn["options"]).index(turn["answer"])]
