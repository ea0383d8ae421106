"""Bounds of a parameter, written into its annotation, so that a config is checked against them.

`chunk: Annotated[int, Bounds(minimum=1)]` states in one place what a function takes: readers see
it in the signature, and `proxykv check` refuses other values before any job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

TYPES = {
    "int": "integer",
    "float": "number",
    "str": "string",
    "bool": "boolean",
    **dict.fromkeys(("Sequence", "list", "tuple"), "array"),
    **dict.fromkeys(("Mapping", "dict"), "object"),
}
"""Python types whose values a config can hold, and their names in JSON schema."""


@dataclass(frozen=True)
class Bounds:
    """Values that a parameter may have, besides its type.

    Args:
        minimum: the smallest value.
        maximum: the largest value.
        above: every value is larger than this one.
        below: every value is smaller than this one.
        odd: whether values must be odd.
        pattern: regular expression that matches the whole text.
        expected: what it matches, in words.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    odd: bool = False
    pattern: str | None = None
    expected: str | None = None

    def schema(self) -> Mapping[str, Any]:
        """The bounds as keywords of JSON schema."""
        keywords = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "exclusiveMinimum": self.above,
            "exclusiveMaximum": self.below,
            "not": {"multipleOf": 2} if self.odd else None,
            "pattern": self.pattern,
            "expected": self.expected,
        }
        return {name: value for name, value in keywords.items() if value is not None}


Count = Annotated[int, Bounds(minimum=1)]
"""A number of things, at least one."""
Odd = Annotated[int, Bounds(minimum=1, odd=True)]
"""Width of a window that has a middle."""
Index = Annotated[int, Bounds(minimum=0)]
"""A whole number from zero."""
Part = Annotated[float, Bounds(above=0, maximum=1)]
"""A share that is not zero."""
