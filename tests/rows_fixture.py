"""Made-up rows that keep the row contract, for tests of everything that starts from rows."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportCallIssue=false

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proxykv.config import catalog
from proxykv.config.cards import MethodCards, method_cards
from proxykv.runtime.journal import Journal

TASKS = ("single", "multikey", "multivalue", "vt")
RETENTIONS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
COLUMNS = (
    "family", "benchmark", "task", "context_id", "question", "method", "scope", "method_digest",
    "protocol", "schedule", "retention", "achieved_retention", "kept_digest",
    "prediction", "references", "score", "score_fixed", "nll", "kl", "kv_bytes", "kv_bytes_full",
    "prefill_seconds", "score_seconds", "operations", "decode_seconds", "decode_rows",
    "context_tokens", "question_tokens", "new_tokens", "truncated", "prompt_hash", "target",
    "target_hash", "target_digest",
    "proxy", "proxy_hash", "proxy_digest", "seed", "config_hash", "code_hash", "commit",
    "device", "dtype", "kernels", "threads", "versions", "created",
)  # fmt: skip
# method -> (scope, score at the smallest and at the largest retention)
METHODS = {
    "kvzip": ("global", 0.48, 0.97),
    "kvzip_head": ("head", 0.15, 0.85),
    "proxykv": ("global", 0.47, 0.96),
    "snapkv": ("head", 0.02, 0.25),
    "snapkv_global": ("global", 0.03, 0.3),
    "streaming": ("head", 0.02, 0.2),
    "random": ("global", 0.01, 0.15),
    "prior": ("global", 0.05, 0.97),
    "proxykv_shuffled": ("global", 0.06, 0.93),
    "cross_kvzip_budget": ("head", 0.45, 0.96),
    "cross_prior_budget": ("head", 0.1, 0.93),
}


def make_rows(
    *,
    families: tuple[str, ...] = ("tiny",),
    tasks: tuple[str, ...] = TASKS,
    methods: tuple[str, ...] = tuple(METHODS),
    retentions: tuple[float, ...] = RETENTIONS,
    contexts: int = 12,
    questions: int = 2,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows of `full` at retention 1.0 and of every method at every retention."""
    rng = np.random.default_rng(seed)
    points = [("full", "none", 1.0, 0.98)]
    for method in methods:
        scope, low, high = METHODS[method]
        curve = low + (high - low) * np.linspace(0, 1, len(retentions)) ** 0.45
        points += [(method, scope, r, p) for r, p in zip(retentions, curve, strict=True)]
    rows = []
    for family in families:
        for task in tasks:
            for context in range(contexts):
                hardness = rng.normal(0, 0.15)
                for question in range(questions):
                    answer = str(rng.integers(10, 99))
                    for method, scope, rho, chance in points:
                        right = bool(rng.random() < np.clip(chance + hardness, 0.01, 0.995))
                        wrong = str(rng.integers(10, 99))
                        kl = 0.0 if method == "full" else 3 * (1 - chance) + rng.random() * 0.05
                        rows.append(
                            _row(
                                family, task, f"{task}-{context:03d}", question, method, scope, rho
                            )
                            | {
                                "prediction": answer if right else wrong,
                                "references": [answer],
                                "score": float(right),
                                "score_fixed": np.nan,
                                "kl": kl,
                                "nll": 0.05 + kl,
                            }
                        )
    return pd.DataFrame(rows)[list(COLUMNS)]


def write_run(run_dir: Path, rows: pd.DataFrame, *, mapper: bool = True) -> list[Path]:
    """Lay the rows (and a mapper's training log) out as a run; returns the paths of the rows."""
    paths = []
    for (family, benchmark, task), group in rows.groupby(["family", "benchmark", "task"]):
        paths.append(run_dir / "rows" / str(family) / str(benchmark) / f"{task}.parquet")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        group.to_parquet(paths[-1], index=False)
    config = {"run": run_dir.name, "seed": 0, "methods": sorted(rows.method.unique())}
    (run_dir / "config.json").write_text(json.dumps(config))
    cards_of(rows).write(run_dir)
    if mapper:
        for family in rows.family.unique():
            _write_mapper(run_dir / "mappers" / family / "proxykv")
    return paths


def write_kept(run_dir: Path, rows: pd.DataFrame, pieces: Sequence[str]) -> None:
    """Record 20 of a context's 100 tokens, the last of which are these pieces: the answers.

    The first of the 20 are kept, as many as twice the retention.
    """
    text = ["w "] * (20 - len(pieces)) + [*pieces]
    for (family, benchmark, task), group in rows.groupby(["family", "benchmark", "task"]):
        stem = run_dir / "predictions" / str(family) / str(benchmark) / str(task)
        questions = range(group.question.nunique())
        answers = [[[20 - len(pieces) + i, 21 - len(pieces) + i]] for i in questions]
        Journal(stem.with_suffix(".contexts.jsonl")).append(
            {
                "context_id": context,
                "depths": [0.5 for _ in questions],
                "tokens": 100,
                "windows": [[10, text[:10]], [60, text[10:]]],
                "questions": [f"{pieces[i]}?" for i in questions],
                "places": [1 for _ in questions],
                "answers": [[[a + 50, b + 50] for a, b in places] for places in answers],
            }
            for context in group.context_id.unique()
        )
        pruned = group[(group.retention < 1) & (group.question == 0)]
        Journal(stem.with_suffix(".kept.jsonl")).append(
            {
                "context_id": row["context_id"],
                "method": row["method"],
                "method_digest": row["method_digest"],
                "retention": row["retention"],
                "heads": [[2 * row["retention"]], [0.0]],
                "positions": [row["retention"]] * 20,
                "tokens": ("/" * int(40 * row["retention"])).ljust(20, "A"),
                "layers": [("/" * int(40 * row["retention"])).ljust(20, "f"), "A" * 20],
                "answers": [[2 * row["retention"], 0.0] for _ in questions],
            }
            for row in pruned.to_dict("records")
        )


def cards_of(rows: pd.DataFrame, **config: Any) -> MethodCards:
    """Cards of a run of these rows' methods, in the order of the catalogue."""
    ids = [m for m in catalog.variants() if m in set(rows.method)]
    return method_cards({"methods": ids, **config})


def _write_mapper(folder: Path) -> None:
    folder.mkdir(parents=True)
    card = {"parameters": 183_412, "steps": 600, "contexts": 96, "seconds": 312.4, "seed": 0}
    (folder / "card.json").write_text(json.dumps(card))
    rng = np.random.default_rng(0)
    lines = []
    for step in range(10, 601, 10):
        fall = np.exp(-step / 150)
        terms = {"bin": 0.62, "mse": 0.08, "fine": 0.7, "global": 0.6, "cos": 0.5}
        line = {k: v * (0.3 + 0.7 * fall) * rng.normal(1, 0.03) for k, v in terms.items()}
        line["total"] = 10 * line["bin"] + 20 * line["mse"] + line["fine"] + line["global"]
        lines.append({"step": step, "split": "train", **line, "lr": 1e-3, "tokens_per_s": 9000.0})
        if step % 100 == 0:
            mass = {f"mass@{r}": 0.97 - 0.4 * fall * (1 - r) for r in (0.1, 0.2, 0.3, 0.5)}
            head = {f"head_overlap@{r}": 0.8 - 0.5 * fall * (1 - r) for r in (0.1, 0.3)}
            both = {f"global_overlap@{r}": 0.9 - 0.3 * fall * (1 - r) for r in (0.1, 0.3)}
            lines.append({"step": step, "split": "val", **mass, **head, **both})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _row(
    family: str, task: str, context: str, question: int, method: str, scope: str, rho: float
) -> dict[str, object]:
    scoring = {"kvzip": 0.9, "kvzip_head": 0.9, "proxykv": 0.35, "prior": 0.0, "snapkv": 0.02}
    return {
        "family": family,
        "benchmark": "tiny",
        "task": task,
        "context_id": context,
        "question": question,
        "method": method,
        "scope": scope,
        "method_digest": f"{method}-digest",
        "protocol": "query_agnostic",
        "schedule": "sequential",
        "retention": rho,
        "achieved_retention": rho,
        "kept_digest": "e5" * 6,
        "kv_bytes": int(1_048_576 * rho),
        "kv_bytes_full": 1_048_576,
        "prefill_seconds": 0.6,
        "score_seconds": 0.0 if method in ("full", "random") else scoring.get(method, 0.4),
        "operations": 1e9 if method in ("full", "random") else 1e9 * (1 + scoring.get(method, 0.4)),
        "decode_seconds": 0.1,
        "decode_rows": 7,
        "context_tokens": 256,
        "question_tokens": 5,
        "new_tokens": 3,
        "truncated": False,
        "prompt_hash": "0f" * 8,
        "target": "tiny-target",
        "target_hash": "a1" * 8,
        "target_digest": "a3" * 6,
        "proxy": "tiny-proxy",
        "proxy_hash": "b2" * 8,
        "proxy_digest": "b4" * 6,
        "seed": 0,
        "config_hash": "c3" * 8,
        "code_hash": "d4" * 8,
        "commit": "0123456789abcdef",
        "device": "cpu",
        "dtype": "float32",
        "kernels": "reference (no NVIDIA GPU)",
        "threads": 1,
        "versions": "torch 2.13.0, transformers 5.2.0",
        "created": "2026-11-22T12:00:00+00:00",
    }
