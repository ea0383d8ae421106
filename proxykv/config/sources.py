"""Sources of text and records that a config names: whether they are pinned, before any job."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxykv.runtime.errors import ConfigError
from proxykv.runtime.hub import require_commit
from proxykv.runtime.wheels import Pin

VARIABLE = re.compile(r"\$\{?\w+\}?")
PACKAGES = ("wheel", "debian", "package")
"""Kinds of sources that a package manager provides."""


def unset_variables(config: Mapping[str, Any]) -> list[str]:
    """Environment variables in the paths of a config's sources that are not set, a line each."""
    return [
        f"{where}: path {path!r}: {name} is not set; export it"
        for where, source in _sources(config)
        if (path := str(source.get("path", "")))
        for name in VARIABLE.findall(os.path.expandvars(path))
    ]


def source_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Sources that are not pinned: packages by name and version, the hub by a commit."""
    for where, source in _sources(config):
        try:
            _require_pinned(source)
        except ConfigError as error:
            yield f"{where}: {error}"


def _require_pinned(source: Mapping[str, Any]) -> None:
    kind = source.get("kind")
    if kind in PACKAGES:
        Pin(str(source.get("name", "")), str(source.get("version", "")))
    elif "hub" in source or kind == "hub":
        repository = source.get("hub", source.get("name"))
        require_commit(str(repository), str(source.get("revision", "")))


def _sources(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping in the options of benchmarks and corpus, with its place."""
    for section in ("benchmarks", "corpus"):
        for i, entry in enumerate(config.get(section, ())):
            for mapping in _mappings(entry.get("options", {})):
                yield f"config.{section}[{i}].options", mapping


def _mappings(options: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(options, Mapping):
        yield options
        options = list(options.values())
    for part in options if isinstance(options, list) else ():
        yield from _mappings(part)
