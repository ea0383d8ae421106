"""Public functions document every argument by name, and the errors that they raise themselves."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path
    for folder in ("proxykv", "baselines", "perf", "docs")
    for path in (ROOT / folder).rglob("*.py")
)
ABSTRACT = "NotImplementedError"
"""A base class's method raises it; the methods that replace it do not."""


def public_functions(body: list[ast.stmt]) -> Iterator[tuple[ast.FunctionDef, list[str]]]:
    """Public functions and methods, each with the names of its arguments."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method, names in public_functions(node.body):
                static = any("staticmethod" in ast.unparse(d) for d in method.decorator_list)
                yield method, names if static else names[1:]
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
                continue  # addresses and strides, which the launching function documents
            taken = node.args
            stars = [star for star in (taken.vararg, taken.kwarg) if star]
            arguments = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *stars]
            yield node, [argument.arg for argument in arguments]


def raised(function: ast.FunctionDef) -> set[str]:
    """Names of the public errors that a function's own body makes."""
    made = [n.exc for n in ast.walk(function) if isinstance(n, ast.Raise) and n.exc]
    names = {ast.unparse(error.func) for error in made if isinstance(error, ast.Call)}
    return {name for name in names if name[0].isupper()} - {ABSTRACT}


def problems(source: str) -> Iterator[str]:
    """What the docstrings of a module's public functions leave out."""
    for function, names in public_functions(ast.parse(source).body):
        text = ast.get_docstring(function) or ""
        if text.startswith("See `"):  # the base class documents it
            continue
        where = f"line {function.lineno}: {function.name}"
        for name in names if len(names) > 1 else ():
            if not re.search(rf"^    \**{name}: ", text, re.MULTILINE):
                yield f"{where} does not document {name}"
        for error in raised(function):
            if not re.search(rf"^Raises:(\n.*)*^    {error}: ", text, re.MULTILINE):
                yield f"{where} does not document {error}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_argument_and_error_is_documented(path: Path) -> None:
    assert list(problems(path.read_text("utf-8"))) == []


def test_a_gap_is_found() -> None:
    source = (
        "class Cache:\n"
        "    def keep(self, scores, retention):\n"
        '        """Select.\n\n        Args:\n            scores: of a context.\n        """\n'
        "        raise ValueError(scores)\n"
    )
    assert list(problems(source)) == [
        "line 2: keep does not document retention",
        "line 2: keep does not document ValueError",
    ]
