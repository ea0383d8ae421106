"""The range of transformers that pyproject.toml states."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from proxykv.config import catalog

PROJECT = tomllib.loads((catalog.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RANGE = next(
    requirement.specifier
    for requirement in map(Requirement, PROJECT["dependencies"])
    if requirement.name == "transformers"
)
PINS = {"constraints-kvpress.txt": "5.2.0", "constraints.txt": "5.23.0"}
"""The oldest and the newest supported transformers, each in one environment."""


def test_the_range_is_what_is_tested() -> None:
    assert str(RANGE) == "<5.24,>=5.2"


@pytest.mark.parametrize("file", PINS)
def test_each_environment_pins_an_end_of_the_range(file: str) -> None:
    lines = (catalog.ROOT / file).read_text("utf-8").splitlines()
    assert f"transformers=={PINS[file]} \\" in lines
    assert PINS[file] in RANGE


@pytest.mark.parametrize("file", PINS)
def test_every_package_but_torch_has_hashes(file: str) -> None:
    """What only torch needs comes with torch."""
    text = (catalog.ROOT / file).read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) > 150
    assert all(re.search("==.* --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    named = {re.split("[=;@ ]", line)[0] for line in lines}
    required = map(Requirement, PROJECT["dependencies"])
    assert {r.name.lower() for r in required} - named == {"torch"}


def test_the_installed_version_is_in_the_range() -> None:
    assert version("transformers") in RANGE
