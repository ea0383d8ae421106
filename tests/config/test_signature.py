"""Parameters are read from sources: functions, constructors, dataclasses, through imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxykv.config import signature

BASE = """
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["a", "b"]


def build(task, *, tokenizer, count: int, share: float = 0.5, **rest): ...


class Plain:
    def __init__(self, context, kind: Kind, *, size: int | None = None, parts: list[str] = ()): ...


class Heir(Plain):
    pass


@dataclass
class Press:
    ratio: float = 0.0
    seen: int = field(init=False, default=0)
    inner: "Press" = None
    fixed: bool = True


class Bare: ...
"""
DERIVED = """
from dataclasses import dataclass
from .base import Heir as Own, Kind, Press, build


@dataclass
class Wide(Press):
    name: str
    fixed: bool = field(default=True, init=False)


class Named:
    label: str


@dataclass
class Both(Press, Named):
    pass


METHOD = Own
"""


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("packages")
    (folder / "signed").mkdir()
    for name, text in {"__init__": "", "base": BASE, "derived": DERIVED}.items():
        (folder / "signed" / f"{name}.py").write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


KIND = {"enum": ["a", "b"]}
PLAIN = {"kind": KIND, "size": {"type": ["integer", "null"]}, "parts": {"type": ["array"]}}


@pytest.mark.parametrize(
    ("module", "name", "given", "properties", "required", "others"),
    [
        (
            *("base", "build", ("task", "tokenizer")),
            {"count": {"type": ["integer"]}, "share": {"type": ["number"]}},
            *(["count"], True),
        ),
        ("base", "Plain", ("context",), PLAIN, ["kind"], False),
        ("base", "Heir", ("context", "kind"), {k: PLAIN[k] for k in ("size", "parts")}, [], False),
        ("derived", "METHOD", ("context",), PLAIN, ["kind"], False),
        ("derived", "build", ("task", "tokenizer", "count", "share"), {}, [], True),
        ("base", "Press", ("ratio",), {"inner": {}, "fixed": {"type": ["boolean"]}}, [], False),
        (
            *("derived", "Both", ("ratio", "inner")),
            {"fixed": {"type": ["boolean"]}, "label": {"type": ["string"]}},
            *(["label"], False),
        ),
        ("derived", "Wide", ("ratio", "inner"), {"name": {"type": ["string"]}}, ["name"], False),
    ],
)
def test_what_a_source_takes(
    module: str, name: str, given: tuple[str, ...], properties: dict, required: list, others: bool
) -> None:
    assert signature.parameters(f"signed.{module}", name, given) == {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": others,
    }


@pytest.mark.parametrize("name", ["Bare", "Kind", "nothing"])
def test_what_a_source_does_not_show_is_unknown(name: str) -> None:
    assert signature.parameters("signed.base", name, ()) is None
    assert signature.parameters("nowhere.at_all", name, ()) is None


def test_names_are_those_of_the_top_level() -> None:
    assert set(signature.names("signed.derived")) == {
        *("METHOD", "Own", "Kind", "Press", "Wide", "Named", "Both", "build", "dataclass")
    }
