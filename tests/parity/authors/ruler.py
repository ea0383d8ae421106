"""RULER: NVIDIA/RULER at commit c3f5e3b4."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from proxykv.benchmarks import ruler
from proxykv.benchmarks.ruler import TASKS
from tests.parity.authors.loading import importable
from tests.parity.authors.predictions import predictions, words

THEIR_NAMES = {"vt": "variable_tracking", "cwe": "common_words_extraction"}
THEIR_NAMES |= {"fwe": "freq_words_extraction", "qa_1": "qa", "qa_2": "qa"}
CONTROL = re.compile(r"[\x00-\x1f]")


def compare(checkout: Path, count: int, rng: random.Random) -> Iterator[tuple[str, Any, Any, Any]]:
    """What was compared, the input, the value here and the authors' value."""
    with importable(checkout / "scripts" / "eval" / "synthetic", {}):
        metrics = import_module("constants").TASKS
    for task in sorted(TASKS):
        metric = metrics[THEIR_NAMES.get(task, "niah")]["metric_fn"]
        for _ in range(count):
            references = [words(rng, 3) for _ in range(rng.randrange(1, 5))]
            (prediction,) = predictions(references, rng, 1)
            # As their evaluate.py cleans a prediction before it is scored.
            cleaned = CONTROL.sub("\n", prediction.strip()).strip()
            score = ruler.score(task, prediction, references)
            theirs = metric([cleaned], [references])
            yield f"{task} score", (prediction, references), round(100 * score, 2), theirs
