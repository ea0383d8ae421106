"""The first function in an answer, found a second time: Python's by Python's own parser."""

from __future__ import annotations

import ast


def first_function(text: str, lang: str) -> str | None:
    """The first function in the code fences of a text.

    Args:
        text: the model's answer.
        lang: language of the code.

    Returns:
        Its source; None for another language, and for code that Python does not parse.
    """
    blocks = _fenced(text.strip().split("\n")) if lang == "python" else []
    for block in blocks:
        try:
            tree = ast.parse(block)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        kinds = ast.FunctionDef, ast.AsyncFunctionDef
        if found := [node for node in ast.walk(tree) if isinstance(node, kinds)]:
            return _source(block, min(found, key=lambda node: (node.lineno, node.col_offset)))
    return blocks[0] if blocks else None


def _fenced(lines: list[str]) -> list[str]:
    """What stands between lines of three backticks, the first of which may name a language."""
    blocks: list[str] = []
    inside: list[str] | None = None
    for line in lines:
        if inside is None:
            name = line.removeprefix("```").rstrip()
            if name != line.rstrip() and all(c.isalnum() or c == "_" for c in name):
                inside = []
        elif line.startswith("```"):
            blocks.append("\n".join(inside) + "\n")
            inside = None
        else:
            inside.append(line)
    return blocks


def _source(code: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A function with the comments that follow its last statement, below it if indented."""
    lines = code.split("\n")
    last = end = node.end_lineno or node.lineno
    for number in range(end, len(lines)):
        bare = lines[number].lstrip()
        if bare and not (bare[0] == "#" and len(lines[number]) - len(bare) > node.col_offset):
            break
        last = number + 1 if bare else last
    beside = lines[end - 1].encode()[node.end_col_offset :].decode().strip()
    comments = [beside if beside.startswith("#") else "", *lines[end:last]]
    return "\n".join([ast.get_source_segment(code, node) or "", *comments])
