"""Names of columns, and what rows and tables are grouped by."""

from __future__ import annotations

LOW_RETENTION = 0.3
LOW = f"<={LOW_RETENTION}"
POOLS = {LOW: LOW_RETENTION, "<1": 0.9999}  # label -> largest retention pooled

CELL = ["family", "benchmark"]
METHOD = ["method", "scope"]
UNIT = ["task", "context_id"]
MODELS = ["target_digest", "proxy_digest"]
STATE = ["family", "method", "method_digest", *MODELS]
ROW_KEY = [*CELL, *UNIT, "question", *METHOD, "retention"]
SPENT = ["seconds", "operations"]
VALUES = ["score", "score_fixed", "nll", "kl", "achieved_retention", "kv_bytes", *SPENT]
LEADERBOARD_COLUMNS = [
    "family",
    "benchmark",
    "method",
    "scope",
    "retention",
    "mean",
    "ci_low",
    "ci_high",
    "n_contexts",
    "recovery",
    "recovery_low",
    "recovery_high",
    "kl",
    "kl_low",
    "kl_high",
    "achieved_retention",
]
FIXED = ["fixed", "fixed_low", "fixed_high"]
SYNTHETIC = "SYNTHETIC"
"""The `code_hash` of made-up rows; what is made of them carries this mark."""
PARTIAL = "PARTIAL"
"""The mark of what is made of a run that is not finished."""
