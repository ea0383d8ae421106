"""Digests of code: they change with what a step or a method runs, and not with comments.

Files are read as syntax and never imported.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from proxykv.config.catalog import Method, module_of, source
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError

NUMBERLESS = frozenset(
    f"proxykv.{name}"
    for name in (
        *("config.benchmarks", "config.catalog", "config.check", "config.jobs", "config.models"),
        *("config.paths", "config.run", "config.signature", "config.keys", "config.keys.code"),
        *("config.keys.model_files",),
        *("runtime.errors", "runtime.files", "runtime.journal", "runtime.lock", "runtime.parquet"),
        *("runtime.scratch", "config.cards"),
    )
)
"""Modules that decide what runs and where it is kept, but none of the numbers."""


def method_digest(method: Method) -> str:
    """Digest of a method's settings and of the code that it runs."""
    module, _ = module_of(method.base)
    code = code_digest(module, "proxykv.steps.generate")
    return digest([method.base, method.scope, dict(method.params), code])


def code_digest(*modules: str) -> str:
    """Digest of the code that these modules reach by their imports.

    The project's code counts, and that of the packages that the modules are in. Comments,
    docstrings and formatting do not, only the syntax tree does; nor do cards of methods (`CARDS`),
    the `NUMBERLESS` modules and what only they import.

    Raises:
        ConfigError: if one of the modules is not there.
    """
    counted = {"proxykv", "baselines", *(name.split(".", maxsplit=1)[0] for name in modules)}
    for module in modules:
        if source(module) is None:
            raise ConfigError(f"no module {module!r}, in the checkout or installed")
    trees: dict[str, str] = {}
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module in trees or module.split(".", maxsplit=1)[0] not in counted:
            continue
        if path := source(module):  # else a name inside a module
            trees[module], imported = _parsed(module, path)
            pending += () if module in NUMBERLESS else imported
    return digest({name: tree for name, tree in trees.items() if name not in NUMBERLESS})


@cache
def _parsed(module: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """Syntax without docstrings, and the names of modules that might be imported."""
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [node for node in tree.body if not _is_card(node)]
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
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


def _is_card(node: ast.AST) -> bool:
    """Whether a statement says how methods are shown, which changes no number."""
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CARDS"
