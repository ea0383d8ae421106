"""What a checkout offers: methods, benchmarks and families, one file each.

Method and benchmark files are read as syntax, never imported, so that a workflow can be planned
without loading torch. A digest of that syntax tells code edits from comment edits.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

NUMBERLESS = frozenset(f"proxykv/{name}.py" for name in ("catalog", "check", "journal", "spec"))
"""Files that decide what runs and where it is kept, but none of the numbers."""


@cache
def variants() -> Mapping[str, Mapping[str, Any]]:
    """Method ids to their settings: `VARIANTS` of every file in baselines/, plus `base`."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted((ROOT / "baselines").glob("[!_]*.py")):
        for method_id, settings in _literal(path, "VARIANTS").items():
            found[method_id] = {"base": path.stem, **settings}
    return found


@cache
def tasks() -> Mapping[str, tuple[str, ...]]:
    """Benchmarks to their tasks: `TASKS` of the modules in proxykv/tasks/ that define it."""
    folder = ROOT / "proxykv" / "tasks"
    modules = {p.stem: p for p in folder.glob("[!_]*.py")}
    modules |= {p.parent.name: p for p in folder.glob("*/__init__.py")}
    literals = {name: _literal(modules[name], "TASKS") for name in sorted(modules)}
    return {name: tuple(names) for name, names in literals.items() if names}


@cache
def families() -> Mapping[str, Mapping[str, Any]]:
    """Families to the contents of their files in config/families/."""
    folder = ROOT / "config" / "families"
    return {p.stem: yaml.safe_load(p.read_text("utf-8")) for p in sorted(folder.glob("*.yaml"))}


@cache
def schema(name: str) -> Mapping[str, Any]:
    """A JSON schema of workflow/schemas/ by name (config, family, row)."""
    path = ROOT / "workflow" / "schemas" / f"{name}.schema.yaml"
    return yaml.safe_load(path.read_text("utf-8"))


def digest(value: Any) -> str:
    """Twelve hex digits that change with the value (anything JSON can hold)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_digest(*modules: str) -> str:
    """Digest of the project's code that these modules reach by their imports.

    Comments, docstrings and formatting do not count, only the syntax tree does; nor do the
    `NUMBERLESS` files.
    """
    reached: dict[Path, str] = {}
    pending = [path for name in modules for path in _files(name)]
    while pending:
        path = pending.pop()
        if path not in reached:
            tree, imported = _parsed(path)
            reached[path] = tree
            pending += [file for name in imported for file in _files(name)]
    trees = {path.relative_to(ROOT).as_posix(): tree for path, tree in reached.items()}
    return digest({name: tree for name, tree in trees.items() if name not in NUMBERLESS})


def _files(module: str) -> Iterator[Path]:
    """Source file of a module of this project; nothing for other projects' modules."""
    if module.split(".", maxsplit=1)[0] in ("proxykv", "baselines"):
        path = ROOT.joinpath(*module.split("."))
        yield from (p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file())


@cache
def _parsed(path: Path) -> tuple[str, tuple[str, ...]]:
    """Syntax without docstrings, and the names of modules that might be imported."""
    tree = ast.parse(path.read_text("utf-8"))
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return ast.dump(tree), tuple(names)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


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
