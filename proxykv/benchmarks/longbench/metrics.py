"""LongBench's metrics: how well one answer is met, in [0, 1], exactly as the official code scores.

Each takes the prediction and one accepted answer; `all_classes` are the labels of a classification.
`fixed` repairs the two scorers that go wrong by accident, and changes nothing else.
"""

from __future__ import annotations

import logging
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from functools import cache, lru_cache
from typing import Any

from rouge import Rouge

PUNCTUATION = str.maketrans("", "", string.punctuation)
CHINESE_PUNCTUATION = str.maketrans(
    "",
    "",
    string.punctuation
    + "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、"
    + "〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.",
)
ARTICLES = re.compile(r"\b(a|an|the)\b")
NUMBER = re.compile(r"\d+")
COMMENT_MARKS = ("`", "#", "//")

OFFICIAL_ROOM = 997
"""Nested calls that the official script, three deep itself, leaves to the `rouge` package."""


def qa_f1(prediction: str, answer: str) -> float:
    """F1 of the two bags of words, without case, punctuation and articles.

    Args:
        prediction: the model's answer.
        answer: a right answer.
    """
    return _f1(_words(prediction), _words(answer))


def qa_f1_zh(prediction: str, answer: str) -> float:
    """F1 of the two bags of Chinese words (by jieba), without case, punctuation and blanks.

    Args:
        prediction: the model's answer.
        answer: a right answer.
    """
    return _f1(_chinese_words(prediction), _chinese_words(answer))


def rouge_l(prediction: str, answer: str, *, fixed: bool = False) -> float:
    """F1 of ROUGE-L by the `rouge` package; 0 where the package fails.

    It fails on a text without words, as it should, and by a RecursionError on long sentences: all
    words up to a full stop, together some thousand in both texts.

    Args:
        prediction: the model's answer.
        answer: a right answer.
        fixed: score long sentences, too.
    """
    return _rouge_or_zero(prediction, answer, OFFICIAL_ROOM, fixed)


def rouge_l_zh(prediction: str, answer: str, *, fixed: bool = False) -> float:
    """ROUGE-L of Chinese words (by jieba). A Chinese full stop ends no sentence here.

    Args:
        prediction: the model's answer.
        answer: a right answer.
        fixed: see `rouge_l`.
    """
    cut = _word_cutter()
    texts = " ".join(cut(prediction)), " ".join(cut(answer))
    return _rouge_or_zero(*texts, OFFICIAL_ROOM - 1, fixed)


def classification(
    prediction: str, answer: str, all_classes: Sequence[str], *, fixed: bool = False
) -> float:
    """1 / number of labels that the prediction names, 0 where the right one is not among them.

    A named label that is part of the right one's name ("food" in "Fast food") does not count. The
    official code drops such labels from the list while it walks the list, and so steps over the
    label after each.

    Args:
        prediction: the model's answer.
        answer: the right label.
        all_classes: all labels.
        fixed: drop all such labels.
    """
    named = [label for label in all_classes if label in prediction]
    for label in [*named] if fixed else named:
        if label in answer and label != answer:
            named.remove(label)
    return 1 / len(named) if answer in named else 0.0


def count(prediction: str, answer: str) -> float:
    """Share of the prediction's numbers that are the right one.

    Args:
        prediction: the model's answer.
        answer: the right number, in digits.
    """
    numbers = NUMBER.findall(prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, answer: str) -> float:
    """`count`, where the answer reads "Paragraph 7".

    Args:
        prediction: the model's answer.
        answer: a right answer.
    """
    return count(prediction, re.findall(r"Paragraph (\d+)", answer)[0])


def retrieval_zh(prediction: str, answer: str) -> float:
    """`count`, where the answer reads "段落7".

    Args:
        prediction: the model's answer.
        answer: a right answer.
    """
    return count(prediction, re.findall(r"段落(\d+)", answer)[0])


def code_similarity(prediction: str, answer: str) -> float:
    """Similarity of the first line that looks like code with the right line, in whole percents.

    This is fuzzywuzzy's ratio on difflib. What fuzzywuzzy's successors or python-Levenshtein
    compute under the same name differs in some 3 % of cases, so none of them is used.

    Args:
        prediction: the model's answer.
        answer: the right line of code.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((x for x in lines if not any(mark in x for mark in COMMENT_MARKS)), "")
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100


def _words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def _chinese_words(text: str) -> list[str]:
    bare = (word.lower().translate(CHINESE_PUNCTUATION) for word in _word_cutter()(text))
    return [joined for word in bare if (joined := "".join(word.split()))]


@cache
def _word_cutter() -> Callable[[str], list[str]]:
    import jieba  # noqa: PLC0415 (loads a dictionary)

    jieba.setLogLevel(logging.WARNING)
    return jieba.lcut


def _f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    shared = (Counter(prediction) & Counter(answer)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(answer)
    return 2 * precision * recall / (precision + recall)


def _rouge_or_zero(prediction: str, answer: str, room: int, fixed: bool) -> float:
    found = _rouge(prediction, answer, room)
    if found is None and fixed:
        found = _rouge(prediction, answer, room + len(prediction) + len(answer))
    return found or 0.0


@lru_cache(maxsize=256)  # the fixed score asks again for what the official one has computed
def _rouge(prediction: str, answer: str, room: int) -> float | None:
    """ROUGE-L, or None if it needs more than `room` nested calls.

    A new thread starts at the same depth whoever calls, so that the score does not depend on it.
    """
    thread_depth = 5
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(thread_depth + room)
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            scorer = Rouge(metrics=["rouge-l"]).get_scores
            scores: Any = thread.submit(scorer, [prediction], [answer], avg=True).result()
    except ValueError:  # a text without words
        return 0.0
    except RecursionError:
        return None
    finally:
        sys.setrecursionlimit(limit)
    return scores["rouge-l"]["f"]
