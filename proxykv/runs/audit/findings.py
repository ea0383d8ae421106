"""What an audit counted and found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Audit:
    """How much was checked, and one line for everything that differs.

    Attributes:
        rows: number of rows.
        scores: number of recomputed scores.
        cells: number of recomputed cells.
        borrowed: number of the scores whose second computation is not independent, by what it uses.
        skipped: what could not be checked.
        findings: lines about what differs.
    """

    rows: int = 0
    scores: int = 0
    cells: int = 0
    borrowed: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def say(self, where: object, what: str) -> None:
        """Add a finding about a file, a row or a cell.

        Args:
            where: what it is about.
            what: the finding.
        """
        self.findings.append(f"{where}: {what}")

    def differs(self, where: object, published: object, recomputed: object) -> None:
        """Add a finding about a value.

        Args:
            where: what it is about.
            published: the stored value.
            recomputed: the value that it should have.
        """
        self.say(where, f"published {published}, recomputed {recomputed}")

    def require_counts(self) -> None:
        """Add a finding for everything of which nothing was checked."""
        for what in ("rows", "scores", "cells"):
            if not getattr(self, what):
                self.say("audit", f"no {what} were checked")

    @property
    def summary(self) -> str:
        """How much was checked, and how much of it differs."""
        found = len(self.findings)
        shared = "".join(
            f"; {count} of the scores only {how}" for how, count in sorted(self.borrowed.items())
        )
        skipped = f"; not audited: {', '.join(self.skipped)}" if self.skipped else ""
        return (
            f"audited: {self.cells} cells, {self.scores} scores and {self.rows} rows, "
            f"{found or 'no'} finding{'s' * (found != 1)}{shared}{skipped}"
        )
