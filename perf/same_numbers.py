"""Compare the numbers of two runs, without timings: `same_numbers.py results/a results/b`.

Rows of the same question, method and retention are compared bit for bit: predictions, scores,
likelihoods, divergences, kept sets. Tables are compared cell by cell. Use it before and after a
change of the code that should change no number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

KEY = ["family", "benchmark", "task", "context_id", "question", "method", "retention"]
ANSWERS = ["prediction", "score", "score_fixed", "nll", "kl", "achieved_retention", "kv_bytes"]
KEPT = "kept_digest"
"""Rows of earlier versions lack it; then kept sets are compared by their sizes only."""
TIMED = ("seconds", "speed", "hours", "ttft")
"""Columns whose names hold one of these are timings."""
MEASURED = ("efficiency.csv", "speedups.csv")
"""Tables that hold nothing else."""


def main() -> int:
    """Print the differences; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    arguments = parser.parse_args()
    found = [*_rows(arguments.one, arguments.other), *_tables(arguments.one, arguments.other)]
    print("\n".join(found) or "the same numbers")
    return 1 if found else 0


def _rows(one: Path, other: Path) -> Iterator[str]:
    frames = [_read(folder) for folder in (one, other)]
    if lost := set(frames[0].index) ^ set(frames[1].index):
        yield f"rows: {len(lost)} are in one run only, such as {min(map(str, lost))}"
    shared = frames[0].index.intersection(frames[1].index)
    first, second = (frame.loc[shared] for frame in frames)
    has_kept = all(KEPT in frame for frame in frames)
    for column in [*ANSWERS, *([KEPT] if has_kept else [])]:
        differ = ~(
            (first[column] == second[column]) | (first[column].isna() & second[column].isna())
        )
        if differ.any():
            example = first.index[differ.to_numpy()][0]
            values = first.loc[[example], column].iloc[0], second.loc[[example], column].iloc[0]
            yield f"rows: {column} differs in {differ.sum()} of {len(shared)}: {example}: {values}"


def _read(folder: Path) -> pd.DataFrame:
    files = sorted((folder / "rows").rglob("*.parquet"))
    if not files:
        sys.exit(f"{folder}/rows: no Parquet file; give the folder of a finished run")
    return pd.concat(pd.read_parquet(file) for file in files).set_index(KEY).sort_index()


def _tables(one: Path, other: Path) -> Iterator[str]:
    found = (one / "tables").glob("*.csv")
    for file in sorted(path for path in found if path.name not in MEASURED):
        other_file = other / "tables" / file.name
        if not other_file.exists():
            yield f"{file.name}: missing in {other}"
            continue
        first, second = pd.read_csv(file), pd.read_csv(other_file)
        kept = [c for c in first if not any(word in c for word in TIMED)]
        if gone := set(kept) - set(second):
            yield f"{file.name}: columns {sorted(gone)} are missing in {other}"
        elif not first[kept].equals(second[kept]):
            unequal = [c for c in kept if not first[c].equals(second[c])]
            yield f"{file.name}: differs in {unequal}"


if __name__ == "__main__":
    sys.exit(main())
