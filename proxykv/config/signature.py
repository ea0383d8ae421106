"""Parameters of a function or a constructor as a JSON schema, read from its source.

So parameters in a config are checked before any job, and without importing what loads torch.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from typing import Any

from proxykv.config import catalog
from proxykv.config.settings.bounds import TYPES, Bounds


def parameters(module: str, name: str, given: Collection[str]) -> Mapping[str, Any] | None:
    """Schema of the arguments of a function, or of a class's constructor.

    Args:
        module: its dotted name; found as `catalog.source` finds it.
        name: of the function or class, or a name that is bound to it (`METHOD`, an import).
        given: arguments that the caller provides itself.

    Returns:
        None where the source does not show it.
    """
    origin, node = definition(module, name)
    taken = _taken(origin, node)
    if taken is None:
        return None
    arguments, others = taken
    arguments = [a for a in arguments if a.name not in {*given, "self"}]
    return {
        "type": "object",
        "properties": {a.name: _schema(a.annotation, origin) for a in arguments},
        "required": [a.name for a in arguments if not a.optional],
        "additionalProperties": others,
    }


def names(module: str) -> Collection[str]:
    """What a module's top level defines or imports."""
    return _definitions(module).keys()


def has_method(module: str, name: str, method: str) -> bool | None:
    """Whether a class, or one that it derives from, defines a method; None if unknown.

    Args:
        module: dotted name of the module that defines or imports the class.
        name: of the class.
        method: name of the method.
    """
    origin, node = definition(module, name)
    if not isinstance(node, ast.ClassDef):
        return None
    if any(isinstance(part, ast.FunctionDef) and part.name == method for part in node.body):
        return True
    inherited = [has_method(origin, ast.unparse(base), method) for base in node.bases]
    return True if True in inherited else None if None in inherited else False


@dataclass(frozen=True)
class _Argument:
    name: str
    annotation: Any
    optional: bool


@dataclass(frozen=True)
class _Imported:
    module: str
    name: str


@cache
def _definitions(module: str) -> Mapping[str, ast.AST | _Imported]:
    """Definitions, values and imports of a module's top level, by name."""
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
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = node.value
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            found |= {a.asname or a.name: _Imported(origin, a.name) for a in node.names}
    return found


def definition(module: str, name: str) -> tuple[str, Any]:
    """Resolve a name through imports and assignments to its definition.

    Args:
        module: dotted name of the module that defines or imports the name.
        name: at the module's top level.

    Returns:
        The defining module, and the syntax of the definition or of the value; None if there is no
        such name.
    """
    match _definitions(module).get(name):
        case ast.Name(id=other):
            return definition(module, other)
        case _Imported(origin, other):
            return definition(origin, other)
        case node:
            return module, node


def _taken(module: str, node: Any) -> tuple[list[_Argument], bool] | None:
    """Arguments that keywords can set, and whether a `**` takes others; None if unknown."""
    if isinstance(node, ast.FunctionDef):
        return _arguments(node.args), node.args.kwarg is not None
    if not isinstance(node, ast.ClassDef):
        return None
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return _fields(module, node), False
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _taken(module, part)
    parents = [definition(module, ast.unparse(base)) for base in node.bases]
    return _taken(*parents[0]) if parents else None


def _arguments(args: ast.arguments) -> list[_Argument]:
    required = len(args.args) - len(args.defaults)
    defaults = [*[None] * required, *args.defaults, *args.kw_defaults]
    both = zip((*args.args, *args.kwonlyargs), defaults, strict=True)
    return [_Argument(a.arg, a.annotation, default is not None) for a, default in both]


def _fields(module: str, node: ast.ClassDef) -> list[_Argument]:
    """Fields of a dataclass, those of its bases first."""
    fields: dict[str, _Argument] = {}
    for base in node.bases:
        origin, parent = definition(module, ast.unparse(base))
        if isinstance(parent, ast.ClassDef):
            fields |= {field.name: field for field in _fields(origin, parent)}
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            name, default = part.target.id, part.value
            fields[name] = _Argument(name, part.annotation, default is not None)
            if default is not None and "init=False" in ast.unparse(default):
                del fields[name]
    return list(fields.values())


def _schema(annotation: Any, module: str) -> Mapping[str, Any]:
    """Schema of the values that an annotation of a module allows; empty where anything may do."""
    if isinstance(annotation, ast.Name) and annotation.id in _definitions(module):
        module, annotation = definition(module, annotation.id)  # an alias: Pooling = Literal[…]
    match annotation:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            value = ast.literal_eval(choices)
            return {"enum": list(value) if isinstance(value, tuple) else [value]}
        case ast.Subscript(
            value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[base, ast.Call() as bounds])
        ) if ast.unparse(bounds.func) == Bounds.__name__:
            stated = {str(k.arg): ast.literal_eval(k.value) for k in bounds.keywords}
            return {**_schema(base, module), **Bounds(**stated).schema()}
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            inner = _schema(left, module)
            if "properties" in inner:  # a TypedDict, or nothing
                return {**inner, "type": ["object", "null"]}
        case ast.ClassDef(bases=[ast.Name(id="TypedDict")], body=body):
            fields = [p.target for p in body if isinstance(p, ast.AnnAssign)]
            names = [field.id for field in fields if isinstance(field, ast.Name)]
            known = {"properties": {name: {} for name in names}, "additionalProperties": False}
            return {"type": "object", **known}
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
