"""Package managers read names as names, whatever a config says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from proxykv.runtime import debs, wheels
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.wheels import Pin


@pytest.mark.parametrize(
    "name", ["--index-url=https://elsewhere", "-r", "a b", "a\n", "", "a/b", "*"]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a package"):
        Pin(name, "1.0")


@pytest.mark.parametrize("version", ["1.*", ">=1", "1.0 --pre", "1.0\n", "", "-1", "1;x"])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match="is not an exact version"):
        Pin("data", version)


@pytest.mark.parametrize(
    ("name", "version"), [("some-data", "1!2.0rc1+cu128"), ("g++", "1:12.2.0-3~deb12"), ("a", "1")]
)
def test_real_names_and_versions_are_accepted(name: str, version: str) -> None:
    assert Pin(name, version).name == name


def recorder(folder: Path, name: str) -> Path:
    """A command that writes down its arguments, one a line, and fails."""
    script = folder / name
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/arguments\nexit 1\n', "utf-8")
    script.chmod(0o755)
    return script


def test_options_of_pip_end_before_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(recorder(tmp_path, "python")))
    with pytest.raises(ConfigError, match="pip cannot download"):
        wheels.fetch(Pin("data", "1.0"), tmp_path / "wheels")
    assert (tmp_path / "arguments").read_text("utf-8").splitlines()[-2:] == ["--", "data==1.0"]


def test_options_of_apt_end_before_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder(tmp_path, "apt-get")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="apt-get cannot download"):
        debs.fetch(Pin("data", "1.0"), tmp_path / "debs", "0" * 64)
    assert (tmp_path / "arguments").read_text("utf-8").splitlines()[-2:] == ["--", "data=1.0"]
