"""SCBench's metrics on predictions scored by hand: right, wrong and in part."""

from __future__ import annotations

from typing import Any

import pytest

from proxykv.benchmarks import scbench
from proxykv.benchmarks.scbench import repoqa
from proxykv.runtime.errors import ConfigError

MAN = {"answer": "An old man", "options": ["A cat", "An old man", "Paris", "He left."]}
FRUIT = {"answer": "Paris", "options": ["An apple", "A pear", "Paris", "London"]}
CITY = {"answer": "New York", "options": ["New", "New York", "Rome", "Oslo"]}
SHOT = {"answer": "B", "input": "Q: Which?\nOptions:\n(A) left\n(B) right\nA: "}
CHINESE = {"answer": "贾宝玉"}
NEEDLE = {"answer": "4711", "task": "scbench_passkey"}
SUMMARY = {"answer": "the cat sat\non the mat", "task": "scbench_summary"}

# task, prediction, turn, score, score with the mistakes corrected
CASES: list[tuple[str, str, dict[str, Any], float, float]] = [
    ("kv", 'The value is "ab12".', {"answer": "ab12"}, 1, 1),
    ("kv", "AB12", {"answer": "ab12"}, 0, 0),
    ("kv", "", {"answer": "ab12"}, 0, 0),
    ("prefix_suffix", "abc xyz", {"answer": "abcxyz"}, 0, 0),
    ("prefix_suffix", "abcxyz", {"answer": "abcxyz"}, 1, 1),
    ("vt", "x1, X2 and x3", {"answer": ["X1", "X2", "X3"]}, 1, 1),
    ("vt", "X1 X3", {"answer": ["X1", "X2", "X3"]}, 0.67, 0.67),
    ("vt", "none", {"answer": ["X1", "X2"]}, 0, 0),
    ("qa_eng", "It was PARIS, of course.", {"answer": "Paris"}, 1, 1),
    ("qa_eng", "Par", {"answer": "Paris"}, 0, 0),
    # Official: a character that stands alone and is in the answer is right.
    ("qa_chn", "贾宝玉。", CHINESE, 0.5, 1),
    ("qa_chn", "贾", CHINESE, 1, 0.5),
    ("qa_chn", "林黛玉", CHINESE, 0.5, 1 / 3),
    ("qa_chn", "薛蟠", CHINESE, 0, 0),
    # Official: any word with a B is right.
    ("many_shot", "(B)", SHOT, 1, 1),
    ("many_shot", "(B) right", SHOT, 1, 1),
    ("many_shot", "B", SHOT, 1, 1),
    ("many_shot", "Right.", SHOT, 0, 1),
    ("many_shot", "(A) left, by the way", SHOT, 1, 0),
    ("many_shot", "(A)", SHOT, 0, 0),
    ("many_shot", "A: (B)", SHOT, 1, 1),
    ("many_shot", "brightly", SHOT, 1, 0),
    ("many_shot", "yellow", {"answer": "yes", "input": "Is it?"}, 1, 0),
    ("many_shot", "eyes", {"answer": "yes", "input": "Is it?"}, 1, 0),
    ("many_shot", "Yes, it is", {"answer": "yes", "input": "Is it?"}, 1, 1),
    ("choice_eng", "C", FRUIT, 1, 1),
    ("choice_eng", "C. Paris", FRUIT, 1, 1),
    ("choice_eng", "Paris", FRUIT, 1, 1),
    ("choice_eng", "**C**", FRUIT, 0, 1),
    ("choice_eng", "I think the answer is: Paris", FRUIT, 1, 1),
    # Official: one character after the cue is taken for a blank.
    ("choice_eng", "The answer is:Paris", FRUIT, 0, 1),
    ("choice_eng", "New York", CITY, 1, 1),
    ("choice_eng", "It is New", CITY, 0, 0),
    ("choice_eng", "D", FRUIT, 0, 0),
    ("choice_eng", "It is neither", FRUIT, 0, 0),
    ("choice_eng", "", FRUIT, 0, 0),
    # Official: a first letter of A to D is the choice, even as part of a word.
    ("choice_eng", "An old man", MAN, 0, 1),
    ("choice_eng", "Before that, B.", MAN, 1, 1),
    ("choice_eng", "Certainly (B)", MAN, 0, 1),
    ("choice_eng", "A cat", MAN, 0, 0),
    ("choice_eng", "A man, so B", MAN, 0, 1),
    ("choice_eng", "the answer is Because he left", MAN, 1, 0),
    ("mf", "42", {"answer": 42}, 1, 1),
    ("mf", "It is 42.7 or 3", {"answer": 42}, 1, 1),
    ("mf", "3, 42", {"answer": 42}, 0, 0),
    ("mf", "none", {"answer": 42}, 0, 0),
    ("mf", "2.5", {"answer": 2.5}, 1, 1),
    # Official: a number has no sign.
    ("mf", "-42", {"answer": -42}, 0, 1),
    ("mf", "−42", {"answer": -42}, 0, 1),
    ("mf", "-42", {"answer": 42}, 1, 0),
    ("mf", "40-42", {"answer": 40}, 1, 1),
    ("summary", "the cat sat\non the mat", SUMMARY, 1, 1),
    # 3 of 3 words said, of 6 in the reference: F = 2 * 1 * 0.5 / 1.5.
    ("summary", "The cat sat!", SUMMARY, 2 / 3, 2 / 3),
    ("summary", "dogs", SUMMARY, 0, 0),
    ("summary_with_needles", "on the mat", SUMMARY, 2 / 3, 2 / 3),
    ("summary_with_needles", "The key is 4711.", NEEDLE, 1, 1),
    ("summary_with_needles", "47110", NEEDLE, 0, 0),
    ("summary_with_needles", "1 4711", NEEDLE, 0, 0),
    ("repoqa_and_kv", "so: ab12", {"answer": "ab12", "task": "scbench_kv"}, 1, 1),
]


@pytest.mark.parametrize(("task", "prediction", "turn", "official", "fixed"), CASES)
def test_score_by_hand(
    task: str, prediction: str, turn: dict[str, Any], official: float, fixed: float
) -> None:
    assert scbench.score(task, prediction, turn) == pytest.approx(official)
    assert scbench.score(task, prediction, turn, "fixed") == pytest.approx(fixed)
    assert scbench.score(f"scbench_{task}", prediction, turn) == pytest.approx(official)


ADD = "def add(first, second):\n    total = first + second\n    return total"
SUB = ADD.replace("add", "sub").replace("+", "-")
PYTHON = {
    "answer": ADD,
    "name": "add",
    "lang": "python",
    "needles": [{"name": "add", "needle": ADD}, {"name": "sub", "needle": SUB}],
}


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (f"```python\n{ADD}\n```", 1),
        (f"Sure:\n\n```\n# the function\n{ADD}\n\n\n{SUB}\n```\n", 1),
        (ADD, 1),
        (f"```python\n{SUB}\n```", 0),
        (f"```python\nx = 1\n```\n```python\n{ADD}\n```", 1),
        # 8 of 9 words; 1- to 4-grams 8/8, 7/7, 6/6, 5/5, brevity exp(1 - 9/8) = 0.88.
        (f"```\n{ADD.removesuffix(' total')}\n```", 1),
        # 7 of 9 words: brevity exp(1 - 9/7) = 0.75.
        (f"```\n{ADD.removesuffix('return total')}\n```", 0),
        ("```python\nadd\n```", 0),
        ("", 0),
    ],
)
@pytest.mark.parametrize("task", ["repoqa", "repoqa_and_kv"])
def test_function_match_by_hand(task: str, prediction: str, expected: float) -> None:
    turn = {**PYTHON, "task": "scbench_repoqa"}
    assert scbench.score(task, prediction, turn) == expected
    assert scbench.score(task, prediction, turn, "fixed") == expected


FUNCTIONS = {
    "python": ("x = 1\n@cached\n{}\n", "def f(a):\n    return a"),
    "java": ("class A {{ int x;\n{}\n}}", "@Override public int f(int a) { return a; }"),
    "typescript": ("const x = 1;\nexport {}\n", "function f(a: number) { return a; }"),
    "rust": ("struct A;\nimpl A {{ {} }}", "fn f(a: u8) -> u8 { a }"),
    "cpp": ("int x;\nint A::g() {{ return 0; }}\n{}", "int f(int a) { return a; }"),
    "go": ("package main\n\nvar x = 1\n\n{}\n", "func f(a int) int { return a }"),
}


@pytest.mark.parametrize("lang", FUNCTIONS)
def test_the_first_function_of_every_language(lang: str) -> None:
    around, function = FUNCTIONS[lang]
    source = around.format(function)
    assert repoqa.first_function(f"Look, é:\n```{lang}\n{source}\n```", lang) == function
    assert repoqa.first_function(source, lang) == source.strip()


def test_a_language_without_a_grammar_is_named() -> None:
    with pytest.raises(ConfigError, match="no grammar for 'cobol'; known: python, java"):
        scbench.score("repoqa", f"```\n{ADD}\n```", {**PYTHON, "lang": "cobol"})
