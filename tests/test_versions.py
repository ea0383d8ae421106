"""The range of transformers that pyproject.toml states."""

from __future__ import annotations

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
    assert f"transformers=={PINS[file]}" in lines
    assert PINS[file] in RANGE


def test_the_installed_version_is_in_the_range() -> None:
    assert version("transformers") in RANGE
