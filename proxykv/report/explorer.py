"""A sample of answers for the page's example explorer, with the tokens that were kept for them."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proxykv.report.plots._kept import SHOWN_AT, recorded
from proxykv.report.tables.columns import CELL

QUESTIONS_PER_TASK = 4
ANSWERS = 6000  # on the whole page; an answer takes about 200 bytes
LONGEST = 1500  # characters of one answer
KEPT = 4_000_000  # characters of kept tokens on the whole page, one for each token
QUESTION = ["context_id", "question"]
COLUMNS = ("method", "retention", "question", "tokens", "layers", "answers", "positions")
"""Of a record of what is kept."""

Place = tuple[str, str, str, str]
"""Family, benchmark, task and id of a context."""


def explorer(rows: pd.DataFrame, run_dir: Path) -> dict[str, Any]:
    """What the explorer shows.

    Args:
        rows: rows of the run.
        run_dir: its folder.

    Returns:
        `examples`: questions with their answers. `contexts`: by the examples' `kept`, the text of
        the contexts that the run stored, and what each method keeps of it.
    """
    texts = {_place(record): record for record in recorded(run_dir, "contexts")}
    texts = {place: record for place, record in texts.items() if "windows" in record}
    found = examples(rows, texts)
    return {"examples": found, "contexts": _contexts(rows, run_dir, texts, found)}


def examples(rows: pd.DataFrame, texts: Collection[Place] = ()) -> list[dict[str, Any]]:
    """Draw questions, with a fixed seed and regardless of the outcome, with all answers to them.

    Args:
        rows: rows of the run.
        texts: contexts whose text is there; where a task has some, only they are asked about.
    """
    tasks = rows.groupby([*CELL, "task"])
    per_question = max(1, len(rows) // max(1, rows.groupby([*CELL, "task", *QUESTION]).ngroups))
    count = max(1, min(QUESTIONS_PER_TASK, ANSWERS // (per_question * tasks.ngroups)))
    found = []
    for (family, benchmark, task), group in tasks:
        questions = group[QUESTION].drop_duplicates().sort_values(QUESTION)
        there = [(family, benchmark, task, context) in texts for context in questions.context_id]
        questions = questions[there] if any(there) else questions
        drawn = questions.sample(min(count, len(questions)), random_state=0).sort_index()
        for context, question in drawn.itertuples(index=False):
            answers = group[(group.context_id == context) & (group.question == question)]
            found.append(
                {
                    "cell": f"{family} · {benchmark}",
                    "task": task,
                    "context": context,
                    "question": int(question),
                    "tokens": int(answers.context_tokens.iloc[0]),
                    "references": [_short(r) for r in answers.references.iloc[0]],
                    "answers": [_answer(row) for _, row in answers.iterrows()],
                    "kept": _name((family, benchmark, task, context)),
                }
            )
    return found


def _contexts(
    rows: pd.DataFrame,
    run_dir: Path,
    texts: Mapping[Place, dict[str, Any]],
    shown: list[dict[str, Any]],
) -> dict[str, Any]:
    """Text of the examples' contexts, and what the methods as they are in the rows keep of it."""
    drawn = {example["kept"] for example in shown}
    kept: dict[str, dict[Any, dict[str, Any]]] = {
        name: {} for place in texts if (name := _name(place)) in drawn
    }
    digests = rows[["family", "method", "method_digest"]].drop_duplicates()
    known = set(digests.itertuples(index=False, name=None))
    for record in recorded(run_dir, "kept") if kept else ():
        key = (record["method"], record["retention"], record.get("question"))
        is_known = (record["family"], record["method"], record["method_digest"]) in known
        if is_known and "tokens" in record and (name := _name(_place(record))) in kept:
            share = round(float(np.mean(record["heads"])), 4)
            kept[name][key] = {c: record[c] for c in COLUMNS if c in record} | {"share": share}
    room = KEPT // max(1, len(kept))
    columns = ("tokens", "windows", "places", "answers")
    return {
        name: {column: text[column] for column in columns}
        | {"questions": [_short(question) for question in text["questions"]]}
        | {"kept": _fitting([*kept[name].values()], room)}
        for place, text in texts.items()
        if (name := _name(place)) in kept
    }


def _fitting(kept: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """Records of a context whose tokens fit, those of low retentions first; then their layers."""
    order = sorted(kept, key=lambda k: (abs(k["retention"] - SHOWN_AT), k["retention"]))
    size = max(1, len(order[0]["tokens"])) if order else 1
    shown = order[: room // size]
    room -= size * len(shown)
    for record in shown:
        if "layers" in record and (room := room - size * len(record["layers"])) < 0:
            del record["layers"]
    return shown


def _place(record: Mapping[str, Any]) -> Place:
    return record["family"], record["benchmark"], record["task"], record["context_id"]


def _name(place: Place) -> str:
    return " · ".join(place)


def _answer(row: pd.Series) -> dict[str, Any]:
    answer = {
        "method": row.method,
        "retention": float(row.retention),
        "text": _short(row.prediction),
        "score": round(float(row.score), 4),
    }
    return answer if pd.isna(row.kl) else answer | {"kl": round(float(row.kl), 4)}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text)} characters)"
