"""What scores are made of: shared words, common subsequences, similar texts."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

FULL_WIDTH = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、"
BRACKETS = "〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
MARKS = {*string.punctuation, *FULL_WIDTH, *BRACKETS}
"""What no word is made of."""

POPULAR_FROM = 200
"""Length of a text from which difflib leaves out characters that make up over 1 % of it."""


def in_word(character: str) -> bool:
    """Whether a character is part of a word; an empty text is not."""
    return character.isalnum() or character == "_"


def shared(found: Sequence[object], right: Sequence[object]) -> int:
    """How many items two lists have in common, each as often as in both.

    Args:
        found: items of an answer.
        right: items of the reference.
    """
    left, count = list(right), 0
    for item in found:
        if item in left:
            left.remove(item)
            count += 1
    return count


def f1(found: Sequence[str], right: Sequence[str]) -> float:
    """F1 of two bags of words.

    Args:
        found: words of an answer.
        right: words of the reference.
    """
    count = shared(found, right)
    return 2 * count / (len(found) + len(right)) if count else 0.0


def bleu(written: Sequence[str], right: Sequence[str]) -> float:
    """BLEU-4 of one sentence, smoothed by Chen and Cherry's method 4.

    Args:
        written: words of the candidate.
        right: words of the reference.
    """
    size, total, smoothed = len(written), 0.0, 0
    for n in range(1, 5):
        grams, others = (
            [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            for words in (written, right)
        )
        hits: float = shared(grams, others)
        if n == 1 and not hits:
            return 0.0
        if not hits and size > 1:
            smoothed += 1
            hits = math.log(size) / (5 * 2**smoothed)
        total += math.log(hits / max(1, len(grams))) / 4 if hits else 0.0
    return math.exp(total + min(0.0, 1 - len(right) / size))


def path(one: Sequence[str], other: Sequence[str], *, first: bool) -> tuple[list[int], int]:
    """A longest common subsequence, read from the end.

    Args:
        one: a list of words.
        other: another one.
        first: where both ways are as long, whether the end of `other` is left out first.

    Returns:
        Indices in `one` of its words, and the number of steps to one of the beginnings.
    """
    longest = [[0] * (len(other) + 1)]
    for word in one:
        above, row = longest[-1], [0]
        for j, its in enumerate(other):
            row.append(above[j] + 1 if word == its else max(above[j + 1], row[j]))
        longest.append(row)
    i, j, steps, found = len(one), len(other), 0, []
    while i and j:
        steps += 1
        over, left = longest[i - 1][j], longest[i][j - 1]
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif left > over or (left == over and first):
            j -= 1
        else:
            i -= 1
    return found[::-1], steps


def similarity(one: str, other: str) -> float:
    """Ratcliff and Obershelp's similarity in whole percents, as difflib has it.

    Args:
        one: a text.
        other: the text whose frequent characters start no match.
    """
    frequent: set[str] = set()
    if len(other) >= POPULAR_FROM:
        most = len(other) // 100 + 1
        frequent = {c for c in set(other) if other.count(c) > most}
    matched, pending = 0, [(0, len(one), 0, len(other))]
    while pending:
        low, high, left, right = pending.pop()
        start, begin, size = _longest(one, low, high, other, left, right, frequent)
        while start > low and begin > left and one[start - 1] == other[begin - 1]:
            start, begin, size = start - 1, begin - 1, size + 1
        while (
            start + size < high
            and begin + size < right
            and one[start + size] == other[begin + size]
        ):
            size += 1
        if size:
            matched += size
            pending += [(low, start, left, begin), (start + size, high, begin + size, right)]
    total = len(one) + len(other)
    return round(100 * (2 * matched / total if total else 1.0)) / 100


def _longest(
    one: str, low: int, high: int, other: str, left: int, right: int, frequent: set[str]
) -> tuple[int, int, int]:
    """The longest common stretch without frequent characters, the first one of those."""
    best = low, left, 0
    above = [0] * (right - left + 1)
    for i in range(low, high):
        row = [0]
        for j in range(left, right):
            same = one[i] == other[j] and other[j] not in frequent
            row.append(above[j - left] + 1 if same else 0)
            if row[-1] > best[2]:
                best = i - row[-1] + 1, j - row[-1] + 1, row[-1]
        above = row
    return best
