"""A sample of answers for the page's example explorer."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import pandas as pd

from proxykv.report.tables.columns import CELL

QUESTIONS_PER_TASK = 4
ANSWERS = 6000  # on the whole page; an answer takes about 200 bytes
LONGEST = 1500  # characters of one answer
QUESTION = ["context_id", "question"]


def examples(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Draw questions, with a fixed seed and regardless of the outcome, with all answers to them."""
    tasks = rows.groupby([*CELL, "task"])
    per_question = max(1, len(rows) // max(1, rows.groupby([*CELL, "task", *QUESTION]).ngroups))
    count = max(1, min(QUESTIONS_PER_TASK, ANSWERS // (per_question * tasks.ngroups)))
    found = []
    for (family, benchmark, task), group in tasks:
        questions = group[QUESTION].drop_duplicates().sort_values(QUESTION)
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
                }
            )
    return found


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
