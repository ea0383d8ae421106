"""What a function or a constructor takes, as a JSON schema, read from its source.

So parameters in a config are checked before any job, and without importing what loads torch.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from typing import Any

from proxykv import catalog

TYPES = {
    "int": "integer",
    "float": "number",
    "str": "string",
    "bool": "boolean",
    **dict.fromkeys(("Sequence", "list", "tuple"), "array"),
    **dict.fromkeys(("Mapping", "dict"), "object"),
}
"""Annotations whose values a config can hold; what others take is not checked."""


def parameters(module: str, name: str, given: Collection[str]) -> Mapping[str, Any] | None:
    """Schema of the arguments of a function, or of a class's constructor.

    Args:
        module: its dotted name; found as `catalog.source` finds it.
        name: of the function or class there, or of what stands for it (`METHOD`, an import).
        given: arguments that the caller provides itself.

    Returns:
        None where the source does not show it.
    """
    module, node = _found(module, name)
    names = _definitions(module)
    match node:
        case ast.FunctionDef(args=args):
            arguments, rest = list(_arguments(args)), args.kwarg is not None
        case ast.ClassDef(decorator_list=[decorator]) if "dataclass" in ast.unparse(decorator):
            arguments, rest = list(_fields(module, node)), False
        case ast.ClassDef(body=body, bases=bases):
            for part in body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    arguments, rest = list(_arguments(part.args))[1:], part.args.kwarg is not None
                    break
            else:
                inherited = [base.id for base in bases if isinstance(base, ast.Name)]
                return parameters(module, inherited[0], given) if inherited else None
        case _:
            return None
    taken = {name: argument for name, *argument in arguments if name not in given}
    return {
        "type": "object",
        "properties": {name: _schema(kind, names) for name, (kind, _) in taken.items()},
        "required": [name for name, (_, optional) in taken.items() if not optional],
        "additionalProperties": rest,
    }


def names(module: str) -> Collection[str]:
    """What a module's top level defines or imports."""
    return _definitions(module).keys()


@dataclass(frozen=True)
class _Imported:
    module: str
    name: str


@cache
def _definitions(module: str) -> Mapping[str, ast.AST | _Imported]:
    """What the names at a module's top level stand for."""
    path = catalog.source(module)
    if path is None:
        return {}
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    found: dict[str, ast.AST | _Imported] = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {t.id: node.value for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            found |= {a.asname or a.name: _Imported(origin, a.name) for a in node.names}
    return found


def _found(module: str, name: str) -> tuple[str, ast.AST | None]:
    """What a name stands for in the end, and the module in which that is defined."""
    match _definitions(module).get(name):
        case ast.Name(id=other):
            return _found(module, other)
        case _Imported(origin, other):
            return _found(origin, other)
        case node:
            return module, node


def _fields(module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None, bool]]:
    """A dataclass's arguments, those of its bases first: name, annotation, whether optional."""
    fields: dict[str, tuple[ast.expr | None, bool]] = {}
    for base in node.bases:
        origin, parent = _found(module, ast.unparse(base))
        if isinstance(parent, ast.ClassDef):
            fields |= {name: (kind, optional) for name, kind, optional in _fields(origin, parent)}
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            fields[part.target.id] = (part.annotation, part.value is not None)
            if part.value is not None and "init=False" in ast.unparse(part.value):
                del fields[part.target.id]
    yield from ((name, kind, optional) for name, (kind, optional) in fields.items())


def _arguments(args: ast.arguments) -> Iterator[tuple[str, ast.expr | None, bool]]:
    """Arguments that keywords can set: name, annotation, whether optional."""
    required = len(args.args) - len(args.defaults)
    for i, argument in enumerate(args.args):
        yield argument.arg, argument.annotation, i >= required
    for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield argument.arg, argument.annotation, default is not None


def _schema(annotation: Any, names: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema of the values that an annotation allows; empty where anything may do."""
    match annotation:
        case ast.Name(id=name) if isinstance(
            names.get(name), ast.Subscript
        ):  # an alias, such as Pooling = Literal[…]
            return _schema(names[name], names)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            value = ast.literal_eval(choices)
            return {"enum": list(value) if isinstance(value, tuple) else [value]}
    types = _types(annotation)
    return {"type": types} if types else {}


def _types(annotation: ast.AST | None) -> list[str]:
    match annotation:
        case ast.Constant(value=None):
            return ["null"]
        case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)) if name in TYPES:
            return [TYPES[name]]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            either = _types(left), _types(right)
            return [*either[0], *either[1]] if all(either) else []
    return []
