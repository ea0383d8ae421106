"""Scores and kept sets: the contract of a method, selection, KVzip's replay, the proxy's side.

Imports `model`, `benchmarks` and what those may import.
"""

from proxykv.scoring.selection import select

__all__ = ["select"]
