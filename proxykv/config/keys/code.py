"""Digests of code: they change with what a step or a method runs, and with nothing else.

Files are read as syntax and never imported. Of a module count only the definitions that are
reached from where the work begins, and the statements that run whenever it is loaded. Comments,
docstrings and types count nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from proxykv.config import catalog
from proxykv.config.catalog import Method, module_of, source
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError

NUMBERLESS = frozenset(
    f"proxykv.{name}"
    for name in (
        *("config.benchmarks", "config.catalog", "config.jobs", "config.models", "config.paths"),
        *("config.run", "config.signature", "config.keys.code", "config.keys.model_files"),
        *("config.check", "config.check.data", "config.check.efficiency", "config.check.fitting"),
        *("config.check.methods", "config.check.presence", "config.efficiency"),
        *("config.check.schema", "config.sources"),
        *("runtime.errors", "runtime.files", "runtime.journal", "runtime.lock", "runtime.scratch"),
    )
)
"""Modules that decide what runs and where it is kept, but none of the numbers."""

_COUNTED = ("proxykv", "baselines")
EFFECTS = ""
"""In place of a definition's name: the statements that run whenever a module is loaded."""

SYNTAX = ("VARIANTS", "CARDS")
"""Names of a method's file that planning reads; their contents have separate entries in keys."""

Place = tuple[str, str | None]
"""A module and a name in it; None stands for the whole module."""


def method_digest(method: Method) -> str:
    """Digest of a method's settings and of the code that it runs."""
    code = code_digest(":".join(module_of(method.base)), "proxykv.steps.generate:generate")
    return digest([method.base, method.scope, dict(method.params), code])


def timed_digest(method: Method) -> str:
    """Digest of a method's settings and of the code that runs while it is measured."""
    code = code_digest(":".join(module_of(method.base)), "proxykv.steps.efficiency:efficiency")
    return digest([method.base, method.scope, dict(method.params), code])


def fit_digest(method: Method) -> str:
    """Digest of the code that fits a method."""
    return code_digest(f"{module_of(method.base)[0]}:fit", "proxykv.steps.fit:fit")


def code_digest(*entries: str) -> str:
    """Digest of the code that is reached from some functions, classes or modules.

    The project's code counts, and that of the packages that the entries are in. The `NUMBERLESS`
    modules do not count, nor what only they reach.

    Args:
        entries: `package.module:name`, or `package.module` for all of a module.

    Raises:
        ConfigError: if there is no such module, or nothing of that name in it.
    """
    return _code_digest(catalog.ROOT, entries)


@cache
def _code_digest(root: Path, entries: tuple[str, ...]) -> str:
    """The same, for a checkout at `root`."""
    pending: list[Place] = [_entry(entry) for entry in entries]
    counted = {*_COUNTED, *(module.split(".", 1)[0] for module, _ in pending)}
    reached: dict[Place, list[str]] = {}
    while pending:
        place = module, name = pending.pop()
        if place in reached or module in NUMBERLESS or module.split(".", 1)[0] not in counted:
            continue
        code = _module(module)
        if code is None:
            continue
        statements, needed = code.part(name)
        reached[place] = [ast.dump(statement) for statement in statements]
        pending += [*needed, (module, EFFECTS)]
    return digest(sorted([*place, texts] for place, texts in reached.items() if texts))


def files_digest(package: str, folder: str) -> str:
    """Digest of the files in a folder of a package that are not code.

    Args:
        package: dotted name of the package.
        folder: path of the folder in the package.

    Raises:
        ConfigError: if there is no such package.
    """
    init = source(package)
    if init is None:
        raise ConfigError(f"no package {package!r}, in the checkout or installed")
    root = init.parent / folder
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return digest([[str(p.relative_to(root)), p.read_text("utf-8")] for p in paths])


def modules_of(package: str) -> list[str]:
    """Modules of a package, without its subpackages."""
    return [f"{package}.{path.stem}" for path in catalog.files(package)]


def _entry(entry: str) -> Place:
    module, _, name = entry.partition(":")
    code = _module(module)
    if code is None:
        raise ConfigError(f"no module {module!r}, in the checkout or installed")
    if name and name not in {**code.definitions, **code.imports}:
        raise ConfigError(f"module {module!r} defines no {name!r}")
    return module, name or None


@dataclass(frozen=True)
class _Code:
    """The top level of a module.

    Attributes:
        name: its dotted name.
        package: what its relative imports are relative to.
        definitions: names to the statements that define them.
        imports: names to what they are imported from.
        effects: statements that run whenever the module is loaded and define nothing, and
            definitions that a decorator of the project may register somewhere.
        loaded: modules that it imports, and the packages that it is in.
    """

    name: str
    package: str
    definitions: Mapping[str, list[ast.stmt]]
    imports: Mapping[str, Place]
    effects: list[ast.stmt]
    loaded: frozenset[str]

    def part(self, name: str | None) -> tuple[list[ast.stmt], list[Place]]:
        """Statements of a name (see `Place`), and the places that they use."""
        if name is None:
            return [], [(self.name, each) for each in (*self.definitions, *self.imports)]
        if name == EFFECTS:
            needed: list[Place] = [(module, EFFECTS) for module in self.loaded]
            return self.effects, [*needed, *self._used(self.effects)]
        if name in self.definitions:
            return self.definitions[name], self._used(self.definitions[name])
        if name in self.imports:
            return [], [_located(*self.imports[name], ())]
        return [], [(f"{self.name}.{name}", None)]

    def _used(self, statements: Iterable[ast.stmt]) -> list[Place]:
        places: list[Place] = []
        for statement in statements:
            found = _References()
            found.visit(statement)
            # A function's own imports come before those of its module.
            imports = {**self.imports, **_imports(statement, self.package)}
            for first, *rest in found.chains:
                if first in imports:
                    places.append(_located(*imports[first], tuple(rest)))
                elif first in self.definitions:
                    places.append((self.name, first))
        return places


def _located(module: str, name: str | None, attributes: tuple[str, ...]) -> Place:
    """Where `module.name.attribute…` is defined: attributes of modules are followed."""
    for part in (*([name] if name else []), *attributes):
        code = _module(module)
        inner = f"{module}.{part}"
        if code and (part in code.definitions or part in code.imports or not source(inner)):
            return module, part
        module = inner
    return module, None


class _References(ast.NodeVisitor):
    """Names that a statement reads, each with its attributes: `a.b.c` is (a, b, c)."""

    def __init__(self) -> None:
        self.chains: set[tuple[str, ...]] = set()

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.chains.add((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        parts = [node.attr]
        inner = node.value
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self.chains.add((inner.id, *reversed(parts)))
        else:
            self.visit(inner)


class _Bare(ast.NodeTransformer):
    """Leaves out what changes nothing: docstrings, types, and what only type checkers read."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        types_only = ast.unparse(node.test).endswith("TYPE_CHECKING")
        return None if types_only and not node.orelse else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # Fields of a dataclass need one.
        node.annotation = ast.Name("object", ast.Load())
        return self.generic_visit(node)


def _module(name: str) -> _Code | None:
    path = source(name)
    return _read(name, path) if path else None


@cache
def _read(name: str, path: Path) -> _Code:
    """Sort the top level of a file."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    definitions: dict[str, list[ast.stmt]] = {}
    imports: dict[str, Place] = {}
    effects: list[ast.stmt] = []
    loaded = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
    for statement in _Bare().visit(ast.parse(path.read_text("utf-8"))).body:
        bound = set(_bound(statement))
        for each in bound:
            definitions.setdefault(each, []).append(statement)
        found = {} if _is_definition(statement) else _imports(statement, package)
        imports |= found
        loaded |= {".".join(filter(None, place)) for place in found.values()}
        if isinstance(statement, ast.Import):
            loaded |= {alias.name for alias in statement.names}
        if not bound and not found:
            effects.append(statement)
    effects += _unused_constants(definitions)
    counted = {*_COUNTED, name.split(".", 1)[0]}
    for statement in [each for listed in definitions.values() for each in listed]:
        for decorator in getattr(statement, "decorator_list", ()):
            root = next(n.id for n in ast.walk(decorator) if isinstance(n, ast.Name))
            origin, _ = (name, root) if root in definitions else imports.get(root, ("", None))
            if origin.split(".", 1)[0] in counted:
                effects.append(statement)
    return _Code(name, package, definitions, imports, effects, frozenset(loaded))


def _unused_constants(definitions: Mapping[str, list[ast.stmt]]) -> Iterator[ast.stmt]:
    """Assignments of literals that their module does not read: another may, in ways unseen here."""
    read = _References()
    statements = {id(each): each for listed in definitions.values() for each in listed}
    for statement in statements.values():
        read.visit(statement)
    names = [chain[0] for chain in read.chains]
    for statement in statements.values():
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            value = _References()
            value.visit(statement.value)
            name = statement.targets[0].id
            if name not in {*names, *SYNTAX} and not value.chains:
                yield statement


def _imports(statement: ast.stmt, package: str) -> dict[str, Place]:
    """What a statement imports, by the names that it gives."""
    found: dict[str, Place] = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = alias.name if alias.asname else alias.name.split(".", 1)[0]
                found[alias.asname or module] = module, None
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            found |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
    return found


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement of a module's top level defines or changes."""
    if _is_definition(statement):
        yield statement.name  # type: ignore[attr-defined]
        return
    for target in [*getattr(statement, "targets", ()), getattr(statement, "target", None)]:
        names = [n.id for n in ast.walk(target) if isinstance(n, ast.Name)] if target else []
        yield from names if isinstance(target, ast.Tuple) else names[:1]
    for block in ("body", "orelse", "finalbody", "handlers"):
        for inner in getattr(statement, block, ()):
            yield from _bound(inner)


def _is_definition(statement: ast.AST) -> bool:
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
