"""What a checkout offers: methods and families, one file each (`benchmarks` has the benchmarks).

Method files are read as syntax, never imported, so that a workflow can be planned
without loading torch.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from proxykv.config.settings.training import TrainingSettings, schema_of
from proxykv.runtime.yaml_file import read_yaml


def _root() -> Path:
    package = Path(__file__).resolve().parents[1]
    here = Path.cwd()
    places = (package.parent, here, *here.parents)
    schema_of_cards = Path(
        "workflow", "schemas", "card.schema.yaml"
    )  # other projects have schemas, too
    found = (place for place in places if (place / schema_of_cards).is_file())
    return next(found, package / "starter")


ROOT = _root()
"""The folder with workflow, configs, families and methods: the checkout.

An installed package takes the working directory that `proxykv init` wrote, if the command is called
in it, and else the copy in the package.
"""
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # `baselines` is not installed

METHOD_PACKAGES = ("baselines", "proxykv.mapper")
"""Packages of methods: one of the rivals and controls, one of the mapper and its method."""

FITTING = ("params", "corpus", "lengths", "fitted")
"""Settings of a method that decide what it is fitted to."""


@cache
def variants() -> Mapping[str, Mapping[str, Any]]:
    """Method ids to their settings: `VARIANTS` of every method's file, plus `base`."""
    return {
        method_id: {"base": path.stem, **settings}
        for path in _method_files().values()
        for method_id, settings in _literal(path, "VARIANTS").items()
    }


@cache
def cards() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Method ids to the file and the content of their cards: `CARDS` of every method's file.

    `workflow/schemas/card.schema.yaml` describes a card.
    """
    return {
        method_id: (f"{module.replace('.', '/')}.py", card)
        for module, path in _method_files().items()
        for method_id, card in _literal(path, "CARDS").items()
    }


@cache
def _method_files() -> Mapping[str, Path]:
    """Method modules by their dotted names: files with `VARIANTS` in one of `METHOD_PACKAGES`."""
    return {
        f"{package}.{path.stem}": path
        for package in METHOD_PACKAGES
        for path in files(package)
        if _literal(path, "VARIANTS")
    }


def settings(method_id: str) -> Mapping[str, Any] | None:
    """Settings of a method id: `base`, `scope` and those of its file; None if it is unknown.

    `package:Class` needs no entry. If a method's file lists `package:`, that file runs the classes
    of the package: the parameter `name` names the class, and `sets` lists parameters of the class
    that a config cannot give, and `install` says how to get the package. Otherwise the class is a
    scorer of the user.
    """
    known = variants()
    if method_id in known:
        return known[method_id]
    package, colon, name = method_id.partition(":")
    if not colon or not name:
        return None
    if adapter := known.get(package + colon):
        return {**adapter, "params": {"name": name}}
    return {"base": method_id, "scope": "head", "donor": True}


def entries(methods: Iterable[str | Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Settings of a config's methods by id, in the config's order; `root` is the catalogue's id.

    An entry's base is an earlier entry, whose settings it inherits, or an id of the catalogue.
    Entries of an unknown base are left out.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for entry in methods:
        named = {"id": entry, "base": entry} if isinstance(entry, str) else entry
        base, entry_id = named["base"], named["id"]
        if base in found:
            found[entry_id] = _derived(named, found[base])
        elif known := settings(base):
            # An entry has its own fit, unless the catalogue's id shares another's folder.
            folder = {"fitted_id": entry_id} if known.get("fitted_id") == base else {}
            found[entry_id] = {**_derived(named, {**known, "root": base}), **folder}
    return found


def _derived(entry: Mapping[str, Any], base: Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry's settings. It shares the fit of its base if its own would be the same."""
    base = {"params": {}, **base}
    given = {key: entry[key] for key in ("scope", *FITTING[1:]) if key in entry}
    made = {**base, **given, "params": {**base["params"], **entry.get("params", {})}}
    refit = "fitted_id" in base and any(made.get(key) != base.get(key) for key in FITTING)
    return made | ({"fitted_id": entry["id"]} if refit else {})


@dataclass(frozen=True)
class Method:
    """A method of a run.

    Attributes:
        id: its name in the config and in rows.
        base: name of its file, or `module:Class`.
        scope: how its budget is shared among heads; `none` does not prune.
        params: parameters of its class.
        fitted_id: the method whose fitted folder it loads; None if it needs none.
        uses: the methods whose scores it combines.
        inputs: whether it is fitted on the inputs of the target's layers, too.
        donor: whether its scores may depend on another context of the task.
        corpus: the parts of the corpus that it is fitted on; all where empty.
        lengths: the context lengths that it is fitted on; all where empty.
        fitted: folder where it is fitted already, with `{family}` for the family's name.
    """

    id: str
    base: str
    scope: str
    params: Mapping[str, Any]
    fitted_id: str | None
    uses: tuple[str, ...]
    inputs: bool = False
    donor: bool = False
    corpus: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    fitted: str | None = None


def methods_of(listed: Sequence[str | Mapping[str, Any]]) -> Mapping[str, Method]:
    """A config's methods by id: ids of the catalogue, or such ids with other settings."""
    return {
        name: Method(
            id=name,
            base=known["base"],
            scope=known["scope"],
            params=known["params"],
            fitted_id=known.get("fitted_id"),
            uses=tuple(known["params"][parameter] for parameter in known.get("uses", ())),
            inputs=known.get("inputs", False),
            donor=known.get("donor", False),
            corpus=tuple(known.get("corpus", ())),
            lengths=tuple(known.get("lengths", ())),
            fitted=known.get("fitted"),
        )
        for name, known in entries(listed).items()
    }


def module_of(base: str) -> tuple[str, str]:
    """Module and name in it of a method's class: `METHOD` of a file, or a user's `module:Class`."""
    module, colon, name = base.partition(":")
    if colon:
        return module, name
    files = {path.stem: module for module, path in _method_files().items()}
    return files[base], "METHOD"


@cache
def families() -> Mapping[str, Mapping[str, Any]]:
    """Families to the contents of their files in config/families/."""
    folder = ROOT / "config" / "families"
    return {path.stem: read_yaml(path) for path in sorted(folder.glob("*.yaml"))}


@cache
def schema(name: str) -> Mapping[str, Any]:
    """A JSON schema of workflow/schemas/ by name (card, config, family, row).

    The settings of training are not in the file but in `proxykv.config.settings.training`.
    """
    path = ROOT / "workflow" / "schemas" / f"{name}.schema.yaml"
    content = yaml.safe_load(path.read_text("utf-8"))
    if name == "config":
        content["properties"]["training"] |= schema_of(TrainingSettings)
    return content


def nullable() -> list[str]:
    """Columns of a row that may be unknown."""
    columns = schema("row")["properties"]
    return [name for name, column in columns.items() if "null" in column.get("type", ())]


def columns() -> Mapping[str, Any]:
    """Columns of a row with what each may hold, in their order; without descriptions."""
    described = schema("row")["properties"]
    return {
        name: {key: value for key, value in column.items() if key != "description"}
        for name, column in described.items()
    }


def files(package: str) -> list[Path]:
    """Files of a package's modules, in order; empty if there is no such package."""
    found = source(package)
    return sorted(found.parent.glob("[!_]*.py")) if found else []


def source(module: str) -> Path | None:
    """The file of a module of the checkout, or of an installed one; nothing is imported."""
    parts = module.split(".")
    places = [ROOT]
    if not any((ROOT / name).exists() for name in (parts[0], f"{parts[0]}.py")):
        spec = find_spec(parts[0])
        origins = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
        places = [Path(origin).parent for origin in origins]
    for place in places:
        path = place.joinpath(*parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


@cache
def _literal(path: Path, name: str) -> Any:
    """Value of a module-level literal, or an empty mapping where the module has none."""
    statements: Iterable[ast.stmt] = ast.parse(path.read_text("utf-8")).body
    for node in statements:
        if not isinstance(node, ast.Assign):
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
            return ast.literal_eval(node.value)
    return {}
