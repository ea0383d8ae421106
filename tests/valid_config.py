"""A config without a mistake, for tests that make some."""

from __future__ import annotations

import copy
from typing import Any

Config = dict[str, Any]


def valid() -> Config:
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 2, "lengths": [128]}
    return {
        "run": "test",
        "families": ["tiny"],
        "retentions": [0.1, 1.0],
        "methods": ["full", "kvzip", "proxykv", "prior", "cross_kvzip_budget"],
        "benchmarks": [dataset],
        "corpus": [copy.deepcopy(dataset)],
        "training": {"val_contexts": 1},
    }
