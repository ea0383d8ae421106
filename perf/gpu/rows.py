"""A measured row, its limit on this card, and the bars that rows are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

PRODUCTS, COPY = "matrix product", "copy"
"""Rows of the section `machine`: the card's measured peaks, which limits are computed with."""
BAR_CARD = "H100"
"""Bars are those of this card."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        what: name of the case; a bar of the same name belongs to it.
        unit: of the values: "ms", "s", "×", "TFLOP/s", "TB/s", "tokens" or "tests".
        values: one for each repetition.
        kernels: which kernels ran, and why.
        flops: operations of the matrix products that cannot be avoided.
        bytes: bytes that must be read at least once.
        note: what else a reader must know.
    """

    what: str
    unit: str
    values: Sequence[float] = ()
    kernels: str = ""
    flops: float = 0
    bytes: float = 0
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """What a case must reach on an H100.

    Attributes:
        most: the largest value, in the row's unit, or times the limit.
        of_limit: whether `most` is a multiple of the limit.
        before: the same number before the kernels were written, on an H100.
        prototype: the same number of a prototype; None if there was none.
        least: `most` is the smallest value instead.
    """

    most: float
    of_limit: bool = False
    before: str = ""
    prototype: str = ""
    least: bool = False

    def __str__(self) -> str:
        """Return the bar as the table shows it."""
        return f"{'≥' if self.least else '≤'} {self.most:g}{' × limit' if self.of_limit else ''}"


BARS = {
    "replay of a layer and chunk: llama-3.1 target, 64k": Bar(1.65, True, "3.9", "1.59"),
    "… of which scores: llama-3.1 target, 64k": Bar(0.25, False, "4.0", "0.2"),
    "KVzip's replay: llama-3.1, 64k": Bar(6.5, False, "13.0"),
    "the proxy's replay: llama-3.1, 64k": Bar(1.9, False, "4.2"),
    "a token: pruned, 64k, ρ 0.1": Bar(1.2, True, "21.2", "1.10"),
    "a token: pruned, 64k, ρ 0.3": Bar(1.2, True, "19.5", "1.07"),
    "a token: pruned, 128k, ρ 0.1": Bar(1.2, True, "12.9", "1.08"),
    "a token: pruned, 128k, ρ 0.3": Bar(1.2, True, "10.8", "1.04"),
    "best full / pruned: 64k, ρ 0.1": Bar(1.2, False, "", "1.36", least=True),
    "a step of 10 rows, 16k": Bar(1.2, True, "6.5", "1.13"),
    "a step of 10 rows, 64k": Bar(1.2, True, "11.2", "1.05"),
    "a step of 150 rows, 16k": Bar(15, False, "142"),
    "reading the questions of 150 rows, 16k": Bar(0.6, False, "3.3"),
}
"""By the name of the case."""

FORMULAS = (
    "limit = max(products / measured matrix product, bytes / measured copy), of which",
    "replay of a layer and chunk: products = 4·H·R·(n + R/2)·d + 2·H·R·C·d",
    "KVzip's replay, the proxy's replay: 2·P·R + the line above for every layer, for every chunk",
    "prefill: products = 2·P·n + 2·L·H·n²·d",
    "a token, a step: bytes = weights without the input embedding + KV pairs of the context, once "
    "for all rows + KV pairs of the rows' own tokens",
    "reading questions: products = 2·P·q + 4·L·H·q·n·d",
    "H query heads of size d, L layers, P parameters of the layers, n tokens of the context, "
    "C of a chunk, R of a replay, q of all questions and references",
)


def peaks(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The card's peaks in operations and bytes per second, as far as they were measured.

    Args:
        rows: all rows.
    """
    measured = {row["what"]: median(row["values"]) for row in rows if row["values"]}
    return {name: measured[name] * 1e12 for name in (PRODUCTS, COPY) if name in measured}


def limit(row: Mapping[str, Any], peak: Mapping[str, float]) -> float | None:
    """The least that a row can take on this card, in its unit.

    Args:
        row: the row.
        peak: the card's peaks (`peaks`).

    Returns:
        None where the row names no work or the peak was not measured.
    """
    work = {PRODUCTS: row["flops"], COPY: row["bytes"]}
    seconds = [work[name] / peak[name] for name in work if work[name] and name in peak]
    return max(seconds) * {"ms": 1e3, "s": 1.0}[row["unit"]] if seconds else None


def verdict(row: Mapping[str, Any], least: float | None, obstacle: str) -> str:
    """Compare a row with its bar.

    Args:
        row: the row.
        least: its limit.
        obstacle: why nothing can be compared here; an empty text if it can.

    Returns:
        "met", "missed", or why there is no verdict; an empty text without a bar.
    """
    bar = BARS.get(row["what"])
    if bar is None:
        return ""
    if obstacle or not row["values"]:
        return obstacle or "not measured"
    if row["kernels"].startswith("reference"):
        return "reference ran"
    value = median(row["values"])
    if bar.of_limit:
        if least is None:
            return "no limit"
        value /= least
    return "met" if (value >= bar.most if bar.least else value <= bar.most) else "missed"
