"""YAML that is no config is one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxykv.runtime.errors import ConfigError
from proxykv.runtime.yaml_file import read_yaml

MISTAKES = {
    "run: a\nrun: b\n": "the key 'run' is listed twice",
    "a: {b: {c: 1, c: 2}}\n": "the key 'c' is listed twice",
    "1: a\n": "the key '1' is no text; quote it",
    "on: a\n": "the key 'on' is no text; quote it",
    "? [a]\n: b\n": "the key 'this' is no text",
    "run:\tx\n\t- y": "not YAML: while scanning",
    "run: !!python/object/apply:os.system [id]": "not YAML: could not determine a constructor",
    "run: 2026-01-01\n": "date is not JSON serializable; put it in quotes",
    "run: !!set {a}\n": "set is not JSON serializable; put it in quotes",
    f"seed: {'9' * 5000}\n": "Exceeds the limit",
    "run: &a [*a]\n": "Circular reference detected",
    f"run: {'[' * 3000}{']' * 3000}\n": "nested too deeply",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a config.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert MISTAKES[text] in str(error.value)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfer\0")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("a.yaml", "loop.yaml", "none.yaml", "."):
        with pytest.raises(ConfigError, match=r"no such file|cannot be read as text"):
            read_yaml(tmp_path / name)


def test_merged_keys_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", "utf-8")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_every_family_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxykv.config import catalog

    folder = tmp_path / "config" / "families"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("family: mine\nfamily: other\n")
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    catalog.families.cache_clear()
    try:
        with pytest.raises(
            ConfigError, match=r"mine.yaml: not YAML: the key 'family' is listed tw"
        ):
            catalog.families()
    finally:
        catalog.families.cache_clear()
