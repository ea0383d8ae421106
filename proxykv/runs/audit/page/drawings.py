"""The figures that the page draws, compared with the figures' files."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from proxykv.runs.audit.findings import Audit

FIGURE = "-figure_1"
"""Ends the id of a figure's outermost group in the page; its name comes before."""


def check_drawings(page: Path, figures: Path, audit: Audit) -> None:
    """Compare lines, areas and marks of each figure of the page with those of its file.

    Args:
        page: the report.
        figures: folder of the figures' files.
        audit: receives the findings.
    """
    for svg in re.findall(r"<svg\b.*?</svg>", page.read_text("utf-8"), re.DOTALL):
        try:
            root = ElementTree.fromstring(svg)
        except ElementTree.ParseError as error:
            audit.say(page, f"holds a damaged figure ({error}); run `proxykv report`")
            continue
        ids = [node.get("id", "") for node in root.iter()]
        for name in (one.removesuffix(FIGURE) for one in ids if one.endswith(FIGURE)):
            file = figures / f"{name}.svg"
            try:
                same = _drawn(root) == _drawn(ElementTree.parse(file).getroot())
            except (FileNotFoundError, ElementTree.ParseError):  # found by its digest
                continue
            if not same:
                audit.say(page, f"draws {name} otherwise than {file}; run `proxykv report`")


def _drawn(root: ElementTree.Element) -> Counter[tuple[str, ...]]:
    """Paths, and places of marks; colours and order aside."""
    return Counter(
        tuple(" ".join(node.get(name, "").split()) for name in ("d", "x", "y"))
        for node in root.iter()
        if node.tag.rpartition("}")[2] in ("path", "use")
    )
