"""Call points that other code relies on: they stand where they stand, and do what they say."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest

import proxykv.benchmarks.longbench
import proxykv.benchmarks.ruler
import proxykv.benchmarks.scbench

LABELS = ["Food", "Fast food", "Date"]
LONGBENCH = proxykv.benchmarks.longbench.score
RULER = proxykv.benchmarks.ruler.score
SCBENCH = proxykv.benchmarks.scbench.score


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (LONGBENCH, ["task", "prediction", "answers", "all_classes"]),
        (RULER, ["task", "prediction", "references"]),
        (SCBENCH, ["task", "prediction", "turn", "variant"]),
    ],
)
def test_parameters_keep_their_names_and_order(
    function: Callable[..., float], parameters: list[str]
) -> None:
    assert list(signature(function).parameters)[: len(parameters)] == parameters


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (LONGBENCH, ("qasper", "the long Hunter", ["Hunter River"]), 1 / 2),
        (LONGBENCH, ("trec", "Fast food, or Date", ["Fast food"], LABELS), 1 / 2),
        (RULER, ("niah_multivalue", "1, 3", ["1", "2", "3", "4"]), 1 / 2),
        (RULER, ("qa_1", "in Paris, France", ["London", "paris"]), 1.0),
        (SCBENCH, ("kv", "so: ab12", {"answer": "ab12"}), 1.0),
        (SCBENCH, ("mf", "-42", {"answer": -42}), 0.0),
        (SCBENCH, ("mf", "-42", {"answer": -42}, "fixed"), 1.0),
    ],
)
def test_scores_are_in_the_unit_interval(
    function: Callable[..., float], arguments: tuple[Any, ...], expected: float
) -> None:
    score = function(*arguments)
    assert isinstance(score, float)
    assert score == pytest.approx(expected)
