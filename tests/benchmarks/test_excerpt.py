"""What is shown of a context, and where its answers are."""

from __future__ import annotations

import pytest

from proxykv.benchmarks.examples import Example, Question
from proxykv.benchmarks.excerpt import AROUND, LONGEST, depth, excerpt, places


@pytest.mark.parametrize(
    ("references", "found"),
    [
        (["Paris"], ["paris"]),
        (["aris"], []),  # a part of a word is another word
        (["a.c", "in"], ["in"]),
        (["12 , 7"], ["12", "7"]),  # in parts, since it does not stand there as a whole
        (["paris 12", "7"], ["paris 12", "7"]),
        (["", " , "], []),
    ],
)
def test_places_of_an_answer(references: list[str], found: list[str]) -> None:
    text = "in (paris 12) abc 7"
    assert [text[p.start : p.stop] for p in places(text, references)] == found


def test_only_a_single_place_has_a_depth() -> None:
    assert depth("xx 12 xxxx", ["12"]) == 0.3
    assert depth("12 xxx 12", ["12"]) is None
    assert depth("12 xxx 14", ["12, 14"]) is None


def example(*references: str) -> Example:
    return Example("one", "t", "", tuple(Question(r + "?", (r,), 3) for r in references))


def test_a_short_context_is_shown_as_a_whole() -> None:
    shown = excerpt(example("40", "two words", "none"), ["a ", "4", "0 ", "two ", "words"])
    assert shown.windows == (range(5),)
    assert shown.answers == ((range(1, 3),), (range(3, 5),), ())
    assert shown.record() == {
        "tokens": 5,
        "windows": [[0, ["a ", "4", "0 ", "two ", "words"]]],
        "questions": ["40?", "two words?", "none?"],
        "places": [1, 1, 0],
        "answers": [[[1, 3]], [[3, 5]], []],
    }


def test_of_a_long_context_the_surroundings_of_its_answers_are_shown() -> None:
    pieces = [f"w{i} " for i in range(5000)]
    shown = excerpt(example("w10", "w2000", "w2050"), pieces)
    first, second = range(11 + AROUND), range(2000 - AROUND, 2051 + AROUND)
    assert shown.windows == (first, second)
    assert shown.shown == [*first, *second]
    often = excerpt(example("w7"), ["w7 ", *["w "] * 200] * 40)
    assert often.record()["places"] == [40] and len(often.shown) <= LONGEST
    assert 0 < len(often.record()["answers"][0]) < 40
    assert excerpt(example("absent"), pieces).windows == (range(LONGEST),)


def test_the_first_half_of_a_character_belongs_to_the_answer() -> None:
    shown = excerpt(example("é"), ["a ", "", "é", " b"])
    assert shown.answers == ((range(1, 3),),)
