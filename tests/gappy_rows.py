"""Rows of a made-up run with all that a run may lack."""

from __future__ import annotations

import random
from typing import Any

from rows_fixture import make_rows

Line = dict[str, Any]

SIZES = {
    ("a", "x"): {"vt": 5, "qa": 3, "single": 4},
    ("a", "y"): {"vt": 4, "qa": 1},  # one context: no interval for the benchmark's mean
    ("b", "x"): {"vt": 4, "qa": 3},
}
SCOPES = {
    "kvzip": "global",
    "proxykv": "global",
    "snapkv": "head",
    "surrogate": "global",
    "prior": "global",
    "proxykv_shuffled": "global",
    "random": "head",
}
RETENTIONS = (0.1, 0.3, 0.5)
TOKENS = (100, 105, 112, 400, 490)
"""Lengths of a task's contexts: three classes, for the last one is more than 1.2 times longer."""


def made_up() -> list[Line]:
    """Rows with all that a run may lack, in no order; values are short fractions."""
    draw = random.Random(0)
    template = make_rows(tasks=("single",), contexts=1, questions=1, methods=()).iloc[0].to_dict()
    lines = []
    for (family, benchmark), tasks in SIZES.items():
        for task, contexts in tasks.items():
            for context in range(contexts):
                for question in range(draw.randint(1, 3)):
                    points = [("full", "none", 1.0)]
                    points += [(m, s, r) for m, s in SCOPES.items() for r in RETENTIONS]
                    for method, scope, retention in points:
                        lines.append(
                            template
                            | {
                                "family": family,
                                "benchmark": benchmark,
                                "task": task,
                                # "c9", "c10", …: their order as text is another.
                                "context_id": f"c{9 + context}",
                                "context_tokens": TOKENS[context],
                                "question": question,
                                "method": method,
                                "scope": scope,
                                "retention": retention,
                                "score": draw.randint(1, 8) / 8,
                                "score_fixed": draw.randint(0, 4) / 4 if task == "qa" else None,
                                "kl": draw.randint(1, 999) / 1000,
                                "nll": draw.randint(1, 9999) / 1000,
                                "kv_bytes": draw.randint(1, 10**6),
                                "prefill_seconds": draw.random(),
                                "score_seconds": draw.random(),
                                "operations": draw.random(),
                                "truncated": draw.random() < 0.1,
                            }
                        )
    lines = [line for line in lines if not absent(line)]
    for line in lines:
        if unknown(line):
            line["kl"] = line["nll"] = None
        if line["method"] == "full" and line["task"] == "single":
            line["score"] = 0.0  # nothing is a share of it
    draw.shuffle(lines)
    return lines


def absent(line: Line) -> bool:
    """What this run lacks: rows of a context, a method's whole task, an oracle."""
    where = (line["family"], line["benchmark"], line["task"], line["context_id"])
    what = (line["method"], line["retention"])
    return (
        (where == ("a", "x", "vt", "c9") and what == ("kvzip", 0.1))
        or (where == ("a", "x", "qa", "c10") and what == ("proxykv", 0.3))
        or (where == ("a", "x", "vt", "c11") and line["method"] == "prior")
        or (where[:3] == ("a", "x", "single") and line["method"] == "snapkv")
        or (where[:2] == ("a", "y") and line["method"] == "prior")
        or (line["family"] == "b" and line["method"] == "kvzip")
    )


def unknown(line: Line) -> bool:
    """Answers along which nothing was measured: of one question, and of a whole context."""
    where = (line["family"], line["task"], line["context_id"], line["question"])
    at = (*where[:3], line["method"], line["retention"])
    return where == ("a", "vt", "c10", 0) or at == ("a", "qa", "c9", "proxykv", 0.1)


LINES = made_up()
