"""The benchmarks of a checkout: their tasks, and whether each satisfies the contract.

A benchmark is a module or a folder of `proxykv/benchmarks/`. It is read as syntax and never
imported, so that a workflow is planned without loading what a benchmark needs. The contract is
described in `proxykv.benchmarks.contract`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from proxykv.config import catalog, signature

GRADE = ("task", "prediction", "question")
"""Parameters of a benchmark's `grade`."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is known of a task before its data are made; a benchmark's own rows derive from it.

    Attributes:
        max_new_tokens: the most tokens of an answer.
        questions: questions about a context.
        contexts: how many contexts there are, of each length if a config lists lengths. None if
            only the config says how many.
        context_tokens: mean length of a context in tokens. None if the config lists lengths.
        shortest: the least length in tokens that a config may ask for. Contexts of fewer tokens
            cannot be made with any tokenizer.
        stop: texts that end an answer.
    """

    max_new_tokens: int
    questions: int = 1
    contexts: int | None = None
    context_tokens: int | None = None
    shortest: int = 1
    stop: tuple[str, ...] = ()

    @property
    def longest_answer(self) -> int:
        """The most tokens of an answer to any question of the task."""
        return self.max_new_tokens


def tasks() -> Mapping[str, Mapping[str, Task]]:
    """Benchmarks to their tasks; only benchmarks whose `TASKS` can be read are listed."""
    return {name: found for name in _modules() if (found := _tasks(_module(name)))}


def contract_problems(name: str) -> Iterator[str]:
    """What a module of `proxykv/benchmarks/` lacks to be a benchmark, one line for each point.

    Args:
        name: of the module or folder.
    """
    module = _module(name)
    if not _tasks(module):
        yield f"{module}: {_tasks_problem(module)}"
    for function, needed in {"build": ("task",), "grade": GRADE}.items():
        _, node = signature.definition(module, function)
        if not isinstance(node, ast.FunctionDef):
            yield f"{module}: defines no function {function}({', '.join(needed)}, …)"
            continue
        taken = tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args))
        fits = taken == needed if function == "grade" else taken[:1] == needed
        if not fits:
            yield (
                f"{module}: {function}({', '.join(taken)}) must take ({', '.join(needed)}"
                f"{', and options by keyword' if function == 'build' else ''})"
            )


def exists(name: str) -> bool:
    """Whether `proxykv/benchmarks/` holds a module or folder of this name."""
    return name in _modules()


def _module(name: str) -> str:
    return f"proxykv.benchmarks.{name}"


def _modules() -> list[str]:
    files = catalog.files("proxykv.benchmarks")
    folders = files[0].parent.glob("*/__init__.py")
    return sorted([*(path.stem for path in files), *(path.parent.name for path in folders)])


def _tasks(module: str) -> Mapping[str, Task]:
    """The rows of a module's `TASKS`; none if they cannot be read."""
    _, table = signature.definition(module, "TASKS")
    if not isinstance(table, ast.Dict):
        return {}
    rows = {_literal(k): _row(v) for k, v in zip(table.keys, table.values, strict=True)}
    complete = all(isinstance(name, str) and row for name, row in rows.items())
    return {str(name): Task(**row) for name, row in rows.items() if row} if complete else {}


def _row(node: ast.AST) -> dict[str, Any] | None:
    """The fields of `Task` that a row states as literals; None if a required one is missing."""
    if not isinstance(node, ast.Call):
        return None
    known = {field.name: field for field in fields(Task)}
    row = {k.arg: _literal(k.value) for k in node.keywords if k.arg in known}
    required = {name for name, field in known.items() if field.default is MISSING}
    literals = all(value is None or type(value) in (int, tuple) for value in row.values())
    return row if literals and required <= row.keys() else None


def _literal(node: ast.AST | None) -> Any:
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return node


def _tasks_problem(module: str) -> str:
    _, table = signature.definition(module, "TASKS")
    if table is None:
        return "defines no TASKS, so it is no benchmark"
    if not isinstance(table, ast.Dict) or not table.keys:
        return "TASKS must be a dict that is written out: {name: Task(…), …}"
    for key, value in zip(table.keys, table.values, strict=True):
        if not isinstance(_literal(key), str) or not _row(value):
            name = ast.unparse(key) if key else "**"
            return (
                f"TASKS[{name}] must be a call with the keyword max_new_tokens= and a number "
                "(see proxykv.config.benchmarks.Task)"
            )
    return "TASKS cannot be read"
