"""The table and the JSON document of all rows, with limits, bars and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from perf.gpu.rows import BAR_CARD, BARS, FORMULAS, PRODUCTS, limit, peaks, verdict
from perf.gpu.runner import Done

HEAD = (
    "| case | measured | limit | measured / limit | bar | before | prototype | verdict | kernels |"
)


def document(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sections: Sequence[Done]
) -> dict[str, Any]:
    """Everything that was measured, for programs.

    Args:
        about: versions, command, size.
        rows: rows of the journal.
        sections: the sections that have ended.
    """
    peak, obstacle = peaks(rows), _obstacle(about, rows)
    judged = []
    for row in rows:
        least = limit(row, peak)
        judged.append({**row, "limit": least, "verdict": verdict(row, least, obstacle)})
    names = {row["what"] for row in rows}
    return {
        **about,
        "formulas": FORMULAS,
        "bars": {name: {"text": str(bar), **asdict(bar)} for name, bar in BARS.items()},
        "sections": [asdict(section) for section in sections],
        "rows": judged,
        "not_measured": [name for name in BARS if name not in names],
    }


def text(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for people: lines of Markdown.

    Args:
        found: the document.
    """
    yield f"Bars are an {BAR_CARD}'s. Before: commit ed0020c on an {BAR_CARD}, bfloat16."
    yield " · ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield from ("", HEAD, "|" + "---|" * HEAD.count(" | ") + "---|")
    for row in found["rows"]:
        yield _line(row)
    for name in found["not_measured"]:
        bar = BARS[name]
        yield _cells([name, "–", "", "", str(bar), bar.before, bar.prototype, "not measured", ""])
    yield ""
    for section in found["sections"]:
        trouble = section["trouble"] and f": {section['trouble']}"
        yield f"- {section['section']}: {section['seconds']:.0f} s{trouble}"
    yield ""
    yield from (f"- {formula}" for formula in found["formulas"])


def _line(row: Mapping[str, Any]) -> str:
    bar, values, least = BARS.get(row["what"]), row["values"], row["limit"]
    shown = [_values(values, row["unit"]), row["note"] and f"({row['note']})"]
    return _cells(
        [
            row["what"],
            " ".join(part for part in shown if part),
            f"{least:.3g}" if least else "",
            f"{median(values) / least:.2f}" if least and values else "",
            str(bar or ""),
            bar.before if bar else "",
            bar.prototype if bar else "",
            row["verdict"],
            row["kernels"],
        ]
    )


def _values(values: Sequence[float], unit: str) -> str:
    """Median and range."""
    if not values:
        return ""
    middle = f"{median(values):.3g}"
    spread = f" ({min(values):.3g}–{max(values):.3g})" if len(values) > 1 else ""
    return f"{middle}{spread} {unit}"


def _cells(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _obstacle(about: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    """Why bars cannot be judged here."""
    if about["miniature"]:
        return "miniature"
    device = next((row["note"].split(":")[0] for row in rows if row["what"] == PRODUCTS), "")
    return "" if BAR_CARD in device else f"not an {BAR_CARD}"
