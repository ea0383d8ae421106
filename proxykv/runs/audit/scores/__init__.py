"""Scores of answers, by other code than the benchmarks' own: plain loops over characters and words.

Two parts are shared, and counted (`borrowed`): the function in an answer to a RepoQA question is
found by the benchmark's parser, unless Python's own parses the answer's code; and a user's
benchmark has no second computation.
"""

from __future__ import annotations

import math

from proxykv.benchmarks.examples import Question
from proxykv.runs.audit.scores import functions, longbench, scbench

Scores = dict[str, float]


def second_scores(benchmark: str, task: str, text: str, question: Question) -> Scores | None:
    """Score an answer.

    Args:
        benchmark: name of the benchmark.
        task: name of the task.
        text: the model's answer.
        question: the question.

    Returns:
        `score`, and `score_fixed` where the benchmark has it; None for an unknown benchmark.
    """
    grade = BENCHMARKS.get(benchmark)
    return grade(task, text, question) if grade else None


def borrowed(benchmark: str, task: str, text: str, question: Question) -> str:
    """What of the benchmark's own code decides the second score, too; empty if nothing does.

    Args:
        benchmark: name of the benchmark.
        task: name of the task.
        text: the model's answer.
        question: the question.
    """
    if benchmark not in BENCHMARKS:
        return f"graded by {benchmark} again"
    lang = scbench.language(task, question) if benchmark == "scbench" else None
    if lang and functions.first_function(text, lang) is None:
        return f"parsed by RepoQA's parser of {lang} again"
    return ""


def _tiny(task: str, text: str, question: Question) -> Scores:
    words = text.split()
    best = 0.0
    for reference in question.references:
        parts = [reference]
        if task in ("vt", "multivalue"):
            parts = reference.split(" , " if task == "multivalue" else None)
        hits = 0
        for part in map(str.split, parts):
            hits += any(words[i : i + len(part)] == part for i in range(len(words)))
        best = max(best, hits / len(parts))
    return {"score": best}


def _needles(task: str, text: str, question: Question) -> Scores:
    shares = []
    for reference in question.references:
        parts = _parts(reference.lower())[task == "vt" :]
        shares.append(sum(text.lower().count(part) > 0 for part in parts) / len(parts))
    return {"score": max(shares)}


def _parts(reference: str) -> list[str]:
    parts, i = [""], 0
    while i < len(reference):
        mark = next((m for m in (", ", " = ", " is ") if reference.startswith(m, i)), "")
        if mark:
            parts.append("")
        else:
            parts[-1] += reference[i]
        i += len(mark) or 1
    return parts


def _ruler(task: str, text: str, question: Question) -> Scores:
    clean = "".join("\n" if ord(c) < 32 else c for c in text.strip()).strip().lower()
    found = [clean.find(output.lower()) >= 0 for output in question.meta["outputs"]]
    share = found.count(True) / len(found)
    return {"score": math.ceil(share) if task in ("qa_1", "qa_2") else share}


BENCHMARKS = {
    "longbench": longbench.scores,
    "needles": _needles,
    "ruler": _ruler,
    "scbench": scbench.scores,
    "tiny": _tiny,
}
