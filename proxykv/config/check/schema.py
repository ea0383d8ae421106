"""Where a document departs from a JSON schema, one line each."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from proxykv.config import catalog

LARGEST = 2**32 - 1
"""The largest seed that every library takes; no count but `COUNTED` is larger."""
COUNTED = "parameters"
"""The count that may be larger: how many weights a model has."""

WRITTEN = ("config", "family")
"""Schemas of files that people write. Rows and measurements count bytes and operations."""


def _whole_match(
    validator: Any, pattern: str, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """A pattern describes the whole text: `$` alone also matches before a final line break.

    Our schemas describe a pattern in words under `expected`.
    """
    if validator.is_type(instance, "string") and not re.fullmatch(pattern, instance):
        expected = schema.get("expected", f"a text that matches {pattern}")
        yield ValidationError(f"{instance!r} is not allowed; expected {expected}")


def _is_integer(_: Any, value: Any) -> bool:
    """JSON schema also takes 2.0, with which Python cannot count."""
    return isinstance(value, int) and not isinstance(value, bool)


Validator = validators.extend(
    Draft202012Validator,
    {"pattern": _whole_match},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def schema_problems(document: Any, name: str, where: str) -> list[str]:
    """Where a document departs from a schema of workflow/schemas/, in the document's order.

    In files that people write, numbers that nothing can count with are refused: bounds do not
    exclude NaN.

    Args:
        document: the parsed YAML or JSON.
        name: name of the schema, such as "config".
        where: start of each line, which says what the document is.

    Returns:
        One line for each mistake.
    """
    unusable = _unusable_numbers(document, where) if name in WRITTEN else ()
    return [*unusable, *departures(document, catalog.schema(name), where)]


def _unusable_numbers(part: Any, where: str) -> Iterator[str]:
    """Numbers that are not finite, and integers that are too large for a seed or an index."""
    match part:
        case Mapping():
            for key, value in part.items():
                if key != COUNTED:
                    yield from _unusable_numbers(value, f"{where}.{key}")
        case list():
            for i, value in enumerate(part):
                yield from _unusable_numbers(value, f"{where}[{i}]")
        case float() if not math.isfinite(part):
            yield f"{where}: {part} is not a finite number"
        case int() if abs(part) > LARGEST:
            yield f"{where}: larger than {LARGEST}, the most that a number may be"


def form_problems(config: Any, where: str) -> list[str]:
    """What a stored config lacks, and what has another type or an impossible name.

    Bounds and unknown keys count for new runs only: an earlier version may have had others.

    Args:
        config: the parsed JSON.
        where: start of each line, which says what the document is.

    Returns:
        One line for each mistake.
    """
    errors = Validator(catalog.schema("config")).iter_errors(config)
    return [
        line
        for error in errors
        if error.validator in ("type", "required", "oneOf", "pattern")
        for line in _explained(error, where)
    ]


def departures(document: Any, schema: Mapping[str, Any], where: str) -> list[str]:
    """Where a document departs from a schema, in the document's order.

    Args:
        document: the parsed YAML or JSON.
        schema: a JSON schema (draft 2020-12).
        where: start of each line, which says what the document is.

    Returns:
        One line for each mistake.
    """
    errors = Validator(schema).iter_errors(document)
    ordered = sorted(errors, key=lambda e: [str(p) for p in e.path])
    return [line for error in ordered for line in _explained(error, where)]


def not_finite(row: Mapping[str, Any], where: str, *, nullable: Collection[str]) -> list[str]:
    """Numbers of a row that are infinite or NaN, one line each.

    Args:
        row: values by column.
        where: start of each line, which says what the row is.
        nullable: columns in which NaN stands for an unknown number, as in Parquet files.
    """
    return [
        f"{where}.{column}: {value} is not a finite number"
        for column, value in row.items()
        if isinstance(value, float) and not math.isfinite(value)
        if math.isinf(value) or column not in nullable
    ]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: the nearest known one, or all of them.

    Args:
        word: the word that is not known.
        known: the words that are allowed.
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"


def repeated(values: Iterable[str | float], where: str) -> Iterator[str]:
    """Report values that are listed more than once, one line each.

    Args:
        values: the listed values.
        where: start of each line, which says where the list is.
    """
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{where}: {value!r} is listed {count} times"


def _explained(error: ValidationError, where: str) -> Iterator[str]:
    path = where + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})  # type: ignore[union-attr]
        for key in sorted(set(error.instance) - set(known)):  # type: ignore[arg-type]
            yield f"{path}: unknown key {key!r}; {did_you_mean(key, known)}"
        return
    if error.validator in ("oneOf", "anyOf") and error.context:
        best = min(error.context, key=lambda e: (e.validator == "type", -len(e.path)))
        if best.validator != "type":
            yield from _explained(best, path)
            return
    if error.validator_value == {"multipleOf": 2}:  # under "not"
        yield f"{path}: {error.instance} is even; choose an odd number"
        return
    yield f"{path}: {error.message}"
