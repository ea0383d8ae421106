"""Differences between the answers of two runs, on the contexts that both have."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import pandas as pd

from proxykv.report.stats import detectable_effect, holm, mean_ci, permutation_p
from proxykv.report.tables.columns import CELL, LOW, LOW_RETENTION, METHOD, UNIT
from proxykv.report.tables.means import strata

QUESTION = [*CELL, *UNIT, "question"]
POINT = [*CELL, *METHOD, "retention"]
SHARED = [*QUESTION, *METHOD, "retention", "prompt_hash"]
PAIRED = [
    *CELL, *METHOD, "metric", "retention",
    "difference", "ci_low", "ci_high", "p", "p_holm", "mde", "n_contexts",
]  # fmt: skip


def shared(first: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """What two runs share, for each family and benchmark that either has.

    Args:
        first: rows of a run.
        other: rows of another run.

    Returns:
        Contexts of each, those in both, those whose id is in both but not the prompt (they are
        not paired), and of the shared answers the percentage with the same text and with the same
        kept pairs.
    """
    both = _pairs(first, other)
    records = []
    cells = pd.concat([first, other])[CELL].drop_duplicates().sort_values(CELL)
    for cell in cells.itertuples(index=False):
        here, there, pairs = (_of(frame, cell) for frame in (first, other, both))
        ids = set(_units(here)) & set(_units(there))
        paired = set(_units(pairs))
        records.append(
            {
                **dict(zip(CELL, cell, strict=True)),
                "contexts_first": len(set(_units(here))),
                "contexts_other": len(set(_units(there))),
                "shared": len(paired),
                "same_id_other_prompt": len(ids & _changed(here, there)),
                "answers": len(pairs),
                "same_text_%": _percent(pairs, "prediction"),
                "same_kept_pairs_%": _percent(pairs, "kept_digest"),
            }
        )
    return pd.DataFrame(records)


def paired(first: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The other run minus the first one, for score and KL of each method and retention.

    Questions are paired by context id and prompt digest, then averaged in their context.
    `retention` is a number as text, or "<=0.3": the retentions up to there that both have. Holm's
    correction covers, for each metric, all lines at "<=0.3", and apart from them all others.

    Args:
        first: rows of a run.
        other: rows of another run.
    """
    pairs = _pairs(first, other)
    records = []
    for metric in ("score", "kl"):
        gaps = pairs.assign(gap=pairs[f"{metric}_other"] - pairs[metric]).dropna(subset="gap")
        contexts = gaps.groupby([*POINT, *UNIT])["gap"].mean().reset_index()
        low = contexts[contexts.retention <= LOW_RETENTION]
        pooled = low.groupby([*CELL, *METHOD, *UNIT])["gap"].mean().reset_index()
        each = contexts.assign(retention=contexts.retention.map("{:g}".format))
        for part in (pooled.assign(retention=LOW), each):
            for key, group in part.sort_values(UNIT).groupby(POINT):
                gap = strata(group, "gap")
                estimate = mean_ci(gap)
                records.append(
                    {
                        **dict(zip(POINT, key, strict=True)),
                        "metric": metric,
                        "difference": estimate.value,
                        "ci_low": estimate.low,
                        "ci_high": estimate.high,
                        "p": permutation_p(gap),
                        "mde": detectable_effect(gap),
                        "n_contexts": len(group),
                    }
                )
    if not records:
        return pd.DataFrame(columns=PAIRED)
    table = pd.DataFrame(records)
    tests = table.groupby(["metric", table.retention == LOW])["p"]
    table["p_holm"] = tests.transform(lambda p: holm(p.to_numpy()))
    return table[PAIRED]


def _pairs(first: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Answers to the same prompts by the same methods at the same retentions."""
    columns = [*SHARED, "score", "kl", "prediction", "kept_digest"]
    return first[columns].merge(other[columns], on=SHARED, suffixes=("", "_other"))


def _changed(here: pd.DataFrame, there: pd.DataFrame) -> set[tuple[str, ...]]:
    """Contexts with a question whose prompts differ, for the same method and retention."""
    on = [*QUESTION, *METHOD, "retention"]
    both = here[[*on, "prompt_hash"]].merge(there[[*on, "prompt_hash"]], on=on)
    return set(_units(both[both.prompt_hash_x != both.prompt_hash_y]))


def _units(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    return list(rows[UNIT].drop_duplicates().itertuples(index=False, name=None))


def _of(rows: pd.DataFrame, cell: tuple[str, str]) -> pd.DataFrame:
    return rows[(rows.family == cell[0]) & (rows.benchmark == cell[1])]


def _percent(pairs: pd.DataFrame, column: str) -> float:
    return 100 * (pairs[column] == pairs[f"{column}_other"]).mean()
