"""Sources of text and records that a config names: whether they are pinned, before any job."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import missing
from proxykv.runtime.hub import require_commit, require_name
from proxykv.runtime.wheels import Pin

VARIABLE = re.compile(r"\$\{?\w+\}?")
SHA256 = re.compile(r"[0-9a-f]{64}")
PACKAGES = ("wheel", "debian", "package")
"""Kinds of sources that a package manager provides."""
KINDS: Mapping[str, tuple[str, ...]] = {
    "wheel": ("name", "version", "sha256"),
    "package": ("name", "version"),
    "debian": ("name", "version", "sha256"),
    "hub": ("name", "revision", "field"),
    "stdlib": (),
    "folder": ("path",),
}
"""Kinds of sources of text (`proxykv.benchmarks.sources`), with their keys besides `files`."""
FREE = ("path", "files", "field")
"""Keys whose texts have no form of their own."""
RECORDS = ({"path"}, {"hub", "revision"})
"""Keys of a source of records (`proxykv.benchmarks.records`)."""


def unset_variables(config: Mapping[str, Any]) -> list[str]:
    """Environment variables in the paths of a config's sources that are not set, a line each."""
    return [
        f"{where}: path {path!r}: {name} is not set; export it"
        for where, source in _sources(config)
        if (path := str(source.get("path", "")))
        for name in VARIABLE.findall(os.path.expandvars(path))
    ]


def missing_paths(config: Mapping[str, Any]) -> list[str]:
    """Folders and files of a config's sources that are not there, a line each."""
    named = [(where, source.get("path")) for where, source in _sources(config)]
    named += [
        (f"config.methods[{i}].params.press_files", entry["params"]["press_files"]["folder"])
        for i, entry in enumerate(config["methods"])
        if isinstance(entry, Mapping) and "press_files" in entry.get("params", {})
    ]
    return [
        f"{where}: path {path!r}: {problem}; create it or correct the path"
        for where, path in named
        if path is not None and (problem := missing(str(path)))
    ]


def source_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Sources that are misspelt, or not pinned: packages by version, the hub by a commit."""
    for section, i, entry in _entries(config):
        where, options = f"config.{section}[{i}].options", entry.get("options", {})
        for name in ("source", "sources", "samples"):
            yield from _form_problems(options.get(name), f"{where}.{name}")
    for where, source in _sources(config):
        try:
            _require_pinned(source)
        except ConfigError as error:
            yield f"{where}: {error}"


def form_problem(source: Mapping[str, Any]) -> str | None:
    """What is wrong with the kind or the keys of a source of text; None if nothing is."""
    kind = source.get("kind")
    if str(kind) not in KINDS:
        return f"source kind {kind!r}: expected one of {', '.join(KINDS)}"
    keys = ("kind", "files", *KINDS[str(kind)])
    if set(source) != set(keys):
        return f"source {dict(source)}: needs exactly the keys {', '.join(keys)}"
    if problem := _text_problem(source):
        return problem
    files = PurePosixPath(source["files"])
    if kind in ("folder", "stdlib") and (files.is_absolute() or ".." in files.parts):
        return f"source {dict(source)}: `files` leaves the folder; give names below it"
    return None


def _text_problem(source: Mapping[str, Any]) -> str | None:
    for key, value in source.items():
        if key == "version" and isinstance(value, int | float):
            continue
        if not isinstance(value, str) or (key in FREE and not value.isprintable()):
            return f"source {dict(source)}: `{key}` must be a text in one line"
    return None


def _form_problems(given: Any, where: str) -> Iterator[str]:
    """A list holds sources of text; a mapping is a source of records, or names several."""
    if isinstance(given, list):
        for number, source in enumerate(given):
            if not isinstance(source, Mapping):
                yield f"{where}[{number}]: expected a source {{kind: …, files: …}}"
            elif problem := form_problem(source):
                yield f"{where}[{number}]: {problem}"
    elif isinstance(given, Mapping):
        if where.endswith(".sources"):
            for name, source in given.items():
                yield from _form_problems(source, f"{where}.{name}")
        # A source on the hub without its commit is reported elsewhere.
        elif set(given) not in (*RECORDS, {"hub"}):
            yield f"{where}: {dict(given)}: give `path`, or `hub` with `revision`"
        elif problem := _text_problem(given):
            yield f"{where}: {problem}"


def _require_pinned(source: Mapping[str, Any]) -> None:
    kind = source.get("kind")
    if kind in PACKAGES:
        Pin(str(source.get("name", "")), str(source.get("version", "")))
        sha256 = source.get("sha256", "")
        if kind != "package" and isinstance(sha256, str) and not SHA256.fullmatch(sha256):
            raise ConfigError(f"package {source.get('name')}: {sha256!r} is no SHA-256")
    elif "hub" in source or kind == "hub":
        repository = source.get("hub", source.get("name"))
        require_name(str(repository))
        require_commit(str(repository), str(source.get("revision", "")))


def _sources(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping in the options of benchmarks and corpus, with its place."""
    for section, i, entry in _entries(config):
        for mapping in _mappings(entry.get("options", {})):
            yield f"config.{section}[{i}].options", mapping


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for section in ("benchmarks", "corpus"):
        for i, entry in enumerate(config.get(section, ())):
            yield section, i, entry


def _mappings(options: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(options, Mapping):
        yield options
        options = list(options.values())
    for part in options if isinstance(options, list) else ():
        yield from _mappings(part)
