"""The command: which authors' code, where it is, and how many predictions of each task."""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

from tests.parity.authors import longbench, ruler, ruler_texts, scbench

COMPARISONS = {
    "longbench": longbench.compare,
    "ruler": ruler.compare,
    "ruler-texts": ruler_texts.compare_texts,
    "scbench": scbench.compare,
}
SHOWN = 3
"""Differences of a task that are printed."""


def main(arguments: list[str] | None = None) -> int:
    """Compare, and print what was compared and what differs; 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.authors")
    parser.add_argument("benchmark", choices=COMPARISONS)
    parser.add_argument("checkout", type=Path, help="the authors' repository")
    parser.add_argument("--count", type=int, default=200, help="predictions of each task")
    parser.add_argument("--seed", type=int, default=0, help="of the predictions")
    options = parser.parse_args(arguments)
    compared: Counter[str] = Counter()
    different: Counter[str] = Counter()
    pairs = COMPARISONS[options.benchmark](
        options.checkout, options.count, random.Random(options.seed)
    )
    for what, given, ours, theirs in pairs:
        compared[what] += 1
        if ours != theirs:
            different[what] += 1
            if different[what] <= SHOWN:
                print(f"{what}: {ours!r} here, {theirs!r} there, for {given!r}"[:400])
    for what, count in compared.items():
        print(f"{what}: {count:,} compared, {different[what]:,} different")
    print(f"in all: {compared.total():,} compared, {different.total():,} different")
    return int(different.total() > 0 or not compared)


if __name__ == "__main__":
    sys.exit(main())
