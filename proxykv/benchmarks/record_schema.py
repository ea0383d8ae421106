"""JSON schemas of published records, and one line for each record that departs from its schema.

A schema states what the published format says and what the prompts and metrics need. Every part
carries a `description`, which completes the sentence "expected …".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

TEXT = {"type": "string", "pattern": r"\S", "description": "a text that is not empty"}
ANY_TEXT = {"type": "string", "description": "a text"}


def record(
    optional: Mapping[str, Mapping[str, Any]] | None = None, /, **fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Schema of an object that has at least these fields.

    Args:
        optional: schemas of fields that it may lack.
        fields: schemas of the fields that it has.
    """
    return {
        "type": "object",
        "description": "an object",
        "required": list(fields),
        "properties": {**(optional or {}), **fields},
    }


def unless_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of what is null or fits another one. Parquet has null for a field that is absent."""
    return {"anyOf": [{"type": "null"}, schema], "description": f"{schema['description']}, or null"}


def list_of(
    item: Mapping[str, Any], *, least: int = 1, exactly: int | None = None
) -> dict[str, Any]:
    """Schema of a list of items.

    Args:
        item: schema of an item.
        least: the least number of items.
        exactly: the exact number of items; None if it may vary.
    """
    count = f" of {exactly}" if exactly else f" of {least} or more" if least else ""
    return {
        "type": "array",
        "items": item,
        "minItems": exactly or least,
        **({"maxItems": exactly} if exactly else {}),
        "description": f"a list{count} (each {item['description']})",
    }


def problems(instance: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """Where a record departs from its schema: field, expectation and what is there.

    Args:
        instance: the record.
        schema: built of the parts of this module. The extra keyword `memberOf` names fields whose
            value (or each of whose values, for a list) must be in the list of another field.
    """
    for error in _Validator(schema).iter_errors(instance):
        for path, expected, found in _explained(error):
            field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
            yield f"{field or 'record'}: expected {expected}, found {found}"
    yield from _unencodable(instance, "")


def _explained(error: ValidationError) -> Iterator[tuple[Sequence[Any], str, str]]:
    path = list(error.absolute_path)
    if error.validator == "required":
        for name in error.validator_value:  # type: ignore[union-attr]
            if name not in error.instance:  # type: ignore[operator]
                part = error.schema["properties"][name]  # type: ignore[index]
                known = ", ".join(map(str, error.instance)) or "none"  # type: ignore[arg-type]
                yield [*path, name], part["description"], f"no such field; there are {known}"
    elif error.validator == "memberOf":
        yield path, error.message, short(error.instance)
    else:
        expected = error.schema["description"]  # type: ignore[index]
        yield path, expected, short(error.instance)


def _member_of(_: Any, pairs: Mapping[str, str], instance: Any, __: Any) -> Iterator[Any]:
    """Each value of a field is in the list of another field, as far as both have their types."""
    for name, among in pairs.items():
        value, known = instance.get(name), instance.get(among)
        if not isinstance(known, list):
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and one not in known:
                yield ValidationError(f"one of the record's `{among}`", path=[name], instance=one)


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: Any, value: Any) -> bool:
    """JSON has no NaN and no infinity, but Parquet does."""
    finite = isinstance(value, float) and math.isfinite(value)
    return finite or _is_integer(checker, value)


_types = Draft202012Validator.TYPE_CHECKER.redefine_many(
    {"integer": _is_integer, "number": _is_number}
)
_Validator = validators.extend(Draft202012Validator, {"memberOf": _member_of}, type_checker=_types)


def _unencodable(value: Any, field: str) -> Iterator[str]:
    """Texts that no file can hold, since they have half of a surrogate pair."""
    match value:
        case str():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                half = value[error.start]
                yield f"{field}: expected text, found half of a surrogate pair (\\u{ord(half):04x})"
        case dict():
            for name, part in value.items():
                yield from _unencodable(name, f"{field}.{name!a} (the key)".lstrip("."))
                yield from _unencodable(part, f"{field}.{name}".lstrip("."))
        case list():
            for i, part in enumerate(value):
                yield from _unencodable(part, f"{field}[{i}]")


def short(value: Any) -> str:
    """A value as messages quote it: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
